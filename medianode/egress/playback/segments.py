"""Segments: whole parts of a recording's file joined to what HLS players like to fetch. Pure; the same parts always give the same ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

_LEAST, _MOST = 4_000_000, 12_000_000
"""Microseconds: a segment ends before the first key frame from the one on, and without any at the other at the latest."""


class Segment(NamedTuple):
    """`offset` and `size` in the file; `start` on the recording's timeline and `duration`: microseconds."""

    offset: int
    size: int
    start: int
    duration: int
    independent: bool


Entry = tuple[int, int, int, int, int | bool]
"""A Part, plain or not."""


def cut(parts: Sequence[Entry], *, closed: bool) -> list[Segment]:
    """Of a file that still grows (not `closed`) only those that no further part can change."""
    found: list[Segment] = []
    begin = key = 0
    since = parts[0][2] if parts else 0
    for i, (_, _, start, duration, independent) in enumerate(parts):
        if i == begin:
            continue
        if independent:
            key = i
        if independent and start - since >= _LEAST:
            end = i
        elif start + duration - since > _MOST:
            end = key if key > begin else i
        else:
            continue
        found.append(_segment(parts, begin, end))
        begin, since = end, parts[end][2]
    if closed and begin < len(parts):
        found.append(_segment(parts, begin, len(parts)))
    return found


def _segment(parts: Sequence[Entry], begin: int, end: int) -> Segment:
    offset, _, start, _, independent = parts[begin]
    last, size, last_start, last_duration, _ = parts[end - 1]
    return Segment(offset, last + size - offset, start, max(1, last_start + last_duration - start), bool(independent))
