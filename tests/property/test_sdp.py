"""SDP and STUN under Hypothesis: what is parsed is bounded, what is built is read back, and nothing but PeerError gets out."""

from __future__ import annotations

import contextlib
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from medianode.errors import PeerError
from medianode.media.track import Codec
from medianode.protocols import stun
from medianode.protocols.sdp import parse
from medianode.protocols.sdp.answer import answer_whep, answer_whip
from medianode.protocols.sdp.fragment import parse_fragment
from medianode.protocols.sdp.negotiate import NAMES, plan_whep, plan_whip
from medianode.protocols.sdp.parse import Offer, parse_offer
from medianode.protocols.sdp.plan import Candidate, Credentials, Fingerprint, LocalTransport

VECTORS = Path(__file__).parents[1] / "vectors" / "sdp"
OFFERS = [path.read_bytes().decode() for path in sorted(VECTORS.glob("*.sdp"))]
LINES = sorted({line for offer in OFFERS for line in offer.split("\r\n")})
LOCAL = LocalTransport(
    Credentials("ourufrag", "o" * 24),
    Fingerprint("sha-256", ":".join(["CD"] * 32)),
    (Candidate("192.0.2.1", 8189, "udp", 2130706431, "1"),),
)
VIDEO, AUDIO = (Codec.H264, Codec.VP9, Codec.VP8, Codec.AV1, Codec.HEVC), (Codec.OPUS, Codec.PCM_ALAW)
HEAD = f"v=0\na=group:BUNDLE 0 1\na=ice-ufrag:abcd\na=ice-pwd:{'p' * 22}\na=fingerprint:sha-256 {LOCAL.fingerprint.value}\n"
BYTES = st.binary(max_size=300)


def answers(offer: Offer) -> list[str]:
    """Every answer that this offer leads to."""
    found = []
    try:
        sends = plan_whep(offer, VIDEO, AUDIO)
        ssrcs = {send.mid: (1, 2 if send.rtx is not None else None) for send in sends}
        found.append(answer_whep(offer, LOCAL, sends, ssrcs, "c"))
    except PeerError:
        pass
    with contextlib.suppress(PeerError):
        found.append(answer_whip(offer, LOCAL, plan_whip(offer)))
    return found


def holds(offer: Offer) -> None:
    """The bounds, and that each answer has the offer's sections in their order and is itself SDP."""
    assert len(offer.sections) <= parse.MAX_SECTIONS
    for section in offer.sections:
        assert len(section.types) <= parse.MAX_FORMATS
        assert len(section.ssrcs) <= parse.MAX_SSRCS
        assert len(section.rids) <= parse.MAX_RIDS
        assert len(section.extensions) <= parse.MAX_EXTENSIONS
        assert all(len(kind.feedback) <= parse.MAX_FEEDBACK for kind in section.types.values())
    for text in answers(offer):
        answer = parse_offer(text)
        assert [s.media for s in answer.sections] == [s.media for s in offer.sections]
        assert answer.remote.credentials == LOCAL.credentials
        served = {s.mid for s in answer.sections if not s.rejected and s.has_mid}
        assert set(answer.bundle) == (served if offer.bundle else set())


@given(st.lists(st.sampled_from(LINES), max_size=120), st.sampled_from(OFFERS), st.integers(0, 200))
def test_lines_of_all_clients_mixed(lines: list[str], base: str, at: int) -> None:
    whole = base.split("\r\n")
    try:
        offer = parse_offer("\r\n".join([*whole[:at], *lines, *whole[at:]]))
    except PeerError:
        return
    holds(offer)


@given(st.text(max_size=400), st.sampled_from(OFFERS), st.integers(0, 7000))
def test_text_of_any_kind(noise: str, base: str, at: int) -> None:
    for text in (noise, f"v=0\n{noise}", base[:at] + noise + base[at:]):
        try:
            holds(parse_offer(text))
        except PeerError:
            continue
    try:
        parse_fragment(noise)
    except PeerError:
        return


_VIDEO_TYPES = st.lists(st.tuples(st.integers(96, 127), st.sampled_from(VIDEO)), min_size=1, max_size=20, unique_by=lambda pair: pair[0])


@given(_VIDEO_TYPES, st.booleans(), st.sampled_from(["actpass", "active", "passive"]))
def test_offers_that_we_write_are_read(types: list[tuple[int, Codec]], audio: bool, setup: str) -> None:
    lines = [f"m=video 9 UDP/TLS/RTP/SAVPF {' '.join(str(number) for number, _ in types)}", "a=mid:0", f"a=setup:{setup}"]
    for number, codec in types:
        lines += [f"a=rtpmap:{number} {NAMES[codec]}/90000", f"a=rtcp-fb:{number} nack"]
    if audio:
        lines += ["m=audio 9 UDP/TLS/RTP/SAVPF 0", "a=mid:1"]
    offer = parse_offer(HEAD + "\n".join(lines))
    assert offer.remote.setup == setup
    first = plan_whip(offer)[0]
    assert [(number, kind.codec) for number, kind in first.codecs.items()] == types
    chosen = plan_whep(offer, VIDEO, AUDIO)[0]
    assert chosen.codec is min((codec for _, codec in types), key=VIDEO.index)
    holds(offer)


@given(BYTES)
def test_stun_never_raises(data: bytes) -> None:
    framed = b"\x00\x01" + (len(data) & ~3).to_bytes(2, "big") + stun.COOKIE + bytes(12) + data[: len(data) & ~3]
    for each in (data, framed):
        stun.peek_username(each)
        stun.parse(each)
        refused = stun.refusal(each, 401)
        assert refused is None or len(refused) <= len(each)
        assert not stun.verify(each, b"key")


_TIE = st.none() | st.integers(0, 2**64 - 1)
_NAMES = st.binary(min_size=1, max_size=60).filter(lambda name: b":" not in name)


@given(
    st.binary(min_size=12, max_size=12), _NAMES, _NAMES, st.binary(min_size=1, max_size=64), _TIE, st.booleans(), st.integers(0, 2**32 - 1)
)
def test_stun_requests_are_read_back(
    transaction: bytes, ours: bytes, theirs: bytes, key: bytes, tie: int | None, nominates: bool, priority: int
) -> None:
    name = ours + b":" + theirs
    data = stun.binding_request(transaction, name, key, priority=priority, controlling=tie, use_candidate=nominates)
    assert stun.is_stun(data)
    assert stun.peek_username(data) == ours
    assert stun.verify(data, key)
    assert not stun.verify(data, key + b"\x01")
    found = stun.parse(data)
    assert found is not None
    assert (found.transaction, found.username, found.priority, found.controlling, found.use_candidate) == (
        *(transaction, name, priority, tie, nominates),
    )


@given(st.binary(min_size=12, max_size=12), st.ip_addresses(), st.integers(0, 65_535))
def test_stun_answers_are_read_back(transaction: bytes, address: object, port: int) -> None:
    host = str(address)
    request = stun.Message(stun.BINDING_REQUEST, transaction)
    found = stun.parse(stun.binding_response(request, (host, port), b"key"))
    assert found is not None
    assert found.mapped is not None
    mapped = getattr(address, "ipv4_mapped", None)
    assert found.mapped == (str(mapped or address), port)
