"""Which of the codecs that renditions need this PyAV has."""

from __future__ import annotations

from typing import Literal

import av

DECODERS = ("h264", "hevc", "av1", "vp8", "vp9", "mjpeg", "aac", "opus", "mp3", "flac", "ac3", "eac3", "pcm_alaw", "pcm_mulaw")
ENCODERS = ("libx264", "mjpeg", "aac", "libopus")


def missing_codecs() -> list[str]:
    """Names of what is missing, decoders and encoders; empty when all is there."""
    missing = [f"{name} (decoder)" for name in DECODERS if not _has(name, "r")]
    return missing + [f"{name} (encoder)" for name in ENCODERS if not _has(name, "w")]


def _has(name: str, mode: Literal["r", "w"]) -> bool:
    try:
        av.Codec(name, mode)
    except ValueError:  # av.codec.UnknownCodecError is one
        return False
    return True
