"""Who views or publishes by what was revoked, has expired, or is no longer enough, is put out: a whole node, real sessions."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from harness.calls import CERTIFICATE, VIDEO_IN, Line, calling
from harness.webrtc import TestPeer

from medianode.control.links import Links
from medianode.control.projects import Projects
from medianode.events import Bus
from medianode.store.database import open_database

LINKS = "/api/v1/apps/live/view-links"


async def link(line: Line, **more: Any) -> dict[str, Any]:
    made: dict[str, Any] = (await line.api("POST", LINKS, {"room": "studio", **more}))["data"]
    return made


async def status(line: Line, url: str, **headers: str) -> int:
    async with line.http.get(url, headers=headers) as response:
        return response.status


async def test_revoking_a_link_puts_its_viewers_out_and_nobody_else(tmp_path: Path) -> None:
    async with calling(tmp_path) as line:
        await line.api("PATCH", "/api/v1/projects/live", {"viewing": "signed"})
        made = await line.ingress()
        one, two = await link(line), await link(line, identity="ada")
        async with line.publishing(made["streamKey"]):
            await line.live()
            assert await status(line, one["urls"]["hls"]) == 200
            assert await status(line, one["urls"]["hls"].partition("?")[0]) == 401
            async with line.viewing(token=one["token"]) as first, line.viewing(token=two["token"]) as second:
                await asyncio.gather(first.until(5), second.until(5))
                assert line.viewers == 2
                await line.api("DELETE", f"{LINKS}/{one['id']}")
                await asyncio.wait_for(first.peer.closed.wait(), 5)
                await line.until(lambda: line.viewers == 1)
                assert await status(line, one["urls"]["hls"]) == 401
                reply = await line.post("/whep/live/studio", TestPeer(CERTIFICATE).offer(VIDEO_IN), one["token"])
                assert (reply.status, "revoked" in reply.text) == (401, True)
                await second.until(5)
                assert await status(line, two["urls"]["hls"]) == 200
                async with open_database("", tmp_path) as elsewhere:  # another process on the same database
                    project = await Projects(elsewhere, Bus()).get("live")
                    await Links(elsewhere, Bus(), most=10).revoke(project.id, two["id"])
                await asyncio.wait_for(second.peer.closed.wait(), 10)
                assert await status(line, two["urls"]["hls"]) == 401


async def test_viewers_go_when_their_leave_ends_or_viewing_is_closed(tmp_path: Path) -> None:
    """A link that expires; a key that is revoked; a room token where links are wanted; a stranger where viewing was public."""
    async with calling(tmp_path) as line:
        made = await line.ingress()
        async with line.publishing(made["streamKey"]):
            await line.live()
            async with line.viewing() as stranger:
                await stranger.until(2)
                await line.api("PATCH", "/api/v1/projects/live", {"viewing": "token"})
                await asyncio.wait_for(stranger.peer.closed.wait(), 5)
            token = (await line.api("POST", "/api/v1/apps/live/tokens", {"room": "studio"}))["data"]["token"]
            key = (await line.api("POST", "/api/v1/keys", {"name": "wall", "permissions": ["view"], "project": "live"}))["data"]
            short = await link(line, ttl="2s")
            async with (
                line.viewing(token=token) as holder,
                line.viewing(token=key["key"]) as wall,
                line.viewing(token=short["token"]) as brief,
            ):
                await asyncio.gather(holder.until(2), wall.until(2))
                await asyncio.wait_for(brief.peer.closed.wait(), 8)
                await line.api("DELETE", f"/api/v1/keys/{key['id']}")
                await asyncio.wait_for(wall.peer.closed.wait(), 5)
                await holder.until(2)
                await line.api("PATCH", "/api/v1/projects/live", {"viewing": "signed"})
                await asyncio.wait_for(holder.peer.closed.wait(), 5)
            await line.until(lambda: line.viewers == 0)


async def test_a_deleted_project_and_a_revoked_token_put_their_publishers_out(tmp_path: Path) -> None:
    async with calling(tmp_path, ingress={"hold": 60.0}) as line:
        made = await line.ingress()
        wanted = {"room": "stage", "identity": "ada"}
        token = (await line.api("POST", "/api/v1/apps/live/tokens", wanted))["data"]["token"]
        async with line.publishing(made["streamKey"]) as encoder, line.publishing(token, "stage") as guest:
            await line.live()
            await line.live("stage")
            await line.api("POST", "/api/v1/apps/live/tokens/revoke", {"token": token})
            await asyncio.wait_for(guest.peer.closed.wait(), 5)
            reply = await line.post("/whip/live/stage", TestPeer(CERTIFICATE).offer(VIDEO_IN.replace("recvonly", "sendonly")), token)
            assert reply.status == 401
            async with line.viewing() as viewer:
                await viewer.until(2)
                await line.api("DELETE", "/api/v1/projects/live", expect=400)
                await line.api("DELETE", "/api/v1/projects/live?confirm=live")
                await asyncio.wait_for(encoder.peer.closed.wait(), 5)
                await asyncio.wait_for(viewer.peer.closed.wait(), 5)
                await line.until(lambda: line.peers == 0 and len(line.node.daemon.registry) == 0)
                await line.api("GET", "/api/v1/projects/live", expect=404)
        entries = (await line.api("GET", "/api/v1/audit"))["data"]
        assert [e["action"] for e in entries[:2]] == ["project.deleted", "token.revoked"]
        assert entries[0]["actor"].startswith("key_")
        assert entries[0]["source"] == "127.0.0.1"
        assert {"ingress.created"} <= {e["action"] for e in entries}
