"""What was made is kept within its bytes, and made once for all who ask together."""

from __future__ import annotations

import asyncio

import pytest

from medianode.egress.playback.kept import Kept
from medianode.errors import LimitExceeded


class Maker:
    """Counts what it made; `failing` times it cannot."""

    def __init__(self, size: int, failing: int = 0) -> None:
        self.size = size
        self.failing = failing
        self.made = 0

    async def __call__(self) -> bytes:
        await asyncio.sleep(0)
        if self.failing:
            self.failing -= 1
            raise LimitExceeded("not now")
        self.made += 1
        return bytes(self.size)


async def test_who_asks_together_has_it_made_once_and_a_failure_is_only_told_to_its_own() -> None:
    kept, maker = Kept[bytes](100, len), Maker(10, failing=1)
    first, *others = await asyncio.gather(*(kept.get(("a",), maker) for _ in range(12)), return_exceptions=True)
    assert isinstance(first, LimitExceeded)
    assert others == [bytes(10)] * 11
    assert maker.made == 1
    assert not kept._making


async def test_what_was_asked_for_longest_ago_goes_first_and_what_is_too_large_is_not_kept() -> None:
    kept, maker = Kept[bytes](100, len), Maker(40)
    for key in ("a", "b", "a", "c"):  # a is asked for again: b goes
        await kept.get((key,), maker)
    assert (maker.made, kept.nbytes) == (3, 80)
    await kept.get(("a",), maker)
    assert maker.made == 3
    await kept.get(("b",), maker)
    assert maker.made == 4
    large = Maker(51)
    for _ in range(2):
        assert len(await kept.get(("large",), large)) == 51
    assert (large.made, kept.nbytes) == (2, 80)


async def test_who_gives_up_leaves_the_others_theirs() -> None:
    kept, maker = Kept[bytes](100, len), Maker(10)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await kept.get(("a",), maker)
    assert await kept.get(("a",), maker) == bytes(10)
    assert maker.made == 1
