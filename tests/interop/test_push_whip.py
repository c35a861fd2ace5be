"""A room pushed by WHIP to a full ICE agent that is none of ours: aiortc, which decodes what comes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from aiortc import MediaStreamTrack, RTCPeerConnection, RTCSessionDescription
from av import AudioFrame, VideoFrame
from harness import H264_AAC, Node, ffmpeg_process, moving_picture, running, until
from harness.whip_target import KEY, push

from medianode.egress.push.report import Report
from medianode.tasks import background

pytestmark = pytest.mark.interop
ANYWHERE = ("0.0.0.0/0", "::/0")
"""aiortc tells this machine's addresses, whatever they are."""


@dataclass
class Aiortc:
    """A WHIP endpoint made of aiortc: offers answered, frames decoded and counted."""

    url: str = ""
    pictures: list[tuple[int, int, bytes]] = field(default_factory=list)
    """Width, height, and a row of luma from the middle."""
    loudest: int = 0
    states: list[str] = field(default_factory=list)
    offers: list[str] = field(default_factory=list)
    calls: list[RTCPeerConnection] = field(default_factory=list)
    deleted: int = 0
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def answer(self, request: web.Request) -> web.Response:
        if request.method == "DELETE":
            self.deleted += 1
            await self.calls[-1].close()
            return web.Response()
        pc = RTCPeerConnection()
        self.calls.append(pc)
        self.offers.append(await request.text())
        pc.on("track", lambda track: self._tasks.append(asyncio.get_running_loop().create_task(self._take(track))))
        pc.on("connectionstatechange", lambda: self.states.append(pc.connectionState))
        await pc.setRemoteDescription(RTCSessionDescription(self.offers[-1], "offer"))
        await pc.setLocalDescription(await pc.createAnswer())
        headers = {"Location": f"/session/{len(self.calls)}"}
        return web.Response(status=201, text=pc.localDescription.sdp, content_type="application/sdp", headers=headers)

    async def _take(self, track: MediaStreamTrack) -> None:
        with contextlib.suppress(Exception):  # MediaStreamError at the end
            while True:
                frame = await track.recv()
                if isinstance(frame, VideoFrame):
                    plane = frame.planes[0]
                    middle = frame.height // 2 * plane.line_size
                    self.pictures.append((frame.width, frame.height, bytes(plane)[middle : middle + frame.width]))
                elif isinstance(frame, AudioFrame):
                    self.loudest = max(self.loudest, int(abs(frame.to_ndarray()).max()))

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        for pc in self.calls:
            await pc.close()


@asynccontextmanager
async def aiortc() -> AsyncIterator[Aiortc]:
    made = Aiortc()
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", made.answer)
    async with TestServer(app) as server:
        made.url = f"http://127.0.0.1:{server.port}/whip"
        try:
            yield made
        finally:
            await made.close()


@asynccontextmanager
async def published(tmp_path: Path, *codecs: str) -> AsyncIterator[Node]:
    """FFmpeg publishes a moving picture and a tone by RTMP."""
    async with running(tmp_path, rtc={"listen": ":0"}) as node:
        url = f"{node.rtmp}/live/{node.key}"
        async with ffmpeg_process(*moving_picture(60), *codecs, "-f", "flv", url):
            await until(lambda: node.on_air)
            yield node


async def test_aiortc_decodes_pictures_and_sound(tmp_path: Path) -> None:
    report = Report()
    async with published(tmp_path, *H264_AAC) as node, aiortc() as made:
        async with background(push(node, made.url, KEY, report, allow=ANYWHERE)):
            await until(lambda: len(made.pictures) > 60 and made.loudest > 3000 and report.is_broadcasting, 20)
        await until(lambda: made.deleted == 1)
        await until(lambda: made.calls[0].connectionState == "closed")
    assert {picture[:2] for picture in made.pictures} == {(320, 240)}
    assert len({picture[2] for picture in made.pictures}) > 30, "they move"
    assert 0 < report.acknowledged_bytes <= report.sent_bytes
    assert report.treatment == {"video": "copy", "audio": "aac-to-opus"}
    print(made.states, len(made.pictures), made.loudest, report)


async def test_h265_becomes_h264_for_who_takes_nothing_else(tmp_path: Path) -> None:
    hevc = ["-pix_fmt", "yuv420p", "-c:v", "libx265", "-preset", "ultrafast", "-g", "30", "-x265-params", "bframes=0:log-level=none"]
    report = Report()
    async with published(tmp_path, *hevc, "-c:a", "libopus", "-b:a", "64k") as node, aiortc() as made:
        async with background(push(node, made.url, KEY, report, allow=ANYWHERE)):
            await until(lambda: len(made.pictures) > 30 and made.loudest > 1000 and report.is_broadcasting, 30)
        assert "H265/90000" in made.offers[0]
    assert {picture[:2] for picture in made.pictures} == {(320, 240)}
    assert report.treatment["video"].startswith("hevc-to-h264")
    print(len(made.pictures), made.loudest, report)
