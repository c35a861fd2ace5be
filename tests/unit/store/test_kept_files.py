"""Which files retention may take, and how much there is of them. On both databases."""

from __future__ import annotations

from dataclasses import replace

from medianode.store import discards, kept_files, projects, recording_files, recordings
from medianode.store.database import Database
from medianode.store.kept_files import Choice
from medianode.store.projects import Project
from medianode.store.recording_files import RecordingFile
from medianode.store.recordings import Recording


async def _fill(db: Database) -> None:
    """Five recordings of a file a minute: plain, pinned, waiting for its upload, of another project, of another node."""
    one = Recording(id="rec_a", project_id="prj_1", room="p-a", node_id="n1", directory="/r/p/p-a/rec_a", started_at=0.0, ended_at=180.0)
    file = RecordingFile(recording_id="rec_a", project_id="prj_1", sequence=1, name="1", state="closed", started_at=0.0, start=0)
    async with db.write() as tx:
        for number in "12":
            names = {"id": f"prj_{number}", "slug": f"p{number}", "name": "p", "jwt_key_id": number}
            await projects.insert_project(tx, Project(**names, viewing="public", open_publish=False, jwt_secret="s" * 32, created_at=1.0))
        for n, more in enumerate(
            [
                {},
                {"pinned": True},
                {"upload_state": "pending"},
                {"project_id": "prj_2", "directory": "/q_%/p/p-a/rec_d"},
                {"node_id": "n2"},
            ]
        ):
            recording = replace(one, id=f"rec_{'abcde'[n]}", **{"directory": f"/r/p/p-a/rec_{n}", **more})
            await recordings.insert_recording(tx, recording)
            for minute in range(3):
                of = {"recording_id": recording.id, "project_id": recording.project_id, "sequence": minute + 1, "name": str(minute)}
                await recording_files.put(tx, replace(file, **of, started_at=60.0 * minute + n, duration=60_000_000, nbytes=1000))
            await recording_files.put(
                tx, replace(file, recording_id=recording.id, project_id=recording.project_id, sequence=4, state="open", started_at=180.0)
            )
        waiting = await recording_files.of_recording(tx, "rec_c", sequence=2)
        await recording_files.change(tx, waiting[0].id, uploaded_at=1.0, remote_key="k")


async def test_which_files_may_go(database: Database) -> None:
    await _fill(database)

    async def chosen(limit: int = 99, after: tuple[float, int] | None = None, **choice: object) -> list[tuple[str, int]]:
        async with database.read() as tx:
            found = await kept_files.oldest(tx, Choice(node_id="n1", **choice), limit, after=after)  # type: ignore[arg-type]
        return [(file.recording_id[-1], file.sequence) for file in found]

    assert await chosen() == [("a", 1), ("d", 1), ("a", 2), ("c", 2), ("d", 2), ("a", 3), ("d", 3)]
    assert await chosen(uploaded=None, project_id="prj_1") == [("a", 1), ("c", 1), ("a", 2), ("c", 2), ("a", 3), ("c", 3)]
    assert await chosen(uploaded=True) == [("c", 2)]
    assert await chosen(root="/q_%") == [("d", 1), ("d", 2), ("d", 3)]
    assert await chosen(root="/r/p") == [("a", 1), ("a", 2), ("c", 2), ("a", 3)]
    assert await chosen(root="/r/") == await chosen(root="/r")
    assert await chosen(ended_before=120.0) == [("a", 1), ("d", 1)]
    async with database.read() as tx:
        first, second = await kept_files.oldest(tx, Choice(node_id="n1"), 2)
    assert await chosen(2, (first.started_at, first.id)) == [("d", 1), ("a", 2)]
    assert second.ended_at == 63.0
    async with database.write() as tx:
        assert [f.id for f in await kept_files.lock(tx, [first.id, second.id])] == [first.id, second.id]
        await recordings.change(tx, "rec_a", pinned=True)
        assert [f.id for f in await kept_files.lock(tx, [first.id, second.id])] == [second.id]
        assert await kept_files.lock(tx, []) == []
        used = {u.project_id: (u.files, u.nbytes, u.oldest) for u in await kept_files.usage(tx, "n1")}
        assert used == {"prj_1": (9, 9000, 0.0), "prj_2": (3, 3000, 3.0)}
        assert [u.project_id for u in await kept_files.usage(tx, "n1", "prj_2")] == ["prj_2"]
        assert await kept_files.projects_on(tx, "n1", ["/r", "/nowhere"]) == {"prj_1"}


async def test_what_there_is_of_a_recording_and_what_becomes_of_a_project(database: Database) -> None:
    await _fill(database)
    async with database.write() as tx:
        assert await recording_files.totals(tx, "rec_a") == (180_000_000, 3000, 180.0)
        assert await recording_files.count(tx, "rec_a") == (4, 3000)
        assert await recording_files.count(tx, "rec_x") == (0, 0)
        assert await discards.add_all_of(tx, "prj_1") == 4
        await projects.delete_project(tx, "prj_1")
        noted = await discards.oldest(tx, "n1", 2)
        assert [path for _, path in noted] == ["/r/p/p-a/rec_0", "/r/p/p-a/rec_1"]
        await discards.remove(tx, [number for number, _ in noted])
        assert [path for _, path in await discards.oldest(tx, "n1", 9)] == ["/r/p/p-a/rec_2"]
        assert await discards.oldest(tx, "n1", 9, after=999) == []
        assert [path for _, path in await discards.oldest(tx, "n2", 9)] == ["/r/p/p-a/rec_4"]
