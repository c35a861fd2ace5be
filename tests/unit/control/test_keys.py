from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest
from sqlalchemy import text

from medianode.control.keys import USED_EVERY, Keys
from medianode.errors import InvalidRequest, NotFound, StorageError, Unauthorized
from medianode.events import Bus, KeyRevoked


async def test_create_verify_list(house: Any) -> None:
    made = await house.keys.create("ops", ["admin"])
    assert re.fullmatch(r"sk_[A-Za-z0-9_-]{43}", made.secret)
    assert made.secret not in repr(made)
    key = await house.keys.verify(made.secret)
    assert (key.id, key.project_id, key.permissions) == (made.key.id, None, frozenset({"admin"}))
    project = await house.projects.create("shop")
    bound = await house.keys.create("shop", ["live", "view"], "shop")
    assert (await house.keys.verify(bound.secret)).project_id == project.id
    assert [k.id for k in await house.keys.list()] == [made.key.id, bound.key.id]
    assert [k.id for k in await house.keys.list(project.id)] == [bound.key.id]


async def test_only_the_hash_is_stored(house: Any) -> None:
    made = await house.keys.create("ops", ["admin"])
    async with house.db._engine.connect() as connection:
        rows = (await connection.execute(text("SELECT * FROM api_keys"))).all()
    assert made.secret not in repr(rows)
    assert made.secret[3:] not in repr(rows)


@pytest.mark.parametrize("secret", ["", "sk_no", "x" * 257, "\0", "\ud800", "é"])
async def test_unknown(house: Any, secret: str) -> None:
    with pytest.raises(Unauthorized, match="not known"):
        await house.keys.verify(secret)


async def test_refused(house: Any) -> None:
    for permissions in ([], ["root"], ["live", "x\n"]):
        with pytest.raises(InvalidRequest, match="permissions: expected some of admin, live, moderate, video, view"):
            await house.keys.create("ops", permissions)
    for name in ("", "x" * 201, "\n"):
        with pytest.raises(InvalidRequest, match="name: "):
            await house.keys.create(name, ["live"])
    for absent in ("none", "\0"):
        with pytest.raises(NotFound):
            await house.keys.create("ops", ["live"], absent)
        with pytest.raises(NotFound):
            await house.keys.revoke(absent)
    assert await house.keys.list() == []


async def test_a_revocation_is_seen_at_once_here_and_soon_by_a_running_daemon(house: Any, time: Any) -> None:
    daemon = Keys(house.db, Bus())
    made = await house.keys.create("ops", ["admin"])
    await house.keys.verify(made.secret)
    await daemon.verify(made.secret)
    first = await house.keys.revoke(made.key.id)
    assert first.revoked_at == time.wall
    with pytest.raises(Unauthorized, match="revoked"):
        await house.keys.verify(made.secret)
    await daemon.verify(made.secret)
    time.pass_by(5.0)
    with pytest.raises(Unauthorized, match="revoked"):
        await daemon.verify(made.secret)
    assert (await house.keys.revoke(made.key.id)).revoked_at == first.revoked_at
    assert house.told == [KeyRevoked(made.key.id, None)] * 2


async def test_the_hot_path_does_not_ask_the_database(house: Any, time: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made = await house.keys.create("ops", ["admin"])
    await house.keys.verify(made.secret)

    def away() -> None:
        raise AssertionError("asked")

    monkeypatch.setattr(house.db, "read", away)
    for _ in range(100):
        await house.keys.verify(made.secret)
    time.pass_by(3.0)
    with pytest.raises(AssertionError, match="asked"):
        await house.keys.verify(made.secret)


async def test_last_use_is_written_at_most_once_a_minute(house: Any, time: Any) -> None:
    made = await house.keys.create("ops", ["admin"])
    await house.keys.write_used()
    assert (await house.keys.list())[0].last_used_at is None
    await house.keys.verify(made.secret)
    used = time.wall
    await house.keys.write_used()
    assert (await house.keys.list())[0].last_used_at == used
    time.pass_by(USED_EVERY - 1)
    await house.keys.verify(made.secret)
    await house.keys.write_used()
    assert (await house.keys.list())[0].last_used_at == used
    time.pass_by(1)
    await house.keys.verify(made.secret)
    await house.keys.write_used()
    assert (await house.keys.list())[0].last_used_at == time.wall


async def test_serve_outlives_a_database_that_cannot_be_written(
    house: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    calls = 0

    async def write_used() -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise StorageError("full", code="storage-full")
        raise asyncio.CancelledError

    monkeypatch.setattr("medianode.control.keys.USED_EVERY", 0.0)
    monkeypatch.setattr(house.keys, "write_used", write_used)
    with pytest.raises(asyncio.CancelledError):
        await house.keys.serve()
    assert "storage-full" in caplog.text
