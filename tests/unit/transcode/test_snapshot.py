from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from medianode.codecs import jpeg
from medianode.errors import InvalidRequest, LimitExceeded, PeerError, ProtocolError
from medianode.media.packet import Packet
from medianode.media.track import Codec, Track
from medianode.transcode import snapshot
from medianode.transcode.snapshot import keyframe_jpeg

MJPEG = Track(1, Codec.MJPEG, 90_000)


def size_of(data: bytes) -> tuple[int, int]:
    info = jpeg.parse_jpeg(data)
    return info.width, info.height


@pytest.mark.parametrize("codec", ["h264", "hevc", "av1", "vp9", "vp8"])
async def test_any_key_frame_becomes_a_picture(clip_of: Callable[..., Any], codec: str) -> None:
    keys = [packet for packet in clip_of(codec).video if packet.keyframe]
    assert size_of(await keyframe_jpeg(keys[0], None, 5)) == (320, 240)
    assert size_of(await keyframe_jpeg(keys[-1], 161, 5)) == (161, 120)


async def test_a_jpeg_is_returned_as_it_is_or_scaled(jpegs: Callable[..., list[bytes]]) -> None:
    packet = Packet(MJPEG, jpegs("321x241", 1)[0], 0, 0, True, 0.0)
    assert await keyframe_jpeg(packet, None, 5) is packet.data
    assert size_of(await keyframe_jpeg(packet, 640, 5)) == (640, 480)


async def test_what_does_not_decode_is_the_peers_fault(clip_of: Callable[..., Any]) -> None:
    clip = clip_of("h264")
    with pytest.raises(ProtocolError, match="key frame"):
        await keyframe_jpeg(next(p for p in clip.video if not p.keyframe), None, 5)
    with pytest.raises(PeerError):
        await keyframe_jpeg(clip.video[0]._replace(data=b"\x00\x00\x00\x04junk"), None, 5)
    with pytest.raises(PeerError):
        await keyframe_jpeg(Packet(MJPEG, b"\xff\xd8\xff\xd9", 0, 0, True, 0.0), 100, 5)
    for width in (0, 3841):
        with pytest.raises(InvalidRequest):
            await keyframe_jpeg(clip.video[0], width, 5)
    with pytest.raises(LimitExceeded, match="at most 100 pixels"):
        await keyframe_jpeg(clip.video[0], None, 5, max_pixels=100)


async def test_the_number_at_a_time_is_bounded(clip_of: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot.WORKERS, "bound", 3)
    packet = clip_of("h264").video[0]
    answers = await asyncio.gather(*(keyframe_jpeg(packet, None, 5) for _ in range(10)), return_exceptions=True)
    refused = [answer for answer in answers if isinstance(answer, LimitExceeded)]
    assert len(refused) == 7
    assert {error.code for error in refused} == {"node-full"}
    assert len({answer for answer in answers if isinstance(answer, bytes)}) == 1
    assert size_of(await keyframe_jpeg(packet, None, 5)) == (320, 240)
