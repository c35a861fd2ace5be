"""CPU per simulcast target (1080p30, 2.5 Mbit/s, RTMP) beside FFmpeg `-c copy` that pulls from the node and pushes, in the same run.

The target of both is nginx-rtmp, which is not counted. Ours is what the node spends more than without targets; FFmpeg's is its own
processes alone, and with what the node spends on serving them. Target: at most half of FFmpeg's own.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from subprocess import Popen

from bench import rig

SETTLE = 5.0
LIMIT = 0.5
APP = "/api/v1/apps/live"


@contextmanager
def pushed(server: rig.Server, peer: rig.Server, count: int) -> Iterator[None]:
    """`count` targets of the one room, all broadcasting."""
    for i in range(count):
        body = {"url": f"rtmp://127.0.0.1:{peer.rtmp}/live", "streamKey": f"push{i}"}
        server.call("POST", f"{APP}/rooms/s0/targets", body)
    time.sleep(SETTLE)
    yield
    found = server.call("GET", f"{APP}/targets")["data"]
    sad = [target for target in found if target["state"] != "broadcasting" or target["droppedPackets"]]
    if sad or len(found) != count:
        raise RuntimeError(f"not all broadcasting: {sad}")


def copied(server: rig.Server, peer: rig.Server, count: int) -> AbstractContextManager[list[Popen[bytes]]]:
    """`count` FFmpegs that do the same from outside."""
    arguments = ["-i", f"rtmp://127.0.0.1:{server.rtmp}/live/s0", "-c", "copy", "-f", "flv"]
    return rig.ffmpegs(([*arguments, f"rtmp://127.0.0.1:{peer.rtmp}/live/copy{i}"] for i in range(count)), settle=SETTLE)


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
            (idle,) = rig.shares([server.pid], seconds)
            with copied(server, peer, count) as processes:
                serving, *theirs = rig.shares([server.pid, *(process.pid for process in processes)], seconds)
            with pushed(server, peer, count):
                (ours,) = rig.shares([server.pid], seconds)
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
