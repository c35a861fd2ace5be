"""The events feed: as a stream, by pages, and when it must end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from medianode.config import Config, Limits
from medianode.errors import StorageError
from medianode.store import schema
from medianode.webhooks.facts import Fact
from medianode.webhooks.outbox import announce

FEED = "/v1/events"


@pytest.fixture
async def house(make_house: Any) -> Any:
    """What made the house is forgotten: the first cursor of a test is some number above 1."""
    made = await make_house()
    async with made.db.write() as tx:
        await tx.change(schema.events.delete())
    return made


async def tell(house: Any, project: str | None, *types: str) -> list[Fact]:
    project_id = None if project is None else (await house.projects.get(project)).id
    told = [Fact(type=kind, project_id=project_id, stream="room:a", at=1_800_000_000.0, data={"room": "a\nb\u2028"}) for kind in types]
    for fact in told:
        async with house.db.write() as tx:
            await announce(tx, fact)
    return told


class Reader:
    """An EventSource, by the rules of the HTML standard."""

    def __init__(self, response: Any) -> None:
        self.response = response
        self.last_id = ""

    async def next(self) -> tuple[str, Any]:
        """The next event's type and data; comments and settings are passed over."""
        kind, data = "message", []
        async with asyncio.timeout(10):
            while line := await self.response.content.readline():
                name, _, value = line.decode().rstrip("\n").partition(":")
                value = value.removeprefix(" ")
                if name == "event":
                    kind = value
                elif name == "data":
                    data.append(value)
                elif name == "id":
                    self.last_id = value
                elif not name and not value and data:
                    return kind, json.loads("\n".join(data))
        raise EOFError

    async def comment(self) -> str:
        async with asyncio.timeout(10):
            while line := await self.response.content.readline():
                if line.startswith(b":"):
                    return str(line.decode())
        raise EOFError


@asynccontextmanager
async def reading(house: Any, query: str = "", *, key: str | None = None, headers: dict[str, str] | None = None) -> AsyncIterator[Reader]:
    sent = {"Authorization": f"Bearer {key or house.live}", "Accept": "text/event-stream", **(headers or {})}
    async with house.client.get(f"{FEED}{query}", headers=sent) as response:
        assert response.status == 200
        yield Reader(response)


async def test_a_stream_tells_what_was_and_what_comes(house: Any) -> None:
    before = await tell(house, "live", "ingress.connected", "room.live")
    async with reading(house) as reader:
        assert reader.response.headers["Content-Type"] == "text/event-stream"
        assert reader.response.headers["X-Accel-Buffering"] == "no"
        assert "no-transform" in reader.response.headers["Cache-Control"]
        assert reader.response.headers["Access-Control-Allow-Origin"] == "*"
        for fact in before:
            kind, data = await reader.next()
            assert kind == fact.type
            assert data == {
                "id": fact.id,
                "cursor": int(reader.last_id),
                "type": fact.type,
                "projectId": fact.project_id,
                "stream": "room:a",
                "at": "2027-01-15T08:00:00.000Z",
                "data": {"room": "a\nb\u2028"},
            }
        await tell(house, "other", "room.live")
        (mine,) = await tell(house, "live", "room.ended")
        assert (await reader.next())[1]["id"] == mine.id, "another project's is not told"


async def test_who_reconnects_goes_on(house: Any) -> None:
    first, second = await tell(house, "live", "room.live", "room.ended")
    async with reading(house) as reader:
        assert (await reader.next())[1]["id"] == first.id
        cursor = reader.last_id
    async with reading(house, f"?after={cursor}") as reader:
        assert (await reader.next())[1]["id"] == second.id
    async with reading(house, "?after=0", headers={"Last-Event-ID": cursor}) as reader:
        assert (await reader.next())[1]["id"] == second.id, "Last-Event-ID wins"
    async with reading(house, "?after=now", headers={"Last-Event-ID": "junk"}) as reader:
        (third,) = await tell(house, "live", "room.live")
        assert (await reader.next())[1]["id"] == third.id


async def test_who_comes_too_late_is_told_of_the_gap(house: Any) -> None:
    await tell(house, "live", *["room.live"] * 4)
    (fact,) = await tell(house, "live", "room.ended")
    oldest = (await house.ask("GET", f"{FEED}?limit=10")).body["next"]
    async with house.db.write() as tx:
        await tx.change(schema.events.delete().where(schema.events.c.id != fact.id))
    async with reading(house, "?after=1") as reader:
        assert await reader.next() == ("gap", {"after": 1, "oldest": oldest})
        assert (await reader.next())[1]["id"] == fact.id
    page = (await house.ask("GET", f"{FEED}?after=1&limit=10")).body
    assert (page["gap"], [e["id"] for e in page["data"]], page["next"]) == ({"after": 1, "oldest": oldest}, [fact.id], oldest)
    assert (await house.ask("GET", f"{FEED}?limit=10")).body["gap"] is None


async def test_types_and_pages(house: Any) -> None:
    a, b, c = await tell(house, "live", "ingress.connected", "room.live", "ingress.active")
    page = (await house.ask("GET", f"{FEED}?types=ingress.*&limit=1")).body
    assert [e["id"] for e in page["data"]] == [a.id]
    rest = (await house.ask("GET", f"{FEED}?types=ingress.*&after={page['next']}", headers={"Accept": "application/json"})).body
    assert ([e["id"] for e in rest["data"]], rest["next"]) == ([c.id], page["next"] + 2)
    assert [e["id"] for e in (await house.ask("GET", "/api/v1/events?limit=10")).body["data"]] == [a.id, b.id, c.id]
    async with reading(house, "?types=room.live") as reader:
        assert (await reader.next())[1]["id"] == b.id
        (d,) = (await tell(house, "live", "ingress.idle", "room.live"))[1:]
        assert (await reader.next())[1]["id"] == d.id
    for query in ("types=room.lve", "after=-1", "after=then", "after=1234567890123456", "limit=0", "limit=1001", "limit=x"):
        assert (await house.ask("GET", f"{FEED}?{query}")).status == 400, query


async def test_who_sees_what(house: Any) -> None:
    (mine,) = await tell(house, "live", "room.live")
    (others,) = await tell(house, "other", "room.live")
    (node,) = await tell(house, None, "key.revoked")
    everything = (await house.ask("GET", f"{FEED}?limit=10", key=house.admin)).body
    assert [e["id"] for e in everything["data"]] == [mine.id, others.id, node.id]
    for query, headers in (("&app=other", {}), ("", {"X-Project-Id": "other"})):
        page = (await house.ask("GET", f"{FEED}?limit=10{query}", key=house.admin, headers=headers)).body
        assert [e["id"] for e in page["data"]] == [others.id]
    assert [e["id"] for e in (await house.ask("GET", f"{FEED}?limit=10&app=live")).body["data"]] == [mine.id]
    assert (await house.ask("GET", f"{FEED}?limit=10&app=other")).status == 403
    assert (await house.ask("GET", f"{FEED}?limit=10&app=none", key=house.admin)).status == 404
    assert (await house.ask("GET", FEED, key="")).status == 401
    assert (await house.ask("GET", FEED, key=await house.key("view", project="live"))).status == 403
    async with house.client.head(FEED, headers={"Authorization": f"Bearer {house.live}"}) as response:
        assert (response.status, response.headers["Content-Type"]) == (200, "text/event-stream")


async def test_it_ends_when_its_key_does(house: Any) -> None:
    made = await house.keys.create("short", ["live"], "live")
    async with reading(house, "?after=now", key=made.secret) as mine, reading(house, "?after=now") as others:
        await house.keys.revoke(made.key.id)
        kind, data = await mine.next()
        assert (kind, data["code"]) == ("end", "key-revoked")
        with pytest.raises(EOFError):
            await mine.next()
        (fact,) = await tell(house, "live", "room.live")
        kind, data = await others.next()
        while kind != "room.live":  # the revocation is told of too
            kind, data = await others.next()
        assert data["id"] == fact.id


@pytest.mark.parametrize(("values", "code"), [({"revoked_at": 1.0}, "key-revoked"), ({"expires_at": 1.0}, "key-expired")])
async def test_a_key_that_is_no_longer_good_ends_it_soon(
    house: Any, monkeypatch: pytest.MonkeyPatch, values: dict[str, float], code: str
) -> None:
    monkeypatch.setattr("medianode.api.events.HEARTBEAT", 0.05)
    monkeypatch.setattr("medianode.api.events.LOOK", 0.05)
    made = await house.keys.create("short", ["live"], "live")
    async with reading(house, "?after=now", key=made.secret) as reader:
        assert (await reader.comment()).startswith(": 20")
        async with house.db.write() as tx:
            await tx.change(schema.api_keys.update().where(schema.api_keys.c.id == made.key.id).values(**values))
        house.keys._cache.clear()
        kind, data = await reader.next()
        assert (kind, data["code"]) == ("end", code)


async def test_failed_logins_at_its_address_do_not_keep_a_dead_key_alive(house: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medianode.api.events.LOOK", 0.05)
    monkeypatch.setattr("medianode.api.events.UNSURE", 0.1)
    async with reading(house, "?after=now") as reader:
        while (await house.ask("GET", f"{FEED}?limit=1", key="guess")).status != 429:
            pass
        kind, data = await reader.next()
        assert (kind, data["code"]) == ("end", "too-many-requests")


async def test_it_ends_with_its_project(house: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = await house.key("live", project="other")
    key = house.admin
    async with (
        reading(house, "?app=other&after=now", key=key) as named,
        reading(house, "?after=now", key=mine) as own,
        reading(house, "?after=now", key=key) as everything,
    ):
        await house.projects.delete("other", "other")
        for reader in (named, own):
            kind, data = await reader.next()
            assert (kind, data["code"]) == ("end", "project-deleted")
            with pytest.raises(EOFError):
                await reader.next()
        assert (await everything.next())[0] == "project.changed"
    # and where nobody told us of it
    monkeypatch.setattr("medianode.api.events.LOOK", 0.05)
    await house.projects.create("other")
    async with reading(house, "?app=other&after=now", key=key) as named:
        async with house.db.write() as tx:
            await tx.change(schema.projects.delete().where(schema.projects.c.slug == "other"))
        house.projects._cache.clear()
        assert (await named.next())[1]["code"] == "not-found"


async def test_no_project_takes_all_streams(make_house: Any) -> None:
    house = await make_house(Config(limits=Limits(event_streams=4)))
    other = await house.key("live", project="other")
    async with reading(house, "?after=now"), reading(house, "?after=now") as second:
        refused = await house.ask("GET", FEED)
        assert (refused.status, refused.headers["X-Error-Code"]) == (429, "too-many-event-streams")
        assert "kept for others" in refused.body["message"]
        async with reading(house, "?after=now", key=other):
            assert (await house.ask("GET", FEED, key=other)).status == 429
            async with reading(house, "?after=now", key=house.admin):
                assert len(house.events._streams) == 4
        await house.events.close()
        assert (await second.next())[1]["code"] == "shutdown"


async def test_the_bound_and_the_end_of_the_node(make_house: Any) -> None:
    house = await make_house(Config(limits=Limits(event_streams=1)))
    async with reading(house, "?after=now") as reader:
        refused = await house.ask("GET", FEED)
        assert (refused.status, refused.headers["X-Error-Code"]) == (429, "too-many-event-streams")
        assert (await house.ask("GET", f"{FEED}?limit=1")).status == 200, "pages are no streams"
        await house.events.close()
        assert (await reader.next())[1]["code"] == "shutdown"
    async with reading(house, "?after=now"):
        pass
    async with asyncio.timeout(10):
        while house.events._streams:  # a reader that left gives its place back
            await asyncio.sleep(0.01)
            await tell(house, "live", "room.live")


async def test_a_reader_that_left_is_noticed_in_silence(house: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medianode.api.events.HEARTBEAT", 3600.0)
    monkeypatch.setattr("medianode.api.events.LOOK", 0.05)
    async with reading(house, "?after=now"):
        assert len(house.events._streams) == 1
    async with asyncio.timeout(10):
        while house.events._streams:
            await asyncio.sleep(0.01)


async def test_a_slow_reader_holds_up_nobody_and_is_put_out(house: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medianode.api.events.WRITE_TIMEOUT", 0.2)
    project_id = (await house.projects.get("live")).id
    async with house.db.write() as tx:
        for _ in range(400):
            await announce(tx, Fact(type="room.live", project_id=project_id, stream="s", at=1.0, data={"room": "x" * 20_000}))
    _, writer = await asyncio.open_connection(house.client.host, house.client.port, limit=1024)
    try:
        writer.write(f"GET {FEED} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {house.live}\r\n\r\n".encode())
        async with asyncio.timeout(10):
            while not house.events._streams:
                await asyncio.sleep(0.01)
            (fact,) = await tell(house, "live", "room.ended")
            async with reading(house, "?types=room.ended") as quick:
                assert (await quick.next())[1]["id"] == fact.id
            while house.events._streams:
                await asyncio.sleep(0.01)
    finally:
        writer.transport.abort()


async def test_the_database_away_costs_a_wait_and_no_event(house: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async with reading(house, "?after=now") as reader:
        page, failed = house.events._feed.page, []

        async def away(*arguments: Any) -> Any:
            if not failed:
                failed.append(1)
                raise StorageError("away")
            return await page(*arguments)

        monkeypatch.setattr(house.events._feed, "page", away)
        async with asyncio.timeout(20):
            while not failed:  # a look may have been under way
                (fact,) = await tell(house, "live", "room.live")
                assert (await reader.next())[1]["id"] == fact.id
