from __future__ import annotations

import tracemalloc

import pytest

from medianode.errors import LimitExceeded, PeerError, ProtocolError
from medianode.media.track import Kind
from medianode.protocols.amf import EcmaArray, Value, decode_amf0, encode_amf0
from medianode.protocols.reader import StreamReader
from medianode.protocols.rtmp import (
    Capability,
    Connect,
    Data,
    Media,
    Pause,
    PeerClosed,
    Play,
    Pong,
    Publish,
    Seek,
    ServerConnection,
    StopPlay,
    StreamDeleted,
    Unpublish,
    chunk_media,
)
from medianode.protocols.rtmp.chunk import ChunkReader, Message, chunk_message

HELLO = b"\x03" + bytes(3072)


def heard(sent: bytes) -> list[Message]:
    """Messages in what the server wrote after S0 S1 S2; its Set Chunk Size is obeyed."""
    reader = StreamReader(4096)
    chunks = ChunkReader(reader, max_message_bytes=1 << 24, max_partial_bytes=1 << 24, max_chunk_streams=64)
    reader.feed(sent[3073:])
    next(chunks.parse())
    return chunks.messages


def commands(sent: bytes) -> list[list[Value]]:
    return [decode_amf0(message.payload) for message in heard(sent) if message.type == 20]


def codes(sent: bytes) -> list[Value]:
    return [values[3]["code"] for values in commands(sent) if len(values) > 3 and isinstance(values[3], dict)]


def control(type_: int, payload: bytes) -> bytes:
    return chunk_message(2, type_, 0, 0, payload, 128)


def test_publish_from_handshake_to_end(door, say) -> None:
    d = door().published()
    assert d.of(Connect) == [Connect("live", "rtmp://host/live", {}, {"app": "live", "tcUrl": "rtmp://host/live"}, frozenset(), 0)]
    assert d.of(Publish) == [Publish(1, "key", {}, "live")]
    assert [(message.type, message.payload.hex()) for message in heard(d.sent)[:3]] == [
        (5, "002625a0"),
        (6, "002625a002"),
        (4, "000000000000"),
    ]
    assert codes(d.sent) == ["NetConnection.Connect.Success", "NetStream.Publish.Start"]
    assert commands(d.sent)[1] == ["_result", 2.0, None, 1.0]
    d.feed(chunk_message(6, 9, 1, 40, b"\x17\x01", 128), chunk_message(4, 8, 1, 41, b"\xaf\x01", 128))
    assert d.of(Media) == [Media(Kind.VIDEO, 40, b"\x17\x01", 1), Media(Kind.AUDIO, 41, b"\xaf\x01", 1)]
    d.feed(say("FCUnpublish", 4, None, "key"), say("deleteStream", 5, None, 1))
    d.connection.receive_eof()
    assert d.connection.events() == [PeerClosed(clean=True)]
    assert d.of(Unpublish) == [Unpublish(1, "FCUnpublish")]
    assert d.of(StreamDeleted) == [StreamDeleted(1)]


def test_nothing_is_granted_before_the_door_says_so(say) -> None:
    server = ServerConnection(random=bytes)
    server.receive_data(HELLO + say("connect", 1, {"app": "live"}))
    assert len(server.data_to_send()) == 3073
    assert len(server.events()) == 1
    server.reject_connect("NetConnection.Connect.Rejected", "no")
    assert commands(bytes(3073) + server.data_to_send()) == [
        ["_error", 1.0, None, {"level": "error", "code": "NetConnection.Connect.Rejected", "description": "no"}]
    ]
    for call in (server.accept_connect, server.reject_connect):
        with pytest.raises(RuntimeError, match="no connect waits"):
            call()


def test_refused_publish(say) -> None:
    server = ServerConnection(random=bytes)
    server.receive_data(HELLO + say("connect", 1, {"app": "live"}))
    server.accept_connect()
    server.receive_data(say("createStream", 2, None) + say("publish", 3, None, "key?a=b&key=x", "record", stream_id=1))
    assert server.events()[1:] == [Publish(1, "key", {"a": "b", "key": "x"}, "record")]
    sent = server.data_to_send()
    server.reject_publish(1, "NetStream.Publish.Unauthorized", "wrong key")
    sent += server.data_to_send()
    assert commands(sent)[-1] == [
        "onStatus",
        0.0,
        None,
        {"level": "error", "code": "NetStream.Publish.Unauthorized", "description": "wrong key"},
    ]
    assert "NetStream.Publish.Start" not in codes(sent)
    server.receive_data(chunk_message(6, 9, 1, 0, b"late", 128))
    assert server.events() == []
    server.accept_publish(1)
    assert server.data_to_send() == b""


def test_a_door_that_answers_what_was_not_asked_is_told(door, say) -> None:
    connection = door().published().connection
    with pytest.raises(RuntimeError, match="stream 1 is publishing, not waiting for the answer to play"):
        connection.accept_play(1)
    with pytest.raises(RuntimeError, match="not waiting for the answer to publish"):
        connection.reject_publish(1)


def test_answers_after_the_peer_gave_up_are_void(say) -> None:
    server = ServerConnection(random=bytes)
    server.receive_data(HELLO + say("connect", 1, {"app": "live"}))
    server.accept_connect()
    server.receive_data(say("createStream", 2, None) + say("publish", 3, None, "key", stream_id=1) + say("deleteStream", 4, None, 1))
    assert server.events()[-2:] == [Unpublish(1, "deleteStream"), StreamDeleted(1)]
    server.data_to_send()
    server.accept_publish(1)
    assert server.data_to_send() == b""


def test_media_before_the_answer_is_kept_in_order_up_to_its_bound(say) -> None:
    server = ServerConnection(random=bytes, max_pending_bytes=100)
    server.receive_data(HELLO + say("connect", 1, {"app": "live"}))
    server.accept_connect()
    server.receive_data(say("createStream", 2, None) + say("publish", 3, None, "key", stream_id=1))
    media = chunk_message(6, 9, 1, 0, bytes(100), 128)
    server.receive_data(media)
    assert [type(event) for event in server.events()] == [Connect, Publish, Media]
    with pytest.raises(LimitExceeded, match="at most 100 bytes of media"):
        server.receive_data(media)


def test_play(door, say) -> None:
    d = door().opened().feed(say("createStream", 2, None), say("getStreamLength", 3, None, "room"))
    d.feed(say("play", 0, None, "room?token=t", -2000.0, stream_id=1))
    assert d.of(Play) == [Play(1, "room", {"token": "t"}, -2000.0, -1.0)]
    assert codes(d.sent)[1:] == ["NetStream.Play.Reset", "NetStream.Play.Start"]
    assert commands(d.sent)[2] == ["_result", 3.0, None, 0.0]
    assert decode_amf0(heard(d.sent)[-1].payload) == ["|RtmpSampleAccess", True, True]
    d.connection.send_media(1, Kind.VIDEO, 7, b"a" * 70_000)
    d.connection.send_raw(chunk_media(Kind.AUDIO, 1 << 32 | 8, b"b"))
    d.connection.send_data(1, 0, "onMetaData", EcmaArray(width=1.0))
    d.feed(b"")
    assert heard(d.sent)[-3:-1] == [Message(9, 1, 7, b"a" * 70_000), Message(8, 1, 8, b"b")]
    d.feed(say("pause", 0, None, True, 5.0, stream_id=1), say("seek", 0, None, 9.0, stream_id=1), say("closeStream", 0, None, stream_id=1))
    assert d.events[-3:] == [Pause(1, True, 5.0), Seek(1, 9.0), StopPlay(1, "closeStream")]


def test_end_of_play_and_refused_play(door, say) -> None:
    d = door().opened().feed(say("createStream", 2, None), say("play", 0, None, "room", stream_id=1))
    d.connection.end_play(1)
    d.connection.end_play(1)
    assert codes(d.feed(b"").sent)[-2:] == ["NetStream.Play.UnpublishNotify", "NetStream.Play.Stop"]
    server = ServerConnection(random=bytes)
    server.receive_data(HELLO + say("connect", 1, {"app": "live"}) + say("createStream", 2, None) + say("play", 0, None, "x", stream_id=1))
    server.reject_play(1)
    assert "NetStream.Play.StreamNotFound" in codes(server.data_to_send())


def test_fmle_before_and_after_publish(door, say) -> None:
    d = door().opened()
    d.feed(say("releaseStream", 2, None, "key"), say("FCPublish", 3, None, "key"), say("createStream", 4, None))
    d.feed(say("publish", 5, None, "key", stream_id=1), say("FCPublish", 6, None, "key"), say("_checkbw", 7, None))
    assert [values[0] for values in commands(d.sent)] == [
        "_result", "_result", "_result", "onFCPublish", "_result", "onStatus", "_result", "onFCPublish", "_result",
    ]  # fmt: skip
    assert d.error is None


def test_unknown_commands(door, say) -> None:
    d = door().opened().feed(say("frobnicate", 9, None), say("frobnicate", 0, None), say("_result", 4, None))
    assert commands(d.sent)[1:] == [
        ["_error", 9.0, None, {"level": "error", "code": "NetConnection.Call.Failed", "description": "no such method: frobnicate"}]
    ]


def test_enhanced_connect_is_answered(door, say) -> None:
    params = {"app": "live", "fourCcList": ["av01", "*"], "videoFourCcInfoMap": {"hvc1": 2}, "capsEx": 15.0, "objectEncoding": 3}
    d = door().feed(HELLO, say("connect", 1, params))
    (connect,) = d.of(Connect)
    assert connect.fourcc == {"av01", "*", "hvc1"}
    assert connect.caps_ex == 15
    properties, information = commands(d.sent)[0][2:]
    assert properties["capsEx"] == Capability.MULTITRACK | Capability.MODEX | Capability.TIMESTAMP_NANO_OFFSET
    assert properties["videoFourCcInfoMap"]["hvc1"] == 5.0
    assert "Opus" in properties["fourCcList"]
    assert information["objectEncoding"] == 3.0
    assert "capsEx" not in commands(door().opened().sent)[0][2]


@pytest.mark.parametrize("params", [None, {}, {"app": 1, "tcUrl": None, "capsEx": float("nan"), "fourCcList": {"a": 1}}])
def test_odd_connects_are_events_too(door, say, params) -> None:
    d = door().feed(HELLO, say("connect", 1, params))
    assert len(d.of(Connect)) == 1
    assert d.of(Connect)[0].app == ""


def test_app_and_query(door, say) -> None:
    d = door().feed(HELLO, say("connect", 1, {"app": "/live/?authmod=adobe&response=a+b==", "tcUrl": "rtmp://h/live?x=y"}))
    assert d.of(Connect)[0][:3] == ("live", "rtmp://h/live?x=y", {"authmod": "adobe", "response": "a+b=="})
    d = door().feed(HELLO, say("connect", 1, {"app": "live", "tcUrl": "rtmp://h/live?x=y"}))
    assert d.of(Connect)[0].query == {"x": "y"}


def test_amf3_commands_and_data(door) -> None:
    d = door().feed(HELLO, chunk_message(3, 17, 0, 0, b"\0" + encode_amf0("connect", 1, {"app": "live"}), 128))
    d.feed(chunk_message(3, 17, 0, 0, encode_amf0("createStream", 2, None), 128))
    d.feed(chunk_message(3, 17, 1, 0, b"\0" + encode_amf0("publish", 3, None, "key"), 128))
    d.feed(chunk_message(3, 15, 1, 0, b"\0" + encode_amf0("@setDataFrame", "onMetaData", {"width": 1}), 128))
    assert d.of(Data) == [Data(1, 0, "onMetaData", ({"width": 1.0},), encode_amf0("onMetaData", {"width": 1}))]


def test_data_that_is_no_amf_is_borne(door) -> None:
    d = door().published().feed(chunk_message(5, 18, 1, 3, b"\x02\x00\x0aonTimecode\x99", 128), chunk_message(5, 18, 0, 3, b"x", 128))
    assert d.of(Data) == [Data(1, 3, "", (), b"\x02\x00\x0aonTimecode\x99")]
    assert d.error is None


def test_user_control_ping_and_the_unknown(door) -> None:
    d = door().opened()
    d.feed(control(4, b"\0\x06\0\0\0\x2a"), control(4, b"\0\x1f\0\0\0\x01"), control(4, b"\0"), control(4, b""))
    assert heard(d.sent)[-1] == Message(4, 0, 0, b"\0\x07\0\0\0\x2a")
    d.connection.send_ping_request((1 << 32) + 5)
    d.feed(control(4, b"\0\x07\0\0\0\x05"))
    assert heard(d.sent)[-1] == Message(4, 0, 0, b"\0\x06\0\0\0\x05")
    assert d.of(Pong) == [Pong(5)]


def test_ignored_messages(door) -> None:
    d = door().published()
    for type_ in (0, 3, 6, 7, 16, 19, 21, 99, 255):
        d.feed(control(type_, bytes(8)))
    assert d.error is None
    assert len(d.events) == 2


def test_acknowledgements_are_sent_when_due(door) -> None:
    d = door().opened().feed(control(5, (10_000).to_bytes(4, "big")), control(5, bytes(4)))
    before = len(heard(d.sent))
    for _ in range(30):
        d.feed(control(3, bytes(984)))
    acknowledged = [int.from_bytes(message.payload, "big") for message in heard(d.sent)[before:]]
    assert len(acknowledged) == 3
    assert all(10_000 <= b - a < 12_000 for a, b in zip([0, *acknowledged], acknowledged, strict=False))
    assert acknowledged[-1] <= d.connection.bytes_received


def tag(type_: int, time: int, body: bytes) -> bytes:
    head = bytes((type_,)) + len(body).to_bytes(3, "big") + (time & 0xFFFFFF).to_bytes(3, "big") + bytes((time >> 24 & 255, 0, 0, 0))
    return head + body + (len(body) + 11).to_bytes(4, "big")


def test_aggregates_are_rebased(door) -> None:
    body = tag(9, 0x1000000, b"v") + tag(8, 0x1000005, b"a") + tag(18, 0x1000006, encode_amf0("onX", 1)) + tag(8, 0xFFFFFF, b"b")[:-4]
    d = door().published().feed(chunk_message(6, 22, 1, 500, body, 128))
    assert d.of(Media) == [Media(Kind.VIDEO, 500, b"v", 1), Media(Kind.AUDIO, 505, b"a", 1), Media(Kind.AUDIO, 499, b"b", 1)]
    assert d.of(Data) == [Data(1, 506, "onX", (1.0,), encode_amf0("onX", 1))]


@pytest.mark.parametrize(
    ("wire", "kind", "message"),
    [
        (b"\x06", ProtocolError, "RTMPE"),
        (b"GET / HTTP/1.1\r\n\r\n", ProtocolError, "version 3"),
        (HELLO + chunk_message(3, 20, 0, 0, encode_amf0("createStream", 1, None), 128), ProtocolError, "expected connect as the first"),
        (HELLO + chunk_message(3, 20, 0, 0, b"", 128), ProtocolError, "an empty message"),
        (HELLO + chunk_message(3, 20, 0, 0, encode_amf0(1, 1), 128), ProtocolError, "a command's name, got float"),
        (HELLO + chunk_message(3, 20, 0, 0, encode_amf0("connect", "1"), 128), ProtocolError, "transaction number"),
        (HELLO + chunk_message(3, 20, 0, 0, encode_amf0("connect", 1) + b"\x03\0\x01a" * 100, 128), LimitExceeded, "levels"),
        (HELLO + chunk_message(6, 9, 1, 0, b"\x17", 128), ProtocolError, "not there"),
        (HELLO + chunk_message(6, 22, 1, 0, b"\x09\0\0\xff", 128), ProtocolError, "aggregate"),
        (HELLO + chunk_message(6, 22, 1, 0, b"\x05" + bytes(14), 128), None, ""),
        (HELLO + chunk_message(6, 22, 1, 0, (b"\x05" + bytes(14)) * 5000, 128), LimitExceeded, "4096 messages in an aggregate"),
        (HELLO + b"\x06" + bytes(3) + b"\xff\xff\xff\x09" + bytes(4), LimitExceeded, "expected a message of at most"),
        (HELLO + b"".join(b"\0" + bytes((i,)) + bytes(11) for i in range(256)), LimitExceeded, "chunk streams"),
    ],
)
@pytest.mark.parametrize("step", [0, 1, 7])
def test_hostile_beginnings(door, cut, wire, kind, message, step) -> None:
    d = door().feed(*cut(wire, step or len(wire)))
    if kind is None:
        assert d.error is None
        return
    assert type(d.error) is kind
    assert message in d.error.message
    d.feed(b"more", wire)
    d.connection.receive_eof()
    assert d.connection.events() == []


@pytest.mark.parametrize(
    ("values", "stream_id", "message"),
    [
        (("connect", 2, {}), 0, "one connect, got a second"),
        (("publish", 2, None, "again"), 1, "which is publishing"),
        (("play", 2, None, "again"), 1, "which is publishing"),
        (("publish", 2, None, "key"), 7, "created stream, got it on stream 7"),
    ],
)
def test_commands_out_of_turn(door, say, values, stream_id, message) -> None:
    d = door().published().feed(say(*values, stream_id=stream_id))
    assert isinstance(d.error, ProtocolError)
    assert message in d.error.message
    assert len(d.of(Publish)) == 1


def test_media_without_publish(door, say) -> None:
    d = door().opened().feed(say("createStream", 2, None), chunk_message(6, 9, 1, 0, b"\x17", 128))
    assert isinstance(d.error, ProtocolError)
    assert "which is idle" in d.error.message


def test_streams_are_bounded_and_may_be_used_again(door, say) -> None:
    d = door(max_streams=2).published().feed(say("closeStream", 0, None, stream_id=1), say("publish", 9, None, "key", stream_id=1))
    for number in range(2, 50):
        d.feed(say("createStream", 4, None), say("deleteStream", 5, None, number))
    assert d.error is None
    assert len(d.of(Publish)) == 2
    d.feed(say("createStream", 6, None), say("createStream", 7, None))
    assert isinstance(d.error, LimitExceeded)


def test_events_before_the_error_are_kept(door, say) -> None:
    d = door().published().feed(chunk_message(6, 9, 1, 0, b"\x17\x01", 128) + say("connect", 9, {}) + chunk_message(6, 9, 1, 1, b"x", 128))
    assert d.error is not None
    assert d.of(Media) == [Media(Kind.VIDEO, 0, b"\x17\x01", 1)]


def test_eof_in_the_middle(door) -> None:
    d = door().published().feed(chunk_message(6, 9, 1, 0, bytes(500), 128)[:200])
    d.connection.receive_eof()
    assert d.connection.events() == [Unpublish(1, "eof"), PeerClosed(clean=False)]


@pytest.mark.parametrize(("name", "ends"), [("key", [1]), ("key?x=1", [1]), ("other", [1])])
def test_fcunpublish_by_any_name_ends_the_only_one(door, say, name, ends) -> None:
    d = door().published().feed(say("FCUnpublish", 0, None, name))
    assert [event.stream_id for event in d.of(Unpublish)] == ends


def test_fcunpublish_of_two(door, say) -> None:
    d = door().published().feed(say("createStream", 2, None), say("publish", 3, None, "b", stream_id=2), say("FCUnpublish", 0, None, "b"))
    assert [event.stream_id for event in d.of(Unpublish)] == [2]
    d = door().published().feed(say("createStream", 2, None), say("publish", 3, None, "b", stream_id=2), say("FCUnpublish", 0, None, "c"))
    assert d.of(Unpublish) == []


def test_a_16_mib_frame_costs_no_more_than_the_limit(door) -> None:
    d = door(max_message_bytes=1 << 20, max_partial_bytes=1 << 20).published()
    wire = chunk_message(6, 9, 1, 0, bytes(0xFFFFFF), 128)
    tracemalloc.start()
    for at in range(0, len(wire), 65_536):
        d.feed(wire[at : at + 65_536])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert isinstance(d.error, LimitExceeded)
    assert peak < 1 << 20


def test_garbage_gives_only_peer_errors(door) -> None:
    noise = bytes(i * i * 31 >> 3 & 255 for i in range(20_000))
    for start in range(0, 2000, 50):
        errors: list[PeerError] = []
        d = door().published().feed(noise[start:])
        errors += [d.error] if d.error else []
        assert len(errors) == 1
