"""What a reader can use of a source, and what has to be done with each of the source's tracks for it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from medianode.codecs import h264, hevc
from medianode.errors import PeerError
from medianode.media.track import VIDEO_CLOCK_RATE, Codec, Kind, Track

COPY = "copy"
DROPPED = "b-frames-dropped"
REFERENCED = (
    "re-encoded: B-frames are referenced, so they cannot be left out for WebRTC; set bframes=0 at the encoder "
    "(OBS: x264 option bframes=0, or B-frames 0)"
)
"""x264's and OBS's default is b-pyramid: some B-frames are references."""
_REORDERS = frozenset({Codec.H264, Codec.HEVC})
_REALTIME = frozenset({"realtime", "realtime-h264"})
_WEBRTC = frozenset({Codec.H264, Codec.HEVC, Codec.VP8, Codec.VP9, Codec.AV1})


class Plan(NamedTuple):
    """`codec` is what to derive; None: pass on. `guarded`: its pictures may come reordered, which WebRTC cannot show."""

    codec: Codec | None
    treatment: str
    guarded: bool = False


class Reordering(NamedTuple):
    """What the configuration tells. `never`: pictures come in the order they are shown. `browsers`: why they cannot decode it, or empty."""

    never: bool
    browsers: str


@dataclass(frozen=True)
class Want:
    """What a reader can use: `copy` is all tracks of the kind as they are; a codec is the first one, as it is where it has that codec.

    Video `realtime` is the source's own codec made fit for WebRTC (no reordered pictures; JPEG becomes H.264), `realtime-h264` H.264
    fit for WebRTC whatever the source. `video_track` picks one by id (a simulcast layer); the first where there is none of that id.

    `max_height`, with `copy`: pictures of more lines (`Track.lines`) become H.264 of that many, layers of more are left out; 0 for any.
    """

    video: Literal["copy", "h264", "mjpeg", "none", "realtime", "realtime-h264"] = "copy"
    audio: Literal["copy", "aac", "opus", "none"] = "copy"
    video_track: int | None = None
    max_height: int = 0

    @property
    def realtime(self) -> bool:
        """A viewer waits for every packet: small buffers, and a source that is read often. Nobody but WebRTC wants Opus."""
        return self.video in _REALTIME or self.audio == "opus"

    def plan(self, track: Track) -> Plan:
        """What is done with this track, and why. Not for tracks that are left out."""
        if not track.is_video:
            return self._plan_audio(track)
        if self.exceeded(track):
            return Plan(Codec.H264, f"scaled: {track.lines} lines, the stream allows {self.max_height}")
        if self.video not in _REALTIME:
            codec = None if self.video in ("copy", "none", track.codec.value) else Codec(self.video)
            return Plan(codec, COPY if codec is None else f"{track.codec.value}-to-{codec.value}")
        if track.codec not in _WEBRTC or (self.video == "realtime-h264" and track.codec is not Codec.H264):
            return Plan(Codec.H264, f"{track.codec.value}-to-h264")
        if track.codec not in _REORDERS:
            return Plan(None, COPY)
        why = reordering(track).browsers
        return Plan(Codec.H264, why) if why else Plan(None, COPY, guarded=True)

    def exceeded(self, track: Track) -> bool:
        return bool(self.max_height) and track.is_video and track.lines > self.max_height

    def foreseen(self, tracks: tuple[Track, ...]) -> tuple[Track, ...]:
        """The tracks that will come of these as far as can be told before they are made: of scaled ones `config` is not known."""
        chosen = self.select(tracks)
        return tuple(self._scaled(track) if self.exceeded(track) else track for track in chosen)

    def _scaled(self, track: Track) -> Track:
        width, height = fit(track.width, track.height, self.max_height)
        return replace(track, codec=Codec.H264, clock_rate=VIDEO_CLOCK_RATE, config=b"", width=width, height=height)

    def select(self, tracks: tuple[Track, ...]) -> tuple[Track, ...]:
        """The source's tracks that play a part."""
        picked = next((t.id for t in tracks if t.is_video and t.id == self.video_track), None)
        seen: set[Kind] = set()
        chosen = []
        for track in tracks:
            want = self.video if track.is_video else self.audio
            fits = want == "copy" or track.kind not in seen
            if track.is_video and picked is not None:
                fits = track.id == picked
            if want != "none" and fits and not (track.layer and self.exceeded(track)):
                chosen.append(track)
            seen.add(track.kind)
        return tuple(chosen)

    def _plan_audio(self, track: Track) -> Plan:
        if self.audio == "opus" and track.codec is Codec.OPUS and track.channels > 2:
            # RFC 7587 knows one and two channels; Chromium's multiopus is nobody else's
            return Plan(Codec.OPUS, f"opus of {track.channels} channels to stereo")
        codec = None if self.audio in ("copy", "none", track.codec.value) else Codec(self.audio)
        return Plan(codec, COPY if codec is None else f"{track.codec.value}-to-{codec.value}")


def fit(width: int, height: int, lines: int) -> tuple[int, int]:
    """The size of a picture scaled to at most so many lines (0: any): the shorter side is bounded, the aspect kept, both sides even."""
    shorter = min(width, height)
    if not lines or shorter <= lines:
        return width, height
    wide, high = ((side * lines + shorter) // (2 * shorter) * 2 for side in (width, height))
    return max(2, wide), max(2, high)


def reordering(track: Track) -> Reordering:
    """Of an H.264 or H.265 track. A configuration that cannot be read promises nothing."""
    try:
        if track.codec is Codec.HEVC:
            found = [hevc.parse_sps(unit) for unit in hevc.parse_hvcc(track.config).sps]
            return Reordering(bool(found) and all(sps.max_num_reorder == 0 for sps in found), "")
        sets = [h264.parse_sps(unit) for unit in h264.parse_avcc(track.config).sps]
    except PeerError:
        return Reordering(False, "")
    odd = next((sps for sps in sets if sps.chroma_format_idc != 1 or sps.bit_depth_luma > 8 or sps.bit_depth_chroma > 8), None)
    why = "" if odd is None else "re-encoded: browsers decode H.264 of 8 bits and 4:2:0 only; set the colour format to NV12 or I420"
    return Reordering(bool(sets) and all(sps.never_reorders for sps in sets), why)
