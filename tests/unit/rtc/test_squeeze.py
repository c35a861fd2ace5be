"""Timestamps of a late joiner: they advance as its packets come, meet the others', and never step back."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medianode.rtc.flow import CATCH_UP, Squeeze

FRAME = 3000


def test_what_is_sent_four_times_as_fast_is_stamped_four_times_as_slow() -> None:
    squeeze, stamps = Squeeze(), []
    # 40 pictures behind; of four that are sent one more is recorded
    for n in range(53):
        newest = 40 + n // 4
        stamps.append(n * FRAME + squeeze.advance(n * FRAME, newest * FRAME, newest - n))
    assert stamps[0] == 39 * FRAME, "the first is as new as the newest but one"
    steps = {b - a for a, b in itertools.pairwise(stamps[:-1])}
    assert steps <= set(range(int(FRAME / CATCH_UP) - 50, int(FRAME / CATCH_UP) + 50))
    assert stamps[-1] == 52 * FRAME
    assert squeeze.ticks == 0


@pytest.mark.parametrize("base", [0, 0xFFFFFFFF - 5 * FRAME])
def test_a_picture_of_many_trains_has_one_timestamp_and_stamps_wrap(base: int) -> None:
    squeeze, stamps = Squeeze(), []
    trains = [n // 3 for n in range(30)]
    for i, n in enumerate(trains):
        stamp = (base + n * FRAME) & 0xFFFFFFFF
        stamps.append(n * FRAME + squeeze.advance(stamp, (base + 9 * FRAME) & 0xFFFFFFFF, len(trains) - 1 - i))
    assert [len(set(stamps[i : i + 3])) for i in range(0, 30, 3)] == [1] * 10
    assert stamps[-1] == 9 * FRAME


@given(st.lists(st.integers(1, 20_000), min_size=1, max_size=60), st.lists(st.integers(0, 2), min_size=60, max_size=60))
def test_always_forward_never_past_the_newest_and_in_the_end_the_others(steps: list[int], arrivals: list[int]) -> None:
    recorded = [0]
    for step in steps:
        recorded.append(recorded[-1] + max(step, 100))
    newest = max(1, len(recorded) // 2)
    squeeze, last = Squeeze(), -1
    for n, stamp in enumerate(recorded):
        newest = min(len(recorded) - 1, max(newest, n) + (arrivals[n] if n < len(arrivals) else 0))
        ticks = squeeze.advance(stamp, recorded[newest], newest - n)
        assert ticks >= 0
        assert last < stamp + ticks <= recorded[newest]
        last = stamp + ticks
        if n == newest:
            assert ticks == 0
