"""SDP fragments: RFC 9725's examples, what `whip-whep` sends, and what cannot be."""

from __future__ import annotations

import pytest

from medianode.errors import InvalidRequest, LimitExceeded
from medianode.protocols.sdp.fragment import answer_fragment, parse_fragment
from medianode.protocols.sdp.plan import Candidate, Credentials, Fingerprint, LocalTransport

TRICKLE = """a=group:BUNDLE 0 1
m=audio 9 UDP/TLS/RTP/SAVPF 111
a=mid:0
a=ice-ufrag:EsAw
a=ice-pwd:P2uYro0UCOQ4zxjKXaWCBui1
a=candidate:1387637174 1 udp 2122260223 192.0.2.1 61764 typ host generation 0 ufrag EsAw network-id 1
a=candidate:3471623853 1 udp 2122194687 198.51.100.2 61765 typ host generation 0 ufrag EsAw network-id 2
a=end-of-candidates
"""
LOCAL = LocalTransport(Credentials("next", "n" * 24), Fingerprint("sha-256", "AB"), (Candidate("192.0.2.9", 8189, "udp", 2130706431, "1"),))
ANSWER = "v=0\r\na=ice-lite\r\na=group:BUNDLE 1\r\nm=video 0 X 96\r\na=mid:0\r\nm=audio 9 X 111\r\na=mid:1\r\na=ice-ufrag:old\r\n"


def test_trickle_of_rfc_9725() -> None:
    assert parse_fragment(TRICKLE) == (Credentials("EsAw", "P2uYro0UCOQ4zxjKXaWCBui1"), 2, True)
    assert parse_fragment(TRICKLE.replace("\n", "\r\n")) == parse_fragment(TRICKLE)


def test_candidates_alone_and_nothing_at_all() -> None:
    assert parse_fragment("a=candidate:1 1 udp 1 x.local 9 typ host\r\n") == (None, 1, False)
    assert parse_fragment("a=ice-ufrag:EsAw\na=end-of-candidates") == (None, 0, True)
    assert parse_fragment("") == (None, 0, False)


@pytest.mark.parametrize("bad", ["hello", '{"candidate": ""}', "a=ice-ufrag:x", "a=ice-pwd:short", "a=x\x00"])
def test_what_cannot_be(bad: str) -> None:
    with pytest.raises(InvalidRequest):
        parse_fragment(bad)


def test_bounds() -> None:
    with pytest.raises(LimitExceeded):
        parse_fragment("a=candidate:1\n" * 10_000)


def test_the_answer_names_the_section_that_carries_the_transport() -> None:
    assert answer_fragment(LOCAL, ANSWER).split("\r\n") == [
        "a=ice-lite",
        "a=ice-options:ice2",
        "a=group:BUNDLE 1",
        "m=audio 9 X 111",
        "a=mid:1",
        "a=ice-ufrag:next",
        f"a=ice-pwd:{'n' * 24}",
        "a=candidate:1 1 udp 2130706431 192.0.2.9 8189 typ host",
        "a=end-of-candidates",
        "",
    ]
    assert parse_fragment(answer_fragment(LOCAL, ANSWER)).credentials == LOCAL.credentials
