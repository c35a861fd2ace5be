"""AV1 over RTP (AOMedia's "RTP Payload Format For AV1", v1.0)."""

from __future__ import annotations

from medianode.codecs import av1
from medianode.codecs.av1 import ObuType
from medianode.errors import ProtocolError
from medianode.media.packet import Packet
from medianode.media.track import Track
from medianode.protocols.rtp.assembly import Assembly

LEAST_PAYLOAD = 16
_CONTINUES, _TO_BE_CONTINUED, _NEW_SEQUENCE = 0x80, 0x40, 0x08  # Z, Y, N of the aggregation header (4.4)
_MOST_COUNTED = 3  # elements that W can tell
_HAS_SIZE, _EXTENDED = 0x02, 0x04
_AT_HOME = frozenset({ObuType.TEMPORAL_DELIMITER, ObuType.TILE_LIST, ObuType.PADDING})


class Av1Packetiser:
    """OBUs without their sizes, packed one behind the other; the sequence header of the track before a key frame that has none."""

    __slots__ = ("_header", "_max_payload", "_track")

    def __init__(self, max_payload: int) -> None:
        if max_payload < LEAST_PAYLOAD:
            raise ValueError(f"max_payload: expected at least {LEAST_PAYLOAD}, got {max_payload}")
        self._max_payload = max_payload
        self._track: Track | None = None
        self._header = b""

    def packetise(self, packet: Packet) -> list[bytes]:
        """ProtocolError on a temporal unit that is no row of OBUs."""
        limit = self._max_payload
        out: list[bytes] = []
        flags = _NEW_SEQUENCE if packet.keyframe else 0
        held: list[bytes] = []
        used = 1
        for element in self._elements(packet):
            at, size = 0, len(element)
            while at < size:
                prefix = 0 if not held else 1 if len(held[-1]) < 128 else 2
                room = limit - used - prefix
                if held and (room < 2 or len(held) == _MOST_COUNTED):
                    out.append(_aggregate(flags, held))
                    flags, held, used = 0, [], 1
                    continue
                if size - at <= room:
                    held.append(element[at:])
                    used += prefix + size - at
                    break
                held.append(element[at : at + room])
                at += room
                out.append(_aggregate(flags | _TO_BE_CONTINUED, held))
                flags, held, used = _CONTINUES, [], 1
                final = at + (size - at - 1) // (limit - 1) * (limit - 1)
                middle = bytes((_CONTINUES | _TO_BE_CONTINUED | 0x10,))
                out += [middle + element[i : i + limit - 1] for i in range(at, final, limit - 1)]
                at = final
        if held:
            out.append(_aggregate(flags, held))
        return out

    def _elements(self, packet: Packet) -> list[bytes]:
        data = packet.data
        obus = av1.obus(data)
        elements = [_unsized(data, obu) for obu in obus if obu.type not in _AT_HOME]
        if packet.keyframe and not any(obu.type == ObuType.SEQUENCE_HEADER for obu in obus):
            track = packet.track
            if track is not self._track:
                self._header = av1.parse_av1c(track.config).obus if track.config else b""
                self._track = track
            elements[:0] = [_unsized(self._header, obu) for obu in av1.obus(self._header)]
        return elements


def _unsized(data: bytes, obu: av1.Obu) -> bytes:
    """An OBU element: its bytes without obu_size."""
    if not obu.has_size:
        return data[obu.start : obu.end]
    header = data[obu.start]
    if header & _EXTENDED:
        return bytes((header & ~_HAS_SIZE, data[obu.start + 1])) + data[obu.payload : obu.end]
    return bytes((header & ~_HAS_SIZE,)) + data[obu.payload : obu.end]


def _aggregate(flags: int, elements: list[bytes]) -> bytes:
    """One payload; the last of its one to three elements goes without its length."""
    pieces = [bytes((flags | len(elements) << 4,))]
    for element in elements[:-1]:
        pieces += (av1.leb128(len(element)), element)
    pieces.append(elements[-1])
    return b"".join(pieces)


class Av1Depacketiser(Assembly):
    """Temporal units in the low-overhead format: every OBU with its size, no temporal delimiter; all layers, as the sender made them."""

    __slots__ = ("_continued", "_starts")

    def __init__(self, max_bytes: int) -> None:
        super().__init__(max_bytes)
        self._starts: list[int] = []
        """Where in `_pieces` each OBU begins."""
        self._continued = False

    def _drop(self) -> None:
        super()._drop()
        self._starts = []
        self._continued = False

    def _surely_first(self, payload: bytes) -> bool:
        """A new coded video sequence; or, of senders that do not tell, a delimiter or a sequence header."""
        flags = payload[0]
        if flags & _CONTINUES:
            return False
        if flags & _NEW_SEQUENCE:
            return True
        at = 1
        if flags >> 4 & 3 != 1:
            while at < len(payload) and payload[at] & 0x80:
                at += 1
            at += 1
        return at < len(payload) and payload[at] >> 3 & 15 in (ObuType.SEQUENCE_HEADER, ObuType.TEMPORAL_DELIMITER)

    def _take(self, payload: bytes) -> None:
        flags = payload[0]
        continues = flags & _CONTINUES != 0
        if continues != self._continued:
            expected, got = ("the rest of an OBU", "a new one") if self._continued else ("the start of an OBU", "the rest of one")
            raise ProtocolError(f"AV1 over RTP: expected {expected}, got {got}")
        count = flags >> 4 & 3
        position, end, index = 1, len(payload), 0
        while position < end:
            index += 1
            if index == count:
                size = end - position
            else:
                size, position = av1.read_leb128(payload, position)
                if size > end - position:
                    raise ProtocolError(f"AV1 over RTP: expected an OBU element of at most {end - position} bytes, got {size}")
            if not (continues and index == 1):
                self._starts.append(len(self._pieces))
            self._add(payload[position : position + size])
            position += size
        if index == 0 or index < count:
            raise ProtocolError(f"AV1 over RTP: expected {count or 'some'} OBU elements, got {index}")
        self._continued = flags & _TO_BE_CONTINUED != 0

    def _finish(self) -> bytes:
        if self._continued:
            raise ProtocolError("AV1 over RTP: expected the rest of an OBU, got the end of the temporal unit")
        pieces, starts = self._pieces, self._starts
        out: list[bytes] = []
        for start, end in zip(starts, (*starts[1:], len(pieces)), strict=True):
            obu = pieces[start] if end == start + 1 else b"".join(pieces[start:end])
            if obu and obu[0] >> 3 & 15 not in _AT_HOME:
                out += _sized(obu)
        return b"".join(out)


def _sized(obu: bytes) -> tuple[bytes, ...]:
    """The OBU with its size, in pieces. Senders should leave the size away, and some do not."""
    header = obu[0]
    if header & 0x80:
        raise ProtocolError(f"OBU: expected the forbidden bit clear, got 0x{header:02x}")
    at = 2 if header & _EXTENDED else 1
    if len(obu) < at:
        raise ProtocolError(f"OBU: expected a header of {at} bytes, got {len(obu)}")
    if header & _HAS_SIZE:
        size, payload = av1.read_leb128(obu, at)
        if size != len(obu) - payload:
            raise ProtocolError(f"OBU: expected {len(obu) - payload} bytes, got a size of {size}")
        return (obu,)
    return bytes((header | _HAS_SIZE,)), obu[1:at], av1.leb128(len(obu) - at), obu[at:]
