"""Calls: peers that we call, where all others call us. One UDP socket each, a full ICE agent, and from there on a Peer like any other.

Not on the endpoint's socket: whoever serves WebRTC on one port tells its peers apart by where they send from, so two calls from one
socket to such a server (another of our nodes, SRS, OvenMediaEngine) would be one peer to it, and to us they would be one, too.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

from medianode import clock
from medianode.errors import MedianodeError, PeerError, PeerTimeout
from medianode.protocols import stun
from medianode.protocols.sdp.accept import RemoteCandidate
from medianode.protocols.sdp.plan import Candidate, LocalTransport, RemoteTransport
from medianode.rtc import interfaces
from medianode.rtc.controller import Address, IceController
from medianode.rtc.dtls import Identity
from medianode.rtc.handler import PeerHandler
from medianode.rtc.ice import Check, credentials
from medianode.rtc.peer import Peer
from medianode.rtc.udp import DROPPED, Sockaddr, UdpSocket, pack, plain, unpack
from medianode.tasks import TaskSet, guarded

if TYPE_CHECKING:
    from medianode.rtc.endpoint import Endpoint

CONSENTS = 3
"""Requests for consent within the time after which a silent peer is gone; of its default, 15 s, the 5 s of RFC 7675."""
_NOMINATED = Check(b"", accepted=True, nominated=True)


class Called(Peer):
    """Made by `Line.call`. Where it is, its controller finds out; it does not move: one that is reached no more is called anew."""

    __slots__ = ("_controller", "_line", "_timer")

    def __init__(self, line: Line, controller: IceController, remote: RemoteTransport, handler: PeerHandler, identity: Identity) -> None:
        super().__init__(line, remote, handler, identity)
        self._ice.local = controller.local
        self._line = line
        self._controller = controller
        self._timer: asyncio.TimerHandle | None = None

    def turn(self) -> None:
        """Send what is due, and come again when there is more. By the clock, and after whatever came."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.state == "closed":
            return
        now = clock.now()
        controller = self._controller
        for datagram in controller.poll(now):
            self._line.datagrams.send(datagram.data, self._line.sockaddr(datagram.to), [])
        if controller.state == "failed":
            self.close(PeerTimeout("none of the answer's candidates answers our checks: is UDP to it blocked?", code="ice-failed"))
            return
        at = controller.wake(now)
        if at is not None:
            self._timer = asyncio.get_running_loop().call_later(at - now, guarded, "rtc", self.turn)

    def stun(self, data: bytes, source: Sockaddr) -> None:
        """A check of theirs, or what ours are answered."""
        now = clock.now()
        controller = self._controller
        if data[0] == 1:
            taken = controller.response(data, plain(source), now)
        else:
            answer = controller.request(data, plain(source), now)
            taken = answer is not None
            if answer is not None:
                self._line.datagrams.send(answer, source, [])
        if not taken:
            DROPPED.labels("stun-unknown").value += 1
            return
        self.heard = controller.heard
        if controller.selected is not None:
            self._at(controller.selected)
        if controller.state == "checking" or self._timer is None:
            self.turn()

    def _at(self, address: Address) -> None:
        """A pair is nominated: DTLS begins there."""
        sockaddr = self._line.sockaddr(address)
        if sockaddr == self.address:
            return
        self.address, self.sockaddr = sockaddr, pack(self._line.datagrams.family, sockaddr)
        self._begin(_NOMINATED)

    def close(self, error: MedianodeError | None = None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        super().close(error)


class Line:
    """The socket of one call, and what stands in its offer. Raises OSError. `close` when the call is over; it says goodbye first.

    `loopback`: the other side is on this machine.
    """

    def __init__(self, endpoint: Endpoint, *, loopback: bool = False) -> None:
        self._endpoint = endpoint
        self._identity = endpoint.identity
        self._credentials = credentials()
        self._hosts = endpoint.hosts(loopback=loopback)
        self._peer: Called | None = None
        self.datagrams = UdpSocket(endpoint.host, 0)
        self.datagrams.attach(self._media, self._other)
        asyncio.get_running_loop().add_reader(self.datagrams.sock.fileno(), self.datagrams.read)

    @property
    def local(self) -> LocalTransport:
        """For the offer."""
        return LocalTransport(self._credentials, self._identity.fingerprint, self.candidates())

    def call(
        self, remote: RemoteTransport, candidates: tuple[RemoteCandidate, ...], allows: Callable[[str], bool], handler: PeerHandler
    ) -> Peer:
        """Connect, within `limits.rtc_connect_timeout`. `allows(address)`: whether anything may be sent there.

        Raises LimitExceeded (`node-full`), InvalidRequest (no fingerprint that is good), PeerError (`unreachable`: by IPv6 only).
        """
        assert self._peer is None, "a line is for one call"
        if self.datagrams.family == socket.AF_INET:
            candidates = tuple(each for each in candidates if ":" not in each.address)
            if not candidates:
                raise PeerError("the other side has IPv6 addresses only, and rtc.listen is on IPv4 only", code="unreachable")
        consent = self._endpoint.consent_timeout / CONSENTS
        controller = IceController(self._credentials, remote.credentials, candidates, allows=allows, consent=consent)
        peer = Called(self, controller, remote, handler, self._identity)
        self._endpoint.adopt(peer)
        self._peer = peer
        peer.turn()
        return peer

    def close(self) -> None:
        """Idempotent."""
        if self._peer is not None:
            self._peer.close()
        if self.datagrams.sock.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self.datagrams.sock.fileno())
            self.datagrams.close()

    def sockaddr(self, address: Address) -> Sockaddr:
        host, port = address
        if self.datagrams.family == socket.AF_INET:
            return host, port
        return (host if ":" in host else f"::ffff:{host}"), port, 0, 0

    # what comes

    def _media(self, raw: bytes, data: bytes) -> None:
        if self._peer is None or raw != self._peer.sockaddr:
            DROPPED.labels("unknown-address").value += 1
        else:
            self._peer.media(data, clock.now())

    def _other(self, raw: bytes, data: bytes, control: bytes) -> None:
        guarded("rtc", self._sort, raw, data)

    def _sort(self, raw: bytes, data: bytes) -> None:
        """RFC 7983."""
        peer = self._peer
        if peer is None or peer.state == "closed":
            DROPPED.labels("early").value += 1
        elif data[0] > 19:
            if raw == peer.sockaddr:
                peer.dtls(data)
            else:
                DROPPED.labels("unknown-address").value += 1
        elif stun.is_stun(data):
            peer.stun(data, unpack(raw))
        else:
            DROPPED.labels("garbage").value += 1

    # the peer's home

    @property
    def tasks(self) -> TaskSet:
        return self._endpoint.tasks

    def candidates(self, *, loopback: bool = False) -> tuple[Candidate, ...]:
        port = self.datagrams.port
        return interfaces.candidates((host, port, 0) for host in self._hosts)

    def name(self, peer: Peer) -> None:
        """It is the only one here."""

    def forget(self, ufrag: bytes) -> None:
        """Likewise."""

    def expect(self, transaction: bytes, peer: Peer) -> None:
        """Its controller knows."""

    def unexpect(self, transaction: bytes) -> None:
        """Likewise."""

    def claim(self, raw: bytes, peer: Peer) -> bool:
        return True

    def release(self, raw: bytes, peer: Peer) -> None:
        """The socket goes with the call."""

    def settled(self, source: str) -> None:
        """Nobody called us."""

    def gone(self, peer: Peer, paths: list[bytes], cause: str) -> None:
        self._endpoint.gone(peer, [], cause)
