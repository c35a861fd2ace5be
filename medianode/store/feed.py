"""The outbox as its readers page through it: events behind a cursor, and how far back they are kept."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from sqlalchemy import func, select, text

from medianode.store import schema
from medianode.store.database import Transaction
from medianode.store.outbox import StoredEvent

_events = schema.events
_LAST = {
    "sqlite": "SELECT seq FROM sqlite_sequence WHERE name = 'events'",
    "postgresql": "SELECT pg_sequence_last_value(CAST(pg_get_serial_sequence('events', 'cursor') AS regclass))",
}


class Kept(NamedTuple):
    """`oldest`: the first cursor that is still there, or None. `last`: the highest that was ever given, 0 before the first."""

    oldest: int | None
    last: int


async def kept(tx: Transaction) -> Kept:
    return Kept(await tx.scalar(select(func.min(_events.c.cursor))), int(await tx.scalar(text(_LAST[tx.dialect])) or 0))


async def page(
    tx: Transaction, after: int, limit: int, *, project_id: str | None = None, types: Collection[str] | None = None
) -> list[StoredEvent]:
    """Oldest first. None is all: of every project and of none, of every type."""
    where = [_events.c.cursor > after]
    if project_id is not None:
        where.append(_events.c.project_id == project_id)
    if types is not None:
        where.append(_events.c.type.in_(types))
    rows = await tx.all(select(_events).where(*where).order_by(_events.c.cursor).limit(limit))
    return [StoredEvent(**row) for row in rows]
