"""CPU and bytes written per media byte of a recording (1080p30, 2.5 Mbit/s), beside FFmpeg `-c copy -f segment` of the same streams in the
same run; then what the catalogue and clips take (`bench.catalogue`, where that stands).

Ours is what the node spends more than without recordings, its writer thread included; FFmpeg's is its own processes alone, which pull from
the node. FFmpeg writes without a single sync and leaves no index in a file that was not ended; ours syncs every part. Target: at most
three quarters of FFmpeg's own at 50 streams, and no more than 1.05 bytes written per byte of media.
"""

from __future__ import annotations

import argparse
import importlib.util
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from bench import rig
from medianode.egress.recorder.fragmenter import Fragmenter
from medianode.media.packet import Packet
from medianode.media.track import Codec, Track
from medianode.protocols.fmp4_read import Extent

SETTLE = 5.0
LIMIT, WRITTEN = 0.75, 1.05
RECORDINGS = "/api/v1/projects/live/recordings"


@contextmanager
def recorded(server: rig.Server, count: int) -> Iterator[None]:
    started = [server.call("POST", RECORDINGS, {"room": f"s{i}"})["data"]["id"] for i in range(count)]
    time.sleep(SETTLE)
    yield
    for recording_id in started:
        server.call("POST", f"{RECORDINGS}/{recording_id}/stop")


def segmented(server: rig.Server, count: int, into: Path) -> AbstractContextManager[list[subprocess.Popen[bytes]]]:
    """`count` FFmpegs that do the same from outside."""
    how = ["-c", "copy", "-f", "segment", "-segment_time", "60", "-segment_format", "mp4"]
    sources = [f"rtmp://127.0.0.1:{server.rtmp}/live/s{i}" for i in range(count)]
    return rig.ffmpegs((["-i", source, *how, str(into / f"{i}-%05d.mp4")] for i, source in enumerate(sources)), settle=SETTLE)


def written(pids: list[int]) -> int:
    """Bytes that these processes had the disk write (proc(5), io: pages made dirty)."""
    lines = (line for pid in pids for line in Path(f"/proc/{pid}/io").read_text().splitlines())
    return sum(int(line.partition(": ")[2]) for line in lines if line.startswith("write_bytes"))


def measure(pids: list[int], seconds: float) -> tuple[list[float], int]:
    """Percent of a core of each process tree over the same window, and what they wrote."""
    before = written(pids)
    return rig.shares(pids, seconds), written(pids) - before


def figure(server: rig.Server, name: str) -> float:
    """Of the disk where it is the largest."""
    return max((value for sample, value in server.metrics().items() if sample.startswith(name)), default=0.0)


def row(count: int, seconds: float, rate: float) -> bool:
    """True where it is over its limit. `rate`: media bytes per second and stream."""
    into = Path(tempfile.mkdtemp(prefix="medianode-segments-"))
    try:
        with (
            rig.medianode(MEDIANODE__HLS__ENABLED="false") as server,
            rig.publishers(f"rtmp://127.0.0.1:{server.rtmp}/live/{{name}}", count, rig.clip()),
        ):
            time.sleep(SETTLE)
            (idle,), idle_bytes = measure([server.pid], seconds)
            with segmented(server, count, into) as processes:
                theirs, their_bytes = measure([process.pid for process in processes], seconds)
            time.sleep(2.0)
            with recorded(server, count):
                (ours,), our_bytes = measure([server.pid], seconds)
                batch, behind = (figure(server, f"medianode_recording_{what}_seconds") for what in ("batch", "behind"))
    finally:
        shutil.rmtree(into, ignore_errors=True)
    total = rate * seconds * count
    own, ffmpeg = (ours - idle) / count, sum(theirs) / count
    ratio, share = own / ffmpeg if ffmpeg else float("inf"), (our_bytes - idle_bytes) / total
    print(f"  {count:3} streams: medianode {own:.2f} % of a core each, {share:.3f} bytes written per media byte", end=" ")
    print(f"| FFmpeg {ffmpeg:.2f} %, {their_bytes / total:.3f} | ratio {ratio:.2f}", end=" ")
    print(f"(node without recordings {idle:.1f} %, newest batch {batch * 1000:.0f} ms, {behind:.2f} s behind)", flush=True)
    return count >= 50 and (ratio > LIMIT or share > WRITTEN)


def main(counts: tuple[int, ...] = (1, 20, 50), seconds: float = 20.0) -> int:
    """1 where the most streams are over the limit."""
    clip = rig.clip()
    rate = payload(clip) / 20
    print(f"recording, 2.5 Mbit/s each ({rate * 8 / 1e6:.2f} Mbit/s of media)")
    over = [row(count, seconds, rate) for count in counts]
    parts = [part for part in ("bench.catalogue", "bench.clips") if importlib.util.find_spec(part) is not None]
    over += [bool(subprocess.run([sys.executable, "-u", "-m", part]).returncode) for part in parts]
    return int(any(over))


def payload(clip: Path) -> int:
    """Bytes of the clip's access units, its container aside."""
    command = ["ffprobe", "-v", "error", "-show_entries", "packet=size", "-of", "csv=p=0", str(clip)]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return sum(int(line.rstrip(",")) for line in found.split())


class _Nowhere:
    """A tape that keeps nothing but the end."""

    def __init__(self) -> None:
        self.end = self.files = 0

    def open(self, tracks: Sequence[Track], gap: str) -> None:
        self.files += 1

    def part(self, pieces: list[bytes], extent: Extent, pace: tuple[int, int]) -> None:
        self.end = extent.start + extent.duration

    def close(self) -> None: ...


def day(ppm: int) -> int:
    """24 hours of 30 pictures and 47 sounds a second of an encoder whose clock is `ppm` fast: how far the recording is from the clock, at
    most. 1 where that is more than a frame.
    """
    tape, worst = _Nowhere(), 0
    fragmenter = Fragmenter(tape, 650_000, 60_000_000)
    picture = Track(0, Codec.H264, 90_000, b"", 1920, 1080)
    sound = Track(1, Codec.AAC, 48_000, b"", sample_rate=48_000, channels=2)
    fragmenter.on_tracks((picture, sound))
    pace = 1 + ppm / 1e6
    started = time.process_time()
    for second in range(86_400):
        for n in range(second * 30, second * 30 + 30):
            jitter = n * 7919 % 101 / 2500
            fragmenter.on_packet(Packet(picture, b"p", n * 3000, n * 3000, not n % 60, n / 30 / pace + jitter))
        for m in range(-(-second * 48_000 // 1024), -(-(second + 1) * 48_000 // 1024)):
            fragmenter.on_packet(Packet(sound, b"s", m * 1024, m * 1024, True, (second + 1) / pace))
        if second > 60:
            shown = fragmenter.newest / 1e6  # of the last picture
            worst = max(worst, abs(shown - (second * 30 + 29) / 30 / pace))
    fragmenter.flush()
    took = time.process_time() - started
    print(f"  24 h at {ppm:+d} ppm: {tape.files} files, worst {worst * 1000:.1f} ms off (a frame is 33.3), {took:.0f} s of CPU", flush=True)
    return int(worst > 1 / 30)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, nargs="*", default=[1, 20, 50])
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--day", type=int, metavar="PPM", help="24 h of one stream whose clock drifts, without IO (a minute of CPU)")
    arguments = parser.parse_args()
    print(rig.machine())
    if arguments.day is not None:
        sys.exit(day(arguments.day))
    sys.exit(main(tuple(arguments.n), arguments.seconds))
