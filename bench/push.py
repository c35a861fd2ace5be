"""CPU per simulcast target (1080p30, 2.5 Mbit/s, RTMP) beside FFmpeg `-c copy` that pulls from the node and pushes, in the same run.

The target of both is nginx-rtmp, which is not counted. Ours is what the node spends more than without targets; FFmpeg's is its own
processes alone, and with what the node spends on serving them. Target: at most half of FFmpeg's own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from bench import rig

SETTLE = 5.0
LIMIT = 0.5
APP = "/api/v1/apps/live"


def call(server: rig.Server, method: str, path: str, body: object = None) -> object:
    request = urllib.request.Request(
        f"http://127.0.0.1:{server.http}{path}",
        data=None if body is None else json.dumps(body).encode(),
        method=method,
        headers={"Authorization": f"Bearer {server.admin}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as response:
        text = response.read()
    return json.loads(text) if text else None


@contextmanager
def pushed(server: rig.Server, peer: rig.Server, count: int) -> Iterator[None]:
    """`count` targets of the one room, all broadcasting."""
    for i in range(count):
        body = {"url": f"rtmp://127.0.0.1:{peer.rtmp}/live", "streamKey": f"push{i}"}
        call(server, "POST", f"{APP}/rooms/s0/targets", body)
    time.sleep(SETTLE)
    yield
    found = call(server, "GET", f"{APP}/targets")
    assert isinstance(found, dict)
    sad = [target for target in found["data"] if target["state"] != "broadcasting" or target["droppedPackets"]]
    if sad or len(found["data"]) != count:
        raise RuntimeError(f"not all broadcasting: {sad}")


@contextmanager
def copied(server: rig.Server, peer: rig.Server, count: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    """`count` FFmpegs that do the same from outside."""
    running: list[subprocess.Popen[bytes]] = []
    source = f"rtmp://127.0.0.1:{server.rtmp}/live/s0"
    try:
        for i in range(count):
            command = [rig.FFMPEG, "-hide_banner", "-loglevel", "error", "-i", source, "-c", "copy", "-f", "flv"]
            target = f"rtmp://127.0.0.1:{peer.rtmp}/live/copy{i}"
            running.append(subprocess.Popen([*command, target], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        time.sleep(SETTLE)
        yield running
        if any(process.poll() is not None for process in running):
            raise RuntimeError("an FFmpeg ended early")
    finally:
        rig.stop(*running)


def measure(pids: list[int], seconds: float) -> list[float]:
    """Percent of a core of each process tree over the same window."""
    before = [rig.sample(pid) for pid in pids]
    time.sleep(seconds)
    after = [rig.sample(pid) for pid in pids]
    return [(b.cpu - a.cpu) / (b.wall - a.wall) * 100 for a, b in zip(before, after, strict=True)]


def main(counts: tuple[int, ...] = (1, 10), seconds: float = 15.0) -> int:
    """1 where the most targets cost over half of what FFmpeg's own processes do."""
    rig.clip()
    over = False
    print("simulcast by RTMP, % of a core per target")
    environment = {"MEDIANODE__OUTBOUND__ALLOW": "127.0.0.1", "MEDIANODE__HLS__ENABLED": "false"}
    for count in counts:
        with (
            rig.nginx_rtmp() as peer,
            rig.medianode(**environment) as server,
            rig.publishers(f"rtmp://127.0.0.1:{server.rtmp}/live/{{name}}", 1, rig.clip()),
        ):
            time.sleep(SETTLE)
            (idle,) = measure([server.pid], seconds)
            with copied(server, peer, count) as processes:
                serving, *theirs = measure([server.pid, *(process.pid for process in processes)], seconds)
            with pushed(server, peer, count):
                (ours,) = measure([server.pid], seconds)
        own, ffmpeg, served = (ours - idle) / count, sum(theirs) / count, (serving - idle) / count
        over = over or (count == max(counts) and own > LIMIT * ffmpeg)
        print(f"  {count:3} targets: medianode {own:.2f} % | FFmpeg -c copy {ffmpeg:.2f} % + {served:.2f} % serving it", end=" ")
        print(f"| ratio {own / ffmpeg:.2f}, with serving {own / (ffmpeg + served):.2f} (node without targets {idle:.1f} %)", flush=True)
    return int(over)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, nargs="*", default=[1, 10])
    parser.add_argument("--seconds", type=float, default=15.0)
    arguments = parser.parse_args()
    print(rig.machine())
    sys.exit(main(tuple(arguments.n), arguments.seconds))
