"""Rhythm: all sources are read on one beat. A wake-up of the loop costs more than what most reads do, so twenty cameras share one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from medianode import clock
from medianode.tasks import guarded, until_next

LONG = 0.25
"""Of the interval: who computes longer on one beat rests afterwards."""
REST = 4.0
"""As long as it computed, so many times: a source that floods has a fifth of the loop at most, and TCP slows it down."""


class Rhythm:
    """`interval` seconds. Ticks only while somebody is in it."""

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._members: dict[Callable[[float], None], float] = {}
        """Until when each rests."""
        self._timer: asyncio.TimerHandle | None = None

    def join(self, member: Callable[[float], None]) -> Callable[[], None]:
        """Call `member(now)` on every beat, until the callable that is returned is called. One that raises is reported, and left out."""
        self._members[member] = 0.0
        if self._timer is None:
            self._schedule()

        def leave() -> None:
            self._members.pop(member, None)

        return leave

    def _schedule(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(until_next(self._interval, clock.now()), self._beat)

    def _beat(self) -> None:
        self._timer = None
        now = clock.now()
        for member, rests_until in tuple(self._members.items()):
            if member not in self._members or rests_until > now:
                continue
            # not by the clock: who was only kept waiting by others has not computed
            began = clock.thread_seconds()
            if guarded("pull", member, now) is not None:
                self._members.pop(member, None)
            elif (took := clock.thread_seconds() - began) > self._interval * LONG and member in self._members:
                self._members[member] = now + took * (1 + REST)
        if self._members:
            self._schedule()
