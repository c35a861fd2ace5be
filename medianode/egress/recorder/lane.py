"""Lane: one track's samples on the recording's timeline. The last packet is held until the next tells its duration."""

from __future__ import annotations

from medianode.media.packet import Packet
from medianode.media.track import Track
from medianode.protocols.fmp4 import Sample

SECOND = 1_000_000


class Lane:
    """`origin` is added to a packet's ticks, and the steering's correction. `leapt`: of the source's leaps, how many microseconds of them
    this track has followed. `nbytes`: of the finished samples.
    """

    __slots__ = (
        "base",
        "end",
        "held",
        "held_at",
        "index",
        "is_video",
        "last_at",
        "last_duration",
        "leapt",
        "nbytes",
        "origin",
        "placed",
        "rate",
        "samples",
        "seen",
        "track",
    )

    def __init__(self, index: int, track: Track) -> None:
        self.index = index
        self.track = track
        self.is_video = track.is_video
        self.rate = track.clock_rate
        self.samples: list[Sample] = []
        self.held: Packet | None = None
        self.held_at = 0
        self.origin = 0
        self.placed = False
        self.base = self.end = 0
        self.last_duration = 0
        self.last_at = 0
        self.seen = 0.0
        self.leapt = 0
        self.nbytes = 0

    def us(self, ticks: int) -> int:
        return ticks * SECOND // self.rate

    def ticks(self, us: int) -> int:
        return us * self.rate // SECOND

    def put(self, packet: Packet, at: int) -> int:
        """The packet is decoded at `at` ticks or, so that time does not go back, later: what is returned. It ends the one before it."""
        if self.held is not None:
            at = max(at, self.held_at)
            self.finish(at)
        at = max(at, self.end)
        self.held, self.held_at = packet, at
        return at

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
        self.samples.append(Sample(packet.data, duration, packet.pts - packet.dts, packet.keyframe))
        self.nbytes += len(packet.data)
        self.held = None
        self.end = until
        if duration:
            self.last_duration = duration

    def take(self, until_us: int | None) -> tuple[int, list[Sample]]:
        """(decode time, samples) that start before `until_us`; the others stay. None: all that are finished."""
        base, taken = self.base, self.samples
        self.samples = []
        if until_us is not None:
            at, most = self.end, self.ticks(until_us)
            late = len(taken)
            while late and at - taken[late - 1].duration >= most:
                at -= taken[late - 1].duration
                late -= 1
            self.samples = taken[late:]
            del taken[late:]
            self.base = at
        self.nbytes = sum(len(sample.data) for sample in self.samples)
        return base, taken
