"""RecordingFile: one fragmented MP4 of a recording: about a minute between key frames, or up to a change of codec or a gap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import RowMapping, delete, insert, select, update

from medianode.store import schema
from medianode.store.database import Transaction, storable

_table = schema.recording_files
_LIGHT = [column for column in _table.columns if column.name != "parts"]


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
    values = {name: getattr(file, name) for name in _COLUMNS}
    values["tracks"] = [dict(track) for track in file.tracks]
    where = (_table.c.recording_id == file.recording_id, _table.c.sequence == file.sequence)
    known = {name: value for name, value in values.items() if name not in ("remote_key", "uploaded_at")}
    if not await tx.change(update(_table).where(*where).values(**known)):
        await tx.change(insert(_table).values(**values))


async def change(tx: Transaction, file_id: int, **values: Any) -> bool:
    """Write these columns only. False if there is no such file any more."""
    return await tx.change(update(_table).where(_table.c.id == file_id).values(**values)) > 0


async def remove(tx: Transaction, file_id: int) -> bool:
    return await tx.change(delete(_table).where(_table.c.id == file_id)) > 0


async def find(tx: Transaction, file_id: int) -> RecordingFile | None:
    row = await tx.first(select(_table).where(_table.c.id == file_id))
    return None if row is None else _file(row)


async def of_recording(
    tx: Transaction, recording_id: str, *, since: float | None = None, until: float | None = None, parts: bool = True
) -> Sequence[RecordingFile]:
    """In order. `since`, `until`: only files with anything between these instants (wallclock). `parts`: with their packed index."""
    if not storable(recording_id):
        return []
    c = _table.c
    where = [c.recording_id == recording_id]
    where += [c.started_at < until] if until is not None else []
    where += [c.started_at + c.duration / 1_000_000.0 > since] if since is not None else []
    columns = list(_table.columns) if parts else _LIGHT
    return [_file(row) for row in await tx.all(select(*columns).where(*where).order_by(c.sequence))]


def _file(row: RowMapping) -> RecordingFile:
    return RecordingFile(**{**row, "tracks": tuple(row["tracks"])})


_COLUMNS = [column.name for column in _table.columns if column.name != "id"]
