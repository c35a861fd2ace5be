"""Fragments: every run reads back through the boxes, whatever mix of durations, offsets and key frames."""

import struct

from hypothesis import given
from hypothesis import strategies as st

from medianode.protocols import fmp4
from medianode.protocols.fmp4_boxes import parse_boxes

SAMPLE = st.builds(
    fmp4.Sample,
    st.binary(max_size=40),
    st.sampled_from([0, 1024, 3000, 2**32 - 1]),
    st.sampled_from([0, 0, 3000, -3000, -(2**31), 2**31 - 1]),
    st.booleans(),
)
RUN = st.tuples(st.integers(0, 9), st.integers(0, 2**64 - 1), st.lists(SAMPLE, min_size=1, max_size=12))


@given(st.integers(0, 2**32 - 1), st.lists(RUN, min_size=1, max_size=3))
def test_sizes_offsets_and_totals(number: int, runs: list[tuple[int, int, list[fmp4.Sample]]]) -> None:
    data = fmp4.fragment(number, runs)
    moof, mdat = parse_boxes(data)
    assert moof.children[0].payload == struct.pack(">II", 0, number)
    assert mdat.payload == b"".join(sample.data for _, _, samples in runs for sample in samples)
    expected = len(data) - len(mdat.payload)
    for traf, (index, base, samples) in zip(moof.children[1:], runs, strict=True):
        tfhd, tfdt, trun = traf.children
        assert struct.unpack_from(">I", tfhd.payload, 4)[0] == index + 1
        assert tfdt.payload == struct.pack(">IQ", 1 << 24, base)
        flags, count, offset = struct.unpack_from(">IIi", trun.payload)
        assert (count, offset) == (len(samples), expected)
        expected += sum(len(sample.data) for sample in samples)
        columns = [bit for bit in (0x100, 0x200, 0x400, 0x800) if flags & bit]
        table = struct.iter_unpack(f">{len(columns)}I", trun.payload[16 if flags & 4 else 12 :])
        rows = [dict(zip(columns, row, strict=True)) for row in table]
        assert [row[0x200] for row in rows] == [len(sample.data) for sample in samples]
        if 0x800 in columns:
            assert [row[0x800] for row in rows] == [sample.composition_offset % 2**32 for sample in samples]
        else:
            assert not any(sample.composition_offset for sample in samples)
        if 0x100 in columns:
            assert [row[0x100] for row in rows] == [sample.duration for sample in samples]
        else:
            assert {sample.duration for sample in samples} == {struct.unpack_from(">I", tfhd.payload, 8)[0]}
