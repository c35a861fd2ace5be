"""MPEG-TS segments: read back by FFmpeg's demuxer."""

from __future__ import annotations

import io

import av
import pytest

from medianode.codecs import aac, h264
from medianode.errors import ProtocolError, UnsupportedMedia
from medianode.media.track import Codec, Track
from medianode.protocols.fmp4 import Sample
from medianode.transcode import mpegts

SPS, PPS = bytes.fromhex("6764001facd9405005bb0110000003001000000303c0f183196000"), bytes.fromhex("68ebe3cb22c0")
VIDEO = Track(0, Codec.H264, 90_000, h264.build_avcc([SPS], [PPS]), 1280, 720)
AUDIO = Track(1, Codec.AAC, 48_000, aac.build_asc(48_000, 2), sample_rate=48_000, channels=2)


def _unit(kind: int, size: int = 100) -> bytes:
    return size.to_bytes(4, "big") + bytes((kind, 0x88)) + b"\x5a" * (size - 2)


def _segment(n: int) -> bytes:
    video = [Sample(_unit(0x65 if i == 0 else 0x41), 3000, 6000, i == 0) for i in range(30)]
    audio = [Sample(b"\x21" + bytes(90), 1024) for _ in range(47)]
    return mpegts.segment((VIDEO, AUDIO), [(0, n * 90_000, video), (1, n * 47 * 1024, audio)])


def _packets(data: bytes) -> list[tuple[str, int, int, bytes]]:
    with av.open(io.BytesIO(data), format="mpegts") as container:
        return [(p.stream.type, p.pts, p.dts, bytes(p)) for p in container.demux() if p.dts is not None]


def test_segments_are_whole_and_go_on() -> None:
    first, second = _segment(0), _segment(1)
    for body in (first, second):
        assert len(body) % 188 == 0
        pids = [int.from_bytes(body[i + 1 : i + 3], "big") & 0x1FFF for i in range(0, len(body), 188)]
        assert 0 in pids[:2]
        assert pids.index(0) < pids.index(0x100)
    packets = _packets(first + second)
    video = [p for p in packets if p[0] == "video"]
    assert [dts for _, _, dts, _ in video] == [90_000 + 3000 * i for i in range(60)]
    assert {pts - dts for _, pts, dts, _ in video} == {6000}
    assert len([p for p in packets if p[0] == "audio"]) == 94
    key = video[30][3]
    assert b"\0\0\0\1" + SPS + b"\0\0\0\1" + PPS in key
    assert SPS not in video[31][3]


def test_sound_frames_carry_adts() -> None:
    audio = next(p[3] for p in _packets(_segment(0)) if p[0] == "audio")
    header = aac.parse_adts(audio)
    assert (header.sample_rate, header.channel_config, header.frame_size) == (48_000, 2, 98)


def test_what_it_does_not_carry() -> None:
    mpegts.check((VIDEO, AUDIO))
    for codec in (Codec.AV1, Codec.VP9, Codec.OPUS, Codec.MJPEG):
        with pytest.raises(UnsupportedMedia):
            mpegts.check((Track(0, codec, 90_000),))
    with pytest.raises(ProtocolError):
        mpegts.check((Track(0, Codec.H264, 90_000, b"\1"),))
    odd = Track(1, Codec.AAC, 50_000, aac.build_asc(50_000, 2), sample_rate=50_000)
    with pytest.raises(UnsupportedMedia):
        mpegts.check((odd,))
    with pytest.raises(ProtocolError):
        mpegts.segment((AUDIO,), [(0, 0, [Sample(bytes(9000), 1024)])])
    with pytest.raises(ProtocolError):
        mpegts.segment((VIDEO,), [(0, 0, [Sample(b"\0\7\0\0\1", 3000)])])
