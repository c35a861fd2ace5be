"""Catalogue: what is recorded, by room and time. Reads rows; says it again in each recording's sidecar."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from medianode.control import sidecar
from medianode.store import recording_files, recordings
from medianode.store.database import Database
from medianode.store.recording_files import Break, Edge, RecordingFile
from medianode.store.recordings import Recording

MOST_FILES = 100_000
"""Of one answer: ten weeks of one-minute files."""
MOST_STRETCHES = 10_000

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

    async def of_room(
        self, project_id: str, room: str, since: float, until: float, *, limit: int = MOST_FILES, parts: bool = False
    ) -> tuple[Sequence[Recording], Sequence[RecordingFile]]:
        """Recordings of a room and their files with anything between these instants (wallclock), by their beginnings. `room` is canonical.

        The first `limit` files; `parts`: with their packed index. Raises StorageError.
        """
        async with self._db.read() as tx:
            found = await recordings.overlapping(tx, project_id, room, since, until)
            files = await recording_files.of_room(tx, project_id, room, since, until, limit=limit, parts=parts) if found else []
        return found, files

    async def timeline(self, project_id: str, room: str, since: float, until: float) -> Sequence[Stretch]:
        """Where there is something, and between the stretches where there is nothing, by their beginnings. Raises StorageError."""
        async with self._db.read() as tx:
            found = {r.id: r for r in await recordings.overlapping(tx, project_id, room, since, until)}
            edges = [e for e in await recording_files.edges(tx, project_id, room, since, until) if e.recording_id in found]
            ids = [edge.recording_id for edge in edges]
            rows = await recording_files.breaks(tx, ids, since, until, MOST_STRETCHES) if ids else []
        breaks: dict[str, list[Break]] = {}
        for row in rows:
            breaks.setdefault(row.recording_id, []).append(row)
        made = [s for edge in edges for s in _stretches(edge, breaks.get(edge.recording_id, []), found[edge.recording_id].identity)]
        return sorted(made, key=lambda stretch: stretch.started_at)

    async def note(self, recording_id: str) -> None:
        """Write its sidecar anew: after a commit that changed what its files do not know. One that cannot be written is told in the log."""
        async with self._db.read() as tx:
            recording = await recordings.find(tx, recording_id)
            files = await recording_files.of_recording(tx, recording_id) if recording is not None else []
        if recording is None:
            return
        try:
            await asyncio.to_thread(sidecar.write, recording, files)
        except OSError as e:
            # the rows stand; only an index that is rebuilt from the disk would not know it
            log.warning("%s: %s not written: %s", recording_id, sidecar.NAME, e.strerror or e)


def _stretches(edge: Edge, breaks: Sequence[Break], identity: str) -> Iterable[Stretch]:
    inside = [each for each in breaks if each.started_at > edge.first_at]
    starts = [(edge.first_at, ""), *((each.started_at, each.gap) for each in inside)]
    ends = [*(each.before for each in inside), None if edge.last_state == "open" else edge.last_until]
    kept = edge.here_from
    for (start, gap), end in zip(starts, ends, strict=True):
        if kept is not None and start < kept and (end is None or end > kept):
            yield Stretch(edge.recording_id, identity, start, kept, gap, here=False)
            yield Stretch(edge.recording_id, identity, kept, end, "", here=True)
        else:
            yield Stretch(edge.recording_id, identity, start, end, gap, here=kept is not None and start >= kept)
