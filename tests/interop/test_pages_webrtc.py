"""The pages over WebRTC in a real Chromium, with the real node: publish by WHIP, play by WHEP, and what happens when a way is closed."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote, unquote

import pytest
from aiohttp import web
from harness import H264_AAC, Node, ffmpeg_process, moving_picture, running, until
from harness.pages import PATIENCE, becomes, moves, ready_to_publish, served, shoot, state
from playwright.async_api import Browser, Page, Route

pytestmark = [pytest.mark.interop, pytest.mark.alone]


@asynccontextmanager
async def elsewhere() -> AsyncIterator[str]:
    """Another site, whose page is what stands in the query."""

    async def page(request: web.Request) -> web.Response:
        return web.Response(text=f"<!doctype html><title>elsewhere</title>{unquote(request.query_string)}", content_type="text/html")

    async with served([web.get("/", page)]) as url:
        yield f"{url}/"


async def whip_key(page: Page, node: Node, room: str = "demo") -> str:
    response = await page.request.post(
        f"{node.http}/api/v1/apps/live/ingress", headers=node.admin, data={"inputType": "whip", "room": room}
    )
    assert response.status == 201, await response.text()
    key: str = (await response.json())["data"]["streamKey"]
    return key


async def test_a_browser_publishes_and_another_plays_it_through_the_node(tmp_path: Path, browser: Browser, page: Page) -> None:
    async with running(tmp_path) as real:
        key = await whip_key(page, real)
        await ready_to_publish(page, real.http, key)
        await page.click("#go")
        await page.wait_for_selector("body[data-state=live]")
        viewer = await browser.new_page()
        viewer.set_default_timeout(PATIENCE)
        await viewer.goto(f"{real.http}/play/live/demo")
        await state(viewer, "playing", "whep")
        await moves(viewer)
        await viewer.keyboard.press("i")
        await viewer.wait_for_selector(".panel-on:has-text('UDP')")
        await becomes(viewer, "Number(document.querySelector('[data-player]').dataset.latency) > 0")
        assert "H.264 + Opus" in await viewer.inner_text(".panel-on")
        await becomes(page, "document.querySelector('[data-fact=viewers]').textContent === '1'")
        await shoot(viewer, "real-play")
        await shoot(page, "real-publish")
        await page.click("#go")
        await viewer.wait_for_selector("[data-player]:is([data-state=held], [data-state=ended], [data-state=waiting])")
        await page.click("#go")
        await state(viewer, "playing")
        await moves(viewer)
        await page.close(run_before_unload=False)


async def no_udp(route: Route) -> None:
    """The node's UDP port is blocked on the way: its candidates lead nowhere."""
    response = await route.fetch()
    text = re.sub(r"(a=candidate:\S+ 1 udp \d+ \S+) \d+", r"\1 9", await response.text())
    await route.fulfill(response=response, body=text)


async def test_rtmp_plays_in_real_time_and_by_tcp_where_udp_is_blocked(tmp_path: Path, page: Page) -> None:
    async with running(tmp_path) as real:
        push = [*moving_picture(90, size="640x360"), *H264_AAC, "-f", "flv", f"{real.rtmp}/live/{real.key}"]
        async with ffmpeg_process(*push):
            for way in ("UDP", "TCP (UDP does not come through)"):
                await page.goto(f"{real.http}/play/live/studio")
                await state(page, "playing", "whep")
                await moves(page)
                await page.keyboard.press("i")
                await page.wait_for_selector(f".panel-on:has-text('{way}')")
                assert "H.264 + Opus" in await page.inner_text(".panel-on")
                await page.route("**/whep/**", no_udp)


class Wire(asyncio.DatagramProtocol):
    """A UDP path of one browser to the node, which can be cut."""

    def __init__(self, node: tuple[str, int]) -> None:
        self.node = node
        self.browser: tuple[str, int] | None = None
        self.cut = False
        self.transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        assert self.transport is not None
        if addr[:2] != self.node:
            self.browser = addr[:2]
        to = self.browser if addr[:2] == self.node else self.node
        if not self.cut and to is not None:
            self.transport.sendto(data, to)

    def error_received(self, exc: Exception) -> None:
        """The browser's port is gone: it may be, at the end."""


async def test_a_path_that_fails_is_restarted_by_patch_in_the_same_session(tmp_path: Path, page: Page) -> None:
    wires: list[Wire] = []
    asked: list[tuple[str, int]] = []

    async def through_the_wire(route: Route) -> None:
        response = await route.fetch()
        text = await response.text()
        asked.append((route.request.method, response.status))
        address = re.search(r"a=candidate:\S+ 1 udp \d+ (127\.0\.0\.1) (\d+)", text)
        if address:
            if not wires:
                wire = Wire((address[1], int(address[2])))
                await asyncio.get_running_loop().create_datagram_endpoint(lambda: wire, local_addr=("127.0.0.1", 0))
                wires.append(wire)
            assert wires[0].transport is not None
            port = wires[0].transport.get_extra_info("sockname")[1]
            text = re.sub(r"a=candidate:.*\r\n", "", text)
            line = f"a=candidate:1 1 udp 2130706431 127.0.0.1 {port} typ host\r\n"
            text = re.sub(r"(a=ice-pwd:.*\r\n)", lambda m: m[1] + line, text, count=1)
        await route.fulfill(response=response, body=text)

    async with running(tmp_path) as real:
        push = [*moving_picture(90, size="640x360"), *H264_AAC, "-f", "flv", f"{real.rtmp}/live/{real.key}"]
        async with ffmpeg_process(*push):
            await until(lambda: real.on_air)
            await page.route(re.compile("/whep/|/rtc/session/"), through_the_wire)
            await page.goto(f"{real.http}/play/live/empty")
            await page.evaluate(
                """async (node) => {
                  const { WhepPlayer } = await import(`${node}/static/medianode.js`);
                  window.player = new WhepPlayer(null, { url: `${node}/whep/live/studio`, stallTimeout: 0 });
                  window.states = [];
                  player.addEventListener('state', (e) => states.push(e.detail.state));
                  player.start();
                }""",
                real.http,
            )
            await becomes(page, "player.stats?.framesDecoded > 10")
            user = "/a=ice-ufrag:(.*)/.exec(player.peerConnection.remoteDescription.sdp)[1]"
            before = await page.evaluate(user)
            wires[0].cut = True
            await becomes(page, "player.peerConnection.connectionState === 'disconnected'")
            async with asyncio.timeout(15):
                while ("PATCH", 200) not in asked:
                    await asyncio.sleep(0.05)
            wires[0].cut = False
            await becomes(page, "player.peerConnection.connectionState === 'connected'")
            assert await page.evaluate(user) != before
            frames = await page.evaluate("player.stats.framesDecoded")
            await becomes(page, f"player.stats.framesDecoded > {frames + 60}")
            assert await page.evaluate("states") == ["connecting", "live"]
            assert [method for method, _ in asked] == ["POST", "PATCH"]
            await page.evaluate("player.close()")
    for wire in wires:
        assert wire.transport is not None
        wire.transport.close()


async def test_the_player_takes_hls_without_webrtc(tmp_path: Path, page: Page) -> None:
    async with running(tmp_path, rtc={"enabled": False}) as real:
        push = [*moving_picture(60, size="640x360"), *H264_AAC, "-f", "flv", f"{real.rtmp}/live/{real.key}"]
        async with ffmpeg_process(*push):
            await page.goto(f"{real.http}/play/live/studio")
            await state(page, "playing", "hls")
            await moves(page)
            options = await page.eval_on_selector_all(".mode option", "all => all.map((o) => o.value)")
            assert "whep" not in options


async def test_back_up_the_ladder_once_real_time_works(tmp_path: Path, page: Page) -> None:
    async with running(tmp_path) as real:
        push = [*moving_picture(120, size="640x360"), *H264_AAC, "-f", "flv", f"{real.rtmp}/live/{real.key}"]
        async with ffmpeg_process(*push):
            await page.clock.install()
            await page.route("**/whep/**", lambda route: route.abort())
            await page.goto(f"{real.http}/play/live/studio")
            await state(page, "playing", "hls")
            await page.unroute("**/whep/**")
            await moves(page)
            await page.clock.fast_forward(30_000)  # after so long it is tried again
            await page.wait_for_selector("[data-player][data-mode=whep]", timeout=60_000)
            await state(page, "playing", "whep")
            await moves(page)


async def test_the_start_page_makes_a_key_for_this_browser(tmp_path: Path, page: Page) -> None:
    async with running(tmp_path) as real:
        await page.goto(real.http)
        await page.fill("#key", real.ready.first.admin_key_file.read_text().strip())
        await page.click("#key-form button")
        await page.fill("#room", "cam")
        await page.select_option("#kind", "whip")
        await page.click("#make button")
        link = page.get_by_role("link", name="Publish from this browser")
        await link.wait_for()
        await shoot(page, "start-whip")
        await link.click()
        await page.click("#use-camera")
        await page.wait_for_selector("#go:not([disabled])")
        await page.click("#go")
        await page.wait_for_selector("body[data-state=live]")
        wrong = "not-" + await page.input_value("#key")
        await page.click("#go")
        await page.fill("#key", wrong)
        await page.click("#go")
        await page.wait_for_selector("#trouble:has-text('The stream key is wrong')")


@pytest.mark.parametrize(("codec", "layers", "shown"), [("video/VP8", False, "VP8 + Opus"), ("", True, "H.264 + Opus")])
async def test_another_codec_and_simulcast_through_the_node(
    tmp_path: Path, browser: Browser, page: Page, codec: str, layers: bool, shown: str
) -> None:
    async with running(tmp_path) as real:
        await ready_to_publish(page, real.http, await whip_key(page, real))
        await page.select_option("#codec", codec)
        await page.set_checked("#layers", layers)
        await page.click("#go")
        await page.wait_for_selector("body[data-state=live]")
        await becomes(page, f"document.querySelector('[data-fact=codec]').textContent === '{shown}'")
        viewer = await browser.new_page()
        viewer.set_default_timeout(PATIENCE)
        await viewer.goto(f"{real.http}/play/live/demo")
        await state(viewer, "playing", "whep")
        await moves(viewer)
        await viewer.keyboard.press("i")
        await viewer.wait_for_selector(f".panel-on:has-text('{shown}')")
        await page.click("#go")


async def test_a_private_room_plays_with_its_token_here_and_on_another_site(tmp_path: Path, page: Page) -> None:
    async with running(tmp_path) as real, elsewhere() as site:
        api = f"{real.http}/api/v1"
        closed = await page.request.patch(f"{api}/projects/live", headers=real.admin, data={"viewing": "token"})
        assert closed.status == 200, await closed.text()
        made = await page.request.post(
            f"{api}/apps/live/tokens", headers=real.admin, data={"room": "studio", "canPublish": False, "name": "Viewer", "ttl": "1h"}
        )
        token = (await made.json())["data"]["token"]
        push = [*moving_picture(90, size="640x360"), *H264_AAC, "-f", "flv", f"{real.rtmp}/live/{real.key}"]
        async with ffmpeg_process(*push):
            await page.goto(f"{real.http}/play/live/studio")
            await state(page, "token")
            await page.fill(".token input", token)
            await page.click(".token button")
            await state(page, "playing", "whep")
            await moves(page)
            embedding = await page.input_value("[data-link=script]")
            assert token in embedding
            await page.goto(f"{site}?{quote(embedding)}")
            await moves(page)
            assert await page.evaluate("document.querySelector('video').videoWidth") == 640
