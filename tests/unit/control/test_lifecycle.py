from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sqlalchemy import select

from medianode.auth import Door
from medianode.control.lifecycle import IngressLives
from medianode.errors import StorageError
from medianode.events import (
    IngressStateChanged,
    PublicationActive,
    PublicationEnded,
    PublicationLost,
    PublicationOpened,
)
from medianode.store import endpoints, schema
from medianode.store.endpoints import WebhookEndpoint


class Stage:
    """One ingress and the publication events of it."""

    def __init__(self, house: Any, project: Any, ingress: Any) -> None:
        self.house, self.project, self.ingress = house, project, ingress
        self.lives = IngressLives(house.db, house.bus)
        self.who = (project.id, ingress.room, ingress.participant_identity, ingress.id)

    def opened(self) -> None:
        self.house.bus.publish(PublicationOpened(*self.who))

    def active(self) -> None:
        self.house.bus.publish(PublicationActive(*self.who))

    def lost(self, cause: str = "eof", failure: bool = False) -> None:
        self.house.bus.publish(PublicationLost(*self.who, cause, "why", failure))

    def ended(self, cause: str = "eof") -> None:
        self.house.bus.publish(PublicationEnded(*self.who, cause))

    def changes(self) -> list[tuple[str, str, str, float]]:
        return [(e.old, e.new, e.code, e.duration) for e in self.house.told if isinstance(e, IngressStateChanged)]

    async def row(self) -> Any:
        await self.lives.write()
        return await self.house.ingresses.get(self.project.id, self.ingress.id)


@pytest.fixture
async def stage(house: Any, time: Any) -> Stage:
    project = await house.projects.create("shop")
    return Stage(house, project, await house.ingresses.create(project, Door.RTMP, "a", "ada"))


async def test_a_session_with_a_break(stage: Stage, time: Any) -> None:
    stage.opened()
    assert (await stage.row()).state == "BUFFERING"
    time.pass_by(2)
    stage.active()
    started = time.wall
    assert (await stage.row()).started_at == started
    time.pass_by(10)
    stage.lost("silence")
    row = await stage.row()
    assert (row.state, row.error_code, row.error_message, row.ended_at) == ("BUFFERING", "silence", "why", None)
    stage.opened()
    stage.active()
    assert (await stage.row()).error_code == ""
    time.pass_by(5)
    stage.lost()
    time.pass_by(15)
    stage.ended()
    row = await stage.row()
    assert (row.state, row.started_at, row.ended_at) == ("COMPLETE", started, time.wall)
    assert stage.changes() == [
        ("INACTIVE", "BUFFERING", "", 0.0),
        ("BUFFERING", "ACTIVE", "", 0.0),
        ("ACTIVE", "BUFFERING", "silence", 10.0),
        ("BUFFERING", "ACTIVE", "", 10.0),
        ("ACTIVE", "BUFFERING", "eof", 15.0),
        ("BUFFERING", "COMPLETE", "eof", 30.0),
    ]
    stage.opened()
    row = await stage.row()
    assert (row.state, row.started_at, row.ended_at) == ("BUFFERING", None, None)


async def test_a_takeover_without_a_loss(stage: Stage) -> None:
    stage.opened()
    stage.active()
    stage.opened()
    assert [c[:3] for c in stage.changes()[2:]] == [("ACTIVE", "BUFFERING", "takeover")]
    stage.active()
    stage.active()
    stage.ended()
    assert [c[:3] for c in stage.changes()[3:]] == [
        ("BUFFERING", "ACTIVE", ""),
        ("ACTIVE", "BUFFERING", "eof"),
        ("BUFFERING", "COMPLETE", "eof"),
    ]


async def test_failed_stays_failed_whatever_the_publication_still_tells(stage: Stage) -> None:
    stage.opened()
    stage.lives.failed(stage.ingress.id, stage.project.id, "shop-a", "ada", "unsupported-media", "no")
    stage.lost()
    stage.ended()
    stage.active()
    row = await stage.row()
    assert (row.state, row.error_code, row.error_message) == ("ERROR", "unsupported-media", "no")


async def test_broken_before_anything_was_seen(stage: Stage) -> None:
    stage.opened()
    stage.lost("reset", failure=True)
    stage.ended()
    assert (await stage.row()).state == "ERROR"


async def test_deleted(stage: Stage) -> None:
    stage.opened()
    stage.active()
    await stage.house.ingresses.delete(stage.project.id, stage.ingress.id)
    assert stage.changes()[-1][:3] == ("ACTIVE", "COMPLETE", "deleted")
    stage.lost()
    stage.ended()
    await stage.lives.write()
    assert stage.lives.life(stage.ingress.id) is None


async def test_its_project_deleted(stage: Stage) -> None:
    stage.opened()
    stage.active()
    await stage.house.projects.delete("shop", "shop")
    stage.lost()
    stage.ended()
    await stage.lives.write()
    assert stage.lives.life(stage.ingress.id) is None


async def test_without_an_ingress_nothing_is_kept(stage: Stage) -> None:
    bus = stage.house.bus
    bus.publish(PublicationOpened("p", "r", "i"))
    bus.publish(PublicationActive("p", "r", "i"))
    bus.publish(PublicationLost("p", "r", "i", None, "eof"))
    bus.publish(PublicationEnded("p", "r", "i", None, "eof"))
    assert stage.changes() == []


async def test_recover_ends_what_a_crash_cut_off(stage: Stage, time: Any) -> None:
    stage.opened()
    stage.active()
    await stage.lives.write()
    time.pass_by(60)
    assert await IngressLives(stage.house.db, stage.house.bus).recover() == 1
    row = await stage.house.ingresses.get(stage.project.id, stage.ingress.id)
    assert (row.state, row.ended_at) == ("COMPLETE", time.wall)
    assert await stage.lives.recover() == 0


async def test_an_altered_row_does_not_keep_the_node_from_starting(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    stage.opened()
    stage.active()
    await stage.lives.write()
    async with stage.house.db.write() as tx:
        await tx.change(schema.ingresses.update().where(schema.ingresses.c.id == stage.ingress.id).values(stream_key=b"broken"))
        endpoint = WebhookEndpoint(
            id="wh_1", project_id=stage.project.id, name="", url="http://a.example/", events=("*",), dialect="baxcloud", created_at=0.0,
            updated_at=0.0,
        )  # fmt: skip
        await endpoints.insert_endpoint(tx, endpoint)
    assert await IngressLives(stage.house.db, stage.house.bus).recover() == 1
    assert "ingress.idle is not told to webhooks" in caplog.text
    async with stage.house.db.read() as tx:
        assert await tx.scalar(select(schema.ingresses.c.state)) == "COMPLETE"


async def test_serve_tries_again_and_writes_the_last_state(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("medianode.control.writing.RETRY", 0.0)
    good, failures, written = stage.lives.write, [StorageError("full", code="storage-full")] * 2, asyncio.Event()

    async def write() -> None:
        if failures:
            raise failures.pop()
        await good()
        written.set()

    monkeypatch.setattr(stage.lives, "write", write)
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        task = group.create_task(stage.lives.serve())
        stage.opened()
        await written.wait()
        assert (await stage.house.ingresses.get(stage.project.id, stage.ingress.id)).state == "BUFFERING"
        stage.active()
        task.cancel()
    assert (await stage.house.ingresses.get(stage.project.id, stage.ingress.id)).state == "ACTIVE"
    assert caplog.text.count("storage-full") == 2


async def test_a_write_that_fails_is_not_forgotten(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> None:
        raise StorageError("full")

    stage.opened()
    with monkeypatch.context() as m:
        m.setattr(stage.house.db, "write", full)
        with pytest.raises(StorageError):
            await stage.lives.write()
    assert (await stage.row()).state == "BUFFERING"
