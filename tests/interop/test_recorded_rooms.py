"""A real encoder, the API and FFmpeg as player: who is recorded by options and by hand, and clips before, around and after the fact."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession
from harness import H264_AAC, ffmpeg, ffmpeg_process, moving_picture, running

from medianode import clock

pytestmark = pytest.mark.interop
SOME = "/api/v1/projects/live/recordings"
GOP = 2.0
CLIPS = "/api/v1/projects/live/rooms/demo/clips"


async def test_options_buttons_and_clips(tmp_path: Path) -> None:
    async with running(tmp_path, ingress={"hold": 0.5}, recording={"preroll": 5.0, "min_free": 0}) as node, ClientSession() as http:

        async def ask(method: str, path: str, body: Any = None) -> Any:
            async with http.request(method, node.http + path, json=body, headers=node.admin) as response:
                assert response.status < 300, await response.text()
                return (await response.json()).get("data") if response.status != 204 else None

        async def found(query: str, *, count: int = 1) -> Any:
            async with asyncio.timeout(2):
                while len(rows := await ask("GET", f"{SOME}?{query}")) != count:
                    await asyncio.sleep(0.05)
            return rows

        async def seconds(url: str) -> float:
            """Of picture, once FFmpeg has decoded all of it without an error."""
            done = await ffmpeg("-i", url, "-xerror", "-progress", "pipe:1", "-f", "null", "-")
            assert done.code == 0, done.output
            return int([line for line in done.output.splitlines() if line.startswith("out_time_us=")][-1].partition("=")[2]) / 1_000_000

        new = {"inputType": "rtmp", "room": "demo", "participantIdentity": "obs", "record": True}
        made = await ask("POST", "/api/v1/apps/live/ingress", new)
        encoder = [*moving_picture(60), *H264_AAC, "-f", "flv", f"{node.rtmp}/live/{made['streamKey']}"]
        async with ffmpeg_process(*encoder):
            async with asyncio.timeout(10):
                while not await ask("GET", f"{SOME}?reason=ingress&state=recording"):
                    await asyncio.sleep(0.05)
            began = clock.wallclock()
            await ask("PUT", "/api/v1/projects/live/rooms/demo/options", {"record": True})
            await found("reason=room&state=recording")
            by_hand = await ask("POST", SOME, {"room": "demo", "identity": "obs", "title": "by hand", "maxDuration": 2})
            await asyncio.sleep(max(0.0, began + 3.5 - clock.wallclock()))
            around = await ask("POST", CLIPS, {"before": 2, "after": 1, "title": "event"})
            past = await ask("POST", CLIPS, {"from": str(began + 0.5), "to": str(began + 2.5)})
            ingress = f"/api/v1/apps/live/ingress/{made['ingressId']}"
            await ask("PATCH", ingress, {"record": False})
            await found("reason=ingress&state=finished")
            await ask("PUT", "/api/v1/projects/live/rooms/demo/options", {"record": False})
            await found("reason=room&state=finished")
            await found("state=finished", count=5)
            assert (await ask("GET", f"{SOME}/{by_hand['id']}"))["state"] == "finished", "its two seconds are over"
            assert 2 <= await seconds(by_hand["urls"]["download"]) < 2.5 + GOP  # from the key frame before
            assert 2.5 < await seconds(around["urls"]["download"]) < 3.5 + GOP
            assert abs(await seconds(past["urls"]["download"]) - 2) < 0.2
            assert await seconds(past["urls"]["hls"]) >= 2
        timeline = await ask("GET", "/api/v1/projects/live/rooms/demo/timeline")
        assert {(s["identity"], s["gap"]) for s in timeline["stretches"]} == {("obs", ""), ("", "")}
        for recording in await found("state=finished", count=5):
            await ask("DELETE", f"{SOME}/{recording['id']}")
        assert list((tmp_path / "recordings").rglob("*.mp4")) == []
