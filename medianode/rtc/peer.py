"""One WebRTC peer: ICE-lite, then DTLS, then SRTP both ways, over UDP or ICE-TCP, wherever it moves."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from typing import Any, Literal, Protocol

from medianode import clock, telemetry
from medianode.errors import LimitExceeded, MedianodeError, PeerError, PeerGone, ProtocolError
from medianode.protocols.sdp.plan import Candidate, Credentials, Fingerprint, LocalTransport, RemoteTransport
from medianode.rtc import dtls
from medianode.rtc.dtls import Established, Identity, Wire
from medianode.rtc.handler import PeerHandler
from medianode.rtc.ice import Check, IceLite
from medianode.rtc.srtp import Keys, Opener, Sealer
from medianode.rtc.tcp import TcpStream
from medianode.rtc.udp import DROPPED, Ancillary, Sockaddr, Source, UdpSocket, plain, text
from medianode.tasks import TaskSet, guarded

MOVES = telemetry.counter("medianode_rtc_moves_total", "Peers that changed their address or transport while connected", "to")

GREETING_PAUSE = 0.05
CHALLENGE_EVERY = 0.25
MAX_PATHS = 8
"""Addresses from which one peer is known; browsers with many interfaces try about as many."""
SILENT = 8.0
"""A pair without a check for so long is given up for one that is alive, nominated or not: a NAT has rebound. RFC 7675 5.1: at most 6 s."""
ROUTE_RECHECK = 30.0

State = Literal["new", "checking", "dtls", "connected", "closed"]


class Home(Protocol):
    """Where peers live: `rtc.endpoint.Endpoint`, or `rtc.dialer.Line` for one that we call."""

    @property
    def datagrams(self) -> UdpSocket: ...
    @property
    def tasks(self) -> TaskSet: ...
    def candidates(self, *, loopback: bool = False) -> tuple[Candidate, ...]: ...
    def name(self, peer: Peer) -> None: ...
    def forget(self, ufrag: bytes) -> None: ...
    def expect(self, transaction: bytes, peer: Peer) -> None: ...
    def unexpect(self, transaction: bytes) -> None: ...
    def claim(self, raw: bytes, peer: Peer) -> bool: ...
    def release(self, raw: bytes, peer: Peer) -> None: ...
    def settled(self, source: str) -> None: ...
    def gone(self, peer: Peer, paths: list[bytes], cause: str) -> None: ...


class Peer:
    """Made by `Endpoint.create`. What may change at any time: `address`, `sockaddr`, `ancillary`, `stream`, `transport`."""

    __slots__ = (
        "__weakref__",
        "_challenge",
        "_checked",
        "_endpoint",
        "_fingerprints",
        "_handler",
        "_handshake",
        "_ice",
        "_identity",
        "_opener",
        "_paths",
        "_role",
        "_routed",
        "_session",
        "_source",
        "_wire",
        "address",
        "ancillary",
        "created",
        "heard",
        "keys_out",
        "moves",
        "received",
        "rtt",
        "sealer",
        "sockaddr",
        "state",
        "stream",
    )

    def __init__(self, endpoint: Home, remote: RemoteTransport, handler: PeerHandler, identity: Identity, source: str = "") -> None:
        self._endpoint = endpoint
        self._handler = handler
        self._source: str | None = source
        """Of whom this is a session that has yet to connect; None once it has."""
        self._identity: Identity | None = identity
        self._fingerprints = dtls.usable(remote.fingerprints)
        self._role: dtls.Role = "client" if remote.setup == "passive" else "server"
        self._ice = IceLite(remote.credentials)
        self._paths: list[bytes] = []
        self._handshake: asyncio.Task[Any] | None = None
        self._wire: Wire | None = None
        self._session: dtls.Session | None = None
        self._opener: Opener | None = None
        self._challenge: tuple[bytes, bytes, float] | None = None
        self._checked = 0.0
        self._routed = 0.0
        self.state: State = "new"
        self.created = clock.now()
        self.heard = 0.0
        """When a valid check or authenticated media last came (RFC 7675 consent)."""
        self.address: Sockaddr = ("::", 0, 0, 0)
        self.sockaddr = b""
        self.ancillary: Ancillary = []
        self.stream: TcpStream | None = None
        self.sealer: Sealer | None = None
        self.keys_out: Keys | None = None
        self.rtt = 0.0
        """Seconds; of the DTLS handshake at first, then of whoever hears better (RTCP) and sets it."""
        self.moves = 0
        self.received = 0
        """RTP and RTCP packets that were its own."""

    @property
    def local(self) -> Credentials:
        return self._ice.local

    @property
    def ufrags(self) -> tuple[bytes, ...]:
        return self._ice.ufrags

    @property
    def transport(self) -> Literal["udp", "tcp"]:
        return "udp" if self.stream is None else "tcp"

    @property
    def remote_text(self) -> str:
        """Where it is now; empty before its first check."""
        return "" if self.state == "new" else text(self.stream.address if self.stream is not None else self.address)

    def local_transport(self, *, loopback: bool = False) -> LocalTransport:
        """Our side of the answer: the certificate is the one this peer will be shown."""
        assert self._identity is not None, "local_transport() is for the answer, before the peer connects"
        fingerprint: Fingerprint = self._identity.fingerprint
        return LocalTransport(self._ice.local, fingerprint, self._endpoint.candidates(loopback=loopback))

    # sending

    def send(self, packet: bytes) -> None:
        """A sealed packet, or raw bytes, on whichever path; a full socket drops it (counted), a closed peer sends nothing."""
        if self.state == "closed":
            return
        if self.stream is not None:
            self.stream.send([packet])
        else:
            self._endpoint.datagrams.send(packet, self.address, self.ancillary)

    def send_rtcp(self, compound: bytes) -> None:
        """Seal and send. Never raises; before the peer is connected, or after, it does nothing."""
        if self.sealer is not None and self.state == "connected":
            self.send(self.sealer.protect_rtcp(compound))

    # what comes

    def media(self, data: bytes, now: float) -> None:
        """SRTP or SRTCP (RFC 5761: told apart by the second byte)."""
        opener = self._opener
        if opener is None or len(data) < 12:
            DROPPED.labels("early" if opener is None else "garbage").value += 1
            return
        rtcp = 192 <= data[1] <= 223
        try:
            packet = opener.unprotect_rtcp(data) if rtcp else opener.unprotect(data)
        except ProtocolError:  # forged, or seen before
            DROPPED.labels("srtcp" if rtcp else "srtp").value += 1
            return
        self.heard = now
        self.received += 1
        if self.received == 1:
            self._settle()
        self._tell(self._handler.rtcp if rtcp else self._handler.rtp, packet, now)

    def dtls(self, data: bytes) -> None:
        if self._session is not None:
            if not self._session.receive(data):
                self.close(PeerGone("the peer closed the session"))
        elif self._wire is not None:
            self._wire.deliver(data)
        else:
            DROPPED.labels("early").value += 1

    def check(self, data: bytes, ufrag: bytes, source: Source) -> None:
        """A binding request by UDP."""
        check = self._ice.request(data, ufrag, plain(source.address))
        if check is None:
            DROPPED.labels("stun-integrity").value += 1
            return
        raw = source.raw
        if check.accepted and not self._endpoint.claim(raw, self):
            DROPPED.labels("address-taken").value += 1
            return
        self._endpoint.datagrams.send(check.answer, source.address, source.ancillary)
        if not check.accepted:
            return
        now = self._valid(check)
        if raw not in self._paths:
            self._paths.append(raw)
            if len(self._paths) > MAX_PATHS:
                self._endpoint.release(self._paths.pop(1 if self._paths[0] == self.sockaddr else 0), self)
        if self.stream is None and raw == self.sockaddr:
            self._checked = now
            if now - self._routed > ROUTE_RECHECK:
                self._route(source, now)
        elif self._moves(check, now):
            if self.state == "connected":
                self._challenge_at(source, now)
                return
            self._go(source, now)
        self._begin(check)

    def _challenge_at(self, source: Source, now: float) -> None:
        """The check is signed, but its source may be made up: media goes there once a check of ours was answered from there."""
        if self._challenge is not None:
            transaction, raw, at = self._challenge
            if raw == source.raw and now - at < CHALLENGE_EVERY:
                return
            self._endpoint.unexpect(transaction)
        transaction = secrets.token_bytes(12)
        self._challenge = transaction, source.raw, now
        self._endpoint.expect(transaction, self)
        self._endpoint.datagrams.send(self._ice.challenge(transaction), source.address, source.ancillary)

    def answered(self, data: bytes, source: Source) -> None:
        """The answer to our check."""
        challenge = self._challenge
        if challenge is None or challenge[1] != source.raw or self.state != "connected" or not self._ice.met(data):
            DROPPED.labels("stun-unknown").value += 1
            return
        self._challenge = None
        self._endpoint.unexpect(challenge[0])
        self._go(source, clock.now())

    def _go(self, source: Source, now: float) -> None:
        self._moved("udp")
        self.address, self.sockaddr, self.stream = source.address, source.raw, None
        self._checked = now
        self._route(source, now)

    def check_framed(self, data: bytes, ufrag: bytes, stream: TcpStream) -> None:
        """A binding request by TCP."""
        check = self._ice.request(data, ufrag, plain(stream.address))
        if check is None:
            DROPPED.labels("stun-integrity").value += 1
            stream.close("stun-integrity")
            return
        stream.send([check.answer])
        if not check.accepted:
            return
        now = self._valid(check)
        stream.peer = self
        if stream is self.stream:
            self._checked = now
        elif self._moves(check, now):
            self._moved("tcp")
            if self.stream is not None:
                self.stream.close("moved")
            # `address` stays: until the fan-out has noticed its rows go on to where they went
            self.stream, self.sockaddr = stream, b""
            self._checked = now
        self._begin(check)

    def _valid(self, check: Check) -> float:
        if check.retired:
            self._endpoint.forget(check.retired)
        self.heard = now = clock.now()
        return now

    def _moves(self, check: Check, now: float) -> bool:
        if self.state in ("new", "checking"):
            return check.nominated or self.state == "new"
        broken = self.stream is not None and self.stream.closed
        return check.nominated or broken or now - self._checked > SILENT

    def _moved(self, to: Literal["udp", "tcp"]) -> None:
        if self.state == "connected":
            self.moves += 1
            MOVES.labels(to).value += 1

    def _route(self, source: Source, now: float) -> None:
        self.ancillary = self._endpoint.datagrams.needed(source)
        self._routed = now

    def _begin(self, check: Check) -> None:
        """DTLS starts with the first pair: a peer may nominate and greet in either order."""
        if self.state == "new":
            self.state = "checking"
        if self._wire is None and self._session is None:
            self._wire = Wire(self.send)
            try:
                self._handshake = self._endpoint.tasks.start(self._shake(self._wire))
            except LimitExceeded as e:
                self.close(e)
                return
        if check.nominated and self.state == "checking":
            self.state = "dtls"

    # life

    async def _shake(self, wire: Wire) -> None:
        assert self._identity is not None
        if self._role == "client":
            # FFmpeg throws away what comes before it has read our answer to its check, and would be greeted again a second later
            await asyncio.sleep(GREETING_PAUSE)
        try:
            made = await dtls.DRIVER.shake(self._identity, self._role, self._fingerprints, wire)
        except PeerError as e:
            self.close(e)
            return
        self._connected(made, wire)

    def _connected(self, made: Established, wire: Wire) -> None:
        if self._is_closed():
            return
        self._session = made.session
        self.keys_out = made.outbound
        self.sealer, self._opener = Sealer(made.outbound), Opener(made.inbound)
        self.rtt = wire.rtt
        self.state = "connected"
        self.heard = clock.now()
        self._identity = self._wire = self._handshake = None
        self._count_out()
        self._fingerprints = ()
        for datagram in wire.rest():
            self.dtls(datagram)
        if self._is_closed():  # the rest was a goodbye
            return
        self._tell(self._handler.connected)

    def _settle(self) -> None:
        """A peer whose media opens has our last DTLS flight, and what was kept for repeating it may go."""
        if self._session is not None:
            self._session.settle()

    def _count_out(self) -> None:
        """No longer one that has yet to connect."""
        source, self._source = self._source, None
        if source is not None:
            self._endpoint.settled(source)

    def _is_closed(self) -> bool:
        return self.state == "closed"

    def restart(self, remote: Credentials) -> Credentials:
        """ICE restart: new credentials of ours. The old pair works on until one of the new is nominated."""
        for ufrag in self._ice.ufrags:
            self._endpoint.forget(ufrag)
        local = self._ice.restart(remote)
        self._endpoint.name(self)
        return local

    def close(self, error: MedianodeError | None = None) -> None:
        """Say goodbye (close_notify) and be gone; the handler hears of it last. A second call does nothing."""
        if self.state == "closed":
            return
        if self._session is not None:
            self._session.close()
        task, self._handshake = self._handshake, None
        self.state = "closed"
        self._count_out()
        if task is not None and task is not asyncio.current_task():
            task.cancel()
        if self.stream is not None:
            self.stream.close("peer-closed")
        if self._challenge is not None:
            self._endpoint.unexpect(self._challenge[0])
        self._endpoint.gone(self, self._paths, "closed" if error is None else error.code)
        self._session = self._wire = self._opener = self.sealer = None
        handler = self._handler
        del self._handler  # it mostly holds this peer, and a ring of both would wait for the collector
        guarded("rtc-peer", handler.closed, error)

    def _tell(self, method: Callable[..., None], *arguments: object) -> None:
        """A bug of the handler's ends this peer and nobody else."""
        error = guarded("rtc-peer", method, *arguments)
        if error is not None:
            self.close(MedianodeError(f"internal error: {type(error).__name__}"))
