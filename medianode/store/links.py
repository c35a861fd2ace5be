"""View links and revoked tokens: what makes a signed token good, or no longer so, before it expires."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import RowMapping, delete, func, insert, select, update

from medianode.store import schema
from medianode.store.database import Transaction, storable

_table = schema.view_links
_revoked = schema.revoked_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewLink:
    """`id` is the `jti` of its token, which is not kept. `room` is canonical; `identity` that of the token. Instants are wallclock."""

    id: str
    project_id: str
    room: str
    identity: str
    created_at: float
    expires_at: float
    revoked_at: float | None = None


async def insert_link(tx: Transaction, link: ViewLink) -> None:
    await tx.change(insert(_table).values(**{c.name: getattr(link, c.name) for c in _table.columns}))


async def find(tx: Transaction, project_id: str, link_id: str) -> ViewLink | None:
    if not storable(link_id):
        return None
    row = await tx.first(select(_table).where(_table.c.id == link_id, _table.c.project_id == project_id))
    return None if row is None else _link(row)


async def list_links(tx: Transaction, project_id: str, *, room: str | None, limit: int, offset: int) -> tuple[list[ViewLink], int]:
    """Newest first, revoked and expired ones too while they are kept; and how many there are in all."""
    where = [_table.c.project_id == project_id]
    if room is not None:
        where.append(_table.c.room == room)
    total = int(await tx.scalar(select(func.count()).select_from(_table).where(*where)))
    rows = await tx.all(select(_table).where(*where).order_by(_table.c.created_at.desc(), _table.c.id).limit(limit).offset(offset))
    return [_link(row) for row in rows], total


async def count_good(tx: Transaction, project_id: str, at: float) -> int:
    where = (_table.c.project_id == project_id, _table.c.revoked_at.is_(None), _table.c.expires_at > at)
    return int(await tx.scalar(select(func.count()).select_from(_table).where(*where)))


async def revoke(tx: Transaction, link_id: str, at: float) -> None:
    await tx.change(update(_table).where(_table.c.id == link_id).values(revoked_at=at))


async def revoke_token(tx: Transaction, project_id: str, jti: str, expires_at: float, at: float) -> bool:
    """False where it was revoked already. Under the project's lock, or two at once would collide."""
    if await token_revoked(tx, project_id, jti):
        return False
    await tx.change(insert(_revoked).values(project_id=project_id, jti=jti, expires_at=expires_at, revoked_at=at))
    return True


async def token_revoked(tx: Transaction, project_id: str, jti: str) -> bool:
    if not storable(jti):
        return False
    return await tx.first(select(_revoked.c.jti).where(_revoked.c.project_id == project_id, _revoked.c.jti == jti)) is not None


async def forget(tx: Transaction, until: float) -> int:
    """Links, and revocations of tokens, that expired before `until` go: until then they must be known. Returns how many."""
    links = await tx.change(delete(_table).where(_table.c.expires_at < until))
    return links + await tx.change(delete(_revoked).where(_revoked.c.expires_at < until))


def _link(row: RowMapping) -> ViewLink:
    return ViewLink(**row)
