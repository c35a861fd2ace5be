"""Library: finds recordings and their files: what the database has, what has just been closed, and what is being written."""

from __future__ import annotations

import asyncio
import re
from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Protocol
from weakref import WeakValueDictionary

from medianode import clock
from medianode.egress.playback.footage import Chosen, Footage, Reel
from medianode.errors import LimitExceeded
from medianode.events import Bus, ProjectDeleted, RecordingEnded, RecordingFileChanged, RecordingStarted
from medianode.media.parts import Part
from medianode.store import recording_files, recordings
from medianode.store.database import Database
from medianode.store.recording_files import Played, RecordingFile
from medianode.store.recordings import Choice, Recording

TTL_GROWING, TTL_FINISHED, TTL_MOST = 2.0, 5.0, 30.0
"""Seconds that what the database said of a recording's files is believed, longer where it was long in saying it; retention may take the
oldest meanwhile."""
SHARE = 20
"""A twentieth of the time, at the most, goes into asking for the files of a recording."""
REELS = 64
LINGER = 60.0
"""Seconds after its end that a recording's files are remembered, for the rows to be written."""
SLACK = 0.5
"""Seconds by which two files may overlap that follow each other."""
MOST_FILES = 50_000
"""Of one recording, or of one span of a room: some thirty days."""
_NAME = re.compile(r"\d{6,9}\.mp4", re.ASCII)


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
        self._asking: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        bus.subscribe(RecordingStarted, self._started)
        bus.subscribe(RecordingFileChanged, self._file_changed)
        bus.subscribe(RecordingEnded, self._ended)
        bus.subscribe(ProjectDeleted, lambda _: self._known.clear())

    def growing(self, recording_id: str) -> bool:
        running = self._running.get(recording_id)
        return running is not None and running.ended_at is None

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
        known = self._fresh(recording_id)
        if known is not None:
            return known[0]
        async with self._db.read() as tx:
            found = await recordings.find(tx, recording_id)
        return found or self._unwritten(recording_id)

    async def reel(self, recording: Recording, since: float | None = None, until: float | None = None) -> Reel:
        """With the files that have anything between these instants (wallclock)."""
        if since is None or self._fresh(recording.id) is not None:
            return self._now(recording, await self._files(recording), since, until)
        # a minute of a month: its rows alone
        async with self._db.read() as tx:
            rows = await recording_files.played(tx, [recording.id], since, until, most=MOST_FILES, parts=True)
        return self._now(recording, await _all(recording, rows), since, until)

    async def file(self, recording: Recording, name: str) -> Footage | None:
        """By its name: a player fetches many, and of a month's each is one row of 43 200."""
        known = self._fresh(recording.id)
        sequence = int(name.partition(".")[0]) if _NAME.fullmatch(name) else 0
        if known is not None:
            at = bisect_left(known[1], sequence, key=lambda file: file.sequence)
            files = known[1][at : at + 1]
        else:  # the row first: what was closed a moment ago may be in a bucket only by now
            async with self._db.read() as tx:
                row = await recording_files.of_recording(tx, recording.id, sequence=sequence, parts=False)
            files = _footage(recording, row)
        return next((file for file in self._now(recording, files, None, None).files if file.name == name), None)

    def _now(self, recording: Recording, files: tuple[Footage, ...], since: float | None, until: float | None) -> Reel:
        """What the rows say, in order, and what they do not say yet."""
        growing = self.growing(recording.id)
        running = self._running.get(recording.id)
        if running is not None:
            # rows are written in order: of what is missing before the last one the file has been deleted
            last = files[-1].sequence if files else 0
            fresh = [file for sequence, file in running.closed.items() if sequence > last]
            open_file = self._recorder.live(recording.id) if growing else None
            if open_file is not None and open_file.sequence > last and open_file.sequence not in running.closed:
                fresh.append(_open(open_file))
            files = (*files, *fresh)
        if since is not None or until is not None:
            low, high = since if since is not None else float("-inf"), until if until is not None else float("inf")
            files = tuple(file for file in files if file.started_at < high and file.ended_at > low)
        return Reel(recording, files, growing)

    async def of_room(self, project_id: str, room: str, since: float, until: float, *, parts: bool) -> list[Reel]:
        """Of all its recordings, oldest first, what is between these instants (wallclock); clips are copies of what is there anyway, and
        left out. `parts`: with the files' indices. Raises LimitExceeded `span-too-long`.
        """
        async with self._db.read() as tx:
            found = await recordings.overlapping(tx, project_id, room, since, until)
            owners = {recording.id: recording for recording in found if recording.reason != "clip"}
            rows = await recording_files.played(tx, owners, since, until, most=MOST_FILES + 1, parts=parts)
        if len(rows) > MOST_FILES:
            raise LimitExceeded(f"more than {MOST_FILES} files are there: ask for less with from and to", code="span-too-long")
        for recording_id, running in self._running.items():
            started = running.started
            unwritten = (started.project_id, started.room) == (project_id, room) and recording_id not in owners and started.at < until
            if unwritten and running.ended_at is None and (made := self._unwritten(recording_id)) is not None:
                owners[recording_id] = made
        files = {recording_id: tuple(of) for recording_id, of in groupby(rows, lambda row: row.recording_id)}
        return [self._now(each, await _all(each, files.get(each.id, ())), since, until) for each in owners.values()]

    async def clips(self, project_id: str, room: str, since: float, until: float, *, limit: int) -> Sequence[Recording]:
        """Those of a room that were cut from between these instants, newest first."""
        choice = Choice(room=room, reason="clip", since=since, until=until)
        async with self._db.read() as tx:
            return (await recordings.page(tx, project_id, choice, limit=limit))[0]

    async def page(self, project_id: str, since: float, until: float, *, limit: int) -> Sequence[Recording]:
        """Of all rooms of a project, newest first."""
        async with self._db.read() as tx:
            return (await recordings.page(tx, project_id, Choice(since=since, until=until), limit=limit))[0]

    async def _files(self, recording: Recording) -> tuple[Footage, ...]:
        """Asked for once, however many are waiting."""
        async with self._asking.setdefault(recording.id, asyncio.Lock()):
            known = self._fresh(recording.id)
            return known[1] if known is not None else await self._ask(recording)

    def _fresh(self, recording_id: str) -> tuple[Recording, tuple[Footage, ...]] | None:
        """What the database said, as long as that is believed."""
        known = self._known.get(recording_id)
        return known[1:] if known is not None and known[0] > clock.now() else None

    async def _ask(self, recording: Recording) -> tuple[Footage, ...]:
        began = clock.now()
        async with self._db.read() as tx:
            rows = await recording_files.played(tx, [recording.id], most=MOST_FILES, parts=True)
            row = await recordings.find(tx, recording.id)
        files = await _all(recording, rows)
        running = self._running.get(recording.id)
        if running is not None:
            for file in files:
                running.closed.pop(file.sequence, None)
        now, ttl = clock.now(), TTL_GROWING if self.growing(recording.id) else TTL_FINISHED
        until = now + min(TTL_MOST, max(ttl, SHARE * (now - began)))
        self._known[recording.id] = (until, row or recording, files)
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


async def _all(recording: Recording, rows: Sequence[RecordingFile | Played]) -> tuple[Footage, ...]:
    """In pages: those of a month are 43 200, and the loop has other things to do."""
    found: list[Footage] = []
    for at in range(0, len(rows), recording_files.PAGE):
        found += _footage(recording, rows[at : at + recording_files.PAGE])
        await asyncio.sleep(0)
    return tuple(found)


def _footage(recording: Recording, rows: Iterable[RecordingFile | Played]) -> tuple[Footage, ...]:
    """Of those that can be played."""
    directory = Path(recording.directory)
    return tuple(
        Footage(
            directory / row.name,
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
        for row in rows
        if row.state == "closed" or row.remote_key
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


def merged(reels: Sequence[Reel]) -> list[Chosen]:
    """Files of several recordings of one room as one timeline: where they overlap, the room's own recording goes before a publisher's, and
    the one that began first before others.
    """
    taken: list[tuple[float, float, int]] = []
    chosen: list[Chosen] = []
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
