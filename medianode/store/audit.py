"""The audit log: who changed what, when and from where. Written in the transaction of the change itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete, insert, select

from medianode.store import schema
from medianode.store.database import Transaction, storable

_table = schema.audit


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """`actor`: an API key's id, `cli`, `system`. `source`: its address, or empty. `details` holds no secret. `at` is wallclock."""

    id: int
    at: float
    project_id: str | None
    actor: str
    source: str
    action: str
    target: str
    details: Mapping[str, Any]


async def append(
    tx: Transaction, *, at: float, project_id: str | None, actor: str, source: str, action: str, target: str, details: Mapping[str, Any]
) -> None:
    values = {"at": at, "project_id": project_id, "actor": actor, "source": source, "action": action}
    await tx.change(insert(_table).values(**values, target=target, details=dict(details)))


async def before(
    tx: Transaction,
    limit: int,
    *,
    project_id: str | None = None,
    before_id: int | None = None,
    action: str = "",
    target: str = "",
    actor: str = "",
) -> Sequence[Entry]:
    """Newest first. `project_id` None: of the whole node. `before_id`: where the last page ended."""
    where = []
    if project_id is not None:
        where.append(_table.c.project_id == project_id)
    if before_id is not None:
        where.append(_table.c.id < before_id)
    if action:
        where.append(_table.c.action == action)
    if not all(storable(text) for text in (action, target, actor)):
        return []
    if actor:
        where.append(_table.c.actor == actor)
    if target:
        where.append(_table.c.target == target)
    return [Entry(**row) for row in await tx.all(select(_table).where(*where).order_by(_table.c.id.desc()).limit(limit))]


async def forget(tx: Transaction, until: float, limit: int) -> int:
    """Entries from before `until` go, `limit` at most. Returns how many."""
    old = select(_table.c.id).where(_table.c.at < until).order_by(_table.c.at).limit(limit)
    return await tx.change(delete(_table).where(_table.c.id.in_(old.scalar_subquery())))
