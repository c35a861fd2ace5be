"""What DESCRIBE brings: SDP (RFC 8866) as cameras write it, each stream with its codec and where it is set up (RFC 2326 C.1)."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from typing import NamedTuple

from medianode.codecs import hevc
from medianode.codecs.latm import StreamMux
from medianode.errors import LimitExceeded, ProtocolError, UnsupportedMedia
from medianode.media.track import Codec, Kind
from medianode.protocols.rtp.h264 import sprop_record
from medianode.protocols.rtsp.messages import parse_parameters

MAX_LINES = 2048
MAX_STREAMS = 32
_STATIC = {0: ("pcmu", 8000, 1), 8: ("pcma", 8000, 1), 14: ("mpa", 90_000, 1), 26: ("jpeg", 90_000, 1), 33: ("mp2t", 90_000, 1)}
_CODECS = {
    "h264": Codec.H264,
    "h265": Codec.HEVC,
    "hevc": Codec.HEVC,
    "av1": Codec.AV1,
    "vp8": Codec.VP8,
    "vp9": Codec.VP9,
    "jpeg": Codec.MJPEG,
    "mpeg4-generic": Codec.AAC,
    "mp4a-latm": Codec.AAC,
    "opus": Codec.OPUS,
    "mpa": Codec.MP3,
    "pcmu": Codec.PCM_MULAW,
    "pcma": Codec.PCM_ALAW,
}
"""By the names of their RTP payload formats."""
_G711 = (Codec.PCM_ALAW, Codec.PCM_MULAW)


@dataclass(slots=True)
class Stream:
    """One m-section. `codec` None: `encoding` is none of ours. `url`: what SETUP asks for."""

    kind: str
    payload_type: int
    encoding: str = ""
    clock_rate: int = 0
    channels: int = 1
    url: str = ""
    control: str = ""
    fmtp: dict[str, str] = field(default_factory=dict)

    @property
    def codec(self) -> Codec | None:
        codec = _CODECS.get(self.encoding)
        if codec in _G711 and (self.clock_rate != 8000 or self.channels != 1):
            return None
        if self.encoding == "mpeg4-generic" and self.fmtp.get("mode", "aac-hbr").lower() not in ("aac-hbr", "aac-lbr"):
            return None
        return codec

    def record(self) -> bytes | None:
        """The codec configuration, where the description tells it, as Track.config has it. None too where it cannot be read."""
        try:
            match self.codec:
                case Codec.H264:
                    return sprop_record(self.fmtp.get("sprop-parameter-sets", ""))
                case Codec.HEVC:
                    return _hevc_record(self.fmtp)
                case Codec.AAC if self.encoding == "mpeg4-generic":
                    return bytes.fromhex(self.fmtp.get("config", "")) or None
                case Codec.AAC:
                    return StreamMux().configure(bytes.fromhex(self.fmtp.get("config", "")))
        except (ValueError, ProtocolError):
            pass
        return None


class Description(NamedTuple):
    """`url`: what PLAY asks for, of all streams together."""

    url: str
    streams: list[Stream]


def parse_description(text: str, base: str) -> Description:
    """`base`: Content-Base, else Content-Location, else the URL that was asked for. Raises ProtocolError where it is no SDP."""
    lines = text.splitlines()
    if len(lines) > MAX_LINES:
        raise LimitExceeded(f"SDP: expected at most {MAX_LINES} lines, got {len(lines)}")
    streams: list[Stream] = []
    session_control = ""
    for line in lines:
        kind, equals, value = line.strip().partition("=")
        if not equals:
            continue
        if kind == "m":
            if len(streams) >= MAX_STREAMS:
                raise LimitExceeded(f"SDP: expected at most {MAX_STREAMS} streams")
            streams.append(_media(value))
        elif kind == "a":
            name, _, rest = value.partition(":")
            if streams:
                _attribute(streams[-1], name, rest)
            elif name == "control":
                session_control = rest.strip()
    if not streams:
        raise ProtocolError("SDP: expected a stream (m=), got none")
    root = base if session_control in ("", "*") else _resolve(base, session_control)
    for stream in streams:
        stream.url = root if stream.control in ("", "*") else _resolve(root, stream.control)
    return Description(root, streams)


def choose(streams: list[Stream], kinds: frozenset[Kind]) -> tuple[list[Stream], list[str]]:
    """The first of each kind that we can carry, and what was passed over for its codec. Raises UnsupportedMedia where nothing is left."""
    chosen: dict[Kind, Stream] = {}
    unknown: list[str] = []
    for stream in streams:
        codec = stream.codec
        if codec is None:
            if stream.kind in ("audio", "video"):
                unknown.append(stream.encoding or f"payload type {stream.payload_type}")
        elif codec.kind in kinds:
            chosen.setdefault(codec.kind, stream)
    if not chosen:
        got = ", ".join(unknown) or "none of the wanted kind"
        raise UnsupportedMedia(f"expected H.264, H.265, VP8, VP9, AV1, JPEG, AAC, Opus, MP3 or G.711, got {got}", code="unsupported-codec")
    return list(chosen.values()), unknown


def _media(value: str) -> Stream:
    words = value.split()
    number = words[3] if len(words) > 3 else ""
    payload_type = int(number) if number.isascii() and number.isdigit() and len(number) < 4 else -1
    encoding, rate, channels = _STATIC.get(payload_type, ("", 0, 1))
    return Stream(words[0].lower() if words else "", payload_type, encoding, rate, channels)


def _attribute(stream: Stream, name: str, value: str) -> None:
    if name == "control":
        stream.control = value.strip()
        return
    number, _, rest = value.strip().partition(" ")
    if name not in ("rtpmap", "fmtp") or number != str(stream.payload_type):
        return
    if name == "rtpmap":
        encoding, _, numbers = rest.strip().partition("/")
        rate, _, channels = numbers.partition("/")
        if rate.isascii() and rate.isdigit() and len(rate) < 7 and 0 < int(rate) <= 192_000:
            stream.encoding, stream.clock_rate = encoding.strip().lower(), int(rate)
            stream.channels = int(channels) if channels.strip() in ("1", "2", "3", "4", "5", "6", "7", "8") else 1
        return
    stream.fmtp |= parse_parameters(rest)


def _resolve(base: str, control: str) -> str:
    """RFC 2326 C.1.1, as servers mean it: a relative control is appended to the base, whose last word is a stream's name and not a file."""
    if control.lower().startswith(("rtsp://", "rtspu://", "rtsps://")):
        return control
    if control.startswith("/"):
        scheme, _, rest = base.partition("://")
        return f"{scheme}://{rest.partition('/')[0]}{control}"
    return f"{base}{control}" if base.endswith("/") else f"{base}/{control}"


def _hevc_record(fmtp: dict[str, str]) -> bytes | None:
    found = [tuple(base64.b64decode(text) for text in fmtp.get(f"sprop-{name}", "").split(",") if text) for name in ("vps", "sps", "pps")]
    return hevc.build_hvcc(*found) if all(found) else None
