"""Steering: keeps a recording's timeline on the wall clock though the source's clock runs fast or slow. Pure.

What a source stamps differs from when it arrives by its delay, which jitters, and by its drift, which adds up: 200 ppm are 17 s a day. The
least delay of each window is free of jitter; where it wanders, the timeline follows at a rate that nobody hears or sees (a tick now and
then), sound and picture by the same.
"""

from __future__ import annotations

SECOND = 1_000_000
SETTLE = 5 * SECOND
"""The first window: encoders begin with a burst of what they had gathered."""
WINDOW = 10 * SECOND
STILL = 2_500
"""Microseconds off that are left alone."""
CALM = 20 * SECOND
"""A deviation is taken back in this time, …"""
GENTLE = 500e-6
"""… but at this rate at most, …"""
FAR = SECOND // 2
"""… unless it is more than this: a source whose clock is simply wrong."""
HARD = 20e-3


class Steering:
    """Media time in, correction out; both microseconds. `clock` is the node's, from the same origin as the timeline."""

    __slots__ = ("_at", "_correction", "_least", "_level", "_reference", "_slope", "_until")

    def __init__(self, clock: int) -> None:
        self._until = clock + SETTLE
        self._least: int | None = None
        self._reference: int | None = None
        self._level = 0.0
        self._at = 0
        self._correction = 0.0
        self._slope = 0.0

    def observe(self, media: int, clock: int) -> None:
        """A packet of media time `media`, uncorrected, came at `clock`."""
        late = clock - media
        if self._least is None or late < self._least:
            self._least = late
        if clock >= self._until:
            self._look(media, self._least)
            self._until = clock + WINDOW
            self._least = None

    @property
    def least(self) -> int:
        """Of this window: how late the least delayed packet came, or (negative) how early."""
        return self._least or 0

    def rebase(self, clock: int) -> None:
        """The clock's 0 is that much earlier now."""
        self._until += clock
        if self._least is not None:
            self._least += clock

    def correction(self, media: int) -> int:
        """What is to be added to a stamp of this media time."""
        if not self._slope:
            return round(self._correction)
        return round(self._correction + max(0, media - self._at) * self._slope)

    def _look(self, media: int, least: int) -> None:
        if self._reference is None:
            self._reference = least
            return
        self._level += (least - self._reference - self._level) / 3
        self._correction = self.correction(media)
        self._at = media
        off = self._level - self._correction
        most = GENTLE if abs(off) < FAR else HARD
        self._slope = 0.0 if abs(off) < STILL else max(-most, min(most, off / CALM))
