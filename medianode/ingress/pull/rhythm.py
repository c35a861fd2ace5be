"""Rhythm: all sources are read on one beat. A wake-up of the loop costs more than what most reads do, so twenty cameras share one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from medianode import clock
from medianode.tasks import guarded, until_next


class Rhythm:
    """`interval` seconds. Ticks only while somebody is in it."""

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._members: dict[Callable[[float], None], None] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._members)

    def join(self, member: Callable[[float], None]) -> Callable[[], None]:
        """Call `member(now)` on every beat, until the callable that is returned is called. One that raises is reported, and left out."""
        self._members[member] = None
        if self._timer is None:
            self._schedule()
        return lambda: self._members.pop(member, None)

    def _schedule(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(until_next(self._interval, clock.now()), self._beat)

    def _beat(self) -> None:
        self._timer = None
        now = clock.now()
        for member in tuple(self._members):
            if member in self._members and guarded("pull", member, now) is not None:
                self._members.pop(member, None)
        if self._members:
            self._schedule()
