from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medianode.auth import FailedLogins, Permission, Principal, StreamName, allows, network, same_secret, stream_name
from medianode.errors import TooManyRequests


def blocked(failed: FailedLogins, source: str, now: float) -> bool:
    try:
        failed.check(source, now)
    except TooManyRequests:
        return True
    return False


def test_a_source_is_refused_after_its_failures_and_others_are_not() -> None:
    failed = FailedLogins(3)
    for _ in range(3):
        failed.check("10.0.0.1", 0.0)
        failed.failed("10.0.0.1", 0.0)
    assert blocked(failed, "10.0.0.1", 0.0)
    assert not blocked(failed, "10.0.0.2", 0.0)


def test_time_heals() -> None:
    failed = FailedLogins(3)
    for _ in range(100):
        failed.failed("a", 0.0)
    assert blocked(failed, "a", 19.9)
    assert not blocked(failed, "a", 20.1)
    failed.failed("a", 20.1)
    assert blocked(failed, "a", 20.2)
    assert not blocked(failed, "a", 90.0)


@given(st.lists(st.tuples(st.integers(0, 30), st.floats(0, 10)), max_size=200))
def test_never_more_sources_than_its_bound_and_never_more_failures_than_its_rate(steps: list[tuple[int, float]]) -> None:
    failed, now, let_in = FailedLogins(5, sources=31), 0.0, dict.fromkeys(range(31), 0)
    for source, pause in steps:
        now += pause
        if not blocked(failed, f"s{source}", now):
            let_in[source] += 1
            failed.failed(f"s{source}", now)
        assert len(failed) <= 31
    assert all(count <= 5 + now * 5 / 60 + 1 for count in let_in.values())


def test_the_source_that_failed_least_recently_is_forgotten() -> None:
    failed = FailedLogins(1, sources=2)
    for source in ("a", "b", "a", "c"):
        failed.failed(source, 0.0)
    assert [blocked(failed, s, 0.0) for s in "abc"] == [True, False, True]


@pytest.mark.parametrize(
    ("source", "unit"),
    [
        ("10.1.2.3", "10.1.2.3"),
        ("::ffff:10.1.2.3", "10.1.2.3"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("unix", "unix"),
        ("", ""),
    ],
)
def test_network(source: str, unit: str) -> None:
    assert network(source) == unit


@pytest.mark.parametrize(
    ("raw", "parsed"),
    [
        ("abc", StreamName("abc")),
        ("abc?", StreamName("abc")),
        ("abc?key=K", StreamName("abc", ("K",))),
        ("abc?streamKey=S&key=K&x=1&pass=P", StreamName("abc", ("K", "S", "P"))),
        ("/abc/?token=a.b.c", StreamName("abc", (), "a.b.c")),
        ("?key=K%20L", StreamName("", ("K L",))),
        ("abc?" + "a=1&" * 32 + "key=K", StreamName("abc")),
    ],
)
def test_stream_name(raw: str, parsed: StreamName) -> None:
    assert stream_name(raw) == parsed


@given(st.text())
def test_stream_name_takes_any_text(raw: str) -> None:
    assert len(stream_name(raw).secrets) <= 3


def test_same_secret() -> None:
    assert same_secret("é\ud800", "é\ud800")
    assert not same_secret("a", "b")
    assert not same_secret("a", "aa")
    assert not same_secret("", "a")


@pytest.mark.parametrize(
    ("has", "may"),
    [
        ({"admin"}, {"admin", "live", "moderate", "video", "view"}),
        ({"live"}, {"live", "view"}),
        ({"video"}, {"video"}),
        ({"moderate"}, {"moderate"}),
        ({"view"}, {"view"}),
        (set(), set()),
    ],
)
def test_permissions(has: set[str], may: set[str]) -> None:
    principal = Principal(key_id="k", project_id=None, slug=None, permissions=frozenset(has), node=True)
    assert {p.value for p in Permission if principal.may(p)} == may
    assert {p.value for p in Permission if allows(frozenset(has), p)} == may
