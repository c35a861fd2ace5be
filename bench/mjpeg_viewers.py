"""MJPEG viewers per core: CPU of the server process only, against bare send() of the same parts to as many sockets.

.venv/bin/python bench/mjpeg_viewers.py [--viewers 300] [--seconds 3] [--rounds 3] [--fps 10] [--bytes 20000]

Real sockets over loopback; the viewers are another process. The floor is a loop that does nothing but send() each part to each socket,
in the same run: what the kernel takes. LIMIT is how much of that floor's viewers per core the door must reach.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import os
import platform
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from typing import cast

import uvloop
from aiohttp import web
from PIL import Image

from medianode import clock
from medianode.auth import Door, PublishGrant, ReadGrant, Takeover
from medianode.config import Config
from medianode.egress.mjpeg import MjpegDoor
from medianode.egress.screen import Screens
from medianode.events import Bus
from medianode.media.packet import Packet
from medianode.media.track import Codec, Track
from medianode.origin import Origin
from medianode.protocols.multipart import jpeg_part
from medianode.routing.registry import Registry
from medianode.transcode.renditions import Renditions

LIMIT = 0.5
REQUEST = b"GET /live/live/gate/mjpeg HTTP/1.1\r\nHost: bench\r\n\r\n"


class Everybody:
    """A gatekeeper that lets all in."""

    async def read(self, app: str, room: str, token: str | None = None, bearer: str | None = None, *, source: str = "") -> ReadGrant:
        return ReadGrant(project_id="p", slug="live", room="live-gate")


def picture(nbytes: int) -> bytes:
    """A real JPEG of about this size: noise of a fitting area."""
    side, data = 16, b""
    while len(data) < nbytes:
        side += 4
        out = io.BytesIO()
        Image.frombytes("RGB", (side, side), os.urandom(side * side * 3)).save(out, "JPEG", quality=50)
        data = out.getvalue()
    return data


async def at_rate(fps: float, seconds: float, frame: Callable[[], None]) -> float:
    """Call `frame` `fps` times a second; the CPU seconds that this process took for it."""
    loop = asyncio.get_running_loop()
    began, cpu = loop.time(), clock.cpu_seconds()
    for i in range(round(fps * seconds)):
        await asyncio.sleep(max(0.0, began + i / fps - loop.time()))
        frame()
    await asyncio.sleep(max(0.0, began + seconds - loop.time()))
    return clock.cpu_seconds() - cpu


async def serve_door(args: argparse.Namespace) -> None:
    config = Config()
    registry = Registry(Bus(), config.limits)
    grant = PublishGrant(
        project_id="p",
        slug="live",
        room="live-gate",
        identity="cam",
        name="",
        kind=Door.WS_MJPEG,
        ingress_id=None,
        takeover=Takeover.REPLACE,
        hold=0.0,
    )
    _, publication = registry.publish(grant, "bench", "", lambda error: None)
    data = picture(args.bytes)
    track = Track(id=0, codec=Codec.MJPEG, clock_rate=90_000, width=64, height=64)
    publication.set_tracks((track,))
    pts = 0

    def frame() -> None:
        nonlocal pts
        pts += 9000
        publication.write(Packet(track, data, pts, pts, True, clock.now()))

    frame()
    async with Renditions(config.limits, config.mjpeg, config.hls) as renditions:
        door = MjpegDoor(config.mjpeg, config.limits, Everybody(), registry, Origin("", ()), Screens(renditions, config.mjpeg))  # type: ignore[arg-type]  # reads only
        app = web.Application()
        app.add_routes(door.routes())
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, backlog=1024).start()
        print(runner.addresses[0][1], flush=True)
        room = registry.on_air("p", "live-gate")
        async with asyncio.timeout(30):
            while room.viewers.get("mjpeg", 0) < args.viewers:
                await asyncio.sleep(0.02)
        await asyncio.sleep(0.5)
        print(await at_rate(args.fps, args.seconds, frame), flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
        await runner.cleanup()


async def serve_bare(args: argparse.Namespace) -> None:
    part = jpeg_part(picture(args.bytes))
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        print(listener.getsockname()[1], flush=True)
        peers = [listener.accept()[0] for _ in range(args.viewers)]
    for peer in peers:
        peer.setblocking(False)

    def frame() -> None:
        for peer in peers:
            with contextlib.suppress(BlockingIOError):
                peer.send(part)

    print(await at_rate(args.fps, args.seconds, frame), flush=True)
    sys.stdin.readline()


class Viewer(asyncio.Protocol):
    received = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.Transport, transport).write(REQUEST)

    def data_received(self, data: bytes) -> None:
        Viewer.received += len(data)


async def watch(kind: str, args: argparse.Namespace) -> float:
    """Run a server of this kind with all viewers; viewers per core."""
    flags = [f"--{name}={getattr(args, name)}" for name in ("viewers", "seconds", "fps", "bytes")]
    command = [sys.executable, __file__, "--serve", kind, *flags]
    server = await asyncio.create_subprocess_exec(*command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert server.stdin
    assert server.stdout
    port = int(await server.stdout.readline())
    Viewer.received = 0
    loop = asyncio.get_running_loop()
    transports = [(await loop.create_connection(Viewer, "127.0.0.1", port))[0] for _ in range(args.viewers)]
    cpu = float(await server.stdout.readline())
    await asyncio.sleep(0.3)
    wanted = args.viewers * args.fps * args.seconds * args.bytes
    for transport in transports:
        transport.abort()
    server.stdin.write(b"\n")
    await server.wait()
    share = cpu / args.seconds
    per_frame = cpu / (args.viewers * args.fps * args.seconds) * 1e6
    per_core = args.viewers / share
    print(
        f"{kind:5} {args.viewers} viewers: {100 * share:5.1f} % of a core, {per_frame:5.1f} us a frame, "
        f"{per_core:6.0f} viewers per core, {100 * Viewer.received / wanted:.0f} % of the bytes arrived"
    )
    return per_core


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--viewers", type=int, default=300)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=3, help="of each, in turn; the best of each counts")
    parser.add_argument("--fps", type=float, default=10.0)
    parser.add_argument("--bytes", type=int, default=20_000)
    parser.add_argument("--serve", choices=("door", "bare"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        uvloop.run(serve_door(args) if args.serve == "door" else serve_bare(args))
        return 0
    machine = f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, Python {platform.python_version()}"
    print(f"{machine}, {time.strftime('%F')}; {args.fps:g} fps of {args.bytes} bytes")
    rounds = [(uvloop.run(watch("bare", args)), uvloop.run(watch("door", args))) for _ in range(args.rounds)]
    bare, door = (max(results) for results in zip(*rounds, strict=True))
    ratio = door / bare
    print(f"{door:.0f} viewers per core; ratio door/bare {ratio:.2f}, limit {LIMIT}: {'ok' if ratio >= LIMIT else 'UNDER THE LIMIT'}")
    return 0 if ratio >= LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
