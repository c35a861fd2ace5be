"""A recording and its disk: what is written, told and recovered when the disk is well, full, broken, slow, or loses power."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from harness import AUDIO, IDR, SLICE, VIDEO
from harness.disks import FaultyDisk

from medianode import clock
from medianode.config import Recording
from medianode.egress.recorder import writer as writing
from medianode.egress.recorder.order import Order
from medianode.egress.recorder.recover import Recovered, recover
from medianode.egress.recorder.session import Session
from medianode.egress.recorder.writer import Writer
from medianode.errors import ProtocolError
from medianode.events import Bus, RecordingEnded, RecordingEvent, RecordingFileChanged, RecordingStarted, RecordingTrouble
from medianode.media.packet import Packet
from medianode.media.parts import unpack
from medianode.media.track import Codec, Track


class Bench:
    """`play(seconds)` is what an encoder sends in that time, at once; `settled` waits until the disk has done all that was asked of it."""

    def __init__(self, root: Path, bound: int, config: Recording) -> None:
        self.root = root / "disk"
        self.root.mkdir()
        self.disk = FaultyDisk(self.root)
        self.writer = Writer("test", self.disk, config.fsync)
        self.bus = Bus()
        self.events: list[RecordingEvent] = []
        self._waiters: list[tuple[Callable[[], bool], asyncio.Future[None]]] = []
        self.bus.subscribe(RecordingEvent, self._heard)
        self.refused: list[str] = []
        self.directory = self.root / "live" / "r" / "rec_1"
        order = Order(recording_id="rec_1", project_id="p", slug="live", room="r", title="ü", labels={"a": "b"}, directory=self.directory)
        self.session = Session(
            order,
            config,
            bound,
            self.bus,
            self.writer,
            on_disk=lambda ident: self._look(),
            on_refused=lambda session, code: self._refused(code),
            on_end=lambda session: None,
        )
        self.session.on_tracks((VIDEO, AUDIO))
        self.zero = clock.now()
        self.sent = 0

    def play(self, seconds: float, size: int = 1000) -> None:
        for n in range(self.sent, self.sent + round(seconds * 30)):
            key, at = n % 30 == 0, self.zero + n / 30
            data = (IDR if key else SLICE) + bytes(size)
            self.session.on_packet(Packet(VIDEO, data, n * 3000, n * 3000, key, at))
            for m in range(-(-n * 1600 // 1024), -(-(n + 1) * 1600 // 1024)):
                self.session.on_packet(Packet(AUDIO, bytes(50), m * 1024, m * 1024, True, at))
        self.sent += round(seconds * 30)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Looks whenever something has happened."""
        if not condition():
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.append((condition, future))
            await asyncio.wait_for(future, 20)

    async def settled(self) -> None:
        await self.until(lambda: not self.session.queued)

    async def end(self, patience: float = 10.0) -> list[Recovered]:
        self.session.end(patience)
        await asyncio.wait_for(asyncio.shield(self.session.ended), 20)
        return self.recovered()

    def recovered(self, directory: Path | None = None) -> list[Recovered]:
        return [recover(path) for path in sorted((directory or self.directory).glob("*.mp4"))]

    def told(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if type(event) is kind]

    def _refused(self, code: str) -> None:
        self.refused.append(code)
        self._look()

    def _heard(self, event: RecordingEvent) -> None:
        self.events.append(event)
        self._look()

    def _look(self) -> None:
        for condition, future in self._waiters:
            if not future.done() and condition():
                future.set_result(None)


@asynccontextmanager
async def bench(root: Path, bound: int = 1 << 20, **config: Any) -> AsyncIterator[Bench]:
    made = Bench(root, bound, msgspec.convert({"file_duration": 5.0, **config}, Recording))
    try:
        yield made
    finally:
        made.disk.free.set()
        made.disk.fails = made.disk.syncs = None
        if not made.session.ended.done():
            await made.end()
        assert await made.writer.close(10)


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "BATCH", 0.001)
    monkeypatch.setattr(writing, "RETRY", 0.01)


async def test_what_is_told_is_what_is_on_the_disk(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        b.play(12.5)
        files = await b.end()
        (started,), (ended,) = b.told(RecordingStarted), b.told(RecordingEnded)
        changes = b.told(RecordingFileChanged)
        assert [(e.sequence, e.closed) for e in changes] == [(1, False), (1, True), (2, False), (2, True), (3, False), (3, True)]
        assert b.events[0] is started
        assert b.events[-1] is ended
        assert started.at == files[0].started_at
        for told, found in zip([e for e in changes if e.closed], files, strict=True):
            assert tuple(unpack(told.index)) == found.parts
            assert (told.sequence, told.started_at, told.start, told.duration) == (
                *(found.sequence, found.started_at, found.start),
                found.duration,
            )
            assert (told.nbytes, told.init_bytes, told.tracks, told.gap) == (found.nbytes, found.init_bytes, found.tracks, found.gap)
            assert found.cut == 0
            label = found.label
            assert (label["recording"], label["title"], label["labels"], label["slug"]) == ("rec_1", "ü", {"a": "b"}, "live")
        assert (ended.duration, ended.nbytes, ended.code) == (12_500_000, sum(f.nbytes for f in files), "")


@pytest.mark.parametrize("step", [3600.0, -3600.0])
async def test_a_clock_that_is_set_breaks_the_time_and_not_the_media(tmp_path: Path, step: float, monkeypatch: pytest.MonkeyPatch) -> None:
    async with bench(tmp_path) as b:
        b.play(7)
        wallclock = clock.wallclock
        monkeypatch.setattr(clock, "wallclock", lambda: wallclock() + step)
        b.play(8)
        files = await b.end()
        assert [(f.gap, f.start) for f in files] == [("", 0), ("", 5_000_000), ("clock-step", 10_000_000)]
        assert files[2].started_at - files[1].started_at == pytest.approx(5 + step, abs=0.1)
        (ended,) = b.told(RecordingEnded)
        assert ended.at >= max(f.started_at + f.duration / 1e6 for f in files), "all of it is found between its start and its end"


async def test_the_open_file_shows_what_is_on_the_disk(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        assert b.session.live is None
        b.play(3.0)
        await b.settled()
        live = b.session.live
        assert live is not None
        assert live.path.read_bytes()[: len(live.init)] == live.init
        assert live.nbytes == live.path.stat().st_size
        assert sum(part.duration for part in live.parts) > 2_000_000


async def test_a_full_disk_costs_nothing_while_memory_lasts(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        b.play(3.0)
        await b.settled()
        b.disk.fails = errno.ENOSPC
        b.play(3.0)
        await b.until(lambda: len(b.refused) > 2)
        assert [e.code for e in b.told(RecordingTrouble)] == ["disk-full"]
        b.disk.fails = None
        b.writer.try_again()
        await b.settled()
        b.session.tend(clock.now() + 1.0)
        assert [e.code for e in b.told(RecordingTrouble)] == ["disk-full"]
        b.session.tend(clock.now() + 6.0)
        assert [e.code for e in b.told(RecordingTrouble)] == ["disk-full", ""]
        files = await b.end()
        assert [(f.gap, f.cut) for f in files] == [("", 0), ("", 0)]
        assert sum(f.duration for f in files) == 6_000_000


async def test_a_disk_that_stays_full_leaves_a_gap_and_no_more(tmp_path: Path) -> None:
    async with bench(tmp_path, bound=100_000) as b:
        b.play(2.0)
        await b.settled()
        b.disk.fails = errno.ENOSPC
        b.play(1.0)
        await b.until(lambda: bool(b.refused))
        b.play(9.0)
        assert b.session.queued < 150_000
        b.disk.fails = None
        b.writer.try_again()
        await b.settled()
        b.play(3.5)
        await b.settled()
        files = await b.end()
        assert files[-1].gap == "disk-full"
        assert all(f.cut == 0 for f in files)
        assert files[-1].start >= 12_000_000
        assert files[-1].parts[0].independent
        assert b.told(RecordingEnded)[0].code == ""


async def test_a_slow_disk_is_told_and_resumes_with_a_key_frame(tmp_path: Path) -> None:
    async with bench(tmp_path, bound=60_000) as b:
        b.disk.free.clear()
        b.play(5.0)
        assert [e.code for e in b.told(RecordingTrouble)] == ["slow-disk"]
        b.disk.free.set()
        await b.settled()
        b.play(1.5)
        await b.settled()
        b.session.tend(clock.now())
        assert [e.code for e in b.told(RecordingTrouble)] == ["slow-disk", ""]
        files = await b.end()
        assert [f.gap for f in files] == ["", "slow-disk"]
        assert files[1].start == pytest.approx(5_000_000, abs=40_000)


async def test_a_disk_that_is_read_only_from_the_start(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        b.disk.fails = errno.EROFS
        b.play(2.0)
        await b.until(lambda: len(b.refused) > 1)
        assert [type(e) for e in b.events] == [RecordingStarted, RecordingTrouble]
        assert b.events[1].code == "disk-read-only"  # type: ignore[attr-defined]
        b.disk.fails = None
        files = await b.end()
        assert [f.duration for f in files] == [2_000_000]


async def test_an_end_that_the_disk_does_not_take_is_an_end(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        b.play(2.0)
        await b.settled()
        b.disk.fails = errno.EIO
        b.play(2.0)
        await b.until(lambda: bool(b.refused))
        files = await b.end(patience=0.02)
        (ended,) = b.told(RecordingEnded)
        assert ended.code == "disk-error"
        assert [f.cut for f in files] == [0]  # the torn tail was taken off
        assert 1_000_000 < files[0].duration < 2_000_000
        assert ended.duration == files[0].duration


async def test_a_sync_that_fails_is_told_and_a_new_file_begun(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        b.play(2.0)
        await b.settled()
        b.disk.syncs = errno.EIO
        b.play(1.0)
        await b.until(lambda: bool(b.told(RecordingTrouble)))
        b.play(1.0)
        await b.settled()
        b.play(1.0)
        await b.settled()
        b.session.tend(clock.now() + 6.0)
        assert [e.code for e in b.told(RecordingTrouble)] == ["disk-error"]  # as long as it lasts
        b.disk.syncs = None
        b.play(1.0)
        await b.settled()
        b.session.tend(clock.now() + 6.0)
        assert [e.code for e in b.told(RecordingTrouble)] == ["disk-error", ""]
        files = await b.end()
        assert [f.gap for f in files] == ["", "disk-error"]


@pytest.mark.parametrize("fsync", ["part", "file"])
async def test_a_power_cut_leaves_whole_parts(tmp_path: Path, fsync: str) -> None:
    async with bench(tmp_path, fsync=fsync) as b:
        b.play(12.5)
        await b.settled()
        b.disk.power_cut(tmp_path / "after")
        directory = tmp_path / "after" / "live" / "r" / "rec_1"
        if fsync == "part":
            after = b.recovered(directory)
            assert sum(f.duration for f in after) >= 12_500_000 - 650_000 - 40_000
            assert all(f.cut == 0 for f in after)
        else:
            with pytest.raises(ProtocolError):  # the open file has its beginning only
                recover(directory / "000003.mp4")
            assert sum(recover(directory / f"00000{n}.mp4").duration for n in (1, 2)) == 10_000_000


async def test_never_syncing_never_syncs(tmp_path: Path) -> None:
    async with bench(tmp_path, fsync="never") as b:
        b.play(7.0)
        await b.end()
        assert "sync" not in b.disk.calls


async def test_a_codec_that_no_file_carries_is_told_and_the_rest_recorded(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        b.session.on_tracks((VIDEO, Track(1, Codec.PCM_ALAW, 8000, sample_rate=8000, channels=1)))
        (trouble,) = b.told(RecordingTrouble)
        assert trouble.code == "unsupported-codec"
        assert "pcm_alaw" in trouble.message
        b.play(2.0)
        files = await b.end()
        assert [kind for kind, *_ in files[0].tracks] == ["video"]


async def test_nothing_recorded_is_nothing_told(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        await b.end()
        assert not b.events


@pytest.mark.parametrize("taken", [1, 7, 8, 100, 1500])
async def test_recovery_takes_off_the_torn_tail(tmp_path: Path, taken: int) -> None:
    async with bench(tmp_path) as b:
        b.play(4.0)
        (whole,) = await b.end()
    path = b.directory / "000001.mp4"
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.truncate(size - taken)
    looked = recover(path, truncate=False)
    found = recover(path)
    assert looked == found
    assert found.parts == whole.parts[:-1]
    assert found.cut == size - taken - found.nbytes
    assert path.stat().st_size == found.nbytes
    with path.open("ab") as file:
        file.write(bytes(3000))  # what a file system leaves that knew the size but not the data
    assert recover(path).parts == found.parts


async def test_recovery_of_what_is_no_recording(tmp_path: Path) -> None:
    for name, data in (("empty", b""), ("zeros", bytes(5000)), ("text", b"hello" * 100), ("huge", b"\xff\xff\xff\xffftypxxxxxxxx")):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ProtocolError):
            recover(tmp_path / name)
