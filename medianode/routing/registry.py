"""Registry: all rooms of the node, made when somebody publishes or waits, forgotten when nobody does either."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from medianode.auth import PublishGrant
from medianode.config import Limits
from medianode.errors import Forbidden, LimitExceeded, MedianodeError, NotFound, Unauthorized
from medianode.events import Bus
from medianode.routing.audience import Audience
from medianode.routing.demand import Demand
from medianode.routing.publication import Publication
from medianode.routing.room import Room, Treat
from medianode.routing.slate import Slates

DELETED = 4096
"""Ingresses deleted or disabled last (and tokens and projects ended) that are remembered: a grant may have been given while that ran."""


class Registry:
    """`treat` makes the Treatment of a publication whose grant bounds its picture; the daemon sets it, as it lives on a higher floor."""

    def __init__(self, bus: Bus, limits: Limits, *, demand_wait: float = 8.0) -> None:
        self.bus = bus
        self.limits = limits
        self._rooms: dict[tuple[str, str], Room] = {}
        self._deleted: dict[str, None] = {}
        self._disabled: dict[str, None] = {}
        self.treat: Treat | None = None
        self.audience = Audience(limits.viewers_per_room, self._rooms.values)
        self.demand = Demand(bus, demand_wait)
        self.slates = Slates()

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

    async def wanted(self, project_id: str, room: str) -> Room:
        """As `on_air`, for somebody who may view: a source on demand is opened for it and waited for, some seconds at most."""
        found = self._rooms.get((project_id, room))
        if found is None or found.programme is None:  # in a gap, too: what was open may have been closed meanwhile
            if found is None or not found.on_air:
                await self.demand.ask(project_id, room)
            else:
                self.demand.open(project_id, room)
        return self.on_air(project_id, room)

    def fall_back(self, slug: str, project_id: str, name: str) -> None:
        """What a room falls back to is another now: it is made where it is to be on air always. Raises LimitExceeded."""
        room = self._rooms.get((project_id, name))
        fallback = self.slates.of(project_id, name)
        if room is None and fallback is not None and fallback.always and fallback.slate:
            room = self._room(slug, project_id, name)
        if room is not None:
            room.fall_back(fallback)

    def publish(self, grant: PublishGrant, door: str, peer: str, kick: Callable[[MedianodeError], None]) -> tuple[Room, Publication]:
        """Open a publication. Raises Conflict (somebody else holds it), LimitExceeded, Unauthorized, Forbidden `ingress-disabled`."""
        if grant.ingress_id is not None and grant.ingress_id in self._deleted:
            raise Unauthorized("publish: the ingress was deleted")
        if grant.project_id in self._deleted or (grant.token_id and f"{grant.project_id}/{grant.token_id}" in self._deleted):
            raise Unauthorized("publish: the project or the token that this was allowed by is gone")
        if grant.ingress_id is not None and grant.ingress_id in self._disabled:
            raise Forbidden("publish: the ingress is disabled", code="ingress-disabled")
        room = self._rooms.get((grant.project_id, grant.room))
        replaces = room is not None and grant.identity in room.publications
        if not replaces:
            self._check_project(grant, room)
        if not replaces and len(self.publications) >= self.limits.publications:
            raise LimitExceeded(f"the node has {self.limits.publications} publications already", code="node-full")
        if room is None:
            room = self._room(grant.slug, grant.project_id, grant.room)
        return room, room.publish(grant, door, peer, kick)

    def _room(self, slug: str, project_id: str, name: str) -> Room:
        if len(self._rooms) >= self.limits.rooms:
            raise LimitExceeded(f"the node has {self.limits.rooms} rooms already", code="node-full")
        gop = (self.limits.gop_packets, self.limits.gop_bytes)
        room = self._rooms[project_id, name] = Room(slug, name, project_id, self.bus, gop, self._forget, self.treat, self.slates)
        return room

    def look(self, now: float) -> None:
        """Once a second, after the meters were sampled: what grants allow over time."""
        for room in tuple(self._rooms.values()):
            room.look(now)

    def kick_ingress(self, ingress_id: str, error: MedianodeError, *, final: bool = True) -> bool:
        """Disconnect the encoder of this ingress at once. True if there was one.

        `final` (deleted, disabled, finished): its session is over, players do not wait, and a hold that runs ends. Else they are held as
        after any other loss, and the encoder may come back.
        """
        found = False
        for room in tuple(self._rooms.values()):
            for publication in tuple(room.publications.values()):
                if publication.grant.ingress_id == ingress_id:
                    room.end(publication, error.code, error.message, final=final)
                    publication.kick(error)
                    found = True
            if final:
                found = room.release_ingress(ingress_id) or found
        return found

    def disable_ingress(self, ingress_id: str, error: MedianodeError) -> bool:
        """Its session ends, and no other begins until `enable_ingress`, also not by a grant that is on its way. True if one ended."""
        _remember(self._disabled, ingress_id)
        return self.kick_ingress(ingress_id, error)

    def enable_ingress(self, ingress_id: str) -> None:
        self._disabled.pop(ingress_id, None)

    def _check_project(self, grant: PublishGrant, room: Room | None) -> None:
        """A project's own bounds. Raises LimitExceeded (`project-limit-publishers`), Forbidden (`project-limit-rooms`)."""
        if not grant.max_publishers and not grant.max_rooms:
            return
        used = [r for r in self._rooms.values() if r.project_id == grant.project_id and (r.publications or r.on_air)]
        publishers = sum(len(r.publications) for r in used)
        if grant.max_publishers and publishers >= grant.max_publishers:
            message = f"project {grant.slug} has {publishers} publishers already, which is its limit"
            raise LimitExceeded(message, code="project-limit-publishers")
        if grant.max_rooms and room not in used and len(used) >= grant.max_rooms:
            raise Forbidden(f"project {grant.slug} has {len(used)} rooms in use, which is its limit", code="project-limit-rooms")

    def end_token(self, project_id: str, token_id: str, error: MedianodeError) -> None:
        """A room token was revoked: who publishes by it is put out, and nobody does so any more."""
        _remember(self._deleted, f"{project_id}/{token_id}")
        self._end(lambda grant: (grant.project_id, grant.token_id) == (project_id, token_id), error)

    def end_project(self, project_id: str, error: MedianodeError) -> None:
        """It was deleted: all its publishers are put out, its holds end, and nothing is opened for it any more."""
        _remember(self._deleted, project_id)
        self._end(lambda grant: grant.project_id == project_id, error)
        for room in self:
            if room.project_id == project_id:
                room.release_all()

    def _end(self, which: Callable[[PublishGrant], bool], error: MedianodeError) -> None:
        for room in self:
            for publication in tuple(room.publications.values()):
                if which(publication.grant):
                    room.end(publication, error.code, error.message, final=True)
                    publication.kick(error)

    def retire_ingress(self, ingress_id: str) -> None:
        """Deleted: nothing is opened for it any more, also not by a grant that is on its way."""
        _remember(self._deleted, ingress_id)

    def _forget(self, room: Room) -> None:
        if self._rooms.get((room.project_id, room.name)) is room:
            del self._rooms[room.project_id, room.name]


def _remember(ingresses: dict[str, None], ingress_id: str) -> None:
    ingresses[ingress_id] = None
    if len(ingresses) > DELETED:
        del ingresses[next(iter(ingresses))]
