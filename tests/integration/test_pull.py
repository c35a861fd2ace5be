"""Pulling with faults: cameras that hang, flap, freeze and send garbage; the others notice nothing, and all come back."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import io
import os
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from harness import until
from harness.fake_camera import FakeCamera, Mood, fake_cameras
from PIL import Image

from medianode import tasks
from medianode.auth import Door, PublishGrant, Takeover
from medianode.certificate import open_certificate
from medianode.config import Config, Pull, Tls
from medianode.errors import InvalidRequest, LimitExceeded, PeerGone, ProtocolError
from medianode.events import Bus
from medianode.ingress.pull.fetch import open_fetcher
from medianode.ingress.pull.order import PullOrder, PullState
from medianode.ingress.pull.service import PullService
from medianode.ingress.pull.tunnel import open_tunnel
from medianode.media.packet import Gap, Packet
from medianode.media.track import Track
from medianode.outbound import Outbound
from medianode.routing.registry import Registry

QUICK = Pull(silence=2.5, frozen_video=1.5, connect_timeout=2.0, first_retry=0.2, last_retry=1.0)


class Desk:
    """A PullService with what stands around it."""

    def __init__(self, pull: Pull, allow: tuple[str, ...] = ("127.0.0.0/8",), cafile: str = "") -> None:
        self.config = Config(pull=pull)
        self.registry = Registry(Bus(), self.config.limits)
        self.pulls = PullService(self.config, self.registry, Outbound(allow, cafile=cafile))
        self.states: list[tuple[str, PullState]] = []
        self.pulls.on_state = lambda ingress_id, state: self.states.append((ingress_id, state))

    def order(self, name: str, url: str, transport: str = "tcp") -> PullOrder:
        grant = PublishGrant(
            project_id="p",
            slug="live",
            room=name,
            identity="camera",
            name="",
            kind=Door.URL,
            ingress_id=name,
            takeover=Takeover.REPLACE,
            hold=5,
        )
        return PullOrder(grant=grant, url=url, transport=transport)  # type: ignore[arg-type]

    def open(self, name: str, url: str, transport: str = "tcp") -> None:
        self.pulls.open(self.order(name, url, transport))

    def state(self, name: str) -> PullState:
        state = self.pulls.state(name)
        assert state is not None
        return state

    def codes(self, name: str) -> list[str]:
        return [state.code for ingress_id, state in self.states if ingress_id == name and state.code]

    def on_air(self, name: str) -> bool:
        room = self.registry.find("p", name)
        return room is not None and room.programme is not None and room.programme.active


@asynccontextmanager
async def desk(pull: Pull = QUICK, allow: tuple[str, ...] = ("127.0.0.0/8",), cafile: str = "") -> AsyncIterator[Desk]:
    made = Desk(pull, allow, cafile)
    tasks.raise_bugs = True
    bugs: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: bugs.append(str(context)))
    try:
        async with tasks.background(made.pulls.serve()):
            yield made
            await made.pulls.drain()
    finally:
        tasks.raise_bugs = False
        for room in made.registry:
            room.release_all()
    assert not bugs, bugs


class Lateness:
    """How late pictures come behind the first one's pace."""

    def __init__(self) -> None:
        self.values: list[float] = []
        self.pictures = 0
        self.gaps: list[str] = []
        self._offset: float | None = None

    def on_tracks(self, tracks: tuple[Track, ...]) -> None:
        pass

    def on_packet(self, packet: Packet) -> None:
        if packet.track.is_video:
            self.pictures += 1
            late = packet.received_at - packet.dts / packet.track.clock_rate
            self._offset = late if self._offset is None else min(self._offset, late)
            self.values.append(late)

    def on_gap(self, gap: Gap) -> None:
        self.gaps.append(gap.cause)

    def on_end(self, cause: str) -> None:
        self.gaps.append(cause)

    @property
    def worst(self) -> float:
        """Of all but one in a hundred."""
        values = sorted(value - (self._offset or 0.0) for value in self.values)
        return values[int(len(values) * 0.99)] if values else 0.0


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


async def test_twenty_cameras_of_which_eleven_are_unwell() -> None:
    """The nine others lose no picture, and each of the eleven is back once it is well; nothing is left behind."""
    before, threads = descriptors(), threading.active_count()
    moods: list[Mood] = ["well"] * 9 + ["hangs"] * 3 + ["mute", "frozen"] + ["flaps"] * 5 + ["garbage"]
    async with fake_cameras(*moods) as cameras, desk() as d:
        for i, camera in enumerate(cameras):
            d.open(f"cam{i}", camera.url)
        await until(lambda: all(d.on_air(f"cam{i}") for i in range(9)))
        sinks = [Lateness() for _ in range(9)]
        for i, sink in enumerate(sinks):
            room = d.registry.find("p", f"cam{i}")
            assert room is not None
            room.attach(sink, replay=False)
        await asyncio.sleep(float(os.environ.get("PULL_SECONDS", "3")))
        assert {d.state(f"cam{i}").state for i in range(9)} == {"running"}
        assert all(not sink.gaps for sink in sinks)
        least = min(sink.pictures for sink in sinks)
        assert least >= 0.8 * max(sink.pictures for sink in sinks) > 0
        assert threading.active_count() == threads  # RTSP has none of its own
        await until(lambda: "source-hangs" in d.codes("cam9") and "protocol-error" in d.codes("cam19"))
        await until(lambda: {"source-ended", "connection-reset"} & set(d.codes("cam14")))
        for camera in cameras:
            camera.mood = "well"
        await until(lambda: all(d.on_air(f"cam{i}") for i in range(20)), 15.0)
        print("worst lateness of the well", max(sink.worst for sink in sinks))
    await until(lambda: descriptors() <= before)


async def test_a_frozen_picture_is_connected_to_anew_and_the_room_is_held() -> None:
    async with fake_cameras("well") as (camera,), desk() as d:
        d.open("cam", camera.url)
        await until(lambda: d.on_air("cam"))
        room = d.registry.find("p", "cam")
        assert room is not None
        sink = Lateness()
        room.attach(sink)
        camera.mood = "frozen"
        await until(lambda: "video-frozen" in d.codes("cam"))
        assert room.on_air  # players are held
        camera.mood = "well"
        pictures = sink.pictures
        await until(lambda: sink.pictures > pictures + 5)
        assert "stream-ended" not in sink.gaps
        assert d.state("cam").attempts == 2
        assert d.state("cam").code == ""
        assert camera.requests.count("TEARDOWN") >= 1


async def test_transport_falls_back_and_is_remembered() -> None:
    """The fake camera refuses UDP (461) at once; TCP it is, also the next time."""
    async with fake_cameras("well") as (camera,), desk() as d:
        d.open("cam", camera.url, "auto")
        await until(lambda: d.on_air("cam"))
        assert (d.state("cam").transport, d.state("cam").attempts) == ("tcp", 2)
        camera.cut()
        await until(lambda: d.state("cam").attempts == 3 and d.state("cam").state == "running")
        assert d.codes("cam").count("unsupported-transport") >= 1
        assert d.codes("cam")[-1] == "source-ended"


async def test_two_streams_in_one_channel_are_a_fault_of_the_source() -> None:
    async with fake_cameras("well") as (camera,), desk() as d:
        camera.interleaved = "0-1"
        d.open("cam", camera.url)
        await until(lambda: d.state("cam").code == "unsupported-transport")


async def test_a_tunnel_that_wants_a_password_is_left_with_two_connections() -> None:
    """The one that was refused is closed: cameras have few seats."""
    asked: list[bytes] = []
    live: set[asyncio.StreamWriter] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        live.add(writer)
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        said = b"200 OK" if b"Authorization: Basic dTpw" in asked[-1] else b'401 No\r\nWWW-Authenticate: Basic realm="x"'
        writer.write(b"HTTP/1.0 " + said + b"\r\n\r\n")
        with contextlib.suppress(ConnectionError):  # nobody reads what is said to the POST
            await reader.read()
        live.remove(writer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        with await open_tunnel(Outbound(("127.0.0.0/8",)), "127.0.0.1", port, "/cam", "u", "p", tls=False):
            await until(lambda: len(asked) == 3 and len(live) == 2)
            assert [request.partition(b" ")[0] for request in asked] == [b"GET", b"GET", b"POST"]
        await until(lambda: not live)


async def test_where_a_source_leads_is_looked_at() -> None:
    """A redirection to an address of the inside is refused; a literal is, before anything is sent."""
    async with fake_cameras("well") as (camera,):
        camera.location = "rtsp://169.254.169.254/stream"
        async with desk() as d:
            d.open("cam", camera.url)
            await until(lambda: d.state("cam").code == "private-address")
            assert d.registry.find("p", "cam") is None
        before = camera.connections
        async with desk(allow=()) as d:
            d.open("cam", camera.url)
            await until(lambda: d.state("cam").code == "private-address")
            assert camera.connections == before > 0


async def test_put_out_closed_and_ordered_anew() -> None:
    async with fake_cameras("well", "well") as (camera, other), desk() as d:
        d.open("cam", camera.url)
        await until(lambda: d.on_air("cam"))
        d.open("cam", camera.url)  # the same is nothing
        assert d.state("cam").attempts == 1
        d.open("cam", other.url)
        await until(lambda: other.connections == 1 and d.on_air("cam") and not _open(camera))
        d.registry.kick_ingress("cam", PeerGone("the ingress was disabled", code="ingress-disabled"))
        await until(lambda: d.state("cam").state == "stopped")
        assert d.state("cam").code == "ingress-disabled"
        d.open("cam", camera.url)
        await until(lambda: d.on_air("cam"))
        await d.pulls.close("cam")
        assert d.pulls.state("cam") is None
        assert not d.on_air("cam")


async def test_what_cannot_be_ordered() -> None:
    async with desk() as d:
        for url in ("file:///etc/passwd", "concat:a|b", "subfile,,start,0:/x", "ftp://h/x", "/etc/passwd", "rtsp://[", "rtsp://h:99999/"):
            with pytest.raises(InvalidRequest):
                d.open("cam", url)
        d.pulls._config = Config(limits=type(d.config.limits)(pulls=1))
        d.open("one", "rtsp://127.0.0.1:1/")
        with pytest.raises(LimitExceeded):
            d.open("two", "rtsp://127.0.0.1:1/")
        await until(lambda: d.state("one").code == "connection-refused")
        assert "nothing listens there" in d.state("one").message


async def test_rtsps_is_verified(tmp_path: Path) -> None:
    certificate = open_certificate(Config(tls=Tls(names=("localhost",))), tmp_path)
    (tmp_path / "ca.pem").write_bytes(certificate.pem)
    async with fake_cameras("well", tls=certificate.context) as (camera,):
        url = f"rtsps://localhost:{camera.port}/stream"
        async with desk(allow=("localhost",)) as d:
            d.open("cam", url)
            await until(lambda: d.state("cam").code == "certificate-not-trusted")
        async with desk(allow=("localhost",), cafile=str(tmp_path / "ca.pem")) as d:
            d.open("cam", url, "auto")
            await until(lambda: d.on_air("cam"))
            assert d.state("cam").transport == "tcp"  # nothing in clear beside TLS
            d.open("plain", camera.url)
            await until(lambda: d.state("plain").code != "")


PLAYLIST = "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{}\n"


@asynccontextmanager
async def web_server(asked: list[str]) -> AsyncIterator[str]:
    """What strangers' servers do."""

    async def camera(request: web.Request) -> web.StreamResponse:
        asked.append(request.headers.get("Authorization", ""))
        if request.headers.get("Authorization") != "Basic dTpwOnc=":
            raise web.HTTPUnauthorized(headers={"WWW-Authenticate": 'Basic realm="x"'})
        answer = web.StreamResponse(headers={"Content-Type": "multipart/x-mixed-replace; boundary=--b"})
        await answer.prepare(request)
        picture = io.BytesIO()
        Image.new("RGB", (64, 48)).save(picture, "jpeg")
        while True:
            await answer.write(b"--b\r\nContent-Type: image/jpeg\r\n\r\n" + picture.getvalue() + b"\r\n")
            await asyncio.sleep(0.05)

    def leads(location: str) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def handler(request: web.Request) -> web.StreamResponse:
            raise web.HTTPFound(location)

        return handler

    def says(text: str) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def handler(request: web.Request) -> web.StreamResponse:
            return web.Response(text=text, content_type="application/vnd.apple.mpegurl")

        return handler

    async def packed(request: web.Request) -> web.StreamResponse:
        text = PLAYLIST.format("a.ts") + "#" * 40_000_000
        return web.Response(body=gzip.compress(text.encode(), 1), headers={"Content-Encoding": "gzip"})

    app = web.Application()
    app.router.add_get("/camera", camera)
    app.router.add_get("/inside", leads("http://169.254.169.254/latest"))
    app.router.add_get("/file", leads("file:///etc/passwd"))
    app.router.add_get("/around", leads("/around"))
    app.router.add_get("/hls-inside", says(PLAYLIST.format("http://10.0.0.1/a.ts")))
    app.router.add_get("/hls-file", says(PLAYLIST.format("file:///etc/passwd")))
    app.router.add_get("/hls-inner", says("#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\nhttp://[::1]/b.m3u8\n"))
    app.router.add_get("/hls-recorded", says(PLAYLIST.format("a.ts") + "#EXT-X-ENDLIST\n"))
    app.router.add_get("/hls-sealed", says("#EXTM3U\n#EXT-X-KEY:METHOD=AES-128,URI=k\n#EXTINF:1,\ncamera\n"))
    app.router.add_get("/packed", packed)
    app.router.add_get("/digits", says("0123456789"))
    app.router.add_get("/concat", says("ffconcat version 1.0\nfile /etc/passwd\n"))
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield f"127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def test_http_sources_lead_nowhere_they_may_not(tmp_path: Path) -> None:
    asked: list[str] = []
    wanted = {
        "inside": "private-address",
        "file": "bad-redirect",
        "around": "too-many-redirects",
        "hls-inside": "private-address",
        "hls-file": "bad-redirect",
        "hls-inner": "private-address",
        "hls-recorded": "unsupported-format",
        "hls-sealed": "unsupported-format",
        "concat": "unsupported-format",
        "packed": "unsupported-format",
        "nothing": "not-found",
    }
    async with web_server(asked) as host, desk() as d:
        d.open("camera", f"http://u:p%3Aw@{host}/camera")
        d.open("wrong", f"http://u:geheim@{host}/camera")
        for name in wanted:
            d.open(name, f"http://{host}/{name}")
        await until(lambda: all(d.codes(name) for name in (*wanted, "wrong")))
        assert {name: d.codes(name)[0] for name in wanted} == wanted
        await until(lambda: d.on_air("camera"))
        assert d.codes("wrong")[0] == "unauthorized"
        assert asked.count("") >= 2
        assert all("geheim" not in state.message for _, state in d.states)


async def test_a_part_of_what_a_server_without_ranges_has() -> None:
    async with web_server([]) as host, open_fetcher(Outbound(("127.0.0.0/8",)), f"http://{host}/") as fetcher:
        url = f"http://{host}/digits"
        assert await fetcher.read(url, 100, start=2, length=3) == (b"234", url)
        assert await fetcher.read(url, 100) == (b"0123456789", url)
        with pytest.raises(ProtocolError):
            await fetcher.read(url, 9)


async def test_srt_calls_each_address_of_a_name() -> None:
    async def lookup(host: str, port: int) -> list[str]:
        return ["127.0.0.2", "127.0.0.1"]

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.setblocking(False)
        async with desk() as d:
            d.pulls._outbound = Outbound(("127.0.0.0/8",), lookup)
            d.open("cam", f"srt://camera.lan:{listener.getsockname()[1]}")
            async with asyncio.timeout(10):
                assert len(await asyncio.get_running_loop().sock_recv(listener, 2048)) == 64  # an induction


def _open(camera: FakeCamera) -> bool:
    return bool(camera._writers)
