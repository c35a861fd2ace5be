"""What the recorder tells becomes rows and facts: in order, once, and after a time without a database too."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from harness.recorded import Studio

from medianode.config import Recording as Settings
from medianode.control.projects import Projects
from medianode.errors import StorageError
from medianode.events import Bus, RecordingTrouble
from medianode.store import outbox, recording_files, recordings
from medianode.store.database import Database, Transaction
from medianode.store.projects import Project
from medianode.store.recordings import Recording

AT = 1_700_000_000.0


@pytest.fixture
async def project(database: Database) -> Project:
    return await Projects(database, Bus()).create("garage", limits={"disk": 10**9})


@pytest.fixture
def studio(database: Database, tmp_path: Path) -> Studio:
    return Studio(database, tmp_path / "recordings", Settings())


async def _facts(db: Database) -> list[tuple[str, str, dict[str, object]]]:
    async with db.read() as tx:
        found = await outbox.after(tx, 0, 1000)
    return [(e.type, e.stream, dict(e.data)) for e in found if e.type.startswith("recording.")]


async def test_a_recording_is_written_down_and_told_from_its_start_to_its_end(studio: Studio, project: Project) -> None:
    ended: list[Recording] = []

    async def on_end(tx: Transaction, recording: Recording) -> None:
        ended.append(recording)
        await recordings.change(tx, recording.id, media_id="m")

    studio.ledger.on_end = on_end
    film = studio.film(project, "garage-door", AT, title="door")
    film.roll(25)
    await studio.ledger.write()
    async with studio.db.read() as tx:
        running = await recordings.find(tx, film.order.recording_id)
        rows = await recording_files.of_recording(tx, film.order.recording_id)
    assert running is not None
    assert (running.state, running.title, running.node_id, running.started_at) == ("recording", "door", "node-a", AT)
    assert [(row.sequence, row.state) for row in rows] == [(1, "closed"), (2, "closed"), (3, "open")]
    assert (running.duration, running.nbytes) == (sum(r.duration for r in rows[:2]), sum(r.nbytes for r in rows[:2]))
    assert rows[0].tracks == ({"kind": "video", "codec": "h264", "width": 320, "height": 240},)
    assert studio.settled == 0
    film.stop()
    await studio.ledger.write()
    assert studio.settled == 1, "the session's end is told before its recording's"
    async with studio.db.read() as tx:
        over = await recordings.find(tx, film.order.recording_id)
    assert over is not None
    assert (over.state, over.error_code, over.media_id) == ("finished", "", "m")
    assert over.ended_at == pytest.approx(AT + 25)
    assert over.nbytes == sum(path.stat().st_size for path in film.order.directory.glob("*.mp4"))
    assert [r.id for r in ended] == [over.id]
    facts = await _facts(studio.db)
    assert [(word, stream) for word, stream, _ in facts] == [
        ("recording.started", "room:garage-door"),
        ("recording.finished", "room:garage-door"),
    ]
    assert (film.order.directory / "recording.json").exists()


async def test_trouble_is_told_and_gone_when_it_is_over(studio: Studio, project: Project) -> None:
    film = studio.film(project, "garage-door", AT)
    film.roll(1)
    about = (film.order.recording_id, project.id, "garage-door", "cam", None)
    for code in ("disk-full", ""):
        studio.bus.publish(RecordingTrouble(*about, code=code, message=f"{film.order.directory}: no room" if code else ""))
        await studio.ledger.write()
        async with studio.db.read() as tx:
            row = await recordings.find(tx, film.order.recording_id)
        assert row is not None
        assert row.error_code == code
    film.stop("disk-error")
    await studio.ledger.write()
    facts = await _facts(studio.db)
    assert [(word, data["code"]) for word, _, data in facts] == [
        ("recording.started", ""),
        ("recording.trouble", "disk-full"),
        ("recording.trouble", ""),
        ("recording.finished", "disk-error"),  # there is something of it: it is no failure
    ]
    assert str(film.order.directory) not in str(facts), "where it is on the node is the operator's to know"


async def test_while_the_database_is_away_all_waits_and_is_then_told_once(studio: Studio, project: Project) -> None:
    away = [True]
    write = studio.db.write

    @asynccontextmanager
    async def failing() -> AsyncIterator[Transaction]:
        async with write() as tx:
            yield tx
        if away.pop():
            raise StorageError("the connection broke as it was committed", code="storage-away")

    film = studio.film(project, "garage-door", AT)
    film.roll(15)
    film.stop()
    studio.db.write = failing  # type: ignore[method-assign]
    with pytest.raises(StorageError):
        await studio.ledger.write()
    assert len(studio.ledger) == 6
    away[:] = [False]
    await studio.ledger.write()
    assert len(studio.ledger) == 0
    assert [word for word, _, _ in await _facts(studio.db)] == ["recording.started", "recording.finished"]


async def test_of_a_deleted_project_nothing_is_written(studio: Studio, project: Project) -> None:
    film = studio.film(project, "garage-door", AT)
    film.roll(3)
    await Projects(studio.db, studio.bus).delete("garage", "garage")
    film.stop()
    await studio.ledger.write()
    async with studio.db.read() as tx:
        assert await recordings.find(tx, film.order.recording_id) is None


async def test_beyond_the_bound_the_oldest_is_lost_and_counted(database: Database, tmp_path: Path, project: Project) -> None:
    studio = Studio(database, tmp_path / "recordings", Settings())
    studio.ledger._backlog._bound = 2
    film = studio.film(project, "garage-door", AT)
    film.roll(25)
    assert (len(studio.ledger), studio.ledger.lost) == (2, 4)
