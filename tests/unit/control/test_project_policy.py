"""Limits, storage and the end of a project."""

from __future__ import annotations

import json
from typing import Any

import pytest
from sqlalchemy import select

from medianode.auth import Door
from medianode.control.audit import AuditLog
from medianode.control.projects import Projects, merged_limits
from medianode.control.room_options import PREFIX, Options, RoomOptions
from medianode.control.storage import check_storage, shown_storage
from medianode.control.tokens import mint
from medianode.errors import Forbidden, InvalidRequest, NotFound, Unauthorized
from medianode.events import Bus, ProjectDeleted
from medianode.outbound import Outbound
from medianode.store import ingresses, outbox, schema, settings

S3 = {"type": "s3", "bucket": "garage-media", "accessKey": "AKIA1", "secretKey": "very secret"}


async def test_limits_are_merged_and_taken_away(house: Any) -> None:
    made = await house.projects.create("shop", limits={"rooms": 3, "viewers": 10, "disk": None})
    assert made.limits == {"rooms": 3, "viewers": 10}
    changed = await house.projects.change("shop", limits={"rooms": None, "bitrate": 4_000_000})
    assert (await Projects(house.db, Bus()).get("shop")).limits == changed.limits == {"viewers": 10, "bitrate": 4_000_000}
    assert (await house.projects.change("shop", name="The Shop")).limits == changed.limits


@pytest.mark.parametrize(
    "change",
    [{"room": 1}, {"rooms": 0}, {"rooms": -1}, {"rooms": 10**7}, {"rooms": 1.5}, {"rooms": True}, {"rooms": "3"}, {"viewers": 10**10}],
)
def test_limits_that_cannot_be(change: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match="limits"):
        merged_limits({}, change)


async def test_limits_stand_in_grants_and_bound_rooms(house: Any, time: Any) -> None:
    limits = {"rooms": 2, "publishers": 5, "viewers": 7, "bitrate": 3_000_000}
    shop = await house.projects.create("shop", limits=limits)
    made = await house.ingresses.create(shop, Door.RTMP, "a", "one")
    await house.ingresses.create(shop, Door.RTMP, "a", "two")
    await house.ingresses.create(shop, Door.RTMP, "b")
    with pytest.raises(Forbidden) as caught:
        await house.ingresses.create(shop, Door.RTMP, "c")
    assert caught.value.code == "project-limit-rooms"
    text, _ = mint(shop, at=time.wall, room="d", identity="ada")
    for grant in (await house.gate.publish(Door.RTMP, "shop", made.stream_key), await house.gate.publish(Door.WHIP, "shop", text)):
        assert (grant.max_rooms, grant.max_publishers, grant.max_bitrate) == (2, 5, 3_000_000)
    assert (await house.gate.read("shop", "a")).max_viewers == (await house.gate.play("shop", made.stream_key)).max_viewers == 7
    await house.projects.change("shop", limits=dict.fromkeys(limits))
    assert (await house.gate.read("shop", "a")).max_viewers == 0
    await house.ingresses.create(shop, Door.RTMP, "c")


async def test_storage_is_sealed_and_its_secret_not_shown(house: Any) -> None:
    made = await house.projects.create("shop", storage=S3)
    assert (made.storage, "very secret" in repr(made)) == (S3, False)
    async with house.db.read() as tx:
        sealed = await tx.scalar(select(schema.projects.c.storage))
    assert [word in sealed for word in (b"very secret", b"garage")] == [False, False]
    kept = {k: v for k, v in S3.items() if k != "secretKey"} | {"prefix": "live"}
    assert (await house.projects.change("shop", storage=kept)).storage == {**S3, "prefix": "live"}
    with pytest.raises(InvalidRequest, match="secretKey"):
        await house.projects.change("shop", storage={**kept, "accessKey": "another"})
    assert (await house.projects.change("shop", viewing="token")).storage["secretKey"] == "very secret"
    log = await AuditLog(house.db).before(10)
    assert "very secret" not in json.dumps([dict(e.details) for e in log])
    assert (await house.projects.change("shop", storage=None)).storage is None
    assert shown_storage(made.storage) == {k: v for k, v in S3.items() if k != "secretKey"}


@pytest.mark.parametrize(
    ("raw", "field"),
    [
        ({}, "storage.type"),
        ({"type": "ftp"}, "storage.type"),
        ({"type": "directory"}, "storage.path"),
        ({"type": "directory", "path": "media"}, "storage.path"),
        ({"type": "directory", "path": "/srv/../etc"}, "storage.path"),
        ({"type": "directory", "path": "/srv\0"}, "storage.path"),
        ({**S3, "bucket": "A"}, "storage.bucket"),
        ({**S3, "bucket": 5}, "storage.bucket"),
        ({**S3, "region": "eu central"}, "storage.region"),
        ({**S3, "accessKey": ""}, "storage.accessKey"),
        ({**S3, "secretKey": ""}, "storage.secretKey"),
        ({**S3, "secretKey": "x" * 600}, "storage.secretKey"),
        ({**S3, "prefix": "../x"}, "storage.prefix"),
        ({**S3, "prefix": "/x"}, "storage.prefix"),
        ({**S3, "endpoint": "ftp://s3.example.net"}, "storage.endpoint"),
        ({**S3, "endpoint": "https://user:pass@203.0.113.9"}, "storage.endpoint"),
        ({**S3, "endpoint": "http://169.254.169.254"}, "storage.endpoint"),
        ({**S3, "endpoint": "https://s3.inside"}, "storage.endpoint"),
        ({**S3, "cdnUrl": "javascript:x"}, "storage.cdnUrl"),
    ],
)
async def test_storage_that_cannot_be(raw: dict[str, Any], field: str) -> None:
    async def lookup(host: str, port: int) -> list[str]:
        return ["10.0.0.7"]

    with pytest.raises(InvalidRequest, match=field.replace(".", r"\.")) as caught:
        await check_storage(raw, None, Outbound((), lookup))
    assert [word in str(caught.value) for word in ("x" * 600, "very secret")] == [False, False]


async def test_options_of_the_longest_room_name(house: Any) -> None:
    shop = await house.projects.create("shop")
    room = f"shop-{'r' * 115}"
    await RoomOptions(house.db, house.bus).put(shop.id, room, Options(record=True))
    again = RoomOptions(house.db, house.bus)
    await again.load()
    assert again.get(shop.id, room).record


async def test_a_project_is_deleted_with_all_that_is_in_it(house: Any, time: Any) -> None:
    shop, other = await house.projects.create("shop", viewing="token"), await house.projects.create("other")
    made = await house.ingresses.create(shop, Door.RTMP, "a")
    key = await house.keys.create("k", ["live"], "shop")
    link = await house.links.create(shop, "a")
    await house.keys.verify(key.secret)
    assert await house.gate.read("shop", "a", link.token)
    options = RoomOptions(house.db, house.bus)
    await options.put(shop.id, "shop-a", Options(0.2))
    with pytest.raises(InvalidRequest) as caught:
        await house.projects.delete("shop", "other")
    assert caught.value.code == "not-confirmed"
    await house.projects.delete(shop.id, "shop")
    with pytest.raises(NotFound):
        await options.put(shop.id, "shop-a", Options(0.3))
    assert ProjectDeleted(shop.id, "shop") in house.told
    for attempt in (house.gate.read("shop", "a", link.token), house.projects.delete("shop", "shop"), house.projects.get(shop.id)):
        with pytest.raises(NotFound):
            await attempt
    with pytest.raises(Unauthorized):
        await house.keys.verify(key.secret)
    with pytest.raises((Unauthorized, NotFound)):
        await house.gate.publish(Door.RTMP, "shop", made.stream_key)
    async with house.db.read() as tx:
        assert await ingresses.find(tx, made.id) is None
        facts = [e for e in await outbox.after(tx, 0, 100) if e.type == "project.changed" and e.project_id is None]
        assert await settings.below(tx, PREFIX) == {}
    assert [e.data for e in facts] == [{"projectId": shop.id, "slug": "shop", "deleted": True}]
    assert options.get(shop.id, "shop-a") == Options()
    assert [p.slug for p in await house.projects.list()] == [other.slug]
    log = AuditLog(house.db)
    done = await log.before(1, project_id=shop.id)
    assert (done[0].action, done[0].target, done[0].actor) == ("project.deleted", shop.id, "system")
    assert [e.action for e in await log.before(10, before_id=done[0].id, project_id=shop.id, target=link.link.id)] == ["link.created"]
    assert await log.before(10, actor="nobody") == await log.before(10, target="a\0b") == []
