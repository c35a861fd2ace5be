"""Tracks from real packets: waits, late tracks, changes, missing parameter sets, clocks that jump."""

import pytest
from harness.sinks import Sink
from samples import grant

from medianode.codecs import h264
from medianode.errors import LimitExceeded, ProtocolError
from medianode.ingress.assembler import BAD_FRAMES, Assembler
from medianode.media.gop import GopCache
from medianode.media.track import Codec, Kind
from medianode.routing.publication import Publication

# x264, 320x240 High and 640x480 Baseline; made with FFmpeg 9 (see tests/vectors/codecs)
SPS = bytes.fromhex("6764000dacd94141fb0110000003001000000303c0f1429960")
PPS = bytes.fromhex("68ebe3cb22c0")
AVCC = h264.build_avcc((SPS,), (PPS,))
ASC = bytes.fromhex("1190")  # AAC LC, 48 kHz, stereo
IDR = bytes.fromhex("00000005658884002a")
SLICE = bytes.fromhex("00000005419a246c41")


@pytest.fixture
def publication() -> Publication:
    leave = grant(identity="i", ingress_id=None, hold=0.0)
    return Publication(leave, "rtmp", "127.0.0.1", lambda error: None, GopCache(100, 1 << 20))


@pytest.fixture
def sink(publication: Publication) -> Sink:
    sink = Sink()
    publication.attach(sink)
    return sink


@pytest.fixture
def assembler(publication: Publication) -> Assembler:
    return Assembler(publication, track_wait=2.0, max_tracks=4)


def start(assembler: Assembler) -> None:
    assembler.configure(Codec.H264, 0, AVCC, 0.0)
    assembler.configure(Codec.AAC, 0, ASC, 0.0)
    assembler.frame(Codec.H264, 0, IDR, 0, 66, 0.0)
    assembler.frame(Codec.AAC, 0, b"\x21\x10", 0, 0, 0.0)


def test_both_tracks_are_known_at_once(assembler: Assembler, sink: Sink) -> None:
    start(assembler)
    assert [t.codec for t in sink.tracks[0]] == [Codec.H264, Codec.AAC]
    assert (sink.tracks[0][0].width, sink.tracks[0][0].height) == (320, 240)
    assert [(p.track.codec, p.dts, p.pts) for p in sink.packets] == [(Codec.H264, 0, 5940), (Codec.AAC, 0, 0)]


@pytest.mark.parametrize("codec", [Codec.H264, Codec.AAC])
def test_one_kind_only_starts_after_the_wait(assembler: Assembler, sink: Sink, codec: Codec) -> None:
    assembler.configure(codec, 0, AVCC if codec is Codec.H264 else ASC, 0.0)
    for i in range(10):
        assembler.frame(codec, 0, IDR if codec is Codec.H264 else b"\x21\x10", i * 100, 0, i * 0.1)
    assert not sink.packets
    assembler.tick(2.1)
    assert len(sink.packets) == 10
    assert [t.codec for t in sink.tracks[0]] == [codec]


def test_video_that_comes_three_seconds_late_joins_with_a_gap(assembler: Assembler, sink: Sink) -> None:
    assembler.configure(Codec.AAC, 0, ASC, 0.0)
    for i in range(150):
        assembler.frame(Codec.AAC, 0, b"\x21\x10", i * 1024 // 48, 0, i / 46.875)
    assembler.configure(Codec.H264, 0, AVCC, 3.2)
    assembler.frame(Codec.H264, 0, IDR, 3200, 0, 3.2)
    assert [len(t) for t in sink.tracks] == [1, 2]
    assert sink.gaps == ["track-changed"]
    assert sink.packets[-1].dts == 3200 * 90
    audio = [p.dts for p in sink.packets if not p.track.is_video]
    assert audio == [i * 1024 for i in range(150)], "sample-exact in spite of millisecond stamps"


def test_announced_audio_that_never_comes_does_not_hold_the_video(assembler: Assembler, sink: Sink) -> None:
    assembler.configure(Codec.H264, 0, AVCC, 0.0)
    for i in range(60):
        assembler.frame(Codec.H264, 0, IDR, i * 40, 0, i * 0.04)
    assert len(sink.packets) == 60


def test_sound_that_is_configured_is_told_once_it_comes(assembler: Assembler, sink: Sink) -> None:
    """RTMP's sequence header, SDP's config of a camera whose microphone is off: a player told of sound waits for it."""
    assembler.configure(Codec.H264, 0, AVCC, 0.0)
    assembler.configure(Codec.AAC, 0, ASC, 0.0)
    for i in range(60):
        assembler.frame(Codec.H264, 0, IDR, i * 40, 0, i * 0.04)
    assert [[t.codec for t in tracks] for tracks in sink.tracks] == [[Codec.H264]]
    assert len(sink.packets) == 60
    assembler.configure(Codec.AAC, 0, ASC, 2.4)
    assert not sink.gaps
    assembler.frame(Codec.AAC, 0, b"\x21\x10", 2400, 0, 2.4)
    assert [t.codec for t in sink.tracks[-1]] == [Codec.H264, Codec.AAC]
    assert sink.gaps == ["track-changed"]


def test_parameter_sets_in_band_only(assembler: Assembler, sink: Sink) -> None:
    unit = b"".join(len(n).to_bytes(4, "big") + n for n in (SPS, PPS)) + IDR
    assembler.frame(Codec.H264, 0, SLICE, 0, 0, 0.0)
    assembler.frame(Codec.H264, 0, unit, 40, 0, 0.04)
    assembler.tick(3.0)
    assert sink.tracks[0][0].config == AVCC
    assert [p.data for p in sink.packets] == [IDR], "parameter sets live on the Track only"


def test_missing_parameter_sets_are_told_not_fatal(assembler: Assembler, sink: Sink, publication: Publication) -> None:
    for i in range(20):
        assembler.frame(Codec.H264, 0, IDR, i * 40, 0, i * 0.04)
    assembler.tick(5.0)
    assert not sink.packets
    assert publication.health.drops == {"no-configuration": 20}


def test_a_changed_resolution_is_a_new_track_and_a_gap(assembler: Assembler, sink: Sink) -> None:
    start(assembler)
    other = bytearray(SPS)
    other[3] = 0x1E  # another level
    assembler.configure(Codec.H264, 0, h264.build_avcc((bytes(other),), (PPS,)), 1.0)
    assembler.frame(Codec.H264, 0, SLICE, 1000, 0, 1.0)
    assembler.frame(Codec.H264, 0, IDR, 1040, 0, 1.04)
    assert sink.gaps == ["track-changed"]
    assert sink.tracks[1][0].id == sink.tracks[0][0].id
    assert sink.packets[-1].track is sink.tracks[1][0]
    assert sink.packets[-1].keyframe, "video resumes on a key frame"


def test_the_same_configuration_again_changes_nothing(assembler: Assembler, sink: Sink) -> None:
    start(assembler)
    assembler.configure(Codec.H264, 0, AVCC, 1.0)
    assembler.configure(Codec.AAC, 0, ASC, 1.0)
    assert len(sink.tracks) == 1


def test_a_codec_change_mid_stream(assembler: Assembler, sink: Sink) -> None:
    start(assembler)
    assembler.frame(Codec.MP3, 0, bytes.fromhex("fffb9064") + bytes(413), 1000, 0, 1.0)
    assert [t.codec for t in sink.tracks[-1]] == [Codec.H264, Codec.MP3]


def test_a_clock_that_jumps_is_a_gap_and_time_goes_on(assembler: Assembler, sink: Sink, publication: Publication) -> None:
    start(assembler)
    assembler.frame(Codec.H264, 0, IDR, 40_000_000, 0, 0.04)
    assert sink.gaps == ["timestamp-jump"]
    assert sink.packets[-1].dts == 40 * 90
    assert publication.health.repairs == {"timestamp-jump": 1}


def test_two_pictures_in_one_millisecond_are_kept_apart(assembler: Assembler, sink: Sink) -> None:
    start(assembler)
    for _ in range(3):
        assembler.frame(Codec.H264, 0, IDR, 40, 0, 0.04)
    stamps = [p.dts for p in sink.packets if p.track.is_video]
    assert stamps == sorted(set(stamps))


def test_garbage_frames_are_counted_and_many_of_them_end_it(assembler: Assembler, publication: Publication) -> None:
    start(assembler)
    for i in range(BAD_FRAMES - 1):
        assembler.frame(Codec.H264, 0, b"\x00\x00\xff\xff\x01", i, 0, 0.1)
    with pytest.raises(ProtocolError, match="in a row"):
        assembler.frame(Codec.H264, 0, b"\x00\x00\xff\xff\x01", BAD_FRAMES, 0, 0.1)
    assert publication.health.drops["undecodable"] == BAD_FRAMES
    assert publication.health.last_error


def test_tracks_are_bounded(assembler: Assembler) -> None:
    for i in range(4):
        assembler.configure(Codec.H264, i, AVCC, 0.0)
    with pytest.raises(LimitExceeded, match="4 tracks"):
        assembler.configure(Codec.H264, 4, AVCC, 0.0)


def test_a_stream_shorter_than_the_wait_is_still_shown(assembler: Assembler, sink: Sink) -> None:
    assembler.configure(Codec.H264, 0, AVCC, 0.0)
    assembler.frame(Codec.H264, 0, IDR, 0, 0, 0.0)
    assembler.finish()
    assert len(sink.packets) == 1


VP8_KEY = b"\x30\x00\x00\x9d\x01\x2a\x40\x01\xf0\x00" + bytes(20)
VP8_BIG = b"\x30\x00\x00\x9d\x01\x2a\x80\x02\xe0\x01" + bytes(20)
VP8_DELTA = b"\x31\x00\x00" + bytes(20)
TOC = b"\x78" + bytes(20)


def put(
    assembler: Assembler, codec: Codec, index: int, data: bytes, ticks: int, now: float, layer: str = "", also: int | None = None
) -> bool:
    parsed = assembler.parse(codec, index, data, now, layer)
    return parsed is not None and assembler.put(parsed, ticks, now, also)


def test_exact_ticks_stay_as_they_are(assembler: Assembler, sink: Sink) -> None:
    for i in range(10):
        assert put(assembler, Codec.VP8, 0, VP8_DELTA if i else VP8_KEY, 90_000 + i * 3003, i / 30)
        assert put(assembler, Codec.OPUS, 0, TOC, 48_007 + i * 960, i / 50)
    assert [p.pts for p in sink.packets if p.track.is_video] == [90_000 + i * 3003 for i in range(10)]
    assert [p.dts for p in sink.packets if not p.track.is_video] == [48_007 + i * 960 for i in range(10)]


def test_pictures_keep_the_ticks_and_the_order_that_their_source_tells(assembler: Assembler, sink: Sink) -> None:
    start(assembler)
    for dts, late in ((3003, 9009), (6006, 0)):
        ms, ticks = divmod(dts, 90)
        assembler.frame(Codec.H264, 0, SLICE, ms, late / 90, dts / 90_000, ticks)
    for dts, pts in ((9009, 12_012), (12_012, 9009)):  # none is shown before it is decoded
        parsed = assembler.parse(Codec.H264, 0, SLICE, dts / 90_000)
        assert parsed is not None
        assert assembler.put(parsed, dts, dts / 90_000, pts=pts)
    shown = [(p.dts, p.pts) for p in sink.packets if p.track.is_video]
    assert shown == [(0, 5940), (3003, 12_012), (6006, 6006), (9009, 12_012), (12_012, 12_012)]


def test_a_damaged_picture_waits_for_its_key_frame_and_the_others_go_on(assembler: Assembler, sink: Sink, publication: Publication) -> None:
    put(assembler, Codec.VP8, 0, VP8_KEY, 0, 0.0)
    put(assembler, Codec.OPUS, 0, TOC, 0, 0.0)
    assembler.damaged(Kind.VIDEO, 0)
    assembler.damaged(Kind.VIDEO, 7)
    assert not put(assembler, Codec.VP8, 0, VP8_DELTA, 3000, 0.03)
    assert put(assembler, Codec.OPUS, 0, TOC, 960, 0.03)
    assert put(assembler, Codec.VP8, 0, VP8_KEY, 6000, 0.06)
    assert publication.health.drops == {"waiting-for-keyframe": 1}
    assert sink.gaps == []


@pytest.mark.parametrize(("expected", "starts"), [({0}, 0.0), ({0, 1}, 0.1), ({0, 1, 2, 4}, 0.3)])
def test_the_start_waits_for_what_was_announced(publication: Publication, sink: Sink, expected: set[int], starts: float) -> None:
    assembler = Assembler(publication, 2.0, 8, frozenset(expected))
    put(assembler, Codec.VP8, 0, VP8_KEY, 0, 0.0)
    assert assembler.decided is (starts == 0.0)
    put(assembler, Codec.OPUS, 0, TOC, 0, 0.1)
    assert assembler.decided is (starts <= 0.1)
    put(assembler, Codec.VP8, 1, VP8_KEY, 0, 0.2, "q")
    assert assembler.decided is (starts <= 0.2)
    put(assembler, Codec.VP8, 2, VP8_KEY, 0, 0.3, "h")
    assert assembler.decided


def test_announced_layers_are_not_waited_for_long(publication: Publication, sink: Sink) -> None:
    assembler = Assembler(publication, 2.0, 8, frozenset({0, 1, 2, 4}))
    for i in range(40):
        put(assembler, Codec.VP8, 1, VP8_DELTA if i else VP8_KEY, i * 3600, i / 25, "q", also=0)
        put(assembler, Codec.OPUS, 0, TOC, i * 1920, i / 25)
        assert assembler.decided is (i / 25 >= 0.7)
    assert [(t.id, t.layer) for t in sink.tracks[0]] == [(0, ""), (1, ""), (2, "q")]


def test_a_copy_follows_its_layer_and_changes_with_it_once(publication: Publication, sink: Sink) -> None:
    assembler = Assembler(publication, 2.0, 8, frozenset({0, 2}))
    put(assembler, Codec.VP8, 1, VP8_KEY, 0, 0.0, "q", also=0)
    put(assembler, Codec.VP8, 1, VP8_DELTA, 3600, 0.04, "q", also=0)
    put(assembler, Codec.VP8, 1, VP8_BIG, 7200, 0.08, "q", also=0)
    assert [p.track.id for p in sink.packets] == [2, 0] * 3
    assert sink.packets[0].data is sink.packets[1].data, "one copy of the bytes"
    assert [[(t.id, t.layer, t.width) for t in tracks] for tracks in sink.tracks] == [
        [(0, "", 320), (2, "q", 320)],
        [(0, "", 640), (2, "q", 640)],
    ]
    assert sink.gaps == ["track-changed"]


def test_a_copy_does_not_begin_with_a_difference(publication: Publication, sink: Sink) -> None:
    assembler = Assembler(publication, 2.0, 8, frozenset({0, 2, 4}))
    put(assembler, Codec.VP8, 1, VP8_KEY, 0, 0.0, "q", also=0)
    put(assembler, Codec.VP8, 2, VP8_BIG, 0, 0.0, "f")
    assert not put(assembler, Codec.VP8, 2, VP8_DELTA, 3600, 0.04, "f", also=0)
    shown = [p for p in sink.packets if p.track.id == 0]
    assert [p.keyframe for p in shown] == [True]
