"""A rough path between one client and the node's UDP port: datagrams are lost, doubled and late by seeded draws; and a NAT that rebinds.

Each kind of datagram (RFC 7983) draws by itself in each direction, so that media does not change what happens to a handshake.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, Literal

from medianode import clock
from medianode.protocols.sdp.plan import Candidate, LocalTransport

KindOfDatagram = Literal["stun", "dtls", "media", "other"]
MEDIA: frozenset[KindOfDatagram] = frozenset({"media"})
ALL: frozenset[KindOfDatagram] = frozenset({"stun", "dtls", "media"})
DELAY = 0.01
LATE = 0.05
"""Seconds more that a late datagram takes: many packets overtake it."""
AT_ONCE = 64


def kind_of(data: bytes) -> KindOfDatagram:
    first = data[0] if data else 255
    return "stun" if first < 4 else "dtls" if 20 <= first < 64 else "media" if 128 <= first < 192 else "other"


class Rough:
    """`loss`, `double`, `late`: shares, each way, of the datagrams of `kinds`; may be set at any time. `seen`: what befell how many."""

    def __init__(
        self,
        port: int,
        *,
        seed: int = 1,
        loss: float = 0.0,
        double: float = 0.0,
        late: float = 0.0,
        kinds: frozenset[KindOfDatagram] = MEDIA,
    ) -> None:
        self.loss, self.double, self.late, self.kinds = loss, double, late, kinds
        self.lose_flight = False
        """The client's second flight of DTLS is lost the first time: every datagram of it within half a second."""
        self.seen: Counter[str] = Counter()
        self._flight_at = 0.0
        self._seed = seed
        self._random: dict[tuple[str, KindOfDatagram], random.Random] = {}
        self._target = ("127.0.0.1", port)
        self._client: Any = None
        self._timers: set[asyncio.TimerHandle] = set()
        self._outside = _open()
        self._outside.bind(("127.0.0.1", 0))
        self._inside = _open()
        self._left: list[socket.socket] = []
        loop = asyncio.get_running_loop()
        loop.add_reader(self._outside, self._from_client)
        loop.add_reader(self._inside, self._from_node, self._inside)

    @property
    def port(self) -> int:
        port: int = self._outside.getsockname()[1]
        return port

    def through(self, local: LocalTransport) -> LocalTransport:
        """The node's side, reached by this path only."""
        return replace(local, candidates=(Candidate("127.0.0.1", self.port, "udp", 1, "1"),))

    def rebind(self) -> None:
        """Another source port towards the node from now on; what still comes to the old one is lost."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._inside)
        self._left.append(self._inside)
        self._inside = _open()
        loop.add_reader(self._inside, self._from_node, self._inside)

    def close(self) -> None:
        for timer in self._timers:
            timer.cancel()
        loop = asyncio.get_running_loop()
        for sock in (self._outside, self._inside, *self._left):
            loop.remove_reader(sock)
            sock.close()

    def _from_client(self) -> None:
        for data, client in _waiting(self._outside):
            self._client = client
            self._pass("out", self._inside, data, self._target)

    def _from_node(self, inside: socket.socket) -> None:
        for data, _ in _waiting(inside):
            self._pass("in", self._outside, data, self._client)

    def _pass(self, way: str, sock: socket.socket, data: bytes, to: Any) -> None:
        kind = kind_of(data)
        if self.lose_flight and way == "out" and kind == "dtls" and self._of_second_flight(data):
            self.seen["flight"] += 1
            return
        if kind not in self.kinds:
            self._later(DELAY, sock, data, to)
            return
        draw = self._random.setdefault((way, kind), random.Random(f"{self._seed} {way} {kind}")).random
        lost, doubled, late = draw() < self.loss, draw() < self.double, draw() < self.late
        if lost:
            self.seen["lost"] += 1
            return
        if late:
            self.seen["late"] += 1
        self._later(DELAY + (LATE if late else 0.0), sock, data, to)
        if doubled:
            self.seen["doubled"] += 1
            self._later(DELAY * 2, sock, data, to)

    def _of_second_flight(self, data: bytes) -> bool:
        now = clock.now()
        if data[13:14] == b"\x01":  # ClientHello
            return False
        if not self._flight_at:
            self._flight_at = now
        return now - self._flight_at < 0.5

    def _later(self, delay: float, sock: socket.socket, data: bytes, to: Any) -> None:
        timer: asyncio.TimerHandle

        def send() -> None:
            self._timers.discard(timer)
            with contextlib.suppress(OSError):  # a client that has gone, or a full buffer: lost, as networks do
                sock.sendto(data, to)

        timer = asyncio.get_running_loop().call_later(delay, send)
        self._timers.add(timer)


def _open() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2 << 20)
    sock.setblocking(False)
    return sock


def _waiting(sock: socket.socket) -> Iterator[tuple[bytes, Any]]:
    for _ in range(AT_ONCE):
        try:
            yield sock.recvfrom(65_536)
        except OSError:
            return


@asynccontextmanager
async def rough(port: int, **options: Any) -> AsyncIterator[Rough]:
    """As long as the block."""
    path = Rough(port, **options)
    try:
        yield path
    finally:
        path.close()
