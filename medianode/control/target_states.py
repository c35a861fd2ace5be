"""How simulcast targets fare, written down as it changes: the newest state of each and every fact, together."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import uuid4

from medianode import clock
from medianode.control.backlog import Backlog
from medianode.control.targets import target_fact
from medianode.errors import StorageError
from medianode.events import Bus, TargetStateChanged
from medianode.store import outbox
from medianode.store import targets as table
from medianode.store.database import Database, Transaction
from medianode.webhooks.facts import Fact
from medianode.webhooks.outbox import announce

RETRY = 1.0
LOOK = 60.0
"""Seconds between looks for targets of nodes that are gone."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Change:
    event: TargetStateChanged
    at: float
    fact_id: str = field(default_factory=lambda: str(uuid4()))


class TargetStates:
    """Listens on the bus from the start on; `serve` writes. `bound`: limits.unwritten_facts; beyond it the oldest are lost, and counted."""

    def __init__(self, db: Database, bus: Bus, node_id: str, bound: int) -> None:
        self._db = db
        self._node_id = node_id
        self._changes = Backlog("simulcast targets", bound, self._write_together)
        self._wake = asyncio.Event()
        self._sending: dict[str, TargetStateChanged] = {}
        bus.subscribe(TargetStateChanged, self._changed)

    def __len__(self) -> int:
        """Changes that are not written yet."""
        return len(self._changes)

    async def recover(self, *, restarted: bool = True) -> int:
        """At start: what a crash left sending is idle. Returns how many. Raises StorageError."""
        async with self._db.write() as tx:
            locked = await table.lock(tx, [target.id for target in await table.orphans(tx, self._node_id, restarted=restarted)])
            # as they stand now: another node may have begun to send to one
            found = [target for target in await table.orphans(tx, self._node_id, restarted=restarted) if target.id in locked]
            for target in found:
                await table.set_state(tx, target.id, "idle")
                await announce(tx, target_fact("target.idle", target, clock.wallclock(), code="node-restarted"))
        return len(found)

    async def serve(self) -> None:
        """Write as things change, runs until cancelled, and then writes the last. A database that is away is tried again each second."""
        try:
            while True:
                try:
                    async with asyncio.timeout(LOOK):
                        await self._wake.wait()
                except TimeoutError:
                    pass
                idle = not self._wake.is_set()
                self._wake.clear()
                try:
                    await (self.recover(restarted=False) if idle else self.write())
                except StorageError as e:
                    log.warning("states of simulcast targets not written: %s: %s", e.code, e)
                    await asyncio.sleep(RETRY)
                    self._wake.set()
        finally:
            try:
                await self.write()
            except StorageError as e:
                log.error("the last states of simulcast targets are not written: %s: %s", e.code, e)

    async def write(self) -> None:
        """What is not written yet, oldest first. Raises StorageError; the rest is then still to be written."""
        await self._changes.write()

    async def _write_together(self, group: Sequence[_Change], in_doubt: bool) -> None:
        async with self._db.write() as tx:
            known = await outbox.known(tx, [change.fact_id for change in group]) if in_doubt else frozenset()
            await table.lock(tx, {change.event.target_id for change in group})
            for change in group:
                if change.fact_id not in known:
                    await self._write(tx, change)

    async def _write(self, tx: Transaction, change: _Change) -> None:
        event = change.event
        target = await table.find(tx, event.target_id)
        if target is None:
            return  # deleted: who did so has told it
        if event.state == "idle" and target.node_id != self._node_id:
            return  # the encoder went to another node, which sends there by now; or we were given up, and it was told then
        node_id = None if event.state == "idle" else self._node_id
        await table.set_state(tx, event.target_id, event.state, event.code, event.message, node_id=node_id)
        fact = target_fact(
            f"target.{event.state}", target, change.at, host=event.host, code=event.code, message=event.message, bitrate=event.bitrate
        )
        await announce(
            tx, Fact(type=fact.type, project_id=fact.project_id, stream=fact.stream, at=fact.at, data=fact.data, id=change.fact_id)
        )

    def rise(self) -> None:
        """Other nodes gave this one up meanwhile, and called its targets idle: tell anew what they are."""
        for event in self._sending.values():
            self._add(event)

    def _changed(self, event: TargetStateChanged) -> None:
        if event.state == "idle":
            self._sending.pop(event.target_id, None)
        else:
            self._sending[event.target_id] = event
        self._add(event)

    def _add(self, event: TargetStateChanged) -> None:
        self._changes.add(_Change(event, clock.wallclock()))
        self._wake.set()
