"""How a slow viewer loses: non-reference pictures, then all up to the next key frame, then video; and how it gets them back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from medianode.media.track import Kind

if TYPE_CHECKING:
    from medianode.rtc.flow import Flow
    from medianode.rtc.viewer import Viewer

State = Literal["live", "catching-up", "thinned", "paused"]


class Ladder:
    """One per viewer. Pressure is the greater of reported loss and NACKed packets, each against what was sent in the last second.

    Random loss of a radio link is repaired by retransmission and costs no more than non-reference pictures; only what looks like a full
    link goes on to pauses and to sound alone.
    """

    __slots__ = ("_backoff", "_good", "_lost", "_reported", "_score", "_sent", "_viewer", "level", "nacked", "since")

    THIN, FULL, FINE = 0.12, 0.35, 0.06
    """Shares of packets."""

    def __init__(self, viewer: Viewer) -> None:
        self._viewer = viewer
        self.level = 0
        self.since = 0.0
        self._lost = 0.0
        self._reported = 0
        self.nacked = 0
        self._sent = 0
        self._score = 0
        self._good = 0
        self._backoff = 10

    @property
    def state(self) -> tuple[State, str]:
        viewer = self._viewer
        video = viewer.flows.get(Kind.VIDEO)
        if video is None:
            return "live", ""
        if video.off:
            return "paused", "audio-only" if self.level == 3 else viewer.hold_cause
        if video.holding:
            return "paused", viewer.hold_cause
        if video.waiting:
            return "catching-up", "waiting-for-keyframe"
        if video.cursor is not None:
            return "catching-up", "late-join"
        if video.thinned:
            return "thinned", "loss"
        return "live", ""

    def report(self, lost: float, packets: int) -> None:
        """Of so many packets the viewer says that so many did not come."""
        self._lost += lost
        self._reported += packets

    def climb(self, now: float) -> None:
        """Once a second."""
        viewer = self._viewer
        video = viewer.flows.get(Kind.VIDEO)
        if video is None:
            return
        sent = sum(flow.counts[0] for flow in viewer.flows.values())
        # a browser's report covers few packets: one lost of four is no quarter of the stream
        pressure = max(self._lost / max(50, self._reported), self.nacked / max(50, sent - self._sent))
        if viewer.hold_events:
            pressure = max(pressure, 0.5)
        self._sent, self._lost, self._reported, self.nacked, viewer.hold_events = sent, 0.0, 0, 0, 0
        if pressure > (self.THIN if self.level == 0 else self.FULL):
            self._good = 0
            self._score += 2 if pressure > self.FULL else 1
            if self._score >= 4:
                self._worse(video, now)
        else:
            self._score = max(0, self._score - 1)
            self._good = self._good + 1 if pressure < self.FINE or self.level == 3 else 0
            if self.level and self._good >= (self._backoff if self.level == 3 else 10):
                self._better(video, now)

    def _worse(self, video: Flow, now: float) -> None:
        self._score = self._good = 0
        if self.level == 3:
            return
        self.since = now
        if self.level == 0 and video.channel.slow(self._viewer):
            return  # it was moved to a lower layer
        self.level += 1
        video.channel.detach(video)
        video.thinned = True
        if self.level == 2:
            self._viewer.hold_cause = "loss"
            video.holding = True
            video.channel.want_keyframe(now)
        elif self.level == 3:
            video.off = True
            self._backoff = min(60, self._backoff * 2)

    def _better(self, video: Flow, now: float) -> None:
        self._good = 0
        self.since = now
        if self.level == 3:
            self._viewer.hold_cause = "waiting-for-keyframe"
            video.off, video.holding = False, True
            video.channel.want_keyframe(now)
            self.level = 1
        else:
            self.level = 0
            video.thinned = False
            self._backoff = 10
