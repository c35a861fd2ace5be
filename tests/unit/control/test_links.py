"""View links and revoked tokens: what they open, for how long, and that revoking ends it."""

from __future__ import annotations

from typing import Any

import jwt
import pytest

from medianode.auth import Door, Means
from medianode.control import tokens
from medianode.control.links import Links
from medianode.control.tokens import mint
from medianode.errors import Forbidden, InvalidRequest, NotFound, StorageError, TooManyRequests, Unauthorized
from medianode.events import Bus, TokenRevoked
from medianode.store import audit, links, outbox


@pytest.fixture
async def shop(house: Any) -> Any:
    return await house.projects.create("shop", viewing="signed")


async def refused(attempt: Any) -> str:
    with pytest.raises((Unauthorized, Forbidden)) as caught:
        await attempt
    return str(caught.value.code)


async def test_a_link_opens_its_room_and_no_other(house: Any, shop: Any, time: Any) -> None:
    made = await house.links.create(shop, "hall", identity="ada")
    assert (made.link.expires_at, made.token in repr(made)) == (int(time.wall + 3600), False)
    for room in ("hall", "shop-hall"):
        grant = await house.gate.read("shop", room, made.token)
        assert (grant.room, grant.identity, grant.token_id, grant.means) == ("shop-hall", "ada", made.link.id, Means.LINK)
        assert (grant.expires_at, grant.hidden) == (made.link.expires_at, False)
    assert (await house.gate.play("shop", f"hall?token={made.token}")).token_id == made.link.id
    assert await refused(house.gate.read("shop", "other", made.token)) == "forbidden"
    assert await refused(house.gate.publish(Door.WHIP, "shop", made.token, "hall")) == "forbidden"


async def test_where_viewing_is_signed_room_tokens_do_not_open(house: Any, shop: Any, time: Any) -> None:
    text, _ = mint(shop, at=time.wall, room="hall")
    assert await refused(house.gate.read("shop", "hall", text)) == "link-needed"
    assert await refused(house.gate.read("shop", "hall")) == "token-missing"
    key = await house.keys.create("k", ["view"], "shop")
    grant = await house.gate.read("shop", "hall", key.secret)
    assert (grant.means, grant.key_id) == (Means.KEY, key.key.id)
    await house.projects.change("shop", viewing="token")
    assert (await house.gate.read("shop", "hall", text)).means is Means.TOKEN


async def test_a_token_that_only_looks_like_a_link_is_none(house: Any, shop: Any, time: Any) -> None:
    text, _ = mint(shop, at=time.wall, room="hall", token_id="vl_" + "0" * 24)
    assert await refused(house.gate.read("shop", "hall", text)) == "token-expired"
    await house.projects.change("shop", viewing="token")
    assert await refused(house.gate.read("shop", "hall", text)) == "token-expired"


async def test_a_link_ends_on_the_second(house: Any, shop: Any, time: Any) -> None:
    made = await house.links.create(shop, "hall", ttl="10s")
    assert await house.gate.read("shop", "hall", made.token)
    time.pass_by(10.0)
    assert await refused(house.gate.read("shop", "hall", made.token)) == "token-expired"


async def test_a_revoked_link_opens_nothing_from_now_on(house: Any, shop: Any) -> None:
    made = await house.links.create(shop, "hall")
    other = await house.links.create(shop, "hall")
    assert await house.gate.read("shop", "hall", made.token)
    revoked = await house.links.revoke(shop.id, made.link.id)
    assert await house.links.revoke(shop.id, made.link.id) == revoked
    assert TokenRevoked(shop.id, made.link.id) in house.told
    for _ in range(house.failures + 1):  # it is no guess
        assert await refused(house.gate.read("shop", "hall", made.token, source="192.0.2.1")) == "token-revoked"
    assert await house.gate.read("shop", "hall", other.token)
    async with house.db.read() as tx:
        told = [e.data for e in await outbox.after(tx, 0, 100, project_id=shop.id) if e.type == "link.revoked"]
        log = await audit.before(tx, 10, project_id=shop.id)
    assert told == [{"tokenId": made.link.id}]
    assert [e.action for e in log] == ["link.revoked", "link.created", "link.created", "project.created"]


async def test_links_are_listed_and_bounded(house: Any, shop: Any, time: Any) -> None:
    bounded = Links(house.db, Bus(), most=2)
    first = await bounded.create(shop, "hall", ttl="10s")
    time.pass_by(1.0)
    second = await bounded.create(shop, "yard")
    with pytest.raises(Forbidden) as caught:
        await bounded.create(shop, "hall")
    assert caught.value.code == "link-quota"
    assert [link.id for link in (await bounded.list(shop))[0]] == [second.link.id, first.link.id]
    found, total = await bounded.list(shop, room="hall")
    assert ([link.id for link in found], total) == ([first.link.id], 1)
    assert await bounded.get(shop.id, first.link.id) == first.link
    time.pass_by(10.0)
    assert await bounded.create(shop, "hall", ttl="2d")
    time.pass_by(100_000.0)
    time.wall += 10 * 365 * 86_400.0  # put forward by mistake, and back
    assert await bounded.forget_expired() == 2
    time.wall -= 10 * 365 * 86_400.0
    assert (await bounded.list(shop))[1] == 1
    for link_id in (first.link.id, "", "a\0b"):
        with pytest.raises(NotFound):
            await bounded.get(shop.id, link_id)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({}, InvalidRequest),
        ({"room": "a", "playback_id": "b"}, InvalidRequest),
        ({"room": "../a"}, InvalidRequest),
        ({"room": "a", "ttl": "31d"}, InvalidRequest),
        ({"room": "a", "ttl": 0.5}, InvalidRequest),
        ({"room": "a", "identity": "\n"}, InvalidRequest),
        ({"playback_id": "none"}, NotFound),
    ],
)
async def test_links_that_cannot_be(house: Any, shop: Any, arguments: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        await house.links.create(shop, **arguments)
    assert (await house.links.list(shop))[1] == 0


async def test_a_link_of_another_project_is_none(house: Any, shop: Any) -> None:
    other = await house.projects.create("other", viewing="signed")
    made = await house.links.create(shop, "hall")
    with pytest.raises(NotFound):
        await house.links.revoke(other.id, made.link.id)
    with pytest.raises(InvalidRequest):
        await house.links.revoke_token(other, made.token)
    assert await house.gate.read("shop", "hall", made.token)


async def test_a_revoked_room_token_neither_views_nor_publishes(house: Any, time: Any) -> None:
    live = await house.projects.create("live", viewing="token")
    text, said = mint(live, at=time.wall, room="hall", identity="ada")
    grant = await house.gate.publish(Door.WHIP, "live", text)
    assert grant.token_id == said.id
    assert await house.gate.read("live", "hall", text)
    assert (await house.links.revoke_token(live, text)).id == said.id
    assert (await house.links.revoke_token(live, text)).id == said.id
    assert await refused(house.gate.read("live", "hall", text)) == "token-revoked"
    assert await refused(house.gate.publish(Door.WHIP, "live", text)) == "token-revoked"
    async with house.db.read() as tx:
        assert await links.token_revoked(tx, live.id, said.id)


def foreign(project: Any, at: float, **claims: Any) -> str:
    """As a LiveKit SDK of the customer's signs it."""
    video = {"roomJoin": True, "room": "live-hall", "canPublish": False}
    return jwt.encode({"iss": project.jwt_key_id, "exp": int(at + 60), "video": video, **claims}, project.jwt_secret, algorithm="HS256")


@pytest.mark.parametrize("extra", [{}, {"jti": "ada"}, {"jti": ""}, {"jti": "x" * 200}])
async def test_tokens_without_an_id_of_their_own_are_revoked_one_by_one(house: Any, time: Any, extra: dict[str, Any]) -> None:
    live = await house.projects.create("live", viewing="token")
    bad, good = (foreign(live, time.wall, sub="ada", name=name, **extra) for name in ("a", "b"))
    assert (await house.links.revoke_token(live, bad)).id.startswith("sha256-")
    assert await refused(house.gate.read("live", "hall", bad)) == "token-revoked"
    assert await house.gate.read("live", "hall", good)


async def test_what_is_revoked_is_looked_up_once_and_known_while_the_database_is_away(
    house: Any, shop: Any, monkeypatch: pytest.MonkeyPatch, time: Any
) -> None:
    seen, unseen, revoked = [await house.links.create(shop, "hall") for _ in range(3)]
    await house.gate.read("shop", "hall", seen.token)
    await house.links.revoke(shop.id, revoked.link.id)
    await refused(house.gate.read("shop", "hall", revoked.token))

    def away() -> Any:
        raise StorageError("away")

    monkeypatch.setattr(house.db, "read", away)
    time.pass_by(60.0)
    assert await house.gate.read("shop", "hall", seen.token)
    assert await refused(house.gate.read("shop", "hall", revoked.token)) == "token-revoked"
    with pytest.raises(StorageError):
        await house.gate.read("shop", "hall", unseen.token)


async def test_wrong_link_tokens_slow_their_source_only(house: Any, shop: Any) -> None:
    made = await house.links.create(shop, "hall")
    forged = made.token[:-4] + ("AAAA" if made.token[-4:] != "AAAA" else "BBBB")
    for _ in range(house.failures):
        assert await refused(house.gate.read("shop", "hall", forged, source="192.0.2.1")) == "unauthorized"
    with pytest.raises(TooManyRequests):
        await house.gate.read("shop", "hall", made.token, source="192.0.2.1")
    assert await house.gate.read("shop", "hall", made.token, source="192.0.2.2")


def test_a_token_knows_its_id(shop: Any) -> None:
    text, said = mint(shop, at=1e9, room="hall")
    assert tokens.verify(shop, text, 1e9).id == said.id == jwt.decode(text, options={"verify_signature": False})["jti"]
