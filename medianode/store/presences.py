"""Presence: who publishes without an ingress, and which rooms are on air, by node: what a crash of that node leaves to be ended."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from sqlalchemy import delete, insert, select

from medianode.store import schema
from medianode.store.database import Transaction

_table = schema.presences


@dataclass(frozen=True, slots=True, kw_only=True)
class Presence:
    """`identity` is empty for the room itself. `started_at`: on air since; `lost_at`: waits for its encoder since. Wallclock, or None."""

    node_id: str
    project_id: str
    room: str
    identity: str = ""
    name: str = ""
    door: str = ""
    started_at: float | None = None
    lost_at: float | None = None
    tracks: tuple[tuple[str, str], ...] = ()


async def put(tx: Transaction, presence: Presence) -> None:
    """In place of what was known of it."""
    await remove(tx, presence)
    await tx.change(insert(_table).values(**asdict(presence)))


async def remove(tx: Transaction, presence: Presence) -> None:
    key = [column == getattr(presence, column.name) for column in _table.primary_key]
    await tx.change(delete(_table).where(*key))


async def of_node(tx: Transaction, node_id: str) -> list[Presence]:
    """Publishers before rooms: a room ends after those in it."""
    rows = await tx.all(select(_table).where(_table.c.node_id == node_id).order_by(_table.c.project_id, _table.c.room))
    found = [Presence(**{**row, "tracks": tuple((kind, codec) for kind, codec in row["tracks"] or ())}) for row in rows]
    return sorted(found, key=lambda presence: not presence.identity)
