"""What of a source goes into a recording: the best picture and one sound, copied; G.711 as AAC, since no player takes it in MP4."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from medianode.errors import PeerError
from medianode.media.track import Codec, Track
from medianode.protocols import fmp4
from medianode.transcode.want import Want

DERIVED = frozenset({Codec.PCM_ALAW, Codec.PCM_MULAW})
WANT = Want(video="copy", audio="aac")


class Carried(NamedTuple):
    """`refused`: a sentence for each that cannot be carried."""

    tracks: tuple[Track, ...]
    refused: tuple[str, ...]


def carry(tracks: Sequence[Track]) -> Carried:
    """The first picture that is no layer (with simulcast it is the best one), and the first sound."""
    chosen: list[Track] = []
    refused = []
    for picked in (_first(tracks, video=True), _first(tracks, video=False)):
        if picked is not None:
            try:
                fmp4.init_segment((picked,))
                chosen.append(picked)
            except PeerError as e:
                refused.append(f"{picked.kind.value} ({picked.codec.value}) is not recorded: {e.message}")
    return Carried(tuple(chosen), tuple(refused))


def derives(tracks: Sequence[Track]) -> bool:
    """Its sound is to be made anew."""
    sound = _first(tracks, video=False)
    return sound is not None and sound.codec in DERIVED


def _first(tracks: Sequence[Track], *, video: bool) -> Track | None:
    return next((track for track in tracks if track.is_video is video and not track.layer), None)
