"""Recordings into a real S3 service: Swift's S3 API as a process, killed and started again, behind a wire that breaks and spoils."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession
from harness import H264_AAC, ffmpeg_process, moving_picture, plays, running, until
from harness.buckets import KEY, BucketService, Wire, bucket_service, make_bucket, objects
from soak.program import environment, serving

from medianode import clock
from medianode.control import retention, upload_transfer, uploads
from medianode.control.first_start import first_start
from medianode.control.nodes import open_node_id
from medianode.control.uploads import Uploads
from medianode.events import Bus, ProjectChanged
from medianode.media.parts import Part, pack
from medianode.store import outbox, projects, recording_files, recordings
from medianode.store import uploads as table
from medianode.store.database import Database, open_database
from medianode.store.object_errors import Refused
from medianode.store.objects import Bucket
from medianode.store.recording_files import RecordingFile
from medianode.store.recordings import Recording
from medianode.tasks import background

ALLOW = {"allow": ["127.0.0.0/8"]}
RECORDINGS = "/api/v1/projects/live/recordings"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BucketService]:
    with bucket_service(tmp_path_factory.mktemp("swift")) as running:
        yield running


async def fetched(http: ClientSession, path: str) -> Any:
    async with http.get(path) as response:
        assert response.status == 200, await response.text()
        return (await response.json())["data"]


async def test_a_recording_plays_from_the_bucket(service: BucketService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "LOOK", 0.5)
    monkeypatch.setattr(retention, "AGE_LOOK", 0.5)
    await make_bucket(service.storage("plays"), public=True)
    storage = service.storage("plays", prefix="media", cdnUrl=service.public("plays"))
    async with running(tmp_path, outbound=ALLOW, ingress={"hold": 0.1}) as node, ClientSession(node.http, headers=node.admin) as http:
        assert (await http.patch("/api/v1/projects/live", json={"storage": storage})).status == 200
        async with ffmpeg_process(*moving_picture(30), *H264_AAC, "-f", "flv", f"{node.rtmp}/live/{node.key}"):
            await until(lambda: node.on_air)
            async with http.post(RECORDINGS, json={"room": "studio"}) as response:
                assert response.status == 201, await response.text()
                found = (await response.json())["data"]
            await asyncio.sleep(2)
        async with asyncio.timeout(20):
            while found["upload"]["state"] != "done":
                await asyncio.sleep(0.1)
                found = await fetched(http, f"{RECORDINGS}/{found['id']}")
        assert found["upload"]["url"].startswith(service.public("plays") + "/media/live/")
        await plays(found["upload"]["url"])
        assert (await fetched(http, "/api/v1/projects/live/uploads"))["state"] == "idle"
        assert all(file["uploaded"] for file in found["files"])
        words = [event["type"] for event in await fetched(http, "/api/v1/events?limit=50&types=recording.*")]
        assert words[-1] == "recording.uploaded", words

        # deleted here once it is there, it still plays from the node: by URLs that are signed, for nothing else may be public
        private = {"storage": service.storage("plays", prefix="media"), "recording": {"deleteAfterUpload": True}}
        assert (await http.patch("/api/v1/projects/live", json=private)).status == 200
        async with asyncio.timeout(20):
            while list(tmp_path.rglob("*.mp4")):
                await asyncio.sleep(0.1)
        found = await fetched(http, f"{RECORDINGS}/{found['id']}")
        assert {file["state"] for file in found["files"]} == {"gone"}
        async with http.get(found["files"][0]["url"], allow_redirects=False) as response:
            assert (response.status, "X-Amz-Signature=" in response.headers["Location"]) == (302, True)
        await plays(found["urls"]["hls"])

        # and deleted, it is gone from the bucket too
        bucket = Bucket.of(service.storage("plays", prefix="media"))
        there = [bucket.key(f"live/live-studio/{found['id']}/{name}") for name in ("000001.mp4", "index.m3u8", "recording.json")]
        assert all([await objects().head(bucket, key) for key in there])
        async with http.delete(f"{RECORDINGS}/{found['id']}") as response:
            assert response.status == 204
        async with asyncio.timeout(10):
            while any([await objects().head(bucket, key) for key in there]):
                await asyncio.sleep(0.1)


MIB = 1024 * 1024
REC = "rec_000000000000000000aB"


@dataclass
class House:
    """A database with one recording that is to go into a bucket, and its files on the disk; no media in them."""

    db: Database
    bus: Bus
    uploads: Uploads
    directory: Path
    project_id: str

    async def recording(self) -> Recording:
        async with self.db.read() as tx:
            found = await recordings.find(tx, REC)
        assert found is not None
        return found

    async def until(self, *states: str, timeout: float = 20.0) -> Recording:
        async with asyncio.timeout(timeout):
            while (found := await self.recording()).upload_state not in states:
                await asyncio.sleep(0.05)
        return found

    async def told(self) -> list[str]:
        async with self.db.read() as tx:
            return [row["type"] for row in await tx.all(outbox._events.select().order_by(outbox._events.c.cursor))]

    async def set_storage(self, storage: dict[str, Any]) -> None:
        async with self.db.write() as tx:
            project = await projects.find(tx, self.project_id)
            assert project is not None
            await projects.replace(tx, replace(project, storage=storage))
        self.bus.publish(ProjectChanged(self.project_id, "live"))


async def put_recording(db: Database, node_id: str, directory: Path, sizes: list[int], storage: dict[str, Any]) -> str:
    """Rows and files of a recording that has ended. Returns the project's id."""
    directory.mkdir(parents=True, exist_ok=True)
    async with db.write() as tx:
        project = await projects.find(tx, "live")
        assert project is not None
        await projects.replace(tx, replace(project, storage=storage))
        now = clock.wallclock()
        recording = Recording(id=REC, project_id=project.id, room="live-studio", node_id=node_id, directory=str(directory), started_at=now)
        await recordings.insert_recording(tx, replace(recording, state="finished", ended_at=now, upload_state="pending"))
        for sequence, size in enumerate(sizes, 1):
            name = f"{sequence:06}.mp4"
            (directory / name).write_bytes(os.urandom(size))
            file = RecordingFile(recording_id=REC, project_id=project.id, sequence=sequence, name=name, started_at=now, start=0)
            index = pack([Part(1000, size - 1000, 0, 1_000_000, True)])
            await recording_files.put(tx, replace(file, state="closed", nbytes=size, init_bytes=1000, duration=1_000_000, parts=index))
    return project.id


@asynccontextmanager
async def idle_house(data_dir: Path, directory: Path, sizes: list[int], storage: dict[str, Any]) -> AsyncIterator[House]:
    """Its uploads do not run."""
    bus, node_id = Bus(), open_node_id(data_dir)
    async with open_database("", data_dir, environ={}) as db:
        await first_start(db, data_dir)
        project_id = await put_recording(db, node_id, directory, sizes, storage)
        yield House(db, bus, Uploads(db, bus, objects(), node_id, bound=2), directory, project_id)


@asynccontextmanager
async def house(data_dir: Path, sizes: list[int], storage: dict[str, Any]) -> AsyncIterator[House]:
    async with idle_house(data_dir, data_dir / REC, sizes, storage) as here, background(here.uploads.serve()):
        yield here


async def same(bucket: Bucket, directory: Path) -> bool:
    """Are the files in the bucket those on the disk?"""
    there = [await objects().read(bucket, bucket.key(f"live/live-studio/{REC}/{path.name}"), 0, 64 * MIB) for path in directory.iterdir()]
    return there == [path.read_bytes() for path in directory.iterdir()]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "TICK", 0.05)
    monkeypatch.setattr(uploads, "FIRST_RETRY", 0.05)
    monkeypatch.setattr(uploads, "LAST_RETRY", 0.1)
    monkeypatch.setattr(upload_transfer, "PART_BYTES", 256 * 1024)


@pytest.mark.usefixtures("quick")
async def test_away_and_back(service: BucketService, tmp_path: Path) -> None:
    bucket = await make_bucket(service.storage("away"))
    service.stop()
    try:
        async with house(tmp_path, [MIB, 1000, 100_000], service.storage("away")) as here:
            failed = await here.until("failed")
            assert failed.upload_error == f"bucket-away: 127.0.0.1:{service.port} cannot be reached: Connection refused"
            async with here.db.read() as tx:
                project = await projects.find(tx, here.project_id)
            assert project is not None
            state = await here.uploads.state(project)
            assert (state.queue.files, state.outage is not None) == (3, True)
            service.start()
            await here.until("done")
            assert await same(bucket, here.directory)
            assert (await here.told())[-2:] == ["recording.upload-failed", "recording.uploaded"]
            assert (await here.told()).count("recording.upload-failed") == 1
            assert (await here.uploads.state(project)).outage is None
    finally:
        if service._process is None:
            service.start()


@pytest.mark.usefixtures("quick")
async def test_a_wire_that_breaks_and_spoils(service: BucketService, tmp_path: Path) -> None:
    """Each trouble once: told to slow down, an answer that breaks off, bytes that change on the way."""
    bucket = await make_bucket(service.storage("wire"))
    async with Wire(service.port).open() as wire:
        slow = b"<Error><Code>SlowDown</Code><Message>easy</Message></Error>"
        refusals = [b"HTTP/1.1 503 Slow Down\r\nContent-Length: %d\r\nRetry-After: 0\r\n\r\n%s" % (len(slow), slow)]
        spoilt: list[bytes] = []

        def meddle(head: bytes) -> bytes | None:
            if b"partNumber=2" in head and refusals:
                return refusals.pop()
            if b"partNumber=3" in head and b"PUT" in head and len(spoilt) == 1 and wire.cut_answer is None and cuts:
                wire.cut_answer = cuts.pop()
            return None

        def spoil(head: bytes, chunk: bytes) -> bytes:
            if b"partNumber=3" in head and not spoilt:
                spoilt.append(chunk)
                return bytes([chunk[0] ^ 1]) + chunk[1:]
            return chunk

        cuts = [20]
        wire.meddle, wire.spoil = meddle, spoil
        async with house(tmp_path, [MIB], service.storage("wire", endpoint=f"http://127.0.0.1:{wire.port}")) as here:
            await here.until("done")
            assert await same(bucket, here.directory)
            async with here.db.read() as tx:
                (file,) = await recording_files.of_recording(tx, REC)
            assert file.remote_key == f"live/live-studio/{REC}/000001.mp4"
            assert file.uploaded_at is not None
        assert (refusals, len(spoilt), cuts) == ([], 1, [])
        sent = [line.decode().partition("partNumber=")[2][0] for line in wire.requests if line.startswith(b"PUT") and b"partNumber" in line]
        assert (sent.count("1"), sent.count("2"), sent.count("4")) == (1, 1, 1)
        assert sent.count("3") in (2, 3)  # spoilt, its answer lost, and again only if the service had not kept it
        assert sum(b"?uploads" in line and line.startswith(b"POST") for line in wire.requests) == 1


@pytest.mark.usefixtures("quick")
async def test_wrong_credentials_and_a_bucket_that_is_gone(service: BucketService, tmp_path: Path) -> None:
    wrong = service.storage("gone", secretKey="another")
    async with house(tmp_path, [100_000], wrong) as here:
        failed = await here.until("failed")
        assert failed.upload_error.startswith("wrong-credentials: the secret key is wrong")
        assert KEY not in failed.upload_error
        await here.set_storage(service.storage("gone"))
        async with asyncio.timeout(10):
            while not (await here.recording()).upload_error.startswith("no-such-bucket: there is no such bucket"):
                await asyncio.sleep(0.05)
        bucket = await make_bucket(service.storage("gone"))
        await here.until("done")
        assert await same(bucket, here.directory)


@pytest.mark.usefixtures("quick")
async def test_a_file_that_is_another_now_begins_anew(service: BucketService, tmp_path: Path) -> None:
    """An upload that a process left behind, of other bytes; and one whose id it had no time to write down."""
    bucket = await make_bucket(service.storage("anew"))
    key = f"live/live-studio/{REC}/000001.mp4"
    old, orphan = await objects().create_upload(bucket, key), await objects().create_upload(bucket, key)
    sent = await objects().send_part(bucket, key, old, 1, b"x" * 256 * 1024)
    async with idle_house(tmp_path, tmp_path / REC, [MIB], service.storage("anew")) as here:
        async with here.db.write() as tx:
            (file,) = await recording_files.of_recording(tx, REC)
            left = table.Upload(file_id=file.id, project_id=here.project_id, node_id=open_node_id(tmp_path), created_at=1.0)
            parts = [table.PartSent(1, sent.etag, sent.sha256)]
            await table.add(tx, replace(left, bucket="anew", key=key, upload_id=old, parts=parts))
        async with background(here.uploads.serve()):
            await here.until("done")
    assert await same(bucket, tmp_path / REC)
    assert await objects().uploads(bucket, key) == [], (old, orphan)


async def test_sigkill_in_the_middle_of_a_multipart_upload(service: BucketService, tmp_path: Path) -> None:
    """The whole daemon; each part is sent once, but for the one that was on its way."""
    bucket = await make_bucket(service.storage("killed"))
    data = tmp_path / "data"
    data.mkdir()
    directory = data / "recordings" / "live" / "live-studio" / REC
    environ = environment(data, OUTBOUND__ALLOW="127.0.0.0/8")
    slow = {**environ, "MEDIANODE__RECORDING__UPLOAD_BITRATE": "160000000"}  # a part each 0.4 s
    async with Wire(service.port).open() as wire:
        storage = service.storage("killed", endpoint=f"http://127.0.0.1:{wire.port}")
        async with idle_house(data, directory, [28 * MIB], storage) as here:

            async def parts() -> int:
                async with here.db.read() as tx:
                    found = [upload for _, upload in await table.of_recording(tx, REC)]
                return len(found[0].parts) if found else 0

            async with serving(data, slow) as node:
                async with asyncio.timeout(20):
                    while await parts() < 1:
                        await asyncio.sleep(0.02)
                await asyncio.sleep(0.2)
                await node.kill()
            before = await parts()
            assert 1 <= before < 4
            async with serving(data, environ):
                await here.until("done")
        puts = [line for line in wire.requests if b"partNumber=" in line]
        counts = {number: sum(b"partNumber=%d" % number in line for line in puts) for number in (1, 2, 3, 4)}
        # that which was on its way is sent again, but where the service had it whole before its answer was read
        assert counts == dict.fromkeys((1, 2, 3, 4), 1) | {before + 1: counts[before + 1]}
        assert counts[before + 1] in (1, 2)
    assert await same(bucket, directory)
    assert await objects().uploads(bucket, f"live/live-studio/{REC}/000001.mp4") == []


async def test_clocks_that_differ(service: BucketService, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = await make_bucket(service.storage("clocks"))
    ahead = 2 * 3600.0
    monkeypatch.setattr("botocore.auth.get_current_datetime", lambda **_: clock.utc(clock.wallclock()))
    real = clock.wallclock
    monkeypatch.setattr(clock, "wallclock", lambda: real() + ahead)
    with pytest.raises(Refused) as raised:
        await objects().put(bucket, "a", b"abc")
    assert raised.value.code == "clock-skew"
    assert "this node's clock is 7" in raised.value.message
    assert "s ahead of the service's: set it right" in raised.value.message
