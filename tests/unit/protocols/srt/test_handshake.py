"""The handshake from both sides: cookies, refusals, and that no stranger gets more than he sent."""

from __future__ import annotations

import dataclasses

import pytest

from medianode.errors import InvalidRequest, NotFound, PeerGone, ProtocolError, Unauthorized
from medianode.ingress.srt_cipher import AesCiphers
from medianode.protocols.srt import handshake as hs
from medianode.protocols.srt.caller import Caller, refusal
from medianode.protocols.srt.handshake import Handshake, Kind, Reject, Terms, pack_text, parse_handshake, unpack_text
from medianode.protocols.srt.keys import Keys
from medianode.protocols.srt.listener import COOKIE_LIFETIME, Listener, Refusal, Request, accept
from medianode.protocols.srt.packet import ExtensionType, control

ADDRESS = b"203.0.113.7:4000"
SECRET = "a secret of ten and more"


def made(**more: object) -> Caller:
    counter = iter(range(1, 100))
    options = {"random": lambda size: bytes((next(counter),)) * size, "ciphers": AesCiphers(), **more}
    return Caller(77, **options)  # type: ignore[arg-type]


def concluded(listener: Listener, caller: Caller, now: float = 1000.0) -> bytes:
    """The caller's conclusion, its cookie from this listener."""
    question = caller.datagram(now)
    assert question is not None
    answer = listener.receive(question, ADDRESS, now)
    assert isinstance(answer, bytes)
    assert len(answer) <= len(question)
    caller.receive(answer, now)
    conclusion = caller.datagram(now)
    assert conclusion is not None
    return conclusion


def test_a_caller_and_a_listener_agree_on_the_longer_latency() -> None:
    listener, caller = Listener(b"s"), made(stream_id="publish:live/key", latency=0.3)
    request = listener.receive(concluded(listener, caller), ADDRESS, 1000.0)
    assert isinstance(request, Request)
    assert (request.stream_id, request.caller, request.material) == ("publish:live/key", 77, b"")
    assert "key" not in repr(request)
    agreed = accept(request, 88, 0.5, 8192, None, 0)
    caller.receive(agreed.answer, 1000.0)
    assert caller.connection is not None
    assert (caller.connection.peer, caller.connection.latency) == (88, 0.3)
    asks_more = dataclasses.replace(request, terms=Terms(hs.SRT_VERSION, hs.OUR_FLAGS, 0, 700))
    assert accept(asks_more, 88, 0.5, 8192, None, 0).latency == 0.7


@pytest.mark.parametrize("size", [16, 24, 32])
def test_keys_cross_wrapped_by_the_passphrase(size: int) -> None:
    listener, caller = Listener(b"s"), made(passphrase=SECRET, key_size=size)
    request = listener.receive(concluded(listener, caller), ADDRESS, 1000.0)
    assert isinstance(request, Request)
    keys = Keys(SECRET, AesCiphers())
    assert not Keys("another one of ten", AesCiphers()).take(request.material)
    assert keys.take(request.material)
    assert keys.size == size
    agreed = accept(request, 88, 0.12, 8192, keys, 0)
    caller.receive(agreed.answer, 1000.0)
    assert caller.connection is not None
    assert keys.decrypt(1, 5, b"media") != b"media"
    assert keys.decrypt(1, 5, keys.decrypt(1, 5, b"media") or b"") == b"media"
    assert keys.decrypt(2, 5, b"media") is None


def test_a_conclusion_without_a_cookie_of_ours_is_not_answered() -> None:
    listener, caller = Listener(b"s"), made()
    conclusion = concluded(listener, caller)
    assert listener.receive(conclusion, b"198.51.100.1:4000", 1000.0) is None
    assert Listener(b"other").receive(conclusion, ADDRESS, 1000.0) is None
    assert isinstance(listener.receive(conclusion, ADDRESS, 1000.0 + COOKIE_LIFETIME), Request)
    assert listener.receive(conclusion, ADDRESS, 1000.0 + 3 * COOKIE_LIFETIME) is None


def test_what_is_not_spoken_here_is_refused_by_its_reason() -> None:
    listener, caller = Listener(b"s"), made()
    right = parse_handshake(concluded(listener, caller))
    terms = Terms(hs.SRT_VERSION, hs.OUR_FLAGS, 120, 0)

    def reason(**changes: object) -> Reject:
        got = listener.receive(dataclasses.replace(right, **changes).packed(0, 0), ADDRESS, 1000.0)  # type: ignore[arg-type]
        assert isinstance(got, Refusal)
        told = parse_handshake(got.datagram)
        assert (told.rejection, told.socket_id, len(got.datagram)) == (got.reason, 77, 64)
        return got.reason

    def extended(kind: int, content: bytes) -> dict[int, bytes]:
        return {**right.extensions, kind: content}

    assert reason(version=4) is Reject.VERSION
    assert reason(kind=Kind.WAVEAHAND) is Reject.BAD_MODE
    assert reason(extensions={}) is Reject.ROGUE
    old = dataclasses.replace(terms, version=0x010200)
    assert reason(extensions=extended(ExtensionType.HSREQ, old.packed())) is Reject.VERSION
    in_file_mode = dataclasses.replace(terms, flags=terms.flags | hs.STREAM_MODE)
    assert reason(extensions=extended(ExtensionType.HSREQ, in_file_mode.packed())) is Reject.MESSAGE_API
    assert reason(extensions=extended(ExtensionType.CONGESTION, pack_text("file"))) is Reject.CONGESTION
    assert reason(extensions=extended(ExtensionType.FILTER, pack_text("fec"))) is Reject.FILTER
    assert reason(extensions=extended(ExtensionType.GROUP, bytes(8))) is Reject.GROUP
    assert reason(extensions=extended(ExtensionType.SID, b"\xff" * 8)) is Reject.ROGUE


def test_an_induction_shorter_than_its_answer_gets_none() -> None:
    listener = Listener(b"s")
    question = made().datagram(0.0)
    assert question is not None
    for length in range(len(question)):
        assert listener.receive(question[:length], ADDRESS, 0.0) is None
    assert listener.receive(control(1, 0, 0), ADDRESS, 0.0) is None
    assert listener.receive(b"\x00" * 64, ADDRESS, 0.0) is None


@pytest.mark.parametrize(
    ("reason", "error"),
    [
        (Reject.BAD_SECRET, Unauthorized),
        (Reject.NOT_FOUND, NotFound),
        (Reject.BAD_MODE, InvalidRequest),
        (Reject.CONFLICT, PeerGone),
        (999, PeerGone),
    ],
)
def test_a_refusal_is_an_error_in_words(reason: int, error: type[Exception]) -> None:
    caller = made()
    caller.datagram(0.0)
    refused = Handshake(version=5).refused(reason).packed(77, 0)
    with pytest.raises(error, match="SRT"):
        caller.receive(refused, 0.0)
    assert isinstance(refusal(reason), error)


def test_a_caller_asks_again_and_hears_only_who_means_it() -> None:
    caller = made()
    assert caller.datagram(0.0) is not None
    assert caller.datagram(0.2) is None
    again = caller.datagram(0.3)
    assert again is not None
    caller.receive(Handshake(version=5, extension=hs.MAGIC, cookie=1).packed(1, 0), 0.3)  # for another socket
    caller.receive(b"short", 0.3)
    caller.receive(Handshake(version=5, kind=Kind.CONCLUSION).packed(77, 0), 0.3)  # before it concluded
    assert caller.connection is None
    with pytest.raises(ProtocolError, match="version 5"):
        caller.receive(Handshake(version=4, extension=2, cookie=1).packed(77, 0), 0.3)


def test_stream_ids_are_turned_round_by_fours() -> None:
    assert pack_text("abcdefg") == b"dcba\0gfe"
    assert unpack_text(pack_text("#!::r=live/ä")) == "#!::r=live/ä"
    with pytest.raises(ProtocolError, match="at most 512"):
        unpack_text(pack_text("x" * 600))
