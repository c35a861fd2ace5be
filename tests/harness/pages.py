"""The pages in a browser: what the player says of itself, pictures that go on, screenshots, and a publication to show."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import web
from playwright.async_api import Page
from samples import grant

from medianode import clock
from medianode.media.packet import Packet
from medianode.media.track import Track
from medianode.routing.publication import Publication
from medianode.routing.registry import Registry
from medianode.routing.room import Room

PATIENCE = 30_000
ROOM = "live-demo"
SHOTS = Path(os.environ.get("SCREENSHOTS", "/nonexistent"))
"""Where to leave screenshots for people to look at; nowhere unless told."""
FRAMES = "document.querySelector('video').getVideoPlaybackQuality().totalVideoFrames"


async def shoot(page: Page, name: str) -> None:
    if SHOTS.is_dir():
        await page.screenshot(path=SHOTS / f"{name}.png", full_page=True)


async def state(page: Page, wanted: str, mode: str = "") -> None:
    also = f"[data-mode={mode}]" if mode else ""
    await page.wait_for_selector(f"[data-player][data-state={wanted}]{also}")


async def becomes(page: Page, expression: str, timeout: float = 30.0) -> None:
    """Polled from outside: the pages' Content-Security-Policy forbids the evaluating that Playwright's own waiting does."""
    async with asyncio.timeout(timeout):
        while not await page.evaluate(expression):
            await asyncio.sleep(0.1)


async def moves(page: Page) -> None:
    before = await page.evaluate(FRAMES)
    await becomes(page, f"{FRAMES} > {before + 15}")


async def ready_to_publish(page: Page, url: str, key: str) -> None:
    await page.goto(f"{url}/publish/live/demo#key={key}")
    await page.click("#use-camera")
    await becomes(page, "document.querySelector('#video').videoWidth > 0")


def go_on_air(registry: Registry, tracks: Iterable[Track], hold: float = 60.0) -> tuple[Room, Publication]:
    """OBS publishes into ROOM by RTMP: a packet of each track, so that they are known."""
    leave = grant(project_id="p1", room=ROOM, name="OBS", hold=hold)
    room, publication = registry.publish(leave, "rtmp", "192.0.2.7", lambda error: None)
    tracks = tuple(tracks)
    publication.set_tracks(tracks)
    for track in tracks:
        publication.write(Packet(track, b"\0" * 1000, 0, 0, True, clock.now()))
    return room, publication


@asynccontextmanager
async def served(routes: Iterable[web.RouteDef]) -> AsyncIterator[str]:
    """A site of these routes on loopback; its URL."""
    app = web.Application()
    app.add_routes(routes)
    runner = web.AppRunner(app, shutdown_timeout=2)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
