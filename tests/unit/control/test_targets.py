from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from medianode.auth import Door
from medianode.config import Limits
from medianode.control.target_states import TargetStates
from medianode.control.targets import Targets, masked_key, masked_url
from medianode.errors import Conflict, Forbidden, InvalidRequest, NotFound, StorageError
from medianode.events import Bus, TargetChanged, TargetStateChanged
from medianode.outbound import Outbound
from medianode.store import audit, outbox, schema
from medianode.store import targets as table
from medianode.store.outbox import StoredEvent
from medianode.store.projects import Project
from medianode.store.targets import PushTarget

YOUTUBE, KEY = "rtmps://a.rtmps.youtube.test/live2", "abcd-1234-efgh-5678-ijkl"


async def lookup(host: str, port: int) -> Sequence[str]:
    return ["10.0.0.7"] if host == "inside.test" else ["203.0.114.9"]


@pytest.fixture
def targets(house: Any) -> Targets:
    return Targets(house.db, house.bus, Limits(push_targets=4, push_targets_per_room=2), Outbound(lookup=lookup))


@pytest.fixture
async def project(house: Any) -> Project:
    made: Project = await house.projects.create("shop")
    return made


async def facts(house: Any) -> list[StoredEvent]:
    async with house.db.read() as tx:
        return [event for event in await outbox.after(tx, 0, 100) if event.type.startswith("target.")]


async def test_made_changed_and_deleted_with_a_fact_an_entry_and_an_event_each(house: Any, targets: Targets, project: Project) -> None:
    made = await targets.create(project, "hall", YOUTUBE, KEY, metadata={"channel": "main"})
    assert made.room == "shop-hall"
    assert await targets.get(project.id, made.id) == made
    changed = await targets.change(project.id, made.id, enabled=False, stream_key="another-key-9876")
    assert (changed.enabled, changed.stream_key, changed.metadata) == (False, "another-key-9876", {"channel": "main"})
    assert (await targets.change(project.id, made.id, stream_key="", url=f"{YOUTUBE}/key")).stream_key is None
    await targets.delete(project.id, made.id)
    assert await targets.list(project.id) == []

    told = await facts(house)
    assert [event.type for event in told] == ["target.created", "target.updated", "target.updated", "target.deleted"]
    assert {event.stream for event in told} == {"room:shop-hall"}
    assert told[1].data == {
        "targetId": made.id,
        "ingressId": None,
        "room": "shop-hall",
        "host": "a.rtmps.youtube.test",
        "enabled": False,
        "code": "",
        "message": "",
        "bitrate": 0,
    }
    assert "abcd" not in repr(told), "no key in what everybody may read"
    assert [event for event in house.told if isinstance(event, TargetChanged)] == [TargetChanged(made.id, project.id, "shop-hall")] * 4
    async with house.db.read() as tx:
        entries = await audit.before(tx, 10)
    assert [entry.action for entry in entries if entry.target == made.id][::-1] == [event.type for event in told]
    assert "abcd" not in repr(entries)


async def test_the_key_is_sealed(house: Any, targets: Targets, project: Project) -> None:
    await targets.create(project, "hall", YOUTUBE, KEY)
    async with house.db.read() as tx:
        rows = await tx.all(schema.push_targets.select())
    assert KEY.encode() not in repr(dict(rows[0])).encode()
    assert b"youtube" not in rows[0]["url"]
    assert KEY not in repr(await targets.list(project.id))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"url": "ftp://x.test/app"}, "url: expected rtmp://"),
        ({"url": "rtmp://x.test/live"}, "url: expected rtmp://host/app/key"),
        ({"url": "rtmp://x.test", "stream_key": KEY}, "url: expected rtmp://host/app"),
        ({"url": "rtmp://inside.test/app", "stream_key": KEY}, "url: inside.test: a private"),
        ({"url": "rtmp://127.0.0.1/app", "stream_key": KEY}, "url: 127.0.0.1: a private"),
        ({"url": YOUTUBE, "stream_key": "a b"}, "streamKey: expected up to 2000 printable characters"),
        ({"url": YOUTUBE, "stream_key": KEY, "alternate_url": "rtmp://[::1/x"}, "alternateUrl: expected"),
        ({"url": "https://x.test/whip", "metadata": {str(i): "x" for i in range(11)}}, "metadata: expected at most 10 names"),
    ],
)
async def test_what_cannot_be(targets: Targets, project: Project, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        await targets.create(project, "hall", **fields)
    assert raised.value.message.startswith(message)
    assert KEY not in raised.value.message


async def test_as_many_as_the_limits_allow(targets: Targets, project: Project) -> None:
    for room, key in (("a", KEY), ("a", "other-key"), ("b", KEY), ("b", "other-key")):
        await targets.create(project, room, YOUTUBE, key)
    with pytest.raises(Forbidden, match="this node has 4 simulcast targets"):
        await targets.create(project, "c", YOUTUBE, KEY)
    await targets.delete(project.id, (await targets.list(project.id, "shop-b"))[0].id)
    with pytest.raises(Forbidden, match="room shop-a has 2 simulcast targets"):
        await targets.create(project, "a", YOUTUBE, "third-key")


async def test_a_room_is_not_sent_twice_under_one_key(targets: Targets, project: Project) -> None:
    made = await targets.create(project, "a", YOUTUBE, KEY)
    for url, key in ((YOUTUBE, KEY), (f"{YOUTUBE}/{KEY}", None), ("rtmps://A.rtmps.youtube.test:443/live2", KEY)):
        with pytest.raises(Conflict, match=f"room shop-a is sent to a.rtmps.youtube.test under this key already, by target {made.id}") as e:
            await targets.create(project, "a", url, key, enabled=False)
        assert e.value.code == "duplicate-target"
        assert KEY not in e.value.message
    whip = await targets.create(project, "a", "https://whip.test/endpoint", KEY)
    with pytest.raises(Conflict, match="under this key already"):
        await targets.change(project.id, whip.id, url=YOUTUBE)
    assert (await targets.get(project.id, whip.id)).url == whip.url
    assert (await targets.change(project.id, made.id, url=YOUTUBE, stream_key=KEY)).id == made.id, "it is no other than itself"
    await targets.create(project, "b", YOUTUBE, KEY)  # another room may be on air another day


async def test_another_project_s_is_not_there(house: Any, targets: Targets, project: Project) -> None:
    made = await targets.create(project, "hall", YOUTUBE, KEY)
    other = await house.projects.create("other")
    for use in (targets.get, targets.delete, targets.change):
        with pytest.raises(NotFound, match="no simulcast target"):
            await use(other.id, made.id)
    assert await targets.list(other.id) == []


async def test_it_goes_with_its_live_stream(house: Any, targets: Targets, project: Project) -> None:
    ingress = await house.ingresses.create(project, Door.RTMP, "hall")
    made = await targets.create(project, "hall", YOUTUBE, KEY, ingress_id=ingress.id)
    assert [event.stream for event in await facts(house)] == [ingress.id]
    await house.ingresses.delete(project.id, ingress.id)
    with pytest.raises(NotFound):
        await targets.get(project.id, made.id)


def test_no_key_is_shown_whole() -> None:
    assert masked_key(KEY) == "…ijkl"
    assert masked_key("short") == "…"
    assert masked_key(None) is None
    assert masked_url(YOUTUBE, KEY) == YOUTUBE
    assert masked_url(f"{YOUTUBE}/{KEY}", None) == f"{YOUTUBE}/…ijkl"
    assert masked_url("https://x.test:8443/whip/room?token=abcdefgh&b", "k") == "https://x.test:8443/whip/room?token=…&b=…"
    assert masked_url("rtmp://user:pass@x.test/app", "k") == "rtmp://user:…@x.test/app"


# how they fare


def moved(target: PushTarget, state: str, code: str = "", message: str = "") -> TargetStateChanged:
    return TargetStateChanged(
        target_id=target.id,
        project_id=target.project_id,
        ingress_id=target.ingress_id,
        room=target.room,
        host="alternate.test",
        state=state,
        code=code,
        message=message,
        bitrate=2_500_000.4,
    )


async def test_state_and_facts_are_written_together_and_in_order(house: Any, targets: Targets, project: Project) -> None:
    made = await targets.create(project, "hall", YOUTUBE, KEY)
    states = TargetStates(house.db, house.bus, "node-a", 100)
    for event in (moved(made, "starting"), moved(made, "broadcasting"), moved(made, "failed", "peer-gone", "it closed")):
        house.bus.publish(event)
    await states.write()
    assert len(states) == 0
    now = await targets.get(project.id, made.id)
    assert (now.state, now.error_code, now.error_message, now.node_id) == ("failed", "peer-gone", "it closed", "node-a")
    told = (await facts(house))[1:]
    assert [event.type for event in told] == ["target.starting", "target.broadcasting", "target.failed"]
    assert (told[2].data["host"], told[2].data["code"], told[2].data["bitrate"]) == ("alternate.test", "peer-gone", 2_500_000)
    assert (await targets.change(project.id, made.id, metadata={"a": "b"})).state == "failed", "a change leaves the state alone"


async def test_of_a_deleted_target_nothing_more_is_told(house: Any, targets: Targets, project: Project) -> None:
    made = await targets.create(project, "hall", YOUTUBE, KEY)
    states = TargetStates(house.db, house.bus, "node-a", 100)
    await targets.delete(project.id, made.id)
    house.bus.publish(moved(made, "idle"))
    await states.write()
    assert [event.type for event in await facts(house)] == ["target.created", "target.deleted"]


async def test_an_encoder_that_went_to_another_node_and_a_node_that_was_given_up(house: Any, targets: Targets, project: Project) -> None:
    made = await targets.create(project, "hall", YOUTUBE, KEY)
    here, there = (TargetStates(house.db, Bus(), node_id, 100) for node_id in ("node-a", "node-b"))
    here._changed(moved(made, "broadcasting"))
    await here.write()
    there._changed(moved(made, "broadcasting"))
    await there.write()
    here._changed(moved(made, "idle"))  # its hold is over
    await here.write()
    now = await targets.get(project.id, made.id)
    assert (now.state, now.node_id) == ("broadcasting", "node-b")
    assert [event.type for event in (await facts(house))[1:]] == ["target.broadcasting"] * 2

    # nobody has heard of node-b, which is alive and cut off
    await here.recover()
    there.rise()
    here.rise()
    await there.write()
    assert len(here) == 0, "it sends nothing"
    assert (await targets.get(project.id, made.id)).state == "broadcasting"
    there._changed(moved(made, "idle"))
    await there.write()
    assert [event.type for event in (await facts(house))[3:]] == ["target.idle", "target.broadcasting", "target.idle"]


async def test_a_database_that_is_away_costs_nothing_but_time(
    house: Any, targets: Targets, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await targets.create(project, "hall", YOUTUBE, KEY)
    states = TargetStates(house.db, house.bus, "node-a", 3)
    house.bus.publish(moved(made, "starting"))

    def away() -> Any:
        raise StorageError("away")

    with monkeypatch.context() as patch:
        patch.setattr(house.db, "write", away)
        with pytest.raises(StorageError):
            await states.write()
    house.bus.publish(moved(made, "broadcasting"))
    await states.write()
    assert [event.type for event in (await facts(house))[1:]] == ["target.starting", "target.broadcasting"]
    for _ in range(5):
        house.bus.publish(moved(made, "failed", "x"))
    assert len(states) == 3, "bounded by limits.unwritten_facts"


async def test_after_a_crash_what_was_sending_is_idle(house: Any, targets: Targets, project: Project) -> None:
    made = await targets.create(project, "hall", YOUTUBE, KEY)
    async with house.db.write() as tx:
        await tx.change(schema.nodes.insert().values(id="node-b", started_at=0.0, seen_at=0.0))
        for i, node_id in enumerate(("node-a", "node-b", "node-gone", None)):
            await table.insert_target(tx, replace(made, id=f"t{i}", state="broadcasting", node_id=node_id))
    states = TargetStates(house.db, house.bus, "node-a", 100)
    assert await states.recover(restarted=False) == 2, "another's that is gone, and nobody's"
    assert await states.recover() == 1, "ours"
    assert [(await targets.get(project.id, f"t{i}")).state for i in range(4)] == ["idle", "broadcasting", "idle", "idle"]
    assert [event.data["code"] for event in (await facts(house))[1:]] == ["node-restarted"] * 3
