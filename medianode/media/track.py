"""Track: what a decoder must know before the first packet."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum


class Kind(Enum):
    VIDEO = "video"
    AUDIO = "audio"

    __hash__ = object.__hash__  # members are singletons; Enum's own is Python code, run for every packet


class Codec(Enum):
    """FFmpeg's names."""

    H264 = "h264"
    HEVC = "hevc"
    AV1 = "av1"
    VP8 = "vp8"
    VP9 = "vp9"
    MJPEG = "mjpeg"
    AAC = "aac"
    OPUS = "opus"
    MP3 = "mp3"
    FLAC = "flac"
    AC3 = "ac3"
    EAC3 = "eac3"
    PCM_ALAW = "pcm_alaw"
    PCM_MULAW = "pcm_mulaw"

    __hash__ = object.__hash__  # as in Kind

    @property
    def kind(self) -> Kind:
        return Kind.VIDEO if self in _VIDEO else Kind.AUDIO


_VIDEO = frozenset({Codec.H264, Codec.HEVC, Codec.AV1, Codec.VP8, Codec.VP9, Codec.MJPEG})
VIDEO_CLOCK_RATE = 90_000


@dataclass(frozen=True, slots=True)
class Track:
    """One elementary stream. A new configuration is a new Track object with the same `id`.

    `clock_rate` is the number of ticks of pts and dts per second: 90 000 for video, the sampling rate for audio.
    `config` is the codec configuration as ISO BMFF stores it: avcC (ISO/IEC 14496-15 5.3.3), hvcC (8.3.3), av1C, vpcC,
    AudioSpecificConfig (14496-3 1.6.2.1) for AAC, OpusHead (RFC 7845 5.1, with its magic) for Opus, STREAMINFO of 34 bytes for FLAC;
    for AC-3 and E-AC-3 the payload of dac3 or dec3; empty for the others.
    Packets carry H.264 and H.265 as NAL units behind 4-byte lengths, without parameter sets.
    `width` and `height` are display pixels after cropping, 0 where not known; `frame_rate` is what the bitstream declares, else 0.0.
    `layer`: the picture of another video track at its own size and rate (simulcast), by its RID; readers pass it over unless they ask for
    it. Empty for all other tracks.
    """

    id: int
    codec: Codec
    clock_rate: int
    config: bytes = b""
    width: int = 0
    height: int = 0
    frame_rate: float = 0.0
    sample_rate: int = 0
    channels: int = 0
    layer: str = ""
    kind: Kind = field(init=False, compare=False, repr=False)
    is_video: bool = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        # asked for several times per packet, so looked up once
        object.__setattr__(self, "kind", self.codec.kind)
        object.__setattr__(self, "is_video", self.codec in _VIDEO)

    @property
    def lines(self) -> int:
        """What the 1080 of `1080p` counts: the shorter side, whichever way the picture stands; 0 where it is not known."""
        return min(self.width, self.height)
