"""A loop whose time stands still until it is moved: for state machines that step through hours."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Clockwork(asyncio.SelectorEventLoop):
    """`at`: its time, to be set; `turn` then runs what is due."""

    def __init__(self) -> None:
        super().__init__()
        self.at = 1000.0

    def time(self) -> float:
        return self.at

    def turn(self) -> None:
        for _ in range(3):
            self.run_until_complete(asyncio.sleep(0))

    def do(self, step: Callable[[], object]) -> None:
        """Call it in the loop, and what it asked for soon."""

        async def go() -> None:
            step()

        self.run_until_complete(go())
        self.turn()

    @property
    def timers(self) -> int:
        return sum(not timer.cancelled() for timer in self._scheduled)  # type: ignore[attr-defined]  # asyncio tells it nowhere else
