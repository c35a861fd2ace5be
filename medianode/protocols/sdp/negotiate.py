"""What of an offer we take: codecs toward viewers (WHEP) by our preference, codecs from publishers (WHIP) by theirs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from medianode.errors import InvalidRequest, UnsupportedMedia
from medianode.media.track import Codec, Kind
from medianode.protocols.sdp.parse import Format, Offer, Section
from medianode.protocols.sdp.plan import (
    MID,
    PLAYOUT_DELAY,
    REPAIRED_RID,
    RID,
    TRANSPORT_CC,
    Extensions,
    ReceiveCodec,
    ReceiveMedia,
    SendMedia,
)

CODECS: Final[dict[str, Codec]] = {
    "h264": Codec.H264,
    "h265": Codec.HEVC,
    "vp8": Codec.VP8,
    "vp9": Codec.VP9,
    "av1": Codec.AV1,
    "opus": Codec.OPUS,
    "pcma": Codec.PCM_ALAW,
    "pcmu": Codec.PCM_MULAW,
}
"""Encoding names in lower case (OBS once wrote OPUS)."""
NAMES: Final[dict[Codec, str]] = {
    Codec.H264: "H264",
    Codec.HEVC: "H265",
    Codec.VP8: "VP8",
    Codec.VP9: "VP9",
    Codec.AV1: "AV1",
    Codec.OPUS: "opus",
    Codec.PCM_ALAW: "PCMA",
    Codec.PCM_MULAW: "PCMU",
}
_CLOCKS = {Codec.OPUS: 48_000, Codec.PCM_ALAW: 8000, Codec.PCM_MULAW: 8000}
_KINDS = {"video": Kind.VIDEO, "audio": Kind.AUDIO}
_H264_RANK = {0x64: 0, 0x4D: 1, 0x42: 2, 0x58: 4, 0xF4: 5}
"""Where none is the stream's own: who declares High takes all that encoders send."""


def codec_of(kind: Format, section: Section) -> Codec | None:
    """None for what we do not carry: another codec, another clock, H.264 interleaved, multichannel."""
    codec = CODECS.get(kind.name)
    if codec is None or codec.kind is not _KINDS[section.media] or kind.clock_rate != _CLOCKS.get(codec, 90_000):
        return None
    if codec is Codec.H264 and kind.parameters.get("packetization-mode", "0") not in ("", "0", "1"):
        return None
    return codec


def _rtx(section: Section) -> dict[int, int]:
    """rtx payload type → what it repairs, for those that the section knows."""
    found: dict[int, int] = {}
    for kind in section.types.values():
        if kind.name == "rtx":
            apt = kind.parameters.get("apt", "")
            if apt.isascii() and apt.isdigit() and len(apt) <= 3 and int(apt) in section.types:
                found[kind.payload_type] = int(apt)
    return found


def _seats(offer: Offer, *, send: bool) -> list[Section]:
    """Sections of the transport in which we would send (or receive), in the offer's order."""
    return [s for s in offer.sections if s.is_media and s.mid in offer.mids and (s.receives if send else s.sends)]


def offered_codecs(offer: Offer) -> dict[Kind, tuple[Codec, ...]]:
    """What a viewer can receive, by its own preference; kinds without a section are not there."""
    found: dict[Kind, dict[Codec, None]] = {}
    for section in _seats(offer, send=True):
        codecs = found.setdefault(_KINDS[section.media], {})
        codecs.update((codec, None) for kind in section.types.values() if (codec := codec_of(kind, section)) is not None)
    return {kind: tuple(codecs) for kind, codecs in found.items()}


def plan_whep(
    offer: Offer, video: tuple[Codec, ...], audio: tuple[Codec, ...], profiles: Mapping[Codec, int] | None = None
) -> tuple[SendMedia, ...]:
    """One section per kind, in the offer's order. `video` and `audio`: what we can send, best first.

    `profiles`: the stream's own profile where known (profile_idc of H.264, profile of VP9), to pick the payload type that says the same.
    Raises UnsupportedMedia with the reason where a viewer wants pictures and shares no codec, or shares nothing at all; one who shares
    only no audio codec sees the pictures.
    """
    sends: list[SendMedia] = []
    misses: list[str] = []
    done: set[Kind] = set()
    wanted = {Kind.VIDEO: video, Kind.AUDIO: audio}
    seats = _seats(offer, send=True)
    if not seats:
        raise UnsupportedMedia("the offer has no section in which the viewer would receive: expected a=recvonly", code="no-shared-codec")
    for section in seats:
        kind = _KINDS[section.media]
        if kind in done or not wanted[kind]:
            continue
        choice = _choose(section, wanted[kind], profiles or {})
        if choice is not None:
            done.add(kind)
            sends.append(choice)
    for kind in {_KINDS[s.media] for s in seats} - done:
        offered = ", ".join(NAMES[c] for c in offered_codecs(offer)[kind]) or "none that we know"
        ours = ", ".join(NAMES.get(c, c.value) for c in wanted[kind])
        misses.append(f"{kind.value}: offered {offered}; this room has {ours}" if ours else f"{kind.value}: this room has none")
    lost_pictures = bool(video) and Kind.VIDEO not in done and any(s.media == "video" for s in seats)
    if not sends or lost_pictures:
        raise UnsupportedMedia(f"no shared codec: {'; '.join(sorted(misses))}", code="no-shared-codec")
    return tuple(sends)


def _choose(section: Section, wanted: tuple[Codec, ...], profiles: Mapping[Codec, int]) -> SendMedia | None:
    for codec in wanted:
        fits = [kind for kind in section.types.values() if codec_of(kind, section) is codec]
        if not fits:
            continue
        best = min(fits, key=lambda kind: _rank(kind, codec, profiles.get(codec)))
        delay = section.extensions.get(PLAYOUT_DELAY)
        return SendMedia(
            mid=section.mid,
            kind=codec.kind,
            codec=codec,
            payload_type=best.payload_type,
            clock_rate=best.clock_rate,
            channels=best.channels,
            fmtp=best.fmtp,
            rtx=next((rtx for rtx, apt in _rtx(section).items() if apt == best.payload_type), None),
            playout_delay=delay.id if delay is not None and delay.id < 15 and delay.direction in ("", "sendrecv", "recvonly") else 0,
        )
    return None


def _rank(kind: Format, codec: Codec, profile: int | None) -> tuple[int, int]:
    """Smaller is better; the first of equals wins."""
    parameters = kind.parameters
    if codec is Codec.H264:
        # mode 0 does not allow the fragments that we send, though no browser minds: only where there is nothing else
        mode = 0 if parameters.get("packetization-mode") == "1" else 1
        text = parameters.get("profile-level-id", "420010")
        try:
            declared = int(text[:2], 16)
        except ValueError:
            declared = 0x42
        return mode, -1 if declared == profile else _H264_RANK.get(declared, 3)
    if codec in (Codec.VP9, Codec.AV1):
        text = parameters.get("profile-id" if codec is Codec.VP9 else "profile", "0")
        return 0 if text == str(profile or 0) else 1, 0
    return 0, 0


def plan_whip(offer: Offer) -> tuple[ReceiveMedia, ...]:
    """All sections in which the publisher sends, each with all codecs that we carry, in the offer's order.

    A section that cannot be taken refuses the whole offer: no half of a publication (RFC 9725 4.4.3). Raises UnsupportedMedia and
    InvalidRequest.
    """
    if any(section.sends for section in offer.outside):
        raise InvalidRequest("the offer has media outside of one a=group:BUNDLE: expected bundlePolicy max-bundle", code="bundle-required")
    seats = _seats(offer, send=False)
    if not seats:
        raise UnsupportedMedia("the offer has no section in which the publisher would send: expected a=sendonly", code="nothing-to-publish")
    receives = tuple(map(_receive, seats))
    for kind in Kind:
        if sum(media.kind is kind for media in receives) > 1:
            raise InvalidRequest(
                f"the offer has several {kind.value} sections: expected one (simulcast goes by a=rid)", code="several-tracks"
            )
    return receives


def _receive(section: Section) -> ReceiveMedia:
    codecs: dict[int, ReceiveCodec] = {}
    for kind in section.types.values():
        codec = codec_of(kind, section)
        if codec is not None:
            codecs[kind.payload_type] = ReceiveCodec(codec, kind.clock_rate, kind.channels, kind.parameters)
    if not codecs:
        names = ", ".join(dict.fromkeys(kind.name for kind in section.types.values() if kind.name)) or "none"
        expected = ", ".join(NAMES[c] for c in CODECS.values() if c.kind is _KINDS[section.media])
        raise UnsupportedMedia(f"{section.media}: expected one of {expected}; the offer has {names[:200]}", code="no-shared-codec")
    extensions = _extensions(section)
    rtx_ssrcs = {pair[1]: pair[0] for semantics, pair in section.groups if semantics == "FID" and len(pair) == 2}
    named = dict.fromkeys(section.ssrcs)
    for semantics, members in section.groups:
        if semantics in ("FID", "SIM"):
            named.update(dict.fromkeys(members))
    return ReceiveMedia(
        mid=section.mid,
        kind=_KINDS[section.media],
        codecs=codecs,
        rtx={rtx: apt for rtx, apt in _rtx(section).items() if apt in codecs},
        extensions=extensions,
        rids=section.rids if extensions.rid else (),
        ssrcs=tuple(ssrc for ssrc in named if ssrc not in rtx_ssrcs),
        rtx_ssrcs=rtx_ssrcs,
    )


def _extensions(section: Section) -> Extensions:
    def taken(uri: str) -> int:
        found = section.extensions.get(uri)
        return found.id if found is not None and found.direction in ("", "sendrecv", "sendonly") else 0

    return Extensions(mid=taken(MID), rid=taken(RID), repaired_rid=taken(REPAIRED_RID), transport_cc=taken(TRANSPORT_CC))
