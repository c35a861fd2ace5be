"""Renditions for WebRTC on real publications, with clips made by FFmpeg as OBS, cameras and phones make them."""

from __future__ import annotations

import itertools
import subprocess
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import imageio_ffmpeg
import pytest
from harness.derived import Clip, Recorder, tone_starts
from harness.derived import until as waited

from medianode import clock, config
from medianode.codecs import h264
from medianode.errors import LimitExceeded
from medianode.media.gop import GopCache
from medianode.media.packet import Gap, Packet
from medianode.media.track import Codec, Track
from medianode.routing.publication import Publication
from medianode.transcode.decode import VideoDecoder
from medianode.transcode.renditions import Rendition, Renditions, Want
from tests.samples import grant

REALTIME, H264 = Want("realtime", "opus"), Want("realtime-h264", "opus")
PICTURE = "-f lavfi -i testsrc2=size=320x240:rate=30:duration=4 -pix_fmt yuv420p"
SOUND = "-f lavfi -i aevalsrc=exprs=0.4*sin(440*2*PI*t)*gt(t\\,1):duration=4:sample_rate=48000"
FIXED = "-x264-params b-adapt=0:keyint=240:min-keyint=240:scenecut=0"
OBS = f"-c:v libx264 -preset veryfast -bf 2 {FIXED}"
"""OBS's x264: High, bframes 2, b-pyramid, a key frame each 8 s."""
NO_PYRAMID = f"{OBS}:b-pyramid=none"
NO_B = f"-c:v libx264 -preset veryfast -bf 0 {FIXED}"
until = partial(waited, seconds=10.0)


class Watching(Recorder):
    realtime = True

    @property
    def video(self) -> list[Packet]:
        return [item for item in self.log if isinstance(item, Packet) and item.track.is_video]

    @property
    def audio(self) -> list[Packet]:
        return [item for item in self.log if isinstance(item, Packet) and not item.track.is_video]

    def newest(self, kind: str) -> float:
        packets = self.video if kind == "video" else self.audio
        return packets[-1].pts / packets[-1].track.clock_rate if packets else -1.0


def publication(packets: list[Packet]) -> Publication:
    made = Publication(grant(), "test", "127.0.0.1", lambda error: None, GopCache(5000, 1 << 26))
    made.set_tracks(tuple({packet.track.id: packet.track for packet in packets}.values()))
    return made


@asynccontextmanager
async def deriving(source: Publication, want: Want, sink: Watching | None, **limits: int) -> AsyncIterator[Rendition]:
    async with Renditions(config.Limits(**limits), config.Mjpeg(), config.Hls()) as every:
        async with every.acquire(source, want, 0.0) as rendition:
            if sink is not None:
                rendition.attach(sink)
            yield rendition
        await every.close()
        assert every.threads == 0


async def write(source: Publication, packets: list[Packet], rendition: Rendition | None = None) -> None:
    for packet in packets:
        source.write(packet._replace(received_at=clock.now()))
        if rendition is not None and packet.track.is_video:
            await until(lambda: rendition.queued < 4, "the threads")


def assert_fit_for_webrtc(packets: list[Packet]) -> None:
    """In order, nothing reordered, and every picture decodes to one that is shown at once."""
    assert packets[0].keyframe
    assert all(p.pts == p.dts for p in packets)
    assert all(a.pts < b.pts for a, b in itertools.pairwise(packets))


def shown(packets: list[Packet]) -> list[int]:
    """pts of what a decoder makes of these, a new one for each Track."""
    out: list[int] = []
    for track, group in itertools.groupby(packets, key=lambda packet: packet.track):
        decoder = VideoDecoder(track, 10_000_000)
        frames = [frame for packet in group for frame in decoder.decode(packet)] + decoder.decode(None)
        out += [frame.pts or 0 for frame in frames]
    return out


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], bytes]:
    """What the demuxer would not leave as it is."""
    directory: Path = tmp_path_factory.mktemp("raw")

    def make(name: str, arguments: str) -> bytes:
        path = directory / name
        subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", *arguments.split(), str(path)], check=True)
        return path.read_bytes()

    return make


def rendition_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "rendition"]


async def test_h264_without_b_frames_and_opus_pass_without_a_thread(clip: Clip) -> None:
    packets = clip("plain.mkv", f"{SOUND} {PICTURE} {NO_B} -c:a libopus")
    source, sink = publication(packets), Watching()
    before = len(rendition_threads())
    async with deriving(source, H264, sink) as rendition:
        await write(source, packets)
        assert [p.data for p in sink.video] == [p.data for p in packets if p.track.is_video]
        assert [p.data for p in sink.audio] == [p.data for p in packets if not p.track.is_video]
        assert rendition.treatment == {"video": "copy", "audio": "copy"}
        assert not rendition.transcodes
        assert len(rendition_threads()) == before
        assert (rendition.dropped, rendition.latency, sink.gaps) == ({}, {}, [])
    assert_fit_for_webrtc(sink.video)


async def test_b_frames_nobody_refers_to_are_left_out_without_a_thread(clip: Clip) -> None:
    packets = clip("nopyramid.mp4", f"{PICTURE} {NO_PYRAMID}")
    source, sink = publication(packets), Watching()
    async with deriving(source, REALTIME, sink) as rendition:
        await write(source, packets)
        assert rendition.treatment == {"video": "b-frames-dropped"}
        assert not rendition.transcodes
        assert rendition.dropped == {"b-frame": len(packets) - len(sink.video)}
    assert 40 <= len(sink.video) <= 42  # every third picture
    assert_fit_for_webrtc(sink.video)
    assert shown(sink.video) == [p.pts for p in sink.video]
    assert {p.pts for p in sink.video} <= {p.pts for p in packets}  # at the times at which the source shows them


@pytest.mark.parametrize("name", ["obs.mp4", "hevc.mkv"])
async def test_referenced_b_frames_are_encoded_anew_while_somebody_watches(clip: Clip, name: str) -> None:
    hevc = "-c:v libx265 -preset ultrafast -x265-params log-level=none:keyint=240:bframes=3:b-pyramid=1:b-adapt=0"
    packets = clip(name, f"{PICTURE} {hevc if name == 'hevc.mkv' else OBS}")
    source = publication(packets)
    await write(source, packets[:60])
    async with deriving(source, REALTIME, None) as rendition:
        # decided on the cached GOP, before anybody saw anything
        assert rendition.treatment["video"].startswith("re-encoded: B-frames are referenced")
        assert "bframes=0" in rendition.treatment["video"]
        sink = Watching()
        rendition.attach(sink)
        await until(lambda: bool(sink.tracks), "tracks")
        assert rendition.transcodes
        await write(source, packets[60:], rendition)
        await until(lambda: sink.newest("video") > 3.7, "the last pictures")
        assert sink.gaps == []
        assert rendition.latency["video"] >= 0
    assert sink.tracks[0].codec is Codec.H264
    assert h264.parse_sps(h264.parse_avcc(sink.tracks[0].config).sps[0]).never_reorders
    assert_fit_for_webrtc(sink.video)
    assert shown(sink.video) == [p.pts for p in sink.video]
    assert {p.pts for p in sink.video} <= {p.pts for p in packets}


async def test_the_switch_to_encoding_is_a_gap_and_a_key_frame_further_on(clip: Clip) -> None:
    """Nobody could know: the pictures that the viewer has seen so far were in order."""
    packets = clip("av.mp4", f"{SOUND} {PICTURE} {OBS} -c:a aac")
    source, sink = publication(packets), Watching()
    async with deriving(source, REALTIME, sink) as rendition:
        await write(source, packets, rendition)
        await until(lambda: sink.newest("video") > 3.7 and sink.newest("audio") > 3.8, "the last pictures and sound")
        assert rendition.treatment["audio"] == "aac-to-opus"
        assert rendition.treatment["video"].startswith("re-encoded")
    assert set(sink.gaps) <= {"track-changed"}
    assert_fit_for_webrtc(sink.video)
    for position, item in enumerate(sink.log):
        if isinstance(item, tuple) and not isinstance(item, Packet | Gap):
            following = next(i for i in sink.log[position + 1 :] if isinstance(i, Packet) and i.track.is_video)
            assert following.keyframe
    assert shown(sink.video) == [p.pts for p in sink.video]
    assert len(sink.video) > 80
    # sound was never interrupted, and lies where the source has it
    assert {b.pts - a.pts for a, b in itertools.pairwise(sink.audio)} == {960}
    assert abs(tone_starts(sink.audio) - tone_starts([p for p in packets if not p.track.is_video])) < 0.02


async def test_what_was_found_out_holds_over_a_gap(clip: Clip) -> None:
    packets = clip("obs.mp4", f"{PICTURE} {OBS}")
    source, sink = publication(packets), Watching()
    async with deriving(source, REALTIME, sink) as rendition:
        await write(source, packets[:40], rendition)
        await until(lambda: rendition.transcodes and bool(sink.video), "the encoder")
        source.gap(Gap("timestamp-jump"))
        position = len(sink.log)
        later = [p._replace(pts=p.pts + 9_000_000, dts=p.dts + 9_000_000) for p in packets]
        await write(source, later[:60], rendition)
        await until(lambda: sink.newest("video") > 101, "pictures after the gap")
    after = [item for item in sink.log[position:] if isinstance(item, Packet) and item.pts >= 9_000_000]
    assert_fit_for_webrtc(after)
    assert len({p.track for p in after}) == 1


async def test_no_room_for_an_encoder_ends_the_rendition_readably(clip: Clip) -> None:
    packets = clip("obs.mp4", f"{PICTURE} {OBS}")
    source, sink = publication(packets), Watching()
    async with (
        Renditions(config.Limits(renditions=1), config.Mjpeg(), config.Hls()) as every,
        every.acquire(source, Want("mjpeg", "none"), 0.0),
        every.acquire(source, REALTIME, 0.0) as rendition,
    ):
        rendition.attach(sink)
        await write(source, packets[:40])
        assert sink.log[-1] == "node-full"
        assert "renditions of video" in rendition.last_error


@pytest.mark.parametrize(
    ("name", "arguments", "treatment"),
    [
        ("v.webm", "-c:v libvpx -deadline realtime -cpu-used 8 -g 30", "copy"),
        ("v9.webm", "-c:v libvpx-vp9 -deadline realtime -cpu-used 8 -g 30", "copy"),
        ("h0.mkv", "-c:v libx265 -preset ultrafast -x265-params log-level=none:bframes=0:keyint=30", "copy"),
        ("a.mp4", "-c:v libsvtav1 -preset 12 -g 30", "copy"),
    ],
)
async def test_other_codecs_pass_or_become_h264(clip: Clip, name: str, arguments: str, treatment: str) -> None:
    packets = clip(name, f"{PICTURE} {arguments}")
    source, sink, encoded = publication(packets), Watching(), Watching()
    async with deriving(source, REALTIME, sink) as rendition, deriving(source, H264, encoded) as other:
        await write(source, packets, other)
        await until(lambda: encoded.newest("video") > 3.5, "the last pictures")
        assert rendition.treatment == {"video": treatment}
        assert not rendition.transcodes
        assert other.treatment == {"video": f"{packets[0].track.codec.value}-to-h264"}
        other.request_keyframe()
    assert [p.data for p in sink.video] == [p.data for p in packets]
    assert_fit_for_webrtc(encoded.video)
    assert shown(encoded.video) == [p.pts for p in encoded.video]


async def test_jpeg_of_a_slow_camera_becomes_h264_at_once(raw: Callable[[str, str], bytes]) -> None:
    data = raw("camera.mjpeg", "-f lavfi -i testsrc2=size=640x360:rate=5:duration=8 -pix_fmt yuvj420p -c:v mjpeg -q:v 5")
    camera = Track(1, Codec.MJPEG, 90_000)
    pictures = [b"\xff\xd8" + part for part in data.split(b"\xff\xd8")[1:]]
    packets = [Packet(camera, picture, n * 18_000, n * 18_000, True, 0.0) for n, picture in enumerate(pictures)]
    source, sink = publication(packets), Watching()
    async with deriving(source, REALTIME, sink) as rendition:
        for n, packet in enumerate(packets):
            await write(source, [packet], rendition)
            await until(lambda n=n: len(sink.video) == n + 1, "this very picture, before the next one")  # type: ignore[misc]
        assert rendition.treatment == {"video": "mjpeg-to-h264"}
    assert_fit_for_webrtc(sink.video)
    assert [p.pts for p in sink.video] == [p.pts for p in packets]
    keys = [p.pts for p in sink.video if p.keyframe]
    assert {b - a for a, b in itertools.pairwise(keys)} == {180_000}
    # a key frame takes no more than what the rate allows in a third of a second, so that narrow links are not stopped by it
    assert max(len(p.data) for p in sink.video[10:]) * 8 < 640 * 360 * 3.2 * 0.45


@pytest.mark.parametrize(
    ("name", "codec", "size"),
    [
        ("s.mp4", "-c:a aac", 160),
        ("s.mp3", "-c:a libmp3lame", 160),
        ("s.flac.mkv", "-c:a flac", 160),
        ("s.ac3.mkv", "-c:a ac3", 160),
        ("mono.mp4", "-ac 1 -c:a aac", 80),
        ("s.alaw", "-ac 1 -ar 8000 -f alaw", 80),
    ],
)
async def test_sound_becomes_opus_of_one_packet_size_in_time(
    clip: Clip, raw: Callable[[str, str], bytes], name: str, codec: str, size: int
) -> None:
    if name == "s.alaw":
        data, phone = raw(name, f"{SOUND} {codec}"), Track(2, Codec.PCM_ALAW, 8_000, sample_rate=8_000, channels=1)
        packets = [Packet(phone, data[n : n + 160], n, n, True, 0.0) for n in range(0, len(data), 160)]
    else:
        packets = clip(name, f"{SOUND} {codec}{' -ac 2' if size == 160 else ''}")
    source, sink = publication(packets), Watching()
    async with deriving(source, REALTIME, sink) as rendition:
        await write(source, packets)
        await until(lambda: sink.newest("audio") > 3.7, "Opus")
        assert rendition.treatment == {"audio": f"{packets[0].track.codec.value}-to-opus"}
    assert {len(p.data) for p in sink.audio} == {size}
    assert {b.pts - a.pts for a, b in itertools.pairwise(sink.audio)} == {960}
    assert abs(tone_starts(sink.audio) - tone_starts(packets)) < 0.02


async def test_an_encoder_made_anew_for_another_rate_is_the_track_that_viewers_know(clip: Clip) -> None:
    quiet = clip("quiet.webm", "-f lavfi -i color=gray:size=320x240:rate=30:duration=4 -pix_fmt yuv420p -c:v libvpx -b:v 30k -g 300")
    source, sink = publication(quiet), Watching()
    async with deriving(source, H264, sink) as rendition:
        await write(source, quiet, rendition)
        await until(lambda: sink.newest("video") > 3.8, "the last picture")
    assert sink.gaps == []
    assert len([p for p in sink.video if p.keyframe]) == 2
    assert_fit_for_webrtc(sink.video)


async def test_a_realtime_reader_is_seen_by_the_door_as_long_as_it_is_there(clip: Clip) -> None:
    packets = clip("plain.mkv", f"{SOUND} {PICTURE} {NO_B} -c:a libopus")
    source = publication(packets)
    async with deriving(source, Want("copy", "aac"), None):
        assert not source.realtime
        async with deriving(source, REALTIME, None):
            assert source.realtime
        assert not source.realtime


async def test_where_one_of_two_threads_has_no_room_neither_stays(clip: Clip) -> None:
    arguments = f"{SOUND} {PICTURE} -c:v libvpx -deadline realtime -cpu-used 8 -g 30 -c:a aac"
    packets = clip("vp8.mkv", arguments)
    first, second = publication(packets), publication(packets)
    async with Renditions(config.Limits(audio_renditions=1), config.Mjpeg(), config.Hls()) as every:
        async with every.acquire(first, Want("none", "opus"), 0.0):
            with pytest.raises(LimitExceeded) as caught:
                async with every.acquire(second, H264, 0.0):
                    pass
            assert caught.value.code == "node-full"
            assert second.sinks == ()
            await until(lambda: every.threads == 1, "the picture's thread to go")
        await every.close()
        assert every.threads == 0


async def test_a_source_that_turns_to_another_codec_needs_a_thread_only_then(clip: Clip) -> None:
    plain = clip("plain.mkv", f"{SOUND} {PICTURE} {NO_B} -c:a libopus")
    other = clip("vp8.mkv", f"{SOUND} {PICTURE} -c:v libvpx -deadline realtime -cpu-used 8 -g 30 -c:a aac")
    source, sink = publication(plain), Watching()
    async with deriving(source, H264, sink) as rendition:
        await write(source, plain[:60])
        assert not rendition.transcodes
        source.set_tracks(tuple({packet.track.id: packet.track for packet in other}.values()))
        await write(source, other, rendition)
        await until(lambda: sink.newest("video") > 3.5 and sink.newest("audio") > 3.5, "derived pictures and sound")
        assert rendition.treatment == {"video": "vp8-to-h264", "audio": "aac-to-opus"}
        assert set(rendition.latency) == {"video", "audio"}
        source.set_tracks(tuple({packet.track.id: packet.track for packet in plain}.values()))
        await write(source, plain[:60])
        assert rendition.treatment == {"video": "copy", "audio": "copy"}
        assert not rendition.transcodes
    assert {t.codec for t in sink.tracks} == {Codec.H264, Codec.OPUS}
