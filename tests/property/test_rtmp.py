"""RTMP, AMF and FLV under Hypothesis: round trips, split invariance, garbage, bounds."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import assume, given
from hypothesis import strategies as st

from medianode.errors import PeerError
from medianode.media.track import Codec
from medianode.protocols.amf import UNDEFINED, Date, EcmaArray, TypedObject, Value, decode_amf0, decode_amf3, encode_amf0, encode_amf3
from medianode.protocols.flv import PacketType, parse_audio, parse_video, video_tag
from medianode.protocols.reader import StreamReader
from medianode.protocols.rtmp import Connect, Play, Publish, ServerConnection
from medianode.protocols.rtmp.chunk import ChunkReader, Message, chunk_message

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
number = st.floats(allow_nan=False)
leaf = st.one_of(st.none(), st.booleans(), number, text, st.just(UNDEFINED))
name = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6)


def containers(inner: st.SearchStrategy[Value]) -> st.SearchStrategy[Value]:
    fields = st.dictionaries(name, inner, max_size=4)
    return st.one_of(
        st.lists(inner, max_size=4),
        fields,
        fields.map(EcmaArray),
        st.builds(lambda class_name, items: TypedObject(class_name, items.items()), name, fields),
    )


tree = st.recursive(leaf, containers, max_leaves=20)
value0 = st.one_of(tree, st.builds(Date, number, st.integers(-720, 720)))
value3 = st.one_of(tree, number.map(Date), st.binary(max_size=20), st.integers(-(1 << 28), (1 << 28) - 1))


def empty_ecma(value: Value) -> bool:
    """AMF3 has one empty array: it comes back as a list."""
    if isinstance(value, dict):
        return (isinstance(value, EcmaArray) and not value) or any(map(empty_ecma, value.values()))
    return isinstance(value, list) and any(map(empty_ecma, value))


@given(st.lists(value0, max_size=4))
def test_amf0_round_trip(values: list[Value]) -> None:
    assert decode_amf0(encode_amf0(*values), max_depth=64) == values


@given(st.lists(value3, max_size=4))
def test_amf3_round_trip(values: list[Value]) -> None:
    assume(not any(map(empty_ecma, values)))
    assert decode_amf3(encode_amf3(*values), max_depth=64) == values


def size(value: Value) -> int:
    if isinstance(value, dict):
        return 1 + sum(map(size, value.values()))
    return 1 + sum(map(size, value)) if isinstance(value, list) else 1


markers = st.sampled_from(
    [bytes((i,)) for i in range(0x13)] + [b"\0\0\x09", b"\0\1a", b"\1", b"\0\0\0\2", b"\x07\0\0", b"\x09\3\1", b"\x0a\x0b\1"]
)


@given(st.one_of(st.binary(max_size=200), st.lists(markers, max_size=60).map(b"".join)))
def test_amf_garbage_gives_peer_errors_and_trees_within_bounds(data: bytes) -> None:
    for decode in (decode_amf0, decode_amf3):
        try:
            values = decode(data, max_depth=6, max_items=100)
        except PeerError:
            continue
        assert sum(map(size, values)) <= 100


messages = st.lists(
    st.tuples(
        st.integers(2, 63),
        st.sampled_from([0, 3, 4, 5, 8, 9, 18, 20, 22, 255]),
        st.integers(0, 0xFFFFFFFF),
        st.one_of(st.sampled_from([0, 0xFFFFFE, 0xFFFFFF, 0x1000000, 0xFFFFFFFF]), st.integers(0, 0xFFFFFFFF)),
        st.binary(max_size=600),
    ),
    max_size=6,
)


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    points = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[a:b] for a, b in pairwise(points)]


@given(messages, st.integers(1, 300), st.lists(st.integers(0, 10_000), max_size=20))
def test_chunks_round_trip_however_they_are_cut(sent: list[tuple[int, int, int, int, bytes]], chunk_size: int, cuts: list[int]) -> None:
    reader = StreamReader(64)
    chunks = ChunkReader(reader, max_message_bytes=600, max_partial_bytes=600, max_chunk_streams=64)
    chunks.chunk_size = chunk_size
    parser = chunks.parse()
    wire = b"".join(chunk_message(csid, type_, stream, time, payload, chunk_size) for csid, type_, stream, time, payload in sent)
    for piece in split(wire, cuts):
        reader.feed(piece)
        next(parser)
    assert chunks.messages == [Message(type_, stream, time, payload) for _, type_, stream, time, payload in sent]
    assert chunks.held == 0


def run(pieces: list[bytes]) -> tuple[list[object], bytes, str]:
    connection = ServerConnection(random=bytes, max_message_bytes=4096, max_partial_bytes=4096, max_chunk_streams=8, max_pending_bytes=1000)
    events: list[object] = []
    error = ""
    for piece in pieces:
        try:
            connection.receive_data(piece)
        except PeerError as caught:
            assert not error
            error = f"{type(caught).__name__}: {caught}"
        events += connection.events()
    connection.receive_eof()
    return events + list(connection.events()), connection.data_to_send()[:3073], error


def say(*values: Value, stream_id: int = 0) -> bytes:
    return chunk_message(3, 20, stream_id, 0, encode_amf0(*values), 128)


HELLO = b"\x03" + bytes(3072)
lines = st.sampled_from(
    [
        say("connect", 1, {"app": "live"}),
        say("createStream", 2, None),
        say("publish", 3, None, "key", stream_id=1),
        say("play", 3, None, "key", stream_id=1),
        say("closeStream", 0, None, stream_id=1),
        say("deleteStream", 0, None, 1),
        say("FCUnpublish", 4, None, "key"),
        chunk_message(6, 9, 1, 0x1000000, bytes(300), 128),
        chunk_message(4, 8, 1, 7, b"\xaf\x01", 128),
        chunk_message(4, 22, 1, 7, b"\x08\0\0\1" + bytes(7) + b"x" + bytes(4), 128),
        chunk_message(2, 1, 0, 0, b"\0\0\0\x80", 128),
        chunk_message(2, 2, 0, 0, b"\0\0\0\6", 128),
    ]
)
transcript = st.lists(st.one_of(lines, st.binary(max_size=30)), max_size=10).map(b"".join)


@given(transcript, st.lists(st.integers(0, 100_000), max_size=20))
def test_a_transcript_means_the_same_however_it_is_cut(wire: bytes, cuts: list[int]) -> None:
    wire = HELLO + say("connect", 1, {"app": "live"}) + wire
    assert run([wire]) == run(split(wire, cuts))


@given(transcript, st.lists(st.booleans(), min_size=12))
def test_a_door_that_decides_anything_meets_only_peer_errors(wire: bytes, decisions: list[bool]) -> None:
    connection = ServerConnection(random=bytes)
    coin = iter(decisions * 20)
    for at in range(0, len(HELLO + wire), 97):
        try:
            connection.receive_data((HELLO + wire)[at : at + 97])
        except PeerError:
            return
        for event in connection.events():
            if isinstance(event, Connect):
                (connection.accept_connect if next(coin, True) else connection.reject_connect)()
            elif isinstance(event, Publish):
                (connection.accept_publish if next(coin, True) else connection.reject_publish)(event.stream_id)
            elif isinstance(event, Play):
                (connection.accept_play if next(coin, True) else connection.reject_play)(event.stream_id)
    assert connection.data_to_send()[0] == 3


@given(st.one_of(st.binary(max_size=80), st.tuples(st.sampled_from([0x90, 0x91, 0x95, 0x96, 0x97, 0x17, 0xAF]), st.binary(max_size=80)).map(
    lambda pair: bytes((pair[0],)) + pair[1]
)))  # fmt: skip
def test_flv_garbage_gives_only_peer_errors(payload: bytes) -> None:
    for parse in (parse_video, parse_audio):
        try:
            tags = parse(payload)
        except PeerError:
            continue
        assert sum(len(tag.data) for tag in tags) <= len(payload) + 4 * len(tags)


@given(
    st.sampled_from([Codec.H264, Codec.HEVC, Codec.AV1, Codec.VP9]), st.booleans(), st.integers(-(1 << 23), (1 << 23) - 1),
    st.integers(0, 255), st.binary(min_size=1, max_size=50),
)  # fmt: skip
def test_flv_video_round_trip(codec: Codec, keyframe: bool, offset: int, track_id: int, data: bytes) -> None:
    offset = offset if codec in (Codec.H264, Codec.HEVC) else 0
    wire = video_tag(codec, PacketType.FRAMES, data, keyframe=keyframe, composition_time=offset, track_id=track_id)
    (tag,) = parse_video(wire)
    assert tag == (codec, PacketType.FRAMES, track_id, keyframe, offset, 0, data)
