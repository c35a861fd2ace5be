from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import sqlite3
import stat
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import insert, select, text, update
from sqlalchemy.exc import DBAPIError

from medianode.errors import ConfigError, Conflict, StorageError
from medianode.store import schema, settings
from medianode.store.database import BUSY_TIMEOUT, CANARY, Database, open_database


async def test_migrations_make_the_schema(database: Database) -> None:
    async with database._engine.connect() as connection:
        differences = await connection.run_sync(
            lambda c: compare_metadata(MigrationContext.configure(c, opts={"compare_type": True}), schema.metadata)
        )
    assert differences == []


async def test_the_comparison_sees_a_difference(database: Database) -> None:
    async with database._engine.begin() as connection:
        await connection.execute(text("ALTER TABLE projects ADD COLUMN surplus INTEGER"))
        differences = await connection.run_sync(lambda c: compare_metadata(MigrationContext.configure(c), schema.metadata))
    assert [d[0] for d in differences] == ["remove_column"]


async def test_what_is_written_is_there_after_opening_again(database_url: str, tmp_path: Path) -> None:
    async with open_database(database_url, tmp_path, environ={}) as db, db.write() as tx:
        await settings.put(tx, "a", "é")
    async with open_database(database_url, tmp_path, environ={}) as db:
        async with db.read() as tx:
            assert await settings.get(tx, "a") == "é"
            assert await settings.get(tx, "b") is None
        await db.ping()


async def test_a_failed_write_leaves_nothing(database: Database) -> None:
    async def fail() -> None:
        async with database.write() as tx:
            await settings.put(tx, "a", "1")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    async with database.read() as tx:
        assert await settings.get(tx, "a") is None


async def test_a_broken_constraint_is_a_conflict(database: Database) -> None:
    with pytest.raises(Conflict):
        async with database.write() as tx:
            await tx.change(insert(schema.settings).values(key=CANARY, value=b""))
    with pytest.raises(Conflict, match="gone"):
        async with database.write() as tx:
            await tx.change(
                insert(schema.api_keys).values(id="key_1", project_id="prj_none", name="n", hash=b"h", permissions=[], created_at=0.0)
            )


async def test_writers_at_once_all_get_through(database: Database) -> None:
    async def add(i: int) -> None:
        async with database.write() as tx:
            await settings.lock(tx)
            count = int(await settings.get(tx, "count") or 0)
            await settings.put(tx, "count", str(count + 1))

    await asyncio.gather(*(add(i) for i in range(20)))
    async with database.read() as tx:
        assert await settings.get(tx, "count") == "20"


async def test_a_write_cancelled_at_any_instant_leaves_no_lock(database: Database) -> None:
    gc.disable()  # it used to open the lock again, some time
    try:
        for turns in range(120):
            writing = asyncio.ensure_future(_read_and_write(database))
            for _ in range(turns % 60):
                await asyncio.sleep(0)
            writing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await writing
            await _read_and_write(database)  # raises storage-locked
    finally:
        gc.enable()


async def _read_and_write(database: Database) -> None:
    async with database.write() as tx:
        await tx.scalar(select(schema.settings.c.key))
        await settings.put(tx, "a", "b")


async def test_a_newer_schema_is_refused(database_url: str, tmp_path: Path) -> None:
    async with open_database(database_url, tmp_path, environ={}) as db, db._engine.begin() as connection:
        await connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(StorageError, match=r"9999.*0003.*newer") as caught:
        async with open_database(database_url, tmp_path, environ={}):
            pass
    assert caught.value.code == "schema-newer"


async def test_two_that_open_an_empty_database_at_once(database_url: str, tmp_path: Path) -> None:
    async def start() -> bytes:
        async with open_database(database_url, tmp_path, environ={}) as db:
            return db.secrets.lookup("x", "y")

    assert len(set(await asyncio.gather(*(start() for _ in range(4))))) == 1


@pytest.mark.parametrize("where", ["secret_file", "credential", "data_dir"])
async def test_a_wrong_master_key_is_refused(database_url: str, tmp_path: Path, where: str) -> None:
    async with open_database(database_url, tmp_path, environ={}):
        pass
    key = os.urandom(32)
    (tmp_path / "other").write_bytes(key)
    (tmp_path / "medianode-secret").write_bytes(key)
    environ = {}
    if where == "data_dir":
        (tmp_path / "secret.key").write_bytes(key)
    if where == "credential":
        environ["CREDENTIALS_DIRECTORY"] = str(tmp_path)
    secret_file = str(tmp_path / "other") if where == "secret_file" else ""
    with pytest.raises(ConfigError, match="not the one that this database was sealed with") as caught:
        async with open_database(database_url, tmp_path, secret_file=secret_file, environ=environ):
            pass
    assert caught.value.code == "wrong-master-key"


async def test_a_lost_master_key_is_not_made_anew(database_url: str, tmp_path: Path) -> None:
    async with open_database(database_url, tmp_path, environ={}):
        pass
    (tmp_path / "secret.key").unlink()
    with pytest.raises(ConfigError, match="missing") as caught:
        async with open_database(database_url, tmp_path, environ={}):
            pass
    assert caught.value.code == "master-key-missing"
    assert not (tmp_path / "secret.key").exists()


async def test_sqlite_is_durable_and_private(tmp_path: Path) -> None:
    async with open_database("", tmp_path, environ={}) as db:
        async with db._engine.connect() as connection:
            pragmas = {name: await connection.scalar(text(f"PRAGMA {name}")) for name in ("journal_mode", "synchronous", "foreign_keys")}
            timeout = await connection.scalar(text("PRAGMA busy_timeout"))
        assert pragmas == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}
        assert timeout == BUSY_TIMEOUT * 1000
        for name in ("medianode.db", "medianode.db-wal", "secret.key"):
            assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600


async def test_a_full_disk(tmp_path: Path) -> None:
    async with open_database("", tmp_path, environ={}) as db:
        for _ in range(5):  # every connection of the pool has a bound of its own; this takes the one that comes next
            async with db._engine.connect() as connection:
                pages = await connection.scalar(text("PRAGMA page_count"))
                await connection.execute(text(f"PRAGMA max_page_count = {pages}"))
        with pytest.raises(StorageError, match="full") as caught:
            async with db.write() as tx:
                await settings.put(tx, "big", "x" * 1_000_000)
        assert caught.value.code == "storage-full"
        async with db._engine.connect() as connection:
            await connection.execute(text("PRAGMA max_page_count = 1000000"))
        async with db.write() as tx:
            await settings.put(tx, "big", "y")


async def test_a_read_only_database(tmp_path: Path) -> None:
    async with open_database("", tmp_path, environ={}) as db:
        async with db._engine.connect() as connection:
            await connection.execute(text("PRAGMA query_only = 1"))
        with pytest.raises(StorageError) as caught:
            async with db.write() as tx:
                await settings.put(tx, "a", "1")
        assert caught.value.code == "storage-read-only"


async def test_a_locked_database(tmp_path: Path) -> None:
    async with open_database("", tmp_path, environ={}) as db:
        async with db._engine.connect() as connection:
            await connection.execute(text("PRAGMA busy_timeout = 50"))
        other = sqlite3.connect(tmp_path / "medianode.db", isolation_level=None)
        try:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StorageError) as caught:
                async with db.write():
                    pass
            assert caught.value.code == "storage-locked"
            async with db.read() as tx:
                assert await settings.get(tx, "none") is None
        finally:
            other.close()


async def test_not_a_database(tmp_path: Path) -> None:
    (tmp_path / "medianode.db").write_bytes(b"not SQLite at all " * 100)
    with pytest.raises(StorageError) as caught:
        async with open_database("", tmp_path, environ={}):
            pass
    assert caught.value.code == "storage-corrupt"


async def test_a_directory_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be made"):
        async with open_database("", tmp_path / "file" / "data", environ={}):
            pass
    with pytest.raises(StorageError, match="cannot be opened") as caught:
        async with open_database(f"sqlite:///{tmp_path}/absent/x.db", tmp_path, environ={}):
            pass
    assert caught.value.code == "storage-away"


async def test_postgres_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot be reached") as caught:
        async with open_database(f"postgresql://u:geheim@/db?host={tmp_path}", tmp_path, environ={}):
            pass
    assert caught.value.code == "storage-away"
    assert "geheim" not in str(caught.value)


async def test_postgres_without_that_database(postgres_url: str, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="no such database") as caught:
        async with open_database(postgres_url.replace("/medianode_test", "/absent"), tmp_path, environ={}):
            pass
    assert caught.value.code == "storage-refused"


async def test_postgres_read_only(postgres_url: str, tmp_path: Path) -> None:
    async with open_database(postgres_url, tmp_path, environ={}) as db:
        async with db._engine.begin() as connection:
            await connection.execute(text("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY"))
        with pytest.raises(StorageError) as caught:
            async with db.write() as tx:
                await settings.put(tx, "a", "1")
    assert caught.value.code == "storage-read-only"


async def test_postgres_comes_back_after_its_connections_died(postgres_url: str, tmp_path: Path) -> None:
    kill = text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()")
    async with open_database(postgres_url, tmp_path, environ={}) as db, open_database(postgres_url, tmp_path, environ={}) as other:

        async def write_while_killed() -> None:
            async with db.write() as tx:
                await settings.put(tx, "a", "1")
                async with other._engine.begin() as connection:
                    await connection.execute(kill)
                await settings.put(tx, "b", "1")

        with pytest.raises(StorageError) as caught:
            await write_while_killed()
        assert caught.value.code == "storage-away"
        async with db.write() as tx:
            await settings.put(tx, "b", "2")
        async with db.read() as tx:
            assert await settings.get(tx, "a") is None


@pytest.mark.parametrize("url", ["", "mysql://u:geheim@h/d", "nonsense geheim", "sqlite://", "sqlite:///:memory:"])
async def test_urls(url: str, tmp_path: Path) -> None:
    if not url:
        async with open_database(url, tmp_path, environ={}) as db:
            assert db.description == f"sqlite+aiosqlite:///{tmp_path}/medianode.db"
        return
    with pytest.raises(ConfigError, match="expected") as caught:
        async with open_database(url, tmp_path, environ={}):
            pass
    assert "geheim" not in str(caught.value)


async def test_the_password_and_the_values_do_not_show(database: Database) -> None:
    assert "geheim" not in str(database._engine.url.set(password="geheim"))
    with pytest.raises(DBAPIError) as caught:
        async with database._engine.begin() as connection:
            await connection.execute(text("INSERT INTO nowhere VALUES (:v)"), {"v": "geheim"})
    assert "geheim" not in str(caught.value)


async def test_an_altered_column_is_found(database: Database) -> None:
    async with database.write() as tx:
        sealed = tx.secrets.seal("key", "t:c:1")
        await tx.change(update(schema.settings).where(schema.settings.c.key == CANARY).values(value=sealed))
    with pytest.raises(StorageError) as caught:
        database.secrets.open(sealed, "t:c:2")
    assert caught.value.code == "sealed-wrongly"
