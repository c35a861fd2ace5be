"""Keys, projects, view links and the audit log by HTTP, as an operator and a tenant use them."""

from __future__ import annotations

import base64
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from medianode import clock
from medianode.config import Config, Http

KEYS = "/api/v1/keys"
LINKS = "/api/v1/apps/live/view-links"


async def test_a_key_is_made_rotated_and_revoked(house: Any) -> None:
    wanted = {"name": "backend", "permissions": ["live"], "project": "live", "ttl": "90d", "allowedAddresses": ["127.0.0.1", "10.0.0.0/8"]}
    made = await house.ask("POST", KEYS, wanted, key=house.admin)
    assert (made.status, made.data["allowedAddresses"]) == (201, ["127.0.0.1/32", "10.0.0.0/8"])
    assert 89 * 86_400 < clock.seconds(made.data["expiresAt"]) - clock.wallclock() < 91 * 86_400
    old = made.data["key"]
    assert (await house.ask("GET", "/api/v1/sessions", key=old)).status == 200
    turned = await house.ask("POST", f"{KEYS}/{made.data['id']}/rotate", {"overlap": "10m"}, key=house.admin)
    assert (turned.status, turned.data["id"]) == (200, made.data["id"])
    for text in (old, turned.data["key"]):
        assert (await house.ask("GET", "/api/v1/sessions", key=text)).status == 200
    again = await house.ask("POST", f"{KEYS}/{made.data['id']}/rotate", {"overlap": 0}, key=house.admin)
    refused = await house.ask("GET", "/api/v1/sessions", key=turned.data["key"])
    assert (refused.status, refused.headers["X-Error-Code"]) == (401, "key-expired")
    basic = base64.b64encode(f"{made.data['id']}:{again.data['key']}".encode()).decode()
    assert (await house.ask("GET", "/api/v1/sessions", key="", headers={"Authorization": f"Basic {basic}"})).status == 200
    listed = (await house.ask("GET", KEYS, key=house.admin)).data
    assert all("key" not in k for k in listed)
    assert (await house.ask("DELETE", f"{KEYS}/{made.data['id']}", key=house.admin)).data["revokedAt"] is not None
    assert (await house.ask("GET", "/api/v1/sessions", key=again.data["key"])).headers["X-Error-Code"] == "key-revoked"
    actions = [(e["action"], e["target"]) for e in (await house.ask("GET", "/api/v1/audit?limit=4", key=house.admin)).data]
    assert actions == [(f"key.{what}", made.data["id"]) for what in ("revoked", "rotated", "rotated", "created")]


async def test_a_key_from_elsewhere_and_one_that_expired(house: Any) -> None:
    away = await house.keys.create("away", ["live"], "live", allowed_addresses=["203.0.113.0/24"])
    refused = await house.ask("GET", "/api/v1/sessions", key=away.secret)
    assert (refused.status, refused.headers["X-Error-Code"]) == (403, "address-not-allowed")


@pytest.mark.parametrize(
    "wrong",
    [
        {"expiresAt": "tomorrow"},
        {"expiresAt": "2020-01-01T00:00:00Z"},
        {"expiresAt": "2099-01-01T00:00:00"},
        {"expiresAt": "2099-01-01T00:00:00Z", "ttl": "1d"},
        {"ttl": "soon"},
        {"allowedAddresses": ["here"]},
        {"allowedAddresses": []},
        {"permissions": ["root"]},
        {"permissions": []},
    ],
)
async def test_a_key_that_cannot_be(house: Any, wrong: dict[str, Any]) -> None:
    answer = await house.ask("POST", KEYS, {"name": "k", "permissions": ["live"], **wrong}, key=house.admin)
    assert (answer.status, isinstance(answer.body["message"], list)) == (400, True)


async def test_a_tenants_admin_stays_in_its_project(house: Any) -> None:
    tenant = await house.key("admin", project="live")
    made = await house.ask("POST", KEYS, {"name": "k", "permissions": ["admin"]}, key=tenant)
    live = await house.projects.get("live")
    assert (made.status, made.data["project"]) == (201, live.id)
    assert (await house.ask("POST", KEYS, {"name": "k", "permissions": ["admin"], "project": "other"}, key=tenant)).status == 404
    foreign = (await house.keys.create("f", ["live"], "other")).key.id
    for method, path in (("POST", f"{KEYS}/{foreign}/rotate"), ("DELETE", f"{KEYS}/{foreign}"), ("POST", f"{KEYS}/none/rotate")):
        assert (await house.ask(method, path, {} if method == "POST" else None, key=tenant)).status == 404
    assert (await house.ask("GET", "/api/v1/projects/other", key=tenant)).status == 404
    one = "/api/v1/projects/live"
    assert (await house.ask("PATCH", one, {"limits": {"viewers": None}}, key=tenant)).status == 403
    assert (await house.ask("PATCH", one, {"storage": {"type": "directory", "path": "/etc"}}, key=tenant)).status == 403
    assert (await house.ask("DELETE", f"{one}?confirm=live", key=tenant)).status == 403
    assert (await house.ask("PATCH", one, {"viewing": "signed"}, key=tenant)).data["viewing"] == "signed"
    assert {e["project"] for e in (await house.ask("GET", "/api/v1/audit", key=tenant)).data} == {live.id}
    assert (await house.ask("GET", "/api/v1/apps/other/audit", key=tenant)).status == 403
    assert (await house.ask("GET", "/api/v1/audit", key=house.live)).status == 403
    for path, body in ((KEYS, {"name": "k", "permissions": ["view"]}), ("/api/v1/projects", {"slug": "x"})):
        assert (await house.ask("POST", path, body, key=house.live)).status == 403


async def test_a_projects_limits_and_storage(house: Any) -> None:
    s3 = {"type": "s3", "bucket": "media-1", "accessKey": "AKIA1", "secretKey": "very secret", "endpoint": "https://203.0.113.9"}
    refused = await house.ask("PATCH", "/api/v1/projects/live", {"storage": s3}, key=house.admin)
    assert (refused.status, refused.headers["X-Error-Code"]) == (400, "private-address")
    s3 |= {"endpoint": "https://93.184.216.34", "cdnUrl": "https://cdn.example.com/m"}
    wanted = {"limits": {"rooms": 1, "viewers": 5}, "storage": s3, "name": "The one"}
    changed = (await house.ask("PATCH", "/api/v1/projects/live", wanted, key=house.admin)).data
    assert (changed["limits"]["rooms"], changed["limits"]["disk"], changed["name"]) == (1, None, "The one")
    assert changed["storage"] == {k: v for k, v in s3.items() if k != "secretKey"}
    for _ in range(2):
        await house.ask("POST", "/api/v1/apps/live/ingress", {"inputType": "rtmp", "room": "a"})
    full = await house.ask("POST", "/api/v1/apps/live/ingress", {"inputType": "rtmp", "room": "b"})
    assert (full.status, full.headers["X-Error-Code"]) == (403, "project-limit-rooms")
    changed = (await house.ask("PATCH", "/api/v1/projects/live", {"limits": {"rooms": None}, "storage": None}, key=house.admin)).data
    assert (changed["limits"]["rooms"], changed["limits"]["viewers"], changed["storage"]) == (None, 5, None)
    for wrong in ({"limits": {"rooms": 0}}, {"limits": {"rooms": "many"}}, {"storage": {"type": "ftp"}}, {"viewing": "friends"}):
        assert (await house.ask("PATCH", "/api/v1/projects/live", wrong, key=house.admin)).status == 400
    assert "very secret" not in str((await house.ask("GET", "/api/v1/audit", key=house.admin)).body)


async def test_a_view_link_from_making_to_revoking(house: Any) -> None:
    made = await house.ask("POST", LINKS, {"room": "demo", "ttl": "2h", "identity": "customer-17"})
    assert (made.status, made.data["room"], made.data["state"], made.data["identity"]) == (201, "live-demo", "good", "customer-17")
    for kind, path in (
        ("play", "/play/live/live-demo"),
        ("embed", "/embed/live/live-demo"),
        ("hls", "/hls/live/live-demo/index.m3u8"),
        ("whep", "/whep/live/live-demo"),
        ("mjpeg", "/live/live/live-demo/mjpeg"),
    ):
        url = urlsplit(made.data["urls"][kind])
        assert (url.path, parse_qs(url.query)) == (path, {"token": [made.data["token"]]})
    one = f"{LINKS}/{made.data['id']}"
    shown = {k: v for k, v in made.data.items() if k not in ("token", "urls")}
    assert (await house.ask("GET", one)).data == shown
    listed = await house.ask("GET", f"{LINKS}?room=demo")
    assert (listed.data, listed.body["total"]) == ([shown], 1)
    assert (await house.ask("GET", f"{LINKS}?room=other")).data == []
    assert (await house.ask("DELETE", one)).data["state"] == "revoked"
    assert (await house.ask("GET", one)).data["state"] == "revoked"
    assert (await house.ask("GET", f"/api/v1/apps/other/view-links/{made.data['id']}", key=house.admin)).status == 404
    assert (await house.ask("POST", LINKS, {"room": "demo"}, key=await house.key("view", project="live"))).status == 403
    for wrong in ({}, {"room": "demo", "ttl": "31d"}, {"room": "../x"}, {"room": "a", "playbackId": "b"}):
        assert (await house.ask("POST", LINKS, wrong)).status == 400


async def test_a_link_by_playback_id_is_for_the_live_streams_room(house: Any) -> None:
    live = (await house.ask("POST", "/v1/live/streams", {})).data
    made = await house.ask("POST", LINKS, {"playbackId": live["playbackIds"][0]["id"]})
    assert (made.status, made.data["room"]) == (201, f"live-{live['streamId']}")


async def test_a_room_token_is_revoked(house: Any) -> None:
    token = (await house.ask("POST", "/api/v1/apps/live/tokens", {"room": "demo", "identity": "ada"})).data["token"]
    revoked = await house.ask("POST", "/api/v1/apps/live/tokens/revoke", {"token": token})
    assert (revoked.status, revoked.data["room"], revoked.data["identity"]) == (200, "live-demo", "ada")
    wrong = await house.ask("POST", "/api/v1/apps/live/tokens/revoke", {"token": "x.y.z"})
    assert (wrong.status, "x.y.z" in str(wrong.body)) == (400, False)


async def test_the_audit_log_knows_who_and_from_where(make_house: Any) -> None:
    house = await make_house(Config(public_url="https://media.example.com", http=Http(trusted_proxies=("127.0.0.0/8",))))
    sent = {"X-Forwarded-For": "198.51.100.9"}
    made = await house.ask("POST", LINKS, {"room": "demo"}, headers=sent)
    await house.ask("GET", "/api/v1/rooms")
    (entry,) = (await house.ask("GET", "/api/v1/apps/live/audit?limit=1", key=house.admin)).data
    owner = next(k for k in (await house.ask("GET", KEYS, key=house.admin)).data if k["project"] is not None)
    assert (entry["actor"], entry["source"], entry["target"]) == (owner["id"], "198.51.100.9", made.data["id"])
    before = (await house.ask("GET", f"/api/v1/audit?before={entry['id']}&action=key.created", key=house.admin)).data
    assert [(e["actor"], e["action"]) for e in before] == [("system", "key.created")] * 2
    assert (await house.ask("GET", "/api/v1/audit?before=0", key=house.admin)).status == 400
