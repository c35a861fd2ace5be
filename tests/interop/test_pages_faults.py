"""The pages and medianode.js in a real Chromium, with aiortc behind the doors: refusals, silence and endings that a node shows rarely."""

from __future__ import annotations

import asyncio
import contextlib
import fractions
import re
import uuid
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
from aiohttp import web
from aiortc import AudioStreamTrack, RTCConfiguration, RTCPeerConnection, RTCSessionDescription, VideoStreamTrack
from aiortc.contrib.media import MediaBlackhole
from aiortc.sdp import candidate_from_sdp
from av import VideoFrame
from harness.chromium import chromium
from harness.pages import FRAMES, PATIENCE, becomes, go_on_air, moves, ready_to_publish, served, shoot, state
from playwright.async_api import Browser, Page

from medianode.auth import ReadGrant
from medianode.config import Config
from medianode.events import Bus
from medianode.media.names import room_name
from medianode.media.track import VIDEO_CLOCK_RATE, Codec, Track
from medianode.origin import Origin
from medianode.routing.publication import Publication
from medianode.routing.registry import Registry
from medianode.routing.room import Room
from medianode.web.pages import Pages

pytestmark = pytest.mark.interop

KEY = "whip_key"
VIDEO = Track(0, Codec.H264, VIDEO_CLOCK_RATE, width=640, height=360, frame_rate=30.0)
AUDIO = Track(1, Codec.AAC, 48_000, sample_rate=48_000, channels=2)
CORS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "POST, PATCH, DELETE, OPTIONS",
    "Access-Control-Allow-Headers": "Authorization, Content-Type, If-Match",
    "Access-Control-Expose-Headers": "Location, ETag, Link, Retry-After",
}


class Doorkeeper:
    async def read(self, app: str, room: str, token: str | None = None, bearer: str | None = None, *, source: str = "") -> ReadGrant:
        return ReadGrant(project_id="p1", slug=app, room=room_name(app, room))


class Moving(VideoStreamTrack):
    """A small picture that changes; `still`: it stops coming."""

    def __init__(self) -> None:
        super().__init__()
        self.still = False
        self.count = 0

    async def recv(self) -> VideoFrame:
        while self.still:
            await asyncio.sleep(0.05)
        self.count += 1
        frame = VideoFrame.from_ndarray(np.full((120, 160, 3), self.count * 5 % 256, dtype=np.uint8), format="rgb24")
        frame.pts, frame.time_base = self.count * 6000, fractions.Fraction(1, 90_000)
        await asyncio.sleep(1 / 15)
        return frame


class StandIn:
    """aiortc behind /whip and /whep, with knobs for what goes wrong; the pages, their state and the registry are real."""

    def __init__(self) -> None:
        self.registry = Registry(Bus(), Config().limits)
        self.pages = Pages(Config(), Origin("", ()), Doorkeeper(), self.registry, lambda: b"PEM", rtmp_port=1935)  # type: ignore[arg-type] # reads only
        self.url = ""
        self.asked: list[tuple[str, str]] = []
        self.refusals: list[web.Response] = []
        """Answers to the next POSTs, instead of a session."""
        self.link = ""
        self.body = "<video muted playsinline></video>"
        self.deaf = False
        """Answers name a port where nobody listens."""
        self.sessions: dict[str, RTCPeerConnection] = {}
        self.videos: list[Moving] = []
        self.received: list[Any] = []
        self.live: tuple[Room, Publication] | None = None

    def routes(self) -> list[web.RouteDef]:
        return [
            *self.pages.routes(),
            web.post("/{door:whip|whep}/{app}/{room}", self.post),
            web.options("/{door:whip|whep}/{app}/{room}", self.options),
            web.options("/session/{id}", self.options),
            web.patch("/session/{id}", self.patch),
            web.delete("/session/{id}", self.delete),
            web.get("/elsewhere", self.elsewhere),
        ]

    def publish(self, *tracks: Track) -> None:
        self.live = go_on_air(self.registry, tracks)

    def cut(self, *, final: bool = False) -> None:
        assert self.live is not None
        self.live[0].end(self.live[1], "peer-gone", final=final)

    async def options(self, request: web.Request) -> web.Response:
        return web.Response(status=204, headers=CORS)

    async def post(self, request: web.Request) -> web.Response:
        door = request.match_info["door"]
        self.asked.append((f"POST {door}", request.headers.get("Authorization", "")))
        if self.refusals:
            return self.refusals.pop(0)
        pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        name = uuid.uuid4().hex
        self.sessions[name] = pc
        await pc.setRemoteDescription(RTCSessionDescription(await request.text(), "offer"))
        if door == "whep":
            for transceiver in pc.getTransceivers():
                track = Moving() if transceiver.kind == "video" else AudioStreamTrack()
                if isinstance(track, Moving):
                    self.videos.append(track)
                transceiver.sender.replaceTrack(track)
                transceiver.direction = "sendonly"
        else:
            sink = MediaBlackhole()
            for transceiver in pc.getTransceivers():
                sink.addTrack(transceiver.receiver.track)
            self.received.append(pc)
            await sink.start()
        await pc.setLocalDescription(await pc.createAnswer())
        headers = {**CORS, "Location": f"/session/{name}", "ETag": '"1"', **({"Link": self.link} if self.link else {})}
        answer = pc.localDescription.sdp
        if self.deaf:
            answer = re.sub(r"a=candidate:.*\r\n", "", answer) + "a=candidate:1 1 udp 2130706431 127.0.0.1 9 typ host\r\n"
            await pc.close()
        return web.Response(status=201, text=answer, content_type="application/sdp", headers=headers)

    async def patch(self, request: web.Request) -> web.Response:
        fragment = await request.text()
        self.asked.append(("PATCH", request.headers.get("If-Match", "")))
        pc = self.sessions.get(request.match_info["id"])
        if pc is None:
            return web.Response(status=404, headers=CORS)
        if request.headers.get("If-Match") == "*":
            return web.Response(status=501, headers=CORS)  # aiortc restarts no ICE
        mid = re.search(r"a=mid:(\S+)", fragment)
        for line in re.findall(r"a=candidate:(.*)", fragment):
            candidate = candidate_from_sdp(line.strip())
            candidate.sdpMid = mid.group(1) if mid else "0"
            with contextlib.suppress(ValueError):
                await pc.addIceCandidate(candidate)
        return web.Response(status=204, headers=CORS)

    async def delete(self, request: web.Request) -> web.Response:
        self.asked.append(("DELETE", request.headers.get("Authorization", "")))
        pc = self.sessions.pop(request.match_info["id"], None)
        if pc is not None:
            await pc.close()
        return web.Response(status=200, headers=CORS)

    async def elsewhere(self, request: web.Request) -> web.Response:
        """Another site that embeds the script."""
        return web.Response(text=f"<!doctype html><title>elsewhere</title>{self.body}", content_type="text/html")

    async def hang_up(self) -> None:
        """The node ends every session: DTLS close_notify, and nothing by HTTP."""
        for pc in list(self.sessions.values()):
            await pc.close()
        self.sessions.clear()

    def posts(self, door: str = "whep") -> int:
        return sum(what == f"POST {door}" for what, _ in self.asked)


@pytest.fixture
async def node() -> AsyncIterator[StandIn]:
    made = StandIn()
    async with served(made.routes()) as made.url:
        try:
            yield made
        finally:
            await made.hang_up()


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    async with chromium("--host-resolver-rules=MAP node.test 127.0.0.1") as made:
        yield made


async def test_the_player_plays_in_real_time_first_and_shows_its_figures(node: StandIn, page: Page) -> None:
    node.publish(VIDEO, AUDIO)
    await page.goto(f"{node.url}/play/live/demo")
    await state(page, "playing", "whep")
    await moves(page)
    await page.keyboard.press("i")
    await page.wait_for_selector(".panel-on:has-text('UDP')")
    await becomes(page, "Number(document.querySelector('[data-player]').dataset.latency) > 0")
    text = await page.inner_text(".panel-on")
    assert "Real time (WebRTC)" in text
    assert re.search(r"160 × 120", text)
    await shoot(page, "play-desktop-panel")
    assert await page.input_value("[data-link=whep]") == f"{node.url}/whep/live/demo"
    await page.goto("about:blank")
    async with asyncio.timeout(10):
        while ("DELETE", "") not in node.asked:
            await asyncio.sleep(0.05)


async def test_a_session_that_the_node_ends_is_set_up_again_at_once(node: StandIn, page: Page) -> None:
    node.publish(VIDEO, AUDIO)
    await page.goto(f"{node.url}/play/live/demo")
    await state(page, "playing", "whep")
    await moves(page)
    await node.hang_up()
    await becomes(page, f"{FRAMES} > 0")
    async with asyncio.timeout(10):
        while node.posts() < 2:
            await asyncio.sleep(0.05)
    await moves(page)
    await state(page, "playing", "whep")


async def test_no_frame_for_three_seconds_means_a_new_session_and_a_held_room_means_patience(node: StandIn, page: Page) -> None:
    node.publish(VIDEO, AUDIO)
    await page.goto(f"{node.url}/play/live/demo")
    await state(page, "playing", "whep")
    await moves(page)
    node.cut()
    node.videos[-1].still = True
    await state(page, "held")
    await asyncio.sleep(4)
    assert node.posts() == 1
    node.publish(VIDEO, AUDIO)
    node.videos[-1].still = False
    await state(page, "playing", "whep")
    assert node.posts() == 1
    node.videos[-1].still = True
    async with asyncio.timeout(15):
        while node.posts() < 2:
            await asyncio.sleep(0.05)
    await moves(page)


async def test_what_whep_cannot_do_falls_down_the_ladder(node: StandIn, page: Page) -> None:
    node.publish(VIDEO, AUDIO)
    node.refusals = [web.Response(status=406, text="no codec is shared: offered VP8, got H.264") for _ in range(3)]
    await page.goto(f"{node.url}/play/live/demo")
    await page.wait_for_selector("[data-player]:is([data-mode=hls], [data-mode=native], [data-mode=mjpeg])")
    assert node.posts() == 1
    await page.select_option(".mode", "whep")
    await state(page, "unsupported")


async def test_the_script_waits_as_the_node_asks_and_stops_where_trying_is_of_no_use(node: StandIn, page: Page) -> None:
    other = node.url.replace("127.0.0.1", "localhost")
    node.refusals = [web.Response(status=404, headers={**CORS, "Retry-After": "1"}, text='{"error":{"message":"nothing on air"}}')]
    node.link = (
        '<stun:127.0.0.1:9>; rel="ice-server", <turn:127.0.0.1:9?transport=udp>; rel="ice-server"; username="a,\\"b"; credential="c>;d"'
    )
    await page.goto(f"{other}/elsewhere")
    await page.evaluate(
        """async (node) => {
          const { WhepPlayer, iceServersOf } = await import(`${node}/static/medianode.js`);
          window.states = [];
          window.iceServersOf = iceServersOf;
          window.player = new WhepPlayer(document.querySelector('video'), {
            url: `${node}/whep/live/demo`, token: async () => 'letmein', jitterBufferTarget: 50,
          });
          player.addEventListener('state', (e) => states.push([e.detail.state, e.detail.error?.message ?? '']));
          player.start();
        }""",
        node.url,
    )
    await becomes(page, "player.state === 'live'")
    states = await page.evaluate("states")
    assert states == [["connecting", ""], ["waiting", "nothing on air"], ["live", ""]]
    assert node.asked[0] == ("POST whep", "Bearer letmein")
    servers = await page.evaluate("player.peerConnection.getConfiguration().iceServers")
    assert [s["urls"] for s in servers] == [["stun:127.0.0.1:9"], ["turn:127.0.0.1:9?transport=udp"]] or [s["urls"] for s in servers] == [
        "stun:127.0.0.1:9",
        "turn:127.0.0.1:9?transport=udp",
    ]
    assert (servers[1]["username"], servers[1]["credential"]) == ('a,"b', "c>;d")
    await becomes(page, "player.stats?.fps > 0 && player.stats.bitrate > 0 && player.stats.videoCodec !== null")
    await page.evaluate("player.close()")
    async with asyncio.timeout(10):
        while ("DELETE", "Bearer letmein") not in node.asked:
            await asyncio.sleep(0.05)
    node.refusals = [web.Response(status=401, headers=CORS, text="no")]
    await page.evaluate("player.start()")
    await becomes(page, "player.state === 'failed'")
    assert await page.evaluate("player.error.code") == "unauthorized"


async def test_a_camera_goes_live_with_the_key_of_the_fragment(node: StandIn, page: Page) -> None:
    await ready_to_publish(page, node.url, KEY)
    assert "key" not in page.url
    assert await page.input_value("#key") == KEY
    await becomes(page, "Number(document.querySelector('#level').getAttribute('aria-valuenow')) > 0")
    await shoot(page, "publish-desktop-preview")
    await page.click("#go")
    await page.wait_for_selector("body[data-state=live]")
    assert node.asked[0] == ("POST whip", f"Bearer {KEY}")
    await becomes(page, "document.querySelector('[data-fact=bitrate]').textContent.includes('bit/s')")
    await becomes(page, "document.querySelector('[data-fact=codec]').textContent.includes('Opus')")
    await shoot(page, "publish-desktop-live")
    await page.select_option("#size", "360")
    await becomes(page, "document.querySelector('#video').videoHeight === 360")
    await page.click("#go")
    async with asyncio.timeout(10):
        while ("DELETE", f"Bearer {KEY}") not in node.asked:
            await asyncio.sleep(0.05)
    assert await page.inner_text("#said") == "Stopped."


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (401, "The stream key is wrong"),
        (409, "Somebody else is publishing here"),
        (406, "share no codec"),
        (503, "The node is full"),
        (501, "takes no WebRTC"),
    ],
)
async def test_refusals_are_told_in_plain_words(node: StandIn, page: Page, status: int, words: str) -> None:
    node.refusals = [
        web.json_response(
            {"data": None, "error": {"message": "own words"}}, status=status, headers={"Retry-After": "30"} if status == 503 else {}
        )
    ]
    await ready_to_publish(page, node.url, KEY)
    await page.click("#go")
    await page.wait_for_selector(f"#trouble:has-text('{words}')")
    assert "own words" in await page.inner_text("#trouble")
    await shoot(page, f"publish-refused-{status}")


async def test_where_media_does_not_come_through_the_next_way_is_taken_and_a_publisher_is_told(node: StandIn, page: Page) -> None:
    node.deaf = True
    node.publish(VIDEO, AUDIO)
    await page.goto(f"{node.url}/play/live/demo")
    await page.wait_for_selector("[data-player]:is([data-mode=hls], [data-mode=native], [data-mode=mjpeg])")
    await page.goto(f"{node.url}/play/live/demo?engine=realtime")
    await state(page, "blocked")
    assert "UDP port 8189 or TCP port 8189" in await page.inner_text(".message")
    await ready_to_publish(page, node.url, KEY)
    await page.click("#go")
    await page.wait_for_selector("#trouble:has-text('no way for the media')")
    assert "UDP port 8189 and TCP port 8189" in await page.inner_text("#trouble")
    await shoot(page, "publish-ice")


async def test_a_screen_with_the_microphone(node: StandIn, page: Page) -> None:
    await page.goto(f"{node.url}/publish/live/demo#key={KEY}")
    await page.click("#use-screen")
    await becomes(page, "document.querySelector('#video').videoWidth > 0")
    assert not await page.is_visible("#camera")
    await page.click("#go")
    await page.wait_for_selector("body[data-state=live]")
    await becomes(page, "document.querySelector('[data-fact=picture]').textContent.includes('×')")
    await page.click("#use-camera")
    await becomes(page, "document.querySelector('#use-camera').getAttribute('aria-pressed') === 'true'")
    await becomes(page, "document.querySelector('[data-fact=codec]').textContent.includes('Opus')")
    assert await page.get_attribute("body", "data-state") == "live"


async def test_no_permission_is_told(node: StandIn, page: Page) -> None:
    await page.add_init_script(
        "navigator.mediaDevices.getUserMedia = async () => { throw new DOMException('Permission denied', 'NotAllowedError'); }"
    )
    await page.goto(f"{node.url}/publish/live/demo")
    await page.click("#use-camera")
    await page.wait_for_selector("#trouble:has-text('not allowed to use the camera')")
    assert await page.is_disabled("#go")


async def test_an_unsafe_page_says_how_to_come_safely(node: StandIn, page: Page) -> None:
    unsafe = node.url.replace("127.0.0.1", "node.test")
    await page.goto(f"{unsafe}/publish/live/demo#key={KEY}")
    await page.wait_for_selector("#trouble:has-text('Cameras need a safe page')")
    safe = unsafe.replace("http:", "https:")
    assert await page.get_attribute("#trouble a", "href") == f"{safe}/publish/live/demo#key={KEY}"
    assert await page.get_attribute("#trouble a[download]", "href") == "../../certificate.pem"
    await shoot(page, "publish-unsafe")


async def test_other_programs_get_their_lines(node: StandIn, page: Page) -> None:
    await page.goto(f"{node.url}/publish/live/demo#key={KEY}")
    await page.click("details.share summary")
    assert await page.input_value("#others input >> nth=0") == f"{node.url}/whip/live/demo"
    for tab, line in (("OBS", "Bearer Token"), ("FFmpeg", f"-f whip -authorization {KEY}"), ("GStreamer", "whipclientsink")):
        await page.get_by_role("tab", name=tab).click()
        text = await page.inner_text("#others pre")
        assert line in text
        assert f"{node.url}/whip/live/demo" in text
    await shoot(page, "publish-others")


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_on_a_phone_nothing_is_cut_off(node: StandIn, browser: Browser, scheme: Any) -> None:
    node.publish(VIDEO, AUDIO)
    phone = await browser.new_page(
        viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True, device_scale_factor=2, color_scheme=scheme
    )
    phone.set_default_timeout(PATIENCE)
    wide = "document.documentElement.scrollWidth <= innerWidth"
    await ready_to_publish(phone, node.url, KEY)
    await phone.click("#go")
    await phone.wait_for_selector("body[data-state=live]")
    assert await phone.evaluate(wide)
    await shoot(phone, f"publish-phone-{scheme}")
    await phone.goto(f"{node.url}/play/live/demo")
    await state(phone, "playing", "whep")
    assert await phone.evaluate(wide)
    await phone.click(".player .info")
    await phone.wait_for_selector(".panel-on:has-text('UDP')")
    assert await phone.evaluate(wide)
    await shoot(phone, f"play-phone-{scheme}")
    await phone.goto(f"{node.url}/embed/live/demo")
    await state(phone, "playing", "whep")
    await shoot(phone, f"embed-phone-{scheme}")
