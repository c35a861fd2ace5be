"""What is deleted through the API goes from the bucket, whatever happens in between; what retention takes stays there."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from medianode.config import Config
from medianode.control.bucket_removals import FAILED_AGAIN, BucketRemovals
from medianode.control.first_start import first_start
from medianode.control.recording_places import RecordingPlaces
from medianode.control.retention import Retention
from medianode.events import Bus
from medianode.store import projects, recording_files, recordings
from medianode.store import uploads as table
from medianode.store.database import Database, open_database
from medianode.store.kept_files import Choice
from medianode.store.object_errors import Refused
from medianode.store.objects import Bucket, Objects
from medianode.store.recording_files import RecordingFile
from medianode.store.recordings import Recording
from medianode.store.uploads import Upload

STORAGE = {"type": "s3", "bucket": "evidence", "endpoint": "https://s3.example.com", "accessKey": "AK", "secretKey": "SK", "prefix": "cams"}
FOLDER = "cams/live/live-a/rec_1"
BESIDE = [f"{FOLDER}/index.m3u8", f"{FOLDER}/recording.json"]


@dataclass
class Service(Objects):
    gone: list[str] = field(default_factory=list)
    refusal: Refused | None = None

    async def delete(self, bucket: Bucket, key: str) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.gone.append(key)

    async def abort(self, bucket: Bucket, key: str, upload_id: str) -> None:
        self.gone.append(f"{key} {upload_id}")


@dataclass
class House:
    db: Database
    service: Service
    retention: Retention
    removals: BucketRemovals
    recording: Recording
    busy: set[str]

    async def set_storage(self, storage: dict[str, Any] | None) -> None:
        async with self.db.write() as tx:
            project = await projects.find(tx, self.recording.project_id)
            assert project is not None
            await projects.replace(tx, replace(project, storage=storage))


@asynccontextmanager
async def house(tmp_path: Path, storage: dict[str, Any] | None = STORAGE) -> AsyncIterator[House]:
    """One file that is in the bucket, and one that is on its way."""
    async with open_database("", tmp_path, environ={}) as db:
        await first_start(db, tmp_path)
        bus, service, busy = Bus(), Service(), set[str]()
        config = Config(data_dir=str(tmp_path))
        removals = BucketRemovals(db, bus, service, "n", busy.__contains__)
        retention = Retention(db, bus, config.recording, RecordingPlaces(config, db, bus), "n", removals)
        async with db.write() as tx:
            project = await projects.find(tx, "live")
            assert project is not None
            await projects.replace(tx, replace(project, storage=storage))
            recording = Recording(id="rec_1", project_id=project.id, room="live-a", node_id="n", directory=str(tmp_path), started_at=1.0)
            recording = replace(recording, state="finished", ended_at=2.0, upload_state="uploading")
            await recordings.insert_recording(tx, recording)
            file = RecordingFile(recording_id="rec_1", project_id=project.id, sequence=1, name="000001.mp4", started_at=1.0, start=0)
            file = replace(file, state="closed", nbytes=250, duration=1_000_000)
            await recording_files.put(tx, replace(file, remote_key=f"{FOLDER}/000001.mp4", uploaded_at=3.0))
            await recording_files.put(tx, replace(file, sequence=2, name="000002.mp4", started_at=2.0))
            second = (await recording_files.of_recording(tx, "rec_1"))[1]
            begun = Upload(file_id=second.id, project_id=project.id, node_id="n", created_at=1.0, upload_id="u7")
            await table.add(tx, replace(begun, bucket="evidence", key=f"{FOLDER}/000002.mp4"))
        yield House(db, service, retention, removals, recording, busy)


async def test_all_that_was_put_there_goes(tmp_path: Path) -> None:
    async with house(tmp_path) as here:
        await here.retention.delete(here.recording)
        here.busy.add("rec_1")  # its second file is still being sent
        assert await here.removals.look(0.0)
        assert here.service.gone == []
        here.busy.clear()
        assert await here.removals.look(1.0)
        whole = [f"{FOLDER}/000001.mp4", f"{FOLDER}/000002.mp4", *BESIDE, f"{FOLDER}/000002.mp4 u7"]
        assert here.service.gone == whole
        assert not await here.removals.look(2.0)
        assert here.service.gone == whole


async def test_what_is_to_be_kept_stays(tmp_path: Path) -> None:
    async with house(tmp_path) as here:
        await here.retention.delete(here.recording, keep_remote=True)
        assert not await here.removals.look(0.0)
        assert here.service.gone == []


async def test_a_bucket_that_refuses_is_asked_again(tmp_path: Path) -> None:
    async with house(tmp_path) as here:
        await here.retention.delete(here.recording)
        here.service.refusal = Refused("no", code="access-denied")
        assert await here.removals.look(0.0)
        here.service.refusal = None
        await here.removals.look(1.0)
        assert here.service.gone == []  # too soon
        await here.removals.look(3.0)
        assert len(here.service.gone) == 4  # those behind the one that was refused
        await here.removals.look(FAILED_AGAIN + 1.0)
        assert here.service.gone[-1] == f"{FOLDER}/000001.mp4"


async def test_another_bucket_by_now_is_left_alone(tmp_path: Path) -> None:
    async with house(tmp_path) as here:
        await here.retention.delete(here.recording)
        await here.set_storage({**STORAGE, "bucket": "other"})
        await here.removals.look(0.0)
        assert here.service.gone == []
        assert not await here.removals.look(1.0)


async def test_retention_takes_nothing_from_a_bucket_but_parts_of_no_use(tmp_path: Path) -> None:
    async with house(tmp_path) as here:
        kept = [page async for page in here.retention._candidates(Choice(node_id="n", uploaded=None), last_resort=True)]
        await here.retention._discard([file for page in kept for file in page], "disk", last_resort=True)
        await here.removals.look(0.0)
        assert here.service.gone == [f"{FOLDER}/000002.mp4 u7"]
