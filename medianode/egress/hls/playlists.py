"""Playlist: renders a Window once per state for all players, and lets them wait for what is not there yet."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from medianode import telemetry
from medianode.egress.hls.window import Window
from medianode.errors import InvalidRequest, LimitExceeded, PeerTimeout
from medianode.protocols import hls

AHEAD = 2
"""Segments beyond the newest one that may be waited for (draft-pantos-hls-rfc8216bis 6.2.5.2)."""
LONGEST_WAIT = 8.0
"""Seconds; three target durations are the rule, but players and proxies give up at ten."""

REFUSED = telemetry.counter("medianode_hls_refused_waits_total", "HLS requests not held because too many wait already")


class Waiting:
    """Requests of the node that wait, and their bound (`limits.hls_waiting_requests`)."""

    def __init__(self, bound: int) -> None:
        self.bound = bound
        self.count = 0


class Playlist:
    def __init__(self, window: Window, waiting: Waiting) -> None:
        self.window = window
        self._waiting = waiting
        self._waiters: dict[tuple[int, int | None], list[asyncio.Future[None]]] = {}
        self._rendered: dict[bool, bytes] = {}
        self._bare: dict[bool, bytes] = {}
        window.on_change = self._changed

    def render(self, *, delta: bool = False, query: str = "") -> bytes:
        """The playlist now, `query` (with its `?`) behind every URI."""
        if not query and delta in self._bare:
            return self._bare[delta]
        text = self._rendered.get(delta)
        if text is None:
            text = self._rendered[delta] = self.window.playlist().render(delta=delta).encode()
        body = text.replace(hls.MARK.encode(), query.encode())
        if not query:
            self._bare[delta] = body
        return body

    async def reach(self, msn: int, part: int | None) -> None:
        """Wait until the playlist holds this segment or part, or has ended.

        Raises InvalidRequest when it is too far ahead, PeerTimeout when it does not come in time, LimitExceeded when too many wait.
        """
        window = self.window
        if window.ended or window.has(msn, part):
            return
        if msn > window.last_msn + AHEAD:
            raise InvalidRequest(f"_HLS_msn: expected at most {window.last_msn + AHEAD}, got {msn}")
        if part is not None:
            at = window.open_parts if msn == window.next_msn else 0
            furthest = at + -(-3_000_000 // min(window.part_target or 1_000_000, 1_000_000))
            if part > furthest:
                raise InvalidRequest(f"_HLS_part: expected at most {furthest}, got {part}")
        await self._wait((msn, part), min(3.0 * window.target_duration, LONGEST_WAIT))

    async def started(self, seconds: float) -> None:
        """Wait for the first complete segment. Raises PeerTimeout or LimitExceeded."""
        if not self.window.started and not self.window.ended:
            await self._wait((-1, None), seconds)

    def release(self) -> None:
        """Let all who wait look again: the window is gone, or its source failed."""
        waiters, self._waiters = self._waiters, {}
        for row in waiters.values():
            for future in row:
                if not future.done():
                    future.set_result(None)

    async def _wait(self, key: tuple[int, int | None], seconds: float) -> None:
        if self._waiting.count >= self._waiting.bound:
            REFUSED.labels().value += 1
            raise LimitExceeded(f"{self._waiting.bound} requests wait already", code="node-full")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        timer = loop.call_later(seconds, _expire, future)
        self._waiters.setdefault(key, []).append(future)
        self._waiting.count += 1
        try:
            await future
        finally:
            self._waiting.count -= 1
            timer.cancel()
            row = self._waiters.get(key)
            if row is not None and future in row:
                row.remove(future)
                if not row:
                    del self._waiters[key]

    def _changed(self) -> None:
        self._rendered.clear()
        self._bare.clear()
        if self._waiters:
            self._wake(self.window.has)

    def _wake(self, has: Callable[[int, int | None], bool]) -> None:
        window = self.window
        for key in tuple(self._waiters):
            if window.ended or (window.started if key[0] < 0 else has(*key)):
                for future in self._waiters.pop(key):
                    if not future.done():
                        future.set_result(None)


def _expire(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_exception(PeerTimeout("nothing new came in time", code="not-ready"))
