"""Sources that the node calls, on the pages in a real Chromium: added by address, called by who looks, words where one is away."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from aiohttp import ClientSession
from harness import Node, running, until
from harness.camera import camera, h264
from harness.pages import PATIENCE, becomes, moves, shoot, state
from playwright.async_api import Browser, Page

pytestmark = pytest.mark.interop
LAN = {"allow": ["127.0.0.0/8"]}
HIDE = """hidden => {
  Object.defineProperty(document, 'hidden', { configurable: true, get: () => hidden });
  document.dispatchEvent(new Event('visibilitychange'));
}"""


async def test_a_camera_on_demand_is_added_called_by_who_looks_and_left_alone_by_who_does_not(
    tmp_path: Path, browser: Browser, page: Page
) -> None:
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    pull = {"on_demand_idle": 1.0, "first_retry": 0.2, "last_retry": 0.5}
    with camera({"/cam": h264()}, user="viewer", password="s3cret") as cam:
        async with running(tmp_path, outbound=LAN, pull=pull, ingress={"hold": 1.0}) as node, ClientSession(node.http) as http:
            await added(page, node, cam.url("/cam", "viewer:s3cret"), "gate")
            watching = await browser.new_page()
            watching.set_default_timeout(PATIENCE)
            # whoever asks without wanting, or only for the head, calls nothing
            for method, query in (("GET", ""), ("HEAD", "?want=1")):
                async with http.request(method, f"/play/live/gate/state.json{query}") as answer:
                    assert answer.status == 200
            assert not called(node)
            # neither does a page that waits for a press
            await watching.goto(f"{node.http}/play/live/gate?autoplay=0")
            await state(watching, "tap")
            assert not called(node)
            await watching.click(".player .primary")
            await state(watching, "playing")
            await moves(watching)
            assert await watching.get_attribute("[data-recordings]", "href") == f"{node.http}/recordings/live?room=gate"
            # in the background, without a sound to listen to, it does not keep it open; looked at again, it plays again
            await watching.clock.install()
            await watching.evaluate(HIDE, True)
            await watching.clock.run_for(11_000)
            await watching.clock.resume()
            await until(lambda: not called(node), 15)
            await watching.evaluate(HIDE, False)
            await state(watching, "playing")
            await moves(watching)
            await page.wait_for_selector("#made .state:has-text('Live')")
            await shoot(page, "start-camera")
            # its power is cut
            cam.process.kill()
            await state(watching, "unanswered")
            assert await watching.inner_text(".player .words") == "The camera does not answer\n\nTrying again…"
            await shoot(watching, "camera-unanswered")
            await page.wait_for_selector("#made .state:has-text('Does not answer')")
            assert "s3cret" not in await page.inner_text("body")
            await shoot(page, "start-camera-away")
    assert wrong == []


async def added(page: Page, node: Node, address: str, room: str) -> None:
    """By the start page's form."""
    await page.goto(f"{node.http}/")
    await page.fill("#key", node.admin["Authorization"].removeprefix("Bearer "))
    await page.click("#key-form button")
    # an encoder's key has an address for SRT, ready to paste
    await page.click("#make-go")
    await becomes(page, "document.querySelectorAll('#made input').length > 3")
    fields = await page.eval_on_selector_all("#made input", "all => all.map((field) => field.value)")
    srt = f"srt://127.0.0.1:{node.ready.srt_port}"
    assert any(re.fullmatch(rf"{re.escape(srt)}\?streamid=[\w-]+", field) for field in fields), fields
    await page.select_option("#kind", "url")
    await page.fill("#room", room)
    await page.fill("#address", address)
    await page.check("#on-demand")
    await shoot(page, "start-camera-form")
    await page.click("#make-go")
    await page.wait_for_selector("#made .state:has-text('On demand')")
    await page.wait_for_selector("#keys-list .state:has-text('On demand')")
    assert "viewer:***@" in await page.inner_text("#made")
    assert await page.input_value("#address") == ""


def called(node: Node) -> bool:
    return bool(node.daemon.pulls)
