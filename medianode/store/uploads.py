"""Upload: a file on its way to a bucket, and what of it is there already. Its row goes once the file is there and was verified."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import RowMapping, Select, delete, func, insert, or_, select, update

from medianode.store import recording_files, schema
from medianode.store.database import Transaction
from medianode.store.recording_files import RecordingFile

_table = schema.uploads
_files = schema.recording_files
_recordings = schema.recordings
WAITING = ("pending", "uploading", "failed")
"""`upload_state` of recordings that are to be in the bucket and are not yet whole there."""
FAR = 7200.0
"""Seconds: a next attempt further ahead than this was written by a clock that was wrong."""


@dataclass(frozen=True, slots=True)
class PartSent:
    """A part that the service acknowledged; digests hexadecimal, of the bytes that were sent."""

    number: int
    etag: str
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """`upload_id`: of a multipart upload that has begun, or empty. `next_at`, `created_at`: wallclock. `error`: of the last attempt."""

    file_id: int
    project_id: str
    node_id: str
    bucket: str = ""
    key: str = ""
    upload_id: str = ""
    parts: Sequence[PartSent] = field(default_factory=tuple)
    attempts: int = 0
    next_at: float = 0.0
    error: str = ""
    created_at: float


@dataclass(frozen=True, slots=True)
class Queue:
    """Of a project: `files` and their `nbytes` that wait or are on their way; the `oldest` since when (wallclock)."""

    files: int
    nbytes: int
    oldest: float | None


async def add(tx: Transaction, upload: Upload) -> None:
    """Where there is none of this file yet."""
    if await find(tx, upload.file_id) is None:
        await tx.change(insert(_table).values(file_id=upload.file_id, **_values(upload)))


async def find(tx: Transaction, file_id: int) -> Upload | None:
    row = await tx.first(select(_table).where(_table.c.file_id == file_id))
    return None if row is None else _upload(row)


async def change(tx: Transaction, file_id: int, **values: Any) -> bool:
    """Write these columns only. False if there is no such upload any more."""
    if "parts" in values:
        values["parts"] = _parts(values["parts"])
    return await tx.change(update(_table).where(_table.c.file_id == file_id).values(**values)) > 0


async def remove(tx: Transaction, file_id: int) -> bool:
    return await tx.change(delete(_table).where(_table.c.file_id == file_id)) > 0


async def due(
    tx: Transaction, node_id: str, now: float, *, busy: Collection[int], blocked: Collection[str], per_project: int
) -> list[Upload]:
    """The oldest of each project that may go now, projects in turn. `busy`: files that go already. `blocked`: projects whose service is
    away. `now`: wallclock."""
    c = _table.c
    ripe = (c.node_id == node_id, or_(c.next_at <= now, c.next_at > now + FAR), c.file_id.not_in(list(busy)))
    found: list[list[Upload]] = []
    for row in await tx.all(select(c.project_id).where(*ripe, c.project_id.not_in(list(blocked))).distinct()):
        mine = select(_table).where(*ripe, c.project_id == row["project_id"]).order_by(c.created_at, c.file_id).limit(per_project)
        found.append([_upload(each) for each in await tx.all(mine)])
    return [uploads[i] for i in range(per_project) for uploads in found if i < len(uploads)]


async def unlisted(tx: Transaction, node_id: str, limit: int, recording_id: str | None = None) -> Sequence[RecordingFile]:
    """Closed files of recordings that are to be uploaded from this node, for which there is no upload yet. Without their parts."""
    where = [_recordings.c.node_id == node_id, _recordings.c.upload_state.in_(WAITING)]
    where += [_recordings.c.id == recording_id] if recording_id is not None else []
    statement: Select[Any] = (
        select(*recording_files.LIGHT)
        .join_from(_files, _recordings, _files.c.recording_id == _recordings.c.id)
        .outerjoin(_table, _table.c.file_id == _files.c.id)
        .where(*where, _files.c.state == "closed", _files.c.uploaded_at.is_(None), _table.c.file_id.is_(None))
        .order_by(_files.c.id)
        .limit(limit)
    )
    return [recording_files.of_row(row) for row in await tx.all(statement)]


async def any_left(tx: Transaction, node_id: str) -> bool:
    return await tx.first(select(_table.c.file_id).where(_table.c.node_id == node_id).limit(1)) is not None


async def complete(tx: Transaction, node_id: str, limit: int) -> Sequence[tuple[str, str]]:
    """Recordings of this node (id, project) that have ended, are to be in the bucket and have no file left that is not. Oldest first."""
    c = _recordings.c
    left = select(_files.c.id).where(_files.c.recording_id == c.id, _files.c.state != "gone", _files.c.uploaded_at.is_(None)).exists()
    there = select(_files.c.id).where(_files.c.recording_id == c.id, _files.c.uploaded_at.is_not(None)).exists()
    where = (c.node_id == node_id, c.upload_state.in_(WAITING), c.state != "recording", there, ~left)
    rows = await tx.all(select(c.id, c.project_id).where(*where).order_by(c.started_at).limit(limit))
    return [(row["id"], row["project_id"]) for row in rows]


async def queue(tx: Transaction, project_id: str) -> Queue:
    statement = (
        select(func.count().label("files"), func.sum(_files.c.nbytes).label("nbytes"), func.min(_table.c.created_at).label("oldest"))
        .join_from(_table, _files, _table.c.file_id == _files.c.id)
        .where(_table.c.project_id == project_id)
    )
    row = await tx.first(statement)
    assert row is not None
    return Queue(int(row["files"]), int(row["nbytes"] or 0), row["oldest"])


async def of_recording(tx: Transaction, recording_id: str) -> Sequence[tuple[RecordingFile, Upload]]:
    """Those on their way, in the order of the files."""
    statement = (
        select(_table).join_from(_table, _files, _table.c.file_id == _files.c.id).where(_files.c.recording_id == recording_id)
    ).order_by(_files.c.sequence)
    uploads = {row["file_id"]: _upload(row) for row in await tx.all(statement)}
    files = await recording_files.of_recording(tx, recording_id, parts=False)
    return [(file, uploads[file.id]) for file in files if file.id in uploads]


async def hurry(tx: Transaction, recording_id: str) -> None:
    """Its files are due now."""
    ids = select(_files.c.id).where(_files.c.recording_id == recording_id)
    await tx.change(update(_table).where(_table.c.file_id.in_(ids)).values(next_at=0.0))


def _values(upload: Upload) -> dict[str, Any]:
    values = {name: getattr(upload, name) for name in _COLUMNS}
    values["parts"] = _parts(upload.parts)
    return values


def _parts(parts: Sequence[PartSent]) -> list[dict[str, Any]]:
    return [{"number": part.number, "etag": part.etag, "sha256": part.sha256} for part in parts]


def _upload(row: RowMapping) -> Upload:
    return Upload(**{**row, "parts": tuple(PartSent(part["number"], part["etag"], part["sha256"]) for part in row["parts"])})


_COLUMNS = [column.name for column in _table.columns if column.name != "file_id"]
