"""H.264 for WebRTC: the encoder and its stage."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import av
import pytest

from medianode import clock
from medianode.codecs import h264
from medianode.media.packet import Packet
from medianode.media.track import Codec, Track
from medianode.transcode.derive import H264Stage, Settings, Tally
from medianode.transcode.encode import H264Encoder

SETTINGS = Settings(5, 15.0, 2.0, 10_000_000)
CAMERA = Track(1, Codec.MJPEG, 90_000)


def noise(width: int, height: int, count: int) -> list[av.VideoFrame]:
    graph = av.filter.Graph()
    source, grain = graph.add("testsrc2", f"size={width}x{height}:rate=30"), graph.add("noise", "alls=40:allf=t")
    form, sink = graph.add("format", "yuv420p"), graph.add("buffersink")
    source.link_to(form)
    form.link_to(grain)
    grain.link_to(sink)
    graph.configure()
    return [graph.vpull() for _ in range(count)]


def test_another_rate_is_the_same_configuration_so_that_viewers_see_no_new_track() -> None:
    made = [
        H264Encoder(1280, 720, frame_rate=rate, bit_rate=bits, realtime=True)
        for rate, bits in ((30.0, 2_900_000), (30.0, 500_000), (29.6, 1_000_000), (30.2, 1_000_000))
    ]
    assert len({encoder.config for encoder in made}) == 1
    sps = h264.parse_sps(h264.parse_avcc(made[0].config).sps[0])
    assert (sps.profile_idc, sps.level_idc, sps.never_reorders) == (66, 31, True)
    assert sps.constraint_flags & 0x40  # Constrained Baseline


@pytest.mark.parametrize(
    ("size", "rate", "level"),
    [((320, 240), 5.0, 30), ((1280, 720), 30.0, 31), ((1280, 720), 60.0, 32), ((1920, 1080), 30.0, 40), ((1920, 1080), 60.0, 42)],
)
def test_the_level_fits_size_and_rate(size: tuple[int, int], rate: float, level: int) -> None:
    assert h264.parse_avcc(H264Encoder(*size, frame_rate=rate, realtime=True).config).level == level


def test_key_frames_stay_small_even_of_noise() -> None:
    encoder = H264Encoder(640, 360, frame_rate=30.0, bit_rate=1_000_000, realtime=True)
    encoded = [e for n, frame in enumerate(noise(640, 360, 90)) for e in encoder.encode(frame, n * 3000)]
    assert [e.pts for e in encoded if e.keyframe] == [0, 180_000]
    assert all(e.pts == e.dts for e in encoded)
    assert max(len(e.data) for e in encoded if e.keyframe) * 8 <= 0.45 * 1_000_000
    assert sum(len(e.data) for e in encoded) * 8 / 3 <= 1_300_000


def feed(stage: H264Stage, pictures: list[bytes], *, age: float = 0.0, last: bool = True) -> list[Packet]:
    out: list[Any] = []
    for n, data in enumerate(pictures):
        out += stage.push(Packet(CAMERA, data, n * 6000, n * 6000, True, clock.now() - age), last)
    stage.close()
    return out


def test_what_readers_have_already_is_not_made_again(jpegs: Callable[..., list[bytes]]) -> None:
    tally = Tally()
    made = feed(H264Stage(CAMERA, SETTINGS, tally, realtime=True, after=18_000), jpegs(count=8))
    assert [packet.pts for packet in made] == [24_000, 30_000, 36_000, 42_000]
    assert made[0].keyframe
    assert tally.dropped == {}


def test_a_picture_that_is_late_is_left_out_while_a_newer_one_waits(jpegs: Callable[..., list[bytes]]) -> None:
    tally = Tally()
    assert feed(H264Stage(CAMERA, SETTINGS, tally, realtime=True), jpegs(count=4), age=0.3, last=False) == []
    assert tally.dropped == {"rendition-behind": 4}
    assert len(feed(H264Stage(CAMERA, SETTINGS, Tally()), jpegs(count=4), age=0.3, last=False)) == 4  # players with a buffer wait
    assert len(feed(H264Stage(CAMERA, SETTINGS, Tally(), realtime=True), jpegs(count=4), age=0.3)) == 4  # the newest is always shown


def test_a_reordered_picture_is_as_old_as_its_own_packet(clip_of: Callable[..., Any]) -> None:
    clip = clip_of("h264")
    stage = H264Stage(clip.tracks[0], SETTINGS, Tally(), realtime=True)
    base = clock.now()
    arrived = {packet.pts: base + n / 1000 for n, packet in enumerate(clip.video)}
    out: list[Any] = []
    for packet in clip.video:
        out += stage.push(packet._replace(received_at=arrived[packet.pts]), True)
    stage.close()
    assert len(out) > 50
    assert all(made.received_at == arrived[made.pts] for made in out)


def test_key_frames_are_those_of_the_source_where_it_is_only_made_smaller(clip_of: Callable[..., Any]) -> None:
    clip = clip_of("h264")
    stage = H264Stage(clip.tracks[0], SETTINGS, Tally(), max_height=120)
    keys = [packet.pts for packet in clip.video if packet.keyframe]
    late = [packet.pts for packet in clip.video if packet.pts >= keys[1]][:1]
    out: list[Any] = []
    for packet in clip.video:
        stale = packet.pts in late
        out += stage.push(packet._replace(received_at=clock.now() - (10.0 if stale else 0.0)), not stale)
    stage.close()
    assert (out[0].track.width, out[0].track.height) == (160, 120)
    made = [packet.pts for packet in out if packet.keyframe]
    assert made[0] == keys[0]
    assert len(made) == len(keys)


def test_a_camera_that_is_made_smaller_has_key_frames_at_an_interval(jpegs: Callable[..., list[bytes]]) -> None:
    stage = H264Stage(CAMERA, SETTINGS, Tally(), max_height=120)
    made = feed(stage, jpegs(count=40))
    assert [packet.pts for packet in made if packet.keyframe] == [0, 180_000]
