"""The events feed: the outbox for those who come and ask. Each reader goes at its own pace; nothing is kept for any of them."""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from medianode import clock
from medianode.errors import InvalidRequest
from medianode.media.names import shown
from medianode.store import feed as table
from medianode.store import outbox
from medianode.store.database import Database
from medianode.store.outbox import StoredEvent
from medianode.tasks import until_next
from medianode.webhooks.facts import TYPES, matches
from medianode.webhooks.outbox import TOPIC

POLL = 1.0
"""What other processes commit is seen within this, seconds; ours at once."""


@dataclass(frozen=True, slots=True)
class Gap:
    """Events between the asked cursor `after` and `oldest` may be lost: retention took them, or the database is another one."""

    after: int
    oldest: int


@dataclass(frozen=True, slots=True)
class Page:
    """`position`: the cursor to go on behind. It may be higher than that of the last event: what came since was not asked for."""

    events: Sequence[StoredEvent]
    position: int
    full: bool


class EventFeed:
    def __init__(self, db: Database) -> None:
        self._db = db
        self._changed = asyncio.Event()
        self._generation = 0
        self._looked: tuple[int, float, int] = (-1, 0.0, 0)  # of which generation, when, and what was the newest cursor
        self._looking = asyncio.Lock()
        self._reading = asyncio.Lock()
        db.subscribe(TOPIC, self.wake)

    def wake(self) -> None:
        """All who wait look again."""
        self._generation += 1
        self._changed.set()
        self._changed = asyncio.Event()

    async def start(self, after: int | None) -> tuple[int, Gap | None]:
        """The position to begin at: behind `after`, or behind all that there is (None). Raises StorageError."""
        async with self._db.read() as tx:
            if after is None:
                return await outbox.newest(tx), None
            oldest, last = await table.kept(tx)
        first = last + 1 if oldest is None else oldest
        if after > last:  # cursors count anew: nothing of this database was seen
            return 0, Gap(after, first)
        if 0 < after < first - 1:
            return first - 1, Gap(after, first)
        return after, None

    async def page(self, position: int, limit: int, project_id: str | None, types: frozenset[str] | None) -> Page:
        """One reader at a time: the others of the node need the database's connections too. Raises StorageError."""
        # first the end, then the page: what is committed in between is the next page's
        end = await self._newest()
        async with self._reading, self._db.read() as tx:
            events = await table.page(tx, position, limit, project_id=project_id, types=types)
        if len(events) == limit:
            return Page(events, events[-1].cursor, True)
        return Page(events, max(end, position, events[-1].cursor if events else 0), False)

    async def news(self, position: int) -> None:
        """Wait until there is something behind `position`, or `wake` is called. Raises StorageError."""
        generation = self._generation
        while generation == self._generation:
            changed = self._changed
            if await self._newest() > position:
                return
            try:
                async with asyncio.timeout(until_next(POLL, clock.now())):
                    await changed.wait()
            except TimeoutError:
                continue

    async def _newest(self) -> int:
        """One query for all readers that wake together."""
        async with self._looking:
            generation, now = self._generation, clock.now()
            seen, at, cursor = self._looked
            if seen == generation and now - at < POLL / 2:
                return cursor
            async with self._db.read() as tx:
                cursor = await outbox.newest(tx)
            self._looked = (generation, now, cursor)
            return cursor


def chosen_types(text: str) -> frozenset[str] | None:
    """The event types that comma-separated names or patterns choose; None for all. Raises InvalidRequest (`unknown-event`)."""
    patterns = [part.strip() for part in text.split(",") if part.strip()]
    if not patterns:
        return None
    found: set[str] = set()
    for pattern in patterns:
        met = {name for name in TYPES if matches((pattern,), name)}
        if not met:
            near = difflib.get_close_matches(pattern.rstrip("*."), sorted(TYPES), 3, 0.5)
            hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(sorted(TYPES))}"
            raise InvalidRequest(f"types: no event {shown(pattern)}; {hint}", code="unknown-event")
        found |= met
    return frozenset(found)
