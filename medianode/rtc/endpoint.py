"""The node's WebRTC port: one UDP socket and one TCP port for all peers, and who is who on them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections import Counter

from medianode import clock, telemetry
from medianode.auth import network
from medianode.config import Limits, Rtc, split_listen
from medianode.errors import LimitExceeded, PeerTimeout, TooManyRequests
from medianode.protocols import stun
from medianode.protocols.sdp.plan import Candidate, Fingerprint, RemoteTransport
from medianode.rtc import interfaces, selftest
from medianode.rtc.dtls import Identity
from medianode.rtc.handler import PeerHandler
from medianode.rtc.peer import Peer
from medianode.rtc.tcp import TcpStream, admit
from medianode.rtc.udp import DROPPED, WILDCARDS, UdpSocket, small_buffers
from medianode.tasks import Gate, TaskSet, accept, every, guarded, listen_tcp

log = logging.getLogger("medianode.rtc")
ENDED = telemetry.counter("medianode_rtc_peers_ended_total", "WebRTC peers that are gone, by cause", "cause")

_GARBAGE = DROPPED.labels("garbage")
_UNKNOWN = DROPPED.labels("unknown-address")
KEPT = 32
"""One place in so many is kept for publishers."""
BINDING_SUCCESS = b"\x01\x01"
TICK = 1.0
STALL = 2.0
"""Seconds of a stopped loop, or machine, after which nobody is told to have been silent."""
ADDRESSES_AGE = 10.0
"""Seconds for which the host's addresses are believed."""


def viewer_places(limits: Limits) -> int:
    """Of `limits.rtc_peers`; the rest is for publishers: where viewing is public anybody can fill these by asking, and never connect."""
    return limits.rtc_peers - limits.rtc_peers // KEPT


class Endpoint:
    """`open()` binds (raises OSError), `serve()` runs until cancelled and closes all. In between `create` makes peers."""

    def __init__(self, config: Rtc, limits: Limits) -> None:
        self._config = config
        self._limits = limits
        self._public = interfaces.public(config.public_addresses)
        self._identity = Identity()
        self._socket: UdpSocket | None = None
        self._listeners: list[socket.socket] = []
        self._gate = Gate(limits.tcp_connections, limits.tcp_connections_per_peer)
        self._streams: dict[TcpStream, str] = {}
        self._by_ufrag: dict[bytes, Peer] = {}
        self._by_address: dict[bytes, Peer] = {}
        self._peers: dict[Peer, None] = {}
        self._connecting: Counter[str] = Counter()
        self._challenged: dict[bytes, Peer] = {}
        self._addresses: tuple[float, tuple[interfaces.Address, ...]] | None = None
        self.tasks = TaskSet("rtc-dtls", limits.rtc_peers * 2)
        self.tcp_port = 0
        self.running = False
        """Serving: the self-test is over and datagrams are taken."""
        telemetry.gauge("medianode_rtc_peers", "WebRTC peers by state and transport", "state", "transport", read=self._count)
        telemetry.gauge("medianode_rtc_tcp_connections", "Open ICE-TCP connections", read=lambda: [((), self._gate.total)])
        telemetry.gauge("medianode_rtc_received_datagrams", "Datagrams taken from the UDP socket", read=lambda: self._counted("received"))
        telemetry.gauge(
            "medianode_rtc_kernel_drops", "Datagrams that found our receive buffer full", read=lambda: self._counted("kernel_drops")
        )

    def __len__(self) -> int:
        return len(self._peers)

    def open(self) -> None:
        """Bind both ports. Raises OSError when one is taken."""
        if self._socket is not None:
            return
        with contextlib.ExitStack() as undo:
            undo.callback(self.shut)
            self._socket = UdpSocket(*split_listen(self._config.listen, "rtc.listen"))
            if self._config.tcp_listen:
                self._listeners = listen_tcp(*split_listen(self._config.tcp_listen, "rtc.tcp_listen"))
                self.tcp_port = int(self._listeners[0].getsockname()[1])
            undo.pop_all()
        for key, size in small_buffers(self._socket.buffers):
            log.warning("%s allows %d bytes; bursts of many viewers want %d: sysctl -w %s=8388608", key, size, 8 << 20, key)

    def shut(self) -> None:
        """Give the ports back. `serve()` does it at its end."""
        for sock in self._listeners:
            sock.close()
        self._listeners = []
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    @property
    def datagrams(self) -> UdpSocket:
        assert self._socket is not None, "Endpoint.open() comes first"
        return self._socket

    @property
    def udp(self) -> socket.socket:
        return self.datagrams.sock

    @property
    def udp_port(self) -> int:
        return self.datagrams.port

    @property
    def fingerprint(self) -> Fingerprint:
        """Of the certificate that the next peer will be shown; `Peer.local_transport` has a peer's own."""
        return self._current().fingerprint

    @property
    def identity(self) -> Identity:
        """Of the next peer, also of one that we call (`rtc.dialer`)."""
        return self._current()

    @property
    def host(self) -> str | None:
        """That `rtc.listen` is bound to; None: all."""
        return split_listen(self._config.listen, "rtc.listen")[0]

    @property
    def consent_timeout(self) -> float:
        """Seconds of silence after which a peer is gone."""
        return self._config.consent_timeout

    def hosts(self, *, loopback: bool = False) -> list[str]:
        """The addresses that this host is reached by: its own, then the public ones."""
        return list(dict.fromkeys([*self._hosts(self._config.listen, loopback, [self.udp]), *(host for host, _ in self._public)]))

    def _current(self) -> Identity:
        if not self._identity.fresh:
            self._identity = Identity()
        return self._identity

    def candidates(self, *, loopback: bool = False) -> tuple[Candidate, ...]:
        """For answers: what this host is reached by, then `rtc.public_addresses`. `loopback`: for a client on this machine."""
        udp, tcp = self.udp_port, self.tcp_port
        ports: dict[str, tuple[int, int]] = {}
        for host in self._hosts(self._config.listen, loopback, [self.udp]):
            ports[host] = (udp, 0)
        if tcp:
            for host in self._hosts(self._config.tcp_listen, loopback, self._listeners):
                ports[host] = (ports.get(host, (0, 0))[0], tcp)
        made = [(host, *both) for host, both in ports.items()]
        made += [(host, port or udp, (port or tcp) if tcp else 0) for host, port in self._public]
        return interfaces.candidates(made)

    def _hosts(self, listen: str, loopback: bool, sockets: list[socket.socket]) -> list[str]:
        """Where what listens there is reached: the one host it is bound to, or the interfaces' addresses of its families."""
        host = split_listen(listen)[0]
        if host not in WILDCARDS:
            assert host is not None
            return [host]
        now = clock.now()
        if self._addresses is None or now - self._addresses[0] > ADDRESSES_AGE:
            self._addresses = (now, interfaces.addresses())
        ipv6 = any(sock.family == socket.AF_INET6 for sock in sockets)
        ipv4 = any(sock.family == socket.AF_INET or not sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) for sock in sockets)
        return interfaces.reachable(self._addresses[1], ipv4=ipv4, ipv6=ipv6, loopback=loopback)

    def create(self, remote: RemoteTransport, handler: PeerHandler, source: str = "", *, views: bool = False) -> Peer:
        """A peer that has yet to connect, within `limits.rtc_connect_timeout`. Raises LimitExceeded (`node-full`), InvalidRequest, and
        TooManyRequests where too many of `source` (the client's address) have yet to connect: an offer is cheaply made.

        `views`: it has shown no key, and leaves the last places to those who publish.
        """
        bound = viewer_places(self._limits) if views else self._limits.rtc_peers
        if len(self._peers) >= bound:
            raise LimitExceeded(f"{len(self._peers)} WebRTC peers already", code="node-full")
        source = network(source)
        if self._connecting[source] >= self._limits.rtc_connecting_per_source:
            raise TooManyRequests(f"{self._connecting[source]} WebRTC sessions from this address have yet to connect")
        peer = Peer(self, remote, handler, self._current(), source)
        self._peers[peer] = None
        self._connecting[source] += 1
        self.name(peer)
        return peer

    def adopt(self, peer: Peer) -> None:
        """One that we call: it counts, and is timed, like the others. Raises LimitExceeded (`node-full`)."""
        if len(self._peers) >= self._limits.rtc_peers:
            raise LimitExceeded(f"{len(self._peers)} WebRTC peers already", code="node-full")
        self._peers[peer] = None

    async def serve(self) -> None:
        self.open()
        for misfit in await selftest.run():
            log.warning("self-test: %s", misfit)
        loop = asyncio.get_running_loop()
        self.datagrams.attach(self._media, self._other)
        fd = self.udp.fileno()
        loop.add_reader(fd, self.datagrams.read)
        self.running = True
        try:
            async with self.tasks, asyncio.TaskGroup() as group:
                for listener in self._listeners:
                    group.create_task(accept(listener, self._accepted))
                group.create_task(self._sweep())
        finally:
            self.running = False
            for peer in tuple(self._peers):
                peer.close()
            for stream in tuple(self._streams):
                stream.close("shutdown")
            loop.remove_reader(fd)
            self.shut()

    # what comes

    def _media(self, raw: bytes, data: bytes) -> None:
        peer = self._by_address.get(raw)
        if peer is None:
            _UNKNOWN.value += 1
        else:
            peer.media(data, clock.now())

    def _other(self, raw: bytes, data: bytes, control: bytes) -> None:
        """A bug is kept to its datagram: the next ones of this turn are other peers'."""
        guarded("rtc", self._sort, raw, data, control)

    def _sort(self, raw: bytes, data: bytes, control: bytes) -> None:
        """RFC 7983."""
        if data[0] > 19:
            peer = self._by_address.get(raw)
            if peer is None:
                _UNKNOWN.value += 1
            else:
                peer.dtls(data)
        elif data.startswith(BINDING_SUCCESS):
            challenged = self._challenged.get(data[8:20])
            if challenged is None:
                DROPPED.labels("stun-unknown").value += 1
            else:
                challenged.answered(data, self.datagrams.source(raw, control))
        elif data[0] < 4:
            found = self._asked(data)
            if found is not None:
                found[0].check(data, found[1], self.datagrams.source(raw, control))
        else:
            _GARBAGE.value += 1

    def _asked(self, data: bytes) -> tuple[Peer, bytes] | None:
        """Of a check: whose, and by which of its ufrags. No HMAC yet: floods end here."""
        ufrag = stun.peek_username(data)
        peer = None if ufrag is None else self._by_ufrag.get(ufrag)
        if ufrag is None or peer is None:
            DROPPED.labels("stun-malformed" if ufrag is None else "stun-unknown").value += 1
            return None
        return peer, ufrag

    def framed(self, stream: TcpStream, data: bytes) -> None:
        """One datagram by TCP. The first must be a check of a peer's; a stranger's connection is closed."""
        if guarded("rtc", self._sort_framed, stream, data) is not None:
            stream.close("bug")

    def _sort_framed(self, stream: TcpStream, data: bytes) -> None:
        if data[0] < 4:
            found = self._asked(data)
            if found is not None and stream.peer in (None, found[0]):
                found[0].check_framed(data, found[1], stream)
            elif stream.peer is None:
                stream.close("stranger")
            else:
                DROPPED.labels("stun-another").value += found is not None
        elif not isinstance(stream.peer, Peer):
            _GARBAGE.value += 1
            stream.close("garbage")
        elif data[0] > 127:
            stream.peer.media(data, clock.now())
        elif 19 < data[0] < 64:
            stream.peer.dtls(data)
        else:
            _GARBAGE.value += 1

    def _accepted(self, sock: socket.socket, host: str) -> None:
        stream = admit(sock, host, self._gate, self, self._limits.rtc_tcp_unsent_bytes)
        if stream is not None:
            self._streams[stream] = host

    def stream_closed(self, stream: TcpStream) -> None:
        host = self._streams.pop(stream, None)
        if host is not None:
            self._gate.leave(host)

    # who is who

    def name(self, peer: Peer) -> None:
        """Let it be found by its ufrags."""
        for ufrag in peer.ufrags:
            self._by_ufrag[ufrag] = peer

    def expect(self, transaction: bytes, peer: Peer) -> None:
        """The answer to a check of ours; one per peer at most."""
        self._challenged[transaction] = peer

    def unexpect(self, transaction: bytes) -> None:
        self._challenged.pop(transaction, None)

    def forget(self, ufrag: bytes) -> None:
        self._by_ufrag.pop(ufrag, None)

    def claim(self, raw: bytes, peer: Peer) -> bool:
        """`raw` is this peer's from now on. False while another is alive there: its media must not be taken from it."""
        other = self._by_address.get(raw)
        if other is not None and other is not peer and clock.now() - other.heard < self._config.consent_timeout:
            return False
        self._by_address[raw] = peer
        return True

    def release(self, raw: bytes, peer: Peer) -> None:
        if self._by_address.get(raw) is peer:
            del self._by_address[raw]

    def settled(self, source: str) -> None:
        """A peer of this source has connected, or is gone without."""
        self._connecting[source] -= 1
        if self._connecting[source] <= 0:
            del self._connecting[source]

    def gone(self, peer: Peer, paths: list[bytes], cause: str) -> None:
        for ufrag in peer.ufrags:
            self.forget(ufrag)
        for raw in paths:
            self.release(raw, peer)
        self._peers.pop(peer, None)
        ENDED.labels(cause).value += 1

    # time

    async def _sweep(self) -> None:
        last = clock.now()
        async for now in every(TICK):
            # else it was us who did not listen: what waits in the socket comes first
            if now - last <= TICK + STALL:
                guarded("rtc", self._put_out, now)
            last = now

    def _put_out(self, now: float) -> None:
        """Who is silent. Not in the loop above, whose variables live on: the last peer would be kept, and the stream of another."""
        for peer in tuple(self._peers):
            if peer.state == "connected":
                if now - peer.heard > self._config.consent_timeout:
                    self._timed_out(peer, f"not heard for {self._config.consent_timeout:g} s", "consent-expired")
            elif now - peer.created > self._limits.rtc_connect_timeout:
                self._timed_out(peer, f"not connected in {self._limits.rtc_connect_timeout:g} s ({peer.state})", "rtc-connect-timeout")
        for stream in tuple(self._streams):
            if stream.peer is None:
                if now - stream.since > self._limits.handshake_timeout:
                    stream.close("silent")
            elif isinstance(stream.peer, Peer) and stream.peer.state == "closed":
                stream.close("peer-closed")

    def _timed_out(self, peer: Peer, why: str, code: str) -> None:
        peer.close(PeerTimeout(why, code=code))

    # numbers

    def _count(self) -> list[tuple[tuple[str, ...], float]]:
        counts = Counter((peer.state, peer.transport) for peer in self._peers)
        return [((state, transport), count) for (state, transport), count in counts.items()]

    def _counted(self, what: str) -> list[tuple[tuple[str, ...], float]]:
        return [] if self._socket is None else [((), float(getattr(self._socket, what)))]
