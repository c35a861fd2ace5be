"""SDP offers and fragments: only PeerError gets out, all is bounded, and every answer has the offer's sections.

python tests/fuzz/fuzz_sdp.py -max_total_time=60 [corpus directory; tests/vectors/sdp is a good start]
"""

from __future__ import annotations

import sys

if __name__ == "__main__":
    import atheris

    with atheris.instrument_imports(include=["medianode.protocols"]):
        import medianode.protocols.sdp.answer
        import medianode.protocols.sdp.fragment  # noqa: F401

import contextlib

from medianode.errors import PeerError
from medianode.media.track import Codec
from medianode.protocols.sdp.answer import answer_whep, answer_whip
from medianode.protocols.sdp.fragment import parse_fragment
from medianode.protocols.sdp.negotiate import plan_whep, plan_whip
from medianode.protocols.sdp.parse import MAX_SECTIONS, Offer, parse_offer
from medianode.protocols.sdp.plan import Candidate, Credentials, Fingerprint, LocalTransport

VIDEO, AUDIO = (Codec.H264, Codec.VP8, Codec.VP9, Codec.AV1, Codec.HEVC), (Codec.OPUS, Codec.PCM_MULAW)
LOCAL = LocalTransport(
    Credentials("ours", "o" * 24), Fingerprint("sha-256", ":".join(["AB"] * 32)), (Candidate("192.0.2.1", 9, "udp", 1, "1"),)
)


def check(offer: Offer, text: str) -> None:
    answer = parse_offer(text)
    if [s.media for s in answer.sections] != [s.media for s in offer.sections] or len(offer.sections) > MAX_SECTIONS:
        raise AssertionError("expected the offer's sections in their order")


def one_input(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    with contextlib.suppress(PeerError):
        parse_fragment(text)
    try:
        offer = parse_offer(text)
    except PeerError:
        return
    try:
        sends = plan_whep(offer, VIDEO, AUDIO)
    except PeerError:
        pass
    else:
        check(offer, answer_whep(offer, LOCAL, sends, {send.mid: (1, 2) for send in sends}, "c"))
    try:
        receives = plan_whip(offer)
    except PeerError:
        return
    check(offer, answer_whip(offer, LOCAL, receives))


def main() -> None:
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
