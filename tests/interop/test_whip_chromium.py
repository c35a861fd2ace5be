"""A real Chromium publishes by WHIP: full bitrate, its codecs, three layers, lips in step, a track replaced and a tab closed."""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from harness.sinks import Sink
from playwright.async_api import Page, async_playwright
from samples import grant

from medianode import clock
from medianode.auth import Door, PublishGrant, ReadGrant
from medianode.config import Config, Rtc
from medianode.egress.hls import HlsService
from medianode.events import Bus
from medianode.ingress.whip.door import WhipDoor
from medianode.ingress.whip.service import WhipService
from medianode.media.names import room_name
from medianode.media.track import Codec
from medianode.origin import Origin
from medianode.routing.publication import Publication
from medianode.routing.registry import Registry
from medianode.rtc.endpoint import Endpoint
from medianode.rtc.signalling import Signalling
from medianode.tasks import background
from medianode.transcode.renditions import Renditions

pytestmark = [pytest.mark.interop, pytest.mark.alone]

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--autoplay-policy=no-user-gesture-required",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
]
PUBLISH = """async ({codec, layers, noise, bitrate}) => {
  const pc = new RTCPeerConnection({bundlePolicy: 'max-bundle'});
  window.pc = pc;
  const camera = await navigator.mediaDevices.getUserMedia({audio: true, video: {width: 1280, height: 720, frameRate: 25}});
  let video = camera.getVideoTracks()[0];
  if (noise) {
    const canvas = document.createElement('canvas'); canvas.width = 1280; canvas.height = 720;
    const context = canvas.getContext('2d'); const image = context.createImageData(1280, 720);
    const words = new Uint32Array(image.data.buffer);
    setInterval(() => { let x = Math.random() * 1e9 | 1;
      for (let i = 0; i < words.length; i++) { x ^= x << 13; x ^= x >>> 17; x ^= x << 5; words[i] = x | 0xff000000; }
      context.putImageData(image, 0, 0); }, 66);
    video = canvas.captureStream(15).getVideoTracks()[0];
  }
  const names = layers ? [['q', 4], ['h', 2], ['f', 1]] : [];
  const encodings = layers ? names.map(([rid, scaleResolutionDownBy]) => ({rid, scaleResolutionDownBy})) : [{maxBitrate: bitrate}];
  const sender = pc.addTransceiver(video, {direction: 'sendonly', sendEncodings: encodings});
  const wanted = RTCRtpSender.getCapabilities('video').codecs.filter(c => c.mimeType === codec || c.mimeType === 'video/rtx');
  sender.setCodecPreferences(wanted);
  pc.addTransceiver(camera.getAudioTracks()[0], {direction: 'sendonly'});
  await pc.setLocalDescription();
  const response = await fetch('/whip/live/a', {method: 'POST', body: pc.localDescription.sdp,
    headers: {'Content-Type': 'application/sdp', Authorization: 'Bearer good'}});
  const answer = await response.text();
  if (response.status !== 201) throw new Error(answer);
  window.session = response.headers.get('Location');
  await pc.setRemoteDescription({type: 'answer', sdp: answer});
}"""
STATS = """async () => [...(await pc.getStats()).values()].filter(s => s.type === 'outbound-rtp' || s.type === 'candidate-pair')"""


class Gate:
    async def read(self, app: str, room: str, *_: Any, **__: Any) -> ReadGrant:
        return ReadGrant(project_id="p", slug=app, room=room_name(app, room))

    async def publish(self, door: Door, app: str, key: str, room: str | None = None, **_: Any) -> PublishGrant:
        return grant(kind=door, hold=0.5)


class Measured(Sink):
    def bitrate(self, ident: int, seconds: float) -> float:
        since = clock.now() - seconds
        return sum(len(p.data) for p in self.of(ident) if p.received_at > since) * 8 / seconds


class Node:
    def __init__(self, data: Path) -> None:
        self.config = config = Config(data_dir=str(data), rtc=Rtc(listen="127.0.0.1:0", tcp_listen="127.0.0.1:0"))
        self.client: TestClient[Any, Any]
        self.registry = Registry(Bus(), config.limits)
        self.endpoint = Endpoint(config.rtc, config.limits)
        self.signalling = Signalling(config.rtc, config.limits)
        service = WhipService(config, self.registry, self.endpoint)
        door = WhipDoor(Gate(), Origin("", ()), self.signalling, service.publish)  # type: ignore[arg-type]  # publishing only
        self.app = web.Application()
        self.app.add_routes([*door.routes(), *self.signalling.routes(), web.get("/", self._page)])

    async def _page(self, request: web.Request) -> web.Response:
        return web.Response(text="<!doctype html><title>publish</title>", content_type="text/html")

    async def started(self) -> tuple[Publication, Measured]:
        (publication,) = self.registry.publications
        sink = Measured(ends=True)
        publication.attach(sink)
        await until(lambda: publication.active)
        return publication, sink


async def until(true: Callable[[], Any], seconds: float = 20.0) -> None:
    async with asyncio.timeout(seconds):
        while not true():
            await asyncio.sleep(0.02)


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[tuple[Node, Page]]:
    made = Node(tmp_path)
    made.endpoint.open()
    async with AsyncExitStack() as stack:
        renditions = await stack.enter_async_context(Renditions(made.config.limits, made.config.mjpeg, made.config.hls))
        gate: Any = Gate()
        hls = HlsService(made.registry, made.registry.bus, gate, renditions, made.config, Origin("", ()))
        made.app.add_routes(hls.routes())
        await stack.enter_async_context(background(hls.serve()))
        await stack.enter_async_context(background(made.endpoint.serve()))
        client = made.client = await stack.enter_async_context(TestClient(TestServer(made.app)))
        play = await stack.enter_async_context(async_playwright())
        browser = await play.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS)
        stack.push_async_callback(browser.close)
        page = await browser.new_page()
        await page.goto(str(client.make_url("/")).replace("127.0.0.1", "localhost"))
        yield made, page


@pytest.mark.parametrize(
    ("mime", "codec"), [("video/VP8", Codec.VP8), ("video/H264", Codec.H264), ("video/VP9", Codec.VP9), ("video/AV1", Codec.AV1)]
)
async def test_a_camera(node: tuple[Node, Page], mime: str, codec: Codec) -> None:
    house, page = node
    await page.evaluate(PUBLISH, {"codec": mime, "layers": False, "noise": False, "bitrate": 2_000_000})
    publication, sink = await house.started()
    await until(lambda: len(sink.of(0)) >= 100 and len(sink.of(1)) >= 200)
    assert [t.codec for t in sink.tracks[-1]] == [codec, Codec.OPUS]
    shown = sink.of(0)
    assert all(b.dts > a.dts for a, b in itertools.pairwise(shown))
    assert {b.dts - a.dts for a, b in itertools.pairwise(sink.of(1))} == {960}
    assert publication.health.drops == {}
    # the first picture may be told of before its size is: no more breaks than sizes
    assert len(sink.gaps) == len(sink.tracks) - 1
    count = sum(p.keyframe for p in shown)
    publication.request_keyframe()
    await until(lambda: sum(p.keyframe for p in sink.of(0)) > count, 5)
    await page.close()
    await until(lambda: publication.ended, 10)


async def test_the_full_bitrate_is_reached(node: tuple[Node, Page]) -> None:
    house, page = node
    await page.evaluate(PUBLISH, {"codec": "video/VP8", "layers": False, "noise": True, "bitrate": 2_500_000})
    _, sink = await house.started()
    await until(lambda: sink.bitrate(0, 2.0) > 1_800_000, 20)


async def test_lips_are_in_step_by_the_publishers_clock(node: tuple[Node, Page]) -> None:
    house, page = node
    await page.evaluate(PUBLISH, {"codec": "video/VP8", "layers": False, "noise": False, "bitrate": 1_000_000})
    publication, sink = await house.started()
    await until(lambda: publication.health.source_clock is not None and len(sink.of(1)) > 400)
    assert publication.health.source_clock is not None
    assert abs(publication.health.source_clock + sink.of(1)[-1].dts / 48_000 - clock.wallclock()) < 2.0
    last = [sink.of(ident)[-1] for ident in (0, 1)]
    assert abs(last[0].dts / 90_000 - last[1].dts / 48_000) < 0.3
    assert publication.health.repairs.get("sender-report-ignored", 0) == 0


@pytest.mark.parametrize("mime", ["video/VP8", "video/H264"])
async def test_three_layers(node: tuple[Node, Page], mime: str) -> None:
    house, page = node
    await page.evaluate(PUBLISH, {"codec": mime, "layers": True, "noise": False, "bitrate": 0})
    publication, sink = await house.started()
    await until(lambda: {t.layer for t in sink.tracks[-1] if t.is_video} == {"", "q", "h", "f"} if sink.tracks else False, 30)
    await until(lambda: len(sink.of(6)) > 50, 30)
    assert publication.video is not None
    sizes = {t.layer: t.width for t in sink.tracks[-1] if t.is_video}
    assert sizes["q"] < sizes["h"] < sizes["f"]
    await until(lambda: publication.video is not None and publication.video.width == sizes["f"], 15)
    assert publication.health.drops.get("unknown-layer", 0) == 0
    for ident in (0, 2, 4, 6):
        assert all(b.dts > a.dts for a, b in itertools.pairwise(sink.of(ident)))


async def test_a_paused_layer_gives_way(node: tuple[Node, Page]) -> None:
    house, page = node
    await page.evaluate(PUBLISH, {"codec": "video/VP8", "layers": True, "noise": False, "bitrate": 0})
    publication, sink = await house.started()
    await until(
        lambda: publication.video is not None and len(sink.of(6)) > 25 and sink.of(0)[-1].track.width == sink.of(6)[-1].track.width, 30
    )
    await page.evaluate("""async () => {
      const sender = pc.getSenders().find(s => s.track.kind === 'video');
      const parameters = sender.getParameters();
      parameters.encodings.find(e => e.rid === 'f').active = false;
      await sender.setParameters(parameters);
    }""")
    await until(lambda: sink.of(0)[-1].track.width == sink.of(4)[-1].track.width, 10)
    await until(lambda: len([p for p in sink.of(0) if p.track.width == sink.of(4)[-1].track.width]) > 25, 10)


async def test_segments_end_although_a_browser_makes_no_key_frames_by_itself(node: tuple[Node, Page]) -> None:
    house, page = node
    await page.evaluate(PUBLISH, {"codec": "video/H264", "layers": False, "noise": False, "bitrate": 1_500_000})
    await house.started()

    async def durations() -> list[float]:
        async with house.client.get("/hls/live/a/main.m3u8") as response:
            text = await response.text()
        # what comes before the picture has its full size is broken off at each new size
        return [float(d) for d in re.findall(r"#EXTINF:([0-9.]+)", text.rpartition("#EXT-X-DISCONTINUITY\n")[2])]

    async with asyncio.timeout(60):
        while len(seen := await durations()) < 4:
            await asyncio.sleep(0.5)
    assert all(1.7 <= duration <= 3.2 for duration in seen[:-1]), seen
