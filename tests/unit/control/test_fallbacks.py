"""What rooms fall back to, as it is kept in memory beside its rows."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from medianode.auth import Door
from medianode.config import Limits
from medianode.control.fallbacks import Fallbacks
from medianode.control.first_start import first_start
from medianode.control.ingresses import Ingresses
from medianode.errors import InvalidRequest
from medianode.events import Bus
from medianode.routing.registry import Registry
from medianode.store import fallbacks as table
from medianode.store import projects
from medianode.store.database import open_database


async def test_what_was_read_before_a_change_does_not_undo_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, go_on = asyncio.Event(), asyncio.Event()
    every = table.all_fallbacks

    async def slowly(tx: object) -> object:
        rows = await every(tx)  # type: ignore[arg-type]
        read.set()
        await go_on.wait()
        return rows

    async with open_database("", tmp_path, environ={}) as db:
        await first_start(db, tmp_path)
        async with db.read() as tx:
            project = await projects.find(tx, "live")
        assert project is not None
        registry = Registry(Bus(), Limits())
        fallbacks = Fallbacks(db, Bus(), registry, Limits())
        monkeypatch.setattr(table, "all_fallbacks", slowly)
        loading = asyncio.ensure_future(fallbacks.load())
        await read.wait()
        await fallbacks.put(project, "a", slate="text", text="Back soon")
        go_on.set()
        await loading
        found = fallbacks.of(project.id, "live-a")
        assert found is not None
        assert found.slate == "words/Back soon"
        await fallbacks.load()
        assert fallbacks.of(project.id, "live-a") == found


async def test_a_backup_that_could_never_publish_beside_another_is_refused(tmp_path: Path) -> None:
    async with open_database("", tmp_path, environ={}) as db:
        await first_start(db, tmp_path)
        async with db.read() as tx:
            project = await projects.find(tx, "live")
        assert project is not None
        fallbacks, ingresses = Fallbacks(db, Bus(), Registry(Bus(), Limits()), Limits()), Ingresses(db, Bus(), rooms=20)
        only = await ingresses.create(project, Door.RTMP, "a")
        await ingresses.create(project, Door.RTMP, "b")
        assert (await fallbacks.put(project, "a", slate="none", backup=only.id)).backup == only.id
        twin = await ingresses.create(project, Door.RTMP, "a")
        with pytest.raises(
            InvalidRequest, match=f"{only.id} publishes as 'ingress-live', as {twin.id} does: both can never publish at once"
        ):
            await fallbacks.put(project, "a", slate="none", backup=only.id)
        own = await ingresses.create(project, Door.RTMP, "a", "backup")
        assert (await fallbacks.put(project, "a", slate="none", backup=own.id)).backup == own.id
