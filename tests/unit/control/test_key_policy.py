"""Expiry, allow-lists, rotation and Basic: what makes a known key good for this request."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from medianode.auth import Permission
from medianode.control.keys import Keys
from medianode.errors import Forbidden, InvalidRequest, NotFound, StorageError, TooManyRequests, Unauthorized
from medianode.events import Bus, KeyRevoked


async def test_a_key_expires_also_one_that_is_remembered(house: Any, time: Any) -> None:
    made = await house.keys.create("short", ["live"], expires_at=time.wall + 10)
    assert (await house.keys.verify(made.secret)).expires_at == time.wall + 10
    time.wall += 10
    for _ in range(2):
        with pytest.raises(Unauthorized) as caught:
            await house.keys.verify(made.secret)
        assert caught.value.code == "key-expired"
    time.pass_by(60)
    with pytest.raises(Unauthorized, match="expired"):
        await house.keys.verify(made.secret)


@pytest.mark.parametrize("ahead", [0.0, -1.0, 1e15, float("nan"), float("inf")])
async def test_an_expiry_that_cannot_be(house: Any, time: Any, ahead: float) -> None:
    with pytest.raises(InvalidRequest, match="expiresAt"):
        await house.keys.create("k", ["live"], expires_at=time.wall + ahead)


@pytest.mark.parametrize(
    ("source", "good"),
    [
        ("203.0.113.7", True),
        ("::ffff:203.0.113.7", True),
        ("203.0.114.7", False),
        ("2001:db8::1", True),
        ("2001:db8::1%eth0", True),
        ("2001:db9::1", False),
        ("198.51.100.1", True),
        ("", False),
        ("no address", False),
    ],
)
async def test_an_allow_list_is_of_networks(house: Any, source: str, good: bool) -> None:
    made = await house.keys.create("k", ["live"], allowed_addresses=["203.0.113.9/24", "2001:db8::/32", "198.51.100.1"])
    assert made.key.allowed_addresses == ("203.0.113.0/24", "2001:db8::/32", "198.51.100.1/32")
    if good:
        assert (await house.gate.control(f"Bearer {made.secret}", Permission.LIVE, source=source)).key_id == made.key.id
        return
    for _ in range(house.failures + 1):  # a good key from elsewhere is no guess
        with pytest.raises(Forbidden) as caught:
            await house.gate.control(f"Bearer {made.secret}", Permission.LIVE, source=source)
        assert caught.value.code == "address-not-allowed"


@pytest.mark.parametrize("networks", [[], ["x"], ["10.0.0.0/33"], [""], ["10.0.0.1"] * 65])
async def test_an_allow_list_that_cannot_be(house: Any, networks: list[str]) -> None:
    with pytest.raises(InvalidRequest, match="allowedAddresses"):
        await house.keys.create("k", ["live"], allowed_addresses=networks)


async def test_a_rotated_key_is_good_by_both_texts_for_a_while(house: Any, time: Any) -> None:
    made = await house.keys.create("k", ["live"])
    assert (await house.keys.verify(made.secret)).expires_at is None
    turned = await house.keys.rotate(made.key.id, 60.0)
    assert (turned.key.id, turned.secret != made.secret, turned.secret in repr(turned)) == (made.key.id, True, False)
    assert (await house.keys.verify(turned.secret)).expires_at is None
    assert (await house.keys.verify(made.secret)).expires_at == time.wall + 60
    time.pass_by(60)
    assert await house.keys.verify(turned.secret)
    with pytest.raises(Unauthorized) as caught:
        await house.keys.verify(made.secret)
    assert caught.value.code == "key-expired"


async def test_a_second_rotation_and_one_without_overlap_end_the_text_before(house: Any, time: Any) -> None:
    first = await house.keys.create("k", ["live"])
    second = await house.keys.rotate(first.key.id, 60.0)
    third = await house.keys.rotate(first.key.id, 60.0)
    for text in (second.secret, third.secret):
        assert await house.keys.verify(text)
    with pytest.raises(Unauthorized):
        await house.keys.verify(first.secret)
    fourth = await house.keys.rotate(first.key.id, 0.0)
    with pytest.raises(Unauthorized):
        await house.keys.verify(third.secret)
    await house.keys.revoke(first.key.id)
    with pytest.raises(Unauthorized):
        await house.keys.verify(fourth.secret)
    with pytest.raises(NotFound):
        await house.keys.rotate(first.key.id)
    for overlap in (-1.0, 31 * 86_400.0, float("nan")):
        with pytest.raises(InvalidRequest, match="overlap"):
            await house.keys.rotate(first.key.id, overlap)


async def test_an_old_text_of_a_key_that_expires_earlier_expires_with_it(house: Any, time: Any) -> None:
    made = await house.keys.create("k", ["live"], expires_at=time.wall + 10)
    await house.keys.rotate(made.key.id, 60.0)
    assert (await house.keys.verify(made.secret)).expires_at == time.wall + 10


async def test_a_remembered_key_expires_while_the_database_is_away(house: Any, time: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made = await house.keys.create("k", ["live"], expires_at=time.wall + 100)
    await house.keys.verify(made.secret)

    def away() -> Any:
        raise StorageError("away")

    monkeypatch.setattr(house.db, "read", away)
    time.pass_by(50)
    assert await house.keys.verify(made.secret)
    time.pass_by(50)
    with pytest.raises(Unauthorized, match="expired"):
        await house.keys.verify(made.secret)


async def test_a_revocation_told_by_another_process_is_seen_at_once(house: Any) -> None:
    made = await house.keys.create("k", ["live"])
    await house.keys.verify(made.secret)
    await Keys(house.db, Bus()).revoke(made.key.id)
    assert await house.keys.verify(made.secret)
    house.bus.publish(KeyRevoked(made.key.id, None))
    with pytest.raises(Unauthorized) as caught:
        await house.keys.verify(made.secret)
    assert caught.value.code == "key-revoked"


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


async def test_basic_takes_the_keys_own_id_or_a_name_that_is_no_id(house: Any) -> None:
    made = await house.keys.create("sdk", ["live"])
    other = await house.keys.create("other", ["live"])
    for user in (made.key.id, "", "token-id", "key_", "KEY_0123456789ab"):
        assert (await house.gate.control(basic(user, made.secret), Permission.LIVE)).key_id == made.key.id
    for user in (other.key.id, "key_000000000000"):
        with pytest.raises(Unauthorized) as caught:
            await house.gate.control(basic(user, made.secret), Permission.LIVE, source="192.0.2.1")
        assert (caught.value.code, made.secret in str(caught.value)) == ("unauthorized", False)


async def test_wrong_basic_slows_its_source_and_nobody_else(house: Any) -> None:
    made = await house.keys.create("sdk", ["live"])
    for _ in range(house.failures):
        with pytest.raises(Unauthorized):
            await house.gate.control(basic(made.key.id, "sk_wrong"), Permission.LIVE, source="192.0.2.1")
    with pytest.raises(TooManyRequests):
        await house.gate.control(basic(made.key.id, made.secret), Permission.LIVE, source="192.0.2.1")
    assert await house.gate.control(basic(made.key.id, made.secret), Permission.LIVE, source="192.0.2.2")
