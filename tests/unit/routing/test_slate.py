"""A slate's stamps and pace, who waits for a room on demand, and which publication is well."""

from __future__ import annotations

import asyncio

import pytest
from harness.sinks import Sink
from samples import AUDIO, VIDEO, grant

from medianode import clock
from medianode.auth import Takeover
from medianode.config import Limits
from medianode.events import Bus, RoomLive
from medianode.media.gop import GopCache
from medianode.media.packet import Packet
from medianode.media.track import Track
from medianode.routing.demand import Demand
from medianode.routing.fallback import Fallback, Loop, Strand
from medianode.routing.programme import Watch, pick_programme
from medianode.routing.publication import Publication
from medianode.routing.registry import Registry
from medianode.routing.room import Room
from medianode.routing.slate import Slate, delays_of

LOOP = Loop(
    (
        Strand(VIDEO, tuple(Packet(VIDEO, b"v", n * 3000, n * 3000, n == 0, 0.0) for n in range(60)), 180_000),
        Strand(AUDIO, (Packet(AUDIO, b"a", 0, 0, True, 0.0),), 1024),
    ),
    61,
)


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    at = [1000.0]
    monkeypatch.setattr(clock, "now", lambda: at[0])
    return at


def playing(**options: tuple[int, int]) -> tuple[Slate, Sink]:
    slate, sink = Slate(LOOP, "live", "p", "live-a", GopCache(100, 10_000), **options), Sink()
    slate.open()
    slate.publication.attach(sink)
    return slate, sink


def test_it_goes_on_at_its_own_pace_over_its_end(now: list[float]) -> None:
    slate, sink = playing()
    assert [packet.keyframe for packet in sink.packets if packet.track is VIDEO] == [True], "it begins at once, for who joins too"
    for step in range(1, 101):
        now[0] = 1000.0 + step * 0.05
        slate.advance(now[0])
    pictures = [packet.dts for packet in sink.packets if packet.track is VIDEO]
    sound = [packet.dts for packet in sink.packets if packet.track is AUDIO]
    assert pictures == [n * 3000 for n in range(151)]
    assert sound == [n * 1024 for n in range(len(sound))]
    assert abs(sound[-1] / 48_000 - pictures[-1] / 90_000) < 0.05
    assert [n for n, packet in enumerate(p for p in sink.packets if p.track is VIDEO) if packet.keyframe] == [0, 60, 120]
    assert slate.publication.active


def test_a_node_that_slept_does_not_make_up_for_it(now: list[float]) -> None:
    slate, sink = playing()
    now[0] += 60.0
    slate.advance(now[0])
    assert len(sink.packets) < 5
    now[0] += 0.1
    slate.advance(now[0])
    pictures = [packet.dts for packet in sink.packets if packet.track is VIDEO]
    assert pictures == [n * 3000 for n in range(len(pictures))]


def test_behind_b_frames_its_pictures_are_shown_after_the_last_and_before_the_next(now: list[float]) -> None:
    gop = GopCache(100, 10_000)
    gop.start(VIDEO.id)
    for pts, dts, key in ((6000, 0, True), (18000, 3000, False), (12000, 6000, False), (9000, 9000, False)):
        gop.push(Packet(VIDEO, b"x", pts, dts, key, 0.0))
    assert delays_of(gop) == (6000, 15_000)
    assert delays_of(GopCache(100, 1000)) == (0, 0)
    slate, sink = playing(delays=delays_of(gop))
    now[0] += 0.9
    slate.advance(now[0])
    shown = [packet.pts for packet in sink.packets if packet.track is VIDEO]
    assert shown[0] == 15_000
    assert shown == sorted(set(shown))
    assert [packet.pts - packet.dts for packet in sink.packets if packet.track is VIDEO][-1] == 6000


async def test_a_slate_that_was_not_to_be_had_is_asked_for_again_and_one_is_shown_for_who_took_over_and_sends_nothing(
    now: list[float],
) -> None:
    class Failing:
        def __init__(self) -> None:
            self.loop: Loop | None = None

        def find(self, project_id: str, room: str, slate: str, like: tuple[Track, ...], ready: object) -> Loop | None:
            return self.loop

    registry = Registry(Bus(), Limits())
    registry.slates.of = lambda project, room: Fallback(slate="s/1")
    loops = registry.slates.loops = Failing()
    leave = grant(identity="cam", hold=60.0, takeover=Takeover.REPLACE)

    def publish() -> tuple[Room, Publication]:
        room, publication = registry.publish(leave, "rtmp", "", lambda error: None)
        publication.set_tracks((VIDEO,))
        return room, publication

    room, first = publish()
    first.write(Packet(VIDEO, b"x", 0, 0, True, now[0]))
    room.end(first, "connection-reset")
    assert not room.slated
    loops.loop = LOOP
    registry.look(now[0])
    assert room.slated
    _, second = publish()
    second.write(Packet(VIDEO, b"x", 0, 0, True, now[0]))
    assert room.programme is second
    _, third = publish()  # takes over, and has no picture yet
    assert room.programme is None
    registry.look(now[0])
    assert room.slated
    third.write(Packet(VIDEO, b"x", 0, 0, True, now[0]))
    assert room.programme is third
    room.end(third, "deleted", final=True)


async def test_who_waits_is_let_in_when_the_room_is_on_air_and_nobody_waits_for_nothing() -> None:
    bus = Bus()
    demand = Demand(bus, 60.0)
    await demand.ask("p", "room")  # nothing opens it
    opened: list[str] = []
    demand.open = lambda project, room: opened.append(room) is None
    asking = [asyncio.ensure_future(demand.ask("p", "room")) for _ in range(3)]
    await asyncio.sleep(0)
    assert (len(demand), demand.wanted("p", "room"), demand.wanted("p", "other")) == (3, True, False)
    asking[0].cancel()
    await asyncio.sleep(0)
    bus.publish(RoomLive("p", "room"))
    await asyncio.gather(*asking[1:])
    assert (len(demand), demand.wanted("p", "room"), len(opened)) == (0, False, 3)
    given_up = asyncio.ensure_future(demand.ask("p", "room"))
    await asyncio.sleep(0)
    demand.gave_up("p", "room")
    await given_up
    demand = Demand(bus, 0.001)
    demand.open = lambda project, room: True
    await demand.ask("p", "room")
    with demand.keep("p", "room"), demand.keep("p", "room"):
        assert demand.wanted("p", "room")
    assert not demand.wanted("p", "room")


def test_the_backup_is_shown_while_no_other_is_well_and_gives_way_at_a_key_frame(now: list[float]) -> None:
    returned: list[float] = []
    watch = Watch(Fallback(backup="IN_b", frozen=2.0, patience=3.0), lambda: returned.append(now[0]))
    first, backup = (Publication(grant(ingress_id=f"IN_{n}"), "rtmp", "", lambda error: None, GopCache(100, 1000)) for n in "ab")
    both = (first, backup)

    def write(*publications: Publication, key: bool = True) -> None:
        for publication in publications:
            publication.write(Packet(VIDEO, b"x", 0, 0, key, now[0]))

    for publication in both:
        publication.set_tracks((VIDEO,))
    write(backup)
    assert pick_programme(both, None, watch) is backup
    write(first)
    assert pick_programme(both, backup, watch) is first
    now[0] += 2.5
    write(backup)
    assert watch.look(both, now[0])
    assert pick_programme(both, first, watch) is backup
    for _ in range(6):  # it is back: three seconds it has to be well
        now[0] += 1.0
        write(first, key=False)
        assert not watch.look(both, now[0])
        assert pick_programme(both, backup, watch) is backup
    assert not returned
    write(first)
    assert returned == [now[0]]
    assert pick_programme(both, backup, watch) is first
    assert pick_programme(both, None, None) in both
