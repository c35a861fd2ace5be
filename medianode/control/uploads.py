"""Uploads: closed files of recordings into their project's bucket, until all of a recording is there and plays from there.

A file's upload is written in the transaction that closes it, and what the service has of it after each part, so that kill -9 costs the
part that was on its way. A service that is away, or refuses, is asked again without end, by one file at a time; one outage is told once.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medianode import clock, telemetry
from medianode.control import audit, upload_listing
from medianode.control.recording_facts import recording_fact
from medianode.control.upload_transfer import LocalTrouble, Transfer, Unwanted
from medianode.errors import Conflict, MedianodeError, NotFound, StorageError
from medianode.events import Bus, ProjectChanged
from medianode.media.names import shown
from medianode.store import projects as project_table
from medianode.store import recording_files, recordings
from medianode.store import uploads as table
from medianode.store.database import Database, Transaction
from medianode.store.object_errors import Refused
from medianode.store.objects import Bucket, Objects
from medianode.store.projects import Project
from medianode.store.recording_files import RecordingFile
from medianode.store.recordings import Recording
from medianode.store.uploads import PartSent, Queue, Upload
from medianode.tasks import TaskSet, guard
from medianode.webhooks.outbox import announce

TOPIC = "uploads"
FIRST_RETRY, LAST_RETRY = 1.0, 60.0
LOCAL_RETRY = 600.0
"""Seconds before a file is tried again that is missing or changed here."""
TICK, LOOK = 1.0, 60.0
"""Seconds between looks: while something waits, and for what no commit of this process told of."""
BATCH = 500
PROJECTS = 10_000
FAILURES_TOLD = 3
"""In a row, before an outage is told: a blip is none of anybody's business."""
LASTING = frozenset(
    {"wrong-credentials", "access-denied", "no-such-bucket", "bucket-full", "clock-skew", "wrong-region", "private-address"}
)
"""What does not go by itself, and is told at once."""
OF_FILE = frozenset({"corrupted", "not-verified", "no-such-upload", "file-missing", "file-changed", "internal"})
"""What is the matter with one file, and not with the service."""
SENT = telemetry.counter("medianode_upload_files_total", "Files of recordings that were verified in a bucket")
FAILED = telemetry.counter("medianode_upload_failures_total", "Attempts to upload that failed, by reason", "code")

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Outage:
    """Of a project's service. `since`: wallclock; `retry_at`: `clock.now()`. `told`: the code that stands in the log and in a fact."""

    since: float
    code: str = ""
    message: str = ""
    failures: int = 0
    retry_at: float = 0.0
    told: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadsState:
    """Of a project, on this node. `running`: file name below the bucket, bytes there, bytes in all."""

    queue: Queue
    running: Sequence[tuple[str, int, int]] = ()
    outage: Outage | None = None


@dataclass(slots=True)
class _Going:
    """`recording_id`: empty until it is known, and until then nothing was sent."""

    project_id: str
    key: str
    size: int
    transfer: Transfer | None = None
    recording_id: str = ""


class Uploads:
    """`on_file` is the recording ledger's hook; `serve` uploads. `bound`: limits.uploads, files at once."""

    def __init__(self, db: Database, bus: Bus, objects: Objects, node_id: str, *, bound: int) -> None:
        self._db = db
        self._objects = objects
        self._node_id = node_id
        self._bound = bound
        self._began_at = clock.wallclock()
        self._wake = asyncio.Event()
        self._going: dict[int, _Going] = {}
        self._tried: set[int] = set()
        self._finishing: set[str] = set()
        self._later: dict[str, float] = {}
        self._outages: dict[str, Outage] = {}
        self._waiting = True
        self._looked_at = -LOOK
        db.subscribe(TOPIC, self._wake.set)
        bus.subscribe(ProjectChanged, self._changed)

    async def open(self) -> None:
        """At start: where there is a bucket, its library is loaded before anybody publishes. Raises StorageError."""
        async with self._db.read() as tx:
            found = await project_table.list_projects(tx, PROJECTS)
        if any(find_bucket(project) for project in found):
            await self._objects.load()

    async def on_file(self, tx: Transaction, recording: Recording, file: RecordingFile) -> None:
        """A file was closed: in the transaction that says so."""
        if recording.upload_state in table.WAITING and file.state == "closed" and file.uploaded_at is None:
            await table.add(tx, self._new(file))
            tx.tell(TOPIC)

    async def on_end(self, tx: Transaction, recording: Recording) -> None:
        """A recording is over: it may be complete in the bucket already."""
        if recording.upload_state in table.WAITING:
            tx.tell(TOPIC)

    async def serve(self) -> None:
        """Runs until cancelled. A database that is away is tried again each second."""
        async with TaskSet("upload", self._bound) as tasks:
            while True:
                self._wake.clear()
                try:
                    await self._look(tasks)
                except StorageError as e:
                    log.warning("uploads wait for the database: %s: %s", e.code, e)
                    await asyncio.sleep(TICK)
                try:
                    async with asyncio.timeout(TICK if self._waiting or self._going else LOOK):
                        await self._wake.wait()
                except TimeoutError:
                    pass

    async def retry(self, project: Project, recording_id: str) -> Recording:
        """To the bucket with it, now: also one of before there was a bucket, or against the project's policy.

        Raises NotFound, Conflict (`no-bucket`).
        """
        bucket_of(project)
        async with self._db.write() as tx:
            recording = await recordings.find(tx, recording_id, lock=True)
            if recording is None or recording.project_id != project.id:
                raise NotFound(f"no recording {shown(recording_id)}", code="no-such-recording")
            if recording.upload_state == "none":
                recording = replace(recording, upload_state="pending")
                await recordings.change(tx, recording.id, upload_state="pending")
            if recording.upload_state != "done":
                for file in await table.unlisted(tx, recording.node_id, BATCH, recording.id):
                    await table.add(tx, replace(self._new(file), node_id=recording.node_id))
                await table.hurry(tx, recording.id)
                await audit.record(tx, "recording.upload", recording.id, project.id)
            tx.tell(TOPIC)
        self._try_now(project.id)
        self._looked_at = -LOOK
        return recording

    async def state(self, project: Project) -> UploadsState:
        async with self._db.read() as tx:
            queue = await table.queue(tx, project.id)
        running = [
            (going.key, going.transfer.sent_bytes if going.transfer else 0, going.size)
            for going in self._going.values()
            if going.project_id == project.id
        ]
        return UploadsState(queue=queue, running=running, outage=self._outages.get(project.id))

    async def url(self, project: Project, key: str) -> str:
        """Where a file of the bucket can be fetched from: at the CDN, else by a presigned URL that is good for an hour.

        Raises Conflict (`no-bucket`).
        """
        bucket = bucket_of(project)
        return bucket.public_url(key) if bucket.cdn_url else await self._objects.presigned(bucket, key)

    async def read(self, project: Project, key: str, size: int) -> bytes:
        """The first bytes of a file of the bucket. Raises PeerError, Conflict (`no-bucket`)."""
        return await self._objects.read(bucket_of(project), key, 0, size)

    def busy(self, recording_id: str) -> bool:
        """Is anything of it on its way?"""
        return recording_id in self._finishing or any(going.recording_id == recording_id for going in self._going.values())

    def _new(self, file: RecordingFile) -> Upload:
        return Upload(file_id=file.id, project_id=file.project_id, node_id=self._node_id, created_at=clock.wallclock())

    def _changed(self, event: ProjectChanged) -> None:
        """Its bucket or credentials may be right now."""
        self._try_now(event.project_id)

    def _try_now(self, project_id: str) -> None:
        if (outage := self._outages.get(project_id)) is not None:
            outage.retry_at = 0.0
            outage.failures = min(outage.failures, FAILURES_TOLD)
        self._wake.set()

    async def _look(self, tasks: TaskSet) -> None:
        """List what is not listed, now and then, and start what is due."""
        now = clock.now()
        if now - self._looked_at >= LOOK:
            self._looked_at = now
            await self._list()
        free = self._bound - len(tasks)
        if free <= 0:
            return
        blocked = {project for project, outage in self._outages.items() if outage.retry_at > now or self._probing(project)}
        async with self._db.read() as tx:
            due = await table.due(tx, self._node_id, clock.wallclock(), busy=self._going.keys(), blocked=blocked, per_project=self._bound)
            done = await table.complete(tx, self._node_id, self._bound * 4)
            self._waiting = bool(due or done) or await table.any_left(tx, self._node_id)
        if not self._waiting:  # what is left in them is of what was deleted
            self._tried.clear()
            self._later.clear()
            self._outages.clear()
        for upload in due:
            if free > 0 and not self._probing(upload.project_id):
                self._going[upload.file_id] = _Going(upload.project_id, "", 0)
                tasks.start(self._upload(upload))
                free -= 1
        for recording_id, project_id in done:
            if self._later.get(recording_id, now) > now:
                continue
            if free > 0 and recording_id not in self._finishing and project_id not in blocked:
                self._finishing.add(recording_id)
                tasks.start(self._finish(recording_id))
                free -= 1

    def _probing(self, project_id: str) -> bool:
        """While a service is away one file asks for all."""
        return project_id in self._outages and any(going.project_id == project_id for going in self._going.values())

    async def _list(self) -> None:
        """Files that were closed by a process that is gone, or before they were asked for."""
        found = BATCH
        while found == BATCH:
            async with self._db.write() as tx:
                files = await table.unlisted(tx, self._node_id, BATCH)
                found = len(files)
                for file in files:
                    await table.add(tx, self._new(file))

    async def _upload(self, upload: Upload) -> None:
        try:
            why = await guard("upload", self._carry(upload))
            if why is not None:
                self._tried.add(upload.file_id)
                await self._fail(upload, why)
            if isinstance(why, StorageError):
                await asyncio.sleep(TICK)
        finally:
            del self._going[upload.file_id]
            self._wake.set()

    async def _carry(self, upload: Upload) -> None:
        async with self._db.read() as tx:
            file = await recording_files.find(tx, upload.file_id)
            recording = None if file is None else await recordings.find(tx, file.recording_id)
            project = await project_table.find(tx, upload.project_id)
        if file is None or recording is None or project is None:
            return  # deleted: the row went with it
        bucket = find_bucket(project)
        if bucket is None:
            self._outages.pop(project.id, None)  # what was away is not asked any more
        if file.state != "closed" or file.uploaded_at is not None or bucket is None:
            await self._drop(upload, recording)  # given up by retention; or there is no bucket any more
            return
        key = bucket.key(f"{project.slug}/{recording.room}/{recording.id}/{file.name}")
        path = Path(recording.directory, file.name)
        seasoned = upload.created_at < self._began_at or upload.file_id in self._tried
        transfer = Transfer(self._objects, bucket, key, path, file.nbytes, upload, seasoned=seasoned)
        self._going[upload.file_id] = _Going(project.id, key, file.nbytes, transfer, recording.id)

        async def note(upload_id: str, parts: Sequence[PartSent]) -> bool:
            async with self._db.write() as tx:
                return await table.change(tx, upload.file_id, bucket=bucket.name, key=key, upload_id=upload_id, parts=parts)

        async with self._db.write() as tx:
            if (upload.bucket, upload.key) != (bucket.name, key):  # who deletes the recording then knows what may be there
                begun: dict[str, Any] = {"bucket": bucket.name, "key": key, "upload_id": "", "parts": ()}
                if not await table.change(tx, upload.file_id, **begun):
                    return
            if recording.upload_state == "pending":
                await recordings.change(tx, recording.id, upload_state="uploading")
        sha256 = await transfer.run(note)
        async with self._db.write() as tx:
            await self._check_bucket(tx, project.id, bucket)
            there = {"sha256": bytes.fromhex(sha256), "remote_key": key, "uploaded_at": clock.wallclock()}
            await recording_files.change(tx, file.id, **there)
            await table.remove(tx, file.id)
            await recordings.change(tx, recording.id, upload_state="uploading", upload_error="")
        SENT.labels().value += 1
        self._tried.discard(file.id)
        self._well(project)

    async def _check_bucket(self, tx: Transaction, project_id: str, bucket: Bucket) -> None:
        """Raises Unwanted where the project has another by now: it is to go there."""
        project = await project_table.find(tx, project_id)
        now = None if project is None else find_bucket(project)
        if now is None or now.base != bucket.base:
            raise Unwanted("the project has another storage by now")

    async def _drop(self, upload: Upload, recording: Recording) -> None:
        async with self._db.write() as tx:
            await table.remove(tx, upload.file_id)
            await recordings.change(tx, recording.id, upload_state="none", upload_error="")

    async def _finish(self, recording_id: str) -> None:
        """All its files are there: the playlist over them, what is known of it, and then it is told."""
        try:
            async with self._db.read() as tx:
                recording = await recordings.find(tx, recording_id)
                project = None if recording is None else await project_table.find(tx, recording.project_id)
                files = [file for file in await recording_files.of_recording(tx, recording_id) if file.uploaded_at is not None]
            if recording is None or project is None:
                return
            bucket = find_bucket(project)
            if bucket is None:
                async with self._db.write() as tx:
                    await recordings.change(tx, recording_id, upload_state="none", upload_error="")
                return
            why = await guard("upload", self._put_beside(project, bucket, recording, files))
            self._later.pop(recording_id, None)
            if isinstance(why, Unwanted):
                return  # begun anew at the next look
            if why is not None and words_of(why)[0] in OF_FILE:
                self._later[recording_id] = clock.now() + LOCAL_RETRY
                await self._tell(recording_id, *words_of(why))
            elif why is not None:
                await self._service_failed(project.id, recording, why)
        finally:
            self._finishing.discard(recording_id)
            self._wake.set()

    async def _put_beside(self, project: Project, bucket: Bucket, recording: Recording, files: Sequence[RecordingFile]) -> None:
        folder = f"{project.slug}/{recording.room}/{recording.id}"
        playlist = bucket.key(f"{folder}/{upload_listing.PLAYLIST}")
        # of a day some 90 000 parts
        described = await asyncio.to_thread(upload_listing.description, recording, files, project.slug)
        listed = await asyncio.to_thread(upload_listing.playlist, files)
        await self._objects.put(bucket, bucket.key(f"{folder}/{upload_listing.DESCRIPTION}"), described, "application/json")
        await self._objects.put(bucket, playlist, listed, "application/vnd.apple.mpegurl")
        url = bucket.public_url(playlist)
        async with self._db.write() as tx:
            now = await recordings.find(tx, recording.id, lock=True)
            await self._check_bucket(tx, project.id, bucket)
            if now is not None and now.upload_state != "done":
                await recordings.change(tx, recording.id, upload_state="done", upload_error="", remote_url=url)
                done = replace(now, upload_state="done", upload_error="", remote_url=url)
                await announce(tx, recording_fact("recording.uploaded", done, clock.wallclock(), url=url))
        log.info("recording %s is in the bucket of %s: %d files", recording.id, project.slug, len(files))
        self._well(project)

    async def _fail(self, upload: Upload, why: BaseException) -> None:
        code, message = words_of(why)
        FAILED.labels(code).value += 1
        if isinstance(why, Unwanted):
            return
        attempts = upload.attempts + 1
        of_file = code in OF_FILE
        wait = 0.0 if not of_file else LOCAL_RETRY if isinstance(why, LocalTrouble) else _back_off(attempts)
        async with self._db.write() as tx:
            # what is the service's fault is no attempt of the file
            told = {"attempts": attempts, "next_at": clock.wallclock() + wait} if of_file else {"attempts": max(upload.attempts, 1)}
            await table.change(tx, upload.file_id, error=f"{code}: {message}", **told)
            file = await recording_files.find(tx, upload.file_id)
            recording = None if file is None else await recordings.find(tx, file.recording_id)
        if recording is None or isinstance(why, StorageError):
            return
        if of_file:
            log.warning("upload of %s/%s failed: %s: %s", recording.id, file.name if file else "", code, message)
            if attempts >= FAILURES_TOLD or isinstance(why, LocalTrouble):
                await self._tell(recording.id, code, message)
            return
        await self._service_failed(upload.project_id, recording, why)

    async def _service_failed(self, project_id: str, recording: Recording, why: BaseException) -> None:
        code, message = words_of(why)
        if isinstance(why, StorageError):
            return
        outage = self._outages.setdefault(project_id, Outage(clock.wallclock()))
        outage.code, outage.message = code, message
        if outage.retry_at <= clock.now():  # of several that were under way, the first counts
            outage.failures += 1
            asked = why.retry_after if isinstance(why, Refused) else None
            outage.retry_at = clock.now() + max(_back_off(outage.failures), asked or 0.0)
        if (code in LASTING and code != outage.told) or (not outage.told and outage.failures >= FAILURES_TOLD):
            outage.told = code
            log.warning("uploads of project %s wait: %s: %s", project_id, code, message)
            await self._tell(recording.id, code, message)

    async def _tell(self, recording_id: str, code: str, message: str) -> None:
        async with self._db.write() as tx:
            recording = await recordings.find(tx, recording_id, lock=True)
            if recording is None:
                return
            await recordings.change(tx, recording_id, upload_state="failed", upload_error=f"{code}: {message}")
            if recording.upload_state != "failed" or not recording.upload_error.startswith(f"{code}:"):
                failed = replace(recording, upload_state="failed", upload_error=f"{code}: {message}")
                await announce(tx, recording_fact("recording.upload-failed", failed, clock.wallclock(), code=code, message=message))

    def _well(self, project: Project) -> None:
        outage = self._outages.pop(project.id, None)
        if outage is not None and outage.told:
            log.info("uploads of project %s go on after %.0f s", project.slug, clock.wallclock() - outage.since)
        self._wake.set()


def find_bucket(project: Project) -> Bucket | None:
    """None where its files stay on the node."""
    storage = project.storage or {}
    return Bucket.of(storage) if storage.get("type") == "s3" else None


def bucket_of(project: Project) -> Bucket:
    """Raises Conflict (`no-bucket`)."""
    bucket = find_bucket(project)
    if bucket is None:
        raise Conflict(f"project {project.slug} has no bucket: set storage of type s3", code="no-bucket")
    return bucket


def words_of(why: BaseException) -> tuple[str, str]:
    """Code and message of what a guarded transfer ended by."""
    match why:
        case MedianodeError():
            return why.code, why.message
        case TimeoutError():
            return "bucket-away", "the service did not answer in time"
        case OSError():
            return "file-missing", f"the file cannot be read: {why.strerror or 'unknown'}"
    return "internal", "a fault of ours: the log tells"


def _back_off(failures: int) -> float:
    return float(min(LAST_RETRY, FIRST_RETRY * 2 ** min(failures - 1, 10)) * (0.75 + random.random() / 2))
