"""A day of recording (one-minute files, parts of a second, 30 fps and AAC): how long its playlist, a clip of a minute out of it, and a
poster take, over HTTP, first and again. Target: a minute out of 24 hours in 300 ms, to its last byte (issue 5).

The day's media are small, but for the minutes that the clip is of, which are at 2.5 Mbit/s: what counts is finding them.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
import time
from pathlib import Path

from aiohttp import ClientSession

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from harness import AUDIO, IDR, SLICE, VIDEO, running
from harness.footage import MICRO, STARTED, new_recording, store

from medianode.media.parts import Part, pack
from medianode.protocols import fmp4
from medianode.protocols.fmp4 import Sample
from medianode.store.recording_files import RecordingFile
from medianode.store.recordings import Recording

HOURS, LIMIT, ROUNDS = 24, 0.3, 5
LARGE = range(11 * 60, 11 * 60 + 12)
"""Minutes that are at their full rate."""


def day(recording: Recording) -> list[RecordingFile]:
    """Its files: written in some ten seconds."""
    directory = Path(recording.directory)
    directory.mkdir(parents=True)
    init = fmp4.init_segment((VIDEO, AUDIO))
    files = []
    for minute in range(HOURS * 60):
        pad = bytes(10_300 if minute in LARGE else 4)
        picture = [Sample(SLICE + pad if i else IDR + pad, 3000, 0, not i) for i in range(30)]
        plain = [Sample(SLICE + pad, 3000, 0, False)] * 30
        sound = [Sample(b"\x21\x10\x04\x60\x8c\x1c", 1024)] * 47
        body, parts = bytearray(init), []
        for second in range(60):
            at = minute * 60 + second
            runs = [(0, at * 90_000, plain if second % 2 else picture), (1, at * 48_000, sound)]
            fragment = fmp4.fragment(at + 1, runs)
            parts.append(Part(len(body), len(fragment), at * MICRO, MICRO, second % 2 == 0))
            body += fragment
        name = f"{minute + 1:06}.mp4"
        (directory / name).write_bytes(body)
        files.append(
            RecordingFile(
                recording_id=recording.id,
                project_id=recording.project_id,
                sequence=minute + 1,
                name=name,
                state="closed",
                started_at=recording.started_at + minute * 60,
                start=minute * 60 * MICRO,
                duration=60 * MICRO,
                nbytes=len(body),
                init_bytes=len(init),
                parts=pack(parts),
            )
        )
    return files


async def measure(root: Path) -> int:
    async with running(root / "node") as node, ClientSession(node.http, auto_decompress=False) as http:
        project, database = node.ready.first.project, node.daemon.health.database
        assert project is not None
        assert database is not None
        recording = new_recording(project, root / "recordings")
        await store(database, recording, await asyncio.to_thread(day, recording))
        base = f"/vod/live/{recording.id}"

        async def took(path: str) -> tuple[float, int]:
            begun = time.perf_counter()
            async with http.get(path, headers={"Accept-Encoding": "gzip"}) as answer:
                body = await answer.read()
                assert answer.status in (200, 206), body
            return time.perf_counter() - begun, len(body)

        for what, path in (
            ("playlist of 24 h, first", f"{base}/main.m3u8"),
            ("playlist of 24 h, again", f"{base}/main.m3u8"),
            ("an hour of it", f"{base}/main.m3u8?from={STARTED + 36_000}&to={STARTED + 39_600}"),
            ("the room, an hour", f"/vod/live/rooms/studio/main.m3u8?from={STARTED + 36_000}&to={STARTED + 39_600}"),
        ):
            seconds, nbytes = await took(path)
            print(f"{what:28} {seconds * 1000:7.1f} ms {nbytes / 1e6:7.2f} MB")
        await asyncio.sleep(6.0)  # what is remembered of the files is forgotten by now
        clips = []
        for n in range(ROUNDS):
            since = STARTED + LARGE[0] * 60 + 7.5 + n * 90
            seconds, nbytes = await took(f"{base}/download.mp4?from={since}&to={since + 60}")
            clips.append(seconds)
            print(f"{'a clip of 60 s, cold' if not n else 'another':28} {seconds * 1000:7.1f} ms {nbytes / 1e6:7.2f} MB")
        worst = max(clips)
        seconds, nbytes = await took(f"{base}/download.mp4")
        print(f"{'all of it as one MP4':28} {seconds * 1000:7.1f} ms {nbytes / 1e6:7.2f} MB")
        print(
            f"clip of 60 s out of 24 h: median {statistics.median(clips) * 1000:.0f} ms, worst {worst * 1000:.0f} ms of {LIMIT * 1000:.0f}"
        )
        return int(worst > LIMIT)


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="medianode-clips-") as root:
        return asyncio.run(measure(Path(root)))


if __name__ == "__main__":
    sys.exit(main())
