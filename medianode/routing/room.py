"""Room: a named place; its publications, its programme, and the hold window that keeps players through a publisher's gap."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from medianode import clock
from medianode.auth import PublishGrant, Takeover
from medianode.errors import Conflict, LimitExceeded, MedianodeError, PeerGone
from medianode.events import Bus, PublicationActive, PublicationEnded, PublicationLost, PublicationOpened, RoomEnded, RoomLive
from medianode.media.gop import GopCache
from medianode.media.packet import Gap
from medianode.media.track import Track
from medianode.routing.feed import Sink, tell
from medianode.routing.programme import pick_programme
from medianode.routing.publication import Publication

T = TypeVar("T")
TAKEOVER_SILENCE = 2.0
"""Seconds without a packet after which another encoder with the same key may take over even under the policy `reject`."""


class Room:
    """A Feed of its programme. Players attach to the room, not to a publication, and so stay through takeover and hold."""

    def __init__(self, slug: str, name: str, project_id: str, bus: Bus, limits: tuple[int, int], on_idle: Callable[[Room], None]) -> None:
        self.slug = slug
        self.name = name
        self.project_id = project_id
        self.publications: dict[str, Publication] = {}
        self.programme: Publication | None = None
        self.viewers: dict[str, int] = {}
        self.live_since = 0.0
        self.on_air = False
        self._bus = bus
        self._gop_limits = limits
        self._on_idle = on_idle
        self._sinks: list[Sink] = []
        self._holds: dict[str, tuple[asyncio.TimerHandle, PublicationLost]] = {}

    @property
    def tracks(self) -> tuple[Track, ...]:
        return self.programme.tracks if self.programme else ()

    @property
    def held(self) -> bool:
        """On air, but in a publisher's gap."""
        return self.on_air and self.programme is None

    def publish(self, grant: PublishGrant, door: str, peer: str, kick: Callable[[MedianodeError], None]) -> Publication:
        """Open a publication for `grant.identity`. Raises Conflict where another encoder holds it and may not be replaced."""
        old = self.publications.get(grant.identity)
        if old is not None:
            silent = clock.now() - old.last_packet_at
            if grant.takeover is Takeover.REJECT and silent < TAKEOVER_SILENCE:
                raise Conflict(f"{grant.identity!r} publishes here already, last packet {silent:.1f} s ago", code="already-publishing")
            self._finish(old, "takeover")
            old.kick(PeerGone("another encoder with the same key took over", code="takeover"))
            if old.grant.ingress_id != grant.ingress_id:
                # two ingresses may share an identity: the one put out learns of it
                lost = _lost(old.grant, "takeover")
                self._bus.publish(lost)
                self._ended(lost)
        held = self._holds.pop(grant.identity, None)
        if held is not None:
            held[0].cancel()
            if held[1].ingress_id != grant.ingress_id:
                self._ended(held[1])
        publication = Publication(grant, door, peer, kick, GopCache(*self._gop_limits))
        publication.resumes = held is not None or (old is not None and (old.active or old.resumes))
        publication.on_active = self._activated
        self.publications[grant.identity] = publication
        self._bus.publish(
            PublicationOpened(project_id=self.project_id, room=self.name, identity=grant.identity, ingress_id=grant.ingress_id)
        )
        return publication

    def end(self, publication: Publication, cause: str, message: str = "", *, failed: bool = False, final: bool = False) -> None:
        """The door's session is over. Players are held for `grant.hold` seconds unless `final` (the ingress was deleted). Idempotent."""
        if publication.ended:
            return
        self._finish(publication, cause)
        grant = publication.grant
        lost = _lost(grant, cause, message, failed=failed)
        self._bus.publish(lost)
        hold = grant.hold if not final and (publication.active or publication.resumes) else 0.0
        if hold > 0:
            timer = asyncio.get_running_loop().call_later(hold, self._hold_expired, grant.identity)
            self._holds[grant.identity] = (timer, lost)
        else:
            self._ended(lost)
        self._settle()

    def release(self, identity: str, ingress_id: str | None = None) -> None:
        """End the hold of this identity now: its ingress is gone. `ingress_id`: only where the hold is that one's."""
        if identity in self._holds and ingress_id in (None, self._holds[identity][1].ingress_id):
            self._holds[identity][0].cancel()
            self._hold_expired(identity)

    def attach(self, sink: Sink, *, replay: bool = True) -> None:
        self._sinks.append(sink)
        if self.programme is not None:
            self.programme.attach(sink, replay=replay)

    def detach(self, sink: Sink) -> None:
        self._sinks = [s for s in self._sinks if s is not sink]
        if self.programme is not None:
            self.programme.detach(sink)
        self._settle()

    def request_keyframe(self) -> None:
        if self.programme is not None:
            self.programme.request_keyframe()

    def count_viewer(self, door: str, delta: int, bound: int) -> None:
        """Count a viewer in (+1) or out (-1). Raises LimitExceeded when the room is full."""
        if delta > 0 and sum(self.viewers.values()) >= bound:
            raise LimitExceeded(f"room {self.name} has {bound} viewers already", code="room-full")
        self.viewers[door] = max(0, self.viewers.get(door, 0) + delta)

    def _activated(self, publication: Publication) -> None:
        self._bus.publish(
            PublicationActive(
                project_id=self.project_id, room=self.name, identity=publication.grant.identity, ingress_id=publication.grant.ingress_id
            )
        )
        self._switch()

    def _finish(self, publication: Publication, cause: str) -> None:
        publication.ended = True
        publication.on_active = None  # what its door may still write is no news
        identity = publication.grant.identity
        if self.publications.get(identity) is publication:
            del self.publications[identity]
        self._switch(cause)

    def _switch(self, cause: str = "") -> None:
        """Move the players to whatever the rule picks now. They see a Gap, then the new tracks."""
        new = pick_programme(self.publications.values(), self.programme)
        old = self.programme
        if new is old:
            return
        self.programme = new
        if old is not None:
            for sink in self._sinks:
                old.detach(sink)
                self._tell(sink, sink.on_gap, Gap("takeover" if new or cause == "takeover" else "publisher-gap"))
        if new is None:
            return
        if not self.on_air:
            self.on_air = True
            self.live_since = clock.wallclock()
            self._bus.publish(RoomLive(project_id=self.project_id, room=self.name))
        for sink in tuple(self._sinks):
            if sink not in new.sinks:
                new.attach(sink)

    def _tell(self, sink: Sink, method: Callable[[T], None], argument: T) -> None:
        if not tell(method, argument):
            self._sinks = [s for s in self._sinks if s is not sink]

    def _hold_expired(self, identity: str) -> None:
        _, lost = self._holds.pop(identity)
        self._ended(lost)
        self._settle()

    def _ended(self, lost: PublicationLost) -> None:
        self._bus.publish(
            PublicationEnded(
                project_id=lost.project_id, room=lost.room, identity=lost.identity, ingress_id=lost.ingress_id, cause=lost.cause
            )
        )

    def _settle(self) -> None:
        """Off air once nobody publishes and nobody is expected back; forgotten once nobody reads either."""
        if self.publications or self._holds:
            return
        if self.on_air:
            self.on_air = False
            sinks, self._sinks = self._sinks, []
            for sink in sinks:
                self._tell(sink, sink.on_end, "stream-ended")
            self._bus.publish(RoomEnded(project_id=self.project_id, room=self.name))
        if not self._sinks:
            self._on_idle(self)


def _lost(grant: PublishGrant, cause: str, message: str = "", *, failed: bool = False) -> PublicationLost:
    return PublicationLost(
        project_id=grant.project_id,
        room=grant.room,
        identity=grant.identity,
        ingress_id=grant.ingress_id,
        cause=cause,
        message=message,
        failure=failed,
    )
