"""PushTarget: where a room is sent on to. Its URLs and its key are sealed."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import RowMapping, delete, false, func, insert, select, update

from medianode.store import ingresses, projects, schema
from medianode.store.database import Transaction, storable

_table = schema.push_targets
_SEALED = ("url", "stream_key", "alternate_url")


@dataclass(frozen=True, slots=True, kw_only=True)
class PushTarget:
    """`url`: rtmp://, rtmps://, or http(s):// of a WHIP endpoint; `stream_key`: the RTMP stream name that is appended to it, or WHIP's
    Bearer token. `ingress_id`: the live stream that it belongs to and goes with, or None. `room` is canonical.

    `state`: `idle` (nobody publishes, or disabled), `starting`, `broadcasting`, `failed` (will be tried again); with the last error.
    `node_id`: the node that sends to it, None while it is idle.
    """

    id: str
    project_id: str
    ingress_id: str | None = None
    room: str
    url: str = field(repr=False)
    stream_key: str | None = field(default=None, repr=False)
    alternate_url: str | None = field(default=None, repr=False)
    enabled: bool = True
    metadata: Mapping[str, str] = field(default_factory=dict)
    state: str = "idle"
    error_code: str = ""
    error_message: str = ""
    node_id: str | None = None
    created_at: float
    updated_at: float


async def insert_target(tx: Transaction, target: PushTarget) -> None:
    await tx.change(insert(_table).values(id=target.id, **_values(tx, target)))


async def replace(tx: Transaction, target: PushTarget) -> bool:
    """Write all fields anew. False if there is no such target any more."""
    return await tx.change(update(_table).where(_table.c.id == target.id).values(**_values(tx, target))) > 0


async def find(tx: Transaction, target_id: str) -> PushTarget | None:
    if not storable(target_id):
        return None
    row = await tx.first(select(_table).where(_table.c.id == target_id))
    return None if row is None else _target(tx, row)


async def lock(tx: Transaction, target_ids: Collection[str]) -> dict[str, PushTarget]:
    """Those of them that there are, by id, and nobody else changes them until this transaction ends. Before anything is announced, and
    in the order of those who delete: projects and ingresses first.
    """
    c = _table.c
    these = select(c.project_id, c.ingress_id).where(c.id.in_([i for i in target_ids if storable(i)]))
    rows = await tx.all(these)
    await projects.hold(tx, {row["project_id"] for row in rows})
    await ingresses.hold(tx, {row["ingress_id"] for row in rows if row["ingress_id"] is not None})
    statement = select(_table).where(c.id.in_([i for i in target_ids if storable(i)])).order_by(c.id)
    return {row["id"]: _target(tx, row) for row in await tx.all(statement.with_for_update())}


async def of_room(tx: Transaction, project_id: str, room: str) -> Sequence[PushTarget]:
    """Oldest first; those of the room's live stream too."""
    return await _all(tx, _table.c.project_id == project_id, _table.c.room == room)


async def of_ingress(tx: Transaction, *ingress_ids: str) -> Sequence[PushTarget]:
    """Oldest first."""
    return await _all(tx, _table.c.ingress_id.in_(ingress_ids))


async def of_project(tx: Transaction, project_id: str) -> Sequence[PushTarget]:
    return await _all(tx, _table.c.project_id == project_id)


async def count(tx: Transaction) -> int:
    """Of the whole node."""
    return int(await tx.scalar(select(func.count()).select_from(_table)))


async def set_state(
    tx: Transaction, target_id: str, state: str, error_code: str = "", error_message: str = "", *, node_id: str | None = None
) -> bool:
    values = {"state": state, "error_code": error_code, "error_message": error_message, "node_id": node_id}
    return await tx.change(update(_table).where(_table.c.id == target_id).values(**values)) > 0


async def orphans(tx: Transaction, node_id: str, *, restarted: bool) -> Sequence[PushTarget]:
    """Those that are not idle though the node that sent to them is gone; `restarted`: this one's too, for it has only begun."""
    gone = _table.c.node_id.not_in(select(schema.nodes.c.id)) & (_table.c.node_id != node_id)
    mine = _table.c.node_id == node_id if restarted else false()
    return await _all(tx, _table.c.state != "idle", _table.c.node_id.is_(None) | gone | mine)


async def delete_target(tx: Transaction, target_id: str) -> bool:
    return await tx.change(delete(_table).where(_table.c.id == target_id)) > 0


_PLAIN = tuple(c.name for c in _table.columns if c.name not in (*_SEALED, "id"))


async def _all(tx: Transaction, *where: Any) -> Sequence[PushTarget]:
    rows = await tx.all(select(_table).where(*where).order_by(_table.c.created_at, _table.c.id))
    return [_target(tx, row) for row in rows]


def _place(column: str, target_id: str) -> str:
    return f"push_targets:{column}:{target_id}"


def _values(tx: Transaction, target: PushTarget) -> dict[str, Any]:
    values = {name: getattr(target, name) for name in _PLAIN}
    for column in _SEALED:
        value = getattr(target, column)
        values[column] = None if value is None else tx.secrets.seal(value, _place(column, target.id))
    return {**values, "metadata": dict(target.metadata)}


def _target(tx: Transaction, row: RowMapping) -> PushTarget:
    values = {name: row[name] for name in _PLAIN}
    for column in _SEALED:
        values[column] = None if row[column] is None else tx.secrets.open(row[column], _place(column, row["id"]))
    return PushTarget(id=row["id"], **values)
