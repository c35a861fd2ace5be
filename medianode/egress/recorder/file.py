"""RecordedFile: one file of a recording while it is written, and what others see of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from medianode.egress.recorder.label import TrackFacts
from medianode.media.parts import Part


@dataclass(frozen=True, slots=True)
class LiveFile:
    """An open file: only what is on the disk. `init`: ftyp and moov. `started_at`: wallclock, `start`: microseconds in the recording."""

    path: Path
    sequence: int
    started_at: float
    start: int
    gap: str
    init: bytes = field(repr=False)
    parts: Sequence[Part] = field(repr=False)

    @property
    def nbytes(self) -> int:
        return self.parts[-1].offset + self.parts[-1].size if self.parts else len(self.init)

    @property
    def duration(self) -> int:
        """Microseconds."""
        return max((part.start + part.duration for part in self.parts), default=self.start) - self.start


class RecordedFile:
    """`size`: with what is still on its way to the disk. `parts`: those on the disk."""

    __slots__ = ("gap", "init", "opened", "parts", "path", "sequence", "size", "start", "started_at", "tracks")

    def __init__(
        self, path: Path, sequence: int, gap: str, started_at: float, start: int, tracks: tuple[TrackFacts, ...], init: bytes
    ) -> None:
        self.path = path
        self.sequence = sequence
        self.gap = gap
        self.started_at = started_at
        self.start = start
        self.tracks = tracks
        self.init = init
        self.size = len(init)
        self.parts: list[Part] = []
        self.opened = False

    @property
    def nbytes(self) -> int:
        """On the disk."""
        return self.live().nbytes

    @property
    def duration(self) -> int:
        """Microseconds on the disk."""
        return self.live().duration

    def live(self) -> LiveFile:
        return LiveFile(self.path, self.sequence, self.started_at, self.start, self.gap, self.init, tuple(self.parts))


def name(sequence: int) -> str:
    return f"{sequence:06}.mp4"
