"""What is told of sessions: every step, in order, in the transaction of the state; and what a crash or another node leaves to be told."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from medianode.auth import Door
from medianode.control.ledger import LOST
from medianode.control.lifecycle import IngressLives
from medianode.control.nodes import Nodes
from medianode.errors import ConfigError, Conflict, NotFound, StorageError
from medianode.events import (
    IngressChanged,
    IngressDisabled,
    PublicationActive,
    PublicationEnded,
    PublicationLost,
    PublicationOpened,
    RoomEnded,
    RoomLive,
)
from medianode.store import outbox, presences, schema
from medianode.store.nodes import all_nodes

TRACKS = (("video", "h264"), ("audio", "aac"))


class Stage:
    """One ingress, or a publisher without one, and the publication events of it."""

    def __init__(self, house: Any, project: Any, ingress: Any, node_id: str = "node-a") -> None:
        self.house, self.project, self.ingress = house, project, ingress
        self.lives = IngressLives(house.db, house.bus, node_id=node_id)
        house.ingresses.settle = self.lives.write
        self.who: tuple[Any, ...] = (project.id, ingress.room, ingress.participant_identity, ingress.id)
        self.cursor = 0

    def opened(self, door: str = "rtmp") -> None:
        self.house.bus.publish(PublicationOpened(*self.who, door=door))

    def active(self) -> None:
        self.house.bus.publish(PublicationActive(*self.who, tracks=TRACKS))

    def lost(self, cause: str = "eof", failure: bool = False) -> None:
        self.house.bus.publish(PublicationLost(*self.who, cause, "why", failure))

    def ended(self, cause: str = "eof") -> None:
        self.house.bus.publish(PublicationEnded(*self.who, cause))

    async def facts(self) -> list[Any]:
        """Written since the last call."""
        await self.lives.write()
        async with self.house.db.read() as tx:
            found = list(await outbox.after(tx, self.cursor, 1000))
        self.cursor = found[-1].cursor if found else self.cursor
        return found

    async def types(self) -> list[str]:
        return [fact.type for fact in await self.facts()]

    async def row(self) -> Any:
        return await self.house.ingresses.get(self.project.id, self.ingress.id)


@pytest.fixture
async def stage(house: Any, time: Any) -> Stage:
    project = await house.projects.create("shop")
    made = Stage(house, project, await house.ingresses.create(project, Door.RTMP, "a", "ada", "Ada"))
    assert (await made.types())[-1] == "ingress.created"
    return made


async def test_a_session_with_a_blip_fact_by_fact(stage: Stage, time: Any) -> None:
    stage.opened("rtmp")
    time.pass_by(2)
    stage.active()
    time.pass_by(10)
    stage.lost("silence")
    time.pass_by(3)
    stage.opened("rtmp")
    stage.active()
    time.pass_by(5)
    stage.lost()
    time.pass_by(15)
    stage.ended()
    found = await stage.facts()
    assert [f.type.removeprefix("ingress.") for f in found] == [
        *("connected", "active", "disconnected", "connected", "active", "disconnected", "idle")
    ]
    assert {f.stream for f in found} == {stage.ingress.id}
    about = {"ingressId": stage.ingress.id, "kind": "rtmp", "room": "shop-a", "identity": "ada", "name": "Ada", "live": False}
    assert all(f.data.items() >= about.items() and f.data["door"] == "rtmp" for f in found)
    assert [f.data.get("resumed") for f in found] == [False, False, None, True, True, None, None]
    assert (found[2].data["code"], found[2].data["message"]) == ("silence", "why")
    assert found[1].data["tracks"] == found[2].data["tracks"] == [{"kind": "video", "codec": "h264"}, {"kind": "audio", "codec": "aac"}]
    assert (found[6].data["duration"], found[6].data["code"]) == (18.0, "eof")  # without the window that nobody came back in
    assert [f.at for f in found] == sorted(f.at for f in found)


async def test_state_and_facts_are_one_transaction(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.opened()

    async def refuse(*_: Any) -> None:
        raise StorageError("full", code="storage-full")

    with monkeypatch.context() as m:
        m.setattr("medianode.control.ledger.announce", refuse)
        with pytest.raises(StorageError):
            await stage.lives.write()
    assert ((await stage.row()).state, (await stage.row()).node_id) == ("INACTIVE", None)
    assert await stage.types() == ["ingress.connected"]
    assert ((await stage.row()).state, (await stage.row()).node_id, (await stage.row()).door) == ("BUFFERING", "node-a", "rtmp")


async def test_a_commit_whose_answer_was_lost_is_not_written_twice(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.opened()
    stage.active()
    together = stage.lives._ledger._write_together

    async def cut(group: Any) -> None:
        await together(group)
        raise StorageError("the connection broke", code="storage-away")

    with monkeypatch.context() as m:
        m.setattr(stage.lives._ledger, "_write_together", cut)
        with pytest.raises(StorageError):
            await stage.lives.write()
    stage.lost()
    assert await stage.types() == ["ingress.connected", "ingress.active", "ingress.disconnected"]


async def test_beyond_the_bound_the_oldest_facts_are_lost_and_counted_but_no_state(
    house: Any, time: Any, caplog: pytest.LogCaptureFixture
) -> None:
    project = await house.projects.create("shop")
    first, second = [await house.ingresses.create(project, Door.RTMP, room, "ada") for room in "ab"]
    lives = IngressLives(house.db, house.bus, bound=3)
    lost = LOST.labels().value
    for ingress in (first, second):
        who = (project.id, ingress.room, "ada", ingress.id)
        house.bus.publish(PublicationOpened(*who))
        house.bus.publish(PublicationActive(*who))
    house.bus.publish(PublicationLost(*who, "eof"))
    assert LOST.labels().value - lost == 2
    assert "limits.unwritten_facts is 3" in caplog.text
    await lives.write()
    async with house.db.read() as tx:
        told = [(e.type, e.stream) for e in await outbox.after(tx, 0, 100) if e.type.startswith("ingress") and "created" not in e.type]
    assert told == [(f"ingress.{word}", second.id) for word in ("connected", "active", "disconnected")]
    assert (await house.ingresses.get(project.id, first.id)).state == "ACTIVE"


async def test_what_cannot_be_written_does_not_hold_up_the_rest(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stage.opened()
    stage.house.bus.publish(RoomLive(stage.project.id, "shop-bad"))
    stage.active()
    from medianode.control import ledger

    good = ledger.announce

    async def announce(tx: Any, fact: Any) -> None:
        if fact.data["room"] == "shop-bad":
            raise Conflict("refused")
        await good(tx, fact)

    monkeypatch.setattr("medianode.control.ledger.announce", announce)
    assert await stage.types() == ["ingress.connected", "ingress.active"]
    assert "1 facts are lost" in caplog.text


async def test_a_row_that_cannot_be_unsealed_holds_up_nobody(stage: Stage) -> None:
    other = await stage.house.ingresses.create(stage.project, Door.RTMP, "b", "bob")
    await stage.facts()
    async with stage.house.db.write() as tx:
        await tx.change(schema.ingresses.update().where(schema.ingresses.c.id == stage.ingress.id).values(stream_key=b"broken"))
    lost = LOST.labels().value
    stage.opened()
    stage.house.bus.publish(PublicationOpened(stage.project.id, other.room, "bob", other.id, door="rtmp"))
    assert [(fact.type, fact.data["ingressId"]) for fact in await stage.facts()] == [("ingress.connected", other.id)]
    assert LOST.labels().value == lost + 1


async def test_deleted_while_live_the_end_is_told_before_the_deletion(stage: Stage, time: Any) -> None:
    stage.opened()
    stage.active()
    time.pass_by(7)
    await stage.house.ingresses.delete(stage.project.id, stage.ingress.id)
    stage.lost("ingress-deleted")  # the daemon puts the encoder out
    stage.ended("ingress-deleted")
    found = await stage.facts()
    assert [f.type for f in found] == [f"ingress.{word}" for word in ("connected", "active", "disconnected", "idle", "deleted")]
    assert (found[2].data["code"], found[3].data["code"], found[3].data["duration"]) == ("ingress-deleted", "ingress-deleted", 7.0)


async def test_deleted_in_the_window_it_was_disconnected_already(stage: Stage, time: Any) -> None:
    stage.opened()
    stage.active()
    time.pass_by(7)
    stage.lost()
    time.pass_by(5)
    await stage.house.ingresses.delete(stage.project.id, stage.ingress.id)
    found = (await stage.facts())[2:]
    assert [f.type for f in found] == ["ingress.disconnected", "ingress.idle", "ingress.deleted"]
    assert (found[1].data["code"], found[1].data["duration"]) == ("ingress-deleted", 7.0)


async def test_deleted_by_another_process_nothing_comes_after_the_deletion(stage: Stage) -> None:
    stage.opened()
    stage.active()
    await stage.lives.write()
    stage.house.ingresses.settle = _nothing
    stage.lost()
    await stage.house.ingresses.delete(stage.project.id, stage.ingress.id)
    stage.ended()
    assert (await stage.types())[2:] == ["ingress.disconnected", "ingress.idle", "ingress.deleted"]


async def _nothing() -> None:
    pass


async def test_failed_with_and_without_an_encoder(stage: Stage) -> None:
    about = (stage.ingress.id, stage.project.id, "shop-a", "ada")
    stage.lives.failed(*about, "unreachable", "no such host")
    stage.opened()
    stage.lives.failed(*about, "unsupported-media", "no")
    stage.lost()
    stage.ended()
    stage.opened()
    stage.lost("reset", failure=True)
    stage.ended()
    found = await stage.facts()
    words = ("failed", "connected", "disconnected", "failed", "connected", "disconnected", "failed")
    assert [f.type.removeprefix("ingress.") for f in found] == list(words)
    assert [f.data["code"] for f in found if f.type == "ingress.failed"] == ["unreachable", "unsupported-media", "reset"]


async def test_a_takeover_is_a_loss_and_a_return(stage: Stage) -> None:
    stage.opened()
    stage.active()
    stage.opened()
    found = (await stage.facts())[2:]
    assert [(f.type, f.data.get("code", ""), f.data.get("resumed")) for f in found] == [
        ("ingress.disconnected", "takeover", None),
        ("ingress.connected", "", True),
    ]


async def test_publishers_without_an_ingress_and_rooms(stage: Stage, time: Any) -> None:
    bus, project_id = stage.house.bus, stage.project.id
    stage.who = (project_id, "shop-b", "bob", None)
    stage.opened("whip")
    stage.active()
    bus.publish(RoomLive(project_id, "shop-b"))
    time.pass_by(4)
    await stage.lives.write()
    async with stage.house.db.read() as tx:
        assert [(p.identity, p.started_at is not None) for p in await presences.of_node(tx, "node-a")] == [("bob", True), ("", True)]
    stage.lost()
    stage.ended()
    bus.publish(RoomEnded(project_id, "shop-b"))
    found = await stage.facts()
    assert [f.type for f in found] == [
        *("publisher.connected", "publisher.active", "room.live", "publisher.disconnected", "publisher.idle", "room.ended")
    ]
    assert {f.stream for f in found} == {"room:shop-b"}
    assert (found[0].data["door"], found[4].data["duration"], found[5].data["hls"]) == ("whip", 4.0, True)
    async with stage.house.db.read() as tx:
        assert await presences.of_node(tx, "node-a") == []


async def test_a_killed_node_s_sessions_are_ended_by_its_next_start(stage: Stage, time: Any) -> None:
    house, project_id = stage.house, stage.project.id
    await Nodes(house.db, stage.lives, "node-a").join()
    stage.opened()
    stage.active()
    house.bus.publish(RoomLive(project_id, "shop-a"))
    held = await house.ingresses.create(stage.project, Door.RTMP, "b", "bob")
    waiting = (project_id, "shop-b", "bob", held.id)
    house.bus.publish(PublicationOpened(*waiting))
    house.bus.publish(PublicationActive(*waiting, tracks=TRACKS))
    time.pass_by(10)
    house.bus.publish(PublicationLost(*waiting, "eof"))
    keyless = (project_id, "shop-c", "cat", None)
    house.bus.publish(PublicationOpened(*keyless))
    time.pass_by(5)
    await stage.facts()
    await Nodes(house.db, stage.lives, "node-a").beat()  # the last sign of life; then it is killed
    time.pass_by(3600)
    restarted = IngressLives(house.db, house.bus, node_id="node-a")
    assert await restarted.recover() == 2
    found = await stage.facts()
    mine = [(f.type, f.data["code"], f.data.get("duration")) for f in found if f.stream == stage.ingress.id]
    assert mine == [("ingress.disconnected", "node-restarted", None), ("ingress.idle", "node-restarted", 15.0)]
    assert [(f.type, f.data["duration"]) for f in found if f.stream == held.id] == [("ingress.idle", 10.0)]
    assert [f.type for f in found if f.stream == "room:shop-c"] == ["publisher.disconnected", "publisher.idle"]
    assert [f.type for f in found if f.stream == "room:shop-a"] == ["room.ended"]
    row = await stage.row()
    assert (row.state, row.error_code, row.node_id) == ("COMPLETE", "node-restarted", None)
    assert row.ended_at == time.wall - 3600
    assert await restarted.recover() == 0
    assert await stage.types() == []


async def test_a_living_node_s_sessions_are_left_alone_and_a_dead_one_s_ended(stage: Stage, time: Any) -> None:
    house = stage.house
    other = IngressLives(house.db, house.bus, node_id="node-b")
    watch, sign = Nodes(house.db, other, "node-b"), Nodes(house.db, stage.lives, "node-a")
    await sign.join()
    await watch.join()
    stage.opened()
    stage.active()
    await stage.lives.write()
    assert await other.recover() == 0
    for _ in range(8):
        time.pass_by(10)
        await sign.beat()
        await watch.look(time.monotonic)
    await stage.facts()
    time.wall += 86_400  # a clock that jumps gives nobody up
    await watch.look(time.monotonic)
    time.pass_by(50)
    await watch.look(time.monotonic)
    assert (await stage.row()).state == "ACTIVE"
    time.pass_by(60)
    await watch.look(time.monotonic)
    assert await stage.types() == ["ingress.disconnected", "ingress.idle"]
    row = await stage.row()
    assert (row.state, row.error_code) == ("COMPLETE", "node-lost")
    async with house.db.read() as tx:
        assert [node.id for node in await all_nodes(tx)] == ["node-b"]
    # it was only cut off from the database: its sessions live, and are told anew
    await sign.beat()
    found = await stage.facts()
    assert [(f.type, f.data["resumed"]) for f in found] == [("ingress.connected", True), ("ingress.active", True)]
    assert ((await stage.row()).state, (await stage.row()).node_id) == ("ACTIVE", "node-a")


async def test_disabled_and_enabled(stage: Stage) -> None:
    house, about = stage.house, (stage.project.id, stage.ingress.id)
    await house.ingresses.find_by_stream_key(stage.ingress.stream_key)
    disabled = await house.ingresses.set_disabled(*about, True)
    assert disabled.disabled_at is not None
    assert isinstance(house.told[-1], IngressDisabled)
    found = await house.ingresses.find_by_stream_key(stage.ingress.stream_key)
    assert found is not None
    assert found.disabled_at is not None
    with pytest.raises(Conflict, match="disabled already") as caught:
        await house.ingresses.set_disabled(*about, True)
    assert caught.value.code == "already-disabled"
    assert (await house.ingresses.set_disabled(*about, False)).disabled_at is None
    with pytest.raises(Conflict):
        await house.ingresses.set_disabled(*about, False)
    with pytest.raises(NotFound):
        await house.ingresses.set_disabled("prj_other", stage.ingress.id, True)
    assert await stage.types() == ["ingress.disabled", "ingress.enabled"]


async def test_a_reset_key_is_good_at_once_and_the_old_one_no_more(stage: Stage) -> None:
    house, old = stage.house, stage.ingress.stream_key
    assert await house.ingresses.find_by_stream_key(old) is not None
    made = await house.ingresses.reset_key(stage.project.id, stage.ingress.id)
    assert await house.ingresses.find_by_stream_key(old) is None
    assert await house.ingresses.find_by_stream_key(made.stream_key) == made
    assert house.told[-1] == IngressChanged(stage.ingress.id, stage.project.id, "rtmp", "shop-a", "ada", key_reset=True)
    found = await stage.facts()
    assert [(f.type, f.data["keyReset"]) for f in found] == [("ingress.updated", True)]
    assert made.stream_key not in repr(found)


async def test_a_change_that_is_refused_is_not_told(stage: Stage) -> None:
    async def refuse(tx: Any, ingress: Any) -> None:
        raise Conflict("no")

    with pytest.raises(Conflict):
        await stage.house.ingresses.change(stage.project.id, stage.ingress.id, refuse)
    assert await stage.types() == []


async def test_two_who_write_at_once_do_not_wait_for_each_other_for_ever(stage: Stage) -> None:
    """Ledgers of two nodes, deletions, creations and resets, all on the same project: PostgreSQL would tell of a deadlock."""
    house, project = stage.house, stage.project
    made = [await house.ingresses.create(project, Door.RTMP, f"r{i}", "ada") for i in range(6)]
    other = IngressLives(house.db, house.bus, node_id="node-b")
    for ingress in made:
        who = (project.id, ingress.room, "ada", ingress.id)
        house.bus.publish(PublicationOpened(*who))
        house.bus.publish(PublicationActive(*who))
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        group.create_task(stage.lives.write())
        group.create_task(other.write())
        for i, ingress in enumerate(made):
            if i % 2:
                group.create_task(house.ingresses.delete(project.id, ingress.id))
            else:
                group.create_task(house.ingresses.reset_key(project.id, ingress.id))
            group.create_task(house.ingresses.create(project, Door.RTMP, f"s{i}", "ada"))
    async with house.db.read() as tx:
        told = [e.type for e in await outbox.after(tx, 0, 1000) if e.stream == made[1].id]
    assert told[-1] == "ingress.deleted"


async def test_the_node_s_id_stays(tmp_path: Any) -> None:
    from medianode.control.nodes import FILE, open_node_id

    made = open_node_id(tmp_path)
    assert len(made) == 32
    assert open_node_id(tmp_path) == made
    (tmp_path / FILE).write_text("nonsense")
    with pytest.raises(ConfigError, match="32 hex"):
        open_node_id(tmp_path)


async def test_a_recording_that_begins_with_the_first_picture_is_told_between_connected_and_active(stage: Stage) -> None:
    stage.lives.recorded = lambda event: event.ingress_id == stage.ingress.id
    stage.opened()
    stage.active()
    found = await stage.facts()
    assert [event.type for event in found][-3:] == ["ingress.connected", "ingress.recording", "ingress.active"]
    assert (found[-2].data["door"], found[-2].stream) == ("rtmp", stage.ingress.id)
    stage.lives.recorded = lambda event: False  # it goes on over the gap
    stage.lost()
    stage.opened()
    stage.active()
    assert [event.type for event in await stage.facts()] == ["ingress.disconnected", "ingress.connected", "ingress.active"]
    stage.lives.recording(stage.ingress.id)  # switched on in the middle of it
    assert [event.type for event in await stage.facts()] == ["ingress.recording"]
