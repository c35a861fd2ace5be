"""What another process on the same database does reaches this one's bus; what it did itself does not come back to it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from medianode.auth import Door
from medianode.control.follow import Follower
from medianode.control.ingresses import Ingresses
from medianode.control.keys import Keys
from medianode.control.projects import Projects
from medianode.errors import Conflict, StorageError
from medianode.events import (
    Bus,
    Event,
    IngressChanged,
    IngressDeleted,
    IngressDisabled,
    IngressFinished,
    KeyRevoked,
    ProjectChanged,
    ProjectDeleted,
    TargetChanged,
    TokenRevoked,
    ViewingChanged,
)
from medianode.store import ingresses
from medianode.store.database import Database, open_database
from medianode.store.ingresses import Standing
from medianode.webhooks.facts import Fact
from medianode.webhooks.outbox import announce


class Other:
    """Another process: its own connection to the same database, its own caches, its own bus."""

    def __init__(self, db: Database) -> None:
        self.db = db
        bus = Bus()
        self.projects, self.keys = Projects(db, bus), Keys(db, bus)
        self.ingresses = Ingresses(db, bus, rooms=20)


@pytest.fixture
async def other(house: Any, database_url: str, tmp_path: Path) -> AsyncIterator[Other]:
    async with open_database(database_url, tmp_path, environ={}) as db:
        yield Other(db)


async def followed(house: Any, follower: Follower) -> list[Event]:
    del house.told[:]
    await follower.look()
    return list(house.told)


async def test_ingresses(house: Any, other: Other) -> None:
    shop = await house.projects.create("shop")
    made = await house.ingresses.create(shop, Door.RTMP, "a", "ada")
    follower = Follower(house.db, house.bus)
    await follower.start()
    about = (made.id, shop.id, "rtmp", "shop-a", "ada")
    assert await house.ingresses.find_by_stream_key(made.stream_key) is not None
    await other.ingresses.set_disabled(shop.id, made.id, True)
    assert await followed(house, follower) == [IngressDisabled(*about)]
    remembered = await house.ingresses.find_by_stream_key(made.stream_key)
    assert remembered is not None
    assert remembered.disabled_at is not None
    await other.ingresses.set_disabled(shop.id, made.id, False)
    await other.ingresses.reset_key(shop.id, made.id)
    assert await followed(house, follower) == [IngressChanged(*about), IngressChanged(*about, key_reset=True)]
    assert await house.ingresses.find_by_stream_key(made.stream_key) is None
    # disabled and enabled again before we looked: an encoder may have been let in since, and is not put out
    await other.ingresses.set_disabled(shop.id, made.id, True)
    await other.ingresses.set_disabled(shop.id, made.id, False)
    assert await followed(house, follower) == [IngressChanged(*about)] * 2
    await other.ingresses.delete(shop.id, made.id)
    assert await followed(house, follower) == [IngressDeleted(*about)]
    assert await followed(house, follower) == []


async def test_a_session_is_finished_and_the_next_one_is_left_alone(house: Any, other: Other) -> None:
    shop = await house.projects.create("shop")
    made = await house.ingresses.create(shop, Door.RTMP, "a", "ada")
    follower = Follower(house.db, house.bus)
    await follower.start()

    async def stands(state: str, started_at: float | None) -> None:
        async with other.db.write() as tx:
            await ingresses.stand(tx, made.id, Standing(state, started_at=started_at))

    finished = IngressFinished(made.id, shop.id, "rtmp", "shop-a", "ada")
    for state, started_at, later, followed_by in (
        ("ACTIVE", 1.5, ("ACTIVE", 1.5), [finished]),
        ("BUFFERING", None, ("ACTIVE", 2.5), [finished]),
        ("ACTIVE", 2.5, ("ACTIVE", 3.5), []),
        ("ACTIVE", 3.5, ("COMPLETE", 3.5), []),
    ):
        await stands(state, started_at)
        await other.ingresses.finish(shop.id, made.id)
        await stands(*later)
        assert await followed(house, follower) == followed_by
    with pytest.raises(Conflict, match="stream cannot be completed"):
        await other.ingresses.finish(shop.id, made.id)
    assert await followed(house, follower) == []


async def test_what_we_did_ourselves_is_known(house: Any, other: Other) -> None:
    shop = await house.projects.create("shop")
    follower = Follower(house.db, house.bus)
    await follower.start()
    made = await house.ingresses.create(shop, Door.RTMP, "a", "ada")
    await house.ingresses.set_disabled(shop.id, made.id, True)
    await house.projects.change("shop", viewing="token")
    assert await followed(house, follower) == []


async def test_keys_and_projects_are_forgotten(house: Any, other: Other) -> None:
    shop = await house.projects.create("shop")
    key = await house.keys.create("k", ["live"], "shop")
    await house.keys.verify(key.secret)
    follower = Follower(house.db, house.bus)
    await follower.start()
    await other.projects.change("shop", viewing="token")
    assert await followed(house, follower) == [ProjectChanged(shop.id, "shop")]
    assert (await house.projects.get("shop")).viewing == "token"
    await other.keys.revoke(key.key.id)
    assert KeyRevoked(key.key.id, shop.id) in await followed(house, follower)
    await other.projects.delete("shop", "shop")
    assert await followed(house, follower) == [ProjectDeleted(shop.id, "shop")]


async def test_targets_links_and_live_streams(house: Any, other: Other) -> None:
    shop = await house.projects.create("shop")
    follower = Follower(house.db, house.bus)
    await follower.start()
    target = {"targetId": "t1", "room": "shop-a"}
    stream = {"ingressId": "s1", "kind": "any", "room": "shop-s1", "identity": "i", "live": True}
    async with other.db.write() as tx:
        for type_, data in (
            ("target.created", target),
            ("target.broadcasting", target),
            ("target.deleted", target),
            ("link.revoked", {"tokenId": "l1"}),
            ("ingress.updated", stream),
            ("ingress.connected", stream),
        ):
            await announce(tx, Fact(type=type_, project_id=shop.id, stream="s", at=0.0, data=data))
    assert await followed(house, follower) == [
        TargetChanged("t1", shop.id, "shop-a"),
        TargetChanged("t1", shop.id, "shop-a"),
        TokenRevoked(shop.id, "l1"),
        IngressChanged("s1", shop.id, "any", "shop-s1", "i"),
        ViewingChanged(shop.id),
    ]


async def test_more_than_a_batch_in_order(house: Any, other: Other, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medianode.control.follow.BATCH", 3)
    shop = await house.projects.create("shop")
    follower = Follower(house.db, house.bus)
    await follower.start()
    async with other.db.write() as tx:
        for i in range(8):
            await announce(tx, Fact(type="link.revoked", project_id=shop.id, stream="s", at=0.0, data={"tokenId": f"l{i}"}))
    assert await followed(house, follower) == [TokenRevoked(shop.id, f"l{i}") for i in range(8)]


async def test_a_database_that_was_away_costs_nothing(house: Any, other: Other, monkeypatch: pytest.MonkeyPatch) -> None:
    shop = await house.projects.create("shop")
    follower = Follower(house.db, house.bus)
    await follower.start()
    async with other.db.write() as tx:
        await announce(tx, Fact(type="link.revoked", project_id=shop.id, stream="s", at=0.0, data={"tokenId": "l"}))

    def away() -> None:
        raise StorageError("away")

    with monkeypatch.context() as m:
        m.setattr(house.db, "read", away)
        with pytest.raises(StorageError):
            await follower.look()
    assert await followed(house, follower) == [TokenRevoked(shop.id, "l")]
