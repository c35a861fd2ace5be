"""Two daemons on one PostgreSQL: what one of them is asked for takes effect on the other, and a restart of one ends no session of the
other's.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import ClientSession
from harness import Node, publishing, running, send_second, until

from medianode.egress.rtmp_publish import RtmpPublisher
from medianode.errors import PeerError
from medianode.store import outbox


async def ask(session: ClientSession, node: Node, method: str, path: str, body: Any = None, *, admin: dict[str, str]) -> Any:
    async with session.request(method, node.http + path, json=body, headers={**admin, "X-Project-Id": "live"}) as response:
        assert response.status < 300, await response.text()
        return await response.json()


async def types(node: Node, stream: str) -> list[str]:
    assert node.daemon.health.database is not None
    async with node.daemon.health.database.read() as tx:
        return [e.type.removeprefix("ingress.") for e in await outbox.after(tx, 0, 1000) if e.stream == stream]


async def told(node: Node, stream: str, *last: str) -> None:
    async with asyncio.timeout(20):
        while (await types(node, stream))[-len(last) :] != list(last):
            await asyncio.sleep(0.05)


@asynccontextmanager
async def admitted(url: str) -> AsyncIterator[RtmpPublisher]:
    """An encoder that tries again, as encoders do: the other node learns within a second or so that it is enabled."""
    async with AsyncExitStack() as stack:
        async with asyncio.timeout(10):
            while True:
                try:
                    publisher = await stack.enter_async_context(publishing(url))
                    break
                except PeerError:
                    await asyncio.sleep(0.2)
        yield publisher


async def test_two_daemons_on_one_database(tmp_path: Path, postgres_url: str) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    async with running(first, store={"url": postgres_url}) as a, ClientSession() as session:
        shared = {"url": postgres_url, "secret_file": str(first / "secret.key")}
        admin = a.admin
        settings = {"playbackSettings": {}, "inputMediaSettings": {"enableRecording": False}}
        made = await ask(session, a, "POST", "/v1/live/streams", settings, admin=admin)
        stream, key = made["data"]["streamId"], made["data"]["streamKey"]
        async with publishing(f"{a.rtmp}/live/{key}") as publisher:
            await send_second(publisher)
            await told(a, stream, "connected", "active")
            async with running(second, store=shared) as b:
                assert (first / "node.id").read_text() != (second / "node.id").read_text()
                # b's start has ended nothing of a's, and what b is asked for puts a's encoder out
                assert await types(a, stream) == ["created", "connected", "active"]
                await ask(session, b, "PUT", f"/v1/live/streams/{stream}/live-disable", admin=admin)
                await until(lambda: not a.daemon.registry.publications, 10)
                await told(a, stream, "disabled", "disconnected", "idle")
                await ask(session, b, "PUT", f"/v1/live/streams/{stream}/live-enable", admin=admin)
                async with admitted(f"{a.rtmp}/live/{key}") as again:
                    await send_second(again)
                    await told(a, stream, "connected", "active")
                    await ask(session, b, "PUT", f"/v1/live/streams/{stream}/finish", admin=admin)
                    await until(lambda: not a.daemon.registry.publications, 10)
                    await told(a, stream, "finished", "disconnected", "idle")
                async with admitted(f"{a.rtmp}/live/{key}") as again:
                    await send_second(again)
                    await told(a, stream, "connected", "active")
                    await ask(session, b, "DELETE", f"/v1/live/streams/{stream}", admin=admin)
                    await until(lambda: not a.daemon.registry.publications, 10)
        assert await types(a, stream) == [
            *("created", "connected", "active", "disabled", "disconnected", "idle", "enabled"),
            *("connected", "active", "finished", "disconnected", "idle"),
            *("connected", "active", "disconnected", "idle", "deleted"),
        ]
