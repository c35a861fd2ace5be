from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest

from medianode.errors import LimitExceeded, ProtocolError
from medianode.media.track import Codec, Kind
from medianode.protocols.flv import PacketType, parse_audio, parse_video
from medianode.protocols.rtmp import Data, Media, PeerClosed, Publish, StreamDeleted, Unpublish


class Capture(NamedTuple):
    video: Codec
    audio: Codec
    audio_frames: int
    audio_step_us: int
    enhanced_video: bool
    tracks: int = 1


CAPTURES = {
    "ffmpeg-debian-h264-aac": Capture(Codec.H264, Codec.AAC, 48, 21_333, False),
    "ffmpeg9-h264-aac": Capture(Codec.H264, Codec.AAC, 48, 21_333, False),
    "ffmpeg9-hevc-aac": Capture(Codec.HEVC, Codec.AAC, 48, 21_333, True),
    "ffmpeg9-av1-opus": Capture(Codec.AV1, Codec.OPUS, 51, 20_000, True),
    "ffmpeg9-vp9-flac": Capture(Codec.VP9, Codec.FLAC, 47, 21_333, True),
    "ffmpeg9-h264-ac3": Capture(Codec.H264, Codec.AC3, 32, 32_000, False),
    "ffmpeg9-multitrack": Capture(Codec.H264, Codec.AAC, 96, 21_333, False, 2),
}
CONFIGS = {
    Codec.H264: b"\x01",
    Codec.HEVC: b"\x01",
    Codec.AV1: b"\x81",
    Codec.VP9: b"\x01\0\0\0\x00",
    Codec.AAC: b"\x11\x88",
    Codec.OPUS: b"OpusHead\x01\x01",
    Codec.FLAC: b"\x04\x00\x04\x00",
    Codec.AC3: b"",
}


@pytest.mark.parametrize("step", [0, 1, 2, 1461])
@pytest.mark.parametrize("name", CAPTURES)
def test_captures(door, vector, cut, name: str, step: int) -> None:
    expected = CAPTURES[name]
    wire = vector(f"{name}.bin")
    d = door().feed(*cut(wire, step or len(wire)))
    d.connection.receive_eof()
    assert d.error is None
    assert d.connection.events() == [PeerClosed(clean=True)]
    assert d.of(Publish) == [Publish(1, f"{name}.bin", {}, "live")]
    assert d.of(Unpublish) == [Unpublish(1, "FCUnpublish")]
    assert d.of(StreamDeleted) == [StreamDeleted(1)]
    metadata = d.of(Data)[0]
    assert metadata.name == "onMetaData"
    assert metadata.values[0]["framerate"] == 15.0
    check_video([event for event in d.of(Media) if event.kind is Kind.VIDEO], expected)
    check_audio([event for event in d.of(Media) if event.kind is Kind.AUDIO], expected)


@pytest.mark.parametrize("step", [0, 1, 1461])
def test_nginx_rtmp_pushes(door, vector, cut, step: int) -> None:
    wire = vector("nginx-rtmp-push.bin")
    d = door().feed(*cut(wire, step or len(wire)))
    d.connection.receive_eof()
    assert d.error is None
    assert d.connection.events() == [Unpublish(1, "eof"), PeerClosed(clean=True)]
    (metadata,) = d.of(Data)
    assert metadata.values[0]["Server"].startswith("NGINX RTMP")
    check_video([event for event in d.of(Media) if event.kind is Kind.VIDEO], CAPTURES["ffmpeg9-h264-aac"])
    check_audio([event for event in d.of(Media) if event.kind is Kind.AUDIO], CAPTURES["ffmpeg9-h264-aac"])


def check_video(events: list[Media], expected: Capture) -> None:
    assert any(event.payload[0] & 0x80 for event in events) == expected.enhanced_video
    tags = [(event.timestamp, tag) for event in events for tag in parse_video(event.payload)]
    assert {tag.codec for _, tag in tags} == {expected.video}
    configs = [tag.data for _, tag in tags if tag.packet_type is PacketType.CONFIG]
    assert len(configs) == 1
    assert configs[0].startswith(CONFIGS[expected.video])
    frames = [(at, tag) for at, tag in tags if tag.packet_type is PacketType.FRAMES]
    assert len(frames) == 15
    decoding = [at for at, _ in frames]
    assert decoding == sorted(decoding)
    shown = sorted(at + tag.composition_time for at, tag in frames)
    assert {b - a for a, b in pairwise(shown)} <= {66, 67}
    assert frames[0][1].keyframe
    assert sum(tag.keyframe for _, tag in frames) == 2
    if expected.video in (Codec.H264, Codec.HEVC):
        for _, tag in frames:
            assert nal_lengths_fit(tag.data)


def nal_lengths_fit(data: bytes) -> bool:
    at = 0
    while at < len(data):
        at += 4 + int.from_bytes(data[at : at + 4], "big")
    return at == len(data)


def check_audio(events: list[Media], expected: Capture) -> None:
    tags = [(event.timestamp, tag) for event in events for tag in parse_audio(event.payload)]
    assert {tag.codec for _, tag in tags} == {expected.audio}
    assert {tag.track_id for _, tag in tags} == set(range(expected.tracks))
    configs = [tag.data for _, tag in tags if tag.packet_type is PacketType.CONFIG]
    assert all(config.startswith(CONFIGS[expected.audio]) for config in configs)
    assert len(configs) >= expected.tracks
    frames = [(at, tag) for at, tag in tags if tag.packet_type is PacketType.FRAMES]
    assert len(frames) == expected.audio_frames
    for track_id in range(expected.tracks):
        times = [at for at, tag in frames if tag.track_id == track_id]
        low = expected.audio_step_us // 1000
        assert {b - a for a, b in pairwise(times)} <= {low - 1, low, low + 1}
        assert abs((times[-1] - times[0]) * 1000 / (len(times) - 1) - expected.audio_step_us) < 100


BROKEN = {
    "rtmpe": (ProtocolError, "RTMPE"),
    "tls-hello": (ProtocolError, "version 3, got 22"),
    "many-chunk-streams": (LimitExceeded, "chunk streams"),
    "declared-16mib": (LimitExceeded, "got one of 16777215"),
    "amf0-nesting": (LimitExceeded, "levels"),
    "amf3-nesting": (LimitExceeded, "levels"),
    "amf0-laughs": (LimitExceeded, "values"),
    "aggregate-bomb": (LimitExceeded, "in an aggregate"),
    "length-changed": (ProtocolError, "expected the other 128 bytes"),
    "media-first": (ProtocolError, "not there"),
    "command-first": (ProtocolError, "expected connect"),
    "connect-twice": (ProtocolError, "got a second"),
    "publish-twice": (ProtocolError, "expected publish on an idle stream"),
    "chunk-size-0": (ProtocolError, "chunk size"),
}


@pytest.mark.parametrize("step", [0, 1, 1461])
@pytest.mark.parametrize("name", BROKEN)
def test_broken(door, vector, cut, name: str, step: int) -> None:
    kind, message = BROKEN[name]
    wire = vector(f"broken-{name}.bin")
    d = door().feed(*cut(wire, step or len(wire)))
    assert type(d.error) is kind
    assert message in d.error.message


def test_truncated(door, vector) -> None:
    d = door().feed(vector("broken-truncated.bin"))
    d.connection.receive_eof()
    assert d.connection.events() == [Unpublish(1, "eof"), PeerClosed(clean=False)]
    assert len(d.of(Media)) > 20


def test_every_vector_is_tested() -> None:
    names = {path.stem for path in (Path(__file__).parents[3] / "vectors" / "rtmp").glob("*.bin")}
    assert names == {*CAPTURES, *(f"broken-{name}" for name in BROKEN), "broken-truncated", "nginx-rtmp-push"}
