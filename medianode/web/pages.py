"""Pages: start page, player, embedded player, publishing from a browser, the certificate to trust; the small state that players poll."""

from __future__ import annotations

import html
import re
from collections.abc import Awaitable, Callable, Mapping
from functools import wraps
from pathlib import Path
from string import Template
from typing import Any
from urllib.parse import urlencode

from aiohttp import web

from medianode import __version__, clock
from medianode.auth import Gatekeeper
from medianode.config import Config, split_listen
from medianode.errors import Forbidden, InvalidRequest, MedianodeError, NotEnabled, NotFound, Unauthorized
from medianode.media.names import shown
from medianode.media.track import Codec
from medianode.origin import OPEN_CORS, PLAYBACK, RECORDING, Origin, bearer, media_error, status
from medianode.routing.registry import Registry
from medianode.routing.room import Room
from medianode.web.assets import STATIC, Assets

Handler = Callable[["Pages", web.Request], Awaitable[web.StreamResponse]]

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,119}")
_MACHINES = frozenset({"v1", "api", "hls", "live", "whip", "whep", "rtc", "ingest", "ingress", "metrics", "static", "healthz", "readyz"})
"""First parts of paths that programs ask for: errors there are not pages."""
_CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; media-src 'self' blob:; "
    "worker-src 'self' blob:; manifest-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors {ancestors}"
)
_HEADERS = {
    "Cache-Control": "no-cache",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_CAPTURE = "camera=(self), microphone=(self), display-capture=(self), screen-wake-lock=(self), geolocation=()"
"""Permissions-Policy of the one page that asks for them."""
_PAGES = ("start", "play", "embed", "publish", "recordings", "recording", "error")
_WORDS = {
    400: ("That address is not quite right", "Check the link for a missing or a mistyped part."),
    401: ("A token is needed", "This stream is private. Ask whoever sent you the link for one that carries a token."),
    403: ("Not for this key", "The key that was given has no right to this page."),
    404: ("Nothing here", "There is no such page on this node. Check the link, or ask whoever sent it to you."),
    501: ("Not switched on", "The operator of this node has not enabled this."),
    429: ("Too many tries", "Please wait a minute, then load this page again."),
}
_OOPS = ("Something is wrong on our side", "Please try again in a moment. If it stays like this, tell the operator of this node.")


def _readable(handler: Handler) -> Handler:
    """People get errors as a page."""

    @wraps(handler)
    async def wrapped(self: Pages, request: web.Request) -> web.StreamResponse:
        try:
            return await handler(self, request)
        except MedianodeError as e:
            return self.error_page(request, e)

    return wrapped


class _PeopleResource(web.DynamicResource):
    """Matches where a browser opens an address, and nothing else: so other components keep their own 404 and 405."""

    async def resolve(self, request: web.Request) -> tuple[web.UrlMappingMatchInfo | None, set[str]]:
        first = request.path.split("/", 2)[1]
        if request.method != "GET" or first in _MACHINES or "text/html" not in request.headers.get("Accept", ""):
            return None, set()
        found, _ = await super().resolve(request)
        return found, set()


class _PeopleRoute(web.RouteDef):
    """Must be registered last."""

    def register(self, router: web.UrlDispatcher) -> list[web.AbstractRoute]:
        resource = _PeopleResource(self.path)
        router.register_resource(resource)
        return [resource.add_route(self.method, self.handler)]


class Pages:
    """`certificate` gives the PEM that RTMPS clients must trust, or None where a public authority signed it.

    `rtmp_port`, `rtmps_port` and `srt_port` are where the doors listen really; 0: RTMPS shares RTMP's, there is no SRT. `static`: where the
    assets stand.
    """

    def __init__(
        self,
        config: Config,
        origin: Origin,
        gatekeeper: Gatekeeper,
        registry: Registry,
        certificate: Callable[[], bytes | None],
        *,
        rtmp_port: int,
        rtmps_port: int = 0,
        srt_port: int = 0,
        static: Path = STATIC,
    ) -> None:
        self._config = config
        self._origin = origin
        self._gatekeeper = gatekeeper
        self._registry = registry
        self._certificate = certificate
        self._ports = (rtmp_port, rtmps_port or rtmp_port)
        self._srt_port = srt_port
        self.assets = Assets(static)
        self._templates = {name: Template((STATIC / f"pages/{name}.html").read_text("utf-8")) for name in _PAGES}

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/", self.start),
            web.get(f"/play/{PLAYBACK}", self.play_by_id),
            web.get("/play/{app}/{room}", self.play),
            web.get("/play/{app}/{room}/state.json", self.state),
            web.get("/embed/{app}/{room}", self.embed),
            web.get("/publish/{app}/{room}", self.publish),
            web.get("/recordings/{app}", self.recordings),
            web.get(f"/vod/{{app}}/{RECORDING}", self.recording),
            web.get("/certificate.pem", self.certificate),
            web.get("/static/{name:.+}", self.assets.serve),
            _PeopleRoute("GET", "/{path:.*}", self.lost, {}),
        ]

    @_readable
    async def start(self, request: web.Request) -> web.StreamResponse:
        """The dashboard of whoever holds a key; the key stays in the browser's session and rides only in Authorization."""
        host = self._origin.hostname(request)
        port, tls_port = self._ports
        pem = self._certificate()
        return self._page(
            "start",
            {
                "rtmp": f"rtmp://{host}:{port}/live",
                "rtmps": f"rtmps://{host}:{tls_port}/live",
                "srt": f"srt://{host}:{self._srt_port}" if self._srt_port else "",
                "certificate": "certificate.pem" if pem else "",
                "ws_jpeg": "on" if self._config.ws_jpeg.enabled else "",
                "whip": "on" if self._config.rtc.enabled else "",
            },
            root="",
        )

    @_readable
    async def play(self, request: web.Request) -> web.StreamResponse:
        app, room = await self._names(request)
        return self._page("play", {"app": app, "room": room, **self._rtc_ports()}, root="../../")

    @_readable
    async def play_by_id(self, request: web.Request) -> web.StreamResponse:
        """A live stream by a playback id: on to its room's page, where whoever asks may view it there."""
        token, site = request.query.get("token"), request.headers.get("Referer", "")
        agent, source = request.headers.get("User-Agent", ""), self._origin.source(request)
        playback = request.match_info["playback"]
        asked = await self._gatekeeper.read_playback(playback, token, bearer(request), site=site, agent=agent, source=source)
        await self._gatekeeper.read(asked.slug, asked.room, token, bearer(request), source=source)
        query = f"?{urlencode({'token': token})}" if token else ""
        return web.Response(status=302, headers={**_HEADERS, "Location": f"{asked.slug}/{asked.room}{query}"})

    @_readable
    async def embed(self, request: web.Request) -> web.StreamResponse:
        app, room = await self._names(request)
        return self._page("embed", {"app": app, "room": room, **self._rtc_ports()}, root="../../", ancestors="*")

    @_readable
    async def publish(self, request: web.Request) -> web.StreamResponse:
        """From a camera or a screen by WHIP. The key is typed, or stands behind # in the address, which no server gets to see."""
        if not self._config.rtc.enabled:
            raise NotEnabled("publishing from a browser needs WebRTC: expected rtc.enabled, got it switched off")
        app, room = await self._names(request)
        values = {"app": app, "room": room, "certificate": "certificate.pem" if self._certificate() else "", **self._rtc_ports()}
        page = self._page("publish", values, root="../../")
        page.headers["Permissions-Policy"] = _CAPTURE
        return page

    @_readable
    async def recordings(self, request: web.Request) -> web.StreamResponse:
        """What was recorded, by the day: of one room (`?room=`) as the room may be viewed, of all with an API key, typed there."""
        return self._page("recordings", {"app": _name(request, "app")}, root="../")

    @_readable
    async def recording(self, request: web.Request) -> web.StreamResponse:
        """The player of one recording. Its script asks whether there is one, and for a token."""
        return self._page("recording", {"app": _name(request, "app"), "recording": request.match_info["recording"]}, root="../../")

    @_readable
    async def certificate(self, request: web.Request) -> web.StreamResponse:
        pem = self._certificate()
        if not pem:
            raise NotFound("no certificate to download: expected a self-made one, got one that clients trust already")
        disposition = 'attachment; filename="certificate.pem"'
        return web.Response(body=pem, content_type="application/x-pem-file", headers={**_HEADERS, "Content-Disposition": disposition})

    @_readable
    async def lost(self, request: web.Request) -> web.StreamResponse:
        """A path that nobody serves, asked for by a person."""
        raise NotFound(f"no page {shown(request.path)}", code="no-such-page")

    async def state(self, request: web.Request) -> web.StreamResponse:
        """GET /play/{app}/{room}/state.json: what a player must know before it starts; `now` is our clock, in ms, for latency.

        `want=1`: who asks would watch, so a source on demand is opened, as for any viewer. Pages say so while somebody looks at them.
        """
        try:
            app, name = _checked(request)
            token, source = request.query.get("token"), self._origin.source(request)
            grant = await self._gatekeeper.read(app, name, token, bearer(request), source=source)
        except MedianodeError as e:
            return media_error(e)
        room, demand = self._registry.find(grant.project_id, grant.room), self._registry.demand
        if request.method == "GET" and request.query.get("want") == "1" and (room is None or room.programme is None):
            demand.open(grant.project_id, grant.room)
        outlook = demand.look(grant.project_id, grant.room)
        body = {
            "app": app,
            "room": grant.room,
            "now": round(clock.wallclock() * 1000),
            "onDemand": outlook.on_demand,
            "source": outlook.state or None,
            **self._describe(room),
        }
        return web.json_response(body, headers={**OPEN_CORS, "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"})

    def error_page(self, request: web.Request, error: MedianodeError) -> web.Response:
        """A page that says what is wrong."""
        code = status(error)
        title, text = _WORDS.get(code, _OOPS)
        root = "../" * max(0, request.rel_url.raw_path.count("/") - 1)
        page = self._page(
            "error",
            {"code": str(code), "title": title, "text": text, "detail": error.message if code < 500 or code == 501 else ""},
            root=root,
        )
        page.set_status(code)
        page.headers["Cache-Control"] = "no-store"
        return page

    async def _names(self, request: web.Request) -> tuple[str, str]:
        """The names, as given. A private room's page is no secret (its script asks for the token); an unknown project is not found."""
        app, room = _checked(request)
        try:
            await self._gatekeeper.read(app, room, request.query.get("token"), bearer(request), source=self._origin.source(request))
        except (Forbidden, Unauthorized):
            return app, room
        return app, room

    def _describe(self, room: Room | None) -> dict[str, Any]:
        """Flat facts of the programme. `modes`: what we can serve, best first; a JPEG camera is sub-second over MJPEG."""
        programme = room.programme if room else None
        video = room.video if room else None
        audio = programme.audio if programme else None
        jpeg = video is not None and video.codec is Codec.MJPEG
        realtime = ["whep"] if self._config.rtc.enabled and programme is not None and programme.tracks else []
        hls = ["hls"] if self._config.hls.enabled else []
        modes = ["mjpeg", *realtime, *hls] if jpeg else [*realtime, *hls, *(["mjpeg"] if video else [])]
        meters = programme.meters if programme else {}
        return {
            "onAir": room.on_air if room else False,
            "held": room.held if room else False,
            "videoCodec": video.codec.value if video else None,
            "audioCodec": audio.codec.value if audio else None,
            "width": video.width if video else 0,
            "height": video.height if video else 0,
            "frameRate": round(_frame_rate(meters[video.id].frame_rate, video.frame_rate), 2) if video else 0,
            "bitrate": round(sum(m.bitrate for m in meters.values())),
            "jpeg": jpeg,
            "viewers": sum(room.viewers.values()) if room else 0,
            "startedAt": round(room.live_since * 1000) if room and room.on_air else None,
            "modes": modes,
        }

    def _rtc_ports(self) -> dict[str, str]:
        """Where media goes, for the words about what may be blocked; "" where there is no such door, or the system chooses."""
        rtc = self._config.rtc
        udp, tcp = (split_listen(listen)[1] if listen else 0 for listen in (rtc.listen, rtc.tcp_listen))
        return {"udp": str(udp or ""), "tcp": str(tcp or "")}

    def _page(self, name: str, values: Mapping[str, str], *, root: str, ancestors: str = "'self'") -> web.Response:
        fixed = {
            "root": root,
            "static": f"{root}static/{self.assets.version}",
            "hls": "on" if self.assets.has_hls else "",
            "version": __version__,
        }
        escaped = {key: html.escape(value, quote=True) for key, value in {**fixed, **values}.items()}
        headers = {**_HEADERS, "Content-Security-Policy": _CSP.format(ancestors=ancestors)}
        if ancestors != "*":
            headers["X-Frame-Options"] = "SAMEORIGIN"
        return web.Response(text=self._templates[name].substitute(escaped), content_type="text/html", charset="utf-8", headers=headers)


def _frame_rate(measured: float, declared: float) -> float:
    """What was measured over the last second jitters: the declared rate stands as long as the two agree."""
    agree = declared and abs(measured - declared) <= declared * 0.2
    return declared if agree or not measured else measured


def _checked(request: web.Request) -> tuple[str, str]:
    return _name(request, "app"), _name(request, "room")


def _name(request: web.Request, what: str) -> str:
    value = request.match_info[what]
    if ".." in value or not _NAME.fullmatch(value):
        raise InvalidRequest(f"{what}: expected up to 120 of A-Z a-z 0-9 . _ - without a leading dot or '..', got {shown(value)}")
    return value
