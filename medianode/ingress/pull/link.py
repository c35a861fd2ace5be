"""Link: one TCP connection to a source, with or without TLS, to an address that `outbound` has looked at.

A bare socket and not a transport: while media comes it is read on the Rhythm, some kilobytes at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from types import TracebackType

from medianode.errors import PeerGone
from medianode.outbound import Outbound, Place

READ_BYTES = 1 << 18
READS = 4
"""Reads at most in one beat: 160 Mbit/s."""
MAX_UNSENT = 1 << 18
SHARE = 3.0
"""Seconds that each address of a name has to answer, but for the last, which has as long as it is let."""


class Link:
    """Made by `connect`. A context manager: leaving closes it, without a word."""

    def __init__(self, sock: socket.socket, tls: ssl.SSLContext | None, host: str) -> None:
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._unsent = b""
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = None if tls is None else tls.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        self.address: str = sock.getpeername()[0]

    def __enter__(self) -> Link:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._sock.close()

    async def handshake(self) -> None:
        """TLS, where it is asked for. Raises ssl.SSLError, PeerGone."""
        tls = self._tls
        if tls is None:
            return
        while True:
            try:
                tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                raw = await self._loop.sock_recv(self._sock, READ_BYTES)
                if not raw:
                    raise PeerGone(
                        "the source closed the connection in the TLS handshake: is this its TLS port?", code="tls-failed"
                    ) from None
                self._incoming.write(raw)
            else:
                await self._flush()
                return

    async def send(self, data: bytes) -> None:
        """All of it. Raises OSError."""
        if self._tls is None:
            await self._loop.sock_sendall(self._sock, data)
            return
        self._tls.write(data)
        await self._flush()

    async def receive(self) -> bytes:
        """What is there, waiting for some; empty at the end."""
        while True:
            raw = await self._loop.sock_recv(self._sock, READ_BYTES)
            if self._tls is None or not raw:
                return raw
            self._incoming.write(raw)
            if data := self._decrypted():
                return data

    def poll(self) -> tuple[bytes, bool]:
        """What is there without waiting, and whether that was the last. Raises OSError."""
        chunks: list[bytes] = []
        ended = False
        for _ in range(READS):
            try:
                raw = self._sock.recv(READ_BYTES)
            except BlockingIOError:
                break
            if not raw:
                ended = True
                break
            chunks.append(raw)
            if len(raw) < READ_BYTES // 2:
                break
        raw = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        if self._tls is None or not raw:
            return raw, ended
        self._incoming.write(raw)
        return self._decrypted(), ended

    def write(self, data: bytes) -> None:
        """Give it to the kernel without waiting; what it does not take goes with the next. Raises PeerGone, OSError."""
        if self._tls is not None and data:
            self._tls.write(data)
            data = self._outgoing.read()
        self._unsent += data
        if not self._unsent:
            return
        with contextlib.suppress(BlockingIOError):
            self._unsent = self._unsent[self._sock.send(self._unsent) :]
        if len(self._unsent) > MAX_UNSENT:
            raise PeerGone("the source does not read what it is told", code="peer-not-reading")

    def _decrypted(self) -> bytes:
        assert self._tls is not None
        out: list[bytes] = []
        try:
            while data := self._tls.read(READ_BYTES):
                out.append(data)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            pass  # its end follows on the socket
        return b"".join(out)

    async def _flush(self) -> None:
        if data := self._outgoing.read():
            await self._loop.sock_sendall(self._sock, data)


async def connect(outbound: Outbound, host: str, port: int, *, tls: bool = False) -> Link:
    """Raises Forbidden (`private-address`), PeerError (`no-such-host`), OSError, ssl.SSLError. Waits as long as it takes: to be bounded."""
    place = await outbound.place(host, port)
    with contextlib.ExitStack() as unless_done:
        sock = unless_done.enter_context(await _dial(place))
        link = Link(sock, outbound.trust if tls else None, host)
        await link.handshake()
        unless_done.pop_all()
    return link


async def _dial(place: Place) -> socket.socket:
    """The first address that answers. Raises the last one's OSError."""
    *others, last = place.addresses
    for address in others:
        with contextlib.suppress(OSError):  # TimeoutError is one
            async with asyncio.timeout(SHARE):
                return await _connected(address, place.port)
    return await _connected(last, place.port)


async def _connected(address: str, port: int) -> socket.socket:
    """Raises OSError."""
    with contextlib.ExitStack() as unless_done:
        sock = unless_done.enter_context(socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM))
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().sock_connect(sock, (address, port))
        unless_done.pop_all()
    return sock
