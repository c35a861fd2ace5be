"""Simulcast by two daemons on one PostgreSQL: who has the room on air pushes, nobody else, and kill -9 leaves no state that is not so."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession
from harness import Node, running
from soak.program import Program, environment, on_air, serving

from medianode.store import outbox

TARGETS = "/api/v1/apps/live/rooms/studio/targets"
ALLOW = {"allow": ["127.0.0.0/8"]}
PAUSE = 0.25
"""Seconds between seconds of media: what a target needs to be found out."""

pytestmark = pytest.mark.alone


async def ask(session: ClientSession, node: Node | Program, method: str, path: str, body: Any = None) -> Any:
    async with session.request(method, node.http + TARGETS + path, json=body) as response:
        assert response.status < 300, await response.text()
        return (await response.json())["data"]


async def becomes(session: ClientSession, node: Node | Program, target: str, state: str) -> dict[str, Any]:
    view: dict[str, Any] = {}
    async with asyncio.timeout(20):
        while view.get("state") != state:
            await asyncio.sleep(0.05)
            view = await ask(session, node, "GET", f"/{target}")
    return view


async def facts(node: Node, target: str) -> list[tuple[str, str]]:
    assert node.daemon.health.database is not None
    async with node.daemon.health.database.read() as tx:
        return [
            (e.type.removeprefix("target."), e.data["code"]) for e in await outbox.after(tx, 0, 1000) if e.data.get("targetId") == target
        ]


async def test_who_has_the_room_on_air_pushes_and_kill_9_leaves_nothing_broadcasting(tmp_path: Path, postgres_url: str) -> None:
    a_dir, b_dir, c_dir = tmp_path / "a", tmp_path / "b", tmp_path / "c"
    here = environment(a_dir, STORE__URL=postgres_url, OUTBOUND__ALLOW="127.0.0.0/8", INGRESS__HOLD="0.2")
    async with running(c_dir) as receiver, ClientSession() as session:

        def received() -> list[str]:
            return [publication.peer for publication in receiver.daemon.registry.publications]

        async with serving(a_dir, here) as a:
            session.headers.update(a.admin)
            shared = {"url": postgres_url, "secret_file": str(a_dir / "secret.key")}
            async with running(b_dir, store=shared, outbound=ALLOW) as b:
                async with on_air(f"{a.rtmp}/live/{a.key}", PAUSE):
                    # asked for at the one that does not have the room
                    made = await ask(session, b, "POST", "", {"url": f"{receiver.rtmp}/live", "streamKey": receiver.key})
                    target = made["id"]
                    view = await becomes(session, a, target, "broadcasting")
                    assert view["attempts"] == 1, "nobody else held the key that only one may have"
                    seen = await becomes(session, b, target, "broadcasting")
                    assert seen["attempts"] == 0, "it is the other one that sends"
                    assert len(received()) == 1
                    await a.kill()
                assert (await ask(session, b, "GET", f"/{target}"))["state"] == "broadcasting", "nobody could tell"
                async with serving(a_dir, here) as again:
                    assert (await ask(session, b, "GET", f"/{target}"))["state"] == "idle"
                    async with on_air(f"{again.rtmp}/live/{again.key}", PAUSE):
                        await becomes(session, again, target, "broadcasting")
                        assert len(received()) == 1
                    await becomes(session, b, target, "idle")
                assert await facts(b, target) == [
                    *(("created", ""), ("starting", ""), ("broadcasting", ""), ("idle", "node-restarted")),
                    *(("starting", ""), ("broadcasting", ""), ("idle", "")),
                ]
