"""Answers to an offer of ours (RFC 3264 6, 8829 5.11): what the other side takes, and where it is reached."""

from __future__ import annotations

import ipaddress
from typing import NamedTuple

from medianode.errors import InvalidRequest, LimitExceeded, ProtocolError, UnsupportedMedia
from medianode.media.track import Kind
from medianode.protocols.sdp.negotiate import NAMES, codec_of
from medianode.protocols.sdp.offer import OfferedMedia
from medianode.protocols.sdp.parse import MAX_BYTES, Offer, Section, parse_offer
from medianode.protocols.sdp.plan import RemoteTransport, SendMedia

MAX_CANDIDATES = 16
"""Those that count; each is sent some checks whoever is there."""


class RemoteCandidate(NamedTuple):
    """By UDP. `address` is a literal, as `ipaddress` writes it."""

    address: str
    port: int
    priority: int


class Accepted(NamedTuple):
    """`sends`: the sections that were taken, with the answer's payload types. `refused`: kinds that were not."""

    remote: RemoteTransport
    candidates: tuple[RemoteCandidate, ...]
    sends: tuple[SendMedia, ...]
    refused: tuple[Kind, ...]


def read_answer(text: str, offered: tuple[OfferedMedia, ...], max_bytes: int = MAX_BYTES) -> Accepted:
    """Raises ProtocolError (`bad-answer`), LimitExceeded, and UnsupportedMedia where pictures were offered and refused, or all was."""
    try:
        answer = parse_offer(text, max_bytes)
    except LimitExceeded:
        raise
    except InvalidRequest as e:
        raise ProtocolError(f"the answer: {e.message}", code="bad-answer") from None
    if len(answer.sections) != len(offered):
        raise _bad(f"expected {len(offered)} m-sections, as the offer has, got {len(answer.sections)}")
    sends: list[SendMedia] = []
    for section, media in zip(answer.sections, offered, strict=True):
        if section.media != media.kind.value or (section.has_mid and section.mid != media.mid):
            raise _bad(f"expected the m-sections of the offer in their order, got {section.media} for {media.kind.value}")
        taken = _taken(section, media)
        if taken is not None:
            sends.append(taken)
    refused = tuple(media.kind for media in offered if media.mid not in {send.mid for send in sends})
    if not sends or Kind.VIDEO in refused:
        names = ", ".join(dict.fromkeys(NAMES[codec.codec] for media in offered if media.kind in refused for codec in media.codecs))
        raise UnsupportedMedia(f"the answer takes none of what was offered: {names}", code="no-shared-codec")
    _check_bundle(answer, offered, sends)
    return Accepted(answer.remote, _candidates(text), tuple(sends), refused)


def _bad(message: str) -> ProtocolError:
    return ProtocolError(f"the answer: {message}", code="bad-answer")


def _taken(section: Section, media: OfferedMedia) -> SendMedia | None:
    """The first format that the answer lists decides (RFC 3264 6.1). None where the section was refused."""
    if section.rejected or not section.receives:
        return None
    ours = {codec.codec: codec for codec in reversed(media.codecs)}
    for kind in section.types.values():
        codec = codec_of(kind, section)
        if codec in ours:
            found = ours[codec]
            return SendMedia(media.mid, media.kind, codec, kind.payload_type, found.clock_rate, found.channels, kind.fmtp)
    return None


def _check_bundle(answer: Offer, offered: tuple[OfferedMedia, ...], sends: list[SendMedia]) -> None:
    """All on one transport (RFC 9725 4.4.1); where but one section is taken that needs no group."""
    if len(sends) > 1 and not {send.mid for send in sends} <= set(answer.bundle):
        raise _bad("expected a=group:BUNDLE with all that it takes")


def _candidates(text: str) -> tuple[RemoteCandidate, ...]:
    """RFC 8839 5.1, best first. TCP, names (`….local`) and components but the first are left out."""
    found: dict[tuple[str, int], RemoteCandidate] = {}
    for line in text.replace("\r", "\n").split("\n"):
        if not line.startswith("a=candidate:"):
            continue
        words = line.split()
        if len(words) < 8 or words[1] != "1" or words[2].lower() != "udp":
            continue
        priority, address, port = words[3:6]
        try:
            host = str(ipaddress.ip_address(address))
        except ValueError:
            continue
        if _counts(port, 65_535) and _counts(priority, 0xFFFFFFFF):
            found.setdefault((host, int(port)), RemoteCandidate(host, int(port), int(priority)))
    best = sorted(found.values(), key=lambda candidate: -candidate.priority)
    return tuple(best[:MAX_CANDIDATES])


def _counts(word: str, most: int) -> bool:
    return word.isascii() and word.isdigit() and len(word) <= 10 and 0 < int(word) <= most
