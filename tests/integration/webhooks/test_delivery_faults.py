"""Issue 4, section 5: what goes wrong around deliveries, and loses none."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from harness.receiver import FakeClock, Post, Receiver, open_post

from medianode.config import Webhooks
from medianode.store import database as database_module
from medianode.store.database import Database, open_database
from medianode.webhooks import delivery as engine_module

Run = Any
ENGINE = """
import asyncio, sys
from pathlib import Path
from medianode.config import Limits, Webhooks
from medianode.outbound import Outbound
from medianode.store.database import open_database
from medianode.webhooks import delivery
from medianode.webhooks.sender import open_sender

async def main(url, data_dir):
    delivery.LEASE, delivery.RENEW = 1.0, 0.3
    webhooks, limits = Webhooks(timeout=0.3), Limits()
    async with open_database(url, Path(data_dir), environ={}) as db, open_sender(Outbound(["127.0.0.1"]), webhooks, limits) as sender:
        await delivery.Delivery(db, webhooks, limits, sender, "node").serve()

asyncio.run(main(*sys.argv[1:]))
"""


async def test_kill_9_in_the_middle_of_a_thousand(database_url: str, tmp_path: Path, db: Database, post: Post, sink: Receiver) -> None:
    """A real process, killed three times. Each arrives, those of a stream in order but for what was sent once more, ids stay."""
    kills = 3
    endpoint = await post.endpoint(sink.url)
    streams = [f"s{i % 7}" for i in range(1000)]
    ids = await post.send(endpoint, *streams)
    killed = 0
    while len({g.n for g in sink.got}) < 1000:
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", ENGINE, database_url, str(tmp_path))
        before = len(sink.got)
        if killed < kills:
            await sink.has(before + 150)
            process.send_signal(signal.SIGKILL)
            killed += 1
        else:
            await post.settled("delivered")
            process.terminate()
        await process.wait()
    assert killed == kills
    # a fourth one writes down what the third was about to
    assert {row.id for row in await post.rows()} == set(ids)
    for stream in {*streams}:
        seen = [g.n for g in sink.got if g.stream == stream]
        first_time = list(dict.fromkeys(seen))
        assert first_time == [n for n, s in enumerate(streams) if s == stream]
    by_number: dict[int, set[bytes]] = {}
    for g in sink.got:
        by_number.setdefault(g.n, set()).add(g.body + g.headers["X-BaxCloud-Signature"].encode())
    assert {len(bodies) for bodies in by_number.values()} == {1}
    # what was sent once more is at most what was in flight or not yet written: never a whole second round
    assert len(sink.got) < 2000


@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
async def test_two_engines_on_one_postgresql(
    database_url: str, tmp_path: Path, sink: Receiver, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None is delivered twice while both live; what the one that dies had claimed is the other's when its lease ends."""
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(open_database(database_url, tmp_path, environ={}))
        second = await stack.enter_async_context(open_database(database_url, tmp_path, environ={}))
        post = await open_post(first)
        endpoint = await post.endpoint(sink.url)
        async with run(on=first, node="a"), run(on=second, node="b"):
            for i in range(10):
                await post.send(endpoint, *(f"s{j % 20}" for j in range(50)), first=50 * i)
            await post.settled("delivered")
        assert sorted(g.n for g in sink.got) == list(range(500))
        for j in range(20):
            seen = [g.n for g in sink.got if g.n % 50 % 20 == j]
            assert seen == sorted(seen)
        await takes_over(first, second, post, sink, run, monkeypatch)


async def takes_over(first: Database, second: Database, post: Post, sink: Receiver, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    hang = asyncio.Event()

    async def answer(request: web.Request) -> web.Response:
        await hang.wait()
        return web.Response()

    sink.answer, sink.got[:] = answer, []
    endpoint = await post.endpoint(f"{sink.url}/second")
    monkeypatch.setattr(engine_module, "LEASE", 1.0)
    monkeypatch.setattr(engine_module, "RENEW", 0.3)
    async with run(on=first, node="a", webhooks=Webhooks(timeout=0.2), shutdown_grace=1) as dying:
        await post.send(endpoint, "x", first=1000)
        await sink.has(1)
        monkeypatch.setattr(dying, "_write", dead)  # it is dead for the database, which is all that others see of it
        async with run(on=second, node="b", webhooks=Webhooks(timeout=0.2)):
            hang.set()
            await sink.has(2)
            await post.settled("delivered")
    assert [g.n for g in sink.got] == [1000, 1000]


async def dead() -> None:
    await asyncio.sleep(0.05)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_database_that_is_locked(
    db: Database, post: Post, sink: Receiver, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process holds SQLite's file for longer than anybody waits: what is due meanwhile goes out afterwards."""
    monkeypatch.setattr(engine_module, "POLL", 0.1)
    endpoint = await post.endpoint(sink.url)
    await post.send(endpoint, "s", "s")
    async with db._engine.connect() as connection:
        await connection.exec_driver_sql("PRAGMA busy_timeout = 100")
    other = sqlite3.connect(tmp_path / "test.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    async with run() as engine:
        async with asyncio.timeout(20):
            while not engine._complaint:
                await asyncio.sleep(0.02)
        assert engine._complaint.startswith("storage-locked")
        assert sink.got == []
        other.execute("ROLLBACK")
        other.close()
        await post.settled("delivered")
        assert engine._complaint == ""
    assert [g.n for g in sink.got] == [0, 1]


async def test_outcomes_survive_a_database_that_is_away(
    post: Post, sink: Receiver, run: Run, time: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes between the sending and the writing down, and comes back: nothing is sent once more."""
    monkeypatch.setattr(engine_module, "POLL", 0.05)
    endpoint = await post.endpoint(sink.url)
    async with run() as engine:
        await asyncio.sleep(0.1)
        write, away = post.db.write, True

        def broken() -> Any:
            if away and sink.got:
                raise database_module.StorageError("gone", code="storage-away")
            return write()

        await post.send(endpoint, "s", "s", "s")
        monkeypatch.setattr(post.db, "write", broken)
        await sink.has(3)
        async with asyncio.timeout(5):
            while not engine._complaint:
                await asyncio.sleep(0.01)
        away = False
        await post.settled("delivered")
    assert [g.n for g in sink.got] == [0, 1, 2]


@pytest.mark.parametrize("jump", [-86_400.0, 86_400.0, -4_000.0, 4_000.0])
async def test_the_clock_jumps(post: Post, sink: Receiver, run: Run, monkeypatch: pytest.MonkeyPatch, jump: float) -> None:
    """Forward or back: new letters go out at once, and one that waits neither waits for ever nor is hailed on the receiver."""
    endpoint = await post.endpoint(sink.url)
    sink.status = 500
    async with run() as engine:
        await post.send(endpoint, "failing")
        await sink.has(1)
        wallclock = engine_module.clock.wallclock
        monkeypatch.setattr("medianode.clock.wallclock", lambda: wallclock() + jump)
        sink.status = 200
        other = await post.endpoint(f"{sink.url}/other")
        await post.send(other, *"abc", first=10)
        await sink.has(4)
        engine.wake()
        await asyncio.sleep(0.1)
        assert sorted(g.n for g in sink.got) == [0, 10, 11, 12]


async def test_rows_of_a_clock_that_was_wrong(post: Post, sink: Receiver, run: Run, time: FakeClock) -> None:
    """A daemon wrote its back-offs and leases while its clock said 2090; then it was started again with the right one."""
    endpoint = await post.endpoint(sink.url)
    await post.send(endpoint, "waiting", "claimed")
    async with post.db._engine.begin() as connection:
        await connection.exec_driver_sql("UPDATE delivery_lanes SET next_at = 3.8e9, failures = 2 WHERE stream = 'waiting'")
        await connection.exec_driver_sql(
            "UPDATE delivery_lanes SET next_at = 3.8e9, owner = 'other', lease_until = 3.8e9 WHERE stream = 'claimed'"
        )
    async with run():
        await sink.has(2)
        await post.settled("delivered")
