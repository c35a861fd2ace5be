"""The pages in a real Chromium, against the real Pages and Registry; FFmpeg writes the HLS, a small app serves it and the JPEGs."""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import msgspec
import pytest
from aiohttp import web
from harness.chromium import QUIET, chromium
from harness.pages import PATIENCE, ROOM, go_on_air, served, state
from playwright.async_api import BrowserContext, Page

from medianode import clock
from medianode.api.sessions import room_view, view_of
from medianode.api.urls import Ports, Urls
from medianode.auth import ReadGrant
from medianode.config import Config, Rtc
from medianode.errors import MedianodeError, Unauthorized
from medianode.events import Bus
from medianode.media.names import room_name
from medianode.media.track import VIDEO_CLOCK_RATE, Codec, Track
from medianode.origin import OPEN_CORS, Origin, bearer, media_error
from medianode.routing.publication import Publication
from medianode.routing.registry import Registry
from medianode.routing.room import Room
from medianode.web.assets import HLS_SCRIPT, STATIC
from medianode.web.pages import Pages

pytestmark = pytest.mark.interop

FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()
KEY = "sk_operator"
PEM = b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
AUTOPLAY = "--autoplay-policy=no-user-gesture-required"
VIDEO = Track(0, Codec.H264, VIDEO_CLOCK_RATE, width=640, height=360, frame_rate=25.0)
JPEG = Track(0, Codec.MJPEG, VIDEO_CLOCK_RATE, width=320, height=240)
AUDIO = Track(1, Codec.AAC, 48_000, sample_rate=48_000, channels=2)


class Doorkeeper:
    """`token`: what opens the rooms; None: they are open."""

    token: str | None = None

    async def read(self, app: str, room: str, token: str | None = None, bearer: str | None = None, *, source: str = "") -> ReadGrant:
        if self.token is not None and self.token not in (token, bearer):
            raise Unauthorized("a viewer token is needed")
        return ReadGrant(project_id="p1", slug=app, room=room_name(app, room))


class Node:
    """A daemon's worth of doors for the pages: state by the real Registry, media by FFmpeg."""

    def __init__(self, directory: Path, static: Path) -> None:
        self.config = Config(rtc=Rtc(enabled=False))
        self.registry = Registry(Bus(), self.config.limits)
        self.doorkeeper = Doorkeeper()
        self.origin = Origin("", ())
        self.pages = Pages(self.config, self.origin, self.doorkeeper, self.registry, lambda: PEM, rtmp_port=1935, static=static)  # type: ignore[arg-type] # reads only
        self.directory = directory
        self.url = ""
        self.viewing = "public"
        self.requests: list[str] = []
        self.keys: dict[str, list[dict[str, Any]]] = {"ingress": [], "ws-ingest": []}
        self.jpegs: list[bytes] = []
        self.live: tuple[Room, Publication] | None = None
        self.encoder: asyncio.subprocess.Process | None = None
        self.closing = asyncio.Event()

    def routes(self) -> list[web.RouteDef]:
        return [
            *self.pages.routes(),
            web.get("/hls/{app}/{room}/{file}", self.hls),
            web.get("/live/{app}/{room}/mjpeg", self.mjpeg),
            web.get("/live/{app}/{room}/frame.jpg", self.frame),
            web.get("/frame-me", self.frame_me),
            web.get("/api/v1/{what:rooms|sessions|projects}", self.listing),
            web.post("/api/v1/apps/live/{what:ingress|ws-ingest|tokens}", self.create),
            web.get("/api/v1/apps/live/{what:ingress|ws-ingest}", self.made_keys),
            web.delete("/api/v1/apps/live/{what:ingress|ws-ingest}/{id}", self.delete),
        ]

    async def publish(self, *tracks: Track, hold: float = 60.0, media: bool = True) -> None:
        """Go on air; with `media` an FFmpeg writes HLS, continuing the playlist that may be there."""
        if media:
            await self.encode()
        self.live = go_on_air(self.registry, tracks, hold)

    async def encode(self) -> None:
        command = (
            f"{FFMPEG} -hide_banner -loglevel error -re -f lavfi -i testsrc2=s=640x360:r=25 -re -f lavfi -i sine=f=440:r=48000 "
            "-c:v libx264 -preset ultrafast -tune zerolatency -g 25 -pix_fmt yuv420p -b:v 600k -c:a aac -b:a 96k "
            "-f hls -hls_time 1 -hls_list_size 6 -hls_flags program_date_time+append_list+discont_start+omit_endlist+temp_file "
            "-hls_segment_type mpegts index.m3u8"
        )
        self.encoder = await asyncio.create_subprocess_exec(*command.split(), cwd=self.directory, stdin=asyncio.subprocess.DEVNULL)
        playlist = self.directory / "index.m3u8"
        before = playlist.stat().st_mtime_ns if playlist.exists() else 0
        async with asyncio.timeout(30):
            while not playlist.exists() or playlist.stat().st_mtime_ns == before:
                await asyncio.sleep(0.1)

    async def cut(self, *, final: bool) -> None:
        """The encoder is gone; `final`: without a hold."""
        await self.stop_encoder()
        assert self.live is not None
        room, publication = self.live
        room.end(publication, "peer-gone", final=final)
        if final:
            for file in self.directory.iterdir():
                file.unlink()

    async def stop_encoder(self) -> None:
        if self.encoder is not None and self.encoder.returncode is None:
            self.encoder.kill()
            await self.encoder.wait()
        self.encoder = None

    async def admitted(self, request: web.Request) -> None:
        self.requests.append(request.path_qs)
        await self.doorkeeper.read("live", ROOM, request.query.get("token"), bearer(request))
        self.registry.on_air("p1", ROOM)

    async def hls(self, request: web.Request) -> web.StreamResponse:
        try:
            await self.admitted(request)
        except MedianodeError as e:
            return media_error(e)
        path = self.directory / Path(request.match_info["file"]).name
        if not path.is_file():
            return web.Response(status=404)
        kind = "application/vnd.apple.mpegurl" if path.suffix == ".m3u8" else "video/mp2t"
        return web.Response(body=path.read_bytes(), content_type=kind, headers={**OPEN_CORS, "Cache-Control": "no-store"})

    async def mjpeg(self, request: web.Request) -> web.StreamResponse:
        try:
            await self.admitted(request)
        except MedianodeError as e:
            return media_error(e)
        response = web.StreamResponse(headers={"Content-Type": "multipart/x-mixed-replace; boundary=frame", "Cache-Control": "no-store"})
        await response.prepare(request)
        room = self.registry.find("p1", ROOM)
        with contextlib.suppress(ConnectionError):
            for jpeg in self.jpegs * 1000:
                if room is None or not room.on_air or self.closing.is_set():
                    break
                await response.write(b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%s\r\n" % (len(jpeg), jpeg))
                await asyncio.sleep(0.08)
        return response

    async def frame(self, request: web.Request) -> web.StreamResponse:
        try:
            await self.admitted(request)
        except MedianodeError as e:
            return media_error(e)
        return web.Response(body=self.jpegs[0], content_type="image/jpeg")

    async def frame_me(self, request: web.Request) -> web.StreamResponse:
        return web.Response(
            text=f'<!doctype html><iframe src="{self.url}/{request.query_string}" width="640" height="360"></iframe>',
            content_type="text/html",
        )

    async def listing(self, request: web.Request) -> web.StreamResponse:
        if bearer(request) != KEY:
            return web.json_response({"statusCode": 401, "message": "unknown API key", "error": "Unauthorized"}, status=401)
        urls = Urls.of(self.origin, request, Ports(1935))
        rows: list[Any] = [{"id": "p1", "slug": "live", "name": "live", "viewing": self.viewing, "openPublish": False}]
        if request.match_info["what"] == "rooms":
            rows = [room_view(r, urls) for r in self.registry]
        elif request.match_info["what"] == "sessions":
            rows = [view_of(r, p, clock.now()) for r in self.registry for p in r.publications.values()]
        return web.json_response({"data": msgspec.to_builtins(rows), "total": len(rows), "limit": 100, "offset": 0})

    async def create(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        room = room_name("live", body["room"])
        made = {
            "ingress": {"ingressId": "IN_1", "url": "rtmp://127.0.0.1:1935/live", "streamKey": "sk_abc123", "roomName": room},
            "ws-ingest": {
                "id": "wsi_1",
                "streamKey": "wsk_abc123",
                "room": room,
                "wsUrl": f"ws://127.0.0.1:8080/ingest/ws?app=live&room={room}",
            },
            "tokens": {"token": "viewer-token", "room": room},
        }[request.match_info["what"]]
        if request.match_info["what"] in self.keys:
            self.keys[request.match_info["what"]].append(made)
        return web.json_response({"data": made}, status=201)

    async def made_keys(self, request: web.Request) -> web.StreamResponse:
        more = {"room": ROOM, "name": "OBS", "identity": "cam", "status": "inactive", "active": False}
        rows = [{**more, **{k: v for k, v in row.items() if k != "wsUrl"}} for row in self.keys[request.match_info["what"]]]
        return web.json_response({"data": rows, "total": len(rows), "limit": 200, "offset": 0})

    async def delete(self, request: web.Request) -> web.StreamResponse:
        rows = self.keys[request.match_info["what"]]
        rows[:] = [row for row in rows if request.match_info["id"] not in (row.get("ingressId"), row.get("id"))]
        return web.Response(status=204)


async def make_jpegs(count: int) -> list[bytes]:
    command = f"{FFMPEG} -loglevel error -f lavfi -i testsrc=s=320x240:r=10 -frames:v {count} -f image2pipe -c:v mjpeg -"
    process = await asyncio.create_subprocess_exec(*command.split(), stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    return [b"\xff\xd8" + part for part in out.split(b"\xff\xd8")[1:]]


@contextlib.asynccontextmanager
async def running(directory: Path, *, with_hls: bool = True) -> AsyncIterator[Node]:
    static = STATIC
    if not with_hls:
        static = directory / "static"
        shutil.copytree(STATIC, static, ignore=shutil.ignore_patterns("vendor"))
    media = directory / "media"
    media.mkdir()
    node = Node(media, static)
    node.jpegs = await make_jpegs(12)
    async with served(node.routes()) as node.url:
        try:
            yield node
        finally:
            node.closing.set()
            await node.stop_encoder()
            for room in node.registry:
                for publication in tuple(room.publications.values()):
                    room.end(publication, "shutdown", final=True)
                room.release("obs")


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    assert (STATIC / HLS_SCRIPT).is_file(), "hls.js is missing: run make venv"
    async with running(tmp_path) as made:
        yield made


@pytest.fixture
async def context() -> AsyncIterator[BrowserContext]:
    async with chromium(AUTOPLAY, base=QUIET) as browser:
        made = await browser.new_context(viewport={"width": 1280, "height": 800})
        made.set_default_timeout(PATIENCE)
        yield made


def watch(page: Page) -> list[str]:
    """Uncaught errors and refusals of the content security policy, as they come."""
    wrong: list[str] = []
    page.on("pageerror", lambda e: wrong.append(str(e)))
    page.on("console", lambda m: wrong.append(m.text) if "Content Security Policy" in m.text else None)
    return wrong


async def moves(page: Page) -> None:
    """Pictures go on: a second of them from now."""
    await page.evaluate("() => { window.mark = document.querySelector('video').currentTime; }")
    await page.wait_for_function("() => document.querySelector('video').currentTime > window.mark + 1", timeout=PATIENCE)


async def attribute(page: Page, name: str) -> str:
    return await page.get_attribute("[data-player]", f"data-{name}") or ""


async def test_plays_hls_with_delay_and_facts_shown(node: Node, context: BrowserContext) -> None:
    await node.publish(VIDEO, AUDIO)
    page = await context.new_page()
    wrong = watch(page)
    await page.goto(f"{node.url}/play/live/demo")
    await state(page, "playing")
    await moves(page)
    assert await attribute(page, "mode") == "hls"
    await page.wait_for_function("() => Number(document.querySelector('[data-player]').dataset.latency) > 0")
    assert await page.text_content('[data-fact="codec"]') == "H.264 + AAC"
    assert "640 × 360" in (await page.text_content('[data-fact="picture"]') or "")
    assert await page.evaluate("() => !document.querySelector('video').muted")
    assert not await page.is_visible(".notice")
    assert wrong == []


async def test_waits_for_the_publisher_and_starts_by_itself(node: Node, context: BrowserContext) -> None:
    page = await context.new_page()
    await page.goto(f"{node.url}/play/live/demo")
    await state(page, "waiting")
    await node.publish(VIDEO, AUDIO)
    await state(page, "playing")
    await moves(page)


async def test_a_cut_within_the_hold_window_needs_no_reload(node: Node, context: BrowserContext) -> None:
    await node.publish(VIDEO, AUDIO)
    page = await context.new_page()
    await page.goto(f"{node.url}/play/live/demo")
    await state(page, "playing")
    await moves(page)
    await page.evaluate("() => { window.same = true; }")
    await node.cut(final=False)
    await state(page, "held")
    await node.publish(VIDEO, AUDIO)
    await state(page, "playing")
    await moves(page)
    assert await page.evaluate("() => window.same")


async def test_after_the_end_it_plays_again_without_a_reload(node: Node, context: BrowserContext) -> None:
    await node.publish(VIDEO, AUDIO)
    page = await context.new_page()
    await page.goto(f"{node.url}/play/live/demo")
    await state(page, "playing")
    await moves(page)
    await node.cut(final=True)
    await state(page, "ended")
    await node.publish(VIDEO, AUDIO)
    await state(page, "playing")
    await moves(page)


async def test_a_jpeg_camera_plays_as_mjpeg_and_hls_can_be_chosen(node: Node, context: BrowserContext) -> None:
    await node.publish(JPEG)
    page = await context.new_page()
    wrong = watch(page)
    await page.goto(f"{node.url}/play/live/demo")
    await state(page, "playing")
    assert await attribute(page, "mode") == "mjpeg"
    await page.wait_for_function("() => document.querySelector('canvas').width === 320 && document.querySelector('canvas').height === 240")
    shots = [await page.locator("canvas").screenshot() for _ in range(6)]
    assert len(set(shots)) > 1, "the pictures do not change"
    await page.select_option(".mode", "hls")
    await page.wait_for_selector('[data-player][data-mode="hls"]')
    await moves(page)
    assert wrong == []


async def test_mjpeg_ends_and_comes_back(node: Node, context: BrowserContext) -> None:
    await node.publish(JPEG, media=False)
    page = await context.new_page()
    await page.goto(f"{node.url}/embed/live/demo")
    await state(page, "playing")
    await node.cut(final=True)
    await state(page, "ended")
    await node.publish(JPEG, media=False)
    await state(page, "playing")


async def test_a_private_room_asks_for_its_token_and_passes_it_on(node: Node, context: BrowserContext) -> None:
    node.doorkeeper.token = "letmein"
    await node.publish(VIDEO, AUDIO)
    page = await context.new_page()
    await page.goto(f"{node.url}/play/live/demo")
    await state(page, "token")
    await page.fill(".token input", "wrong")
    await page.click(".token button")
    await state(page, "refused")
    await page.fill(".token input", "letmein")
    await page.click(".token button")
    await state(page, "playing")
    await moves(page)
    media = [path for path in node.requests if path.startswith("/hls/")]
    assert media
    assert all("token=letmein" in path for path in media)
    for link in ("embed", "hls", "mjpeg", "still"):
        assert "?token=letmein" in await page.input_value(f"[data-link={link}]")


async def test_a_key_holder_plays_a_private_room_from_the_start_page(node: Node, context: BrowserContext) -> None:
    node.doorkeeper.token = "viewer-token"
    node.viewing = "token"
    await node.publish(VIDEO, AUDIO)
    page = await context.new_page()
    await page.goto(f"{node.url}/")
    await page.fill("#key", KEY)
    await page.click("#key-form button")
    await page.wait_for_selector('.card .button.main[href$="?token=viewer-token"]')
    await page.click(".card .button.main")
    await state(page, "playing")


async def test_without_hls_js_it_still_plays_and_says_so(tmp_path: Path, context: BrowserContext) -> None:
    async with running(tmp_path, with_hls=False) as node:
        assert not node.pages.assets.has_hls
        await node.publish(VIDEO, AUDIO)
        page = await context.new_page()
        await page.goto(f"{node.url}/play/live/demo")
        assert "hls.js is not installed" in (await page.text_content(".notice[data-without-hls]") or "")
        assert await page.is_visible(".notice[data-without-hls]")
        await state(page, "playing")
        assert await attribute(page, "mode") in ("native", "mjpeg")
        await page.goto(f"{node.url}/play/live/demo?mode=mjpeg")
        await page.wait_for_selector('[data-player][data-mode="mjpeg"][data-state="playing"]')


async def test_media_that_the_browser_cannot_play_falls_back_to_mjpeg(node: Node, context: BrowserContext) -> None:
    await node.publish(Track(0, Codec.HEVC, VIDEO_CLOCK_RATE, width=640, height=360), AUDIO, media=False)
    (node.directory / "index.m3u8").write_text(
        '#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1000000,CODECS="ec-3,hvc1.99.6.L93.B0",RESOLUTION=640x360\nmedia.m3u8\n'
    )
    page = await context.new_page()
    await page.goto(f"{node.url}/play/live/demo")
    await page.wait_for_selector('[data-player][data-mode="mjpeg"][data-state="playing"]')
    assert re.fullmatch(r"This browser cannot play H\.265.*: pictures only, no sound", await page.inner_text(".lack"))
    await page.select_option("select.mode", "mjpeg")
    await page.wait_for_selector(".lack", state="hidden")


async def test_strangers_may_frame_the_embedded_player_which_starts_muted_and_not_the_page(node: Node, context: BrowserContext) -> None:
    await node.publish(VIDEO, AUDIO)
    page = await context.new_page()
    stranger = node.url.replace("127.0.0.1", "localhost") + "/frame-me?"
    await page.goto(f"{stranger}embed/live/demo")
    frame = page.frame_locator("iframe")
    await frame.locator('[data-player][data-state="playing"]').wait_for()
    assert await frame.locator("video").evaluate("video => video.muted")
    async with page.expect_console_message(lambda m: "frame-ancestors" in m.text or "X-Frame-Options" in m.text):
        await page.goto(f"{stranger}play/live/demo")
    assert await frame.locator("[data-player]").count() == 0


async def test_forbidden_autoplay_with_sound_starts_muted_and_offers_sound(node: Node) -> None:
    await node.publish(VIDEO, AUDIO)
    async with chromium("--autoplay-policy=user-gesture-required", base=QUIET) as browser:
        page = await browser.new_page()
        for _ in range(4):
            await page.goto(f"{node.url}/play/live/demo")
            await state(page, "playing")
            # Chromium lets media play that has shown no sound yet, which now and then is how a stream begins
            if await page.evaluate("() => document.querySelector('video').muted"):
                break
        await page.click(".unmute")
        await page.wait_for_function("() => !document.querySelector('video').muted")
        assert not await page.is_visible(".unmute")


async def test_pause_keyboard_and_going_live(node: Node, context: BrowserContext) -> None:
    await node.publish(VIDEO, AUDIO)
    page = await context.new_page()
    await page.goto(f"{node.url}/play/live/demo")
    await state(page, "playing")
    await page.keyboard.press("k")
    await state(page, "paused")
    assert await page.evaluate("() => document.querySelector('video').paused")
    await page.keyboard.press("m")
    assert await page.evaluate("() => document.querySelector('video').muted")
    await page.keyboard.press("k")
    await state(page, "playing")
    await moves(page)


async def test_the_node_going_away_is_said_and_survived(node: Node, context: BrowserContext) -> None:
    page = await context.new_page()
    await page.goto(f"{node.url}/play/live/demo")
    await state(page, "waiting")
    await context.set_offline(True)
    await state(page, "offline")
    await context.set_offline(False)
    await state(page, "waiting")


async def test_the_node_going_away_while_it_plays_is_said_and_the_stream_goes_on(node: Node, context: BrowserContext) -> None:
    await node.publish(VIDEO, AUDIO)
    page = await context.new_page()
    await page.goto(f"{node.url}/play/live/demo")
    await state(page, "playing")
    await moves(page)
    await context.set_offline(True)
    await state(page, "offline")
    assert await page.inner_text(".message strong") == "Cannot reach the node; trying again…"
    await context.set_offline(False)
    await state(page, "playing")
    await moves(page)


async def test_start_page_refuses_a_wrong_key_lists_rooms_and_makes_keys(node: Node, context: BrowserContext) -> None:
    await node.publish(VIDEO, AUDIO, media=False)
    page = await context.new_page()
    wrong = watch(page)
    await page.goto(f"{node.url}/")
    await page.fill("#key", "sk_wrong")
    await page.click("#key-form button")
    await page.wait_for_selector("#key-wrong:has-text('not accepted')")
    await page.fill("#key", KEY)
    await page.click("#key-form button")
    card = page.locator(f'.card[data-room="{ROOM}"]')
    await card.wait_for()
    assert "640×360" in await card.inner_text()
    await card.locator("img").wait_for()
    assert await page.evaluate("() => sessionStorage.getItem('medianode.key')") == KEY
    await page.click("#make button")
    await page.wait_for_selector("#made:has-text('sk_abc123')", state="attached")
    assert re.search(r"ffmpeg|Settings", await page.inner_text("#made pre"))
    assert await page.get_attribute("#made a[download]", "href") == "certificate.pem"
    await page.select_option("#kind", "ws-mjpeg")
    await page.click("#make button")
    await page.wait_for_selector("#made pre:has-text('wsk_abc123')")
    await page.click("#make button")
    await page.wait_for_selector("#make-ask:has-text('live-demo has a key')")
    assert not await page.is_visible("#made")
    await page.get_by_role("button", name="Show it").click()
    await page.wait_for_selector("#made pre:has-text('wsk_abc123')")
    shown = page.locator('#keys-list [data-key="IN_1"]')
    await shown.get_by_role("button", name="Show").click()
    await page.wait_for_function("() => document.querySelector('[data-key=IN_1] .made input').value.startsWith('rtmp://')")
    await shown.get_by_role("button", name="Delete").click()
    await shown.get_by_role("button", name="Keep").click()
    assert len(node.keys["ingress"]) == 1
    await shown.get_by_role("button", name="Delete").click()
    await shown.get_by_role("button", name="Yes, delete it").click()
    await shown.wait_for(state="detached")
    assert (len(node.keys["ingress"]), len(node.keys["ws-ingest"])) == (0, 1)
    await page.fill("#room", "no spaces")
    await page.click("#make button")
    assert not await page.is_visible("#made")
    assert all(KEY not in path for path in node.requests)
    await page.click("#leave")
    assert await page.is_visible("#gate")
    assert await page.evaluate("() => sessionStorage.length") == 0
    assert wrong == []
