"""Ingress: a durable publish endpoint. Its stream key, password and URL are sealed; the key is found by a keyed digest."""

from __future__ import annotations

from dataclasses import dataclass, field

from sqlalchemy import ColumnElement, RowMapping, delete, func, insert, or_, select, update

from medianode.store import schema
from medianode.store.database import Transaction, storable
from medianode.store.secrets import Secrets

_table = schema.ingresses
_SEALED = ("stream_key", "password", "url")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ingress:
    """`kind` is an auth.Door, `takeover` an auth.Takeover, `state` a control.ingress_state.State, as text. `room` is canonical,
    `room_name` as given.

    `started_at` and `ended_at` are of the newest session; instants are wallclock. `disabled_at`: no encoder is let in since.
    `node_id`: the node that has its session, while there is one.
    """

    id: str
    project_id: str
    kind: str
    room: str
    room_name: str
    participant_identity: str
    participant_name: str
    stream_key: str = field(repr=False)
    password: str | None = field(default=None, repr=False)
    url: str | None = field(default=None, repr=False)
    enable_transcoding: bool = True
    bypass_transcoding: bool = False
    takeover: str = "reject"
    state: str = "INACTIVE"
    error_code: str = ""
    error_message: str = ""
    started_at: float | None = None
    ended_at: float | None = None
    created_at: float
    disabled_at: float | None = None
    node_id: str | None = None


async def insert_ingress(tx: Transaction, ingress: Ingress) -> None:
    values = {name: getattr(ingress, name) for name in _PLAIN}
    for column in _SEALED:
        value = getattr(ingress, column)
        values[column] = None if value is None else tx.secrets.seal(value, _place(column, ingress.id))
    await tx.change(insert(_table).values(stream_key_lookup=stream_key_lookup(tx.secrets, ingress.stream_key), **values))


def stream_key_lookup(secrets: Secrets, stream_key: str) -> bytes:
    return secrets.lookup(stream_key, "ingresses:stream_key")


async def find(tx: Transaction, ingress_id: str) -> Ingress | None:
    if not storable(ingress_id):
        return None
    return await _one(tx, _table.c.id == ingress_id)


async def find_by_lookup(tx: Transaction, lookup: bytes) -> Ingress | None:
    return await _one(tx, _table.c.stream_key_lookup == lookup)


async def find_by_identity(tx: Transaction, project_id: str, room: str, identity: str) -> Ingress | None:
    return await _one(tx, _table.c.project_id == project_id, _table.c.room == room, _table.c.participant_identity == identity)


async def list_ingresses(
    tx: Transaction,
    project_id: str,
    *,
    room: str | None = None,
    kinds: tuple[str, ...] = (),
    q: str = "",
    limit: int,
    offset: int = 0,
) -> tuple[list[Ingress], int]:
    """Newest first, and how many there are in all. `kinds` empty: every kind. `q`: a part of id, room or participant, case ignored."""
    where = _filter(project_id, room, kinds, q)
    total = int(await tx.scalar(select(func.count()).select_from(_table).where(*where)))
    rows = await tx.all(
        select(_table).where(*where).order_by(_table.c.created_at.desc(), _table.c.id.desc()).limit(limit).offset(offset),
    )
    return [_ingress(tx, row) for row in rows], total


async def count_in_room(tx: Transaction, project_id: str, room: str) -> int:
    statement = select(func.count()).select_from(_table).where(_table.c.project_id == project_id, _table.c.room == room)
    return int(await tx.scalar(statement))


async def count_rooms(tx: Transaction) -> int:
    """Rooms of the whole node that have an ingress."""
    rooms = select(_table.c.project_id, _table.c.room).distinct().subquery()
    return int(await tx.scalar(select(func.count()).select_from(rooms)))


async def delete_ingress(tx: Transaction, ingress_id: str) -> bool:
    return await tx.change(delete(_table).where(_table.c.id == ingress_id)) > 0


async def set_state(
    tx: Transaction, ingress_id: str, state: str, *, error_code: str, error_message: str, started_at: float | None, ended_at: float | None
) -> bool:
    """False if there is no such ingress any more."""
    values = {"state": state, "error_code": error_code, "error_message": error_message, "started_at": started_at, "ended_at": ended_at}
    return await tx.change(update(_table).where(_table.c.id == ingress_id).values(**values)) > 0


async def end_all(tx: Transaction, live: tuple[str, ...], state: str, at: float) -> int:
    """After a crash: whatever stands as one of `live` ended, at `at` at the latest. Returns how many did."""
    return await tx.change(update(_table).where(_table.c.state.in_(live)).values(state=state, ended_at=at))


def _filter(project_id: str, room: str | None, kinds: tuple[str, ...], q: str) -> list[ColumnElement[bool]]:
    where: list[ColumnElement[bool]] = [_table.c.project_id == project_id]
    if room is not None:
        where.append(_table.c.room == room)
    if kinds:
        where.append(_table.c.kind.in_(kinds))
    if q:
        columns = (_table.c.id, _table.c.room, _table.c.participant_identity, _table.c.participant_name)
        where.append(or_(*(column.icontains(q, autoescape=True) for column in columns)))
    return where


_PLAIN = tuple(column.name for column in _table.columns if column.name not in (*_SEALED, "stream_key_lookup"))


def _place(column: str, ingress_id: str) -> str:
    return f"ingresses:{column}:{ingress_id}"


async def _one(tx: Transaction, *where: ColumnElement[bool]) -> Ingress | None:
    row = await tx.first(select(_table).where(*where).limit(1))
    return None if row is None else _ingress(tx, row)


def _ingress(tx: Transaction, row: RowMapping) -> Ingress:
    values = {name: row[name] for name in _PLAIN}
    for column in _SEALED:
        sealed = row[column]
        values[column] = None if sealed is None else tx.secrets.open(sealed, _place(column, row["id"]))
    return Ingress(**values)
