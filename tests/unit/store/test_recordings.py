"""Recordings and their files in the database."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from medianode.media.parts import Part, pack
from medianode.store import projects, recording_files, recordings
from medianode.store.database import Transaction, open_database
from medianode.store.projects import Project
from medianode.store.recording_files import RecordingFile
from medianode.store.recordings import Choice, Recording

FIRST = Recording(id="rec_1", project_id="prj_1", room="p-a", node_id="n1", directory="/r/1", started_at=1000.0, labels={"why": "door"})


async def _project(tx: Transaction) -> None:
    await projects.insert_project(
        tx,
        Project(id="prj_1", slug="p", name="p", viewing="public", open_publish=False, jwt_key_id="k", jwt_secret="s" * 32, created_at=1.0),
    )


async def test_a_recording_is_kept_changed_and_found(database_url: str, tmp_path: Path) -> None:
    async with open_database(database_url, tmp_path) as db:
        async with db.write() as tx:
            await _project(tx)
            await recordings.insert_recording(tx, FIRST)
            assert await recordings.find(tx, "rec_1") == FIRST
            assert await recordings.find(tx, "rec_0") is None
            assert await recordings.open_on(tx, "n1") == [FIRST]
            told = {"state": "finished", "ended_at": 1060.0, "duration": 60_000_000, "playback_id": "pb"}
            assert await recordings.change(tx, "rec_1", **told)
            assert await recordings.change(tx, "rec_1", pinned=True)
            assert not await recordings.change(tx, "rec_0", pinned=True)
            assert await recordings.find_by_playback_id(tx, "pb") == replace(FIRST, **told, pinned=True)
            assert await recordings.open_on(tx, "n1") == []
        async with db.read() as tx:
            assert [r.id for r in await recordings.overlapping(tx, "prj_1", "p-a", 1059.0, 2000.0)] == ["rec_1"]
            assert await recordings.overlapping(tx, "prj_1", "p-a", 1061.0, 2000.0) == []
            assert await recordings.page(tx, "prj_1", Choice(room="p-b"), limit=10) == ([], 0)
            which = Choice(room="p-a", state="finished", reason="api", since=1059.0, until=1001.0)
            assert [r.id for r in (await recordings.page(tx, "prj_1", which, limit=10))[0]] == ["rec_1"]
            for other in ({"state": "failed"}, {"reason": "clip"}, {"since": 1061.0}, {"until": 999.0}):
                assert await recordings.page(tx, "prj_1", replace(which, **other), limit=10) == ([], 0)
            found, total = await recordings.page(tx, "prj_1", limit=10)
            assert (found[0].labels, total) == ({"why": "door"}, 1)


async def test_files_are_put_over_what_was_known_and_go_with_their_recording(database_url: str, tmp_path: Path) -> None:
    index = pack([Part(700, 1000, 0, 1_000_000, True)])
    file = RecordingFile(recording_id="rec_1", project_id="prj_1", sequence=0, name="000000.mp4", started_at=1000.0, start=0)
    async with open_database(database_url, tmp_path) as db, db.write() as tx:
        await _project(tx)
        await recordings.insert_recording(tx, FIRST)
        await recording_files.put(tx, file)
        (opened,) = await recording_files.of_recording(tx, "rec_1")
        await recording_files.change(tx, opened.id, remote_key="there")
        await recording_files.put(tx, replace(file, state="closed", duration=1_000_000, nbytes=1700, parts=index))
        (closed,) = await recording_files.of_recording(tx, "rec_1", since=1000.5, until=1000.6)
        assert (closed.id, closed.state, closed.parts, closed.remote_key) == (opened.id, "closed", index, "there")
        assert await recording_files.of_recording(tx, "rec_1", since=1001.5) == []
        (light,) = await recording_files.of_recording(tx, "rec_1", parts=False)
        assert light == replace(closed, parts=None)
        await recordings.remove(tx, "rec_1")
        assert await recording_files.find(tx, closed.id) is None


async def test_files_are_read_in_pages_and_their_index_only_where_it_is_needed(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording_files, "PAGE", 2)
    file = RecordingFile(recording_id="rec_1", project_id="prj_1", sequence=0, name="", state="closed", started_at=0.0, start=0, parts=b"i")
    async with open_database(database_url, tmp_path) as db, db.write() as tx:
        await _project(tx)
        for recording in (FIRST, replace(FIRST, id="rec_2", directory="/r/2")):
            await recordings.insert_recording(tx, recording)
            for n in range(4):
                more = {"remote_key": f"k/{n}" if n else "", "state": "gone" if n == 3 else "closed"}
                await recording_files.put(tx, replace(file, recording_id=recording.id, sequence=n, started_at=10.0 * n, **more))
        assert [f.sequence for f in await recording_files.of_recording(tx, "rec_1")] == [0, 1, 2, 3]
        assert [f.sequence for f in await recording_files.of_recording(tx, "rec_1", until=20.0)] == [0, 1]
        assert [f.sequence for f in await recording_files.of_recording(tx, "rec_1", sequence=2)] == [2]
        assert [(f.sequence, f.parts) for f in await recording_files.in_bucket(tx, "rec_1")] == [(1, None), (2, None), (3, b"i")]
