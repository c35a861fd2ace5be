"""ICE-lite without a socket: whose check, is it valid, what is it answered."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medianode.protocols import stun
from medianode.protocols.sdp.plan import Credentials
from medianode.rtc.ice import IceLite, credentials

REMOTE = Credentials("them", "t" * 24)
SOURCE = ("192.0.2.7", 40_012)


def request(ice: Credentials, *, key: str = "", **options: object) -> bytes:
    arguments: dict[str, object] = {"controlling": 7, **options}
    return stun.binding_request(os.urandom(12), f"{ice.ufrag}:them".encode(), (key or ice.pwd).encode(), **arguments)  # type: ignore[arg-type]


def test_credentials_are_fresh_and_long_enough() -> None:
    made = {credentials() for _ in range(100)}
    assert len({c.ufrag for c in made}) == len({c.pwd for c in made}) == 100
    assert all(len(c.ufrag) >= 4 and len(c.pwd) >= 22 and (c.ufrag + c.pwd).isalnum() for c in made)


def test_a_valid_check_is_answered_with_the_address_it_came_from() -> None:
    ice = IceLite(REMOTE)
    check = ice.request(request(ice.local), ice.local.ufrag.encode(), SOURCE)
    assert check is not None
    assert (check.accepted, check.nominated, check.retired) == (True, False, b"")
    answer = stun.parse(check.answer)
    assert answer is not None
    assert answer.type == stun.BINDING_RESPONSE
    assert answer.mapped == SOURCE
    assert stun.verify(check.answer, ice.local.pwd.encode())


def test_use_candidate_nominates() -> None:
    ice = IceLite(REMOTE)
    check = ice.request(request(ice.local, use_candidate=True), ice.local.ufrag.encode(), SOURCE)
    assert check is not None
    assert check.nominated


def test_the_answer_is_never_longer_than_the_request() -> None:
    ice = IceLite(REMOTE)
    for options in ({}, {"use_candidate": True}, {"controlling": None, "controlled": 3}):
        data = request(ice.local, **options)
        check = ice.request(data, ice.local.ufrag.encode(), ("2001:db8::7", 1))
        assert check is not None
        assert len(check.answer) <= len(data)


def test_a_role_conflict_is_told_and_moves_nothing() -> None:
    ice = IceLite(REMOTE)
    data = request(ice.local, controlling=None, controlled=9, use_candidate=True)
    check = ice.request(data, ice.local.ufrag.encode(), SOURCE)
    assert check is not None
    assert (check.accepted, check.nominated) == (False, False)
    answer = stun.parse(check.answer)
    assert answer is not None
    assert answer.error == 487


@pytest.mark.parametrize("key", ["wrong" * 6, REMOTE.pwd])
def test_a_wrong_password_gets_no_answer(key: str) -> None:
    ice = IceLite(REMOTE)
    assert ice.request(request(ice.local, key=key), ice.local.ufrag.encode(), SOURCE) is None


def test_an_ufrag_that_is_not_ours_gets_no_answer() -> None:
    ice = IceLite(REMOTE)
    assert ice.request(request(ice.local), b"other", SOURCE) is None


def test_restart_accepts_both_until_the_newer_is_nominated() -> None:
    ice = IceLite(REMOTE)
    old = ice.local
    new = ice.restart(Credentials("moved", "m" * 24))
    assert set(ice.ufrags) == {old.ufrag.encode(), new.ufrag.encode()}
    assert new != old
    for ours, nominate in ((old, True), (new, False)):
        check = ice.request(request(ours, use_candidate=nominate), ours.ufrag.encode(), SOURCE)
        assert check is not None
        assert check.retired == b""
    check = ice.request(request(new, use_candidate=True), new.ufrag.encode(), SOURCE)
    assert check is not None
    assert check.retired == old.ufrag.encode()
    assert ice.ufrags == (new.ufrag.encode(),)
    assert ice.request(request(old), old.ufrag.encode(), SOURCE) is None


def test_restarts_keep_two_generations_at_most() -> None:
    ice = IceLite(REMOTE)
    first = ice.local
    for _ in range(50):
        ice.restart(REMOTE)
    assert len(ice.ufrags) == 2
    assert ice.request(request(first), first.ufrag.encode(), SOURCE) is None


@given(st.binary(max_size=200), st.integers(0, 2**32))
def test_garbage_and_broken_requests_get_no_answer_and_raise_nothing(data: bytes, seed: int) -> None:
    ice = IceLite(REMOTE)
    ufrag = ice.local.ufrag.encode()
    assert ice.request(data, ufrag, SOURCE) is None
    good = bytearray(request(ice.local))
    good[seed % len(good)] ^= 1 + seed % 255
    check = ice.request(bytes(good), ufrag, SOURCE)
    assert check is None or check.answer
    assert ice.request(bytes(good[: seed % len(good)]), ufrag, SOURCE) is None
