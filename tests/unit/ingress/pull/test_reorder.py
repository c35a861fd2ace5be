"""Decoding times made of presentation times."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medianode.ingress.pull.reorder import DecodingTimes

STEP = 3600


def test_without_b_frames_both_are_the_same() -> None:
    times = DecodingTimes()
    assert [times.place(i * STEP, STEP) for i in range(5)] == [0, STEP, 2 * STEP, 3 * STEP, 4 * STEP]


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_known_depth(depth: int) -> None:
    """I P B B P B B: as FFmpeg's muxers do it."""
    times = DecodingTimes(depth)
    shown = [0, 3, 1, 2, 6, 4, 5, 9, 7, 8]
    decoded = [times.place(pts * STEP, STEP) for pts in shown]
    assert decoded == sorted(set(decoded))
    assert all(dts <= pts * STEP for dts, pts in zip(decoded, shown, strict=True))


@given(st.lists(st.integers(1, 4), min_size=5, max_size=60))
def test_learned_depth_settles(groups: list[int]) -> None:
    """Each group: a picture, and those shown before it behind it. Once learned, dts grows and is never later than pts."""
    times, at, out = DecodingTimes(), 0, []
    for size in [4, 4, *groups]:
        order = [at + size - 1, *range(at, at + size - 1)]
        out += [(times.place(pts * STEP, STEP), pts * STEP) for pts in order]
        at += size
    settled = out[8:]
    assert all(dts <= pts for dts, pts in settled)
    assert [dts for dts, _ in settled] == sorted(dts for dts, _ in settled)


def test_reset_begins_anew() -> None:
    times = DecodingTimes(1)
    times.place(90_000_000, STEP)
    times.reset()
    assert times.place(0, STEP) == -STEP
