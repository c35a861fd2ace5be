"""An offer of ours, as a WHIP client makes it (RFC 9725 4.2, 4.4; RFC 8829 5.2): one bundle, all candidates in it, nothing trickled."""

from __future__ import annotations

from typing import NamedTuple

from medianode.media.track import Codec, Kind, Track
from medianode.protocols.sdp.answer import candidate_lines
from medianode.protocols.sdp.negotiate import NAMES
from medianode.protocols.sdp.plan import LocalTransport

VIDEO_CLOCK = 90_000
_OPUS = 111
_FIRST = 96
_BASELINE = "42e01f"
"""Constrained baseline, level 3.1: what every WebRTC endpoint declares, whatever else it can decode (RFC 7742 6.2)."""
_FMTP = {
    Codec.VP9: "profile-id=0",
    Codec.AV1: "level-idx=5;profile=0;tier=0",
    Codec.HEVC: "level-id=93;profile-id=1;tier-flag=0;tx-mode=SRST",
}
_FEEDBACK = {Kind.VIDEO: ("nack", "nack pli", "ccm fir"), Kind.AUDIO: ("nack",)}


class OfferedCodec(NamedTuple):
    payload_type: int
    codec: Codec
    clock_rate: int
    channels: int = 0
    fmtp: str = ""


class OfferedMedia(NamedTuple):
    """One m-section in which we would send. `codecs` in the order of our preference."""

    mid: str
    kind: Kind
    codecs: tuple[OfferedCodec, ...]
    ssrc: int


def offered_video(track: Track | None) -> tuple[OfferedCodec, ...]:
    """The stream's own codec (`track` is None where that is not known), then H.264, which whoever takes none but that is sent instead.

    H.264 is offered under its own profile and as constrained baseline: endpoints that compare profiles declare that one at least, and
    decode what encoders send.
    """
    made: list[tuple[Codec, str]] = []
    if track is not None and track.codec is not Codec.H264:
        made.append((track.codec, _FMTP.get(track.codec, "")))
    own = track.config[1:4].hex() if track is not None and track.codec is Codec.H264 and len(track.config) > 3 else _BASELINE
    profiles = dict.fromkeys((own, _BASELINE))
    made += [(Codec.H264, f"level-asymmetry-allowed=1;packetization-mode=1;profile-level-id={profile}") for profile in profiles]
    return tuple(OfferedCodec(_FIRST + i, codec, VIDEO_CLOCK, 0, fmtp) for i, (codec, fmtp) in enumerate(made))


def offered_audio() -> tuple[OfferedCodec, ...]:
    """Opus is two channels in SDP whatever is in it (RFC 7587 7); that ours may be stereo is told, or it is played as one channel."""
    return (OfferedCodec(_OPUS, Codec.OPUS, 48_000, 2, "minptime=10;sprop-stereo=1;stereo=1"),)


def write_offer(local: LocalTransport, media: tuple[OfferedMedia, ...], cname: str) -> str:
    """We are a full ICE agent and take either side of DTLS. Media is told apart by the SSRCs named here, not by a mid in packets."""
    lines = ["v=0", "o=- 1 1 IN IP4 127.0.0.1", "s=-", "t=0 0", f"a=group:BUNDLE {' '.join(each.mid for each in media)}"]
    lines += ["a=ice-options:ice2", "a=msid-semantic: WMS *"]
    for each in media:
        lines += _section(local, each, cname)
        if each is media[0]:
            lines += candidate_lines(local)
    return "\r\n".join(lines) + "\r\n"


def _section(local: LocalTransport, media: OfferedMedia, cname: str) -> list[str]:
    numbers = " ".join(str(codec.payload_type) for codec in media.codecs)
    lines = [
        f"m={media.kind.value} 9 UDP/TLS/RTP/SAVPF {numbers}",
        "c=IN IP4 0.0.0.0",
        f"a=mid:{media.mid}",
        f"a=ice-ufrag:{local.credentials.ufrag}",
        f"a=ice-pwd:{local.credentials.pwd}",
        f"a=fingerprint:{local.fingerprint.algorithm} {local.fingerprint.value}",
        "a=setup:actpass",
        "a=sendonly",
        f"a=msid:{cname} {media.kind.value}",
        "a=rtcp-mux",
        "a=rtcp-mux-only",  # RFC 9725 4.4.1, RFC 8858 3
    ]
    for number, codec, clock_rate, channels, fmtp in media.codecs:
        lines.append(f"a=rtpmap:{number} {NAMES[codec]}/{clock_rate}" + (f"/{channels}" if channels > 1 else ""))
        if fmtp:
            lines.append(f"a=fmtp:{number} {fmtp}")
        lines += [f"a=rtcp-fb:{number} {feedback}" for feedback in _FEEDBACK[media.kind]]
    lines.append(f"a=ssrc:{media.ssrc} cname:{cname}")
    return lines
