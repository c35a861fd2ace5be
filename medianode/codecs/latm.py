"""LATM and LOAS: AAC as broadcasters and some encoders multiplex it (ISO/IEC 14496-3 1.7).

What is carried: one program, one layer, its length told per frame (frameLengthType 0), one frame in an element. That is what DVB asks for.
"""

from __future__ import annotations

from medianode.codecs import aac
from medianode.codecs.bits import BitReader, BitWriter
from medianode.errors import ProtocolError

_SYNC = 0x2B7
_MAX_LENGTH_BYTES = 64


def loas_size(data: bytes) -> int:
    """Bytes of the AudioSyncStream frame at the start of `data`, its 3 bytes of header included. ProtocolError where none begins."""
    if len(data) < 3 or data[0] << 3 | data[1] >> 5 != _SYNC:
        raise ProtocolError(f"LOAS: expected syncword 2b7, got {data[:2].hex()}")
    return 3 + ((data[1] & 0x1F) << 8 | data[2])


class StreamMux:
    """`read` takes AudioMuxElement(1) after AudioMuxElement(1). `record` is the AudioSpecificConfig of what it gave last."""

    __slots__ = ("config", "record")

    def __init__(self) -> None:
        self.config: aac.AudioSpecificConfig | None = None
        self.record = b""

    def read(self, data: bytes) -> bytes:
        """The raw frame; empty while no configuration has come. ProtocolError on what is not carried, and on bits that run out."""
        r = BitReader(data, "LATM")
        if not r.flag():  # useSameStreamMux
            self._read_config(r)
        if self.config is None:
            return b""
        size = 0
        for _ in range(_MAX_LENGTH_BYTES):
            step = r.u(8)
            size += step
            if step != 0xFF:
                break
        return r.u(size * 8).to_bytes(size, "big")  # it begins at any bit

    def configure(self, data: bytes) -> bytes:
        """`record` of a StreamMuxConfig that stands by itself, as a description in SDP has it (RFC 6416 7.4)."""
        # some end with the AudioSpecificConfig: what stands behind it is zero then
        self._read_config(BitReader(data + bytes(4), "LATM"))
        return self.record

    def _read_config(self, r: BitReader) -> None:
        version = r.u(1)
        if version and r.u(1):
            raise ProtocolError("LATM: expected audioMuxVersionA 0, got 1")
        if version:
            _value(r)  # taraBufferFullness
        same_time, frames, programs, layers = r.u(1), r.u(6), r.u(4), r.u(3)
        if not same_time or frames or programs or layers:
            raise ProtocolError(f"LATM: expected one program, layer and frame, got {programs + 1}, {layers + 1} and {frames + 1}")
        length = _value(r) if version else None
        start = r.position
        config = aac.read_asc(r)
        record = _bits(r, start)
        if length is not None:
            r.skip(max(0, length - (r.position - start)))  # fillBits
        kind = r.u(3)
        if kind:
            raise ProtocolError(f"LATM: expected frameLengthType 0, got {kind}")
        r.skip(8)  # latmBufferFullness
        if r.flag():  # otherDataPresent
            if version:
                _value(r)
            else:
                while r.flag():
                    r.skip(8)
                r.skip(8)
        if r.flag():
            r.skip(8)  # crcCheckSum
        self.config, self.record = config, record


def _value(r: BitReader) -> int:
    """LatmGetValue."""
    count = r.u(2) + 1
    return r.u(8 * count)


def _bits(r: BitReader, start: int) -> bytes:
    """What was read since bit `start`, from its first bit on, filled up with zeros."""
    count = r.position - start
    r.position = start
    return BitWriter().u(count, r.u(count)).to_bytes()
