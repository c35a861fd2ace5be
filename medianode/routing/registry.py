"""Registry: all rooms of the node, made when somebody publishes or waits, forgotten when nobody does either."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from medianode.auth import PublishGrant
from medianode.config import Limits
from medianode.errors import LimitExceeded, MedianodeError, NotFound, Unauthorized
from medianode.events import Bus
from medianode.routing.publication import Publication
from medianode.routing.room import Room

DELETED = 4096
"""Ingresses deleted last that are remembered: a grant may have been given while the deletion ran. Their ids are never used again."""


class Registry:
    def __init__(self, bus: Bus, limits: Limits) -> None:
        self.bus = bus
        self.limits = limits
        self._rooms: dict[tuple[str, str], Room] = {}
        self._deleted: dict[str, None] = {}

    def __iter__(self) -> Iterator[Room]:
        return iter(tuple(self._rooms.values()))

    def __len__(self) -> int:
        return len(self._rooms)

    @property
    def publications(self) -> list[Publication]:
        return [p for room in self._rooms.values() for p in room.publications.values()]

    def find(self, project_id: str, room: str) -> Room | None:
        """The room of this canonical name; names are unique only within a project (`a` + `b-x` and `a-b` + `x` are both `a-b-x`)."""
        return self._rooms.get((project_id, room))

    def on_air(self, project_id: str, room: str) -> Room:
        """The room, live or held. Raises NotFound `no-programme` where nobody publishes."""
        found = self._rooms.get((project_id, room))
        if found is None or not found.on_air:
            raise NotFound(f"nobody publishes in room {room}", code="no-programme")
        return found

    def publish(self, grant: PublishGrant, door: str, peer: str, kick: Callable[[MedianodeError], None]) -> tuple[Room, Publication]:
        """Open a publication. Raises Conflict (somebody else holds it) or LimitExceeded."""
        if grant.ingress_id is not None and grant.ingress_id in self._deleted:
            raise Unauthorized("publish: the ingress was deleted")
        room = self._rooms.get((grant.project_id, grant.room))
        replaces = room is not None and grant.identity in room.publications
        if not replaces and len(self.publications) >= self.limits.publications:
            raise LimitExceeded(f"the node has {self.limits.publications} publications already", code="node-full")
        if room is None:
            if len(self._rooms) >= self.limits.rooms:
                raise LimitExceeded(f"the node has {self.limits.rooms} rooms already", code="node-full")
            gop = (self.limits.gop_packets, self.limits.gop_bytes)
            room = self._rooms[grant.project_id, grant.room] = Room(grant.slug, grant.room, grant.project_id, self.bus, gop, self._forget)
        return room, room.publish(grant, door, peer, kick)

    def kick_ingress(self, ingress_id: str, error: MedianodeError) -> bool:
        """Disconnect the encoder of this ingress at once, without a hold. True if there was one."""
        for room in tuple(self._rooms.values()):
            for publication in tuple(room.publications.values()):
                if publication.grant.ingress_id == ingress_id:
                    room.end(publication, error.code, final=True)
                    publication.kick(error)
                    return True
        return False

    def retire_ingress(self, ingress_id: str) -> None:
        """Deleted: nothing is opened for it any more, also not by a grant that is on its way."""
        self._deleted[ingress_id] = None
        if len(self._deleted) > DELETED:
            del self._deleted[next(iter(self._deleted))]

    def _forget(self, room: Room) -> None:
        if self._rooms.get((room.project_id, room.name)) is room:
            del self._rooms[room.project_id, room.name]
