from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

from medianode import clock
from medianode.codecs import aac, h264
from medianode.errors import PeerError, UnsupportedMedia
from medianode.media.packet import Packet
from medianode.media.track import Codec
from medianode.transcode import testcard
from medianode.transcode.decode import AudioDecoder, VideoDecoder
from medianode.transcode.source import AHEAD_PACKETS, open_source

pytestmark = pytest.mark.usefixtures("no_thread_left")

AV = "-f lavfi -i testsrc2=size=320x240:rate=30:duration=2 -f lavfi -i sine=frequency=440:duration=2:sample_rate=48000 -pix_fmt yuv420p"


@pytest.mark.parametrize(
    ("name", "arguments", "codecs"),
    [
        ("h264.mp4", "-c:v libx264 -bf 2 -g 30 -c:a aac", (Codec.H264, Codec.AAC)),
        ("h264.ts", "-c:v libx264 -bf 2 -g 30 -c:a aac", (Codec.H264, Codec.AAC)),
        ("hevc.mkv", "-c:v libx265 -x265-params log-level=none -c:a libopus", (Codec.HEVC, Codec.OPUS)),
        ("hevc.ts", "-c:v libx265 -x265-params log-level=none -c:a ac3", (Codec.HEVC, Codec.AC3)),
        ("vp9.webm", "-c:v libvpx-vp9 -deadline realtime -cpu-used 8 -c:a libopus", (Codec.VP9, Codec.OPUS)),
        ("av1.mp4", "-c:v libsvtav1 -preset 12 -c:a aac", (Codec.AV1, Codec.AAC)),
        ("h263.flv", "-c:v flv -c:a libmp3lame -ar 44100", (Codec.H264, Codec.MP3)),
        ("mjpeg.avi", "-c:v mjpeg -c:a pcm_s16le", (Codec.H264, Codec.AAC)),
    ],
)
async def test_files_are_copied_where_they_fit_and_encoded_where_not(
    make_file: Callable[[str, str], Path], name: str, arguments: str, codecs: tuple[Codec, Codec]
) -> None:
    async with open_source(str(make_file(name, f"{AV} {arguments}")), pace=False) as source:
        packets = [packet async for packet in source]
    assert tuple(track.codec for track in source.tracks) == codecs
    video, audio = source.tracks
    assert (video.width, video.height) == (320, 240)
    for track in source.tracks:
        own = [packet for packet in packets if packet.track is track]
        assert own[0].keyframe
        assert own[0].dts >= 0
        assert all(a.dts <= b.dts for a, b in itertools.pairwise(own))
        assert 1.8 < (own[-1].pts - own[0].pts) / track.clock_rate < 2.1
    decoder = VideoDecoder(video, 10**6)
    pictures = sum(len(decoder.decode(packet)) for packet in packets if packet.track is video) + len(decoder.decode(None))
    assert pictures >= 58
    sound = AudioDecoder(audio)
    assert sum(frame.samples for p in packets if p.track is audio for frame in sound.decode(p)) > 1.8 * 44_100


async def test_a_loop_goes_on_in_time(make_file: Callable[[str, str], Path]) -> None:
    path = make_file("h264.mp4", f"{AV} -c:v libx264 -bf 2 -g 30 -c:a aac")
    last = {1: -1, 2: -1}
    async with open_source(str(path), loop=True, pace=False) as source:
        async for packet in source:
            assert packet.dts >= last[packet.track.id]
            last[packet.track.id] = packet.dts
            if packet.dts > 5 * packet.track.clock_rate:
                break
    assert last[1] > 4.8 * 90_000


async def test_packets_come_when_they_are_due(make_file: Callable[[str, str], Path]) -> None:
    path = make_file("h264.mp4", f"{AV} -c:v libx264 -bf 2 -g 30 -c:a aac")
    async with open_source(str(path)) as source:
        async for packet in source:
            assert clock.now() >= packet.received_at - 0.002
            if packet.track.is_video and packet.dts > 45_000:
                break
    assert source._started is not None
    assert packet.received_at == pytest.approx(source._started + packet.dts / 90_000)


async def test_the_thread_reads_ahead_only_so_far() -> None:
    async with open_source("testsrc", pace=False) as source:
        first = await anext(source)
        assert first.keyframe
        for _ in range(5):
            await anext(source)
        assert len(source._ahead) <= AHEAD_PACKETS


async def test_the_test_card_shows_the_time_and_beeps_at_each_second() -> None:
    before = clock.wallclock()
    packets: list[Packet] = []
    async with open_source("testsrc", pace=False) as source:
        async for packet in source:
            packets.append(packet)
            if packet.pts >= 2.2 * packet.track.clock_rate:
                break
        wallclock = source._wallclock
    video, audio = source.tracks
    assert wallclock >= before
    sps = h264.parse_sps(h264.parse_avcc(video.config).sps[0])
    assert (sps.width, sps.height, sps.profile_idc, sps.never_reorders) == (1280, 720, 100, True)
    assert aac.parse_asc(audio.config).sample_rate == 48_000
    assert [p.pts for p in packets if p.track.is_video and p.keyframe] == [0, 180_000]
    decoder = VideoDecoder(video, 10**6)
    shown = [testcard.read_clock(frame) for p in packets if p.track.is_video for frame in decoder.decode(p)]
    assert shown == [clock.iso(wallclock + n / 30)[11:23] for n in range(len(shown))]
    sound = AudioDecoder(audio)
    loud: list[float] = []
    for p in packets:
        if not p.track.is_video:
            for frame in sound.decode(p):
                samples = memoryview(frame.planes[0]).cast("f")
                loud += [(p.pts + i) / 48_000 for i in range(0, frame.samples, 16) if abs(samples[i]) > 0.05]
    for at in loud:
        assert (wallclock + at) % 1 < testcard.BEEP_SECONDS + 0.03 or (wallclock + at) % 1 > 0.97
    assert len(loud) > 100


@pytest.mark.parametrize("content", [b"", b"nothing that FFmpeg knows" * 100])
async def test_what_cannot_be_opened_says_so(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file.bin"
    path.write_bytes(content)
    for spec in (str(path), str(tmp_path / "none.mp4")):
        with pytest.raises(UnsupportedMedia, match="expected media that FFmpeg opens"):
            async with open_source(spec):
                pass


async def test_a_file_cut_short_ends_early(make_file: Callable[[str, str], Path], tmp_path: Path) -> None:
    data = make_file("h264.ts", f"{AV} -c:v libx264 -bf 2 -g 30 -c:a aac").read_bytes()
    path = tmp_path / "cut.ts"
    path.write_bytes(data[: len(data) // 2] + bytes(1000))
    try:
        async with open_source(str(path), pace=False) as source:
            packets = [packet async for packet in source]
    except PeerError as e:
        pytest.fail(f"the first half is good: {e}")
    assert 10 < len(packets) < 150
