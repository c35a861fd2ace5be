"""WHIP publishers: CPU and RSS per published stream of 1080p30 at 2.5 Mbit/s with Opus, by FFmpeg's WHIP muxer; RTMP beside it."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench import rig

SETTLE = 6.0
LIMIT = 3.0
"""% of a core per stream at 50: 300 packets a second at 22 µs, feedback and HLS."""


def clip() -> Path:
    """The same pictures as the RTMP publishers', with Opus."""
    source = rig.clip()
    path = Path(tempfile.gettempdir()) / f"{source.stem}_opus.mkv"
    if not path.exists():
        part = path.with_suffix(".part.mkv")
        command = [rig.FFMPEG, "-hide_banner", "-loglevel", "error", "-y", "-i", str(source), "-c:v", "copy", "-c:a", "libopus"]
        subprocess.run([*command, "-b:a", "64k", "-ar", "48000", "-ac", "2", str(part)], check=True)
        part.rename(path)
    return path


def whip_target(server: rig.Server, name: str) -> tuple[str, str]:
    """(URL, token) of a new ingress."""
    body = {"inputType": "WHIP_INPUT", "name": name, "roomName": name, "participantIdentity": name, "participantName": name}
    made = server.call("POST", "/v1/ingress", body)
    return str(made["whipUrl"]), str(made["token"])


@contextmanager
def whip_publishers(server: rig.Server, count: int) -> Iterator[None]:
    running: list[subprocess.Popen[bytes]] = []
    command = [rig.FFMPEG, "-hide_banner", "-loglevel", "error", "-re", "-stream_loop", "-1", "-i", str(clip()), "-c", "copy"]
    try:
        for i in range(count):
            url, token = whip_target(server, f"w{i}")
            output = ["-f", "whip", "-authorization", token, url]
            running.append(subprocess.Popen([*command, *output], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
            time.sleep(0.1)
        yield
        dead = sum(p.poll() is not None for p in running)
        if dead:
            raise RuntimeError(f"{dead} of {count} publishers ended early")
    finally:
        rig.stop(*running)


def row(kind: str, count: int, seconds: float) -> tuple[float, float]:
    """Percent of a core and MB of RSS per stream."""
    with rig.medianode() as server:
        idle = rig.sample(server.pid).rss
        many = (
            whip_publishers(server, count)
            if kind == "whip"
            else rig.publishers(f"rtmp://127.0.0.1:{server.rtmp}/live/{{name}}", count, rig.clip())
        )
        with many:
            time.sleep(SETTLE)
            cpu, rss = rig.measure(server.pid, seconds)
    return cpu / count * 100, (rss - idle) / count / 1e6


def main(counts: tuple[int, ...], seconds: float) -> int:
    """1 where a stream at the largest count costs more than LIMIT."""
    rig.clip()
    clip()
    over = False
    print("WHIP publishers -> bus and HLS, % of a core and MB per stream")
    for count in counts:
        whip, whip_mb = row("whip", count, seconds)
        rtmp, rtmp_mb = row("rtmp", count, seconds)
        print(
            f"  {count:3}: WHIP {whip:.3f} % {whip_mb:.1f} MB, ratio {whip / LIMIT:.2f} to {LIMIT} % | RTMP {rtmp:.3f} % {rtmp_mb:.1f} MB",
            flush=True,
        )
        over = over or (count == max(counts) and count > 1 and whip > LIMIT)
    return int(over)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, nargs="*", default=[1, 50])
    parser.add_argument("--seconds", type=float, default=12.0)
    arguments = parser.parse_args()
    print(rig.machine())
    sys.exit(main(tuple(arguments.n), arguments.seconds))
