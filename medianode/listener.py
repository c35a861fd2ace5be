"""The HTTP listener: aiohttp behind our own accept loop, which bounds silent and slow connections and speaks TLS on the same port.

aiohttp by itself lets a connection that never sends a request stay for ever; ten thousand of those must not cost others anything.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from dataclasses import dataclass
from typing import cast

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.typedefs import Handler, Middleware

from medianode import clock, telemetry
from medianode.config import Limits
from medianode.errors import PeerError
from medianode.tasks import Gate, TaskSet, accept, every, readable, report_bug

log = logging.getLogger("medianode.http")
REFUSED = telemetry.counter(
    "medianode_http_refused_total", "HTTP connections closed before a request, and what was no request, by cause", "cause"
)
REQUESTS = telemetry.counter("medianode_http_requests_total", "HTTP requests by status class", "status")
KEEP_ALIVE = 75.0
TICK = 2.0
_TLS_HANDSHAKE = b"\x16"


@dataclass(slots=True, eq=False)
class _Connection:
    transport: asyncio.Transport
    since: float
    running: int = 0
    served: int = 0


class HttpListener:
    """`serve(app, listeners)` runs until cancelled; `middleware` must be the app's first."""

    def __init__(self, limits: Limits, tls: ssl.SSLContext | None) -> None:
        self._limits = limits
        self._tls = tls
        self._gate = Gate(limits.tcp_connections, limits.tcp_connections_per_peer)
        self._connections: dict[asyncio.BaseTransport, _Connection] = {}
        self._tasks = TaskSet("http-accept", limits.tcp_connections * 2)
        self.middleware: Middleware = self._make_middleware()
        telemetry.gauge("medianode_http_connections", "Open HTTP connections", read=lambda: [((), self._gate.total)])

    async def serve(self, app: web.Application, listeners: list[socket.socket]) -> None:
        runner = web.AppRunner(
            app,
            access_log=None,
            logger=_server_log(),
            keepalive_timeout=KEEP_ALIVE,
            max_line_size=self._limits.http_header_bytes,
            max_field_size=self._limits.http_header_bytes,
            handler_cancellation=True,
            shutdown_timeout=self._limits.shutdown_grace / 2,
        )
        await runner.setup()
        try:
            async with self._tasks, asyncio.TaskGroup() as group:
                for listener in listeners:
                    group.create_task(accept(listener, lambda sock, peer: self._arrived(runner, sock, peer)))
                group.create_task(self._tick())
        finally:
            await runner.cleanup()

    def _arrived(self, runner: web.AppRunner, sock: socket.socket, peer: str) -> None:
        try:
            self._gate.enter(peer)
        except PeerError as e:
            REFUSED.labels(e.code).value += 1
            sock.close()
            return
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._tasks.start(self._connection(runner, sock, peer))

    async def _connection(self, runner: web.AppRunner, sock: socket.socket, peer: str) -> None:
        adopted = False
        try:
            timeout = self._limits.handshake_timeout
            secure = await readable(sock, timeout) == _TLS_HANDSHAKE and self._tls is not None
            assert runner.server is not None
            loop = asyncio.get_running_loop()
            gone = loop.create_future()
            watched = _Watched(runner.server(), gone)
            # with TLS uvloop returns its own protocol, not ours
            await loop.connect_accepted_socket(
                lambda: watched,
                sock,
                ssl=self._tls if secure else None,
                ssl_handshake_timeout=timeout if secure else None,
            )
            adopted = True
            transport = watched.transport
            assert transport is not None
            self._connections[transport] = _Connection(transport, clock.now())
            try:
                await gone
            finally:
                self._connections.pop(transport, None)
                if not transport.is_closing():
                    transport.abort()
        except (PeerError, OSError, ssl.SSLError, TimeoutError) as e:
            REFUSED.labels(e.code if isinstance(e, PeerError) else "tls-failed").value += 1
        finally:
            if not adopted:
                sock.close()
            self._gate.leave(peer)

    def _make_middleware(self) -> Middleware:
        @web.middleware
        async def watch(request: web.Request, handler: Handler) -> web.StreamResponse:
            transport = request.transport
            connection = self._connections.get(transport) if transport is not None else None
            if connection is None:
                return await handler(request)
            connection.running += 1
            try:
                response = await handler(request)
                REQUESTS.labels(f"{response.status // 100}xx").value += 1
                return response
            finally:
                connection.running -= 1
                connection.served += 1
                connection.since = clock.now()

        return watch

    async def _tick(self) -> None:
        """Connections in which no request runs: the first one must come within the handshake's time, the next ones within keep-alive."""
        async for now in every(TICK):
            self._put_out(now)

    def _put_out(self, now: float) -> None:
        """Not in the loop above, whose variables live on: the last connection would be kept."""
        for connection in tuple(self._connections.values()):
            allowed = KEEP_ALIVE + TICK if connection.served else self._limits.handshake_timeout
            if not connection.running and now - connection.since > allowed:
                REFUSED.labels("slow-request").value += 1
                connection.transport.abort()


def _server_log() -> logging.Logger:
    """What aiohttp would log of failed requests. A stranger's bytes (a key among them) are not printed; a handler's bug is."""
    server = logging.getLogger("medianode.http.server")
    server.setLevel(logging.DEBUG)  # aiohttp tells of some bad requests there: counted, never printed
    server.addFilter(_sort_out)  # the same function twice is once
    return server


def _sort_out(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, HttpProcessingError):
        REFUSED.labels("bad-request").value += 1
        return False
    if isinstance(error, OSError):  # the client left while its answer was written
        return False
    if error is not None:
        report_bug("http", error)
        return False
    return record.levelno > logging.DEBUG


class _Watched(asyncio.Protocol):
    """aiohttp's protocol, and a future that tells when its connection is gone.

    Its methods are set before the transport sees it: uvloop looks them up once.
    """

    def __init__(self, inner: asyncio.Protocol, gone: asyncio.Future[None]) -> None:
        self._inner = inner
        self._gone = gone
        self.transport: asyncio.Transport | None = None
        self.data_received = inner.data_received  # type: ignore[method-assign]
        self.eof_received = inner.eof_received  # type: ignore[method-assign]
        self.pause_writing = inner.pause_writing  # type: ignore[method-assign]
        self.resume_writing = inner.resume_writing  # type: ignore[method-assign]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's does not inherit from asyncio's
        self._inner.connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._gone.done():
            self._gone.set_result(None)
        self._inner.connection_lost(exc)
