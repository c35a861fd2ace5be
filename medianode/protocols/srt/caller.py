"""The caller's half of the handshake: we call a source that listens, and receive from it."""

from __future__ import annotations

from collections.abc import Callable

from medianode.errors import InvalidRequest, NotFound, PeerError, PeerGone, ProtocolError, Unauthorized
from medianode.protocols.srt import handshake as hs
from medianode.protocols.srt.connection import Connection
from medianode.protocols.srt.handshake import Handshake, Kind, Reject, Terms, pack_text, parse_handshake, parse_terms, said
from medianode.protocols.srt.keys import ENCRYPTION, SALT_SIZE, Ciphers, Keys
from medianode.protocols.srt.packet import ControlType, ExtensionType, parse_header

AGAIN = 0.25
"""Seconds after which an unanswered handshake is sent again."""


class Caller:
    """`datagram(now)` is what to send now, if anything; `receive` takes what came. `connection` is there once it is agreed on.

    `latency`: seconds that we want holes to be waited for. `key_size`: bytes of AES key with a passphrase, unless the listener says which.
    """

    def __init__(
        self,
        own: int,
        *,
        random: Callable[[int], bytes],
        ciphers: Ciphers,
        stream_id: str = "",
        passphrase: str = "",
        key_size: int = 16,
        latency: float = 0.12,
        max_packets: int = 8192,
    ) -> None:
        self._own = own
        self._random = random
        self._stream_id = stream_id
        self._keys = Keys(passphrase, ciphers) if passphrase else None
        self._key_size = key_size
        self._latency = latency
        self._max = max_packets
        self._sequence = int.from_bytes(random(4), "big") & 0x7FFFFFFF
        self._conclusion: Handshake | None = None
        self._sent_at: float | None = None
        self.connection: Connection | None = None

    def datagram(self, now: float) -> bytes | None:
        """The handshake that is to be sent (again)."""
        if self.connection is not None or (self._sent_at is not None and now - self._sent_at < AGAIN):
            return None
        self._sent_at = now
        if self._conclusion is not None:
            return self._conclusion.packed(0, int(now * 1e6))
        first = Handshake(
            version=4,  # so that listeners of any version answer (4.3.1.1)
            extension=hs.DATAGRAM,
            sequence=self._sequence,
            flow_window=self._max,
            kind=Kind.INDUCTION,
            socket_id=self._own,
        )
        return first.packed(0, int(now * 1e6))

    def receive(self, datagram: bytes, now: float) -> None:
        """A datagram of the listener's. Raises PeerError where it refuses, ProtocolError where it says what cannot be."""
        header = parse_header(datagram)
        if header is None or header.socket_id != self._own:
            return
        if self.connection is not None:
            self.connection.receive(datagram, now)
            return
        if header.kind != ControlType.HANDSHAKE:
            return
        got = parse_handshake(datagram)
        if got.rejection is not None:
            raise refusal(got.rejection)
        if got.kind == Kind.INDUCTION and self._conclusion is None:
            self._conclude(got)
            self._sent_at = None
        elif got.kind == Kind.CONCLUSION and self._conclusion is not None:
            self._agreed(got, now)

    def _conclude(self, got: Handshake) -> None:
        if got.version < hs.VERSION or got.extension != hs.MAGIC:
            raise ProtocolError(f"SRT: expected a listener of handshake version 5, got {got.version}")
        latency = int(self._latency * 1000)
        extensions: dict[int, bytes] = {ExtensionType.HSREQ: Terms(hs.SRT_VERSION, hs.OUR_FLAGS, latency, 0).packed()}
        size = next((size for size, field in ENCRYPTION.items() if field == got.encryption), self._key_size)
        if self._keys is not None:
            extensions[ExtensionType.KMREQ] = self._keys.make(self._random(size), self._random(SALT_SIZE))
        if self._stream_id:
            extensions[ExtensionType.SID] = pack_text(self._stream_id)
        flags = hs.HAS_HSREQ | (hs.HAS_KMREQ if self._keys is not None else 0) | (hs.HAS_CONFIG if self._stream_id else 0)
        self._conclusion = Handshake(
            version=hs.VERSION,
            encryption=ENCRYPTION[size] if self._keys is not None else 0,
            extension=flags,
            sequence=self._sequence,
            flow_window=self._max,
            kind=Kind.CONCLUSION,
            socket_id=self._own,
            cookie=got.cookie,
            extensions=extensions,
        )

    def _agreed(self, got: Handshake, now: float) -> None:
        terms = parse_terms(got.extensions.get(ExtensionType.HSRSP))
        answer = got.extensions.get(ExtensionType.KMRSP)
        if self._keys is not None and (answer is None or len(answer) <= 4):
            raise refusal(Reject.BAD_SECRET if answer else Reject.UNSECURE)
        latency = max(self._latency, terms.sender_latency / 1000)
        self.connection = Connection(self._own, got.socket_id, got.sequence, latency, self._max, self._keys, now)


def refusal(reason: int) -> PeerError:
    """What the listener's refusal means to who asked for the source."""
    text = f"SRT: {said(reason)}"
    if reason in (Reject.BAD_SECRET, Reject.UNSECURE, Reject.UNAUTHORIZED, Reject.FORBIDDEN):
        return Unauthorized(text)
    if reason == Reject.NOT_FOUND:
        return NotFound(text)
    if reason in (Reject.BAD_REQUEST, Reject.BAD_MODE, Reject.VERSION):
        return InvalidRequest(text)
    return PeerGone(text, code="refused")
