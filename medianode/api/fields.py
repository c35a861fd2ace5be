"""Bodies and queries into msgspec structs. Every bad field is named, with what was expected and what came.

Unknown ones are refused by our own dialect, by vendors' only those that look misspelt: their clients know fields that we do not. StreamHub
drops them all (contracts 2).
"""

from __future__ import annotations

import difflib
import functools
import itertools
import types
import typing
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta, inspect

from medianode.errors import InvalidRequest

T = TypeVar("T", bound=msgspec.Struct)
MISSING = object()
Unknown = Literal["none", "misspelt", "all"]
_NEAR = 0.8
"""Likeness (difflib's ratio) from which on an unknown name is a known one misspelt."""
_NEAR_SAME = 0.75
"""The same for names of the same length."""
_UNKNOWN_READ = 32
_SECRET = frozenset({"headers", "key", "password", "secret", "secretKey", "storage", "streamKey", "token"})
"""Fields that are, or hold, what must not stand in an answer or a log."""

# `(?!\n)$` and not `$`, which in Python also stands before a last newline, nor `\Z`, which readers of the schema do not know
Text = Annotated[
    str, Meta(max_length=200, pattern=r"^[^\x00-\x1f\x7f]*(?!\n)$", extra={"expected": "at most 200 characters, no control characters"})
]
RoomName = Annotated[
    str,
    Meta(max_length=120, pattern=r"^[A-Za-z0-9._-]*(?!\n)$", extra={"expected": "at most 120 of A-Z a-z 0-9 . _ -"}),
]
Identity = Annotated[
    str,
    Meta(
        min_length=1, max_length=128, pattern=r"^[^\x00-\x1f\x7f]+(?!\n)$", extra={"expected": "1 to 128 characters, no control characters"}
    ),
]
OptionalIdentity = Annotated[
    str,
    Meta(max_length=128, pattern=r"^[^\x00-\x1f\x7f]*(?!\n)$", extra={"expected": "at most 128 characters, no control characters"}),
]


def build(raw: object, model: type[T], *, what: str = "body", lax: bool = False, unknown: Unknown = "misspelt") -> T:
    """An instance of `model`. `lax` reads numbers and booleans from text (queries). null counts as absent where a default exists, but for
    fields that know both None and UNSET. `unknown`: which fields that the model does not know are refused.

    Raises InvalidRequest with one sentence per bad field; one of a struct within has its path: `settings.window: expected …`.
    """
    if not isinstance(raw, Mapping):
        raise InvalidRequest(f"{what}: expected an object, got {got(raw)}")
    values: dict[str, Any] = {}
    wrong = _unknown(raw, [field.encode_name for field, _ in _fields(model)], unknown)
    for field, info in _fields(model):
        value = raw.get(field.encode_name, MISSING)
        if value is None and not field.required:
            if _tells_null(field.type):
                values[field.name] = None
                continue
            value = MISSING
        if value is MISSING:
            if field.required:
                wrong.append(f"{field.encode_name}: expected {expected(info)}, got nothing")
            continue
        if isinstance(info, inspect.StructType) and isinstance(value, Mapping):
            try:
                values[field.name] = build(value, info.cls, lax=lax, unknown=unknown)
            except InvalidRequest as e:
                wrong += [f"{field.encode_name}.{sentence}" for sentence in e.fields]
            continue
        try:
            values[field.name] = msgspec.convert(value, field.type, strict=not lax)
        except msgspec.ValidationError:
            wrong.append(f"{field.encode_name}: expected {expected(info)}, got {got(value, secret=field.encode_name in _SECRET)}")
    if wrong:
        raise InvalidRequest("; ".join(wrong), fields=tuple(wrong))
    return model(**values)


def _unknown(raw: Mapping[Any, object], known: list[str], unknown: Unknown) -> list[str]:
    """One sentence per field that is refused: one misspelt and passed over leaves a default in force, which may be the open one."""
    wrong: list[str] = []
    if unknown == "none":
        return wrong
    for name in itertools.islice((name for name in raw if name not in known), _UNKNOWN_READ):
        near = _near(str(name)[:60], known)
        if near and near not in raw:
            wrong.append(f"{str(name)[:60]}: unknown field, did you mean {near}?")
        elif unknown == "all":
            there = f"expected some of {', '.join(known)}" if known else "expected none"
            wrong.append(f"{str(name)[:60]}: unknown field, {there}")
    return wrong


def _near(name: str, known: list[str]) -> str:
    """The known name that this one is a misspelling of; empty where it is a word of its own (`title` is no `ttl`, `romm` a `room`)."""
    likely = difflib.get_close_matches(name, known, 1, _NEAR)
    likely += difflib.get_close_matches(name, [n for n in known if len(n) == len(name)], 1, _NEAR_SAME)
    return likely[0] if likely else ""


@functools.cache
def _fields(model: type[msgspec.Struct]) -> tuple[tuple[msgspec.structs.FieldInfo, inspect.Type], ...]:
    return tuple((field, inspect.type_info(present(field.type))) for field in msgspec.structs.fields(model))


def _tells_null(kind: Any) -> bool:
    return {type(None), msgspec.UnsetType} <= set(typing.get_args(kind))


def present(kind: Any) -> Any:
    """The type without None and UNSET: absence has its own words."""
    if typing.get_origin(kind) not in (typing.Union, types.UnionType):
        return kind
    return typing.Union[tuple(a for a in typing.get_args(kind) if a not in (type(None), msgspec.UnsetType))]  # noqa: UP007 - built at run time


def expected(info: inspect.Type) -> str:
    """The type in plain words."""
    if isinstance(info, inspect.Metadata):
        said = (info.extra or {}).get("expected")
        return str(said) if said else expected(info.type)
    match info:
        case inspect.LiteralType():
            return "one of " + ", ".join(str(v) for v in info.values)
        case inspect.StrType():
            return f"text of at most {info.max_length} characters" if info.max_length else "text"
        case inspect.IntType() | inspect.FloatType():
            word = "a whole number" if isinstance(info, inspect.IntType) else "a number"
            low, high = info.ge, info.le
            return f"{word} from {low} to {high}" if low is not None and high is not None else f"{word} of at least {low}" if low else word
        case inspect.BoolType():
            return "true or false"
        case inspect.ListType():
            return f"an array of {expected(info.item_type)}"
        case inspect.DictType():
            return f"an object with values of {expected(info.value_type)}"
        case inspect.UnionType():
            return " or ".join(expected(t) for t in info.types)
    return "an object"


def got(value: object, *, secret: bool = False) -> str:
    """The value in plain words: short ones as they are, long and secret ones by their shape."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case int() | float():
            return "a number" if secret else str(value)[:40]
        case str():
            return f"{len(value)} characters" if secret or len(value) > 60 else repr(value)
        case list():
            return "an array"
    return "an object"
