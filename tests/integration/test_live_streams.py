"""Live streams on a whole node, with encoders of made-up media: what their policy does to a session."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession
from harness import Node, publishing, running, send_second, until

from medianode.errors import PeerError


async def told(http: ClientSession, method: str, path: str, json: Any = None) -> Any:
    async with http.request(method, f"/v1/live/streams{path}", json=json) as answer:
        assert answer.status < 300, await answer.text()
        return (await answer.json()).get("data")


async def status(http: ClientSession, stream: Any) -> str:
    found: str = (await told(http, "GET", f"/{stream['streamId']}"))["status"]
    return found


def on_air(node: Node, stream: Any) -> bool:
    room = node.room(f"live-{stream['streamId']}")
    return room is not None and room.on_air


async def test_a_test_stream_is_disabled_when_its_time_is_over(tmp_path: Path) -> None:
    async with running(tmp_path) as node, ClientSession(node.http, headers=node.admin) as http:
        made = await told(http, "POST", "", {"inputMediaSettings": {"test": True}})
        with closing(sqlite3.connect(tmp_path / "medianode.db")) as database, database:
            database.execute("UPDATE live_streams SET max_duration = 0.5")
        async with publishing(f"{node.rtmp}/live/{made['streamKey']}") as encoder:
            await send_second(encoder)
            with pytest.raises(PeerError):
                await encoder.watch()
        async with asyncio.timeout(10):
            while await status(http, made) != "disabled":
                await asyncio.sleep(0.02)
        with pytest.raises(PeerError, match=r"NetStream\.Publish\.Unauthorized: .*disabled"):
            async with publishing(f"{node.rtmp}/live/{made['streamKey']}"):
                pass
        sdp = {"Content-Type": "application/sdp", "Authorization": f"Bearer {made['streamKey']}"}
        async with http.post(f"/whip/live/live-{made['streamId']}", data="v=0", headers=sdp) as answer:
            assert (answer.status, "disabled" in await answer.text()) == (403, True)
        async with http.put(f"/v1/live/streams/{made['streamId']}/live-enable") as answer:
            assert (answer.status, answer.headers["X-Error-Code"]) == (400, "test-stream")


async def test_a_node_without_webrtc_tells_no_address_of_it(tmp_path: Path) -> None:
    async with running(tmp_path, rtc={"enabled": False}) as node, ClientSession(node.http, headers=node.admin) as http:
        assert (await told(http, "POST", "", {}))["whipUrl"] is None
        async with http.post("/api/v1/apps/live/ingress", json={"inputType": "whip"}) as answer:
            assert (answer.status, answer.headers["X-Error-Code"]) == (501, "whip-not-enabled")


async def test_an_encoder_that_is_back_within_the_window_goes_on_and_one_that_is_not_begins_anew(tmp_path: Path) -> None:
    async with running(tmp_path) as node, ClientSession(node.http, headers=node.admin) as http:
        made = await told(http, "POST", "", {"inputMediaSettings": {"reconnectWindow": 60}})
        key, playlist = f"{node.rtmp}/live/{made['streamKey']}", f"/{made['playbackIds'][0]['id']}.m3u8"

        async def live_since() -> float:
            async with publishing(key) as encoder:
                for second in range(3):
                    await send_second(encoder, second)
                await until(lambda: on_air(node, made) and not node.room(f"live-{made['streamId']}").held)  # type: ignore[union-attr]
                assert await status(http, made) == "active"
                room = node.room(f"live-{made['streamId']}")
                assert room is not None
                return room.live_since

        first = await live_since()
        await until(lambda: (room := node.room(f"live-{made['streamId']}")) is not None and room.held)
        assert await status(http, made) == "preparing"
        async with http.get(playlist) as answer:
            assert answer.status == 200, "its playlist goes on"
        assert await live_since() == first
        await until(lambda: (room := node.room(f"live-{made['streamId']}")) is not None and room.held)
        await told(http, "PUT", f"/{made['streamId']}/finish")
        assert (await status(http, made), on_air(node, made)) == ("idle", False)
        assert await live_since() > first


async def test_deleted_it_puts_its_encoder_out_and_leaves_nothing(tmp_path: Path) -> None:
    async with running(tmp_path) as node, ClientSession(node.http, headers=node.admin) as http:
        made = await told(http, "POST", "")
        async with publishing(f"{node.rtmp}/live/{made['streamKey']}") as encoder:
            await send_second(encoder)
            await until(lambda: on_air(node, made))
            await told(http, "DELETE", f"/{made['streamId']}")
            with pytest.raises(PeerError):
                await encoder.watch()
        await until(lambda: node.room(f"live-{made['streamId']}") is None)
        async with http.get(f"/{made['playbackIds'][0]['id']}.m3u8") as answer:
            assert answer.status == 404
