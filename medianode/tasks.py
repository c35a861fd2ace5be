"""Who owns a task: serve loops, `guard` around sessions, the accept loop. The only create_task in the house."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from medianode import clock, telemetry
from medianode.errors import LimitExceeded, MedianodeError, PeerError, PeerTimeout

log = logging.getLogger("medianode.tasks")
_T = TypeVar("_T")
BUGS = telemetry.counter("medianode_bugs_total", "Exceptions that are our fault, by place", "place")
EARLY = 0.02
raise_bugs = False
"""Tests set this: a bug then also reaches the event loop's exception handler."""


def report_bug(place: str, error: BaseException) -> None:
    """Our fault: traceback, counter. The session it happened in ends; nothing else does."""
    BUGS.labels(place).value += 1
    log.error("bug in %s: %s: %s", place, type(error).__name__, error, exc_info=error)
    if raise_bugs:
        asyncio.get_running_loop().call_exception_handler({"message": f"bug in {place}", "exception": error})


async def guard(place: str, session: Awaitable[Any]) -> BaseException | None:
    """Run one session to its end; return what ended it, None when it ended by itself. The peer's fault is never a traceback."""
    try:
        await session
    except asyncio.CancelledError:
        raise
    except (MedianodeError, TimeoutError, OSError) as e:
        return e
    except Exception as e:  # noqa: BLE001 - the one place where a bug is kept to its session
        report_bug(place, e)
        return e
    return None


def guarded(place: str, step: Callable[..., object], *arguments: Any) -> Exception | None:
    """`guard` for what is called and not awaited: in a callback, or by the clock. Our fault is reported and returned."""
    try:
        step(*arguments)
    except Exception as e:  # noqa: BLE001 - the other place where a bug is kept to its session
        report_bug(place, e)
        return e
    return None


class TaskSet:
    """Sessions of a door: bounded in number, cancelled together. Use as an async context manager."""

    def __init__(self, place: str, bound: int) -> None:
        self._place = place
        self._bound = bound
        self._tasks: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    async def __aenter__(self) -> TaskSet:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.cancel()

    def start(self, session: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run under guard. Raises LimitExceeded when the set is full."""
        if len(self._tasks) >= self._bound:
            session.close()
            raise LimitExceeded(f"{self._place}: {self._bound} sessions already", code="node-full")
        task = asyncio.get_running_loop().create_task(guard(self._place, session))
        self._tasks.add(task)

        def ended(task: asyncio.Task[Any]) -> None:
            self._tasks.discard(task)
            session.close()  # a task that is cancelled before its first step never awaits it, and Python would warn of that

        task.add_done_callback(ended)
        return task

    async def cancel(self) -> None:
        for task in tuple(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(tuple(self._tasks))


@contextlib.asynccontextmanager
async def background(*services: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Services that live as long as the block; a failing one fails the block."""
    async with asyncio.TaskGroup() as group:
        running = [group.create_task(service) for service in services]
        try:
            yield
        finally:
            for task in running:
                task.cancel()


async def whole(work: Coroutine[Any, Any, _T]) -> _T:
    """To its end, though the caller is cancelled meanwhile: CancelledError comes after it. For work that ends soon."""
    task = asyncio.get_running_loop().create_task(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait((task,))
        if not task.cancelled():
            task.exception()  # looked at: nobody is told of it, as the caller is gone
        raise


class Gate:
    """Counts connections, in all and per peer address; refuses over the bounds."""

    def __init__(self, bound: int, per_peer: int) -> None:
        self._bound = bound
        self._per_peer = per_peer
        self._peers: Counter[str] = Counter()
        self.total = 0

    def enter(self, peer: str) -> None:
        """Raises LimitExceeded."""
        if self.total >= self._bound:
            raise LimitExceeded(f"{self.total} connections already", code="too-many-connections")
        if self._peers[peer] >= self._per_peer:
            raise LimitExceeded(f"{self._per_peer} connections from {peer} already", code="too-many-connections-from-peer")
        self.total += 1
        self._peers[peer] += 1

    def leave(self, peer: str) -> None:
        self.total -= 1
        self._peers[peer] -= 1
        if self._peers[peer] <= 0:
            del self._peers[peer]


async def every(seconds: float) -> AsyncIterator[float]:
    """`clock.now()` each time a multiple of `seconds` has passed.

    All who tick by it wake the loop together: on a small machine one wake-up costs more than what most of them do.
    """
    while True:
        await asyncio.sleep(until_next(seconds, clock.now()))
        yield clock.now()


def until_next(seconds: float, now: float) -> float:
    """How long until the next multiple of `seconds`; a timer that ran a little early does not run twice."""
    left = seconds - now % seconds
    return left if left > min(EARLY, seconds / 2) else left + seconds


def listen_tcp(host: str | None, port: int, backlog: int = 1024) -> list[socket.socket]:
    """Listening sockets; all addresses, IPv4 and IPv6, when host is None. Raises OSError (address in use, …)."""
    if host is None and socket.has_dualstack_ipv6():
        with contextlib.suppress(OSError):  # a kernel without IPv6: fall through to IPv4
            return [_prepared(socket.create_server(("::", port), family=socket.AF_INET6, backlog=backlog, dualstack_ipv6=True))]
    family = socket.AF_INET6 if host and ":" in host else socket.AF_INET
    return [_prepared(socket.create_server((host or "0.0.0.0", port), family=family, backlog=backlog))]  # noqa: S104 - the operator's choice


def _prepared(sock: socket.socket) -> socket.socket:
    sock.setblocking(False)
    return sock


async def accept(listener: socket.socket, handle: Callable[[socket.socket, str], None]) -> None:
    """Accept for ever. Out of descriptors: nap 100 ms and go on, so that the sessions we have may end."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            sock, address = await loop.sock_accept(listener)
        except OSError as e:
            if e.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.ECONNABORTED):
                raise
            log.warning("accept: %s; waiting", e)
            await asyncio.sleep(0.1)
            continue
        handle(sock, str(address[0]).removeprefix("::ffff:"))


async def readable(sock: socket.socket, timeout: float) -> bytes:
    """Wait for the first byte and return it without taking it. Raises PeerTimeout, or PeerError when the peer closes first."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()

    def arrived() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(sock.fileno(), arrived)
    try:
        async with asyncio.timeout(timeout):
            await ready
    except TimeoutError:
        raise PeerTimeout(f"no byte in {timeout:g} s", code="handshake-timeout") from None
    finally:
        loop.remove_reader(sock.fileno())
    first = sock.recv(1, socket.MSG_PEEK)
    if not first:
        raise PeerError("closed before the first byte", code="peer-gone")
    return first
