"""WebhookEndpoint: where a project's events are sent. Its URL, secrets and headers are sealed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec
from sqlalchemy import RowMapping, delete, func, insert, select, update

from medianode.store import schema
from medianode.store.database import Transaction, storable
from medianode.store.outbox import take_turn

_table = schema.webhook_endpoints
_SEALED = ("url", "secret", "previous_secret")


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookEndpoint:
    """`events`: patterns of the dialect's event names. `dialect`: webhooks.facts.Dialect; `profile`: FastPix's `seed` or `2026`.

    `previous_secret` is good beside `secret` until `previous_until`. `probe_*`: what the probe at registration met. Instants are wallclock.
    """

    id: str
    project_id: str
    name: str
    url: str = field(repr=False)
    events: tuple[str, ...]
    dialect: str
    profile: str = "seed"
    secret: str | None = field(default=None, repr=False)
    previous_secret: str | None = field(default=None, repr=False)
    previous_until: float | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    enabled: bool = True
    probe_status: int | None = None
    probe_error: str = ""
    created_at: float
    updated_at: float


async def insert_endpoint(tx: Transaction, endpoint: WebhookEndpoint) -> None:
    await tx.change(insert(_table).values(id=endpoint.id, **_values(tx, endpoint)))


async def replace(tx: Transaction, endpoint: WebhookEndpoint) -> bool:
    """Write all fields anew. False if there is no such endpoint any more."""
    return await tx.change(update(_table).where(_table.c.id == endpoint.id).values(**_values(tx, endpoint))) > 0


async def find(tx: Transaction, endpoint_id: str) -> WebhookEndpoint | None:
    if not storable(endpoint_id):
        return None
    row = await tx.first(select(_table).where(_table.c.id == endpoint_id))
    return None if row is None else _endpoint(tx, row)


async def of_project(tx: Transaction, project_id: str) -> list[WebhookEndpoint]:
    """Oldest first."""
    rows = await tx.all(select(_table).where(_table.c.project_id == project_id).order_by(_table.c.created_at, _table.c.id))
    return [_endpoint(tx, row) for row in rows]


async def to_write_to(tx: Transaction, project_id: str) -> list[WebhookEndpoint]:
    """The enabled ones, and none is deleted until this transaction ends: deliveries refer to them.

    Without URL, secrets and headers: writing needs none, and one that cannot be unsealed must not undo what came to pass.
    """
    where = (_table.c.project_id == project_id, _table.c.enabled.is_(True))
    statement = select(_table).where(*where).order_by(_table.c.created_at, _table.c.id)
    rows = await tx.all(statement.with_for_update(read=True, key_share=True))
    return [WebhookEndpoint(id=row["id"], url="", events=tuple(row["events"]), **{name: row[name] for name in _PLAIN}) for row in rows]


async def count(tx: Transaction, project_id: str) -> int:
    return int(await tx.scalar(select(func.count()).select_from(_table).where(_table.c.project_id == project_id)))


async def disable_all(tx: Transaction, project_id: str, at: float) -> None:
    """Nothing more is written for a project's endpoints, nor sent to them."""
    await tx.change(update(_table).where(_table.c.project_id == project_id).values(enabled=False, updated_at=at))


async def delete_endpoint(tx: Transaction, endpoint_id: str) -> bool:
    """Its deliveries go with it."""
    await take_turn(tx)
    return await tx.change(delete(_table).where(_table.c.id == endpoint_id)) > 0


_PLAIN = tuple(c.name for c in _table.columns if c.name not in (*_SEALED, "id", "headers", "events"))


def _values(tx: Transaction, endpoint: WebhookEndpoint) -> dict[str, object]:
    values: dict[str, object] = {name: getattr(endpoint, name) for name in _PLAIN}
    for column in _SEALED:
        value = getattr(endpoint, column)
        values[column] = None if value is None else tx.secrets.seal(value, _place(column, endpoint.id))
    headers = msgspec.json.encode(endpoint.headers).decode()
    values["headers"] = tx.secrets.seal(headers, _place("headers", endpoint.id)) if endpoint.headers else None
    values["events"] = list(endpoint.events)
    return values


def _place(column: str, endpoint_id: str) -> str:
    return f"webhook_endpoints:{column}:{endpoint_id}"


def _endpoint(tx: Transaction, row: RowMapping) -> WebhookEndpoint:
    values = {name: row[name] for name in _PLAIN}
    for column in _SEALED:
        sealed = row[column]
        values[column] = None if sealed is None else tx.secrets.open(sealed, _place(column, row["id"]))
    headers = {} if row["headers"] is None else msgspec.json.decode(tx.secrets.open(row["headers"], _place("headers", row["id"])))
    return WebhookEndpoint(id=row["id"], events=tuple(row["events"]), headers=headers, **values)
