"""Footage: one file of a recording as players see it; Reel: a recording with the files that are there of it, at one moment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from medianode.media.parts import Part, entries, unpack
from medianode.store.recordings import Recording

SECOND = 1_000_000


@dataclass(frozen=True)
class Footage:
    """`started_at`: wallclock of its first sample; `start`, `duration`: microseconds on the recording's timeline. `nbytes`: what may
    be read.

    `gap`: why the timeline or the format breaks before it, or empty. `closed`: nothing is added any more. `here`: it is on this disk;
    `remote_key`: where it is in the bucket, or empty. `index`: `media.parts.pack`ed, where `listed` has not its parts already.
    """

    path: Path
    sequence: int
    started_at: float
    start: int
    duration: int
    nbytes: int
    init_bytes: int
    gap: str = ""
    closed: bool = True
    here: bool = True
    remote_key: str = ""
    index: bytes | None = field(default=None, repr=False, compare=False)
    listed: tuple[Part, ...] | None = field(default=None, repr=False, compare=False)

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def ended_at(self) -> float:
        return self.started_at + self.duration / SECOND

    @cached_property
    def parts(self) -> Sequence[Part]:
        """Costs a millisecond for a minute's file: not in the loop for many. Raises ValueError on an index that is none."""
        if self.listed is not None:
            return self.listed
        return [] if self.index is None else unpack(self.index)

    @property
    def entries(self) -> Sequence[tuple[int, int, int, int, int | bool]]:
        """The parts, plain, and not kept."""
        if self.listed is not None:
            return self.listed
        return [] if self.index is None else entries(self.index)

    def at(self, wallclock: float) -> int:
        """That instant on the recording's timeline, as this file has it."""
        return self.start + round((wallclock - self.started_at) * SECOND)

    def wallclock(self, start: int) -> float:
        return self.started_at + (start - self.start) / SECOND


@dataclass(frozen=True, slots=True)
class Reel:
    """`files` in order. `growing`: the recorder is at it, here."""

    recording: Recording
    files: tuple[Footage, ...]
    growing: bool = False


Chosen = tuple[Reel, Footage]
"""A file that is to be shown, and of what."""


def follows(before: Chosen | None, now: Chosen) -> bool:
    """Do its timeline and its format go on from that file's?"""
    reel, file = now
    return before is not None and (before[0].recording.id, before[1].sequence + 1) == (reel.recording.id, file.sequence) and not file.gap
