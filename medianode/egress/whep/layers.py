"""Which simulcast layer a viewer is shown: a lower one when its link is too narrow, a higher one again when that has been well for long."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING

from medianode import clock
from medianode.errors import LimitExceeded, PeerGone, UnsupportedMedia
from medianode.media.track import Kind, Track
from medianode.protocols.sdp.plan import SendMedia
from medianode.routing.room import Room
from medianode.tasks import TaskSet
from medianode.transcode.want import Want

if TYPE_CHECKING:
    from medianode.egress.whep.lane import Lane
    from medianode.egress.whep.service import Watcher

log = logging.getLogger("medianode.whep")
PATIENCE, MOST_PATIENCE = 15.0, 240.0
"""Seconds that a lower layer must be well before a higher one is tried; doubled each time that was too early."""
WELL = 0.03
"""Loss, as a fraction, under which it is well."""


def area(track: Track) -> int:
    return track.width * track.height


def lower(tracks: Iterable[Track], than: int) -> Track | None:
    """The best layer that is smaller than `than` pixels."""
    return max((t for t in tracks if t.is_video and t.layer and 0 < area(t) < than), key=area, default=None)


def higher(tracks: Iterable[Track], than: int) -> Track | None:
    """The smallest layer that is larger."""
    return min((t for t in tracks if t.is_video and t.layer and area(t) > than), key=area, default=None)


class Stay:
    """A viewer's guest seat in another lane; `track` is the layer that is shown there."""

    def __init__(self, ladder: LayerLadder, watcher: Watcher, lane: Lane, track: Track) -> None:
        self.sends: tuple[SendMedia, ...] = ()
        self.watcher = watcher
        self.lane = lane
        self.track = track
        self._ladder = ladder

    def leave(self, error: PeerGone) -> None:
        """The layer has ended: back to what the room shows."""
        self._ladder.home(self.watcher)


class LayerLadder:
    """`lane_of` opens a room's lane for a Want; moves run in `tasks`."""

    def __init__(self, lane_of: Callable[[Room, Want], Awaitable[Lane]], tasks: TaskSet) -> None:
        self._lane_of = lane_of
        self._tasks = tasks
        self._stays: dict[Watcher, Stay] = {}
        self._moving: set[Watcher] = set()
        self._since: dict[Watcher, tuple[float, float]] = {}

    def slow(self, watcher: Watcher) -> bool:
        """True where there is a lower layer, to which it is then moved."""
        stay = self._stays.get(watcher)
        shown = stay.track if stay is not None else watcher.room.video
        track = lower(watcher.room.tracks, area(shown)) if shown is not None else None
        if track is None or watcher in self._moving:
            return False
        _, patience = self._since.get(watcher, (0.0, PATIENCE / 2))
        self._since[watcher] = (clock.now(), min(MOST_PATIENCE, patience * 2))
        return self._start(watcher, track)

    def look(self, now: float) -> None:
        """Once a second: who is well goes up."""
        for watcher, stay in tuple(self._stays.items()):
            viewer = watcher.viewer
            if viewer is None or watcher in self._moving:
                continue
            since, patience = self._since[watcher]
            if viewer.stats.loss > WELL:
                self._since[watcher] = (now, patience)
            elif now - since > patience:
                track = higher(watcher.room.tracks, area(stay.track))
                best = watcher.room.video
                self._since[watcher] = (now, patience)
                if track is None or best is None or area(track) >= area(best):
                    self.home(watcher)
                else:
                    self._start(watcher, track)

    def home(self, watcher: Watcher) -> None:
        """Back to the best layer."""
        stay = self._stays.pop(watcher, None)
        viewer = watcher.viewer
        if stay is not None and viewer is not None:
            watcher.lane.broadcast.move(viewer, watcher.lane.broadcast)
            watcher.layer = ""
            stay.lane.part(stay)

    def forget(self, watcher: Watcher) -> None:
        """It has left."""
        self._since.pop(watcher, None)
        stay = self._stays.pop(watcher, None)
        if stay is not None:
            stay.lane.part(stay)

    def _start(self, watcher: Watcher, track: Track) -> bool:
        try:
            self._tasks.start(self._move(watcher, track))
        except LimitExceeded as e:
            log.warning("viewer not moved to layer %s: %s", track.layer, e)
            return False
        self._moving.add(watcher)
        return True

    async def _move(self, watcher: Watcher, track: Track) -> None:
        try:
            lane = await self._lane_of(watcher.room, Want(video="realtime", audio="none", video_track=track.id))
            viewer = watcher.viewer
            if viewer is None or watcher.closed:
                return
            promised = next((send.codec for send in watcher.sends if send.kind is Kind.VIDEO), None)
            if lane.codec(Kind.VIDEO) not in (None, promised):
                raise UnsupportedMedia(f"layer {track.layer!r} is {lane.codec(Kind.VIDEO)}, expected {promised}", code="codec-changed")
            stay = Stay(self, watcher, lane, track)
            lane.join(stay)
            watcher.lane.broadcast.move(viewer, lane.broadcast)
            old, self._stays[watcher] = self._stays.get(watcher), stay
            watcher.layer = track.layer
            if old is not None:
                old.lane.part(old)
        finally:
            self._moving.discard(watcher)
