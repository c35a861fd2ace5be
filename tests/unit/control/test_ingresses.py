from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest
from sqlalchemy import text

from medianode.auth import Door, Takeover
from medianode.control.ingresses import Ingresses
from medianode.errors import Conflict, Forbidden, InvalidRequest, NotFound, PeerError
from medianode.events import Bus, IngressCreated, IngressDeleted


@pytest.fixture
async def shop(house: Any) -> Any:
    return await house.projects.create("shop")


async def test_create_get(house: Any, shop: Any) -> None:
    made = await house.ingresses.create(shop, Door.RTMP, "a", "ada", "Ada", enable_transcoding=False, takeover=Takeover.REJECT)
    assert re.fullmatch(r"IN_[A-Za-z0-9]{12}", made.id)
    assert re.fullmatch(r"[A-Za-z0-9]{32}", made.stream_key)
    assert (made.room, made.room_name, made.state, made.takeover) == ("shop-a", "a", "INACTIVE", "reject")
    assert made.stream_key not in repr(made)
    assert await house.ingresses.get(shop.id, made.id) == made
    assert house.told[1:] == [IngressCreated(made.id, shop.id, "rtmp", "shop-a", "ada")]


async def test_defaults_by_door(house: Any, shop: Any) -> None:
    rtmp = await house.ingresses.create(shop, Door.RTMP)
    camera = await house.ingresses.create(shop, Door.WS_MJPEG, "cam")
    pulled = await house.ingresses.create(shop, Door.URL, "far", url="rtsp://u:p@h/x", with_password=True)
    assert (rtmp.room, rtmp.participant_identity) == ("shop", "ingress-shop")
    assert re.fullmatch(r"wsi_[0-9a-f]{12}", camera.id)
    assert re.fullmatch(r"wsk_[A-Za-z0-9_-]{32}", camera.stream_key)
    assert camera.participant_identity == f"wscam-{camera.stream_key[-6:]}"
    assert await house.ingresses.get(shop.id, pulled.id) == pulled
    assert pulled.url == "rtsp://u:p@h/x"
    assert "p@h" not in repr(pulled)


async def test_nothing_secret_is_stored_in_the_open(house: Any, shop: Any) -> None:
    made = await house.ingresses.create(shop, Door.URL, "a", url="rtsp://u:p@h/x", with_password=True)
    async with house.db._engine.connect() as connection:
        rows = repr((await connection.execute(text("SELECT * FROM ingresses"))).all())
        rows += repr((await connection.execute(text("SELECT * FROM projects"))).all())
    for secret in (made.stream_key, made.password, "rtsp://", shop.jwt_secret):
        assert secret not in rows


async def test_a_second_of_the_same_identity_is_baxclouds_conflict_only(house: Any, shop: Any) -> None:
    other = await house.projects.create("other")
    await house.ingresses.create(shop, Door.RTMP, "a", "ada", unique_identity=True)
    with pytest.raises(Conflict) as caught:
        await house.ingresses.create(shop, Door.RTMP, "shop-a", "ada", unique_identity=True)
    assert caught.value.code == "duplicate-identity"
    await house.ingresses.create(shop, Door.RTMP, "a", "ada")
    await house.ingresses.create(shop, Door.RTMP, "b", "ada", unique_identity=True)
    await house.ingresses.create(other, Door.RTMP, "a", "ada", unique_identity=True)


async def test_of_many_at_once_one_gets_the_identity(house: Any, shop: Any) -> None:
    async def create() -> bool:
        try:
            await house.ingresses.create(shop, Door.RTMP, "a", "ada", unique_identity=True)
        except Conflict:
            return False
        return True

    assert sum(await asyncio.gather(*(create() for _ in range(8)))) == 1


async def test_quotas(house: Any, shop: Any) -> None:
    few = Ingresses(house.db, Bus(), rooms=2, per_room=2)
    await few.create(shop, Door.RTMP, "a")
    first = await few.create(shop, Door.RTMP, "b")
    await few.create(shop, Door.RTMP, "b")
    with pytest.raises(Forbidden) as rooms:
        await few.create(shop, Door.RTMP, "c")
    with pytest.raises(Forbidden) as here:
        await few.create(shop, Door.RTMP, "b")
    assert (rooms.value.code, here.value.code) == ("room-quota", "ingress-quota")
    await few.delete(shop.id, first.id)
    await few.create(shop, Door.RTMP, "b")


async def test_refused(house: Any, shop: Any) -> None:
    for options in (
        {"room": "../a"},
        {"identity": "\n"},
        {"name": "x" * 201},
        {"name": "\0"},
        {"url": "rtsp://h/"},
    ):
        with pytest.raises(InvalidRequest):
            await house.ingresses.create(shop, Door.RTMP, **options)
    for url in (None, "", "x" * 2001, "rtsp://\0", "\ud800"):
        with pytest.raises(InvalidRequest, match="url"):
            await house.ingresses.create(shop, Door.URL, url=url)
    assert (await house.ingresses.list(shop))[1] == 0


async def test_list(house: Any, shop: Any, time: Any) -> None:
    other = await house.projects.create("other")
    await house.ingresses.create(other, Door.RTMP, "a", "ada")
    made = []
    for i in range(5):
        time.pass_by(1.0)
        made.append(await house.ingresses.create(shop, Door.RTMP if i % 2 else Door.WS_MJPEG, "ab"[i % 2], f"cam_{i}", "100% Éa"))
    newest_first = [i.id for i in reversed(made)]

    async def ids(**options: Any) -> tuple[list[str], int]:
        rows, total = await house.ingresses.list(shop, **options)
        return [row.id for row in rows], total

    assert await ids() == (newest_first, 5)
    assert await ids(limit=2, offset=1) == (newest_first[1:3], 5)
    assert await ids(limit=0, offset=-1) == (newest_first[:1], 5)
    assert await ids(limit=10**9) == (newest_first, 5)
    assert await ids(room="a") == await ids(room="shop-a") == ([made[4].id, made[2].id, made[0].id], 3)
    assert await ids(kinds=(Door.RTMP,)) == ([made[3].id, made[1].id], 2)
    assert await ids(q="CAM_3") == ([made[3].id], 1)
    assert await ids(q=made[0].id[4:]) == ([made[0].id], 1)
    assert (await ids(q="%"))[1] == 5
    assert await ids(q="cam%3") == await ids(q="cam_33") == ([], 0)
    assert await ids(q="cam\0_3\ud800") == ([made[3].id], 1)
    with pytest.raises(InvalidRequest):
        await ids(room="../a")


async def test_delete(house: Any, shop: Any) -> None:
    other = await house.projects.create("other")
    made = await house.ingresses.create(shop, Door.RTMP, "a", "ada")
    assert await house.ingresses.find_by_stream_key(made.stream_key) == made
    with pytest.raises(NotFound):
        await house.ingresses.delete(other.id, made.id)
    assert await house.ingresses.delete(shop.id, made.id) == made
    assert await house.ingresses.find_by_stream_key(made.stream_key) is None
    assert house.told[-1] == IngressDeleted(made.id, shop.id, "rtmp", "shop-a", "ada")
    for absent in (made.id, "", "\0", "\ud800", "x" * 10_000):
        with pytest.raises(NotFound):
            await house.ingresses.delete(shop.id, absent)
        with pytest.raises(NotFound):
            await house.ingresses.get(shop.id, absent)


async def test_password(house: Any, shop: Any) -> None:
    made = await house.ingresses.create(shop, Door.RTMP, "a", with_password=True)
    plain = await house.ingresses.create(shop, Door.RTMP, "b")
    assert await house.ingresses.validate_password(shop.id, made.id, made.password)
    for wrong in ("", "x", made.password + "x", made.stream_key, "\ud800"):
        assert not await house.ingresses.validate_password(shop.id, made.id, wrong)
    assert await house.ingresses.validate_password(shop.id, plain.id, "")
    with pytest.raises(NotFound):
        await house.ingresses.validate_password(shop.id, "IN_none", "")


async def test_find_by_stream_key(house: Any, shop: Any, time: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made = await house.ingresses.create(shop, Door.RTMP, "a")
    for unknown in ("", "x", made.stream_key[:-1], made.stream_key + "x", made.stream_key.swapcase(), "x" * 300, "\0", "\ud800"):
        assert await house.ingresses.find_by_stream_key(unknown) is None
    assert await house.ingresses.find_by_stream_key(made.stream_key) == made
    elsewhere = Ingresses(house.db, Bus(), rooms=1)
    assert await elsewhere.find_by_stream_key(made.stream_key) == made
    await house.ingresses.delete(shop.id, made.id)
    assert await elsewhere.find_by_stream_key(made.stream_key) == made
    time.pass_by(5.0)
    assert await elsewhere.find_by_stream_key(made.stream_key) is None


async def test_a_project_that_is_gone(house: Any, shop: Any) -> None:
    made = await house.ingresses.create(shop, Door.RTMP, "a")
    async with house.db._engine.begin() as connection:
        await connection.execute(text("DELETE FROM projects"))
    with pytest.raises(PeerError):
        await house.ingresses.create(shop, Door.RTMP, "b")
    with pytest.raises(NotFound):
        await house.ingresses.get(shop.id, made.id)
