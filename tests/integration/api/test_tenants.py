"""A tenant's own admin key does nothing to another tenant, and learns nothing of it, by whatever route: walked over all that there are."""

from __future__ import annotations

from typing import Any

import msgspec

from medianode.api.openapi import template
from medianode.api.router import AnyRoute

CAMERA = "rtsp://viewer:s3cret@127.0.0.1/cam"
PUSH = {"url": "rtmp://live.example.net/live", "streamKey": "0123456789abcdef"}


async def belongings(house: Any) -> dict[str, str]:
    """What project `live` has, one of each, by the last part of its routes that names it."""

    async def made(path: str, body: Any = None) -> Any:
        answer = await house.ask("POST", path, body, key=house.admin)
        assert answer.status < 300, (path, answer)
        return answer.body.get("data", answer.body)

    ingress = await made("/api/v1/apps/live/ingress", {"inputType": "rtmp", "room": "demo"})
    await house.publish(ingress["streamKey"])
    hook = await made("/api/v1/apps/live/webhooks", {"url": "https://hooks.example.com/", "dialect": "fastpix"})
    stream = await made("/v1/live/streams", {})
    return {
        "ingress": ingress["ingressId"],
        "stream key": ingress["streamKey"],
        "pulls": (await made("/api/v1/apps/live/ingress", {"inputType": "url", "room": "gate", "url": CAMERA}))["ingressId"],
        "ws-ingest": (await made("/api/v1/apps/live/ws-ingest", {"room": "cam"}))["id"],
        "webhooks": hook["id"],
        "streams": stream["streamId"],
        "playback": stream["playbackIds"][0]["id"],
        "simulcast": (await made(f"/v1/live/streams/{stream['streamId']}/simulcast", PUSH))["simulcastId"],
        "targets": (await made("/api/v1/apps/live/rooms/demo/targets", PUSH))["id"],
        "signing-keys": (await made("/v1/iam/signing-keys"))["id"],
        "keys": (await made("/api/v1/keys", {"name": "spare", "permissions": ["live"], "project": "live"}))["id"],
        "view-links": (await made("/api/v1/apps/live/view-links", {"room": "demo"}))["id"],
        "delivery": str((await house.ask("GET", "/api/v1/apps/live/deliveries")).data[0]["id"]),
        "session": "live-demo/ingress-live",
        "recording": (await made("/api/v1/projects/live/recordings", {"room": "demo"}))["id"],
        "media": await house.asset(),
    }


def url_of(route: AnyRoute, app: str, have: dict[str, str]) -> str:
    path = template(route.path)
    parts = path.split("/")
    kinds = ("signing-keys", "keys", "simulcast", "targets", "pulls", "ws-ingest", "webhooks", "ingress", "streams")
    own = {kind: have[kind] for kind in kinds}
    session = have["session"].replace("/", "%2F")
    names = {
        "app": app,
        "project": app,
        "room": "demo",
        "viewer": "none",
        "stream": session,
        "session": session,
        "playback": have["playback"],
        "delivery": have["delivery"],
        "link": have["view-links"],
        "recording": have["recording"],
        "media": have["media"],
        **{name: next((i for kind, i in own.items() if kind in parts), "none") for name in ("id", "key", "target")},
        **({"id": have["streams"]} if "live" in parts else {}),
        **({"id": have["recording"]} if {"vods", "recording"} & set(parts) else {}),
    }
    query = {"playback-ids": f"?playbackId={have['playback']}", "deliveries": f"?endpoint={have['webhooks']}"}
    query |= {"{project}": f"?confirm={app}"}
    return path.format(**names) + (query.get(parts[-1], "") if route.method == "DELETE" else "")


async def test_a_tenant_touches_nothing_of_another(house: Any) -> None:
    have = await belongings(house)
    mine = await house.key("admin", project="other")
    (newest, *_) = (await house.ask("GET", "/api/v1/audit", key=house.admin)).data
    denied, open_to_all = 0, []
    for app in ("live", "other"):
        for route in house.api.typed:
            if route.streams:
                continue
            body = None if route.request_example is None else msgspec.to_builtins(route.request_example)
            answer = await house.ask(route.method, url_of(route, app, have), body, key=mine)
            told = repr(answer.body)
            if answer.status < 300:
                assert [kind for kind, value in have.items() if kind != "delivery" and value in told] == [], (route.method, route.path)
                if app == "live" and ("{app}" in route.path or "{project}" in route.path) and route.auth is not None:
                    open_to_all.append(route.path)
            else:
                denied += answer.status in (403, 404)
    assert open_to_all == []
    assert denied > 90
    entries = [e for e in (await house.ask("GET", "/api/v1/audit?limit=500", key=house.admin)).data if e["id"] > newest["id"]]
    (project,) = {e["project"] for e in entries}
    assert project == (await house.projects.get("other")).id, "nothing was done to anybody else"
