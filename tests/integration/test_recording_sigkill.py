"""SIGKILL while four streams are recorded: every file plays, of each stream at most one second is lost, and the index comes back equal.

Two rounds here; `MEDIANODE_KILLS=50` for the long run.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import ClientSession
from harness import H264_AAC, ffmpeg, ffmpeg_process, moving_picture, plays, until
from harness.recorded import Studio
from soak.program import environment, serving

from medianode.config import Recording as Settings
from medianode.control.nodes import open_node_id
from medianode.egress.recorder.recover import Recovered, recover
from medianode.store import recording_files, recordings
from medianode.store.database import Database, open_database
from medianode.store.recording_files import RecordingFile
from medianode.store.recordings import Recording

pytestmark = pytest.mark.alone
KILLS = int(os.environ.get("MEDIANODE_KILLS", "2"))
STREAMS = 4
LATEST = 3.0 if KILLS <= 2 else 12.0
"""Seconds into the recordings; files change each five."""
SETTINGS = {"RECORDING__FILE_DURATION": "5", "HLS__ENABLED": "false", "RTC__ENABLED": "false", "SRT__ENABLED": "false"}


async def record_and_kill(clip: Path, data: Path) -> float:
    """The wallclock of the kill."""
    async with serving(data, environment(data, **SETTINGS)) as node, ClientSession(node.http, headers=node.admin) as session:
        async with session.patch("/api/v1/projects/live", json={"openPublish": True}) as response:
            assert response.status == 200, await response.text()
        outputs = [part for n in range(STREAMS) for part in ("-map", "0", "-c", "copy", "-f", "flv", f"{node.rtmp}/live/s{n}")]
        async with ffmpeg_process("-re", "-stream_loop", "-1", "-i", str(clip), *outputs):
            for n in range(STREAMS):
                await begun(session, f"s{n}")
            await until(lambda: len(list(data.glob("recordings/live/*/*/*.mp4"))) >= STREAMS, 10)
            await asyncio.sleep(random.uniform(0.2, LATEST))
            killed = time.time()
            await node.kill()
    return killed


async def begun(session: ClientSession, room: str) -> None:
    async with asyncio.timeout(10):
        while True:
            async with session.post("/api/v1/apps/live/recording/start", json={"roomName": room}) as response:
                if response.status < 300:
                    return
            await asyncio.sleep(0.05)


async def recovered(path: Path) -> Recovered:
    found = recover(path)
    await plays(path, "-loglevel", "error")
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
            files = await asyncio.gather(*(recovered(path) for path in recording.glob("*.mp4")))
            lost = killed - max(file.started_at + file.duration / 1e6 for file in files)
            assert lost < 1.0, (kill, recording)
            sizes |= {f"{recording.name}/{path.name}": path.stat().st_size for path in recording.glob("*.mp4")}
        await index_comes_back(data, sizes)
