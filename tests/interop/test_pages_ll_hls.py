"""The player against our own LL-HLS and MJPEG doors: FFmpeg's encoding, fed packet by packet in real time, in a real Chromium."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import imageio_ffmpeg
import pytest
from aiohttp import web
from playwright.async_api import Page, async_playwright

from medianode.auth import Door, PublishGrant, ReadGrant, Takeover
from medianode.config import Config
from medianode.egress.hls import HlsService
from medianode.egress.mjpeg import MjpegDoor
from medianode.egress.screen import Screens
from medianode.errors import PeerError
from medianode.events import Bus
from medianode.media.names import room_name
from medianode.media.track import Track
from medianode.origin import Origin
from medianode.routing.registry import Registry
from medianode.transcode.renditions import Renditions
from medianode.transcode.source import open_source
from medianode.web.assets import HLS_SCRIPT, STATIC
from medianode.web.pages import Pages

pytestmark = pytest.mark.interop

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--autoplay-policy=no-user-gesture-required",
]
PATIENCE = 40_000
WATCHED = 10
"""Seconds of media."""


class Doorkeeper:
    async def read(self, app: str, room: str, token: str | None = None, bearer: str | None = None, *, source: str = "") -> ReadGrant:
        return ReadGrant(project_id="p1", slug=app, room=room_name(app, room))


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 s with B-frames and a key frame each second, as OBS may send it."""
    path = tmp_path_factory.mktemp("pages") / "clip.mp4"
    command = (
        f"{imageio_ffmpeg.get_ffmpeg_exe()} -v error -f lavfi -i testsrc2=s=320x180:r=25 -f lavfi -i sine=f=440:r=48000 -t 30 -c:v libx264 "
    )
    command += f"-preset ultrafast -bf 2 -g 25 -x264-params scenecut=0 -pix_fmt yuv420p -c:a aac -b:a 96k {path}"
    subprocess.run(command.split(), check=True, timeout=120)
    return path


class Encoder:
    """Publishes a file in real time into live-demo."""

    def __init__(self, registry: Registry, clip: Path) -> None:
        self.registry, self.clip = registry, clip
        self.task: asyncio.Task[None] | None = None
        self.began = asyncio.Event()

    async def start(self) -> None:
        self.began.clear()
        self.task = asyncio.get_running_loop().create_task(self.run())
        async with asyncio.timeout(20):
            await self.began.wait()

    async def run(self) -> None:
        grant = PublishGrant(
            project_id="p1",
            slug="live",
            room="live-demo",
            identity="obs",
            name="OBS",
            kind=Door.RTMP,
            ingress_id=None,
            takeover=Takeover.REPLACE,
            hold=60.0,
        )
        async with open_source(str(self.clip), loop=True) as source:
            room, publication = self.registry.publish(grant, "rtmp", "192.0.2.7", lambda error: None)
            known: tuple[Track, ...] = source.tracks
            publication.set_tracks(known)
            try:
                async for packet in source:
                    publication.write(packet)
                    self.began.set()
            finally:
                with contextlib.suppress(PeerError):
                    room.end(publication, "peer-gone")

    async def stop(self) -> None:
        if self.task is not None:
            self.task.cancel()
            await asyncio.wait([self.task])
            self.task = None


class Node:
    url = ""

    def __init__(self, registry: Registry, encoder: Encoder) -> None:
        self.registry, self.encoder = registry, encoder


@pytest.fixture
async def node(tmp_path: Path, clip: Path) -> AsyncIterator[Node]:
    assert (STATIC / HLS_SCRIPT).is_file(), "hls.js is missing: run make venv"
    config = Config(data_dir=str(tmp_path))
    registry, keeper, origin = Registry(Bus(), config.limits), Doorkeeper(), Origin("", ())
    node = Node(registry, Encoder(registry, clip))
    async with Renditions(config.limits, config.mjpeg, config.hls) as renditions:
        hls = HlsService(registry, registry.bus, keeper, renditions, config, origin)  # type: ignore[arg-type] # reads only
        mjpeg = MjpegDoor(config.mjpeg, config.limits, keeper, registry, origin, Screens(renditions, config.mjpeg))  # type: ignore[arg-type] # reads only
        pages = Pages(config, origin, keeper, registry, lambda: None, rtmp_port=1935)  # type: ignore[arg-type] # reads only
        app = web.Application()
        app.add_routes([*pages.routes(), *hls.routes(), *mjpeg.routes()])
        runner = web.AppRunner(app, shutdown_timeout=2)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        node.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        serving = asyncio.get_running_loop().create_task(hls.serve())
        try:
            yield node
        finally:
            await node.encoder.stop()
            for room in registry:
                room.release("obs")
            await runner.cleanup()
            serving.cancel()
            await asyncio.wait([serving])


@pytest.fixture
async def page() -> AsyncIterator[Page]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS)
        try:
            made = await browser.new_page()
            made.set_default_timeout(PATIENCE)
            yield made
        finally:
            await browser.close()


async def state(page: Page, wanted: str) -> None:
    await page.wait_for_selector(f'[data-player][data-state="{wanted}"]')


COUNT_STALLS = """() => {
  window.stalls = [];
  window.began = document.querySelector('video').currentTime;
  document.querySelector('video').addEventListener('waiting', (e) => window.stalls.push(e.target.currentTime));
}"""


async def test_low_latency_hls_comes_close_to_live_and_plays_on(node: Node, page: Page) -> None:
    await node.encoder.start()
    await page.goto(f"{node.url}/play/live/demo")
    await state(page, "playing")
    assert await page.get_attribute("[data-player]", "data-mode") == "hls"
    await page.evaluate(COUNT_STALLS)
    await page.wait_for_function(f"() => document.querySelector('video').currentTime > window.began + {WATCHED}")
    shown = "Number(document.querySelector('[data-player]').dataset.latency)"
    await page.wait_for_function(f"() => {shown} > 0 && {shown} < 4")
    print(f"latency {await page.get_attribute('[data-player]', 'data-latency')} s; stalls {await page.evaluate('() => window.stalls')}")


async def test_a_cut_and_return_in_the_hold_window_and_after_the_end(node: Node, page: Page) -> None:
    await node.encoder.start()
    await page.goto(f"{node.url}/play/live/demo")
    await state(page, "playing")
    await page.evaluate("() => { window.same = true; }")
    await node.encoder.stop()
    await state(page, "held")
    await node.encoder.start()
    await state(page, "playing")
    await page.evaluate(COUNT_STALLS)
    await page.wait_for_function("() => document.querySelector('video').currentTime > window.began + 2")
    await node.encoder.stop()
    node.registry.on_air("p1", "live-demo").release("obs")
    await state(page, "ended")
    await node.encoder.start()
    await state(page, "playing")
    await page.evaluate(COUNT_STALLS)
    await page.wait_for_function("() => document.querySelector('video').currentTime > window.began + 2")
    assert await page.evaluate("() => window.same")


async def test_mjpeg_of_an_h264_source(node: Node, page: Page) -> None:
    await node.encoder.start()
    await page.goto(f"{node.url}/play/live/demo?mode=mjpeg")
    await state(page, "playing")
    assert await page.get_attribute("[data-player]", "data-mode") == "mjpeg"
    await page.wait_for_function("() => document.querySelector('canvas').width === 320")
