"""Room: a named place; its publications, its programme, and the hold window that keeps players through a publisher's gap."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import ExitStack
from typing import TypeVar

from medianode import clock
from medianode.auth import PublishGrant, Takeover
from medianode.errors import Conflict, LimitExceeded, MedianodeError, PeerGone
from medianode.events import Bus, PublicationActive, PublicationEnded, PublicationLost, PublicationOpened, RoomEnded, RoomLive
from medianode.media.gop import GopCache
from medianode.media.packet import Gap
from medianode.media.track import Track
from medianode.routing.feed import Sink, Treatment, tell
from medianode.routing.policy import RESOLUTION, Policy, Session
from medianode.routing.programme import pick_programme
from medianode.routing.publication import Publication
from medianode.tasks import guarded

T = TypeVar("T")
Treat = Callable[[Publication, Callable[[tuple[Sink, ...]], None]], Treatment]
"""Makes the Treatment of a publication; the second is to be called with the readers that it had to end."""
TAKEOVER_SILENCE = 2.0
"""Seconds without a packet after which another encoder with the same key may take over even under the policy `reject`."""


class Room:
    """A Feed of its programme. Players attach to the room, not to a publication, and so stay through takeover and hold.

    A session is all that an encoder publishes from its first key frame on until its hold is over; what policies count goes on over it.
    """

    def __init__(
        self,
        slug: str,
        name: str,
        project_id: str,
        bus: Bus,
        limits: tuple[int, int],
        on_idle: Callable[[Room], None],
        treat: Treat | None = None,
    ) -> None:
        self.slug = slug
        self.name = name
        self.project_id = project_id
        self.publications: dict[str, Publication] = {}
        self.programme: Publication | None = None
        self.viewers: dict[str, int] = {}
        self.live_since = 0.0
        self.on_air = False
        self.low_latency = True
        self._treat = treat
        self._treatment: Treatment | None = None
        self._policies: dict[Publication, Policy] = {}
        self._sessions: dict[str, Session] = {}
        self._bus = bus
        self._gop_limits = limits
        self._on_idle = on_idle
        self._sinks: list[Sink] = []
        self._holds: dict[str, tuple[asyncio.TimerHandle, PublicationLost]] = {}

    @property
    def tracks(self) -> tuple[Track, ...]:
        """What players are shown: of a picture that is made smaller, the smaller one."""
        shown = self._shown
        return () if shown is None else shown.tracks

    @property
    def video(self) -> Track | None:
        return next((track for track in self.tracks if track.is_video), None)

    @property
    def gop(self) -> GopCache | None:
        """What late joiners start with; None where there is no programme."""
        shown = self._shown
        return None if shown is None else shown.gop

    @property
    def treated(self) -> bool:
        """Its pictures are made anew while somebody reads, so nobody should who has no need."""
        return self._treatment is not None and self._treatment.treats

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
        if Policy.needed(grant):
            session = self._sessions.setdefault(grant.identity, Session())
            self._policies[publication] = Policy(publication, session, self.put_out)
            publication.on_tracks = self._tracks_known
        self.low_latency = grant.low_latency
        self.publications[grant.identity] = publication
        self._bus.publish(PublicationOpened(self.project_id, self.name, grant.identity, grant.ingress_id, door=door, name=grant.name))
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
        session = self._sessions.get(grant.identity)
        if grant.max_duration and session is not None and session.since is not None:
            hold = min(hold, session.since + grant.max_duration - clock.now())
        if hold > 0:
            timer = asyncio.get_running_loop().call_later(hold, self._hold_expired, grant.identity)
            self._holds[grant.identity] = (timer, lost)
        else:
            self._ended(lost)
        self._settle()

    def put_out(self, publication: Publication, error: MedianodeError) -> None:
        """End it for good, for a reason of ours; its door hears of it in the loop's next turn, for it may be what is calling."""
        if not publication.ended:
            self.end(publication, error.code, error.message, failed=error.code == RESOLUTION, final=True)
            asyncio.get_running_loop().call_soon(guarded, "kick", publication.kick, error)

    def look(self, now: float) -> None:
        """Once a second, after the meters were sampled."""
        for policy in tuple(self._policies.values()):
            policy.look(now)

    def release_ingress(self, ingress_id: str) -> bool:
        """End the hold of this ingress now. True if there was one."""
        held = [identity for identity, (_, lost) in self._holds.items() if lost.ingress_id == ingress_id]
        for identity in held:
            self.release(identity)
        return bool(held)

    def release(self, identity: str, ingress_id: str | None = None) -> None:
        """End the hold of this identity now: its ingress is gone. `ingress_id`: only where the hold is that one's."""
        if identity in self._holds and ingress_id in (None, self._holds[identity][1].ingress_id):
            self._holds[identity][0].cancel()
            self._hold_expired(identity)

    def release_all(self) -> None:
        """End all holds now: the node is stopping, and nobody can come back to it."""
        for identity in tuple(self._holds):
            self.release(identity)

    def attach(self, sink: Sink, *, replay: bool = True) -> None:
        """Raises LimitExceeded `node-full` where the picture is to be made smaller and no thread is left for it."""
        with ExitStack() as undo:
            undo.callback(self._forget, (sink,))
            self._sinks.append(sink)
            if (shown := self._shown) is not None:
                shown.attach(sink, replay=replay)
            undo.pop_all()

    def detach(self, sink: Sink) -> None:
        self._forget((sink,))
        if (shown := self._shown) is not None:
            shown.detach(sink)
        self._settle()

    def request_keyframe(self) -> None:
        if (shown := self._shown) is not None:
            shown.request_keyframe()

    def count_viewer(self, door: str, delta: int, bound: int) -> None:
        """Count a viewer in (+1) or out (-1). Raises LimitExceeded when the room is full."""
        if delta > 0 and sum(self.viewers.values()) >= bound:
            raise LimitExceeded(f"room {self.name} has {bound} viewers already", code="room-full")
        self.viewers[door] = max(0, self.viewers.get(door, 0) + delta)

    @property
    def _shown(self) -> Publication | Treatment | None:
        return self._treatment or self.programme

    def _tracks_known(self, publication: Publication) -> None:
        policy = self._policies.get(publication)
        if policy is not None:
            policy.on_tracks()
        if self._treatment is not None and publication is self.programme:
            self._treatment.renew()

    def _activated(self, publication: Publication) -> None:
        if (policy := self._policies.get(publication)) is not None:
            policy.on_air()
        grant = publication.grant
        tracks = tuple((track.kind.value, track.codec.value) for track in publication.tracks if not track.layer)
        self._bus.publish(PublicationActive(self.project_id, self.name, grant.identity, grant.ingress_id, tracks))
        self._switch()

    def _finish(self, publication: Publication, cause: str) -> None:
        publication.ended = True
        publication.on_active = publication.on_tracks = None  # what its door may still write is no news
        if (policy := self._policies.pop(publication, None)) is not None:
            policy.close()
        identity = publication.grant.identity
        if self.publications.get(identity) is publication:
            del self.publications[identity]
        self._switch(cause)

    def _switch(self, cause: str = "") -> None:
        """Move the players to whatever the rule picks now. They see a Gap, then the new tracks."""
        new = pick_programme(self.publications.values(), self.programme)
        if new is self.programme:
            return
        old, treatment = self._shown, self._treatment
        self.programme, self._treatment = new, None
        if old is not None:
            for sink in self._sinks:
                old.detach(sink)
                self._tell(sink, sink.on_gap, Gap("takeover" if new or cause == "takeover" else "publisher-gap"))
        if treatment is not None:
            treatment.close()
        if new is None:
            return
        if new.grant.max_height and new.grant.scales and self._treat is not None:
            self._treatment = self._treat(new, self._forget)
        if not self.on_air:
            self.on_air = True
            self.live_since = clock.wallclock()
            self._bus.publish(RoomLive(project_id=self.project_id, room=self.name))
        treatment = self._treatment
        for sink in tuple(self._sinks):
            if treatment is None and sink not in new.sinks:
                new.attach(sink)
            elif treatment is not None and sink not in treatment.sinks:
                treatment.move(sink)

    def _forget(self, sinks: tuple[Sink, ...]) -> None:
        self._sinks = [s for s in self._sinks if all(s is not sink for sink in sinks)]

    def _tell(self, sink: Sink, method: Callable[[T], None], argument: T) -> None:
        if not tell(method, argument):
            self._sinks = [s for s in self._sinks if s is not sink]

    def _hold_expired(self, identity: str) -> None:
        _, lost = self._holds.pop(identity)
        self._ended(lost)
        self._settle()

    def _ended(self, lost: PublicationLost) -> None:
        self._sessions.pop(lost.identity, None)
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
