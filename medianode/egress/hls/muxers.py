"""What a packager writes: fMP4 fragments of our own making, or MPEG-TS by PyAV; and which codecs each carries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from medianode.media.track import Codec, Track
from medianode.protocols import fmp4
from medianode.protocols.fmp4 import Sample
from medianode.transcode import mpegts
from medianode.transcode.renditions import Want

Run = tuple[int, int, Sequence[Sample]]
"""(index of the track, decode time of the first sample in ticks, samples)"""

FMP4_VIDEO = frozenset({Codec.H264, Codec.HEVC, Codec.AV1, Codec.VP9})
FMP4_AUDIO = frozenset({Codec.AAC, Codec.OPUS, Codec.MP3, Codec.FLAC, Codec.AC3, Codec.EAC3})
TS_VIDEO = frozenset({Codec.H264, Codec.HEVC})
TS_AUDIO = frozenset({Codec.AAC, Codec.MP3, Codec.AC3, Codec.EAC3})
NEEDS_AAC = frozenset({Codec.OPUS, Codec.FLAC, Codec.MP3, Codec.AC3, Codec.EAC3})
"""Passed on, but not played everywhere: the variant `aac` is offered beside them."""


class Muxer(Protocol):
    video: frozenset[Codec]
    audio: frozenset[Codec]

    def init(self, tracks: Sequence[Track]) -> bytes | None:
        """The Media Initialization Section of these tracks, None where there is none. Raises UnsupportedMedia or ProtocolError."""

    def mux(self, tracks: Sequence[Track], runs: Sequence[Run]) -> Sequence[bytes]:
        """One part (fMP4) or segment (TS), in pieces to be joined."""


class Fmp4:
    video, audio = FMP4_VIDEO, FMP4_AUDIO

    def __init__(self) -> None:
        self._sequence = 0

    def init(self, tracks: Sequence[Track]) -> bytes | None:
        return fmp4.init_segment(tracks)

    def mux(self, tracks: Sequence[Track], runs: Sequence[Run]) -> Sequence[bytes]:
        self._sequence += 1
        return fmp4.fragment_pieces(self._sequence, runs)


class Ts:
    video, audio = TS_VIDEO, TS_AUDIO

    def init(self, tracks: Sequence[Track]) -> bytes | None:
        mpegts.check(tracks)
        return None

    def mux(self, tracks: Sequence[Track], runs: Sequence[Run]) -> Sequence[bytes]:
        return (mpegts.segment(tracks, runs),)


def plan(variant: str, tracks: Sequence[Track], *, ts: bool) -> Want | None:
    """The tracks that a variant wants of a source: `main`, `aac` (main with AAC sound) or `ts`; None where there are none.

    `ts`: hls.container is `ts`, so `main` is MPEG-TS too.
    """
    video = next((track.codec for track in tracks if track.is_video), None)
    audio = next((track.codec for track in tracks if not track.is_video), None)
    if video is None and audio is None:
        return None
    is_ts = ts or variant == "ts"
    videos, audios = (TS_VIDEO, TS_AUDIO) if is_ts else (FMP4_VIDEO, FMP4_AUDIO)
    if variant == "aac":
        audios = audios - NEEDS_AAC
    return Want(
        video="none" if video is None else "copy" if video in videos else "h264",
        audio="none" if audio is None else "copy" if audio in audios else "aac",
    )


def plan_layer(track_id: int, tracks: Sequence[Track], *, ts: bool) -> Want | None:
    """As `plan`, for the layer that is this track. None where it is not there, or would have to be transcoded."""
    layer = next((track for track in tracks if track.id == track_id and track.layer), None)
    want = plan("main", [track for track in tracks if not track.is_video or track is layer], ts=ts)
    return replace(want, video_track=track_id) if layer is not None and want is not None and passes(want) else None


def offers_aac(tracks: Sequence[Track], *, ts: bool) -> bool:
    """Is the variant `aac` worth listing beside `main`?"""
    return not ts and next((track.codec in NEEDS_AAC for track in tracks if not track.is_video), False)


def passes(want: Want) -> bool:
    """Nothing is to be transcoded."""
    return want.video in ("copy", "none") and want.audio in ("copy", "none")
