"""Chromium as WebRTC publisher and viewer, measured: pages of the node's own origin with `lab.js` in them."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from aiohttp import ClientSession
from playwright.async_api import Browser, Page, Route, async_playwright

from harness import Node

CHROMIUM = "/usr/bin/chromium"
QUIET = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-sync"),
    "--disable-component-update",
]
FLAGS = [
    *(*QUIET, "--autoplay-policy=no-user-gesture-required"),
    *("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"),
]
SCRIPT = Path(__file__).parent / "lab.js"


@asynccontextmanager
async def chromium(*more: str, base: Sequence[str] = FLAGS) -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=[*base, *more])
        try:
            yield browser
        finally:
            await browser.close()


@dataclass(slots=True)
class Lab:
    """One tab. `publish` and `play` take what `lab.js` takes and return when connected."""

    page: Page
    node: Node

    @classmethod
    async def open(cls, browser: Browser, node: Node) -> Self:
        page = await browser.new_page(viewport={"width": 800, "height": 600})
        page.set_default_timeout(30_000)

        async def empty(route: Route) -> None:
            await route.fulfill(body="<!doctype html><title>lab</title>", content_type="text/html")

        await page.route("**/lab", empty)
        await page.goto(f"{node.http}/lab")
        await page.add_script_tag(path=SCRIPT)
        return cls(page, node)

    async def publish(self, room: str, key: str, codec: str, **options: Any) -> None:
        url = f"{self.node.http}/whip/live/{room}"
        await self.page.evaluate("options => lab.publish(options)", {"url": url, "token": key, "codec": codec, **options})

    async def play(self, room: str, **options: Any) -> None:
        """Waits for the room's programme."""
        url = f"{self.node.http}/whep/live/{room}"
        await self.page.evaluate("options => lab.play(options)", {"url": url, **options})

    async def stats(self) -> dict[str, Any]:
        found: dict[str, Any] = await self.page.evaluate("lab.stats()")
        return found

    async def seen(self) -> Seen:
        return Seen(**await self.page.evaluate("lab.seen"))

    async def forget(self) -> None:
        await self.page.evaluate("lab.forget()")

    async def decoded(self) -> int:
        """Frames since the session began; 0 before the first packet."""
        video = (await self.stats())["video"]
        return 0 if video is None else video["framesDecoded"]

    async def plays(self, frames: int = 15, timeout: float = 15.0) -> None:
        """So many more frames are decoded, and shown."""
        before, shown = await self.decoded(), (await self.seen()).frames
        async with asyncio.timeout(timeout):
            while await self.decoded() < before + frames or (await self.seen()).frames == shown:
                await asyncio.sleep(0.1)

    async def hears(self, timeout: float = 10.0) -> None:
        async with asyncio.timeout(timeout):
            while not ((await self.stats())["audio"] or {}).get("audioLevel"):
                await asyncio.sleep(0.1)

    async def in_step(self, limit: float, timeout: float = 15.0) -> list[float]:
        """Waits until picture and sound were less than `limit` milliseconds apart at three beeps in a row. All offsets until then."""
        async with asyncio.timeout(timeout):
            while True:
                offsets = (await self.seen()).offsets
                if len(offsets) >= 3 and max(map(abs, offsets[-3:])) < limit:
                    return offsets
                await asyncio.sleep(0.5)

    async def close(self) -> None:
        await self.page.close()


@dataclass(slots=True)
class Seen:
    """What a viewer with `measure` saw. `latency`: milliseconds from drawn to shown, one per frame; `flashes` and `beeps`: when, in
    milliseconds of wall clock; `unread`: frames whose blocks could not be read; `first`: milliseconds from asking to the first frame;
    `gap`: the longest between two frames.
    """

    latency: list[int]
    flashes: list[float]
    beeps: list[float]
    frames: int
    unread: int
    first: float | None
    gap: float
    states: list[str]

    @property
    def glass_to_glass(self) -> float:
        """p50, milliseconds."""
        return statistics.median(self.latency)

    @property
    def offsets(self) -> list[float]:
        """Picture behind sound, milliseconds, of each flash that has a beep."""
        pairs = ((flash - beep for beep in self.beeps) for flash in self.flashes)
        nearest = (min(pair, key=abs, default=1000.0) for pair in pairs)
        return [offset for offset in nearest if abs(offset) < 500]


async def ask(node: Node, path: str) -> list[dict[str, Any]]:
    """The rows of one of the operators' lists: `sessions`, `viewers`."""
    async with ClientSession() as session, session.get(f"{node.http}/api/v1/{path}", headers=node.admin) as response:
        assert response.status == 200, await response.text()
        body = await response.json()
    rows: list[dict[str, Any]] = body["data"]
    return rows


async def whip_key(node: Node, room: str, **fields: str) -> str:
    """Of a new WHIP ingress."""
    url, wanted = f"{node.http}/api/v1/apps/live/ingress", {"inputType": "whip", "room": room, **fields}
    async with ClientSession() as session, session.post(url, json=wanted, headers=node.admin) as response:
        assert response.status == 201, await response.text()
        key: str = (await response.json())["data"]["streamKey"]
    return key


async def on_air(node: Node, room: str, timeout: float = 20.0) -> None:
    async with asyncio.timeout(timeout):
        while (found := node.room(f"live-{room}")) is None or not found.on_air:
            await asyncio.sleep(0.05)


async def treatment(node: Node, kind: str, timeout: float = 10.0) -> str:
    """What the session view says that WebRTC's rendition does with this kind."""
    async with asyncio.timeout(timeout):
        while True:
            for session in await ask(node, "sessions"):
                for rendition in session["renditions"]:
                    if rendition["video"].startswith("realtime") and kind in rendition["treatment"]:
                        told: str = rendition["treatment"][kind]
                        return told
            await asyncio.sleep(0.1)
