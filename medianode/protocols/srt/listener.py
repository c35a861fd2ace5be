"""The listener's half of the handshake (4.3.1): stateless until a cookie has come back, and never an answer longer than its question."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field
from typing import NamedTuple

from medianode.errors import ProtocolError
from medianode.protocols.srt import handshake as hs
from medianode.protocols.srt.handshake import Handshake, Kind, Reject, Terms, parse_handshake, parse_terms, text_of
from medianode.protocols.srt.keys import ENCRYPTION, Keys
from medianode.protocols.srt.packet import HEADER_SIZE, ControlType, ExtensionType, parse_header

COOKIE_LIFETIME = 60
"""Seconds of one cookie; the one before it is taken too."""
_INDUCTION_SIZE = HEADER_SIZE + hs.BODY_SIZE


@dataclass(frozen=True, slots=True)
class Request:
    """A caller that has shown to be where it says. `material`: its KMREQ, empty without encryption. `stream_id` may hold a key."""

    handshake: Handshake = field(repr=False)
    terms: Terms
    stream_id: str = field(repr=False)
    material: bytes = field(repr=False)

    @property
    def caller(self) -> int:
        """Its socket id."""
        return self.handshake.socket_id


class Refusal(NamedTuple):
    """An answer that refuses, to be sent."""

    datagram: bytes
    reason: Reject


class Listener:
    """`secret`: random, of this process. `source` is the sender's address as the socket has it."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def receive(self, datagram: bytes, source: bytes, now: float) -> bytes | Refusal | Request | None:
        """A datagram for socket 0: an answer to send, a caller to be decided on, or None where nothing is to be said."""
        header = parse_header(datagram)
        if header is None or header.kind != ControlType.HANDSHAKE:
            return None
        try:
            got = parse_handshake(datagram)
        except ProtocolError:
            return None
        stamp = int(now * 1e6)
        if got.kind == Kind.INDUCTION and len(datagram) >= _INDUCTION_SIZE:
            answer = Handshake(
                version=hs.VERSION,
                extension=hs.MAGIC,
                sequence=got.sequence,
                mtu=min(got.mtu, 1500),
                flow_window=got.flow_window,
                kind=Kind.INDUCTION,
                socket_id=got.socket_id,
                cookie=self._cookie(source, int(now) // COOKIE_LIFETIME),
                peer_address=got.peer_address,
            )
            return answer.packed(got.socket_id, stamp)
        if got.kind == Kind.WAVEAHAND:
            return self.refuse(got, Reject.BAD_MODE, now)  # rendezvous: both sides call, and we never do so unasked
        if got.kind != Kind.CONCLUSION or not self._proved(got.cookie, source, now):
            return None
        try:
            return self._request(got, now)
        except ProtocolError:
            return self.refuse(got, Reject.ROGUE, now)

    def _request(self, got: Handshake, now: float) -> Refusal | Request:
        if got.version < hs.VERSION:
            return self.refuse(got, Reject.VERSION, now)  # SRT before 1.3 and UDT: no stream id, no key
        terms = parse_terms(got.extensions.get(ExtensionType.HSREQ))
        if terms.version < hs.OLDEST_SRT:
            return self.refuse(got, Reject.VERSION, now)
        if terms.flags & hs.STREAM_MODE:
            return self.refuse(got, Reject.MESSAGE_API, now)
        if text_of(got, ExtensionType.CONGESTION) not in ("", "live"):
            return self.refuse(got, Reject.CONGESTION, now)
        if ExtensionType.FILTER in got.extensions:
            return self.refuse(got, Reject.FILTER, now)
        if ExtensionType.GROUP in got.extensions:
            return self.refuse(got, Reject.GROUP, now)
        return Request(got, terms, text_of(got, ExtensionType.SID), got.extensions.get(ExtensionType.KMREQ, b""))

    def refuse(self, got: Handshake, reason: Reject, now: float) -> Refusal:
        """64 bytes, as long as the shortest handshake."""
        return Refusal(got.refused(reason).packed(got.socket_id, int(now * 1e6)), reason)

    def _cookie(self, source: bytes, period: int) -> int:
        digest = hmac.new(self._secret, source + period.to_bytes(8, "big"), hashlib.sha256).digest()
        return int.from_bytes(digest[:4], "big") or 1

    def _proved(self, cookie: int, source: bytes, now: float) -> bool:
        period = int(now) // COOKIE_LIFETIME
        given = cookie.to_bytes(4, "big")
        return any(hmac.compare_digest(given, self._cookie(source, p).to_bytes(4, "big")) for p in (period, max(0, period - 1)))


@dataclass(frozen=True, slots=True)
class Agreed:
    """`latency`: seconds that a hole may hold back what came behind it, the longer of both sides' wishes. `answer`: to be sent."""

    latency: float
    answer: bytes = field(repr=False)


def accept(request: Request, own: int, latency: float, max_packets: int, keys: Keys | None, stamp: int) -> Agreed:
    """The listener's conclusion. `latency`: the least we want, seconds; `keys`: opened, where the caller encrypts."""
    ours = max(int(latency * 1000), request.terms.sender_latency)
    terms = Terms(hs.SRT_VERSION, hs.OUR_FLAGS, ours, request.terms.receiver_latency)
    extensions: dict[int, bytes] = {ExtensionType.HSRSP: terms.packed()}
    if keys is not None:
        extensions[ExtensionType.KMRSP] = keys.material
    answer = Handshake(
        version=hs.VERSION,
        encryption=ENCRYPTION[keys.size] if keys is not None else 0,
        extension=hs.HAS_HSREQ | (hs.HAS_KMREQ if keys is not None else 0),
        sequence=request.handshake.sequence,
        mtu=min(request.handshake.mtu, 1500),
        flow_window=max_packets,
        kind=Kind.CONCLUSION,
        socket_id=own,
        peer_address=request.handshake.peer_address,
        extensions=extensions,
    )
    return Agreed(ours / 1000, answer.packed(request.caller, stamp))
