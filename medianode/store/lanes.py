"""What the delivery engine does with the outbox: lanes claimed under a lease, their letters read, what became of them written.

A lane is an endpoint and a stream. `next_at` is when it may be claimed; while somebody has it, that is the end of the lease, so one index
finds all that is due. One that has not failed waits under a number below FRESH in place of an instant: the order of its oldest letter,
and no clock that goes wrong can hold it up. Whoever writes takes the turn first (`begin`): announcing, claiming and closing never cross.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from sqlalchemy import ColumnElement, RowMapping, Update, and_, bindparam, delete, func, insert, or_, select, update

from medianode.errors import StorageError
from medianode.store import schema
from medianode.store.database import Transaction
from medianode.store.deliveries import DEAD, PENDING
from medianode.store.outbox import FRESH, fresh, place, take_turn

_lanes = schema.delivery_lanes
_deliveries = schema.deliveries
_attempts = schema.delivery_attempts
_endpoints = schema.webhook_endpoints


@dataclass(frozen=True, slots=True)
class LaneKey:
    endpoint_id: str
    stream: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingLetter:
    """`body` None: it cannot be unsealed. `attempts`: so far. `created_at`: wallclock."""

    id: int
    event_id: str
    type: str
    body: bytes | None = field(repr=False)
    attempts: int
    created_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """An attempt. `at`: wallclock; `latency`: seconds."""

    at: float
    status: int | None
    latency: float
    error: str
    excerpt: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a letter: delivered, dead, or still pending after a failure. `attempts`: in all."""

    delivery_id: int
    state: str
    attempts: int
    tried: Sequence[Tried]
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """`oldest_at`: wallclock of the oldest pending letter to an enabled endpoint."""

    pending: int
    oldest_at: float | None


async def begin(tx: Transaction) -> float | None:
    """Take the turn. Returns the database's clock where daemons share one, so that leases are counted by it; None on SQLite."""
    await take_turn(tx)
    return float(await tx.scalar(select(func.extract("epoch", func.clock_timestamp())))) if tx.dialect == "postgresql" else None


async def due(tx: Transaction, now: float, *, steal: bool) -> dict[str, float]:
    """Enabled endpoints with a lane to claim, and when each was last changed. `steal`: also one whose lease has run out."""
    # LIMIT, not EXISTS: PostgreSQL would join all lanes for that, where one look into the index per endpoint does
    one = select(_lanes.c.failures).where(_lanes.c.endpoint_id == _endpoints.c.id, *_free(now, steal)).limit(1)
    found = one.correlate(_endpoints).scalar_subquery().is_not(None)
    rows = await tx.all(select(_endpoints.c.id, _endpoints.c.updated_at).where(_endpoints.c.enabled.is_(True), found))
    return {row["id"]: row["updated_at"] for row in rows}


async def enabled(tx: Transaction, endpoint_ids: Collection[str]) -> dict[str, float]:
    """Those of them that are there and enabled, and when each was last changed."""
    where = (_endpoints.c.id.in_(endpoint_ids), _endpoints.c.enabled.is_(True))
    return {row["id"]: row["updated_at"] for row in await tx.all(select(_endpoints.c.id, _endpoints.c.updated_at).where(*where))}


async def claim(
    tx: Transaction, endpoint_id: str, owner: str, now: float, until: float, count: int, *, steal: bool
) -> list[tuple[LaneKey, int]]:
    """Up to `count` lanes, with their failures so far: first those that were to be tried again, then the one whose letter is oldest."""
    found: list[RowMapping] = []
    for order in (_lanes.c.next_at > FRESH, _lanes.c.next_at <= FRESH):
        columns = select(_lanes.c.stream, _lanes.c.failures).where(_lanes.c.endpoint_id == endpoint_id, order, *_free(now, steal))
        found += await tx.all(columns.order_by(_lanes.c.next_at).limit(count - len(found)))
        if len(found) == count:
            break
    claimed = [(LaneKey(endpoint_id, row["stream"]), int(row["failures"])) for row in found]
    if claimed:
        statement = update(_lanes).where(*_this).values(owner=owner, lease_until=until, next_at=until)
        await tx.many(statement, [_named(key) for key, _ in claimed])
    return claimed


async def letters(tx: Transaction, key: LaneKey, behind: int, limit: int) -> list[PendingLetter]:
    """The oldest pending letters of a lane with an id above `behind`."""
    c = _deliveries.c
    wanted = select(c.id, c.event_id, c.type, c.body, c.attempts, c.created_at)
    where = (c.endpoint_id == key.endpoint_id, c.stream == key.stream, c.state == PENDING, c.id > behind)
    found = []
    for row in await tx.all(wanted.where(*where).order_by(c.id).limit(limit)):
        try:
            body = tx.secrets.open(row["body"], place(row["event_id"])).encode()
        except StorageError:
            body = None  # altered in the database: this one is lost, and must not hold up the others
        found.append(PendingLetter(**{**row, "body": body}))
    return found


async def settle(tx: Transaction, outcomes: Sequence[Outcome], at: float) -> None:
    """Write them down. What was cancelled, or is gone with its endpoint, stays so."""
    if not outcomes:
        return
    rows = [
        {
            "b_id": outcome.delivery_id,
            "b_state": outcome.state,
            "b_attempts": outcome.attempts,
            "b_status": outcome.tried[-1].status if outcome.tried else None,
            "b_error": outcome.error,
            "b_done_at": None if outcome.state == PENDING else at,
        }
        for outcome in outcomes
    ]
    attempts = [
        {
            "b_id": outcome.delivery_id,
            "b_at": tried.at,
            "b_status": tried.status,
            "b_latency": tried.latency,
            "b_error": tried.error,
            "b_excerpt": tried.excerpt,
        }
        for outcome in outcomes
        for tried in outcome.tried
    ]
    await tx.many(_SETTLE, rows)
    if attempts:
        await tx.many(_ATTEMPT, attempts)


async def postpone(tx: Transaction, key: LaneKey, owner: str, next_at: float, failures: int) -> None:
    """Its head failed: the whole lane waits."""
    await tx.change(_mine(key, owner).values(owner=None, lease_until=None, next_at=next_at, failures=failures))


async def put_back(tx: Transaction, key: LaneKey, owner: str, behind: int, failures: int) -> None:
    """There is more in it, for whoever claims it next; behind lanes whose letters are older than number `behind`."""
    await tx.change(_mine(key, owner).values(owner=None, lease_until=None, next_at=fresh(behind + 1), failures=failures))


async def close(tx: Transaction, key: LaneKey, owner: str) -> None:
    """Nothing is pending in it."""
    await tx.change(delete(_lanes).where(_lanes.c.endpoint_id == key.endpoint_id, _lanes.c.stream == key.stream, _lanes.c.owner == owner))


async def renew(tx: Transaction, owner: str, until: float) -> set[LaneKey]:
    """The lanes that are still the owner's, now until then."""
    statement = update(_lanes).where(_lanes.c.owner == owner).values(lease_until=until, next_at=until)
    rows = await tx.all(statement.returning(_lanes.c.endpoint_id, _lanes.c.stream))
    return {LaneKey(row["endpoint_id"], row["stream"]) for row in rows}


async def abandon(tx: Transaction, owner: str | None) -> int:
    """All that this owner has may be claimed at once; None: all that anybody has. Returns how many lanes."""
    mine = _lanes.c.owner.is_not(None) if owner is None else _lanes.c.owner == owner
    return await tx.change(update(_lanes).where(mine).values(owner=None, lease_until=None, next_at=fresh(0)))


async def hurry(tx: Transaction, endpoint_id: str | None, now: float) -> int:
    """What waits after a failure is due at once, of one endpoint or of all. The attempt that this brings forward is not counted."""
    where = [_lanes.c.owner.is_(None), _lanes.c.failures > 0, _lanes.c.next_at > now]
    if endpoint_id is not None:
        where.append(_lanes.c.endpoint_id == endpoint_id)
    return await tx.change(update(_lanes).where(*where).values(next_at=fresh(0), failures=_lanes.c.failures - 1))


async def repair(tx: Transaction, beyond: float) -> int:
    """What lies further in the future than any back-off or lease was written by a clock that was wrong: due now. Returns how many."""
    return await tx.change(update(_lanes).where(_lanes.c.next_at > beyond).values(owner=None, lease_until=None, next_at=fresh(0)))


async def backlog(tx: Transaction) -> Backlog:
    pending = int(await tx.scalar(select(func.count()).where(_deliveries.c.state == PENDING)))
    of_enabled = and_(_endpoints.c.id == _deliveries.c.endpoint_id, _endpoints.c.enabled.is_(True))
    oldest = select(_deliveries.c.created_at).join_from(_deliveries, _endpoints, of_enabled).where(_deliveries.c.state == PENDING)
    return Backlog(pending=pending, oldest_at=await tx.scalar(oldest.order_by(_deliveries.c.created_at).limit(1)) if pending else None)


async def expire(tx: Transaction, until: float, at: float, error: str, limit: int) -> int:
    """Letters from before `until` that are pending still are dead. Returns how many."""
    old = select(_deliveries.c.id).where(_deliveries.c.state == PENDING, _deliveries.c.created_at < until)
    these = _deliveries.c.id.in_(old.order_by(_deliveries.c.created_at).limit(limit).scalar_subquery())
    return await tx.change(update(_deliveries).where(these).values(state=DEAD, done_at=at, error=error))


async def forget(tx: Transaction, until: float, dead_until: float, limit: int) -> int:
    """Letters that were done with before `until` go, dead ones before the earlier `dead_until`, with their attempts. Returns how many."""
    c = _deliveries.c
    old = select(c.id).where(c.done_at < until, or_(c.state != DEAD, c.done_at < dead_until))
    return await tx.change(delete(_deliveries).where(c.id.in_(old.order_by(c.done_at).limit(limit).scalar_subquery())))


_this = (_lanes.c.endpoint_id == bindparam("b_endpoint"), _lanes.c.stream == bindparam("b_stream"))
_SETTLE = (
    update(_deliveries)
    .where(_deliveries.c.id == bindparam("b_id"), _deliveries.c.state == PENDING)
    .values(
        state=bindparam("b_state"),
        attempts=bindparam("b_attempts"),
        status=bindparam("b_status"),
        error=bindparam("b_error"),
        done_at=bindparam("b_done_at"),
    )
)
_WRITTEN = ("at", "status", "latency", "error", "excerpt")
# of a delivery that is still there: it may have gone with its endpoint while it was being sent
_ATTEMPT = insert(_attempts).from_select(
    ["delivery_id", *_WRITTEN],
    select(_deliveries.c.id, *(bindparam(f"b_{name}", type_=_attempts.c[name].type) for name in _WRITTEN)).where(
        _deliveries.c.id == bindparam("b_id")
    ),
)


def _free(now: float, steal: bool) -> tuple[ColumnElement[bool], ...]:
    nobody = _lanes.c.owner.is_(None)
    return _lanes.c.next_at <= now, or_(nobody, _lanes.c.lease_until <= now) if steal else nobody


def _named(key: LaneKey) -> dict[str, object]:
    return {"b_endpoint": key.endpoint_id, "b_stream": key.stream}


def _mine(key: LaneKey, owner: str) -> Update:
    return update(_lanes).where(_lanes.c.endpoint_id == key.endpoint_id, _lanes.c.stream == key.stream, _lanes.c.owner == owner)
