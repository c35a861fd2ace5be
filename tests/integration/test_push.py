"""Simulcast by RTMP(S) from a whole node: to another node, and to targets that misbehave."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession
from harness import AUDIO, IDR, SLICE, VIDEO, Node, publishing, running, send_second, until

from medianode import clock
from medianode.auth import Door, PublishGrant, Takeover
from medianode.egress.push import liveness, rtmp, supervisor
from medianode.egress.rtmp_publish import RtmpPublisher
from medianode.errors import MedianodeError
from medianode.media.packet import Packet
from medianode.media.track import Codec, Kind, Track
from medianode.protocols import flv
from medianode.protocols.flv import PacketType
from medianode.protocols.rtmp import Connect, Data, Media, Publish, ServerConnection, Unpublish
from medianode.routing.publication import Publication
from medianode.store import outbox

ALLOW = {"allow": ["127.0.0.0/8", "localhost"]}


class Target:
    """An RTMP server with manners of the test's choice. `events` of all connections; `names` that were offered; `on_media` each time."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.names: list[str] = []
        self.connections = 0
        self.enhanced = True
        self.accept: Callable[[ServerConnection, Publish], None] = lambda connection, event: connection.accept_publish(event.stream_id)
        self.after: Callable[[asyncio.StreamWriter], None] = lambda writer: None
        self.greeting: bytes | None = None
        self.deaf = False
        self.dead_after = 0  # media messages; from then on a proxy reads what nobody takes
        self.port = 0

    @property
    def url(self) -> str:
        return f"rtmp://127.0.0.1:{self.port}/app"

    def media(self, kind: Kind) -> list[Media]:
        return [event for event in self.events if isinstance(event, Media) and event.kind is kind]

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        connection = ServerConnection(random=os.urandom)
        try:
            if self.greeting is not None:
                writer.write(self.greeting)
            while data := await reader.read(65_536):
                if self.dead_after and len(self.media(Kind.VIDEO)) > self.dead_after:
                    continue
                connection.receive_data(data)
                for event in connection.events():
                    await self._answer(connection, event, writer)
                writer.write(connection.data_to_send())
        except (OSError, MedianodeError):
            pass
        finally:
            writer.close()

    async def _answer(self, connection: ServerConnection, event: Any, writer: asyncio.StreamWriter) -> None:
        self.events.append(event)
        if isinstance(event, Connect):
            connection._enhanced = self.enhanced
            connection.accept_connect()
        elif isinstance(event, Publish):
            self.names.append(event.name)
            self.accept(connection, event)
            writer.write(connection.data_to_send())
        elif isinstance(event, Media):
            self.after(writer)
            if self.deaf:
                await asyncio.sleep(3600)


@asynccontextmanager
async def target() -> AsyncIterator[Target]:
    made = Target()
    server = await asyncio.start_server(made.handle, "127.0.0.1", 0, limit=65_536)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    async with running(tmp_path / "node", outbound=ALLOW) as made:
        yield made


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "RETRY", (0.1, 0.2))
    monkeypatch.setattr(supervisor, "REFUSED", (0.1, 0.2))


async def add(node: Node, url: str, key: str = "", **more: Any) -> str:
    async with ClientSession(headers=node.admin) as session:
        body = {"url": url, "streamKey": key, **more}
        async with session.post(f"{node.http}/api/v1/apps/live/rooms/studio/targets", json=body) as response:
            assert response.status == 201, await response.text()
            made: str = (await response.json())["data"]["id"]
            return made


async def call(node: Node, method: str, target_id: str, **body: Any) -> dict[str, Any]:
    async with ClientSession(headers=node.admin) as session:
        where = f"{node.http}/api/v1/apps/live/rooms/studio/targets/{target_id}"
        async with session.request(method, where, json=body or None) as response:
            assert response.status < 300, await response.text()
            return {} if response.status == 204 else (await response.json())["data"]


async def becomes(node: Node, target_id: str, state: str, timeout: float = 15.0) -> dict[str, Any]:
    view: dict[str, Any] = {}
    try:
        async with asyncio.timeout(timeout):
            while view.get("state") != state:
                await asyncio.sleep(0.05)
                view = await call(node, "GET", target_id)
    except TimeoutError:
        raise AssertionError(f"expected {state}, got {view}") from None
    return view


@asynccontextmanager
async def on_air(node: Node, publisher: RtmpPublisher) -> AsyncIterator[None]:
    """A second of media every quarter of one: what a target needs to be found out."""

    async def send() -> None:
        second = 0
        while True:
            await send_second(publisher, second)
            second += 1
            await asyncio.sleep(0.25)

    task = asyncio.ensure_future(send())
    try:
        await until(lambda: node.on_air)
        yield
    finally:
        task.cancel()
        await asyncio.wait((task,))


async def test_to_another_node_and_its_certificate_must_be_trusted(node: Node, tmp_path: Path) -> None:
    async with running(tmp_path / "other") as other:
        pem = tmp_path / "other.pem"
        async with ClientSession() as session, session.get(f"{other.http}/certificate.pem") as response:
            pem.write_bytes(await response.read())
        url = f"rtmps://localhost:{other.ready.rtmp_port}/live"
        async with publishing(f"{node.rtmp}/live/{node.key}") as publisher, on_air(node, publisher):
            refused = await add(node, url, other.key)
            view = await becomes(node, refused, "failed")
            assert view["errorCode"] == "certificate-not-trusted"
            assert "outbound.cafile may name a PEM to trust" in view["error"]
            assert not other.on_air
        async with (
            running(tmp_path / "trusting", outbound={**ALLOW, "cafile": str(pem)}) as trusting,
            publishing(f"{trusting.rtmp}/live/{trusting.key}") as publisher,
            on_air(trusting, publisher),
        ):
            view = await becomes(trusting, await add(trusting, url, other.key), "broadcasting")
            assert view["treatment"] == {"video": "copy", "audio": "copy"}
            assert (view["streamKey"], view["attempts"]) == (f"…{other.key[-4:]}", 1)
            assert [p.door for p in other.daemon.registry.publications] == ["rtmps"]
            await until(lambda: other.room() is not None and {t.codec for t in other.room().tracks} == {Codec.H264, Codec.AAC})


async def test_the_room_s_life_is_the_connection_s(node: Node) -> None:
    async with target() as other:
        one = await add(node, other.url, "k" * 20)
        assert (await call(node, "GET", one))["state"] == "idle"
        async with publishing(f"{node.rtmp}/live/{node.key}") as publisher, on_air(node, publisher):
            view = await becomes(node, one, "broadcasting")
            assert other.names == ["k" * 20]
            assert any(isinstance(e, Data) and e.name == "onMetaData" for e in other.events)
            first = flv.parse_video(other.media(Kind.VIDEO)[0].payload)[0]
            assert (first.packet_type, first.data) == (PacketType.CONFIG, VIDEO.config)
            second = flv.parse_video(other.media(Kind.VIDEO)[1].payload)[0]
            assert (second.keyframe, second.data) == (True, IDR)
            assert view["sentBytes"] >= view["acknowledgedBytes"] > 0
            # off, and on again
            await call(node, "PATCH", one, enabled=False)
            await becomes(node, one, "idle")
            await until(lambda: any(isinstance(e, Unpublish) for e in other.events))
            await call(node, "PATCH", one, enabled=True)
            await becomes(node, one, "broadcasting")
            assert other.connections == 2
            # elsewhere: the connection is made anew with the other key
            await call(node, "PATCH", one, streamKey="another")
            await until(lambda: other.names[-1] == "another")
            await becomes(node, one, "broadcasting")
            await call(node, "DELETE", one)
            await until(lambda: sum(isinstance(e, Unpublish) for e in other.events) == 3)
    told = ["created", "starting", "broadcasting", "updated", "idle", "updated", "starting", "broadcasting"]
    told += ["updated", "idle", "starting", "broadcasting", "deleted"]
    database = node.daemon.health.database
    assert database is not None
    async with database.read() as tx:
        events = [event for event in await outbox.after(tx, 0, 500) if event.data.get("targetId") == one]
    assert [event.type for event in events] == [f"target.{name}" for name in told]


async def test_a_short_gap_of_the_publisher_keeps_the_connection_and_time_goes_on(node: Node) -> None:
    async with target() as other:
        one = await add(node, other.url, "key")
        async with publishing(f"{node.rtmp}/live/{node.key}") as publisher, on_air(node, publisher):
            await becomes(node, one, "broadcasting")
        await until(lambda: node.room().held)
        seen = len(other.events)
        async with publishing(f"{node.rtmp}/live/{node.key}") as publisher, on_air(node, publisher):
            await until(lambda: len(other.media(Kind.VIDEO)) > 100 and len(other.events) > seen + 60)
        stamps = [media.timestamp for media in other.media(Kind.VIDEO)]
        assert stamps == sorted(stamps)
        after = [flv.parse_video(e.payload)[0] for e in other.events[seen:] if isinstance(e, Media) and e.kind is Kind.VIDEO]
        frames = [tag for tag in after if tag.packet_type is PacketType.FRAMES]
        assert frames[0].keyframe
        assert other.connections == 1


async def test_a_wrong_key_is_told_in_plain_words(node: Node) -> None:
    async with target() as other:
        other.accept = lambda connection, event: connection.reject_publish(
            event.stream_id, "NetStream.Publish.BadName", f"stream {event.name} is unknown"
        )
        one = await add(node, other.url, "secret-key-1")
        async with publishing(f"{node.rtmp}/live/{node.key}") as publisher, on_air(node, publisher):
            view = await becomes(node, one, "failed")
            assert (view["errorCode"], view["error"]) == ("rejected", "NetStream.Publish.BadName: stream … is unknown")
            await until(lambda: other.connections > 1)
            assert (await call(node, "GET", one))["nextAttemptAt"] is not None or other.connections > 1


async def test_one_that_stops_reading_is_dead_and_neither_the_publisher_nor_the_others_feel_it(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(liveness, "PATIENCE", 2.0)
    async with target() as stuck, target() as good:
        stuck.deaf = True
        one, others = await add(node, stuck.url, "key"), [await add(node, good.url, f"key-{i}") for i in range(5)]
        async with publishing(f"{node.rtmp}/live/{node.key}") as publisher:
            await send_second(publisher)
            await until(lambda: node.on_air)
            big = os.urandom(200_000)
            for second in range(1, 200):
                ticks = second * 90_000
                await publisher.send(Packet(VIDEO, len(big).to_bytes(4, "big") + b"\x65" + big[1:], ticks, ticks, True, 0.0))
                await asyncio.sleep(0.03)
                if second > 30 and (await call(node, "GET", one))["state"] == "failed":
                    break
            view = await call(node, "GET", one)
            assert (view["state"], view["errorCode"]) == ("failed", "target-stalled")
            for other in others:
                assert (await call(node, "GET", other))["state"] == "broadcasting"
                assert (await call(node, "GET", other))["droppedPackets"] == 0
            assert node.daemon.registry.publications[0].health.drops == {}


async def test_one_that_is_dead_behind_a_proxy_that_reads_on_looks_green_no_longer(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(liveness, "PATIENCE", 2.0)
    monkeypatch.setattr(rtmp, "WINDOW", 2000)
    async with target() as other:
        other.dead_after = 200
        one = await add(node, other.url, "key")
        async with publishing(f"{node.rtmp}/live/{node.key}") as publisher, on_air(node, publisher):
            await becomes(node, one, "broadcasting")
            view = await becomes(node, one, "failed")
            assert view["errorCode"] == "target-stalled"
            assert "stopped acknowledging" in view["error"]
            other.dead_after = 0
            assert (await becomes(node, one, "broadcasting"))["attempts"] == 2


@pytest.mark.parametrize("garbage", [b"HTTP/1.1 400 Bad Request\r\n\r\n" * 200, b"\x03" + bytes(3072) + b"\xff" * 500, b""])
async def test_one_that_is_no_rtmp_server_or_closes(node: Node, garbage: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(garbage)
        await reader.read(65_536)
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server, publishing(f"{node.rtmp}/live/{node.key}") as publisher, on_air(node, publisher):
        one = await add(node, f"rtmp://127.0.0.1:{server.sockets[0].getsockname()[1]}/app/key")
        view = await becomes(node, one, "failed")
        assert view["errorCode"] in ("protocol-error", "peer-gone", "limit-exceeded")
        assert view["error"]


async def test_one_that_resets_each_time_is_left_for_the_alternate(node: Node) -> None:
    async with target() as bad, target() as good:
        bad.after = lambda writer: writer.transport.abort()
        one = await add(node, bad.url, "key", alternateUrl=good.url)
        async with publishing(f"{node.rtmp}/live/{node.key}") as publisher, on_air(node, publisher):
            await until(lambda: good.connections > 0)
            view = await becomes(node, one, "broadcasting")
            assert view["onAlternate"]
            assert bad.connections == 2


async def test_nobody_answers(node: Node) -> None:
    async with publishing(f"{node.rtmp}/live/{node.key}") as publisher, on_air(node, publisher):
        view = await becomes(node, await add(node, "rtmp://127.0.0.1:9/app/key"), "failed")
        assert view["errorCode"] == "unreachable"
        assert view["error"].startswith("127.0.0.1: ")


async def test_private_addresses_are_refused_at_registration(tmp_path: Path) -> None:
    async with running(tmp_path) as node, ClientSession(headers=node.admin) as session:
        where = f"{node.http}/api/v1/apps/live/rooms/studio/targets"
        async with session.post(where, json={"url": "rtmp://127.0.0.1/app/key"}) as response:
            assert response.status == 400
            assert response.headers["X-Error-Code"] == "private-address"
        async with session.get(where) as response:
            assert (await response.json())["data"] == []


@contextmanager
def made_up(node: Node, *tracks: Track) -> Iterator[Publication]:
    """A publication without a door."""
    first = node.ready.first
    assert first.project is not None
    grant = PublishGrant(
        project_id=first.project.id,
        slug="live",
        room="live-studio",
        identity="obs",
        name="",
        kind=Door.RTMP,
        ingress_id=None,
        takeover=Takeover.REPLACE,
        hold=0.0,
    )
    room, publication = node.daemon.registry.publish(grant, "test", "127.0.0.1", lambda error: None)
    publication.set_tracks(tracks)
    try:
        yield publication
    finally:
        room.end(publication, "done")


def write(publication: Publication, track: Track, data: bytes, ticks: int, *, keyframe: bool = True) -> None:
    publication.write(Packet(track, data, ticks, ticks, keyframe, clock.now()))


HEVC = Track(0, Codec.HEVC, 90_000, bytes.fromhex("01016000000090000000000078f000fcfdf8f800000f00"), 320, 240)
OPUS = Track(1, Codec.OPUS, 48_000, b"OpusHead\x01\x02\x38\x01\x80\xbb\0\0\0\0\0", sample_rate=48_000, channels=2)


@pytest.mark.parametrize("enhanced", [True, False])
async def test_codecs_go_as_they_are_where_the_target_takes_them(node: Node, enhanced: bool) -> None:
    """An enhanced target gets HEVC and Opus passed on; for an old one sound becomes AAC, and H.264 stays what it is."""
    async with target() as other:
        other.enhanced = enhanced
        await add(node, other.url, "key")
        picture = HEVC if enhanced else VIDEO
        key, delta = (b"\0\0\0\x04\x26\x01\xaf\x01",) * 2 if enhanced else (IDR, SLICE)
        with made_up(node, picture, OPUS) as publication:
            for i in range(0, 200, 2):
                write(publication, picture, delta if i % 30 else key, i * 1800, keyframe=not i % 30)
                write(publication, OPUS, b"\xfc\xff\xfe", i * 960)
                write(publication, OPUS, b"\xfc\xff\xfe", i * 960 + 960)
                await asyncio.sleep(0.02)
            await until(lambda: other.media(Kind.AUDIO) and other.media(Kind.VIDEO))
        video = {tag.codec for media in other.media(Kind.VIDEO) for tag in flv.parse_video(media.payload)}
        audio = {tag.codec for media in other.media(Kind.AUDIO) for tag in flv.parse_audio(media.payload)}
        assert (video, audio) == (({Codec.HEVC}, {Codec.OPUS}) if enhanced else ({Codec.H264}, {Codec.AAC}))


async def test_a_picture_that_comes_late_and_changes(node: Node) -> None:
    async with target() as other:
        await add(node, other.url, "key")
        with made_up(node, AUDIO) as publication:
            for i in range(50):
                write(publication, AUDIO, b"\x21\x10\x04\x60\x8c\x1c", i * 1024)
            # sound alone has no GOP to begin with: what comes from here on is sent
            i = 50
            while not other.media(Kind.AUDIO):
                write(publication, AUDIO, b"\x21\x10\x04\x60\x8c\x1c", i * 1024)
                i += 1
                await asyncio.sleep(0.02)
            assert not other.media(Kind.VIDEO)
            publication.set_tracks((VIDEO, AUDIO))
            write(publication, VIDEO, IDR, i * 1920)
            await until(lambda: len(other.media(Kind.VIDEO)) == 2)
            wider = replace(VIDEO, config=VIDEO.config[:-1] + b"\xc1", width=640, height=480)
            publication.set_tracks((wider, AUDIO))
            write(publication, wider, IDR, i * 1920 + 3000)
            await until(lambda: len(other.media(Kind.VIDEO)) == 4)
        await until(lambda: any(isinstance(e, Unpublish) for e in other.events))
        tags = [flv.parse_video(media.payload)[0] for media in other.media(Kind.VIDEO)]
        assert [tag.packet_type for tag in tags] == [PacketType.CONFIG, PacketType.FRAMES] * 2
        assert tags[2].data == wider.config
        assert [e.values[0]["width"] for e in other.events if isinstance(e, Data) and "width" in e.values[0]] == [320.0, 640.0]
        stamps = [event.timestamp for event in other.events if isinstance(event, Media)]
        assert stamps == sorted(stamps)
        assert other.connections == 1
