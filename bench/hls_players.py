"""What an HLS player costs: CPU ms per player-second of plain HLS, LL-HLS requests per second of CPU.

One server process with one synthetic source of 2.75 Mbit/s (H.264 30 fps, key frame every 2 s, AAC), players in this process over
loopback, each with one connection kept: `python bench/hls_players.py [-n 100] [--seconds 10] [--ll-players 100]`. The server's CPU is
read from /proc; what it needs with nobody watching is measured first and taken off. Prints the ratio to the limit of 1 ms (issue 2).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import re
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

LIMIT_MS = 1.0
RATE = 2_750_000
SPS, PPS = bytes.fromhex("6764001facd9405005bb0110000003001000000303c0f183196000"), bytes.fromhex("68ebe3cb22c0")


async def serve() -> None:
    from aiohttp import web

    from medianode import clock
    from medianode.auth import Door, PublishGrant, ReadGrant, Takeover
    from medianode.codecs import aac, h264
    from medianode.config import Config
    from medianode.egress.hls import HlsService
    from medianode.events import Bus
    from medianode.media.packet import Packet
    from medianode.media.track import Codec, Track
    from medianode.origin import Origin
    from medianode.routing.registry import Registry
    from medianode.transcode.renditions import Renditions

    class Keeper:
        async def read(self, app: str, room: str, *_: Any, **__: Any) -> ReadGrant:
            return ReadGrant(project_id="p", slug=app, room=f"{app}-{room}")

    with tempfile.TemporaryDirectory() as folder:
        config = Config(data_dir=folder)
        registry = Registry(Bus(), config.limits)
        keeper: Any = Keeper()
        async with Renditions(config.limits, config.mjpeg, config.hls) as renditions:
            service = HlsService(registry, registry.bus, keeper, renditions, config, Origin("", ()))
            app = web.Application()
            app.add_routes(service.routes())
            runner = web.AppRunner(app, access_log=None)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            task = asyncio.get_running_loop().create_task(service.serve())
            await asyncio.sleep(0.2)
            video = Track(0, Codec.H264, 90_000, h264.build_avcc([SPS], [PPS]), 1280, 720)
            audio = Track(1, Codec.AAC, 48_000, aac.build_asc(48_000, 2), sample_rate=48_000, channels=2)
            grant = PublishGrant(
                project_id="p", slug="live", room="live-cam", identity="e", name="e", kind=Door.RTMP, ingress_id=None,
                takeover=Takeover.REPLACE, hold=0,
            )  # fmt: skip
            _, publication = registry.publish(grant, "rtmp", "", lambda _: None)
            publication.set_tracks((video, audio))
            print(runner.addresses[0][1], flush=True)
            noise, sound = random.randbytes(1 << 20), random.randbytes(256)
            per_gop = (RATE - 128_000) // 8 * 2
            start, frame, audio_at = clock.now(), 0, 0
            while not task.done():
                size = per_gop // 4 if frame % 60 == 0 else per_gop * 3 // 4 // 59
                data = size.to_bytes(4, "big") + (b"\x65" if frame % 60 == 0 else b"\x41") + noise[frame % 64 : frame % 64 + size - 1]
                publication.write(Packet(video, data, frame * 3000, frame * 3000, frame % 60 == 0, clock.now()))
                while audio_at < frame * 1600:
                    publication.write(Packet(audio, sound + noise[:85], audio_at, audio_at, True, clock.now()))
                    audio_at += 1024
                frame += 1
                await asyncio.sleep(max(0.0, start + frame / 30 - clock.now()))


class Player:
    """HTTP/1.1 over one connection, bodies read and thrown away."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.requests = self.nbytes = self.media = 0
        self.errors: list[str] = []

    async def get(self, name: str) -> bytes:
        self.writer.write(f"GET /hls/live/cam/{name} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        head = await self.reader.readuntil(b"\r\n\r\n")
        size = int(re.search(rb"content-length: (\d+)", head, re.I)[1])  # type: ignore[index]
        body = await self.reader.readexactly(size)
        self.requests += 1
        self.nbytes += size
        if not head.startswith(b"HTTP/1.1 200"):
            raise ConnectionError(f"{name}: {head[:40]!r}")
        return body

    async def run(self, ll: bool, stop: asyncio.Event, delay: float) -> None:
        await asyncio.sleep(delay)
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 22)
        try:
            index = (await self.get("index.m3u8")).decode()
            media = index.splitlines()[-1]
            seen: set[str] = set()
            query = ""
            while not stop.is_set():
                text = (await self.get(media + query)).decode()
                names = re.findall(r'#EXT-X-PART:[^\n]*URI="([^"]+)"' if ll else r"^([^#\s]+)$", text, re.M)
                new = [name for name in names if name not in seen]
                if not seen:
                    new = new[-2:]
                seen.update(names)
                for name in new:
                    await self.get(name)
                    self.media += 1
                if ll:
                    tail = text[text.rindex("\nmain-") :] if "\nmain-" in text else text
                    msn = int(re.search(r"MEDIA-SEQUENCE:(\d+)", text)[1]) + len(re.findall(r"^main-", text, re.M))  # type: ignore[index]
                    query = f"&_HLS_msn={msn}&_HLS_part={tail.count('#EXT-X-PART:')}"
                else:
                    await asyncio.sleep(2.0 if new else 1.0)  # the target duration, half of it when nothing came: RFC 8216 6.3.4
        except (OSError, asyncio.IncompleteReadError, ValueError) as e:
            self.errors.append(f"{type(e).__name__}: {e}")
        finally:
            self.writer.close()


def cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.asynccontextmanager
async def server() -> AsyncIterator[tuple[int, int]]:
    process = await asyncio.create_subprocess_exec(sys.executable, __file__, "--serve", stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    try:
        yield process.pid, int(await process.stdout.readline())
    finally:
        process.kill()
        await process.wait()


async def measure(pid: int, port: int, count: int, seconds: float, ll: bool, idle: float) -> tuple[float, list[Player], float]:
    """(CPU seconds for the players alone, players, seconds)"""
    players, stop = [Player(port) for _ in range(count)], asyncio.Event()
    tasks = [asyncio.get_running_loop().create_task(p.run(ll, stop, i * 2 / count)) for i, p in enumerate(players)]
    await asyncio.sleep(4)
    before, at = cpu(pid), time.perf_counter()
    for player in players:
        player.requests = player.nbytes = player.media = 0
    await asyncio.sleep(seconds)
    passed = time.perf_counter() - at
    used = cpu(pid) - before - idle * passed
    stop.set()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return used, players, passed


async def main(a: argparse.Namespace) -> int:
    async with server() as (pid, port):
        await asyncio.sleep(5)
        before, at = cpu(pid), time.perf_counter()
        await asyncio.sleep(5)
        idle = (cpu(pid) - before) / (time.perf_counter() - at)
        print(f"machine: {os.cpu_count()} cores, Python {sys.version.split()[0]}; source alone {idle:.2%} of a core")
        used, players, passed = await measure(pid, port, a.n, a.seconds, False, idle)
        errors = [e for p in players for e in p.errors]
        per = used * 1000 / (a.n * passed)
        nbytes, requests = sum(p.nbytes for p in players), sum(p.requests for p in players)
        print(
            f"plain HLS: {a.n} players, {nbytes * 8 / passed / a.n / 1e6:.2f} Mbit/s and {requests / passed / a.n:.2f} requests/s each: "
            f"{per:.3f} ms CPU per player-second, {per / LIMIT_MS:.2f} of the limit of {LIMIT_MS:g} ms; errors {len(errors)} {errors[:1]}"
        )
        ll_used, players, passed = await measure(pid, port, a.ll_players, a.seconds, True, idle)
        ll_errors = [e for p in players for e in p.errors]
        requests = sum(p.requests for p in players)
        print(
            f"LL-HLS: {a.ll_players} players, {requests / passed:.0f} requests/s at {ll_used / passed:.1%} of a core: "
            f"{requests / ll_used:.0f} requests per CPU second, {ll_used * 1000 / (a.ll_players * passed):.2f} ms per player-second; "
            f"errors {len(ll_errors)} {ll_errors[:1]}"
        )
    return int(per > LIMIT_MS or bool(errors or ll_errors))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", type=int, default=100, help="plain players")
    parser.add_argument("--ll-players", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--serve", action="store_true", help="(internal) be the server")
    arguments = parser.parse_args()
    if arguments.serve:
        import uvloop

        uvloop.run(serve())
    else:
        sys.exit(asyncio.run(main(arguments)))
