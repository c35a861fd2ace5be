"""Rooms: hold, takeover, programme, late joiners, readers with bugs."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from samples import AUDIO, VIDEO, grant

from medianode import tasks
from medianode.auth import PublishGrant, Takeover
from medianode.config import Limits
from medianode.errors import Conflict, LimitExceeded, MedianodeError, NotFound, PeerGone
from medianode.events import Bus, Event
from medianode.media.packet import Gap, Packet
from medianode.media.queue import Bounds, Policy
from medianode.media.track import Track
from medianode.routing import room as room_module
from medianode.routing.publication import Publication
from medianode.routing.registry import Registry
from medianode.routing.subscription import Subscription

GRANT = grant(project_id="prj_1", hold=0.05)


class Recorder:
    def __init__(self) -> None:
        self.seen: list[Any] = []

    def on_tracks(self, tracks: tuple[Track, ...]) -> None:
        self.seen.append(tuple(t.codec.value for t in tracks))

    def on_packet(self, packet: Packet) -> None:
        self.seen.append(packet.dts)

    def on_gap(self, gap: Gap) -> None:
        self.seen.append(gap.cause)

    def on_end(self, cause: str) -> None:
        self.seen.append(f"end:{cause}")


@pytest.fixture
def facts() -> list[str]:
    return []


@pytest.fixture
def registry(facts: list[str]) -> Registry:
    bus = Bus()
    bus.subscribe(Event, lambda event: facts.append(type(event).__name__))
    return Registry(bus, Limits(rooms=2, publications=3))


def no_kick(error: MedianodeError) -> None:
    raise AssertionError(error)


def publish(registry: Registry, grant: PublishGrant = GRANT, kick: Callable[[MedianodeError], None] = no_kick) -> Publication:
    return registry.publish(grant, "rtmp", "127.0.0.1", kick)[1]


def video(dts: int, *, key: bool = False, track: Track = VIDEO) -> Packet:
    return Packet(track, b"v", dts, dts, key, dts / 90_000)


async def test_a_player_attached_before_the_stream_sees_it_from_the_key_frame_on(registry: Registry, facts: list[str]) -> None:
    publication = publish(registry)
    player = Recorder()
    registry.find("prj_1", "live-a").attach(player)
    publication.set_tracks((VIDEO, AUDIO))
    publication.write(Packet(AUDIO, b"a", 0, 0, True, 0.0))
    assert player.seen == [], "audio alone does not open a programme that has video"
    publication.write(video(1, key=True))
    publication.write(video(2))
    assert player.seen == [("h264", "aac"), 1, 2]
    assert facts == ["PublicationOpened", "PublicationActive", "RoomLive"]


async def test_late_joiners_get_the_cached_gop(registry: Registry) -> None:
    publication = publish(registry)
    publication.set_tracks((VIDEO,))
    for dts, key in ((1, True), (2, False), (3, True), (4, False)):
        publication.write(video(dts, key=key))
    player = Recorder()
    registry.on_air("prj_1", "live-a").attach(player)
    publication.write(video(5))
    assert player.seen == [("h264",), 3, 4, 5]


async def test_a_publisher_that_returns_within_the_hold_keeps_its_players(registry: Registry, facts: list[str]) -> None:
    grant = replace(GRANT, hold=60.0)
    first = publish(registry, grant)
    first.set_tracks((VIDEO,))
    first.write(video(1, key=True))
    room = registry.on_air("prj_1", "live-a")
    player = Recorder()
    room.attach(player)
    room.end(first, "unpublished")
    assert room.on_air
    assert room.held
    second = publish(registry, grant)
    second.set_tracks((VIDEO,))
    second.write(video(100, key=True))
    assert player.seen == [("h264",), 1, "publisher-gap", ("h264",), 100]
    assert facts == ["PublicationOpened", "PublicationActive", "RoomLive", "PublicationLost", "PublicationOpened", "PublicationActive"]
    room.end(second, "ingress-deleted", final=True)
    assert player.seen[-2:] == ["publisher-gap", "end:stream-ended"]


async def test_the_room_ends_when_nobody_returns(registry: Registry, facts: list[str]) -> None:
    publication = publish(registry)
    publication.set_tracks((VIDEO,))
    publication.write(video(1, key=True))
    room = registry.on_air("prj_1", "live-a")
    player = Recorder()
    room.attach(player)
    room.end(publication, "publisher-silent", failed=True)
    room.end(publication, "twice", failed=True)
    await asyncio.sleep(0.1)
    assert player.seen[-2:] == ["publisher-gap", "end:stream-ended"]
    assert facts[-3:] == ["PublicationLost", "PublicationEnded", "RoomEnded"]
    assert registry.find("prj_1", "live-a") is None
    with pytest.raises(NotFound, match="nobody publishes"):
        registry.on_air("prj_1", "live-a")


async def test_replace_puts_the_old_encoder_out_and_players_stay(registry: Registry) -> None:
    kicked: list[MedianodeError] = []
    old = publish(registry, kick=kicked.append)
    old.set_tracks((VIDEO,))
    old.write(video(1, key=True))
    player = Recorder()
    registry.on_air("prj_1", "live-a").attach(player)
    new = publish(registry)
    assert kicked[0].code == "takeover"
    registry.find("prj_1", "live-a").end(old, "takeover")
    new.set_tracks((VIDEO,))
    new.write(video(50, key=True))
    assert player.seen == [("h264",), 1, "takeover", ("h264",), 50]
    old.write(video(2))
    assert player.seen[-1] == 50, "the old encoder's last words reach nobody"


async def test_reject_refuses_a_live_one_and_yields_a_silent_one(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    grant = replace(GRANT, takeover=Takeover.REJECT)
    kicked: list[MedianodeError] = []
    publish(registry, grant, kicked.append)
    with pytest.raises(Conflict, match="publishes here already"):
        publish(registry, grant)
    monkeypatch.setattr(room_module, "TAKEOVER_SILENCE", -1.0)
    publish(registry, grant)
    assert isinstance(kicked[0], PeerGone)


async def test_the_programme_stays_until_it_ends_then_moves_to_another(registry: Registry) -> None:
    first = publish(registry)
    first.set_tracks((VIDEO,))
    first.write(video(1, key=True))
    other = publish(registry, replace(GRANT, identity="cam", ingress_id="IN_2"))
    other.set_tracks((VIDEO,))
    other.write(video(2, key=True))
    room = registry.on_air("prj_1", "live-a")
    assert room.programme is first
    player = Recorder()
    room.attach(player)
    room.end(first, "unpublished")
    assert room.programme is other
    assert player.seen == [("h264",), 1, "takeover", ("h264",), 2]


async def test_changed_tracks_reach_readers_behind_a_gap(registry: Registry) -> None:
    publication = publish(registry)
    publication.set_tracks((VIDEO,))
    publication.write(video(1, key=True))
    player = Recorder()
    registry.on_air("prj_1", "live-a").attach(player)
    larger = replace(VIDEO, config=b"two")
    publication.set_tracks((larger, AUDIO))
    publication.write(video(2, key=True, track=larger))
    assert player.seen == [("h264",), 1, "track-changed", ("h264", "aac"), 2]


async def test_a_reader_with_a_bug_is_let_go_and_nobody_else_notices(registry: Registry, caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Recorder):
        def on_packet(self, packet: Packet) -> None:
            raise ZeroDivisionError

    publication = publish(registry)
    publication.set_tracks((VIDEO,))
    publication.write(video(1, key=True))
    room = registry.on_air("prj_1", "live-a")
    good = Recorder()
    room.attach(Broken(), replay=False)
    room.attach(good, replay=False)
    before = tasks.BUGS.labels("sink").value
    publication.write(video(2))
    publication.write(video(3))
    assert good.seen == [("h264",), 2, 3]
    assert tasks.BUGS.labels("sink").value == before + 1
    assert "ZeroDivisionError" in caplog.text


async def test_bounds(registry: Registry) -> None:
    publish(registry)
    publish(registry, replace(GRANT, room="live-b"))
    with pytest.raises(LimitExceeded, match="2 rooms"):
        publish(registry, replace(GRANT, room="live-c"))
    publish(registry, replace(GRANT, room="live-b", identity="two"))
    with pytest.raises(LimitExceeded, match="3 publications"):
        publish(registry, replace(GRANT, room="live-b", identity="three"))
    room = registry.find("prj_1", "live-a")
    room.count_viewer("mjpeg", 1, 1)
    with pytest.raises(LimitExceeded, match="viewers"):
        room.count_viewer("hls", 1, 1)


async def test_kick_ingress_ends_at_once_without_a_hold(registry: Registry) -> None:
    kicked: list[MedianodeError] = []
    publication = publish(registry, replace(GRANT, hold=60.0), kicked.append)
    publication.set_tracks((VIDEO,))
    publication.write(video(1, key=True))
    assert registry.kick_ingress("IN_1", PeerGone("gone", code="ingress-deleted"))
    assert kicked[0].code == "ingress-deleted"
    assert registry.find("prj_1", "live-a") is None
    assert not registry.kick_ingress("IN_1", PeerGone("gone"))


async def test_key_frame_requests_are_coalesced(registry: Registry) -> None:
    publication = publish(registry)
    asked: list[int] = []
    publication.on_keyframe_wanted = lambda: asked.append(1)
    for _ in range(5):
        publication.request_keyframe()
    assert asked == [1]


async def test_a_subscription_yields_packets_gaps_and_ends(registry: Registry) -> None:
    publication = publish(registry)
    publication.set_tracks((VIDEO,))
    publication.write(video(1, key=True))
    room = registry.on_air("prj_1", "live-a")
    async with Subscription(room, Policy.LIVE, Bounds(3, 1000, 100.0)) as subscription:
        for dts in range(2, 8):
            publication.write(video(dts, key=dts == 5))
        room.end(publication, "unpublished", final=True)
        got = [item.cause if isinstance(item, Gap) else item.dts async for item in subscription]
    assert got[-1] == "publisher-gap"
    assert subscription.dropped >= 3
