"""Decoding times for pictures whose source tells only when they are shown (RTP): B-frames come behind the picture that they precede."""

from __future__ import annotations

import heapq
from collections import deque

from medianode.codecs import h264, hevc
from medianode.errors import PeerError
from medianode.media.track import Codec, Track

MOST = 16
"""Pictures that may be shown before one that was decoded earlier (ITU-T H.264 E.2.1)."""


class DecodingTimes:
    """The dts of each picture is the smallest pts among it and the `depth` before it that is still unused: it never goes back and is never
    later than the pts. `depth` is learned where the parameter sets do not tell it: the first picture that goes back costs a stamp that has
    to be moved.
    """

    def __init__(self, depth: int = 0) -> None:
        self.depth = depth
        self._waiting: list[int] = []
        self._before: deque[int] = deque(maxlen=MOST)

    def place(self, pts: int, step: int) -> int:
        """`step`: ticks of one picture, for those that would have come before the first."""
        before = self._before
        if before and pts < before[-1]:
            # decoded earlier and shown later, which is what the depth counts
            self.depth = max(self.depth, sum(1 for other in before if other > pts))
        before.append(pts)
        if not self.depth:
            return pts
        while len(self._waiting) < self.depth:
            heapq.heappush(self._waiting, min(self._waiting, default=pts) - step)
        return heapq.heappushpop(self._waiting, pts)

    def reset(self) -> None:
        """The timeline breaks here."""
        self._waiting.clear()
        self._before.clear()


def reorder_depth(track: Track) -> int:
    """Of the parameter sets, 0 where they do not tell."""
    try:
        if track.codec is Codec.H264:
            look = h264.parse_sps(h264.parse_avcc(track.config).sps[0])
            return 0 if look.never_reorders else look.max_num_reorder_frames or 0
        if track.codec is Codec.HEVC:
            return min(hevc.parse_sps(hevc.parse_hvcc(track.config).sps[0]).max_num_reorder, MOST)
    except (PeerError, IndexError):
        pass
    return 0
