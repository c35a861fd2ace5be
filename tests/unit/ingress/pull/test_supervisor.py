"""When a source is opened, by which transport, and when it is given up: simulated time."""

from __future__ import annotations

import pytest

from medianode.errors import PeerTimeout
from medianode.ingress.pull.supervisor import HEALTHY, JITTER, Supervisor, Terms

TERMS = Terms(("udp", "tcp", "http"), 10.0, 5.0, 10.0, 30.0, 1.0, 10.0)
ONE = TERMS._replace(transports=("tcp",))


def made(terms: Terms = ONE, jitter: float = 1.0) -> Supervisor:
    return Supervisor(terms, lambda: jitter)


def test_waits_double_up_to_the_last_counted_from_the_beginning() -> None:
    s, now, waits = made(), 100.0, []
    for _ in range(7):
        s.begin(now)
        s.failed(now + 0.5, "connection-refused", "no")
        assert s.state == "waiting"
        waits.append(s.retry_at - now)
        now = s.retry_at
    assert waits == [1.5, 2.0, 4.0, 8.0, 10.0, 10.0, 10.0]  # the first: a second after the failure at least


@pytest.mark.parametrize("jitter", JITTER)
def test_a_source_that_hangs_every_attempt_is_asked_again_soon_after(jitter: float) -> None:
    """However long it hung before: well again, it is on air within connect_timeout and a second."""
    s, now = made(jitter=jitter), 0.0
    for _ in range(9):
        s.begin(now)
        assert s.look(now + 9.9, now, None, active=False) is None
        error = s.look(now + 10.0, now, None, active=False)
        assert isinstance(error, PeerTimeout)
        s.failed(now + 10.0, error.code, error.message)
        assert s.retry_at - now <= 11.0
        now = s.retry_at


def test_well_for_a_while_forgets_what_was() -> None:
    s = made()
    for now in (0.0, 20.0, 40.0):
        s.begin(now)
        s.failed(now, "connection-refused", "")
    s.begin(60.0)
    s.running(60.1)
    assert (s.state, s.code, s.message) == ("running", "", "")
    s.failed(60.1 + HEALTHY, "source-ended", "")
    assert s.retry_at == pytest.approx(60.1 + HEALTHY + 1.0)


def test_a_refused_password_is_not_offered_often() -> None:
    s, now, waits = made(), 0.0, []
    for _ in range(6):
        s.begin(now)
        s.failed(now, "unauthorized", "")
        waits.append(s.retry_at - now)
        now = s.retry_at
    assert waits == [10.0, 20.0, 40.0, 80.0, 120.0, 120.0]


def test_transports_are_tried_in_turn_without_a_wait_and_then_from_the_beginning() -> None:
    s = made(TERMS)
    assert s.begin(0.0) == "udp"
    s.failed(4.0, "nothing-came", "")
    assert s.retry_at == 4.0
    assert s.begin(4.0) == "tcp"
    s.failed(5.0, "unsupported-transport", "")
    assert s.begin(5.0) == "http"
    s.failed(6.0, "nothing-came", "")
    assert s.retry_at > 6.0
    assert s.begin(s.retry_at) == "udp"


def test_another_fault_is_none_of_the_transport() -> None:
    s = made(TERMS)
    s.begin(0.0)
    s.failed(1.0, "connection-refused", "")
    assert s.begin(s.retry_at) == "udp"


def test_a_source_that_told_what_it_is_has_no_other_transport_for_that() -> None:
    """`http` turned out to be a playlist: what is shown is `hls`, and there is nothing else to try."""
    s = made(TERMS._replace(transports=("http",)))
    for now, code in ((0.0, "source-ended"), (100.0, "nothing-came")):
        s.begin(now)
        s.transport = "hls"
        s.running(now)
        s.failed(now + 1.0, code, "")
        assert s.retry_at > now + 1.0
        assert s.transport == "hls"


def test_what_has_proven_itself_is_not_left_for_a_silence_but_for_a_refusal() -> None:
    s = made(TERMS)
    s.begin(0.0)
    s.failed(0.0, "nothing-came", "")
    s.begin(0.0)
    s.running(0.5)
    s.proven()
    s.failed(30.0, "source-silent", "")
    assert s.begin(s.retry_at) == "tcp"
    s.failed(40.0, "unsupported-transport", "")
    assert s.begin(s.retry_at) == "udp"


def test_watchdogs() -> None:
    s = made()
    s.begin(0.0)
    assert s.look(9.9, 0.0, None, active=False) is None
    s.running(1.0)
    assert s.look(5.9, 1.0, None, active=False) is None
    silent = s.look(6.0, 1.0, None, active=False)
    assert silent is not None
    assert silent.code == "nothing-came"
    silent = s.look(26.0, 21.0, 20.0, active=True)
    assert silent is not None
    assert silent.code == "source-silent"
    frozen = s.look(30.0, 30.0, 20.0, active=True)
    assert frozen is not None
    assert frozen.code == "video-frozen"
    assert s.look(29.9, 29.9, 20.0, active=True) is None
    assert s.look(60.0, 60.0, None, active=True) is None  # sound alone
    nothing = s.look(31.0, 31.0, 30.9, active=False)
    assert nothing is not None
    assert nothing.code == "no-media"
