"""The outbox: facts in the order that they were committed in, and what of them is to be delivered where.

Order is kept in lanes: what is pending for one endpoint and one stream is sent one by one, and a lane that failed waits as a whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import insert, select, text
from sqlalchemy.dialects import postgresql, sqlite

from medianode.store import schema
from medianode.store.database import Transaction

_events = schema.events
_deliveries = schema.deliveries
_lanes = schema.delivery_lanes
_ORDER = 0x6F7574626F78  # "outbox": PostgreSQL's advisory lock


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredEvent:
    """`cursor` counts up in the order of the commits. `at` is wallclock."""

    cursor: int
    id: str
    project_id: str | None
    stream: str
    type: str
    at: float
    data: Mapping[str, Any]


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
    if tx.dialect == "postgresql":
        await tx.scalar(text("SELECT pg_advisory_xact_lock(:key)").bindparams(key=_ORDER))
    statement = insert(_events).values(id=id, project_id=project_id, stream=stream, type=type, at=at, data=dict(data))
    return int(await tx.scalar(statement.returning(_events.c.cursor)))


async def enqueue(tx: Transaction, letter: Letter, at: float) -> int:
    """To be delivered from now on, behind what its lane has already. Returns the delivery's id."""
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
    await open_lane(tx, letter.endpoint_id, letter.stream, at)
    return delivery


async def open_lane(tx: Transaction, endpoint_id: str, stream: str, at: float) -> None:
    """There is something to deliver in it. One that waits after a failure goes on waiting."""
    make = postgresql.insert if tx.dialect == "postgresql" else sqlite.insert
    statement = make(_lanes).values(endpoint_id=endpoint_id, stream=stream, next_at=at, failures=0)
    await tx.change(statement.on_conflict_do_nothing())


async def after(tx: Transaction, cursor: int, limit: int, *, project_id: str | None = None) -> Sequence[StoredEvent]:
    """The events behind `cursor`, oldest first; with `project_id` only that project's."""
    where = [_events.c.cursor > cursor, *([_events.c.project_id == project_id] if project_id is not None else [])]
    rows = await tx.all(select(_events).where(*where).order_by(_events.c.cursor).limit(limit))
    return [StoredEvent(**row) for row in rows]


def place(event_id: str) -> str:
    """Where a delivery's body is sealed for."""
    return f"deliveries:body:{event_id}"
