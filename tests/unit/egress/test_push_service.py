from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from samples import AUDIO, grant

from medianode import clock
from medianode.config import Limits
from medianode.egress.push import service as module
from medianode.egress.push.report import Report
from medianode.egress.push.service import PushService
from medianode.errors import StorageError
from medianode.events import Bus, TargetChanged, TargetStateChanged
from medianode.media.packet import Packet
from medianode.routing.publication import Publication
from medianode.routing.registry import Registry
from medianode.routing.room import Room
from medianode.store.targets import PushTarget
from medianode.tasks import background

GRANT = grant(hold=0.0)
ONE = PushTarget(
    id="one", project_id=GRANT.project_id, room=GRANT.room, url="rtmp://a.test/x", stream_key="k", created_at=0.0, updated_at=0.0
)


class Stage:
    """The service over a table that the test holds, and a target that is happy with all it gets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *targets: PushTarget, limits: Limits | None = None) -> None:
        self.rows = list(targets)
        self.away = False
        self.bus = Bus()
        self.told: list[tuple[str, str]] = []
        self.bus.subscribe(TargetStateChanged, lambda event: self.told.append((event.target_id, event.state)))
        self.registry = Registry(self.bus, Limits())
        self.connected: list[str] = []
        self.service = PushService(self, self.bus, self.registry, limits or Limits(), {"rtmp": self})  # type: ignore[arg-type]
        self.goodbye = 0.0

        async def of_room(tx: Any, project_id: str, room: str) -> list[PushTarget]:
            return [row for row in self.rows if (row.project_id, row.room) == (project_id, room)]

        monkeypatch.setattr(module.table, "of_room", of_room)

    @asynccontextmanager
    async def read(self) -> AsyncIterator[None]:
        if self.away:
            raise StorageError("away")
        yield

    async def run(self, url: str, key: str | None, room: Room, report: Report) -> None:
        self.connected.append(url)
        report.broadcasting()
        while room.on_air:
            await asyncio.sleep(0)
        await asyncio.sleep(self.goodbye)

    def publish(self) -> tuple[Room, Publication]:
        room, publication = self.registry.publish(GRANT, "test", "127.0.0.1", lambda error: None)
        publication.set_tracks((AUDIO,))
        publication.write(Packet(AUDIO, b"", 0, 0, True, clock.now()))
        return room, publication

    async def settled(self) -> None:
        for _ in range(200):
            await asyncio.sleep(0)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY", 0.0)


async def test_enabled_targets_live_as_long_as_their_room_is_on_air(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch, ONE, replace(ONE, id="off", enabled=False), replace(ONE, id="elsewhere", room="live-b"))
    async with background(*stage.service.services()):
        room, publication = stage.publish()
        await stage.settled()
        running = stage.service.find("one")
        assert running is not None
        assert running.state == "broadcasting"
        assert stage.service.find("off") is stage.service.find("elsewhere") is None
        room.end(publication, "done")
        await stage.settled()
        assert stage.service.find("one") is None
    assert stage.told == [("one", "starting"), ("one", "broadcasting"), ("one", "idle")]


async def test_a_room_that_is_back_while_the_old_session_says_goodbye(monkeypatch: pytest.MonkeyPatch) -> None:
    """A waiting player keeps the Room itself: it is the same object that goes off air and on again."""
    stage = Stage(monkeypatch, ONE)
    stage.goodbye = 60.0
    async with background(*stage.service.services()):
        room, publication = stage.publish()
        await stage.settled()
        room.end(publication, "done")
        monkeypatch.setitem(stage.registry._rooms, (GRANT.project_id, GRANT.room), room)
        again, publication = stage.publish()
        assert again is room
        await stage.settled()
        assert stage.told == [("one", state) for state in ("starting", "broadcasting", "idle", "starting", "broadcasting")]
        room.end(publication, "done")


async def test_one_that_ends_by_itself_while_another_is_put_out(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch, ONE, replace(ONE, id="two", stream_key="k2"))
    put_out = asyncio.Event()

    async def run(url: str, key: str | None, room: Room, report: Report) -> None:
        while room.on_air:
            await asyncio.sleep(0)
        if key == "k2":
            await put_out.wait()
            return
        try:
            await asyncio.sleep(60.0)
        finally:
            put_out.set()
            for _ in range(20):  # as a goodbye takes a few turns
                await asyncio.sleep(0)

    monkeypatch.setattr(stage, "run", run)
    async with background(*stage.service.services()):
        room, publication = stage.publish()
        await stage.settled()
        room.end(publication, "done")
        await stage.settled()
        monkeypatch.setitem(stage.registry._rooms, (GRANT.project_id, GRANT.room), room)
        _, publication = stage.publish()
        await stage.settled()
        assert stage.service.find("one") is not None
        assert stage.service.find("two") is not None
        room.end(publication, "done")


async def test_a_database_that_is_away_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch, ONE)
    stage.away = True
    async with background(*stage.service.services()):
        room, publication = stage.publish()
        await stage.settled()
        assert stage.connected == []
        stage.away = False
        await stage.settled()
        assert stage.connected == ["rtmp://a.test/x"]
        room.end(publication, "done")


async def test_what_changed_is_followed_and_the_old_connection_s_end_is_told_first(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch, ONE)
    changed = TargetChanged("one", GRANT.project_id, GRANT.room)
    async with background(*stage.service.services()):
        room, publication = stage.publish()
        await stage.settled()
        first = stage.service.find("one")
        stage.rows = [replace(ONE, metadata={"a": "b"})]
        stage.bus.publish(changed)
        await stage.settled()
        assert stage.service.find("one") is first, "other labels need no other connection"
        stage.rows = [replace(ONE, url="rtmp://b.test/x")]
        stage.bus.publish(changed)
        await stage.settled()
        assert stage.connected == ["rtmp://a.test/x", "rtmp://b.test/x"]
        assert [state for _, state in stage.told] == ["starting", "broadcasting", "idle", "starting", "broadcasting"]
        stage.rows = []
        stage.bus.publish(changed)
        await stage.settled()
        assert stage.service.find("one") is None
        room.end(publication, "done")


async def test_more_than_a_lowered_limit_allows_stay_idle(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    stage = Stage(monkeypatch, *(replace(ONE, id=f"t{i}") for i in range(4)), limits=Limits(push_targets=1))
    async with background(*stage.service.services()):
        room, publication = stage.publish()
        await stage.settled()
        assert len(stage.connected) == 2, "twice the limit: there may be goodbyes"
        assert "stays idle" in caplog.text
        room.end(publication, "done")


async def test_whip_where_webrtc_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch, replace(ONE, url="https://a.test/whip"))
    async with background(*stage.service.services()):
        room, publication = stage.publish()
        await stage.settled()
        running = stage.service.find("one")
        assert running is not None
        assert (running.state, running.code) == ("failed", "not-enabled")
        room.end(publication, "done")
        await stage.settled()
