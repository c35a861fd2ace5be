"""ICE-lite (RFC 8445 2.5, 7.3): whose check is this, is it valid, what is it answered. Sans-IO.

We send no checks and need none of the peer's candidates; a valid request is all there is, and consent too (RFC 7675 5.1, for the
lite side).
"""

from __future__ import annotations

import secrets
from typing import NamedTuple

from medianode.protocols import stun
from medianode.protocols.sdp.plan import Credentials


class Check(NamedTuple):
    """A valid request's answer. `accepted`: it was a success; `nominated`: with USE-CANDIDATE; `retired`: our ufrag that ended by it."""

    answer: bytes
    accepted: bool
    nominated: bool
    retired: bytes = b""


def credentials() -> Credentials:
    """Fresh ones: 48 and 128 bits of chance, more than RFC 8445 5.3 asks."""
    return Credentials(secrets.token_hex(6), secrets.token_hex(16))


class IceLite:
    """One peer's. During a restart two generations are good; the older ends when a pair of the newer is nominated."""

    __slots__ = ("_older", "_tie_breaker", "local", "remote")

    def __init__(self, remote: Credentials) -> None:
        self.local = credentials()
        self.remote = remote
        self._older: Credentials | None = None
        self._tie_breaker = int.from_bytes(secrets.token_bytes(8), "big")

    @property
    def ufrags(self) -> tuple[bytes, ...]:
        """All under which this peer is to be found."""
        older = self._older
        return (self.local.ufrag.encode(),) if older is None else (self.local.ufrag.encode(), older.ufrag.encode())

    def restart(self, remote: Credentials) -> Credentials:
        """RFC 8445 2.4. A third generation puts the first out."""
        self._older, self.local, self.remote = self.local, credentials(), remote
        return self.local

    def request(self, data: bytes, ufrag: bytes, address: tuple[str, int]) -> Check | None:
        """`ufrag` is ours, from `stun.peek_username`. None for what is not signed with its password: that gets no answer."""
        ours = self._generation(ufrag)
        if ours is None:
            return None
        key = ours.pwd.encode()
        if not stun.verify(data, key):
            return None
        message = stun.parse(data)
        if message is None:
            return None
        accepted = not message.unknown and message.controlled is None
        nominated = accepted and message.use_candidate
        retired = b""
        if nominated and self._older is not None and ours is self.local:
            retired, self._older = self._older.ufrag.encode(), None
        return Check(stun.answer(message, address, key), accepted, nominated, retired)

    def challenge(self, transaction: bytes) -> bytes:
        """A check of ours, which only who really is at an address can answer: a moved peer is sent media when it has."""
        name = f"{self.remote.ufrag}:{self.local.ufrag}".encode()
        return stun.binding_request(transaction, name, self.remote.pwd.encode(), controlled=self._tie_breaker)

    def met(self, answer: bytes) -> bool:
        """Whether that is signed with the peer's password."""
        return stun.verify(answer, self.remote.pwd.encode())

    def _generation(self, ufrag: bytes) -> Credentials | None:
        for ours in (self.local, self._older):
            if ours is not None and ours.ufrag.encode() == ufrag:
                return ours
        return None
