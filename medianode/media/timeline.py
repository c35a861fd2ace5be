"""Time arithmetic of sources: unwrapping, repair of jumps, sample-exact audio. Pure; `now` is an argument.

RTMP stamps are 32-bit milliseconds (49.7 days), for some encoders 24-bit (4.66 hours); they go back when an encoder restarts its
clock, and jump when a laptop wakes. None of that ends a stream: it is repaired, or marked for the readers as a discontinuity.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

_MASK32 = 0xFFFFFFFF
_WRAP24 = 1 << 24
_NEAR_WRAP = 60_000


class Unwrapper:
    """32-bit milliseconds to an unbounded count. One per stream: all RTMP tracks share a clock."""

    __slots__ = ("_raw", "_value")

    def __init__(self) -> None:
        self._raw = -1
        self._value = 0

    def unwrap(self, raw: int) -> int:
        """The unbounded value of a stamp, the nearest one to the last."""
        if self._raw < 0:
            self._raw = self._value = raw
            return raw
        delta = (raw - self._raw) & _MASK32
        if delta > 0x7FFFFFFF:
            delta -= 1 << 32
            # an encoder that never sends extended timestamps starts over at 2^24 ms
            if raw < _NEAR_WRAP and _WRAP24 - _NEAR_WRAP < self._raw < _WRAP24:
                delta += _WRAP24
        self._raw = raw
        self._value += delta
        return self._value


class Placed(NamedTuple):
    """`ms`: continuous media time. `jumped`: the source's clock jumped, mark a discontinuity. `repaired`: a stamp was moved forward."""

    ms: int
    jumped: bool
    repaired: bool


@dataclass(slots=True)
class _TrackTime:
    offset: int
    last: int
    last_now: float


SETTLE = 5.0
"""Seconds of a stream before the measurement of drift begins."""


class Timeline:
    """Turns a source's unwrapped milliseconds into time that never goes back within a track and never leaps.

    A step back of up to `jitter_ms` is clamped to the last stamp; a larger one, or a leap of more than `leap_ms` beyond the time that
    really passed, re-anchors the track to where it would be by the clock. Tracks that jump together share the new anchor.
    """

    __slots__ = ("_first", "_jitter", "_leap", "_offset", "_settled", "_tracks", "drift", "jumps", "repairs")

    def __init__(self, jitter_ms: int = 500, leap_ms: int = 10_000) -> None:
        self._jitter = jitter_ms
        self._leap = leap_ms
        self._tracks: dict[int, _TrackTime] = {}
        self._offset = 0
        self._first: tuple[int, float] | None = None
        self._settled = False
        self.jumps = 0
        self.repairs = 0
        self.drift = 0.0

    def place(self, track_id: int, ms: int, now: float) -> Placed:
        track = self._tracks.get(track_id)
        if track is None:
            return self._first_of(track_id, ms, now)
        out = ms + track.offset
        step = out - track.last
        if 0 <= step <= self._leap:
            return self._keep(track, out, now, Placed(out, False, False))
        if -self._jitter <= step < 0:
            self.repairs += 1
            return self._keep(track, track.last, now, Placed(track.last, False, True))
        passed = int((now - track.last_now) * 1000)
        if 0 < step <= passed + self._leap:
            return self._keep(track, out, now, Placed(out, False, False))
        return self._jump(track, ms, passed, now)

    def _first_of(self, track_id: int, ms: int, now: float) -> Placed:
        offset = self._offset
        newest = max((t.last for t in self._tracks.values()), default=None)
        # a track that starts far from the others has a clock of its own: bring it to theirs
        if newest is not None and abs(ms + offset - newest) > self._leap:
            offset = newest - ms
            self.repairs += 1
        self._tracks[track_id] = _TrackTime(offset, ms + offset, now)
        if self._first is None:
            self._first = (ms + offset, now)
        return Placed(ms + offset, False, False)

    def _keep(self, track: _TrackTime, out: int, now: float, placed: Placed) -> Placed:
        track.last = out
        track.last_now = now
        if self._first is not None:
            if not self._settled:
                # FFmpeg, and encoders that buffer, begin with a burst: that is no drift
                if now - self._first[1] >= SETTLE:
                    self._settled = True
                    self._first = (out, now)
                return placed
            # how far the source's clock is ahead (+) or behind (-), smoothed over some 60 packets
            self.drift += ((out - self._first[0]) / 1000 - (now - self._first[1]) - self.drift) / 64
        return placed

    def _jump(self, track: _TrackTime, ms: int, passed: int, now: float) -> Placed:
        with_others = ms + self._offset - track.last
        if self._offset != track.offset and -self._jitter <= with_others <= passed + self._leap:
            # another track jumped before: follow it, one discontinuity is enough
            track.offset = self._offset
            out = max(track.last, ms + track.offset)
            return self._keep(track, out, now, Placed(out, False, True))
        out = track.last + max(1, min(passed, self._leap))
        self._offset = track.offset = out - ms
        self.jumps += 1
        self._first = None
        self._keep(track, out, now, Placed(out, True, False))
        self._first = (out, now)
        return Placed(out, True, False)


class AudioClock:
    """Milliseconds to sample-exact stamps: frames follow each other without a gap unless the source really has one.

    `tolerance` is the number of seconds a stamp may differ from the count of samples before the count is re-anchored.
    """

    __slots__ = ("_last", "_next", "_rate", "_tolerance", "anchors")

    def __init__(self, rate: int, tolerance: float = 0.1) -> None:
        self._rate = rate
        self._tolerance = int(rate * tolerance)
        self._last = -(1 << 62)
        self._next: int | None = None
        self.anchors = 0

    def reset(self) -> None:
        """The timeline jumped: the next stamp anchors anew."""
        self._next = None

    def place(self, ms: int, samples: int) -> int:
        """The pts, in samples, of a frame of `samples` samples stamped `ms`. Never goes back."""
        ideal = ms * self._rate // 1000
        if self._next is None:
            pts = max(ideal, self._last + 1)
        elif abs(ideal - self._next) <= self._tolerance:
            pts = self._next
        else:
            # a sound card faster than the clock of the stamps: the count must not run away from the picture, nor stand still
            pts = max(ideal, self._last + max(1, samples // 4))
            self.anchors += 1
        self._last = pts
        self._next = pts + samples
        return pts
