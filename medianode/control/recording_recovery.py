"""Recovery: catalogue and disk are brought to agree: after a crash, after a time without a database, where the index is lost."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from medianode import clock
from medianode.control import recording_places, sidecar
from medianode.control.lifecycle import GIVEN_UP, RESTARTED
from medianode.control.recording_facts import recording_fact
from medianode.control.recording_ledger import RecordingLedger, shown_tracks
from medianode.control.recording_places import RecordingPlaces
from medianode.control.sidecar import Sidecar
from medianode.egress.recorder.label import Label
from medianode.egress.recorder.recover import Recovered, recover
from medianode.errors import Conflict, InvalidRequest, PeerError, StorageError
from medianode.media.names import room_name
from medianode.media.parts import pack
from medianode.store import discards, projects, recording_files, recordings, settings
from medianode.store.database import Database, Transaction
from medianode.store.recording_files import RecordingFile
from medianode.store.recordings import Recording
from medianode.tasks import guard
from medianode.webhooks.outbox import announce

RETRY = 5.0
LOOK = 60.0
"""Seconds between looks whether something was lost that only the disk knows."""
PACE = 0.005
"""Seconds between two recordings while the daemon serves: the disk is the recorder's first."""
PROGRESS = 10.0
"""Seconds between two lines in the log."""
PAGE = 500
GROUP = 32
ROOT = "recordings/root/"
"""Before the digest of a node's id and a directory, in the settings: this node has recorded there."""
_FILE = re.compile(r"\d{6,}\.mp4", re.ASCII)
_RECORDING = re.compile(r"rec_[A-Za-z0-9]{8,28}", re.ASCII)

Found = tuple[RecordingFile, Label]
"""A file on the disk, and what it says of itself."""

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Tally:
    """What a look at the disk came to: `recordings` looked at; files `adopted` into the catalogue, `forgotten` by it, `broken` (left as
    they are), recordings of projects that there are not (`foreign`)."""

    recordings: int = 0
    adopted: int = 0
    forgotten: int = 0
    broken: int = 0
    foreign: int = 0

    def __str__(self) -> str:
        return ", ".join(f"{getattr(self, field.name)} {field.name}" for field in fields(self))


class Recovery:
    """`open` before anything records; `serve` then does what there is to do beside the running node."""

    def __init__(self, db: Database, ledger: RecordingLedger, places: RecordingPlaces, node_id: str) -> None:
        self._db = db
        self._ledger = ledger
        self._places = places
        self._node_id = node_id
        self._cut_off: Sequence[str] = ()

    async def open(self) -> None:
        """What is not ended now was cut off. Raises StorageError."""
        async with self._db.read() as tx:
            self._cut_off = [recording.id for recording in await recordings.open_on(tx, self._node_id)]

    async def serve(self) -> None:
        """Runs until cancelled. What others rebuild at the same time is left to them."""
        with ExitStack() as claims:
            claimed: set[Path] = set()
            lost = 0
            while True:
                pause = LOOK
                try:
                    await self.end_cut_off()
                    if await self.take(claims, claimed) or self._ledger.lost > lost:
                        lost = self._ledger.lost
                        await self.reconcile(claimed)
                except StorageError as e:
                    log.warning("recordings on the disk not looked at: %s: %s", e.code, e)
                    claimed.clear()
                    claims.close()
                    pause = RETRY
                await asyncio.sleep(pause)

    async def take(self, claims: ExitStack, claimed: set[Path]) -> bool:
        """Claim what is not yet: True where there was something. Raises StorageError."""
        taken = False
        for root in sorted(self._places.roots - claimed):
            try:
                if await self._mounted(root):
                    await asyncio.to_thread(recording_places.claim, claims, root, self._node_id)
                    claimed.add(root)
                    taken = True
            except Conflict as e:
                log.warning("recordings on the disk not looked at yet: %s", e)
            except OSError as e:
                log.error("%s: recordings cannot be looked at: %s", root, e.strerror or e)
        return taken

    # after a crash

    async def end_cut_off(self) -> int:
        """Recordings that the last run of this node left open are ended, with what is whole of them. How many. Raises StorageError."""
        ended = 0
        while self._cut_off:
            group = self._cut_off[:GROUP]
            over = await self._end(group)
            self._cut_off = self._cut_off[len(group) :]
            ended += len(over)
            for recording_id in over:
                await self._note(recording_id)
        if ended:
            log.info("%d recordings that were cut off are ended", ended)
        return ended

    async def _end(self, group: Sequence[str]) -> Sequence[str]:
        """In one transaction: who waits for the end of a live stream's recording waits for few of them. Those that are ended by it."""
        found: dict[str, Sequence[Found]] = {}
        owners: set[str] = set()
        for recording_id in group:
            async with self._db.read() as tx:
                recording = await recordings.find(tx, recording_id)
                rows = await recording_files.names(tx, recording_id)
            if recording is not None and recording.state == "recording":
                owners.add(recording.project_id)
                found[recording_id] = await self._recovered(recording, {name for name, (_, state) in rows.items() if state != "open"})
        over: list[Recording] = []
        async with self._db.write() as tx:
            await projects.hold(tx, owners)
            for recording_id in sorted(found):
                locked = await recordings.find(tx, recording_id, lock=True)
                if locked is not None and locked.state == "recording":
                    await self._put(tx, locked, found[recording_id])
                    for file in await recording_files.of_recording(tx, recording_id, parts=False):
                        if file.state == "open":  # nothing whole of it came to the disk
                            await recording_files.remove(tx, file.id)
                    over.append(locked)
            for recording in over:  # all rows are locked before anything is announced
                await self._ledger.close(tx, recording, *RESTARTED)
        return [recording.id for recording in over]

    async def bury(self, node_id: str) -> int:
        """Another node is gone: its recordings are over, with what it had told. What else is on its disk it takes up when it comes back."""
        async with self._db.read() as tx:
            found = await recordings.open_on(tx, node_id)
        for recording in found:
            async with self._db.write() as tx:
                await projects.hold(tx, {recording.project_id})
                locked = await recordings.find(tx, recording.id, lock=True)
                if locked is not None and locked.state == "recording":
                    await self._ledger.close(tx, locked, *GIVEN_UP)
        return len(found)

    # the disk and the catalogue

    async def reconcile(self, claimed: Collection[Path] | None = None) -> Tally:
        """Files without rows get theirs (below the roots that are `claimed`, None for all), rows whose files are gone go. Nothing on the
        disk is deleted. Raises StorageError."""
        lost_index = await self._is_empty()
        tally, told_at = Tally(), clock.now()
        for root in sorted(self._places.roots if claimed is None else claimed):
            async for directory in _directories(root):
                if directory.name not in self._places.made:
                    await self._look_at(directory, tally, lost_index=lost_index)
                    await asyncio.sleep(PACE)
                if clock.now() - told_at >= PROGRESS:
                    told_at = clock.now()
                    log.info("looking at the recordings on the disk: %s", tally)
        await self._forget_missing(tally)
        level = logging.WARNING if tally.adopted or tally.forgotten or tally.foreign or tally.broken else logging.DEBUG
        log.log(level, "recordings on the disk looked at: %s", tally)
        return tally

    async def rebuild(self, root: Path) -> Tally:
        """Every row of what is below `root` anew, out of its files, for who has claimed it. Nothing is told. Raises StorageError."""
        tally, told_at = Tally(), clock.now()
        async for directory in _directories(root):
            await self._look_at(directory, tally, lost_index=True, anew=True)
            if clock.now() - told_at >= PROGRESS:
                told_at = clock.now()
                log.info("rebuilding: %s", tally)
        return tally

    async def claim(self, claims: ExitStack, roots: Iterable[Path]) -> None:
        """While the stack is open no daemon repairs what is below. Raises Conflict (`recordings-in-use`, `not-mounted`), StorageError,
        OSError."""
        for root in roots:
            if not await self._mounted(root):
                raise Conflict(f"{root}: recordings should be there and are not: mount its disk first", code="not-mounted")
            recording_places.claim(claims, root, self._node_id)

    async def _look_at(self, directory: Path, tally: Tally, *, lost_index: bool, anew: bool = False) -> None:
        """One recording; what cannot be written down of it holds up no other. Raises StorageError where the database is away."""
        refused = await guard("recording-recovery", self._agree(directory, tally, lost_index=lost_index, anew=anew))
        if isinstance(refused, StorageError) and refused.code != "storage-error":
            raise refused
        if refused is not None:
            tally.broken += 1
            log.error("%s: not taken up: %s", directory, refused)

    async def _agree(self, directory: Path, tally: Tally, *, lost_index: bool, anew: bool = False) -> None:
        """`lost_index`: it is not news that there is no row of it. `anew`: what its rows say is not believed."""
        tally.recordings += 1
        async with self._db.read() as tx:
            recording = await recordings.find(tx, directory.name)
            rows = await recording_files.names(tx, directory.name) if recording is not None else {}
        if recording is not None and recording.state == "recording" and not anew:
            return  # somebody's, this very moment, or to be ended
        try:
            names = await asyncio.to_thread(_names, directory)
        except OSError as e:
            log.warning("%s: %s", directory, e.strerror or e)
            return
        if recording is None:
            await self._adopt(directory, names, tally, lost_index=lost_index)
            return
        if recording.directory != str(directory):
            if not anew:
                return  # a copy of it, in a place that it is not kept in
            recording = replace(recording, directory=str(directory))
        known = set() if anew else {name for name, (_, state) in rows.items() if state in ("closed", "gone")}
        missing = {name: row for name, (row, state) in rows.items() if state == "closed" and name not in names}
        if missing or names - known:
            await self._mend(recording, known, missing, tally, anew=anew)

    async def _mend(self, recording: Recording, known: Collection[str], missing: Mapping[str, int], tally: Tally, *, anew: bool) -> None:
        found = await self._recovered(recording, known, tally)
        async with self._db.write() as tx:
            await projects.hold(tx, {recording.project_id})
            locked = await recordings.find(tx, recording.id, lock=True)
            if locked is None:
                return
            if anew and locked.directory != recording.directory:
                await recordings.change(tx, recording.id, directory=recording.directory)
            put = await self._put(tx, locked, found)
            lost = [file for number in missing.values() if (file := await recording_files.find(tx, number)) is not None]
            gone = await self._forget(tx, locked, lost)
            if not anew and (put or gone):
                duration, nbytes, until = await recording_files.totals(tx, recording.id)
                ended_at = max(locked.ended_at or 0.0, until or 0.0)
                await recordings.change(tx, recording.id, duration=duration, nbytes=nbytes, ended_at=ended_at)
        tally.adopted += put
        tally.forgotten += len(missing)

    async def _adopt(self, directory: Path, names: Collection[str], tally: Tally, *, lost_index: bool) -> None:
        """A recording of which there is no row. Of what is news (the database was away) it is told that it began, and ended."""
        said = await asyncio.to_thread(sidecar.read, directory)
        stub = Recording(id=directory.name, project_id="", room="", node_id=self._node_id, directory=str(directory), started_at=0.0)
        found = await self._recovered(stub if said is None else replace(stub, reason=said.recording.reason), (), tally)
        if not found and (said is None or not said.files):
            return  # an empty directory
        async with self._db.write() as tx:
            if str(directory) in await discards.noted(tx, self._node_id, str(directory)):
                return  # it was deleted, and is still to be unlinked
            project_id = await self._project_of(tx, found[0][1]["project"] if found else "", directory, lost_index=lost_index)
            if project_id is None:
                tally.foreign += 1
                return
            recording = _recording(directory, project_id, self._node_id, said, found)
            if await recordings.find(tx, recording.id, lock=True) is not None:
                return
            news = not lost_index and said is None
            await recordings.insert_recording(tx, replace(recording, state="recording", ended_at=None) if news else recording)
            if news:
                await self._ledger.tell_start(tx, recording)
            files = {file.sequence: file for file in await self._not_deleted(tx, recording, found)}
            await recording_files.insert_all(tx, (files | _remote(recording, said, files)).values())
            if news:
                await self._ledger.close(tx, recording, *RESTARTED)
        tally.adopted += len(files)
        if said is None:
            await self._note(recording.id)

    async def _project_of(self, tx: Transaction, named: str, directory: Path, *, lost_index: bool) -> str | None:
        """Whose it is tells its place: nobody can write there for others. `named`: in its files, the id; another one is that of a project
        that is gone, but where the whole index is lost, for ids are made anew with it."""
        room, slug = directory.parent.name, directory.parents[1].name
        project = await projects.find(tx, slug)
        if project is None or project.slug != slug or (named != project.id and not lost_index):
            return None
        try:
            own = room_name(slug, room) == room
        except InvalidRequest:
            own = False
        return project.id if own and await projects.hold(tx, (project.id,)) else None

    async def _recovered(self, recording: Recording, known: Collection[str], tally: Tally | None = None) -> Sequence[Found]:
        """Its files on the disk but those of these names, in order; what is broken is left and told in the log."""
        directory, found = Path(recording.directory), []
        # a clip's files are those of another recording, under a second name: its sidecar tells that they belong here
        clip = recording.reason == "clip"
        try:
            names = await asyncio.to_thread(_names, directory)
        except OSError as e:
            log.warning("%s: %s", directory, e.strerror or e)
            names = set()
        for name in sorted(names - set(known)):
            try:
                file = await asyncio.to_thread(recover, directory / name)
            except (OSError, PeerError) as e:
                # of a file that was just begun there may be nothing whole: no row tells of it, and it is there for who wants to look
                log.warning("%s: nothing of it can be kept: %s", directory / name, e)
                if tally is not None:
                    tally.broken += 1
                continue
            mine = file.label.get("recording") == directory.name
            if mine or clip:
                found.append((_file(recording, name, file, mine=mine), file.label))
        return found

    async def _put(self, tx: Transaction, recording: Recording, found: Sequence[Found]) -> int:
        """How many."""
        files = await self._not_deleted(tx, recording, found)
        for file in files:
            await self._ledger.put(tx, recording, file)
        return len(files)

    async def _not_deleted(self, tx: Transaction, recording: Recording, found: Sequence[Found]) -> Sequence[RecordingFile]:
        """What was deleted and is still to be unlinked is not taken up again."""
        noted = await discards.noted(tx, self._node_id, recording.directory)
        files = [file for file, _ in found if str(Path(recording.directory) / file.name) not in noted]
        return [replace(file, project_id=recording.project_id) for file in files]

    # what is not there any more

    async def _forget_missing(self, tally: Tally) -> None:
        """Rows of recordings whose whole directory is gone. Where a disk is not mounted nothing is concluded."""
        unmounted: set[Path] = set()
        after = ""
        while True:
            async with self._db.read() as tx:
                page = await recordings.ended_on(tx, self._node_id, after=after, limit=PAGE)
            for recording in page:
                directory = Path(recording.directory)
                if await asyncio.to_thread(directory.is_dir):
                    continue
                root = directory.parents[2] if len(directory.parents) > 2 else directory
                if root not in unmounted and await asyncio.to_thread(recording_places.marked, root):
                    await self._forget_all(recording, tally)
                elif root not in unmounted:
                    unmounted.add(root)
                    log.error("%s: recordings should be there and are not: is its disk mounted? The catalogue keeps them", root)
            if len(page) < PAGE:
                return
            after = page[-1].id

    async def _forget_all(self, recording: Recording, tally: Tally) -> None:
        async with self._db.write() as tx:
            await projects.hold(tx, {recording.project_id})
            locked = await recordings.find(tx, recording.id, lock=True)
            if locked is None or locked.directory != recording.directory:
                return
            rows = await recording_files.of_recording(tx, recording.id, parts=False)
            here = [file for file in rows if file.state != "gone"]
            if here or not rows:
                tally.forgotten += await self._forget(tx, locked, here, whole=not any(file.remote_key for file in rows))

    async def _forget(self, tx: Transaction, recording: Recording, files: Sequence[RecordingFile], *, whole: bool = False) -> int:
        """They are not on the disk. A recording of which nothing is left (`whole`: as is known already) goes, and their rows with it."""
        if not whole:
            for file in files:
                await recording_files.take_away(tx, file, "files-lost")
            whole = not await recording_files.any_of(tx, recording.id)
        if files or whole:
            log.warning("%s: %d of its files are not on the disk any more", recording.id, len(files))
            lost = {"cause": "lost", "whole": whole, "files": len(files), "bytesDeleted": sum(file.nbytes for file in files)}
            await announce(tx, recording_fact("recording.deleted", recording, clock.wallclock(), **lost))
        if whole:
            await recordings.remove(tx, recording.id)
        return len(files)

    async def _note(self, recording_id: str) -> None:
        if self._ledger.on_written is not None:
            await self._ledger.on_written(recording_id)

    async def _is_empty(self) -> bool:
        async with self._db.read() as tx:
            found, _ = await recordings.page(tx, None, limit=1)
        return not found

    async def _mounted(self, root: Path) -> bool:
        """A root that once had our mark and has none now is the empty mount point of a disk; one that is new gets it. Raises OSError."""
        key = ROOT + hashlib.sha256(f"{self._node_id}/{root}".encode()).hexdigest()[:40]
        marked = await asyncio.to_thread(recording_places.marked, root)
        async with self._db.read() as tx:
            known = await settings.get(tx, key) is not None
        if known and not marked:
            log.error("%s: recordings should be there and are not: is its disk mounted? New ones are recorded all the same", root)
            return False
        if not marked:
            await asyncio.to_thread(recording_places.put_mark, root, self._node_id)
        if not known:
            async with self._db.write() as tx:
                await settings.put(tx, key, "marked")
        return True


async def _directories(root: Path) -> AsyncIterator[Path]:
    """Of recordings: `<root>/<slug>/<room>/<id>`."""
    for slug in await asyncio.to_thread(_below, root):
        for room in await asyncio.to_thread(_below, slug):
            for directory in await asyncio.to_thread(_below, room):
                if _RECORDING.fullmatch(directory.name):
                    yield directory


def _below(directory: Path) -> Sequence[Path]:
    """Directories in it, no links: what a link leads to is not ours."""
    try:
        return sorted(path for path in directory.iterdir() if not path.name.startswith(".") and path.is_dir() and not path.is_symlink())
    except OSError:
        return []


def _names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir() if _FILE.fullmatch(path.name) and path.is_file() and not path.is_symlink()}


def _file(recording: Recording, name: str, found: Recovered, *, mine: bool) -> RecordingFile:
    sequence = int(name.partition(".")[0])
    return RecordingFile(
        recording_id=recording.id,
        project_id=recording.project_id,
        sequence=sequence,
        name=name,
        state="closed",
        started_at=found.started_at,
        start=found.start,
        duration=found.duration,
        nbytes=found.nbytes,
        init_bytes=found.init_bytes,
        tracks=shown_tracks(found.tracks),
        gap=found.gap if mine or sequence > 1 else "",
        parts=pack(found.parts),
    )


def _recording(directory: Path, project_id: str, node_id: str, said: Sidecar | None, found: Sequence[Found]) -> Recording:
    """Its row, by what its sidecar says, and where there is none by its files."""
    placed: dict[str, Any] = {"project_id": project_id, "room": directory.parent.name, "node_id": node_id, "directory": str(directory)}
    if said is not None and (said.recording.state != "recording" or not found):
        return replace(said.recording, id=directory.name, **placed)
    first, label = found[0]
    last = found[-1][0]
    told = Recording(
        id=directory.name,
        **placed,
        identity=label.get("identity", ""),
        ingress_id=label.get("ingress"),
        reason=label.get("reason") or "rebuilt",
        state="finished",
        title=label.get("title", ""),
        labels=label.get("labels", {}),
        started_at=first.started_at - first.start / 1_000_000,
        ended_at=last.started_at + last.duration / 1_000_000,
        duration=sum(file.duration for file, _ in found),
        nbytes=sum(file.nbytes for file, _ in found),
        error_code=RESTARTED[0],
        error_message=RESTARTED[1],
    )
    if said is None:
        return told
    decided = ("title", "labels", "pinned", "media_id", "playback_id", "access_policy", "upload_state", "upload_error", "remote_url")
    return replace(told, **{name: getattr(said.recording, name) for name in decided})


def _remote(recording: Recording, said: Sidecar | None, here: Mapping[int, RecordingFile]) -> dict[int, RecordingFile]:
    """By sequence, the files that are, or were, uploaded: that only their recording's sidecar knows. `here`: those on the disk."""
    found: dict[int, RecordingFile] = {}
    for told in said.files if said is not None else ():
        sequence = int(told["sequence"])
        if sequence in here:
            uploaded: dict[str, Any] = {name: told.get(name) for name in ("sha256", "remote_key", "uploaded_at")}
            found[sequence] = replace(here[sequence], **uploaded)
        elif told.get("parts") is not None:
            whose = {"recording_id": recording.id, "project_id": recording.project_id, "state": "gone"}
            found[sequence] = RecordingFile(**{**told, **whose})
    return found
