"""The catalogue and the disk agree again: after kill -9, after a lost index, after files went without being asked."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from harness.recorded import Studio

from medianode.config import Recording as Settings
from medianode.control import recording_places, sidecar
from medianode.control.projects import Projects
from medianode.egress.recorder import label
from medianode.errors import Conflict
from medianode.events import Bus
from medianode.store import discards, outbox, recording_files, recordings
from medianode.store.database import Database, Transaction
from medianode.store.projects import Project
from medianode.store.recording_files import RecordingFile
from medianode.store.recordings import Recording
from medianode.tasks import background

AT = 1_700_000_000.0
Dump = tuple[list[Recording], list[RecordingFile]]


@pytest.fixture
async def project(database: Database) -> Project:
    return await Projects(database, Bus()).create("garage")


@pytest.fixture
async def studio(database: Database, tmp_path: Path) -> Studio:
    return await restarted(Studio(database, tmp_path / "recordings", Settings()))


async def restarted(studio: Studio) -> Studio:
    """Another process: it knows what the database and the disk know."""
    found = Studio(studio.db, studio.root, studio.settings)
    await found.open()
    with ExitStack() as claims:
        assert await found.recovery.take(claims, set())
    return found


async def dump(db: Database) -> Dump:
    """All rows, but for the numbers that the database gives them."""
    async with db.read() as tx:
        found, _ = await recordings.page(tx, None, limit=1000)
        files = [replace(file, id=0) for r in sorted(found, key=lambda r: r.id) for file in await recording_files.of_recording(tx, r.id)]
    return sorted(found, key=lambda r: r.id), files


async def told(db: Database) -> list[str]:
    async with db.read() as tx:
        return [e.type for e in await outbox.after(tx, 0, 1000) if e.type.startswith("recording.")]


async def test_what_a_kill_left_open_is_closed_ended_and_told_once(studio: Studio, project: Project) -> None:
    film = studio.film(project, "garage-door", AT)
    film.roll(25.4)  # its third file is open, and its last part not written
    await studio.ledger.write()
    whole = film.files[2].path.stat().st_size
    with film.files[2].path.open("ab") as torn:
        torn.write(b"\x00\x00\x10\x00moof and no more")
    again = await restarted(studio)
    hooked: list[str] = []

    async def on_file(tx: Transaction, recording: Recording, file: RecordingFile) -> None:
        hooked.append(file.name)

    async def on_end(tx: Transaction, recording: Recording) -> None:
        hooked.append(recording.error_code)

    again.ledger.on_file, again.ledger.on_end = on_file, on_end
    assert await again.recovery.end_cut_off() == 1
    assert await again.recovery.end_cut_off() == 0
    (row,), files = await dump(studio.db)
    assert (row.state, row.error_code) == ("finished", "node-restarted")
    assert [(file.state, file.name) for file in files] == [("closed", f"{n:06}.mp4") for n in (1, 2, 3)]
    assert film.files[2].path.stat().st_size == files[2].nbytes == whole, "the torn tail is off"
    assert files[2].parts is not None
    assert row.duration == sum(file.duration for file in files)
    assert row.ended_at == pytest.approx(AT + 25, abs=1.0), "at most a part is lost"
    assert hooked == ["000003.mp4", "node-restarted"]
    assert await told(studio.db) == ["recording.started", "recording.finished"]
    await (await restarted(studio)).recovery.reconcile()
    assert await told(studio.db) == ["recording.started", "recording.finished"]


async def test_what_a_lost_node_recorded_is_over_and_whole_when_it_comes_back(studio: Studio, project: Project) -> None:
    film = studio.film(project, "garage-door", AT)
    film.roll(25)
    await studio.ledger.write()
    other = Studio(studio.db, studio.root.with_name("elsewhere"), studio.settings, node_id="node-b")
    assert await other.recovery.bury("node-a") == 1
    assert await other.recovery.bury("node-a") == 0
    (row,), _ = await dump(studio.db)
    assert (row.state, row.error_code, row.ended_at) == ("finished", "node-lost", pytest.approx(AT + 20))
    again = await restarted(studio)
    assert await again.recovery.end_cut_off() == 0
    await again.recovery.reconcile()
    (row,), files = await dump(studio.db)
    assert [file.state for file in files] == ["closed"] * 3
    assert (row.duration, row.ended_at) == (sum(file.duration for file in files), pytest.approx(AT + 25, abs=1.0))
    assert await told(studio.db) == ["recording.started", "recording.finished"]


async def test_of_a_recording_that_had_nothing_on_the_disk_yet_it_is_told_that_it_failed(studio: Studio, project: Project) -> None:
    film = studio.film(project, "garage-door", AT)
    film.roll(1)
    await studio.ledger.write()
    film.files[0].path.write_bytes(film.files[0].init[:300])
    again = await restarted(studio)
    await again.recovery.end_cut_off()
    (row,), files = await dump(studio.db)
    assert (row.state, row.error_code, row.nbytes, files) == ("failed", "node-restarted", 0, [])


async def test_a_lost_index_is_rebuilt_equal(studio: Studio, project: Project) -> None:
    for room, at in (("garage-door", AT), ("garage-yard", AT + 3.25), ("garage-door", AT + 100)):
        await studio.recorded(project, room, at, 25)
    (first, *_), _ = await dump(studio.db)
    async with studio.db.write() as tx:
        await recordings.change(tx, first.id, pinned=True, title="evidence", playback_id="pb", media_id="m")
        here, only_there, _ = await recording_files.of_recording(tx, first.id)
        await recording_files.change(tx, here.id, remote_key="k/1", sha256=b"\x01" * 32, uploaded_at=AT)
        await recording_files.change(tx, only_there.id, remote_key="k/2", sha256=b"\x02" * 32, uploaded_at=AT, state="gone")
        (Path(first.directory) / only_there.name).unlink()
    await studio.catalogue.note(first.id)
    before = await dump(studio.db)
    facts = await told(studio.db)
    async with studio.db.write() as tx:
        for recording in before[0]:
            await recordings.remove(tx, recording.id)
    assert await dump(studio.db) == ([], [])
    again = await restarted(studio)
    tally = await again.recovery.reconcile()
    assert (tally.recordings, tally.adopted, tally.foreign, tally.broken) == (3, 8, 0, 0)
    assert await dump(studio.db) == before
    assert await told(studio.db) == facts, "it is no news that there are recordings"
    # and by the command, over rows that lie
    async with studio.db.write() as tx:
        for file in before[1]:
            if file.state == "closed":
                await recording_files.put(tx, replace(file, nbytes=1, duration=1, parts=None))
    await again.recovery.rebuild(studio.root)
    assert await dump(studio.db) == before


async def test_files_without_rows_are_taken_up_and_told_of(studio: Studio, project: Project) -> None:
    await studio.recorded(project, "garage-yard", AT, 5)
    film = studio.film(project, "garage-door", AT + 10)
    film.roll(25)
    studio.ledger._backlog._changes.clear()  # the database was away until the power was
    again = await restarted(studio)
    tally = await again.recovery.reconcile()
    assert tally.adopted == 3
    rows, files = await dump(studio.db)
    (row,) = [r for r in rows if r.room == "garage-door"]
    assert (row.state, row.identity, row.error_code, row.started_at) == ("finished", "cam", "node-restarted", AT + 10)
    assert len([f for f in files if f.recording_id == row.id]) == 3
    assert (await told(studio.db))[2:] == ["recording.started", "recording.finished"]
    assert (await again.recovery.reconcile()).adopted == 0


async def test_rows_without_files_go_but_not_where_a_disk_is_not_mounted(studio: Studio, project: Project) -> None:
    lost = await studio.recorded(project, "garage-door", AT, 25)
    partly = await studio.recorded(project, "garage-yard", AT, 25)
    again = await restarted(studio)
    shutil.rmtree(lost.order.directory)
    partly.files[0].path.unlink()
    before = await dump(studio.db)
    hidden = studio.root.with_name("unmounted")
    studio.root.rename(hidden)
    studio.root.mkdir()
    unmounted = Studio(studio.db, studio.root, studio.settings)
    await unmounted.open()
    with ExitStack() as claims:
        assert not await unmounted.recovery.take(claims, set())
        with pytest.raises(Conflict, match="mount its disk"):
            await unmounted.recovery.claim(claims, [studio.root])  # nor does the command: its mark would tell a lie at the next start
    assert not recording_places.marked(studio.root)
    await unmounted.recovery.reconcile()
    assert await dump(studio.db) == before, "nothing is concluded from an empty mount point"
    studio.root.rmdir()
    hidden.rename(studio.root)
    tally = await again.recovery.reconcile()
    assert tally.forgotten == 4
    (row,), files = await dump(studio.db)
    assert (row.id, [f.sequence for f in files]) == (partly.order.recording_id, [2, 3])
    assert (await told(studio.db))[4:] == ["recording.deleted"] * 2


async def test_nothing_is_done_to_files_of_others(studio: Studio, project: Project) -> None:
    await studio.recorded(project, "garage-yard", AT, 3)
    projects = Projects(studio.db, studio.bus)
    film = await studio.recorded(await projects.create("other"), "other-door", AT, 3)
    await projects.delete("other", "other")
    again = await restarted(studio)
    assert (await again.recovery.reconcile()).foreign == 0, "it is noted what is to be unlinked"
    async with studio.db.write() as tx:
        await discards.remove(tx, [number for number, _ in await discards.oldest(tx, "node-a", 10)])
    assert (await again.recovery.reconcile()).foreign == 1
    assert film.files[0].path.exists()
    link = studio.root / "garage" / "garage-yard" / "rec_00000000000000000000"
    link.symlink_to("/etc")
    (studio.root / "garage" / "garage-yard" / "notes").mkdir()
    assert (await again.recovery.reconcile()).recordings == 2
    with ExitStack() as claims:
        await again.recovery.claim(claims, [studio.root])
        with pytest.raises(Conflict, match="stop it first"):
            await Studio(studio.db, studio.root, studio.settings).recovery.claim(claims, [studio.root])


async def test_what_was_deleted_does_not_come_back_before_it_is_unlinked(studio: Studio, project: Project) -> None:
    """kill -9 between the commit that takes the rows away and the unlinking."""
    await studio.recorded(project, "garage-yard", AT, 5)
    whole = await studio.recorded(project, "garage-door", AT, 15)
    partly = await studio.recorded(project, "garage-door", AT + 100, 25)
    cut_off = studio.film(project, "garage-door", AT + 200)
    cut_off.roll(25)
    await studio.ledger.write()
    async with studio.db.write() as tx:
        await recordings.remove(tx, whole.order.recording_id)
        for film in (partly, cut_off):
            first, *_ = await recording_files.of_recording(tx, film.order.recording_id)
            await recording_files.remove(tx, first.id)
        paths = [whole.order.directory, partly.files[0].path, cut_off.files[0].path]
        await discards.add(tx, "node-a", [str(path) for path in paths])
    again = await restarted(studio)
    await again.recovery.end_cut_off()
    tally = await again.recovery.reconcile()
    await again.recovery.rebuild(studio.root)
    rows, files = await dump(studio.db)
    assert tally.adopted == 0
    assert whole.order.recording_id not in {row.id for row in rows}
    for film in (partly, cut_off):
        assert [f.sequence for f in files if f.recording_id == film.order.recording_id] == [2, 3]


async def test_what_was_deleted_while_its_disk_was_not_mounted_does_not_come_back_with_it(studio: Studio, project: Project) -> None:
    film = await studio.recorded(project, "garage-door", AT, 5)
    hidden = studio.root.with_name("unmounted")
    studio.root.rename(hidden)
    studio.root.mkdir()
    (row,), _ = await dump(studio.db)
    await studio.retention.delete(row)
    studio.root.rmdir()
    hidden.rename(studio.root)
    again = await restarted(studio)
    assert (await again.recovery.reconcile()).adopted == 0
    await again.retention.look(0.0)
    assert not film.order.directory.exists()
    async with studio.db.read() as tx:
        assert await discards.oldest(tx, "node-a", 10) == []


async def test_what_others_rebuild_at_the_same_time_is_left_to_them(studio: Studio, project: Project, tmp_path: Path) -> None:
    elsewhere = {"type": "directory", "path": str(tmp_path / "elsewhere")}
    own = await Projects(studio.db, studio.bus).create("own", storage=elsewhere)
    theirs, ours = studio.film(own, "own-door", AT), studio.film(project, "garage-door", AT)
    theirs.roll(3)
    ours.roll(3)
    studio.ledger._backlog._changes.clear()
    again = Studio(studio.db, studio.root, studio.settings)
    await again.open()
    with ExitStack() as claims:
        recording_places.claim(claims, tmp_path / "elsewhere", "node-a")
        async with background(again.recovery.serve()), asyncio.timeout(5):
            while not (found := (await dump(studio.db))[0]):
                await asyncio.sleep(0.01)
    assert [row.id for row in found] == [ours.order.recording_id]


HOSTILE: dict[str, Callable[[dict[str, Any]], object]] = {
    "a room that no database takes": lambda told: told.update(room="a\0b"),
    "a room of a megabyte": lambda told: told.update(room="r" * (1 << 20)),
    "no time": lambda told: told.update(startedAt=float("nan")),
    "no end of time": lambda told: told.update(startedAt=float("inf")),
    "a time before all": lambda told: told.update(startedAt=-1e300),
    "a start beyond all": lambda told: told.update(start=10**30),
    "an ingress that is a list": lambda told: told.update(ingress=["a"]),
    "labels that are none": lambda told: told.update(labels=[1, 2]),
    "labels of bytes that are no text": lambda told: told.update(labels={"a": "\0"}),
    "a title of a megabyte": lambda told: told.update(title="t" * (1 << 20)),
    "a gap of a megabyte": lambda told: told.update(gap="g" * (1 << 20)),
    "tracks that are text": lambda told: told.update(tracks=["avc"]),
}


async def test_files_that_lie_of_themselves_are_broken_and_stop_nobody(
    studio: Studio, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = label.uuid_box
    await studio.recorded(project, "garage-yard", AT, 3)
    for spoil in HOSTILE.values():

        def lying(kind: bytes, data: bytes, spoil: Callable[[dict[str, Any]], object] = spoil) -> bytes:
            told = json.loads(data)
            spoil(told)
            return box(kind, json.dumps(told, ensure_ascii=False).encode())

        with monkeypatch.context() as patched:
            patched.setattr(label, "uuid_box", lying)
            studio.film(project, "garage-door", AT).roll(1)
    good = studio.film(project, "garage-gate", AT)
    good.roll(3)
    studio.ledger._backlog._changes.clear()
    again = await restarted(studio)
    tally = await again.recovery.reconcile()
    assert (tally.broken, tally.adopted) == (len(HOSTILE), 1)
    rows, _ = await dump(studio.db)
    assert {row.room for row in rows} == {"garage-yard", "garage-gate"}


async def test_whose_a_recording_is_its_place_tells_and_not_its_files(studio: Studio, project: Project) -> None:
    other = await Projects(studio.db, studio.bus).create("other")
    taken = await studio.recorded(other, "other-yard", AT, 3)
    async with studio.db.write() as tx:
        await recordings.change(tx, taken.order.recording_id, playback_id="pb", reason="clip")
    await studio.catalogue.note(taken.order.recording_id)
    film = studio.film(replace(project, id=other.id), "garage-door", AT)
    film.roll(3)
    lying = studio.film(project, "garage-door", AT + 10)
    lying.roll(3)
    studio.ledger._backlog._changes.clear()
    said = Recording(
        id="rec_x", project_id=other.id, node_id="z", room="other-yard", directory="/etc", state="finished", started_at=AT, ended_at=AT
    )
    sidecar.write(replace(said, directory=str(lying.order.directory)), [])
    copied = studio.root / "garage" / "garage-door" / "rec_00000000000000000000"
    shutil.copytree(taken.order.directory, copied)
    again = await restarted(studio)
    await again.recovery.reconcile()
    assert (await again.recovery.rebuild(studio.root)).broken == 1, "no two have one playback id"
    async with studio.db.read() as tx:
        found, _ = await recordings.page(tx, None, limit=10)
    mine = {row.id: (row.project_id, row.room, row.directory) for row in found if row.room != "other-yard"}
    assert mine == {f.order.recording_id: (project.id, "garage-door", str(f.order.directory)) for f in (film, lying)}
