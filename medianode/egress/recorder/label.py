"""Label: what a file of a recording says of itself, so that the catalogue can be made anew from the disk alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from medianode.codecs import aac
from medianode.egress.recorder.order import Order
from medianode.errors import PeerError, ProtocolError
from medianode.media.track import Codec, Track
from medianode.protocols import fmp4_read
from medianode.protocols.fmp4_boxes import uuid_box

EXTENDED_TYPE = bytes.fromhex("6d656469616e6f64658f3b5dd1c24a07")
"""The UUID of our box at the end of moov; what it holds is JSON in UTF-8."""
TrackFacts = tuple[str, str, int, int, int, int]
"""(kind, codec, width, height, sampling rate, channels)"""


def facts(tracks: Sequence[Track]) -> tuple[TrackFacts, ...]:
    return tuple(_facts(track) for track in tracks)


def build(order: Order, sequence: int, gap: str, started_at: float, start: int, tracks: Sequence[TrackFacts]) -> bytes:
    """The box. `started_at`: wallclock of the file's first sample, `start`: the same in microseconds of the recording's timeline."""
    told = {
        "recording": order.recording_id,
        "project": order.project_id,
        "slug": order.slug,
        "room": order.room,
        "identity": order.identity,
        "ingress": order.ingress_id,
        "reason": order.reason,
        "sequence": sequence,
        "gap": gap,
        "startedAt": started_at,
        "start": start,
        "title": order.title,
        "labels": dict(order.labels),
        "tracks": tracks,
    }
    return uuid_box(EXTENDED_TYPE, json.dumps(told, ensure_ascii=False, separators=(",", ":")).encode())


def parse(moov: bytes) -> Mapping[str, Any]:
    """Of a moov's payload. ProtocolError where there is none, or it is damaged."""
    held = fmp4_read.user_box(moov, EXTENDED_TYPE)
    if held is None:
        raise ProtocolError("recording: expected our label in moov, got none")
    try:
        told = json.loads(held)
    except ValueError as e:
        raise ProtocolError(f"recording: expected a label in JSON: {e}") from None
    if not isinstance(told, dict) or not all(isinstance(told.get(name), kind) for name, kind in _NEEDED.items()):
        raise ProtocolError(f"recording: expected a label with {', '.join(_NEEDED)}")
    return told


_NEEDED: Mapping[str, type | tuple[type, ...]] = {
    "recording": str,
    "project": str,
    "room": str,
    "sequence": int,
    "start": int,
    "startedAt": (int, float),
    "tracks": list,
}


def _facts(track: Track) -> TrackFacts:
    rate, channels = track.sample_rate or (0 if track.is_video else track.clock_rate), track.channels
    if track.codec is Codec.AAC and not channels:
        try:
            channels = aac.parse_asc(track.config).channels
        except PeerError:
            channels = 0
    return track.kind.value, track.codec.value, track.width, track.height, rate, channels
