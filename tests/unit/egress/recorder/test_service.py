"""Who is recorded, from when to when: by option and by hand, over reconnects and takeovers, with what was before the start."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import msgspec
import pytest
from harness import AUDIO, IDR, SLICE, VIDEO
from harness.disks import FaultyDisk
from samples import grant

from medianode import clock
from medianode.config import Config
from medianode.egress.recorder import service
from medianode.egress.recorder import writer as writing
from medianode.egress.recorder.order import Order
from medianode.egress.recorder.recover import Recovered, recover
from medianode.egress.recorder.service import Recorder
from medianode.errors import Conflict, LimitExceeded, NotFound, StorageError
from medianode.events import Bus, RecordingEnded, RecordingEvent, RecordingStarted, RecordingTrouble
from medianode.media.packet import Gap, Packet
from medianode.media.track import Codec, Track
from medianode.routing.fallback import Fallback, Loop, Strand
from medianode.routing.registry import Registry
from medianode.routing.room import Room
from medianode.tasks import background
from medianode.transcode import derive, rendition
from medianode.transcode.renditions import Renditions

RECORDED = grant(record=True, hold=60.0)
PLAIN = grant(hold=60.0)


class Encoder:
    """Its pictures carry the time they are given; the clock of the packets is made up, from `zero` on."""

    def __init__(self, stage: Stage, **changes: Any) -> None:
        self.stage = stage
        self.room, self.publication = stage.registry.publish(replace(PLAIN, **changes), "test", "127.0.0.1", lambda error: None)
        self.sent = 0

    def play(self, seconds: float, *, at: float = 0.0, gop: int = 30) -> Encoder:
        """From `at` seconds after the stage's zero."""
        if not self.publication.tracks:
            self.publication.set_tracks((VIDEO, AUDIO))
        for _ in range(round(seconds * 30)):
            n, self.sent = self.sent, self.sent + 1
            key, received = n % gop == 0, self.stage.zero + at + n / 30
            self.publication.write(Packet(VIDEO, IDR if key else SLICE, n * 3000, n * 3000, key, received))
        return self

    def end(self, cause: str = "closed", *, final: bool = False) -> None:
        self.room.end(self.publication, cause, final=final)


class Stage:
    def __init__(self, root: Path, **recording: Any) -> None:
        self.bus = Bus()
        limits, disk = recording.pop("limits", {}), recording.pop("filesystem", None)
        self.config = msgspec.convert({"recording": recording, "limits": limits}, Config)
        self.registry = Registry(self.bus, self.config.limits)
        self.renditions = Renditions(self.config.limits, self.config.mjpeg, self.config.hls)
        self.recorder = Recorder(self.config, self.registry, self.bus, self.renditions, root / "recordings", disk)
        self.zero = clock.now() - 1000.0
        self.events: list[RecordingEvent] = []
        self.bus.subscribe(RecordingEvent, self.events.append)
        self.root = root

    def order(self, ident: str = "rec_1", **changes: Any) -> Order:
        directory = self.root / "recordings" / "x" / ident
        return Order(recording_id=ident, **{"project_id": "p", "slug": "live", "room": "live-a", "directory": directory, **changes})

    @property
    def running(self) -> list[str]:
        return [session.order.reason for session in self.recorder.active.values() if not session.ending]

    async def over(self) -> None:
        """All that are ending have ended."""
        await asyncio.gather(*(session.ended for session in self.recorder.active.values() if session.ending))

    def files(self) -> list[Recovered]:
        return [recover(path) for path in sorted((self.root / "recordings").rglob("*.mp4"))]

    def told(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if type(event) is kind]


@asynccontextmanager
async def stage(root: Path, **recording: Any) -> AsyncIterator[Stage]:
    made = Stage(root, **recording)
    async with made.renditions, background(made.recorder.serve()):
        await asyncio.sleep(0)
        yield made


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "BATCH", 0.001)


async def test_one_recording_over_reconnects_ends_with_the_hold(tmp_path: Path) -> None:
    async with stage(tmp_path) as s:
        first = Encoder(s, record=True).play(2)
        assert s.running == ["ingress"]
        first.end()
        Encoder(s, record=True).play(2, at=5.0)
        assert len(s.recorder.active) == 1
        room = s.registry.find("p", "live-a")
        assert room is not None
        room.end(s.registry.publications[0], "closed", final=True)
        await s.over()
        assert not s.recorder.active
        assert [(f.gap, f.start, f.duration) for f in s.files()] == [("", 0, 2_000_000), ("publisher-gap", 5_000_000, 2_000_000)]
        (ended,) = s.told(RecordingEnded)
        assert ended.duration == 4_000_000


async def test_a_takeover_goes_on_in_a_new_file(tmp_path: Path) -> None:
    async with stage(tmp_path) as s:
        Encoder(s, record=True).play(2)
        Encoder(s, record=True).play(2, at=3.0).end(final=True)
        await s.over()
        assert [f.gap for f in s.files()] == ["", "takeover"]
        assert len(s.told(RecordingStarted)) == 1


async def test_a_room_is_recorded_whoever_its_programme_is(tmp_path: Path) -> None:
    async with stage(tmp_path) as s:
        s.recorder.wants_room = lambda project_id, room: room == "live-a"
        one = Encoder(s, identity="one").play(2)
        other = Encoder(s, identity="other").play(3, at=0.0)
        one.end(final=True)
        other.play(1)
        other.end(final=True)
        await s.over()
        (started,) = s.told(RecordingStarted)
        assert (started.reason, started.identity) == ("room", "")
        first, second = s.files()
        assert first.duration == 2_000_000
        assert second.gap == "takeover"


class Reader:
    """Goes in the first gap."""

    def __init__(self, room: Room) -> None:
        self.room, self.left = room, False

    def on_tracks(self, tracks: tuple[Track, ...]) -> None:
        """Known."""

    def on_packet(self, packet: Packet) -> None:
        """Not looked at."""

    def on_gap(self, gap: Gap) -> None:
        self.left = True
        self.room.detach(self)

    def on_end(self, cause: str) -> None:
        """Never."""


async def test_with_a_slate_that_is_always_shown_each_session_is_a_recording(tmp_path: Path) -> None:
    class Loops:
        def find(self, project_id: str, room: str, slate: str, like: tuple[Track, ...], ready: object) -> Loop:
            packets = tuple(Packet(VIDEO, IDR if n == 0 else SLICE, n * 3000, n * 3000, n == 0, 0.0) for n in range(30))
            return Loop((Strand(VIDEO, packets, 90_000),), 30)

    async with stage(tmp_path) as s:
        s.recorder.wants_room = lambda project_id, room: True
        s.registry.slates.of = lambda project_id, room: Fallback(slate="s/1", always=True)
        s.registry.slates.loops = Loops()
        s.registry.fall_back("live", "p", "live-a")
        room = s.registry.find("p", "live-a")
        assert room is not None
        assert room.slated
        assert not s.running, "a slate is no evidence"
        one = Encoder(s, identity="one").play(2)
        other = Encoder(s, identity="other").play(2)
        assert s.running == ["room"]
        one.end()
        other.play(1).end(final=True)
        assert s.running == ["room"], "one is held"
        again = Encoder(s, identity="one").play(2, at=4.0)
        reader = Reader(room)
        room.attach(reader)
        again.end()
        assert reader.left
        assert s.running == ["room"], "a reader that goes in the middle of it does not end the hold"
        room.release("one")
        assert not s.running
        assert room.slated
        await s.over()
        Encoder(s, identity="two").play(2, at=9.0).end(final=True)
        await s.over()
        assert [event.reason for event in s.told(RecordingStarted)] == ["room", "room"]
        assert [event.duration for event in s.told(RecordingEnded)][1] == 2_000_000
        assert room.on_air


async def test_both_the_room_and_its_publisher_and_by_hand(tmp_path: Path) -> None:
    async with stage(tmp_path) as s:
        s.recorder.wants_room = lambda project_id, room: True
        encoder = Encoder(s, record=True).play(1)
        s.recorder.start(s.order())
        with pytest.raises(Conflict) as refused:
            s.recorder.start(s.order("rec_2"))
        assert refused.value.code == "already-recording"
        s.recorder.start(s.order("rec_3", reason="clip"))
        s.recorder.start(s.order("rec_4", reason="clip"))
        assert sorted(s.running) == ["api", "clip", "clip", "ingress", "room"]
        encoder.play(1).end(final=True)
        await s.over()
        assert len(s.files()) == 5


async def test_what_was_stopped_by_hand_stays_stopped_while_its_publisher_goes_on(tmp_path: Path) -> None:
    async with stage(tmp_path) as s:
        encoder = Encoder(s, record=True).play(1)
        (ident,) = s.recorder.active
        await s.recorder.stop(ident)
        assert s.told(RecordingEnded)
        assert not s.recorder.begins(encoder.publication.grant)
        encoder.play(1).end()
        again = Encoder(s, record=True).play(1, at=3.0)
        assert not s.running
        again.end(final=True)
        Encoder(s, record=True).play(1, at=6.0)
        assert s.running == ["ingress"]
        with pytest.raises(NotFound):
            await s.recorder.stop("rec_none")


async def test_a_stop_of_what_is_ending_anyway_does_not_hold_for_the_next_publisher(tmp_path: Path) -> None:
    disk = FaultyDisk(tmp_path)
    async with stage(tmp_path, filesystem=disk) as s:
        encoder = Encoder(s, record=True).play(1)
        (ident,) = s.recorder.active
        disk.free.clear()
        encoder.end(final=True)
        stopping = asyncio.ensure_future(s.recorder.stop(ident))
        await asyncio.sleep(0)
        disk.free.set()
        await stopping
        Encoder(s, record=True).play(1, at=3.0)
        assert s.running == ["ingress"]


async def test_where_nobody_publishes_and_where_there_are_too_many(tmp_path: Path) -> None:
    async with stage(tmp_path, limits={"recordings": 1}) as s:
        with pytest.raises(NotFound) as refused:
            s.recorder.start(s.order())
        assert refused.value.code == "no-programme"
        Encoder(s, record=True).play(1)
        with pytest.raises(LimitExceeded):
            s.recorder.start(s.order())


@pytest.mark.parametrize(("before", "begins"), [(0.5, 9.0), (3.5, 6.0), (60.0, 3.0)])
async def test_a_clip_begins_before_its_start_with_a_key_frame(tmp_path: Path, before: float, begins: float) -> None:
    """A ring of six seconds, in a stream of ten with a GOP of one: asked for more than it has, it gives what it has."""
    async with stage(tmp_path, preroll=6.0) as s:
        s.zero = clock.now() - 10.0
        encoder = Encoder(s).play(10)
        s.recorder.start(s.order(reason="clip"), preroll=before)
        encoder.play(1)
        await s.recorder.stop("rec_1")
        (file,) = s.files()
        assert file.parts[0].independent
        wall = clock.wallclock() - clock.now()
        assert file.started_at == pytest.approx(wall + s.zero + begins, abs=1.01 if before < 60 else 0.05)
        assert file.started_at <= wall + s.zero + max(3.0, 10.0 - before) + 0.05
        assert file.duration == pytest.approx((11.0 + s.zero + wall - file.started_at) * 1e6, abs=1000)


async def test_the_end_of_the_node_ends_them_all(tmp_path: Path) -> None:
    async with stage(tmp_path) as s:
        Encoder(s, record=True).play(2)
        s.recorder.start(s.order())
        heard: list[int] = []
        live = [0]
        s.recorder.on_parts("rec_1", lambda: (heard.append(1), live.append(len(getattr(s.recorder.live("rec_1"), "parts", ()))))[0])
    assert len(s.told(RecordingEnded)) == 2
    assert heard
    assert max(live) >= 1
    assert [f.cut for f in s.files()] == [0, 0]
    assert not s.recorder.active


class Telephone:
    """An encoder of pictures and G.711. All of a `play` comes at once: its sound is still being made when the call returns."""

    SOUND = Track(1, Codec.PCM_ALAW, 8000, sample_rate=8000, channels=1)

    def __init__(self, stage: Stage) -> None:
        self.room, self.publication = stage.registry.publish(RECORDED, "test", "127.0.0.1", lambda error: None)
        self.publication.set_tracks((VIDEO, self.SOUND))
        self.sent = 0

    def play(self, seconds: int) -> Telephone:
        for n in range(self.sent, self.sent + seconds * 30):
            at = clock.now()
            self.publication.write(Packet(VIDEO, SLICE if n else IDR, n * 3000, n * 3000, n == 0, at))
            self.publication.write(Packet(self.SOUND, bytes(266), n * 266, n * 266, True, at))
        self.sent += seconds * 30
        return self


def ends(path: Path) -> dict[str, float]:
    """When the last of each track ends, seconds."""
    with av.open(str(path)) as container:
        return {p.stream.type: float((p.dts + p.duration) * p.time_base) for p in container.demux() if p.dts is not None and p.duration}


@pytest.mark.parametrize("how", ["ended", "lost", "stopped"])
async def test_sound_of_telephones_is_made_aac_to_its_end(tmp_path: Path, how: str) -> None:
    """G.711 by the shared rendition, whose thread is at it as the publisher goes, is lost or is recorded no more. The picture is copied."""
    async with stage(tmp_path) as s:
        telephone = Telephone(s).play(3)
        (ident,) = s.recorder.active
        if how == "ended":
            telephone.room.end(telephone.publication, "closed", final=True)
        else:
            if how == "lost":
                telephone.room.end(telephone.publication, "closed")
            stopping = asyncio.ensure_future(s.recorder.stop(ident))
            await asyncio.sleep(0)
            telephone.play(1)  # too late
            await stopping
        assert not s.running
        await s.over()
        (file,) = s.files()
        assert [codec for _, codec, *_ in file.tracks] == ["h264", "aac"]
        assert file.duration == 3_000_000
        (path,) = tmp_path.rglob("*.mp4")
        assert ends(path)["audio"] == pytest.approx(3.0, abs=0.1)
        assert s.renditions.all[0].users == 0


async def test_sound_of_telephones_that_joins_later(tmp_path: Path) -> None:
    """Told twice within a turn of the loop: at no time is it taken for sound that cannot be recorded."""
    async with stage(tmp_path) as s:
        encoder = Encoder(s, record=True)
        encoder.publication.set_tracks((VIDEO,))
        encoder.play(1)
        for _ in range(2):
            encoder.publication.set_tracks((VIDEO, Telephone.SOUND))
        await asyncio.sleep(0)
        for n in range(30, 90):
            encoder.publication.write(Packet(VIDEO, SLICE if n % 30 else IDR, n * 3000, n * 3000, n == 30, clock.now()))
            encoder.publication.write(Packet(Telephone.SOUND, bytes(266), n * 266, n * 266, True, clock.now()))
        encoder.end(final=True)
        await s.over()
        assert not s.told(RecordingTrouble)
        assert [[codec for _, codec, *_ in file.tracks] for file in s.files()] == [["h264"], ["h264", "aac"]]


async def test_sound_that_is_not_made_in_time_holds_nobody_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    go = threading.Event()
    monkeypatch.setattr(service, "TAIL", 0.05)
    monkeypatch.setattr(rendition, "READY_SECONDS", 0.0)
    monkeypatch.setattr(derive.AudioStage, "push", lambda stage, packet, last: [] * go.wait(20))
    async with stage(tmp_path) as s:
        telephone = Telephone(s).play(1)
        (first,) = s.recorder.active.values()
        await asyncio.sleep(0.01)
        telephone.room.end(telephone.publication, "closed", final=True)
        Encoder(s, record=True).play(1)
        assert s.running == ["ingress"], "the next one is recorded already"
        assert not first.ended.done()
        await first.ended
        assert "the end of the sound is not recorded" in caplog.text
        (ended,) = s.told(RecordingEnded)
        assert ended.duration == 1_000_000
        go.set()


async def test_a_disk_that_does_not_answer_keeps_nobody_waiting_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "PATIENCE", 0.01)
    disk = FaultyDisk(tmp_path)
    async with stage(tmp_path, filesystem=disk, limits={"shutdown_grace": 0.05}) as s:
        disk.free.clear()
        Encoder(s, record=True).play(2)
        (ident,) = s.recorder.active
        with pytest.raises(StorageError):
            await s.recorder.stop(ident)
        disk.free.set()
        await s.over()
        assert len(s.files()) == 1


async def test_the_end_of_the_node_waits_once_for_a_disk_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []

    async def close(writer: writing.Writer, timeout: float) -> bool:
        waited.append(timeout)
        return False

    disk = FaultyDisk(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(writing.Writer, "close", close)
        async with stage(tmp_path, filesystem=disk, limits={"shutdown_grace": 0.2}) as s:
            disk.free.clear()
            Encoder(s, record=True).play(2)
            (writer,) = s.recorder._writers.values()
    assert waited == [service.LEAST], "its recordings were waited for already"
    disk.free.set()
    assert await writer.close(5)


async def test_a_source_on_demand_stays_open_for_what_somebody_ordered(tmp_path: Path) -> None:
    async with stage(tmp_path) as s:
        s.recorder.wants_room = lambda project_id, room: True
        Encoder(s, record=True).play(2)
        assert sorted(s.running) == ["ingress", "room"]
        assert not s.registry.demand.wanted("p", "live-a"), "what is recorded whenever it is on air does not keep it there"
        s.recorder.start(s.order(reason="api"))
        assert s.registry.demand.wanted("p", "live-a")
        await s.recorder.stop("rec_1")
        assert not s.registry.demand.wanted("p", "live-a")
