"""What is there of a recording: rows, what was closed this moment, what is being written; rooms over several recordings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from medianode import clock
from medianode.egress.playback.footage import Footage, Reel
from medianode.egress.playback.library import LINGER, TTL_FINISHED, Library, OpenFile, merged
from medianode.events import Bus, RecordingEnded, RecordingFileChanged, RecordingStarted
from medianode.media.parts import Part, pack
from medianode.store import projects, recording_files, recordings
from medianode.store.database import open_database
from medianode.store.projects import Project
from medianode.store.recording_files import RecordingFile
from medianode.store.recordings import Recording

WHO = ("rec_a", "p1", "shop-till", "", None)
WHO_ALL = ("rec_a", "rec_B", "rec_C")
PROJECT = Project(id="p1", slug="shop", name="Shop", created_at=0.0, jwt_key_id="k", jwt_secret="s", viewing="public", open_publish=False)


@dataclass
class Open:
    sequence: int
    parts: tuple[Part, ...]
    start: int
    init: bytes = b"x" * 100
    gap: str = ""

    @property
    def path(self) -> Path:
        return Path(f"/rec/{self.sequence:06}.mp4")

    @property
    def started_at(self) -> float:
        return 1000 + self.start / 1e6


class Recorder:
    def __init__(self) -> None:
        self.open: Open | None = None

    def live(self, recording_id: str) -> OpenFile | None:
        return self.open

    def on_parts(self, recording_id: str, call: Callable[[], None]) -> Callable[[], None]:
        raise AssertionError("nobody waits here")


def parts(count: int, start: int = 0) -> tuple[Part, ...]:
    return tuple(Part(100 + i * 10, 10, start + i * 1_000_000, 1_000_000, i == 0) for i in range(count))


def closed(sequence: int) -> RecordingFileChanged:
    start = (sequence - 1) * 5_000_000
    return RecordingFileChanged(
        *WHO, sequence, f"{sequence:06}.mp4", True, 1000 + start / 1e6, start, 5_000_000, 150, 100, (), index=pack(parts(5, start))
    )


def row(event: RecordingFileChanged) -> RecordingFile:
    return RecordingFile(
        recording_id=event.recording_id,
        project_id=event.project_id,
        sequence=event.sequence,
        name=event.name,
        state="closed",
        started_at=event.started_at,
        start=event.start,
        duration=event.duration,
        nbytes=event.nbytes,
        init_bytes=event.init_bytes,
        parts=event.index,
    )


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the clock says, seconds."""
    at = [0.0]
    monkeypatch.setattr(clock, "now", lambda: at[0])
    monkeypatch.setattr(clock, "wallclock", lambda: 1000.0 + at[0])
    return at


async def test_a_recording_is_whole_at_every_moment_of_its_life(database_url: str, tmp_path: Path, now: list[float]) -> None:
    bus, recorder = Bus(), Recorder()
    async with open_database(database_url, tmp_path, environ={}) as db:
        library = Library(db, bus, recorder)
        assert await library.recording("rec_a") is None
        bus.publish(RecordingStarted(*WHO, "api", "/rec", 1000.0, "Till", (("a", "b"),)))
        # there is no row yet
        found = await library.recording("rec_a")
        assert found is not None
        assert (found.title, found.labels, found.state) == ("Till", {"a": "b"}, "recording")
        recorder.open = Open(1, parts(3), 0)
        reel = await library.reel(found)
        assert [(f.name, f.closed, f.nbytes, f.duration) for f in reel.files] == [("000001.mp4", False, 130, 3_000_000)]
        assert reel.growing

        # closed, and the row not written yet; then the next one is open
        bus.publish(closed(1))
        assert [(f.sequence, f.closed) for f in (await library.reel(found)).files] == [(1, True)]
        recorder.open = Open(2, parts(2, 5_000_000), 5_000_000)
        assert [(f.sequence, f.closed) for f in (await library.reel(found)).files] == [(1, True), (2, False)]
        assert list((await library.reel(found)).files[0].parts) == list(parts(5))

        async with db.write() as tx:
            await projects.insert_project(tx, PROJECT)
            await recordings.insert_recording(tx, replace(found, node_id="n"))
            await recording_files.put(tx, row(closed(1)))
        now[0] += TTL_FINISHED + 1
        assert [(f.sequence, f.closed) for f in (await library.reel(found)).files] == [(1, True), (2, False)]

        # retention took the oldest: it does not come back from what is remembered
        bus.publish(closed(2))
        async with db.write() as tx:
            kept = await recording_files.of_recording(tx, "rec_a")
            await recording_files.remove(tx, kept[0].id)
            await recording_files.put(tx, row(closed(2)))
        now[0] += TTL_FINISHED + 1
        recorder.open = Open(3, parts(1, 10_000_000), 10_000_000)
        assert [f.sequence for f in (await library.reel(found)).files] == [2, 3]
        # only what is asked for
        assert [f.sequence for f in (await library.reel(found, 1010.2)).files] == [3]
        assert [f.sequence for f in (await library.reel(found, 1000.0, 1009.0)).files] == [2]

        # over: the last file is there before its row is
        bus.publish(closed(3))
        recorder.open = None
        bus.publish(RecordingEnded(*WHO, 1015.0, 15_000_000, 450))
        reel = await library.reel(found)
        assert ([f.sequence for f in reel.files], reel.growing) == ([2, 3], False)
        reels = await library.of_room("p1", "shop-till", 900.0, 1100.0, parts=True)
        assert [[f.sequence for f in reel.files] for reel in reels] == [[2, 3]]
        now[0] += LINGER + TTL_FINISHED + 1
        library.tend(now[0])
        assert [f.sequence for f in (await library.reel(found)).files] == [2]


async def test_a_months_files_are_read_in_pages_and_one_of_them_by_itself(
    database_url: str, tmp_path: Path, now: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording_files, "PAGE", 3)
    async with open_database(database_url, tmp_path, environ={}) as db:
        library = Library(db, Bus(), Recorder())
        owners = [
            Recording(id=name, project_id="p1", room="shop-till", node_id="n", directory="/rec", started_at=1000.0) for name in WHO_ALL
        ]
        async with db.write() as tx:
            await projects.insert_project(tx, PROJECT)
            for owner, count in zip(owners, (7, 0, 3), strict=True):
                await recordings.insert_recording(tx, replace(owner, state="finished", ended_at=1000.0 + 5 * count + 1))
                for sequence in range(1, count + 1):
                    # the clock was set back behind the fourth: files stay in the order of their names
                    at = 1000.0 + 5 * sequence - (12.0 if sequence > 4 else 0.0)
                    await recording_files.put(tx, replace(row(closed(sequence)), recording_id=owner.id, started_at=at))
        reels = await library.of_room("p1", "shop-till", 900.0, 1100.0, parts=True)
        there = {reel.recording.id: [file.sequence for file in reel.files] for reel in reels}
        assert there == {"rec_a": [1, 2, 3, 4, 5, 6, 7], "rec_B": [], "rec_C": [1, 2, 3]}
        assert {len(file.parts) for reel in reels for file in reel.files} == {5}
        # by its name, and nothing else of the recording is asked for
        found = await library.file(owners[0], "000006.mp4")
        assert found is not None
        assert (found.path, found.nbytes) == (Path("/rec/000006.mp4"), 150)
        assert library._known == {}
        assert [await library.file(owners[0], name) for name in ("000008.mp4", "6.mp4", "000000.mp4", "x.mp4")] == [None] * 4
        assert [file.sequence for file in (await library.reel(owners[0])).files] == [1, 2, 3, 4, 5, 6, 7]
        assert await library.file(owners[0], "000006.mp4") == found
        await library.reel(owners[2])
        assert not library._asking


def reel_of(name: str, at: float, *, identity: str = "", count: int = 2) -> Reel:
    recording = Recording(id=name, project_id="p", room="r", identity=identity, node_id="n", directory="/d", started_at=at)
    files = tuple(Footage(Path(f"/d/{name}-{i}"), i, at + i * 10, i * 10_000_000, 10_000_000, 1, 1) for i in range(count))
    return Reel(recording, files)


def test_where_recordings_of_a_room_overlap_each_moment_is_there_once() -> None:
    room, camera, later = reel_of("room", 100.0), reel_of("camera", 85.0, identity="cam", count=4), reel_of("later", 121.0)
    # camera: 85 to 125; the room's own goes first: 100 to 120, later: 121 to 141
    found = [(reel.recording.id, file.sequence) for reel, file in merged([camera, later, room])]
    assert found == [("camera", 0), ("room", 0), ("room", 1), ("later", 0), ("later", 1)]
