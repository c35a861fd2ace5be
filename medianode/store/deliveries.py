"""Deliveries as a project's owner looks at them: listed, looked into, sent again, called off. `store.lanes` brings them to the wire.

Who changes any takes the turn first: the engine changes many in one transaction, in an order of its own.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from sqlalchemy import (
    ColumnElement,
    RowMapping,
    Select,
    and_,
    case,
    delete,
    exists,
    false,
    func,
    insert,
    literal,
    null,
    or_,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from medianode.store import schema
from medianode.store.database import Transaction, storable
from medianode.store.outbox import FRESH, fresh, place, take_turn

PENDING = "pending"
DELIVERED = "delivered"
DEAD = "dead"
CANCELLED = "cancelled"
STATES = (PENDING, DELIVERED, DEAD, CANCELLED)

_table = schema.deliveries
_lanes = schema.delivery_lanes
_attempts = schema.delivery_attempts


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredDelivery:
    """One event for one endpoint, without its body. `type` in the dialect's words, `cursor` its event's (0: a test), `replay_of` the
    delivery that it repeats. `status` and `error` of the last attempt. Instants are wallclock.
    """

    id: int
    endpoint_id: str
    project_id: str
    event_id: str
    cursor: int
    stream: str
    type: str
    state: str
    attempts: int
    status: int | None
    error: str
    created_at: float
    done_at: float | None
    replay_of: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """`latency`: seconds from the request to the end of the answer. `excerpt`: the beginning of its body."""

    id: int
    at: float
    status: int | None
    latency: float
    error: str
    excerpt: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """What is left as it is chooses all. `type`: a pattern in which `*` stands for any part. `since` ≤ `created_at` < `until`.

    `after_cursor`: of events behind it. `before_id` and `after_id`: for paging.
    """

    project_id: str
    endpoint_id: str = ""
    states: Collection[str] = ()
    type: str = ""
    stream: str = ""
    event_id: str = ""
    status: int | None = None
    since: float | None = None
    until: float | None = None
    ids: Collection[int] = ()
    after_cursor: int | None = None
    before_id: int | None = None
    after_id: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """What an endpoint has yet to be sent: `failing` lanes of it wait after a failure, the next of them until `next_at`."""

    pending: int = 0
    oldest_at: float | None = None
    failing: int = 0
    next_at: float | None = None


async def find(tx: Transaction, project_id: str, delivery_id: int) -> StoredDelivery | None:
    row = await tx.first(_columns().where(_table.c.id == delivery_id, _table.c.project_id == project_id))
    return None if row is None else _delivery(row)


async def newest(tx: Transaction, wanted: Filter, limit: int) -> list[StoredDelivery]:
    """The newest first."""
    return [_delivery(row) for row in await tx.all(_columns().where(*_where(wanted)).order_by(_table.c.id.desc()).limit(limit))]


async def body(tx: Transaction, delivery: StoredDelivery) -> bytes | None:
    """The very bytes that are signed and sent. They show stream keys. None where retention has just taken them."""
    sealed = await tx.scalar(select(_table.c.body).where(_table.c.id == delivery.id))
    return None if sealed is None else tx.secrets.open(sealed, place(delivery.event_id)).encode()


async def attempts_of(tx: Transaction, delivery_id: int, limit: int) -> list[Attempt]:
    """The last `limit`, oldest first."""
    columns = [c for c in _attempts.c if c.name != "delivery_id"]
    rows = await tx.all(select(*columns).where(_attempts.c.delivery_id == delivery_id).order_by(_attempts.c.id.desc()).limit(limit))
    return [Attempt(**row) for row in reversed(rows)]


async def record(tx: Transaction, delivery: StoredDelivery, sent: bytes, attempt: Attempt) -> int:
    """Write down what was sent already, a test. Its id and the attempt's are given here. Returns the delivery's."""
    values = {name: getattr(delivery, name) for name in _NAMES if name != "id"}
    statement = insert(_table).values(**values, body=tx.secrets.seal(sent.decode(), place(delivery.event_id)))
    made = int(await tx.scalar(statement.returning(_table.c.id)))
    told = {name: getattr(attempt, name) for name in ("at", "status", "latency", "error", "excerpt")}
    await tx.change(insert(_attempts).values(delivery_id=made, **told))
    return made


async def last_id(tx: Transaction) -> int:
    """Of the newest delivery; 0 where there is none."""
    return int(await tx.scalar(select(func.max(_table.c.id))) or 0)


async def repeat(tx: Transaction, wanted: Filter, limit: int, at: float) -> list[int]:
    """New pending deliveries of the oldest `limit` that `wanted` chooses of an endpoint's: the same events and bytes, in the same order.

    Only what was not itself a repetition or a test, is done with, and is not being repeated at present. Returns which, so that the
    caller may go on behind the last one.
    """
    await take_turn(tx)
    again = _table.alias("again")
    busy = exists().where(again.c.replay_of == _table.c.id, again.c.state == PENDING)
    where = (*_where(wanted), _table.c.replay_of.is_(None), _table.c.cursor > 0, _table.c.state != PENDING, ~busy)
    chosen = select(_table.c.id, _table.c.endpoint_id, _table.c.stream).where(*where).order_by(_table.c.id).limit(limit)
    rows = await tx.all(chosen)
    await _repeat(tx, rows, at)
    return [row["id"] for row in rows]


async def repeat_one(tx: Transaction, delivery: StoredDelivery, at: float) -> int | None:
    """A new pending delivery of the same event, or the one that is pending already. Returns its id; None where retention took it."""
    await take_turn(tx)
    original = delivery.replay_of or delivery.id
    pending = select(func.max(_table.c.id)).where(or_(_table.c.id == original, _table.c.replay_of == original), _table.c.state == PENDING)
    rows = await tx.all(select(_table.c.id, _table.c.endpoint_id, _table.c.stream).where(_table.c.id == delivery.id))
    if not rows:
        return None
    if await tx.scalar(pending) is None:
        await _repeat(tx, rows, at)
    else:
        await _open(tx, rows)
    return int(await tx.scalar(pending))


async def _repeat(tx: Transaction, rows: Sequence[RowMapping], at: float) -> None:
    if not rows:
        return
    copied = ("endpoint_id", "project_id", "event_id", "cursor", "stream", "type", "body")
    anew = {
        "state": literal(PENDING),
        "attempts": literal(0),
        "status": null(),
        "error": literal(""),
        "created_at": literal(at),
        "done_at": null(),
        "replay_of": func.coalesce(_table.c.replay_of, _table.c.id),
    }
    source = select(*(_table.c[name] for name in copied), *anew.values()).where(_table.c.id.in_([row["id"] for row in rows]))
    await tx.change(insert(_table).from_select([*copied, *anew], source.order_by(_table.c.id)))
    await _open(tx, rows)


async def _open(tx: Transaction, rows: Sequence[RowMapping]) -> None:
    """The lanes of these deliveries, of one endpoint, are due, failed ones too: whoever has them sent again has mended something."""
    make = postgresql.insert if tx.dialect == "postgresql" else sqlite.insert
    end = fresh(await last_id(tx))  # behind the lanes whose letters are older
    of_rows = (
        select(_table.c.endpoint_id, _table.c.stream, literal(end), literal(0)).distinct().where(_table.c.id.in_([r["id"] for r in rows]))
    )
    await tx.change(make(_lanes).from_select(["endpoint_id", "stream", "next_at", "failures"], of_rows).on_conflict_do_nothing())
    streams = {row["stream"] for row in rows}
    await tx.change(
        update(_lanes).where(_lanes.c.endpoint_id == rows[0]["endpoint_id"], _lanes.c.stream.in_(streams), _waiting).values(_afresh())
    )


async def wake(tx: Transaction, endpoint_id: str) -> int:
    """All lanes of an endpoint that wait after a failure are due. Returns how many did."""
    await take_turn(tx)
    return await tx.change(update(_lanes).where(_lanes.c.endpoint_id == endpoint_id, _waiting).values(_afresh()))


_waiting = and_(_lanes.c.failures > 0, _lanes.c.owner.is_(None))
"""And is not being tried just now."""


def _afresh() -> dict[str, object]:
    return {"failures": 0, "next_at": fresh(0)}


async def cancel(tx: Transaction, wanted: Filter, limit: int, at: float) -> list[int]:
    """The oldest `limit` pending ones that `wanted` chooses are not sent; one that is on its way just then may still arrive.

    Returns which were met, so that the caller may go on behind the last one.
    """
    await take_turn(tx)
    some = select(_table.c.id).where(*_where(replace(wanted, states=(PENDING,)))).order_by(_table.c.id).limit(limit)
    ids = [int(row["id"]) for row in await tx.all(some)]
    if ids:
        statement = update(_table).where(_table.c.id.in_(ids), _table.c.state == PENDING)
        await tx.change(statement.values(state=CANCELLED, done_at=at))
    return ids


async def forget(tx: Transaction, wanted: Filter, limit: int) -> int:
    """The oldest `limit` that `wanted` chooses go, whatever their state, with their attempts. Returns how many."""
    await take_turn(tx)
    some = select(_table.c.id).where(*_where(wanted)).order_by(_table.c.id).limit(limit)
    return await tx.change(delete(_table).where(_table.c.id.in_(some.scalar_subquery())))


async def waiting(tx: Transaction, endpoint_ids: Collection[str]) -> dict[str, Waiting]:
    """By endpoint. Costs as much as is pending, not as much as there is."""
    of_lane = and_(_table.c.endpoint_id == _lanes.c.endpoint_id, _table.c.stream == _lanes.c.stream, _table.c.state == PENDING)
    pending = select(_lanes.c.endpoint_id, func.count().label("pending"), func.min(_table.c.id).label("oldest"))
    pending = pending.join_from(_lanes, _table, of_lane).where(_lanes.c.endpoint_id.in_(endpoint_ids)).group_by(_lanes.c.endpoint_id)
    found = {row["endpoint_id"]: (row["pending"], row["oldest"]) for row in await tx.all(pending)}
    oldest = select(_table.c.endpoint_id, _table.c.created_at).where(_table.c.id.in_([first for _, first in found.values()]))
    since = {row["endpoint_id"]: row["created_at"] for row in await tx.all(oldest)}
    lanes = select(
        _lanes.c.endpoint_id,
        func.coalesce(func.sum(case((_lanes.c.failures > 0, 1), else_=0)), 0).label("failing"),
        func.min(case((and_(_waiting, _lanes.c.next_at > FRESH), _lanes.c.next_at))).label("next_at"),
    )
    rows = await tx.all(lanes.where(_lanes.c.endpoint_id.in_(endpoint_ids)).group_by(_lanes.c.endpoint_id))
    return {
        row["endpoint_id"]: Waiting(
            pending=found.get(row["endpoint_id"], (0, 0))[0],
            oldest_at=since.get(row["endpoint_id"]),
            failing=int(row["failing"]),
            next_at=row["next_at"],
        )
        for row in rows
    }


_NAMES = tuple(c.name for c in _table.columns if c.name != "body")


def _columns() -> Select[tuple[object, ...]]:
    return select(*(_table.c[name] for name in _NAMES))


def _delivery(row: RowMapping) -> StoredDelivery:
    return StoredDelivery(**row)


def _where(wanted: Filter) -> list[ColumnElement[bool]]:
    c = _table.c
    if not all(storable(text) for text in (wanted.endpoint_id, wanted.stream, wanted.event_id, wanted.type)):
        return [false()]
    found = [c.project_id == wanted.project_id]
    if wanted.endpoint_id:
        found.append(c.endpoint_id == wanted.endpoint_id)
    if wanted.states:
        found.append(c.state.in_(wanted.states))
    if wanted.type:
        found.append(c.type.like(_like(wanted.type), escape="\\") if "*" in wanted.type else c.type == wanted.type)
    if wanted.stream:
        found.append(c.stream == wanted.stream)
    if wanted.event_id:
        found.append(c.event_id == wanted.event_id)
    if wanted.status is not None:
        found.append(c.status == wanted.status)
    if wanted.since is not None:
        found.append(c.created_at >= wanted.since)
    if wanted.until is not None:
        found.append(c.created_at < wanted.until)
    if wanted.ids:
        found.append(c.id.in_(wanted.ids))
    if wanted.after_cursor is not None:
        found.append(c.cursor > wanted.after_cursor)
    if wanted.before_id is not None:
        found.append(c.id < wanted.before_id)
    if wanted.after_id is not None:
        found.append(c.id > wanted.after_id)
    return found


def _like(pattern: str) -> str:
    for mark in ("\\", "%", "_"):
        pattern = pattern.replace(mark, f"\\{mark}")
    return pattern.replace("*", "%")
