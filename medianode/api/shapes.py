"""The envelopes of StreamHub's bodies, shared by its routes and the operators'."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, TypeVar

import msgspec

T = TypeVar("T")


class Data(msgspec.Struct, Generic[T]):
    data: T


class Page(msgspec.Struct, Generic[T]):
    """`total` counts all, before `limit` and `offset`."""

    data: list[T]
    total: int
    limit: int
    offset: int


def page_of(rows: Sequence[T], limit: int, offset: int) -> Page[T]:
    """A page out of rows that are all at hand."""
    return Page(list(rows[offset : offset + limit]), len(rows), limit, offset)
