"""Where parts and segments are cut, and what the samples in them say."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from medianode.config import Hls, Limits
from medianode.egress.hls.budget import Budget
from medianode.egress.hls.muxers import FMP4_AUDIO, FMP4_VIDEO, Run, offers_aac, passes, plan, plan_layer
from medianode.egress.hls.packager import Packager
from medianode.egress.hls.window import Start, Window, parse_name
from medianode.errors import ProtocolError, UnsupportedMedia
from medianode.media.packet import Gap, Packet
from medianode.media.track import Codec, Track
from medianode.protocols.fmp4 import Sample

VIDEO, AUDIO = Track(0, Codec.H264, 90_000, b"v", 640, 360), Track(1, Codec.AAC, 48_000, b"a")
FRAME = 3000


class Recorder:
    """A muxer that remembers its runs."""

    video, audio = FMP4_VIDEO, FMP4_AUDIO

    def __init__(self) -> None:
        self.muxed: list[list[tuple[int, int, list[Sample]]]] = []
        self.fails = False

    def init(self, tracks: Sequence[Track]) -> bytes | None:
        if any(track.config == b"bad" for track in tracks):
            raise ProtocolError("bad configuration")
        return b"".join(track.config for track in tracks)

    def mux(self, tracks: Sequence[Track], runs: Sequence[Run]) -> list[bytes]:
        if self.fails:
            raise ProtocolError("no")
        self.muxed.append([(index, base, list(samples)) for index, base, samples in runs])
        return [sample.data for _, _, samples in runs for sample in samples]


class Bench:
    def __init__(self, hls: Hls | None = None, limits: Limits | None = None, *, parts: bool = True) -> None:
        hls, limits = hls or Hls(segment_duration=1.0, part_duration=0.2), limits or Limits()
        self.window = Window(hls, Budget(limits.hls_room_bytes, limits.hls_total_bytes), "r", "main", "0" * 16, start=Start(0), parts=parts)
        self.muxer = Recorder()
        self.packager = Packager(self.window, self.muxer, hls, limits)

    def video(self, numbers: range, gop: int = 30, *, track: Track = VIDEO, size: int = 10, reorder: int = 0) -> None:
        for n in numbers:
            self.packager.on_packet(Packet(track, bytes(size), (n + reorder) * FRAME, n * FRAME, n % gop == 0, 100 + n / 30))

    def audio(self, numbers: range, at: Callable[[int], float] = lambda n: 100 + n * 1024 / 48000) -> None:
        for n in numbers:
            self.packager.on_packet(Packet(AUDIO, b"a", n * 1024, n * 1024, True, at(n)))

    def both(self, frames: range, gop: int = 30) -> None:
        for n in frames:
            self.video(range(n, n + 1), gop)
            self.audio(range(-(-n * 1600 // 1024), -(-(n + 1) * 1600 // 1024)))

    @property
    def durations(self) -> list[list[float]]:
        return [[part.duration / 1e6 for part in stored.info.parts] for stored in self.window.listed]


def test_parts_and_segments_at_key_frames() -> None:
    bench = Bench()
    bench.packager.on_tracks((VIDEO, AUDIO))
    bench.both(range(100))
    assert bench.durations == [[0.2] * 5] * 3
    for stored in bench.window.listed:
        assert [part.independent for part in stored.info.parts] == [True, False, False, False, False]
        assert stored.info.independent
    assert bench.window.part_target == 200_000
    assert [part.uri for part in bench.window.listed[1].info.parts][:2] == [f"main-{'0' * 16}-1.0.m4s", f"main-{'0' * 16}-1.1.m4s"]
    first, second = bench.muxer.muxed[:2]
    assert [(index, base, len(samples)) for index, base, samples in first] == [(0, 0, 6), (1, 0, 9)]
    assert [(index, base) for index, base, _ in second] == [(0, 6 * FRAME), (1, 9 * 1024)]
    assert bench.packager.frame_rate == 30.0


def test_composition_offsets_keep_both_tracks_in_step() -> None:
    bench = Bench()
    bench.packager.on_tracks((VIDEO, AUDIO))
    bench.packager.on_packet(Packet(AUDIO, b"early", 999 * 48, 999 * 48, True, 100.0))
    for n in range(40):
        bench.packager.on_packet(Packet(VIDEO, b"v", 90_000 + (n + 2) * FRAME, 90_000 + n * FRAME, n % 30 == 0, 100 + n / 30))
        bench.packager.on_packet(Packet(AUDIO, b"a", 48_000 + n * 1600 + 480, 48_000 + n * 1600 + 480, True, 100 + n / 30))
    (_, video_base, video), (_, audio_base, audio) = bench.muxer.muxed[0]
    assert (video_base, audio_base) == (0, 480)
    assert {sample.composition_offset for sample in video} == {2 * FRAME}
    assert {sample.composition_offset for sample in audio} == {0}
    assert audio[0].data == b"a"


def test_a_long_gop_grows_the_target_and_a_missing_key_frame_is_forced() -> None:
    bench = Bench(limits=Limits(hls_max_segment_duration=3.0))
    bench.packager.on_tracks((VIDEO,))
    bench.video(range(60), 75)
    assert not bench.window.started
    bench.video(range(60, 76), 75)
    assert bench.window.target_duration == 3
    bench.video(range(76, 300), 1000)
    assert [stored.info.duration / 1e6 for stored in bench.window.listed] == [2.5, 3.0, 3.0]
    assert [stored.info.independent for stored in bench.window.listed] == [True, True, False]
    assert "INDEPENDENT-SEGMENTS" not in bench.window.playlist().render()


def test_sound_only() -> None:
    bench = Bench()
    bench.packager.on_tracks((AUDIO,))
    bench.audio(range(120))
    assert all(0.17 <= part <= 0.2 for parts in bench.durations for part in parts[:-1])
    assert [0.94 < sum(parts) < 1.03 for parts in bench.durations] == [True, True]
    assert all(part.independent for stored in bench.window.listed for part in stored.info.parts)


def test_few_frames_a_second_lower_the_part_target() -> None:
    """Parts of two frames of 150 ms would be 300 ms; one is 75 % of 200 ms, so the target becomes what parts are."""
    bench = Bench()
    bench.packager.on_tracks((VIDEO,))
    for n in range(30):
        bench.packager.on_packet(Packet(VIDEO, b"v", n * 13_500, n * 13_500, n % 7 == 0, 100.0))
    assert bench.window.part_target == 150_000
    assert set(bench.durations[1]) == {0.15}


def test_one_frame_longer_than_a_part() -> None:
    bench = Bench()
    bench.packager.on_tracks((VIDEO,))
    for n in range(8):
        bench.packager.on_packet(Packet(VIDEO, b"v", n * 45_000, n * 45_000, True, 100.0))
    assert bench.durations == [[0.5, 0.5]] * 3
    assert bench.window.part_target == 500_000


def test_a_frozen_picture_does_not_stop_the_sound() -> None:
    bench = Bench()
    bench.packager.on_tracks((VIDEO, AUDIO))
    bench.both(range(45))
    count = bench.window.next_msn
    bench.audio(range(71, 71 + 47 * 5))
    assert bench.window.next_msn >= count + 4
    assert all(part <= 0.21 for parts in bench.durations for part in parts)
    bench.video(range(200, 300), 30)
    bases: dict[int, int] = {}
    for runs in bench.muxer.muxed:
        for index, base, samples in runs:
            assert base >= bases.get(index, 0)
            bases[index] = base + sum(sample.duration for sample in samples)


def test_sound_waits_for_the_picture_but_not_for_ever() -> None:
    bench = Bench()
    bench.packager.on_tracks((VIDEO, AUDIO))
    bench.audio(range(94))
    bench.video(range(85, 90), 1000)
    assert bench.window.open is None
    bench.audio(range(141, 250))
    assert bench.window.started


def test_a_gap_closes_the_segment_and_the_next_is_discontinuous() -> None:
    bench = Bench()
    bench.packager.on_tracks((VIDEO, AUDIO))
    bench.both(range(40))
    bench.packager.on_gap(Gap("publisher-gap"))
    assert [stored.info.duration for stored in bench.window.listed] == [1_000_000, 333_333]
    bench.video(range(9000, 9040))
    assert bench.window.listed[-1].info.head.discontinuity
    assert not bench.window.listed[-1].info.head.new_map
    _, base, _ = bench.muxer.muxed[-1][0]
    assert base > 40 * FRAME
    assert base < 80 * FRAME


def test_a_leap_in_time_is_a_gap() -> None:
    bench = Bench()
    bench.packager.on_tracks((VIDEO,))
    bench.video(range(40))
    bench.video(range(90_000, 90_035))
    assert [stored.info.head.discontinuity for stored in bench.window.listed] == [False, False, True]
    assert bench.window.target_duration == 1


def test_sound_that_pauses_for_long_does_not_break_the_picture() -> None:
    bench = Bench()
    bench.packager.on_tracks((VIDEO, AUDIO))
    bench.both(range(40))
    bench.video(range(40, 500))
    bench.audio(range(16 * 47, 16 * 47 + 5))
    bench.video(range(500, 530))
    assert not any(stored.info.head.discontinuity for stored in bench.window.listed)
    sound = [(base, len(samples)) for runs in bench.muxer.muxed for index, base, samples in runs if index == 1]
    assert sound[-1] == (16 * 47 * 1024, 4)


def test_a_picture_that_thaws_and_is_cut_loses_no_published_part() -> None:
    bench = Bench()
    bench.packager.on_tracks((VIDEO, AUDIO))
    bench.both(range(45))
    bench.audio(range(71, 71 + 47 * 3))
    assert bench.window.open is not None
    msn, parts = bench.window.next_msn, list(bench.window.open.parts)
    bench.video(range(46, 50), 1000)
    bench.packager.on_gap(Gap("publisher-gap"))
    stored = bench.window.segment(msn)
    assert stored is not None
    assert list(stored.info.parts[: len(parts)]) == parts


def test_new_tracks_get_a_new_map_and_bad_ones_an_error() -> None:
    bench = Bench()
    bench.packager.on_tracks((VIDEO, AUDIO))
    bench.both(range(40))
    other = Track(0, Codec.H264, 90_000, b"w", 1280, 720)
    bench.packager.on_gap(Gap("track-changed"))
    bench.packager.on_tracks((other, AUDIO))
    bench.video(range(60, 100), track=other)
    text = bench.window.playlist().render()
    assert text.count("#EXT-X-MAP") == 2
    assert text.index("init1") > text.index("#EXT-X-DISCONTINUITY\n") > text.index("init0")
    bench.packager.on_tracks((Track(0, Codec.H264, 90_000, b"bad"),))
    assert isinstance(bench.packager.error, ProtocolError)
    bench.packager.on_tracks((Track(0, Codec.MJPEG, 90_000),))
    assert isinstance(bench.packager.error, UnsupportedMedia)


def test_what_cannot_be_muxed_is_a_gap_segment() -> None:
    bench = Bench(parts=False)
    bench.packager.on_tracks((VIDEO,))
    bench.video(range(35))
    bench.muxer.fails = True
    bench.video(range(35, 65))
    bench.muxer.fails = False
    bench.video(range(65, 95))
    assert [stored.info.gap for stored in bench.window.listed] == [False, True, False]
    assert bench.window.listed[1].info.duration == 1_000_000
    assert bench.window.playlist().render().count("#EXT-X-GAP") == 1


def test_bytes_force_a_cut_and_time_that_stands_still_is_a_gap() -> None:
    bench = Bench(limits=Limits(hls_room_bytes=40_000), parts=False)
    bench.packager.on_tracks((VIDEO,))
    bench.video(range(100), 1000, size=1000)
    assert bench.window.next_msn >= 8
    assert bench.window.nbytes <= 40_000
    for _ in range(50):
        bench.packager.on_packet(Packet(VIDEO, bytes(1000), 100 * FRAME, 100 * FRAME, False, 104.0))
    assert bench.packager.open_bytes() <= 11_000


def test_end() -> None:
    bench = Bench()
    bench.packager.on_tracks((VIDEO,))
    bench.video(range(40))
    bench.packager.on_end("stream-ended")
    bench.packager.on_end("stream-ended")
    bench.video(range(40, 80))
    assert bench.window.ended
    assert [stored.info.duration for stored in bench.window.listed] == [1_000_000, 333_333]


@pytest.mark.parametrize(
    ("variant", "codecs", "ts", "video", "audio"),
    [
        ("main", (Codec.H264, Codec.AAC), False, "copy", "copy"),
        ("main", (Codec.AV1, Codec.OPUS), False, "copy", "copy"),
        ("main", (Codec.VP8, Codec.OPUS), False, "h264", "copy"),
        ("main", (Codec.MJPEG,), False, "h264", "none"),
        ("main", (Codec.PCM_ALAW,), False, "none", "aac"),
        ("aac", (Codec.VP9, Codec.OPUS), False, "copy", "aac"),
        ("ts", (Codec.HEVC, Codec.AC3), False, "copy", "copy"),
        ("ts", (Codec.AV1, Codec.OPUS), False, "h264", "aac"),
        ("main", (Codec.AV1, Codec.FLAC), True, "h264", "aac"),
    ],
)
def test_plans(variant: str, codecs: tuple[Codec, ...], ts: bool, video: str, audio: str) -> None:
    want = plan(variant, [Track(i, codec, 90_000) for i, codec in enumerate(codecs)], ts=ts)
    assert want is not None
    assert (want.video, want.audio) == (video, audio)
    assert passes(want) is not bool({"h264", "aac"} & {video, audio})
    assert plan(variant, (), ts=ts) is None


def test_aac_is_offered_beside_what_few_play() -> None:
    for codec, offered in (
        (Codec.OPUS, True),
        (Codec.AC3, True),
        (Codec.FLAC, True),
        (Codec.AAC, False),
        (Codec.MP3, True),
        (Codec.PCM_ALAW, False),
    ):
        assert offers_aac((VIDEO, Track(1, codec, 48_000)), ts=False) is offered
        assert not offers_aac((VIDEO, Track(1, codec, 48_000)), ts=True)
    assert not offers_aac((VIDEO,), ts=False)


def test_names() -> None:
    token = "0123456789abcdef"
    assert parse_name(f"main-{token}-init3.mp4") == (token, 3, 0, None)
    assert parse_name(f"aac-{token}-7.m4s") == (token, None, 7, None)
    assert parse_name(f"ts-{token}-7.ts") == (token, None, 7, None)
    assert parse_name(f"main-{token}-7.12.m4s") == (token, None, 7, 12)
    for name in (
        "main.m3u8",
        f"main-{token}-7",
        f"main-{token}-7.m4s\n",
        f"../main-{token}-7.m4s",
        f"main-{token.upper()}-7.m4s",
        f"main-{token}-٣.m4s",
    ):
        assert parse_name(name) is None


def test_a_segment_that_is_long_enough_asks_for_its_end() -> None:
    """Browsers make a key frame when they are asked, and else never."""
    asked: list[int] = []
    bench = Bench()
    bench.packager = Packager(bench.window, bench.muxer, Hls(segment_duration=1.0, part_duration=0.2), Limits(), lambda: asked.append(1))
    bench.packager.on_tracks((VIDEO, AUDIO))
    bench.both(range(25), gop=1000)
    assert not asked
    bench.both(range(25, 45), gop=1000)
    assert asked
    bench.packager.on_packet(Packet(VIDEO, b"key", 45 * FRAME, 45 * FRAME, True, 101.5))
    assert [stored.info.independent for stored in bench.window.listed] == [True]
    del asked[:]
    bench.both(range(46, 60), gop=1000)
    assert not asked, "the next one has only begun"


def test_layers_are_not_the_picture_unless_one_is_wanted() -> None:
    layer = Track(2, Codec.H264, 90_000, b"small", 320, 180, layer="q")
    bench = Bench()
    bench.packager.on_tracks((layer, VIDEO, AUDIO))
    assert bench.packager.tracks == (VIDEO, AUDIO)
    bench.packager = Packager(bench.window, bench.muxer, Hls(), Limits(), video_track=2)
    bench.packager.on_tracks((VIDEO, layer, AUDIO))
    assert bench.packager.tracks == (layer, AUDIO)
    bench.packager.on_tracks((VIDEO, AUDIO))
    assert bench.packager.tracks == ()
    assert isinstance(bench.packager.error, UnsupportedMedia)


def test_the_plan_of_a_layer() -> None:
    layer = Track(2, Codec.H264, 90_000, b"small", 320, 180, layer="q")
    opus = Track(1, Codec.OPUS, 48_000)
    want = plan_layer(2, (VIDEO, layer, opus), ts=False)
    assert want is not None
    assert (want.video, want.audio, want.video_track) == ("copy", "copy", 2)
    assert plan_layer(2, (VIDEO, layer, opus), ts=True) is None, "its sound would have to be made anew"
    assert plan_layer(0, (VIDEO, layer, opus), ts=False) is None
    assert plan_layer(2, (Track(2, Codec.VP8, 90_000, layer="q"), opus), ts=False) is None
