"""Rooms and queues in the corners: flaky returns, shared identities, deletion while a grant is on its way, readers with bugs."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from samples import AUDIO, VIDEO, grant

from medianode import tasks
from medianode.auth import PublishGrant
from medianode.config import Limits
from medianode.errors import MedianodeError, Unauthorized
from medianode.events import Bus, Event
from medianode.media.packet import Gap, Packet
from medianode.media.queue import Bounds, PacketQueue, Policy
from medianode.media.track import Track
from medianode.routing import publication as publication_module
from medianode.routing.publication import Publication
from medianode.routing.registry import Registry

GRANT = grant()


class Player:
    def __init__(self, broken: str = "") -> None:
        self.seen: list[Any] = []
        self.broken = broken

    def _see(self, what: str, shown: Any) -> None:
        if what == self.broken:
            raise ValueError(what)
        self.seen.append(shown)

    def on_tracks(self, tracks: tuple[Track, ...]) -> None:
        self._see("tracks", len(tracks))

    def on_packet(self, packet: Packet) -> None:
        self._see("packet", packet.dts)

    def on_gap(self, gap: Gap) -> None:
        self._see("gap", gap.cause)

    def on_end(self, cause: str) -> None:
        self._see("end", cause)


@pytest.fixture
def facts() -> list[tuple[str, str]]:
    return []


@pytest.fixture
def registry(facts: list[tuple[str, str]]) -> Registry:
    bus = Bus()
    bus.subscribe(Event, lambda event: facts.append((type(event).__name__, getattr(event, "ingress_id", ""))))
    return Registry(bus, Limits(rooms=2, publications=2))


def publish(registry: Registry, grant: PublishGrant = GRANT) -> Publication:
    kicked: list[MedianodeError] = []
    return registry.publish(grant, "rtmp", "192.0.2.1", kicked.append)[1]


def on_air(publication: Publication) -> None:
    publication.set_tracks((VIDEO,))
    publication.write(Packet(VIDEO, b"v", 1, 1, True, 1.0))


async def test_a_publisher_that_returns_and_fails_before_its_first_key_frame_is_waited_for_again(registry: Registry) -> None:
    first = publish(registry)
    on_air(first)
    room = registry.on_air("p", "live-a")
    player = Player()
    room.attach(player)
    room.end(first, "connection-reset", failed=True)
    flaky = publish(registry)
    room.end(flaky, "connection-reset", failed=True)
    assert room.held
    third = publish(registry)
    on_air(third)
    assert player.seen == [1, 1, "publisher-gap", 1, 1]
    room.end(publish(registry), "connection-reset", failed=True)
    assert room.held, "the same after a takeover"
    room.release("obs")
    assert not room.on_air


async def test_two_ingresses_with_one_identity_both_learn_their_end(registry: Registry, facts: list[tuple[str, str]]) -> None:
    on_air(publish(registry))
    second = publish(registry, replace(GRANT, ingress_id="IN_2"))
    assert ("PublicationLost", "IN_1") in facts
    assert ("PublicationEnded", "IN_1") in facts
    on_air(second)
    room = registry.on_air("p", "live-a")
    room.end(second, "unpublished")
    room.release("obs", "IN_1")
    assert room.held, "the hold is the other's"
    publish(registry)
    assert ("PublicationEnded", "IN_2") in facts


async def test_the_first_key_frame_of_one_that_was_put_out_is_no_news(registry: Registry, facts: list[tuple[str, str]]) -> None:
    old = publish(registry)
    publish(registry)
    on_air(old)
    assert ("PublicationActive", "IN_1") not in facts
    room = registry.find("p", "live-a")
    assert room is not None
    assert not room.on_air


async def test_a_grant_given_while_its_ingress_was_deleted_opens_nothing(registry: Registry) -> None:
    registry.retire_ingress("IN_1")
    with pytest.raises(Unauthorized):
        publish(registry)


async def test_a_full_node_still_lets_an_encoder_replace_itself(registry: Registry) -> None:
    publish(registry, replace(GRANT, identity="other"))
    first = publish(registry)
    second = publish(registry)
    assert first.ended
    assert not second.ended


@pytest.mark.parametrize("broken", ["gap", "end"])
async def test_a_reader_with_a_bug_harms_neither_the_room_nor_its_neighbours(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    bugs: list[BaseException] = []
    for module in (tasks, publication_module):
        monkeypatch.setattr(module, "report_bug", lambda place, error: bugs.append(error))
    publication = publish(registry)
    on_air(publication)
    room = registry.on_air("p", "live-a")
    good = Player()
    room.attach(Player(broken))
    room.attach(good)
    room.end(publication, "unpublished", final=True)
    assert good.seen[-2:] == ["publisher-gap", "stream-ended"]
    assert [str(e) for e in bugs] == [broken]
    assert registry.find("p", "live-a") is None
    await asyncio.sleep(0)


def test_sound_alone_that_overflows_a_queue_does_not_let_the_picture_in_without_a_key_frame() -> None:
    queue = PacketQueue(Policy.LIVE, Bounds(4, 1 << 20, 60.0), has_video=True)
    queue.push(Packet(VIDEO, b"v", 0, 0, True, 0.0))
    assert queue.pop() is not None
    for i in range(6):
        queue.push(Packet(AUDIO, b"a", i, i, True, float(i)))
    queue.push(Packet(VIDEO, b"v", 9, 9, False, 9.0))
    queue.push(Packet(VIDEO, b"v", 10, 10, True, 10.0))
    items = []
    while (item := queue.pop()) is not None:
        items.append(item)
    assert isinstance(items[0], Gap)
    assert [i.keyframe for i in items if isinstance(i, Packet) and i.track is VIDEO] == [True]
