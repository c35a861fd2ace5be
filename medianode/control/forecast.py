"""Forecast: how much room recordings have, how fast they take it, when the first will be deleted, and which."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medianode import clock, telemetry
from medianode.config import Recording as Settings
from medianode.control import disk
from medianode.control.disk import Space
from medianode.control.recording_places import RecordingPlaces
from medianode.control.recording_policy import RecordingPolicy, policy_of
from medianode.control.retention import Retention
from medianode.store import kept_files, projects
from medianode.store.database import Database, Transaction
from medianode.store.kept_files import Choice, KeptFile, Usage
from medianode.store.projects import Project

SHOWN = 10
"""Of the files that go next."""


@dataclass(frozen=True, slots=True)
class DiskForecast:
    """Of one disk. Bytes, bytes a second; `seconds_left`: until files go for want of room, None where nobody knows; `state` as in
    control.disk_states.
    """

    root: Path
    free: int
    total: int
    wanted: int
    write_rate: float
    state: str
    seconds_left: float | None


@dataclass(frozen=True, slots=True)
class Forecast:
    """Of a node, or of one project on it. `nbytes`: on the disk, open files too; `max_bytes` and `max_age`: what holds, 0 for none.

    `seconds_left`: until the first file goes, 0 where files are going, None where none will as things are; `cause`: `age`, `bytes` or
    `space`, or empty. `oldest`: wallclock, None where there is nothing. `next`: what goes first.
    """

    files: int
    nbytes: int
    max_bytes: int
    max_age: float
    write_rate: float
    oldest: float | None
    seconds_left: float | None
    cause: str
    disks: Sequence[DiskForecast]
    next: Sequence[KeptFile]


class Forecasts:
    def __init__(self, db: Database, settings: Settings, places: RecordingPlaces, retention: Retention, node_id: str) -> None:
        self._db = db
        self._settings = settings
        self._places = places
        self._retention = retention
        self._node_id = node_id
        self._register_metrics()

    async def of_node(self) -> Forecast:
        """Raises StorageError, OSError."""
        rules = RecordingPolicy(max_age=self._settings.max_age, max_bytes=self._settings.max_bytes)
        return await self._forecast(None, rules, self._retention.write_rate(), sorted(self._places.roots))

    async def of_project(self, project: Project) -> Forecast:
        """On this node. Raises StorageError, OSError."""
        policy = policy_of(project)
        ages = [age for age in (policy.max_age, self._settings.max_age) if age]
        rules = RecordingPolicy(max_age=min(ages, default=0.0), max_bytes=policy.max_bytes)
        rate = self._retention.rates.by_project.get(project.id, 0.0)
        return await self._forecast(project.id, rules, rate, [self._places.root(project.id)])

    async def _forecast(self, project_id: str | None, rules: RecordingPolicy, rate: float, roots: Iterable[Path]) -> Forecast:
        async with self._db.read() as tx:
            used = await kept_files.usage(tx, self._node_id, project_id)
            first = await kept_files.oldest(tx, Choice(node_id=self._node_id, project_id=project_id), SHOWN)
            own = await self._own_ends(tx, used) if project_id is None else {}
        spaces, _ = await asyncio.to_thread(disk.measure_all, roots, ())
        disks = [self._disk(space) for space in {space.device: space for space in reversed(spaces)}.values()]
        nbytes = sum(usage.nbytes for usage in used) + self._retention.open_bytes(project_id)
        ends = {
            "age": _sooner(first[0].ended_at + rules.max_age - clock.wallclock() if first and rules.max_age else None, own.get("age")),
            "bytes": _sooner(_until(rules.max_bytes - nbytes, rate) if rules.max_bytes else None, own.get("bytes")),
            "space": min((left for d in disks if (left := d.seconds_left) is not None), default=None),
        }
        cause, seconds_left = _soonest(ends)
        return Forecast(
            files=sum(usage.files for usage in used),
            nbytes=nbytes,
            max_bytes=rules.max_bytes,
            max_age=rules.max_age,
            write_rate=rate,
            oldest=min((usage.oldest for usage in used), default=None),
            seconds_left=seconds_left,
            cause=cause,
            disks=disks,
            next=first,
        )

    async def _own_ends(self, tx: Transaction, used: Sequence[Usage]) -> Mapping[str, float | None]:
        """When the first file goes by the words of a project of its own."""
        ages: list[tuple[float, float, str]] = []
        rates = self._retention.rates.by_project
        full: float | None = None
        for usage in used:
            project = await projects.find(tx, usage.project_id)
            policy = RecordingPolicy() if project is None else policy_of(project)
            if policy.max_age:
                ages.append((usage.oldest + policy.max_age, policy.max_age, usage.project_id))
            if policy.max_bytes:
                left = policy.max_bytes - usage.nbytes - self._retention.open_bytes(usage.project_id)
                full = _sooner(full, _until(left, rates.get(usage.project_id, 0.0)))
        aged: float | None = None
        for _, age, project_id in sorted(ages)[:SHOWN]:  # pinned files and the last one's length change the order a little at most
            for file in await kept_files.oldest(tx, Choice(node_id=self._node_id, project_id=project_id), 1):
                aged = _sooner(aged, file.ended_at + age - clock.wallclock())
        return {"age": aged, "bytes": full}

    def _disk(self, space: Space) -> DiskForecast:
        wanted, rate = self._retention.wanted(space), self._retention.write_rate(space)
        state = self._retention.states.get(space.device)
        return DiskForecast(
            root=space.root,
            free=space.free,
            total=space.total,
            wanted=wanted,
            write_rate=rate,
            state="ok" if state is None else state.state,
            seconds_left=_until(space.free - wanted, rate),
        )

    def _register_metrics(self) -> None:
        retention = self._retention
        telemetry.gauge(
            "medianode_recording_disk_free_bytes",
            "Free bytes of the disks that recordings are on",
            "root",
            read=lambda: [((str(space.root),), space.free) for space in retention.spaces],
        )
        telemetry.gauge(
            "medianode_recording_write_bytes_per_second",
            "What recordings write, a mean of minutes",
            read=lambda: [((), retention.write_rate())],
        )
        telemetry.gauge(
            "medianode_recording_retention_seconds",
            "Until files go for want of room; absent where nobody knows",
            "root",
            read=lambda: [((str(s.root),), left) for s in retention.spaces if (left := self._disk(s).seconds_left) is not None],
        )


def _until(nbytes: int, rate: float) -> float | None:
    """Seconds until so many bytes are written; 0 where they are already, None where nothing is being written."""
    if nbytes <= 0:
        return 0.0
    return nbytes / rate if rate > 0 else None


def _sooner(one: float | None, other: float | None) -> float | None:
    return min((seconds for seconds in (one, other) if seconds is not None), default=None)


def _soonest(ends: Mapping[str, float | None]) -> tuple[str, float | None]:
    known = {cause: max(0.0, seconds) for cause, seconds in ends.items() if seconds is not None}
    if not known:
        return "", None
    cause = min(known, key=lambda name: known[name])
    return cause, known[cause]
