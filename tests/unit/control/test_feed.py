from __future__ import annotations

import asyncio
from typing import Any

import pytest

from medianode.control.feed import EventFeed, Gap, chosen_types
from medianode.errors import InvalidRequest
from medianode.store import schema
from medianode.webhooks.facts import TYPES, Fact
from medianode.webhooks.outbox import announce


async def tell(house: Any, project_id: str | None, *types: str) -> list[int]:
    """Their cursors."""
    for kind in types:
        async with house.db.write() as tx:
            await announce(tx, Fact(type=kind, project_id=project_id, stream="room:a", at=1.0, data={"room": "a"}))
    async with house.db.read() as tx:
        return [row["cursor"] for row in await tx.all(schema.events.select().order_by(schema.events.c.cursor))][-len(types) :]


async def test_pages_by_project_and_type(house: Any) -> None:
    shop, other = await house.projects.create("shop"), await house.projects.create("other")
    feed = EventFeed(house.db)
    start, _ = await feed.start(None)
    a, b = await tell(house, shop.id, "room.live", "room.ended")
    (c,) = await tell(house, other.id, "room.live")
    (d,) = await tell(house, None, "key.revoked")
    everything = await feed.page(start, 10, None, None)
    assert [e.cursor for e in everything.events] == [a, b, c, d]
    assert (everything.position, everything.full) == (d, False)
    own = await feed.page(start, 10, shop.id, None)
    assert [e.cursor for e in own.events] == [a, b]
    assert own.position == d, "what is others' is not looked through again"
    assert [e.cursor for e in (await feed.page(start, 10, None, frozenset({"room.live"}))).events] == [a, c]
    first = await feed.page(start, 1, shop.id, None)
    assert ([e.cursor for e in first.events], first.position, first.full) == ([a], a, True)
    nothing = await feed.page(d, 10, None, None)
    assert (list(nothing.events), nothing.position) == ([], d)


async def test_where_to_begin(house: Any) -> None:
    shop = await house.projects.create("shop")
    feed = EventFeed(house.db)
    cursors = await tell(house, shop.id, *["room.live"] * 5)
    assert await feed.start(None) == (cursors[-1], None)
    assert await feed.start(0) == (0, None)
    assert await feed.start(cursors[2]) == (cursors[2], None)
    assert await feed.start(cursors[-1]) == (cursors[-1], None)
    assert await feed.start(cursors[-1] + 50) == (0, Gap(cursors[-1] + 50, 1)), "cursors of another database"
    async with house.db.write() as tx:
        await tx.change(schema.events.delete().where(schema.events.c.cursor < cursors[3]))
    assert await feed.start(cursors[2]) == (cursors[2], None), "the next one is there"
    assert await feed.start(cursors[1]) == (cursors[3] - 1, Gap(cursors[1], cursors[3]))
    assert await feed.start(0) == (0, None), "who asks for all that is kept has lost nothing"
    async with house.db.write() as tx:
        await tx.change(schema.events.delete())
    assert await feed.start(cursors[-1]) == (cursors[-1], None)
    assert await feed.start(cursors[2]) == (cursors[-1], Gap(cursors[2], cursors[-1] + 1)), "all of it is gone, and known to be"
    (after,) = await tell(house, shop.id, "room.live")
    assert after > cursors[-1], "cursors never come twice"


async def test_news_wake_all_who_wait_by_one_look(house: Any) -> None:
    shop = await house.projects.create("shop")
    feed = EventFeed(house.db)
    start, _ = await feed.start(None)
    readers = [asyncio.ensure_future(feed.news(start)) for _ in range(20)]
    await asyncio.sleep(0)
    assert not any(reader.done() for reader in readers)
    await tell(house, shop.id, "room.live")
    async with asyncio.timeout(5):
        await asyncio.gather(*readers)
        await feed.news(start)


async def test_news_of_other_processes_are_found_by_looking(house: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medianode.control.feed.POLL", 0.02)
    monkeypatch.setattr("medianode.tasks.EARLY", 0.0)
    shop = await house.projects.create("shop")
    feed = EventFeed(house.db)
    start, _ = await feed.start(None)
    house.db._subscribers.clear()
    reader = asyncio.ensure_future(feed.news(start))
    await asyncio.sleep(0)
    await tell(house, shop.id, "room.live")
    async with asyncio.timeout(5):
        await reader


async def test_a_wake_without_news_lets_go(house: Any) -> None:
    feed = EventFeed(house.db)
    reader = asyncio.ensure_future(feed.news(10**9))
    await asyncio.sleep(0)
    feed.wake()
    async with asyncio.timeout(5):
        await reader


def test_types_are_chosen_by_patterns() -> None:
    assert chosen_types("") is None
    assert chosen_types(" , ") is None
    assert chosen_types("*") == TYPES
    assert chosen_types("room.live, ingress.dis*") == {"room.live", "ingress.disabled", "ingress.disconnected"}
    with pytest.raises(InvalidRequest, match=r"no event 'room.lve'; did you mean room.live") as caught:
        chosen_types("ingress.*,room.lve")
    assert caught.value.code == "unknown-event"
