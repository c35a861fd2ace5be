"""CPU per RTSP camera (1080p30, 2.5 Mbit/s, in the connection) beside FFmpeg `-c copy -f null`, of the same camera in the same run.

The camera is GStreamer's RTSP server with a file, which is not counted. Ours is a process that pulls onto the bus, as the daemon does,
and has nothing else to do; FFmpeg is one process per camera. Threads and RSS are what each camera adds. Target: at most FFmpeg's CPU.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bench import rig

CAMERA = Path(__file__).resolve().parent.parent / "tests" / "harness" / "camera_server.py"
SETTLE = 6.0
LIMIT = 1.0
LENGTH = 600
"""Seconds of file."""


@contextmanager
def camera() -> Iterator[str]:
    """The URL of a camera that plays the clip over and over."""
    clip = rig.clip()
    long = clip.with_name("camera.mp4")
    if not long.exists():
        command = [
            rig.FFMPEG,
            "-loglevel",
            "error",
            "-y",
            "-stream_loop",
            "-1",
            "-i",
            str(clip),
            "-t",
            str(LENGTH),
            "-c",
            "copy",
            "-an",
            str(long),
        ]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    pipeline = f"filesrc location={long} ! qtdemux ! h264parse ! rtph264pay name=pay0 pt=96"
    wanted = json.dumps({"mounts": {"/cam": pipeline}})
    process = subprocess.Popen(["/usr/bin/python3", str(CAMERA), wanted], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield f"rtsp://127.0.0.1:{int(process.stdout.readline())}/cam"
    finally:
        process.kill()
        process.wait()


def threads(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/task"))


def ours(url: str, count: int, transport: str, seconds: float) -> tuple[float, int, int]:
    """Percent of a core, bytes of RSS and threads, of `count` cameras."""
    command = [sys.executable, "-m", "bench.pull", "--child", url, "--counts", str(count), "--transport", transport]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "running"
        time.sleep(SETTLE)
        cpu, rss = rig.measure(process.pid, seconds)
        found = threads(process.pid)
        process.stdin.close()  # type: ignore[union-attr]
        told = process.stdout.readline()
        if "lost 0 " not in told:
            print(f"packets {told.strip()}")
        return cpu * 100, rss, found
    finally:
        rig.stop(process)


def theirs(url: str, count: int, transport: str, seconds: float) -> tuple[float, int, int]:
    with ExitStack() as stack:
        running = []
        for _ in range(count):
            command = [
                rig.FFMPEG,
                "-hide_banner",
                "-loglevel",
                "error",
                "-rtsp_transport",
                transport,
                "-i",
                url,
                "-c",
                "copy",
                "-f",
                "null",
                "-",
            ]
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            stack.callback(rig.stop, process)
            running.append(process)
        time.sleep(SETTLE)
        before = [rig.sample(p.pid) for p in running]
        time.sleep(seconds)
        after = [rig.sample(p.pid) for p in running]
        if any(p.poll() is not None for p in running):
            raise RuntimeError("an FFmpeg ended early")
        cpu = sum((b.cpu - a.cpu) / (b.wall - a.wall) for a, b in zip(before, after, strict=True))
        return cpu * 100, sum(b.rss for b in after), sum(threads(p.pid) for p in running)


async def child(url: str, count: int, transport: str) -> None:
    """Pull `count` times, until stdin is closed."""
    from medianode.auth import Door, PublishGrant, Takeover
    from medianode.config import Config
    from medianode.events import Bus
    from medianode.ingress.pull.order import PullOrder
    from medianode.ingress.pull.service import PullService
    from medianode.outbound import Outbound
    from medianode.routing.registry import Registry
    from medianode.tasks import background

    config = Config()
    registry = Registry(Bus(), config.limits)
    service = PullService(config, registry, Outbound(["127.0.0.0/8"]))
    async with background(service.serve()):
        for i in range(count):
            grant = PublishGrant(
                project_id="p", slug="live", room=f"cam{i}", identity="cam", name="", kind=Door.URL, ingress_id=f"cam{i}",
                takeover=Takeover.REPLACE, hold=5.0,
            )  # fmt: skip
            service.open(PullOrder(grant=grant, url=url, transport=transport))  # type: ignore[arg-type]
        while len([p for p in registry.publications if p.active]) < count:
            await asyncio.sleep(0.1)
        print("running", flush=True)
        before = sum(p.health.network.get("lost", 0) for p in registry.publications)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
        lost = sum(p.health.network.get("lost", 0) for p in registry.publications) - before
        print(f"lost {lost:.0f} of {sum(p.health.network['received'] for p in registry.publications):.0f}", flush=True)
        await service.drain()


def main(counts: tuple[int, ...] = (1, 20), seconds: float = 15.0, transport: str = "tcp") -> int:
    """1 where the most cameras cost more than FFmpeg's."""
    print(f"machine: {rig.machine()}\nRTSP by {transport.upper()}, 1080p30 of 2.5 Mbit/s, {seconds:g} s each\n")
    print("cameras      ours     FFmpeg   ratio    ours: RSS    threads   FFmpeg: RSS    threads")
    ratio, first = 0.0, (0, 0)
    with camera() as url:
        for count in counts:
            cpu, rss, found = ours(url, count, transport, seconds)
            peer, peer_rss, peer_threads = theirs(url, count, transport, seconds)
            ratio = cpu / peer
            mine = f"{cpu / count:8.2f} % {peer / count:8.2f} % {ratio:7.2f} {rss / 1e6:9.1f} MB {found:10}"
            print(f"{count:7} {mine} {peer_rss / 1e6:10.1f} MB {peer_threads:10}")
            if count > counts[0]:
                more = count - counts[0]
                print(f"a camera more: {(rss - first[0]) / more / 1e6:.2f} MB, {(found - first[1]) / more:g} threads")
            first = first if first[0] else (rss, found)
    print(f"\nratio to FFmpeg at {counts[-1]}: {ratio:.2f} (aim: at most {LIMIT:g})")
    return int(ratio > LIMIT)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", "-n", type=lambda text: tuple(int(n) for n in text.split(",")), default=(1, 20))
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--transport", choices=("tcp", "udp", "http"), default="tcp")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        import uvloop

        uvloop.run(child(options.child, options.counts[0], options.transport))
    else:
        sys.exit(main(options.counts, options.seconds, options.transport))
