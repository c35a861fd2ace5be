"""MJPEG over HTTP, as cameras speak it: `/live/<app>/<room>/mjpeg`, and one picture at `/frame.jpg` (contracts 2.4)."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from hashlib import blake2b
from weakref import WeakValueDictionary

from aiohttp import web

from medianode import clock, telemetry
from medianode.auth import Gatekeeper, ReadGrant
from medianode.config import Limits, Mjpeg
from medianode.egress.screen import ENDS, Frame, Screen, Screens, Viewer
from medianode.errors import Forbidden, InvalidRequest, MedianodeError, NotFound
from medianode.media.names import shown
from medianode.media.packet import Packet
from medianode.media.track import Codec
from medianode.origin import OPEN_CORS, Origin, bearer, media_error
from medianode.protocols.multipart import CONTENT_TYPE
from medianode.routing.audience import Visit
from medianode.routing.registry import Registry
from medianode.routing.room import Room
from medianode.transcode.snapshot import keyframe_jpeg

log = logging.getLogger("medianode.egress.mjpeg")

DOOR = "mjpeg"
SESSIONS = telemetry.counter("medianode_sessions_total", "Sessions opened, by door", "door").labels(DOOR)
SNAPSHOTS = telemetry.counter("medianode_snapshots_total", "Pictures asked for, by how they came about", "how")

MIN_WIDTH, MAX_WIDTH = 16, 3840

STREAM_HEADERS = {
    **OPEN_CORS,
    "Content-Type": CONTENT_TYPE,
    "Cache-Control": "no-store, no-cache, must-revalidate",
    "Pragma": "no-cache",
    "X-Accel-Buffering": "no",
}


class EndlessResponse(web.StreamResponse):
    """A body that ends with the connection: no length, and no chunks, for a part must be the same bytes to all viewers and old cameras'
    viewers do not know chunks (RFC 9112 6.3, rule 8).
    """

    _length_check = False


class Snapshots:
    """Pictures made of key frames, the newest `entries` of them within `nbytes`; made once however many ask at the same time."""

    def __init__(self, quality: int, entries: int = 64, nbytes: int = 16 * 1024 * 1024) -> None:
        self._quality = quality
        self._max_entries = entries
        self._max_bytes = nbytes
        self._cache: OrderedDict[str, bytes] = OrderedDict()
        self._flights: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self.nbytes = 0

    def __len__(self) -> int:
        return len(self._cache)

    @staticmethod
    def tag(packet: Packet, width: int | None) -> str:
        """A strong validator: the key frame's content and the width asked for make the picture."""
        digest = blake2b(packet.data, digest_size=12, key=packet.track.config[:64]).hexdigest()
        return f"{digest}-{width}" if width else digest

    async def picture(self, packet: Packet, width: int | None) -> bytes:
        """A JPEG as it came, or the key frame decoded and scaled to `width`. Raises what keyframe_jpeg does."""
        if packet.track.codec is Codec.MJPEG and width is None:
            SNAPSHOTS.labels("as-is").value += 1
            return packet.data
        tag = self.tag(packet, width)
        flight = self._flights.setdefault(tag, asyncio.Lock())
        async with flight:
            found = self._cache.get(tag)
            if found is not None:
                self._cache.move_to_end(tag)
                SNAPSHOTS.labels("cached").value += 1
                return found
            made = await keyframe_jpeg(packet, width, self._quality)
            SNAPSHOTS.labels("decoded").value += 1
            self._keep(tag, made)
            return made

    def _keep(self, tag: str, data: bytes) -> None:
        self._cache[tag] = data
        self.nbytes += len(data)
        while len(self._cache) > self._max_entries or self.nbytes > self._max_bytes:
            _, gone = self._cache.popitem(last=False)
            self.nbytes -= len(gone)


class MjpegDoor:
    """`/live/{app}/{room}/mjpeg` and `/live/{app}/{room}/frame.jpg`, for any source."""

    def __init__(self, config: Mjpeg, limits: Limits, gatekeeper: Gatekeeper, registry: Registry, origin: Origin, screens: Screens) -> None:
        self._limits = limits
        self._gatekeeper = gatekeeper
        self._registry = registry
        self._origin = origin
        self._screens = screens
        self.snapshots = Snapshots(config.quality)

    def routes(self) -> list[web.RouteDef]:
        stream, frame = "/live/{app}/{room}/mjpeg", "/live/{app}/{room}/frame.jpg"
        preflight = [web.options(path, self.preflight) for path in (stream, frame)]
        return [web.get(stream, self.stream), web.get(frame, self.frame), *preflight]

    async def preflight(self, request: web.Request) -> web.Response:
        return web.Response(status=204, headers=OPEN_CORS)

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """The last picture at once, then each new one, until the room ends."""
        try:
            room, grant = await self._room(request)
            if request.method == "HEAD":
                return EndlessResponse(headers=STREAM_HEADERS)
            with self._registry.audience.enter(room, DOOR, grant) as visit:
                async with self._screens.watch(room) as screen:
                    return await self._play(request, visit, screen)
        except MedianodeError as e:
            return media_error(e)

    async def frame(self, request: web.Request) -> web.Response:
        """The newest picture; `?w=` scales it."""
        try:
            width = _width(request.query.get("w"))
            room, _ = await self._room(request)
            packet = room.programme.gop.keyframe if room.programme is not None else None
            if packet is None:
                raise NotFound(f"room {room.name} has no picture yet", code="no-frame")
            if room.treated and room.video is not None:  # made of the publisher's own picture: nothing is decoded for a poster
                width = min(width or room.video.width, room.video.width)
            tag = self.snapshots.tag(packet, width)
            headers = {**OPEN_CORS, "ETag": f'"{tag}"', "Cache-Control": "no-cache"}
            if any(etag.value in (tag, "*") for etag in request.if_none_match or ()):
                return web.Response(status=304, headers=headers)
            body = await self.snapshots.picture(packet, width)
        except MedianodeError as e:
            return media_error(e)
        return web.Response(body=body, content_type="image/jpeg", headers=headers)

    async def _room(self, request: web.Request) -> tuple[Room, ReadGrant]:
        app, name = request.match_info["app"], request.match_info["room"]
        token = request.query.get("token")
        grant = await self._gatekeeper.read(app, name, token, bearer(request), source=self._origin.source(request))
        if grant.audio_only:
            raise Forbidden("this token is for sound only", code="audio-only")
        if request.method == "HEAD":  # a monitor that looks opens no source
            return self._registry.on_air(grant.project_id, grant.room), grant
        return await self._registry.wanted(grant.project_id, grant.room), grant

    async def _play(self, request: web.Request, visit: Visit, screen: Screen) -> web.StreamResponse:
        response = EndlessResponse(headers=STREAM_HEADERS)
        response.force_close()
        transport = request.transport
        await response.prepare(request)
        if transport is None:
            return response
        SESSIONS.value += 1
        fields = {"door": DOOR, "room": visit.room.name, "peer": self._origin.source(request)}
        telemetry.session(log, "playing", **fields)
        started_at = clock.now()
        viewer = Viewer(DOOR, transport, request.writer, _part)
        visit.on_kick(viewer.end)
        screen.add(viewer)
        code = "closed"  # by the viewer, which cancels us
        try:
            code = (await viewer.run()).code
        finally:
            screen.remove(viewer)
            seconds = clock.now() - started_at
            ENDS.labels(DOOR, code).value += 1
            totals = {"frames": viewer.sent, "bytes": viewer.nbytes, "drops": viewer.dropped}
            telemetry.session(log, "closed", **fields, code=code, duration=seconds, **totals)
        return response


def _part(frame: Frame) -> bytes:
    return frame.part


def _width(text: str | None) -> int | None:
    if text is None:
        return None
    width = int(text) if len(text) <= 5 and text.isascii() and text.isdigit() else 0
    if not MIN_WIDTH <= width <= MAX_WIDTH:
        raise InvalidRequest(f"w: expected {MIN_WIDTH} to {MAX_WIDTH} pixels, got {shown(text)}")
    return width
