"""FLAC: STREAMINFO (RFC 9639 8.2) and the length of a frame (9.1.1)."""

from __future__ import annotations

from dataclasses import dataclass

from medianode.codecs.bits import BitReader
from medianode.errors import ProtocolError

STREAMINFO_SIZE = 34


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """Block sizes in samples, frame sizes in bytes; `total_samples` and frame sizes are 0 where not known."""

    min_block_size: int
    max_block_size: int
    min_frame_size: int
    max_frame_size: int
    sample_rate: int
    channels: int
    bits_per_sample: int
    total_samples: int
    md5: bytes


def parse_streaminfo(data: bytes) -> StreamInfo:
    """The 34 bytes alone; see `find_streaminfo` for those with a header before them."""
    if len(data) != STREAMINFO_SIZE:
        raise ProtocolError(f"STREAMINFO: expected 34 bytes, got {len(data)}")
    r = BitReader(data, "STREAMINFO")
    info = StreamInfo(r.u(16), r.u(16), r.u(24), r.u(24), r.u(20), r.u(3) + 1, r.u(5) + 1, r.u(36), data[18:])
    if not info.sample_rate or info.min_block_size < 16 or info.max_block_size < info.min_block_size or info.bits_per_sample < 4:
        raise ProtocolError(f"STREAMINFO: expected a rate, blocks of 16 samples and more, 4 bits and more, got {info}")
    return info


def find_streaminfo(data: bytes) -> bytes:
    """The 34 bytes out of a bare STREAMINFO, a metadata block (8.1), or a stream's head with 'fLaC'."""
    if len(data) == STREAMINFO_SIZE:
        return data
    start = 4 if data[:4] == b"fLaC" else 0
    if data[start : start + 1] not in (b"\x00", b"\x80") or data[start + 1 : start + 4] != b"\x00\x00\x22" or len(data) < start + 38:
        raise ProtocolError(f"FLAC: expected a STREAMINFO block of 34 bytes, got {data[: start + 4].hex() or 'nothing'} of {len(data)}")
    return data[start + 4 : start + 38]


def frame_samples(frame: bytes) -> int:
    """Samples per channel of a frame, from its header's block size bits."""
    if len(frame) < 6 or frame[0] != 0xFF or frame[1] & 0xFE != 0xF8:
        raise ProtocolError(f"FLAC: expected a frame sync code and 6 bytes, got {frame[:2].hex() or 'nothing'} of {len(frame)}")
    code = frame[2] >> 4
    if code == 1:
        return 192
    if 2 <= code <= 5:
        return 144 << code
    if code >= 8:
        return 1 << code
    if not code:
        raise ProtocolError("FLAC: expected a block size, got reserved code 0")
    # The uncommon sizes stand behind the coded number, which is as long as UTF-8 would be.
    lead = frame[4]
    ones = 8 - (lead ^ 0xFF).bit_length()
    at = 4 + (ones or 1)
    size = frame[at : at + code - 5]
    if ones == 1 or ones == 8 or len(size) < code - 5:
        raise ProtocolError(f"FLAC: expected a coded number and a block size, got {frame[4:14].hex()}")
    return int.from_bytes(size, "big") + 1
