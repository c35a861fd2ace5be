from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import select, text, update

from medianode.control import deliveries as control
from medianode.control.deliveries import Deliveries
from medianode.control.webhooks import Change, NewEndpoint, Webhooks
from medianode.errors import Conflict, InvalidRequest, NotFound
from medianode.outbound import Outbound
from medianode.store import audit, outbox, schema
from medianode.store import deliveries as table
from medianode.store.deliveries import Filter
from medianode.webhooks.facts import Fact
from medianode.webhooks.outbox import announce


class Scene:
    """A project with an endpoint and what was announced to it; `finish` stands in for the engine."""

    def __init__(self, house: Any) -> None:
        self.db = house.db
        self.house = house
        self.told: list[Fact] = []
        self.deliveries = Deliveries(house.db, bound=7)

    async def open(self) -> Scene:
        async def lookup(host: str, port: int) -> list[str]:
            return ["93.184.216.34"]

        self.project = await self.house.projects.create("shop")
        self.webhooks = Webhooks(self.db, Outbound((), lookup), None, bound=9)  # type: ignore[arg-type]
        self.endpoint = (await self.webhooks.create(self.project, NewEndpoint(url="https://hooks.example.com/"))).endpoint
        return self

    async def tell(self, *streams: str, at: float = 1_800_000_000.0) -> None:
        for stream in streams:
            data = {"ingressId": stream, "kind": "rtmp", "room": "shop-a", "identity": "obs", "name": "", "door": "rtmp", "live": False}
            fact = Fact(type="ingress.connected", project_id=self.project.id, stream=stream, at=at, data=data)
            self.told.append(fact)
            async with self.db.write() as tx:
                await announce(tx, fact)

    async def finish(self, state: str, status: int | None = 200, *ids: int) -> None:
        where = [schema.deliveries.c.state == "pending", *([schema.deliveries.c.id.in_(ids)] if ids else [])]
        async with self.db.write() as tx:
            await tx.change(update(schema.deliveries).where(*where).values(state=state, status=status, done_at=1.0))
            left = select(schema.deliveries.c.stream).where(schema.deliveries.c.state == "pending")
            await tx.change(schema.delivery_lanes.delete().where(schema.delivery_lanes.c.stream.not_in(left)))

    def filter(self, **chosen: Any) -> Filter:
        return Filter(project_id=self.project.id, **{"endpoint_id": self.endpoint.id, **chosen})

    async def ids(self, **chosen: Any) -> list[int]:
        """Oldest first."""
        return [d.id for d in reversed(await self.deliveries.list(self.filter(**chosen), 100))]

    async def lanes(self) -> set[str]:
        async with self.db.read() as tx:
            return {row["stream"] for row in await tx.all(select(schema.delivery_lanes.c.stream))}


@pytest.fixture
async def scene(house: Any) -> Scene:
    return await Scene(house).open()


async def test_filters_and_pages(scene: Scene) -> None:
    await scene.tell("IN_a", "IN_b", at=1_800_000_000.0)
    await scene.tell("IN_a", at=1_800_000_100.0)
    first, second, third = await scene.ids()
    await scene.finish("delivered", 200, first)
    await scene.finish("dead", 503, second)
    for chosen, expected in (
        ({"states": ("delivered",)}, [first]),
        ({"states": ("dead", "pending")}, [second, third]),
        ({"type": "live.started"}, [first, second, third]),
        ({"type": "live.*"}, [first, second, third]),
        ({"type": "*.started"}, [first, second, third]),
        ({"type": "live_started"}, []),
        ({"type": "live.%*"}, []),
        ({"stream": "IN_a"}, [first, third]),
        ({"status": 503}, [second]),
        ({"since": 1_800_000_100.0}, [third]),
        ({"until": 1_800_000_100.0}, [first, second]),
        ({"event_id": scene.told[1].id}, [second]),
        ({"stream": "a\0b"}, []),
        ({"before_id": third}, [first, second]),
        ({"endpoint_id": "wh_none"}, []),
    ):
        assert await scene.ids(**chosen) == expected, chosen
    newest = await scene.deliveries.list(scene.filter(), 2)
    assert [d.id for d in newest] == [third, second]
    other = await scene.house.projects.create("other")
    assert await scene.deliveries.list(Filter(project_id=other.id), 10) == []
    with pytest.raises(NotFound):
        await scene.deliveries.open(other.id, first)
    assert (await scene.deliveries.open(scene.project.id, first)).delivery.event_id == scene.told[0].id


async def test_one_is_sent_again_with_the_same_id_and_bytes(scene: Scene) -> None:
    await scene.tell("IN_a")
    (first,) = await scene.ids()
    await scene.finish("dead", 500)
    assert await scene.lanes() == set()
    woken: list[str] = []
    scene.db.subscribe("outbox", lambda: woken.append("outbox"))
    again = await scene.deliveries.replay(scene.project.id, first)
    assert (again.state, again.attempts, again.status, again.replay_of, again.event_id) == ("pending", 0, None, first, scene.told[0].id)
    assert await scene.lanes() == {"IN_a"}
    assert woken == ["outbox"]
    old, new = await scene.deliveries.open(scene.project.id, first), await scene.deliveries.open(scene.project.id, again.id)
    assert old.body == new.body
    assert old.delivery.state == "dead"
    for pending in (first, again.id):
        assert (await scene.deliveries.replay(scene.project.id, pending)).id == again.id, "it is not doubled"
    await scene.finish("delivered")
    third = await scene.deliveries.replay(scene.project.id, again.id)
    assert third.replay_of == first
    async with scene.db.read() as tx:
        assert len(await audit.before(tx, 10, action="delivery.replayed")) == 4


async def test_a_pending_one_that_waits_is_hurried_up(scene: Scene, time: Any) -> None:
    await scene.tell("IN_a")
    (first,) = await scene.ids()
    async with scene.db.write() as tx:
        await tx.change(update(schema.delivery_lanes).values(failures=4, next_at=time.wall + 5000))
    assert (await scene.deliveries.replay(scene.project.id, first)).id == first
    async with scene.db.read() as tx:
        row = await tx.first(select(schema.delivery_lanes))
    assert row is not None
    assert row["failures"] == 0
    assert row["next_at"] < time.wall


async def test_a_range_in_the_order_of_the_first_time(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "BATCH", 2)
    await scene.tell("IN_a", "IN_b", "IN_a", "IN_b", at=1_800_000_000.0)
    await scene.tell("IN_a", at=1_800_000_100.0)
    first = await scene.ids()
    await scene.finish("delivered")
    cursor = (await scene.deliveries.open(scene.project.id, first[1])).delivery.cursor
    done = await scene.deliveries.replay_all(scene.filter(after_cursor=cursor))
    assert (done.count, done.next_id) == (3, None)
    again = [d for d in reversed(await scene.deliveries.list(scene.filter(), 100)) if d.replay_of]
    assert [d.replay_of for d in again] == first[2:]
    assert [d.event_id for d in again] == [fact.id for fact in scene.told[2:]]
    assert (await scene.deliveries.replay_all(scene.filter(since=0.0))).count == 2, "three are pending and not doubled"
    await scene.finish("dead", 500)
    assert (await scene.deliveries.replay_all(scene.filter(since=1_800_000_100.0))).count == 1, "repetitions are not repeated"
    await scene.finish("delivered")
    assert (await scene.deliveries.replay_all(scene.filter(ids=(first[0], first[4], 99_999)))).count == 2
    await scene.finish("delivered")
    assert (await scene.deliveries.replay_all(scene.filter(states=("dead",)))).count == 0
    assert (await scene.deliveries.replay_all(scene.filter(since=0.0, until=1_800_000_050.0))).count == 4


async def test_the_bound_of_one_request(scene: Scene) -> None:
    await scene.tell(*(f"IN_{i}" for i in range(10)))
    first = await scene.ids()
    await scene.finish("delivered")
    done = await scene.deliveries.replay_all(scene.filter(after_cursor=0))
    assert (done.count, done.next_id) == (7, first[6])
    rest = await scene.deliveries.replay_all(scene.filter(after_cursor=0, after_id=done.next_id))
    assert (rest.count, rest.next_id) == (3, None)
    assert len(await scene.ids(states=("pending",))) == 10


async def test_what_cannot_be_sent_again(scene: Scene) -> None:
    await scene.tell("IN_a")
    (first,) = await scene.ids()
    await scene.finish("dead")
    for bad in ({}, {"states": ("pending",)}, {"ids": tuple(range(1, 502))}, {"type": "live.*"}):
        with pytest.raises(InvalidRequest):
            await scene.deliveries.replay_all(scene.filter(**bad))
    with pytest.raises(NotFound):
        await scene.deliveries.replay_all(scene.filter(endpoint_id="wh_none", since=0.0))
    with pytest.raises(NotFound):
        await scene.deliveries.replay(scene.project.id, 99_999)
    await scene.webhooks.change(scene.project, scene.endpoint.id, Change(enabled=False))
    for call in (scene.deliveries.replay(scene.project.id, first), scene.deliveries.replay_all(scene.filter(since=0.0))):
        with pytest.raises(Conflict) as caught:
            await call
        assert caught.value.code == "webhook-disabled"
    await scene.webhooks.change(scene.project, scene.endpoint.id, Change(enabled=True))
    async with scene.db.write() as tx:
        await tx.change(update(schema.deliveries).values(cursor=0))
    assert (await scene.deliveries.replay_all(scene.filter(since=0.0))).count == 0, "a test"
    with pytest.raises(Conflict) as caught:
        await scene.deliveries.replay(scene.project.id, first)
    assert caught.value.code == "delivery-is-test"


async def test_pending_ones_are_called_off(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "BATCH", 2)
    await scene.tell("IN_a", "IN_b", "IN_a", "IN_a", "IN_a")
    first = await scene.ids()
    await scene.finish("delivered", 200, first[0])
    assert (await scene.deliveries.cancel(scene.project.id, first[1])).state == "cancelled"
    assert (await scene.deliveries.cancel(scene.project.id, first[1])).state == "cancelled", "twice is harmless"
    with pytest.raises(Conflict) as caught:
        await scene.deliveries.cancel(scene.project.id, first[0])
    assert caught.value.code == "delivery-done"
    with pytest.raises(NotFound):
        await scene.deliveries.cancel((await scene.house.projects.create("other")).id, first[2])
    assert await scene.deliveries.cancel_all(scene.filter(stream="IN_none")) == 0
    assert await scene.deliveries.cancel_all(scene.filter(stream="a\0b")) == 0
    assert await scene.deliveries.cancel_all(scene.filter()) == 3
    assert await scene.ids(states=("cancelled",)) == first[1:]
    with pytest.raises(NotFound):
        await scene.deliveries.cancel_all(scene.filter(endpoint_id="wh_none"))
    assert (await scene.deliveries.replay_all(scene.filter(states=("cancelled",)))).count == 4


async def test_looking_costs_indices(scene: Scene) -> None:
    """100 000 rows must not be walked to see whether something is being repeated already."""
    await scene.tell("IN_a")
    statement = "SELECT 1 FROM deliveries WHERE replay_of = 5 AND state = 'pending'"
    async with scene.db.write() as tx:
        if tx.dialect == "sqlite":
            plan = await tx.all(text(f"EXPLAIN QUERY PLAN {statement}"))
        else:
            await tx.change(text("SET LOCAL enable_seqscan = off"))  # its planner scans tables as small as this one
            plan = await tx.all(text(f"EXPLAIN {statement}"))
    assert "ix_deliveries_replay_of" in str([dict(row) for row in plan])
    async with scene.db.read() as tx:
        assert (await table.waiting(tx, [scene.endpoint.id]))[scene.endpoint.id].pending == 1


async def test_a_project_goes_with_what_it_was_sent_some_at_a_time(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medianode.control.projects.BATCH", 2)
    await scene.tell(*"abcde")
    with pytest.raises(InvalidRequest, match="confirm"):
        await scene.house.projects.delete("shop", "shob")
    assert len(await scene.ids()) == 5
    assert (await scene.webhooks.get(scene.project.id, scene.endpoint.id))[0].enabled
    gone: dict[str, list[int]] = {"deliveries": [], "events": []}

    def spied(name: str, forget: Any) -> Any:
        async def call(*arguments: Any) -> int:
            met: int = await forget(*arguments)
            gone[name].append(met)
            return met

        return call

    monkeypatch.setattr(table, "forget", spied("deliveries", table.forget))
    monkeypatch.setattr(outbox, "forget_project", spied("events", outbox.forget_project))
    await scene.house.projects.delete("shop", "shop")
    assert gone["deliveries"] == [2, 2, 1]
    assert gone["events"] == [2, 2, 2, 0]  # its own creation was told too
    assert await scene.deliveries.list(Filter(project_id=scene.project.id), 10) == []
