"""Write rates: bytes a second that recordings put on the disk, measured over minutes, by project."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medianode.events import Bus, RecordingEnded, RecordingFileChanged, RecordingStarted

WINDOW = 300.0
"""Seconds that the rate is a mean over: several files of a minute each."""
LEAST = 20.0
"""Below this there is no rate to speak of."""


@dataclass(frozen=True, slots=True)
class Running:
    """A recording that is being written. `path`: its open file, None between two."""

    project_id: str
    directory: Path
    path: Path | None = None


class WriteRates:
    """Follows the bus; `sample` is told how large the open files are."""

    def __init__(self, bus: Bus) -> None:
        self.running: dict[str, Running] = {}
        self.closed: Counter[str] = Counter()
        """Bytes of files that were closed since the start, by project."""
        self._points: deque[tuple[float, Counter[str]]] = deque()
        bus.subscribe(RecordingStarted, self._started)
        bus.subscribe(RecordingFileChanged, self._file_changed)
        bus.subscribe(RecordingEnded, self._ended)

    @property
    def open_files(self) -> Sequence[Path]:
        return [running.path for running in self.running.values() if running.path is not None]

    def sample(self, now: float, sizes: Mapping[Path, int]) -> None:
        """`sizes`: of the open files, bytes."""
        self._points.append((now, self.closed + self.open_bytes(sizes)))
        while len(self._points) > 2 and now - self._points[0][0] > WINDOW:
            self._points.popleft()

    def open_bytes(self, sizes: Mapping[Path, int]) -> Counter[str]:
        """By project, what is in files that are not closed."""
        found: Counter[str] = Counter()
        for running in self.running.values():
            if running.path is not None:
                found[running.project_id] += sizes.get(running.path, 0)
        return found

    @property
    def by_project(self) -> Mapping[str, float]:
        """Bytes a second. Nothing where none is recording: what was written minutes ago says nothing of the hours to come."""
        if len(self._points) < 2:
            return {}
        (since, before), (now, after) = self._points[0], self._points[-1]
        if now - since < LEAST:
            return {}
        living = {running.project_id for running in self.running.values()}
        return {project_id: max(0.0, after[project_id] - before[project_id]) / (now - since) for project_id in living}

    def _started(self, event: RecordingStarted) -> None:
        self.running[event.recording_id] = Running(event.project_id, Path(event.directory))

    def _file_changed(self, event: RecordingFileChanged) -> None:
        running = self.running.get(event.recording_id)
        if event.closed:
            self.closed[event.project_id] += event.nbytes
        if running is not None:
            path = None if event.closed else running.directory / event.name
            self.running[event.recording_id] = Running(running.project_id, running.directory, path)

    def _ended(self, event: RecordingEnded) -> None:
        self.running.pop(event.recording_id, None)
