from __future__ import annotations

import base64
import contextlib
import json
import time as system_time
from typing import Any

import jwt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medianode.control.projects import new_project
from medianode.control.tokens import LEEWAY, TTL, issuer, looks_like_token, mint, span, verify
from medianode.errors import InvalidRequest, Unauthorized

AT = 1_800_000_000.0
PROJECT = new_project("live")
NESTED = base64.urlsafe_b64encode(b"[" * 4500).decode().rstrip("=")


def signed(secret: str = PROJECT.jwt_secret, algorithm: str = "HS256", **changes: Any) -> str:
    claims = {
        "iss": PROJECT.jwt_key_id,
        "sub": "ada",
        "nbf": int(AT),
        "exp": int(AT) + 600,
        "video": {"roomJoin": True, "room": "live-a"},
    }
    claims.update(changes)
    return jwt.encode({k: v for k, v in claims.items() if v is not None}, secret, algorithm=algorithm)


def signed_raw(**changes: Any) -> str:
    """As `signed`, without PyJWT's own checks of what it encodes."""
    claims = {**jwt.decode(signed(), options={"verify_signature": False}), **changes}
    return jwt.api_jws.encode(json.dumps(claims).encode(), PROJECT.jwt_secret, algorithm="HS256")


def unsigned(header: dict[str, Any], text: str) -> str:
    return ".".join([base64.urlsafe_b64encode(json.dumps(header).encode()).rstrip(b"=").decode(), *text.split(".")[1:]])


def test_issuer_of_hostile_text() -> None:
    for text in (NESTED + ".e30.e30", signed().split(".")[0] + "." + NESTED + ".e30", "x" * 9000, signed(iss=None)):
        assert issuer(text) is None


def test_mint_and_verify() -> None:
    text, said = mint(PROJECT, at=AT, room="a", identity="ada", name="Ada", metadata="{}", ttl="30m", audio_only=True)
    assert verify(PROJECT, text, AT) == said
    assert (said.room, said.identity, said.expires_at, said.can_publish) == ("live-a", "ada", AT + 1800, True)
    assert issuer(text) == PROJECT.jwt_key_id
    assert looks_like_token(text)


def test_the_shape_that_livekit_reads() -> None:
    text, _ = mint(PROJECT, at=AT, identity="ada", hidden=True)
    assert jwt.get_unverified_header(text) == {"alg": "HS256", "typ": "JWT"}
    claims = jwt.decode(text, options={"verify_signature": False})
    jti = claims.pop("jti")
    assert len(jti) == 16
    assert claims == {
        "iss": PROJECT.jwt_key_id,
        "sub": "ada",
        "nbf": int(AT),
        "exp": int(AT + TTL),
        "video": {"roomJoin": True, "room": "live", "canPublish": False, "canSubscribe": True, "canPublishData": False, "hidden": True},
    }


@pytest.mark.parametrize(
    ("options", "publishes"),
    [
        ({}, True),
        ({"hidden": True}, False),
        ({"recorder": True}, False),
        ({"hidden": True, "can_publish": True}, True),
        ({"can_publish": False}, False),
    ],
)
def test_who_publishes(options: dict[str, bool], publishes: bool) -> None:
    text, said = mint(PROJECT, at=AT, **options)
    assert verify(PROJECT, text, AT).can_publish is said.can_publish is publishes
    assert said.identity.startswith("anon-")


def test_real_time() -> None:
    text, said = mint(PROJECT, at=system_time.time())
    assert jwt.decode(text, PROJECT.jwt_secret, algorithms=["HS256"])["sub"] == said.identity


def test_leeway() -> None:
    assert verify(PROJECT, signed(), AT + 600 + LEEWAY)
    assert verify(PROJECT, signed(), AT - LEEWAY)
    with pytest.raises(Unauthorized) as late:
        verify(PROJECT, signed(), AT + 601 + LEEWAY)
    with pytest.raises(Unauthorized) as early:
        verify(PROJECT, signed(), AT - LEEWAY - 1)
    assert (late.value.code, early.value.code) == ("token-expired", "token-not-yet")


def test_absent_rights_are_granted_and_sources_supersede() -> None:
    token = verify(PROJECT, signed(nbf=None), AT)
    assert (token.can_publish, token.can_subscribe, token.can_publish_data, token.can_publish_sources) == (True, True, True, None)
    video = {"roomJoin": True, "room": "a", "canPublish": False, "canPublishSources": ["microphone"], "canSubscribe": False}
    token = verify(PROJECT, signed(video=video, attributes={"a": "b"}), AT)
    assert (token.room, token.can_publish, token.can_publish_sources, token.can_subscribe) == ("live-a", True, ("microphone",), False)
    assert token.attributes == {"a": "b"}
    assert verify(PROJECT, signed(video=None), AT).can_join is False
    assert verify(PROJECT, signed(video={"roomJoin": "yes"}), AT).can_join is False


@pytest.mark.parametrize(
    "text",
    [
        signed(secret="x" * 43),
        signed(iss="other"),
        signed(iss=None),
        signed(exp=None),
        signed(exp=True),
        signed(exp="soon"),
        signed(nbf="soon"),
        signed(sub=7),
        signed(name=["a"]),
        signed(video={"roomJoin": True, "room": "../a"}),
        signed(video={"roomJoin": True, "room": 7}),
        signed(secret="x" * 64, algorithm="HS512"),
        signed(secret=PROJECT.jwt_secret * 2, algorithm="HS384"),
        unsigned({"alg": "none", "typ": "JWT"}, signed()),
        unsigned({"alg": "RS256", "typ": "JWT"}, signed()),
        unsigned({"alg": "none", "typ": "JWT"}, signed()).rsplit(".", 1)[0] + ".",
        signed()[:-2],
        "",
        "..",
        "a.b.c",
        "x" * 8193,
        "\ud800.é.\0",
        NESTED + ".e30.e30",
        signed().split(".")[0] + "." + NESTED + ".e30",
        signed(exp=float("nan")),
        signed(exp=10**400),
    ],
)
def test_refused(text: str) -> None:
    with pytest.raises(Unauthorized, match=r"^token: ") as caught:
        verify(PROJECT, text, AT)
    assert caught.value.code == "unauthorized"


def test_the_right_secret_with_another_algorithm_is_refused() -> None:
    with pytest.warns(jwt.InsecureKeyLengthWarning):
        text = signed(algorithm="HS512")
    with pytest.raises(Unauthorized, match="expected it signed with HS256"):
        verify(PROJECT, text, AT)


@given(st.text())
def test_garbage_is_unauthorized(text: str) -> None:
    with pytest.raises(Unauthorized):
        verify(PROJECT, text, AT)
    assert issuer(text) is None


@settings(max_examples=50)
@given(
    st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))
)
def test_any_claims_well_signed(value: Any) -> None:
    """Nothing but Unauthorized, and what is let through is typed."""
    for claim in ("sub", "exp", "nbf", "aud", "name", "metadata", "attributes", "video"):
        with contextlib.suppress(Unauthorized):
            token = verify(PROJECT, signed_raw(**{claim: value}), AT)
            assert isinstance(token.identity + token.room + token.name + token.metadata, str)
            assert abs(token.expires_at) < 1e12


@pytest.mark.parametrize(
    ("ttl", "seconds"),
    [
        ("6h", 21600),
        ("30m", 1800),
        ("90s", 90),
        ("2d", 172800),
        ("1w", 604800),
        ("1.5h", 5400),
        (" 2 h ", 7200),
        ("600", 600),
        (600, 600),
        (1.5, 1.5),
        (None, TTL),
    ],
)
def test_span(ttl: str | float | None, seconds: float) -> None:
    assert span(ttl) == seconds


@pytest.mark.parametrize("ttl", ["", "0", "-1h", "1y", "h", "1e3", "999999d", "١h", 0, -5, float("nan"), float("inf"), "9" * 5000])
def test_span_refuses(ttl: str | float) -> None:
    with pytest.raises(InvalidRequest, match=r"^ttl: expected"):
        span(ttl)


def test_mint_refuses() -> None:
    for options in ({"metadata": "x" * 2001}, {"room": "../a"}, {"identity": "a\n"}, {"ttl": "never"}):
        with pytest.raises(InvalidRequest):
            mint(PROJECT, at=AT, **options)
