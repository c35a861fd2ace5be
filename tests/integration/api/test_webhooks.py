"""Endpoints, deliveries and their replay over the wire. The sender stands still; the engine's own tests send."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from sqlalchemy import update

from medianode.config import Config, Limits
from medianode.store import outbox, schema
from medianode.webhooks.facts import Fact
from medianode.webhooks.outbox import announce
from medianode.webhooks.sender import Answer

HOOKS = "/api/v1/apps/live/webhooks"
DELIVERIES = "/api/v1/apps/live/deliveries"
URL = "https://hooks.example.com/media?token=verysecret&plain"


async def register(house: Any, **more: Any) -> Any:
    answer = await house.ask("POST", HOOKS, {"url": URL, **more}, key=house.admin)
    assert answer.status == 201, answer.body
    return answer.data


async def tell(house: Any, *streams: str, kind: str = "ingress.connected") -> list[Fact]:
    project = await house.projects.get("live")
    told = []
    for stream in streams:
        data = {"ingressId": stream, "kind": "rtmp", "room": "live-a", "identity": "obs", "name": "", "door": "rtmp", "live": False}
        told.append(Fact(type=kind, project_id=project.id, stream=stream, at=1_800_000_000.0, data=data))
        async with house.db.write() as tx:
            await announce(tx, told[-1])
    return told


async def settle(house: Any, state: str, status: int) -> None:
    async with house.db.write() as tx:
        where = schema.deliveries.c.state == "pending"
        await tx.change(update(schema.deliveries).where(where).values(state=state, status=status, attempts=1, done_at=1.0))


async def test_an_endpoint_s_life(house: Any) -> None:
    made = await register(house, name="billing", events=["live.*"], headers={"X-Tenant": "tenant-seven"})
    assert made == {
        "id": made["id"],
        "name": "billing",
        "url": "https://hooks.example.com/media?token=…&…",
        "events": ["live.*"],
        "dialect": "baxcloud",
        "profile": "seed",
        "enabled": True,
        "signed": True,
        "previousSecretUntil": None,
        "headers": {"X-Tenant": "…"},
        "probeStatus": None,
        "probeError": "",
        "pending": 0,
        "pendingSince": None,
        "failing": 0,
        "nextAttemptAt": None,
        "createdAt": made["createdAt"],
        "updatedAt": made["updatedAt"],
        "secret": made["secret"],
        "warnings": [],
    }
    one = f"{HOOKS}/{made['id']}"
    listed = await house.ask("GET", HOOKS)
    assert [e["id"] for e in listed.data] == [made["id"]]
    shown = (await house.ask("GET", one)).data
    for secret in (made["secret"], "verysecret", "tenant-seven"):
        assert secret not in str(listed.body) + str(shown)
    changed = await house.ask("PATCH", one, {"enabled": False, "events": ["live.ended"], "headers": None}, key=house.admin)
    assert (changed.data["enabled"], changed.data["events"], changed.data["headers"]) == (False, ["live.ended"], {"X-Tenant": "…"})
    rotated = (await house.ask("POST", f"{one}/secret", {"overlap": 3600}, key=house.admin)).data
    assert rotated["secret"].startswith("whsec_")
    assert rotated["secret"] != made["secret"]
    assert rotated["previousSecretUntil"] is not None
    assert "secret" not in (await house.ask("GET", one)).data
    unsigned = (await house.ask("POST", f"{one}/secret", {"secret": None}, key=house.admin)).data
    assert (unsigned["signed"], unsigned.get("secret"), unsigned["previousSecretUntil"]) == (False, None, None)
    gone = await house.ask("DELETE", one, key=house.admin)
    assert (gone.status, gone.data["id"]) == (200, made["id"])
    assert (await house.ask("GET", one)).status == 404


async def test_secrets_null_own_and_minted(house: Any) -> None:
    assert (await register(house, secret=None))["signed"] is False
    own = await register(house, secret="my-own-secret-of-old")
    assert (own["signed"], "secret" in own) == (True, False)
    refused = await house.ask("POST", HOOKS, {"url": URL, "secret": "short"}, key=house.admin)
    assert refused.status == 400
    assert "short" not in str(refused.body)
    fastpix = await register(house, dialect="fastpix")
    assert len(fastpix["secret"]) == 44
    assert house.sender.sent[-1][3:] == (b"{}", None)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "url: expected"),
        ({"url": "https://10.0.0.1/"}, "private or special address"),
        ({"url": "http://169.254.169.254/latest"}, "private or special address"),
        ({"url": "gopher://x/"}, "url: expected https://"),
        ({"url": URL, "events": ["live.strated"]}, "did you mean live.started"),
        ({"url": URL, "events": []}, "events: expected"),
        ({"url": URL, "dialect": "mux"}, "dialect: expected one of"),
        ({"url": URL, "profile": "2026"}, "profile: expected seed for baxcloud"),
        ({"url": URL, "headers": {"Host": "x"}}, "headers: Host is set by the node"),
        ({"url": URL, "headers": {"a": "b\r\nc: d"}}, "headers: a:"),
        ({"url": URL, "headers": {f"X-{i}": "" for i in range(21)}}, "headers: expected"),
    ],
)
async def test_what_is_refused_says_why(house: Any, body: dict[str, Any], said: str) -> None:
    refused = await house.ask("POST", HOOKS, body, key=house.admin)
    assert refused.status == 400
    assert said in str(refused.body["message"])
    assert (await house.ask("GET", HOOKS)).data == []


async def test_who_may(make_house: Any) -> None:
    house = await make_house(Config(limits=Limits(webhook_endpoints=1)))
    assert (await house.ask("POST", HOOKS, {"url": URL})).status == 403, "a live key reads only"
    made = await register(house)
    quota = await house.ask("POST", HOOKS, {"url": URL}, key=house.admin)
    assert (quota.status, quota.headers["X-Error-Code"]) == (403, "webhook-quota")
    one = f"{HOOKS}/{made['id']}"
    foreign = await house.key("admin", project="other")
    for method, path, body in (
        ("GET", HOOKS, None),
        ("GET", one, None),
        ("PATCH", one, {"enabled": False}),
        ("POST", f"{one}/secret", {}),
        ("POST", f"{one}/test", {}),
        ("POST", f"{one}/replay", {"after": 0}),
        ("DELETE", one, None),
        ("GET", DELIVERIES, None),
    ):
        assert (await house.ask(method, path, body, key=foreign)).status == 403, path
        assert (await house.ask(method, path.replace("/live/", "/other/"), body, key=foreign)).status in (404, 200), path
        assert (await house.ask(method, path, body, key="")).status == 401, path
    assert (await house.ask("GET", HOOKS.replace("/live/", "/other/"), key=foreign)).data == []
    assert (await house.ask("GET", one)).data["enabled"] is True
    view = await house.key("view", project="live")
    assert (await house.ask("GET", HOOKS, key=view)).status == 403


async def test_test_fire_tells_what_came_back(house: Any) -> None:
    made = await register(house, events=["live.ended"])
    one = f"{HOOKS}/{made['id']}/test"
    good = (await house.ask("POST", one, {}, key=house.admin)).data
    assert (good["delivered"], good["event"], good["status"], good["excerpt"]) == (True, "webhook.test", 200, "ok")
    house.sender.answer = Answer(error="timeout: no whole answer within 10 s", latency=10.0)
    bad = (await house.ask("POST", one, {"event": "live.started"}, key=house.admin)).data
    assert (bad["delivered"], bad["status"], bad["latency"], bad["error"]) == (False, None, 10.0, "timeout: no whole answer within 10 s")
    assert (await house.ask("POST", one, {"event": "live.begun"}, key=house.admin)).status == 400
    listed = (await house.ask("GET", f"{DELIVERIES}?endpoint={made['id']}")).body
    assert [(d["id"], d["event"], d["state"], d["cursor"]) for d in listed["data"]] == [
        (bad["deliveryId"], "live.started", "dead", 0),
        (good["deliveryId"], "webhook.test", "delivered", 0),
    ]


async def test_deliveries_are_listed_by_page_and_filter(house: Any) -> None:
    made = await register(house)
    facts = await tell(house, "IN_a", "IN_b", "IN_a", "IN_a")
    first = (await house.ask("GET", f"{DELIVERIES}?limit=3")).body
    assert [d["eventId"] for d in first["data"]] == [f.id for f in reversed(facts)][:3]
    rest = (await house.ask("GET", f"{DELIVERIES}?limit=3&before={first['next']}")).body
    assert ([d["eventId"] for d in rest["data"]], rest["next"]) == ([facts[0].id], None)
    await settle(house, "dead", 503)
    for query, count in (
        (f"endpoint={made['id']}", 4),
        ("endpoint=wh_other", 0),
        ("state=dead", 4),
        ("state=pending", 0),
        ("event=live.*", 4),
        ("event=live.ended", 0),
        ("stream=IN_a", 3),
        ("status=503", 4),
        ("status=200", 0),
        (f"eventId={facts[1].id}", 1),
        ("since=2027-01-15T08:00:00Z", 4),
        ("since=2027-01-15T08:00:00.001Z", 0),
        ("until=2027-01-15T08:00:00%2B00:00", 0),
    ):
        assert len((await house.ask("GET", f"{DELIVERIES}?{query}")).body["data"]) == count, query
    for query in ("state=lost", "since=yesterday", "since=2027-01-15T08:00:00", "before=0", "limit=501", "event=%25", "status=20"):
        assert (await house.ask("GET", f"{DELIVERIES}?{query}")).status == 400, query


async def test_one_whole_but_for_keys(house: Any) -> None:
    await register(house, dialect="fastpix", probe=False)
    project = await house.projects.get("live")
    body = {
        "id": "x",
        "data": {"streamKey": "abcdef0123456789", "srtSecret": "short", "playbackIds": [{"id": "p"}], "url": "rtmp://a.b/live/KEY"},
    }
    (delivery,) = await stored(house, project.id, msgspec.json.encode(body))
    one = (await house.ask("GET", f"{DELIVERIES}/{delivery}")).data
    assert one["body"] == {
        "id": "x",
        "data": {"streamKey": "abcd…", "srtSecret": "…", "playbackIds": [{"id": "p"}], "url": "rtmp://a.b/live/…"},
    }
    assert one["delivery"]["id"] == delivery
    for absent in ("0", "99999", "x", "1" * 16, "-1", "%C2%B2"):
        assert (await house.ask("GET", f"{DELIVERIES}/{absent}")).status == 404, absent


async def stored(house: Any, project_id: str, body: bytes) -> list[int]:
    endpoint = (await house.ask("GET", HOOKS)).data[0]["id"]
    letter = outbox.Letter(endpoint_id=endpoint, project_id=project_id, event_id="e", cursor=1, stream="s", type="t", body=body)
    async with house.db.write() as tx:
        return [await outbox.enqueue(tx, letter, 1.0)]


async def test_replay_and_cancel(house: Any) -> None:
    made = await register(house)
    facts = await tell(house, "IN_a", "IN_b", "IN_a")
    ids = [d["id"] for d in reversed((await house.ask("GET", DELIVERIES)).body["data"])]
    cancelled = await house.ask("DELETE", f"{DELIVERIES}/{ids[0]}", key=house.admin)
    assert (cancelled.status, cancelled.data["state"]) == (200, "cancelled")
    assert (await house.ask("DELETE", DELIVERIES, key=house.admin)).status == 400, "of which endpoint?"
    assert (await house.ask("DELETE", f"{DELIVERIES}?endpoint={made['id']}&stream=IN_b", key=house.admin)).data == {"cancelled": 1}
    await settle(house, "delivered", 200)
    done = await house.ask("DELETE", f"{DELIVERIES}/{ids[2]}", key=house.admin)
    assert (done.status, done.headers["X-Error-Code"]) == (409, "delivery-done")
    again = await house.ask("POST", f"{DELIVERIES}/{ids[2]}/replay", key=house.admin)
    assert (again.status, again.data["state"], again.data["eventId"], again.data["replayOf"]) == (200, "pending", facts[2].id, ids[2])
    replay = f"{HOOKS}/{made['id']}/replay"
    assert (await house.ask("POST", replay, {"state": "cancelled"}, key=house.admin)).data == {"replayed": 2, "next": None}
    await settle(house, "delivered", 200)
    assert (await house.ask("POST", replay, {"after": 0, "event": "live.*"}, key=house.admin)).data == {"replayed": 3, "next": None}
    await settle(house, "delivered", 200)
    assert (await house.ask("POST", replay, {"ids": ids[:2], "from": ids[0]}, key=house.admin)).data == {"replayed": 1, "next": None}
    for bad in ({}, {"state": "pending"}, {"since": "x"}, {"ids": [0]}, {"ids": list(range(1, 502))}):
        assert (await house.ask("POST", replay, bad, key=house.admin)).status == 400, bad
    await house.ask("PATCH", f"{HOOKS}/{made['id']}", {"enabled": False}, key=house.admin)
    off = await house.ask("POST", replay, {"after": 0}, key=house.admin)
    assert (off.status, off.headers["X-Error-Code"]) == (409, "webhook-disabled")
    assert (await house.ask("POST", f"{HOOKS}/wh_none/replay", {"after": 0}, key=house.admin)).status == 404
