"""Deliveries of a project: looked into, sent again, called off."""

from __future__ import annotations

from dataclasses import dataclass, replace

from medianode import clock
from medianode.control import audit
from medianode.control.webhooks import own
from medianode.errors import Conflict, InvalidRequest, NotFound
from medianode.store import deliveries as table
from medianode.store.database import Database
from medianode.store.deliveries import CANCELLED, PENDING, Attempt, Filter, StoredDelivery
from medianode.store.endpoints import WebhookEndpoint
from medianode.webhooks.outbox import TOPIC

BATCH = 1000
"""In one transaction: others write in between."""
ATTEMPTS = 100
IDS = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """One delivery whole. `body` shows stream keys: who passes it on masks them."""

    delivery: StoredDelivery
    attempts: tuple[Attempt, ...]
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """`next_id`: where to go on (`Filter.after_id`) when the bound was met, else None."""

    count: int
    next_id: int | None


class Deliveries:
    """`bound`: limits.webhook_replays, of one request."""

    def __init__(self, db: Database, *, bound: int) -> None:
        self._db = db
        self._bound = bound

    async def list(self, wanted: Filter, limit: int) -> list[StoredDelivery]:
        """Newest first; go on with `before_id`."""
        async with self._db.read() as tx:
            return await table.newest(tx, wanted, limit)

    async def open(self, project_id: str, delivery_id: int) -> Opened:
        """Raises NotFound."""
        async with self._db.read() as tx:
            delivery = await table.find(tx, project_id, delivery_id)
            if delivery is None:
                raise NotFound(f"no delivery {delivery_id}", code="no-such-delivery")
            attempts = await table.attempts_of(tx, delivery.id, ATTEMPTS)
            body = await table.body(tx, delivery)
        if body is None:
            raise NotFound(f"no delivery {delivery_id}", code="no-such-delivery")
        return Opened(delivery=delivery, attempts=tuple(attempts), body=body)

    async def replay(self, project_id: str, delivery_id: int) -> StoredDelivery:
        """The same event and bytes once more, behind what is pending in its stream. One that is pending already is hurried up instead.

        Raises NotFound, Conflict (`webhook-disabled`).
        """
        async with self._db.write() as tx:
            delivery = await table.find(tx, project_id, delivery_id)
            if delivery is None:
                raise NotFound(f"no delivery {delivery_id}", code="no-such-delivery")
            _check_enabled(await own(tx, project_id, delivery.endpoint_id))
            if delivery.cursor == 0:
                raise Conflict("a test is not sent again: fire another one", code="delivery-is-test")
            made = await table.repeat_one(tx, delivery, clock.wallclock())
            found = None if made is None else await table.find(tx, project_id, made)
            if found is None:
                raise NotFound(f"no delivery {delivery_id}", code="no-such-delivery")
            await audit.record(tx, "delivery.replayed", str(delivery.id), project_id, endpoint=delivery.endpoint_id)
            tx.tell(TOPIC)
        return found

    async def replay_all(self, wanted: Filter) -> Replayed:
        """What an endpoint was sent, or not sent, once more, in the order of the first time: some ids, a time, all behind a cursor.

        At most `bound`. What is made while it runs is not met. Raises NotFound, Conflict (`webhook-disabled`), InvalidRequest.
        """
        if not (wanted.ids or wanted.since is not None or wanted.after_cursor is not None or wanted.states):
            raise InvalidRequest("replay: expected ids, since, after or state: which deliveries?")
        if len(wanted.ids) > IDS:
            raise InvalidRequest(f"ids: expected at most {IDS}, got {len(wanted.ids)}")
        if PENDING in wanted.states:
            raise InvalidRequest("state: expected delivered, dead or cancelled: what is pending will be sent")
        at = clock.wallclock()
        count, last, end = 0, wanted.after_id or 0, None
        while count < self._bound:
            async with self._db.write() as tx:
                _check_enabled(await own(tx, wanted.project_id, wanted.endpoint_id))
                end = await table.last_id(tx) if end is None else end
                batch = replace(wanted, after_id=last, before_id=end + 1)
                made = await table.repeat(tx, batch, min(BATCH, self._bound - count), at)
                if not made:
                    return Replayed(count=count, next_id=None)
                count, last = count + len(made), made[-1]
                await audit.record(
                    tx, "delivery.replayed", wanted.endpoint_id, wanted.project_id, first=made[0], last=last, count=len(made)
                )
                tx.tell(TOPIC)
        return Replayed(count=count, next_id=last)

    async def cancel(self, project_id: str, delivery_id: int) -> StoredDelivery:
        """A pending one is not sent any more. Raises NotFound, Conflict (`delivery-done`)."""
        async with self._db.write() as tx:
            met = await table.cancel(tx, Filter(project_id=project_id, ids=(delivery_id,)), 1, clock.wallclock())
            delivery = await table.find(tx, project_id, delivery_id)
            if delivery is None:
                raise NotFound(f"no delivery {delivery_id}", code="no-such-delivery")
            if not met and delivery.state != CANCELLED:
                raise Conflict(f"delivery {delivery_id} is {delivery.state}: only pending ones can be cancelled", code="delivery-done")
            if met:
                await audit.record(tx, "delivery.cancelled", str(delivery_id), project_id, endpoint=delivery.endpoint_id)
        return delivery

    async def cancel_all(self, wanted: Filter) -> int:
        """All pending ones of an endpoint that `wanted` chooses. Returns how many. Raises NotFound."""
        at, total = clock.wallclock(), 0
        while True:
            async with self._db.write() as tx:
                await own(tx, wanted.project_id, wanted.endpoint_id)
                met = await table.cancel(tx, wanted, BATCH, at)
                if met:
                    await audit.record(tx, "delivery.cancelled", wanted.endpoint_id, wanted.project_id, count=len(met))
            total += len(met)
            if len(met) < BATCH:
                return total
            wanted = replace(wanted, after_id=met[-1])


def _check_enabled(endpoint: WebhookEndpoint) -> None:
    if not endpoint.enabled:
        raise Conflict(f"webhook endpoint {endpoint.id} is disabled: enable it first", code="webhook-disabled")
