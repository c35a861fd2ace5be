from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from medianode import clock
from medianode.auth import Door, PublishGrant, ReadGrant, Takeover
from medianode.config import Config, Hls, Rtc
from medianode.errors import Forbidden, NotFound, TooManyRequests, Unauthorized
from medianode.events import Bus
from medianode.media.names import room_name
from medianode.media.packet import Packet
from medianode.media.track import Track
from medianode.origin import Origin
from medianode.routing.publication import Publication
from medianode.routing.registry import Registry
from medianode.web.pages import Pages

PEM = b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"


class Doorkeeper:
    """Project `live` is open, `shut` wants the token `good` (`other` is for another room), `hot` had too many tries; no other exists."""

    async def read(self, app: str, room: str, token: str | None = None, bearer: str | None = None, *, source: str = "") -> ReadGrant:
        if app == "hot":
            raise TooManyRequests("over 30 failed logins a minute from this address: wait a minute")
        if app not in ("live", "shut"):
            raise NotFound(f"no project {app}", code="no-such-project")
        if app == "shut" and "other" in (token, bearer):
            raise Forbidden("this token is for another room")
        if app == "shut" and "good" not in (token, bearer):
            raise Unauthorized("a viewer token is needed")
        return ReadGrant(project_id="p1", slug=app, room=room_name(app, room))


@pytest.fixture
def registry() -> Registry:
    return Registry(Bus(), Config().limits)


@pytest.fixture
def publish(registry: Registry) -> Callable[..., Publication]:
    def make(*tracks: Track, slug: str = "live", room: str = "live-demo") -> Publication:
        grant = PublishGrant(
            project_id="p1",
            slug=slug,
            room=room,
            identity="obs",
            name="OBS",
            kind=Door.RTMP,
            ingress_id="IN_1",
            takeover=Takeover.REPLACE,
            hold=30.0,
        )
        _, publication = registry.publish(grant, "rtmp", "192.0.2.7", lambda error: None)
        publication.set_tracks(tracks)
        for track in tracks:
            publication.write(Packet(track, b"\0" * 100, 0, 0, True, clock.now()))
        return publication

    return make


@pytest.fixture
async def client(registry: Registry) -> AsyncIterator[TestClient[web.Request, web.Application]]:
    async with TestClient(TestServer(application(registry))) as made:
        yield made


@pytest.fixture
async def bare(registry: Registry, tmp_path: Path) -> AsyncIterator[TestClient[web.Request, web.Application]]:
    """Without hls.js, without a certificate, without HLS and WebRTC."""
    (tmp_path / "player.js").write_text("export {};\n")
    config = Config(hls=Hls(enabled=False), rtc=Rtc(enabled=False))
    async with TestClient(TestServer(application(registry, config, static=tmp_path, pem=None))) as made:
        yield made


@pytest.fixture
async def still(registry: Registry) -> AsyncIterator[TestClient[web.Request, web.Application]]:
    """Without WebRTC."""
    async with TestClient(TestServer(application(registry, Config(rtc=Rtc(enabled=False))))) as made:
        yield made


@pytest.fixture
def pages_routes(registry: Registry) -> list[web.RouteDef]:
    return Pages(Config(), Origin("", ()), Doorkeeper(), registry, lambda: PEM, rtmp_port=1935).routes()  # type: ignore[arg-type] # reads only


def application(
    registry: Registry, config: Config | None = None, *, static: Path | None = None, pem: bytes | None = PEM
) -> web.Application:
    more = {"static": static} if static else {}
    pages = Pages(config or Config(), Origin("", ()), Doorkeeper(), registry, lambda: pem, rtmp_port=1935, rtmps_port=1936, **more)  # type: ignore[arg-type] # reads only
    app = web.Application()
    app.add_routes(pages.routes())
    return app
