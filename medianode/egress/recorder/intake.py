"""Intake: where a recording's media comes from: a publisher over its reconnects, or a room's programme; the encoder's own picture."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from medianode import clock
from medianode.egress.recorder import carriage
from medianode.errors import LimitExceeded
from medianode.media.packet import Gap, Packet
from medianode.media.track import Track
from medianode.routing.feed import Feed, Sink
from medianode.routing.publication import Publication
from medianode.routing.room import Room
from medianode.tasks import guarded
from medianode.transcode.renditions import Rendition, Renditions

log = logging.getLogger("medianode.recorder")
IDLE = 2.0
"""Seconds that a rendition of ours is kept for the next recording."""


class Intake:
    """Feeds `sink` what `attach` names. G.711 is taken through the shared AAC rendition; where that is not to be had, as it is.

    `tail`: seconds at most in which a rendition, left behind, may still deliver what it makes of what had come by then; 0: none.
    """

    def __init__(self, renditions: Renditions, sink: Sink, tail: float = 0.0) -> None:
        self.publication: Publication | None = None
        self._renditions = renditions
        self._sink = sink
        self._tail = tail
        self._tap: _Tap | None = None
        self._feed: Feed | None = None
        self._rendition: Rendition | None = None
        self._after: list[Callable[[], None]] = []
        self._stalled: asyncio.TimerHandle | None = None

    def attach(self, publication: Publication, *, replay: bool = True) -> None:
        """In place of what it was attached to. No harm where that is the same."""
        if publication is self.publication:
            return
        self._release()
        self.publication = publication
        self._open(derived=carriage.derives(publication.tracks), replay=replay)

    def detach(self, then: Callable[[], None] | None = None) -> None:
        """Idempotent; the sink is not told. `then` is called when it has the last of it: now, but where a rendition is at it. Who is
        attached next does not wait for that.
        """
        self.publication = None
        if then is not None:
            self._after.append(then)
        if self._stalled is not None:
            return
        tap, rendition = self._tap, self._rendition
        if not self._tail or tap is None or rendition is None:
            self._release()
            return
        tap.until = clock.now()
        self._stalled = asyncio.get_running_loop().call_later(self._tail, guarded, "recorder", self._give_up)
        rendition.drain(lambda: self._drained(tap))

    def request_keyframe(self) -> None:
        if self._feed is not None:
            self._feed.request_keyframe()

    def fell(self, tap: _Tap) -> None:
        """The rendition ended: a codec that cannot be decoded, no thread. The rest is recorded without it."""
        if tap is self._tap:
            publication = self.publication
            self._release()
            if publication is None:
                return
            self._sink.on_gap(Gap("track-changed"))
            if not publication.ended:
                self.publication = publication
                self._open(derived=False)

    def review(self, tap: _Tap, tracks: tuple[Track, ...]) -> None:
        """Sound that came late, or changed, may have to come from elsewhere."""
        if tap is self._tap and self.publication is not None and not tap.fallen:
            wanted = carriage.derives(self.publication.tracks)
            if wanted != (self._rendition is not None):
                asyncio.get_running_loop().call_soon(guarded, "recorder", self._reopen, tap)
                return
        self._sink.on_tracks(tracks)

    def _reopen(self, tap: _Tap) -> None:
        publication = self.publication
        if tap is self._tap and publication is not None:
            self._release()
            self._sink.on_gap(Gap("track-changed"))
            self.attach(publication)

    def _drained(self, tap: _Tap) -> None:
        if tap is self._tap:
            guarded("recorder", self._release)

    def _give_up(self) -> None:
        log.warning("the end of the sound is not recorded: its rendition did not deliver it within %g s", self._tail)
        self._release()

    def _release(self) -> None:
        """Nothing more comes of what it was attached to."""
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None
        tap, self._tap = self._tap, None
        feed, self._feed = self._feed, None
        if tap is not None and feed is not None:
            feed.detach(tap)
        if self._rendition is not None:
            self._renditions.let_go(self._rendition, IDLE)
            self._rendition = None
        self.publication = None
        after, self._after = self._after, []
        for each in after:
            each()

    def _open(self, *, derived: bool, replay: bool = True) -> None:
        publication = self.publication
        assert publication is not None
        feed: Feed = publication
        fallen = not derived and carriage.derives(publication.tracks)
        if derived:
            try:
                feed = self._rendition = self._renditions.hold(publication, carriage.WANT)
            except LimitExceeded as e:
                log.warning("recorded without sound: %s: %s", e.code, e)
                fallen = True
        self._feed = feed
        self._tap = _Tap(self, self._sink, fallen=fallen)
        feed.attach(self._tap, replay=replay)


class _Tap:
    """What hangs on the feed, one for each: so that the end of a feed is not the sink's. `fallen`: taken as it is, for want of better.
    `until`: of what came later nothing is taken.
    """

    def __init__(self, intake: Intake, sink: Sink, *, fallen: bool) -> None:
        self.fallen = fallen
        self.until = float("inf")
        self._intake = intake
        self._sink = sink

    def on_tracks(self, tracks: tuple[Track, ...]) -> None:
        self._intake.review(self, tracks)

    def on_packet(self, packet: Packet) -> None:
        if packet.received_at <= self.until:
            self._sink.on_packet(packet)

    def on_gap(self, gap: Gap) -> None:
        self._sink.on_gap(gap)

    def on_end(self, cause: str) -> None:
        self._intake.fell(self)


class Follower:
    """Keeps an intake on a room's programme. It reads the room for its changes only: nothing is decoded or made smaller for it, and a slate
    is no evidence.
    """

    passive = True
    evidence = True

    def __init__(self, room: Room, intake: Intake, sink: Sink) -> None:
        self.room = room
        self._intake = intake
        self._sink = sink
        self._replay = True

    def open(self, *, replay: bool = True) -> None:
        """`replay`: begin with the cached GOP of what is on now."""
        self._replay = replay
        self.room.attach(self, replay=False)
        self._replay = True

    def close(self) -> None:
        """Idempotent."""
        self._intake.detach()
        self.room.detach(self)

    def on_tracks(self, tracks: tuple[Track, ...]) -> None:
        if self.room.programme is not None:
            self._intake.attach(self.room.programme, replay=self._replay)

    def on_packet(self, packet: Packet) -> None:
        """It comes by the intake."""

    def on_gap(self, gap: Gap) -> None:
        if self._intake.publication is not None and self.room.programme is not self._intake.publication:
            self._intake.detach(lambda: self._sink.on_gap(gap))

    def on_end(self, cause: str) -> None:
        self._intake.detach()
        self._sink.on_end(cause)
