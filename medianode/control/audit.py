"""Who does what is being done: set where a request comes in, written with every change."""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar
from typing import NamedTuple

from medianode import clock
from medianode.store import audit
from medianode.store.audit import Entry
from medianode.store.database import Database, Transaction


class Actor(NamedTuple):
    """`name`: an API key's id, `cli` or `system`; `source`: the address that it came from, or empty."""

    name: str
    source: str = ""


SYSTEM = Actor("system")
actor: ContextVar[Actor] = ContextVar("actor", default=SYSTEM)
"""Of the running request. Who answers requests sets it for each: connections, and so their tasks, outlive requests."""


async def record(tx: Transaction, action: str, target: str, project_id: str | None = None, **details: object) -> None:
    """One entry, in the transaction of the change. `action`: `ingress.created`, `key.revoked`, …; `details`: JSON, no secrets."""
    who = actor.get()
    await audit.append(
        tx,
        at=clock.wallclock(),
        project_id=project_id,
        actor=who.name,
        source=who.source[:64],
        action=action,
        target=target[:160],
        details=details,
    )


class AuditLog:
    """Reads what `record` wrote."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def write(self, action: str, target: str, project_id: str | None = None, **details: object) -> None:
        """For what changes nothing in the database, before it is done: somebody is put out. Raises StorageError."""
        async with self._db.write() as tx:
            await record(tx, action, target, project_id, **details)

    async def before(
        self,
        limit: int,
        *,
        project_id: str | None = None,
        before_id: int | None = None,
        action: str = "",
        target: str = "",
        actor: str = "",
    ) -> Sequence[Entry]:
        """Newest first. `project_id` None: of the whole node. `before_id`: where the last page ended. Empty filters let all through."""
        async with self._db.read() as tx:
            return await audit.before(tx, limit, project_id=project_id, before_id=before_id, action=action, target=target, actor=actor)
