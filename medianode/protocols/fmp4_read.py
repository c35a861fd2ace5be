"""Reading back fragmented MP4 of our own making (ISO/IEC 14496-12), without its media: what a file of a recording holds, box by box.

Sans-IO: the caller reads headers at the offsets it is told, and hands in moov and moof whole; mdat is never wanted.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from medianode.errors import ProtocolError
from medianode.protocols.fmp4_boxes import Box, parse_boxes
from medianode.protocols.fmp4_samples import samples

HEADER_BYTES = 16
"""Enough for any box's header."""
MAX_BOX = 16 << 20
"""Bytes of a moov or moof that is worth reading."""
_SECOND = 1_000_000


class Header(NamedTuple):
    """`size` of the whole box, `length` of its header, bytes."""

    type: bytes
    size: int
    length: int


class Timescale(NamedTuple):
    """Of a track, in ticks per second."""

    rate: int
    is_video: bool


class Run(NamedTuple):
    """One track's samples in a fragment. `base`: decode time of the first, `ticks`: how long all last, in units of 1/`rate` s. `sync`: the
    first is a key frame.
    """

    is_video: bool
    rate: int
    base: int
    ticks: int
    sync: bool


class Extent(NamedTuple):
    """`start` and `duration` in microseconds."""

    start: int
    duration: int
    independent: bool


def header(data: bytes) -> Header | None:
    """Of the box that `data` begins with; None where it is cut. ProtocolError on a size that cannot be: a box to the end of the file (0)
    is none of ours.
    """
    if len(data) < 8:
        return None
    size, kind = struct.unpack_from(">I4s", data)
    length = 8
    if size == 1:
        if len(data) < 16:
            return None
        size, length = int.from_bytes(data[8:16], "big"), 16
    if size < length:
        raise ProtocolError(f"ISO BMFF: expected {kind!r} of {length} bytes or more, got {size}")
    return Header(kind, size, length)


def timescales(moov: bytes) -> Mapping[int, Timescale]:
    """By track_ID. `moov`: the payload. ProtocolError."""
    top = Box(b"moov", b"", tuple(parse_boxes(moov)))
    found: dict[int, Timescale] = {}
    for trak in top.children:
        if trak.type == b"trak":
            number = _u32(trak.find(b"tkhd").payload, 12)
            rate = _u32(trak.find(b"mdia", b"mdhd").payload, 12)
            if not rate:
                raise ProtocolError("ISO BMFF: expected a timescale, got 0")
            found[number] = Timescale(rate, trak.find(b"mdia", b"hdlr").payload[8:12] == b"vide")
    return found


def user_box(moov: bytes, extended_type: bytes) -> bytes | None:
    """What our own box in moov holds; None where there is none. ProtocolError."""
    for box in parse_boxes(moov):
        if box.type == b"uuid" and box.payload[:16] == extended_type:
            return box.payload[16:]
    return None


def runs(moof: bytes, tracks: Mapping[int, Timescale]) -> list[Run]:
    """Of a moof, its header included. ProtocolError where it is not of these tracks, or not whole."""
    found = []
    for table in samples(moof):
        scale = tracks.get(table.number)
        if scale is None or not table.sizes:
            raise ProtocolError(f"ISO BMFF: expected samples of tracks {sorted(tracks)}, got {len(table.sizes)} of {table.number}")
        sync = table.keys is None or table.keys[:1] == (0,)
        found.append(Run(scale.is_video, scale.rate, table.base, sum(table.durations), sync))
    if not found:
        raise ProtocolError("ISO BMFF: expected a track fragment, got none")
    return found


def extent(parts: Iterable[Run], *, has_video: bool) -> Extent:
    """When a fragment is shown: its picture's time, its sound's where it has no picture. Players may start at key frames, or at sound where
    there is no picture at all.
    """
    first: Run | None = None
    for run in parts:
        if first is None or (run.is_video and not first.is_video):
            first = run
    if first is None:
        raise ProtocolError("ISO BMFF: expected a run of samples, got none")
    start = first.base * _SECOND // first.rate
    end = (first.base + first.ticks) * _SECOND // first.rate
    return Extent(start, end - start, first.sync if first.is_video else not has_video)


def _u32(data: bytes, at: int) -> int:
    if len(data) < at + 4:
        raise ProtocolError(f"ISO BMFF: expected {at + 4} bytes in a box, got {len(data)}")
    return int.from_bytes(data[at : at + 4], "big")
