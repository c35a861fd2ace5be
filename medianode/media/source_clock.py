"""Stamps of a source that knows its own clocks (RTP) on one media time: exact in the ticks of each stream, in step by sender reports.

Within a stream ticks are the source's own, unrounded. Between streams the order of arrival holds until the sender has told which wall
clock each stream's ticks mean (RFC 3550 6.4.1); then one stream leads, sound where there is any, and is never moved, and the others are
slewed to it by at most a twentieth, which no eye sees. Pure; `now` is an argument.
"""

from __future__ import annotations

from typing import NamedTuple

_MASK32 = 0xFFFFFFFF
LEAD = 1.0
"""Media time of the first packet, seconds: what belongs before it must not be negative."""
SLEW = 20
"""A stream is moved by at most one tick in so many."""
DEAD_BAND = 0.008
"""Seconds that streams may be apart before one is moved: sender reports are no more exact than that."""
STEP = 0.5
"""Farther apart than this, two reports in a row, and a stream is moved at once."""
IMPLAUSIBLE = 10.0
"""Farther apart than this the reports are wrong (libwebrtc draws the line here too)."""
BEHIND = 3.0
"""Seconds that a stream alone may fall behind its arrivals: its clock stood still while it was paused."""
SETTLE = 5.0
"""Seconds of a stream before the measurement of drift begins."""


class Placed(NamedTuple):
    """`ticks`: media time in ticks of the stream. `jumped`: the source's clock jumped, mark a discontinuity."""

    ticks: int
    jumped: bool


class SourceClock:
    """All streams of one sender. `utc`: the sender's wall clock (seconds since 1970) at media time 0, None before the first report.

    `drift`: seconds that the source is ahead (+) or behind (-) since it settled. `steps` counts streams moved at once.
    """

    __slots__ = ("_first", "_measured", "_reference", "_settled", "_streams", "drift", "implausible", "start", "steps", "utc")

    def __init__(self) -> None:
        self._streams: list[StreamClock] = []
        self._reference: StreamClock | None = None
        self._measured: StreamClock | None = None
        self._first: tuple[float, float] | None = None
        self._settled = False
        self.start: float | None = None
        self.utc: float | None = None
        self.drift = 0.0
        self.steps = 0
        self.implausible = 0

    def stream(self, rate: int, *, leads: bool) -> StreamClock:
        """A stream of `rate` ticks a second. `leads`: it is sound, which others follow."""
        stream = StreamClock(self, rate, leads=leads)
        self._streams.append(stream)
        return stream

    def forget(self, stream: StreamClock) -> None:
        """The stream has ended."""
        self._streams = [s for s in self._streams if s is not stream]
        self.remeasure(stream)
        if self._measured is stream:
            self._measured = None
        if self._reference is stream:
            # what it said of the wall clock holds until another one reports
            self._reference = None

    def measure(self, stream: StreamClock, seconds: float, now: float) -> None:
        """How far the source's clock runs from ours, by one stream, smoothed over some 64 packets."""
        if self._measured is None:
            self._measured = stream
        elif self._measured is not stream:
            return
        if self._first is None:
            self._first = (seconds, now)
        elif self._settled:
            self.drift += (seconds - self._first[0] - (now - self._first[1]) - self.drift) / 64
        elif now - self._first[1] >= SETTLE:
            # encoders that buffer begin with a burst: that is no drift
            self._settled = True
            self._first = (seconds, now)

    def remeasure(self, stream: StreamClock) -> None:
        """The stream was moved."""
        if self._measured is stream:
            self._first, self._settled, self.drift = None, False, 0.0

    def reported(self, stream: StreamClock, utc: float, seconds: float) -> None:
        """`utc` of the sender is `seconds` of media time by this stream."""
        leader = self._reference
        if leader is None or leader is stream or (stream.leads and not leader.leads):
            self._reference = stream
            self.utc = utc - seconds
            if leader is not stream:
                for other in self._streams:
                    if other is not stream:
                        other.realign()
            return
        assert self.utc is not None
        self._align(stream, utc - self.utc - seconds)

    def alone(self, stream: StreamClock, now: float) -> bool:
        """Whether this stream fell behind and another did not: no stall of the network, which strikes all."""
        return any(s is not stream and s.heard_within(now, 1.0) and stream.behind - s.behind > BEHIND for s in self._streams)

    def _align(self, stream: StreamClock, error: float) -> None:
        """`error`: seconds by which the stream is to move."""
        if abs(error) > IMPLAUSIBLE:
            self.implausible += 1
            return
        if abs(error) <= STEP and not stream.leads:
            stream.owe(error)
            return
        if stream.leads and abs(error) <= DEAD_BAND * 4:
            return
        confirmed = stream.suspect is not None and abs(stream.suspect - error) < STEP / 5
        stream.suspect = error
        if not confirmed:
            return
        stream.suspect = None
        self.steps += 1
        if error > 0:
            stream.move(error)
            return
        # time never goes back: the others come forward instead
        for other in self._streams:
            if other is not stream:
                other.move(-error)
        if self.utc is not None:
            self.utc += error


class StreamClock:
    """One stream. `place` for every access unit, in sending order; `report` for every sender report."""

    __slots__ = ("_last", "_last_now", "_offset", "_owed", "_raw", "_report", "_source", "_unwrapped", "behind", "leads", "rate", "suspect")

    def __init__(self, source: SourceClock, rate: int, *, leads: bool) -> None:
        self._source = source
        self.rate = rate
        self.leads = leads
        self.suspect: float | None = None
        self.behind = 0.0
        self._raw = -1
        self._unwrapped = 0
        self._offset = 0
        self._owed = 0
        self._last = 0
        self._last_now = 0.0
        self._report: tuple[float, int] | None = None

    def place(self, timestamp: int, now: float, *, jitter: float = 0.5, leap: float = 10.0) -> Placed:
        """Media time of the 32-bit `timestamp`. A step back over `jitter`, or a leap of `leap` seconds over the time passed, is a jump."""
        rate = self.rate
        if self._raw < 0:
            self._anchor(timestamp, self._arrival(now), now)
            if self._report is not None:
                self.realign()
            return Placed(self._last, False)
        delta = (timestamp - self._raw) & _MASK32
        if delta > 0x7FFFFFFF:
            delta -= 1 << 32
        self._raw = timestamp
        self._unwrapped += delta
        ticks = self._unwrapped + self._offset
        step = ticks - self._last
        passed = now - self._last_now
        if step < -jitter * rate or step > (passed + leap) * rate:
            self._anchor(timestamp, self._last + max(1, int(min(passed, leap) * rate)), now)
            self._report = None
            self._source.remeasure(self)
            return Placed(self._last, True)
        if not self.leads:
            if self._report is None and not self._owed:
                # nothing is known but arrivals: what comes too early tells that the first one came late
                early = ticks - self._arrival(now)
                if early > 0:
                    self._owed = -early
            if self._owed and step > 0:
                most = max(1, step // SLEW)
                moved = max(-most, min(most, self._owed))
                self._owed -= moved
                self._offset += moved
                ticks += moved
        self.behind = (self._arrival(now) - ticks) / rate
        if self.behind > BEHIND and self._source.alone(self, now):
            self._anchor(timestamp, self._arrival(now), now)
            self._report = None
            self._source.remeasure(self)
            return Placed(self._last, True)
        self._last = ticks
        self._last_now = now
        self._source.measure(self, ticks / rate, now)
        return Placed(ticks, False)

    def report(self, utc: float, timestamp: int) -> None:
        """A sender report: its NTP stamp as seconds since 1970, and the RTP timestamp of the same instant."""
        self._report = (utc, timestamp)
        self.realign()

    def realign(self) -> None:
        """Compare the last report with the others'."""
        if self._report is None or self._raw < 0:
            return
        utc, timestamp = self._report
        delta = (timestamp - self._raw) & _MASK32
        if delta > 0x7FFFFFFF:
            delta -= 1 << 32
        self._source.reported(self, utc, (self._unwrapped + delta + self._offset) / self.rate)

    def owe(self, seconds: float) -> None:
        """Move by so much, little by little."""
        if abs(seconds) > DEAD_BAND or self._owed:
            self._owed = round(seconds * self.rate)

    def move(self, seconds: float) -> None:
        """Move forward at once."""
        self._owed = 0
        self._offset += round(seconds * self.rate)
        self._last += round(seconds * self.rate)
        self._source.remeasure(self)

    def heard_within(self, now: float, seconds: float) -> bool:
        return self._raw >= 0 and now - self._last_now <= seconds

    def _arrival(self, now: float) -> int:
        if self._source.start is None:
            self._source.start = now - LEAD
        return round((now - self._source.start) * self.rate)

    def _anchor(self, timestamp: int, ticks: int, now: float) -> None:
        self._raw = self._unwrapped = timestamp
        self._offset = ticks - timestamp
        self._owed = 0
        self.behind = 0.0
        self._last = ticks
        self._last_now = now
