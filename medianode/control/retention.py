"""Retention: the oldest files go by age, by bytes, and before the disk is full. What is open, pinned or being read stays.

A file that waits for its upload, or is younger than its project's `minKeep`, goes only from a disk that would be full otherwise. Rows go
first, with a note of what is to be unlinked (`store.discards`): no crash leaves a playlist with a file that is not there.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from medianode import clock, telemetry
from medianode.config import Recording as Settings
from medianode.control import disk
from medianode.control.bucket_removals import BucketRemovals
from medianode.control.disk import Space
from medianode.control.disk_states import FACTS, DiskState, State
from medianode.control.recording_facts import disk_fact, recording_fact
from medianode.control.recording_places import MOST_PROJECTS, RecordingPlaces
from medianode.control.recording_policy import RecordingPolicy, policy_of
from medianode.control.write_rates import WriteRates
from medianode.egress.recorder.filesystem import left_free
from medianode.errors import Conflict, NotFound, StorageError
from medianode.events import Bus
from medianode.store import discards, kept_files, projects, recording_files, recordings
from medianode.store.database import Database, Transaction
from medianode.store.kept_files import Choice, KeptFile
from medianode.store.recordings import Recording
from medianode.tasks import every
from medianode.webhooks.facts import Fact
from medianode.webhooks.outbox import announce

LOOK = 5.0
"""Seconds between two looks at the disk."""
AGE_LOOK = 60.0
USAGE_LOOK = 600.0
"""Seconds between two sums over all rows; in between what is written and deleted is added up."""
BATCH = 64
SWEEP = 256
FAILED_AGAIN = 60.0
LAST_RESORT = 60.0
"""Seconds of writing: with less room than for these, files go that should have stayed."""
TOLD_EVERY = 3600.0
JUMP = 3600.0
"""Seconds that the wallclock may move against the monotonic one between two looks; after more nothing goes by age for a while."""
CALM = 600.0

DELETED = telemetry.counter("medianode_recording_deleted_bytes_total", "Bytes of recordings deleted by retention", "cause")

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Gone:
    """Of one recording, since it was last told of."""

    files: int = 0
    nbytes: int = 0
    seconds: float = 0.0
    not_uploaded: int = 0
    told_at: float | None = None


class Retention:
    """`serve` looks; `make_room` is for a write that found none. `removals`: what is to go from buckets is noted there. `in_use`: does
    somebody read this file? (`egress.playback` knows.)
    """

    def __init__(
        self,
        db: Database,
        bus: Bus,
        settings: Settings,
        places: RecordingPlaces,
        node_id: str,
        removals: BucketRemovals | None = None,
    ) -> None:
        self._db = db
        self._settings = settings
        self._places = places
        self._node_id = node_id
        self._removals = removals
        self.in_use: Callable[[Path], bool] = lambda path: False
        self.rates = WriteRates(bus)
        self.spaces: Sequence[Space] = ()
        self.states: dict[int, DiskState] = {}
        """By device."""
        self.policies: Mapping[str, RecordingPolicy] = {}
        self._sizes: Mapping[Path, int] = {}
        self._gone: dict[str, _Gone] = {}
        self._failed: dict[int, float] = {}
        """Notes of what could not be unlinked, and when each is tried again."""
        self._unlinked: list[KeptFile] = []
        self._used: Counter[str] = Counter()
        self._used_at: float | None = None
        self._turn = asyncio.Lock()
        self._clocks: tuple[float, float] | None = None
        self._no_age_until = 0.0
        self._aged_at: float | None = None

    async def serve(self) -> None:
        """Runs until cancelled. A database that is away is tried again at the next look."""
        async for now in every(LOOK):
            try:
                await self.look(now)
            except StorageError as e:
                log.warning("retention waits: %s: %s", e.code, e)
            except OSError as e:
                log.error("retention cannot look at the disk: %s", e)

    async def look(self, now: float) -> None:
        """One round of all rules. Raises StorageError."""
        async with self._turn:
            await self._forget_unlinked()
            await self._sweep()
            await self._measure(now)
            if self._aged_at is None or now - self._aged_at >= AGE_LOOK - 1.0:
                await self._read_policies()
                if self._clock_is_steady(now):
                    await self._by_age(clock.wallclock())
                await self._by_bytes(now)
                self._gone = {name: g for name, g in self._gone.items() if g.files or g.told_at is None or now - g.told_at < TOLD_EVERY}
                self._aged_at = now
            for space in self._devices():
                await self._by_space(space, now)

    async def make_room(self, directory: Path, nbytes: int) -> int:
        """A write below `directory` found no room for so many bytes: the oldest files go at once. Returns how much is free after it.

        Where nothing may go `disk.full` is told. Errors of the database and the disk are told in the log: the recorder tries again.
        """
        now = clock.now()
        async with self._turn:
            try:
                if not self.spaces:
                    await self._measure(now)
                space = await asyncio.to_thread(disk.measure, directory)
                least = left_free(space.total)
                wanted = least + min(nbytes, space.total // 16)
                if space.free >= wanted:
                    return space.free
                freed = await self._free_whatever(space, wanted)
                if freed.free < least and (turned := self._state(space.device).full(now)) is not None:
                    await self._tell_disk(turned, freed)
                return freed.free
            except (StorageError, OSError) as e:
                log.error("no room for recordings at %s, and none can be made: %s", directory, e)
                return 0

    async def delete(self, recording: Recording, keep_remote: bool = False) -> None:
        """All of it, here, in the catalogue and in its project's bucket (but with `keep_remote`).

        Raises NotFound, Conflict (`recording-runs`, `pinned`), StorageError.
        """
        async with self._db.write() as tx:
            await projects.hold(tx, (recording.project_id,))
            locked = await recordings.find(tx, recording.id, lock=True)
            if locked is None:
                raise NotFound(f"no recording {recording.id}")
            if locked.state == "recording":
                raise Conflict("this recording is still running: stop it first", code="recording-runs")
            if locked.pinned:
                raise Conflict("it is pinned: take the pin off first", code="pinned")
            count, nbytes = await recording_files.count(tx, locked.id)
            gone = _Gone(files=count, nbytes=nbytes, seconds=locked.duration / 1_000_000)
            if self._removals is not None and not keep_remote:
                await self._removals.add(tx, locked)
            await self._drop(tx, locked, gone, "api")
        self._remember(recording.id, None)
        if locked.node_id == self._node_id:
            self._used[locked.project_id] -= nbytes
        async with self._turn:
            await self._sweep()

    # what there is

    async def _measure(self, now: float) -> None:
        self.spaces, self._sizes = await asyncio.to_thread(disk.measure_all, sorted(self._places.roots), self.rates.open_files)
        self.rates.sample(now, self._sizes)

    async def _read_policies(self) -> None:
        async with self._db.read() as tx:
            found = await projects.list_projects(tx, MOST_PROJECTS)
        self.policies = {project.id: policy_of(project) for project in found}

    def policy(self, project_id: str) -> RecordingPolicy:
        return self.policies.get(project_id) or RecordingPolicy()

    def open_bytes(self, project_id: str | None = None) -> int:
        """In files that are being written."""
        found = self.rates.open_bytes(self._sizes)
        return found.total() if project_id is None else found[project_id]

    def write_rate(self, space: Space | None = None) -> float:
        """Bytes a second, on one disk or on all."""
        rates = self.rates.by_project
        if space is None:
            return sum(rates.values())
        device = {found.root: found.device for found in self.spaces}
        return sum(rate for project_id, rate in rates.items() if device.get(self._places.root(project_id)) == space.device)

    def wanted(self, space: Space) -> int:
        """Bytes that are to stay free: `recording.min_free`, at most a quarter of the disk, and what is written until the next looks; half
        of it at most, for what comes faster has `make_room`."""
        kept = max(left_free(space.total), min(self._settings.min_free, space.total // 4))
        return min(kept + int(self.write_rate(space) * LOOK * 2), space.total // 2)

    def _devices(self) -> Sequence[Space]:
        """One of each."""
        return list({space.device: space for space in self.spaces}.values())

    def _state(self, device: int) -> DiskState:
        return self.states.setdefault(device, DiskState())

    def _roots(self, space: Space) -> Sequence[Path]:
        """All that are on this disk, or the one that was asked about."""
        return [each.root for each in self.spaces if each.device == space.device] or [space.root]

    async def _usage(self, now: float) -> dict[str, int]:
        """Bytes by project, open files too. Raises StorageError."""
        if self._used_at is None or now - self._used_at >= USAGE_LOOK:
            written = dict(self.rates.closed)
            async with self._db.read() as tx:
                found = await kept_files.usage(tx, self._node_id)
            self._used = Counter({usage.project_id: usage.nbytes for usage in found})
            self._used.subtract(written)
            self._used_at = now
        parts = (self._used, self.rates.closed, self.rates.open_bytes(self._sizes))
        return {project_id: sum(part[project_id] for part in parts) for project_id in self.policies if any(project_id in p for p in parts)}

    # the rules

    def _clock_is_steady(self, now: float) -> bool:
        wall = clock.wallclock()
        if self._clocks is not None and abs((wall - self._clocks[1]) - (now - self._clocks[0])) > JUMP:
            log.warning("the clock has jumped: nothing is deleted by age for %.0f s", CALM)
            self._no_age_until = now + CALM
        self._clocks = now, wall
        return now >= self._no_age_until

    async def _by_age(self, wall: float) -> None:
        if self._settings.max_age:
            await self._delete(Choice(node_id=self._node_id, ended_before=wall - self._settings.max_age), "age")
        for project_id, policy in self.policies.items():
            if policy.max_age and (not self._settings.max_age or policy.max_age < self._settings.max_age):
                await self._delete(Choice(node_id=self._node_id, project_id=project_id, ended_before=wall - policy.max_age), "age")
            if policy.delete_after_upload:
                old = Choice(node_id=self._node_id, project_id=project_id, ended_before=wall - policy.min_keep, uploaded=True)
                await self._delete(old, "uploaded")

    async def _by_bytes(self, now: float) -> None:
        used = await self._usage(now)
        for project_id, nbytes in tuple(used.items()):
            bound = self.policy(project_id).max_bytes
            if bound and nbytes > bound:
                used[project_id] -= await self._delete(Choice(node_id=self._node_id, project_id=project_id), "bytes", nbytes - bound)
        over = sum(used.values()) - self._settings.max_bytes
        if self._settings.max_bytes and over > 0:
            await self._delete(Choice(node_id=self._node_id), "bytes", over)

    async def _by_space(self, space: Space, now: float) -> None:
        wanted, state = self.wanted(space), self._state(space.device)
        if space.free < wanted:  # what went by age or bytes since it was measured counts
            space = await _again(space)
        turned = state.look(now, space.free, wanted)  # before anything goes: who runs the node is told when retention begins
        if space.free < wanted:
            space = await self._free(space, wanted)
        if turned is not None:
            await self._tell_disk(turned, space)

    async def _free_whatever(self, space: Space, wanted: int) -> Space:
        """As `_free`; where the database is on the same disk and cannot write down what is deleted, files go first, and their rows with the
        room that this makes. A crash in between leaves rows without files, which the next start finds."""
        try:
            await self._forget_unlinked()
            return await self._free(space, wanted)
        except StorageError as e:
            if e.code != "storage-full":
                raise
        freed = 0
        for root in self._roots(space):
            async for batch in self._candidates(Choice(node_id=self._node_id, root=str(root)), last_resort=False):
                for file in batch:
                    if freed < wanted:
                        freed += file.nbytes
                        self._unlinked.append(file)
                if freed >= wanted:
                    break
        await asyncio.to_thread(disk.unlink, [file.path for file in self._unlinked])
        await self._forget_unlinked()
        return await self._free(await _again(space), wanted)

    async def _forget_unlinked(self) -> None:
        while self._unlinked:
            await self._discard(self._unlinked[:BATCH], "space", last_resort=False)
            del self._unlinked[:BATCH]

    async def _free(self, space: Space, wanted: int) -> Space:
        """Delete until so much is free, the oldest first. What should have stayed goes only where the disk would be full otherwise."""
        urgent = min(wanted, min(int(self.write_rate(space) * LAST_RESORT), space.total // 16) + left_free(space.total))
        for last_resort, goal in ((False, wanted), (True, urgent)):
            for root in self._roots(space):
                choice = Choice(node_id=self._node_id, root=str(root), uploaded=None if last_resort else False)
                # what was unlinked may be held open still, or have a second name: the disk has the last word, the sum ends the round
                while space.free < goal:
                    if not await self._delete(choice, "space", goal - space.free, last_resort=last_resort):
                        break
                    space = await _again(space)
        return space

    # deleting

    async def _delete(self, choice: Choice, cause: str, nbytes: int | None = None, *, last_resort: bool = False) -> int:
        """All that are chosen, oldest first, or until these bytes are gone. Returns how many bytes are. Raises StorageError."""
        freed = 0
        async for batch in self._candidates(choice, last_resort=last_resort):
            taken: list[KeptFile] = []
            for file in batch:
                if nbytes is not None and freed + sum(f.nbytes for f in taken) >= nbytes:
                    break
                taken.append(file)
            if taken:
                freed += await self._discard(taken, cause, last_resort=last_resort)
            if nbytes is not None and freed >= nbytes:
                break
        return freed

    async def _candidates(self, choice: Choice, *, last_resort: bool) -> AsyncIterator[Sequence[KeptFile]]:
        after: tuple[float, int] | None = None
        while True:
            async with self._db.read() as tx:
                page = await kept_files.oldest(tx, choice, BATCH, after=after)
            wall = clock.wallclock()
            free = [
                file
                for file in page
                # viewers must not be able to keep the disk full: what they have open stays readable to them
                if last_resort or (not self.in_use(file.path) and file.ended_at + self.policy(file.project_id).min_keep <= wall)
            ]
            if choice.root:  # it is room that is wanted, and where a disk is not mounted its files make none
                there = await asyncio.to_thread(disk.present, [file.path for file in free])
                free = [file for file in free if file.path in there]
            if free:
                yield free
            if len(page) < BATCH:
                return
            after = page[-1].started_at, page[-1].id

    async def _discard(self, files: Sequence[KeptFile], cause: str, *, last_resort: bool) -> int:
        """In one transaction: their rows, a note of what to unlink, and what is told of it. Then they are unlinked."""
        async with self._db.write() as tx:
            await projects.hold(tx, {file.project_id for file in files})
            locked = await kept_files.lock(tx, [file.id for file in files])
            sums = {file.recording_id: _Gone() for file in locked}
            owners = [owner for recording_id in sums if (owner := await recordings.find(tx, recording_id)) is not None]
            for owner in owners:
                mine = [file for file in locked if file.recording_id == owner.id]
                if self._removals is not None:
                    await self._removals.add_begun(tx, owner, [file.id for file in mine if not file.remote_key])
                for file in mine:
                    waiting = owner.upload_state not in ("none", "done") and not file.remote_key
                    _count(sums[owner.id], file, waiting=waiting)
                    await recording_files.take_away(tx, file, "files-deleted")
            await discards.add(tx, self._node_id, [str(file.path) for file in locked])
            told = [await self._tell_gone(tx, owner, sums[owner.id], cause) for owner in owners]
        for recording_id, gone in told:
            self._remember(recording_id, gone)
        nbytes = sum(file.nbytes for file in locked)
        for file in locked:
            self._used[file.project_id] -= file.nbytes
        DELETED.labels(cause).value += nbytes
        self._log(locked, cause, sum(gone.not_uploaded for gone in sums.values()), last_resort=last_resort)
        await self._sweep()
        return nbytes

    async def _tell_gone(self, tx: Transaction, recording: Recording, now_gone: _Gone, cause: str) -> tuple[str, _Gone | None]:
        """One fact for a recording that is gone as a whole; while something is left of it one an hour."""
        before = self._gone.get(recording.id) or _Gone()
        total = _Gone(
            before.files + now_gone.files,
            before.nbytes + now_gone.nbytes,
            before.seconds + now_gone.seconds,
            before.not_uploaded + now_gone.not_uploaded,
            before.told_at,
        )
        if recording.state != "recording" and not await recording_files.any_of(tx, recording.id):
            await self._drop(tx, recording, total, cause)
            return recording.id, None
        if total.told_at is None or clock.now() - total.told_at >= TOLD_EVERY:
            await announce(tx, _deleted(recording, total, cause, whole=False))
            return recording.id, _Gone(told_at=clock.now())
        return recording.id, total

    def _remember(self, recording_id: str, gone: _Gone | None) -> None:
        if gone is None:
            self._gone.pop(recording_id, None)
        else:
            self._gone[recording_id] = gone

    async def _drop(self, tx: Transaction, recording: Recording, gone: _Gone, cause: str) -> None:
        await announce(tx, _deleted(recording, gone, cause, whole=True))
        await discards.add(tx, recording.node_id, [recording.directory])
        await recordings.remove(tx, recording.id)

    def _log(self, files: Collection[KeptFile], cause: str, not_uploaded: int, *, last_resort: bool) -> None:
        if not files:
            return
        fields = {
            "files": len(files),
            "bytes": sum(file.nbytes for file in files),
            "cause": cause,
            "from": clock.iso(min(f.started_at for f in files), 0),
        }
        if not_uploaded:
            log.error(
                "recordings deleted that were NOT YET UPLOADED: the disk would be full", extra={"fields": fields | {"lost": not_uploaded}}
            )
        elif last_resort:
            log.warning("recordings deleted that minKeep would have kept: the disk would be full", extra={"fields": fields})
        else:
            log.info("recordings deleted", extra={"fields": fields})

    # unlinking

    async def _sweep(self) -> None:
        """Unlink what is noted. What cannot be is told once, and tried again after a while; what a running recording writes to waits for
        its end."""
        now, after = clock.now(), 0
        writing = {str(running.directory) for running in self.rates.running.values()}
        while True:
            async with self._db.read() as tx:
                found = await discards.oldest(tx, self._node_id, SWEEP, after=after)
            due = {number: Path(path) for number, path in found if self._failed.get(number, now) <= now and path not in writing}
            failed = await asyncio.to_thread(disk.unlink, list(due.values())) if due else {}
            for number, path in due.items():
                if path not in failed:
                    self._failed.pop(number, None)
                    continue
                if number not in self._failed:
                    log.error("%s cannot be deleted: %s", path, failed[path].strerror or failed[path])
                self._failed[number] = now + FAILED_AGAIN
            if done := [number for number, path in due.items() if path not in failed]:
                async with self._db.write() as tx:
                    await discards.remove(tx, done)
            if len(found) < SWEEP:
                return
            after = found[-1][0]

    # telling

    async def _tell_disk(self, state: State, space: Space) -> None:
        """Each project that has recordings on this disk."""
        message = {
            "ok": "there is room for recordings again",
            "low": "the disk is filling up: from now on the oldest recordings are deleted for new ones",
            "full": "the disk is full and nothing on it may be deleted: recordings miss what does not fit",
        }[state]
        log.log(logging.INFO if state == "ok" else logging.ERROR if state == "full" else logging.WARNING, "%s: %s", space.root, message)
        at, code = clock.wallclock(), f"disk-{state}"
        async with self._db.write() as tx:
            concerned = await kept_files.projects_on(tx, self._node_id, [str(root) for root in self._roots(space)])
            for project_id in sorted(await projects.hold(tx, concerned)):
                # where on the node its recordings are is the operator's to know
                fact = disk_fact(FACTS[state], project_id, at, path="", free=space.free, total=space.total, code=code, message=message)
                await announce(tx, replace(fact, stream=f"disk:{self._node_id}"))


async def _again(space: Space) -> Space:
    """Measured anew, by the number that its state is kept under. Raises OSError."""
    return replace(await asyncio.to_thread(disk.measure, space.root), device=space.device)


def _count(gone: _Gone, file: KeptFile, *, waiting: bool) -> None:
    gone.files += 1
    gone.nbytes += file.nbytes
    gone.seconds += file.duration / 1_000_000
    gone.not_uploaded += waiting


def _deleted(recording: Recording, gone: _Gone, cause: str, *, whole: bool) -> Fact:
    more = {"cause": cause, "whole": whole, "files": gone.files, "bytesDeleted": gone.nbytes, "seconds": round(gone.seconds, 3)}
    return recording_fact("recording.deleted", recording, clock.wallclock(), **more, notUploaded=gone.not_uploaded)
