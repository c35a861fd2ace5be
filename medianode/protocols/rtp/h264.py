"""H.264 over RTP (RFC 6184), packetization-mode 1: single NAL units, STAP-A and FU-A."""

from __future__ import annotations

import base64

from medianode.codecs import h264, nal
from medianode.codecs.h264 import NalType
from medianode.errors import ProtocolError, UnsupportedMedia
from medianode.protocols.rtp.nal_units import Layout, NalAssembly, NalPacketiser

STAP_A, STAP_B, MTAP16, MTAP24, FU_A, FU_B = range(24, 30)
_INTERLEAVED = {STAP_B: "STAP-B", MTAP16: "MTAP16", MTAP24: "MTAP24", FU_B: "FU-B"}
_START, _END = 0x80, 0x40

_AT_HOME = frozenset({NalType.SEI, NalType.AUD, NalType.FILLER_DATA})
_LAYOUT = Layout(1, tuple(byte & 31 in _AT_HOME for byte in range(256)))
_HEADS = tuple(
    (bytes((i, byte & 31 | _START)), bytes((i, byte & 31)), bytes((i, byte & 31 | _END)))
    for byte in range(256)
    for i in (byte & 0xE0 | FU_A,)
)


def sprop_record(sets: str) -> bytes | None:
    """avcC of `sprop-parameter-sets` (8.1); None where they cannot be read, or are not all there: the stream may yet bring its own."""
    try:
        units = [base64.b64decode(text) for text in sets.split(",")]
        sps = tuple(unit for unit in units if unit and unit[0] & 31 == NalType.SPS)
        pps = tuple(unit for unit in units if unit and unit[0] & 31 == NalType.PPS)
        return h264.build_avcc(sps, pps) if sps and pps else None
    except (ValueError, ProtocolError):
        return None


class H264Packetiser(NalPacketiser):
    __slots__ = ()

    def __init__(self, max_payload: int) -> None:
        super().__init__(_LAYOUT, max_payload)

    def _parameter_sets(self, config: bytes) -> bytes:
        record = h264.parse_avcc(config)
        return nal.join((*record.sps, *record.pps))

    def _aggregate(self, units: list[bytes]) -> bytes:
        """STAP-A (5.7.1): forbidden bit and nal_ref_idc are the highest of its units'."""
        pieces = [b""]
        forbidden = importance = 0
        for unit in units:
            forbidden |= unit[0] & 0x80
            importance = max(importance, unit[0] & 0x60)
            pieces += (len(unit).to_bytes(2, "big"), unit)
        pieces[0] = bytes((forbidden | importance | STAP_A,))
        return b"".join(pieces)

    def _fragment_heads(self, data: bytes, start: int) -> tuple[bytes, bytes, bytes]:
        return _HEADS[data[start]]


class H264Depacketiser(NalAssembly):
    """UnsupportedMedia on the interleaved mode, which is never negotiated."""

    __slots__ = ()

    def _take(self, payload: bytes) -> None:
        kind = payload[0] & 31
        if kind == FU_A:
            if len(payload) < 2:
                raise ProtocolError("FU-A: expected at least 2 bytes, got 1")
            header = payload[1]
            unit = payload[0] & 0xE0 | header & 31
            self._fragmented(bytes((unit,)), payload[2:], header & _START != 0, header & _END != 0)
        elif kind == STAP_A:
            self._aggregated(payload, 1)
        elif 0 < kind < STAP_A:
            self._unit(payload)
        elif kind in _INTERLEAVED:
            raise UnsupportedMedia(f"H.264 over RTP: expected packetization-mode 1, got {_INTERLEAVED[kind]} of mode 2")
        else:  # 0, 30 and 31 are to be ignored (5.2)
            self.malformed += 1
            self.fault = f"H.264 over RTP: expected a NAL unit type of 1 to 29, got {kind}"

    def _surely_first(self, payload: bytes) -> bool:
        """An access unit opens with its delimiter, or with SPS (ITU-T H.264 7.4.1.2.3)."""
        kind = payload[0] & 31
        if kind == STAP_A and len(payload) > 3:
            kind = payload[3] & 31
        return kind in (NalType.AUD, NalType.SPS)
