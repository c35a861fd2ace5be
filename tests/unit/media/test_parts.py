"""The packed index of a recording's file."""

from __future__ import annotations

import pytest

from medianode.media.parts import Part, pack, unpack

PARTS = [Part(1200, 90_000, 0, 1_000_000, True), Part(91_200, 4 << 30 - 1, 1_000_000, 999_999, False)]


def test_what_is_packed_comes_back() -> None:
    assert unpack(pack(PARTS)) == PARTS
    assert unpack(pack([])) == []
    assert len(pack(PARTS)) == 1 + 2 * 25


@pytest.mark.parametrize("broken", [b"", b"\x02", pack(PARTS)[:-1], b"\x01" + bytes(7)])
def test_anything_else_is_refused(broken: bytes) -> None:
    with pytest.raises(ValueError, match="index of parts"):
        unpack(broken)


def test_a_picture_that_stood_for_two_hours_has_its_place_in_the_index() -> None:
    (told,) = unpack(pack([Part(0, 1, 0, 7_200_000_000, True)]))
    assert told.duration == (1 << 32) - 1
