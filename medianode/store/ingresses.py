"""Ingress: a durable publish endpoint. Its stream key, password and URL are sealed; the key is found by a keyed digest."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from sqlalchemy import ColumnElement, RowMapping, delete, func, insert, or_, select, update

from medianode.errors import StorageError
from medianode.store import schema
from medianode.store.database import Transaction, storable
from medianode.store.secrets import Secrets

log = logging.getLogger(__name__)
_table = schema.ingresses
_SEALED = ("stream_key", "password", "url")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ingress:
    """`kind` is an auth.Door, `takeover` an auth.Takeover, `state` a control.ingress_state.State, as text. `room` is canonical,
    `room_name` as given.

    `started_at` and `ended_at` are of the newest session; instants are wallclock. `disabled_at`: no encoder is let in since.
    `node_id`: the node that has its session, while there is one; `door`: what its encoder came by, or that of the session before;
    `lost_at`: since when it waits for its encoder to come back. `tracks`: kind and codec of each that the newest session had.
    `record`: what is published is recorded. `pull`: how `url` is fetched (`control.pulls` knows its shape), without secrets.
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
    door: str | None = None
    lost_at: float | None = None
    tracks: tuple[tuple[str, str], ...] = ()
    record: bool = False
    pull: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Standing:
    """How an ingress stands: what changes with its sessions."""

    state: str
    error_code: str = ""
    error_message: str = ""
    started_at: float | None = None
    ended_at: float | None = None
    node_id: str | None = None
    door: str | None = None
    lost_at: float | None = None
    tracks: tuple[tuple[str, str], ...] = ()


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


async def find_all(tx: Transaction, ingress_ids: Collection[str]) -> dict[str, Ingress]:
    """Those of them that there are, by id."""
    rows = await tx.all(select(_table).where(_table.c.id.in_(list(ingress_ids))))
    return {row["id"]: _ingress(tx, row) for row in rows}


async def find_by_lookup(tx: Transaction, lookup: bytes) -> Ingress | None:
    return await _one(tx, _table.c.stream_key_lookup == lookup)


async def find_by_identity(tx: Transaction, project_id: str, room: str, identity: str) -> Ingress | None:
    return await _one(tx, _table.c.project_id == project_id, _table.c.room == room, _table.c.participant_identity == identity)


async def find_twin(tx: Transaction, ingress: Ingress) -> Ingress | None:
    """Another ingress of its room that publishes under the same identity."""
    c = _table.c
    mine = (c.project_id == ingress.project_id, c.room == ingress.room, c.participant_identity == ingress.participant_identity)
    return await _one(tx, *mine, c.id != ingress.id)


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


async def count_rooms(tx: Transaction, project_id: str | None = None) -> int:
    """Rooms that have an ingress: of the whole node, or of one project."""
    found = select(_table.c.project_id, _table.c.room).distinct()
    rooms = (found if project_id is None else found.where(_table.c.project_id == project_id)).subquery()
    return int(await tx.scalar(select(func.count()).select_from(rooms)))


async def delete_ingress(tx: Transaction, ingress_id: str) -> bool:
    return await tx.change(delete(_table).where(_table.c.id == ingress_id)) > 0


async def lock(tx: Transaction, ingress_ids: Collection[str], *, to_delete: bool = False) -> dict[str, Ingress]:
    """Those of them that there are, by id, and nobody else changes them until this transaction ends. Before anything is announced: who
    announces waits for all others who do, and must not be waited for by them.
    """
    statement = select(_table).where(_table.c.id.in_([i for i in ingress_ids if storable(i)])).order_by(_table.c.id)
    rows = await tx.all(statement.with_for_update(key_share=not to_delete))
    return {row["id"]: _ingress(tx, row) for row in rows}


async def hold(tx: Transaction, ingress_ids: Collection[str]) -> None:
    """None of them is deleted until this transaction ends."""
    statement = select(_table.c.id).where(_table.c.id.in_(list(ingress_ids))).order_by(_table.c.id)
    await tx.all(statement.with_for_update(read=True, key_share=True))


async def lock_cut_off(tx: Transaction, states: Collection[str], node_id: str, limit: int) -> list[Ingress]:
    """As `lock`, without their secrets: those in one of these states whose session is of this node, or of none."""
    mine = or_(_table.c.node_id == node_id, _table.c.node_id.is_(None))
    statement = select(_table).where(_table.c.state.in_(states), mine).order_by(_table.c.id).limit(limit)
    return [Ingress(**_plain(row), stream_key="") for row in await tx.all(statement.with_for_update(key_share=True))]


async def live_among(tx: Transaction, ingress_ids: Collection[str]) -> frozenset[str]:
    """Those of them that are live streams."""
    column = schema.live_streams.c.ingress_id
    return frozenset(row["ingress_id"] for row in await tx.all(select(column).where(column.in_(list(ingress_ids)))))


async def stand(tx: Transaction, ingress_id: str, standing: Standing) -> bool:
    """Write down how it stands. False if there is no such ingress any more."""
    return await tx.change(update(_table).where(_table.c.id == ingress_id).values(**asdict(standing))) > 0


async def disable(tx: Transaction, ingress_id: str, at: float | None) -> None:
    """None enables it."""
    await tx.change(update(_table).where(_table.c.id == ingress_id).values(disabled_at=at))


async def of_kind(tx: Transaction, kind: str, limit: int) -> list[Ingress]:
    """Of all projects, oldest first. A row that was altered is passed over: it holds up nobody."""
    rows = await tx.all(select(_table).where(_table.c.kind == kind).order_by(_table.c.created_at, _table.c.id).limit(limit))
    found = []
    for row in rows:
        try:
            found.append(_ingress(tx, row))
        except StorageError as e:
            log.error("ingress %s: %s", row["id"], e)
    return found


async def set_source(tx: Transaction, ingress_id: str, url: str, pull: Mapping[str, Any]) -> None:
    """Where it is fetched from, and how."""
    sealed = tx.secrets.seal(url, _place("url", ingress_id))
    await tx.change(update(_table).where(_table.c.id == ingress_id).values(url=sealed, pull=dict(pull)))


async def set_record(tx: Transaction, ingress_id: str, record: bool) -> None:
    await tx.change(update(_table).where(_table.c.id == ingress_id).values(record=record))


async def set_stream_key(tx: Transaction, ingress_id: str, stream_key: str) -> None:
    """Raises Conflict if another ingress has it."""
    sealed = tx.secrets.seal(stream_key, _place("stream_key", ingress_id))
    values = {"stream_key": sealed, "stream_key_lookup": stream_key_lookup(tx.secrets, stream_key)}
    await tx.change(update(_table).where(_table.c.id == ingress_id).values(**values))


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
    values = _plain(row)
    for column in _SEALED:
        sealed = row[column]
        values[column] = None if sealed is None else tx.secrets.open(sealed, _place(column, row["id"]))
    return Ingress(**values)


def _plain(row: RowMapping) -> dict[str, Any]:
    values = {name: row[name] for name in _PLAIN}
    return {**values, "tracks": tuple((kind, codec) for kind, codec in row["tracks"] or ())}
