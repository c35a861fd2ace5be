"""Opus: OpusHead (RFC 7845 5.1), dOps (Encapsulation of Opus in ISO BMFF 4.3.2) and packet durations (RFC 6716 3)."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from medianode.errors import ProtocolError

SAMPLE_RATE = 48_000
MAX_PACKET_SAMPLES = 5760
"""120 ms, RFC 6716 3.2.5 [R5]."""

_MAGIC = b"OpusHead"
_LITTLE, _BIG = struct.Struct("<BBHIhB"), struct.Struct(">BBHIhB")
# Samples at 48 kHz of one frame by config number, table 2: SILK 10, 20, 40, 60 ms; hybrid 10, 20; CELT 2.5, 5, 10, 20.
_FRAME_SAMPLES = (480, 960, 1920, 2880) * 3 + (480, 960) * 2 + (120, 240, 480, 960) * 4


@dataclass(frozen=True, slots=True)
class OpusHead:
    """`pre_skip` in samples of 48 kHz; `input_sample_rate` in Hz, 0 where not told; `output_gain` in 1/256 dB.

    `mapping` is one index per channel; empty with family 0.
    """

    channels: int
    pre_skip: int = 312
    input_sample_rate: int = SAMPLE_RATE
    output_gain: int = 0
    mapping_family: int = 0
    stream_count: int = 1
    coupled_count: int = 0
    mapping: bytes = b""


def parse_head(data: bytes) -> OpusHead:
    """OpusHead with its magic. ProtocolError on another major version or an impossible mapping."""
    if len(data) < 19 or data[:8] != _MAGIC:
        raise ProtocolError(f"OpusHead: expected its magic and at least 19 bytes, got {data[:8].hex() or 'nothing'} of {len(data)}")
    if data[8] >> 4:
        raise ProtocolError(f"OpusHead: expected version 0 or 1, got {data[8]}")
    return _head(_LITTLE.unpack_from(data, 8), data[19:])


def parse_dops(data: bytes) -> OpusHead:
    """The payload of a dOps box."""
    if len(data) < 11 or data[0]:
        raise ProtocolError(f"dOps: expected version 0 and at least 11 bytes, got {data[:1].hex() or 'nothing'} of {len(data)}")
    return _head(_BIG.unpack_from(data), data[11:])


def _head(fields: tuple[int, ...], rest: bytes) -> OpusHead:
    _, channels, pre_skip, rate, gain, family = fields
    if family == 0:
        if not 1 <= channels <= 2:
            raise ProtocolError(f"Opus: expected 1 or 2 channels with mapping family 0, got {channels}")
        return OpusHead(channels, pre_skip, rate, gain, 0, 1, channels - 1)
    if not channels or len(rest) < 2 + channels:
        raise ProtocolError(f"Opus: expected a mapping table for {channels} channels, got {len(rest)} bytes")
    streams, coupled, mapping = rest[0], rest[1], rest[2 : 2 + channels]
    if not streams or coupled > streams or any(index != 255 and index >= streams + coupled for index in mapping):
        raise ProtocolError(f"Opus: expected a mapping onto {streams} streams, {coupled} coupled, got {mapping.hex()}")
    return OpusHead(channels, pre_skip, rate, gain, family, streams, coupled, mapping)


def _table(h: OpusHead) -> bytes:
    return bytes((h.stream_count, h.coupled_count)) + h.mapping if h.mapping_family else b""


def build_head(h: OpusHead) -> bytes:
    return _MAGIC + _LITTLE.pack(1, h.channels, h.pre_skip, h.input_sample_rate, h.output_gain, h.mapping_family) + _table(h)


def build_dops(h: OpusHead) -> bytes:
    """The payload of a dOps box: version 0, big endian."""
    return _BIG.pack(0, h.channels, h.pre_skip, h.input_sample_rate, h.output_gain, h.mapping_family) + _table(h)


def packet_samples(packet: bytes) -> int:
    """Samples at 48 kHz of a packet, from its TOC byte (RFC 6716 3.1, 3.2). ProtocolError on none, or over 120 ms."""
    if not packet:
        raise ProtocolError("Opus: expected a TOC byte, got nothing")
    toc = packet[0]
    code = toc & 3
    if code == 3:
        if len(packet) < 2:
            raise ProtocolError("Opus: expected a frame count byte, got the end")
        count = packet[1] & 63
    else:
        count = 1 if code == 0 else 2
    samples = _FRAME_SAMPLES[toc >> 3] * count
    if not 0 < samples <= MAX_PACKET_SAMPLES:
        raise ProtocolError(f"Opus: expected a packet of up to {MAX_PACKET_SAMPLES} samples, got {samples}")
    return samples


def packet_channels(packet: bytes) -> int:
    """1 or 2 by the TOC byte's stereo bit."""
    if not packet:
        raise ProtocolError("Opus: expected a TOC byte, got nothing")
    return 2 if packet[0] & 4 else 1
