"""RTMP play: one serialisation for all players, joins at key frames, slow readers, the end."""

from __future__ import annotations

from typing import Any

import pytest
from samples import grant

from medianode.auth import ReadGrant
from medianode.config import Limits
from medianode.egress.rtmp_play import RtmpPlayDesk, RtmpPlayer
from medianode.errors import LimitExceeded
from medianode.events import Bus
from medianode.media.packet import Packet
from medianode.media.track import Codec, Track
from medianode.protocols.reader import StreamReader
from medianode.protocols.rtmp.chunk import ChunkReader, Message
from medianode.routing.audience import Audience
from medianode.routing.publication import Publication
from medianode.routing.registry import Registry
from medianode.routing.room import Room

VIDEO = Track(0, Codec.H264, 90_000, b"avcC", 640, 360, 30.0)
AUDIO = Track(1, Codec.AAC, 48_000, b"\x11\x90", sample_rate=48_000, channels=2)
AUDIO_TYPE, VIDEO_TYPE, DATA_TYPE = 8, 9, 18


class Wire:
    """A transport that keeps what it is given; `unsent` is what the peer has not read."""

    def __init__(self) -> None:
        self.data = b""
        self.unsent = 0

    def write(self, data: bytes) -> None:
        self.data += data

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def is_closing(self) -> bool:
        return False

    def messages(self) -> list[Message]:
        reader = StreamReader(1 << 20)
        chunks = ChunkReader(reader, max_message_bytes=1 << 20, max_partial_bytes=1 << 20, max_chunk_streams=8)
        chunks.chunk_size = 65_536
        reader.feed(self.data)
        next(iter(chunks.parse()))
        return chunks.messages

    def kinds(self) -> list[int]:
        return [m.type for m in self.messages()]


@pytest.fixture
def registry() -> Registry:
    return Registry(Bus(), Limits())


@pytest.fixture
async def live(registry: Registry) -> tuple[Room, Publication]:
    leave = grant(identity="i", ingress_id=None)
    room, publication = registry.publish(leave, "rtmp", "127.0.0.1", lambda error: None)
    publication.set_tracks((VIDEO, AUDIO))
    write(publication, 0, key=True)
    return room, publication


@pytest.fixture
def desk() -> RtmpPlayDesk:
    return RtmpPlayDesk(1000, Audience(2, lambda: ()))


def write(publication: Publication, number: int, *, key: bool = False) -> None:
    publication.write(Packet(VIDEO, b"\0\0\0\1\x65", number * 3000 + 3000, number * 3000, key, 1.0 + number / 30))
    publication.write(Packet(AUDIO, b"\x21", number * 1600, number * 1600, True, 1.0 + number / 30))


def join(desk: RtmpPlayDesk, room: Room, stream_id: int = 1) -> tuple[RtmpPlayer, Wire, list[str]]:
    wire: Any = Wire()
    ended: list[str] = []
    leave = ReadGrant(project_id="p", slug="live", room="live-a")
    return desk.play(room, leave, stream_id, wire, ended.append), wire, ended


async def test_a_player_gets_metadata_headers_and_the_gop(desk: RtmpPlayDesk, live: tuple[Room, Publication]) -> None:
    room, publication = live
    write(publication, 1)
    _, wire, _ = join(desk, room)
    write(publication, 2)
    assert wire.kinds() == [DATA_TYPE, VIDEO_TYPE, AUDIO_TYPE, *[VIDEO_TYPE, AUDIO_TYPE] * 3]
    first, last = wire.messages()[3], wire.messages()[-2]
    assert (first.timestamp, last.timestamp) == (0, 67)
    assert first.payload[:5] == b"\x17\x01\x00\x00\x21", "AVC key frame, composition time 33 ms"
    assert room.viewers["rtmp"] == 1


async def test_a_second_player_shares_the_broadcast_and_gets_the_same_bytes(desk: RtmpPlayDesk, live: tuple[Room, Publication]) -> None:
    room, publication = live
    _, one, _ = join(desk, room)
    _, two, _ = join(desk, room, stream_id=3)
    write(publication, 1)
    assert [m.payload for m in one.messages()] == [m.payload for m in two.messages()]
    assert {m.stream_id for m in two.messages()} == {3}
    assert len(publication.sinks) == 1


async def test_a_slow_player_skips_to_the_next_key_frame(desk: RtmpPlayDesk, live: tuple[Room, Publication]) -> None:
    room, publication = live
    _, wire, _ = join(desk, room)
    wire.unsent = 5000
    write(publication, 1)
    wire.unsent = 0
    before = len(wire.messages())
    write(publication, 2)
    assert len(wire.messages()) == before, "not before a key frame"
    write(publication, 3, key=True)
    assert wire.kinds()[before:] == [VIDEO_TYPE, AUDIO_TYPE]


async def test_after_a_takeover_stamps_go_on(desk: RtmpPlayDesk, registry: Registry, live: tuple[Room, Publication]) -> None:
    room, old = live
    write(old, 30)
    _, wire, ended = join(desk, room)
    _, new = registry.publish(old.grant, "rtmp", "127.0.0.1", lambda error: None)
    new.set_tracks((VIDEO, AUDIO))
    new.write(Packet(VIDEO, b"x", 9_000_000, 9_000_000, True, 3.0))
    stamps = [m.timestamp for m in wire.messages() if m.type in (AUDIO_TYPE, VIDEO_TYPE)]
    assert stamps == sorted(stamps)
    assert stamps[-1] < 2000
    assert not ended


async def test_the_end_is_told_and_viewers_are_counted_down(desk: RtmpPlayDesk, live: tuple[Room, Publication]) -> None:
    room, publication = live
    player, _, left = join(desk, room)
    _, _, stayed = join(desk, room)
    with pytest.raises(LimitExceeded):
        join(desk, room)
    player.close()
    player.close()
    assert room.viewers["rtmp"] == 1
    room.end(publication, "ingress-deleted", final=True)
    assert (left, stayed) == ([], ["stream-ended"])


async def test_a_player_whose_leave_ends_is_told(live: tuple[Room, Publication]) -> None:
    audience = Audience(2, lambda: ())
    room, _ = live
    player, _, ended = join(RtmpPlayDesk(1000, audience), room)
    audience.end_project("p")
    assert (ended, room.viewers["rtmp"]) == (["project-deleted"], 1)
    player.close()
    assert room.viewers["rtmp"] == 0
