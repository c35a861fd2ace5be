"""Small facts about this node: key → value."""

from __future__ import annotations

from sqlalchemy import delete, insert, select

from medianode.store import schema
from medianode.store.database import CANARY, Transaction

_table = schema.settings


async def get(tx: Transaction, key: str) -> str | None:
    value = await tx.scalar(select(_table.c.value).where(_table.c.key == key))
    return None if value is None else bytes(value).decode()


async def put(tx: Transaction, key: str, value: str) -> None:
    await tx.change(delete(_table).where(_table.c.key == key))
    await tx.change(insert(_table).values(key=key, value=value.encode()))


async def lock(tx: Transaction) -> None:
    """Of the nodes that share this database, one at a time goes on from here, until its transaction ends."""
    await tx.first(select(_table.c.key).where(_table.c.key == CANARY).with_for_update())


async def below(tx: Transaction, prefix: str) -> dict[str, str]:
    """All whose key begins so."""
    rows = await tx.all(select(_table.c.key, _table.c.value).where(_table.c.key.startswith(prefix, autoescape=True)))
    return {str(row["key"]): bytes(row["value"]).decode() for row in rows}


async def remove(tx: Transaction, key: str) -> None:
    await tx.change(delete(_table).where(_table.c.key == key))


async def remove_below(tx: Transaction, prefix: str) -> None:
    """All whose key begins so."""
    await tx.change(delete(_table).where(_table.c.key.startswith(prefix, autoescape=True)))
