"""What the engine remembers of an endpoint and of the lanes that it has claimed. No IO; instants are of the monotonic clock."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from medianode.store.endpoints import WebhookEndpoint
from medianode.store.lanes import LaneKey, PendingLetter

DOWN = 3
"""Attempts in a row that failed: from then on one lane tries for all."""
LONGEST_PAUSE = 60.0
FORGET = 3600.0
LANES_PER_CONNECTION = 8
"""Claimed ahead: a stream has a few events, and a turn for each of them would be most of the work."""
FIRST_BATCH = 16
LARGEST_BATCH = 256


@dataclass(slots=True, eq=False)
class Outlet:
    """An endpoint in use. `failing`: attempts that failed since one went well. `back`: it was down, and one has gone well.

    `batch`: letters of a lane to read at once: what it takes in about a second, for what is in memory cannot be called off.
    """

    endpoint: WebhookEndpoint
    connections: asyncio.Semaphore
    sending: int = 0
    batch: int = FIRST_BATCH
    lanes: dict[str, Lane] = field(default_factory=dict)
    failing: int = 0
    pause: float = 0.0
    pause_until: float = 0.0
    back: bool = False

    @property
    def down(self) -> bool:
        return self.failing >= DOWN

    def may_send(self, now: float) -> bool:
        """While it is down one tries for all, and after a pause only."""
        return now >= self.pause_until and not (self.down and self.sending)

    def room(self, most: int, left: int, now: float, freed: int = 0) -> int:
        """How many more lanes it may have of the `left` that all endpoints share: one it may always have. `freed`: it gives back."""
        if now < self.pause_until:
            return 0
        has = len(self.lanes) - freed
        return 1 if has == 0 and (self.down or left <= 0) else 0 if self.down else max(min(most - has, left), 0)

    def sent(self, letters: int, seconds: float) -> None:
        if letters:
            self.batch = max(1, min(LARGEST_BATCH, int(letters / max(seconds, 0.001)), self.batch * 4))

    def worth_keeping(self, now: float) -> bool:
        """Is there something to be remembered of it while it has no lane?"""
        return self.back or (self.failing > 0 and now < self.pause_until + FORGET)

    def succeeded(self) -> None:
        self.back = self.back or self.down
        self.failing, self.pause, self.pause_until = 0, 0.0, 0.0

    def failed(self, was_down: bool, first_pause: float, last_pause: float, now: float, retry_after: float | None) -> None:
        """`was_down`: it was so before this attempt began. Each probe that fails doubles the pause to the next."""
        self.failing += 1
        if self.down:
            self.pause = min(self.pause * 2 if was_down and self.pause else first_pause, last_pause, LONGEST_PAUSE)
        self.pause_until = max(self.pause_until, now + max(self.pause, min(retry_after or 0.0, LONGEST_PAUSE)))


@dataclass(slots=True, eq=False)
class Lane:
    """Claimed. `valid_until`: the end of our lease. `behind`: the id of the newest letter that was read. `given`: letters to send, oldest
    first; `full`: there may be more. `delay` is set when its head has failed: seconds that it is to wait.
    """

    key: LaneKey
    outlet: Outlet
    failures: int
    valid_until: float
    behind: int = 0
    given: deque[PendingLetter] = field(default_factory=deque)
    running: bool = False
    stopping: bool = False
    delay: float | None = None
    full: bool = False

    @property
    def thirsty(self) -> bool:
        """Is it time to read more?"""
        return self.full and len(self.given) <= self.outlet.batch // 2

    def give(self, letters: Sequence[PendingLetter], *, full: bool) -> None:
        """`full`: as many as were asked for, so that there may be more."""
        self.given.extend(letters)
        self.full = full
        if letters:
            self.behind = letters[-1].id
