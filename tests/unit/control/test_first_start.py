from __future__ import annotations

import asyncio
import stat
from pathlib import Path
from typing import Any

import pytest

from medianode.auth import Door, Permission
from medianode.control import first_start as module
from medianode.control.first_start import first_start
from medianode.errors import ConfigError, StorageError
from medianode.store.database import Database, open_database


async def test_what_it_makes(house: Any, tmp_path: Path) -> None:
    made = await first_start(house.db, tmp_path)
    assert made.created
    assert (made.project.slug, made.project.viewing, made.project.open_publish) == ("live", "public", False)
    assert (made.ingress.kind, made.ingress.room) == ("rtmp", "live-studio")
    assert made.admin_key_file.read_text() == made.admin_key + "\n"
    assert stat.S_IMODE(made.admin_key_file.stat().st_mode) == 0o600
    assert made.admin_key not in repr(made)
    principal = await house.gate.control(f"Bearer {made.admin_key}", Permission.ADMIN)
    assert principal.node
    assert (await house.gate.publish(Door.RTMP, "live", made.ingress.stream_key)).ingress_id == made.ingress.id


async def test_again_changes_nothing(house: Any, tmp_path: Path) -> None:
    made = await first_start(house.db, tmp_path)
    again = await first_start(house.db, tmp_path)
    assert (again.created, again.admin_key) == (False, None)
    assert (again.project, again.ingress) == (made.project, made.ingress)
    made.admin_key_file.unlink()
    await house.ingresses.delete(made.project.id, made.ingress.id)
    again = await first_start(house.db, tmp_path)
    assert (again.created, again.ingress) == (False, None)
    assert not made.admin_key_file.exists()
    assert len(await house.keys.list()) == 1


async def test_two_at_once_in_one_directory(database: Database, house: Any, tmp_path: Path) -> None:
    results = await asyncio.gather(*(first_start(database, tmp_path) for _ in range(6)))
    assert sum(result.created for result in results) == 1
    key = (tmp_path / "admin.key").read_text().strip()
    assert (await house.keys.verify(key)).permissions == {"admin"}
    assert len(await house.keys.list()) == len(await house.projects.list()) == 1
    assert {result.ingress.id for result in results} == {results[0].ingress.id}


async def test_two_nodes_on_one_database(postgres_url: str, tmp_path: Path) -> None:
    """Each with a data directory and the same master key: one makes the admin key, and no file holds a key that opens nothing."""
    here, there, key = tmp_path / "a", tmp_path / "b", tmp_path / "key"
    key.write_bytes(bytes(range(32)))

    async def start(data_dir: Path) -> bool:
        async with open_database(postgres_url, data_dir, secret_file=str(key), environ={}) as db:
            return (await first_start(db, data_dir)).created

    assert sorted(await asyncio.gather(start(here), start(there))) == [False, True]
    assert sum((directory / "admin.key").exists() for directory in (here, there)) == 1


async def test_a_crash_between_file_and_database(house: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def crash(*_: object) -> None:
        raise StorageError("power cut")

    with monkeypatch.context() as m:
        m.setattr(module.ingresses, "insert_ingress", crash)
        with pytest.raises(StorageError):
            await first_start(house.db, tmp_path)
    left = (tmp_path / "admin.key").read_text().strip()
    assert await house.projects.list() == []
    made = await first_start(house.db, tmp_path)
    assert made.created
    assert made.admin_key == left
    assert (await house.keys.verify(left)).permissions == {"admin"}


async def test_an_admin_key_file_that_is_none(house: Any, tmp_path: Path) -> None:
    for content in (b"", b"sk_short", b"\xff" * 46):
        (tmp_path / "admin.key").write_bytes(content)
        with pytest.raises(ConfigError, match=r"admin\.key: expected an admin key"):
            await first_start(house.db, tmp_path)
    assert await house.projects.list() == []
