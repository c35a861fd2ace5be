from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
from harness.receiver import FakeClock, Post, Receiver, open_post, receiver

from medianode import tasks
from medianode.config import Config, Limits, Webhooks
from medianode.outbound import Outbound
from medianode.store.database import Database, open_database
from medianode.webhooks.delivery import Delivery
from medianode.webhooks.sender import open_sender

Run = Callable[..., AbstractAsyncContextManager[Delivery]]


@pytest.fixture(autouse=True)
def _bugs_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "raise_bugs", True)


@pytest.fixture
async def db(database_url: str, tmp_path: Path) -> AsyncIterator[Database]:
    async with open_database(database_url, tmp_path, environ={}) as database:
        yield database


@pytest.fixture
async def post(db: Database) -> Post:
    return await open_post(db)


@pytest.fixture
async def sink() -> AsyncIterator[Receiver]:
    async with receiver() as found:
        yield found


@pytest.fixture
def time() -> FakeClock:
    return FakeClock()


@pytest.fixture
def run(db: Database, time: FakeClock) -> Run:
    """`async with run(webhooks=…, limits=…) as engine`, on the test's database and clock."""

    @asynccontextmanager
    async def running(
        *, on: Database = db, node: str = "node", outbound: Outbound | None = None, webhooks: Webhooks | None = None, **limits: int
    ) -> AsyncIterator[Delivery]:
        bounds = Limits(**limits) if limits else Config().limits
        allowed = outbound or Outbound(["127.0.0.0/8"])
        settings = webhooks or Webhooks(timeout=5.0)
        async with open_sender(allowed, settings, bounds) as sender:
            engine = Delivery(on, settings, bounds, sender, node, time)
            async with tasks.background(engine.serve()):
                yield engine

    return running
