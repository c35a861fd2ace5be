"""What is recorded, by room and time, and the sidecar that says it again on the disk."""

from __future__ import annotations

from pathlib import Path

import pytest
from harness.recorded import Studio

from medianode.config import Recording as Settings
from medianode.control import catalogue, sidecar
from medianode.control.projects import Projects
from medianode.errors import InvalidRequest, StorageError
from medianode.events import Bus
from medianode.media.packet import Gap
from medianode.store import recording_files, recordings
from medianode.store.database import Database
from medianode.store.projects import Project

AT = 1_700_000_000.0


@pytest.fixture
async def project(database: Database) -> Project:
    return await Projects(database, Bus()).create("garage")


@pytest.fixture
def studio(database: Database, tmp_path: Path) -> Studio:
    return Studio(database, tmp_path / "recordings", Settings())


async def timeline(studio: Studio, project: Project, since: float, until: float) -> list[tuple[float, float | None, str, bool]]:
    """(from, to, gap, here) of each stretch, seconds from AT."""
    found = await studio.catalogue.timeline(project.id, "garage-door", AT + since, AT + until)
    ends = [None if s.ended_at is None else round(s.ended_at - AT, 3) for s in found]
    return [(round(s.started_at - AT, 3), end, s.gap, s.here) for s, end in zip(found, ends, strict=True)]


async def test_a_timeline_has_its_gaps(studio: Studio, project: Project) -> None:
    film = studio.film(project, "garage-door", AT)
    film.roll(15)
    film._fragmenter.on_gap(Gap("publisher-gap"))
    film._frames += 200  # twenty seconds
    film.roll(25)
    film.stop()
    running = studio.film(project, "garage-door", AT + 100)
    running.roll(15)
    await studio.recorded(project, "garage-yard", AT, 5)
    await studio.ledger.write()
    assert await timeline(studio, project, -100, 200) == [
        (0, 15, "", True),
        (35, 60, "publisher-gap", True),
        (100, None, "", True),
    ]
    assert await timeline(studio, project, 12, 40) == [(10, 15, "", True), (35, 45, "publisher-gap", True)], "whole files"
    assert await timeline(studio, project, 16, 34) == []
    assert await timeline(studio, project, 46, 50) == [(45, 55, "", True)]
    assert await timeline(studio, project, 200, 300) == [(110, None, "", True)], "it goes on, as far as anybody knows"


async def test_a_timeline_of_too_much_is_refused_rather_than_without_its_gaps(
    studio: Studio, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    film = studio.film(project, "garage-door", AT)
    for _ in range(3):
        film.roll(2)
        film._fragmenter.on_gap(Gap("publisher-gap"))
        film._frames += 20
    film.stop()
    await studio.ledger.write()
    monkeypatch.setattr(catalogue, "MOST_STRETCHES", 3)
    assert len(await timeline(studio, project, 0, 100)) == 3
    monkeypatch.setattr(catalogue, "MOST_STRETCHES", 2)
    with pytest.raises(InvalidRequest, match="less time"):
        await timeline(studio, project, 0, 100)


async def test_what_is_only_in_the_bucket_and_what_was_taken_out_is_told_apart(studio: Studio, project: Project) -> None:
    film = await studio.recorded(project, "garage-door", AT, 60)
    async with studio.db.write() as tx:
        rows = await recording_files.of_recording(tx, film.order.recording_id, parts=False)
        for row in rows[:2]:
            await recording_files.change(tx, row.id, state="gone", remote_key="k")
        await recording_files.remove(tx, rows[3].id)
        await recording_files.break_behind(tx, film.order.recording_id, 4, "files-lost")
        await recording_files.break_behind(tx, film.order.recording_id, 0, "files-lost")
    assert await timeline(studio, project, 0, 100) == [(0, 20, "", False), (20, 30, "", True), (40, 60, "files-lost", True)]
    async with studio.db.write() as tx:
        for row in rows:
            await recording_files.change(tx, row.id, state="gone")
    assert [here for *_, here in await timeline(studio, project, 0, 100)] == [False, False]


async def test_a_sidecar_says_what_the_files_do_not_know(studio: Studio, project: Project) -> None:
    film = await studio.recorded(project, "garage-door", AT, 15)
    async with studio.db.write() as tx:
        await recordings.change(tx, film.order.recording_id, pinned=True, title="evidence", labels={"case": "7"})
        first, _ = await recording_files.of_recording(tx, film.order.recording_id)
        await recording_files.change(tx, first.id, state="gone", remote_key="k", sha256=b"\x01" * 32, uploaded_at=AT)
    await studio.catalogue.note(film.order.recording_id)
    said = sidecar.read(film.order.directory)
    assert said is not None
    assert (said.recording.pinned, said.recording.title, said.recording.labels) == (True, "evidence", {"case": "7"})
    (file,) = said.files
    assert (file["sequence"], file["parts"], file["sha256"]) == (1, first.parts, b"\x01" * 32)
    assert first.parts
    for broken in (b"", b"{", b"[]", b'{"version":2}', b'{"version":1,"recording":{"id":1},"files":[]}', b'{"version":1}'):
        (film.order.directory / sidecar.NAME).write_bytes(broken)
        assert sidecar.read(film.order.directory) is None
    await studio.catalogue.note("rec_of_nobody")


async def test_a_sidecar_that_cannot_be_written_is_told_and_fails_nobody(
    studio: Studio, project: Project, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    film = await studio.recorded(project, "garage-door", AT, 5)
    (film.order.directory / "recording.json.new").mkdir()
    await studio.catalogue.note(film.order.recording_id)
    assert f"{film.order.recording_id}: recording.json not written" in caplog.text
    caplog.clear()

    async def away(*_: object) -> None:
        raise StorageError("the database is away")

    monkeypatch.setattr(recordings, "find", away)
    await studio.catalogue.note(film.order.recording_id)
    assert f"{film.order.recording_id}: recording.json not written: the database is away" in caplog.text
