"""The calling side of ICE, in no time at all: what is sent when, which pair wins, role conflicts, consent; garbage and strangers."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medianode.protocols import stun
from medianode.protocols.sdp.accept import RemoteCandidate
from medianode.protocols.sdp.plan import Credentials
from medianode.rtc.controller import MAX_PAIRS, PATIENCE, SENDS, Address, Datagram, IceController

OURS, THEIRS = Credentials("ours", "o" * 24), Credentials("them", "t" * 24)
NEAR, FAR = ("192.0.2.1", 8189), ("198.51.100.1", 9000)
Answer = Callable[[Datagram], bytes | None]


def candidates(*addresses: Address) -> list[RemoteCandidate]:
    return [RemoteCandidate(host, port, 1000 - i) for i, (host, port) in enumerate(addresses)]


def made(*addresses: Address, allows: Callable[[str], bool] = lambda host: True) -> IceController:
    """Its chance is a counter, so that tests can be read; the tie-breaker is 1."""
    number = itertools.count(1)
    return IceController(OURS, THEIRS, candidates(*addresses), allows=allows, random=lambda size: next(number).to_bytes(size, "big"))


def success(datagram: Datagram, *, key: str = THEIRS.pwd) -> bytes:
    message = stun.parse(datagram.data)
    assert message is not None
    assert stun.verify(datagram.data, THEIRS.pwd.encode())
    return stun.binding_response(message, ("203.0.113.9", 5000), key.encode())


def error(datagram: Datagram, code: int) -> bytes:
    message = stun.parse(datagram.data)
    assert message is not None
    return stun.error_response(message, code, THEIRS.pwd.encode())


def theirs(number: int = 500, **options: object) -> bytes:
    """A check of theirs."""
    arguments: dict[str, object] = {"controlled": 9, **options}
    return stun.binding_request(number.to_bytes(12, "big"), b"ours:them", OURS.pwd.encode(), **arguments)  # type: ignore[arg-type]


def run(agent: IceController, answer: Answer, *, seconds: float = 60.0, start: float = 100.0) -> list[tuple[float, Datagram]]:
    """Its life until it is connected or has failed: (time, what was sent)."""
    now, sent = start, []
    for _ in range(2000):
        for datagram in agent.poll(now):
            sent.append((now - start, datagram))
            back = answer(datagram)
            if back is not None:
                agent.response(back, datagram.to, now)
        if agent.state != "checking":
            return sent
        at = agent.wake(now)
        assert at is not None
        assert at >= now
        now = max(at, now + 0.001)
        if now - start > seconds:
            return sent
    pytest.fail("it never rests")


def test_a_check_is_answered_and_its_pair_nominated() -> None:
    agent = made(NEAR)
    sent = run(agent, success)
    assert agent.state == "connected"
    assert agent.selected == NEAR
    first, second = (stun.parse(datagram.data) for _, datagram in sent)
    assert first is not None
    assert second is not None
    assert (first.username, first.use_candidate, first.controlling) == (b"them:ours", False, 1)
    assert (second.use_candidate, second.priority >> 24) == (True, 110)
    assert sent[-1][0] < 0.1


@pytest.mark.parametrize("lost", [1, 3, 5])
def test_lost_checks_are_repeated_with_longer_and_longer_pauses(lost: int) -> None:
    agent = made(NEAR)
    count = itertools.count()
    sent = run(agent, lambda datagram: None if next(count) < lost else success(datagram))
    assert agent.state == "connected"
    assert len({datagram.data for _, datagram in sent[: lost + 1]}) == 1, "the same transaction"
    pauses = [b - a for (a, _), (b, _) in itertools.pairwise(sent[: lost + 1])]
    assert pauses == pytest.approx([0.25, 0.5, 1.0, 2.0, 2.0][:lost], abs=0.01)


def test_nobody_there() -> None:
    agent = made(NEAR, FAR)
    sent = run(agent, lambda datagram: None)
    assert agent.state == "failed"
    assert agent.wake(200.0) is None
    assert len(sent) == 2 * SENDS
    assert 7 < sent[-1][0] < 10
    assert agent.poll(300.0) == []


def test_the_better_pair_is_waited_for_but_not_long() -> None:
    agent = made(NEAR, FAR)
    sent = run(agent, lambda datagram: success(datagram) if datagram.to == FAR else None)
    assert agent.selected == FAR
    assert PATIENCE <= sent[-1][0] < 2 * PATIENCE
    agent = made(NEAR, FAR)
    late: list[Datagram] = []

    def answer(datagram: Datagram) -> bytes | None:
        if datagram.to == FAR or late:
            return success(datagram)
        late.append(datagram)
        return None

    run(agent, answer)
    assert agent.selected == NEAR, "it answered the repetition, within the patience"


@pytest.mark.parametrize("code", [400, 500])
def test_a_refusing_candidate_is_given_up(code: int) -> None:
    agent = made(NEAR, FAR)
    run(agent, lambda datagram: error(datagram, code) if datagram.to == NEAR else success(datagram))
    assert agent.selected == FAR


def test_what_is_not_theirs_is_ignored() -> None:
    agent = made(NEAR)
    (check,) = agent.poll(0.0)
    for data, source in (
        (success(check, key="x" * 24), NEAR),
        (success(check), FAR),
        (success(check)[:-4], NEAR),
        (check.data, NEAR),
        (stun.binding_response(stun.Message(1, b"z" * 12), NEAR, THEIRS.pwd.encode()), NEAR),
        (b"", NEAR),
    ):
        assert not agent.response(data, source, 0.1)
    assert agent.state == "checking"
    assert agent.heard == 0.0
    assert agent.response(success(check), NEAR, 0.1)
    assert not agent.response(success(check), NEAR, 0.2), "a second answer is none"


@given(st.binary(max_size=200), st.booleans())
def test_bytes_from_the_net_never_raise(data: bytes, like_stun: bool) -> None:
    agent = made(NEAR)
    agent.poll(0.0)
    if like_stun:
        data = bytes((len(data) & 1, 1)) + (len(data) & ~3).to_bytes(2, "big") + stun.COOKIE + bytes(12) + data[: len(data) & ~3]
    assert not agent.response(data, NEAR, 0.0)
    assert agent.request(data, NEAR, 0.0) is None


def test_their_check_is_answered_and_asked_back() -> None:
    """A peer behind a NAT: its candidates reach nowhere, but it comes."""
    agent = made(NEAR)
    agent.poll(0.0)
    answer = agent.request(theirs(), FAR, 0.01)
    assert answer is not None
    told = stun.parse(answer)
    assert told is not None
    assert (told.type, told.mapped) == (stun.BINDING_RESPONSE, FAR)
    (back,) = agent.poll(0.05)
    assert back.to == FAR
    agent.response(success(back), FAR, 0.1)
    run(agent, lambda datagram: success(datagram) if datagram.to == FAR else None, start=0.1)
    assert agent.selected == FAR


def test_a_check_of_theirs_hurries_ours() -> None:
    agent = made(NEAR)
    agent.poll(0.0)
    assert agent.request(theirs(), NEAR, 0.01) is not None
    assert agent.wake(0.01) == pytest.approx(0.06)
    assert [datagram.to for datagram in agent.poll(0.061)] == [NEAR]


def test_strangers_are_not_sent_anything() -> None:
    agent = made(NEAR, allows=lambda host: host.startswith("198."))
    assert agent.request(theirs(), ("10.0.0.1", 1), 0.0) is None, "not allowed"
    assert agent.request(theirs()[:-1] + b"x", FAR, 0.0) is None, "not signed"
    wrong = stun.binding_request(bytes(12), b"else:them", OURS.pwd.encode(), controlled=9)
    assert agent.request(wrong, FAR, 0.0) is None, "somebody else's"
    for port in range(100):
        agent.request(theirs(port), ("198.51.100.7", 1000 + port), 0.0)
    assert len(agent._pairs) <= MAX_PAIRS


def test_an_attribute_that_nobody_knows_is_told() -> None:
    agent = made(NEAR)
    name = stun.attribute(stun.Attribute.USERNAME, b"ours:them") + stun.attribute(0x7777, b"what")
    answer = agent.request(stun.build(stun.BINDING_REQUEST, bytes(12), name, OURS.pwd.encode()), NEAR, 0.0)
    assert answer is not None
    told = stun.parse(answer)
    assert told is not None
    assert told.error == 420


def test_both_want_to_control_and_they_have_the_larger_number() -> None:
    agent = made(NEAR)
    agent.poll(0.0)
    answer = agent.request(theirs(controlled=None, controlling=77), NEAR, 0.01)
    assert answer is not None
    assert not agent.controlling
    (check,) = agent.poll(0.1)
    asked = stun.parse(check.data)
    assert asked is not None
    assert (asked.controlled, asked.controlling, asked.use_candidate) == (1, None, False)
    agent.response(success(check), NEAR, 0.11)
    assert agent.state == "checking", "it is for them to nominate"
    assert agent.request(theirs(501, controlled=None, controlling=77, use_candidate=True), NEAR, 0.2) is not None
    assert agent.selected == NEAR


def test_both_want_to_control_and_ours_is_the_larger_number() -> None:
    agent = made(NEAR)
    answer = agent.request(theirs(controlled=None, controlling=0), NEAR, 0.01)
    assert answer is not None
    told = stun.parse(answer)
    assert told is not None
    assert told.error == 487
    assert agent.controlling


def test_they_nominate_before_our_check_is_answered() -> None:
    agent = made(NEAR)
    agent.request(theirs(controlled=None, controlling=77, use_candidate=True), NEAR, 0.0)
    (check,) = agent.poll(0.01)
    assert agent.selected is None
    agent.response(success(check), NEAR, 0.02)
    assert agent.selected == NEAR


def test_a_conflict_that_they_tell_switches_roles_once() -> None:
    agent = made(NEAR, FAR)
    first = agent.poll(0.0)
    second = agent.poll(0.06)
    assert agent.response(error(first[0], 487), NEAR, 0.1)
    assert not agent.controlling
    assert not agent.response(error(second[0], 487), FAR, 0.1), "it is asked anew anyhow"
    assert not agent.controlling
    again = agent.poll(0.11)
    asked = stun.parse(again[0].data)
    assert asked is not None
    assert asked.controlled not in (None, 1), "with another number (7.2.5.1)"


def test_consent_is_asked_for_every_five_seconds_or_so() -> None:
    agent = made(NEAR)
    run(agent, success, start=0.0)
    now, asked = 0.2, []
    while now < 61:
        at = agent.wake(now)
        assert at is not None
        now = at
        (request,) = agent.poll(now)
        assert request.to == NEAR
        asked.append((now, request))
        assert agent.poll(now) == [], "one at a time"
    pauses = [b - a for (a, _), (b, _) in itertools.pairwise(asked)]
    assert all(4.0 <= pause <= 6.0 for pause in pauses)
    heard = agent.heard
    assert agent.response(success(asked[-2][1]), NEAR, now), "late, and yet an answer"
    assert agent.heard == now > heard
    assert not agent.response(success(asked[0][1]), NEAR, now + 1), "too late"
    assert not agent.response(success(asked[-1][1]), FAR, now + 1), "from elsewhere"
    assert not agent.response(error(asked[-1][1], 500), NEAR, now + 1)
    assert agent.heard == now


def test_connected_it_still_answers_them() -> None:
    agent = made(NEAR)
    run(agent, success, start=0.0)
    assert agent.request(theirs(), NEAR, 7.0) is not None
    assert agent.heard == 7.0
    refused = agent.request(theirs(502, controlled=None, controlling=77), NEAR, 8.0)
    assert refused is not None
    told = stun.parse(refused)
    assert told is not None
    assert told.error == 487, "too late to change roles"
    assert agent.controlling
