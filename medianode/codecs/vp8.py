"""VP8: the frame header (RFC 6386 9.1)."""

from __future__ import annotations

from typing import NamedTuple

from medianode.errors import ProtocolError


class FrameHeader(NamedTuple):
    """`width` and `height` are 0 but in key frames."""

    keyframe: bool
    version: int
    show_frame: bool
    width: int
    height: int


def parse_frame(data: bytes) -> FrameHeader:
    """ProtocolError on a short frame or a key frame without the start code."""
    if len(data) < 3:
        raise ProtocolError(f"VP8: expected at least 3 bytes, got {len(data)}")
    tag = data[0]
    if tag & 1:
        return FrameHeader(False, tag >> 1 & 7, tag & 16 != 0, 0, 0)
    if len(data) < 10 or data[3:6] != b"\x9d\x01\x2a":
        raise ProtocolError(
            f"VP8: expected start code 9d012a and 10 bytes in a key frame, got {data[3:6].hex() or 'nothing'} of {len(data)}"
        )
    width, height = int.from_bytes(data[6:8], "little") & 0x3FFF, int.from_bytes(data[8:10], "little") & 0x3FFF
    if not width or not height:
        raise ProtocolError(f"VP8: expected a picture, got {width}x{height}")
    return FrameHeader(True, tag >> 1 & 7, tag & 16 != 0, width, height)


def is_keyframe(data: bytes) -> bool:
    return len(data) > 0 and not data[0] & 1
