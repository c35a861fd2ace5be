"""Demand: viewers of rooms that are not on air yet. Whoever may view opens a source on demand, many wait for the one, and none for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, NamedTuple

from medianode.events import Bus, RoomLive

Key = tuple[str, str]


class Outlook(NamedTuple):
    """What a room that is not on air may hope for of the sources that this node fetches: "" nothing, `idle`: one opens when somebody asks,
    `opening`, `failing`: the last attempt failed, another follows. `on_demand`: one of them is fetched only while somebody watches.
    """

    state: Literal["", "idle", "opening", "failing"] = ""
    on_demand: bool = False


class Demand:
    """`open` (set by the daemon) begins to open what there is for a room; False where there is nothing to wait for. It is called for each
    who asks, and opens once. `look` (likewise) tells how that stands and opens nothing. `wait`: seconds, pull.on_demand_wait.
    """

    def __init__(self, bus: Bus, wait: float) -> None:
        self.open: Callable[[str, str], bool] = _nothing_to_open
        self.look: Callable[[str, str], Outlook] = _nothing_in_sight
        self._wait = wait
        self._waiting: dict[Key, tuple[asyncio.Event, int]] = {}
        self._kept: dict[Key, int] = {}
        bus.subscribe(RoomLive, self._live)

    def __len__(self) -> int:
        """How many wait."""
        return sum(count for _, count in self._waiting.values())

    async def ask(self, project_id: str, room: str) -> None:
        """Returns once the room is on air, at once where nothing opens it, and after `wait` at the latest."""
        key = (project_id, room)
        if not self.open(project_id, room):
            return
        event, count = self._waiting.get(key, (asyncio.Event(), 0))
        self._waiting[key] = (event, count + 1)
        try:
            async with asyncio.timeout(self._wait):
                await event.wait()
        except TimeoutError:
            pass
        finally:
            event, count = self._waiting.pop(key)
            if count > 1:
                self._waiting[key] = (event, count - 1)

    @contextmanager
    def keep(self, project_id: str, room: str) -> Iterator[None]:
        """A reader that is no viewer (a recording that somebody ordered) keeps the source open."""
        key = (project_id, room)
        self._kept[key] = self._kept.get(key, 0) + 1
        try:
            yield
        finally:
            self._kept[key] -= 1
            if not self._kept[key]:
                del self._kept[key]

    def wanted(self, project_id: str, room: str) -> bool:
        """Does somebody wait, or keep it?"""
        return (project_id, room) in self._waiting or (project_id, room) in self._kept

    def gave_up(self, project_id: str, room: str) -> None:
        """What was opened cannot be had: nobody waits on for it."""
        self._release((project_id, room))

    def _live(self, event: RoomLive) -> None:
        self._release((event.project_id, event.room))

    def _release(self, key: Key) -> None:
        waiting = self._waiting.get(key)
        if waiting is not None:
            waiting[0].set()


def _nothing_to_open(project_id: str, room: str) -> bool:
    return False


def _nothing_in_sight(project_id: str, room: str) -> Outlook:
    return Outlook()
