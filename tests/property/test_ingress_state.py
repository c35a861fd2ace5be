from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medianode.control.ingress_state import (
    Connected,
    Deleted,
    Event,
    Failed,
    FirstKeyframe,
    HoldExpired,
    Life,
    Lost,
    Phase,
    PutOut,
    Reconnected,
    SessionEnded,
    SessionStarted,
    State,
    StateChanged,
    step,
)
from medianode.errors import MedianodeError

LEGAL = {
    "INACTIVE": {Connected: "CONNECTED", Failed: "ERROR", Deleted: "INACTIVE"},
    "CONNECTED": {FirstKeyframe: "ACTIVE", Lost: "HELD", Failed: "ERROR", Deleted: "COMPLETE"},
    "HELD": {Reconnected: "CONNECTED", HoldExpired: "COMPLETE", Failed: "ERROR", Deleted: "COMPLETE"},
    "ACTIVE": {Lost: "HELD", Failed: "ERROR", Deleted: "COMPLETE"},
    "COMPLETE": {Connected: "CONNECTED", Failed: "ERROR", Deleted: "COMPLETE"},
    "ERROR": {Connected: "CONNECTED", Failed: "ERROR", Deleted: "ERROR"},
}
EVENTS: list[Event] = [Connected(), FirstKeyframe(), Lost("eof"), Reconnected(), HoldExpired(), Failed("codec", "no"), Deleted()]
any_event = st.one_of(
    st.sampled_from(EVENTS),
    st.builds(Lost, st.sampled_from(["eof", "silence", "reset"]), st.sampled_from(["", "why"]), st.booleans()),
)


@pytest.mark.parametrize(("phase", "event"), list(itertools.product(Phase, EVENTS)))
def test_every_pair(phase: Phase, event: Event) -> None:
    life = Life(phase)
    expected = LEGAL[phase.name].get(type(event))
    if expected is None:
        with pytest.raises(MedianodeError, match=f"{phase.name}.*got {type(event).__name__}") as caught:
            step(life, event)
        assert caught.value.code == "illegal-transition"
        return
    after, facts = step(life, event)
    assert after.phase is Phase[expected]
    changed = [fact for fact in facts if isinstance(fact, StateChanged)]
    assert [(c.old, c.new) for c in changed] == ([(life.state, after.state)] if life.state is not after.state else [])


def test_the_pairs_are_all_that_there_are() -> None:
    assert set(LEGAL) == {phase.name for phase in Phase}
    assert {type(e) for e in EVENTS} == set(Event.__args__)
    assert {Life(phase).state for phase in Phase} == set(State)


def run(*events: Event) -> tuple[Life, list[list[object]]]:
    life, facts = Life(), []
    for event in events:
        life, new = step(life, event)
        facts.append(list(new))
    return life, facts


def test_a_good_session() -> None:
    life, facts = run(Connected(), FirstKeyframe(), Lost("eof"), Reconnected(), FirstKeyframe(), Lost("silence", "5 s"), HoldExpired())
    assert facts == [
        [StateChanged(State.INACTIVE, State.BUFFERING, "", "")],
        [StateChanged(State.BUFFERING, State.ACTIVE, "", ""), SessionStarted()],
        [StateChanged(State.ACTIVE, State.BUFFERING, "eof", "")],
        [],
        [StateChanged(State.BUFFERING, State.ACTIVE, "", "")],
        [StateChanged(State.ACTIVE, State.BUFFERING, "silence", "5 s")],
        [StateChanged(State.BUFFERING, State.COMPLETE, "silence", "5 s"), SessionEnded(True, "silence", "5 s")],
    ]
    assert life == Life(Phase.COMPLETE, "silence", "5 s")


@pytest.mark.parametrize(("active", "failure", "end"), [(0, 0, "COMPLETE"), (0, 1, "ERROR"), (1, 0, "COMPLETE"), (1, 1, "COMPLETE")])
def test_a_session_that_broke_before_it_was_ever_active_is_an_error(active: int, failure: int, end: str) -> None:
    events = [Connected(), *[FirstKeyframe()] * active, Lost("reset", "", bool(failure)), HoldExpired()]
    assert run(*events)[0].state == end


def test_coming_back_forgets_that_it_broke() -> None:
    assert run(Connected(), Lost("reset", "", True), Reconnected(), Lost("eof"), HoldExpired())[0].state is State.COMPLETE


@pytest.mark.parametrize("event", [Failed("codec", "no"), Deleted()])
def test_whoever_is_connected_is_put_out(event: Event) -> None:
    for events, out in (([Connected()], 1), ([Connected(), FirstKeyframe()], 1), ([Connected(), Lost("eof")], 0), ([], 0)):
        facts = run(*events, event)[1][-1]
        assert sum(isinstance(fact, PutOut) for fact in facts) == out


@given(st.lists(any_event, max_size=60))
def test_any_sequence(events: list[Event]) -> None:
    life, started, ended, sessions = Life(), 0, 0, 0
    state = life.state
    for event in events:
        if type(event) not in LEGAL[life.phase.name]:
            with pytest.raises(MedianodeError):
                step(life, event)
            continue
        before = life
        life, facts = step(life, event)
        assert step(before, event) == (life, facts)
        sessions += isinstance(event, Connected)
        for fact in facts:
            if isinstance(fact, StateChanged):
                assert fact.old is state
                assert fact.new is not fact.old
                state = fact.new
            started += isinstance(fact, SessionStarted)
            ended += isinstance(fact, SessionEnded)
        assert state is life.state
        if life.state in (State.ACTIVE, State.INACTIVE):
            assert (life.code, life.message) == ("", "")
        assert 0 <= sessions - ended <= 1
        assert started <= sessions
        assert (sessions - ended == 1) == (life.phase in (Phase.CONNECTED, Phase.HELD, Phase.ACTIVE))
