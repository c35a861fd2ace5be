"""Ledger: what has come to pass with sessions and is not written yet. In order, bounded, state and facts in one transaction."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections import deque
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from medianode import clock, telemetry
from medianode.control.session_facts import ingress_fact, publisher_fact, room_fact
from medianode.errors import StorageError
from medianode.store import ingresses, outbox, presences
from medianode.store.database import Database, Transaction
from medianode.store.ingresses import Ingress, Standing
from medianode.store.presences import Presence
from medianode.store.projects import hold
from medianode.tasks import guard
from medianode.webhooks.facts import Fact
from medianode.webhooks.outbox import announce

GROUP = 256
"""Changes of one transaction: while the database was away there may be thousands, and others write too."""
LOST = telemetry.counter("medianode_facts_lost_total", "Facts that were never written down: the database was away for too long, or refused")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Happened:
    """A fact to be: `type` as in webhooks.facts, `at` wallclock, `session` what this type adds to its data."""

    type: str
    at: float
    session: Mapping[str, Any] = field(default_factory=dict)
    id: str = field(default_factory=lambda: str(uuid.uuid4()))


@dataclass(frozen=True, slots=True)
class Change:
    """Of an ingress (`subject` is its id, `standing` how it stands now), or of a presence, which is gone where `present` is false."""

    project_id: str
    subject: str | Presence
    happened: tuple[Happened, ...] = ()
    standing: Standing | None = None
    present: bool = True

    @property
    def key(self) -> object:
        subject = self.subject
        return subject if isinstance(subject, str) else (subject.project_id, subject.room, subject.identity)


class Ledger:
    """`bound`: limits.unwritten_facts. Beyond it the oldest facts are lost, counted and told; how things stand is never lost."""

    def __init__(self, db: Database, bound: int) -> None:
        self._db = db
        self._bound = bound
        self._changes: deque[Change] = deque()
        self._overdue: dict[object, Change] = {}
        self._facts = 0
        self._turn = asyncio.Lock()
        self._in_doubt = False
        self._lost = 0
        self._told_at = 0.0

    def __len__(self) -> int:
        """Facts that are not written yet."""
        return self._facts

    def add(self, change: Change) -> None:
        self._changes.append(change)
        self._facts += len(change.happened)
        self._trim()

    async def write(self) -> None:
        """Write down what is not yet, oldest first. Raises StorageError; the rest is then still to be written."""
        async with self._turn:
            while self._changes or self._overdue:
                group = self._take()
                with ExitStack() as unless_done:
                    unless_done.callback(self._put_back, group)
                    await self._write(group)
                    unless_done.pop_all()
                self._in_doubt = False

    def _take(self) -> list[Change]:
        group = list(self._overdue.values())
        self._overdue.clear()
        while self._changes and len(group) < GROUP:
            group.append(self._changes.popleft())
        self._facts -= sum(len(change.happened) for change in group)
        return group

    def _put_back(self, group: list[Change]) -> None:
        self._changes.extendleft(reversed(group))
        self._facts += sum(len(change.happened) for change in group)
        self._in_doubt = True  # a connection that broke at the commit: it may be written
        self._trim()

    def _trim(self) -> None:
        while self._facts > self._bound:
            oldest = self._changes.popleft()
            self._facts -= len(oldest.happened)
            self._overdue[oldest.key] = Change(oldest.project_id, oldest.subject, (), oldest.standing, oldest.present)
            self._lose(len(oldest.happened), f"the database is away and limits.unwritten_facts is {self._bound}")

    def _lose(self, count: int, why: str) -> None:
        LOST.labels().value += count
        self._lost += count
        now = clock.now()
        if self._lost and now - self._told_at >= 1.0:
            log.error("%d facts are lost, no webhook tells of them: %s", self._lost, why)
            self._lost, self._told_at = 0, now

    async def _write(self, group: list[Change]) -> None:
        """All in one transaction. Where that is refused, or our bug breaks it, one by one: only what cannot be written is lost."""
        refused = await guard("ledger", self._write_together(group))
        if refused is None:
            return
        if isinstance(refused, StorageError) and refused.code != "sealed-wrongly":  # a row that was altered stays so: it holds up nobody
            raise refused
        if len(group) > 1:
            self._in_doubt = True
            for change in group:
                await self._write([change])
        else:
            self._lose(len(group[0].happened), f"{type(refused).__name__}: {refused}")

    async def _write_together(self, group: list[Change]) -> None:
        newest = {change.key: change for change in group}
        async with self._db.write() as tx:
            known = await outbox.known(tx, [h.id for change in group for h in change.happened]) if self._in_doubt else frozenset()
            projects = await hold(tx, {change.project_id for change in group})
            rows = await ingresses.lock(tx, [c.subject for c in newest.values() if isinstance(c.subject, str)])
            live = await ingresses.live_among(tx, rows)
            # of what is gone nothing is told: who deleted an ingress has told the end of its session
            gone = {c.key for c in newest.values() if not _there(c.subject, rows, projects)}
            for change in newest.values():
                if change.key not in gone:
                    await _stand(tx, change)
            for change in [c for c in group if c.key not in gone]:
                for happened in change.happened:
                    if happened.id not in known:
                        await announce(tx, _fact(change, happened, rows, live))


def _there(subject: str | Presence, rows: Mapping[str, Ingress], projects: frozenset[str]) -> bool:
    return subject in rows if isinstance(subject, str) else subject.project_id in projects


async def _stand(tx: Transaction, change: Change) -> None:
    if isinstance(change.subject, Presence):
        await (presences.put if change.present else presences.remove)(tx, change.subject)
    elif change.standing is not None:
        await ingresses.stand(tx, change.subject, change.standing)


def _fact(change: Change, happened: Happened, rows: Mapping[str, Ingress], live: frozenset[str]) -> Fact:
    subject = change.subject
    if isinstance(subject, str):
        return ingress_fact(happened.type, rows[subject], happened.at, live=subject in live, id=happened.id, **happened.session)
    make = publisher_fact if subject.identity else room_fact
    return make(happened.type, subject, happened.at, id=happened.id, **happened.session)
