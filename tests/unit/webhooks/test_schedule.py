from __future__ import annotations

import pytest

from medianode.webhooks import schedule


def test_from_five_seconds_to_six_hours() -> None:
    assert schedule.delays(5, 21_600) == [5, 20, 80, 320, 1280, 5120, 20_480, 21_600]
    assert schedule.delays(5, 5) == [5]
    assert schedule.delays(10, 5) == [5]


def test_it_is_given_up_after_the_last() -> None:
    assert schedule.delay(1, 5, 21_600, 0.5) == 5
    assert schedule.delay(8, 5, 21_600, 0.5) == 21_600
    assert schedule.delay(9, 5, 21_600, 0.5) is None


def test_chance_spreads_within_its_bounds() -> None:
    low, high = schedule.delay(2, 5, 21_600, 0.0), schedule.delay(2, 5, 21_600, 1.0)
    assert (low, high) == (pytest.approx(17), pytest.approx(23))
    last = schedule.delay(8, 5, 21_600, 1.0)
    assert last is not None
    assert last <= schedule.longest(21_600)


@pytest.mark.parametrize(("asked", "expected"), [(None, 5), (1.0, 5), (60.0, 60), (1e9, 21_600)])
def test_what_the_receiver_asks_for_counts_where_it_is_more(asked: float | None, expected: float) -> None:
    assert schedule.delay(1, 5, 21_600, 0.5, asked) == expected


@pytest.mark.parametrize(
    ("status", "baxcloud", "streamhub"),
    [
        (None, "retry", "retry"),
        (200, "delivered", "delivered"),
        (204, "delivered", "delivered"),
        (299, "delivered", "delivered"),
        (301, "retry", "retry"),
        (400, "retry", "dead"),
        (401, "retry", "dead"),
        (404, "retry", "dead"),
        (408, "retry", "retry"),
        (410, "retry", "dead"),
        (429, "retry", "retry"),
        (500, "retry", "retry"),
        (503, "retry", "retry"),
    ],
)
def test_verdicts(status: int | None, baxcloud: str, streamhub: str) -> None:
    assert schedule.judge("baxcloud", status) == schedule.judge("fastpix", status) == baxcloud
    assert schedule.judge("streamhub", status) == streamhub
