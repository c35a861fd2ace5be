"""Recordings in a real Chromium: a growing one played from its beginning while FFmpeg publishes, cuts, the clip, the pages."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest
from aiohttp import ClientSession
from harness import H264_AAC, ffmpeg_process, moving_picture, running, until
from harness.pages import PATIENCE, becomes, moves, shoot
from playwright.async_api import Browser, Page, Route

from medianode import clock

pytestmark = pytest.mark.interop

VIDEO = "document.querySelector('video')"


async def test_a_growing_recording_from_its_beginning_cut_and_found_again(tmp_path: Path, browser: Browser) -> None:
    page = await browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(PATIENCE)
    said: list[str] = []
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda line: said.append(line.text) if line.type == "error" else None)
    encode = [*moving_picture(60, size="640x360"), *H264_AAC, "-f", "flv"]
    async with running(tmp_path, recording={"file_duration": 5.0}) as node, ClientSession(node.http) as http:
        async with ffmpeg_process(*encode, f"{node.rtmp}/live/{node.key}"):
            await until(lambda: node.on_air, 20)
            begun = await http.post("/api/v1/projects/live/recordings", json={"room": "studio"}, headers=node.admin)
            recording = (await begun.json())["data"]["id"]
            # the page may be there before the first segment is
            await page.goto(f"{node.http}/vod/live/{recording}")
            await becomes(page, f"{VIDEO}.readyState >= 3")
            said.clear()  # the browser itself complains of the 404 until then
            await page.evaluate(f"{VIDEO}.muted = true; {VIDEO}.play()")
            await moves(page)
            assert await page.evaluate(f"{VIDEO}.currentTime") < 4, "it plays from its beginning"
            assert await page.inner_text("#state") == "being recorded"
            assert await page.get_attribute("#watch:visible", "href") == f"{node.http}/play/live/live-studio"
            # it grows under the player: forward to the newest, and back to the beginning
            await becomes(page, f"{VIDEO}.seekable.end(0) > 7")
            await page.click("#live")
            await becomes(page, f"{VIDEO}.currentTime > 4")
            await moves(page)
            await page.evaluate(f"{VIDEO}.currentTime = 0.5")
            await becomes(page, f"{VIDEO}.currentTime < 3 && !{VIDEO}.seeking")
            await moves(page)
            # a cut in whole: from 2 s to 6 s by the clock
            await page.evaluate(f"{VIDEO}.pause(); {VIDEO}.currentTime = 2")
            await becomes(page, f"!{VIDEO}.seeking")
            await page.click("#from")
            await page.evaluate(f"{VIDEO}.currentTime = 6")
            await becomes(page, f"!{VIDEO}.seeking")
            await page.click("#to")
            await shoot(page, "recording-growing")
            assert re.fullmatch(r"Download 0:0[345] as MP4", await page.inner_text("#download"))
            clip = await page.get_attribute("#download", "href")
            # a room's past until an instant that is still to come is not over
            minutes = {"from": str(clock.wallclock() - 60), "to": str(clock.wallclock() + 60)}
            for of in (recording, "rooms/studio"):
                async with http.get(f"/vod/live/{of}/main.m3u8", params=minutes) as answer:
                    told = await answer.text()
                assert ("#EXTINF" in told, "#EXT-X-ENDLIST" in told) == (True, False), of
            stopped = await http.post(f"/api/v1/projects/live/recordings/{recording}/stop", headers=node.admin)
            assert stopped.status == 200
        # the clip, as a browser plays it
        shown = await browser.new_page()
        shown.set_default_timeout(PATIENCE)
        await shown.goto(f"{clip}&inline=1")
        await becomes(shown, f"{VIDEO}?.readyState >= 3")
        await shown.evaluate(f"{VIDEO}.muted = true; {VIDEO}.play()")
        assert 3.5 < await shown.evaluate(f"{VIDEO}.duration") < 4.6
        await becomes(shown, f"{VIDEO}.ended")
        assert await shown.evaluate(f"{VIDEO}.getVideoPlaybackQuality().totalVideoFrames") > 60
        # finished: the playlist ends, and the player sees that
        await page.reload()
        await becomes(page, f"{VIDEO}.readyState >= 3 && {VIDEO}.duration > 9 && {VIDEO}.duration < 100")
        assert said == []
        await what_goes_wrong(page)
        # found by its room without a key, by the app with one
        await page.goto(f"{node.http}/recordings/live?room=studio")
        await page.wait_for_selector(".lane .range")
        await page.wait_for_selector(".takes img")
        await becomes(page, "document.querySelector('.takes img').naturalWidth === 320")
        await shoot(page, "recordings")
        await page.goto(f"{node.http}/recordings/live")
        await page.fill("#key", node.admin["Authorization"].removeprefix("Bearer "))
        said.clear()  # the browser itself complains of the 401, and of what went wrong
        await page.click("#key-form button")
        await page.click(".lane .range")
        await becomes(page, f"location.pathname.endsWith('{recording}') && {VIDEO}.readyState >= 2")
        # private: the page with the key in its tab borrows a token for what its player fetches
        await http.patch("/api/v1/projects/live", json={"viewing": "token"}, headers=node.admin)
        await asyncio.sleep(0)
        await page.goto(f"{node.http}/vod/live/{recording}")
        await becomes(page, f"{VIDEO}.readyState >= 3")
        assert "token=" in (await page.get_attribute("#download", "href") or "")
    assert [line for line in said if "401" not in line] == wrong == []


async def what_goes_wrong(page: Page) -> None:
    """The node is away as the page begins, which then goes on by itself; and a codec that this browser has not."""
    away = 2  # hls.js itself asks twice

    async def unready(route: Route) -> None:
        nonlocal away
        away -= 1
        await (route.fulfill(status=503) if away >= 0 else route.continue_())

    async def foreign(route: Route) -> None:
        text = await (await route.fetch()).text()
        await route.fulfill(body=re.sub(r"avc1\.\w+", "hvc1.1.6.L93.B0", text), content_type="application/vnd.apple.mpegurl")

    await page.route("**/index.m3u8*", unready)
    await page.reload()
    await page.wait_for_selector("#trouble:has-text('Trying again')")
    await becomes(page, f"{VIDEO}.readyState >= 3")
    await page.wait_for_selector("#trouble", state="hidden")
    await page.unroute("**/index.m3u8*")
    await page.route("**/index.m3u8*", foreign)
    await page.reload()
    await page.wait_for_selector("#trouble:has-text('cannot play this recording. The download works.')")
    await shoot(page, "recording-codec")
    await page.unroute("**/index.m3u8*")
