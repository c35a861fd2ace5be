"""VP8 over RTP (RFC 7741)."""

from __future__ import annotations

from medianode.errors import ProtocolError
from medianode.media.packet import Packet
from medianode.protocols.rtp.assembly import Assembly

LEAST_PAYLOAD = 16
_PICTURE_IDS = 1 << 15
_EXTENDED, _START, _PARTITION = 0x80, 0x10, 0x07
_PICTURE_ID, _TL0PICIDX, _TID, _KEYIDX = 0x80, 0x40, 0x20, 0x10


class Vp8Packetiser:
    """A descriptor of 4 bytes with a 15-bit picture id, which counts the frames; partitions are not told apart."""

    __slots__ = ("_max_payload", "_picture_id")

    def __init__(self, max_payload: int, picture_id: int = 0) -> None:
        if max_payload < LEAST_PAYLOAD:
            raise ValueError(f"max_payload: expected at least {LEAST_PAYLOAD}, got {max_payload}")
        self._max_payload = max_payload
        self._picture_id = picture_id % _PICTURE_IDS

    def packetise(self, packet: Packet) -> list[bytes]:
        data = packet.data
        if not data:
            return []
        number = self._picture_id
        self._picture_id = (number + 1) % _PICTURE_IDS
        rest = bytes((_EXTENDED, _PICTURE_ID, number >> 8 | 0x80, number & 0xFF))
        step = self._max_payload - 4
        first = bytes((_EXTENDED | _START,)) + rest[1:] + data[:step]
        return [first, *[rest + data[at : at + step] for at in range(step, len(data), step)]]


class Vp8Depacketiser(Assembly):
    __slots__ = ()

    def _begins(self, payload: bytes) -> bool:
        # only where something was gathered: what opens a unit does not open it twice
        return self._surely_first(payload)

    def _surely_first(self, payload: bytes) -> bool:
        return payload[0] & (_START | _PARTITION) == _START

    def _take(self, payload: bytes) -> None:
        if not self._pieces and not self._surely_first(payload):
            raise ProtocolError("VP8 over RTP: expected the start of a frame, got another part")
        self._add(payload[_descriptor(payload) :])


def _descriptor(payload: bytes) -> int:
    """The bytes of the payload descriptor (4.2). ProtocolError where nothing follows it."""
    at = 1
    end = len(payload)
    if payload[0] & _EXTENDED and end > 1:
        flags = payload[1]
        at = 2
        if flags & _PICTURE_ID:
            at += 2 if at < end and payload[at] & 0x80 else 1
        if flags & _TL0PICIDX:
            at += 1
        if flags & (_TID | _KEYIDX):
            at += 1
    if at >= end:
        raise ProtocolError(f"VP8 over RTP: expected a frame behind a descriptor of {at} bytes, got {end} in all")
    return at
