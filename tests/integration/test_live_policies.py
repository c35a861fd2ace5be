"""What the policy of a live stream does on a whole node: sizes, sound only, latency mode, how long and how much."""

from __future__ import annotations

import asyncio
import io
import re
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import pytest
from aiohttp import ClientSession
from harness import FFMPEG, H264_AAC, Node, ffmpeg_process, moving_picture, publishing, run, running, send_second, until

from medianode.auth import PublishGrant
from medianode.errors import LimitExceeded, PeerError
from medianode.events import IngressStateChanged
from medianode.media.track import Kind
from medianode.transcode.renditions import Renditions


def policy(node: Node, **changes: Any) -> None:
    """From here on all grants are within this."""
    gatekeeper = node.daemon.health.gatekeeper
    assert gatekeeper is not None
    real = gatekeeper.publish

    async def publish(*arguments: Any, **named: Any) -> PublishGrant:
        return replace(await real(*arguments, **named), **changes)

    gatekeeper.publish = publish  # type: ignore[method-assign]  # the policy is the test's


def publisher(node: Node, size: str, *more: str) -> Any:
    return ffmpeg_process(*moving_picture(60, size=size), *H264_AAC, *more, "-f", "flv", f"{node.rtmp}/live/{node.key}")


async def get(node: Node, path: str) -> bytes:
    async with ClientSession() as http, http.get(node.http + path, headers=node.admin) as response:
        body = await response.read()
        assert response.status == 200, body
        return body


async def session(node: Node) -> dict[str, Any]:
    async with ClientSession() as http, http.get(f"{node.http}/api/v1/sessions", headers=node.admin) as response:
        (found,) = (await response.json())["data"]
    return dict(found)


def states_of(node: Node) -> list[tuple[str, str]]:
    """(state, code) of ingresses from here on."""
    states: list[tuple[str, str]] = []
    node.daemon.bus.subscribe(IngressStateChanged, lambda event: states.append((event.new, event.code)))
    return states


def threads() -> list[threading.Thread]:
    """Of renditions."""
    return [thread for thread in threading.enumerate() if thread.name == "rendition"]


async def seen(*source: str) -> str:
    """What FFmpeg says of a stream it plays for two seconds."""
    played = await run(FFMPEG, "-hide_banner", "-nostdin", *source, "-t", "2", "-f", "null", "-", timeout=30)
    assert played.code == 0, played.output
    return played.output


async def test_a_picture_over_the_limit_is_made_smaller_for_every_player(tmp_path: Path) -> None:
    async with running(tmp_path, hls={"rendition_idle": 4.0}) as node:
        policy(node, max_height=240)
        async with publisher(node, "640x480"):
            await until(lambda: node.on_air)
            room = node.room()
            assert room is not None
            await until(lambda: len(room.programme.gop.packets) > 40 if room.programme else False)
            assert not threads(), "nobody looks"
            poster = av.open(io.BytesIO(await get(node, "/live/live/studio/frame.jpg")))
            assert (poster.streams.video[0].width, poster.streams.video[0].height) == (320, 240)
            poster.close()
            hls, rtmp, told = await asyncio.gather(
                seen("-i", f"{node.http}/hls/live/studio/index.m3u8"), seen("-i", f"{node.rtmp}/live/studio"), _while_watched(node)
            )
            assert re.search(r"Video: h264.*320x240", hls), hls
            assert re.search(r"Video: h264.*320x240", rtmp), rtmp
            assert "Audio: aac" in hls
            assert "480 lines, the stream allows 240: players get 240" in told["hints"]
            assert {"video": "scaled: 480 lines, the stream allows 240", "audio": "copy"} in [r["treatment"] for r in told["renditions"]]
            assert [t["height"] for t in told["tracks"] if t["kind"] == "video"] == [480], "what comes is told as it comes"
            await until(lambda: not threads())
        await until(lambda: room.held)


async def _while_watched(node: Node) -> dict[str, Any]:
    await until(threads)
    return await session(node)


async def test_a_picture_over_the_limit_is_refused_where_transcoding_is_off(tmp_path: Path) -> None:
    async with running(tmp_path) as node:
        policy(node, max_height=120, enable_transcoding=False)
        states = states_of(node)
        async with publishing(f"{node.rtmp}/live/{node.key}") as ours:
            await send_second(ours)
            with pytest.raises(PeerError, match=r"NetStream\.Publish\.Failed.*240 lines, expected at most 120"):
                await ours.watch()
        assert not node.on_air
        assert states[-1] == ("ERROR", "resolution-too-high")
        told = await run(FFMPEG, *moving_picture(10), *H264_AAC, "-f", "flv", f"{node.rtmp}/live/{node.key}")
        assert "Server error: the picture has 240 lines, expected at most 120" in told.output, "an encoder that goes on sending reads why"
        await until(lambda: node.daemon.registry.publications == [] and not len(node.daemon.registry))


async def test_without_a_thread_players_are_refused_and_not_shown_the_full_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Renditions, kind: Kind) -> None:
        raise LimitExceeded("the node runs 16 renditions already", code="node-full")

    monkeypatch.setattr(Renditions, "claim", full)
    async with running(tmp_path) as node:
        policy(node, max_height=120)
        async with publishing(f"{node.rtmp}/live/{node.key}") as ours, ClientSession() as http:
            await send_second(ours)
            await until(lambda: node.on_air)
            async with http.get(f"{node.http}/hls/live/studio/index.m3u8") as response:
                assert (response.status, "could not be made smaller" in await response.text()) == (503, True)
            async with http.get(f"{node.http}/live/live/studio/mjpeg") as response:
                assert response.status == 503
            played = await run(FFMPEG, "-nostdin", "-i", f"{node.rtmp}/live/studio", "-t", "1", "-f", "null", "-")
            assert played.code != 0, played.output
            assert "could not be made smaller" in (await session(node))["lastError"]
            room = node.room()
            assert room is not None
            assert room.viewers.get("rtmp", 0) == 0


async def test_on_air_for_as_long_as_it_may(tmp_path: Path) -> None:
    async with running(tmp_path) as node:
        policy(node, max_duration=0.5)
        states = states_of(node)
        async with publishing(f"{node.rtmp}/live/{node.key}") as ours:
            await send_second(ours)
            with pytest.raises(PeerError, match=r"NetStream\.Publish\.Failed.*on air for the 0\.5 s"):
                await ours.watch()
        assert not len(node.daemon.registry), "no hold"
        assert states == [("BUFFERING", ""), ("ACTIVE", ""), ("BUFFERING", "max-duration"), ("COMPLETE", "max-duration")]
        policy(node, max_duration=60.0)
        async with publishing(f"{node.rtmp}/live/{node.key}") as ours:  # and again: a new session
            await send_second(ours)
            await until(lambda: node.on_air)


async def test_sound_only(tmp_path: Path) -> None:
    async with running(tmp_path) as node:
        policy(node, kinds=frozenset({Kind.AUDIO}))
        async with publisher(node, "320x240"):
            await until(lambda: node.on_air)
            told = await session(node)
            assert [t["kind"] for t in told["tracks"]] == ["audio"]
            assert "this stream takes sound only: the picture that comes is left out" in told["hints"]
            assert not [hint for hint in told["hints"] if "dropped" in hint]
            played = await seen("-i", f"{node.http}/hls/live/studio/index.m3u8")
            assert "Audio: aac" in played
            assert "Video: h264" not in played


@pytest.mark.parametrize(("low", "duration"), [(True, 2), (False, 4)])
async def test_latency_mode(tmp_path: Path, low: bool, duration: int) -> None:
    async with running(tmp_path) as node:
        policy(node, low_latency=low)
        async with publishing(f"{node.rtmp}/live/{node.key}") as ours:
            for second in range(12):
                await send_second(ours, second)
            await until(lambda: node.on_air)
            await get(node, "/hls/live/studio/index.m3u8")
            playlist = (await get(node, "/hls/live/studio/main.m3u8")).decode()
            assert ("#EXT-X-PART:" in playlist, "CAN-BLOCK-RELOAD" in playlist, "PRELOAD-HINT" in playlist) == (low, low, low)
            assert f"#EXT-X-TARGETDURATION:{duration}\n" in playlist
            durations = [float(found) for found in re.findall(r"#EXTINF:([\d.]+)", playlist)]
            assert set(durations) == {float(duration)}
