"""Workers: threads for pictures that are made when somebody asks; a bounded number waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from medianode.errors import LimitExceeded

T = TypeVar("T")


class Workers:
    """`name`: of what they make, in the plural. `bound`: of what is at work or waits for a thread."""

    def __init__(self, name: str, threads: int, bound: int) -> None:
        self.bound = bound
        self._name = name
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._pending = 0

    async def run(self, work: Callable[..., T], *arguments: object) -> T:
        """In a thread. Raises LimitExceeded `node-full`, and what the work raises."""
        if self._pending >= self.bound:
            raise LimitExceeded(f"{self.bound} {self._name} are waiting already", code="node-full")
        done = asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)
        self._pending += 1
        done.add_done_callback(self._done)
        return await asyncio.shield(done)

    def _done(self, done: asyncio.Future[Any]) -> None:
        """Counted here and not where the caller waits: one that gave up leaves its work in the thread."""
        self._pending -= 1
        if not done.cancelled():
            done.exception()
