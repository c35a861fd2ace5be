"""What a room shows while its publisher is gone: a slate, whose picture is kept here, and a backup ingress."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from sqlalchemy import ColumnElement, delete, func, insert, select

from medianode.store import schema
from medianode.store.database import Transaction

_table = schema.fallbacks
_LIGHT = [column for column in _table.columns if column.name != "media"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFallback:
    """`room` is canonical. `slate`: `none`, `text`, `image` or `clip`; `text` stands in the built-in picture. `version` is another with
    each change of the slate. `frozen` and `patience`: seconds, see routing.fallback. `updated_at`: wallclock.
    """

    project_id: str
    room: str
    slate: str = "text"
    text: str = ""
    media_type: str = ""
    always: bool = False
    backup: str | None = None
    frozen: float = 3.0
    patience: float = 5.0
    version: str = ""
    updated_at: float
    media: bytes | None = field(default=None, repr=False)


async def all_fallbacks(tx: Transaction) -> Sequence[tuple[str, StoredFallback]]:
    """Each with the slug of its project, without its media, and without a backup that is gone."""
    backup = schema.ingresses.alias()
    columns = [column for column in _LIGHT if column.name != "backup"]
    statement = (
        select(*columns, backup.c.id.label("backup"), schema.projects.c.slug)
        .join(schema.projects, schema.projects.c.id == _table.c.project_id)
        .outerjoin(backup, backup.c.id == _table.c.backup)
    )
    return [(row["slug"], StoredFallback(**{k: v for k, v in row.items() if k != "slug"})) for row in await tx.all(statement)]


async def find(tx: Transaction, project_id: str, room: str, *, media: bool = False) -> StoredFallback | None:
    columns = list(_table.columns) if media else _LIGHT
    row = await tx.first(select(*columns).where(_here(project_id, room)))
    return None if row is None else StoredFallback(**row)


async def put(tx: Transaction, fallback: StoredFallback) -> None:
    await remove(tx, fallback.project_id, fallback.room)
    await tx.change(insert(_table).values(**asdict(fallback)))


async def remove(tx: Transaction, project_id: str, room: str) -> bool:
    return await tx.change(delete(_table).where(_here(project_id, room))) > 0


async def count(tx: Transaction) -> int:
    return int(await tx.scalar(select(func.count()).select_from(_table)))


def _here(project_id: str, room: str) -> ColumnElement[bool]:
    return (_table.c.project_id == project_id) & (_table.c.room == room)
