from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from medianode.store.database import Database, open_database


@pytest.fixture
async def database(database_url: str, tmp_path: Path) -> AsyncIterator[Database]:
    """Migrated, on SQLite and on PostgreSQL."""
    async with open_database(database_url, tmp_path, environ={}) as db:
        yield db
