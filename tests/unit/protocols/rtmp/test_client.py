from __future__ import annotations

import pytest

from medianode.errors import PeerError
from medianode.media.track import Kind
from medianode.protocols.amf import EcmaArray, encode_amf0
from medianode.protocols.rtmp import (
    Acknowledged,
    ClientConnection,
    Connect,
    Connected,
    Data,
    Media,
    PeerClosed,
    Play,
    Playing,
    Publish,
    Publishing,
    Rejected,
    ServerConnection,
    Status,
    StopPlay,
    StreamDeleted,
    Unpublish,
)
from medianode.protocols.rtmp.chunk import chunk_message


class Pair:
    """A client and a server that accepts all but the stream `bad`; `step` bytes at a time."""

    def __init__(self, step: int, **options: object) -> None:
        self.client = ClientConnection("live", "rtmp://host/live", random=bytes, **options)
        self.server = ServerConnection(random=bytes)
        self.step = step
        self.client_events: list[object] = []
        self.server_events: list[object] = []

    def run(self) -> Pair:
        while (up := self.client.data_to_send()) or (down := self.server.data_to_send()):
            if up:
                for at in range(0, len(up), self.step):
                    self.server.receive_data(up[at : at + self.step])
                    self.decide()
                continue
            for at in range(0, len(down), self.step):
                self.client.receive_data(down[at : at + self.step])
            self.client_events += self.client.events()
        return self

    def decide(self) -> None:
        for event in self.server.events():
            self.server_events.append(event)
            if isinstance(event, Connect):
                self.server.accept_connect()
            elif isinstance(event, Publish | Play):
                what = "publish" if isinstance(event, Publish) else "play"
                getattr(self.server, f"{'reject' if event.name == 'bad' else 'accept'}_{what}")(event.stream_id)


STEPS = [1, 3, 100, 1 << 20]


@pytest.mark.parametrize("schema", [None, 0, 1])
@pytest.mark.parametrize("step", STEPS)
def test_publish(step: int, schema: int | None) -> None:
    pair = Pair(step, digest_schema=schema).run()
    assert [type(event) for event in pair.client_events] == [Connected]
    assert "capsEx" in pair.client_events[0].properties
    pair.client.publish("key?a=b")
    pair.run()
    assert pair.client_events[1:] == [Publishing(1)]
    pair.client.send_metadata({"width": 64})
    pair.client.send_media(Kind.VIDEO, 0x1000000, bytes(range(256)) * 600)
    pair.client.send_media(Kind.AUDIO, 5, b"\xaf\x01x")
    pair.client.close()
    pair.client.close()
    pair.run()
    assert pair.server_events[1:] == [
        Publish(1, "key", {"a": "b"}, "live"),
        Data(1, 0, "onMetaData", (EcmaArray(width=64.0),), encode_amf0("onMetaData", EcmaArray(width=64))),
        Media(Kind.VIDEO, 0x1000000, bytes(range(256)) * 600, 1),
        Media(Kind.AUDIO, 5, b"\xaf\x01x", 1),
        Unpublish(1, "FCUnpublish"),
        StreamDeleted(1),
    ]
    assert pair.client_events[2:] == []


@pytest.mark.parametrize("step", STEPS)
def test_play(step: int) -> None:
    pair = Pair(step).run()
    pair.client.play("room")
    pair.run()
    pair.server.send_media(1, Kind.AUDIO, 9, b"a")
    pair.server.send_ping_request(3)
    pair.server.end_play(1, "gone")
    pair.run()
    assert pair.client_events[1:] == [
        Status("status", "NetStream.Play.Reset", "Resetting."),
        Playing(1),
        Data(1, 0, "|RtmpSampleAccess", (True, True), encode_amf0("|RtmpSampleAccess", True, True)),
        Media(Kind.AUDIO, 9, b"a", 1),
        Status("status", "NetStream.Play.UnpublishNotify", "gone"),
        Status("status", "NetStream.Play.Stop", "gone"),
    ]
    pair.client.close()
    pair.run()
    assert pair.server_events[-1:] == [StreamDeleted(1)]
    assert not any(isinstance(event, StopPlay) for event in pair.server_events)


@pytest.mark.parametrize(("what", "code"), [("publish", "NetStream.Publish.BadName"), ("play", "NetStream.Play.StreamNotFound")])
def test_refused(what: str, code: str) -> None:
    pair = Pair(100).run()
    getattr(pair.client, what)("bad")
    (rejected,) = pair.run().client_events[1:]
    assert isinstance(rejected, Rejected)
    assert rejected.code == code


@pytest.mark.parametrize("step", STEPS)
def test_acknowledgements_are_asked_for_and_counted_beyond_32_bits(step: int) -> None:
    pair = Pair(step, window=4000).run()
    assert pair.client_events[0].fourcc >= {"hvc1", "av01", "Opus"}
    pair.client.publish("key")
    pair.run()
    before = len(pair.client_events)
    pair.client.send_media(Kind.VIDEO, 0, bytes(9000))
    counts = [event.nbytes for event in pair.run().client_events[before:] if isinstance(event, Acknowledged)]
    assert counts
    assert counts == sorted(counts)
    assert 9000 < counts[-1] + 4000 <= pair.server.bytes_received + 4000


def test_a_count_that_wraps_goes_on_and_one_that_goes_back_is_left_out() -> None:
    client = ClientConnection("live", "rtmp://host/live", random=bytes)
    client.receive_data(b"\x03" + bytes(3072))
    for count in (0x7000_0000, 0xE000_0000, 0xD000_0000, 0x1000_0000):
        client.receive_data(chunk_message(2, 3, 0, 0, count.to_bytes(4, "big"), 128))
    client.receive_data(chunk_message(2, 3, 0, 0, b"", 128))
    assert [event.nbytes for event in client.events()] == [0x7000_0000, 0xE000_0000, 0x1_1000_0000]


@pytest.mark.parametrize("where", [0, 1])
def test_what_a_server_says_it_takes_of_enhanced_rtmp(where: int) -> None:
    client = ClientConnection("live", "rtmp://host/live", random=bytes)
    client.receive_data(b"\x03" + bytes(3072))
    told = {"fourCcList": ["av01", 7], "videoFourCcInfoMap": {"hvc1": 1}, "audioFourCcInfoMap": None}
    answer = encode_amf0("_result", 1, *([told, {}] if where == 0 else [None, told]))
    client.receive_data(chunk_message(3, 20, 0, 0, answer, 128))
    (connected,) = client.events()
    assert connected.fourcc == {"av01", "hvc1"}


def test_a_hostile_server_gives_only_a_peer_error_once() -> None:
    client = ClientConnection("live", "rtmp://host/live", random=bytes)
    client.receive_data(b"\x03" + bytes(3072))
    with pytest.raises(PeerError):
        client.receive_data(chunk_message(3, 20, 0, 0, b"\xff", 128))
    client.receive_data(b"more")
    client.receive_eof()
    assert client.events() == []


def test_acknowledgements_and_errors_to_extras_are_no_events() -> None:
    client = ClientConnection("live", "rtmp://host/live", random=bytes)
    client.receive_data(b"\x03" + bytes(3072))
    client.data_to_send()
    client.receive_data(
        chunk_message(2, 5, 0, 0, (1000).to_bytes(4, "big"), 128) + chunk_message(3, 20, 0, 0, encode_amf0("_error", 7), 128)
    )
    assert client.data_to_send()[7] == 3
    client.receive_data(chunk_message(2, 4, 0, 0, b"\0\x06\0\0\0\x09", 128) + chunk_message(2, 6, 0, 0, bytes(5), 128))
    sent = client.data_to_send()
    assert sent[12:18] == b"\0\x07\0\0\0\x09"
    client.receive_eof()
    assert client.events() == [PeerClosed(clean=True)]
