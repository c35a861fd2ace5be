"""The oldest files go: by age, by bytes, before the disk is full. What is pinned, open, read or not yet uploaded stays."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import pytest
from harness.recorded import Film, Studio

from medianode.config import Recording as Settings
from medianode.control import disk
from medianode.control.disk import Space
from medianode.control.disk_states import DiskState
from medianode.control.projects import Projects
from medianode.control.retention import LOOK
from medianode.errors import Conflict, NotFound, StorageError
from medianode.events import Bus
from medianode.store import kept_files, outbox, recording_files, recordings
from medianode.store.database import Database, open_database
from medianode.store.projects import Project

MB = 100_000
"""A small one: what is counted here is files, not bytes."""
BIG = MB // 10
"""Bytes of a picture: ten a second, so that a file of ten seconds has some 10 MB."""


class SmallDisk:
    """Stands in for the file system: so many bytes, of which what is below `root` is taken, and by others `taken`."""

    def __init__(self, root: Path, total: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self.total, self.taken = root, total, 0
        monkeypatch.setattr(disk, "measure", self.measure)
        monkeypatch.setattr(disk, "measure_all", self.measure_all)

    @property
    def free(self) -> int:
        return self.total - self.taken - sum(path.stat().st_size for path in self.root.rglob("*.mp4"))

    def measure(self, root: Path) -> Space:
        return Space(root, 1, self.free, self.total)

    def measure_all(self, roots: Iterable[Path], files: Iterable[Path]) -> tuple[list[Space], dict[Path, int]]:
        return [self.measure(root) for root in roots], {path: path.stat().st_size for path in files}


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    """SQLite alone: tests/unit/store asks both for what retention asks for."""
    async with open_database("", tmp_path, environ={}) as db:
        yield db


@pytest.fixture
async def project(database: Database) -> Project:
    return await Projects(database, Bus()).create("garage")


async def studio_of(database: Database, tmp_path: Path, **settings: Any) -> Studio:
    studio = Studio(database, tmp_path / "recordings", Settings(**{"min_free": 0, **settings}))
    await studio.open()
    return studio


def left(film: Film) -> list[int]:
    """Sequences of its files that are on the disk."""
    return sorted(int(path.stem) for path in film.order.directory.glob("*.mp4"))


async def deleted(studio: Studio) -> list[dict[str, Any]]:
    async with studio.db.read() as tx:
        return [dict(e.data) for e in await outbox.after(tx, 0, 1000) if e.type == "recording.deleted"]


async def disk_facts(studio: Studio) -> list[str]:
    async with studio.db.read() as tx:
        return [e.type for e in await outbox.after(tx, 0, 1000) if e.type.startswith("disk.")]


async def agree(studio: Studio, film: Film) -> None:
    """Rows and files tell the same."""
    async with studio.db.read() as tx:
        rows = await recording_files.of_recording(tx, film.order.recording_id, parts=False)
    assert [row.sequence for row in rows if row.state != "gone"] == left(film)


async def test_by_age_of_the_node_and_of_the_project(time: Any, database: Database, tmp_path: Path, project: Project) -> None:
    studio = await studio_of(database, tmp_path, max_age=3600.0)
    strict = await Projects(database, studio.bus).create("strict", recording={"maxAge": 600})
    now = time.wall
    old = await studio.recorded(project, "garage-a", now - 3615, 20)
    older = await studio.recorded(project, "garage-b", now - 9000, 15)
    short = await studio.recorded(strict, "strict-a", now - 615, 20)
    await studio.retention.look(time.monotonic)
    assert (left(old), left(older), left(short)) == ([2], [], [2])
    assert not older.order.directory.exists(), "nor is its directory left"
    for film in (old, short):
        await agree(studio, film)
    async with database.read() as tx:
        assert await recordings.find(tx, older.order.recording_id) is None
    told = await deleted(studio)
    assert sorted((t["recordingId"], t["cause"], t["whole"], t["files"]) for t in told) == sorted(
        [
            (older.order.recording_id, "age", True, 2),
            (old.order.recording_id, "age", False, 1),
            (short.order.recording_id, "age", False, 1),
        ]
    )
    time.pass_by(60)
    await studio.retention.look(time.monotonic)
    assert left(old) == []
    assert [(t["files"], t["whole"]) for t in (await deleted(studio))[3:]] == [(1, True)] * 2, "what was told of is not told again"


async def test_a_clock_that_jumps_forward_deletes_nothing(time: Any, database: Database, tmp_path: Path, project: Project) -> None:
    studio = await studio_of(database, tmp_path, max_age=86_400.0)
    film = await studio.recorded(project, "garage-a", time.wall - 100, 20)
    await studio.retention.look(time.monotonic)
    time.wall += 20 * 365 * 86_400
    for _ in range(5):
        time.pass_by(60)
        await studio.retention.look(time.monotonic)
    assert left(film) == [1, 2]


async def test_by_bytes_pinned_open_and_read_files_stay(time: Any, database: Database, tmp_path: Path, project: Project) -> None:
    studio = await studio_of(database, tmp_path, max_bytes=46 * MB)
    now = time.wall
    pinned = await studio.recorded(project, "garage-a", now - 900, 20, padding=BIG)
    async with database.write() as tx:
        await recordings.change(tx, pinned.order.recording_id, pinned=True)
    read = await studio.recorded(project, "garage-b", now - 800, 10, padding=BIG)
    studio.retention.in_use = lambda path: path.parent == read.order.directory
    free = await studio.recorded(project, "garage-c", now - 700, 30, padding=BIG)
    running = studio.film(project, "garage-d", now - 25, padding=BIG)
    running.roll(15)
    await studio.ledger.write()
    await studio.retention.look(time.monotonic)
    # 20 pinned, 10 read, 30 free, 10 closed and 5 open: 75 MB, of which 29 are to go
    assert (left(pinned), left(read), left(free), left(running)) == ([1, 2], [1], [], [1, 2])
    await agree(studio, running)
    studio.retention.in_use = lambda path: False
    studio.retention._settings = Settings(min_free=0, max_bytes=1)
    time.pass_by(60)
    await studio.retention.look(time.monotonic)
    assert (left(pinned), left(read), left(running)) == ([1, 2], [], [2])
    (fact,) = [t for t in await deleted(studio) if t["recordingId"] == running.order.recording_id]
    assert (fact["whole"], fact["seconds"], fact["state"]) == (False, pytest.approx(10.0), "recording")


async def test_the_bound_of_a_project_is_its_own(time: Any, database: Database, tmp_path: Path, project: Project) -> None:
    studio = await studio_of(database, tmp_path)
    small = await Projects(database, studio.bus).create("small", limits={"disk": 25 * MB})
    theirs = await studio.recorded(project, "garage-a", time.wall - 900, 40, padding=BIG)
    ours = await studio.recorded(small, "small-a", time.wall - 800, 40, padding=BIG)
    await studio.retention.look(time.monotonic)
    assert (left(theirs), left(ours)) == ([1, 2, 3, 4], [3, 4])


async def test_the_disk_is_never_full_and_who_runs_it_is_told(
    time: Any, database: Database, tmp_path: Path, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    studio = await studio_of(database, tmp_path, min_free=20 * MB)
    small = SmallDisk(studio.root, 100 * MB, monkeypatch)
    first = await studio.recorded(project, "garage-a", time.wall - 900, 60, padding=BIG)
    await studio.retention.look(time.monotonic)
    assert await disk_facts(studio) == []
    film = studio.film(project, "garage-b", time.wall, padding=BIG)
    for _ in range(24):  # two minutes at 8 Mbit/s
        film.roll(LOOK)
        time.pass_by(LOOK)
        await studio.ledger.write()
        assert small.free >= 20 * MB - 6 * MB, "it acts before"
        await studio.retention.look(time.monotonic)
        assert small.free >= 20 * MB
    assert left(first) == []
    assert left(film)[-1] == 12
    assert studio.retention.write_rate() == pytest.approx(MB, rel=0.15)
    assert await disk_facts(studio) == ["disk.low"], "once, however long it goes on so"
    film.stop()
    await studio.ledger.write()
    small.total = 1000 * MB
    for _ in range(14):
        time.pass_by(LOOK)
        await studio.retention.look(time.monotonic)
    assert await disk_facts(studio) == ["disk.low", "disk.recovered"]


async def test_files_of_a_disk_that_is_not_mounted_make_no_room(
    time: Any, database: Database, tmp_path: Path, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    studio = await studio_of(database, tmp_path, min_free=20 * MB)
    small = SmallDisk(studio.root, 100 * MB, monkeypatch)
    away = await studio.recorded(project, "garage-a", time.wall - 900, 30, padding=BIG)
    studio.root.rename(tmp_path / "unmounted")
    here = await studio.recorded(project, "garage-b", time.wall - 100, 30, padding=BIG)
    small.taken = small.free - 12 * MB
    await studio.retention.look(time.monotonic)
    async with database.read() as tx:
        assert await recording_files.count(tx, away.order.recording_id) == (3, sum(file.nbytes for file in away.files))
    assert left(here) == [2, 3]


async def test_on_a_small_disk_half_of_it_is_for_recordings_whatever_the_rate_is(
    time: Any, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """12 MB at 2 MB/s: ten seconds of writing are more than all of it."""
    studio = await studio_of(database, tmp_path, min_free=1 << 31)
    small = SmallDisk(studio.root, 120 * MB, monkeypatch)
    monkeypatch.setattr(studio.retention, "write_rate", lambda space=None: 20.0 * MB)
    kept = await Projects(database, studio.bus).create("kept", recording={"minKeep": 86_400})
    film = await studio.recorded(kept, "kept-a", time.wall - 900, 60, padding=BIG)
    assert studio.retention.wanted(small.measure(studio.root)) == 60 * MB
    await studio.retention.look(time.monotonic)
    assert left(film) == [1, 2, 3, 4, 5, 6], "half is free: what is to be kept is"
    small.taken = small.free - 12 * MB
    time.pass_by(60)
    await studio.retention.look(time.monotonic)
    assert left(film) == [2, 3, 4, 5, 6], "an eighth is free before what is to be kept goes"


async def test_where_a_write_found_no_room_the_oldest_goes_at_once_and_nothing_else_is_full(
    time: Any, database: Database, tmp_path: Path, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    studio = await studio_of(database, tmp_path)
    small = SmallDisk(studio.root, 160 * MB, monkeypatch)  # a sixteenth of it is left to others
    film = await studio.recorded(project, "garage-a", time.wall - 900, 50, padding=BIG)
    small.taken = small.free
    assert await studio.retention.make_room(film.order.directory, MB) >= 11 * MB
    assert left(film) == [3, 4, 5]
    small.taken += small.free
    away = [StorageError("no room for the database either", code="storage-full")]
    lock = kept_files.lock

    async def full(*arguments: Any) -> Any:
        if away and small.free < 10 * MB:
            raise away.pop()
        return await lock(*arguments)

    monkeypatch.setattr(kept_files, "lock", full)
    assert await studio.retention.make_room(film.order.directory, MB) >= 11 * MB
    assert (left(film), away) == ([5], [])
    await agree(studio, film)
    async with database.write() as tx:
        await recordings.change(tx, film.order.recording_id, pinned=True)
    small.taken += small.free
    assert await studio.retention.make_room(film.order.directory, MB) == 0
    assert await studio.retention.make_room(film.order.directory, MB) == 0
    assert await disk_facts(studio) == ["disk.full"]
    assert left(film) == [5]


async def test_what_waits_for_its_upload_goes_last_and_loudly(
    time: Any, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bucket = {"type": "s3", "bucket": "media", "accessKey": "a", "secretKey": "s"}
    projects = Projects(database, Bus())
    to_cloud = await projects.create("cloud", storage=bucket, recording={"maxBytes": 15 * MB, "deleteAfterUpload": True, "minKeep": 60})
    kept = await projects.create("kept", recording={"minKeep": 86_400})
    studio = await studio_of(database, tmp_path, min_free=5 * MB)
    small = SmallDisk(studio.root, 120 * MB, monkeypatch)
    now = time.wall
    waiting = await studio.recorded(to_cloud, "cloud-a", now - 900, 30, padding=BIG)
    young = await studio.recorded(kept, "kept-a", now - 600, 20, padding=BIG)
    await studio.retention.look(time.monotonic)
    assert (left(waiting), left(young)) == ([1, 2, 3], [1, 2]), "over its bytes, but nowhere else"
    async with database.write() as tx:
        rows = await recording_files.of_recording(tx, waiting.order.recording_id, parts=False)
        await recording_files.change(tx, rows[0].id, remote_key="k/1", uploaded_at=now)
    time.pass_by(60)
    await studio.retention.look(time.monotonic)
    assert left(waiting) == [2, 3]
    async with database.read() as tx:
        rows = await recording_files.of_recording(tx, waiting.order.recording_id, parts=False)
    assert [(row.sequence, row.state) for row in rows] == [(1, "gone"), (2, "closed"), (3, "closed")], "its row tells where it is"
    small.taken = small.free
    time.pass_by(LOOK)
    with caplog.at_level("WARNING"):
        await studio.retention.look(time.monotonic)
    assert left(waiting) == [3]
    assert "NOT YET UPLOADED" in caplog.text
    assert [t["notUploaded"] for t in await deleted(studio) if t["cause"] == "space"] == []  # told within the hour: it is summed up
    small.taken += small.free
    time.pass_by(3600)
    await studio.retention.look(time.monotonic)
    assert [t["notUploaded"] for t in await deleted(studio) if t["cause"] == "space"] == [2]
    async with database.read() as tx:
        assert await recordings.find(tx, waiting.order.recording_id) is not None, "what is in the bucket still plays"


@pytest.mark.parametrize("point", ["before the commit", "before the unlinking", "half-way", "before the note goes"])
async def test_a_kill_at_any_point_of_a_deletion_leaves_no_row_without_its_file(
    time: Any, database: Database, tmp_path: Path, project: Project, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    studio = await studio_of(database, tmp_path, max_age=100.0)
    film = await studio.recorded(project, "garage-a", time.wall - 900, 45)
    kept = await studio.recorded(project, "garage-b", time.wall - 50, 45)

    class Killed(BaseException):
        pass

    real = disk.unlink

    def unlink(paths: list[Path]) -> dict[Path, OSError]:
        if point == "half-way":
            real(paths[:2])
        elif point == "before the note goes":
            real(paths)
        raise Killed

    async def add(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        if point == "before the commit":
            patched.setattr("medianode.control.retention.discards.add", add)
        patched.setattr(disk, "unlink", unlink)
        with pytest.raises(Killed):
            await studio.retention.look(time.monotonic)
    again = Studio(database, studio.root, studio.settings)
    await again.open()
    async with database.read() as tx:
        rows = await recording_files.of_recording(tx, film.order.recording_id, parts=False)
    assert {row.sequence for row in rows} <= set(left(film)), "no playlist with a hole"
    await again.retention.look(time.monotonic)
    assert (left(film), film.order.directory.exists()) == ([], False), "and nothing is left behind"
    await again.recovery.reconcile()
    async with database.read() as tx:
        found, _ = await recordings.page(tx, None, limit=10)
    assert [r.id for r in found] == [kept.order.recording_id]
    assert [t["recordingId"] for t in await deleted(again)] == [film.order.recording_id], "told once"


async def test_what_the_api_deletes_is_gone_with_its_files(time: Any, database: Database, tmp_path: Path, project: Project) -> None:
    studio = await studio_of(database, tmp_path)
    film = await studio.recorded(project, "garage-a", time.wall - 900, 25)
    (film.order.directory / "of somebody else").write_text("stays")
    running = studio.film(project, "garage-b", time.wall)
    running.roll(5)
    await studio.ledger.write()
    async with database.read() as tx:
        over, on = [await recordings.find(tx, f.order.recording_id) for f in (film, running)]
    assert over is not None
    assert on is not None
    with pytest.raises(Conflict, match="stop it first"):
        await studio.retention.delete(on)
    await studio.retention.delete(over)
    assert [path.name for path in film.order.directory.iterdir()] == ["of somebody else"]
    (fact,) = await deleted(studio)
    assert (fact["cause"], fact["whole"], fact["files"]) == ("api", True, 3)
    with pytest.raises(NotFound):
        await studio.retention.delete(over)


async def test_what_was_pinned_since_it_was_looked_at_is_not_deleted(
    time: Any, database: Database, tmp_path: Path, project: Project
) -> None:
    studio = await studio_of(database, tmp_path)
    film = await studio.recorded(project, "garage-a", time.wall - 900, 5)
    async with database.write() as tx:
        looked_at = await recordings.find(tx, film.order.recording_id)
        await recordings.change(tx, film.order.recording_id, pinned=True)
    assert looked_at is not None
    with pytest.raises(Conflict, match="pinned"):
        await studio.retention.delete(looked_at)
    assert left(film) == [1]
    await agree(studio, film)


async def test_what_is_deleted_on_another_node_makes_no_room_here(time: Any, database: Database, tmp_path: Path, project: Project) -> None:
    studio = await studio_of(database, tmp_path, max_bytes=25 * MB)
    other = Studio(database, tmp_path / "elsewhere", Settings(min_free=0), node_id="node-b")
    theirs = await other.recorded(project, "garage-b", time.wall - 900, 20, padding=BIG)
    ours = await studio.recorded(project, "garage-a", time.wall - 800, 20, padding=BIG)
    await studio.retention.look(time.monotonic)
    async with database.read() as tx:
        found = await recordings.find(tx, theirs.order.recording_id)
    assert found is not None
    await studio.retention.delete(found)
    more = await studio.recorded(project, "garage-a", time.wall - 30, 10, padding=BIG)
    time.pass_by(60)
    await studio.retention.look(time.monotonic)
    assert (left(ours), left(more)) == ([2], [1])


async def test_a_deleted_project_takes_its_files_along(time: Any, database: Database, tmp_path: Path, project: Project) -> None:
    studio = await studio_of(database, tmp_path)
    film = await studio.recorded(project, "garage-a", time.wall - 900, 25)
    running = studio.film(project, "garage-b", time.wall)
    running.roll(5)
    await studio.ledger.write()
    await Projects(database, studio.bus).delete("garage", "garage")
    await studio.retention.look(time.monotonic)
    assert not film.order.directory.exists()
    assert running.order.directory.exists(), "it is written to"
    running.stop()
    await studio.ledger.write()
    await studio.retention.look(time.monotonic + LOOK)
    assert not (studio.root / "garage").exists()


async def test_what_cannot_be_unlinked_is_told_and_tried_again(
    time: Any, database: Database, tmp_path: Path, project: Project, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    studio = await studio_of(database, tmp_path, max_age=100.0)
    film = await studio.recorded(project, "garage-a", time.wall - 900, 5)
    with monkeypatch.context() as patched:
        patched.setattr(disk, "unlink", lambda paths: {path: OSError(30, "Read-only file system") for path in paths})
        await studio.retention.look(time.monotonic)
    assert "cannot be deleted: Read-only file system" in caplog.text
    await studio.retention.look(time.monotonic + LOOK)
    assert left(film) == [1]
    time.pass_by(61)
    await studio.retention.look(time.monotonic)
    assert left(film) == []


def test_a_disk_does_not_flap() -> None:
    state = DiskState()
    told = [state.look(now, 100 + (now % 3) - 1, 100) for now in range(100)]
    assert [t for t in told if t] == ["low"]
    assert [t for t in (state.look(now, 126, 100) for now in range(100, 200)) if t] == ["ok"]
    assert state.full(200.0) == "full"
    assert state.full(201.0) is None
    assert [t for t in (state.look(now, 90, 100) for now in range(202, 300)) if t] == ["low"]
