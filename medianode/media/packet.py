"""Packet and Gap: what flows on the bus."""

from __future__ import annotations

from typing import NamedTuple

from medianode.media.track import Track


class Packet(NamedTuple):
    """One encoded access unit (video) or frame (audio), shared by all readers and never edited.

    A NamedTuple and not a frozen dataclass: made some 80 times a second per stream, and made four times faster.
    `pts` and `dts` are media time in ticks of `track.clock_rate`, 64-bit and unwrapped, starting anywhere; within a track `dts` never
    goes back.
    `keyframe`: video that decodes on its own (IDR, CRA/IDR/BLA, key OBU, any JPEG); always true for audio. `received_at` is `clock.now()`.
    """

    track: Track
    data: bytes
    pts: int
    dts: int
    keyframe: bool
    received_at: float


class Gap(NamedTuple):
    """Something is missing here, or the timeline starts anew: decoders reset, playlists mark a discontinuity.

    `cause` is kebab: `slow-reader`, `publisher-gap`, `takeover`, `track-changed`, `timestamp-jump`, … `dropped`: packets lost to it.
    """

    cause: str
    dropped: int = 0
