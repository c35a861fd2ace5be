"""Unreorder: the way of one H.264 or H.265 track to WebRTC, which shows pictures in the order they come."""

from __future__ import annotations

from enum import Enum

from medianode.codecs import h264, hevc
from medianode.errors import PeerError
from medianode.media.packet import Packet
from medianode.media.track import Codec, Track
from medianode.transcode.want import COPY, DROPPED, reordering


class Verdict(Enum):
    DROP = "drop"
    REFERENCED = "referenced"


class Unreorder:
    """Leaves out pictures that come after one which is shown later, and says when that will not do.

    Judged by the packets themselves and not by what the headers allow: cameras that never reorder often leave that open, and x264 with
    `bframes` makes none while the picture moves fast. Non-reference pictures may go without harm (`DROP`); one that others are
    predicted from may not (`REFERENCED`). Packets that pass have rising pts, and dts equal to it.

    `gop` holds what came since the last key frame, left out or not: what a decoder must start with on REFERENCED. At most
    `max_packets`; empty where there were more, and where the configuration says that none will be reordered.
    """

    __slots__ = ("_hevc", "_last", "_max_packets", "_never", "dropped", "gop", "passed")

    def __init__(self, track: Track, max_packets: int) -> None:
        self._never = reordering(track).never
        self._hevc = track.codec is Codec.HEVC
        self._max_packets = max_packets
        self._last: int | None = None
        self.gop: list[Packet] = []
        self.dropped = 0
        self.passed = 0

    @property
    def treatment(self) -> str:
        return DROPPED if self.dropped else COPY

    @property
    def last(self) -> int | None:
        """pts of the newest picture that passed."""
        return self._last

    def reset(self) -> None:
        """The timeline starts anew, with a key frame."""
        self._last = None
        self.gop = []

    def push(self, packet: Packet) -> Packet | Verdict:
        pts = packet.pts
        if not self._never:
            if packet.keyframe:
                self.gop = [packet]
            elif self.gop:
                if len(self.gop) < self._max_packets:
                    self.gop.append(packet)
                else:
                    self.gop = []
        last = self._last
        if last is not None and pts <= last:
            if not (self._never or packet.keyframe or pts == last):
                if self._is_reference(packet):
                    return Verdict.REFERENCED
                self.dropped += 1
                return Verdict.DROP
            pts = last + 1  # a second field, or a clock that stood still
        self._last = pts
        self.passed += 1
        return packet if pts == packet.pts == packet.dts else packet._replace(pts=pts, dts=pts)

    def _is_reference(self, packet: Packet) -> bool:
        try:
            if self._hevc:
                return hevc.access_unit_info(packet.data).is_reference
            return h264.access_unit_info(packet.data).is_reference
        except PeerError:  # what cannot be read is not worth a re-encode
            return False
