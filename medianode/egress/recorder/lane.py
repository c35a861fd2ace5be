"""Lane: one track on a recording's timeline, which the steering keeps on the wall clock."""

from __future__ import annotations

from medianode.egress.sample_run import SECOND, SampleRun
from medianode.media.packet import Packet
from medianode.media.track import Track


class Lane(SampleRun):
    """`seen` and `last_at`: when its newest packet came, and its media time in microseconds. `leapt`: of the source's leaps, how many
    microseconds of them this track has followed.
    """

    __slots__ = ("last_at", "leapt", "seen")

    def __init__(self, index: int, track: Track) -> None:
        super().__init__(index, track)
        self.last_at = 0
        self.seen = 0.0
        self.leapt = 0

    def ticks(self, us: int) -> int:
        return us * self.rate // SECOND

    def put(self, packet: Packet, at: int) -> int:
        """The packet is decoded at `at` ticks or, so that time does not go back, later: what is returned. It ends the one before it."""
        if self.held is not None:
            at = max(at, self.held_at)
            self.finish(at)
        at = max(at, self.end)
        self.hold(packet, at, at + packet.pts - packet.dts)
        return at
