"""How a disk stands, without flapping: `ok`, `low` (the oldest files go so that new ones have room), `full` (nothing may go). Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "low", "full"]
FACTS: dict[State, str] = {"ok": "disk.recovered", "low": "disk.low", "full": "disk.full"}
WELL = 1.25
"""Times the wanted room that must be free for a disk to be well again."""
WELL_FOR = 60.0
CALM_FOR = 30.0
"""Seconds without a full disk until it is not called full any more."""


@dataclass(slots=True)
class DiskState:
    """Of one file system. `now`: monotonic seconds; `free`, `wanted`: bytes."""

    state: State = "ok"
    _full_at: float = 0.0
    _well_since: float | None = None

    def full(self, now: float) -> State | None:
        """A write found no room, and nothing could be deleted for it. The new state, where that is one."""
        self._full_at = now
        self._well_since = None
        return self._turn("full")

    def look(self, now: float, free: int, wanted: int) -> State | None:
        """The new state, where it is another than before."""
        if free < wanted * WELL:
            self._well_since = None
        elif self._well_since is None:
            self._well_since = now
        match self.state:
            case "full" if now - self._full_at >= CALM_FOR and free >= wanted / 2:
                return self._turn("low" if free < wanted * WELL else "ok")
            case "low" if self._well_since is not None and now - self._well_since >= WELL_FOR:
                return self._turn("ok")
            case "ok" if free < wanted:
                return self._turn("low")
        return None

    def _turn(self, state: State) -> State | None:
        if state == self.state:
            return None
        self.state = state
        return state
