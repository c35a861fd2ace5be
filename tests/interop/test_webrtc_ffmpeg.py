"""FFmpeg publishes, by RTMP as OBS does and by its WHIP muxer; Chromium watches by WHEP, others by LL-HLS and MJPEG."""

from __future__ import annotations

import asyncio
import io
import json
from pathlib import Path

import pytest
from aiohttp import ClientSession
from harness import H264_AAC, Node, ffmpeg_process, moving_picture, plays, run, running
from harness.chromium import Lab, ask, on_air, treatment, whip_key
from PIL import Image
from playwright.async_api import Browser

pytestmark = [pytest.mark.interop, pytest.mark.alone]
ROOM = "studio"
OBS = [
    *("-pix_fmt", "yuv420p", "-c:v", "libx264", "-preset", "veryfast", "-profile:v", "high", "-bf", "2", "-g", "250"),
    *("-b:v", "2500k", "-maxrate", "2500k", "-bufsize", "2500k", "-c:a", "aac", "-b:a", "160k"),
]
"""What OBS asks of x264 unless told otherwise."""
LONG_GOP = [*H264_AAC, "-g", "240", "-keyint_min", "240", "-sc_threshold", "0"]
WHIP = [*("-pix_fmt", "yuv420p", "-c:v", "libx264", "-preset", "ultrafast", "-profile:v", "baseline", "-bf", "0", "-g", "30"), "-r", "30"]
WHIP += ["-c:a", "libopus", "-ar", "48000", "-ac", "2", "-b:a", "64k"]
PICTURE = "testsrc2=size=640x360:rate=30,drawbox=x=160:y=180:w=320:h=180:t=fill:color=black"
FLASH = "drawbox=x=160:y=180:w=320:h=180:t=fill:color=white:enable='lt(mod(t,1),0.12)'"
BEEP = "aevalsrc='if(lt(mod(t,1),0.12),0.6*sin(2*PI*1000*t),0.02*sin(2*PI*440*t))'"
LIPS = 100
"""Milliseconds between picture and sound, once the player has brought them in step."""


def rtmp(node: Node, codecs: list[str]) -> list[str]:
    """A moving picture that flashes when it beeps, once a second."""
    flash, beep = f"{PICTURE},{FLASH}", f"{BEEP}:s=48000"
    return ["-re", "-f", "lavfi", "-i", flash, "-re", "-f", "lavfi", "-i", beep, *codecs, "-f", "flv", f"{node.rtmp}/live/{node.key}"]


def whip(node: Node, key: str, room: str) -> list[str]:
    return [*moving_picture(120, size="640x360"), *WHIP, "-f", "whip", "-authorization", key, f"{node.http}/whip/live/{room}"]


async def joined(browser: Browser, node: Node, room: str = ROOM, *, measure: bool = False) -> Lab:
    """A viewer who sees and hears."""
    viewer = await Lab.open(browser, node)
    await viewer.play(room, measure=measure)
    await viewer.plays()
    await viewer.hears()
    return viewer


@pytest.mark.parametrize(
    ("pyramid", "expected", "apart"),
    # without B-frames x264's pictures come up to three frames before they are shown, which Chromium takes a while to follow
    [("normal", "re-encoded", LIPS), ("none", "b-frames-dropped", 2 * LIPS)],
    ids=["as OBS sends it", "without a B-pyramid"],
)
async def test_an_encoder_with_b_frames(tmp_path: Path, browser: Browser, pyramid: str, expected: str, apart: int) -> None:
    codecs = [*OBS, "-b-pyramid", pyramid]
    rate = "44100" if pyramid == "normal" else "48000"
    async with running(tmp_path) as node, ffmpeg_process(*rtmp(node, [*codecs, "-ar", rate])):
        await on_air(node, ROOM)
        # whoever comes in the middle of a GOP of 8 s sees at once as well
        await asyncio.sleep(3)
        viewer = await joined(browser, node, measure=True)
        await asyncio.sleep(1)
        told = await treatment(node, "video")
        before = (await viewer.stats())["video"]
        await asyncio.sleep(6)
        after, seen = await viewer.stats(), await viewer.seen()
        (session,) = await ask(node, "sessions")
        video = after["video"]
        decoded = video["framesDecoded"] - before["framesDecoded"]
        freezes = video["freezeCount"] - before["freezeCount"]
        print(
            f"b-pyramid {pyramid}: {told.partition(':')[0]}; {decoded} frames in 6 s, freezes {freezes}, PLI {video['pliCount']}, "
            f"longest gap {seen.gap:.0f} ms, first frame after {seen.first:.0f} ms; "
            f"picture behind sound {[round(offset) for offset in await viewer.in_step(apart)]} ms"
        )
        assert told.startswith(expected)
        assert await treatment(node, "audio") == "aac-to-opus"
        assert any("B-frames" in hint for hint in session["hints"])
        # most pictures of a slow scene are B-frames; where the cure is to leave them out only the others are shown
        assert decoded > 6 * (20 if pyramid == "normal" else 9)
        # at 12 frames a second one that x264 had held back for long counts as a freeze
        assert freezes <= (0 if pyramid == "normal" else 1)
        assert seen.first < 1000
        assert video["framesDropped"] - before["framesDropped"] < 10
        assert after["audio"]["totalAudioEnergy"] > 0


async def test_without_b_frames_no_picture_is_transcoded(tmp_path: Path, browser: Browser) -> None:
    async with running(tmp_path) as node, ffmpeg_process(*rtmp(node, H264_AAC)):
        await on_air(node, ROOM)
        viewer = await joined(browser, node, measure=True)
        await viewer.plays(120)
        (session,) = await ask(node, "sessions")
        (rendition,) = [r for r in session["renditions"] if r["video"] == "realtime"]
        stats = await viewer.stats()
        freezes, offsets = stats["video"]["freezeCount"], [round(offset) for offset in await viewer.in_step(LIPS)]
        print(f"{rendition['treatment']}, latency {rendition['latency']}; freezes {freezes}, picture behind sound {offsets} ms")
        assert rendition["treatment"] == {"video": "copy", "audio": "aac-to-opus"}
        assert all(r["treatment"].get("video", "copy") == "copy" for r in session["renditions"])
        assert (stats["video"]["frameWidth"], stats["video"]["frameHeight"]) == (640, 360)
        assert stats["video"]["freezeCount"] == 0
        assert "video/H264" in stats["codecs"]


async def test_ffmpeg_s_whip_plays_over_whep_and_ll_hls_and_mjpeg(tmp_path: Path, browser: Browser) -> None:
    async with running(tmp_path) as node:
        key = await whip_key(node, ROOM)
        async with ffmpeg_process(*whip(node, key, ROOM)):
            await on_air(node, ROOM)
            viewer = await joined(browser, node)
            assert [r["treatment"] for r in (await ask(node, "sessions"))[0]["renditions"]] == [{"video": "copy", "audio": "copy"}]
            playlist = f"{node.http}/hls/live/{ROOM}/index.m3u8"
            probed = await run("ffprobe", "-v", "error", "-show_entries", "stream=codec_name", "-of", "json", playlist, timeout=30)
            names = {s["codec_name"] for s in json.loads(probed.output)["streams"]}
            assert {"h264", "aac"} <= names, probed.output
            await plays(playlist.replace("index", "main"), "-loglevel", "error", "-t", "2")
            pictures = await motion_jpeg(f"{node.http}/live/live/{ROOM}/mjpeg", 3)
            assert [picture.size for picture in pictures] == [(640, 360)] * 3
            assert len({picture.tobytes() for picture in pictures}) > 1
            async with ClientSession() as session, session.get(playlist.replace("index", "main")) as response:
                assert "#EXT-X-PART:" in await response.text()
            await viewer.plays()
            stats = await viewer.stats()
            print(f"HLS {sorted(names)}; MJPEG {len(pictures)}; WHEP freezes {stats['video']['freezeCount']}, {stats['codecs']}")


async def motion_jpeg(url: str, count: int) -> list[Image.Image]:
    """The first so many pictures of a multipart stream."""
    found: list[Image.Image] = []
    buffer = b""
    async with ClientSession() as session, session.get(url) as response:
        assert response.content_type == "multipart/x-mixed-replace"
        async with asyncio.timeout(20):
            async for chunk in response.content.iter_any():
                buffer += chunk
                while (start := buffer.find(b"\xff\xd8")) >= 0 and (end := buffer.find(b"\xff\xd9", start)) >= 0:
                    found.append(Image.open(io.BytesIO(buffer[start : end + 2])))
                    found[-1].load()
                    buffer = buffer[end + 2 :]
                    if len(found) == count:
                        return found
    raise AssertionError(f"the stream ended after {len(found)} pictures")


async def test_who_joins_in_the_middle_of_a_long_gop_sees_at_once(tmp_path: Path, browser: Browser) -> None:
    async with running(tmp_path) as node, ffmpeg_process(*rtmp(node, LONG_GOP)):
        await on_air(node, ROOM)
        # opens the rendition, and lets half of the 8 s pass
        first = await joined(browser, node)
        await asyncio.sleep(2)
        viewer = await Lab.open(browser, node)
        await viewer.play(ROOM)
        await viewer.plays(30)
        (session,) = await ask(node, "sessions")
        (track,) = [t for t in session["tracks"] if t["kind"] == "video"]
        seen, video = await viewer.seen(), (await viewer.stats())["video"]
        print(
            f"{track['keyFrames']} key frame: first viewer's first frame after {(await first.seen()).first:.0f} ms, late joiner's after "
            f"{seen.first:.0f} ms; freezes {video['freezeCount']}, PLI {video['pliCount']}"
        )
        assert track["keyFrames"] == 1
        assert (await first.seen()).first < 1000
        assert seen.first < 1000
        assert video["freezeCount"] == 0


@pytest.mark.parametrize("door", ["rtmp", "whip"])
async def test_an_encoder_is_killed_and_started_again(tmp_path: Path, browser: Browser, door: str) -> None:
    async with running(tmp_path) as node:
        room = ROOM if door == "rtmp" else "cam"
        push = rtmp(node, H264_AAC) if door == "rtmp" else whip(node, await whip_key(node, room), room)
        async with ffmpeg_process(*push):
            await on_air(node, room)
            viewer = await joined(browser, node, room)
        # nobody says goodbye for a killed WHIP encoder: its place is free once it has been silent for 2 s
        await asyncio.sleep(2.5 if door == "whip" else 0.5)
        before = (await ask(node, "viewers"))[0]["id"]
        async with ffmpeg_process(*push):
            await viewer.plays(60)
            await viewer.hears()
            seen = await viewer.seen()
            after = [watcher["id"] for watcher in await ask(node, "viewers")]
            stats = await viewer.stats()
            print(f"{door}: gap of {seen.gap:.0f} ms, then {stats['video']['framesDecoded']} frames in all; {seen.states}")
            assert after == [before]
            assert seen.states == ["connecting", "connected"]
            assert stats["state"] == "connected"
