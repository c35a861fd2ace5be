"""Recording: what was recorded of one room or publisher, from its start to its end; `recording_files` has the files that it is made of."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import ColumnElement, delete, func, insert, select, update

from medianode.store import schema
from medianode.store.database import Transaction, storable

_table = schema.recordings


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """`identity`: of the publisher that was recorded; empty: the room's programme. `room` is canonical.

    `reason`: `ingress` (its ingress or live stream is set so), `room` (the room is), `api`, `clip`, `rebuilt`. `state`: `recording`,
    `finished`, `failed` (with the error). `directory`: absolute, of its own. Instants are wallclock, `duration` is microseconds of media.
    `media_id`, `playback_id`, `access_policy`: what FastPix's clients know it by. `upload_state`: `none`, `pending`, `uploading`, `done`,
    `failed`; `remote_url`: where it plays from the bucket, or empty.
    """

    id: str
    project_id: str
    room: str
    identity: str = ""
    ingress_id: str | None = None
    reason: str = "api"
    state: str = "recording"
    node_id: str
    directory: str
    title: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    started_at: float
    ended_at: float | None = None
    duration: int = 0
    nbytes: int = 0
    pinned: bool = False
    error_code: str = ""
    error_message: str = ""
    media_id: str | None = None
    playback_id: str | None = None
    access_policy: str = "public"
    upload_state: str = "none"
    upload_error: str = ""
    remote_url: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What is left as it is chooses all. `room` is canonical. `since`, `until`: with anything between these instants (wallclock)."""

    room: str = ""
    state: str = ""
    reason: str = ""
    since: float | None = None
    until: float | None = None


ALL = Choice()


async def insert_recording(tx: Transaction, recording: Recording) -> None:
    values = {column.name: getattr(recording, column.name) for column in _table.columns}
    await tx.change(insert(_table).values(**values | {"labels": dict(recording.labels)}))


async def change(tx: Transaction, recording_id: str, **values: Any) -> bool:
    """Write these columns only: what others write of the same row meanwhile stays. False if there is no such recording any more."""
    return await tx.change(update(_table).where(_table.c.id == recording_id).values(**values)) > 0


async def remove(tx: Transaction, recording_id: str) -> bool:
    """With its files' rows and their uploads; the files themselves are the caller's to delete."""
    return await tx.change(delete(_table).where(_table.c.id == recording_id)) > 0


async def find(tx: Transaction, recording_id: str, *, lock: bool = False) -> Recording | None:
    """`lock`: nobody else changes it until this transaction ends."""
    if not storable(recording_id):
        return None
    statement = select(_table).where(_table.c.id == recording_id)
    row = await tx.first(statement.with_for_update() if lock else statement)
    return None if row is None else Recording(**row)


async def lock(tx: Transaction, recording_ids: Collection[str]) -> None:
    """Nobody else changes them until this transaction ends. Before anything is announced (see `ingresses.lock`)."""
    await tx.all(select(_table.c.id).where(_table.c.id.in_(list(recording_ids))).order_by(_table.c.id).with_for_update())


async def find_by_playback_id(tx: Transaction, playback_id: str) -> Recording | None:
    if not storable(playback_id):
        return None
    row = await tx.first(select(_table).where(_table.c.playback_id == playback_id))
    return None if row is None else Recording(**row)


async def open_on(tx: Transaction, node_id: str) -> Sequence[Recording]:
    """Those of this node that are not ended, oldest first: after a start, what a crash cut off."""
    return await _all(tx, _table.c.node_id == node_id, _table.c.state == "recording")


async def ended_on(tx: Transaction, node_id: str, *, after: str, limit: int) -> Sequence[Recording]:
    """Those of this node that nobody writes to, by id, from behind `after` on."""
    c = _table.c
    where = (c.node_id == node_id, c.state != "recording", c.id > after)
    return [Recording(**row) for row in await tx.all(select(_table).where(*where).order_by(c.id).limit(limit))]


async def overlapping(tx: Transaction, project_id: str, room: str, since: float, until: float) -> Sequence[Recording]:
    """Of a room (all publishers in it), with anything between these instants (wallclock), oldest first."""
    return await _all(tx, _table.c.project_id == project_id, _table.c.room == room, *between(since, until))


def between(since: float | None, until: float | None) -> list[ColumnElement[bool]]:
    """Anything of it lies between these instants (wallclock)."""
    c = _table.c
    where: list[ColumnElement[bool]] = [c.started_at < until] if until is not None else []
    return where if since is None else [*where, c.ended_at.is_(None) | (c.ended_at > since)]


async def page(
    tx: Transaction, project_id: str | None, choice: Choice = ALL, *, limit: int, offset: int = 0
) -> tuple[Sequence[Recording], int]:
    """Newest first, and how many there are in all. `project_id` None: of all projects."""
    c = _table.c
    where = between(choice.since, choice.until)
    where += [c.project_id == project_id] if project_id is not None else []
    where += [c.room == choice.room] if choice.room else []
    where += [c.state == choice.state] if choice.state else []
    where += [c.reason == choice.reason] if choice.reason else []
    rows = await tx.all(select(_table).where(*where).order_by(c.started_at.desc(), c.id.desc()).limit(limit).offset(offset))
    total = await tx.scalar(select(func.count()).select_from(_table).where(*where))
    return [Recording(**row) for row in rows], int(total or 0)


async def _all(tx: Transaction, *where: ColumnElement[bool]) -> Sequence[Recording]:
    rows = await tx.all(select(_table).where(*where).order_by(_table.c.started_at, _table.c.id))
    return [Recording(**row) for row in rows]
