"""Opus (RFC 7587) and G.711 (RFC 3551 4.5.14) over RTP: one packet is one payload, as it stands."""

from __future__ import annotations

from medianode.errors import LimitExceeded
from medianode.media.packet import Packet
from medianode.protocols.rtp.assembly import Frame
from medianode.protocols.rtp.packet import RtpPacket


class AudioPacketiser:
    """Neither format can be cut: a packet over the payload size goes out whole, and IP cuts it."""

    __slots__ = ()

    def packetise(self, packet: Packet) -> list[bytes]:
        return [packet.data] if packet.data else []


class AudioDepacketiser:
    """Loss is not told: the timestamps show it, and there is nothing to ask for. Empty payloads are silence (DTX) or probes."""

    __slots__ = ("_max_bytes", "fault", "incomplete", "malformed")

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self.malformed = 0
        self.incomplete = 0
        self.fault = ""

    def push(self, packet: RtpPacket, lost: bool) -> list[Frame]:
        payload = packet.payload
        if len(payload) > self._max_bytes:
            raise LimitExceeded(f"audio packet: expected at most {self._max_bytes} bytes, got {len(payload)}")
        return [Frame(payload, packet.timestamp, True)] if payload else []
