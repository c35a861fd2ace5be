from __future__ import annotations

import base64
import hashlib
import hmac
import itertools
import json
from pathlib import Path
from typing import Any

import jwt
import pytest

from medianode.auth import Means
from medianode.control import signing_keys
from medianode.control.live_streams import LiveStreams, Policy
from medianode.control.playback import allows, check_restrictions, host_of
from medianode.control.signing_keys import SigningKeys, signed_by
from medianode.control.tokens import mint
from medianode.errors import Forbidden, NotFound, TooManyRequests, Unauthorized
from medianode.store.live_streams import PlaybackId


def rule(default: str, allow: tuple[str, ...] = (), deny: tuple[str, ...] = ()) -> dict[str, Any]:
    return {"defaultPolicy": default, "allow": list(allow), "deny": list(deny)}


def playback(**restrictions: Any) -> PlaybackId:
    return PlaybackId(id="p", ingress_id="i", access_policy="public", restrictions=restrictions, created_at=0.0)


@pytest.mark.parametrize(
    ("site", "host"),
    [
        ("https://shop.example", "shop.example"),
        ("https://Shop.Example:8443/cart?x=1", "shop.example"),
        ("https://shop.example.", "shop.example"),
        ("https://user@evil.example/https://shop.example", "evil.example"),
        ("null", ""),
        ("", ""),
        ("about:blank", ""),
        ("https://[::1", ""),
    ],
)
def test_the_host_of_a_page(site: str, host: str) -> None:
    assert host_of(site) == host


@pytest.mark.parametrize(
    ("given", "open_to", "closed_to"),
    [
        (rule("deny", ("shop.example",)), ["https://shop.example"], ["https://www.shop.example", "https://shop.example.evil", "", "null"]),
        (rule("deny", ("*.shop.example",)), ["https://a.b.shop.example"], ["https://shop.example", "https://evilshop.example"]),
        (rule("allow", (), ("evil.example",)), ["https://shop.example", ""], ["https://evil.example", "https://EVIL.example/x"]),
        (rule("deny", ("*.example",), ("evil.example",)), ["https://shop.example"], ["https://evil.example", "https://shop.test"]),
        (rule("allow", ("shop.example",)), ["https://shop.example", "https://else.example", ""], []),
    ],
)
def test_domains(given: dict[str, Any], open_to: list[str], closed_to: list[str]) -> None:
    for site in open_to:
        check_restrictions(playback(domains=given), site, "")
    for site in closed_to:
        with pytest.raises(Forbidden) as refused:
            check_restrictions(playback(domains=given), site, "")
        assert refused.value.code == "domain-refused"


@pytest.mark.parametrize(
    ("given", "agent", "opens"),
    [
        (rule("allow", (), ("curl",)), "curl/8.4", False),
        (rule("allow", (), ("Curl",)), "Mozilla/5.0 (cURLy)", False),
        (rule("allow", (), ("curl",)), "Mozilla/5.0", True),
        (rule("deny", ("Lavf", "VLC")), "Lavf/60.3", True),
        (rule("deny", ("Lavf", "VLC")), "", False),
    ],
)
def test_user_agents(given: dict[str, Any], agent: str, opens: bool) -> None:
    assert allows(given, lambda part: part.lower() in agent.lower()) is opens
    if opens:
        check_restrictions(playback(userAgents=given), "", agent)
        return
    with pytest.raises(Forbidden) as refused:
        check_restrictions(playback(userAgents=given), "", agent)
    assert refused.value.code == "user-agent-refused"


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    """One kind is enough here: the queries are looked at on both in test_live_streams."""
    return f"sqlite:///{tmp_path}/test.db"


PAIRS = [signing_keys._pair() for _ in range(2)]


@pytest.fixture(autouse=True)
def ready_made_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Making one takes a good part of a second."""
    made = itertools.cycle(PAIRS)
    monkeypatch.setattr(signing_keys, "_pair", lambda: next(made))


class Shop:
    """A live stream with a private playback id, and a signing key."""

    def __init__(self, house: Any) -> None:
        self.house = house
        self.streams = LiveStreams(house.db, house.bus, house.ingresses, playback_ids=5)
        self.keys = SigningKeys(house.db, house.bus, per_project=2)

    async def open(self) -> Shop:
        self.project = await self.house.projects.create("shop")
        self.made = await self.streams.create(self.project, Policy(access_policy="private"))
        self.private = self.made.playback_ids[0].id
        self.room = self.made.ingress.room
        self.key = await self.keys.create(self.project)
        return self

    def token(self, time: Any, *, header: bool = False, key: Any = None, **claims: Any) -> str:
        key = key or self.key
        named = {} if header else {"kid": key.key.id}
        body = {"aud": f"media:{self.private}", "exp": time.wall + 600, **named, **claims}
        private = base64.b64decode(key.private_key)
        absent = [name for name, value in body.items() if value is None]
        return jwt.encode(
            {k: v for k, v in body.items() if k not in absent}, private, algorithm="RS256", headers={"kid": key.key.id} if header else None
        )


@pytest.fixture
async def shop(house: Any) -> Shop:
    return await Shop(house).open()


async def test_a_public_id_is_open_and_so_is_its_room(house: Any, shop: Shop) -> None:
    public = await shop.streams.add_playback_id(shop.project.id, shop.made.ingress.id, "public", {})
    grant = await house.gate.read_playback(public.id)
    assert (grant.room, grant.playback_id, grant.means, grant.shared) == (shop.room, public.id, Means.PLAYBACK, True)
    assert (await house.gate.read("shop", shop.made.ingress.id)).room == shop.room
    await shop.streams.restrict(shop.project.id, shop.made.ingress.id, public.id, "domains", rule("deny", ("shop.example",)))
    restricted = await house.gate.read_playback(public.id, site="https://shop.example")
    assert restricted.shared is False
    with pytest.raises(Forbidden):
        await house.gate.read_playback(public.id)
    with pytest.raises(Unauthorized) as closed:
        await house.gate.read("shop", shop.room)
    assert closed.value.code == "token-missing"


async def test_a_project_that_needs_tokens_needs_them_for_the_rooms_of_live_streams_too(house: Any, shop: Shop) -> None:
    public = await shop.streams.add_playback_id(shop.project.id, shop.made.ingress.id, "public", {})
    await house.projects.change("shop", viewing="token")
    with pytest.raises(Unauthorized):
        await house.gate.read("shop", shop.room)
    assert (await house.gate.read_playback(public.id)).room == shop.room, "a public playback id is public"


@pytest.mark.parametrize("header", [False, True], ids=["kid in the payload", "kid in the header"])
async def test_a_signed_token(house: Any, shop: Shop, time: Any, header: bool) -> None:
    for found in (
        await house.gate.read_playback(shop.private, shop.token(time, header=header)),
        await house.gate.read_playback(shop.private, None, shop.token(time, header=header)),
        await house.gate.read("shop", shop.room, shop.token(time, header=header, jti="j")),
        await house.gate.read_playback(shop.private, shop.token(time, header=header, aud=["media:x", f"media:{shop.private}"])),
    ):
        assert (found.room, found.playback_id, found.key_id, found.expires_at) == (
            shop.room,
            shop.private,
            shop.key.key.id,
            time.wall + 660,
        )


async def test_a_signed_token_that_does_not_do(house: Any, shop: Shop, time: Any) -> None:
    elsewhere = await house.projects.create("elsewhere")
    others = await shop.keys.create(elsewhere)
    good = shop.token(time)
    wrong = {
        "token-expired": shop.token(time, exp=time.wall - 61),
        "token-not-yet": shop.token(time, nbf=time.wall + 61),
        "unauthorized": shop.token(time, key=others),
        "forbidden": shop.token(time, aud="media:another"),
        "unauthorized ": f"{good[:-4]}AAAA",
        "unauthorized  ": shop.token(time, exp=None),
        "unauthorized   ": shop.token(time, aud=None),
        "unauthorized    ": shop.token(time, exp="tomorrow"),
        "forbidden ": shop.token(time, aud=7),
    }
    for code, token in wrong.items():
        with pytest.raises((Unauthorized, Forbidden)) as refused:
            await house.gate.read_playback(shop.private, token, source=code)
        assert refused.value.code == code.strip(), code
        assert token not in str(refused.value)
    with pytest.raises(Unauthorized) as missing:
        await house.gate.read_playback(shop.private)
    assert missing.value.code == "token-missing"


async def test_a_public_key_is_no_secret_to_sign_with(house: Any, shop: Shop, time: Any) -> None:
    """The classic: HS256 with the public key as its secret."""
    claims = {"kid": shop.key.key.id, "aud": f"media:{shop.private}", "exp": time.wall + 60}
    head = base64.urlsafe_b64encode(b'{"alg":"HS256","typ":"JWT"}').rstrip(b"=")
    body = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=")
    mac = hmac.digest(shop.key.key.public_key.encode(), head + b"." + body, hashlib.sha256)
    forged = (head + b"." + body + b"." + base64.urlsafe_b64encode(mac).rstrip(b"=")).decode()
    for token in (forged, shop.token(time).rpartition(".")[0] + "."):
        with pytest.raises(Unauthorized):
            await house.gate.read_playback(shop.private, token)


async def test_room_tokens_and_api_keys_open_a_private_id(house: Any, shop: Shop, time: Any) -> None:
    token, _ = mint(shop.project, at=time.wall, room=shop.room, identity="ada", can_publish=False)
    key = (await house.keys.create("v", ["view"], "shop")).secret
    for secret in (token, key):
        grant = await house.gate.read_playback(shop.private, secret)
        assert (grant.room, grant.playback_id, grant.shared) == (shop.room, shop.private, False)
    other, _ = mint(shop.project, at=time.wall, room="shop-else", identity="ada")
    with pytest.raises(Forbidden):
        await house.gate.read_playback(shop.private, other)


async def test_guesses_are_counted(house: Any, shop: Shop, time: Any) -> None:
    for _ in range(house.failures):
        with pytest.raises(Unauthorized):
            await house.gate.read_playback(shop.private, f"{shop.token(time)[:-4]}AAAA", source="192.0.2.1")
    with pytest.raises(TooManyRequests):
        await house.gate.read_playback(shop.private, shop.token(time), source="192.0.2.1")
    assert (await house.gate.read_playback(shop.private, shop.token(time), source="192.0.2.2")).room == shop.room


async def test_a_deleted_signing_key_opens_nothing(house: Any, shop: Shop, time: Any) -> None:
    grant = await house.gate.read_playback(shop.private, shop.token(time))
    await house.gate.still(grant)
    await shop.keys.delete(shop.project.id, shop.key.key.id)
    with pytest.raises(Unauthorized):
        await house.gate.read_playback(shop.private, shop.token(time))
    with pytest.raises(Unauthorized):
        await house.gate.still(grant)


async def test_signing_keys(house: Any, shop: Shop) -> None:
    assert shop.key.private_key not in repr(shop.key)
    elsewhere = await house.projects.create("elsewhere")
    more = await shop.keys.create(shop.project)
    with pytest.raises(Forbidden) as full:
        await shop.keys.create(shop.project)
    assert full.value.code == "signing-key-quota"
    found, total = await shop.keys.list(shop.project.id, 1, 0)
    assert (total, len(found)) == (2, 1)
    assert await shop.keys.get(shop.project.id, more.key.id) == more.key
    for call in (shop.keys.get(elsewhere.id, more.key.id), shop.keys.delete(elsewhere.id, more.key.id), shop.keys.get("x", "\0")):
        with pytest.raises(NotFound):
            await call


@pytest.mark.parametrize("text", ["", "a.b.c", "sk_key", "x" * 9000 + ".b.c", "é.é.é", "[" * 5000 + ".b.c"])
def test_what_is_no_signed_token(text: str) -> None:
    assert signed_by(text) is None
