"""SourceRate: what a source spends on its pictures, for the encoder that follows it."""

from __future__ import annotations

from collections import deque

from medianode.media.packet import Packet
from medianode.media.track import Codec, Track

WINDOW_SECONDS = 4.0
SETTLED_SECONDS = 1.0
PARTED = 1.3
_PER_PIXEL = 3.2
_LEAST = 300_000
_WORTH = {Codec.H264: 1.25, Codec.VP8: 1.4, Codec.HEVC: 1.8, Codec.VP9: 1.8, Codec.AV1: 2.0, Codec.MJPEG: 0.4}
"""Bits that our fast H.264 needs for one of the source's: better codecs say more with less, JPEG repeats all of every picture."""


class SourceRate:
    """Bits and pictures a second over the last WINDOW_SECONDS of media time (at most `_MAX_PACKETS` packets)."""

    _MAX_PACKETS = 512

    def __init__(self, track: Track) -> None:
        self._clock_rate = track.clock_rate
        self._worth = _WORTH.get(track.codec, 1.0)
        self._window: deque[tuple[int, int]] = deque(maxlen=self._MAX_PACKETS)
        self._nbytes = 0

    def push(self, packet: Packet) -> None:
        window = self._window
        if window and not 0 <= packet.dts - window[-1][0] <= WINDOW_SECONDS * self._clock_rate:
            window.clear()
            self._nbytes = 0
        if len(window) == self._MAX_PACKETS:
            self._nbytes -= window.popleft()[1]
        window.append((packet.dts, len(packet.data)))
        self._nbytes += len(packet.data)
        while packet.dts - window[0][0] > WINDOW_SECONDS * self._clock_rate:
            self._nbytes -= window.popleft()[1]

    @property
    def seconds(self) -> float:
        return (self._window[-1][0] - self._window[0][0]) / self._clock_rate if self._window else 0.0

    @property
    def frame_rate(self) -> float:
        """0.0 while too little was seen."""
        return (len(self._window) - 1) / self.seconds if self.seconds >= SETTLED_SECONDS else 0.0

    def bound(self, width: int, height: int) -> int:
        """Bits per second that the derived H.264 may take; by size alone while too little was seen."""
        most = max(600_000, round(width * height * _PER_PIXEL))
        if self.seconds < SETTLED_SECONDS:
            return most
        return min(most, max(_LEAST, round(self._nbytes * 8 / self.seconds * self._worth)))

    def parted(self, bound: int, width: int, height: int) -> bool:
        """Whether what the source sends calls for another bound than this by now."""
        wanted = self.bound(width, height)
        return wanted > bound * PARTED or wanted * PARTED < bound
