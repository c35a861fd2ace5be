"""The `codecs` parameter (RFC 6381) of a Track, as HLS CODECS and MSE want it."""

from __future__ import annotations

from medianode.codecs import aac, av1, h264, hevc, vp9
from medianode.errors import UnsupportedMedia
from medianode.media.track import Codec, Track

_OF_CONFIG = {
    Codec.H264: h264.codec_string,
    Codec.HEVC: hevc.codec_string,
    Codec.AV1: av1.codec_string,
    Codec.VP9: vp9.codec_string,
    Codec.AAC: aac.codec_string,
}
_FIXED = {
    Codec.VP8: "vp08.00.10.08",
    Codec.OPUS: "Opus",
    Codec.MP3: "mp4a.6B",
    Codec.FLAC: "fLaC",
    Codec.AC3: "ac-3",
    Codec.EAC3: "ec-3",
}


def codec_string(track: Track) -> str:
    """'avc1.64001f', 'mp4a.40.2', 'Opus', …; UnsupportedMedia for codecs without an ISO BMFF entry, ProtocolError on a bad config."""
    if track.codec in _FIXED:
        return _FIXED[track.codec]
    if track.codec not in _OF_CONFIG:
        raise UnsupportedMedia(f"RFC 6381: expected a codec of ISO BMFF, got {track.codec.value}")
    return _OF_CONFIG[track.codec](track.config)
