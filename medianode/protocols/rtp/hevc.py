"""H.265 over RTP (RFC 7798): single NAL units, aggregation packets and fragmentation units, without decoding order numbers."""

from __future__ import annotations

from medianode.codecs import hevc, nal
from medianode.codecs.hevc import NalType
from medianode.errors import ProtocolError
from medianode.protocols.rtp.nal_units import Layout, NalAssembly, NalPacketiser

AP, FU, PACI = 48, 49, 50
_START, _END = 0x80, 0x40

_AT_HOME = frozenset({NalType.AUD, NalType.FD, NalType.SEI_PREFIX, NalType.SEI_SUFFIX})
_LAYOUT = Layout(2, tuple(byte >> 1 & 63 in _AT_HOME for byte in range(256)))
_TYPE_BITS = 0x7E


class HevcPacketiser(NalPacketiser):
    __slots__ = ()

    def __init__(self, max_payload: int) -> None:
        super().__init__(_LAYOUT, max_payload)

    def _parameter_sets(self, config: bytes) -> bytes:
        record = hevc.parse_hvcc(config)
        return nal.join((*record.vps, *record.sps, *record.pps))

    def _aggregate(self, units: list[bytes]) -> bytes:
        """AP (4.4.2): the forbidden bit of any of its units, the lowest layer id and the lowest temporal id."""
        pieces = [b""]
        forbidden, layer, temporal = 0, 63, 7
        for unit in units:
            forbidden |= unit[0] & 0x80
            layer = min(layer, (unit[0] & 1) << 5 | unit[1] >> 3)
            temporal = min(temporal, unit[1] & 7)
            pieces += (len(unit).to_bytes(2, "big"), unit)
        pieces[0] = bytes((forbidden | AP << 1 | layer >> 5, (layer & 31) << 3 | temporal))
        return b"".join(pieces)

    def _fragment_heads(self, data: bytes, start: int) -> tuple[bytes, bytes, bytes]:
        first, second = data[start], data[start + 1]
        kind = first >> 1 & 63
        outer = bytes((first & ~_TYPE_BITS | FU << 1, second))
        return outer + bytes((kind | _START,)), outer + bytes((kind,)), outer + bytes((kind | _END,))


class HevcDepacketiser(NalAssembly):
    __slots__ = ()

    def _take(self, payload: bytes) -> None:
        if len(payload) < 3:
            raise ProtocolError(f"H.265 over RTP: expected at least 3 bytes, got {len(payload)}")
        kind = payload[0] >> 1 & 63
        if kind == FU:
            header = payload[2]
            unit = bytes((payload[0] & ~_TYPE_BITS | (header & 63) << 1, payload[1]))
            self._fragmented(unit, payload[3:], header & _START != 0, header & _END != 0)
        elif kind == AP:
            self._aggregated(payload, 2)
        elif kind < AP:
            self._unit(payload)
        else:  # PACI, and what is reserved: nobody sends it, receivers are to ignore what they do not know
            self.malformed += 1
            self.fault = f"H.265 over RTP: expected a payload type of 0 to 49, got {kind}"

    def _surely_first(self, payload: bytes) -> bool:
        """An access unit opens with its delimiter, or with VPS (ITU-T H.265 7.4.2.4.4)."""
        kind = payload[0] >> 1 & 63
        if kind == AP and len(payload) > 4:
            kind = payload[4] >> 1 & 63
        return kind in (NalType.AUD, NalType.VPS)
