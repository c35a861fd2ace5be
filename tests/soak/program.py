"""The daemon as operators run it: `python -m medianode serve` in a process of its own, on ports of the system's choice."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import ClientSession, ClientTimeout
from harness import publishing, send_second

from medianode.errors import MedianodeError

START = 60.0
"""Seconds that a start may take on a machine that does other things too."""


def environment(data_dir: Path, **more: str) -> dict[str, str]:
    """This process's, without what an operator's shell may have set for another node. `more`: `INGRESS__HOLD="1"`, …"""
    base = {name: value for name, value in os.environ.items() if not name.startswith(("MEDIANODE__", "NOTIFY_", "WATCHDOG_"))}
    listen = {f"{name}__LISTEN": "127.0.0.1:0" for name in ("HTTP", "RTMP", "RTC", "SRT")}
    own = {"DATA_DIR": str(data_dir), **listen, "RTC__TCP_LISTEN": "127.0.0.1:0", **more}
    # as in systemd/medianode.service
    unit = {"PYTHONUNBUFFERED": "1", "MALLOC_ARENA_MAX": "2"}
    return base | {f"MEDIANODE__{name}": value for name, value in own.items()} | unit


@dataclass(slots=True)
class Program:
    """A serving daemon. `greeting`: what it printed; `log`: its standard error."""

    process: asyncio.subprocess.Process
    data_dir: Path
    log_file: Path
    greeting: str
    http_port: int
    rtmp_port: int

    @property
    def http(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def rtmp(self) -> str:
        return f"rtmp://127.0.0.1:{self.rtmp_port}"

    @property
    def key(self) -> str:
        found = re.search(r"stream key +(\S+)", self.greeting)
        assert found, self.greeting
        return found[1]

    @property
    def admin(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {(self.data_dir / 'admin.key').read_text().strip()}"}

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    async def kill(self) -> None:
        self.process.kill()
        await self.process.wait()

    async def stop(self, timeout: float = 30.0) -> int:
        """SIGTERM; the exit code."""
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(timeout):
            return await self.process.wait()

    async def get(self, path: str, **options: Any) -> tuple[int, str]:
        """On a connection of its own."""
        async with ClientSession(timeout=ClientTimeout(20)) as session, session.get(self.http + path, **options) as response:
            return response.status, await response.text()

    async def metrics(self) -> dict[str, float]:
        """Samples by name with labels, as Prometheus writes them."""
        status, text = await self.get("/metrics")
        assert status == 200, text
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))}

    def assert_clean(self) -> None:
        """No traceback in the log: nothing in it was our fault."""
        log = self.log
        assert "Traceback" not in log, log[-8000:]
        assert "bug in" not in log, log[-8000:]


@asynccontextmanager
async def serving(
    data_dir: Path,
    environ: Mapping[str, str] | None = None,
    *,
    through: Sequence[str] = (),
    program: Sequence[str] = ("-m", "medianode"),
    clean: bool = True,
) -> AsyncIterator[Program]:
    """Started and greeted; stopped by SIGTERM, with exit code 0, where the block has not ended it by itself.

    `through`: a program that starts it (`sh -c 'ulimit …; exec "$@"'`). `program`: what Python runs (`soak/inspected.py`). `clean`: no
    traceback may be in the log.
    """
    log_file = data_dir.with_name(f"{data_dir.name}.log")
    with log_file.open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            *through,
            *(sys.executable, *program, "serve"),
            env=dict(environ) if environ is not None else environment(data_dir),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
        )
    try:
        greeting = await _greeting(process, log_file)
        http = re.search(r"start page +\S+?:(\d+)/", greeting)
        rtmp = re.search(r"OBS server +rtmp://\S+?:(\d+)/", greeting)
        assert http, greeting
        assert rtmp, greeting
        node = Program(process, data_dir, log_file, greeting, int(http[1]), int(rtmp[1]))
        yield node
        if process.returncode is None:
            code = await node.stop()
            assert code == 0, (code, node.log[-4000:])
        if clean:
            node.assert_clean()
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _greeting(process: asyncio.subprocess.Process, log_file: Path) -> str:
    assert process.stdout is not None
    lines: list[str] = []
    async with asyncio.timeout(START):
        while not any(line.startswith("  data ") for line in lines):
            line = await process.stdout.readline()
            if not line:
                raise AssertionError(f"the daemon ended with {await process.wait()}: {log_file.read_text()[-4000:]}")
            lines.append(line.decode())
    return "".join(lines)


@asynccontextmanager
async def on_air(target: str, pause: float = 1.0) -> AsyncIterator[asyncio.Task[None]]:
    """A publisher of made-up media, a second of it each `pause`, as long as the block. The task fails when the node puts it out."""

    async def publish() -> None:
        async with publishing(target) as publisher:
            second = 0
            watching = asyncio.get_running_loop().create_task(publisher.watch())
            try:
                while not watching.done():
                    await send_second(publisher, second)
                    second += 1
                    await asyncio.wait([watching], timeout=pause)
                watching.result()
            finally:
                watching.cancel()
                await asyncio.gather(watching, return_exceptions=True)

    task = asyncio.get_running_loop().create_task(publish())
    try:
        yield task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, MedianodeError, OSError):
            await task


async def playlist(program: Program, room: str = "studio", timeout: float = 30.0) -> str:
    """The room's media playlist, as soon as it is there with a segment in it."""
    async with asyncio.timeout(timeout):
        while True:
            status, text = await program.get(f"/hls/live/{room}/main.m3u8")
            if status == 200 and "#EXTINF" in text:
                return text
            await asyncio.sleep(0.2)


def last_sequence(text: str) -> int:
    """Media sequence number of the newest full segment."""
    return int(text.partition("#EXT-X-MEDIA-SEQUENCE:")[2].split()[0]) + text.count("#EXTINF") - 1


async def ingress_status(program: Program, session: ClientSession, ingress_id: str) -> str:
    async with session.get(f"{program.http}/v1/ingress/{ingress_id}", headers=program.admin) as response:
        assert response.status == 200, await response.text()
        return str((await response.json())["status"])


async def create_ingress(program: Program, session: ClientSession, room: str) -> dict[str, Any]:
    body = {"inputType": "RTMP_INPUT", "roomName": room, "participantIdentity": f"encoder-{room}", "takeover": "replace"}
    async with session.post(f"{program.http}/v1/ingress", json=body, headers=program.admin) as response:
        assert response.status == 201, await response.text()
        made: dict[str, Any] = await response.json()
        return made
