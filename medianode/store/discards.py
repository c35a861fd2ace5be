"""Discards: files and directories of recordings that no row tells of any more, until they are unlinked.

Written in the transaction that takes the rows away: after a crash in between the next start unlinks what is left.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from sqlalchemy import delete, insert, or_, select

from medianode.store import schema
from medianode.store.database import Transaction

_table = schema.discards


async def add(tx: Transaction, node_id: str, paths: Collection[str]) -> None:
    """`paths`: absolute, of a file or of a recording's directory, on the disk of this node."""
    if paths:
        await tx.many(insert(_table), [{"node_id": node_id, "path": path} for path in paths])


async def add_all_of(tx: Transaction, project_id: str) -> int:
    """The directories of all recordings of a project, each on its node. Returns how many."""
    rows = select(schema.recordings.c.node_id, schema.recordings.c.directory).where(schema.recordings.c.project_id == project_id)
    return await tx.change(insert(_table).from_select(["node_id", "path"], rows))


async def oldest(tx: Transaction, node_id: str, limit: int, *, after: int = 0) -> Sequence[tuple[int, str]]:
    """(id, path) of each, in the order that they were written in, from behind the id `after`."""
    where = (_table.c.node_id == node_id, _table.c.id > after)
    rows = await tx.all(select(_table.c.id, _table.c.path).where(*where).order_by(_table.c.id).limit(limit))
    return [(int(row["id"]), str(row["path"])) for row in rows]


async def noted(tx: Transaction, node_id: str, directory: str) -> frozenset[str]:
    """What of a recording is still to be unlinked: its directory, or files in it."""
    below = _table.c.path.startswith(f"{directory}/", autoescape=True)
    rows = await tx.all(select(_table.c.path).where(_table.c.node_id == node_id, or_(_table.c.path == directory, below)))
    return frozenset(str(row["path"]) for row in rows)


async def remove(tx: Transaction, ids: Collection[int]) -> None:
    await tx.change(delete(_table).where(_table.c.id.in_(list(ids))))
