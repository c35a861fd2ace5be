"""The viewer socket `/live/ws`: binary JPEGs, the newest only (contracts 2.4)."""

from __future__ import annotations

import json
import logging

from aiohttp import WSCloseCode, web

from medianode import clock, telemetry
from medianode.auth import Gatekeeper, ReadGrant
from medianode.config import Limits
from medianode.egress.screen import ENDS, Frame, Screen, Screens, Viewer
from medianode.errors import Forbidden, InvalidRequest, LimitExceeded, MedianodeError, NotFound, PeerGone, TooManyRequests, Unauthorized
from medianode.origin import Origin, bearer
from medianode.routing.registry import Registry
from medianode.routing.room import Room
from medianode.tasks import background

log = logging.getLogger("medianode.egress.ws_live")

DOOR = "ws-live"
SESSIONS = telemetry.counter("medianode_sessions_total", "Sessions opened, by door", "door").labels(DOOR)

HEARTBEAT = 25.0
CLOSE_WAIT = 3.0
MAX_MESSAGE = 4096
"""Viewers have nothing to say; more than this ends the session with 1009."""

_CLOSES: tuple[tuple[type[MedianodeError], int], ...] = (
    (Unauthorized, 4401),
    (Forbidden, 4401),
    (NotFound, 4404),
    (InvalidRequest, 4400),
    (LimitExceeded, 4403),
    (TooManyRequests, 4429),
)


def close_code(error: MedianodeError) -> int:
    return next((code for kind, code in _CLOSES if isinstance(error, kind)), int(WSCloseCode.TRY_AGAIN_LATER))


class LiveSocketDoor:
    """A frame is written only when the one before has left our buffer, so never more than one is held (contracts: drop over 512 KB)."""

    def __init__(self, limits: Limits, gatekeeper: Gatekeeper, registry: Registry, origin: Origin, screens: Screens) -> None:
        self._limits = limits
        self._gatekeeper = gatekeeper
        self._registry = registry
        self._origin = origin
        self._screens = screens

    def routes(self) -> list[web.RouteDef]:
        return [web.get("/live/ws", self.live, allow_head=False)]

    async def live(self, request: web.Request) -> web.StreamResponse:
        """As at the camera door, refusals come after the upgrade: a text, then Close."""
        socket = web.WebSocketResponse(timeout=CLOSE_WAIT, heartbeat=HEARTBEAT, compress=False, max_msg_size=MAX_MESSAGE)
        if not socket.can_prepare(request).ok:
            return web.Response(status=426, text="expected a WebSocket handshake (RFC 6455)\n", headers={"Upgrade": "websocket"})
        transport = request.transport
        await socket.prepare(request)
        if transport is None:
            return socket
        peer = self._origin.source(request)
        try:
            room, grant = await self._room(request, peer)
            with self._registry.audience.enter(room, DOOR, grant) as visit:
                async with self._screens.watch(room) as screen:
                    viewer = Viewer(DOOR, transport, request.writer, _message)
                    visit.on_kick(viewer.end)
                    end = await self._play(socket, viewer, room, screen, peer)
            if visit.over is not None and end is visit.over:
                raise end
            await socket.close(code=WSCloseCode.GOING_AWAY if end.code == "shutdown" else WSCloseCode.OK, message=end.code.encode())
        except MedianodeError as e:
            await self._refuse(socket, e)
        return socket

    async def _room(self, request: web.Request, peer: str) -> tuple[Room, ReadGrant]:
        query = request.query
        grant = await self._gatekeeper.read(query.get("app", ""), query.get("room", ""), query.get("token"), bearer(request), source=peer)
        if grant.audio_only:
            raise Forbidden("this token is for sound only", code="audio-only")
        return await self._registry.wanted(grant.project_id, grant.room), grant

    async def _play(self, socket: web.WebSocketResponse, viewer: Viewer, room: Room, screen: Screen, peer: str) -> MedianodeError:
        SESSIONS.value += 1
        fields = {"door": DOOR, "room": room.name, "peer": peer}
        telemetry.session(log, "playing", **fields)
        started_at = clock.now()
        code = "closed"  # by the viewer, which cancels us
        screen.add(viewer)
        try:
            async with background(self._listen(socket, viewer)):
                end = await viewer.run()
            code = end.code
            return end
        finally:
            screen.remove(viewer)
            seconds = clock.now() - started_at
            ENDS.labels(DOOR, code).value += 1
            totals = {"frames": viewer.sent, "bytes": viewer.nbytes, "drops": viewer.dropped}
            telemetry.session(log, "closed", **fields, code=code, duration=seconds, **totals)

    async def _listen(self, socket: web.WebSocketResponse, viewer: Viewer) -> None:
        """Pings are answered in here; anything else a viewer says is ignored."""
        try:
            async for _ in socket:
                if socket.closed:
                    break
            viewer.end(PeerGone("the viewer closed"))
        except OSError as e:
            viewer.end(PeerGone(f"the viewer hung up: {e}"))

    async def _refuse(self, socket: web.WebSocketResponse, error: MedianodeError) -> None:
        code = close_code(error)
        message = error.code.replace("-", "_")
        log.info("refused", extra={"fields": {"door": DOOR, "code": code, "error": error.code, "reason": error.message}})
        try:
            await socket.send_str(json.dumps({"type": "error", "code": str(code), "message": message}, separators=(",", ":")))
            await socket.close(code=code, message=message.encode())
        except OSError as e:
            log.debug("%s: gone before it was told why: %s", DOOR, e)


def _message(frame: Frame) -> bytes:
    return frame.message
