"""The receivers of the README, as they stand there: Python's and Node's own crypto on the raw bytes of what the node really sends."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from harness import Node, free_port, publishing, running, send_second, until

from medianode.webhooks import signature

pytestmark = pytest.mark.interop
README = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
DIALECTS = ("baxcloud", "streamhub", "fastpix")
PROGRAMS = {"python": [sys.executable, "-u"], "node": ["node"]}
FILES = {"python": "receiver.py", "node": "receiver.mjs"}


def program(name: str) -> str:
    """The block of the README that begins with a comment of this file's name."""
    (block,) = re.findall(rf"^```\w+\n((?:#|//) {re.escape(name)}\n.*?)^```", README, re.MULTILINE | re.DOTALL)
    return str(block)


class Receiver:
    """One that runs; `lines` is what it printed: name and id of each event that it believed."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}/hook"
        self.lines: list[list[str]] = []

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.lines]

    async def follow(self, output: asyncio.StreamReader) -> None:
        while line := await output.readline():
            self.lines.append(line.decode().split())


@asynccontextmanager
async def receiving(language: str, file: Path, dialect: str, secret: str, port: int) -> AsyncIterator[Receiver]:
    file.write_text(program(FILES[language]))
    environ = {"PATH": os.environ["PATH"], "SECRET": secret, "DIALECT": dialect, "PORT": str(port)}
    process = await asyncio.create_subprocess_exec(*PROGRAMS[language], str(file), env=environ, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    receiver = Receiver(port)
    following = asyncio.ensure_future(receiver.follow(process.stdout))
    try:
        async with asyncio.timeout(20):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                except OSError:
                    await asyncio.sleep(0.05)
                else:
                    writer.close()
                    break
        yield receiver
    finally:
        process.kill()
        await process.wait()
        await following


async def ask(session: aiohttp.ClientSession, node: Node, method: str, path: str, body: Any = None) -> Any:
    async with session.request(method, f"{node.http}{path}", json=body, headers=node.admin) as response:
        answer = await response.json()
        assert response.status < 300, answer
        return answer["data"]


@pytest.mark.parametrize("language", ["python", "node"])
async def test_the_readme_s_receivers_believe_us_and_nobody_else(language: str, tmp_path: Path) -> None:
    hooks = "/api/v1/apps/live/webhooks"
    async with AsyncExitStack() as stack:
        node = await stack.enter_async_context(running(tmp_path / "data", outbound={"allow": ("127.0.0.0/8",)}))
        session = await stack.enter_async_context(aiohttp.ClientSession())
        receivers, made = {}, {}
        for dialect in DIALECTS:
            port = free_port()
            secret = signature.new_secret(dialect)
            file = tmp_path / f"{dialect}-{FILES[language]}"
            receivers[dialect] = await stack.enter_async_context(receiving(language, file, dialect, secret, port))
            body = {"url": receivers[dialect].url, "dialect": dialect, "secret": secret}
            made[dialect] = await ask(session, node, "POST", hooks, body)
            assert made[dialect]["warnings"][1:] == [], "FastPix's probe was answered by 200"
            tried = await ask(session, node, "POST", f"{hooks}/{made[dialect]['id']}/test", {})
            assert tried["delivered"], tried
        settings = {"playbackSettings": {"accessPolicy": "public"}, "inputMediaSettings": {"enableRecording": False}}
        stream = await ask(session, node, "POST", "/v1/live/streams", settings)
        async with publishing(f"{node.rtmp}/live/{stream['streamKey']}") as publisher:
            await send_second(publisher)
            await until(lambda: "video.live_stream.active" in receivers["fastpix"].names)
            await until(lambda: {"live.started", "live.updated"} <= set(receivers["baxcloud"].names))
            await until(lambda: {"ingress_started", "stream_started"} <= set(receivers["streamhub"].names))
        # the last one tells that the encoder left; what ends the stream comes when the hold does
        await until(lambda: receivers["baxcloud"].names == ["webhook.test", "live.started", "live.updated", "live.updated"])
        live = [name.rpartition(".")[2] for name in receivers["fastpix"].names[1:4]]
        assert live == ["created", "connected", "active"], "in the order of what came to pass"
        for dialect, receiver in receivers.items():
            assert receiver.names[0] in ("webhook.test", "webhook_test"), receiver.names
            await refused(session, dialect, receiver)
        listed = await ask(session, node, "GET", "/api/v1/apps/live/deliveries?limit=500")
        assert {d["status"] for d in listed if d["status"] is not None} == {200}
        assert [d for d in listed if d["state"] == "dead"] == []
        await replayed(session, node, made["baxcloud"]["id"], receivers["baxcloud"])


async def replayed(session: aiohttp.ClientSession, node: Node, endpoint: str, receiver: Receiver) -> None:
    """All of it once more: believed again, and known again by its ids."""

    async def settled() -> list[Any]:
        async with asyncio.timeout(20):
            while True:
                found: list[Any] = await ask(session, node, "GET", deliveries)
                if all(d["state"] != "pending" for d in found):
                    return found
                await asyncio.sleep(0.02)

    deliveries = f"/api/v1/apps/live/deliveries?endpoint={endpoint}"
    await settled()
    done = await ask(session, node, "POST", f"/api/v1/apps/live/webhooks/{endpoint}/replay", {"after": 0})
    found = await settled()
    again = [d for d in found if d["replayOf"] is not None]
    assert [d["state"] for d in again] == ["delivered"] * done["replayed"]
    assert len(again) >= 2
    told = [d["eventId"] for d in found if d["replayOf"] is None]
    await until(lambda: len(receiver.lines) >= len(told))
    assert sorted(event_id for _, event_id in receiver.lines) == sorted(told)


async def refused(session: aiohttp.ClientSession, dialect: str, receiver: Receiver) -> None:
    """What was altered, what another signed, and what nobody signed."""
    body = json.dumps({"event": "live.started", "type": "video.live_stream.active", "eventId": "forged", "id": "forged"}).encode()
    other = signature.new_secret(dialect)  # type: ignore[arg-type]
    signed = signature.headers(dialect, "live.started", "forged", body, other, {})
    unsigned = signature.headers(dialect, "live.started", "forged", body, None, {})
    name = next(header for header in signed if header.lower().endswith("-signature"))
    for sent, headers in (
        (body, signed),
        (body, unsigned),
        (body, {**unsigned, name: ""}),
        (body, {**unsigned, name: "sha256=é"}),
        (b"", signed),
    ):
        async with session.post(receiver.url, data=sent, headers=headers) as response:
            assert response.status == 401, (dialect, headers)
    assert all(event_id != "forged" for _, event_id in receiver.lines)


@pytest.mark.parametrize("language", ["python", "node"])
async def test_one_altered_byte_and_one_repetition(language: str, tmp_path: Path) -> None:
    secret, port = signature.new_secret("baxcloud"), free_port()
    body = b'{"event":"live.started","eventId":"6f1c1e0e","data":{"roomName":"caf\xc3\xa9 \\u00e9"}}'
    headers = signature.headers("baxcloud", "live.started", "6f1c1e0e", body, secret, {})
    async with (
        receiving(language, tmp_path / FILES[language], "baxcloud", secret, port) as receiver,
        aiohttp.ClientSession() as session,
    ):
        for sent, status in ((body, 200), (body.replace(b"live", b"Live"), 401), (body + b" ", 401), (body, 200)):
            async with session.post(receiver.url, data=sent, headers=headers) as response:
                assert response.status == status
        await until(lambda: receiver.lines)
    assert receiver.lines == [["live.started", "6f1c1e0e"]], "a repetition is known by its id"


@pytest.mark.parametrize("language", ["python", "node"])
async def test_many_at_once(language: str, tmp_path: Path) -> None:
    """Rooms do not wait for one another: their events come side by side, each is taken whole."""
    secret, port, ids = signature.new_secret("baxcloud"), free_port(), [f"event-{n}" for n in range(200)]

    async def deliver(session: aiohttp.ClientSession, url: str, event_id: str) -> int:
        body = json.dumps({"event": "live.started", "eventId": event_id}).encode()
        headers = signature.headers("baxcloud", "live.started", event_id, body, secret, {})
        async with session.post(url, data=body, headers=headers) as response:
            return response.status

    async with (
        receiving(language, tmp_path / FILES[language], "baxcloud", secret, port) as receiver,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=16)) as session,
    ):
        assert set(await asyncio.gather(*(deliver(session, receiver.url, event_id) for event_id in ids))) == {200}
        await until(lambda: len(receiver.lines) >= len(ids))
    assert sorted(receiver.lines) == sorted(["live.started", event_id] for event_id in ids)
