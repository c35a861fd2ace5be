from __future__ import annotations

from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from medianode.auth import Door
from medianode.control.broadcasts import restricted
from medianode.control.live_streams import LiveStreams, Policy
from medianode.errors import StorageError
from medianode.events import IngressChanged
from medianode.store import live_streams as table
from medianode.store.live_streams import PlaybackId


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    """One kind is enough here: the queries are looked at on both in test_live_streams."""
    return f"sqlite:///{tmp_path}/test.db"


@pytest.fixture
async def made(house: Any) -> Any:
    shop = await house.projects.create("shop")
    return await LiveStreams(house.db, house.bus, house.ingresses, playback_ids=5).create(shop, Policy())


def away(house: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    @asynccontextmanager
    async def read() -> Any:
        raise StorageError("away", code="storage-away")
        yield

    monkeypatch.setattr(house.db, "read", read)


async def test_found_by_ingress_room_and_playback_id(house: Any, made: Any) -> None:
    found, project, room = house.broadcasts, made.ingress.project_id, made.ingress.room
    assert await found.of_ingress(made.ingress.id) == made
    assert await found.of_room(project, room) == made
    assert await found.by_playback_id(made.playback_ids[0].id) == made
    assert await found.of_room("prj_other", room) is None
    assert await found.of_room(project, f"x-{made.ingress.id}") is None
    for unknown in ("", "x", "\0", "0" * 32):
        assert await found.of_ingress(unknown) is None
        assert await found.by_playback_id(unknown) is None
        assert await found.signing_key(unknown) is None
    plain = await house.ingresses.create(await house.projects.get("shop"), Door.RTMP, "a")
    assert await found.of_ingress(plain.id) is None


async def test_only_rooms_of_live_streams_are_looked_for(house: Any, made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    away(house, monkeypatch)
    assert await house.broadcasts.of_room(made.ingress.project_id, "shop-demo") is None
    with pytest.raises(StorageError):
        await house.broadcasts.of_room(made.ingress.project_id, made.ingress.room)


async def test_what_was_known_is_believed_while_the_database_is_away(
    house: Any, made: Any, monkeypatch: pytest.MonkeyPatch, time: Any
) -> None:
    playback = made.playback_ids[0].id
    assert await house.broadcasts.by_playback_id(playback) == made
    away(house, monkeypatch)
    time.pass_by(3600)
    assert await house.broadcasts.by_playback_id(playback) == made


async def test_a_change_of_another_process_is_seen_when_told_or_after_a_moment(house: Any, made: Any, time: Any) -> None:
    async def known() -> int:
        found = await house.broadcasts.of_ingress(made.ingress.id)
        return len(found.playback_ids)

    async def add() -> None:
        async with house.db.write() as tx:
            number = await known()
            fields = {"ingress_id": made.ingress.id, "access_policy": "public", "created_at": time.wall}
            await table.insert_playback_id(tx, PlaybackId(id=f"id-{number}", **fields))

    assert await known() == 1
    await add()
    assert await known() == 1
    about = (made.ingress.id, made.ingress.project_id, "any", made.ingress.room, made.ingress.participant_identity)
    house.bus.publish(IngressChanged(*about))
    assert await known() == 2
    await add()
    time.pass_by(4)
    assert await known() == 3


@pytest.mark.parametrize(
    ("rules", "is_so"),
    [
        ({}, False),
        ({"domains": {"defaultPolicy": "allow", "allow": ["a"], "deny": []}}, False),
        ({"domains": {"defaultPolicy": "allow", "allow": [], "deny": ["a"]}}, True),
        ({"userAgents": {"defaultPolicy": "deny", "allow": ["a"], "deny": []}}, True),
    ],
)
def test_restricted(rules: Any, is_so: bool) -> None:
    made = PlaybackId(id="p", ingress_id="i", access_policy="public", restrictions=rules, created_at=0.0)
    assert restricted(made) is is_so
