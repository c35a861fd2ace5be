"""A private PostgreSQL for the session, and both databases as a parameter.

`database_url` runs a test twice: on SQLite and on PostgreSQL. Without PostgreSQL's programs the second half fails, it does not skip.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

DATABASE = "medianode_test"


class PostgresCluster:
    """Made by initdb in a directory of its own, on a Unix socket only; `user` runs it where we are root, which PostgreSQL refuses to be."""

    def __init__(self, programs: Path, root: Path) -> None:
        self.programs = programs
        self.root = root
        self.as_user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []

    def control(self, program: str, *arguments: str) -> None:
        self._run([*self.as_user, str(self.programs / program), *arguments])

    def sql(self, database: str, *statements: str) -> None:
        client = [str(self.programs / "psql"), "-X", "-q", "-h", str(self.root), "-U", "postgres", "-v", "ON_ERROR_STOP=1", "-d", database]
        self._run([*client, *(argument for statement in statements for argument in ("-c", statement))])

    def _run(self, command: list[str]) -> None:
        # a file, not a pipe: the server inherits it, and a pipe would stay open as long as the server runs
        with (self.root / "output").open("w+") as output:
            code = subprocess.run(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, cwd=self.root, timeout=60).returncode
            output.seek(0)
            if code:
                raise RuntimeError(f"{command} exited with {code}: {output.read()[-2000:]}")

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
        cluster.control("initdb", "-D", f"{root}/data", "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
        options = f"-k {root} -c listen_addresses= -c fsync=off -c synchronous_commit=off -c max_connections=50"
        cluster.control("pg_ctl", "-D", f"{root}/data", "-o", options, "-w", "-l", f"{root}/log", "start")
        try:
            cluster.sql("postgres", f"CREATE DATABASE {DATABASE}")
            yield cluster
        finally:
            cluster.control("pg_ctl", "-D", f"{root}/data", "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(root)


@pytest.fixture
def postgres_url(postgres: PostgresCluster) -> str:
    """The URL of an empty database. It is the same one for all tests, emptied before each: cheaper by far than a new one."""
    postgres.sql(
        "postgres",
        f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{DATABASE}' AND pid <> pg_backend_pid()",
    )
    postgres.sql(DATABASE, "SET client_min_messages = warning", "DROP SCHEMA public CASCADE", "CREATE SCHEMA public")
    return postgres.url(DATABASE)


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database: once SQLite, once PostgreSQL."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/test.db"
    url: str = request.getfixturevalue("postgres_url")
    return url
