"""A node with just the camera and MJPEG doors on a real port, under uvloop, and the parts to publish into it by hand."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import pytest
import uvloop
from aiohttp import web
from PIL import Image

from medianode import tasks
from medianode.auth import Door, Permission, Principal, PublishGrant, ReadGrant, Takeover
from medianode.config import Config, WsJpeg
from medianode.egress.mjpeg import MjpegDoor
from medianode.egress.screen import Screens
from medianode.egress.ws_live import LiveSocketDoor
from medianode.errors import NotFound, Unauthorized
from medianode.events import Bus
from medianode.ingress.ws_jpeg import CameraDoor
from medianode.media.names import room_name
from medianode.origin import Origin
from medianode.routing.registry import Registry
from medianode.transcode.renditions import Renditions


@dataclass
class FakeGatekeeper:
    """Knows stream keys → (room, identity), and one viewing token where viewing is not public."""

    keys: dict[str, tuple[str, str]] = field(
        default_factory=lambda: {"wsk_one": ("live-gate", "wscam-one"), "wsk_two": ("live-yard", "wscam-two")}
    )
    viewing_token: str | None = None
    hold: float = 0.0
    takeover: Takeover = Takeover.REJECT

    async def publish(
        self, door: Door, app: str, key: str, room: str | None = None, *, source: str = "", proves: Callable[[str], bool] | None = None
    ) -> PublishGrant:
        await asyncio.sleep(0)
        if key not in self.keys:
            raise Unauthorized("publish: the stream key is not known")
        name, identity = self.keys[key]
        if app != "live" or room_name("live", room or "") != name:
            raise Unauthorized("publish: the key is of another room", code="room-mismatch")
        return PublishGrant(
            project_id="p1",
            slug="live",
            room=name,
            identity=identity,
            name="",
            kind=door,
            ingress_id=f"in_{key}",
            takeover=self.takeover,
            hold=self.hold,
        )

    async def play(self, app: str, name: str, *, source: str = "") -> ReadGrant:
        return await self.read(app, name)

    async def read(self, app: str, room: str, token: str | None = None, bearer: str | None = None, *, source: str = "") -> ReadGrant:
        if app != "live":
            raise NotFound(f"no project {app!r}")
        if self.viewing_token is not None and (token or bearer) != self.viewing_token:
            raise Unauthorized("viewing needs a token", code="token-missing")
        return ReadGrant(project_id="p1", slug="live", room=room_name("live", room))

    async def control(
        self, authorization: str | None, permission: Permission, project: str | None = None, *, source: str = ""
    ) -> Principal:
        raise Unauthorized("not in this test")


@dataclass
class Node:
    config: Config
    gatekeeper: FakeGatekeeper
    registry: Registry
    renditions: Renditions
    screens: Screens
    cameras: CameraDoor
    mjpeg: MjpegDoor
    port: int

    @property
    def http(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ws(self, room: str = "gate", key: str | None = "wsk_one", app: str = "live") -> str:
        query = f"app={app}&room={room}" + (f"&key={key}" if key else "")
        return f"ws://127.0.0.1:{self.port}/ingest/ws?{query}"


Start = Callable[..., Awaitable[Node]]


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The daemon's loop; transports differ in when they write and when they pause."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
async def start(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Start]:
    """`await start(ws_jpeg=WsJpeg(...), limits=..., hold=…)` gives a running Node."""
    monkeypatch.setattr(tasks, "raise_bugs", True)
    async with AsyncExitStack() as stack:

        async def run(**config_and_hold: object) -> Node:
            hold = float(str(config_and_hold.pop("hold", 0.0)))
            config = Config(**config_and_hold)  # type: ignore[arg-type]  # tests name sections of the right type
            gatekeeper = FakeGatekeeper(hold=hold)
            registry = Registry(Bus(), config.limits)
            origin = Origin("", ())
            renditions = await stack.enter_async_context(Renditions(config.limits, config.mjpeg, config.hls))
            screens = Screens(renditions, config.mjpeg)
            cameras = CameraDoor(config.ws_jpeg, config.limits, gatekeeper, registry, origin)
            mjpeg = MjpegDoor(config.mjpeg, config.limits, gatekeeper, registry, origin, screens)
            live = LiveSocketDoor(config.limits, gatekeeper, registry, origin, screens)
            app = web.Application()
            app.add_routes([*cameras.routes(), *mjpeg.routes(), *live.routes()])
            runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            return Node(config, gatekeeper, registry, renditions, screens, cameras, mjpeg, runner.addresses[0][1])

        yield run


@pytest.fixture
def fast() -> WsJpeg:
    """No cap that a test would run into."""
    return WsJpeg(max_fps=10_000.0)


@pytest.fixture(scope="session")
def picture() -> Callable[..., bytes]:
    """A real JPEG; each `n` another one."""

    def make(n: int = 0, width: int = 64, height: int = 48, nbytes: int = 0) -> bytes:
        out = io.BytesIO()
        Image.new("RGB", (width, height), (n * 37 % 256, n * 91 % 256, n % 256)).save(
            out, "JPEG", comment=b"x" * min(nbytes, 60_000) or str(n).encode()
        )
        return out.getvalue()

    return make


@pytest.fixture
def until() -> Callable[[Callable[[], bool]], Awaitable[None]]:
    """Wait for something to become true, 10 s at most."""

    async def wait(condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                await asyncio.sleep(0.005)

    return wait
