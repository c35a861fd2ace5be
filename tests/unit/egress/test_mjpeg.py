"""Viewer, Frame and Snapshots without a socket: the one slot, the counts, the bounds."""

from __future__ import annotations

import asyncio
import struct
from typing import Any

import pytest

from medianode.egress import mjpeg
from medianode.egress.mjpeg import Snapshots
from medianode.egress.screen import Frame, Screen, Viewer
from medianode.media.packet import Gap, Packet
from medianode.media.track import Codec, Track

JPEG = Track(id=0, codec=Codec.MJPEG, clock_rate=90_000)
H264 = Track(id=0, codec=Codec.H264, clock_rate=90_000)


class FakeTransport:
    """Takes bytes; holds them while `stuck`."""

    def __init__(self) -> None:
        self.stuck = False
        self.closing = False
        self.writes: list[bytes] = []
        self.drained = asyncio.Event()

    def set_write_buffer_limits(self, high: int) -> None:
        assert high == 0

    def get_extra_info(self, name: str) -> None:
        return None

    def get_write_buffer_size(self) -> int:
        return len(self.writes[-1]) if self.stuck and self.writes else 0

    def is_closing(self) -> bool:
        return self.closing

    def write(self, data: bytes) -> None:
        self.writes.append(data)

    def abort(self) -> None:
        self.closing = True

    async def drain(self) -> None:
        await self.drained.wait()


class FakeFeed:
    tracks = (JPEG,)

    def __init__(self) -> None:
        self.sinks: list[Any] = []

    def attach(self, sink: Any, *, replay: bool = True) -> None:
        self.sinks.append(sink)

    def detach(self, sink: Any) -> None:
        self.sinks.remove(sink)

    def request_keyframe(self) -> None: ...


def packet(data: bytes, track: Track = JPEG, pts: int = 0) -> Packet:
    return Packet(track, data, pts, pts, True, 0.0)


def viewer(transport: Any) -> Viewer:
    return Viewer("test", transport, transport, lambda frame: frame.data)


@pytest.mark.parametrize("size", [0, 125, 126, 65_535, 65_536])
def test_a_message_is_one_unmasked_binary_frame(size: int) -> None:
    message = Frame(bytes(size)).message
    assert message[0] == 0x82
    if size < 126:
        assert message[1:] == bytes([size]) + bytes(size)
    elif size < 65_536:
        assert message[1:4] == struct.pack("!BH", 126, size)
    else:
        assert message[1:10] == struct.pack("!BQ", 127, size)
    assert message.endswith(bytes(size))


def test_the_wire_forms_are_built_once() -> None:
    frame = Frame(b"x" * 100)
    assert frame.part is frame.part
    assert frame.message is frame.message


async def test_a_viewer_behind_keeps_only_the_newest_and_counts_the_others() -> None:
    transport = FakeTransport()
    one = viewer(transport)
    transport.stuck = True
    for i in range(6):
        one.show(Frame(bytes([i])))
    assert transport.writes == [b"\0"]
    assert (one.sent, one.dropped) == (1, 4)
    running = asyncio.get_running_loop().create_task(one.run())
    transport.stuck = False
    transport.drained.set()
    while one.behind:
        await asyncio.sleep(0)
    assert transport.writes == [b"\0", b"\5"]
    one.show(Frame(b"\6"))
    assert (transport.writes[-1], one.sent, one.dropped, one.nbytes) == (b"\6", 3, 4, 3)
    transport.closing = True
    one.show(Frame(b"\7"))
    assert (await running).code == "peer-gone"


async def test_a_screen_shows_the_last_picture_at_once_and_ends_its_viewers() -> None:
    feed, transport = FakeFeed(), FakeTransport()
    screen = Screen(feed)
    screen.on_packet(packet(b"first"))
    screen.on_gap(Gap("publisher-gap"))
    one = viewer(transport)
    screen.add(one)
    assert transport.writes == [b"first"]
    screen.on_end("stream-ended")
    assert (await one.run()).code == "stream-ended"
    late = viewer(FakeTransport())
    screen.add(late)
    assert (await late.run()).code == "stream-ended"
    screen.remove(one)
    screen.close()
    assert feed.sinks == []


async def test_snapshots_keep_within_their_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    made = 0

    async def fake(packet: Packet, width: int | None, quality: int) -> bytes:
        nonlocal made
        made += 1
        return bytes(400)

    monkeypatch.setattr(mjpeg, "keyframe_jpeg", fake)
    snapshots = Snapshots(5, entries=3, nbytes=1000)
    for width in (100, 200, 300):
        await snapshots.picture(packet(b"key", H264), width)
    assert (len(snapshots), snapshots.nbytes, made) == (2, 800, 3)
    await snapshots.picture(packet(b"key", H264), 300)
    assert made == 3
    await snapshots.picture(packet(b"key", H264), 100)
    assert made == 4
    assert await snapshots.picture(packet(b"as it came"), None) == b"as it came"
    assert made == 4


async def test_the_next_in_line_makes_the_picture_when_the_first_gave_up(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = asyncio.Event()
    made = 0

    async def fake(packet: Packet, width: int | None, quality: int) -> bytes:
        nonlocal made
        made += 1
        await gate.wait()
        return b"picture"

    monkeypatch.setattr(mjpeg, "keyframe_jpeg", fake)
    snapshots = Snapshots(5)
    loop = asyncio.get_running_loop()
    first, second, third = (loop.create_task(snapshots.picture(packet(b"key", H264), None)) for _ in range(3))
    while made == 0:
        await asyncio.sleep(0)
    first.cancel()
    gate.set()
    assert await asyncio.gather(second, third) == [b"picture", b"picture"]
    assert made == 2
    with pytest.raises(asyncio.CancelledError):
        await first


def test_tags_differ_by_content_width_and_configuration() -> None:
    other = Track(id=0, codec=Codec.H264, clock_rate=90_000, config=b"avcC")
    tags = {
        Snapshots.tag(packet(b"a", H264), None),
        Snapshots.tag(packet(b"b", H264), None),
        Snapshots.tag(packet(b"a", H264), 100),
        Snapshots.tag(packet(b"a", other), None),
    }
    assert len(tags) == 4
    assert Snapshots.tag(packet(b"a", H264, pts=9000), None) in tags
