"""Who owns a peer: what the media plane tells it."""

from __future__ import annotations

from typing import Protocol

from medianode.errors import MedianodeError


class PeerHandler(Protocol):
    """All are called in the loop, synchronously; one that raises is our bug and ends that peer only. `now` is `clock.now()`."""

    def connected(self) -> None:
        """ICE has a pair and DTLS is done: the peer's `sealer` is there. Once per peer."""

    def rtp(self, packet: bytes, now: float) -> None:
        """One decrypted RTP packet, header and all."""

    def rtcp(self, packet: bytes, now: float) -> None:
        """One decrypted RTCP compound."""

    def closed(self, error: MedianodeError | None) -> None:
        """The peer is gone: None where we closed it. Once, and last of all; also where it never connected."""
