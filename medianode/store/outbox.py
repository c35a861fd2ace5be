"""The outbox: facts in the order that they were committed in, and what of them is to be delivered where.

Order is kept in lanes: what is pending for one endpoint and one stream is sent one by one, and a lane that failed waits as a whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete, func, insert, select, text
from sqlalchemy.dialects import postgresql, sqlite

from medianode.store import schema
from medianode.store.database import Transaction

_events = schema.events
_deliveries = schema.deliveries
_lanes = schema.delivery_lanes
FRESH = 1e6
"""A lane's `next_at` below this is no instant: see `fresh`."""
_ORDER = 0x6F7574626F78  # "outbox": PostgreSQL's advisory lock


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredEvent:
    """`cursor` counts up in the order of the commits. `at` is wallclock. `origin`: Database.origin of who wrote it."""

    cursor: int
    id: str
    project_id: str | None
    stream: str
    type: str
    at: float
    data: Mapping[str, Any]
    origin: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """An event for one endpoint: `type` in its dialect's words, and the bytes that are signed and sent."""

    endpoint_id: str
    project_id: str
    event_id: str
    cursor: int
    stream: str
    type: str
    body: bytes


async def append(tx: Transaction, *, id: str, project_id: str | None, stream: str, type: str, at: float, data: Mapping[str, Any]) -> int:  # noqa: A002 - the columns' names
    """Its cursor. On PostgreSQL appenders wait for each other until they commit: a lower cursor never appears after a higher one."""
    await take_turn(tx)
    values = {"id": id, "project_id": project_id, "stream": stream, "type": type, "at": at, "data": dict(data), "origin": tx.origin}
    statement = insert(_events).values(**values)
    return int(await tx.scalar(statement.returning(_events.c.cursor)))


async def take_turn(tx: Transaction) -> None:
    """From here to the commit nobody else writes to the outbox: ids appear in their order, and no lane is closed over a new letter."""
    if tx.dialect == "postgresql":  # SQLite has one writer anyway
        await tx.scalar(text("SELECT pg_advisory_xact_lock(:key)").bindparams(key=_ORDER))


async def known(tx: Transaction, ids: Sequence[str]) -> frozenset[str]:
    """Those of these events that are written."""
    return frozenset(row["id"] for row in await tx.all(select(_events.c.id).where(_events.c.id.in_(ids))))


async def newest(tx: Transaction) -> int:
    """The cursor of the last event, 0 where there is none."""
    return int(await tx.scalar(select(func.max(_events.c.cursor))) or 0)


async def by_others(tx: Transaction, cursor: int, types: Sequence[str], limit: int) -> tuple[int, Sequence[StoredEvent]]:
    """Events of these types behind `cursor` that other processes wrote, oldest first, and where to go on from."""
    top = await newest(tx)
    span = (_events.c.cursor > cursor, _events.c.cursor <= top)
    where = (*span, _events.c.origin != tx.origin, _events.c.type.in_(types))
    rows = await tx.all(select(_events).where(*where).order_by(_events.c.cursor).limit(limit)) if top > cursor else []
    found = [StoredEvent(**row) for row in rows]
    return (found[-1].cursor if len(found) == limit else max(top, cursor)), found


async def enqueue(tx: Transaction, letter: Letter, at: float) -> int:
    """To be delivered from now on, behind what its lane has already. Returns the delivery's id. `at`: of its event."""
    await take_turn(tx)
    values = {
        "endpoint_id": letter.endpoint_id,
        "project_id": letter.project_id,
        "event_id": letter.event_id,
        "cursor": letter.cursor,
        "stream": letter.stream,
        "type": letter.type,
        "body": tx.secrets.seal(letter.body.decode(), place(letter.event_id)),
        "state": "pending",
        "attempts": 0,
        "error": "",
        "created_at": at,
    }
    delivery = int(await tx.scalar(insert(_deliveries).values(**values).returning(_deliveries.c.id)))
    await open_lane(tx, letter.endpoint_id, letter.stream, delivery)
    return delivery


async def open_lane(tx: Transaction, endpoint_id: str, stream: str, delivery_id: int = 0) -> None:
    """There is something to deliver in it, from this delivery on. One that waits after a failure goes on waiting."""
    await take_turn(tx)
    make = postgresql.insert if tx.dialect == "postgresql" else sqlite.insert
    statement = make(_lanes).values(endpoint_id=endpoint_id, stream=stream, next_at=fresh(delivery_id), failures=0)
    await tx.change(statement.on_conflict_do_nothing())


async def after(tx: Transaction, cursor: int, limit: int, *, project_id: str | None = None) -> Sequence[StoredEvent]:
    """The events behind `cursor`, oldest first; with `project_id` only that project's."""
    where = [_events.c.cursor > cursor, *([_events.c.project_id == project_id] if project_id is not None else [])]
    rows = await tx.all(select(_events).where(*where).order_by(_events.c.cursor).limit(limit))
    return [StoredEvent(**row) for row in rows]


async def forget_project(tx: Transaction, project_id: str, limit: int) -> int:
    """The oldest `limit` events of a project go. Returns how many."""
    await take_turn(tx)
    some = select(_events.c.cursor).where(_events.c.project_id == project_id).order_by(_events.c.cursor).limit(limit)
    return await tx.change(delete(_events).where(_events.c.cursor.in_(some.scalar_subquery())))


async def forget(tx: Transaction, until: float, limit: int) -> int:
    """Events from before `until` go. Returns how many."""
    old = select(_events.c.cursor).where(_events.c.at < until).order_by(_events.c.at).limit(limit)
    return await tx.change(delete(_events).where(_events.c.cursor.in_(old.scalar_subquery())))


def fresh(delivery_id: int) -> float:
    """A lane's `next_at` that is due whatever the clock says, in the order of their oldest letters."""
    return delivery_id * 1e-9


def place(event_id: str) -> str:
    """Where a delivery's body is sealed for."""
    return f"deliveries:body:{event_id}"
