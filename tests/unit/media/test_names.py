from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medianode.errors import InvalidRequest
from medianode.media.names import check_identity, check_slug, room_name, shown


@pytest.mark.parametrize(
    ("name", "canonical"),
    [
        ("", "live"),
        ("live", "live"),
        ("live-a", "live-a"),
        ("a", "live-a"),
        ("lively", "live-lively"),
        ("A.b_c-9", "live-A.b_c-9"),
        ("_x", "live-_x"),
    ],
)
def test_room_name(name: str, canonical: str) -> None:
    assert room_name("live", name) == canonical
    assert room_name("live", canonical) == canonical


@pytest.mark.parametrize(
    "name",
    [
        ".",
        "..",
        ".a",
        "a..b",
        "a/b",
        "a\\b",
        "../etc",
        "a b",
        "é",
        "a\n",
        "a\0",
        "%2e%2e",
        "live-..",
        "x" * 121,
        "x" * 116,
        "\ud800",
        "live-a/../b",
    ],
)
def test_room_name_refuses(name: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^room: expected"):
        room_name("live", name)


@given(st.text())
def test_any_text_gives_a_safe_name_or_invalid_request(name: str) -> None:
    try:
        room = room_name("live", name)
    except InvalidRequest as e:
        e.message.encode("ascii")
        return
    assert room.startswith("live")
    assert len(room) <= 120
    assert not set(room) & set("/\\ \0%?#")
    assert ".." not in room


@pytest.mark.parametrize("slug", ["live", "a", "0", "my-app", "my_app", "a" * 64])
def test_slug(slug: str) -> None:
    assert check_slug(slug) == slug


@pytest.mark.parametrize("slug", ["", "streams", "Live", "-a", "a-", "_", "a.b", "a/b", "a" * 65, "é", "a\n", ".."])
def test_slug_refuses(slug: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^slug: "):
        check_slug(slug)


@pytest.mark.parametrize("identity", ["a", "Ada Lovelace", "a/b", "日本", "x" * 128])
def test_identity(identity: str) -> None:
    assert check_identity(identity) == identity


@pytest.mark.parametrize("identity", ["", " a", "a ", "a\n", "a\0b", "x" * 129, "\ud800", "\u202e"])
def test_identity_refuses(identity: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^participantIdentity: expected"):
        check_identity(identity)


def test_shown_is_cut_and_escaped() -> None:
    assert shown("a\n" * 100, 4) == r"'a\na\n\u2026'"
