from __future__ import annotations

from typing import Annotated, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET, Meta, UnsetType

from medianode.api.fields import Identity, RoomName, build
from medianode.errors import InvalidRequest


class Sample(msgspec.Struct, rename="camel"):
    kind_of: Literal["a", "b"]
    room: RoomName = ""
    who: Identity | None = None
    count: Annotated[int, Meta(ge=1, le=500)] = 50
    ratio: float = 0.0
    on: bool = False
    words: list[str] = []
    maybe: str | UnsetType = UNSET
    either: str | Annotated[float, Meta(gt=0)] = "6h"
    password: Annotated[str, Meta(max_length=8)] = ""


def sentences(raw: object, *, lax: bool = False) -> tuple[str, ...]:
    with pytest.raises(InvalidRequest) as caught:
        build(raw, Sample, lax=lax)
    return caught.value.fields


def test_good_values_and_defaults() -> None:
    assert build({"kindOf": "a", "extra": 1}, Sample) == Sample("a")
    assert build({"kindOf": "b", "room": "r.1", "who": "me", "maybe": "x", "either": 5}, Sample) == Sample(
        "b", "r.1", "me", maybe="x", either=5
    )
    assert build({"kindOf": "a", "room": None, "count": None, "maybe": None}, Sample) == Sample("a")


def test_queries_are_read_from_text() -> None:
    assert build({"kindOf": "a", "count": "7", "ratio": "0.5", "on": "true"}, Sample, lax=True) == Sample("a", count=7, ratio=0.5, on=True)
    assert sentences({"kindOf": "a", "count": "7"}) == ("count: expected a whole number from 1 to 500, got '7'",)


def test_each_bad_field_is_named_with_what_was_expected_and_what_came() -> None:
    assert sentences({"room": "a b", "who": "", "count": 501, "on": "x", "words": [1], "either": [], "maybe": 3}) == (
        "kindOf: expected one of a, b, got nothing",
        "room: expected at most 120 of A-Z a-z 0-9 . _ -, got 'a b'",
        "who: expected 1 to 128 characters, no control characters, got ''",
        "count: expected a whole number from 1 to 500, got 501",
        "on: expected true or false, got 'x'",
        "words: expected an array of text, got an array",
        "maybe: expected text, got 3",
        "either: expected text or a number, got an array",
    )
    assert sentences({"kindOf": None})[0] == "kindOf: expected one of a, b, got null"
    assert sentences({"kindOf": True})[0] == "kindOf: expected one of a, b, got true"
    assert sentences({"kindOf": {}})[0] == "kindOf: expected one of a, b, got an object"


def test_long_and_secret_values_are_not_echoed() -> None:
    assert sentences({"kindOf": "a", "room": "x" * 121})[0].endswith("got 121 characters")
    (said,) = sentences({"kindOf": "a", "password": "hunter2hunter2"})
    assert said == "password: expected text of at most 8 characters, got 14 characters"


@pytest.mark.parametrize("field", ["room", "who"])
def test_a_last_newline_does_not_slip_through(field: str) -> None:
    (said,) = sentences({"kindOf": "a", field: "x\n"})
    assert said.startswith(f"{field}: expected ")


@pytest.mark.parametrize(("raw", "word"), [([], "an array"), ("x", "'x'"), (None, "null"), (5, "5"), (False, "false")])
def test_only_an_object_will_do(raw: object, word: str) -> None:
    assert sentences(raw) == (f"body: expected an object, got {word}",)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.sampled_from([f.encode_name for f in msgspec.structs.fields(Sample)])


@given(raw=st.dictionaries(FIELDS, JSON) | JSON, lax=st.booleans())
def test_whatever_comes_is_built_or_refused_in_bounded_words(raw: object, lax: bool) -> None:
    said: tuple[str, ...] = ()
    made = None
    try:
        made = build(raw, Sample, lax=lax)
    except InvalidRequest as e:
        said = e.fields
    assert (made is None) == bool(said)
    assert all(len(sentence) < 250 for sentence in said)
    if made is not None:
        assert msgspec.json.decode(msgspec.json.encode(made), type=Sample) == made


class Nullable(msgspec.Struct):
    secret: Annotated[str, Meta(min_length=4)] | UnsetType | None = UNSET
    plain: str | None = "x"
    named: dict[str, Annotated[str, Meta(max_length=9)]] = {}


def test_null_says_something_only_where_a_field_knows_it() -> None:
    assert build({"secret": None, "plain": None}, Nullable) == Nullable(None, "x")
    assert build({}, Nullable) == Nullable(UNSET, "x")
    assert build({"secret": "long"}, Nullable) == Nullable("long")
    with pytest.raises(InvalidRequest, match="got 3 characters"):
        build({"secret": "abc"}, Nullable)
    with pytest.raises(InvalidRequest, match="named: expected an object with values of text of at most 9 characters, got an object"):
        build({"named": {"a": 1}}, Nullable)


class Inner(msgspec.Struct, rename="camel"):
    max_size: Annotated[int, Meta(ge=1, le=9)] = 3
    words: list[str] = []


class Outer(msgspec.Struct):
    inner: Inner = msgspec.field(default_factory=Inner)
    perhaps: Inner | None = None


def test_structs_within_are_read_as_those_without() -> None:
    assert build({"inner": {"maxSize": None, "extra": 1}, "perhaps": {"maxSize": 2}}, Outer) == Outer(Inner(), Inner(2))
    assert build({"inner": None, "perhaps": None}, Outer) == Outer()
    with pytest.raises(InvalidRequest) as caught:
        build({"inner": {"maxSize": 10, "words": [1]}, "perhaps": 7}, Outer)
    assert caught.value.fields == (
        "inner.maxSize: expected a whole number from 1 to 9, got 10",
        "inner.words: expected an array of text, got an array",
        "perhaps: expected an object, got 7",
    )


class Secrets(msgspec.Struct, rename="camel"):
    stream_key: Annotated[str, Meta(max_length=9)] = ""
    secret_key: str = ""
    storage: Inner | None = None


def test_what_looks_misspelt_is_refused_and_what_is_only_unknown_is_not() -> None:
    assert sentences({"kindOf": "a", "cuont": 3}) == ("cuont: unknown field, did you mean count?",)
    assert sentences({"kindOf": "a", "kind_of": "b", "pasword": "x"}) == ("pasword: unknown field, did you mean password?",)
    assert sentences({"kindOf": "a", "romm": "x"}) == ("romm: unknown field, did you mean room?",)
    assert build({"kindOf": "a", "Count": 5, "count": 6}, Sample).count == 6, "what is there is not misspelt"
    assert build({"kindOf": "a", **{f"x{i}": i for i in range(1000)}}, Sample) == Sample("a")


def test_all_unknown_fields_are_refused_where_asked_for() -> None:
    assert build({"kindOf": "a", "romm": "x"}, Sample, unknown="none") == Sample("a")
    with pytest.raises(InvalidRequest) as caught:
        build({"kindOf": "a", "extra": 1, "romm": ""}, Sample, unknown="all")
    extra, misspelt = caught.value.fields
    assert extra.startswith("extra: unknown field, expected some of kindOf, room, ")
    assert misspelt == "romm: unknown field, did you mean room?"


def test_secrets_are_not_said_back() -> None:
    with pytest.raises(InvalidRequest) as caught:
        build({"streamKey": "hunter2 hunter2", "secretKey": 20817, "storage": "hunter2"}, Secrets)
    assert caught.value.fields == (
        "streamKey: expected text of at most 9 characters, got 15 characters",
        "secretKey: expected text, got a number",
        "storage: expected an object, got 7 characters",
    )
