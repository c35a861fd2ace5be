"""MPEG audio: the frame header (ISO/IEC 11172-3 2.4.1.3, 13818-3)."""

from __future__ import annotations

from typing import NamedTuple

from medianode.errors import ProtocolError


class FrameHeader(NamedTuple):
    """`version` is 1.0, 2.0 or 2.5; `bitrate` in bits per second; `frame_size` in bytes with the header; `samples` per channel."""

    version: float
    layer: int
    bitrate: int
    sample_rate: int
    channels: int
    samples: int
    frame_size: int


_VERSIONS = (2.5, 0.0, 2.0, 1.0)
_RATES = (44100, 48000, 32000)
_KBPS = {
    (1, 1): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (1, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (1, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (2, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (2, 3): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}


def parse_header(data: bytes) -> FrameHeader:
    """The four bytes at the start of `data`. ProtocolError on reserved values and on free format, whose frames tell no size."""
    if len(data) < 4 or data[0] != 0xFF or data[1] & 0xE0 != 0xE0:
        raise ProtocolError(f"MPEG audio: expected a syncword and 4 bytes, got {data[:2].hex() or 'nothing'} of {len(data)}")
    version, layer = _VERSIONS[data[1] >> 3 & 3], 4 - (data[1] >> 1 & 3)
    bitrate_index, rate_index = data[2] >> 4, data[2] >> 2 & 3
    if not version or layer == 4 or rate_index == 3 or bitrate_index in (0, 15):
        raise ProtocolError(
            f"MPEG audio: expected a version, a layer, a bit rate and a sampling rate, got reserved values in {data[:4].hex()}"
        )
    bitrate = _KBPS[1 if version == 1 else 2, layer][bitrate_index] * 1000
    sample_rate = _RATES[rate_index] >> (0 if version == 1 else 1 if version == 2 else 2)
    samples = 384 if layer == 1 else 576 if layer == 3 and version != 1 else 1152
    padding = data[2] >> 1 & 1
    size = (12 * bitrate // sample_rate + padding) * 4 if layer == 1 else samples // 8 * bitrate // sample_rate + padding
    return FrameHeader(version, layer, bitrate, sample_rate, 1 if data[3] >> 6 == 3 else 2, samples, size)
