"""The clock that back-offs and leases are counted by: UTC seconds that no correction of this machine's clock makes jump."""

from __future__ import annotations

from medianode import clock

JUMP = 5.0
"""Seconds. More than what two clocks drift apart between two looks, less than any lease."""


class SteadyClock:
    """The wallclock of the start, counted on by the monotonic clock; where daemons share a database, that of its server."""

    def __init__(self) -> None:
        self._base = clock.wallclock() - clock.now()
        self._followed = False

    def mono(self) -> float:
        """Monotonic, of this process."""
        return clock.now()

    def now(self) -> float:
        return self._base + self.mono()

    def follow(self, server: float | None) -> bool:
        """What the database's server says it is now; None: there is none. True if its clock has been put forward or back meanwhile."""
        if server is None:
            return False
        apart = server - self.now()
        self._base += apart
        jumped, self._followed = self._followed and abs(apart) > JUMP, True
        return jumped
