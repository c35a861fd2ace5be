"""Label: what a file of a recording says of itself, so that the catalogue can be made anew from the disk alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, NotRequired, TypedDict

import msgspec

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
_Short = Annotated[str, msgspec.Meta(max_length=32, pattern=r"^[^\x00]*$")]
_Name = Annotated[str, msgspec.Meta(max_length=128, pattern=r"^[^\x00]*$")]
_Text = Annotated[str, msgspec.Meta(max_length=200, pattern=r"^[^\x00]*$")]
_Size = Annotated[int, msgspec.Meta(ge=0, lt=1 << 31)]


class Label(TypedDict):
    """As `build` writes it, within what the columns of the database take."""

    recording: _Short
    project: _Short
    slug: NotRequired[_Name]
    room: _Name
    identity: NotRequired[_Name]
    ingress: NotRequired[_Short | None]
    reason: NotRequired[Annotated[str, msgspec.Meta(max_length=16, pattern=r"^[a-z]*$")]]
    sequence: _Size
    gap: NotRequired[_Short]
    startedAt: Annotated[float, msgspec.Meta(ge=0, le=1e11)]
    start: Annotated[int, msgspec.Meta(ge=0, le=1 << 60)]
    title: NotRequired[_Text]
    labels: NotRequired[dict[_Text, _Text]]
    tracks: Annotated[list[tuple[_Short, _Short, _Size, _Size, _Size, _Size]], msgspec.Meta(max_length=16)]


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
    return uuid_box(EXTENDED_TYPE, msgspec.json.encode(told))


def parse(moov: bytes) -> Label:
    """Of a moov's payload. ProtocolError where there is none, or it is damaged: what it says goes into the database."""
    held = fmp4_read.user_box(moov, EXTENDED_TYPE)
    if held is None:
        raise ProtocolError("recording: expected our label in moov, got none")
    try:
        return msgspec.json.decode(held, type=Label)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as e:
        raise ProtocolError(f"recording: expected our label in JSON: {e}") from None


def _facts(track: Track) -> TrackFacts:
    rate, channels = track.sample_rate or (0 if track.is_video else track.clock_rate), track.channels
    if track.codec is Codec.AAC and not channels:
        try:
            channels = aac.parse_asc(track.config).channels
        except PeerError:
            channels = 0
    return track.kind.value, track.codec.value, track.width, track.height, rate, channels
