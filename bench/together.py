"""The node's loop lag while everything runs at once, and its CPU and RSS.

10 RTMP publishers of 2.5 Mbit/s (FFmpeg), 25 plain and 25 LL-HLS players over their rooms, a WebSocket camera of 10 JPEGs of 20 KB a second
with 50 MJPEG viewers, 2 RTMP players. Loopback only; the publishers are a process each, all players together are two more, the camera one.

Lag is the node's own `medianode_loop_lag_seconds`: how late a timer runs, ten times a second, over its last minute. A machine that
has too few cores makes timers late in any process: the same measurement in this process, which is idle, stands beside it as "control".
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import aiohttp
import uvloop

from bench import rig
from bench.clients import HlsPlayer, Http, HttpError, mjpeg, rtmp_play
from bench.mjpeg_viewers import picture

LIMIT = 0.020
"""Seconds, p99."""
PUBLISHERS, PLAIN, LOW_LATENCY, VIEWERS, RTMP_PLAYERS = 10, 25, 25, 50, 2
FPS, JPEG_BYTES = 10, 20_000
CAMERA_ROOM = "gate"
PERIOD = 0.1
SETTLE = 12.0
"""Seconds from the first player to the window: all have their first segments, the camera its viewers."""


# the load, each function a process: it counts, and for each line it reads it prints its counts


async def camera(port: int, admin: str) -> None:
    data = picture(JPEG_BYTES)
    base = f"http://127.0.0.1:{port}"
    headers = {"Authorization": f"Bearer {admin}"}
    async with aiohttp.ClientSession() as session:
        async with session.post(f"{base}/api/v1/apps/live/ws-ingest", json={"room": CAMERA_ROOM}, headers=headers) as answer:
            answer.raise_for_status()
            key = (await answer.json())["data"]["streamKey"]
        url = f"{base}/ingest/ws?app=live&room={CAMERA_ROOM}"
        async with session.ws_connect(url, headers={"Authorization": f"Bearer {key}"}) as socket, asyncio.TaskGroup() as group:
            counts = {"sent": 0}
            report = group.create_task(reports(counts))

            async def pongs() -> None:
                async for _ in socket:  # aiohttp answers pings only while somebody reads
                    pass

            reading = group.create_task(pongs())
            loop = asyncio.get_running_loop()
            began = loop.time()
            for number in range(1 << 30):
                await asyncio.sleep(max(0.0, began + number / FPS - loop.time()))
                if report.done():
                    break
                await socket.send_bytes(data)
                counts["sent"] += 1
            reading.cancel()


async def hls_players(port: int) -> None:
    players = [HlsPlayer(port, f"s{i % PUBLISHERS}", low_latency=False) for i in range(PLAIN)]
    players += [HlsPlayer(port, f"s{i % PUBLISHERS}", low_latency=True) for i in range(LOW_LATENCY)]
    counts = {"failed": 0, "plain": 0, "low_latency": 0, "requests": 0, "bytes": 0}

    async def play(player: HlsPlayer, delay: float) -> None:
        await asyncio.sleep(delay)
        try:
            await player.run()
        except (OSError, asyncio.IncompleteReadError, HttpError) as e:
            print(f"{player.room}: {type(e).__name__}: {e}", file=sys.stderr)
            counts["failed"] += 1

    def count() -> None:
        counts["plain"] = sum(player.media for player in players[:PLAIN])
        counts["low_latency"] = sum(player.media for player in players[PLAIN:])
        counts["requests"] = sum(player.requests for player in players)
        counts["bytes"] = sum(player.nbytes for player in players)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(play(player, i * 2.0 / len(players))) for i, player in enumerate(players)]
        await reports(counts, count)
        for task in tasks:
            task.cancel()


async def viewers(port: int, rtmp_port: int) -> None:
    counts = {"failed": 0, "jpegs": 0, "rtmp": 0}

    async def watch() -> None:
        async for _ in mjpeg(port, CAMERA_ROOM):
            counts["jpegs"] += 1
        counts["failed"] += 1

    async def play(room: str) -> None:
        async for _ in rtmp_play(rtmp_port, room):
            counts["rtmp"] += 1
        counts["failed"] += 1

    async def guarded(number: int) -> None:
        try:
            await (play(f"s{number - VIEWERS}") if number >= VIEWERS else watch())
        except (OSError, asyncio.IncompleteReadError, HttpError) as e:
            print(f"viewer: {type(e).__name__}: {e}", file=sys.stderr)
            counts["failed"] += 1

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(guarded(i)) for i in range(VIEWERS + RTMP_PLAYERS)]
        await reports(counts)
        for task in tasks:
            task.cancel()


async def reports(counts: dict[str, int], refresh: Callable[[], None] | None = None) -> None:
    """For each line on stdin the counts as JSON on stdout, until stdin ends."""
    loop = asyncio.get_running_loop()
    while await loop.run_in_executor(None, sys.stdin.readline):
        if refresh is not None:
            refresh()
        print(json.dumps(counts), flush=True)


# the bench


class Load:
    """One process of load."""

    def __init__(self, kind: str, *arguments: object) -> None:
        command = [sys.executable, "-m", "bench.together", "--load", kind, *map(str, arguments)]
        self.kind = kind
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def counts(self) -> dict[str, int]:
        assert self.process.stdin
        assert self.process.stdout
        try:
            self.process.stdin.write("\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise RuntimeError(f"the load {self.kind} ended with {self.process.wait(5)}")
        counts: dict[str, int] = json.loads(line)
        return counts


@contextlib.contextmanager
def loads(server: rig.Server) -> Iterator[list[Load]]:
    running: list[Load] = []
    try:
        running.append(Load("camera", server.http, server.admin))
        running.append(Load("hls", server.http))
        wait_for_camera(server)
        running.append(Load("viewers", server.http, server.rtmp))
        yield running
    finally:
        for load in running:
            assert load.process.stdin
            with contextlib.suppress(BrokenPipeError):
                load.process.stdin.close()
        rig.stop(*(load.process for load in running))


def wait_for_camera(server: rig.Server) -> None:
    async def look() -> None:
        async with asyncio.timeout(20):
            while True:
                http = await Http.open(server.http)
                try:
                    await http.get(f"/live/live/{CAMERA_ROOM}/frame.jpg")
                    return
                except HttpError:
                    await asyncio.sleep(0.2)
                finally:
                    http.close()

    asyncio.run(look())


async def control(seconds: float) -> list[float]:
    """What the node measures of itself, here: sorted lags of timers in a process that does nothing."""
    loop = asyncio.get_running_loop()
    end, lags = loop.time() + seconds, []
    while (due := loop.time() + PERIOD) < end:
        await asyncio.sleep(PERIOD)
        lags.append(max(0.0, loop.time() - due))
    return sorted(lags)


def node_lag(server: rig.Server) -> dict[str, float]:
    start = 'medianode_loop_lag_seconds{quantile="'
    return {name.removeprefix(start).removesuffix('"}'): value for name, value in server.metrics().items() if name.startswith(start)}


def main(seconds: float = 60.0) -> int:
    clip = rig.clip()
    with rig.medianode() as server:
        with rig.publishers(f"rtmp://127.0.0.1:{server.rtmp}/live/{{name}}", PUBLISHERS, clip), loads(server) as running:
            time.sleep(SETTLE)
            counts = [load.counts() for load in running]
            before = rig.sample(server.pid)
            cpu_of_load = sum(rig.sample(load.process.pid).cpu for load in running)
            idle = uvloop.run(control(seconds))
            lag = node_lag(server)
            after = rig.sample(server.pid)
            cpu_of_load = sum(rig.sample(load.process.pid).cpu for load in running) - cpu_of_load
            wall = after.wall - before.wall
            done = [{name: value - was[name] for name, value in load.counts().items()} for load, was in zip(running, counts, strict=True)]
            load_average = rig.load()
        return report(lag, idle, (after.cpu - before.cpu) / wall, after.rss, cpu_of_load / wall, wall, done, load_average)


def report(
    lag: dict[str, float],
    idle: list[float],
    cpu: float,
    rss: int,
    cpu_of_load: float,
    wall: float,
    done: list[dict[str, int]],
    load_average: str,
) -> int:
    cam, hls, seen = done
    control_lag = {q: idle[min(len(idle) - 1, int(float(q) * len(idle)))] for q in lag}
    ratio = lag["0.99"] / LIMIT
    busy = " (the machine is busy with other work: see control)" if control_lag["0.99"] > LIMIT / 4 else ""
    print(
        f"all at once for {wall:.0f} s: {PUBLISHERS} RTMP publishers, {PLAIN} HLS and {LOW_LATENCY} LL-HLS players,"
        f" {VIEWERS} MJPEG viewers, {RTMP_PLAYERS} RTMP players; load {load_average}"
    )
    for name, row in (("node", lag), ("control", control_lag)):
        print(f"  loop lag, {name:8} p50 {row['0.5'] * 1e3:6.2f} ms  p99 {row['0.99'] * 1e3:6.2f} ms  max {row['1.0'] * 1e3:6.2f} ms")
    print(f"  ratio p99/limit of {LIMIT * 1e3:g} ms {ratio:.2f}: {'ok' if ratio <= 1 else 'OVER THE LIMIT'}{busy}")
    print(f"  node: {cpu:.1%} of a core, {rss / 1e6:.0f} MB RSS; players and camera: {cpu_of_load:.1%} of a core")
    print(
        f"  served: HLS {hls['requests'] / wall:.0f} requests/s, {hls['bytes'] * 8e-6 / wall:.0f} Mbit/s, {hls['plain']} segments,"
        f" {hls['low_latency']} parts; MJPEG {seen['jpegs'] / max(1, cam['sent'] * VIEWERS):.1%} of {cam['sent'] * VIEWERS} pictures;"
        f" RTMP play {seen['rtmp'] / wall / RTMP_PLAYERS:.0f} messages/s each; players that failed {hls['failed'] + seen['failed']}"
    )
    starved = min(hls["plain"], hls["low_latency"], seen["jpegs"], seen["rtmp"], cam["sent"]) == 0
    if starved:
        print("  a part of the load did not run: the figures say nothing")
    return int(ratio > 1 or starved or hls["failed"] + seen["failed"] > 0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="the window; the node's lag is that of its last minute, always")
    parser.add_argument("--load", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.load:
        kind, *ports = arguments.load
        if kind == "camera":
            uvloop.run(camera(int(ports[0]), ports[1]))
        elif kind == "hls":
            uvloop.run(hls_players(int(ports[0])))
        else:
            uvloop.run(viewers(int(ports[0]), int(ports[1])))
        sys.exit(0)
    print(rig.machine())
    sys.exit(main(arguments.seconds))
