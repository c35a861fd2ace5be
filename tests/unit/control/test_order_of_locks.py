"""Rows are locked in one order, projects, ingresses, what hangs on them, and then the turn: PostgreSQL ends who crosses it as a deadlock.

Each test begins one side of a pair by hand, waits until the other stands behind it, and goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from harness.receiver import Post
from sqlalchemy import text

from medianode.auth import Door
from medianode.config import Limits
from medianode.control.lifecycle import IngressLives
from medianode.control.target_states import TargetStates
from medianode.control.targets import Targets
from medianode.control.webhooks import Webhooks
from medianode.events import TargetStateChanged
from medianode.outbound import Outbound
from medianode.store import deliveries, ingresses, lanes, outbox, projects
from medianode.store.database import Database, Transaction, open_database
from medianode.store.deliveries import Filter
from medianode.store.ingresses import Standing
from medianode.store.lanes import Outcome

from .conftest import House


@pytest.fixture
async def database(postgres_url: str, tmp_path: Path) -> AsyncIterator[Database]:
    """SQLite has one writer."""
    async with open_database(postgres_url, tmp_path, environ={}) as db:
        yield db


async def blocked(db: Database) -> None:
    """Wait until somebody waits for a lock."""
    async with asyncio.timeout(20):
        while True:
            async with db.read() as tx:
                if await tx.scalar(text("SELECT count(*) FROM pg_locks WHERE NOT granted")):
                    return


async def meet(
    db: Database,
    first: Callable[[Transaction], Awaitable[object]],
    other: Coroutine[Any, Any, object],
    then: Callable[[Transaction], Awaitable[object]],
) -> None:
    """`first` and `then` in one transaction, `other` between them."""
    async with asyncio.timeout(30), asyncio.TaskGroup() as group, db.write() as tx:
        await first(tx)
        group.create_task(other)
        await blocked(db)
        await then(tx)


@pytest.mark.parametrize("what", ["forget", "cancel", "delete", "delete all"])
async def test_the_engine_and_who_deletes_deliveries(house: House, what: str) -> None:
    project = await house.projects.create("shop")
    post = Post(house.db, project.id)
    endpoint = await post.endpoint("http://a.example/")
    first, second = await post.send(endpoint, "a", "b")
    chosen = Filter(project_id=project.id, endpoint_id=endpoint.id)

    async def batch(call: Callable[[Transaction], Awaitable[object]]) -> None:
        async with house.db.write() as tx:
            await call(tx)

    others = {
        "forget": lambda: batch(lambda tx: deliveries.forget(tx, chosen, 10)),
        "cancel": lambda: batch(lambda tx: deliveries.cancel(tx, chosen, 10, 1.0)),
        "delete": lambda: Webhooks(house.db, Outbound(), None, bound=1).delete(project.id, endpoint.id),  # type: ignore[arg-type]
        "delete all": lambda: house.projects.delete("shop", "shop"),
    }

    async def begin(tx: Transaction) -> None:
        await lanes.begin(tx)
        await settle(second)(tx)

    def settle(delivery: int) -> Callable[[Transaction], Awaitable[object]]:
        outcome = Outcome(delivery_id=delivery, state="delivered", attempts=1, tried=())
        return lambda tx: lanes.settle(tx, [outcome], 1.0)

    await meet(house.db, begin, others[what](), settle(first))


async def test_states_of_a_target_and_the_end_of_its_live_stream(house: House) -> None:
    project = await house.projects.create("shop")
    ingress = await house.ingresses.create(project, Door.ANY, "hall")
    targets = Targets(house.db, house.bus, Limits(), Outbound(lookup=public))
    target = await targets.create(project, "hall", "rtmp://a.example/live", "key", ingress_id=ingress.id)
    states = TargetStates(house.db, house.bus, "node", 10)
    house.bus.publish(TargetStateChanged(target.id, project.id, ingress.id, target.room, "a.example", "starting"))

    async def begin(tx: Transaction) -> None:
        await projects.hold(tx, (project.id,))
        await ingresses.lock(tx, (ingress.id,), to_delete=True)

    async def delete(tx: Transaction) -> None:
        await outbox.take_turn(tx)
        await ingresses.delete_ingress(tx, ingress.id)

    await meet(house.db, begin, states.write(), delete)
    assert len(states) == 0


async def test_what_a_crash_left_and_the_end_of_its_project(house: House) -> None:
    project = await house.projects.create("shop")
    ingress = await house.ingresses.create(project, Door.RTMP, "hall")
    async with house.db.write() as tx:
        await ingresses.stand(tx, ingress.id, Standing("ACTIVE", "", "", 1.0, None, "node"))
    lives = IngressLives(house.db, house.bus, node_id="node")

    async def delete(tx: Transaction) -> None:
        await outbox.take_turn(tx)
        await projects.delete_project(tx, project.id)

    await meet(house.db, lambda tx: projects.lock(tx, project.id, to_delete=True), lives.recover(), delete)


async def public(host: str, port: int) -> list[str]:
    return ["93.184.216.34"]
