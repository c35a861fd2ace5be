from __future__ import annotations

import tracemalloc

import pytest

from medianode.errors import LimitExceeded, PeerError, ProtocolError
from medianode.protocols.reader import StreamReader
from medianode.protocols.rtmp.chunk import ChunkReader, Message, chunk_message


class Reading:
    def __init__(self, *, message: int = 1 << 20, partial: int = 1 << 20, streams: int = 16) -> None:
        self.reader = StreamReader(4096)
        self.chunks = ChunkReader(self.reader, max_message_bytes=message, max_partial_bytes=partial, max_chunk_streams=streams)
        self.parser = self.chunks.parse()

    def feed(self, data: bytes, step: int = 0) -> list[Message]:
        for at in range(0, len(data), step or len(data) or 1):
            self.reader.feed(data[at : at + (step or len(data))])
            next(self.parser)
        messages = list(self.chunks.messages)
        self.chunks.messages.clear()
        return messages


def header(fmt: int, csid: int, time: int = 0, length: int = 0, type_: int = 9, stream_id: int = 1) -> bytes:
    if csid < 64:
        basic = bytes((fmt << 6 | csid,))
    elif csid < 320:
        basic = bytes((fmt << 6, csid - 64))
    else:
        basic = bytes((fmt << 6 | 1, (csid - 64) & 255, (csid - 64) >> 8))
    field = min(time, 0xFFFFFF).to_bytes(3, "big")
    extended = time.to_bytes(4, "big") if time >= 0xFFFFFF else b""
    full = field + length.to_bytes(3, "big") + bytes((type_,)) + stream_id.to_bytes(4, "little")
    return basic + full[: (11, 7, 3, 0)[fmt]] + (extended if fmt < 3 else b"")


STEPS = [0, 1, 2, 5, 17, 130]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("csid", [2, 63, 64, 319, 320, 65_599])
def test_types_0_to_3(csid: int, step: int) -> None:
    wire = (
        header(0, csid, 1000, 3) + b"abc"
        + header(1, csid, 40, 2, type_=8) + b"de"
        + header(2, csid, 20) + b"fg"
        + header(3, csid) + b"hi"
    )  # fmt: skip
    assert Reading().feed(wire, step) == [
        Message(9, 1, 1000, b"abc"),
        Message(8, 1, 1040, b"de"),
        Message(8, 1, 1060, b"fg"),
        Message(8, 1, 1080, b"hi"),
    ]


def test_type_3_after_type_0_repeats_its_timestamp_as_a_delta() -> None:
    """RTMP 5.3.1.2.4; FFmpeg relies on it."""
    wire = header(0, 4, 40, 1) + b"a" + header(3, 4) + b"b" + header(3, 4) + b"c"
    assert [message.timestamp for message in Reading().feed(wire)] == [40, 80, 120]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("size", [0, 1, 127, 128, 129, 256, 1000])
@pytest.mark.parametrize("time", [0, 0xFFFFFE, 0xFFFFFF, 0x1000000, 0xFFFFFFFF])
def test_written_messages_are_read_back(size: int, time: int, step: int) -> None:
    payload = bytes(i % 251 for i in range(size))
    wire = chunk_message(6, 9, 7, time, payload, 128)
    assert Reading().feed(wire * 3, step) == [Message(9, 7, time, payload)] * 3


@pytest.mark.parametrize("step", STEPS)
def test_extended_timestamps_left_out_of_type_3(step: int) -> None:
    body = bytes(range(200))
    wire = header(0, 6, 0x1234567, 200) + body[:128] + header(3, 6) + body[128:]
    assert Reading().feed(wire + header(0, 6, 5, 1) + b"x", step) == [Message(9, 1, 0x1234567, body), Message(9, 1, 5, b"x")]


@pytest.mark.parametrize("step", STEPS)
def test_extended_delta_and_the_absolute_time_repeated_on_type_3(step: int) -> None:
    body = bytes(200)
    start, delta = 100, 0x2000000
    for repeated in (delta, start + delta):
        wire = header(0, 6, start, 1) + b"a" + header(1, 6, delta, 200) + body[:128]
        wire += header(3, 6) + repeated.to_bytes(4, "big") + body[128:]
        assert Reading().feed(wire, step) == [Message(9, 1, start, b"a"), Message(9, 1, start + delta, body)]


def test_new_message_of_type_3_with_extended_timestamp() -> None:
    absolute = header(0, 6, 0x1000000, 1) + b"a" + header(3, 6) + (0x1000028).to_bytes(4, "big") + b"b"
    assert [m.timestamp for m in Reading().feed(absolute)] == [0x1000000, 0x1000028]
    left_out = header(0, 6, 0x1000000, 4) + b"abcd" + header(3, 6) + b"efgh"
    assert Reading().feed(left_out) == [Message(9, 1, 0x1000000, b"abcd"), Message(9, 1, 0x1000000, b"efgh")]
    delta = header(0, 6, 0, 1) + b"a" + header(1, 6, 0x1000000, 1) + b"b" + header(3, 6) + (0x1000000).to_bytes(4, "big") + b"c"
    assert [m.timestamp for m in Reading().feed(delta)] == [0, 0x1000000, 0x2000000]


def test_timestamps_wrap() -> None:
    wire = header(0, 6, 0xFFFFFFF0, 1) + b"a" + header(1, 6, 0x20, 1) + b"b"
    assert [m.timestamp for m in Reading().feed(wire)] == [0xFFFFFFF0, 0x10]


@pytest.mark.parametrize("step", STEPS)
def test_interleaved_messages(step: int) -> None:
    video, audio = bytes(300), bytes(range(200))
    wire = (
        header(0, 6, 10, 300) + video[:128]
        + header(0, 4, 11, 200, 8) + audio[:128]
        + header(3, 6) + video[128:256]
        + header(3, 4) + audio[128:]
        + header(3, 6) + video[256:]
    )  # fmt: skip
    assert Reading().feed(wire, step) == [Message(8, 1, 11, audio), Message(9, 1, 10, video)]


def test_set_chunk_size_holds_from_the_next_chunk_on_and_is_capped() -> None:
    reading = Reading()
    wire = header(0, 6, 0, 300) + bytes(128) + header(0, 2, 0, 4, 1, 0) + (256).to_bytes(4, "big") + header(3, 6) + bytes(172)
    assert reading.feed(wire) == [Message(9, 1, 0, bytes(300))]
    assert reading.chunks.chunk_size == 256
    reading.feed(header(0, 2, 0, 4, 1, 0) + b"\xff\xff\xff\xff")
    assert reading.chunks.chunk_size == 0xFFFFFF
    with pytest.raises(ProtocolError, match="chunk size of at least 1"):
        reading.feed(header(0, 2, 0, 4, 1, 0) + bytes(4))


def test_abort_forgets_the_unfinished_message() -> None:
    reading = Reading()
    wire = header(0, 6, 0, 300) + bytes(128) + header(0, 2, 0, 4, 2, 0) + (6).to_bytes(4, "big")
    assert reading.feed(wire) == []
    assert reading.chunks.held == 0
    assert reading.feed(header(0, 6, 9, 1) + b"x") == [Message(9, 1, 9, b"x")]
    assert reading.feed(header(0, 2, 0, 4, 2, 0) + (99).to_bytes(4, "big")) == []


def test_a_header_repeated_inside_a_message_is_borne_unless_it_differs() -> None:
    wire = header(0, 6, 5, 200) + bytes(128) + header(1, 6, 0, 200) + bytes(72)
    assert Reading().feed(wire) == [Message(9, 1, 5, bytes(200))]
    for bad in (header(1, 6, 0, 201), header(0, 6, 0, 200)):
        with pytest.raises(ProtocolError, match="expected the other 72 bytes"):
            Reading().feed(header(0, 6, 5, 200) + bytes(128) + bad)


def test_librtmp_opens_with_type_1_others_may_not() -> None:
    assert Reading().feed(header(1, 2, 7, 6, 4, 0) + bytes(6)) == [Message(4, 0, 7, bytes(6))]
    for fmt in (2, 3):
        with pytest.raises(ProtocolError, match="to begin with a chunk of type 0"):
            Reading().feed(header(fmt, 9) + bytes(20))


def test_short_control_messages_are_refused() -> None:
    with pytest.raises(ProtocolError, match="expected 4 bytes"):
        Reading().feed(header(0, 2, 0, 3, 1, 0) + bytes(3))


def test_a_message_over_the_limit_is_refused_at_its_header() -> None:
    reading = Reading(message=1000)
    assert reading.feed(header(0, 6, 0, 1000) + bytes(128)) == []
    with pytest.raises(LimitExceeded, match="expected a message of at most 1000 bytes, got one of 16777215"):
        reading.feed(header(0, 7, 0, 0xFFFFFF))


def test_unfinished_messages_are_bounded_together() -> None:
    reading = Reading(partial=1000)
    for csid in range(3, 10):
        reading.feed(header(0, csid, 0, 500) + bytes(128))
    assert reading.chunks.held == 7 * 128
    with pytest.raises(LimitExceeded, match="at most 1000 bytes of unfinished messages"):
        reading.feed(header(0, 10, 0, 500) + bytes(128))


def test_chunk_streams_are_bounded() -> None:
    reading = Reading(streams=10)
    with pytest.raises(LimitExceeded, match="at most 10 chunk streams"):
        reading.feed(b"".join(header(0, csid, 0, 1) + b"x" for csid in range(2, 2000)))
    assert len(reading.chunks.messages) == 10


@pytest.mark.parametrize("step", [1, 2, 3, 4096])
def test_memory_grows_with_bytes_not_with_what_is_declared(step: int) -> None:
    """One byte at a time, too: no object for each piece."""
    reading = Reading(message=0xFFFFFF, partial=1 << 20, streams=64)
    wire = b"".join(header(0, csid, 0, 0xFFFFFF) + bytes(128) for csid in range(3, 60))
    wire += header(0, 2, 0, 4, 1, 0) + b"\0\xff\xff\xff" + header(3, 3) + bytes(100_000)
    tracemalloc.start()
    reading.feed(wire[:10], 1)
    before = tracemalloc.get_traced_memory()[0]
    reading.feed(wire[10:], step)
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert reading.chunks.held > 100_000
    assert grown < 1.3 * reading.chunks.held + 60 * 512 + 2 * step


def test_trailing_bytes_stay_unread() -> None:
    reading = Reading()
    assert reading.feed(header(0, 6, 0, 1) + b"x" + b"\x06\x00") == [Message(9, 1, 0, b"x")]
    assert len(reading.reader) == 2


@pytest.mark.parametrize("cut", [*range(1, 30), *range(140, 160), 220, 221, 222])
def test_every_prefix_waits(cut: int) -> None:
    wire = chunk_message(6, 9, 1, 0x1000000, bytes(range(200)), 128)
    try:
        messages = Reading().feed(wire[:cut])
    except PeerError as error:
        raise AssertionError(f"a prefix of {cut} bytes was refused: {error}") from error
    assert len(messages) == (cut >= len(wire))
