"""CPU and RSS per RTMP publisher to HLS, beside Debian's nginx-rtmp in the same run and with the same input (1080p30, 2.5 Mbit/s).

Target: at 30 publishers at most 1.5 times nginx's CPU, never over twice.
"""

from __future__ import annotations

import argparse
import sys
import time

from bench import rig

SETTLE = 6.0
LIMIT = 2.0


def row(server: rig.Server, count: int, seconds: float) -> tuple[float, float]:
    """Percent of a core per publisher, and MB of RSS per publisher over the idle process."""
    idle = rig.sample(server.pid).rss
    with rig.publishers(f"rtmp://127.0.0.1:{server.rtmp}/live/{{name}}", count, rig.clip()):
        time.sleep(SETTLE)
        cpu, rss = rig.measure(server.pid, seconds)
    time.sleep(1.0)
    return cpu / count * 100, (rss - idle) / count / 1e6


def main(counts: tuple[int, ...] = (1, 10, 30), seconds: float = 15.0) -> int:
    """1 where 30 publishers cost over twice the peer's CPU."""
    rig.clip()
    rows: dict[str, list[tuple[float, float]]] = {}
    for name, start in (("nginx-rtmp", rig.nginx_rtmp), ("medianode", rig.medianode)):
        for count in counts:
            with start() as server:
                rows.setdefault(name, []).append(row(server, count, seconds))
    over = False
    print("RTMP publisher -> HLS, % of a core and MB per publisher")
    for i, count in enumerate(counts):
        (ours, ours_mb), (theirs, theirs_mb) = rows["medianode"][i], rows["nginx-rtmp"][i]
        ratio = ours / theirs if theirs else float("inf")
        peer = f"nginx-rtmp {theirs:.3f} % {theirs_mb:.1f} MB"
        over = over or (count >= 30 and ratio > LIMIT)
        print(f"  {count:3} publishers: medianode {ours:.3f} % {ours_mb:.1f} MB | {peer} | ratio {ratio:.2f}")
    return int(over)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, nargs="*", default=[1, 10, 30])
    parser.add_argument("--seconds", type=float, default=15.0)
    arguments = parser.parse_args()
    print(rig.machine())
    sys.exit(main(tuple(arguments.n), arguments.seconds))
