"""A UDP relay that loses what it is told to, by a seed: a bad network where the kernel has no netem.

It rewrites nothing: one socket to the clients, one per client to the target, as a NAT would.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

DELAY = 0.02
"""Seconds, each way: a round trip that a retransmission has to beat."""
DTLS = range(20, 64)
"""First bytes (RFC 7983)."""
AT_ONCE = 64


class Lossy:
    """`loss`: share of the datagrams that is lost, each way; may be set at any time. DTLS is spared: its first timer is a second, and what
    is looked at here is media. `lost` and `passed` count both ways.
    """

    def __init__(self, target: tuple[str, int], loss: float, *, delay: float = DELAY, seed: int = 1) -> None:
        self.target = target
        self.loss = loss
        self.delay = delay
        self.lost = 0
        self.passed = 0
        self._random = random.Random(seed)
        self._timers: dict[int, asyncio.TimerHandle] = {}
        self._count = 0
        self._inside: dict[Any, socket.socket] = {}
        self._outside = self._open()
        self._outside.bind(("127.0.0.1", 0))
        asyncio.get_running_loop().add_reader(self._outside, self._from_clients)

    @property
    def port(self) -> int:
        port: int = self._outside.getsockname()[1]
        return port

    def close(self) -> None:
        for timer in self._timers.values():
            timer.cancel()
        for sock in (self._outside, *self._inside.values()):
            asyncio.get_running_loop().remove_reader(sock)
            sock.close()

    @staticmethod
    def _open() -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2 << 20)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 << 20)
        sock.setblocking(False)
        return sock

    def _from_clients(self) -> None:
        for data, client in _waiting(self._outside):
            inside = self._inside.get(client)
            if inside is None:
                inside = self._inside[client] = self._open()
                inside.connect(self.target)
                asyncio.get_running_loop().add_reader(inside, self._from_target, inside, client)
            self._pass(inside, data, self.target)

    def _from_target(self, inside: socket.socket, client: Any) -> None:
        for data, _ in _waiting(inside):
            self._pass(self._outside, data, client)

    def _pass(self, sock: socket.socket, data: bytes, to: Any) -> None:
        if self._random.random() < self.loss and data[0] not in DTLS:
            self.lost += 1
            return
        self.passed += 1
        self._count += 1
        self._timers[self._count] = asyncio.get_running_loop().call_later(self.delay, self._send, self._count, sock, data, to)

    def _send(self, number: int, sock: socket.socket, data: bytes, to: Any) -> None:
        del self._timers[number]
        with contextlib.suppress(OSError):  # refused by a client that has gone, or a full buffer: lost, as networks do
            sock.sendto(data, to)


def _waiting(sock: socket.socket) -> Iterator[tuple[bytes, Any]]:
    for _ in range(AT_ONCE):
        try:
            data, sender = sock.recvfrom(65_536)
        except OSError:
            return
        if data:
            yield data, sender


@asynccontextmanager
async def lossy(port: int, loss: float, *, seed: int = 1) -> AsyncIterator[Lossy]:
    """A relay to this UDP port of loopback, as long as the block runs."""
    relay = Lossy(("127.0.0.1", port), loss, seed=seed)
    try:
        yield relay
    finally:
        relay.close()
