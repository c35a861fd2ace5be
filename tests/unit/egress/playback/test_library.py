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
            project = Project(
                id="p1", slug="shop", name="Shop", created_at=0.0, jwt_key_id="k", jwt_secret="s", viewing="public", open_publish=False
            )
            await projects.insert_project(tx, project)
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


def reel_of(name: str, at: float, *, identity: str = "", count: int = 2) -> Reel:
    recording = Recording(id=name, project_id="p", room="r", identity=identity, node_id="n", directory="/d", started_at=at)
    files = tuple(Footage(Path(f"/d/{name}-{i}"), i, at + i * 10, i * 10_000_000, 10_000_000, 1, 1) for i in range(count))
    return Reel(recording, files)


def test_where_recordings_of_a_room_overlap_each_moment_is_there_once() -> None:
    room, camera, later = reel_of("room", 100.0), reel_of("camera", 85.0, identity="cam", count=4), reel_of("later", 121.0)
    # camera: 85 to 125; the room's own goes first: 100 to 120, later: 121 to 141
    found = [(reel.recording.id, file.sequence) for reel, file in merged([camera, later, room])]
    assert found == [("camera", 0), ("room", 0), ("room", 1), ("later", 0), ("later", 1)]
