"""Backlog: changes that have come to pass and are not written yet. In order, bounded; what is refused holds up nobody else."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from typing import Generic, TypeVar

from medianode import clock
from medianode.control.ledger import GROUP, LOST
from medianode.errors import StorageError
from medianode.tasks import guard

C = TypeVar("C")

log = logging.getLogger(__name__)


class Backlog(Generic[C]):
    """`write_together(changes, in_doubt)` writes them in one transaction; `in_doubt`: a commit broke, so that they may be written already.

    `bound`: limits.unwritten_facts. Beyond it the oldest are lost, counted and told.
    """

    def __init__(self, what: str, bound: int, write_together: Callable[[Sequence[C], bool], Awaitable[None]]) -> None:
        self._what = what
        self._bound = bound
        self._write_together = write_together
        self._changes: deque[C] = deque()
        self._turn = asyncio.Lock()
        self._in_doubt = False
        self._told_at = 0.0
        self.lost = 0
        """Since the start."""

    def __len__(self) -> int:
        return len(self._changes)

    def add(self, change: C) -> None:
        self._changes.append(change)
        self._trim()

    async def write(self) -> None:
        """What is not written yet, oldest first. Raises StorageError; the rest is then still to be written."""
        async with self._turn:
            while self._changes:
                group = [self._changes.popleft() for _ in range(min(GROUP, len(self._changes)))]
                with ExitStack() as unless_done:
                    unless_done.callback(self._put_back, group)
                    await self._write_group(group)
                    unless_done.pop_all()
                self._in_doubt = False

    async def _write_group(self, group: Sequence[C]) -> None:
        """In one transaction. Where that is refused, or our bug breaks it, one by one: only what cannot be written is lost."""
        refused = await guard(self._what, self._write_together(group, self._in_doubt))
        if isinstance(refused, StorageError) and refused.code != "sealed-wrongly":  # a row that was altered stays so: it holds up nobody
            raise refused
        if refused is not None and len(group) > 1:
            self._in_doubt = True
            for change in group:
                await self._write_group([change])
        elif refused is not None:
            self._lose(f"{type(refused).__name__}: {refused}")

    def _put_back(self, group: Sequence[C]) -> None:
        self._changes.extendleft(reversed(group))
        self._in_doubt = True
        self._trim()

    def _trim(self) -> None:
        while len(self._changes) > self._bound:
            self._changes.popleft()
            self._lose(f"the database is away and limits.unwritten_facts is {self._bound}")

    def _lose(self, why: str) -> None:
        LOST.labels().value += 1
        self.lost += 1
        if clock.now() - self._told_at >= 1.0:
            self._told_at = clock.now()
            log.error("what is to be told of %s is lost: %s", self._what, why)
