from __future__ import annotations

from typing import Any

import pytest
from harness.receiver import Post, open_post
from sqlalchemy import event, update

from medianode.store import lanes, outbox, schema
from medianode.store.database import Database, Transaction
from medianode.store.endpoints import WebhookEndpoint
from medianode.store.lanes import LaneKey, Outcome, Tried

NOW = 2e9


@pytest.fixture
async def post(database: Database) -> Post:
    return await open_post(database)


async def claim(post: Post, endpoint: WebhookEndpoint, owner: str, count: int = 8, now: float = NOW, *, steal: bool = True) -> list[str]:
    async with post.db.write() as tx:
        await lanes.begin(tx)
        return [key.stream for key, _ in await lanes.claim(tx, endpoint.id, owner, now, now + 30, count, steal=steal)]


async def due(post: Post, now: float = NOW, *, steal: bool = True) -> set[str]:
    async with post.db.read() as tx:
        return set(await lanes.due(tx, now, steal=steal))


async def test_lanes_are_claimed_in_the_order_of_their_oldest_letters_and_once(post: Post) -> None:
    endpoint = await post.endpoint("http://a.example/")
    await post.send(endpoint, "c", "a", "b", "a", "c")
    assert await due(post, now=0.5) == {endpoint.id}  # whatever the clock says
    assert await claim(post, endpoint, "one", 2) == ["c", "a"]
    assert await claim(post, endpoint, "two") == ["b"]
    assert await due(post) == set()
    # leases that have run out are somebody else's, unless nobody is to steal
    assert await due(post, NOW + 31, steal=False) == set()
    assert await due(post, NOW + 31) == {endpoint.id}
    assert sorted(await claim(post, endpoint, "three", now=NOW + 31)) == ["a", "b", "c"]


async def test_a_lane_that_failed_waits_and_comes_first_then(post: Post) -> None:
    endpoint = await post.endpoint("http://a.example/")
    await post.send(endpoint, "failed", "new")
    assert await claim(post, endpoint, "me", 1) == ["failed"]
    async with post.db.write() as tx:
        await lanes.postpone(tx, LaneKey(endpoint.id, "failed"), "me", NOW + 5, 1)
        await lanes.postpone(tx, LaneKey(endpoint.id, "new"), "me", NOW + 5, 7)  # not ours: nothing happens
    await post.send(endpoint, "failed", first=5)
    assert await claim(post, endpoint, "me", now=NOW + 4) == ["new"]
    async with post.db.write() as tx:
        await lanes.abandon(tx, "me")
    assert await claim(post, endpoint, "me", now=NOW + 6) == ["failed", "new"]


async def test_a_lane_is_closed_and_opened_again(post: Post) -> None:
    endpoint = await post.endpoint("http://a.example/")
    key = LaneKey(endpoint.id, "s")
    await post.send(endpoint, "s", "s", "s")
    await claim(post, endpoint, "me")
    async with post.db.write() as tx:
        found = await lanes.letters(tx, key, 0, 2)
        assert [letter.body for letter in found] == [b'{"n":0,"stream":"s"}', b'{"n":1,"stream":"s"}']
        assert [letter.id for letter in await lanes.letters(tx, key, found[-1].id, 9)] == [found[-1].id + 1]
        assert "stream" not in repr(found)
        await lanes.close(tx, key, "somebody else")
        assert await lanes.renew(tx, "me", NOW + 60) == {key}
        await lanes.close(tx, key, "me")
        assert await lanes.renew(tx, "me", NOW + 60) == set()
    await post.send(endpoint, "s", first=3)
    assert await claim(post, endpoint, "me") == ["s"]


async def test_outcomes(post: Post) -> None:
    endpoint = await post.endpoint("http://a.example/")
    first, second, third = await post.send(endpoint, "s", "s", "s")
    tried = [
        Tried(at=1.0, status=500, latency=0.1, error="http-500", excerpt="no"),
        Tried(at=2.0, status=200, latency=0.2, error="", excerpt=""),
    ]
    async with post.db.write() as tx:
        await tx.change(update(schema.deliveries).where(schema.deliveries.c.id == third).values(state="cancelled"))
        await lanes.settle(
            tx,
            [
                Outcome(delivery_id=first, state="delivered", attempts=2, tried=tried),
                Outcome(delivery_id=second, state="pending", attempts=1, tried=tried[:1], error="http-500"),
                Outcome(delivery_id=third, state="delivered", attempts=1, tried=tried[1:]),
                Outcome(delivery_id=999_999, state="delivered", attempts=1, tried=tried[1:]),
            ],
            9.0,
        )
    rows = await post.rows()
    assert [(row.state, row.attempts, row.status, row.done_at) for row in rows] == [
        ("delivered", 2, 200, 9.0),
        ("pending", 1, 500, None),
        ("cancelled", 0, None, None),
    ]
    assert [a.status for a in await post.attempts(first)] == [500, 200]
    assert [a.status for a in await post.attempts(third)] == [200]  # it was sent all the same


async def test_a_body_that_cannot_be_opened_is_told(post: Post) -> None:
    endpoint = await post.endpoint("http://a.example/")
    await post.send(endpoint, "s", "s")
    async with post.db._engine.begin() as connection:
        await connection.exec_driver_sql("UPDATE deliveries SET body = substr(body, 1, 20) WHERE id = (SELECT min(id) FROM deliveries)")
    async with post.db.read() as tx:
        assert [letter.body is None for letter in await lanes.letters(tx, LaneKey(endpoint.id, "s"), 0, 9)] == [True, False]


async def test_what_is_old_goes_and_what_waits_too_long_is_given_up(post: Post) -> None:
    endpoint = await post.endpoint("http://a.example/")
    ids = await post.send(endpoint, "s", "s", "s", "s")
    async with post.db.write() as tx:
        tried = [Tried(at=1.0, status=200, latency=0.1, error="", excerpt="")]
        outcomes = [
            Outcome(delivery_id=i, state=s, attempts=1, tried=tried) for i, s in zip(ids, ("delivered", "dead", "delivered"), strict=False)
        ]
        await lanes.settle(tx, outcomes[:2], 100.0)
        await lanes.settle(tx, outcomes[2:], 200.0)
        assert (await lanes.backlog(tx)).pending == 1
        assert (await lanes.backlog(tx)).oldest_at == 1e9
        assert await lanes.forget(tx, 150.0, 50.0, 10) == 1
        assert await lanes.forget(tx, 150.0, 101.0, 10) == 1
        assert await lanes.expire(tx, 1e9, 5.0, "expired", 10) == 0
        assert await lanes.expire(tx, 1e9 + 1, 5.0, "expired", 10) == 1
        assert (await lanes.backlog(tx)) == lanes.Backlog(pending=0, oldest_at=None)
        assert await outbox.forget(tx, 1e9 + 1, 3) == 3
    assert [(row.id, row.state, row.error) for row in await post.rows()] == [(ids[2], "delivered", ""), (ids[3], "dead", "expired")]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_no_query_of_a_turn_reads_a_whole_table(post: Post) -> None:
    endpoint = await post.endpoint("http://a.example/")
    ids = await post.send(endpoint, "s", "t")
    seen: list[tuple[str, Any]] = []
    event.listen(
        post.db._engine.sync_engine,
        "before_cursor_execute",
        lambda connection, cursor, statement, parameters, context, many: seen.append((statement, parameters[0] if many else parameters)),
    )
    async with post.db.write() as tx:
        await turn(tx, endpoint.id, ids[0])
    plans = []
    async with post.db._engine.connect() as connection:
        raw: Any = (await connection.get_raw_connection()).driver_connection
        for statement, parameters in tuple(seen):
            if statement.split()[0] in ("SELECT", "UPDATE", "INSERT", "DELETE"):
                cursor = await raw.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)
                plans += [(row[3], statement) for row in await cursor.fetchall()]
    assert len(plans) > 12
    scanned = [plan for plan, _ in plans if plan.startswith("SCAN") and "ix_deliveries_pending" not in plan]
    assert scanned == ["SCAN webhook_endpoints"]  # one row per endpoint, and an index for each


async def turn(tx: Transaction, endpoint_id: str, delivery_id: int) -> None:
    await lanes.due(tx, NOW, steal=True)
    await lanes.claim(tx, endpoint_id, "me", NOW, NOW + 30, 8, steal=True)
    await lanes.letters(tx, LaneKey(endpoint_id, "s"), 0, 16)
    tried = [Tried(at=1.0, status=200, latency=0.1, error="", excerpt="")]
    await lanes.settle(tx, [Outcome(delivery_id=delivery_id, state="delivered", attempts=1, tried=tried)], NOW)
    await lanes.renew(tx, "me", NOW + 60)
    await lanes.hurry(tx, endpoint_id, NOW)
    await lanes.repair(tx, 2 * NOW)
    await lanes.backlog(tx)
    await lanes.expire(tx, 10.0, NOW, "old", 500)
    await lanes.forget(tx, 10.0, 5.0, 500)
    await lanes.close(tx, LaneKey(endpoint_id, "s"), "me")
