"""Reading back what fmp4 writes, and what somebody else did."""

from __future__ import annotations

import contextlib

import pytest
from harness import AUDIO, VIDEO
from hypothesis import given
from hypothesis import strategies as st

from medianode.errors import PeerError, ProtocolError
from medianode.protocols import fmp4, fmp4_read
from medianode.protocols.fmp4 import Sample
from medianode.protocols.fmp4_boxes import box, parse_boxes, uuid_box
from medianode.protocols.fmp4_read import Extent, Header, Run, Timescale

TYPE = bytes(range(16))
INIT = fmp4.init_segment((VIDEO, AUDIO), uuid_box(bytes(16), b"other"), uuid_box(TYPE, b"ours"))
MOOV = parse_boxes(INIT)[1].payload
SCALES = {1: Timescale(90_000, True), 2: Timescale(48_000, False)}


def test_headers() -> None:
    assert fmp4_read.header(INIT) == Header(b"ftyp", len(INIT) - 8 - len(MOOV), 8)
    assert fmp4_read.header(b"\0\0\0\1mdat" + (1 << 33).to_bytes(8, "big")) == Header(b"mdat", 1 << 33, 16)
    for cut in (b"", b"\0\0\0\x10mda", b"\0\0\0\1mdat\0\0\0\0\0\0\0"):
        assert fmp4_read.header(cut) is None
    for bad in (bytes(16), b"\0\0\0\7free", b"\0\0\0\1mdat" + bytes(8)):
        with pytest.raises(ProtocolError):
            fmp4_read.header(bad)


def test_timescales_and_our_box() -> None:
    assert fmp4_read.timescales(MOOV) == SCALES
    assert fmp4_read.user_box(MOOV, TYPE) == b"ours"
    assert fmp4_read.user_box(MOOV, b"x" * 16) is None


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        ([Sample(b"a", 3000), Sample(b"b", 3000, 0, False)], (6000, True)),
        ([Sample(b"a", 3000, 0, False), Sample(b"b", 3001, 0, False)], (6001, False)),
        ([Sample(b"a", 1, 3000, False), Sample(b"b", 2, -3000), Sample(b"c", 4, 0, False)], (7, False)),
        ([Sample(b"a", 1), Sample(b"b", 2, 9), Sample(b"c", 4, 0, False)], (7, True)),
        ([Sample(b"a", 5), Sample(b"b", 5)], (10, True)),
    ],
)
def test_runs(samples: list[Sample], expected: tuple[int, bool]) -> None:
    ticks, sync = expected
    moof = box(b"moof", parse_boxes(fmp4.fragment(1, [(0, 1 << 40, samples), (1, 7, [Sample(b"s", 1024)])]))[0].payload)
    assert fmp4_read.runs(moof, SCALES) == [Run(True, 90_000, 1 << 40, ticks, sync), Run(False, 48_000, 7, 1024, True)]
    with pytest.raises(ProtocolError):
        fmp4_read.runs(moof, {1: SCALES[1]})
    with pytest.raises(ProtocolError):
        fmp4_read.runs(box(b"moof"), SCALES)


def test_a_fragment_is_shown_when_its_picture_is() -> None:
    picture, sound = Run(True, 90_000, 90_000, 45_000, False), Run(False, 48_000, 0, 96_000, True)
    assert fmp4_read.extent([sound, picture], has_video=True) == Extent(1_000_000, 500_000, False)
    assert fmp4_read.extent([sound], has_video=True) == Extent(0, 2_000_000, False)
    assert fmp4_read.extent([sound], has_video=False) == Extent(0, 2_000_000, True)
    with pytest.raises(ProtocolError):
        fmp4_read.extent([], has_video=True)


@given(st.binary(max_size=200), st.integers(0, 10_000), st.integers(0, 255))
def test_damage_is_the_file_s_fault(garbage: bytes, where: int, value: int) -> None:
    """Whatever stands there, nothing but a PeerError comes of it."""
    moof = parse_boxes(fmp4.fragment(1, [(0, 9, [Sample(b"a", 3), Sample(b"b", 4, 1, False), Sample(b"c", 4)])]))[0].payload
    for data in (garbage, box(b"traf", garbage), _with(moof, where, value), _with(MOOV, where, value)):
        for read in (
            fmp4_read.header,
            fmp4_read.timescales,
            lambda data: fmp4_read.user_box(data, TYPE),
            lambda data: fmp4_read.runs(box(b"moof", data), SCALES),
        ):
            with contextlib.suppress(PeerError):
                read(data)


def _with(data: bytes, where: int, value: int) -> bytes:
    where %= len(data)
    return data[:where] + bytes((value,)) + data[where + 1 :]
