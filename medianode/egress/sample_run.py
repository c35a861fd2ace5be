"""SampleRun: one track's packets on an output timeline, samples that wait to be cut off into a part: of HLS, of a recording."""

from __future__ import annotations

from medianode.media.packet import Packet
from medianode.media.track import Track
from medianode.protocols.fmp4 import Sample

SECOND = 1_000_000


class SampleRun:
    """Decode times in ticks of the track. The last packet is held until the next one tells its duration.

    `start`: where the timeline is, microseconds. `origin` is added to a packet's stamps, once it is `placed`. `nbytes`: of the finished
    samples.
    """

    __slots__ = (
        "base",
        "end",
        "held",
        "held_at",
        "index",
        "is_video",
        "last_duration",
        "nbytes",
        "origin",
        "placed",
        "rate",
        "samples",
        "shown_at",
        "track",
    )

    def __init__(self, index: int, track: Track, start: int = 0) -> None:
        self.index = index
        self.track = track
        self.is_video = track.is_video
        self.rate = track.clock_rate
        self.samples: list[Sample] = []
        self.held: Packet | None = None
        self.held_at = self.shown_at = 0
        self.end = self.base = -(-start * self.rate // SECOND)
        self.origin = 0
        self.placed = False
        self.last_duration = 0
        self.nbytes = 0

    def us(self, ticks: int) -> int:
        return ticks * SECOND // self.rate

    def hold(self, packet: Packet, at: int, shown_at: int) -> None:
        """It is decoded at `at`. What was held before it is finished, or forgotten."""
        self.held, self.held_at, self.shown_at = packet, at, shown_at

    def finish(self, until: int) -> None:
        """The held packet lasts until then."""
        packet = self.held
        assert packet is not None, "finish without a held packet"
        if not self.samples:
            self.base = self.held_at
        elif self.held_at > self.end:
            # what a pause leaves open is the sample's before it: decode times of a fragment follow each other
            self.samples[-1] = self.samples[-1]._replace(duration=self.samples[-1].duration + self.held_at - self.end)
        duration = until - self.held_at
        self.samples.append(Sample(packet.data, duration, self.shown_at - self.held_at, packet.keyframe))
        self.nbytes += len(packet.data)
        self.held = None
        self.end = until
        if duration:
            self.last_duration = duration

    def take(self, until_us: int | None) -> tuple[int, list[Sample]]:
        """(decode time, samples) that start before `until_us`; the others stay. None: all that are finished."""
        base, taken = self.base, self.samples
        self.base, self.samples = self.end, []
        if until_us is not None:
            late = len(taken)
            while late and self.us(self.base - taken[late - 1].duration) >= until_us:
                late -= 1
                self.base -= taken[late].duration
            self.samples = taken[late:]
            del taken[late:]
        self.nbytes = sum(len(sample.data) for sample in self.samples)
        return base, taken
