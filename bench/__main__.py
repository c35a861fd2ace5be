"""All benchmarks, or those named, one after another: `python -m bench [NAME …] [--quick]`. About twenty minutes.

Each runs in a process of its own and under a time limit; one that fails or is over its limit does not hide the others, and makes the exit
code 1.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from bench import rig

ROOT = Path(__file__).resolve().parent.parent
GRACE = 20.0
"""Seconds that an interrupted bench has to put out its servers."""


@dataclass(frozen=True, slots=True)
class Bench:
    """`limit`: seconds, for a slow machine; `quick` half of it."""

    what: str
    limit: float
    full: tuple[str, ...] = ()
    quick: tuple[str, ...] = ()


BENCHES = {
    "rtmp_parser": Bench("RTMP parser against a copy of the same bytes", 60, quick=("10",)),
    "mjpeg_viewers": Bench("MJPEG viewers per core against bare send()", 90, quick=("--rounds=1", "--seconds=2", "--viewers=100")),
    "hls_players": Bench("HLS and LL-HLS players", 120, quick=("-n=40", "--ll-players=40", "--seconds=3")),
    "publishers": Bench("RTMP publishers to HLS beside nginx-rtmp", 270, quick=("-n", "10", "--seconds=4")),
    "webrtc_sender": Bench("the fan-out alone, against protect and sendto per packet", 90),
    "webrtc_fanout": Bench("WHEP viewers beside stock aiortc", 300, quick=("-n", "20", "100", "--seconds=5", "--peer=0")),
    "webrtc_ingest": Bench("WHIP publishers", 150, quick=("-n", "5", "--seconds=4")),
    "webhooks": Bench("webhook deliveries to a local sink", 240, quick=("--count=2000", "--events=12", "--pending=5000")),
    "latency": Bench("glass-to-glass latency", 120, quick=("--seconds=6",)),
    "recording": Bench("recordings beside FFmpeg -c copy -f segment", 420, quick=("-n", "20", "--seconds=6")),
    "pull": Bench("RTSP cameras beside FFmpeg -c copy to null", 150, quick=("-n", "20", "--seconds=6")),
    "push": Bench("simulcast by RTMP beside FFmpeg -c copy", 180, quick=("-n", "10", "--seconds=6")),
    "srt": Bench("SRT publishers beside FFmpeg -c copy", 150, quick=("-n", "4", "--seconds=5")),
    "together": Bench("loop lag while everything runs", 150, quick=("--seconds=10",)),
}


def run(name: str, bench: Bench, quick: bool) -> str:
    """What is to be said of it: empty where it went well."""
    command = [sys.executable, "-u", "-m", f"bench.{name}", *(bench.quick if quick else bench.full)]
    # a session of its own: what it leaves behind when it has to be killed goes with it
    process = subprocess.Popen(command, cwd=ROOT, start_new_session=True)
    try:
        code = process.wait(bench.limit / 2 if quick else bench.limit)
        return f"exit code {code}" if code else ""
    except subprocess.TimeoutExpired:
        return f"no end after {bench.limit / 2 if quick else bench.limit:g} s"
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(GRACE)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHES)}; all without any")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds: does it still run, and about how fast")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.names if name not in BENCHES]
    if unknown:
        parser.error(f"no such bench: {', '.join(unknown)}; there are {', '.join(BENCHES)}")
    print(f"{rig.machine()}; {time.strftime('%F %R')}", flush=True)
    failed: dict[str, str] = {}
    began = time.monotonic()
    for name in arguments.names or BENCHES:
        bench, start = BENCHES[name], time.monotonic()
        print(f"\n== {name}: {bench.what}", flush=True)
        if complaint := run(name, bench, arguments.quick):
            failed[name] = complaint
            print(f"!! {name}: {complaint}", flush=True)
        print(f"   ({time.monotonic() - start:.0f} s)", flush=True)
    names = "; ".join(f"{name}: {complaint}" for name, complaint in failed.items())
    print(f"\n{time.monotonic() - began:.0f} s; {f'FAILED {names}' if failed else 'all ok'}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
