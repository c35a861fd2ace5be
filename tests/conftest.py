"""A private PostgreSQL for the session, and both databases as a parameter.

`database_url` runs a test twice: on SQLite and on PostgreSQL. Without PostgreSQL's programs the second half fails, it does not skip.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


class PostgresCluster:
    """Made by initdb in a directory of its own, on a Unix socket only; `user` runs it where we are root, which PostgreSQL refuses to be."""

    def __init__(self, programs: Path, root: Path) -> None:
        self.programs = programs
        self.root = root
        self.as_user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []

    def run(self, program: str, *arguments: str) -> None:
        command = [*self.as_user, str(self.programs / program), *arguments]
        # a file, not a pipe: the server inherits it, and a pipe would stay open as long as the server runs
        with (self.root / "output").open("w+") as output:
            code = subprocess.run(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, cwd=self.root, timeout=60).returncode
            output.seek(0)
            if code:
                raise RuntimeError(f"{program} exited with {code}: {output.read()[-2000:]}")

    def url(self, database: str) -> str:
        return f"postgresql://postgres@/{database}?host={self.root}"


def _programs() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if found:
        return found[-1].parent
    on_path = shutil.which("initdb")
    if on_path is None:
        pytest.fail("PostgreSQL's programs are missing and these tests do not skip: apt-get install postgresql")
    return Path(on_path).resolve().parent


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresCluster]:
    """A running cluster. Fails where the programs of PostgreSQL are not installed."""
    programs = _programs()
    root = Path(tempfile.mkdtemp(prefix="medianode-pg-"))
    cluster = PostgresCluster(programs, root)
    try:
        if cluster.as_user:
            shutil.chown(root, "postgres")
        cluster.run("initdb", "-D", f"{root}/data", "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
        options = f"-k {root} -c listen_addresses= -c fsync=off -c max_connections=50"
        cluster.run("pg_ctl", "-D", f"{root}/data", "-o", options, "-w", "-l", f"{root}/log", "start")
        try:
            yield cluster
        finally:
            cluster.run("pg_ctl", "-D", f"{root}/data", "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(root)


@pytest.fixture
def postgres_url(postgres: PostgresCluster) -> Iterator[str]:
    """The URL of an empty database, dropped after the test."""
    name = f"t_{secrets.token_hex(6)}"
    options = ("-h", str(postgres.root), "-U", "postgres")
    postgres.run("createdb", *options, name)
    yield postgres.url(name)
    postgres.run("dropdb", *options, "--force", name)


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database: once SQLite, once PostgreSQL."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/test.db"
    url: str = request.getfixturevalue("postgres_url")
    return url
