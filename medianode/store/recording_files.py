"""RecordingFile: one fragmented MP4 of a recording: about a minute between key frames, or up to a change of codec or a gap."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, RowMapping, Select, case, delete, func, insert, null, or_, select, update

from medianode.store import recordings, schema
from medianode.store.database import Transaction, storable
from medianode.store.kept_files import KeptFile

_table = schema.recording_files
LONGEST = 7200.0
"""Seconds that no file is longer than: `recording.file_duration` is at most an hour, and a key frame is then waited for."""
PAGE = 500
"""Rows read at a time by those who read very many: between two pages the loop gets on with other things."""
LIGHT = [column for column in _table.columns if column.name != "parts"]
"""The index is most of a row."""
_end = _table.c.started_at + _table.c.duration / 1_000_000.0
_PLAYED = ("recording_id", "sequence", "name", "state", "started_at", "start", "duration", "nbytes", "init_bytes", "gap", "remote_key")


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordingFile:
    """`name`: below its recording's directory. `state`: `open`, `closed`, `gone` (here; it may be in a bucket: `remote_key`).

    `started_at`: wallclock of its first sample, `start` and `duration`: microseconds on the recording's timeline. `init_bytes`: of ftyp
    and moov. `tracks`: `{kind, codec, …}` each. `gap`: why the timeline breaks before it, or empty. `parts`: `media.parts.pack`ed, None
    while it is open, and where it was not asked for.
    """

    id: int = 0
    recording_id: str
    project_id: str
    sequence: int
    name: str
    state: str = "open"
    started_at: float
    start: int
    duration: int = 0
    nbytes: int = 0
    init_bytes: int = 0
    tracks: Sequence[Mapping[str, Any]] = field(default_factory=tuple)
    gap: str = ""
    parts: bytes | None = field(default=None, repr=False)
    sha256: bytes | None = field(default=None, repr=False)
    remote_key: str = ""
    uploaded_at: float | None = None


async def put(tx: Transaction, file: RecordingFile) -> None:
    """In place of what is known of this file (by recording and sequence); its `id` is kept, and where it is uploaded to."""
    values = _values(file)
    where = (_table.c.recording_id == file.recording_id, _table.c.sequence == file.sequence)
    known = {name: value for name, value in values.items() if name not in _OF_UPLOAD}
    if not await tx.change(update(_table).where(*where).values(**known)):
        await tx.change(insert(_table).values(**values))


async def insert_all(tx: Transaction, files: Collection[RecordingFile]) -> None:
    """Of a recording of which no file is known: a month's at once, while others wait to write."""
    if files:
        await tx.many(insert(_table), [_values(file) for file in files])


async def change(tx: Transaction, file_id: int, **values: Any) -> bool:
    """Write these columns only. False if there is no such file any more."""
    return await tx.change(update(_table).where(_table.c.id == file_id).values(**values)) > 0


async def remove(tx: Transaction, file_id: int) -> bool:
    return await tx.change(delete(_table).where(_table.c.id == file_id)) > 0


async def take_away(tx: Transaction, file: RecordingFile | KeptFile, gap: str) -> None:
    """It is on the disk no more. Of one that is in no bucket nothing is left, and the timeline breaks behind it: `gap` says why."""
    if file.remote_key:
        await change(tx, file.id, state="gone")
    else:
        await remove(tx, file.id)
        await break_behind(tx, file.recording_id, file.sequence, gap)


async def find(tx: Transaction, file_id: int) -> RecordingFile | None:
    row = await tx.first(select(_table).where(_table.c.id == file_id))
    return None if row is None else of_row(row)


async def of_recording(
    tx: Transaction,
    recording_id: str,
    *,
    since: float | None = None,
    until: float | None = None,
    sequence: int | None = None,
    parts: bool = True,
) -> Sequence[RecordingFile]:
    """In order, read in pages. `since`, `until`: only files with anything between these instants (wallclock). `sequence`: only that one.
    `parts`: with their packed index."""
    if not storable(recording_id):
        return []
    c = _table.c
    where = [c.recording_id == recording_id]
    where += [c.sequence == sequence] if sequence is not None else []
    where += [c.started_at < until] if until is not None else []
    # how long an open one is by now stands nowhere
    where += [(c.state == "open") | (_end > since)] if since is not None else []
    return await _in_pages(tx, select(*(_table.columns if parts else LIGHT)).where(*where))


async def in_bucket(tx: Transaction, recording_id: str) -> Sequence[RecordingFile]:
    """Those of a recording that are there, in order; of those that are nowhere else with their packed index."""
    index = case((_table.c.state == "gone", _table.c.parts)).label("parts")
    return await _in_pages(tx, select(*LIGHT, index).where(_table.c.recording_id == recording_id, _table.c.remote_key != ""))


async def first(tx: Transaction, recording_id: str) -> RecordingFile | None:
    """Without its index: what tells the tracks of them all."""
    c = _table.c
    row = await tx.first(select(*LIGHT).where(c.recording_id == recording_id).order_by(c.sequence).limit(1))
    return None if row is None else of_row(row)


class Played(NamedTuple):
    """What players need of a file: RecordingFile's, at a fifth of the cost of its row. `parts`: None where it was not asked for."""

    recording_id: str
    sequence: int
    name: str
    state: str
    started_at: float
    start: int
    duration: int
    nbytes: int
    init_bytes: int
    gap: str
    remote_key: str
    parts: bytes | None = None


async def played(
    tx: Transaction, recording_ids: Collection[str], since: float | None = None, until: float | None = None, *, most: int, parts: bool
) -> Sequence[Played]:
    """Of these recordings, by recording and sequence, with anything between these instants (wallclock); read in pages. The first `most`.
    `parts`: with their packed index."""
    c = _table.c
    between = [c.started_at < until] if until is not None else []
    if since is not None:
        # the first of the two is what an index can do
        between += [c.started_at >= since - LONGEST, (c.state == "open") | (_end > since)]
    columns = [*(c[name] for name in _PLAYED), c.parts if parts else null()]
    statement = select(*columns).where(*between).order_by(c.recording_id, c.started_at, c.sequence).limit(PAGE)
    waiting, found, last = list(recording_ids), list[Played](), None
    behind: list[ColumnElement[bool]]
    while waiting and len(found) < most:
        some = waiting[: PAGE if last is None else 1]
        behind = [] if last is None else [c.started_at >= last.started_at, (c.started_at > last.started_at) | (c.sequence > last.sequence)]
        page = [Played._make(row) for row in await tx.tuples(statement.where(c.recording_id.in_(some), *behind))]
        found += page
        last = page[-1] if len(page) == PAGE else None
        # in which order ids come is the database's matter
        done = set(some) if last is None else {row.recording_id for row in page}
        waiting = [*([] if last is None else [last.recording_id]), *(each for each in waiting if each not in done)]
        await asyncio.sleep(0)
    return sorted(found[:most], key=lambda file: (file.recording_id, file.sequence))


async def count(tx: Transaction, recording_id: str) -> tuple[int, int]:
    """How many files of it are here, and their bytes."""
    where = (_table.c.recording_id == recording_id, _table.c.state != "gone")
    row = await tx.first(select(func.count().label("files"), func.sum(_table.c.nbytes).label("nbytes")).where(*where))
    assert row is not None
    return int(row["files"]), int(row["nbytes"] or 0)


class Left(NamedTuple):
    """What there is to play of a recording, on the disk or in a bucket, without a file that is open. Microseconds, bytes; `since`:
    wallclock of the first sample, of the open file where there is no other."""

    duration: int
    nbytes: int
    since: float


async def left(tx: Transaction, recording_ids: Collection[str]) -> Mapping[str, Left]:
    """By recording; those without any file are not in it."""
    c = _table.c
    closed = case((c.state == "open", 0), else_=1)
    statement = (
        select(
            c.recording_id,
            func.sum(c.duration * closed).label("duration"),
            func.sum(c.nbytes * closed).label("nbytes"),
            func.min(c.started_at).label("since"),
        )
        .where(c.recording_id.in_(list(recording_ids)), or_(c.state != "gone", c.uploaded_at.is_not(None)))
        .group_by(c.recording_id)
    )
    rows = await tx.all(statement)
    return {row["recording_id"]: Left(int(row["duration"] or 0), int(row["nbytes"] or 0), float(row["since"])) for row in rows}


class Edge(NamedTuple):
    """Where a recording begins and ends between two instants. Wallclock: `first_at`: of the first file with anything in between,
    `last_until`: the end of the last, which is still open where `last_state` is. `here_from`: before it is in a bucket only (None: all)."""

    recording_id: str
    identity: str
    first_at: float
    last_until: float
    last_state: str
    here_from: float | None


class Break(NamedTuple):
    """A file that the timeline breaks before, and why; `before`: the end of the file before it. Wallclock."""

    recording_id: str
    started_at: float
    gap: str
    before: float | None


async def edges(tx: Transaction, project_id: str, room: str, since: float, until: float, limit: int) -> Sequence[Edge]:
    """Of the recordings of a room with anything between these instants, by their beginnings. The first `limit`."""
    c, owner = _table.c, schema.recordings.c
    mine = (c.recording_id == owner.id, c.started_at < until)
    inside = select(func.max(c.started_at)).where(*mine, c.started_at <= since, (c.state == "open") | (_end > since)).scalar_subquery()
    behind = select(func.min(c.started_at)).where(*mine, c.started_at > since).scalar_subquery()
    last = select(c.started_at).where(*mine).order_by(c.started_at.desc()).limit(1)
    edge = (func.coalesce(inside, behind).label("first_at"), last.scalar_subquery().label("last_at"))
    of_room = (owner.project_id == project_id, owner.room == room, *recordings.between(since, until))
    found = select(owner.id.label("recording_id"), owner.identity, *edge).where(*of_room).subquery()
    kept = _table.alias()
    here = select(func.min(kept.c.started_at)).where(kept.c.recording_id == found.c.recording_id, kept.c.state != "gone").scalar_subquery()
    f = found.c
    statement = (
        select(f.recording_id, f.identity, f.first_at, _end.label("last_until"), c.state.label("last_state"), here.label("here_from"))
        .join_from(found, _table, (c.recording_id == f.recording_id) & (c.started_at == f.last_at))
        .where(f.first_at.is_not(None))
        .order_by(f.first_at, f.recording_id)
        .limit(limit)
    )
    return [Edge(**row) for row in await tx.all(statement)]


async def breaks(tx: Transaction, project_id: str, room: str, since: float, until: float, limit: int) -> Sequence[Break]:
    """Of a room's files begun between these instants, by recording and time. The first `limit`."""
    c, owner, other = _table.c, schema.recordings.c, _table.alias()
    end = other.c.started_at + other.c.duration / 1_000_000.0
    earlier = (other.c.recording_id == c.recording_id, other.c.started_at < c.started_at)
    before = select(end).where(*earlier).order_by(other.c.started_at.desc()).limit(1).scalar_subquery()
    of_room = select(owner.id).where(owner.project_id == project_id, owner.room == room, *recordings.between(since, until))
    where = (c.recording_id.in_(of_room), c.gap != "", c.started_at > since, c.started_at < until)
    statement = select(c.recording_id, c.started_at, c.gap, before.label("before")).where(*where)
    return [Break(**row) for row in await tx.all(statement.order_by(c.recording_id, c.started_at).limit(limit))]


async def break_behind(tx: Transaction, recording_id: str, sequence: int, gap: str) -> None:
    """A file that went, with one left before it: the timeline breaks before the next."""
    c = _table.c
    mine = c.recording_id == recording_id
    if await tx.first(select(c.id).where(mine, c.sequence < sequence).limit(1)) is None:
        return
    following = await tx.first(select(c.id, c.gap).where(mine, c.sequence > sequence).order_by(c.sequence).limit(1))
    if following is not None and not following["gap"]:
        await tx.change(update(_table).where(c.id == following["id"]).values(gap=gap))


async def totals(tx: Transaction, recording_id: str) -> tuple[int, int, float | None]:
    """Of its closed files: microseconds, bytes, and the end of the last (wallclock)."""
    c = _table.c
    ends = func.max(_end).label("ended_at")
    statement = select(func.sum(c.duration).label("duration"), func.sum(c.nbytes).label("nbytes"), ends)
    row = await tx.first(statement.where(c.recording_id == recording_id, c.state != "open"))
    assert row is not None
    return int(row["duration"] or 0), int(row["nbytes"] or 0), row["ended_at"]


async def any_of(tx: Transaction, recording_id: str) -> bool:
    """Has it any file, here or in a bucket?"""
    return await tx.first(select(_table.c.id).where(_table.c.recording_id == recording_id).limit(1)) is not None


async def names(tx: Transaction, recording_id: str) -> Mapping[str, tuple[int, str]]:
    """By name: the row's id and its state."""
    rows = await tx.all(select(_table.c.id, _table.c.name, _table.c.state).where(_table.c.recording_id == recording_id))
    return {row["name"]: (int(row["id"]), str(row["state"])) for row in rows}


async def _in_pages(tx: Transaction, statement: Select[Any]) -> Sequence[RecordingFile]:
    """Of one recording, in order."""
    found: list[RecordingFile] = []
    statement = statement.order_by(_table.c.sequence).limit(PAGE)
    while True:
        page = await tx.all(statement.where(_table.c.sequence > found[-1].sequence) if found else statement)
        found += map(of_row, page)
        if len(page) < PAGE:
            return found


def _values(file: RecordingFile) -> dict[str, Any]:
    values = {name: getattr(file, name) for name in _COLUMNS}
    return values | {"tracks": [dict(track) for track in file.tracks]}


def of_row(row: RowMapping) -> RecordingFile:
    return RecordingFile(**{**row, "tracks": tuple(row["tracks"])})


_COLUMNS = [column.name for column in _table.columns if column.name != "id"]
_OF_UPLOAD = frozenset({"sha256", "remote_key", "uploaded_at"})
