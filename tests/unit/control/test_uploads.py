"""The engine of uploads, against a service that does as the test says."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from medianode.control import upload_listing, upload_transfer, uploads
from medianode.control.first_start import first_start
from medianode.control.upload_transfer import LocalTrouble, Transfer, Unwanted
from medianode.control.uploads import Uploads
from medianode.errors import Conflict, NotFound, PeerError
from medianode.events import Bus, ProjectChanged
from medianode.media.parts import Part, pack
from medianode.store import projects, recording_files, recordings
from medianode.store import uploads as table
from medianode.store.database import Database, open_database
from medianode.store.object_errors import Refused
from medianode.store.objects import Bucket, Head, Listed, Objects, Sent
from medianode.store.projects import Project
from medianode.store.recording_files import RecordingFile
from medianode.store.recordings import Recording
from medianode.store.uploads import PartSent, Upload
from medianode.tasks import background

STORAGE = {"type": "s3", "bucket": "evidence", "endpoint": "https://s3.example.com", "accessKey": "AK", "secretKey": "SK"}
BUCKET = Bucket.of(STORAGE)
KEY = "live/live-a/rec_1/000001.mp4"


@dataclass
class Service(Objects):
    """Keeps what it is sent. `opaque`: its ETags are no digests and it keeps none."""

    opaque: bool = False
    stored: dict[str, bytes] = field(default_factory=dict)
    begun: dict[str, dict[int, bytes]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def _tag(self, data: bytes) -> str:
        return "opaque" if self.opaque else hashlib.md5(data).hexdigest()

    def _sent(self, data: bytes) -> Sent:
        return Sent(self._tag(data), hashlib.sha256(data).hexdigest())

    async def put(self, bucket: Bucket, key: str, data: bytes, content_type: str = "") -> Sent:
        self.asked.append("put")
        self.stored[key] = data
        return self._sent(data)

    async def create_upload(self, bucket: Bucket, key: str, content_type: str = "") -> str:
        self.asked.append("create")
        self.begun[f"u{len(self.begun)}"] = {}
        return f"u{len(self.begun) - 1}"

    async def send_part(self, bucket: Bucket, key: str, upload_id: str, number: int, data: bytes) -> Sent:
        self.asked.append(f"part {number}")
        self.begun[upload_id][number] = data
        return self._sent(data)

    async def parts(self, bucket: Bucket, key: str, upload_id: str) -> list[Listed]:
        if upload_id not in self.begun:
            raise Refused("unknown", code="no-such-upload")
        return [Listed(n, self._tag(data), len(data)) for n, data in self.begun[upload_id].items()]

    async def uploads(self, bucket: Bucket, key: str) -> list[str]:
        return list(self.begun)

    async def complete(self, bucket: Bucket, key: str, upload_id: str, parts: Any) -> None:
        self.asked.append("complete")
        begun = self.begun.pop(upload_id)
        self.stored[key] = b"".join(begun[n] for n in sorted(begun))

    async def abort(self, bucket: Bucket, key: str, upload_id: str) -> None:
        self.asked.append("abort")
        self.begun.pop(upload_id, None)

    async def head(self, bucket: Bucket, key: str) -> Head | None:
        data = self.stored.get(key)
        if data is None:
            return None
        pieces = [data[i : i + 100] for i in range(0, len(data), 100)]
        whole = b"".join(hashlib.md5(piece).digest() for piece in pieces)
        tag = self._tag(data) if self.opaque or len(pieces) == 1 else f"{hashlib.md5(whole).hexdigest()}-{len(pieces)}"
        return Head(len(data), tag, "")

    async def read(self, bucket: Bucket, key: str, offset: int, size: int) -> bytes:
        self.asked.append("read")
        return self.stored[key][offset : offset + size]


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload_transfer, "PART_BYTES", 100)
    monkeypatch.setattr(uploads, "TICK", 0.01)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "000001.mp4"
    path.write_bytes(os.urandom(250))
    return path


def upload(**more: Any) -> Upload:
    return Upload(file_id=1, project_id="p", node_id="n", bucket="evidence", key=KEY, created_at=1.0, **more)


def transfer(service: Service, path: Path, row: Upload, *, size: int = 250, seasoned: bool = False) -> Transfer:
    return Transfer(service, BUCKET, KEY, path, size, row, seasoned=seasoned)


class Notes:
    def __init__(self, wanted: int = 100) -> None:
        self.seen: list[tuple[str, int]] = []
        self._wanted = wanted

    async def __call__(self, upload_id: str, parts: Any) -> bool:
        self.seen.append((upload_id, len(parts)))
        return len(self.seen) <= self._wanted


async def test_each_part_is_written_down(file: Path) -> None:
    service, notes = Service(), Notes()
    assert await transfer(service, file, upload()).run(notes) == hashlib.sha256(file.read_bytes()).hexdigest()
    assert notes.seen == [("u0", 0), ("u0", 1), ("u0", 2), ("u0", 3)]
    assert service.asked == ["create", "part 1", "part 2", "part 3", "complete"]
    assert service.stored == {KEY: file.read_bytes()}


async def test_it_goes_on_where_it_was(file: Path) -> None:
    """What the service has but we had not written down counts, too; what it has wrongly is sent again."""
    data = file.read_bytes()
    service = Service(begun={"u0": {1: data[:100], 2: b"x" * 100, 3: data[200:]}})
    known = PartSent(1, hashlib.md5(data[:100]).hexdigest(), hashlib.sha256(data[:100]).hexdigest())
    await transfer(service, file, upload(upload_id="u0", parts=[known])).run(Notes())
    assert service.asked == ["part 2", "complete"]
    assert service.stored == {KEY: data}


async def test_an_upload_that_the_service_forgot_begins_anew(file: Path) -> None:
    service = Service()
    await transfer(service, file, upload(upload_id="u7")).run(Notes())
    assert service.asked[0] == "create"
    assert service.stored == {KEY: file.read_bytes()}


async def test_a_file_that_changed_begins_anew(file: Path) -> None:
    service = Service(begun={"u0": {1: b"x" * 100}})
    known = PartSent(1, hashlib.md5(b"x" * 100).hexdigest(), hashlib.sha256(b"x" * 100).hexdigest())
    await transfer(service, file, upload(upload_id="u0", parts=[known])).run(Notes())
    assert service.asked[:2] == ["abort", "create"]
    assert service.stored == {KEY: file.read_bytes()}


async def test_what_was_completed_is_not_sent_again(file: Path) -> None:
    """The process ended between the last answer and its row."""
    service = Service(stored={KEY: file.read_bytes()})
    await transfer(service, file, upload(), seasoned=True).run(Notes())
    assert service.asked == []


async def test_orphans_of_this_key_are_aborted(file: Path) -> None:
    service = Service(begun={"u0": {}})
    await transfer(service, file, upload(), seasoned=True).run(Notes())
    assert service.asked[:2] == ["abort", "create"]


async def test_without_a_digest_it_is_read_back(file: Path) -> None:
    service = Service(opaque=True)
    await transfer(service, file, upload()).run(Notes())
    assert service.asked[-1] == "read"


@pytest.mark.parametrize(("kept", "opaque"), [(b"", False), (b"x" * 249, False), (b"x" * 250, False), (b"x" * 250, True)])
async def test_nothing_counts_that_is_not_verified(file: Path, kept: bytes, opaque: bool) -> None:
    class Careless(Service):
        async def complete(self, bucket: Bucket, key: str, upload_id: str, parts: Any) -> None:
            if kept:
                self.stored[key] = kept

    with pytest.raises(PeerError) as raised:
        await transfer(Careless(opaque=opaque), file, upload()).run(Notes())
    assert raised.value.code == "not-verified"


async def test_trouble_of_the_file_itself(file: Path, tmp_path: Path) -> None:
    with pytest.raises(LocalTrouble, match="expected 251 bytes here, got 250"):
        await transfer(Service(), file, upload(), size=251).run(Notes())
    with pytest.raises(LocalTrouble, match="not on this node any more"):
        await transfer(Service(), tmp_path / "none", upload()).run(Notes())
    service = Service()
    with pytest.raises(Unwanted):
        await transfer(service, file, upload()).run(Notes(wanted=2))
    assert service.asked == ["create", "part 1", "part 2", "abort"]


@dataclass
class House:
    db: Database
    bus: Bus
    uploads: Uploads
    project: Project

    async def set_storage(self, storage: dict[str, Any] | None) -> None:
        async with self.db.write() as tx:
            await projects.replace(tx, replace(self.project, storage=storage))

    async def until(self, upload_state: str) -> Recording:
        async with asyncio.timeout(10):
            while True:
                async with self.db.read() as tx:
                    recording = await recordings.find(tx, "rec_1")
                assert recording is not None
                if recording.upload_state == upload_state:
                    return recording
                await asyncio.sleep(0)


@asynccontextmanager
async def house(tmp_path: Path, service: Objects, **more: Any) -> AsyncIterator[House]:
    async with open_database("", tmp_path, environ={}) as db:
        await first_start(db, tmp_path)
        async with db.write() as tx:
            project = await projects.find(tx, "live")
            assert project is not None
            project = replace(project, storage=STORAGE)
            await projects.replace(tx, project)
            recording = Recording(id="rec_1", project_id=project.id, room="live-a", node_id="n", directory=str(tmp_path), started_at=1.0)
            await recordings.insert_recording(tx, replace(recording, **more))
            file = RecordingFile(recording_id="rec_1", project_id=project.id, sequence=1, name="000001.mp4", started_at=1.0, start=0)
            index = pack([Part(50, 200, 0, 1_000_000, True)])
            await recording_files.put(tx, replace(file, state="closed", nbytes=250, init_bytes=50, duration=1_000_000, parts=index))
        bus = Bus()
        yield House(db, bus, Uploads(db, bus, service, "n", bound=1), project)


async def test_a_closed_file_is_listed_in_its_own_transaction(tmp_path: Path) -> None:
    async with house(tmp_path, Service(), upload_state="pending") as here, here.db.write() as tx:
        (file,) = await recording_files.of_recording(tx, "rec_1")
        recording = await recordings.find(tx, "rec_1")
        assert recording is not None
        await here.uploads.on_file(tx, replace(recording, upload_state="none"), file)
        assert await table.find(tx, file.id) is None
        await here.uploads.on_file(tx, recording, file)
        assert await table.find(tx, file.id) is not None


async def test_by_hand(tmp_path: Path) -> None:
    async with house(tmp_path, Service(), upload_state="none") as here:
        with pytest.raises(NotFound):
            await here.uploads.retry(here.project, "rec_2")
        with pytest.raises(NotFound):
            await here.uploads.retry(replace(here.project, id="prj_other"), "rec_1")
        with pytest.raises(Conflict, match="has no bucket"):
            await here.uploads.retry(replace(here.project, storage=None), "rec_1")
        assert (await here.uploads.retry(here.project, "rec_1")).upload_state == "pending"
        assert (await here.uploads.state(here.project)).queue.files == 1


async def test_a_bucket_that_is_changed_while_a_file_is_on_its_way_gets_it_whole(tmp_path: Path, file: Path) -> None:
    """What is in the old one counts for nothing: it could not be played, and would be deleted here."""
    other = {**STORAGE, "bucket": "other"}
    there: list[tuple[str, str]] = []

    class Moving(Service):
        async def complete(self, bucket: Bucket, key: str, upload_id: str, parts: Any) -> None:
            await super().complete(bucket, key, upload_id, parts)
            there.append((bucket.name, key))
            await here.set_storage(other)

        async def head(self, bucket: Bucket, key: str) -> Head | None:
            return await super().head(bucket, key) if (bucket.name, key) in there else None

    ended = {"upload_state": "pending", "state": "finished", "ended_at": 2.0}
    async with house(tmp_path, Moving(), **ended) as here, background(here.uploads.serve()):
        recording = await here.until("done")
    assert there == [("evidence", KEY), ("other", KEY)]
    assert recording.remote_url == "https://s3.example.com/other/live/live-a/rec_1/index.m3u8"


async def test_a_bucket_that_is_taken_away_is_away_no_more(tmp_path: Path, file: Path) -> None:
    class Closed(Service):
        async def create_upload(self, bucket: Bucket, key: str, content_type: str = "") -> str:
            raise Refused("no", code="access-denied")

    async with house(tmp_path, Closed(), upload_state="pending") as here, background(here.uploads.serve()):
        await here.until("failed")
        outage = (await here.uploads.state(here.project)).outage
        assert outage is not None
        assert outage.told == "access-denied"
        await here.set_storage(None)
        here.bus.publish(ProjectChanged(here.project.id, "live"))
        await here.until("none")
        state = await here.uploads.state(here.project)
        assert (state.queue.files, state.outage) == (0, None)


async def test_it_ends_with_a_playlist_beside_the_files(tmp_path: Path, file: Path) -> None:
    service = Service()
    ended = {"upload_state": "pending", "state": "finished", "ended_at": 2.0}
    async with house(tmp_path, service, **ended) as here, background(here.uploads.serve()):
        recording = await here.until("done")
    folder = "live/live-a/rec_1"
    assert recording.remote_url == f"https://s3.example.com/evidence/{folder}/index.m3u8"
    assert sorted(service.stored) == [f"{folder}/000001.mp4", f"{folder}/index.m3u8", f"{folder}/recording.json"]
    assert service.stored[f"{folder}/000001.mp4"] == file.read_bytes()
    text = service.stored[f"{folder}/index.m3u8"].decode()
    assert '#EXT-X-MAP:URI="000001.mp4",BYTERANGE="50@0"\n' in text
    assert "#EXT-X-BYTERANGE:200@50\n000001.mp4\n" in text
    assert text.endswith("#EXT-X-ENDLIST\n")
    assert hashlib.sha256(file.read_bytes()).hexdigest().encode() in service.stored[f"{folder}/recording.json"]


def test_a_missing_file_breaks_the_playlist() -> None:
    first = RecordingFile(recording_id="r", project_id="p", sequence=1, name="000001.mp4", started_at=1.0, start=0, init_bytes=50)
    first = replace(first, parts=pack([Part(50, 200, 0, 1_000_000, True)]))
    next_ = replace(first, sequence=2, name="000002.mp4", parts=pack([Part(50, 200, 1_000_000, 1_000_000, True)]))
    assert b"DISCONTINUITY" not in upload_listing.playlist([first, next_])
    assert upload_listing.playlist([first, replace(next_, sequence=3)]).count(b"#EXT-X-DISCONTINUITY\n") == 1
    assert upload_listing.playlist([first, replace(next_, gap="publisher-gap")]).count(b"#EXT-X-DISCONTINUITY\n") == 1
