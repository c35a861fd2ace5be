"""KeptFile: a recorded file that is on a node's disk, as retention sees it; how much there is of them, and which is the oldest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import ColumnElement, RowMapping, Select, func, or_, select

from medianode.store import schema
from medianode.store.database import Transaction

_files, _recordings = schema.recording_files, schema.recordings
_COLUMNS = (
    _files.c.id,
    _files.c.recording_id,
    _files.c.project_id,
    _files.c.sequence,
    _files.c.name,
    _files.c.started_at,
    _files.c.duration,
    _files.c.nbytes,
    _files.c.remote_key,
    _recordings.c.directory,
    _recordings.c.room,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptFile:
    """`duration` is microseconds, `started_at` wallclock. `remote_key`: where it is in the bucket too, or empty."""

    id: int
    recording_id: str
    project_id: str
    sequence: int
    name: str
    started_at: float
    duration: int
    nbytes: int
    remote_key: str
    directory: str
    room: str

    @property
    def path(self) -> Path:
        return Path(self.directory) / self.name

    @property
    def ended_at(self) -> float:
        """Wallclock."""
        return self.started_at + self.duration / 1_000_000


@dataclass(frozen=True, slots=True)
class Usage:
    """What a project has on a node. `oldest`: wallclock of the first sample kept."""

    project_id: str
    files: int
    nbytes: int
    oldest: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Which of the closed, unpinned files of a node: of one project or of all, below `root` (a directory) or anywhere, that ended before
    `ended_before`. `uploaded`: those that are in a bucket, only; False: those that wait for an upload are passed over; None: all.
    """

    node_id: str
    project_id: str | None = None
    root: str = ""
    ended_before: float | None = None
    uploaded: bool | None = False


async def oldest(tx: Transaction, choice: Choice, limit: int, *, after: tuple[float, int] | None = None) -> Sequence[KeptFile]:
    """Oldest first. `after`: from behind the file with this beginning and id."""
    c = _files.c
    where: list[ColumnElement[bool]] = [c.state == "closed", _recordings.c.node_id == choice.node_id, _recordings.c.pinned.is_(False)]
    where += [c.project_id == choice.project_id] if choice.project_id is not None else []
    where += [_below(choice.root)] if choice.root else []
    where += [c.started_at >= after[0], or_(c.started_at > after[0], c.id > after[1])] if after is not None else []
    where += [c.started_at + c.duration / 1_000_000.0 < choice.ended_before] if choice.ended_before is not None else []
    # the same once more, so that the index is enough to end the search
    where += [c.started_at < choice.ended_before] if choice.ended_before is not None else []
    if choice.uploaded:
        where.append(c.uploaded_at.is_not(None))
    elif choice.uploaded is not None:
        where.append(or_(c.uploaded_at.is_not(None), _recordings.c.upload_state.in_(("none", "done"))))
    rows = await tx.all(_joined().where(*where).order_by(c.started_at, c.id).limit(limit))
    return [_kept(row) for row in rows]


async def lock(tx: Transaction, file_ids: Sequence[int]) -> Sequence[KeptFile]:
    """Those of them that are closed still and not pinned; their recordings are not changed by others until this transaction ends."""
    if not file_ids:
        return []
    owners = select(_files.c.recording_id).where(_files.c.id.in_(list(file_ids)))
    await tx.all(select(_recordings.c.id).where(_recordings.c.id.in_(owners)).order_by(_recordings.c.id).with_for_update())
    where = (_files.c.id.in_(list(file_ids)), _files.c.state == "closed", _recordings.c.pinned.is_(False))
    return [_kept(row) for row in await tx.all(_joined().where(*where).order_by(_files.c.started_at, _files.c.id))]


async def usage(tx: Transaction, node_id: str, project_id: str | None = None) -> Sequence[Usage]:
    """By project, of what is on this node's disk (pinned ones too); `project_id`: of this one only."""
    where = [_files.c.state == "closed", _recordings.c.node_id == node_id]
    where += [_files.c.project_id == project_id] if project_id is not None else []
    statement = (
        select(
            _files.c.project_id,
            func.count().label("files"),
            func.sum(_files.c.nbytes).label("nbytes"),
            func.min(_files.c.started_at).label("oldest"),
        )
        .join_from(_files, _recordings, _files.c.recording_id == _recordings.c.id)
        .where(*where)
        .group_by(_files.c.project_id)
    )
    rows = await tx.all(statement)
    return [Usage(row["project_id"], int(row["files"]), int(row["nbytes"] or 0), float(row["oldest"])) for row in rows]


async def projects_on(tx: Transaction, node_id: str, roots: Sequence[str]) -> frozenset[str]:
    """Those that have recordings on this node below one of these directories, running ones too."""
    where = (_recordings.c.node_id == node_id, or_(*(_below(root) for root in roots)))
    rows = await tx.all(select(_recordings.c.project_id).where(*where).distinct())
    return frozenset(row["project_id"] for row in rows)


def _joined() -> Select[tuple[object, ...]]:
    return select(*_COLUMNS).join_from(_files, _recordings, _files.c.recording_id == _recordings.c.id)


def _below(root: str) -> ColumnElement[bool]:
    return _recordings.c.directory.startswith(f"{root.rstrip('/')}/", autoescape=True)


def _kept(row: RowMapping) -> KeptFile:
    return KeptFile(**row)
