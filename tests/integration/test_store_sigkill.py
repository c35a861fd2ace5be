"""SIGKILL at random moments: the database opens again, and every key that was acknowledged is in it."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

from medianode.control.keys import Keys
from medianode.control.projects import Projects
from medianode.events import Bus
from medianode.store.database import open_database

KILLS = {"sqlite": 10, "postgresql": 3}  # PostgreSQL keeps what is committed in a process that we do not kill

WRITER = """
import asyncio, sys
from pathlib import Path
from medianode.control.first_start import first_start
from medianode.control.keys import Keys
from medianode.events import Bus
from medianode.store.database import open_database

async def main(url, data_dir):
    async with open_database(url, Path(data_dir), environ={}) as db:
        await first_start(db, Path(data_dir))
        keys = Keys(db, Bus())
        while True:
            print((await keys.create("k", ["live"], "live")).secret, flush=True)

asyncio.run(main(*sys.argv[1:]))
"""


def acknowledged_until_killed(url: str, data_dir: Path, lines: int) -> list[str]:
    """Run the writer and kill it once it has acknowledged `lines` keys: it is then somewhere in the middle of the next.

    0: kill it while it starts.
    """
    writer = subprocess.Popen([sys.executable, "-c", WRITER, url, str(data_dir)], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    seen = [writer.stdout.readline() for _ in range(lines)]
    if not lines:
        with pytest.raises(subprocess.TimeoutExpired):
            writer.wait(timeout=random.uniform(0.2, 1.0))
    writer.kill()
    rest, _ = writer.communicate()
    assert writer.returncode == -9
    return [line.strip() for line in [*seen, *rest.splitlines(keepends=True)] if line.endswith("\n")]


async def test_every_acknowledged_key_is_there(database_url: str, tmp_path: Path) -> None:
    acknowledged: list[str] = []
    kills = KILLS[database_url.partition(":")[0]]
    for kill in range(kills):
        acknowledged += acknowledged_until_killed(database_url, tmp_path, 0 if kill < 2 else random.randint(1, 15))
        async with open_database(database_url, tmp_path, environ={}) as db:
            keys = Keys(db, Bus())
            for secret in acknowledged:
                assert (await keys.verify(secret)).revoked_at is None
            if acknowledged:
                assert [p.slug for p in await Projects(db, Bus()).list()] == ["live"]
                admin = (tmp_path / "admin.key").read_text().strip()
                assert (await keys.verify(admin)).permissions == {"admin"}
    assert len(acknowledged) >= kills - 2
