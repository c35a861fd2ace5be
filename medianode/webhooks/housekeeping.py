"""What is old goes: events, letters that are done with, entries of the audit log. And what waits is counted."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from medianode import clock, telemetry
from medianode.config import Webhooks
from medianode.store import audit, lanes, outbox
from medianode.store.database import Database, Transaction
from medianode.store.lanes import Backlog
from medianode.tasks import guard
from medianode.webhooks import schedule
from medianode.webhooks.steady import SteadyClock

log = logging.getLogger("medianode.webhooks.housekeeping")
COUNT = 15.0
"""Seconds between two counts of what is pending."""
FIRST = 60.0
HOUR = 3600.0
BATCH = 500
DEAD_FACTOR = 4
"""Dead letters are kept this many times as long: somebody may still want them sent."""
SLACK = 120.0


class Housekeeping:
    def __init__(self, db: Database, webhooks: Webhooks, time: SteadyClock) -> None:
        self._db = db
        self._webhooks = webhooks
        self._time = time
        self._backlog = Backlog(pending=0, oldest_at=None)
        telemetry.gauge("medianode_webhook_pending", "Deliveries that wait", read=lambda: [((), self._backlog.pending)])
        telemetry.gauge("medianode_webhook_lag_seconds", "Age of the oldest delivery that waits", read=lambda: [((), self.lag())])

    def lag(self) -> float:
        """Seconds, of what an enabled endpoint is to be sent; 0 where nothing is."""
        oldest = self._backlog.oldest_at
        return 0.0 if oldest is None else max(clock.wallclock() - oldest, 0.0)

    async def serve(self) -> None:
        clean_at = self._time.mono() + FIRST
        while True:
            await self._told(self._count())
            if self._time.mono() >= clean_at:
                clean_at = self._time.mono() + HOUR
                await self._told(self.clean())
            await asyncio.sleep(COUNT)

    async def clean(self) -> int:
        """Returns how many rows went, or were given up."""
        # the earlier of two clocks: one that was put forward by years would have it all thrown away
        now, keep = min(self._time.now(), clock.wallclock()), self._webhooks.retention
        total = 0
        async with self._db.write() as tx:
            await lanes.begin(tx)
            await lanes.repair(tx, self._time.now() + schedule.longest(self._webhooks.last_retry) + SLACK)
        steps: tuple[Callable[[Transaction], Awaitable[int]], ...] = (
            lambda tx: lanes.expire(tx, now - keep, now, f"expired: not delivered in {keep:g} s", BATCH),
            lambda tx: lanes.forget(tx, now - keep, now - DEAD_FACTOR * keep, BATCH),
            lambda tx: outbox.forget(tx, now - keep, BATCH),
            lambda tx: audit.forget(tx, now - self._webhooks.audit_retention, BATCH),
        )
        for step in steps:
            met = BATCH
            while met >= BATCH:
                async with self._db.write() as tx:
                    await lanes.begin(tx)
                    met = await step(tx)
                total += met
                await asyncio.sleep(0)  # others write in between
        return total

    async def _count(self) -> None:
        async with self._db.read() as tx:
            self._backlog = await lanes.backlog(tx)

    async def _told(self, step: Awaitable[object]) -> None:
        error = await guard("webhooks-housekeeping", step)
        if error is not None:
            log.warning("not done: %s", error)
