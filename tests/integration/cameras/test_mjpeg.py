"""MJPEG, snapshots and the viewer socket over real sockets, from a room that is published into by hand (contracts 2.4)."""

from __future__ import annotations

import asyncio
import io
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, ClassVar

import aiohttp
import pytest
from PIL import Image
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from medianode import clock
from medianode.auth import Door, PublishGrant, Takeover
from medianode.config import Limits
from medianode.egress import screen as screen_module
from medianode.errors import Unauthorized
from medianode.media.packet import Gap, Packet
from medianode.media.track import Codec, Kind, Track
from medianode.routing.publication import Publication
from medianode.routing.room import Room
from medianode.transcode.renditions import Want

Picture = Callable[..., bytes]
Until = Callable[[Callable[[], bool]], Awaitable[None]]
Start = Callable[..., Awaitable[Any]]
PATH = "/live/live/gate/mjpeg"


class Publisher:
    """A door of this test: JPEGs (or anything) written straight into a room."""

    def __init__(self, node: Any, hold: float = 0.0, codec: Codec = Codec.MJPEG, room: str = "live-gate") -> None:
        grant = PublishGrant(
            project_id="p1",
            slug="live",
            room=room,
            identity="cam",
            name="",
            kind=Door.WS_MJPEG,
            ingress_id="in_1",
            takeover=Takeover.REPLACE,
            hold=hold,
        )
        self.room: Room
        self.publication: Publication
        self.room, self.publication = node.registry.publish(grant, "test", "", lambda error: None)
        self.track = Track(id=0, codec=codec, clock_rate=90_000, width=64, height=48)
        self.pts = 0
        if codec is Codec.MJPEG:
            self.publication.set_tracks((self.track,))

    def write(self, data: bytes) -> None:
        self.pts += 9000
        self.publication.write(Packet(self.track, data, self.pts, self.pts, True, clock.now()))

    def end(self) -> None:
        self.room.end(self.publication, "test-over")


class Client:
    """A viewer on a bare socket, so that it may also stop reading."""

    opened: ClassVar[list[Client]] = []

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes) -> None:
        self.opened.append(self)
        self.reader, self.writer = reader, writer
        status, *lines = head.decode().split("\r\n")
        self.status = int(status.split()[1])
        self.headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines if line)}

    @classmethod
    async def open(cls, node: Any, path: str = PATH, method: str = "GET", rcvbuf: int = 0, limit: int = 65_536) -> Client:
        sock = socket.socket()
        sock.setblocking(False)
        if rcvbuf:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", node.port))
        reader, writer = await asyncio.open_connection(sock=sock, limit=limit)
        writer.write(f"{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        return cls(reader, writer, await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10))

    async def part(self) -> bytes:
        """The next JPEG; the bytes around it must be the contract's."""
        async with asyncio.timeout(10):
            head = await self.reader.readuntil(b"\r\n\r\n")
            boundary, kind, length, *rest = head.split(b"\r\n")
            assert (boundary, kind, rest) == (b"--frame", b"Content-Type: image/jpeg", [b"", b""])
            data = await self.reader.readexactly(int(length.removeprefix(b"Content-Length: ")))
            assert await self.reader.readexactly(2) == b"\r\n"
            return data

    def close(self) -> None:
        self.writer.transport.abort()


@pytest.fixture(autouse=True)
async def _hang_up() -> AsyncIterator[None]:
    yield
    while Client.opened:
        Client.opened.pop().close()
    await asyncio.sleep(0)


async def test_headers_last_frame_at_once_and_every_byte_as_it_came(start: Start, picture: Picture) -> None:
    node = await start()
    publisher = Publisher(node)
    frames = [picture(i) for i in range(4)]
    publisher.write(frames[0])
    publisher.write(frames[1])
    client = await Client.open(node)
    assert client.status == 200
    assert client.headers["content-type"] == "multipart/x-mixed-replace; boundary=frame"
    assert client.headers["x-accel-buffering"] == "no"
    assert "no-store" in client.headers["cache-control"]
    assert client.headers["access-control-allow-origin"] == "*"
    assert "transfer-encoding" not in client.headers
    assert "content-length" not in client.headers
    assert await client.part() == frames[1]
    for frame in frames[2:]:
        publisher.write(frame)
        assert await client.part() == frame
    publisher.end()
    assert await client.reader.read() == b""


async def test_both_forms_of_the_room_and_the_token(start: Start, picture: Picture) -> None:
    node = await start()
    publisher = Publisher(node)
    publisher.write(picture(1))
    node.gatekeeper.viewing_token = "good"
    for path, status in (
        ("/live/live/gate/mjpeg?token=good", 200),
        ("/live/live/live-gate/mjpeg?token=good", 200),
        ("/live/live/gate/mjpeg", 401),
        ("/live/live/gate/mjpeg?token=bad", 401),
        ("/live/other/gate/mjpeg?token=good", 404),
        ("/live/live/nowhere/mjpeg?token=good", 404),
        ("/live/live/..%2fetc/mjpeg?token=good", 400),
        ("/live/live/gate/frame.jpg", 401),
        ("/live/live/gate/frame.jpg?token=good", 200),
    ):
        client = await Client.open(node, path)
        assert (path, client.status) == (path, status)
        if status != 200:
            body = json.loads(await client.reader.readexactly(int(client.headers["content-length"])))
            assert body["data"] is None
            assert set(body["error"]) == {"code", "message"}
            assert client.headers["access-control-allow-origin"] == "*"
        client.close()


async def test_head_and_preflight(start: Start, picture: Picture, until: Until) -> None:
    node = await start()
    Publisher(node).write(picture(1))
    async with aiohttp.ClientSession() as session:
        async with session.head(f"{node.http}{PATH}") as response:
            assert response.status == 200
            assert response.headers["Content-Type"] == "multipart/x-mixed-replace; boundary=frame"
        async with session.head(f"{node.http}/live/live/gate/frame.jpg") as response:
            assert response.status == 200
            assert response.headers["Content-Length"] == str(len(picture(1)))
        for path in (PATH, "/live/live/gate/frame.jpg"):
            async with session.options(
                f"{node.http}{path}", headers={"Origin": "https://x", "Access-Control-Request-Method": "GET"}
            ) as response:
                assert response.status == 204
                assert response.headers["Access-Control-Allow-Origin"] == "*"
    assert node.registry.find("p1", "live-gate").viewers.get("mjpeg", 0) == 0


async def test_a_slow_viewer_gets_the_newest_and_no_backlog_and_others_get_all(
    start: Start, picture: Picture, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(screen_module, "SWEEP", 0.05)
    node = await start()
    publisher = Publisher(node)
    # whole JPEGs, told apart by their last bytes
    whole = picture(1, nbytes=50_000)
    frames = [whole + bytes(100) + i.to_bytes(4, "big") for i in range(200)]
    publisher.write(frames[0])
    slow = await Client.open(node, rcvbuf=32_768, limit=4096)
    quick = await Client.open(node)
    assert await quick.part() == frames[0]
    for frame in frames[1:]:
        publisher.write(frame)
        assert await quick.part() == frame
    received = [await slow.part()]
    while received[-1] != frames[-1]:
        received.append(await slow.part())
    indices = [frames.index(data) for data in received]
    assert indices == sorted(set(indices))
    # what was under way when it stopped reading, then the newest: not the 10 MB in between
    assert len(received) < 40, len(received)
    viewer = next(iter(node.screens._screens.values()))._viewers
    assert max(v.dropped for v in viewer) == len(frames) - len(received)
    assert min(v.dropped for v in viewer) == 0
    slow.close()
    quick.close()
    publisher.write(frames[0])
    await until(lambda: node.registry.find("p1", "live-gate").viewers["mjpeg"] == 0)


async def test_a_viewer_that_takes_nothing_is_let_go(start: Start, picture: Picture, until: Until, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(screen_module, "STALL", 0.3)
    node = await start()
    publisher = Publisher(node)
    publisher.write(picture(1))
    client = await Client.open(node, rcvbuf=4096, limit=4096)
    for i in range(200):
        publisher.write(picture(i, nbytes=50_000))
    assert publisher.room.viewers["mjpeg"] == 1
    await until(lambda: publisher.room.viewers["mjpeg"] == 0)
    client.close()


async def test_a_viewer_that_hangs_up_while_no_frames_come_is_noticed(
    start: Start, picture: Picture, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(screen_module, "SWEEP", 0.05)
    node = await start()
    publisher = Publisher(node)
    publisher.write(picture(1))
    client = await Client.open(node)
    assert await client.part() == picture(1)
    client.close()
    await until(lambda: publisher.room.viewers["mjpeg"] == 0)
    assert len(node.screens) == 0


async def test_in_a_gap_the_connection_stays_and_resumes(start: Start, picture: Picture) -> None:
    node = await start(hold=30.0)
    publisher = Publisher(node, hold=30.0)
    publisher.write(picture(1))
    client = await Client.open(node)
    assert await client.part() == picture(1)
    publisher.end()
    assert publisher.room.held
    late = await Client.open(node)
    assert (late.status, await late.part()) == (200, picture(1))
    again = Publisher(node, hold=0.0)
    again.write(picture(2))
    assert await client.part() == picture(2)
    assert await late.part() == picture(2)
    again.end()
    assert await client.reader.read() == b""
    assert await late.reader.read() == b""


async def test_a_room_has_its_number_of_viewers_and_one_with_sound_only_has_no_picture(start: Start, picture: Picture) -> None:
    node = await start(limits=Limits(viewers_per_room=1))
    publisher = Publisher(node)
    publisher.write(picture(1))
    first = await Client.open(node)
    assert (await Client.open(node)).status == 503
    first.close()
    other = await start()
    sound = Publisher(other, codec=Codec.OPUS)
    sound.track = Track(id=0, codec=Codec.OPUS, clock_rate=48_000, sample_rate=48_000, channels=2)
    sound.publication.set_tracks((sound.track,))
    sound.write(b"\xfc\xff\xfe")
    assert (await Client.open(other)).status == 404


async def test_frame_jpg_is_the_newest_with_an_etag_of_its_own(start: Start, picture: Picture) -> None:
    node = await start()
    url = f"{node.http}/live/live/gate/frame.jpg"
    async with aiohttp.ClientSession() as session:
        async with session.get(url) as response:
            assert response.status == 404
            assert (await response.json())["error"]["code"] == "no_programme"
        publisher = Publisher(node, hold=30.0)
        publisher.write(picture(1))
        async with session.get(url) as response:
            assert (response.status, await response.read()) == (200, picture(1))
            assert response.headers["Content-Type"] == "image/jpeg"
            assert response.headers["Cache-Control"] == "no-cache"
            assert response.headers["Access-Control-Allow-Origin"] == "*"
            etag = response.headers["ETag"]
            assert etag.startswith('"')
        async with session.get(url, headers={"If-None-Match": etag}) as response:
            assert (response.status, await response.read(), response.headers["ETag"]) == (304, b"", etag)
        publisher.write(picture(2))
        async with session.get(url, headers={"If-None-Match": etag}) as response:
            assert (response.status, await response.read()) == (200, picture(2))
            assert response.headers["ETag"] != etag
        publisher.end()
        async with session.get(url) as response:
            assert (response.status, (await response.json())["error"]["code"]) == (404, "no_frame")


async def test_frame_jpg_scales_once_for_all_who_ask(start: Start, picture: Picture, monkeypatch: pytest.MonkeyPatch) -> None:
    from medianode.egress import mjpeg

    node = await start()
    Publisher(node).write(picture(1, width=640, height=480))
    calls = []
    real = mjpeg.keyframe_jpeg

    async def counted(packet: Packet, width: int | None, quality: int) -> bytes:
        calls.append(width)
        return await real(packet, width, quality)

    monkeypatch.setattr(mjpeg, "keyframe_jpeg", counted)
    url = f"{node.http}/live/live/gate/frame.jpg"

    async def fetch(session: aiohttp.ClientSession, w: str) -> tuple[int, bytes, str]:
        async with session.get(f"{url}?w={w}") as response:
            return response.status, await response.read(), response.headers.get("ETag", "")

    async with aiohttp.ClientSession() as session:
        answers = await asyncio.gather(*(fetch(session, "160") for _ in range(12)))
        assert len(set(answers)) == 1
        assert calls == [160]
        assert Image.open(io.BytesIO(answers[0][1])).size == (160, 120)
        other = await fetch(session, "320")
        assert Image.open(io.BytesIO(other[1])).size == (320, 240)
        assert other[2] != answers[0][2]
        for bad in ("15", "3841", "abc", "-1", "", "1e3", "٣٢٠", "99999999999"):
            assert (await fetch(session, bad))[0] == 400
    assert len(node.mjpeg.snapshots) == 2


class Recorder:
    """A Sink that keeps what it is handed."""

    def __init__(self) -> None:
        self.packets: list[Packet] = []

    def on_tracks(self, tracks: tuple[Track, ...]) -> None: ...

    def on_packet(self, packet: Packet) -> None:
        self.packets.append(packet)

    def on_gap(self, gap: Gap) -> None: ...

    def on_end(self, cause: str) -> None: ...


async def test_an_h264_source_is_shown_through_a_shared_rendition(start: Start, picture: Picture, until: Until) -> None:
    """The H.264 is made by the node's own rendition of a JPEG room, then published into another room."""
    node = await start()
    jpegs, recorder = Publisher(node), Recorder()
    jpegs.write(picture(0))
    async with node.renditions.acquire(jpegs.room, Want("h264", "none"), 0.0) as feed:
        feed.attach(recorder)
        while len(recorder.packets) < 3:
            jpegs.write(picture(9))
            await asyncio.sleep(0.02)
        feed.detach(recorder)
    source = Publisher(node, codec=Codec.H264, room="live-yard")
    source.publication.set_tracks((recorder.packets[0].track,))
    key, *rest = recorder.packets
    assert key.keyframe
    source.publication.write(key._replace(received_at=clock.now()))
    viewers = [await Client.open(node, "/live/live/yard/mjpeg") for _ in range(2)]
    for packet in rest:
        source.publication.write(packet._replace(received_at=clock.now()))
    parts = [await viewer.part() for viewer in viewers]
    assert Image.open(io.BytesIO(parts[0])).size == (64, 48)
    assert sum(r.transcodes for r in node.renditions.all if r.source is source.room) == 1
    async with aiohttp.ClientSession() as session:
        for query, size in (("", (64, 48)), ("?w=32", (32, 24))):
            async with session.get(f"{node.http}/live/live/yard/frame.jpg{query}") as response:
                assert response.status == 200
                etag = response.headers["ETag"]
                assert Image.open(io.BytesIO(await response.read())).size == size
            async with session.get(f"{node.http}/live/live/yard/frame.jpg{query}", headers={"If-None-Match": etag}) as response:
                assert response.status == 304
    source.end()
    jpegs.end()


async def test_no_rendition_left_is_503_before_any_header(start: Start, picture: Picture) -> None:
    node = await start(limits=Limits(renditions=1))
    node.renditions.claim(Kind.VIDEO)
    source = Publisher(node, codec=Codec.H264)
    source.track = Track(id=0, codec=Codec.H264, clock_rate=90_000, width=64, height=48)
    source.publication.set_tracks((source.track,))
    source.write(b"\0\0\0\1\x65")
    assert (await Client.open(node)).status == 503
    assert source.room.viewers["mjpeg"] == 0
    node.renditions.release(Kind.VIDEO)
    source.end()


async def test_the_viewer_socket(start: Start, picture: Picture, until: Until) -> None:
    node = await start()
    publisher = Publisher(node)
    large = picture(1, nbytes=60_000) + bytes(4000)
    publisher.write(picture(1))
    url = f"ws://127.0.0.1:{node.port}/live/ws?app=live&room=gate"
    async with connect(url, compression=None, ping_interval=None) as viewer:
        assert await viewer.recv() == picture(1)
        for data in (picture(2), large + bytes(4000), b"\xff\xd8" * 20):
            publisher.write(data)
            assert await viewer.recv() == data
        await viewer.send("hello")
        await asyncio.wait_for(await viewer.ping(), 5)
        assert publisher.room.viewers["ws-live"] == 1
    await until(lambda: publisher.room.viewers["ws-live"] == 0)
    async with connect(url, compression=None, ping_interval=None) as viewer:
        await viewer.recv()
        publisher.end()
        with pytest.raises(ConnectionClosed):
            await viewer.recv()
        assert (viewer.close_code, viewer.close_reason) == (1000, "stream-ended")


async def test_viewers_whose_leave_ends_are_put_out(start: Start, picture: Picture, until: Until) -> None:
    node = await start()
    publisher = Publisher(node)
    publisher.write(picture(1))
    client = await Client.open(node)
    assert await client.part() == picture(1)
    async with connect(f"ws://127.0.0.1:{node.port}/live/ws?app=live&room=gate", compression=None, ping_interval=None) as viewer:
        assert await viewer.recv() == picture(1)
        for visit in node.registry.audience:
            visit.end(Unauthorized("the token was revoked", code="token-revoked"))
        assert await viewer.recv() == '{"type":"error","code":"4401","message":"token_revoked"}'
        with pytest.raises(ConnectionClosed):
            await viewer.recv()
        assert (viewer.close_code, viewer.close_reason) == (4401, "token_revoked")
    assert await client.reader.read() == b"", "nothing more, and closed"
    assert publisher.room.viewers == {"mjpeg": 0, "ws-live": 0}
    client.close()


async def test_the_viewer_socket_refuses_after_the_upgrade(start: Start) -> None:
    node = await start()
    for query, text, code in (
        ("app=live&room=nowhere", '{"type":"error","code":"4404","message":"no_programme"}', 4404),
        ("app=none&room=gate", '{"type":"error","code":"4404","message":"not_found"}', 4404),
        ("app=live&room=..", '{"type":"error","code":"4400","message":"invalid_request"}', 4400),
    ):
        async with connect(f"ws://127.0.0.1:{node.port}/live/ws?{query}") as viewer:
            assert await viewer.recv() == text
            with pytest.raises(ConnectionClosed):
                await viewer.recv()
            assert viewer.close_code == code
    node.gatekeeper.viewing_token = "good"
    async with connect(f"ws://127.0.0.1:{node.port}/live/ws?app=live&room=gate&token=bad") as viewer:
        assert await viewer.recv() == '{"type":"error","code":"4401","message":"token_missing"}'


async def test_a_slow_viewer_socket_holds_one_frame_and_gets_the_newest(start: Start, picture: Picture) -> None:
    node = await start()
    publisher = Publisher(node)
    publisher.write(picture(0))
    url = f"ws://127.0.0.1:{node.port}/live/ws?app=live&room=gate"
    async with connect(url, compression=None, ping_interval=None, max_queue=1) as viewer:
        assert await viewer.recv() == picture(0)
        frames = [picture(1, nbytes=60_000) + bytes(60_000) + i.to_bytes(4, "big") for i in range(400)]
        most = 0
        for frame in frames:
            publisher.write(frame)
            seen = next(iter(next(iter(node.screens._screens.values()))._viewers))
            most = max(most, seen._transport.get_write_buffer_size())
            await asyncio.sleep(0)
        assert most <= 512 * 1024
        received = [await viewer.recv()]
        while received[-1] != frames[-1]:
            received.append(await viewer.recv())
        assert len(received) < len(frames)
        assert [frames.index(data) for data in received] == sorted(frames.index(data) for data in received)


async def test_camera_to_viewer(start: Start, picture: Picture) -> None:
    """The whole way: a socket in, multipart out."""
    node = await start()
    async with connect(node.ws(), compression=None, ping_interval=None) as camera:
        await camera.recv()
        await camera.send(picture(5))
        while node.registry.find("p1", "live-gate") is None or not node.registry.find("p1", "live-gate").on_air:
            await asyncio.sleep(0.005)
        client = await Client.open(node)
        assert await client.part() == picture(5)
        await camera.send(picture(6))
        assert await client.part() == picture(6)
    assert await client.reader.read() == b""
