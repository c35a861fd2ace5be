"""Part: one fragment (moof and mdat) of a recording's file, and the packed index of a file's parts that the database keeps."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import NamedTuple

_ENTRY = struct.Struct("<QIqIB")
_VERSION = b"\x01"
_LONGEST = (1 << 32) - 1


class Part(NamedTuple):
    """`offset` and `size` in the file, bytes. `start`: of the earliest sample on the recording's timeline, `duration`: both microseconds.

    `independent`: it begins with a key frame (sound where there is no picture): players may start here.
    """

    offset: int
    size: int
    start: int
    duration: int
    independent: bool


def pack(parts: Iterable[Part]) -> bytes:
    """25 bytes per part behind a version byte. A part of more than 71 minutes (a still picture without sound) is told as one of these."""
    return _VERSION + b"".join(_ENTRY.pack(p.offset, p.size, p.start, min(p.duration, _LONGEST), p.independent) for p in parts)


def unpack(index: bytes) -> Sequence[Part]:
    """Raises ValueError where it is not what `pack` made."""
    return [Part(offset, size, start, duration, bool(key)) for offset, size, start, duration, key in entries(index)]


def entries(index: bytes) -> list[tuple[int, int, int, int, int]]:
    """The fields of Part, plain: made at a third of the cost, for who looks at a day's. Raises as `unpack`."""
    if index[:1] != _VERSION or (len(index) - 1) % _ENTRY.size:
        raise ValueError(f"index of parts: expected version 1 and entries of {_ENTRY.size} bytes, got {len(index)} bytes")
    return list(_ENTRY.iter_unpack(memoryview(index)[1:]))
