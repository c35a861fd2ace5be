"""The whole node in a real Chromium: a minute of LL-HLS, an encoder whose plug is pulled, an ESP32, the start page."""

from __future__ import annotations

import asyncio
import io
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import ClientSession
from harness import H264_AAC, Node, ffmpeg_process, moving_picture, running
from PIL import Image, ImageDraw
from playwright.async_api import Page, async_playwright
from websockets.asyncio.client import connect

pytestmark = pytest.mark.interop
CHROMIUM = "/usr/bin/chromium"
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--autoplay-policy=no-user-gesture-required"),
]
WATCHED = 60
"""Seconds of media that must play without a stall."""
SHOTS = Path(os.environ.get("SCREENSHOTS", "/nonexistent"))
"""Where to leave screenshots for people to look at; nowhere unless told."""

# Counts what a viewer would feel: `waiting` after the first picture, and how far the picture is behind the wall clock.
PROBE = """
() => {
  const video = document.querySelector('video');
  window.probe = { stalls: [], latency: [] };
  video.addEventListener('waiting', () => window.probe.stalls.push(video.currentTime));
  setInterval(() => {
    const told = parseFloat(document.querySelector('[data-player]').dataset.latency);
    if (told) window.probe.latency.push(told);
  }, 500);
}
"""


@pytest.fixture
async def page() -> AsyncIterator[Page]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        try:
            page = await browser.new_page(viewport={"width": 1280, "height": 800})
            page.set_default_timeout(40_000)
            yield page
        finally:
            await browser.close()


async def shoot(page: Page, name: str) -> None:
    if SHOTS.is_dir():
        await page.screenshot(path=SHOTS / f"{name}.png")


async def state(page: Page, wanted: str, mode: str = "") -> None:
    also = f"[data-mode={mode}]" if mode else ""
    await page.wait_for_selector(f"[data-player][data-state={wanted}]{also}")


async def becomes(page: Page, expression: str, timeout: float = 40.0) -> None:
    """Poll from outside: the pages' Content-Security-Policy forbids the evaluating that Playwright's own waiting does."""
    async with asyncio.timeout(timeout):
        while not await page.evaluate(expression):
            await asyncio.sleep(0.1)


def pushing(node: Node) -> list[str]:
    return [*moving_picture(120, size="640x360"), *H264_AAC, "-f", "flv", f"{node.rtmp}/live/{node.key}"]


@pytest.mark.alone
async def test_a_minute_of_low_latency_hls_without_a_stall(tmp_path: Path, page: Page) -> None:
    async with running(tmp_path) as node, ffmpeg_process(*pushing(node)):
        await page.goto(f"{node.http}/play/live/studio?mode=hls")
        await state(page, "playing", "hls")
        # joining may seek once to the live edge; what counts is what follows
        await asyncio.sleep(3)
        await page.evaluate(PROBE)
        start = await page.evaluate("document.querySelector('video').currentTime")
        await becomes(page, f"document.querySelector('video').currentTime > {start + WATCHED}", 90)
        probe = await page.evaluate("window.probe")
        await shoot(page, "playing")
    latency = sorted(probe["latency"])
    print(f"latency p50 {latency[len(latency) // 2]:.2f} s, max {latency[-1]:.2f} s; stalls {probe['stalls']}")
    assert not probe["stalls"]
    assert latency[len(latency) // 2] < 4


async def test_the_plug_is_pulled_and_the_player_goes_on_by_itself(tmp_path: Path, page: Page) -> None:
    async with running(tmp_path) as node:
        loads: list[str] = []
        page.on("load", lambda page: loads.append(page.url))
        async with ffmpeg_process(*pushing(node)):
            await page.goto(f"{node.http}/play/live/studio?mode=hls")
            await state(page, "playing", "hls")
            await asyncio.sleep(2)
        await state(page, "held")
        await shoot(page, "held")
        async with ffmpeg_process(*pushing(node)):
            await state(page, "playing", "hls")
            before = await page.evaluate("document.querySelector('video').currentTime")
            await becomes(page, f"document.querySelector('video').currentTime > {before + 3}")
        assert len(loads) == 1


def picture(number: int) -> bytes:
    image = Image.new("RGB", (640, 480), (number * 5 % 256, 60, 120))
    ImageDraw.Draw(image).text((20, 20), f"frame {number}", fill="white")
    buffer = io.BytesIO()
    image.save(buffer, "JPEG")
    return buffer.getvalue()


async def camera(url: str, key: str) -> None:
    async with connect(url, additional_headers={"Authorization": f"Bearer {key}"}, compression=None) as socket:
        ready = await socket.recv()
        assert '"maxFps":15,' in str(ready)
        for number in range(10_000):
            await socket.send(picture(number))
            await asyncio.sleep(0.1)


async def test_an_esp32_shows_up_as_mjpeg_and_over_hls_too(tmp_path: Path, page: Page) -> None:
    async with running(tmp_path) as node, ClientSession() as session:
        async with session.post(f"{node.http}/api/v1/apps/live/ws-ingest", json={"room": "gate"}, headers=node.admin) as response:
            made = (await response.json())["data"]
        sending = asyncio.get_running_loop().create_task(camera(made["wsUrl"], made["streamKey"]))
        try:
            await page.goto(made["playerUrl"])
            await state(page, "playing", "mjpeg")
            await shoot(page, "mjpeg")
            await page.goto(f"{node.http}/live/live/gate/mjpeg", wait_until="commit")
            await becomes(page, "document.images.length === 1 && document.images[0].naturalWidth === 640")
            url = f"{node.http}/hls/live/gate/index.m3u8"
            async with session.get(url) as response:
                assert response.status == 200, await response.text()
                assert "avc1" in await response.text()
        finally:
            sending.cancel()


async def test_the_start_page_lists_what_is_live_to_whoever_holds_a_key(tmp_path: Path, page: Page) -> None:
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    async with running(tmp_path) as node, ffmpeg_process(*pushing(node)):
        await page.goto(f"{node.http}/")
        await shoot(page, "start-without-key")
        key = json.dumps(node.ready.first.admin_key_file.read_text().strip())
        await page.locator("input[type=password]").first.fill(json.loads(key))
        await page.keyboard.press("Enter")
        await page.wait_for_selector("text=live-studio")
        await becomes(page, "[...document.querySelectorAll('.poster img')].some(i => i.naturalWidth > 0)")
        assert f"rtmp://127.0.0.1:{node.ready.rtmp_port}/live" in await page.content()
        await shoot(page, "start")
        assert not errors
        await page.goto(f"{node.http}/docs")
        await page.get_by_text("/v1/ingress").first.wait_for()
        await shoot(page, "docs")
