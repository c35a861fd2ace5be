"""One timer for all broadcasts of a node: a wheel that visits each viewer once a second, and short ticks while anything is paced."""

from __future__ import annotations

import asyncio
from typing import Protocol

from medianode import clock

SLOTS = 20
"""Slots of the wheel, which turns once a second: a twentieth of all viewers is visited every 50 ms."""
SLACK = 0.15
"""Seconds between two looks of the wheel at the clock while no media wakes the loop."""
TICK = 0.004
"""Seconds between two looks at what is paced, at least."""
MIN_RATE = 1_000_000.0
"""Bytes per second (8 Mbit/s) under which nothing is paced."""
MIN_BURST = 28_800.0
MAX_BURST = 65_536.0


class Visited(Protocol):
    slot: int

    def visit(self, now: float) -> None:
        """Once a second."""


class Paced(Protocol):
    def pump(self, now: float) -> bool:
        """Send what is due; False when nothing waits any more."""

    @property
    def wait(self) -> float:
        """Seconds until there is something to send again."""


class Wheel:
    """Runs only while it has something to do; `close` stops it."""

    def __init__(self) -> None:
        self._slots: list[dict[Visited, None]] = [{} for _ in range(SLOTS)]
        self._members = 0
        self._paced: dict[Paced, None] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._tick: asyncio.TimerHandle | None = None
        self._tick_due = 0.0
        self._position = 0
        self._due = 0.0
        self.lateness: float = 0.0
        """Seconds by which the last turn came late."""

    def add(self, member: Visited) -> None:
        """Visit it from now on; in the emptiest slot, so that reports are spread over the second."""
        member.slot = min(range(SLOTS), key=lambda i: len(self._slots[i]))
        self._slots[member.slot][member] = None
        self._members += 1
        if self._timer is None:
            self._due = clock.now() + 1.0 / SLOTS
            self._schedule()

    def remove(self, member: Visited) -> None:
        """Idempotent."""
        if self._slots[member.slot].pop(member, False) is None:
            self._members -= 1

    def pace(self, member: Paced) -> None:
        """Pump it every tick until it says that nothing waits."""
        self._paced[member] = None
        self._plan(member.wait, clock.now())

    def unpace(self, member: Paced) -> None:
        self._paced.pop(member, None)

    def close(self) -> None:
        for handle in (self._timer, self._tick):
            if handle is not None:
                handle.cancel()
        self._timer = self._tick = None
        self._paced.clear()
        for slot in self._slots:
            slot.clear()
        self._members = 0

    def turn(self, now: float) -> None:
        """Visit whoever is due. Also called where the loop is awake with media anyhow, for a wake-up costs more than the visits."""
        if now < self._due or not self._members:
            return
        self.lateness = now - self._due
        slots = min(SLOTS, 1 + int(self.lateness * SLOTS))
        self._due = max(self._due + slots / SLOTS, now - 1.0)  # a loop that stood still visits nobody twice
        for _ in range(slots):
            self._position = (self._position + 1) % SLOTS
            for member in tuple(self._slots[self._position]):
                member.visit(now)

    def _schedule(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(SLACK, self._wake)

    def _wake(self) -> None:
        self._timer = None
        self.turn(clock.now())
        if self._members:
            self._schedule()

    def _pump(self) -> None:
        self._tick = None
        now = clock.now()
        for member in tuple(self._paced):
            if not member.pump(now):
                self._paced.pop(member, None)
        if self._paced:
            self._plan(min([member.wait for member in self._paced]), now)

    def _plan(self, wait: float, now: float) -> None:
        """Tick when the first of them may send, and not before: to wake up for nothing costs as much as to send."""
        due = now + max(TICK, wait)
        if self._tick is not None:
            if due >= self._tick_due:
                return
            self._tick.cancel()
        self._tick_due = due
        self._tick = asyncio.get_running_loop().call_later(due - now, self._pump)


class Budget:
    """A token bucket of bytes that may go into debt by the one run that empties it. Refilled at `rate` bytes a second."""

    __slots__ = ("_at", "_level", "burst", "rate")

    def __init__(self, rate: float = MIN_RATE, burst: float = MIN_BURST) -> None:
        self.rate = rate
        self.burst = burst
        self._level = burst
        self._at = 0.0

    def open(self, now: float) -> bool:
        """Whether something may be sent now."""
        if now > self._at:
            self._level = min(self.burst, self._level + (now - self._at) * self.rate)
            self._at = now
        return self._level > 0

    @property
    def wait(self) -> float:
        """Seconds from the last look until it opens."""
        return -self._level / self.rate if self._level < 0 else 0.0

    def take(self, nbytes: int) -> None:
        self._level -= nbytes


class Rate:
    """Bytes per second of a stream, over the last second or two."""

    __slots__ = ("_at", "_nbytes", "value")

    def __init__(self) -> None:
        self.value = 0.0
        self._at = 0.0
        self._nbytes = 0

    def add(self, nbytes: int, now: float) -> bool:
        """True where `value` was renewed, about twice a second."""
        self._nbytes += nbytes
        passed = now - self._at
        if passed < 0.5:
            return False
        if passed < 5.0:
            fresh = self._nbytes / passed
            # rises at once, falls slowly: key frames must not be paced at the rate of a still picture
            self.value = max(fresh, 0.75 * self.value + 0.25 * fresh)
        self._at, self._nbytes = now, 0
        return True
