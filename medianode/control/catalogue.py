"""Catalogue: what is recorded, by room and time. Reads rows; says it again in each recording's sidecar."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from medianode.control import sidecar
from medianode.errors import InvalidRequest, StorageError
from medianode.store import recording_files, recordings
from medianode.store.database import Database
from medianode.store.recording_files import Break, Edge

MOST_STRETCHES = 10_000
"""Of one answer."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Stretch:
    """Uninterrupted media of one recording. Wallclock; `ended_at` None where it goes on. `gap`: why nothing is before it, or empty.

    `here`: on the disk of the node that recorded it; else it is in a bucket only.
    """

    recording_id: str
    identity: str
    started_at: float
    ended_at: float | None
    gap: str
    here: bool


class Catalogue:
    """All of it is the database's: any node answers for any recording."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def timeline(self, project_id: str, room: str, since: float, until: float) -> Sequence[Stretch]:
        """Where there is something, and between the stretches where there is nothing, by their beginnings. `room` is canonical.

        Raises InvalidRequest (`span-too-long`), StorageError.
        """
        async with self._db.read() as tx:
            edges = await recording_files.edges(tx, project_id, room, since, until, MOST_STRETCHES + 1)
            rows = await recording_files.breaks(tx, project_id, room, since, until, MOST_STRETCHES + 1) if edges else []
        if len(edges) + len(rows) > MOST_STRETCHES:
            raise InvalidRequest(f"from: expected less time: there are more than {MOST_STRETCHES} stretches in it", code="span-too-long")
        breaks: dict[str, list[Break]] = {}
        for row in rows:
            breaks.setdefault(row.recording_id, []).append(row)
        made = [stretch for edge in edges for stretch in _stretches(edge, breaks.get(edge.recording_id, []))]
        return sorted(made, key=lambda stretch: stretch.started_at)

    async def note(self, recording_id: str) -> None:
        """Write its sidecar anew: after a commit that changed what its files do not know. One that cannot be written is told in the log:
        the rows stand; only an index that is rebuilt from the disk would not know it."""
        try:
            async with self._db.read() as tx:
                recording = await recordings.find(tx, recording_id)
                files = await recording_files.in_bucket(tx, recording_id) if recording is not None else []
            if recording is not None:
                await asyncio.to_thread(sidecar.write, recording, files)
        except (StorageError, OSError) as e:
            log.warning("%s: %s not written: %s", recording_id, sidecar.NAME, e)


def _stretches(edge: Edge, breaks: Sequence[Break]) -> Iterable[Stretch]:
    inside = [each for each in breaks if each.started_at > edge.first_at]
    starts = [(edge.first_at, ""), *((each.started_at, each.gap) for each in inside)]
    ends = [*(each.before for each in inside), None if edge.last_state == "open" else edge.last_until]
    kept = edge.here_from
    for (start, gap), end in zip(starts, ends, strict=True):
        if kept is not None and start < kept and (end is None or end > kept):
            yield Stretch(edge.recording_id, edge.identity, start, kept, gap, here=False)
            yield Stretch(edge.recording_id, edge.identity, kept, end, "", here=True)
        else:
            yield Stretch(edge.recording_id, edge.identity, start, end, gap, here=kept is not None and start >= kept)
