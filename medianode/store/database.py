"""The database: SQLite in a file (WAL) by default, PostgreSQL by URL. Opened, migrated and checked in one go.

All access is `async with db.read() as tx` or `db.write() as tx`: one transaction each, with the functions of the sibling modules inside.
Any error of the database comes out as StorageError, a broken constraint as Conflict.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, nullcontext
from pathlib import Path
from typing import Any
from uuid import uuid4

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, CursorResult, Executable, Row, RowMapping, event, insert, select, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from medianode.errors import ConfigError, Conflict, StorageError
from medianode.store import schema
from medianode.store.secrets import Secrets, master_key
from medianode.tasks import whole

BUSY_TIMEOUT = 5.0
POOL_SIZE = 5
POOL_TIMEOUT = 10.0
PG_CONNECT_TIMEOUT = 10.0
PG_COMMAND_TIMEOUT = 30.0
MIGRATIONS = Path(__file__).with_name("migrations")

_LOCK = 0x6D656469616E6F64  # "medianod": PostgreSQL's advisory lock, held while a node migrates
CANARY = "canary"
_CANARY_TEXT = "medianode"
_WRITE = "medianode_write"

_SQLITE_CODES = {
    sqlite3.SQLITE_FULL: ("storage-full", "the disk or the quota of the database is full"),
    sqlite3.SQLITE_READONLY: ("storage-read-only", "the database cannot be written: read-only file, directory or mount"),
    sqlite3.SQLITE_BUSY: ("storage-locked", f"another process has held the database for over {BUSY_TIMEOUT:g} s"),
    sqlite3.SQLITE_LOCKED: ("storage-locked", "the table is locked by another connection"),
    sqlite3.SQLITE_CANTOPEN: ("storage-away", "the file cannot be opened"),
    sqlite3.SQLITE_IOERR: ("storage-error", "the disk failed to read or write"),
    sqlite3.SQLITE_CORRUPT: ("storage-corrupt", "the file is damaged: restore it from a backup"),
    sqlite3.SQLITE_NOTADB: ("storage-corrupt", "the file is not an SQLite database"),
}
_PG_CODES = {  # SQLSTATE, or its class
    "53100": ("storage-full", "the disk of the PostgreSQL server is full"),
    "25006": ("storage-read-only", "the PostgreSQL server is read-only (a standby?)"),
    "55P03": ("storage-locked", "a lock was not to be had"),
    "57014": ("storage-locked", "the statement took too long"),
    "28": ("storage-refused", "PostgreSQL refused the user or the password"),
    "3D": ("storage-refused", "PostgreSQL has no such database"),
    "42501": ("storage-refused", "the PostgreSQL user may not do this"),
    "53": ("storage-away", "PostgreSQL is out of resources"),
    "57": ("storage-away", "PostgreSQL is shutting down or starting"),
    "08": ("storage-away", "the connection to PostgreSQL broke"),
}


def storable(value: str) -> bool:
    """False for text that cannot be in the database (PostgreSQL takes no NUL, UTF-8 no lone surrogate), and so need not be looked for."""
    return value.isprintable()


class Transaction:
    """One transaction; what the functions of store work with. `secrets` seals and opens columns. `origin`: that of its Database."""

    __slots__ = ("_connection", "origin", "secrets", "topics")

    def __init__(self, connection: AsyncConnection, secrets: Secrets, origin: str) -> None:
        self._connection = connection
        self.origin = origin
        self.topics: dict[str, None] = {}
        self.secrets = secrets

    @property
    def dialect(self) -> str:
        """`sqlite` or `postgresql`."""
        return self._connection.dialect.name

    def tell(self, topic: str) -> None:
        """Call the subscribers of this topic once the transaction is committed; never, where it is undone."""
        self.topics[topic] = None

    async def all(self, statement: Executable) -> Sequence[RowMapping]:
        return (await self._run(statement)).mappings().all()

    async def tuples(self, statement: Executable) -> Sequence[Row[Any]]:
        """As `all`, without names: for very many rows."""
        return (await self._run(statement)).all()

    async def first(self, statement: Executable) -> RowMapping | None:
        return (await self._run(statement)).mappings().first()

    async def scalar(self, statement: Executable) -> Any:
        return (await self._run(statement)).scalar()

    async def change(self, statement: Executable) -> int:
        """Run an INSERT, UPDATE or DELETE. Returns the number of rows that it met."""
        return (await self._run(statement)).rowcount

    async def many(self, statement: Executable, rows: Sequence[Mapping[str, object]]) -> None:
        """Run a change once for each row of values, of which there is at least one."""
        await self._run(statement, rows)

    async def _run(self, statement: Executable, rows: Sequence[Mapping[str, object]] | None = None) -> CursorResult[Any]:
        running = self._connection.execute(statement, rows)
        # SQLite's statement runs in a thread: were it left there half-read, it would hold the lock of a connection that is closed
        return await (whole(running) if self.dialect == "sqlite" else running)


class Database:
    """See the module. Made by `open_database`. `origin` names it among all that have the same database open, while it is open."""

    def __init__(self, engine: AsyncEngine, secrets: Secrets) -> None:
        self._engine = engine
        self._writer = engine.execution_options(**{_WRITE: True})
        self.secrets = secrets
        self.origin = uuid4().hex
        self._subscribers: dict[str, list[Callable[[], None]]] = {}
        # SQLite's own queue of writers is a poll without order; ours is fair, and leaves busy_timeout to other processes
        self._turns = asyncio.Lock() if engine.url.get_backend_name() == "sqlite" else nullcontext()

    @property
    def description(self) -> str:
        """Its URL without the password."""
        return self._engine.url.render_as_string(hide_password=True)

    @asynccontextmanager
    async def read(self) -> AsyncIterator[Transaction]:
        with storage_errors():
            async with self._engine.begin() as connection:
                yield Transaction(connection, self.secrets, self.origin)

    @asynccontextmanager
    async def write(self) -> AsyncIterator[Transaction]:
        """Committed, and on the disk, when the block ends without an exception; else undone. SQLite takes one writer at a time."""
        async with self._turns:
            with storage_errors():
                async with self._writer.begin() as connection:
                    tx = Transaction(connection, self.secrets, self.origin)
                    yield tx
        for topic in tx.topics:
            for call in self._subscribers.get(topic, ()):
                call()

    def subscribe(self, topic: str, call: Callable[[], None]) -> None:
        """Have it called after each commit of ours that told `topic`. What other processes commit is not heard of."""
        self._subscribers.setdefault(topic, []).append(call)

    async def ping(self) -> None:
        """For /readyz. Raises StorageError."""
        async with self.read() as tx:
            await tx.scalar(select(schema.settings.c.key).limit(1))


@asynccontextmanager
async def open_database(
    url: str, data_dir: Path, *, secret_file: str = "", environ: Mapping[str, str] | None = None
) -> AsyncIterator[Database]:
    """Open, migrate to the newest schema and check the master key. `url`: `` for `<data_dir>/medianode.db`, `sqlite:///…`, `postgresql://…`.

    Raises StorageError (`storage-full`, `-read-only`, `-locked`, `-away`, `-refused`, `-corrupt`, `schema-newer`), ConfigError.
    """
    target = _target(url, data_dir)
    _make_directory(data_dir)
    credentials = (os.environ if environ is None else environ).get("CREDENTIALS_DIRECTORY", "")
    engine = _engine(target)
    try:
        with storage_errors():
            if target.get_backend_name() == "sqlite":
                await _turn_on_wal(engine)
            async with engine.execution_options(**{_WRITE: True}).begin() as connection:
                if target.get_backend_name() == "postgresql":
                    await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
                await connection.run_sync(_migrate)
                secrets = await _unlock(connection, data_dir, secret_file, credentials)
        yield Database(engine, secrets)
    finally:
        await engine.dispose()


def _target(url: str, data_dir: Path) -> URL:
    if not url:
        return URL.create("sqlite+aiosqlite", database=str(data_dir / "medianode.db"))
    try:
        parsed = make_url(url)
        backend = parsed.get_backend_name()
    except ArgumentError:
        raise ConfigError("store.url: expected sqlite:///PATH or postgresql://USER:PASSWORD@HOST/NAME") from None
    if backend == "sqlite":
        if not parsed.database or parsed.database == ":memory:":
            raise ConfigError("store.url: expected a file, sqlite:///PATH; a database in memory loses everything")
        return parsed.set(drivername="sqlite+aiosqlite")
    if backend in ("postgresql", "postgres"):
        query = dict(parsed.query)
        if "sslmode" in query:  # libpq's word; asyncpg's is ssl
            query["ssl"] = query.pop("sslmode")
        return parsed.set(drivername="postgresql+asyncpg", query=query)
    raise ConfigError(f"store.url: expected sqlite:///… or postgresql://…, got {backend}")


def _make_directory(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o750)
    except OSError as e:
        raise StorageError(f"data_dir {path}: cannot be made: {e.strerror or e}") from e


def _engine(target: URL) -> AsyncEngine:
    # hide_parameters: statements' values must not get into logs by way of an exception
    if target.get_backend_name() == "postgresql":
        return create_async_engine(
            target,
            hide_parameters=True,
            pool_size=POOL_SIZE,
            max_overflow=0,
            pool_timeout=POOL_TIMEOUT,
            pool_pre_ping=True,
            connect_args={"timeout": PG_CONNECT_TIMEOUT, "command_timeout": PG_COMMAND_TIMEOUT},
        )
    path = Path(target.database or "")
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as e:
        code = "storage-read-only" if isinstance(e, PermissionError) or e.errno == 30 else "storage-away"
        raise StorageError(f"{path}: cannot be opened for writing: {e.strerror or e}", code=code) from e
    engine = create_async_engine(
        target,
        hide_parameters=True,
        pool_size=POOL_SIZE,
        max_overflow=0,
        pool_timeout=POOL_TIMEOUT,
        connect_args={"timeout": BUSY_TIMEOUT},
    )
    event.listen(engine.sync_engine, "connect", _set_pragmas)
    event.listen(engine.sync_engine, "begin", _begin_sqlite)
    return engine


def _set_pragmas(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # sqlite3's own BEGINs would not cover DDL; _begin_sqlite does
    cursor = connection.cursor()
    try:
        for pragma in (f"busy_timeout = {int(BUSY_TIMEOUT * 1000)}", "synchronous = FULL", "foreign_keys = ON"):
            cursor.execute(f"PRAGMA {pragma}")
    finally:
        cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    # a reader that turns writer half-way gets SQLITE_BUSY without any wait: writers say so at once
    connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.get_execution_options().get(_WRITE) else "BEGIN")


async def _turn_on_wal(engine: AsyncEngine) -> None:
    """Raises StorageError where WAL cannot be had: network file systems."""
    async with engine.connect() as connection:
        raw = await connection.get_raw_connection()
        driver = raw.driver_connection
        if driver is None:
            raise StorageError("SQLite closed the connection as it was opened", code="storage-away")
        for attempt in range(100):
            try:
                async with driver.execute("PRAGMA journal_mode = WAL") as cursor:
                    row = await cursor.fetchone()
                break
            except sqlite3.OperationalError as e:
                # changing the mode does not wait for busy_timeout when two nodes start at once
                if e.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or attempt == 99:
                    raise
                await asyncio.sleep(0.05)
        if row is None or row[0] != "wal":
            raise StorageError(
                f"SQLite: expected journal mode wal, got {row and row[0]}: is data_dir on a network file system?", code="no-wal"
            )


def _migrate(connection: Connection) -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    script = ScriptDirectory.from_config(config)
    known = {revision.revision for revision in script.walk_revisions()}
    current = MigrationContext.configure(connection).get_current_revision()
    if current is not None and current not in known:
        raise StorageError(
            f"the database has schema {current}, this program knows up to {script.get_current_head()}: it was opened by a newer medianode",
            code="schema-newer",
        )
    if current != script.get_current_head():
        command.upgrade(config, "head")


async def _unlock(connection: AsyncConnection, data_dir: Path, secret_file: str, credentials: str) -> Secrets:
    """The secrets, checked against a sealed canary so that a wrong master key is found now and not at the first publisher."""
    table = schema.settings
    sealed = await connection.scalar(select(table.c.value).where(table.c.key == CANARY))
    master, source = master_key(data_dir, secret_file, credentials, create=sealed is None)
    secrets = Secrets(master)
    place = f"settings:value:{CANARY}"
    if sealed is None:
        await connection.execute(insert(table).values(key=CANARY, value=secrets.seal(_CANARY_TEXT, place)))
        return secrets
    try:
        secrets.open(sealed, place)
    except StorageError:
        raise ConfigError(
            f"the master key in {source} is not the one that this database was sealed with: put the right one back", code="wrong-master-key"
        ) from None
    return secrets


@contextmanager
def storage_errors() -> Iterator[None]:
    """Turn what the drivers raise into StorageError, and broken constraints into Conflict."""
    try:
        yield
    except IntegrityError as e:
        raise Conflict("it exists already, or what it belongs to is gone") from e
    except PoolTimeout as e:
        raise StorageError(f"all {POOL_SIZE} connections to the database were busy for {POOL_TIMEOUT:g} s", code="storage-busy") from e
    except DBAPIError as e:
        if e.connection_invalidated:
            raise StorageError("the connection to the database broke", code="storage-away") from e
        raise _storage_error(e.orig or e) from e
    except (sqlite3.Error, OSError) as e:
        raise _storage_error(e) from e
    except SQLAlchemyError as e:
        raise StorageError(f"database: {type(e).__name__}") from e


def _storage_error(e: BaseException) -> StorageError:
    number = getattr(e, "sqlite_errorcode", None)
    if isinstance(number, int):
        code, what = _SQLITE_CODES.get(number & 0xFF, ("storage-error", str(e)))
        return StorageError(f"SQLite: {what}", code=code)
    state = getattr(e, "sqlstate", None) or getattr(e, "pgcode", None)
    if isinstance(state, str):
        fallback = ("storage-error", f"SQLSTATE {state}")
        code, what = _PG_CODES.get(state) or _PG_CODES.get(state[:2]) or fallback
        return StorageError(f"PostgreSQL: {what}", code=code)
    if isinstance(e, OSError):
        return StorageError(f"the database cannot be reached: {e.strerror or e}", code="storage-away")
    return StorageError(f"database: {type(e).__name__}: {e}")
