"""Clips: some seconds around an event as a recording of their own, which retention of the long one does not take away."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from medianode import clock
from medianode.control import audit, disk
from medianode.control.recording_facts import recording_fact
from medianode.control.recording_places import RecordingPlaces
from medianode.control.recordings import Recordings, Wanted
from medianode.egress.recorder.file import LiveFile, name
from medianode.egress.recorder.filesystem import Disk
from medianode.errors import Conflict, InvalidRequest, NotFound, StorageError
from medianode.media.names import room_name, shown
from medianode.media.parts import pack
from medianode.store import projects, recording_files
from medianode.store import recordings as table
from medianode.store.database import Database
from medianode.store.projects import Project
from medianode.store.recording_files import RecordingFile
from medianode.store.recordings import Recording
from medianode.tasks import guard, whole
from medianode.webhooks.outbox import announce

NO_LINKS = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOTSUP)
"""What a file system says that keeps no second name of a file, or not there: the bytes are copied then."""
CHUNK = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Around:
    """`before` and `after` now, seconds."""

    before: float
    after: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Between:
    """Of what is recorded, wallclock; `recording_id`: of this recording, empty: of the one that has most of it."""

    since: float
    until: float
    recording_id: str = ""


@dataclass(frozen=True, slots=True)
class _Piece:
    """A file of the clip to be: a second name of `source`, or its first `prefix` bytes."""

    source: Path
    row: RecordingFile
    prefix: int = 0


class Clips:
    """`preroll`: config.recording.preroll, what rings of rooms keep; `longest`: limits.clip_seconds. `live` is set with the recorder."""

    def __init__(
        self, db: Database, recordings: Recordings, places: RecordingPlaces, *, node_id: str, preroll: float, longest: float
    ) -> None:
        self._db = db
        self._recordings = recordings
        self._places = places
        self._node_id = node_id
        self._preroll = preroll
        self._longest = longest
        self.live: Callable[[str], LiveFile | None] = lambda recording_id: None

    async def around(self, project: Project, wanted: Wanted, span: Around) -> Recording:
        """Begins now, in the past as far as the room's ring reaches, and ends `after` seconds from now by itself.

        Raises as `Recordings.start`, InvalidRequest.
        """
        self._check_length(span.before + span.after)
        if span.before > self._preroll:
            raise InvalidRequest(
                f"before: expected at most {self._preroll:g} s, which is recording.preroll of this node, got {span.before:g}; "
                "of what is recorded a clip is made by from and to"
            )
        # a moment at least: an end in the same turn as the start would be an end before the first picture
        after = max(span.after, 0.5)
        return await self._recordings.start(project, replace(wanted, reason="clip", preroll=span.before, max_duration=after))

    async def between(self, project: Project, wanted: Wanted, span: Between) -> Recording:
        """Of what is recorded already: no second is recorded again, the clip's files are further names of those that there are.

        Raises InvalidRequest, NotFound (`nothing-recorded`), Conflict (`other-node`), NotEnabled, StorageError.
        """
        if span.until <= span.since:
            raise InvalidRequest("to: expected an instant behind from")
        self._check_length(span.until - span.since)
        room = room_name(project.slug, wanted.room)
        source, files = await self._source(project.id, room, wanted.identity, span)
        order = self._places.order(
            project,
            room,
            identity=source.identity,
            ingress_id=source.ingress_id,
            reason="clip",
            title=wanted.title,
            labels=wanted.labels,
        )
        pieces = self._pieces(source, files, order.recording_id)
        if not pieces:
            raise NotFound(f"room {room}: nothing is recorded between these instants", code="nothing-recorded")
        rows = [piece.row for piece in pieces]
        since, until = max(span.since, rows[0].started_at), min(span.until, rows[-1].started_at + rows[-1].duration / 1_000_000)
        clip = Recording(
            id=order.recording_id,
            project_id=project.id,
            room=room,
            identity=source.identity,
            ingress_id=source.ingress_id,
            reason="clip",
            state="finished",
            node_id=self._node_id,
            directory=str(order.directory),
            title=order.title,
            labels=dict(order.labels),
            started_at=since,
            ended_at=until,
            duration=round((until - since) * 1_000_000),
            nbytes=sum(row.nbytes for row in rows),
            pinned=wanted.pinned,
            upload_state="none",
        )
        await whole(self._make(order.directory, pieces, clip))
        await guard("sidecar", self._recordings.note(clip.id))  # the clip stands, whatever becomes of that
        return clip

    async def began(self, project_id: str, recording_id: str) -> float:
        """When this recording began, wallclock. Raises NotFound."""
        return (await self._recordings.get(project_id, recording_id)).started_at

    def _check_length(self, seconds: float) -> None:
        if not 0 < seconds <= self._longest:
            raise InvalidRequest(f"clip: expected more than 0 and at most {self._longest:g} s (limits.clip_seconds), got {seconds:g}")

    async def _source(self, project_id: str, room: str, identity: str, span: Between) -> tuple[Recording, Sequence[RecordingFile]]:
        """The recording that has most of it, the newest of those that have as much."""
        async with self._db.read() as tx:
            found = await table.overlapping(tx, project_id, room, span.since, span.until)
            chosen = [r for r in found if r.reason != "clip" and identity in ("", r.identity) and span.recording_id in ("", r.id)]
            if not chosen:
                which = f"recording {shown(span.recording_id)}" if span.recording_id else f"room {room}"
                raise NotFound(f"{which}: nothing is recorded between these instants", code="nothing-recorded")
            now = clock.wallclock()
            best = max(chosen, key=lambda r: (min(span.until, r.ended_at or now) - max(span.since, r.started_at), r.started_at))
            if best.node_id != self._node_id:
                raise Conflict(f"recording {best.id} is on node {best.node_id}: ask that one for the clip", code="other-node")
            return best, await recording_files.of_recording(tx, best.id, since=span.since, until=span.until)

    def _pieces(self, source: Recording, files: Sequence[RecordingFile], clip_id: str) -> list[_Piece]:
        """Closed files whole, of the open one what is on the disk."""
        found: list[_Piece] = []
        for file in files:
            path = Path(source.directory) / file.name
            sequence = len(found) + 1
            row = replace(file, id=0, recording_id=clip_id, sequence=sequence, name=name(sequence), gap=file.gap if found else "")
            row = replace(row, remote_key="", uploaded_at=None, sha256=None)
            if file.state == "closed":
                found.append(_Piece(path, row))
            elif file.state == "open" and (live := self.live(source.id)) is not None and live.path == path and live.parts:
                row = replace(row, state="closed", nbytes=live.nbytes, duration=live.duration, parts=pack(live.parts))
                found.append(_Piece(path, row, prefix=live.nbytes))
        return found

    async def _make(self, directory: Path, pieces: Sequence[_Piece], clip: Recording) -> None:
        """The files first: rows without files would be a playlist that does not play. Raises StorageError."""
        async with AsyncExitStack() as unless_done:
            # it has no row: what cannot be unlinked now is found by the next start
            unless_done.push_async_callback(asyncio.to_thread, disk.unlink, (directory,))
            try:
                await asyncio.to_thread(_link, directory, pieces)
            except OSError as e:
                raise StorageError(f"the clip's files cannot be made: {os.strerror(e.errno or 0)}", code="clip-not-made") from None
            async with self._db.write() as tx:
                if not await projects.hold(tx, (clip.project_id,)):
                    raise NotFound("this project was deleted")
                await table.insert_recording(tx, clip)
                for piece in pieces:
                    await recording_files.put(tx, piece.row)
                await audit.record(tx, "clip.created", clip.id, clip.project_id, room=clip.room)
                await announce(tx, recording_fact("recording.finished", clip, clock.wallclock()))
            unless_done.pop_all()


def _link(directory: Path, pieces: Sequence[_Piece]) -> None:
    """On the disk when this returns. Raises OSError."""
    place = Disk()
    place.make_directories(directory, durable=True)
    for piece in pieces:
        target = directory / piece.row.name
        if piece.prefix:
            _copy(piece.source, place.create(target), piece.prefix)
            continue
        try:
            os.link(piece.source, target)
        except OSError as e:
            if e.errno not in NO_LINKS:
                raise
            _copy(piece.source, place.create(target), piece.row.nbytes)
    place.sync_directory(directory)


def _copy(source: Path, made: int, nbytes: int) -> None:
    """Its first bytes, on the disk when this returns. `made`: descriptor of the copy, which is closed. Raises OSError."""
    with os.fdopen(made, "wb") as write, source.open("rb") as read:
        left = nbytes
        while left:
            chunk = read.read(min(left, CHUNK))
            if not chunk:
                raise OSError(errno.EIO, "the file is shorter than its index")
            write.write(chunk)
            left -= len(chunk)
        write.flush()
        os.fsync(write.fileno())
