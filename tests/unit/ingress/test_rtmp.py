"""RTMP sessions against a peer that does not wait for answers, does not read, or says too much. The transport is a fake."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from medianode import clock, tasks
from medianode.auth import Door, PublishGrant, ReadGrant, Takeover
from medianode.config import Config, Limits
from medianode.egress.rtmp_play import RtmpPlayDesk
from medianode.errors import LimitExceeded, Unauthorized
from medianode.events import Bus
from medianode.ingress import rtmp
from medianode.ingress.rtmp import RtmpDoor, RtmpSession
from medianode.media.packet import Packet
from medianode.media.track import Codec, Kind, Track
from medianode.protocols import flv
from medianode.protocols.flv import PacketType
from medianode.protocols.rtmp import messages as m
from medianode.routing.registry import Registry

GRANT = PublishGrant(
    project_id="p",
    slug="live",
    room="live-a",
    identity="obs",
    name="",
    kind=Door.RTMP,
    ingress_id="IN_1",
    takeover=Takeover.REPLACE,
    hold=0.0,
)
ASC = b"\x11\x90"


class Keys:
    """A gatekeeper: the name is the identity, `bad` is refused; every answer takes a turn of the loop."""

    async def publish(
        self, door: Door, app: str, key: str, room: str | None = None, *, source: str = "", proves: Any = None
    ) -> PublishGrant:
        await asyncio.sleep(0)
        if key == "bad":
            raise Unauthorized("publish: the stream key is not known")
        return replace(GRANT, identity=key, ingress_id=f"IN_{key}")

    async def play(self, app: str, name: str, *, source: str = "") -> ReadGrant:
        await asyncio.sleep(0)
        return ReadGrant(project_id="p", slug="live", room="live-a")


class Transport:
    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.unsent = 0
        self.closing = False
        self.paused = False

    def get_extra_info(self, name: str) -> None:
        return None

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    abort = close

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False


class Peer:
    def __init__(self, door: RtmpDoor, transport: Transport | None = None) -> None:
        self.session = RtmpSession(door, "192.0.2.1", "rtmp")
        self.transport = transport or Transport()
        self.session.connection_made(self.transport)  # type: ignore[arg-type]  # a fake
        self.session.data_received(b"\x03" + bytes(1536) + bytes(1536) + m.command(128, 0, "connect", 1.0, {"app": "live"}))

    def send(self, *messages: bytes) -> None:
        self.session.data_received(b"".join(messages))

    @property
    def answers(self) -> bytes:
        return b"".join(self.transport.written)


def create(transaction: float = 2.0) -> bytes:
    return m.command(128, 0, "createStream", transaction, None)


def publish(name: str, stream: int = 1) -> bytes:
    return m.command(128, stream, "publish", 3.0, None, name, "live")


def close(stream: int = 1) -> bytes:
    return m.command(128, stream, "closeStream", 0.0, None)


def audio(packet_type: PacketType, data: bytes) -> bytes:
    payload = flv.audio_tag(Codec.AAC, packet_type, data)
    assert len(payload) < 128
    return m.chunk_media(Kind.AUDIO, 0, payload)


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.fixture(autouse=True)
def bugs(monkeypatch: pytest.MonkeyPatch) -> list[BaseException]:
    found: list[BaseException] = []
    report: Callable[[str, BaseException], None] = lambda place, error: found.append(error)  # noqa: E731
    monkeypatch.setattr(rtmp, "report_bug", report)
    monkeypatch.setattr(tasks, "report_bug", report)
    return found


@pytest.fixture
async def door(bugs: list[BaseException]) -> AsyncIterator[RtmpDoor]:
    config = Config(limits=Limits(viewers_per_room=10), rtmp=msgspec.structs.replace(Config().rtmp, read_interval=0.0))
    registry = Registry(Bus(), config.limits)
    desk = RtmpPlayDesk(1 << 20, registry.audience)
    door = RtmpDoor(config, registry, Keys(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), desk)  # type: ignore[arg-type]  # a fake
    async with door.tasks:
        yield door
    assert bugs == []


async def test_a_publisher_that_left_before_its_answer_leaves_nothing(door: RtmpDoor) -> None:
    peer = Peer(door)
    peer.send(create(), publish("a"), close())
    await settle()
    assert door.registry.publications == []


async def test_publish_close_publish_in_one_read_leaves_only_the_last(door: RtmpDoor) -> None:
    peer = Peer(door)
    peer.send(create(), publish("a"), close(), publish("b"))
    await settle()
    assert [p.grant.identity for p in door.registry.publications] == ["b"]
    peer.session.connection_lost(None)
    assert door.registry.publications == []


async def test_a_player_that_left_before_its_answer_is_not_counted(door: RtmpDoor) -> None:
    encoder = Peer(door)
    encoder.send(create(), publish("a"), audio(PacketType.CONFIG, ASC), audio(PacketType.FRAMES, b"x"))
    await settle()
    encoder.session.tick(clock.now() + 3)
    room = door.registry.on_air("p", "live-a")
    viewer = Peer(door)
    viewer.send(create(), m.command(128, 1, "play", 3.0, None, "a"), close())
    await settle()
    assert room.viewers.get("rtmp", 0) == 0


async def test_media_sent_along_with_publish_is_kept_for_the_answer(door: RtmpDoor) -> None:
    peer = Peer(door)
    peer.send(create(), publish("a"), audio(PacketType.CONFIG, ASC), audio(PacketType.FRAMES, b"x"))
    await settle()
    peer.session.tick(clock.now() + 3)
    assert [t.codec for t in door.registry.publications[0].tracks] == [Codec.AAC]


async def test_one_session_decides_one_thing_at_a_time(door: RtmpDoor) -> None:
    peer = Peer(door)
    peer.send(create(), *[publish("bad") + close() for _ in range(2000)])
    assert len(door.tasks) <= 1
    await settle()
    assert not peer.transport.paused


async def test_a_full_house_does_not_end_the_accept_loop(door: RtmpDoor, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(session: Any) -> None:
        session.close()
        raise LimitExceeded("rtmp: 8192 sessions already", code="node-full")

    monkeypatch.setattr(door.tasks, "start", full)

    class Socket:
        closed = False

        def setsockopt(self, *_: int) -> None: ...

        def close(self) -> None:
            self.closed = True

    sock = Socket()
    door._arrived(sock, "192.0.2.1", tls_only=False)  # type: ignore[arg-type]  # a fake
    assert sock.closed
    assert door.gate.total == 0


async def test_what_follows_a_challenge_is_not_handled(door: RtmpDoor) -> None:
    session = RtmpSession(door, "192.0.2.1", "rtmp")
    session.connection_made(Transport())  # type: ignore[arg-type]  # a fake
    connect = m.command(128, 0, "connect", 1.0, {"app": "live/auth"})
    session.data_received(b"\x03" + bytes(3072) + connect + create() + publish("a"))
    assert len(door.tasks) == 0


@pytest.mark.parametrize("role", ["publish", "play"])
async def test_answers_that_nobody_reads_end_the_session(door: RtmpDoor, role: str) -> None:
    encoder = Peer(door)
    encoder.send(create(), publish("a"), audio(PacketType.CONFIG, ASC), audio(PacketType.FRAMES, b"x"))
    await settle()
    encoder.session.tick(clock.now() + 3)
    peer = encoder
    if role == "play":
        peer = Peer(door)
        peer.send(create(), m.command(128, 1, "play", 3.0, None, "a"))
        await settle()
    peer.transport.unsent = 200 << 20
    peer.session.tick(clock.now())
    assert peer.transport.closing


async def test_a_player_that_reads_nothing_is_put_out(door: RtmpDoor, monkeypatch: pytest.MonkeyPatch) -> None:
    track = Track(1, Codec.AAC, 48_000, ASC, sample_rate=48_000, channels=2)
    room, publication = door.registry.publish(GRANT, "rtmp", "192.0.2.1", lambda error: None)
    publication.set_tracks((track,))
    publication.write(Packet(track, b"x", 0, 0, True, 1.0))
    viewer = Peer(door)
    viewer.send(create(), m.command(128, 1, "play", 3.0, None, "a"))
    await settle()
    assert room.viewers["rtmp"] == 1
    viewer.transport.unsent = (1 << 20) + 1
    for second in range(1, 20):
        publication.write(Packet(track, b"x", second * 48_000, second * 48_000, True, 1.0 + second))
    assert viewer.transport.closing
    slow = Peer(door)
    slow.send(create(), m.command(128, 1, "play", 3.0, None, "a"))
    await settle()
    for second in range(20, 60):
        slow.transport.unsent = (2 << 20) - second
        publication.write(Packet(track, b"x", second * 48_000, second * 48_000, True, 1.0 + second))
    assert not slow.transport.closing, "it reads, if slowly"


async def test_a_bug_in_one_sessions_tick_ends_that_session_only(
    door: RtmpDoor, bugs: list[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = Peer(door)
    peer.send(create(), publish("a"))
    await settle()

    def broken(now: float) -> None:
        raise ValueError("broken")

    state = next(iter(peer.session._publishing.values()))
    monkeypatch.setattr(state.assembler, "tick", broken)
    peer.session.tick(clock.now())
    assert [type(e) for e in bugs] == [ValueError]
    bugs.clear()
    assert peer.transport.closing


async def test_the_app_path_is_not_logged_whole(door: RtmpDoor, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "medianode.rtmp")
    session = RtmpSession(door, "192.0.2.1", "rtmp")
    session.connection_made(Transport())  # type: ignore[arg-type]  # a fake
    session.data_received(b"\x03" + bytes(3072) + m.command(128, 0, "connect", 1.0, {"app": "live/a-stream-key"}))
    assert caplog.records
    assert "a-stream-key" not in "".join(str(vars(record)) for record in caplog.records)


async def test_what_waits_for_the_tracks_is_bounded_in_bytes(door: RtmpDoor) -> None:
    peer = Peer(door)
    peer.send(create(), publish("a"), audio(PacketType.CONFIG, ASC))
    await settle()
    publication = door.registry.publications[0]
    assembler = peer.session._publishing[1].assembler
    now = clock.now()
    for i in range(17):
        assembler.frame(Codec.AAC, 0, bytes(1 << 20), i * 20, 0, now)
    assert publication.tracks


async def test_a_player_of_a_full_room_is_told(door: RtmpDoor) -> None:
    encoder = Peer(door)
    encoder.send(create(), publish("a"), audio(PacketType.CONFIG, ASC), audio(PacketType.FRAMES, b"x"))
    await settle()
    encoder.session.tick(clock.now() + 3)
    viewers = [Peer(door) for _ in range(11)]
    for viewer in viewers:
        viewer.send(create(), m.command(128, 1, "play", 3.0, None, "a"))
    await settle()
    full = [viewer for viewer in viewers if viewer.transport.closing]
    assert len(full) == 1
    assert b"has 10 viewers already" in full[0].answers
    for viewer in viewers:
        viewer.session.connection_lost(None)
    assert door.registry.on_air("p", "live-a").viewers["rtmp"] == 0


async def test_a_publisher_rests_less_while_somebody_watches_in_real_time(bugs: list[BaseException]) -> None:
    class Reader:
        realtime = True

        def on_tracks(self, tracks: object) -> None: ...
        def on_packet(self, packet: object) -> None: ...
        def on_gap(self, gap: object) -> None: ...
        def on_end(self, cause: str) -> None: ...

    settings = msgspec.structs.replace(Config().rtmp, read_interval=0.5, realtime_read_interval=0.04)
    config = Config(limits=Limits(viewers_per_room=10), rtmp=settings)
    registry = Registry(Bus(), config.limits)
    door = RtmpDoor(config, registry, Keys(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), RtmpPlayDesk(1 << 20, registry.audience))  # type: ignore[arg-type]  # a fake
    async with door.tasks:
        peer = Peer(door)
        peer.send(create(), publish("a"))
        await settle()
        rested: list[float] = []
        door.rest = lambda session, seconds: rested.append(seconds)  # type: ignore[method-assign]  # to see what it is told
        peer.send(audio(PacketType.CONFIG, ASC))
        assert rested == [0.5]
        publication, reader = registry.publications[0], Reader()
        publication.attach(reader)
        peer.send(audio(PacketType.FRAMES, b"x"))
        publication.detach(reader)
        peer.send(audio(PacketType.FRAMES, b"x"))
        assert rested == [0.5, 0.04, 0.5]
        assert peer.transport.paused
        peer.session.connection_lost(None)
    assert bugs == []


class Wired(Transport):
    """A transport over a real socket, which it never reads."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__()
        self.sock = sock

    def get_extra_info(self, name: str) -> Any:
        return self.sock if name == "socket" else None


async def test_a_resting_publisher_is_read_without_its_transport(bugs: list[BaseException]) -> None:
    """The end of the stream, and a stream that is given back, are the transport's again."""
    config = Config(limits=Limits(viewers_per_room=10), rtmp=msgspec.structs.replace(Config().rtmp, read_interval=0.01))
    registry = Registry(Bus(), config.limits)
    door = RtmpDoor(config, registry, Keys(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), RtmpPlayDesk(1 << 20, registry.audience))  # type: ignore[arg-type]  # a fake
    ours, theirs = socket.socketpair()
    async with door.tasks:
        with ours, theirs:
            peer = Peer(door, Wired(ours))
            peer.send(create(), publish("a"))
            await settle()
            peer.send(audio(PacketType.CONFIG, ASC))
            assert peer.transport.paused
            for count in (1, 3):
                data = audio(PacketType.FRAMES, b"\x21\x10\x04\x60\x8c\x1c") * count
                expected = peer.session._rtmp.bytes_received + len(data)
                theirs.sendall(data)
                async with asyncio.timeout(5):
                    while peer.session._rtmp.bytes_received < expected:
                        await asyncio.sleep(0.005)
                assert peer.session._rtmp.bytes_received == expected
            assert peer.transport.paused
            theirs.shutdown(socket.SHUT_WR)
            async with asyncio.timeout(5):
                while peer.transport.paused:
                    await asyncio.sleep(0.005)
        peer.session.connection_lost(None)
    assert bugs == []
