"""Pull: which node fetches the URL of an ingress, and how that goes."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from sqlalchemy import insert, select, update

from medianode.store import ingresses, schema
from medianode.store.database import Transaction

_table = schema.pulls


@dataclass(frozen=True, slots=True, kw_only=True)
class Pull:
    """`node_id`: the node that fetches it, None where nobody does. `state` as `ingress.pull.order.PullState` has it, with the last failure
    in words. `since`: wallclock.
    """

    ingress_id: str
    node_id: str | None
    state: str = "idle"
    error_code: str = ""
    error_message: str = ""
    transport: str = ""
    since: float = 0.0


async def all_pulls(tx: Transaction) -> dict[str, Pull]:
    """By ingress. Those of a node that is gone are nobody's."""
    columns = [column for column in _table.columns if column.name != "node_id"]
    alive = _table.outerjoin(schema.nodes, schema.nodes.c.id == _table.c.node_id)
    rows = await tx.all(select(*columns, schema.nodes.c.id.label("node_id")).select_from(alive))
    return {row["ingress_id"]: Pull(**row) for row in rows}


async def claim(tx: Transaction, ingress_id: str, node_id: str, at: float) -> Pull | None:
    """This node fetches it from now on. None where another living one does, or the ingress is gone."""
    if ingress_id not in await ingresses.lock(tx, (ingress_id,)):
        return None
    row = await tx.first(select(_table).where(_table.c.ingress_id == ingress_id).with_for_update())
    if row is None:
        pull = Pull(ingress_id=ingress_id, node_id=node_id, since=at)
        await tx.change(insert(_table).values(**asdict(pull)))
        return pull
    holder = row["node_id"]
    if holder not in (None, node_id) and await tx.scalar(select(schema.nodes.c.id).where(schema.nodes.c.id == holder)) is not None:
        return None
    await tx.change(update(_table).where(_table.c.ingress_id == ingress_id).values(node_id=node_id))
    return Pull(**{**row, "node_id": node_id})


async def set_state(tx: Transaction, pull: Pull) -> bool:
    """False where `pull.node_id` fetches it no more."""
    where = _table.c.ingress_id == pull.ingress_id, _table.c.node_id == pull.node_id
    return await tx.change(update(_table).where(*where).values(**asdict(pull))) > 0


async def release(tx: Transaction, ingress_id: str, node_id: str, at: float) -> None:
    """Nobody fetches it, where it was this node that did."""
    where = _table.c.ingress_id == ingress_id, _table.c.node_id == node_id
    values = {"node_id": None, "state": "idle", "error_code": "", "error_message": "", "transport": "", "since": at}
    await tx.change(update(_table).where(*where).values(**values))
