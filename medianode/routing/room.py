"""Room: a named place; its publications, its programme, and the hold window that keeps players through a publisher's gap."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import ExitStack
from typing import TypeVar

from medianode import clock
from medianode.auth import PublishGrant, Takeover
from medianode.errors import Conflict, LimitExceeded, MedianodeError, PeerGone
from medianode.events import Bus, PublicationActive, PublicationEnded, PublicationLost, PublicationOpened, RoomEnded, RoomLive, RoomVacated
from medianode.media.gop import GopCache
from medianode.media.packet import Gap
from medianode.media.track import Track
from medianode.routing.fallback import Fallback, Loop
from medianode.routing.feed import Sink, Treatment, tell
from medianode.routing.policy import RESOLUTION, Policy, Session
from medianode.routing.programme import Watch, pick_programme
from medianode.routing.publication import Publication
from medianode.routing.slate import Slate, Slates, delays_of
from medianode.tasks import guarded

T = TypeVar("T")
Treat = Callable[[Publication, Callable[[tuple[Sink, ...]], None]], Treatment]
"""Makes the Treatment of a publication; the second is to be called with the readers that it had to end."""
TAKEOVER_SILENCE = 2.0
"""Seconds without a packet after which another encoder with the same key may take over even under the policy `reject`."""


class Room:
    """A Feed of its programme. Players attach to the room, not to a publication, and so stay through takeover and hold.

    A session is all that an encoder publishes from its first key frame on until its hold is over; what policies count goes on over it.
    In a gap they are shown what the room falls back to: its backup, else its slate; sinks with `evidence` set are not given the slate.
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
        slates: Slates | None = None,
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
        self._attended = False
        self._moving = False
        self._holds: dict[str, tuple[asyncio.TimerHandle, PublicationLost]] = {}
        self._slates = slates or Slates()
        self._slate: Slate | None = None
        self._like: tuple[Track, ...] = ()  # what players had last
        self._delays = (0, 0)
        self._foreseen: tuple[str, tuple[Track, ...]] = ("", ())
        self._fallback = Fallback()
        self._watch: Watch | None = None
        self._fall_back(self._slates.of(project_id, name))

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
        """On air, but in a publisher's gap with nothing to show."""
        return self.on_air and self.programme is None

    @property
    def slated(self) -> bool:
        """The slate is shown."""
        return self._slate is not None and self.programme is self._slate.publication

    @property
    def wants_backup(self) -> bool:
        """It has one, and nobody else in the room is well."""
        watch = self._watch
        if watch is None or not self.on_air:
            return False
        return not any(p.active and not watch.is_backup(p) and watch.well(p) for p in self.publications.values())

    @property
    def backup(self) -> str:
        """The ingress that it falls back to; empty for none."""
        return self._fallback.backup

    @property
    def backed_up(self) -> bool:
        """The backup is shown."""
        return self.programme is not None and self._watch is not None and self._watch.is_backup(self.programme)

    def publish(self, grant: PublishGrant, door: str, peer: str, kick: Callable[[MedianodeError], None]) -> Publication:
        """Open a publication for `grant.identity`. Raises Conflict where another encoder holds it and may not be replaced."""
        old = self.publications.get(grant.identity)
        if old is not None:
            silent = clock.now() - old.last_packet_at
            if grant.takeover is Takeover.REJECT and silent < TAKEOVER_SILENCE:
                raise Conflict(f"{grant.identity!r} publishes here already, last packet {silent:.1f} s ago", code="already-publishing")
            self._moving = True
            try:
                self._finish(old, "takeover")
            finally:
                self._moving = False
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
        self._moving = True
        try:
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
        finally:
            self._moving = False
        self._switch()
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
        if self._watch is not None and self._watch.look(tuple(self.publications.values()), now):
            self._switch("frozen")
        elif self.programme is None and self._stands_by:
            self._switch()  # a slate that could not be made is asked for again; or who took over has yet to begin
        self._foresee()

    def fall_back(self, fallback: Fallback | None) -> None:
        """Something else is to be shown in a gap, and at once where this is one."""
        before = self._fallback
        self._fall_back(fallback)
        if self._slate is not None and self._fallback.slate != before.slate:
            self._show(None, "")
        self._switch()
        self._settle()

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
        self.fall_back(None)
        for identity in tuple(self._holds):
            self.release(identity)

    def attach(self, sink: Sink, *, replay: bool = True) -> None:
        """Raises LimitExceeded `node-full` where the picture is to be made smaller and no thread is left for it."""
        with ExitStack() as undo:
            undo.callback(self._forget, (sink,))
            self._sinks.append(sink)
            if (shown := self._shown) is not None and not self._passed_over(sink):
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
        self._attended = True
        self._bus.publish(PublicationActive(self.project_id, self.name, grant.identity, grant.ingress_id, tracks))
        if self.backed_up and self._watch is not None and not self._watch.is_backup(publication):
            self._watch.doubt(publication, clock.now())
        self._switch()

    def _finish(self, publication: Publication, cause: str) -> None:
        publication.ended = True
        publication.on_active = publication.on_tracks = None  # what its door may still write is no news
        if (policy := self._policies.pop(publication, None)) is not None:
            policy.close()
        if self._watch is not None:
            self._watch.forget(publication)
        identity = publication.grant.identity
        if self.publications.get(identity) is publication:
            del self.publications[identity]
        self._switch(cause)

    def _switch(self, cause: str = "") -> None:
        """Show what the rule picks now, and in a gap what the room falls back to."""
        new = pick_programme(self.publications.values(), self.programme, self._watch)
        if new is None and self._stands_by:
            new = self._slate_now()
        if new is not self.programme:
            self._show(new, cause)
        if self.wants_backup:
            self._slates.needed(self.project_id, self.name)

    def _show(self, new: Publication | None, cause: str) -> None:
        """Move the players. They see a Gap, then the new tracks."""
        old, treatment, slated = self._shown, self._treatment, self.slated
        if old is not None and not slated:
            self._like = old.tracks
            self._delays = delays_of(old.gop)
        self.programme, self._treatment = new, None
        if old is not None:
            for sink in self._sinks:
                old.detach(sink)
                if not (slated and _is_evidence(sink)):  # it was told of the gap already
                    self._tell(sink, sink.on_gap, Gap("takeover" if new or cause == "takeover" else "publisher-gap"))
        if treatment is not None:
            treatment.close()
        if slated and self._slate is not None:
            self._slates.stop(self._slate)
            self._slate = None
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
                if not self._passed_over(sink):
                    new.attach(sink)
            elif treatment is not None and sink not in treatment.sinks:
                treatment.move(sink)

    # what is shown in a gap

    @property
    def _stands_by(self) -> bool:
        """Nobody is to be shown, and players are to see the slate."""
        if not self._fallback.slate:
            return False
        return self._fallback.always or (self.on_air and bool(self._holds or any(p.resumes for p in self.publications.values())))

    def _slate_now(self) -> Publication | None:
        """None while it is being made: we are called again."""
        if self._slate is None:
            loop = self._loop(self._like, self._switch)
            if loop is None:
                return None
            gop = GopCache(*self._gop_limits)
            self._slate = Slate(loop, self.slug, self.project_id, self.name, gop, delays=self._delays)
            self._slate.open()
            self._slates.play(self._slate)
        return self._slate.publication

    def _foresee(self) -> None:
        """Have the slate made for what is shown now, so that it is there when it is wanted."""
        wanted = (self._fallback.slate, self.tracks)
        if all(wanted) and not self.slated and wanted != self._foreseen:
            self._foreseen = wanted
            self._loop(self.tracks, _made)

    def _loop(self, tracks: tuple[Track, ...], ready: Callable[[], None]) -> Loop | None:
        """The slate to go with these, as `Loops.find` has it."""
        if self._slates.loops is None:
            return None
        like = tuple(track for track in tracks if not track.layer)
        return self._slates.loops.find(self.project_id, self.name, self._fallback.slate, like, ready)

    def _fall_back(self, fallback: Fallback | None) -> None:
        if self._watch is not None:
            self._watch.close()
        self._fallback = fallback or Fallback()
        self._watch = Watch(self._fallback, self._switch) if self._fallback.backup else None

    def _passed_over(self, sink: Sink) -> bool:
        return self.slated and _is_evidence(sink)

    def _forget(self, sinks: tuple[Sink, ...]) -> None:
        self._sinks = [s for s in self._sinks if all(s is not sink for sink in sinks)]

    def _tell(self, sink: Sink, method: Callable[[T], None], argument: T) -> None:
        if not tell(method, argument):
            self._sinks = [s for s in self._sinks if s is not sink]

    def _hold_expired(self, identity: str) -> None:
        _, lost = self._holds.pop(identity)
        self._ended(lost)
        self._switch()
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
        if self._moving or self.publications or self._holds:  # moving: one has ended, and its hold has yet to begin
            return
        attended, self._attended = self._attended, False
        if self._fallback.always and self._fallback.slate:
            if attended and self.on_air:
                self._bus.publish(RoomVacated(project_id=self.project_id, room=self.name))
            return
        if self.on_air:
            self.on_air = False
            sinks, self._sinks = self._sinks, []
            for sink in sinks:
                self._tell(sink, sink.on_end, "stream-ended")
            self._bus.publish(RoomEnded(project_id=self.project_id, room=self.name))
        if not self._sinks:
            self._on_idle(self)


def _is_evidence(sink: Sink) -> bool:
    """It keeps what came, and nothing that is shown in its place."""
    return bool(getattr(sink, "evidence", False))


def _made() -> None:
    """The slate is there before anybody needs it."""


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
