from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest
from sqlalchemy import text

from medianode.auth import Door
from medianode.control.ingresses import Ingresses
from medianode.control.live_streams import TEST_DURATION, LiveStreams, Policy
from medianode.errors import Conflict, Forbidden, NotFound
from medianode.events import Bus, IngressStateChanged
from medianode.media.track import Kind
from medianode.store import ingresses
from medianode.store.database import Transaction
from medianode.store.ingresses import Standing
from medianode.tasks import background

RULE = {"defaultPolicy": "deny", "allow": ["shop.example"], "deny": []}


@pytest.fixture
async def shop(house: Any) -> Any:
    return await house.projects.create("shop")


@pytest.fixture
def streams(house: Any) -> LiveStreams:
    return LiveStreams(house.db, house.bus, house.ingresses, playback_ids=2)


async def told(house: Any, column: str = "type FROM events ORDER BY cursor") -> list[str]:
    async with house.db._engine.connect() as connection:
        return [row[0] for row in await connection.execute(text(f"SELECT {column}")) if row[0].startswith("ingress.")]


async def recorded(house: Any) -> list[str]:
    return await told(house, "action FROM audit ORDER BY id")


async def test_it_is_an_ingress_whose_key_opens_both_doors(house: Any, shop: Any, streams: LiveStreams) -> None:
    made = await streams.create(shop, Policy(metadata={"name": "launch"}, access_policy="private", restrictions={"domains": RULE}))
    stream_id = made.ingress.id
    assert re.fullmatch(r"[0-9a-f]{32}", stream_id)
    assert re.fullmatch(rf"[0-9a-f]{{32}}k{stream_id}", made.ingress.stream_key)
    assert re.fullmatch(rf"[0-9a-f]{{32}}k{stream_id}", made.stream.srt_secret)
    assert made.ingress.stream_key not in repr(made)
    assert (made.ingress.room, made.ingress.kind) == (f"shop-{stream_id}", "any")
    assert await streams.get(shop.id, stream_id) == made
    assert [(p.access_policy, p.restrictions) for p in made.playback_ids] == [("private", {"domains": RULE})]
    for door, room in ((Door.RTMP, None), (Door.WHIP, made.ingress.room)):
        grant = await house.gate.publish(door, "shop", made.ingress.stream_key, room)
        assert (grant.ingress_id, grant.room, grant.kind) == (stream_id, made.ingress.room, door)
    with pytest.raises(Exception, match="of kind any") as refused:
        await house.gate.publish(Door.WS_MJPEG, "shop", made.ingress.stream_key)
    assert refused.value.code == "wrong-door"
    assert await told(house) == ["ingress.created"]
    assert await recorded(house) == ["ingress.created"]


async def test_by_adobes_challenge_too(house: Any, shop: Any, streams: LiveStreams) -> None:
    made = await streams.create(shop, Policy())
    grant = await house.gate.publish(Door.RTMP, "shop", made.ingress.room, proves=lambda secret: secret == made.ingress.stream_key)
    assert grant.ingress_id == made.ingress.id


async def test_nothing_secret_is_stored_in_the_open(house: Any, shop: Any, streams: LiveStreams) -> None:
    made = await streams.create(shop, Policy())
    tables = ("ingresses", "live_streams", "events", "audit", "deliveries")
    async with house.db._engine.connect() as connection:
        rows = "".join([repr((await connection.execute(text(f"SELECT * FROM {table}"))).all()) for table in tables])
    assert made.ingress.stream_key not in rows
    assert made.stream.srt_secret not in rows


async def test_the_policy_is_in_the_grant_and_changes_count_at_the_next_publish(house: Any, shop: Any, streams: LiveStreams) -> None:
    policy = Policy(reconnect_window=90, max_duration=600, max_resolution="720p", latency_mode="low")
    made = await streams.create(shop, policy)
    grant = await house.gate.publish(Door.RTMP, "shop", made.ingress.stream_key)
    assert (grant.hold, grant.max_duration, grant.max_height, grant.low_latency, grant.kinds) == (90, 600, 720, True, frozenset(Kind))
    changed = await streams.change(shop.id, made.ingress.id, reconnect_window=0.0, audio_only=True, metadata={"a": "b"})
    assert (changed.stream.reconnect_window, changed.stream.metadata, changed.stream.max_resolution) == (0.0, {"a": "b"}, "720p")
    assert grant.name == grant.title == ""
    grant = await house.gate.publish(Door.RTMP, "shop", made.ingress.stream_key)
    assert (grant.hold, grant.kinds) == (0.0, frozenset({Kind.AUDIO}))
    assert await told(house) == ["ingress.created", "ingress.updated"]
    await streams.change(shop.id, made.ingress.id, metadata={"name": "x" * 255})
    grant = await house.gate.publish(Door.RTMP, "shop", made.ingress.stream_key)
    assert grant.name == grant.title == "x" * 200, "as long as a recording's title may be"


async def test_another_projects_and_what_is_no_live_stream_are_not_found(house: Any, shop: Any, streams: LiveStreams) -> None:
    other = await house.projects.create("other")
    made = await streams.create(shop, Policy())
    plain = await house.ingresses.create(shop, Door.RTMP, "a")
    for project, stream_id in ((other, made.ingress.id), (shop, plain.id), (shop, "nothing"), (shop, "\0")):
        for call in (
            streams.get(project.id, stream_id),
            streams.change(project.id, stream_id, audio_only=True),
            streams.enable(project.id, stream_id),
            streams.disable(project.id, stream_id),
            streams.reset_key(project.id, stream_id),
            streams.delete(project.id, stream_id),
            streams.add_playback_id(project.id, stream_id, "public", {}),
            streams.delete_playback_id(project.id, stream_id, made.playback_ids[0].id),
        ):
            with pytest.raises(NotFound):
                await call
    assert await streams.get(shop.id, made.ingress.id) == made
    assert await house.ingresses.get(shop.id, plain.id) == plain


async def test_disabled_it_takes_no_encoder_until_it_is_enabled(house: Any, shop: Any, streams: LiveStreams) -> None:
    made = await streams.create(shop, Policy())
    stream_id, key = made.ingress.id, made.ingress.stream_key
    await house.gate.publish(Door.RTMP, "shop", key)
    with pytest.raises(Conflict) as enabled:
        await streams.enable(shop.id, stream_id)
    await streams.disable(shop.id, stream_id)
    with pytest.raises(Conflict) as disabled:
        await streams.disable(shop.id, stream_id)
    assert (enabled.value.code, disabled.value.code) == ("already-enabled", "already-disabled")
    for door, proves in ((Door.RTMP, None), (Door.WHIP, None), (Door.RTMP, lambda secret: secret == key)):
        with pytest.raises(Forbidden) as refused:
            await house.gate.publish(door, "shop", made.ingress.room if proves else key, proves=proves)
        assert refused.value.code == "ingress-disabled"
    with pytest.raises(NotFound) as gone:
        await house.gate.read("shop", made.ingress.room)
    assert gone.value.code == "stream-disabled"
    await streams.enable(shop.id, stream_id)
    assert (await house.gate.publish(Door.RTMP, "shop", key)).ingress_id == stream_id
    assert (await house.gate.read("shop", made.ingress.room)).room == made.ingress.room
    assert await told(house) == ["ingress.created", "ingress.disabled", "ingress.enabled"]


async def test_a_new_key_is_in_the_same_form_and_the_old_one_is_good_no_more(house: Any, shop: Any, streams: LiveStreams) -> None:
    made = await streams.create(shop, Policy())
    await house.gate.publish(Door.RTMP, "shop", made.ingress.stream_key)
    renewed = (await streams.reset_key(shop.id, made.ingress.id)).ingress.stream_key
    assert renewed != made.ingress.stream_key
    assert renewed.endswith(f"k{made.ingress.id}")
    assert (await house.gate.publish(Door.WHIP, "shop", renewed)).ingress_id == made.ingress.id
    with pytest.raises(Exception, match="not known"):
        await house.gate.publish(Door.RTMP, "shop", made.ingress.stream_key)


async def test_pages_in_either_order(shop: Any, streams: LiveStreams) -> None:
    made = [(await streams.create(shop, Policy(metadata={"n": str(n)}))).ingress.id for n in range(3)]
    newest, total = await streams.list(shop.id, limit=2, offset=0)
    oldest, _ = await streams.list(shop.id, newest_first=False, limit=2, offset=2)
    assert ([b.ingress.id for b in newest], total) == ([made[2], made[1]], 3)
    assert [b.ingress.id for b in oldest] == [made[2]]


async def test_a_page_costs_no_more_queries_than_one_stream(
    house: Any, shop: Any, streams: LiveStreams, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [await streams.create(shop, Policy()) for _ in range(4)]
    asked: list[object] = []
    rows = Transaction.all

    async def counted(tx: Transaction, statement: Any) -> Any:
        asked.append(statement)
        return await rows(tx, statement)

    monkeypatch.setattr(Transaction, "all", counted)
    assert (await streams.list(shop.id, limit=1, newest_first=False))[0] == made[:1]
    of_one = len(asked)
    assert (await streams.list(shop.id, limit=4, newest_first=False))[0] == made
    assert len(asked) == 2 * of_one


@pytest.mark.parametrize("policy", ["public", "private"])
async def test_a_further_playback_id_opens_no_private_stream(shop: Any, streams: LiveStreams, policy: Any) -> None:
    made = await streams.create(shop, Policy(access_policy=policy))
    assert (await streams.add_playback_id(shop.id, made.ingress.id, None, {})).access_policy == policy


async def test_playback_ids(house: Any, shop: Any, streams: LiveStreams) -> None:
    made = await streams.create(shop, Policy())
    first, stream_id = made.playback_ids[0], made.ingress.id
    more = await streams.add_playback_id(shop.id, stream_id, "private", {})
    with pytest.raises(Forbidden) as full:
        await streams.add_playback_id(shop.id, stream_id, "public", {})
    assert full.value.code == "playback-id-quota"
    await streams.restrict(shop.id, stream_id, more.id, "domains", RULE)
    await streams.restrict(shop.id, stream_id, more.id, "userAgents", {"defaultPolicy": "allow", "allow": [], "deny": ["curl"]})
    kept = (await streams.get_playback_id(shop.id, stream_id, more.id)).restrictions
    assert (kept["domains"], kept["userAgents"]["deny"]) == (RULE, ["curl"])
    assert await streams.restrict(shop.id, stream_id, more.id, "domains", {}) == RULE, "what is left out stays"
    assert await streams.restrict(shop.id, stream_id, more.id, "domains", {"allow": ["b.example"]}) == {**RULE, "allow": ["b.example"]}
    other = await streams.create(shop, Policy())
    for call in (
        streams.get_playback_id(shop.id, other.ingress.id, first.id),
        streams.restrict(shop.id, other.ingress.id, first.id, "domains", RULE),
        streams.delete_playback_id(shop.id, other.ingress.id, first.id),
    ):
        with pytest.raises(NotFound):
            await call
    await streams.delete_playback_id(shop.id, stream_id, first.id)
    with pytest.raises(NotFound) as gone:
        await house.gate.read_playback(first.id)
    assert gone.value.code == "no-such-playback-id"


async def test_deleted_with_all_that_it_has(house: Any, shop: Any, streams: LiveStreams) -> None:
    made = await streams.create(shop, Policy())
    await house.gate.read_playback(made.playback_ids[0].id)
    await streams.delete(shop.id, made.ingress.id)
    with pytest.raises(NotFound):
        await house.gate.read_playback(made.playback_ids[0].id)
    assert await told(house) == ["ingress.created", "ingress.deleted"]


async def test_as_many_rooms_as_the_node_may_have(house: Any, shop: Any) -> None:
    few = LiveStreams(house.db, house.bus, Ingresses(house.db, Bus(), rooms=1), playback_ids=1)
    await few.create(shop, Policy())
    with pytest.raises(Forbidden) as full:
        await few.create(shop, Policy())
    assert full.value.code == "room-quota"


async def test_a_test_stream_ends_after_five_minutes_and_stays_disabled(house: Any, shop: Any, streams: LiveStreams) -> None:
    test = await streams.create(shop, Policy(test=True))
    real = await streams.create(shop, Policy())
    assert (test.stream.max_duration, real.stream.max_duration) == (TEST_DURATION, 43_200)
    changed = await streams.change(shop.id, test.ingress.id, max_duration=3600.0)
    assert changed.stream.max_duration == TEST_DURATION
    over = asyncio.Event()
    house.db.subscribe("outbox", over.set)
    async with background(streams.serve()):
        for stream in (real, test):
            at = (stream.ingress.id, shop.id, stream.ingress.room, stream.ingress.participant_identity, "ACTIVE", "COMPLETE")
            house.bus.publish(IngressStateChanged(*at, "max-duration", "", 300.0))
        async with asyncio.timeout(10):
            await over.wait()
    assert (await streams.get(shop.id, test.ingress.id)).disabled
    assert not (await streams.get(shop.id, real.ingress.id)).disabled
    with pytest.raises(Conflict) as refused:
        await streams.enable(shop.id, test.ingress.id)
    assert refused.value.code == "test-stream"


async def test_a_test_stream_that_ended_before_a_crash_is_disabled_too(house: Any, shop: Any, streams: LiveStreams) -> None:
    tests = [await streams.create(shop, Policy(test=True)) for _ in range(2)]
    async with house.db.write() as tx:
        for stream, code in zip(tests, ("max-duration", "closed"), strict=True):
            await ingresses.stand(tx, stream.ingress.id, Standing("COMPLETE", code))
    over = asyncio.Event()
    house.db.subscribe("outbox", over.set)
    async with background(streams.serve()), asyncio.timeout(10):
        await over.wait()
    assert [(await streams.get(shop.id, stream.ingress.id)).disabled for stream in tests] == [True, False]
