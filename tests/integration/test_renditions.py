"""Renditions on real publications, with clips made by FFmpeg."""

from __future__ import annotations

import itertools
import os
import subprocess
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import imageio_ffmpeg
import pytest
from harness.derived import Clip, Recorder, tone_starts, until
from samples import grant

from medianode import clock, config
from medianode.codecs import h264, jpeg
from medianode.errors import LimitExceeded
from medianode.events import Bus
from medianode.media.gop import GopCache
from medianode.media.packet import Gap, Packet
from medianode.media.track import Codec, Track
from medianode.routing.publication import Publication
from medianode.routing.room import Room
from medianode.transcode import derive
from medianode.transcode.decode import VideoDecoder
from medianode.transcode.renditions import Rendition, Renditions, Want

LEAVE = grant(identity="camera", ingress_id=None, hold=0.0)
PIXELS = 10_000_000
JPEG = Track(1, Codec.MJPEG, 90_000)
VIDEO = "-f lavfi -i testsrc2=size=320x240:rate=30:duration=3 -pix_fmt yuv420p"
# silence for one second, then a tone: the edge shows where the sound lies in time
SOUND = "-f lavfi -i aevalsrc=exprs=0.4*sin(440*2*PI*t)*gt(t\\,1):duration=3:sample_rate=48000"


class Listed(Recorder):
    def of(self, codec: Codec) -> list[Packet]:
        return [item for item in self.log if isinstance(item, Packet) and item.track.codec is codec]

    @property
    def ends(self) -> list[str]:
        return [item for item in self.log if isinstance(item, str)]


def publication(*tracks: Track) -> Publication:
    made = Publication(LEAVE, "test", "127.0.0.1", lambda error: None, GopCache(5000, 1 << 26))
    if tracks:
        made.set_tracks(tracks)
    return made


def renditions(**limits: int) -> Renditions:
    return Renditions(config.Limits(**{"rendition_queue_packets": 4096, **limits}), config.Mjpeg(), config.Hls())


@asynccontextmanager
async def deriving(source: Publication | Room, want: Want, sink: Listed, **limits: int) -> AsyncIterator[Rendition]:
    async with renditions(**limits) as all_of_them:
        async with all_of_them.acquire(source, want, 0.0) as rendition:
            rendition.attach(sink)
            yield rendition
        await all_of_them.close()
        assert all_of_them.threads == 0


def write(source: Publication, packets: list[Packet]) -> None:
    for packet in packets:
        source.write(packet._replace(received_at=clock.now()))


def shot(data: bytes, pts: int, track: Track = JPEG) -> Packet:
    return Packet(track, data, pts, pts, True, clock.now())


def decode_pictures(packets: list[Packet]) -> list[tuple[int, int, int]]:
    """(pts, width, height) of all pictures; raises where one does not decode. A new Track is a new decoder."""
    out: list[tuple[int, int, int]] = []
    for track, group in itertools.groupby(packets, key=lambda packet: packet.track):
        decoder = VideoDecoder(track, PIXELS)
        frames = [frame for packet in group for frame in decoder.decode(packet)] + decoder.decode(None)
        out += [(frame.pts or 0, frame.width, frame.height) for frame in frames]
    return out


def seconds(packets: list[Packet]) -> float:
    return (packets[-1].pts - packets[0].pts) / packets[0].track.clock_rate


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, int], list[bytes]]:
    directory: Path = tmp_path_factory.mktemp("pictures")

    def make(size: str, count: int) -> list[bytes]:
        path = directory / f"{size}-{count}.mjpeg"
        arguments = f"-v error -y -f lavfi -i testsrc2=size={size}:rate=15 -frames:v {count} -pix_fmt yuvj420p -c:v mjpeg -q:v 5 {path}"
        subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), *arguments.split()], check=True)
        return [b"\xff\xd8" + part for part in path.read_bytes().split(b"\xff\xd8")[1:]]

    return make


async def test_aac_to_opus_to_aac_stays_in_time(clip: Clip) -> None:
    packets = clip("sound.mp4", f"{SOUND} -c:a aac")
    first, second = publication(packets[0].track), publication()
    opus, back = Listed(), Listed()
    async with deriving(first, Want("none", "opus"), opus):
        write(first, packets)
        await until(lambda: bool(opus.of(Codec.OPUS)) and opus.of(Codec.OPUS)[-1].pts > 2.9 * 48_000, "Opus")
    found = opus.of(Codec.OPUS)
    second.set_tracks((found[0].track,))
    async with deriving(second, Want("none", "aac"), back):
        write(second, found)
        await until(lambda: bool(back.of(Codec.AAC)) and back.of(Codec.AAC)[-1].pts > 2.85 * 48_000, "AAC")
    again = back.of(Codec.AAC)
    assert found[0].track.config.startswith(b"OpusHead")
    start = tone_starts(packets)
    assert abs(tone_starts(found) - start) < 0.01
    assert abs(tone_starts(again) - start) < 0.01
    assert seconds(packets) - seconds(found) < 0.1
    assert seconds(packets) - seconds(again) < 0.2
    assert {b.pts - a.pts for a, b in itertools.pairwise(again)} == {1024}


async def test_copied_video_is_the_sources_own_and_starts_with_its_key_frame_beside_derived_sound(
    clip: Clip,
) -> None:
    packets = clip("av.mp4", f"{SOUND} {VIDEO} -c:v libx264 -preset ultrafast -bf 2 -g 30 -c:a aac")
    video, audio = (next(p.track for p in packets if p.track.is_video is kind) for kind in (True, False))
    source = publication(video, audio)
    half = len(packets) // 2
    write(source, packets[:half])
    sink = Listed()
    async with deriving(source, Want("copy", "opus"), sink) as rendition:
        await until(lambda: bool(sink.tracks), "tracks")
        write(source, packets[half:])
        await until(lambda: bool(sink.of(Codec.OPUS)) and sink.of(Codec.OPUS)[-1].pts > 2.9 * 48_000, "Opus")
        assert [track.codec for track in sink.tracks] == [Codec.H264, Codec.OPUS] == [track.codec for track in rendition.tracks]
        assert sink.tracks[0] is video
        assert sink.tracks[1].id == audio.id
        first = next(item for item in sink.log if isinstance(item, Packet))
        assert first.keyframe
        assert first.track is video
        copied = sink.of(Codec.H264)
        originals = {id(packet.data) for packet in packets}
        assert all(id(packet.data) in originals for packet in copied)
        assert len(decode_pictures(copied)) == len(copied)
        assert sink.gaps == []
        late = Listed()
        rendition.attach(late)
        assert isinstance(late.log[0], tuple)
        assert late.of(Codec.H264)[0].keyframe
        assert late.of(Codec.OPUS)
        # the tone lies where the source has it, beside pictures that were not touched
        assert abs(tone_starts(sink.of(Codec.OPUS)) - tone_starts([p for p in packets if not p.track.is_video])) < 0.02


async def test_jpeg_to_h264_keeps_the_times_of_the_pictures(pictures: Callable[[str, int], list[bytes]]) -> None:
    data = pictures("321x241", 50)
    times = [n * 9_000 + n * n * 7 for n in range(50)]
    source, sink = publication(JPEG), Listed()
    async with deriving(source, Want("h264", "aac"), sink) as rendition:
        for pts, picture in zip(times, data, strict=True):
            source.write(shot(picture, pts))
            await until(lambda: rendition.queued == 0, "the thread")
        await until(lambda: bool(sink.of(Codec.H264)) and sink.of(Codec.H264)[-1].pts == times[-1], "the last picture")
        lost = sum(rendition.dropped.values())
    packets = sink.of(Codec.H264)
    colour = h264.parse_sps(h264.parse_avcc(sink.tracks[0].config).sps[0]).colour
    assert colour is not None
    assert (colour.matrix, colour.full_range) == (5, False)  # BT.601, as in the JPEGs
    assert {p.pts for p in packets} <= set(times)
    assert len(packets) + lost == 50
    assert decode_pictures(packets) == [(p.pts, 320, 240) for p in packets]
    keys = [p.pts for p in packets if p.keyframe]
    assert len(keys) >= 3
    assert all(180_000 <= b - a < 220_000 for a, b in itertools.pairwise(keys))
    assert [(t.codec, t.width, t.height, t.id) for t in sink.tracks] == [(Codec.H264, 320, 240, 1)]


async def test_h264_with_b_frames_to_jpeg_at_the_rate_asked_for(clip: Clip) -> None:
    packets = [p for p in clip("b.mp4", f"{VIDEO} -c:v libx264 -preset ultrafast -bf 2 -g 30") if p.track.is_video]
    assert any(p.pts != p.dts for p in packets)
    source, sink = publication(packets[0].track), Listed()
    async with deriving(source, Want("mjpeg", "none"), sink) as rendition:
        for packet in packets:
            write(source, [packet])
            await until(lambda: rendition.queued == 0, "the thread")
        await until(lambda: bool(sink.of(Codec.MJPEG)) and sink.of(Codec.MJPEG)[-1].pts > 2.6 * 90_000, "the last picture")
    found = sink.of(Codec.MJPEG)
    assert len(found) <= 3 * 15 + 1
    # pictures without reference are passed over, so they are spaced unevenly, but over half a second the rate holds
    assert all(found[i + 8].pts - found[i].pts >= 6.8 * 90_000 / 15 for i in range(len(found) - 8))
    assert len(found) > 20
    for packet in found:
        info = jpeg.parse_jpeg(packet.data)
        assert (info.width, info.height, packet.keyframe) == (320, 240, True)


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("v.webm", "-c:v libvpx -deadline realtime -cpu-used 8 -g 30"),
        ("v9.webm", "-c:v libvpx-vp9 -deadline realtime -cpu-used 8 -g 30"),
        ("h.mkv", "-c:v libx265 -preset ultrafast -x265-params log-level=none:keyint=30"),
        ("a.mp4", "-c:v libsvtav1 -preset 12 -g 30"),
    ],
)
async def test_any_video_to_h264(clip: Clip, name: str, codec: str) -> None:
    packets = clip(name, f"{VIDEO} {codec}")
    source, sink = publication(packets[0].track), Listed()
    async with deriving(source, Want("h264", "none"), sink) as rendition:
        for packet in packets:
            write(source, [packet])
            await until(lambda: rendition.queued == 0, "the thread")
        await until(lambda: bool(sink.of(Codec.H264)) and sink.of(Codec.H264)[-1].pts > 2.5 * 90_000, "the last pictures")
    found = sink.of(Codec.H264)
    assert found[0].keyframe
    assert [pts for pts, _, _ in decode_pictures(found)] == [p.pts for p in found]


async def test_what_fits_already_passes_through_without_a_thread(pictures: Callable[[str, int], list[bytes]]) -> None:
    data = pictures("320x240", 3)
    source, sink = publication(JPEG), Listed()
    async with deriving(source, Want("mjpeg", "aac"), sink, renditions=1) as rendition:
        packets = [shot(picture, n) for n, picture in enumerate(data)]
        for packet in packets:
            source.write(packet)
        assert [item for item in sink.log if isinstance(item, Packet)] == packets
        assert sink.log[1] is packets[0]
        assert not rendition.transcodes


async def test_shared_while_wanted_and_gone_when_idle(pictures: Callable[[str, int], list[bytes]]) -> None:
    source = publication(JPEG)
    async with renditions() as every:
        async with every.acquire(source, Want("h264"), 0.05) as one:
            async with every.acquire(source, Want("h264"), 0.05) as two:
                assert one is two
            async with every.acquire(source, Want("mjpeg"), 0.05) as other:
                assert other is not one
        async with every.acquire(source, Want("h264"), 0.05) as again:  # within the idle time
            assert again is one
        await until(lambda: len(every) == 0 and every.threads == 0, "idle renditions to go")
        assert one.ended == "rendition-closed"
        assert source.sinks == ()
        async with every.acquire(source, Want("h264"), 0.05) as fresh:
            assert fresh is not one


async def test_the_number_of_threads_is_bounded() -> None:
    first, second = publication(JPEG), publication(JPEG)
    async with renditions(renditions=1) as every, every.acquire(first, Want("h264"), 1.0):
        with pytest.raises(LimitExceeded) as caught:
            async with every.acquire(second, Want("h264"), 1.0):
                pass
        assert caught.value.code == "node-full"
        assert second.sinks == ()
        async with every.acquire(second, Want("mjpeg"), 1.0) as passed:
            sink = Listed()
            passed.attach(sink)
            # the source changes to a codec that would need a thread
            second.set_tracks((Track(1, Codec.VP8, 90_000, b"", 320, 240),))
            assert sink.ends == ["node-full"]
            assert "1 renditions of video already" in passed.last_error


async def test_garbage_is_counted_and_passed_over(clip: Clip) -> None:
    packets = clip("av.mp4", f"{SOUND} {VIDEO} -c:v libx264 -preset ultrafast -bf 2 -g 30 -c:a aac")
    tracks = {packet.track.id: packet.track for packet in packets}
    source, sink = publication(*tracks.values()), Listed()
    async with deriving(source, Want("mjpeg", "opus"), sink) as rendition:
        for n, packet in enumerate(packets):
            bad = 60 <= n < 75
            write(source, [packet._replace(data=bytes(b ^ 0x5A for b in packet.data)) if bad else packet])
            await until(lambda: rendition.queued == 0, "the thread")
        await until(lambda: bool(sink.of(Codec.OPUS)) and sink.of(Codec.OPUS)[-1].pts > 2.5 * 48_000, "Opus")
        assert rendition.tally.errors > 0
        assert rendition.last_error.startswith("undecodable: ")
        assert rendition.ended == ""
    assert sink.of(Codec.MJPEG)[-1].pts > 2 * 90_000


async def test_a_new_size_is_a_gap_and_a_new_track(pictures: Callable[[str, int], list[bytes]]) -> None:
    source, sink = publication(JPEG), Listed()
    async with deriving(source, Want("h264"), sink) as rendition:
        pts = 0
        for size in ("320x240", "641x361", "320x240"):
            for picture in pictures(size, 3):
                pts += 6_000
                source.write(shot(picture, pts))
                await until(lambda: rendition.queued == 0, "the thread")
        await until(lambda: bool(sink.of(Codec.H264)) and sink.of(Codec.H264)[-1].pts == pts, "the last picture")
    sets = [item for item in sink.log if isinstance(item, tuple) and not isinstance(item, Packet | Gap)]
    assert [tracks[0].width for tracks in sets] == [320, 640, 320]
    assert sink.gaps == ["track-changed", "track-changed"]
    for tracks in sets:
        after = sink.log[sink.log.index(tracks) + 1]
        assert isinstance(after, Packet)
        assert after.keyframe
    assert [(w, h) for _, w, h in decode_pictures(sink.of(Codec.H264))][::3] == [(320, 240), (640, 360), (320, 240)]


async def test_pictures_too_large_end_the_rendition_readably(pictures: Callable[[str, int], list[bytes]]) -> None:
    source, sink = publication(JPEG), Listed()
    async with renditions(decode_pixels=10_000) as every, every.acquire(source, Want("h264"), 1.0) as rendition:
        rendition.attach(sink)
        source.write(shot(pictures("320x240", 1)[0], 0))
        await until(lambda: bool(sink.ends), "the end")
        assert sink.ends == ["picture-too-large"]
        assert "at most 10000 pixels, got 320x240" in rendition.last_error
        assert source.sinks == ()
        assert len(every) == 0
        late = Listed()
        rendition.attach(late)
        assert late.ends == ["picture-too-large"]


async def test_a_slow_encoder_drops_and_never_lags(pictures: Callable[[str, int], list[bytes]], monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread is held at its first picture while 200 arrive: of those it takes what the mailbox kept, and the newest is among it."""
    held = threading.Event()
    push = derive.H264Stage.push

    def slow(self: derive.H264Stage, packet: Packet, last: bool) -> list[derive.Output]:
        held.wait(20)
        return push(self, packet, last)

    monkeypatch.setattr(derive.H264Stage, "push", slow)
    picture = pictures("320x240", 1)[0]
    source, sink = publication(JPEG), Listed()
    async with deriving(source, Want("h264"), sink, rendition_queue_packets=16) as rendition:
        source.write(shot(picture, 0))
        await until(lambda: rendition.queued == 0, "the first picture to be taken")
        for n in range(1, 201):
            source.write(shot(picture, n * 6_000))
            assert rendition.queued <= 16
        held.set()
        await until(lambda: bool(sink.of(Codec.H264)) and sink.of(Codec.H264)[-1].pts == 200 * 6_000, "the newest picture")
        assert rendition.dropped["rendition-behind"] >= 184
        assert len(sink.of(Codec.H264)) + sum(rendition.dropped.values()) == 201


async def test_pictures_that_waited_too_long_are_left_out_but_the_newest(pictures: Callable[[str, int], list[bytes]]) -> None:
    picture = pictures("320x240", 1)[0]
    tally = derive.Tally()
    stage = derive.H264Stage(JPEG, derive.Settings(5, 15.0, 2.0, PIXELS), tally)
    old = [shot(picture, n)._replace(received_at=clock.now() - 10) for n in range(5)]
    out = [item for n, packet in enumerate(old) for item in stage.push(packet, n == 4)]
    assert [item.pts for item in out if isinstance(item, Packet)] == [4]
    assert tally.dropped == {"rendition-behind": 4}
    stage.close()


async def test_takeover_by_another_codec_and_the_end_of_the_room(clip: Clip, pictures: Callable[[str, int], list[bytes]]) -> None:
    bus = Bus()
    room = Room("live", "live-a", "p", bus, (5000, 1 << 26), lambda room: None)
    sink = Listed()
    async with deriving(room, Want("h264", "aac"), sink) as rendition:
        assert sink.log == []
        camera = room.publish(LEAVE, "ws-jpeg", "1.2.3.4", lambda error: None)
        camera.set_tracks((JPEG,))
        source = pictures("320x240", 3)
        for n, picture in enumerate(source):
            camera.write(shot(picture, n * 6_000))
        await until(lambda: bool(sink.of(Codec.H264)), "H.264 of the camera")
        packets = clip("mp3.mkv", f"{SOUND} {VIDEO} -c:v libx264 -preset ultrafast -g 30 -c:a libmp3lame")
        encoder = room.publish(LEAVE, "rtmp", "1.2.3.4", lambda error: None)
        tracks = {packet.track.id: packet.track for packet in packets}
        encoder.set_tracks((tracks[1], tracks[2]))
        write(encoder, packets)
        await until(lambda: bool(sink.of(Codec.AAC)) and sink.of(Codec.AAC)[-1].pts > 2 * 44_100, "AAC of the encoder")
        assert [track.codec for track in sink.tracks] == [Codec.H264, Codec.AAC]
        assert sink.tracks[0] is tracks[1]
        assert "takeover" in sink.gaps
        after = sink.log[len(sink.log) - sink.log[::-1].index(sink.tracks) :]
        first = next(item for item in after if isinstance(item, Packet))
        assert first.keyframe
        assert first.track.is_video
        room.end(encoder, "closed")
        assert sink.ends == ["stream-ended"]
        assert rendition.ended == "stream-ended"


async def test_a_gap_of_the_source_starts_the_derived_timeline_anew(clip: Clip) -> None:
    packets = clip("sound.mp4", f"{SOUND} -c:a aac")
    source, sink = publication(packets[0].track), Listed()
    async with deriving(source, Want("none", "opus"), sink):
        write(source, packets[:50])
        await until(lambda: len(sink.of(Codec.OPUS)) > 40, "Opus")
        source.gap(Gap("timestamp-jump"))
        position = len(sink.log)
        write(source, [p._replace(pts=p.pts + 10_000_000, dts=p.dts + 10_000_000) for p in packets[:50]])
        await until(lambda: len(sink.log) > position, "Opus after the gap")
    assert sink.gaps == ["timestamp-jump"]
    after = [item for item in sink.log[position:] if isinstance(item, Packet)]
    assert after[0].pts >= 10_000_000
    assert after[-1].track is sink.tracks[0]  # made by another encoder, but the track that readers know
    assert len([item for item in sink.log if item == sink.tracks]) == 1


async def test_sound_that_comes_late_joins_after_a_gap(clip: Clip, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medianode.transcode.rendition.READY_SECONDS", 0.02)
    packets = clip("av.mp4", f"{SOUND} {VIDEO} -c:v libx264 -preset ultrafast -bf 2 -g 30 -c:a aac")
    pictures, sound = ([p for p in packets if p.track.is_video is kind] for kind in (True, False))
    source, sink = publication(pictures[0].track, sound[0].track), Listed()
    asked: list[float] = []
    source.on_keyframe_wanted = lambda: asked.append(clock.now())
    async with deriving(source, Want("copy", "opus"), sink) as rendition:
        write(source, pictures[:40])
        await until(lambda: bool(sink.tracks), "the announcement without sound")
        assert sink.tracks == (pictures[0].track,)
        assert sink.of(Codec.H264) == rendition.gop.packets  # what is cached begins with the newest key frame
        write(source, sound)
        await until(lambda: len(sink.tracks) == 2, "the sound")
        assert len(asked) == 1
        position = sink.log.index(sink.tracks)
        assert sink.log[position - 1] == Gap("track-changed")
        write(source, pictures[40:])
    after = [item for item in sink.log[position:] if isinstance(item, Packet) and item.track.is_video]
    assert after[0].keyframe
    assert len(decode_pictures(after)) == len(after) == 30
    assert rendition.dropped["waits-for-keyframe"] == 20


async def test_no_more_than_the_first_track_of_a_kind_is_derived() -> None:
    tracks = (JPEG, Track(2, Codec.MJPEG, 90_000), Track(3, Codec.AAC, 48_000), Track(4, Codec.OPUS, 48_000))
    assert Want("copy", "copy").select(tracks) == tracks
    assert Want("h264", "opus").select(tracks) == (tracks[0], tracks[2])
    assert Want("none", "aac").select(tracks) == (tracks[2],)
    assert Want("none", "aac").plan(tracks[2]).codec is None
    assert Want("h264", "aac").plan(tracks[0]).codec is Codec.H264


async def test_a_key_frame_can_be_asked_for(pictures: Callable[[str, int], list[bytes]]) -> None:
    data = pictures("320x240", 10)
    source, sink = publication(JPEG), Listed()
    async with deriving(source, Want("h264"), sink) as rendition:
        for n, picture in enumerate(data):
            if n == 5:
                rendition.request_keyframe()
                rendition.request_keyframe()
            source.write(shot(picture, n * 6_000))
            await until(lambda n=n: bool(sink.of(Codec.H264)) and sink.of(Codec.H264)[-1].pts == n * 6_000, "each picture")
    assert [p.pts for p in sink.of(Codec.H264) if p.keyframe] == [0, 30_000]


async def test_a_bug_in_the_thread_ends_its_rendition_only(
    pictures: Callable[[str, int], list[bytes]], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(self: derive.H264Stage, packet: Packet, last: bool) -> list[derive.Output]:
        raise KeyError("a bug")

    monkeypatch.setattr(derive.H264Stage, "push", broken)
    monkeypatch.setattr("medianode.tasks.raise_bugs", False)
    source, sink = publication(JPEG), Listed()
    async with deriving(source, Want("h264"), sink):
        source.write(shot(pictures("320x240", 1)[0], 0))
        await until(lambda: bool(sink.ends), "the end")
    assert sink.ends == ["internal"]
    assert "bug in rendition: KeyError" in caplog.text


async def test_fifty_come_and_go_and_leave_nothing(pictures: Callable[[str, int], list[bytes]]) -> None:
    data = pictures("320x240", 3)
    source = publication(JPEG)
    async with renditions() as every:

        async def once() -> None:
            sink = Listed()
            async with every.acquire(source, Want("h264"), 0.0) as rendition:
                rendition.attach(sink)
                for n, picture in enumerate(data):
                    source.write(shot(picture, n * 6_000))
                await until(lambda: bool(sink.of(Codec.H264)), "a picture")
            await until(lambda: every.threads == 0, "the thread to end")

        await once()
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(50):
            await once()
        assert len(os.listdir("/proc/self/fd")) <= before
        assert source.sinks == ()
        await until(lambda: not [t for t in threading.enumerate() if t.name == "rendition"], "threads to be gone")
