"""Uploads in the database: listed, in turn, and when a recording is complete."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from medianode.store import projects, recording_files, recordings, uploads
from medianode.store.database import Transaction, open_database
from medianode.store.projects import Project
from medianode.store.recording_files import RecordingFile
from medianode.store.recordings import Recording
from medianode.store.uploads import FAR, PartSent, Upload

NODE = "n1"


async def put_recording(tx: Transaction, project: str, name: str, files: int, **more: object) -> list[int]:
    """Returns its files' ids."""
    if await projects.find(tx, project) is None:
        who = {"viewing": "public", "open_publish": False, "jwt_secret": "s" * 32, "created_at": 1.0}
        await projects.insert_project(tx, Project(id=project, slug=project, name=project, jwt_key_id=project, **who))  # type: ignore[arg-type]
    recording = Recording(id=name, project_id=project, room="p-a", node_id=NODE, directory="/r", started_at=1.0, upload_state="pending")
    await recordings.insert_recording(tx, replace(recording, **more))  # type: ignore[arg-type]
    for sequence in range(1, files + 1):
        file = RecordingFile(recording_id=name, project_id=project, sequence=sequence, name=f"{sequence}.mp4", started_at=1.0, start=0)
        await recording_files.put(tx, replace(file, state="closed", nbytes=100))
    return [file.id for file in await recording_files.of_recording(tx, name)]


def upload(file_id: int, project: str = "p", at: float = 1.0) -> Upload:
    return Upload(file_id=file_id, project_id=project, node_id=NODE, created_at=at)


async def test_closed_files_are_listed_once(database_url: str, tmp_path: Path) -> None:
    async with open_database(database_url, tmp_path) as db, db.write() as tx:
        first, second, third = await put_recording(tx, "p", "rec_1", 3)
        await put_recording(tx, "p", "rec_2", 1, upload_state="none")
        await put_recording(tx, "p", "rec_3", 1, node_id="another")
        await recording_files.change(tx, third, state="open")
        assert [file.id for file in await uploads.unlisted(tx, NODE, 10)] == [first, second]
        await uploads.add(tx, upload(first))
        await uploads.change(tx, first, upload_id="u", parts=[PartSent(1, "e", "s")])
        await uploads.add(tx, upload(first))  # what is known of it stays
        found = await uploads.find(tx, first)
        assert found is not None
        assert (found.upload_id, found.parts) == ("u", (PartSent(1, "e", "s"),))
        assert [file.id for file in await uploads.unlisted(tx, NODE, 10)] == [second]
        assert await uploads.queue(tx, "p") == uploads.Queue(1, 100, 1.0)
        assert await uploads.queue(tx, "q") == uploads.Queue(0, 0, None)
        assert [(file.id, row.upload_id) for file, row in await uploads.of_recording(tx, "rec_1")] == [(first, "u")]
        await recordings.remove(tx, "rec_1")
        assert await uploads.find(tx, first) is None
        assert not await uploads.change(tx, first, error="x")
        assert not await uploads.any_left(tx, NODE)


async def test_projects_take_turns(database_url: str, tmp_path: Path) -> None:
    async with open_database(database_url, tmp_path) as db, db.write() as tx:
        many = await put_recording(tx, "p", "rec_1", 5)
        few = await put_recording(tx, "q", "rec_2", 2)
        for file_id in many:
            await uploads.add(tx, upload(file_id, "p"))
        for file_id in few:
            await uploads.add(tx, upload(file_id, "q", 2.0))

        async def due(now: float = 10.0, busy: tuple[int, ...] = (), blocked: tuple[str, ...] = ()) -> list[int]:
            return [each.file_id for each in await uploads.due(tx, NODE, now, busy=busy, blocked=blocked, per_project=2)]

        assert sorted((await due())[:2]) == [many[0], few[0]]
        assert sorted(await due()) == sorted([*many[:2], *few])
        assert await due(blocked=("p",)) == few
        assert sorted(await due(busy=(many[0], few[0]))) == sorted([*many[1:3], few[1]])
        await uploads.change(tx, few[0], next_at=100.0)
        assert await due(blocked=("p",)) == [few[1]]
        assert await due(100.0, blocked=("p",)) == few
        await uploads.change(tx, few[0], next_at=FAR + 5.0)
        assert await due(10.0, blocked=("p",)) == [few[1]]
        assert await due(1.0, blocked=("p",)) == few  # the clock was wrong when it was written
        await uploads.hurry(tx, "rec_2")
        assert await due(blocked=("p",)) == few


async def test_a_recording_is_complete_with_its_last_file(database_url: str, tmp_path: Path) -> None:
    async with open_database(database_url, tmp_path) as db, db.write() as tx:
        first, second = await put_recording(tx, "p", "rec_1", 2)

        async def complete() -> list[tuple[str, str]]:
            return list(await uploads.complete(tx, NODE, 10))

        await recording_files.change(tx, first, uploaded_at=2.0)
        await recordings.change(tx, "rec_1", state="finished")
        assert await complete() == []
        await recording_files.change(tx, second, state="gone")  # retention took it from a disk that was full
        assert await complete() == [("rec_1", "p")]
        await recordings.change(tx, "rec_1", state="recording")
        assert await complete() == []
        await recordings.change(tx, "rec_1", state="finished", upload_state="done")
        assert await complete() == []
