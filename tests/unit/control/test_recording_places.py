"""Where recordings go: below their root, whoever named what."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from medianode.config import Config, Recording
from medianode.control import recording_places
from medianode.control.projects import Projects
from medianode.control.recording_places import RecordingPlaces, directory
from medianode.errors import InvalidRequest, NotEnabled
from medianode.events import Bus
from medianode.store.database import Database
from medianode.tasks import background


@pytest.mark.parametrize("bad", ["", ".", "..", "../x", "a/b", "/etc", ".hidden", "a\x00b", "a\nb", "x" * 256])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_no_name_leads_out_of_the_root(bad: str, place: int) -> None:
    names = ["garage", "garage-door", "rec_1"]
    assert directory(Path("/r"), *names) == Path("/r/garage/garage-door/rec_1")
    names[place] = bad
    with pytest.raises(InvalidRequest):
        directory(Path("/r"), *names)


async def test_orders_go_where_the_node_or_the_project_says(database: Database, tmp_path: Path) -> None:
    bus = Bus()
    projects = Projects(database, bus)
    own = await projects.create("own", storage={"type": "directory", "path": str(tmp_path / "own")})
    plain = await projects.create("plain")
    places = RecordingPlaces(Config(data_dir=str(tmp_path)), database, bus)
    await places.open()
    one, other = places.order(own, "own-a", title="t", labels={"a": "b"}), places.for_room(plain.id, "plain", "plain-a")
    assert one.directory == tmp_path / "own" / "own" / "own-a" / one.recording_id
    assert other.directory == tmp_path / "recordings" / "plain" / "plain-a" / other.recording_id
    assert (one.reason, other.reason, one.labels) == ("api", "room", {"a": "b"})
    assert len({one.recording_id, other.recording_id}) == 2
    assert places.roots == {tmp_path / "own", tmp_path / "recordings"}
    assert set(places.made) == {one.recording_id, other.recording_id}
    changed = await projects.change("own", storage=None)
    assert places.order(changed, "own-a").directory.is_relative_to(tmp_path / "recordings")


async def test_a_directory_that_cannot_be_written_is_told_without_its_path(database: Database, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no directory")
    places = RecordingPlaces(Config(recording=Recording(directory=str(tmp_path / "file"))), database, Bus())
    project = await Projects(database, Bus()).create("garage")
    with pytest.raises(NotEnabled, match="recordings cannot be written") as refused:
        places.order(project, "garage-a")
    assert refused.value.code == "recording-directory"
    assert str(tmp_path) not in str(refused.value)


async def test_a_disk_that_does_not_answer_holds_up_nobody_who_publishes(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, answer, loop = asyncio.Event(), threading.Event(), asyncio.get_running_loop()

    def hang(root: Path) -> None:
        assert threading.current_thread() is not threading.main_thread(), "the loop is held up"
        loop.call_soon_threadsafe(asked.set)
        answer.wait()

    monkeypatch.setattr(recording_places, "check_writable", hang)
    project = await Projects(database, Bus()).create("garage")
    places = RecordingPlaces(Config(data_dir=str(tmp_path)), database, Bus())
    async with background(places.serve()):
        async with asyncio.timeout(5):
            await asked.wait()
        for _ in range(2):
            assert places.order(project, "garage-a").directory.is_relative_to(tmp_path / "recordings")
            answer.set()
