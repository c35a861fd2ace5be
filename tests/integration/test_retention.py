"""A disk that is really full, with the database on it: recording goes on, the oldest goes, pinned files stay, and everybody is told."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from harness import H264_AAC, Node, ffmpeg_process, plays, running, until

from medianode.egress.recorder import session
from medianode.store import outbox

SIZE = 128 * 1024 * 1024
ROOM = 11 * 1024 * 1024
"""What of it is free as the recording begins: of this a sixteenth of the disk is left to others, and the rest is two files."""
FILE = 2.0
"""Seconds; shorter than the configuration lets anybody have it."""
PATIENCE = 60.0


@pytest.fixture
async def disk(tmp_path: Path) -> AsyncIterator[Path]:
    """A file system of its own; who is not root cannot make one."""
    if os.geteuid() != 0:
        pytest.fail("this test mounts a small tmpfs and does not skip: run it as root, as CI does")
    where = tmp_path / "disk"
    where.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "medianode-test", str(where)], check=True)
    try:
        yield where
    finally:
        subprocess.run(["umount", "-l", str(where)], check=True)


async def seen(what: str, condition: Callable[[], Awaitable[bool]]) -> None:
    try:
        async with asyncio.timeout(PATIENCE):
            while not await condition():
                await asyncio.sleep(0.2)
    except TimeoutError:
        pytest.fail(f"not seen in {PATIENCE:g} s: {what}")


class Api:
    def __init__(self, node: Node, session: aiohttp.ClientSession) -> None:
        self._base, self._admin, self._session = f"{node.http}/api/v1", node.admin, session

    async def ask(self, method: str, path: str, body: Any = None) -> Any:
        async with self._session.request(method, f"{self._base}{path}", json=body, headers=self._admin) as answer:
            told = await answer.json()
            assert answer.status < 300, told
            return told["data"]


async def facts(node: Node) -> list[tuple[str, str]]:
    """(type, code) of each."""
    assert node.daemon.health.database is not None
    async with node.daemon.health.database.read() as tx:
        found = await outbox.after(tx, 0, 1000)
    return [(e.type, e.data["code"]) for e in found if e.type.startswith(("disk.", "recording."))]


async def test_a_full_disk(disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "WELL_AFTER", 1.0)
    filler = disk / "filler"
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, SIZE - ROOM)
    noise = ["-re", "-f", "lavfi", "-i", "testsrc2=size=640x480:rate=30,noise=alls=60:allf=t", "-re", "-f", "lavfi", "-i", "sine"]
    settings = {"min_free": 0, "file_duration": 5.0}
    async with aiohttp.ClientSession() as client, running(disk / "data", recording=settings) as node:
        assert node.daemon.recorder is not None
        node.daemon.recorder._config = msgspec.structs.replace(node.daemon.config.recording, file_duration=FILE)
        api = Api(node, client)
        live = "/projects/live/recordings"
        url = f"{node.rtmp}/live/{node.key}"
        policy = (await api.ask("PATCH", "/projects/live", {"recording": {"maxAge": 86400, "minKeep": None}}))["recording"]
        assert policy == {"maxAge": 86400.0, "maxBytes": None, "minKeep": None, "upload": False, "deleteAfterUpload": False}
        assert (await api.ask("GET", "/recordings/forecast"))["disks"][0]["directory"] == str(disk / "data" / "recordings")
        async with ffmpeg_process(*noise, *H264_AAC, "-b:v", "6M", "-maxrate", "6M", "-bufsize", "3M", "-f", "flv", url):
            await until(lambda: node.on_air, PATIENCE)
            recording = (await api.ask("POST", live, {"room": "studio"}))["id"]
            files = disk / "data" / "recordings" / "live" / "live-studio" / recording

            async def oldest_is_gone() -> bool:
                return (files / "000003.mp4").exists() and not (files / "000001.mp4").exists()

            await seen("the oldest file went for new ones", oldest_is_gone)
            found = await api.ask("GET", f"{live}/{recording}")
            assert found["state"] == "recording"
            forecast = await api.ask("GET", f"{live}/forecast")
            assert forecast["bytes"] > 0
            assert forecast["maxAge"] == 86400.0
            assert forecast["disks"][0]["total"] == SIZE

            await api.ask("PATCH", f"{live}/{recording}", {"pinned": True})
            pinned = {path.name for path in files.glob("*.mp4")}

            async def full() -> bool:
                return ("disk.full", "disk-full") in await facts(node)

            await seen("nothing may go: the disk is full", full)
            assert pinned <= {path.name for path in files.glob("*.mp4")}, "pinned files stay"
            assert (await api.ask("GET", f"{live}/{recording}"))["state"] == "recording"
            filler.unlink()

            async def goes_on() -> bool:
                troubles = [code for word, code in await facts(node) if word == "recording.trouble"]
                return troubles[-1] == "" and len(list(files.glob("*.mp4"))) > len(pinned)

            await seen("it goes on where it was: what waited for the disk is written", goes_on)
            await api.ask("POST", f"{live}/{recording}/stop")
        told = await facts(node)
        words = [word for word, _ in told]
        assert (words[0], words[-1], words.count("disk.full")) == ("recording.started", "recording.finished", 1)
        assert "recording.deleted" in words
        on_disk = sorted(files.glob("*.mp4"))
        rows = (await api.ask("GET", f"{live}/{recording}"))["files"]
        assert [path.name for path in on_disk] == [row["name"] for row in rows if row["state"] != "gone"]
        for path in on_disk:
            await plays(path)
