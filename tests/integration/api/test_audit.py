"""Every operation that changes state leaves an entry in the audit log: walked from `/openapi.json`, so that none can be forgotten."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import av
from av.codec.context import CodecContext

WITHOUT = {
    "POST /api/v1/apps/{app}/tokens": "signs, and changes nothing",
    "POST /api/v1/apps/{app}/ingress/{id}/validate": "looks only",
    "DELETE /api/v1/viewers/{viewer}": "needs a viewer: tests/integration/webrtc/test_viewers.py",
}
HOOK = {"url": "https://hooks.example.com/", "dialect": "baxcloud", "events": ["live.*"], "probe": False}
RULE = {"defaultPolicy": "allow", "allow": [], "deny": ["shop.example"]}
BUCKET = {"type": "s3", "bucket": "kept", "endpoint": "http://1.1.1.1:9", "accessKey": "AKIA", "secretKey": "0123456789abcdef"}
PUSH = {"url": "rtmp://live.example.net/live", "streamKey": "0123456789abcdef"}


class Walk:
    """Asks, and looks for what that left in the log. `done`: operations that left something, as the description names them."""

    def __init__(self, house: Any, key: str, key_id: str) -> None:
        self.house = house
        self.key = key
        self.key_id = key_id
        self.done: set[str] = set()

    async def __call__(self, operation: str, body: Any = None, *, query: str = "", data: bytes | None = None, **names: str) -> Any:
        method, path = operation.split()
        newest = await self.newest()
        where = path.format(**{"app": "live", "project": "live", **names}) + query
        answer = await self.house.ask(method, where, body, key=self.key, data=data)
        assert answer.status < 300, (operation, answer)
        entries = (await self.house.ask("GET", "/api/v1/audit", key=self.house.admin)).data
        written = [entry for entry in entries if entry["id"] > newest]
        assert {(entry["actor"], entry["source"]) for entry in written} == {(self.key_id, "127.0.0.1")}, operation
        assert all(entry["action"] and entry["target"] for entry in written), operation
        for secret in ("0123456789abcdef", "sk_", "wsk_", "whsec_"):
            assert secret not in repr([(entry["target"], entry["details"]) for entry in written]), operation
        self.done.add(operation)
        return answer.body.get("data", answer.body) if answer.body else None

    async def newest(self) -> int:
        entries = (await self.house.ask("GET", "/api/v1/audit?limit=1", key=self.house.admin)).data
        return entries[0]["id"] if entries else 0


async def ingresses_and_sessions(walk: Walk) -> None:
    bax = await walk("POST /v1/ingress", {"inputType": "RTMP_INPUT", "roomName": "a", "participantIdentity": "ada"})
    await walk("DELETE /v1/ingress/{id}", id=bax["ingressId"])
    ingress = await walk("POST /api/v1/apps/{app}/ingress", {"inputType": "rtmp", "room": "b"})
    await walk.house.publish(ingress["streamKey"])
    await walk("DELETE /api/v1/apps/{app}/streams/{stream}", stream="live-b%2Fingress-live")
    await walk("DELETE /api/v1/apps/{app}/ingress/{id}", id=ingress["ingressId"])
    camera = await walk("POST /api/v1/apps/{app}/ws-ingest", {"room": "c"})
    await walk("DELETE /api/v1/apps/{app}/ws-ingest/{id}", id=camera["id"])
    await walk("PUT /api/v1/projects/{project}/rooms/{room}/options", {"playoutDelay": 0.2}, room="b")
    target = (await walk("POST /api/v1/apps/{app}/rooms/{room}/targets", PUSH, room="b"))["id"]
    await walk("PATCH /api/v1/apps/{app}/rooms/{room}/targets/{target}", {"enabled": False}, room="b", target=target)
    await walk("DELETE /api/v1/apps/{app}/rooms/{room}/targets/{target}", room="b", target=target)


async def recordings(walk: Walk) -> None:
    bax = await walk.house.ask("POST", "/v1/ingress", {"inputType": "RTMP_INPUT", "roomName": "r", "participantIdentity": "ada"})
    await walk("PATCH /v1/ingress/{id}", {"record": True}, id=bax.body["ingressId"])
    ingress = (await walk.house.ask("POST", "/api/v1/apps/live/ingress", {"inputType": "rtmp", "room": "s"})).data
    await walk("PATCH /api/v1/apps/{app}/ingress/{id}", {"record": True}, id=ingress["ingressId"])
    await walk.house.publish(ingress["streamKey"])
    one = "/api/v1/projects/{project}/recordings/{recording}"
    made = (await walk("POST /api/v1/projects/{project}/recordings", {"room": "s"}))["id"]
    await walk(f"POST {one}/stop", recording=made)
    await walk(f"PATCH {one}", {"title": "t"}, recording=made)
    await walk(f"DELETE {one}", recording=made)
    vod = (await walk("POST /api/v1/apps/{app}/recording/start", {"roomName": "s"}))["vodId"]
    await walk("POST /api/v1/apps/{app}/recording/{id}/stop", id=vod)
    await walk("DELETE /api/v1/apps/{app}/vods/{id}", id=vod)
    await walk("POST /api/v1/projects/{project}/rooms/{room}/clips", {"before": 0, "after": 1}, room="s")
    for change in ("PATCH", "DELETE"):
        media = await walk.house.asset()
        await walk(f"{change} /v1/on-demand/{{media}}", {"metadata": {"a": "b"}} if change == "PATCH" else None, media=media)


async def upload_of_a_recording(walk: Walk) -> None:
    media = (await walk.house.ask("GET", f"/v1/on-demand/{await walk.house.asset()}")).data
    await walk("PATCH /api/v1/projects/{project}", {"storage": BUCKET})
    await walk("POST /api/v1/projects/{project}/recordings/{recording}/upload", recording=media["recordingId"])
    await walk("PATCH /api/v1/projects/{project}", {"storage": None})


async def sources_and_slates(walk: Walk) -> None:
    source = {"inputType": "url", "room": "p", "url": "rtsp://127.0.0.1/cam"}
    camera = await walk("POST /api/v1/apps/{app}/ingress", source)
    await walk("PATCH /api/v1/apps/{app}/pulls/{id}", {"transport": "tcp"}, id=camera["ingressId"])
    slate = "/api/v1/apps/{app}/rooms/{room}/fallback"
    await walk(f"PUT {slate}", {"text": "Back in a moment"}, room="p")
    encoder = CodecContext.create("png", "w")
    encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = 64, 64, "rgb24", Fraction(1, 25)
    await walk(f"PUT {slate}/slate", data=bytes(encoder.encode(av.VideoFrame(64, 64, "rgb24"))[0]), room="p")
    await walk(f"DELETE {slate}", room="p")


async def live_streams(walk: Walk) -> None:
    one = "/v1/live/streams/{id}"
    made = await walk("POST /v1/live/streams", {})
    stream = made["streamId"]
    await walk(f"PATCH {one}", {"reconnectWindow": 0}, id=stream)
    target = (await walk(f"POST {one}/simulcast", PUSH, id=stream))["simulcastId"]
    await walk(f"PUT {one}/simulcast/{{target}}", {"isEnabled": False}, id=stream, target=target)
    await walk(f"DELETE {one}/simulcast/{{target}}", id=stream, target=target)
    key = (await walk(f"PUT {one}/stream-key", id=stream))["streamKey"]
    await walk.house.publish(key)
    await walk(f"PUT {one}/finish", id=stream)
    await walk(f"PUT {one}/live-disable", id=stream)
    await walk(f"PUT {one}/live-enable", id=stream)
    playback = (await walk(f"POST {one}/playback-ids", {"accessPolicy": "private"}, id=stream))["id"]
    await walk(f"PATCH {one}/playback-ids/{{playback}}/domains", RULE, id=stream, playback=playback)
    await walk(f"PATCH {one}/playback-ids/{{playback}}/user-agents", RULE, id=stream, playback=playback)
    await walk(f"DELETE {one}/playback-ids", id=stream, query=f"?playbackId={playback}")
    await walk(f"DELETE {one}", id=stream)
    signing = (await walk("POST /v1/iam/signing-keys"))["id"]
    await walk("DELETE /v1/iam/signing-keys/{key}", key=signing)


async def webhooks(walk: Walk) -> None:
    hook = (await walk("POST /api/v1/apps/{app}/webhooks", HOOK))["id"]
    await walk("PATCH /api/v1/apps/{app}/webhooks/{id}", {"name": "mine"}, id=hook)
    await walk("POST /api/v1/apps/{app}/webhooks/{id}/secret", {}, id=hook)
    await walk("POST /api/v1/apps/{app}/webhooks/{id}/test", {}, id=hook)
    key = (await walk.house.ask("POST", "/api/v1/apps/live/ingress", {"inputType": "rtmp", "room": "d"})).data["streamKey"]
    await walk.house.publish(key)
    await walk.house.lives.write()
    delivery = str((await walk.house.ask("GET", "/api/v1/apps/live/deliveries")).data[0]["id"])
    await walk("DELETE /api/v1/apps/{app}/deliveries/{delivery}", delivery=delivery)
    await walk("POST /api/v1/apps/{app}/deliveries/{delivery}/replay", delivery=delivery)
    await walk("DELETE /api/v1/apps/{app}/deliveries", query=f"?endpoint={hook}")
    await walk("POST /api/v1/apps/{app}/webhooks/{id}/replay", {"after": 0}, id=hook)
    await walk("DELETE /api/v1/apps/{app}/webhooks/{id}", id=hook)


async def keys_links_and_projects(walk: Walk) -> None:
    key = (await walk("POST /api/v1/keys", {"name": "spare", "permissions": ["live"], "project": "live"}))["id"]
    await walk("POST /api/v1/keys/{key}/rotate", {"overlap": 0}, key=key)
    await walk("DELETE /api/v1/keys/{key}", key=key)
    link = (await walk("POST /api/v1/apps/{app}/view-links", {"room": "e"}))["id"]
    await walk("DELETE /api/v1/apps/{app}/view-links/{link}", link=link)
    token = (await walk.house.ask("POST", "/api/v1/apps/live/tokens", {"room": "e"})).data["token"]
    await walk("POST /api/v1/apps/{app}/tokens/revoke", {"token": token})
    await walk("POST /api/v1/projects", {"slug": "garage"})
    await walk("PATCH /api/v1/projects/{project}", {"viewing": "token"}, project="garage")
    await walk("DELETE /api/v1/projects/{project}", project="garage", query="?confirm=garage")


async def test_every_operation_that_changes_something_is_in_the_audit_log(house: Any) -> None:
    made = await house.keys.create("who", ["admin"])
    walk = Walk(house, made.secret, made.key.id)
    parts = (ingresses_and_sessions, recordings, upload_of_a_recording, sources_and_slates, live_streams, webhooks, keys_links_and_projects)
    for part in parts:
        await part(walk)
    paths = (await house.ask("GET", "/openapi.json", key="")).body["paths"]
    changing = {
        f"{method.upper()} {path}"
        for path, item in paths.items()
        for method, operation in item.items()
        if method != "get" and ".alias" not in operation["operationId"]
    }
    assert changing - walk.done == set(WITHOUT)
    assert walk.done <= changing


async def test_what_is_refused_leaves_nothing(house: Any) -> None:
    before = (await house.ask("GET", "/api/v1/audit", key=house.admin)).data
    for method, path, body in (
        ("POST", "/v1/live/streams", {"playbackSettings": {"accessPolicy": "drm"}}),
        ("DELETE", "/api/v1/projects/other?confirm=no", None),
        ("PUT", "/api/v1/projects/other/rooms/a/options", {"playoutDelay": 11}),
        ("POST", "/api/v1/apps/live/rooms/a/targets", {"url": "rtmp://10.0.0.1/live", "streamKey": "k"}),
        ("DELETE", "/api/v1/apps/live/streams/nobody", None),
    ):
        assert (await house.ask(method, path, body, key=house.admin)).status >= 400
    assert (await house.ask("GET", "/api/v1/audit", key=house.admin)).data == before
