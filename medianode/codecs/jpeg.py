"""JPEG: is it one, and how big, without decoding (ITU-T T.81 annex B)."""

from __future__ import annotations

from typing import NamedTuple

from medianode.errors import LimitExceeded, ProtocolError

MAX_SEGMENTS = 256
MAX_PADDING = 4096

_EOI = b"\xff\xd9"
_SOI, _EOI_MARKER, _SOS, _TEM = 0xD8, 0xD9, 0xDA, 0x01
_SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})


class JpegInfo(NamedTuple):
    """`size` is the bytes up to and with EOI: what follows in the data is padding."""

    width: int
    height: int
    components: int
    progressive: bool
    size: int


def is_jpeg(data: bytes) -> bool:
    """A cheap look: SOI and the start of another marker."""
    return data[:3] == b"\xff\xd8\xff"


def parse_jpeg(data: bytes, *, max_segments: int = MAX_SEGMENTS, max_padding: int = MAX_PADDING) -> JpegInfo:
    """Walks the segments from SOI to the first scan and looks for EOI at the end.

    Some ESP32 cameras pad with zeros: up to `max_padding` of them after EOI are no fault.
    ProtocolError says what is missing; LimitExceeded over `max_segments`.
    """
    if not is_jpeg(data):
        raise ProtocolError(f"JPEG: expected ffd8ff, got {data[:3].hex() or 'nothing'}")
    frame: tuple[int, int, int, bool] | None = None
    position = 2
    for _ in range(max_segments):
        marker, position = _marker(data, position)
        if marker == _SOS:
            break
        size = int.from_bytes(data[position : position + 2], "big")
        if size < 2 or position + size > len(data):
            raise ProtocolError(f"JPEG: expected a segment of 2 to {len(data) - position} bytes at byte {position}, got {size}")
        if marker in _SOF and frame is None:
            frame = _read_frame(data[position : position + size], marker)
        position += size
    else:
        raise LimitExceeded(f"JPEG: expected at most {max_segments} segments before the first scan, got more")
    if frame is None:
        raise ProtocolError("JPEG: expected a frame header (SOF) before the first scan, got none")
    return JpegInfo(*frame, _end(data, position, max_padding))


def _marker(data: bytes, position: int) -> tuple[int, int]:
    """(marker with a segment, where the segment starts); fill bytes are passed over (B.1.1.2)."""
    start = position
    while position < len(data) and data[position] == 0xFF and position - start <= MAX_PADDING:
        position += 1
    if position >= len(data):
        raise ProtocolError(f"JPEG: expected a marker at byte {start}, got the end")
    marker = data[position]
    if position == start or marker in (0x00, 0xFF):
        raise ProtocolError(f"JPEG: expected a marker at byte {start}, got {data[start : start + 2].hex()}")
    if marker in (_SOI, _EOI_MARKER, _TEM) or 0xD0 <= marker <= 0xD7:
        raise ProtocolError(f"JPEG: expected a segment before the first scan, got marker ff{marker:02x} at byte {start}")
    return marker, position + 1


def _read_frame(segment: bytes, marker: int) -> tuple[int, int, int, bool]:
    """Frame header (B.2.2)."""
    if len(segment) < 8 or len(segment) != 8 + 3 * segment[7]:
        raise ProtocolError(f"JPEG: expected a frame header of 8 bytes and 3 for each component, got {len(segment)}")
    height, width = int.from_bytes(segment[3:5], "big"), int.from_bytes(segment[5:7], "big")
    if not width or not height or segment[7] not in (1, 3, 4):
        raise ProtocolError(f"JPEG: expected a size and 1, 3 or 4 components, got {width}x{height} of {segment[7]}")
    return width, height, segment[7], marker in _PROGRESSIVE


def _end(data: bytes, scan: int, max_padding: int) -> int:
    if data.endswith(_EOI):
        return len(data)
    found = data.rfind(_EOI, max(scan, len(data) - max_padding - 2))
    if found < 0:
        raise ProtocolError(f"JPEG: expected EOI within {max_padding} bytes of the end, got {data[-2:].hex()}: cut short")
    end = found + 2
    if data.count(0, end) != len(data) - end:
        raise ProtocolError(f"JPEG: expected only zeros after EOI, got {len(data) - end} bytes of something else")
    return end
