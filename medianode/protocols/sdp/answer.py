"""Answers (RFC 3264, 8829, 9143): every m-section of the offer in its place; unused media inactive, what we have no use for with port 0."""

from __future__ import annotations

from collections.abc import Mapping

from medianode.media.track import Codec, Kind
from medianode.protocols.sdp.negotiate import NAMES
from medianode.protocols.sdp.parse import Offer, Section
from medianode.protocols.sdp.plan import (
    MID,
    PLAYOUT_DELAY,
    REPAIRED_RID,
    RID,
    TRANSPORT_CC,
    Candidate,
    LocalTransport,
    ReceiveMedia,
    SendMedia,
)

_VIDEO_FEEDBACK = ("nack", "nack pli", "ccm fir", "transport-cc")


def answer_whep(
    offer: Offer, local: LocalTransport, sends: tuple[SendMedia, ...], ssrcs: Mapping[str, tuple[int, int | None]], cname: str
) -> str:
    """Toward a viewer. `ssrcs` by mid: (SSRC, SSRC of its rtx or None).

    Audio always has `nack`, which Chrome does not offer and yet uses; neither transport-cc nor abs-send-time; and no mid extension: with
    it and without its bytes in the packets Chrome shows nothing.
    """
    blocks: dict[str, list[str]] = {}
    for send in sends:
        ssrc, rtx_ssrc = ssrcs[send.mid]
        blocks[send.mid] = _send_lines(offer.section(send.mid), send, ssrc, rtx_ssrc, cname)
    return _assemble(offer, local, blocks)


def answer_whip(offer: Offer, local: LocalTransport, receives: tuple[ReceiveMedia, ...]) -> str:
    """Toward a publisher."""
    resends = any("nack" in kind.feedback for s in offer.sections if s.media == "video" for kind in s.types.values())
    return _assemble(offer, local, {media.mid: _receive_lines(offer.section(media.mid), media, resends) for media in receives})


def setup_of(offered: str) -> str:
    """RFC 5763 5: passive where we may choose; a peer that is passive (FFmpeg) needs us active."""
    return "active" if offered == "passive" else "passive"


def candidate_line(candidate: Candidate) -> str:
    """RFC 8839 5.1 and 6544 4.5, with `a=` in front."""
    head = f"a=candidate:{candidate.foundation} 1 {candidate.protocol} {candidate.priority} {candidate.address} {candidate.port} typ host"
    return f"{head} tcptype passive" if candidate.protocol == "tcp" else head


def candidate_lines(local: LocalTransport) -> list[str]:
    """UDP before TCP and IPv4 first: FFmpeg takes the first one and no other."""
    order = sorted(local.candidates, key=lambda c: (c.protocol == "tcp", ":" in c.address))
    return [*map(candidate_line, order), "a=end-of-candidates"]


def _assemble(offer: Offer, local: LocalTransport, blocks: Mapping[str, list[str]]) -> str:
    lines = ["v=0", "o=- 1 1 IN IP4 127.0.0.1", "s=-", "t=0 0", "a=ice-lite", "a=ice-options:ice2"]
    answered = {**{s.mid: _idle_lines(s) for s in offer.sections if s.is_media and s.mid in offer.mids}, **blocks}
    taken = [mid for mid in offer.bundle if mid in answered] or list(answered)
    if offer.bundle:
        lines.append(f"a=group:BUNDLE {' '.join(taken)}")
    lines.append("a=msid-semantic: WMS *")
    for section in offer.sections:
        block = answered.get(section.mid)
        if block is None:
            lines += _rejected(section)
            continue
        lines += block[:1]
        lines.append("c=IN IP4 0.0.0.0")
        if section.has_mid:
            lines.append(f"a=mid:{section.mid}")
        lines += _transport_lines(local, offer.remote.setup, candidates=section.mid == taken[0])
        lines += block[1:]
    return "\r\n".join(lines) + "\r\n"


def _idle_lines(section: Section) -> list[str]:
    """A section that stays unused. Not rejected: where the first of a max-bundle offer gets port 0, Chrome refuses the whole answer."""
    kind = next((t for t in section.types.values() if t.name and t.name != "rtx"), None)
    lines = [f"m={section.media} 9 {section.protocol} {section.formats[0] if kind is None else kind.payload_type}", "a=inactive"]
    if kind is not None:
        tail = f"/{kind.channels}" if kind.channels > 1 else ""
        lines.append(f"a=rtpmap:{kind.payload_type} {kind.name}/{kind.clock_rate}{tail}")
        if kind.fmtp:
            lines.append(f"a=fmtp:{kind.payload_type} {kind.fmtp}")
    return lines


def _rejected(section: Section) -> list[str]:
    lines = [f"m={section.media} 0 {section.protocol} {section.formats[0]}", "c=IN IP4 0.0.0.0"]
    if section.has_mid:
        lines.append(f"a=mid:{section.mid}")
    return [*lines, "a=inactive"]


def _transport_lines(local: LocalTransport, offered: str, *, candidates: bool) -> list[str]:
    """In every section, for those that do not look into the first one; the candidates in the one that carries the group."""
    lines = [
        f"a=ice-ufrag:{local.credentials.ufrag}",
        f"a=ice-pwd:{local.credentials.pwd}",
        f"a=fingerprint:{local.fingerprint.algorithm} {local.fingerprint.value}",
        f"a=setup:{setup_of(offered)}",
        "a=rtcp-mux",
    ]
    return lines + candidate_lines(local) if candidates else lines


def _rtpmap(payload_type: int, codec: Codec, clock_rate: int, channels: int) -> str:
    tail = f"/{channels}" if channels > 1 else ""
    return f"a=rtpmap:{payload_type} {NAMES[codec]}/{clock_rate}{tail}"


def _send_lines(section: Section, send: SendMedia, ssrc: int, rtx_ssrc: int | None, cname: str) -> list[str]:
    number = send.payload_type
    rtx = send.rtx if rtx_ssrc is not None else None
    lines = [
        f"m={section.media} 9 {section.protocol} {number}" + (f" {rtx}" if rtx is not None else ""),
        "a=sendonly",
        _rtpmap(number, send.codec, send.clock_rate, send.channels),
    ]
    if send.fmtp:
        lines.append(f"a=fmtp:{number} {send.fmtp}")
    lines.append(f"a=rtcp-fb:{number} nack")
    if send.kind is Kind.VIDEO:
        lines.append(f"a=rtcp-fb:{number} nack pli")
        if "ccm fir" in section.types[number].feedback:
            lines.append(f"a=rtcp-fb:{number} ccm fir")
    if rtx is not None:
        lines += [f"a=rtpmap:{rtx} rtx/{send.clock_rate}", f"a=fmtp:{rtx} apt={number}"]
    if send.playout_delay:
        lines.append(_extmap(section, PLAYOUT_DELAY, "sendonly"))
    lines.append(f"a=msid:{cname} {send.kind.value}")
    if rtx is not None:
        lines.append(f"a=ssrc-group:FID {ssrc} {rtx_ssrc}")
    lines.append(f"a=ssrc:{ssrc} cname:{cname}")
    if rtx is not None:
        lines.append(f"a=ssrc:{rtx_ssrc} cname:{cname}")
    return lines


def _extmap(section: Section, uri: str, direction: str) -> str:
    """A direction only where the offer had one (Firefox): ours is its mirror (RFC 8285 6)."""
    found = section.extensions[uri]
    return f"a=extmap:{found.id}{f'/{direction}' if found.direction else ''} {uri}"


def _receive_lines(section: Section, media: ReceiveMedia, resends: bool) -> list[str]:
    numbers = [number for number in section.types if number in media.codecs or number in media.rtx]
    lines = [f"m={section.media} 9 {section.protocol} {' '.join(map(str, numbers))}", "a=recvonly"]
    agreed = media.extensions
    for number, uri in (
        (agreed.mid, MID),
        (agreed.rid, RID),
        (agreed.repaired_rid, REPAIRED_RID),
        (agreed.transport_cc, TRANSPORT_CC),
    ):
        if number:
            lines.append(_extmap(section, uri, "recvonly"))
    for number in numbers:
        if number in media.rtx:
            clock_rate = media.codecs[media.rtx[number]].clock_rate
            lines += [f"a=rtpmap:{number} rtx/{clock_rate}", f"a=fmtp:{number} apt={media.rtx[number]}"]
            continue
        codec, kind = media.codecs[number], section.types[number]
        lines.append(_rtpmap(number, codec.codec, codec.clock_rate, codec.channels))
        fmtp = kind.fmtp
        if codec.codec is Codec.OPUS and codec.fmtp.get("sprop-stereo") == "1" and "stereo" not in codec.fmtp:
            fmtp += ";stereo=1"  # it has stereo: say that we want it
        if fmtp:
            lines.append(f"a=fmtp:{number} {fmtp}")
        lines += [f"a=rtcp-fb:{number} {feedback}" for feedback in _feedback(kind.feedback, media, resends)]
    if media.rids:
        lines += [f"a=rid:{rid} recv" for rid in media.rids]
        lines.append(f"a=simulcast:recv {';'.join(media.rids)}")
    return lines


def _feedback(offered: list[str], media: ReceiveMedia, resends: bool) -> list[str]:
    """What was offered and we use. Who resends pictures resends sound too, though browsers do not offer it."""
    found = [each for each in _VIDEO_FEEDBACK if each in offered and (each != "transport-cc" or media.extensions.transport_cc)]
    if media.kind is Kind.AUDIO and resends and "nack" not in found:
        found.insert(0, "nack")
    return found
