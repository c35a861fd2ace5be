"""Who does what is being done: set where a request comes in, written with every change."""

from __future__ import annotations

from contextvars import ContextVar
from typing import NamedTuple

from medianode import clock
from medianode.store import audit
from medianode.store.database import Transaction


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
