"""Connection: what follows the handshake, as the side that receives. Datagrams in, payloads out, and what is to be sent back.

ACK every 10 ms at most (3.2.4) and as often as `tick` is called, NAK at once and again each round trip (3.2.5), ACKACK for the round trip,
KMREQ in band for new keys (6.1.6), keep-alive each second. Light ACKs are for senders faster than ours may be.
"""

from __future__ import annotations

import struct
from collections import OrderedDict

from medianode.errors import ProtocolError
from medianode.protocols.srt.keys import BAD_SECRET, NO_SECRET, Keys
from medianode.protocols.srt.packet import (
    CONTROL,
    HEADER,
    HEADER_SIZE,
    ControlType,
    ExtensionType,
    control,
    pack_losses,
)
from medianode.protocols.srt.receiver import Output, Receiver

KEEPALIVE = 1.0
ACK_INTERVAL = 0.01
_ACK = struct.Struct(">IIIIIII")
_ACKS = 64
"""Full ACKs whose answer is waited for."""
_REKEY_INTERVAL = 0.1
"""Seconds between two new keys: opening one costs a PBKDF2 where the salt is new."""
_RATE_INTERVAL = 1.0
_MAX_RTT = 10.0


class Connection:
    """`own`, `peer`: socket ids; `sequence`: of the first data packet. `keys`: None for a connection in the clear. Never raises on what a
    peer may send. `closed`: the peer has ended it. `nbytes`: of payload that was taken, the last at `media_at`.
    """

    def __init__(self, own: int, peer: int, sequence: int, latency: float, max_packets: int, keys: Keys | None, now: float) -> None:
        self.own = own
        self.peer = peer
        self.latency = latency
        self.receiver = Receiver(sequence, latency, max_packets)
        self.closed = False
        self.undecryptable = 0
        self.rtt = 0.0
        self.nbytes = 0
        self.media_at = now
        self._keys = keys
        self._began = now
        self._sent_at = now
        self._out: list[bytes] = []
        self._media: list[Output] = []
        self._variance = 0.0
        self._ack_number = 0
        self._acked = sequence
        self._acked_at = now
        self._confirmed = sequence
        self._pending: OrderedDict[int, tuple[float, int]] = OrderedDict()
        self._rate_at = now
        self._rate_seen = (0, 0)
        self._rates = (0, 0)
        self._rekeyed_at = now - _REKEY_INTERVAL

    # in

    def receive(self, datagram: bytes, now: float) -> None:
        """A datagram that carries our socket id and came from the peer's address."""
        first, word, _, _ = HEADER.unpack_from(datagram)
        if first & CONTROL:
            self._control(first >> 16 & 0x7FFF, first & 0xFFFF, word, datagram[HEADER_SIZE:], now)
            return
        payload = datagram[HEADER_SIZE:]
        which = word >> 27 & 3
        if which or self._keys is not None:
            # in the clear on an encrypted connection: not from our peer
            clear = self._keys.decrypt(which, first, payload) if self._keys is not None and which else None
            if clear is None:
                self.undecryptable += 1
                return
            payload = clear
        receiver = self.receiver
        received = receiver.received
        receiver.push(first, payload, now, self._media)
        if receiver.received != received:  # who sends what cannot be taken is silent
            self.media_at = now
            self.nbytes += len(payload)

    def media(self) -> list[Output]:
        """What came whole and in order, and what is missing of it."""
        media = self._media
        if media:
            self._media = []
        return media

    def _control(self, kind: int, subtype: int, word: int, body: bytes, now: float) -> None:
        if kind == ControlType.ACKACK:
            self._on_ackack(word, now)
        elif kind == ControlType.DROPREQ and len(body) >= 8:
            first, last = struct.unpack_from(">II", body)
            self.receiver.give_up(first & 0x7FFFFFFF, last & 0x7FFFFFFF)
        elif kind in (ControlType.SHUTDOWN, ControlType.PEER_ERROR):
            self.closed = True
        elif kind == ControlType.USER and subtype == ExtensionType.KMREQ:
            self._on_rekey(body, now)

    def _on_ackack(self, number: int, now: float) -> None:
        sent = self._pending.pop(number, None)
        if sent is None:
            return
        at, sequence = sent
        self._confirmed = sequence
        sample = min(now - at, _MAX_RTT)
        if not self.rtt:
            self.rtt, self._variance = sample, sample / 2
        else:
            self._variance += (abs(sample - self.rtt) - self._variance) / 4
            self.rtt += (sample - self.rtt) / 8

    def _on_rekey(self, body: bytes, now: float) -> None:
        if self._keys is None:
            answer = struct.pack(">I", NO_SECRET)
        elif body == self._keys.material:
            answer = body  # asked again: the answer was lost
        elif now - self._rekeyed_at < _REKEY_INTERVAL:
            return
        else:
            self._rekeyed_at = now
            try:
                answer = body if self._keys.take(body) else struct.pack(">I", BAD_SECRET)
            except ProtocolError:
                answer = struct.pack(">I", BAD_SECRET)
        self._send(ControlType.USER, now, subtype=ExtensionType.KMRSP, body=answer)

    # out

    def tick(self, now: float) -> None:
        """After each batch of datagrams, and some fifty times a second."""
        receiver = self.receiver
        receiver.expire(now, self._media)
        interval = self.rtt + 2 * self._variance
        if wanted := receiver.losses(now, interval):
            self._send(ControlType.NAK, now, body=pack_losses(wanted))
        acknowledged = receiver.acknowledged
        # not confirmed: said again each round trip
        if acknowledged != self._acked or (acknowledged != self._confirmed and now - self._acked_at > max(interval, 0.1)):
            if now - self._acked_at >= ACK_INTERVAL:
                self._ack(acknowledged, now)
        elif now - self._sent_at >= KEEPALIVE:
            self._send(ControlType.KEEPALIVE, now)

    def _ack(self, acknowledged: int, now: float) -> None:
        self._ack_number = self._ack_number % 0x7FFFFFFF + 1
        self._acked, self._acked_at = acknowledged, now
        self._pending[self._ack_number] = (now, acknowledged)
        if len(self._pending) > _ACKS:
            self._pending.popitem(last=False)
        if (passed := now - self._rate_at) >= _RATE_INTERVAL:
            packets, nbytes = self._rate_seen
            received = self.receiver.received
            self._rates = (int((received - packets) / passed), int((self.nbytes - nbytes) / passed))
            self._rate_seen, self._rate_at = (received, self.nbytes), now
        rtt = self.rtt or 0.1
        packets_rate, bytes_rate = self._rates
        body = _ACK.pack(
            acknowledged,
            int(rtt * 1e6),
            int((self._variance or rtt / 2) * 1e6),
            self.receiver.room,
            packets_rate,
            packets_rate,
            min(bytes_rate, 0xFFFFFFFF),
        )
        self._send(ControlType.ACK, now, word=self._ack_number, body=body)

    def shutdown(self, now: float) -> None:
        """Say goodbye; nothing is handed on any more."""
        self._send(ControlType.SHUTDOWN, now, body=bytes(4))

    def _send(self, kind: int, now: float, *, subtype: int = 0, word: int = 0, body: bytes = b"") -> None:
        self._sent_at = now
        self._out.append(control(kind, self.peer, int((now - self._began) * 1e6), subtype=subtype, word=word, body=body))

    def datagrams(self) -> list[bytes]:
        """What is to be sent to the peer."""
        out = self._out
        if out:
            self._out = []
        return out
