"""Library: finds recordings and their files: what the database has, what has just been closed, and what is being written."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from medianode import clock
from medianode.egress.playback.footage import Footage, Reel
from medianode.errors import LimitExceeded
from medianode.events import Bus, ProjectDeleted, RecordingEnded, RecordingFileChanged, RecordingStarted
from medianode.media.parts import Part
from medianode.store import recording_files, recordings
from medianode.store.database import Database
from medianode.store.recording_files import RecordingFile
from medianode.store.recordings import Recording

TTL_GROWING, TTL_FINISHED = 2.0, 5.0
"""Seconds that what the database said of a recording's files is believed; retention may take the oldest meanwhile."""
REELS = 64
LINGER = 60.0
"""Seconds after its end that a recording's files are remembered, for the rows to be written."""
SLACK = 0.5
"""Seconds by which two files may overlap that follow each other."""
MOST_FILES = 50_000
"""Of one span of a room: some thirty days."""


class OpenFile(Protocol):
    """What is on disk of the file that a recording is in: `egress.recorder`."""

    @property
    def path(self) -> Path: ...
    @property
    def parts(self) -> Sequence[Part]: ...
    @property
    def init(self) -> bytes: ...
    @property
    def sequence(self) -> int: ...
    @property
    def started_at(self) -> float: ...
    @property
    def start(self) -> int: ...
    @property
    def gap(self) -> str: ...


class Recorder(Protocol):
    """As egress.recorder.service has it."""

    def live(self, recording_id: str) -> OpenFile | None: ...
    def on_parts(self, recording_id: str, call: Callable[[], None]) -> Callable[[], None]: ...


@dataclass(slots=True)
class _Running:
    """One that began in this process. `closed`: its files that are complete, until the database has them."""

    started: RecordingStarted
    closed: dict[int, Footage] = field(default_factory=dict)
    ended_at: float | None = None


class Library:
    """All raise StorageError while the database is away."""

    def __init__(self, database: Database, bus: Bus, recorder: Recorder) -> None:
        self._db = database
        self._recorder = recorder
        self._running: dict[str, _Running] = {}
        self._known: OrderedDict[str, tuple[float, Recording, tuple[Footage, ...]]] = OrderedDict()
        bus.subscribe(RecordingStarted, self._started)
        bus.subscribe(RecordingFileChanged, self._file_changed)
        bus.subscribe(RecordingEnded, self._ended)
        bus.subscribe(ProjectDeleted, lambda _: self._known.clear())

    def growing(self, recording_id: str) -> bool:
        running = self._running.get(recording_id)
        return running is not None and running.ended_at is None

    def forget(self, recording_id: str) -> None:
        """What the database says is asked for anew."""
        self._known.pop(recording_id, None)

    def tend(self, now: float) -> None:
        """Once in a while: what the database has by now is not kept twice."""
        wall = clock.wallclock()
        for recording_id, running in tuple(self._running.items()):
            if running.ended_at is not None and now - running.ended_at > LINGER:
                del self._running[recording_id]
                continue
            for file in tuple(running.closed.values()):
                if wall - file.ended_at > LINGER:
                    del running.closed[file.sequence]
        for recording_id, (until, *_) in tuple(self._known.items()):
            if now > until:
                del self._known[recording_id]

    async def recording(self, recording_id: str) -> Recording | None:
        """Also one that began this moment, of which there is no row yet."""
        known = self._known.get(recording_id)
        if known is not None and known[0] > clock.now():
            return known[1]
        async with self._db.read() as tx:
            found = await recordings.find(tx, recording_id)
        return found or self._unwritten(recording_id)

    async def reel(self, recording: Recording, since: float | None = None, until: float | None = None) -> Reel:
        """With the files that have anything between these instants (wallclock)."""
        known = self._known.get(recording.id)
        if since is None or (known is not None and known[0] > clock.now()):
            return self._now(recording, await self._files(recording), since, until)
        # a minute of a month: its rows alone
        async with self._db.read() as tx:
            rows = await recording_files.of_recording(tx, recording.id, since=since, until=until)
        return self._now(recording, tuple(_footage(recording, row) for row in rows if _playable(row)), since, until)

    def _now(self, recording: Recording, files: tuple[Footage, ...], since: float | None, until: float | None) -> Reel:
        """What the rows say, and what they do not say yet."""
        growing = self.growing(recording.id)
        running = self._running.get(recording.id)
        if running is not None:
            there = {file.sequence for file in files}
            # what is older than the oldest row has been deleted
            oldest = min(there, default=0)
            fresh = [file for sequence, file in running.closed.items() if sequence not in there and sequence > oldest]
            open_file = self._recorder.live(recording.id) if growing else None
            if open_file is not None and open_file.sequence not in running.closed and open_file.sequence not in there:
                fresh.append(_open(open_file))
            files = tuple(sorted((*files, *fresh), key=lambda file: file.sequence))
        if since is not None or until is not None:
            low, high = since if since is not None else float("-inf"), until if until is not None else float("inf")
            files = tuple(file for file in files if file.started_at < high and file.ended_at > low)
        return Reel(recording, files, growing)

    async def of_room(self, project_id: str, room: str, since: float, until: float, *, parts: bool) -> list[Reel]:
        """Of all its recordings, oldest first, what is between these instants (wallclock); clips are copies of what is there anyway, and
        left out. `parts`: with the files' indices. Raises LimitExceeded `span-too-long`.
        """
        async with self._db.read() as tx:
            found = list(await recordings.overlapping(tx, project_id, room, since, until))
            rows = await recording_files.of_room(tx, project_id, room, since, until, limit=MOST_FILES + 1, parts=parts)
        if len(rows) > MOST_FILES:
            raise LimitExceeded(f"more than {MOST_FILES} files are there: ask for less with from and to", code="span-too-long")
        there = {recording.id for recording in found}
        for recording_id, running in self._running.items():
            started = running.started
            unwritten = (started.project_id, started.room) == (project_id, room) and recording_id not in there and started.at < until
            if unwritten and running.ended_at is None and (made := self._unwritten(recording_id)) is not None:
                found.append(made)
        files: dict[str, list[Footage]] = {}
        owners = {recording.id: recording for recording in found if recording.reason != "clip"}
        for row in rows:
            if row.recording_id in owners and _playable(row):
                files.setdefault(row.recording_id, []).append(_footage(owners[row.recording_id], row))
        return [self._now(recording, tuple(files.get(recording.id, ())), since, until) for recording in owners.values()]

    async def page(self, project_id: str, since: float, until: float, *, limit: int) -> Sequence[Recording]:
        """Of all rooms of a project, newest first."""
        async with self._db.read() as tx:
            return (await recordings.page(tx, project_id, since=since, until=until, limit=limit))[0]

    async def _files(self, recording: Recording) -> tuple[Footage, ...]:
        now = clock.now()
        known = self._known.get(recording.id)
        if known is not None and known[0] > now:
            return known[2]
        async with self._db.read() as tx:
            rows = await recording_files.of_recording(tx, recording.id)
            row = await recordings.find(tx, recording.id)
        files = tuple(_footage(recording, row) for row in rows if _playable(row))
        running = self._running.get(recording.id)
        if running is not None:
            for file in files:
                running.closed.pop(file.sequence, None)
        ttl = TTL_GROWING if self.growing(recording.id) else TTL_FINISHED
        self._known[recording.id] = (now + ttl, row or recording, files)
        self._known.move_to_end(recording.id)
        while len(self._known) > REELS:
            self._known.popitem(last=False)
        return files

    def _started(self, event: RecordingStarted) -> None:
        self._running[event.recording_id] = _Running(event)

    def _file_changed(self, event: RecordingFileChanged) -> None:
        running = self._running.get(event.recording_id)
        if running is not None and event.closed:
            path = Path(running.started.directory) / event.name
            running.closed[event.sequence] = Footage(
                path,
                event.sequence,
                event.started_at,
                event.start,
                event.duration,
                event.nbytes,
                event.init_bytes,
                event.gap,
                index=event.index,
            )

    def _ended(self, event: RecordingEnded) -> None:
        running = self._running.get(event.recording_id)
        if running is not None:
            running.ended_at = clock.now()

    def _unwritten(self, recording_id: str) -> Recording | None:
        running = self._running.get(recording_id)
        if running is None:
            return None
        at = running.started
        return Recording(
            id=recording_id,
            project_id=at.project_id,
            room=at.room,
            identity=at.identity,
            ingress_id=at.ingress_id,
            reason=at.reason,
            node_id="",
            directory=at.directory,
            title=at.title,
            labels=dict(at.labels),
            started_at=at.at,
        )


def _playable(row: RecordingFile) -> bool:
    return row.state == "closed" or bool(row.remote_key)


def _footage(recording: Recording, row: RecordingFile) -> Footage:
    return Footage(
        Path(recording.directory) / row.name,
        row.sequence,
        row.started_at,
        row.start,
        row.duration,
        row.nbytes,
        row.init_bytes,
        row.gap,
        here=row.state != "gone",
        remote_key=row.remote_key,
        index=row.parts,
    )


def _open(file: OpenFile) -> Footage:
    parts = tuple(file.parts)
    last = parts[-1] if parts else None
    return Footage(
        file.path,
        file.sequence,
        file.started_at,
        file.start,
        last.start + last.duration - file.start if last else 0,
        last.offset + last.size if last else len(file.init),
        len(file.init),
        file.gap,
        closed=False,
        listed=parts,
    )


def merged(reels: Sequence[Reel]) -> list[tuple[Reel, Footage]]:
    """Files of several recordings of one room as one timeline: where they overlap, the room's own recording goes before a publisher's, and
    the one that began first before others.
    """
    taken: list[tuple[float, float, int]] = []
    chosen: list[tuple[Reel, Footage]] = []
    for reel in sorted(reels, key=lambda reel: (bool(reel.recording.identity), reel.recording.started_at, reel.recording.id)):
        free = [file for file in reel.files if not _overlaps(file, taken)]
        for file in free:
            insort(taken, (file.started_at, file.ended_at, len(chosen)))
            chosen.append((reel, file))
    return [chosen[number] for *_, number in taken]


def _overlaps(file: Footage, taken: Sequence[tuple[float, float, int]]) -> bool:
    """By more than what clocks and rounding make of two that follow each other. `taken`: sorted, and free of overlaps itself."""
    at = bisect_left(taken, (file.started_at,))
    return any(min(file.ended_at, high) - max(file.started_at, low) > SLACK for low, high, _ in taken[max(0, at - 1) : at + 2])
