"""Which sources a node fetches: always or on demand, one node each, an outage told once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from medianode import clock
from medianode.auth import Door
from medianode.config import Limits
from medianode.config import Pull as Settings
from medianode.control.pulls import Pulls
from medianode.control.sources import PullChange, PullOptions, Sources, masked_source
from medianode.errors import InvalidRequest, StorageError
from medianode.ingress.pull.order import PullOrder, PullState
from medianode.outbound import Outbound
from medianode.routing.demand import Outlook
from medianode.routing.registry import Registry
from medianode.store import nodes, outbox
from medianode.store import pulls as table
from medianode.store.ingresses import Ingress
from medianode.store.nodes import Node

URL = "rtsp://u:secret@192.0.2.1/cam"


class Fetching:
    """A PullService that does as it is told."""

    def __init__(self) -> None:
        self.on_state: Callable[[str, PullState], None] = lambda ingress_id, state: None
        self.orders: dict[str, PullOrder] = {}
        self.states: dict[str, PullState] = {}
        self.opened: list[str] = []

    def open(self, order: PullOrder) -> None:
        self.orders[order.ingress_id] = order
        self.opened.append(order.url)
        self.tell(order.ingress_id, "opening")

    async def close(self, ingress_id: str) -> None:
        self.orders.pop(ingress_id, None)
        self.states.pop(ingress_id, None)

    def state(self, ingress_id: str) -> PullState | None:
        return self.states.get(ingress_id)

    def tell(self, ingress_id: str, state: Any, code: str = "") -> None:
        self.states[ingress_id] = PullState(state=state, code=code, message=code and f"{code}!", transport="tcp", since=clock.wallclock())
        self.on_state(ingress_id, self.states[ingress_id])


class Desk:
    """One node's Pulls over the house's database."""

    def __init__(self, house: Any, node_id: str = "a") -> None:
        self.registry = Registry(house.bus, Limits(), demand_wait=0.01)
        self.fetching = Fetching()
        self.pulls = Pulls(house.db, house.bus, self.registry, house.gate.pull, node_id, Settings(on_demand_idle=10.0), 2)
        self.pulls.puller = self.fetching
        self.at = 1000.0

    async def look(self, seconds: float = 11.0) -> None:
        self.at += seconds
        await self.pulls.look(self.at)


@pytest.fixture
async def desk(house: Any) -> Desk:
    await seen(house, "a")
    return Desk(house)


async def seen(house: Any, node_id: str) -> None:
    async with house.db.write() as tx:
        await nodes.join(tx, Node(id=node_id, started_at=1.0, seen_at=1.0))


async def source(house: Any, name: str = "cam", **options: Any) -> Ingress:
    project = await house.projects.find("live") or await house.projects.create("live", "Live")
    made: Ingress = await house.ingresses.create(project, Door.URL, name, name, url=URL, pull=options)
    return made


async def facts(house: Any) -> list[str]:
    async with house.db.read() as tx:
        stored = await outbox.after(tx, 0, 1000)
    return [event.type for event in stored if event.type.startswith("pull.")]


async def test_a_source_is_fetched_until_it_is_disabled_and_again_when_it_is_changed(house: Any, desk: Desk) -> None:
    made = await source(house)
    await desk.look()
    assert desk.fetching.orders[made.id].url == URL
    assert "secret" not in repr(desk.fetching.orders[made.id])
    await desk.look()
    assert len(desk.fetching.opened) == 1, "the same again is nothing"
    sources = Sources(house.ingresses, Outbound(("192.0.2.0/24",)))
    await sources.change(made.project_id, made.id, PullChange(url="rtsp://192.0.2.1/other", transport="tcp"))
    await desk.look(0.1)
    assert desk.fetching.orders[made.id].url == "rtsp://192.0.2.1/other"
    await house.ingresses.set_disabled(made.project_id, made.id, True)
    await desk.look(0.1)
    assert not desk.fetching.orders
    await house.ingresses.set_disabled(made.project_id, made.id, False)
    await desk.look(0.1)
    assert made.id in desk.fetching.orders
    await house.ingresses.delete(made.project_id, made.id)
    await desk.look(0.1)
    assert not desk.fetching.orders


async def test_one_on_demand_is_opened_by_who_asks_and_closed_some_seconds_after(
    house: Any, desk: Desk, monkeypatch: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "medianode.control.pulls")
    monkeypatch.setattr(clock, "now", lambda: desk.at)
    made = await source(house, onDemand=True)
    await desk.look()
    assert not desk.fetching.orders
    assert desk.pulls.state(made).state == "stopped"
    assert not desk.pulls.demand(made.project_id, "live-elsewhere")
    for _ in range(50):
        assert desk.pulls.demand(made.project_id, made.room)
    await desk.look(0.1)
    assert len(desk.fetching.opened) == 1
    with desk.registry.demand.keep(made.project_id, made.room):
        await desk.look(60.0)
        assert desk.fetching.orders
    await desk.look(9.0)
    assert desk.fetching.orders
    await desk.look(2.0)
    assert not desk.fetching.orders
    assert caplog.messages == ["a source is closed: nobody has watched it for 10 s"]


async def test_viewers_are_told_what_they_may_hope_for_which_opens_nothing(house: Any, desk: Desk, monkeypatch: Any) -> None:
    monkeypatch.setattr(clock, "now", lambda: desk.at)
    made = await source(house, onDemand=True)
    where = (made.project_id, made.room)
    await desk.look()
    assert desk.pulls.outlook(made.project_id, "live-elsewhere") == Outlook()
    assert desk.pulls.outlook(*where) == Outlook("idle", on_demand=True)
    await desk.look(0.1)
    assert not desk.fetching.orders
    desk.pulls.demand(*where)
    assert desk.pulls.outlook(*where).state == "opening", "before its turn has come, too"
    await desk.look(0.1)
    for state, code, told in (("waiting", "refused", "failing"), ("opening", "refused", "failing"), ("running", "", "opening")):
        desk.fetching.tell(made.id, state, code)
        assert desk.pulls.outlook(*where) == Outlook(told, on_demand=True)  # type: ignore[arg-type] # of these words
    await desk.look(60.0)
    assert desk.pulls.outlook(*where).state == "idle"
    await house.ingresses.set_disabled(made.project_id, made.id, True)
    await desk.look(0.1)
    assert desk.pulls.outlook(*where) == Outlook()


async def test_an_outage_is_told_once_and_so_is_its_end(house: Any, desk: Desk) -> None:
    made = await source(house)
    await desk.look()
    down, up = ("waiting", "unreachable"), ("running", "")
    for state, code in (up, down, ("opening", ""), ("waiting", "timeout"), up, up):
        desk.fetching.tell(made.id, state, code)
        await desk.look(0.1)
    assert await facts(house) == ["pull.connected", "pull.failed", "pull.connected"]
    desk.fetching.tell(made.id, "waiting", "unreachable")
    await desk.look(0.1)
    state = desk.pulls.state(made)
    assert (state.state, state.code, state.message) == ("waiting", "unreachable", "unreachable!")


async def test_two_nodes_share_the_sources_and_one_takes_over_where_the_other_is_gone(house: Any, desk: Desk) -> None:
    await seen(house, "b")
    other = Desk(house, "b")
    made = await source(house)
    await desk.look()
    desk.fetching.tell(made.id, "waiting", "unreachable")
    await desk.look(0.1)
    await other.look()
    assert not other.fetching.orders
    assert other.pulls.state(made).code == "unreachable", "how it goes is told by every node"
    async with house.db.write() as tx:
        (node,) = [node for node in await nodes.all_nodes(tx) if node.id == "a"]
        await nodes.give_up(tx, node)
    await other.look()
    assert made.id in other.fetching.orders
    await desk.look()
    assert not desk.fetching.orders, "it was only cut off, and sees that another has it"
    other.fetching.tell(made.id, "waiting", "unreachable")
    await other.look(0.1)
    assert await facts(house) == ["pull.failed"], "the outage was told by the node before"


async def test_of_two_nodes_that_look_at_once_one_has_it(house: Any, desk: Desk) -> None:
    await seen(house, "b")
    other = Desk(house, "b")
    made = {(await source(house, name)).id for name in ("one", "two")}
    await asyncio.gather(desk.look(), other.look())
    assert sorted([*desk.fetching.orders, *other.fetching.orders]) == sorted(made)


@pytest.mark.parametrize("end", ["killed", "database away"])
async def test_what_a_node_fetches_no_more_may_be_fetched_by_others(house: Any, desk: Desk, monkeypatch: Any, end: str) -> None:
    await seen(house, "b")
    other = Desk(house, "b")
    monkeypatch.setattr(clock, "now", lambda: max(desk.at, other.at))
    made = await source(house, onDemand=True)
    where = (made.project_id, made.room)
    await desk.look()
    desk.pulls.demand(*where)
    await desk.look(0.1)
    await other.look()
    assert not other.pulls.demand(*where), "the other has it"
    if end == "killed":
        desk = Desk(house)
    else:
        release = table.release

        async def away(*_: Any) -> None:
            monkeypatch.setattr(table, "release", release)
            raise StorageError("away")

        monkeypatch.setattr(table, "release", away)
        with pytest.raises(StorageError):
            await desk.look(60.0)
    await desk.look()
    await other.look()
    assert other.pulls.demand(*where)
    await other.look(0.1)
    assert made.id in other.fetching.orders


async def test_no_node_fetches_more_than_its_bound_and_says_so(house: Any, desk: Desk) -> None:
    rows = [await source(house, name) for name in ("one", "two", "three")]
    await desk.look()
    assert len(desk.fetching.orders) == 2
    (left,) = [row for row in rows if row.id not in desk.fetching.orders]
    assert desk.pulls.state(left).code == "node-full"
    await house.ingresses.delete(rows[0].project_id, rows[0].id)
    await desk.look()
    assert left.id in desk.fetching.orders
    assert desk.pulls.state(left).code == ""


async def test_one_that_nobody_wants_any_more_is_refused_no_more(house: Any, desk: Desk, monkeypatch: Any) -> None:
    monkeypatch.setattr(clock, "now", lambda: desk.at)
    for name in ("one", "two"):
        await source(house, name)
    made = await source(house, "three", onDemand=True)
    await desk.look()
    desk.pulls.demand(made.project_id, made.room)
    await desk.look(0.1)
    assert desk.pulls.state(made).code == "node-full"
    assert desk.pulls.outlook(made.project_id, made.room).state == "failing"
    await desk.look(60.0)
    assert (desk.pulls.state(made).state, desk.pulls.state(made).code) == ("stopped", "")
    assert desk.pulls.outlook(made.project_id, made.room).state == "idle"


async def test_its_options_are_checked(house: Any) -> None:
    sources = Sources(house.ingresses, Outbound(("192.0.2.0/24",)))
    assert await sources.check(URL, PullOptions(on_demand=True, transport="udp")) == {"onDemand": True, "transport": "udp"}
    for url, options in (("http://192.0.2.1/a.ts", PullOptions("udp")), ("rtsp://10.0.0.1/a", PullOptions()), ("", PullOptions())):
        with pytest.raises(InvalidRequest) as refused:
            await sources.check(url, options)
        assert "secret" not in refused.value.message


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("rtsp://u:p@ss@192.0.2.1:554/a?x=1", "rtsp://u:***@192.0.2.1:554/a?x=***"),
        ("rtsp://:pass@192.0.2.1/a", "rtsp://***@192.0.2.1/a"),
        ("srt://192.0.2.1:9000?passphrase=long&mode=caller", "srt://192.0.2.1:9000?passphrase=***&mode=***"),
        ("rtmp://192.0.2.1/live/key", "rtmp://192.0.2.1/live/***"),
        ("rtsp://192.0.2.1/user=admin_password=tl_J6_channel=1.sdp?real", "rtsp://192.0.2.1/user=admin_password=***_channel=1.sdp?***"),
        ("http://192.0.2.1/token=abc/x.m3u8", "http://192.0.2.1/token=***/x.m3u8"),
        ("https://[2001:db8::1]/cam.m3u8?token", "https://[2001:db8::1]/cam.m3u8?***"),
    ],
)
def test_what_is_secret_in_a_url_is_not_shown(url: str, shown: str) -> None:
    assert masked_source(url) == shown
