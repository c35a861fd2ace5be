"""Nodes: the daemons that share the database, each with the instant that it was last seen at."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import delete, insert, select, update

from medianode.store import schema
from medianode.store.database import Transaction

_table = schema.nodes


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """Instants are the wallclock of that node, which may differ from ours."""

    id: str
    started_at: float
    seen_at: float


async def find(tx: Transaction, node_id: str) -> Node | None:
    row = await tx.first(select(_table).where(_table.c.id == node_id))
    return None if row is None else Node(**row)


async def all_nodes(tx: Transaction) -> list[Node]:
    return [Node(**row) for row in await tx.all(select(_table).order_by(_table.c.id))]


async def join(tx: Transaction, node: Node) -> None:
    """It lives, in place of what was known of it."""
    await tx.change(delete(_table).where(_table.c.id == node.id))
    await tx.change(insert(_table).values(id=node.id, started_at=node.started_at, seen_at=node.seen_at))


async def see(tx: Transaction, node_id: str, at: float) -> bool:
    """It still lives. False if it was given up meanwhile."""
    return await tx.change(update(_table).where(_table.c.id == node_id).values(seen_at=at)) > 0


async def give_up(tx: Transaction, node: Node) -> bool:
    """It is gone. False if it was heard of since `node.seen_at`, or another has given it up."""
    return await tx.change(delete(_table).where(_table.c.id == node.id, _table.c.seen_at == node.seen_at)) > 0
