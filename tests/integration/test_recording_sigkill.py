"""SIGKILL while four streams are recorded: every file plays, of each stream at most one second is lost, and the index comes back equal.

Two rounds here; `MEDIANODE_KILLS=50` for the long run.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import ClientError, ClientSession
from harness import FFMPEG, H264_AAC, ffmpeg, ffmpeg_process, moving_picture, until
from harness.recorded import Studio

from medianode.config import Recording as Settings
from medianode.control.nodes import open_node_id
from medianode.egress.recorder.recover import Recovered, recover
from medianode.store import recording_files, recordings
from medianode.store.database import Database, open_database
from medianode.store.recording_files import RecordingFile
from medianode.store.recordings import Recording
from medianode.tasks import listen_tcp

pytestmark = pytest.mark.alone
KILLS = int(os.environ.get("MEDIANODE_KILLS", "2"))
STREAMS = 4
LATEST = 3.0 if KILLS <= 2 else 12.0
"""Seconds into the recordings; files change each five."""


def free_ports(count: int) -> list[int]:
    sockets = [listen_tcp("127.0.0.1", 0)[0] for _ in range(count)]
    ports = [int(sock.getsockname()[1]) for sock in sockets]
    for sock in sockets:
        sock.close()
    return ports


@asynccontextmanager
async def node(data: Path) -> AsyncIterator[tuple[asyncio.subprocess.Process, str, str]]:
    """(process, HTTP, RTMP) of a node that anybody may publish to."""
    http, rtmp = free_ports(2)
    own = {"DATA_DIR": str(data), "HTTP__LISTEN": f"127.0.0.1:{http}", "RTMP__LISTEN": f"127.0.0.1:{rtmp}", "RTC__ENABLED": "false"}
    own |= {"HLS__ENABLED": "false", "RECORDING__FILE_DURATION": "5", "SRT__ENABLED": "false", "LOG__LEVEL": "error"}
    environment = {**os.environ, **{f"MEDIANODE__{name}": value for name, value in own.items()}}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "medianode", "serve", env=environment, stdout=asyncio.subprocess.DEVNULL
    )
    try:
        yield process, f"http://127.0.0.1:{http}", f"rtmp://127.0.0.1:{rtmp}"
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def ready(http: str, data: Path) -> ClientSession:
    """A session with the node's key, once it serves."""
    async with asyncio.timeout(30):
        while True:
            await asyncio.sleep(0.05)
            try:
                async with ClientSession() as session, session.get(f"{http}/readyz") as response:
                    if response.status == 200:
                        break
            except ClientError:
                continue
    return ClientSession(headers={"Authorization": f"Bearer {(data / 'admin.key').read_text().strip()}"}, raise_for_status=True)


async def record_and_kill(clip: Path, data: Path) -> float:
    """The wallclock of the kill."""
    async with node(data) as (process, http, rtmp), await ready(http, data) as session:
        await session.patch(f"{http}/api/v1/projects/live", json={"openPublish": True})
        outputs = [part for n in range(STREAMS) for part in ("-map", "0", "-c", "copy", "-f", "flv", f"{rtmp}/live/s{n}")]
        async with ffmpeg_process("-re", "-stream_loop", "-1", "-i", str(clip), *outputs):
            for n in range(STREAMS):
                await begun(session, http, f"s{n}")
            await until(lambda: len(list(data.glob("recordings/live/*/*/*.mp4"))) >= STREAMS, 10)
            await asyncio.sleep(random.uniform(0.2, LATEST))
            killed = time.time()
            process.kill()
            await process.wait()
    return killed


async def begun(session: ClientSession, http: str, room: str) -> None:
    async with asyncio.timeout(10):
        while True:
            url = f"{http}/api/v1/apps/live/recording/start"
            async with session.post(url, json={"roomName": room}, raise_for_status=False) as response:
                if response.status < 300:
                    return
            await asyncio.sleep(0.05)


async def plays(path: Path) -> Recovered:
    found = recover(path)
    played = await ffmpeg("-loglevel", "error", "-xerror", "-i", str(path), "-f", "null", "-", program=FFMPEG)
    assert (played.code, played.output.strip()) == (0, ""), f"{path}: {played.output}"
    return found


async def rows_and_files(db: Database) -> tuple[list[Recording], list[RecordingFile]]:
    async with db.read() as tx:
        found = sorted((await recordings.page(tx, None, limit=100))[0], key=lambda recording: recording.id)
        files = [replace(file, id=0) for each in found for file in await recording_files.of_recording(tx, each.id)]
    return found, files


async def index_comes_back(data: Path, sizes: dict[str, int]) -> None:
    """What the next start makes of it is what is on the disk; and so it is where the index is lost."""
    async with open_database("", data, environ={}) as db:
        studio = Studio(db, data / "recordings", Settings(), open_node_id(data))
        await studio.open()
        with ExitStack() as claims:
            assert await studio.recovery.take(claims, set())
            assert await studio.recovery.end_cut_off() == STREAMS
            before = await rows_and_files(db)
            assert {f"{file.recording_id}/{file.name}": file.nbytes for file in before[1]} == sizes
            async with db.write() as tx:
                for recording in before[0]:
                    await recordings.remove(tx, recording.id)
            await studio.recovery.reconcile()
            assert await rows_and_files(db) == before


async def test_kill_9_loses_a_second_at_most(tmp_path: Path) -> None:
    clip = tmp_path / "clip.flv"
    made = await ffmpeg(*moving_picture(4, realtime=False), *H264_AAC, str(clip))
    assert made.code == 0, made.output
    for kill in range(KILLS):
        data = tmp_path / str(kill)
        killed = await record_and_kill(clip, data)
        directories = sorted(data.glob("recordings/live/*/*"))
        assert len(directories) == STREAMS
        sizes: dict[str, int] = {}
        for recording in directories:
            files = await asyncio.gather(*(plays(path) for path in recording.glob("*.mp4")))
            lost = killed - max(file.started_at + file.duration / 1e6 for file in files)
            assert lost < 1.0, (kill, recording)
            sizes |= {f"{recording.name}/{path.name}": path.stat().st_size for path in recording.glob("*.mp4")}
        await index_comes_back(data, sizes)
