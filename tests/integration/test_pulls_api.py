"""Ingresses that are fetched from a URL, over a real camera: made, shown without their passwords, opened by their first viewer, closed
after the last, changed while they run, and told of.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from aiohttp import ClientSession
from harness import Node, running, until
from harness.camera import camera, h264

APP = "/api/v1/apps/live"
LAN = {"allow": ["127.0.0.0/8"]}


async def test_a_camera_from_its_registration_to_its_end(tmp_path: Path) -> None:
    pull = {"on_demand_idle": 1.5, "first_retry": 0.2}
    with camera({"/cam": h264()}, user="viewer", password="s3cret:word") as cam:
        async with running(tmp_path, outbound=LAN, pull=pull, ingress={"hold": 60.0}) as node, Client(node) as client:
            source = cam.url("/cam", "viewer:s3cret%3Aword")
            made = await client.json("POST", f"{APP}/ingress", {"inputType": "url", "room": "gate", "url": source, "onDemand": True})
            assert made["url"] == f"rtsp://viewer:***@127.0.0.1:{cam.port}/cam"
            one = f"{APP}/pulls/{made['ingressId']}"
            await the_first_viewer_opens_it(node, client, one)
            await it_is_closed_after_the_last(node, client, one)
            await it_is_changed_while_it_runs(node, client, made["ingressId"], cam.url("/cam", "viewer:wr0ng-word"), source)
            await client.json("DELETE", f"{APP}/ingress/{made['ingressId']}")
            await until(lambda: not node.daemon.pulls)
            assert not on_air(node)
            assert "s3cret" not in client.said


async def the_first_viewer_opens_it(node: Node, client: Client, one: str) -> None:
    # who may not view opens nothing
    await client.json("PATCH", "/api/v1/projects/live", {"viewing": "token"})
    for path in ("/hls/live/gate/index.m3u8", "/live/live/gate/frame.jpg"):
        assert await client.get(path) == 401
    await client.json("PATCH", "/api/v1/projects/live", {"viewing": "public"})
    # nor does who only asks whether it is there
    for method in ("HEAD", "OPTIONS"):
        for path in ("/hls/live/gate/index.m3u8", "/live/live/gate/frame.jpg", "/live/live/gate/mjpeg", "/whep/live/gate"):
            async with client.viewer.request(method, path):
                pass
    await asyncio.sleep(0.1)
    assert (await client.json("GET", one))["state"] == "idle"
    assert not on_air(node)
    # many viewers at once, by several doors: one source
    asked = [client.get(path) for path in ("/hls/live/gate/index.m3u8", "/live/live/gate/frame.jpg", "/live/live/gate/frame.jpg?w=160")]
    assert await asyncio.gather(*asked) == [200, 200, 200]
    view = await client.json("GET", one)
    assert (view["state"], view["error"], view["attempts"]) == ("running", "", 1)
    assert view["using"] in ("udp", "tcp")
    row = await client.json("GET", one.replace("pulls", "ingress"))
    assert (row["status"], row["inputType"], row["width"]) == ("publishing", "url", 320)


async def it_is_closed_after_the_last(node: Node, client: Client, one: str) -> None:
    async with client.viewer.get("/live/live/gate/mjpeg") as watching:
        await asyncio.sleep(2.5)  # longer than pull.on_demand_idle
        assert await watching.content.read(100)
        assert on_air(node)
    await until(lambda: not on_air(node))
    assert (await client.json("GET", one))["state"] == "idle"


async def it_is_changed_while_it_runs(node: Node, client: Client, ingress: str, wrong: str, right: str) -> None:
    changed = await client.json("PATCH", f"{APP}/ingress/{ingress}", {"onDemand": False, "url": wrong, "transport": "tcp"})
    assert "wr0ng" not in str(changed)
    one = f"{APP}/pulls/{ingress}"
    await client.until(one, lambda view: view["state"] == "waiting")
    view = await client.json("GET", one)
    assert (view["errorCode"], view["url"]) == ("unauthorized", f"{right.partition('s3cret')[0]}***{right[right.index('@') :]}")
    row = await client.json("GET", f"{APP}/ingress/{ingress}")
    assert (row["status"], row["error"]) == ("error", view["error"])
    await client.json("PATCH", one, {"url": right})
    await until(lambda: on_air(node), 20)
    await client.json("PATCH", one, {"enabled": False})
    await until(lambda: not on_air(node))
    assert (await client.json("GET", one))["state"] == "disabled"
    await client.json("PATCH", one, {"enabled": True})
    await until(lambda: on_air(node), 20)
    told = [fact["type"] for fact in await client.json("GET", "/api/v1/events?limit=1000") if fact["type"].startswith("pull.")]
    assert told == ["pull.connected", "pull.failed", "pull.connected", "pull.connected"]


async def test_addresses_that_may_not_be_fetched_are_refused_in_words(tmp_path: Path) -> None:
    async with running(tmp_path) as node, Client(node) as client:
        for url, said in {
            "rtsp://u:p4ss@169.254.169.254/cam": "private or special address",
            "file:///etc/passwd": "expected rtsp://",
            "": "url: expected an address",
        }.items():
            status, body = await client.ask("POST", f"{APP}/ingress", {"inputType": "url", "room": "gate", "url": url})
            assert (status, said in str(body)) == (400, True), body
            assert "p4ss" not in str(body)
        body = {"inputType": "url", "room": "gate", "url": "http://192.0.2.1/a.ts", "transport": "udp"}
        assert (await client.ask("POST", f"{APP}/ingress", body))[0] == 400
        new = {
            "inputType": "URL_INPUT",
            "roomName": "gate",
            "participantIdentity": "cam",
            "url": "rtsp://u:p4ss@198.51.100.1/x?token=t0ken",
        }
        status, body = await client.ask("POST", "/v1/ingress", {**new, "onDemand": True})  # 198.51.100.0/24 is documentation's
        assert (status, "private or special address" in str(body)) == (400, True), body
        assert "p4ss" not in str(body)
        assert "t0ken" not in str(body)
        new["url"] = new["url"].replace("198.51.100.1", "93.184.216.34")
        status, made = await client.ask("POST", "/v1/ingress", {**new, "onDemand": True})  # not opened: nobody asks for it
        assert (status, made["inputType"], made["url"]) == (201, "URL_INPUT", "rtsp://u:***@93.184.216.34/x?token=***")
        for one in (f"/v1/ingress/{made['id']}", f"{APP}/ingress/{made['id']}"):
            status, body = await client.ask("PATCH", one, {"record": True, "url": "rtsp://u:p4ss@169.254.169.254/cam"})
            assert (status, "private or special address" in str(body)) == (400, True), body
        _, now = await client.ask("GET", f"/v1/ingress/{made['id']}")
        assert (now["record"], now["url"]) == (False, made["url"]), "of what is refused nothing is done"
        assert "p4ss" not in client.said


class Client:
    """The API with the admin key. `said`: all that it answered."""

    def __init__(self, node: Node) -> None:
        self._session = ClientSession(node.http, headers=node.admin)
        self.viewer = ClientSession(node.http)
        self.said = ""

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()
        await self.viewer.close()

    async def ask(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        async with self._session.request(method, path, json=body) as answer:
            text = await answer.text()
            self.said += text
            return answer.status, await answer.json() if text else None

    async def json(self, method: str, path: str, body: object = None, *, envelope: str = "data") -> Any:
        status, answer = await self.ask(method, path, body)
        assert status < 300, (status, answer)
        return answer[envelope] if envelope else answer

    async def get(self, path: str) -> int:
        async with self.viewer.get(path) as answer:
            await answer.read()
            return answer.status

    async def until(self, path: str, condition: Any) -> None:
        async with asyncio.timeout(20):
            while not condition(await self.json("GET", path)):
                await asyncio.sleep(0.1)


def on_air(node: Node) -> bool:
    room = node.room("live-gate")
    return room is not None and room.on_air
