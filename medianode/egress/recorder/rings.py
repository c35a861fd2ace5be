"""Rings: of each room on air the last seconds, where `recording.preroll` says so."""

from __future__ import annotations

from medianode.egress.recorder.intake import Follower, Intake
from medianode.egress.recorder.ring import Ring
from medianode.routing.room import Room
from medianode.transcode.renditions import Renditions


class Rings:
    """`seconds`: 0 keeps none. `max_bytes`: of each."""

    def __init__(self, renditions: Renditions, seconds: float, max_bytes: int) -> None:
        self._renditions = renditions
        self._seconds = seconds
        self._max_bytes = max_bytes
        self._rings: dict[tuple[str, str], tuple[Ring, Intake, Follower]] = {}

    def add(self, room: Room) -> None:
        if self._seconds > 0:
            ring = Ring(self._seconds, self._max_bytes)
            intake = Intake(self._renditions, ring)
            follower = Follower(room, intake, ring)
            self._rings[room.project_id, room.name] = (ring, intake, follower)
            follower.open()

    def drop(self, project_id: str, room: str) -> None:
        kept = self._rings.pop((project_id, room), None)
        if kept is not None:
            kept[2].close()

    def find(self, room: Room, identity: str) -> Ring | None:
        """Where it holds what is on now, and that is of this publisher (empty: of any)."""
        ring, intake, _ = self._rings.get((room.project_id, room.name), (None, None, None))
        publication = None if intake is None else intake.publication
        if ring is None or publication is None or not ring.nbytes:
            return None
        return ring if identity in ("", publication.grant.identity) else None

    def close(self) -> None:
        for ring in tuple(self._rings):
            self.drop(*ring)
