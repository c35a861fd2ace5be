from __future__ import annotations

from collections.abc import Generator

import pytest

from medianode.errors import LimitExceeded
from medianode.protocols.reader import StreamReader


def record(reader: StreamReader, sizes: list[int], out: list[bytes]) -> Generator[None, None, None]:
    for size in sizes:
        data = yield from reader.read_exactly(size)
        out += [data]
    yield


@pytest.mark.parametrize("step", [1, 2, 3, 7, 100])
def test_reads_do_not_depend_on_the_cuts(step: int) -> None:
    data = bytes(range(100))
    reader = StreamReader(100)
    out: list[bytes] = []
    parser = record(reader, [1, 0, 30, 2, 67], out)
    for at in range(0, 100, step):
        reader.feed(data[at : at + step])
        next(parser)
    assert out == [data[:1], b"", data[1:31], data[31:33], data[33:]]
    assert len(reader) == 0


def test_what_is_buffered_costs_no_suspension() -> None:
    reader = StreamReader(10)
    reader.feed(b"abcdef")
    with pytest.raises(StopIteration) as stopped:
        next(reader.read_exactly(4))
    assert stopped.value.value == b"abcd"
    assert reader.read_some(10) == b"ef"
    assert reader.read_some(10) == b""


def test_limits() -> None:
    reader = StreamReader(4)
    with pytest.raises(LimitExceeded, match="expected a read of at most 4 bytes, got 5"):
        next(reader.read_exactly(5))
    reader.feed(b"12345")
    with pytest.raises(LimitExceeded, match="expected at most 4 unread bytes, got 5"):
        reader.feed(b"6")


def test_trailing_data_stays() -> None:
    reader = StreamReader(10)
    parser = record(reader, [4], out := [])
    reader.feed(b"ab")
    next(parser)
    reader.feed(b"cdTRAIL")
    next(parser)
    assert out == [b"abcd"]
    assert len(reader) == 5
    assert reader.read_some(3) == b"TRA"
