"""Assets: recordings that FastPix's clients know, by the name that those know them by (`media_id`)."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from sqlalchemy import ColumnElement, func, select

from medianode.store import schema
from medianode.store.database import Transaction, storable
from medianode.store.recordings import Recording

_table = schema.recordings


async def find(tx: Transaction, project_id: str, media_id: str) -> Recording | None:
    if not storable(media_id):
        return None
    row = await tx.first(select(_table).where(_table.c.media_id == media_id, _table.c.project_id == project_id))
    return None if row is None else Recording(**row)


async def page(
    tx: Transaction, project_id: str, *, ingress_id: str | None = None, newest_first: bool = True, limit: int, offset: int = 0
) -> tuple[Sequence[Recording], int]:
    """By their start, and how many there are in all. `ingress_id`: of one live stream."""
    c = _table.c
    where: list[ColumnElement[bool]] = [c.project_id == project_id, c.media_id.is_not(None)]
    where += [c.ingress_id == ingress_id] if ingress_id is not None else []
    order = [c.started_at.desc(), c.id.desc()] if newest_first else [c.started_at, c.id]
    rows = await tx.all(select(_table).where(*where).order_by(*order).limit(limit).offset(offset))
    total = await tx.scalar(select(func.count()).select_from(_table).where(*where))
    return [Recording(**row) for row in rows], int(total or 0)


async def ids_of(tx: Transaction, ingress_ids: Collection[str]) -> dict[str, list[str]]:
    """The media ids of each of these live streams that has any, oldest first."""
    c = _table.c
    where = (c.ingress_id.in_(list(ingress_ids)), c.media_id.is_not(None))
    found: dict[str, list[str]] = {}
    for row in await tx.all(select(c.ingress_id, c.media_id).where(*where).order_by(c.started_at, c.id)):
        found.setdefault(row["ingress_id"], []).append(row["media_id"])
    return found
