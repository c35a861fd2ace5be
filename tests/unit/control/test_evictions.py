"""Evictions: who is put out by what, and who stays."""

from __future__ import annotations

from typing import Any

import pytest
from samples import VIDEO, grant

from medianode.auth import Door, ReadGrant
from medianode.config import Limits
from medianode.control.evictions import Evictions
from medianode.control.live_streams import LiveStreams, Policy
from medianode.control.tokens import mint
from medianode.errors import StorageError
from medianode.events import ViewingChanged
from medianode.media.packet import Packet
from medianode.routing.registry import Registry


class Stage:
    """A registry, and viewers whose codes of ending are noted by name."""

    def __init__(self, house: Any) -> None:
        self.registry = Registry(house.bus, Limits())
        self.evictions = Evictions(house.bus, self.registry, house.gate.still)
        self.out: dict[str, str] = {}

    def watch(self, name: str, leave: ReadGrant) -> None:
        if self.registry.find(leave.project_id, leave.room) is None:
            wanted = grant(project_id=leave.project_id, slug=leave.slug, room=leave.room, ingress_id=None)
            _, publication = self.registry.publish(wanted, "rtmp", "", lambda error: None)
            publication.set_tracks((VIDEO,))
            publication.write(Packet(VIDEO, b"x", 0, 0, True, 1.0))
        room = self.registry.on_air(leave.project_id, leave.room)
        self.registry.audience.enter(room, "whep", leave, lambda error: self.out.__setitem__(name, error.code))


@pytest.fixture
def stage(house: Any) -> Stage:
    return Stage(house)


async def test_a_project_that_is_closed_step_by_step(house: Any, stage: Stage, time: Any) -> None:
    shop = await house.projects.create("shop")
    await house.projects.create("other")
    made = await house.ingresses.create(shop, Door.RTMP, "hall")
    stage.watch("stranger", await house.gate.read("shop", "hall"))
    stage.watch("encoder", await house.gate.play("shop", made.stream_key))
    stage.watch("elsewhere", await house.gate.read("other", "hall"))
    await house.projects.change("shop", viewing="token")
    text, _ = mint(shop, at=time.wall, room="hall")
    stage.watch("token", await house.gate.read("shop", "hall", text))
    stage.watch("link", await house.gate.read("shop", "hall", (await house.links.create(shop, "hall")).token))
    stage.watch("key", await house.gate.read("shop", "hall", (await house.keys.create("k", ["view"])).secret))
    await stage.evictions.look()
    assert stage.out == {"stranger": "token-missing"}
    await house.projects.change("shop", viewing="signed")
    await stage.evictions.look()
    assert stage.out == {"stranger": "token-missing", "token": "link-needed"}
    await house.ingresses.reset_key(shop.id, made.id)
    assert stage.out.pop("encoder") == "key-revoked"
    await house.projects.delete("shop", "shop")
    assert (stage.out["link"], stage.out["key"], "elsewhere" in stage.out) == ("project-deleted", "project-deleted", False)


async def test_a_live_stream_that_loses_its_playback_id(house: Any, stage: Stage) -> None:
    shop = await house.projects.create("shop")
    streams = LiveStreams(house.db, house.bus, house.ingresses, playback_ids=5)
    made = await streams.create(shop, Policy())
    first = made.playback_ids[0]
    second = await streams.add_playback_id(shop.id, made.ingress.id, "public", {})
    stage.watch("first", await house.gate.read_playback(first.id))
    stage.watch("second", await house.gate.read_playback(second.id))
    stage.watch("room", await house.gate.read("shop", made.ingress.room))
    await streams.delete_playback_id(shop.id, made.ingress.id, first.id)
    await stage.evictions.look()
    assert stage.out == {"first": "viewing-changed"}
    await streams.delete_playback_id(shop.id, made.ingress.id, second.id)
    await stage.evictions.look()
    assert stage.out == {"first": "viewing-changed", "second": "viewing-changed", "room": "token-missing"}


async def test_nobody_goes_because_the_database_is_away(house: Any, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    shop = await house.projects.create("shop")
    stage.watch("stranger", await house.gate.read("shop", "hall"))

    def away() -> Any:
        raise StorageError("away")

    monkeypatch.setattr(house.db, "read", away)
    house.projects._cache.clear()
    house.bus.publish(ViewingChanged(shop.id))
    await stage.evictions.look()
    assert stage.out == {}
