"""Recording ledger: what the recorder tells on the bus becomes rows and facts, in order, within a second or two of its happening."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import uuid4

from medianode import clock
from medianode.control.backlog import Backlog
from medianode.control.recording_facts import recording_fact
from medianode.control.recording_policy import policy_of
from medianode.control.writing import keep_writing
from medianode.events import Bus, RecordingEnded, RecordingEvent, RecordingFileChanged, RecordingStarted, RecordingTrouble
from medianode.store import outbox, projects, recording_files, recordings
from medianode.store.database import Database, Transaction
from medianode.store.projects import Project
from medianode.store.recording_files import RecordingFile
from medianode.store.recordings import Recording
from medianode.tasks import guard
from medianode.webhooks.outbox import announce

TRACK_FIELDS = ("kind", "codec", "width", "height", "rate", "channels")
"""Of a file's tracks in the database and in the API, in the order that the bus has them in."""

OnRecording = Callable[[Transaction, Recording], Awaitable[None]]
OnFile = Callable[[Transaction, Recording, RecordingFile], Awaitable[None]]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Change:
    event: RecordingEvent
    at: float
    fact_id: str = field(default_factory=lambda: str(uuid4()))


@dataclass(slots=True)
class _Sum:
    """Of the closed files of a running recording: microseconds, bytes."""

    duration: int = 0
    nbytes: int = 0


class RecordingLedger:
    """Listens from the start on; `serve` writes. `bound`: limits.unwritten_facts. `settle`: writes what sessions came to, told first.

    The hooks are awaited in the transaction of the change: `on_file` with each closed file (without its index), `on_end`, after its fact,
    with a recording that has ended, also where a crash ended it.
    """

    def __init__(self, db: Database, bus: Bus, node_id: str, bound: int, settle: Callable[[], Awaitable[None]]) -> None:
        self._db = db
        self._node_id = node_id
        self._settle = settle
        self._wake = asyncio.Event()
        self._backlog = Backlog("recordings", bound, self._write_together)
        self._sums: dict[str, _Sum] = {}
        self.on_file: OnFile | None = None
        self.on_end: OnRecording | None = None
        self.on_written: Callable[[str], Awaitable[None]] | None = None
        """After the commit of an end, with the recording's id."""
        bus.subscribe(RecordingEvent, self._happened)

    def __len__(self) -> int:
        """Changes that are not written yet."""
        return len(self._backlog)

    @property
    def lost(self) -> int:
        """Changes since the start that never will be: what they told is to be found on the disk."""
        return self._backlog.lost

    async def serve(self) -> None:
        """Write down what happens as it happens; runs until cancelled, and then writes the last of it.

        A database that cannot be written is tried again each second.
        """
        await keep_writing("recordings", self._wake, self.write, self.__len__, "the next start finds them on the disk")

    async def write(self) -> None:
        """What is not written yet. Raises StorageError; it is then still to be written."""
        await self._backlog.write()

    async def close(self, tx: Transaction, recording: Recording, code: str, message: str) -> None:
        """End one that nobody writes any more, whose files are closed: written down and told, in this transaction. Its row is locked."""
        duration, nbytes, ended_at = await recording_files.totals(tx, recording.id)
        about = (recording.id, recording.project_id, recording.room, recording.identity, recording.ingress_id)
        end = RecordingEnded(*about, ended_at or recording.started_at, duration, nbytes, code, message)
        await self._end(tx, end, _Change(end, clock.wallclock()))

    async def tell_start(self, tx: Transaction, recording: Recording) -> None:
        """Of one whose row came late: found on the disk, where the database was away as it began."""
        await self._tell(tx, "recording.started", recording, recording.started_at, str(uuid4()))

    async def put(self, tx: Transaction, recording: Recording, file: RecordingFile) -> None:
        """In place of what is known of this file; who waits for closed ones hears of it."""
        await recording_files.put(tx, file)
        if file.state == "closed" and self.on_file is not None:
            for row in await recording_files.of_recording(tx, recording.id, sequence=file.sequence, parts=False):
                await self.on_file(tx, recording, row)

    def _happened(self, event: RecordingEvent) -> None:
        if isinstance(event, RecordingFileChanged) and event.closed:
            total = self._sums.setdefault(event.recording_id, _Sum())
            total.duration += event.duration
            total.nbytes += event.nbytes
        elif isinstance(event, RecordingEnded):
            self._sums.pop(event.recording_id, None)
        self._backlog.add(_Change(event, clock.wallclock()))
        self._wake.set()

    async def _write_together(self, group: Sequence[_Change], in_doubt: bool) -> None:
        ended = [change.event.recording_id for change in group if isinstance(change.event, RecordingEnded)]
        if ended:
            await self._settle()  # the end of a session is told before what was recorded of it
        async with self._db.write() as tx:
            known = await outbox.known(tx, [change.fact_id for change in group]) if in_doubt else frozenset()
            there = await projects.hold(tx, {change.event.project_id for change in group})
            await recordings.lock(tx, {change.event.recording_id for change in group})
            for change in group:
                # of what is gone nothing is told; a file has no fact of its own, and is put as often as one likes
                if change.event.project_id in there and change.fact_id not in known:
                    await self._write(tx, change)
        if self.on_written is not None:
            for recording_id in ended:
                await guard("recording-written", self.on_written(recording_id))

    async def _write(self, tx: Transaction, change: _Change) -> None:
        match change.event:
            case RecordingStarted() as event:
                await self._start(tx, event, change)
            case RecordingFileChanged() as event:
                await self._file(tx, event)
            case RecordingTrouble() as event:
                await self._trouble(tx, event, change)
            case RecordingEnded() as event:
                await self._end(tx, event, change)

    async def _start(self, tx: Transaction, event: RecordingStarted, change: _Change) -> None:
        project = await projects.find(tx, event.project_id)
        if project is None or await recordings.find(tx, event.recording_id) is not None:
            return
        recording = _started(event, self._node_id, project)
        await recordings.insert_recording(tx, recording)
        await self._tell(tx, "recording.started", recording, change.at, change.fact_id)

    async def _file(self, tx: Transaction, event: RecordingFileChanged) -> None:
        recording = await recordings.find(tx, event.recording_id)
        if recording is None:
            return  # deleted meanwhile, or its start was lost: the next look at the disk decides
        total = self._sums.get(event.recording_id)
        if event.closed and total is not None and recording.state == "recording":
            await recordings.change(tx, recording.id, duration=total.duration, nbytes=total.nbytes)
        await self.put(tx, recording, _file(event))

    async def _trouble(self, tx: Transaction, event: RecordingTrouble, change: _Change) -> None:
        recording = await recordings.find(tx, event.recording_id, lock=True)
        if recording is not None and recording.state == "recording":
            message = _without_place(event.message, recording)
            await recordings.change(tx, recording.id, error_code=event.code, error_message=message)
            recording = replace(recording, error_code=event.code, error_message=message)
            await self._tell(tx, "recording.trouble", recording, change.at, change.fact_id)

    async def _end(self, tx: Transaction, event: RecordingEnded, change: _Change) -> None:
        recording = await recordings.find(tx, event.recording_id, lock=True)
        if recording is None or recording.state != "recording":
            return
        state = "failed" if event.code and not event.nbytes else "finished"
        told: dict[str, Any] = {"state": state, "ended_at": event.at, "duration": event.duration, "nbytes": event.nbytes}
        told |= {"error_code": event.code, "error_message": _without_place(event.message, recording)}
        await recordings.change(tx, recording.id, **told)
        recording = replace(recording, **told)
        await self._tell(tx, f"recording.{state}", recording, change.at, change.fact_id)
        if self.on_end is not None:
            await self.on_end(tx, recording)

    async def _tell(self, tx: Transaction, word: str, recording: Recording, at: float, fact_id: str) -> None:
        await announce(tx, replace(recording_fact(word, recording, at), id=fact_id))


def _started(event: RecordingStarted, node_id: str, project: Project) -> Recording:
    """Its row as it begins."""
    return Recording(
        id=event.recording_id,
        project_id=event.project_id,
        room=event.room,
        identity=event.identity,
        ingress_id=event.ingress_id,
        reason=event.reason,
        node_id=node_id,
        directory=event.directory,
        title=event.title,
        labels=dict(event.labels),
        started_at=event.at,
        upload_state="pending" if policy_of(project).upload else "none",
    )


def _without_place(message: str, recording: Recording) -> str:
    """Where on the node it is, is the operator's to know, who reads the log."""
    return message.replace(recording.directory, "the disk")


def _file(event: RecordingFileChanged) -> RecordingFile:
    return RecordingFile(
        recording_id=event.recording_id,
        project_id=event.project_id,
        sequence=event.sequence,
        name=event.name,
        state="closed" if event.closed else "open",
        started_at=event.started_at,
        start=event.start,
        duration=event.duration,
        nbytes=event.nbytes,
        init_bytes=event.init_bytes,
        tracks=shown_tracks(event.tracks),
        gap=event.gap,
        parts=event.index,
    )


def shown_tracks(tracks: Sequence[tuple[str, str, int, int, int, int]]) -> Sequence[dict[str, Any]]:
    """By name; what does not apply to a track (0) is left out."""
    return tuple({name: value for name, value in zip(TRACK_FIELDS, track, strict=True) if value} for track in tracks)
