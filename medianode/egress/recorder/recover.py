"""Recovery of one file: what of it is whole, where the process or the power was cut off; and what the catalogue is made anew from."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from medianode.egress.recorder import label
from medianode.egress.recorder.label import Label, TrackFacts
from medianode.errors import ProtocolError
from medianode.media.parts import Part
from medianode.protocols import fmp4_read
from medianode.protocols.fmp4_read import Timescale

LONGEST = 1 << 60
"""Microseconds; a part behind that is garbage, …"""
LARGEST = 1 << 32
"""… and one of so many bytes: the index of parts has four for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovered:
    """`label`: what the file says of itself (`recording`, `project`, `room`, …). `cut`: bytes of a torn tail, taken off. `nbytes`: what is
    whole. `started_at`: wallclock; `start` and `duration`: microseconds on the recording's timeline.
    """

    label: Label
    sequence: int
    gap: str
    started_at: float
    start: int
    duration: int
    nbytes: int
    init_bytes: int
    cut: int
    tracks: tuple[TrackFacts, ...]
    parts: tuple[Part, ...] = field(repr=False)


def recover(path: Path, *, truncate: bool = True) -> Recovered:
    """Read the boxes of a file, its media aside, and take off (`truncate`) what is not whole. Blocks.

    Raises ProtocolError where nothing is whole, or it is no file of a recording; OSError.
    """
    with ExitStack() as stack:
        fd = os.open(path, (os.O_RDWR if truncate else os.O_RDONLY) | os.O_CLOEXEC)
        stack.callback(os.close, fd)
        found = _read(_Bytes(fd))
        if truncate and found.cut:
            os.ftruncate(fd, found.nbytes)
            os.fsync(fd)
        return found


class _Bytes:
    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.size = os.fstat(fd).st_size

    def at(self, offset: int, size: int) -> bytes:
        return os.pread(self._fd, size, offset)


def _read(file: _Bytes) -> Recovered:
    """Whole parts from the front; ProtocolError where there is none."""
    init_bytes, moov = _init(file)
    told = label.parse(moov)
    scales = fmp4_read.timescales(moov)
    parts = _parts(file, init_bytes, scales)
    if not parts:
        raise ProtocolError("recording: expected a whole part, got none")
    nbytes = parts[-1].offset + parts[-1].size
    start = told["start"]
    return Recovered(
        label=told,
        sequence=told["sequence"],
        gap=told.get("gap", ""),
        started_at=told["startedAt"],
        start=start,
        duration=max(part.start + part.duration for part in parts) - start,
        nbytes=nbytes,
        init_bytes=init_bytes,
        cut=file.size - nbytes,
        tracks=tuple(told["tracks"]),
        parts=tuple(parts),
    )


def _init(file: _Bytes) -> tuple[int, bytes]:
    """(bytes of ftyp and moov, moov's payload)."""
    at = 0
    for kind in (b"ftyp", b"moov"):
        head = fmp4_read.header(file.at(at, fmp4_read.HEADER_BYTES))
        if head is None or head.type != kind or head.size > fmp4_read.MAX_BOX or at + head.size > file.size:
            raise ProtocolError(f"recording: expected a whole {kind.decode()}, got {head}")
        body = file.at(at + head.length, head.size - head.length)
        at += head.size
    return at, body


def _parts(file: _Bytes, at: int, scales: Mapping[int, Timescale]) -> list[Part]:
    """A part is what stands before its moof (prft), the moof, and its mdat."""
    parts: list[Part] = []
    has_video = any(scale.is_video for scale in scales.values())
    begin, runs = at, None
    while at < file.size:
        try:
            head = fmp4_read.header(file.at(at, fmp4_read.HEADER_BYTES))
            if head is None or at + head.size > file.size:
                break
            if head.type == b"moof":
                if head.size > fmp4_read.MAX_BOX:
                    break
                runs = fmp4_read.runs(file.at(at, head.size), scales)
            elif head.type == b"mdat" and runs is not None:
                extent = fmp4_read.extent(runs, has_video=has_video)
                if extent.start + extent.duration > LONGEST or at + head.size - begin >= LARGEST:
                    break
                parts.append(Part(begin, at + head.size - begin, *extent))
                runs = None
                begin = at + head.size
            elif head.type != b"prft":
                break
        except ProtocolError:  # LimitExceeded too: garbage behind what is whole
            break
        at += head.size
    return parts
