"""SDP fragments of WHIP and WHEP PATCHes (RFC 8840 9, RFC 9725 4.3): trickled candidates, which ICE-lite ignores, and ICE restarts."""

from __future__ import annotations

from typing import NamedTuple

from medianode.errors import InvalidRequest
from medianode.protocols.sdp.answer import candidate_lines
from medianode.protocols.sdp.parse import check_ice, split_lines
from medianode.protocols.sdp.plan import Credentials, LocalTransport

MAX_BYTES = 32_768
_ATTRIBUTES = ("a=", "m=", "v=", "o=", "s=", "t=", "c=", "b=", "i=", "u=", "k=", "z=", "r=", "e=", "p=")


class Fragment(NamedTuple):
    """`credentials`: of the ICE session that it is about; a restart where they are not the peer's current ones. `candidates`: how many."""

    credentials: Credentials | None
    candidates: int
    ended: bool


def parse_fragment(text: str, max_bytes: int = MAX_BYTES) -> Fragment:
    """Raises InvalidRequest and LimitExceeded."""
    ufrag = pwd = ""
    candidates = 0
    ended = False
    for line in split_lines(text, max_bytes):
        if not line.startswith(_ATTRIBUTES):
            raise InvalidRequest("SDP fragment: expected lines of a= and m=", code="invalid-sdp")
        name, _, value = line.strip().partition(":")
        value = value.strip()
        if name == "a=candidate":
            candidates += 1
        elif name == "a=end-of-candidates":
            ended = True
        elif name == "a=ice-ufrag":
            check_ice("ice-ufrag", value)
            ufrag = ufrag or value
        elif name == "a=ice-pwd":
            check_ice("ice-pwd", value)
            pwd = pwd or value
    return Fragment(Credentials(ufrag, pwd) if ufrag and pwd else None, candidates, ended)


def answer_fragment(local: LocalTransport, answer: str) -> str:
    """The body of the 200 to a restart. `answer`: ours to the offer, for the section that carries the transport."""
    lines = ["a=ice-lite", "a=ice-options:ice2"]
    group = ""
    media = ""
    for line in answer.split("\r\n"):
        if line.startswith("a=group:BUNDLE "):
            group = line
        elif line.startswith("m="):
            media = line
        elif line.startswith("a=ice-ufrag:") and media:
            break
        elif line.startswith("a=mid:"):
            media_mid = line
            if media.split(" ", 2)[1] != "0":
                lines += [group] if group else []
                lines += [media, media_mid]
                break
    lines += [f"a=ice-ufrag:{local.credentials.ufrag}", f"a=ice-pwd:{local.credentials.pwd}", *candidate_lines(local)]
    return "\r\n".join(lines) + "\r\n"
