"""ApiKey: who may control. Only a hash of the key is kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import RowMapping, func, insert, or_, select, update

from medianode.store import schema
from medianode.store.database import Transaction, storable

_table = schema.api_keys


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """`project_id` None: good for the whole node. `allowed_addresses`: networks (CIDR) that it may be used from; None: any.

    `previous_hash`: after a rotation the old key is good until `previous_until`. Instants are wallclock.
    """

    id: str
    project_id: str | None
    name: str
    hash: bytes
    permissions: frozenset[str]
    created_at: float
    last_used_at: float | None = None
    revoked_at: float | None = None
    expires_at: float | None = None
    allowed_addresses: tuple[str, ...] | None = None
    previous_hash: bytes | None = None
    previous_until: float | None = None


async def insert_key(tx: Transaction, key: ApiKey) -> None:
    await tx.change(
        insert(_table).values(
            id=key.id,
            project_id=key.project_id,
            name=key.name,
            hash=key.hash,
            permissions=sorted(key.permissions),
            created_at=key.created_at,
            expires_at=key.expires_at,
            allowed_addresses=None if key.allowed_addresses is None else list(key.allowed_addresses),
        )
    )


async def find_by_hash(tx: Transaction, key_hash: bytes) -> ApiKey | None:
    """Also by the one that it had before its last rotation, however long ago."""
    row = await tx.first(select(_table).where(or_(_table.c.hash == key_hash, _table.c.previous_hash == key_hash)))
    return None if row is None else _key(row)


async def find(tx: Transaction, key_id: str) -> ApiKey | None:
    if not storable(key_id):
        return None
    row = await tx.first(select(_table).where(_table.c.id == key_id))
    return None if row is None else _key(row)


async def list_keys(tx: Transaction, project_id: str | None, limit: int, offset: int = 0) -> list[ApiKey]:
    """Of one project, or all of the node; revoked ones too; oldest first."""
    statement = select(_table).order_by(_table.c.created_at, _table.c.id).limit(limit).offset(offset)
    if project_id is not None:
        statement = statement.where(_table.c.project_id == project_id)
    return [_key(row) for row in await tx.all(statement)]


async def revoke(tx: Transaction, key_id: str, at: float) -> bool:
    """False if there is no such key. A key revoked before keeps its instant."""
    if not storable(key_id):
        return False
    revoked_at = func.coalesce(_table.c.revoked_at, at)
    return await tx.change(update(_table).where(_table.c.id == key_id).values(revoked_at=revoked_at)) > 0


async def rotate(tx: Transaction, key_id: str, new_hash: bytes, previous_until: float) -> bool:
    """The hash of now becomes the previous one. False if there is no such key that is not revoked."""
    if not storable(key_id):
        return False
    where = (_table.c.id == key_id, _table.c.revoked_at.is_(None))
    values = {"hash": new_hash, "previous_hash": _table.c.hash, "previous_until": previous_until}
    return await tx.change(update(_table).where(*where).values(**values)) > 0


async def used(tx: Transaction, instants: Mapping[str, float]) -> None:
    """Write down when keys were last used: key id → wallclock."""
    for key_id, at in instants.items():
        await tx.change(update(_table).where(_table.c.id == key_id).values(last_used_at=at))


def _key(row: RowMapping) -> ApiKey:
    values = dict(row)
    previous, addresses = values["previous_hash"], values["allowed_addresses"]
    values["hash"] = bytes(values["hash"])
    values["permissions"] = frozenset(values["permissions"])
    values["previous_hash"] = None if previous is None else bytes(previous)
    values["allowed_addresses"] = None if addresses is None else tuple(addresses)
    return ApiKey(**values)
