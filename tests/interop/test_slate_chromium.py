"""A WebRTC viewer in Chromium over a gap: it sees the slate, in the same session, and then the encoder by itself."""

from __future__ import annotations

from pathlib import Path

import pytest
from aiohttp import ClientSession
from harness import H264_AAC, ffmpeg_process, moving_picture, running, until
from harness.chromium import Lab
from harness.pages import shoot
from playwright.async_api import Browser

pytestmark = pytest.mark.interop
PIXEL = """() => {
  const video = document.querySelector('video');
  const canvas = Object.assign(document.createElement('canvas'), {width: 1, height: 1});
  const ink = canvas.getContext('2d');
  ink.drawImage(video, video.videoWidth * 0.05, video.videoHeight * 0.9, 1, 1, 0, 0, 1, 1);
  return [...ink.getImageData(0, 0, 1, 1).data].slice(0, 3);
}"""


async def test_the_viewer_of_an_encoder_that_is_killed_sees_the_slate_and_then_the_encoder(tmp_path: Path, browser: Browser) -> None:
    async with running(tmp_path) as node, ClientSession(node.http, headers=node.admin) as session:
        async with session.put("/api/v1/apps/live/rooms/studio/fallback", json={"text": "Back in a moment"}) as answer:
            assert answer.status == 200, await answer.text()
        source = [*moving_picture(60), *H264_AAC, "-f", "flv", f"{node.rtmp}/live/{node.key}"]
        viewer = await Lab.open(browser, node)
        async with ffmpeg_process(*source):
            await until(lambda: node.on_air, 20)
            await viewer.play("studio")
            await viewer.plays(30)
            bars = await viewer.page.evaluate(PIXEL)
            await shoot(viewer.page, "slate-before")
        await until(lambda: node.room().slated)
        await viewer.forget()
        await viewer.plays(30)
        grey = await viewer.page.evaluate(PIXEL)
        await shoot(viewer.page, "slate")
        assert max(grey) < 60, (bars, grey)
        assert max(bars) > 100, (bars, grey)
        async with ffmpeg_process(*source):
            await until(lambda: not node.room().slated, 20)
            await viewer.forget()
            await viewer.plays(30)
            back = await viewer.page.evaluate(PIXEL)
            await shoot(viewer.page, "slate-after")
        assert max(back) > 100, back
        assert (await viewer.seen()).states == ["connecting", "connected"]
