"""A live stream by its playback id: `/<id>.m3u8` and its children, for whom it is, and for whom no longer."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from aiohttp import ClientSession
from harness import publishing, running, send_second, until

RULES = {"defaultPolicy": "deny", "allow": ["*.shop.example"], "deny": ["evil.shop.example"]}
SHOP, EVIL = {"Origin": "https://www.shop.example"}, {"Origin": "https://evil.shop.example"}


async def test_from_the_multivariant_playlist_to_the_last_segment(tmp_path: Path) -> None:
    async with running(tmp_path, hls={"segment_duration": 1.0, "part_duration": 0.5}) as node, ClientSession(node.http) as http:

        async def get(path: str, **headers: str) -> tuple[int, str, Any]:
            async with http.get(path, headers=headers, allow_redirects=False) as answer:
                body = await answer.read()
                return answer.status, body.decode(errors="replace"), answer.headers

        async def told(method: str, path: str, json: Any = None) -> Any:
            async with http.request(method, f"/v1/live/streams{path}", json=json, headers=node.admin) as answer:
                assert answer.status < 300, await answer.text()
                return (await answer.json()).get("data")

        made = await told("POST", "", {"inputMediaSettings": {"reconnectWindow": 0, "lowLatency": True}})
        stream, public, room = made["streamId"], made["playbackIds"][0]["id"], f"live-{made['streamId']}"
        assert (await get("/0f0c8b52-1f63-4d2b-9c61-2f4f6f0f7f10.m3u8"))[0] == 404
        async with publishing(f"{node.rtmp}/live/{made['streamKey']}") as encoder:
            for second in range(4):
                await send_second(encoder, second)
            await until(lambda: (found := node.room(room)) is not None and found.on_air)
            status, body, headers = await get(f"/{public}.m3u8")
            assert (status, headers["Access-Control-Allow-Origin"]) == (200, "*")
            child = re.findall(rf"^{public}/main\.m3u8\?s=\w+$", body, re.MULTILINE)[0]
            status, body, _ = await get(f"/{child}")
            assert status == 200
            assert "#EXT-X-PART" in body
            segment = re.findall(r"^[^#].*\.(?:mp4|m4s)$", body, re.MULTILINE)[0]
            status, _, headers = await get(f"/{public}/{segment}")
            assert (status, headers["Cache-Control"]) == (200, "public, max-age=31536000, immutable")
            async with http.options(f"/{public}/{segment}") as preflight:
                assert (preflight.status, preflight.headers["Access-Control-Allow-Origin"]) == (204, "*")
            assert (await get(f"/play/{public}"))[2]["Location"] == f"live/{room}"
            assert (await get(f"/hls/live/{room}/index.m3u8"))[0] == 200

            await told("PATCH", f"/{stream}/playback-ids/{public}/domains", RULES)
            for path in (f"/{public}.m3u8", f"/{child}", f"/{public}/{segment}"):
                assert (await get(path, **SHOP))[0] == 200
                assert (await get(path, Referer="https://a.shop.example/page"))[0] == 200
                for site in (EVIL, {}, {"Referer": "https://shop.example/"}, {**EVIL, "Referer": "https://www.shop.example/"}):
                    status, body, headers = await get(path, **site)
                    assert (status, "domain_refused" in body, headers["Access-Control-Allow-Origin"]) == (403, True, "*"), (path, site)
            assert (await get(f"/{public}/{segment}", **SHOP))[2]["Cache-Control"] == "private, max-age=31536000, immutable"
            assert (await get(f"/hls/live/{room}/index.m3u8"))[0] == 401, "its room is no way round"
            assert (await get(f"/live/live/{room}/frame.jpg"))[0] == 401
            assert (await get(f"/play/{public}"))[0] == 403

            await told("PUT", f"/{stream}/live-disable")
            for path in (f"/{public}.m3u8", f"/{child}", f"/{public}/{segment}"):
                status, body, _ = await get(path, **SHOP)
                assert (status, "stream_disabled" in body) == (404, True)
            await until(lambda: node.room(room) is None)
