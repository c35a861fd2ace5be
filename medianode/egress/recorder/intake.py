"""Intake: where a recording's media comes from: a publisher over its reconnects, or a room's programme; the encoder's own picture."""

from __future__ import annotations

import asyncio
import logging
from contextlib import ExitStack

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
    """Feeds `sink` what `attach` names. G.711 is taken through the shared AAC rendition; where that is not to be had, as it is."""

    def __init__(self, renditions: Renditions, sink: Sink) -> None:
        self.publication: Publication | None = None
        self.feed: Feed | None = None
        self._renditions = renditions
        self._sink = sink
        self._tap: _Tap | None = None
        self._rendition: Rendition | None = None

    def attach(self, publication: Publication, *, replay: bool = True) -> None:
        """In place of what it was attached to. No harm where that is the same."""
        if publication is self.publication:
            return
        self.detach()
        self.publication = publication
        self._open(derived=carriage.derives(publication.tracks), replay=replay)

    def detach(self) -> None:
        """Idempotent; the sink is not told."""
        tap, self._tap = self._tap, None
        if tap is not None and self.feed is not None:
            self.feed.detach(tap)
        if self._rendition is not None:
            self._renditions.let_go(self._rendition, IDLE)
            self._rendition = None
        self.publication = self.feed = None

    def request_keyframe(self) -> None:
        if self.feed is not None:
            self.feed.request_keyframe()

    def fell(self, tap: _Tap) -> None:
        """The rendition ended: a codec that cannot be decoded, no thread. The rest is recorded without it."""
        if tap is self._tap:
            publication = self.publication
            self.detach()
            self._sink.on_gap(Gap("track-changed"))
            if publication is not None and not publication.ended:
                self.publication = publication
                self._open(derived=False)

    def review(self, tap: _Tap, tracks: tuple[Track, ...]) -> None:
        """Sound that came late, or changed, may have to come from elsewhere."""
        if tap is self._tap and self.publication is not None and not tap.reviewed:
            wanted = carriage.derives(self.publication.tracks)
            if wanted != (self._rendition is not None) and not tap.fallen:
                tap.reviewed = True
                asyncio.get_running_loop().call_soon(guarded, "recorder", self._reopen, tap)
                return
        self._sink.on_tracks(tracks)

    def _reopen(self, tap: _Tap) -> None:
        publication = self.publication
        if tap is self._tap and publication is not None:
            self.detach()
            self._sink.on_gap(Gap("track-changed"))
            self.attach(publication)

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
        self.feed = feed
        self._tap = _Tap(self, self._sink, fallen=fallen)
        feed.attach(self._tap, replay=replay)


class _Tap:
    """What hangs on the feed, one for each: so that the end of a feed is not the sink's. `fallen`: taken as it is, for want of better."""

    def __init__(self, intake: Intake, sink: Sink, *, fallen: bool) -> None:
        self.fallen = fallen
        self.reviewed = False
        self._intake = intake
        self._sink = sink

    def on_tracks(self, tracks: tuple[Track, ...]) -> None:
        self._intake.review(self, tracks)

    def on_packet(self, packet: Packet) -> None:
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
        with ExitStack() as undo:
            undo.callback(self.room.detach, self)
            self.room.attach(self, replay=False)
            undo.pop_all()
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
            self._intake.detach()
            self._sink.on_gap(gap)

    def on_end(self, cause: str) -> None:
        self._intake.detach()
        self._sink.on_end(cause)
