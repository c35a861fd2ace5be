"""Simulcast to Debian's nginx with libnginx-mod-rtmp, which records: what it has is whole, and as long as what was sent."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession
from harness import H264_AAC, TICKS, Node, ffmpeg, ffmpeg_process, free_port, moving_picture, plays, run, running, until

pytestmark = pytest.mark.interop
MODULE = "/usr/lib/nginx/modules/ngx_rtmp_module.so"
HEVC_OPUS = ["-pix_fmt", "yuv420p", "-c:v", "libx265", "-preset", "ultrafast", "-g", "30", "-x265-params", "log-level=none"]
HEVC_OPUS += ["-c:a", "libopus", "-b:a", "64k"]
B_FRAMES = ["-pix_fmt", "yuv420p", "-c:v", "libx264", "-preset", "veryfast", "-bf", "2", "-g", "60", "-c:a", "aac"]
SECONDS = 6.0


@dataclass
class Nginx:
    rtmp: int
    recordings: Path
    pid: int

    @property
    def url(self) -> str:
        return f"rtmp://127.0.0.1:{self.rtmp}/live"

    async def recording(self, node: Node, target: dict[str, Any]) -> Path:
        """The one that there is, whole: the target is deleted, which makes nginx close it."""
        async with ClientSession(headers=node.admin) as session:
            url = f"{node.http}/api/v1/apps/live/rooms/studio/targets/{target['id']}"
            async with session.delete(url) as response:
                assert response.status == 204, await response.text()
        (file,) = self.recordings.iterdir()
        opened = Path(f"/proc/{self.pid}/fd")
        await until(lambda: str(file) not in {os.path.realpath(each) for each in opened.iterdir()})
        return file


@asynccontextmanager
async def nginx(root: Path) -> AsyncIterator[Nginx]:
    """`live` records what comes and knows the key `good` only."""
    port, http = free_port(), free_port()
    recordings = root / "recordings"
    recordings.mkdir(parents=True)
    (root / "nginx.conf").write_text(f"""
load_module {MODULE};
daemon off; master_process off; pid {root}/pid; error_log {root}/error.log error;
events {{ worker_connections 256; }}
rtmp {{ server {{ listen 127.0.0.1:{port};
  application live {{ live on; record all; record_path {recordings}; record_suffix .flv;
    notify_method get; on_publish http://127.0.0.1:{http}/; }} }} }}
http {{ access_log off; client_body_temp_path {root}/b; proxy_temp_path {root}/p; fastcgi_temp_path {root}/f;
  uwsgi_temp_path {root}/u; scgi_temp_path {root}/s;
  server {{ listen 127.0.0.1:{http}; location / {{ if ($arg_name != "good") {{ return 403; }} return 200; }} }} }}
""")
    process = await asyncio.create_subprocess_exec("/usr/sbin/nginx", "-p", str(root), "-c", str(root / "nginx.conf"), "-e", "stderr")
    try:
        await until((root / "pid").exists)
        yield Nginx(port, recordings, process.pid)
    finally:
        process.terminate()
        await process.wait()


async def targets(node: Node) -> list[dict[str, Any]]:
    async with ClientSession(headers=node.admin) as session, session.get(f"{node.http}/api/v1/apps/live/targets") as response:
        found: list[dict[str, Any]] = (await response.json())["data"]
        return found


async def add(node: Node, url: str, key: str) -> None:
    async with ClientSession(headers=node.admin) as session:
        where = f"{node.http}/api/v1/apps/live/rooms/studio/targets"
        async with session.post(where, json={"url": url, "streamKey": key}) as response:
            assert response.status == 201, await response.text()


async def packets(file: Path) -> dict[str, list[float]]:
    """Seconds of each packet by kind, in the file's order."""
    found = await run("ffprobe", "-v", "error", "-show_entries", "packet=codec_type,dts_time", "-of", "json", str(file))
    assert found.code == 0, found.output
    times: dict[str, list[float]] = {}
    for packet in json.loads(found.output)["packets"]:
        times.setdefault(packet["codec_type"], []).append(float(packet["dts_time"]))
    return times


@pytest.mark.parametrize(
    "codecs",
    [
        pytest.param(B_FRAMES, id="passed on with B-frames"),
        pytest.param(HEVC_OPUS, id="HEVC and Opus become H.264 and AAC"),
    ],
)
async def test_the_recording_of_the_target_is_whole(tmp_path: Path, codecs: list[str]) -> None:
    async with nginx(tmp_path / "nginx") as target, running(tmp_path / "node", outbound={"allow": ["127.0.0.1"]}) as node:
        await add(node, target.url, "good")
        await add(node, target.url, "wrong")
        sent = await ffmpeg(*moving_picture(SECONDS), *codecs, "-f", "flv", f"{node.rtmp}/live/{node.key}")
        assert sent.code == 0, sent.output
        good, wrong = await targets(node)
        assert (good["state"], good["error"]) == ("broadcasting", ""), good
        assert wrong["state"] == "failed", wrong
        assert good["droppedPackets"] == 0
        recording = await target.recording(node, good)
        await plays(recording, "-loglevel", "error")
        times = await packets(recording)
        assert set(times) == {"audio", "video"}
        for kind, stamps in times.items():
            assert stamps == sorted(stamps), kind
            # a rendition begins when its encoder does, passed-on media with the first key frame
            assert SECONDS - 2.5 < stamps[-1] - stamps[0] < SECONDS + 0.1, kind
            assert max(b - a for a, b in pairwise(stamps)) < 0.15, kind
        assert abs(times["audio"][-1] - times["video"][-1]) < 0.3


async def test_the_encoder_is_gone_and_back_within_the_window(tmp_path: Path) -> None:
    """One recording over both, whose time goes on: nginx never saw the connection end."""
    async with nginx(tmp_path / "nginx") as target, running(tmp_path / "node", outbound={"allow": ["127.0.0.1"]}) as node:
        await add(node, target.url, "good")
        for _ in range(2):
            sent = await ffmpeg(*moving_picture(3), *H264_AAC, "-f", "flv", f"{node.rtmp}/live/{node.key}")
            assert sent.code == 0, sent.output
        (view,) = await targets(node)
        assert (view["state"], view["attempts"]) == ("broadcasting", 1)
        recording = await target.recording(node, view)
        decoded = await ffmpeg("-loglevel", "error", "-xerror", "-i", str(recording), "-f", "null", "-")
        assert decoded.code == 0, decoded.output
        times = await packets(recording)
        assert times["video"] == sorted(times["video"])
        assert times["video"][-1] > 5.5
        assert len(times["video"]) > 150


async def test_the_encoder_is_killed_and_a_slate_fills_the_gap(tmp_path: Path) -> None:
    """For the target, which is fed without a break, and for FFmpeg as an HLS player, which follows no other configuration within fMP4."""
    played = tmp_path / "played.ts"
    async with nginx(tmp_path / "nginx") as target, running(tmp_path / "node", outbound={"allow": ["127.0.0.1"]}) as node:
        async with ClientSession(node.http, headers=node.admin) as session:
            await add(node, target.url, "good")
            async with session.put("/api/v1/apps/live/rooms/studio/fallback", json={"text": "Back in a moment"}) as answer:
                assert answer.status == 200, await answer.text()
            source = [*moving_picture(60), *B_FRAMES, "-f", "flv", f"{node.rtmp}/live/{node.key}"]
            async with ffmpeg_process(*source):
                await until(lambda: node.on_air, 20)
                url = f"{node.http}/hls/live/studio/index.m3u8"
                playing = asyncio.ensure_future(ffmpeg("-i", url, "-t", "10", "-c", "copy", "-f", "mpegts", str(played)))
                await asyncio.sleep(4)
            await until(lambda: node.room().slated)
            await asyncio.sleep(3)
            async with ffmpeg_process(*source):
                await until(lambda: not node.room().slated)
                done = await playing
            assert done.code == 0, done.output
            (view,) = await targets(node)
            assert (view["state"], view["attempts"], view["droppedPackets"]) == ("broadcasting", 1, 0)
        recording = await target.recording(node, view)
    for file in (recording, played):
        decoded = await ffmpeg("-loglevel", "error", "-xerror", "-i", str(file), *TICKS, "-f", "null", "-")
        assert decoded.code == 0, decoded.output
        assert not decoded.output.strip(), decoded.output
        for kind, stamps in (await packets(file)).items():
            assert stamps == sorted(stamps), kind
            assert max(b - a for a, b in pairwise(stamps)) < 1.0, (file, kind)
