from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from harness.receiver import FakeClock, Post, open_post

from medianode import clock, telemetry
from medianode.config import Webhooks
from medianode.store import audit, lanes, outbox
from medianode.store.database import Database, open_database
from medianode.webhooks import housekeeping
from medianode.webhooks.housekeeping import Housekeeping

NOW = 1e9
"""When `Post` writes its letters."""


@pytest.fixture
async def database(database_url: str, tmp_path: Path) -> AsyncIterator[Database]:
    async with open_database(database_url, tmp_path, environ={}) as db:
        yield db


@pytest.fixture
async def post(database: Database) -> Post:
    return await open_post(database)


async def fill(post: Post) -> None:
    """Three letters: delivered, dead, pending; and an entry of the audit log."""
    endpoint = await post.endpoint("http://a.example/")
    ids = await post.send(endpoint, "s", "s", "s")
    async with post.db.write() as tx:
        outcomes = [lanes.Outcome(delivery_id=i, state=s, attempts=1, tried=()) for i, s in zip(ids, ("delivered", "dead"), strict=False)]
        await lanes.settle(tx, outcomes, NOW)
        await audit.append(tx, at=NOW, project_id=None, actor="a", source="", action="b", target="c", details={})


async def left(post: Post) -> tuple[list[str], int, int]:
    async with post.db.read() as tx:
        return [row.state for row in await post.rows()], len(await outbox.after(tx, 0, 100)), len(await audit.before(tx, 100))


async def cleaned(post: Post, monkeypatch: pytest.MonkeyPatch, after: float, *, jump: float = 0.0) -> tuple[list[str], int, int]:
    """What is left when so many seconds have passed; with `jump` the machine's clock says so many more."""
    time = FakeClock()
    time._base += NOW - time.now() + after
    monkeypatch.setattr(clock, "wallclock", lambda: NOW + after + jump)
    monkeypatch.setattr(housekeeping, "BATCH", 2)
    await Housekeeping(post.db, Webhooks(retention=100.0, audit_retention=1000.0), time).clean()
    return await left(post)


async def test_each_goes_in_its_time(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    await fill(post)
    assert await cleaned(post, monkeypatch, 99) == (["delivered", "dead", "pending"], 3, 1)
    assert await cleaned(post, monkeypatch, 101) == (["dead", "dead"], 0, 1)  # the pending one was given up just now
    assert (await post.rows())[1].error == "expired: not delivered in 100 s"
    assert await cleaned(post, monkeypatch, 401) == (["dead"], 0, 1)
    assert await cleaned(post, monkeypatch, 1001) == ([], 0, 0)


async def test_a_clock_that_was_put_forward_throws_nothing_away(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    await fill(post)
    assert await cleaned(post, monkeypatch, 10, jump=1e9) == (["delivered", "dead", "pending"], 3, 1)


async def test_what_waits_is_counted(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    await fill(post)
    monkeypatch.setattr(clock, "wallclock", lambda: NOW + 7)
    keeper = Housekeeping(post.db, Webhooks(), FakeClock())
    await keeper._count()
    assert keeper.lag() == 7.0
    shown = telemetry.exposition().decode()
    assert "medianode_webhook_pending 1.0" in shown
    assert "medianode_webhook_lag_seconds 7.0" in shown
