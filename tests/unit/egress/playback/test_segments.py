"""Parts into segments: from key frame to key frame, never too long, and final once told."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from medianode.egress.playback.segments import cut
from medianode.media.parts import Part


def parts_of(spans: list[tuple[float, bool]]) -> list[Part]:
    found, at, offset = [], 0, 1000
    for seconds, key in spans:
        found.append(Part(offset, 100, at, round(seconds * 1e6), key))
        at, offset = at + round(seconds * 1e6), offset + 100
    return found


def lengths(spans: list[tuple[float, bool]], *, closed: bool = True) -> list[tuple[float, bool]]:
    return [(s.duration / 1e6, s.independent) for s in cut(parts_of(spans), closed=closed)]


def test_two_second_key_frames_make_segments_of_four_seconds() -> None:
    gop = [(1.0, True), (1.0, False)]
    assert lengths(gop * 5) == [(4.0, True), (4.0, True), (2.0, True)]


def test_a_long_gop_stays_whole() -> None:
    assert lengths([(1.0, i % 10 == 0) for i in range(30)]) == [(10.0, True)] * 3


def test_without_key_frames_a_segment_ends_at_twelve_seconds() -> None:
    assert lengths([(1.0, i == 0) for i in range(30)]) == [(12.0, True), (12.0, False), (6.0, False)]


def test_before_a_gop_that_would_be_too_long_it_ends_at_the_key_frame_there_was() -> None:
    # a key frame at 3 s, and then none for 20: 3 s are better than 12 with a cut in the picture
    spans = [(1.0, i in (0, 3)) for i in range(23)]
    assert lengths(spans)[:2] == [(3.0, True), (12.0, True)]


def test_of_a_growing_file_only_what_is_final() -> None:
    gop = [(1.0, True), (1.0, False)]
    assert lengths(gop * 2, closed=False) == []
    assert lengths(gop * 2 + gop[:1], closed=False) == [(4.0, True)]


@given(st.lists(st.tuples(st.floats(0.05, 3.0), st.booleans()), min_size=1, max_size=80))
def test_all_bytes_once_in_order_and_what_was_told_stays(spans: list[tuple[float, bool]]) -> None:
    parts = parts_of([(spans[0][0], True), *spans[1:]])
    whole = cut(parts, closed=True)
    assert whole[0].offset == parts[0].offset
    assert sum(s.size for s in whole) == sum(p.size for p in parts)
    assert all(a.offset + a.size == b.offset and a.start + a.duration == b.start for a, b in itertools.pairwise(whole))
    assert all(s.duration <= 12_000_000 + 3_000_000 for s in whole)
    for n in range(1, len(parts) + 1):
        growing = cut(parts[:n], closed=False)
        assert growing == whole[: len(growing)]
