"""What the catalogue takes with 30 days of one-minute files of a camera, and nine other cameras beside it: SQLite, and PostgreSQL where its
programs are. Target: under 50 ms for a day's files and for the timeline of all 30 days.
"""

from __future__ import annotations

import asyncio
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import text

from medianode.control.catalogue import Catalogue
from medianode.media.parts import Part, pack
from medianode.store import kept_files, projects, recording_files, recordings, schema
from medianode.store.database import Database, open_database
from medianode.store.kept_files import Choice
from medianode.store.projects import Project
from medianode.store.recordings import Recording

DAYS, CAMERAS, BESIDE = 30, 10, 3
"""The others have fewer days, so that making it all takes seconds."""
DAY = 86_400
LIMIT = 0.05
ROUNDS = 15
AT = 1_760_000_000.0


async def fill(db: Database) -> int:
    """A recording a day, a gap of ten minutes in each noon. How many files."""
    count = 0
    index = pack(Part(n * 300_000, 300_000, n * 650_000, 650_000, n % 3 == 0) for n in range(92))
    async with db.write() as tx:
        names = {"id": "prj", "slug": "p", "name": "p", "jwt_key_id": "k", "jwt_secret": "s" * 32}
        await projects.insert_project(tx, Project(**names, viewing="public", open_publish=False, created_at=1.0))
    for camera in range(CAMERAS):
        for day in range(DAYS if camera == 0 else BESIDE):
            rows = []
            recording = f"rec_{camera}_{day}"
            for minute in range(1440):
                if 720 <= minute < 730:
                    continue
                rows.append(
                    {
                        "recording_id": recording,
                        "project_id": "prj",
                        "sequence": minute,
                        "name": f"{minute:06}.mp4",
                        "state": "closed",
                        "started_at": AT + day * DAY + minute * 60,
                        "start": minute * 60_000_000,
                        "duration": 60_000_000,
                        "nbytes": 18_750_000,
                        "init_bytes": 900,
                        "tracks": [{"kind": "video", "codec": "h264", "width": 1280, "height": 720}, {"kind": "audio", "codec": "aac"}],
                        "gap": "publisher-gap" if minute == 730 else "",
                        "parts": index,
                        "remote_key": "",
                    }
                )
            began = AT + day * DAY
            async with db.write() as tx:
                kept = {"state": "finished", "node_id": "n", "directory": f"/r/p/p-{camera}/{recording}"}
                await recordings.insert_recording(
                    tx, Recording(id=recording, project_id="prj", room=f"p-{camera}", started_at=began, ended_at=began + DAY, **kept)
                )
                await tx.many(schema.recording_files.insert(), rows)
            count += len(rows)
    return count


async def measure(what: str, ask: Callable[[], Awaitable[object]]) -> float:
    taken = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        await ask()
        taken.append(time.perf_counter() - began)
    median = statistics.median(taken)
    print(f"  {what:<52} {median * 1000:7.1f} ms (worst {max(taken) * 1000:.1f})")
    return median


async def over(name: str, url: str) -> bool:
    with tempfile.TemporaryDirectory() as data_dir:
        async with open_database(url, Path(data_dir), environ={}) as db:
            files = await fill(db)
            await analyze(db)
            print(f"{name}: {files} files, of which {DAYS * 1430} of the camera asked for")
            catalogue = Catalogue(db)
            end, noon = AT + DAYS * DAY, AT + 17 * DAY + DAY / 2
            bounded = [
                await measure("timeline of 30 days", lambda: catalogue.timeline("prj", "p-0", AT, end)),
                await measure("files of one day", lambda: footage(db, noon, noon + DAY)),
                await measure("files of one hour, with their parts", lambda: footage(db, noon, noon + 3600, parts=True)),
                await measure("newest 50 recordings of the room", lambda: page(db)),
            ]
            await measure("retention: the oldest files that may go", lambda: oldest(db))
            await measure("retention: bytes by project, each ten minutes", lambda: usage(db))
    return max(bounded) > LIMIT


async def analyze(db: Database) -> None:
    """As PostgreSQL does by itself after so many changes."""
    async with db.write() as tx:
        if tx.dialect == "postgresql":
            await tx.change(text("ANALYZE recording_files"))


async def footage(db: Database, since: float, until: float, *, parts: bool = False) -> None:
    """As playback asks for a room."""
    async with db.read() as tx:
        found = await recordings.overlapping(tx, "prj", "p-0", since, until)
        await recording_files.played(tx, [recording.id for recording in found], since, until, most=100_000, parts=parts)


async def page(db: Database) -> None:
    async with db.read() as tx:
        await recordings.page(tx, "prj", recordings.Choice(room="p-0"), limit=50)


async def oldest(db: Database) -> None:
    async with db.read() as tx:
        await kept_files.oldest(tx, Choice(node_id="n"), 64)


async def usage(db: Database) -> None:
    async with db.read() as tx:
        await kept_files.usage(tx, "n")


@contextmanager
def postgres() -> Iterator[str]:
    """A private cluster on a Unix socket; nothing where there are no programs of it."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not programs:
        yield ""
        return
    root = Path(tempfile.mkdtemp(prefix="medianode-bench-pg-"))
    shutil.chown(root, "postgres")

    def control(program: str, *arguments: str) -> None:
        command = ["runuser", "-u", "postgres", "--", str(programs[-1] / program), *arguments]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL, cwd=root)

    control("initdb", "-D", f"{root}/data", "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
    control("pg_ctl", "-D", f"{root}/data", "-o", f"-k {root} -c listen_addresses=", "-w", "-l", f"{root}/log", "start")
    try:
        yield f"postgresql://postgres@/postgres?host={root}"
    finally:
        control("pg_ctl", "-D", f"{root}/data", "-m", "immediate", "-w", "stop")
        shutil.rmtree(root)


def main() -> int:
    """1 where a query is over the limit."""
    slow = asyncio.run(over("SQLite", ""))
    with postgres() as url:
        if url:
            slow = asyncio.run(over("PostgreSQL", url)) or slow
    return int(slow)


if __name__ == "__main__":
    sys.exit(main())
