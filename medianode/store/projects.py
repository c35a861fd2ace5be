"""Project: a tenant."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec
from sqlalchemy import RowMapping, delete, func, insert, or_, select, update

from medianode.store import schema
from medianode.store.database import Transaction, storable

Viewing = Literal["public", "token", "signed"]
_table = schema.projects


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """`viewing`: who may view its rooms: everybody (`public`), holders of a room token, an API key or a signed link (`token`), of a
    signed link or an API key only (`signed`). `open_publish`: publishing needs no key. `limits`: of this tenant, by name; absent is no
    limit: `rooms`, `publishers`, `viewers` (numbers), `bitrate` (bit/s of one publisher), `disk` (bytes). `storage`: where its files go
    by default, as `control.projects` reads it; it holds secrets. `recording`: retention and upload of what is recorded, in the shape of
    `control.recording_policy`; None: the node's.

    `jwt_key_id` and `jwt_secret` sign its tokens. `created_at` is wallclock.
    """

    id: str
    slug: str
    name: str
    viewing: Viewing
    open_publish: bool
    jwt_key_id: str
    jwt_secret: str = field(repr=False)
    created_at: float
    limits: Mapping[str, int] = field(default_factory=dict)
    storage: Mapping[str, Any] | None = field(default=None, repr=False)
    recording: Mapping[str, Any] | None = None


async def insert_project(tx: Transaction, project: Project) -> None:
    """Raises Conflict if the slug is taken."""
    values: dict[str, Any] = {name: getattr(project, name) for name in _PLAIN}
    values |= _told(tx, project)
    await tx.change(insert(_table).values(jwt_secret=tx.secrets.seal(project.jwt_secret, _place(project.id)), **values))


async def find(tx: Transaction, slug_or_id: str) -> Project | None:
    if not storable(slug_or_id):
        return None
    row = await tx.first(select(_table).where(or_(_table.c.slug == slug_or_id, _table.c.id == slug_or_id)))
    return None if row is None else _project(tx, row)


async def hold(tx: Transaction, project_ids: Collection[str] | None) -> frozenset[str]:
    """Those of them that there are, None for all, and none is deleted until this transaction ends."""
    where = [] if project_ids is None else [_table.c.id.in_(list(project_ids))]
    statement = select(_table.c.id).where(*where).order_by(_table.c.id)
    return frozenset(row["id"] for row in await tx.all(statement.with_for_update(read=True, key_share=True)))


async def lock(tx: Transaction, project_id: str, *, to_delete: bool = False) -> Project | None:
    """The project, and nobody else changes what hangs on it until this transaction ends. Before anything is announced (see
    `ingresses.lock`); events that refer to it may be written meanwhile, hence NO KEY UPDATE."""
    row = await tx.first(select(_table).where(_table.c.id == project_id).with_for_update(key_share=not to_delete))
    return None if row is None else _project(tx, row)


async def find_by_jwt_key(tx: Transaction, jwt_key_id: str) -> Project | None:
    if not storable(jwt_key_id):
        return None
    row = await tx.first(select(_table).where(_table.c.jwt_key_id == jwt_key_id))
    return None if row is None else _project(tx, row)


async def list_projects(tx: Transaction, limit: int, offset: int = 0) -> list[Project]:
    """Oldest first."""
    rows = await tx.all(select(_table).order_by(_table.c.created_at, _table.c.id).limit(limit).offset(offset))
    return [_project(tx, row) for row in rows]


async def count(tx: Transaction) -> int:
    return int(await tx.scalar(select(func.count()).select_from(_table)))


async def replace(tx: Transaction, project: Project) -> None:
    """Write anew what may change of it: all but its id, slug and token secret."""
    values: dict[str, Any] = {"name": project.name, "viewing": project.viewing, "open_publish": project.open_publish}
    values |= _told(tx, project)
    await tx.change(update(_table).where(_table.c.id == project.id).values(**values))


async def delete_project(tx: Transaction, project_id: str) -> bool:
    """With everything that hangs on it."""
    return await tx.change(delete(_table).where(_table.c.id == project_id)) > 0


_PLAIN = ("id", "slug", "name", "viewing", "open_publish", "jwt_key_id", "created_at")


def _place(project_id: str) -> str:
    return f"projects:jwt_secret:{project_id}"


def _storage_place(project_id: str) -> str:
    return f"projects:storage:{project_id}"


def _seal_storage(tx: Transaction, project_id: str, storage: Mapping[str, Any] | None) -> bytes | None:
    return None if storage is None else tx.secrets.seal(msgspec.json.encode(storage).decode(), _storage_place(project_id))


def _told(tx: Transaction, project: Project) -> dict[str, Any]:
    return {
        "limits": dict(project.limits) or None,
        "storage": _seal_storage(tx, project.id, project.storage),
        "recording": None if project.recording is None else dict(project.recording),
    }


def _project(tx: Transaction, row: RowMapping) -> Project:
    sealed = row["storage"]
    return Project(
        jwt_secret=tx.secrets.open(row["jwt_secret"], _place(row["id"])),
        limits=row["limits"] or {},
        storage=None if sealed is None else msgspec.json.decode(tx.secrets.open(sealed, _storage_place(row["id"]))),
        recording=row["recording"],
        **{name: row[name] for name in _PLAIN},
    )
