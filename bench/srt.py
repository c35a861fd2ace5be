"""CPU per SRT publisher (1080p30, 2.5 Mbit/s, 1 % lost) beside FFmpeg `-c copy -f null` that receives the same, in the same run.

FFmpeg is a process per stream, as its listener takes one caller. The relay that loses, and the publishers, are not counted. HLS is off:
what is measured is the way from the datagram to the packet. Target: at most what FFmpeg takes, at 10.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from bench import rig

SETTLE = 4.0
LATENCY = 200_000
"""What callers ask for, µs."""


def relay(pairs: list[tuple[int, int]], loss: float) -> None:
    """For each (port, target) a NAT in between, for one caller, that loses both ways."""
    draw = random.Random(1).random
    chooser = selectors.DefaultSelector()
    callers: dict[int, Any] = {}
    for port, target in pairs:
        outside, inside = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
        outside.bind(("127.0.0.1", port))
        chooser.register(outside, selectors.EVENT_READ, (True, port, inside, ("127.0.0.1", target)))
        inside.bind(("127.0.0.1", 0))
        chooser.register(inside, selectors.EVENT_READ, (False, port, outside, None))
    while True:
        for key, _ in chooser.select():
            from_caller, port, other, target_address = key.data
            try:
                data, address = key.fileobj.recvfrom(2048)  # type: ignore[union-attr]
                if from_caller:
                    callers[port] = address
                if draw() >= loss and (from_caller or port in callers):
                    other.sendto(data, target_address or callers[port])
            except OSError:
                continue


@contextmanager
def lossy(targets: list[int], loss: float) -> Iterator[list[int]]:
    ports = [rig.free_port() for _ in targets]
    process = multiprocessing.get_context("spawn").Process(target=relay, args=(list(zip(ports, targets, strict=True)), loss), daemon=True)
    process.start()
    time.sleep(1.0)
    try:
        yield ports
    finally:
        process.terminate()
        process.join()


@contextmanager
def callers(ports: list[int]) -> Iterator[None]:
    """One publisher for each port, its stream id the room `s<n>`."""
    running: list[subprocess.Popen[bytes]] = []
    command = [rig.FFMPEG, "-hide_banner", "-loglevel", "error", "-re", "-stream_loop", "-1", "-i", str(rig.clip()), "-c", "copy"]
    try:
        for i, port in enumerate(ports):
            url = f"srt://127.0.0.1:{port}?streamid=publish:live/s{i}&latency={LATENCY}"
            running.append(subprocess.Popen([*command, "-f", "mpegts", url], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
            time.sleep(1.0 / len(ports))
        time.sleep(SETTLE)
        yield
        if any(process.poll() is not None for process in running):
            raise RuntimeError("a publisher ended early")
    finally:
        rig.stop(*running)


def on_air(server: rig.Server) -> int:
    return int(server.metrics()["medianode_srt_connections"])


def ours(count: int, loss: float, seconds: float) -> float:
    port = rig.free_port()
    with rig.medianode(MEDIANODE__SRT__LISTEN=f"127.0.0.1:{port}", MEDIANODE__HLS__ENABLED="false") as server:
        (idle,) = rig.shares([server.pid], 4.0)
        with lossy([port] * count, loss) as ports, callers(ports):
            (busy,) = rig.shares([server.pid], seconds)
            if (found := on_air(server)) != count:
                raise RuntimeError(f"{found} of {count} publishers are on")
    return (busy - idle) / count


def theirs(count: int, loss: float, seconds: float) -> float:
    targets = [rig.free_port() for _ in range(count)]
    with ExitStack() as stack:
        receivers = []
        for target in targets:
            url = f"srt://127.0.0.1:{target}?mode=listener"
            command = [rig.FFMPEG, "-hide_banner", "-loglevel", "error", "-i", url, "-c", "copy", "-f", "null", "-"]
            receivers.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        stack.callback(rig.stop, *receivers)
        time.sleep(1.0)
        with lossy(targets, loss) as ports, callers(ports):
            spent = rig.shares([process.pid for process in receivers], seconds)
            if any(process.poll() is not None for process in receivers):
                raise RuntimeError("an FFmpeg ended early")
    return sum(spent) / count


def main(counts: tuple[int, ...] = (1, 10), seconds: float = 10.0, loss: float = 0.01) -> int:
    """1 where at the largest number a publisher costs more than FFmpeg."""
    rig.clip()
    print(f"SRT publishers, {loss:.0%} lost each way, % of a core per publisher")
    ratio = 0.0
    for count in counts:
        mine, other = ours(count, loss, seconds), theirs(count, loss, seconds)
        ratio = mine / other if other else 0.0
        print(f"  {count:3} publishers: medianode {mine:.2f} % | FFmpeg -c copy {other:.2f} % | ratio {ratio:.2f}", flush=True)
    return int(ratio > 1.0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, nargs="*", default=[1, 10])
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--loss", type=float, default=0.01)
    arguments = parser.parse_args()
    print(rig.machine())
    sys.exit(main(tuple(arguments.n), arguments.seconds, arguments.loss))
