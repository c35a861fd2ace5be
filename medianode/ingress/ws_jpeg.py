"""The camera door: a WebSocket on which each binary message is one JPEG (contracts 2.4), as ESP32-CAM sketches send them.

`CameraSession` decides, without a socket and with the time as an argument; `CameraDoor` carries bytes and decisions between it and aiohttp.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
from collections import Counter, OrderedDict, deque
from enum import Enum
from typing import NamedTuple

from aiohttp import WSCloseCode, WSMessage, WSMsgType, web

from medianode import clock, telemetry
from medianode.auth import Door, Gatekeeper, PublishGrant, Takeover, network
from medianode.codecs.jpeg import parse_jpeg
from medianode.config import Limits, WsJpeg
from medianode.errors import (
    Conflict,
    Forbidden,
    InvalidRequest,
    LimitExceeded,
    MedianodeError,
    NotEnabled,
    NotFound,
    PeerError,
    StorageError,
    TooManyRequests,
    Unauthorized,
)
from medianode.media.packet import Packet
from medianode.media.track import VIDEO_CLOCK_RATE, Codec, Track
from medianode.origin import Origin, bearer
from medianode.routing.publication import Publication
from medianode.routing.registry import Registry
from medianode.tasks import guard

log = logging.getLogger("medianode.ingress.ws_jpeg")

DOOR = "ws-mjpeg"
SESSIONS = telemetry.counter("medianode_sessions_total", "Sessions opened, by door", "door").labels(DOOR)
ENDS = telemetry.counter("medianode_session_ends_total", "Sessions ended, by door and code", "door", "code")
FRAMES = telemetry.counter("medianode_frames_total", "JPEG frames by door and direction", "door", "direction").labels(DOOR, "in")
BYTES = telemetry.counter("medianode_bytes_total", "Bytes by door and direction", "door", "direction").labels(DOOR, "in")
DROPS = telemetry.counter("medianode_dropped_total", "Packets dropped, by place and cause", "place", "cause")

IDLE_CHECK = 5.0
"""Seconds between looks for an idle camera; a sixth of the idle timeout where that is less."""
LOST_PONGS = 2
NOT_JPEG_RUN = 5
CLOSE_WAIT = 3.0
"""Seconds that the peer has to answer our Close frame."""
KNOWN_SOURCES = 4096


class Frame(NamedTuple):
    """Publish it. `pts` in ticks of 90 000, always above the one before."""

    width: int
    height: int
    pts: int


class Drop(NamedTuple):
    """Let it go. `cause`: rate, not-jpeg."""

    cause: str


class Close(NamedTuple):
    """Refuse: a text that says so, then this close code (contracts 2.4)."""

    code: int
    message: str


class Due(Enum):
    """What time alone asks for: a ping; or an end without a Close frame, for nobody answers pings any more."""

    PING = "ping"
    LOST = "lost"


class CameraSession:
    """The rules of one camera: frame size, frame rate, what is a JPEG, idleness, pings. Pure; `now` in seconds of one clock.

    The token bucket holds a quarter of a second of frames, two at least, so that jitter costs a camera at the cap nothing.
    """

    def __init__(self, policy: WsJpeg, now: float) -> None:
        self._policy = policy
        self._burst = max(2.0, policy.max_fps / 4)
        self._tokens = self._burst
        self._refilled_at = now
        self._started_at = now
        self._frame_at = now
        self._pts = -1
        self._not_jpeg = 0
        self._unanswered = 0
        self._check_every = min(IDLE_CHECK, policy.idle_timeout / 6)
        self._check_at = now + self._check_every
        self._ping_at = now + policy.ping_interval

    @property
    def wake_at(self) -> float:
        """When `tick` has something to do."""
        return min(self._check_at, self._ping_at)

    def binary(self, data: bytes, now: float) -> Frame | Drop | Close:
        """A binary message: one frame."""
        if len(data) > self._policy.max_frame_bytes:
            return Close(4413, "frame_too_large")
        try:
            info = parse_jpeg(data)
        except PeerError:
            self._not_jpeg += 1
            return Close(1003, "not_jpeg") if self._not_jpeg >= NOT_JPEG_RUN else Drop("not-jpeg")
        self._not_jpeg = 0
        self._frame_at = now
        self._tokens = min(self._burst, self._tokens + (now - self._refilled_at) * self._policy.max_fps)
        self._refilled_at = now
        if self._tokens < 1.0:
            return Drop("rate")
        self._tokens -= 1.0
        self._pts = max(self._pts + 1, round((now - self._started_at) * VIDEO_CLOCK_RATE))
        return Frame(info.width, info.height, self._pts)

    def text(self, data: str) -> Close | None:
        """`stats` and whatever else a sketch tells: taken and ignored, under the bound of a frame."""
        return Close(4413, "message_too_large") if len(data) > self._policy.max_frame_bytes else None

    def pong(self) -> None:
        self._unanswered = 0

    def tick(self, now: float) -> Close | Due | None:
        """Call at `wake_at`, again until it gives None."""
        if now >= self._check_at:
            self._check_at = now + self._check_every
            if now - self._frame_at >= self._policy.idle_timeout:
                return Close(4408, "idle_timeout")
        if now >= self._ping_at:
            if self._unanswered >= LOST_PONGS:
                return Due.LOST
            self._unanswered += 1
            self._ping_at = now + self._policy.ping_interval
            return Due.PING
        return None


class Handshakes:
    """At most `per_minute` handshakes in any minute from one source: an IPv4 address, an IPv6 /64. Remembers `sources`, the newest."""

    def __init__(self, per_minute: int, sources: int = KNOWN_SOURCES) -> None:
        self._per_minute = per_minute
        self._sources = sources
        self._times: OrderedDict[str, deque[float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._times)

    def enter(self, source: str, now: float) -> None:
        """Raises TooManyRequests; a refused one does not count."""
        key = network(source)
        times = self._times.get(key)
        if times is None:
            times = self._times[key] = deque(maxlen=self._per_minute)
            if len(self._times) > self._sources:
                self._times.popitem(last=False)
        self._times.move_to_end(key)
        if len(times) == self._per_minute and now - times[0] < 60.0:
            raise TooManyRequests(f"expected at most {self._per_minute} handshakes a minute from one address", code="too-many-handshakes")
        times.append(now)


_CLOSES: tuple[tuple[type[MedianodeError], int, str], ...] = (
    (TooManyRequests, 4429, "too_many_requests"),
    (Unauthorized, 4401, "invalid_key"),
    (Forbidden, 4401, "invalid_key"),
    (NotFound, 4401, "invalid_app"),
    (InvalidRequest, 4401, "invalid_room"),
    (NotEnabled, 4403, "not_enabled"),
    (LimitExceeded, 4403, "quota_exceeded"),
    (Conflict, 4409, "conflict"),
    (StorageError, WSCloseCode.TRY_AGAIN_LATER, "try_again_later"),
)
_CLOSES_BY_CODE = {"takeover": Close(4409, "replaced"), "shutdown": Close(WSCloseCode.GOING_AWAY, "shutdown")}


def close_of(error: MedianodeError) -> Close:
    """How this door words a refusal made at the handshake."""
    for kind, code, message in _CLOSES:
        if isinstance(error, kind):
            return Close(int(code), message if error.code == kind.code else error.code.replace("-", "_"))
    return Close(WSCloseCode.INTERNAL_ERROR, error.code.replace("-", "_"))


def close_of_kick(error: MedianodeError) -> Close:
    """Why a live camera is put out: somebody took over, the node goes down, else its ingress or key is gone."""
    return _CLOSES_BY_CODE.get(error.code) or Close(4401, error.code.replace("-", "_"))


def ready_text(room: str, identity: str, policy: WsJpeg) -> str:
    """Compact and in this order: sketches look for `"maxFps":` with digits right behind it."""
    numbers = {"maxFps": policy.max_fps, "maxFrameBytes": policy.max_frame_bytes, "idleTimeoutSec": policy.idle_timeout}
    whole = {name: int(value) if value == int(value) else value for name, value in numbers.items()}
    return _compact({"type": "ready", "room": room, "streamId": f"{room}/{identity}", **whole})


def error_text(close: Close) -> str:
    return _compact({"type": "error", "code": str(close.code), "message": close.message})


def _compact(body: dict[str, object]) -> str:
    return json.dumps(body, separators=(",", ":"), ensure_ascii=False)


class CameraSocket(web.WebSocketResponse):
    """aiohttp's server side, but a message over the bound, which its parser refuses before buffering it, closes with 4413 and not 1009."""

    def __init__(self, max_bytes: int) -> None:
        # aiohttp's parser refuses from max_msg_size on; a little over the bound still comes whole and CameraSession refuses it
        super().__init__(timeout=CLOSE_WAIT, autoping=False, compress=False, max_msg_size=max_bytes + 1024)
        self.refusal: Close | None = None
        self.interrupted = False
        self._alarm: asyncio.Timeout | None = None

    async def receive_until(self, deadline: float) -> WSMessage | None:
        """The next message; None at the deadline (loop time) or when interrupted."""
        if self.interrupted:
            return None
        try:
            async with asyncio.timeout_at(deadline) as self._alarm:
                return await self.receive()
        except TimeoutError:
            return None
        finally:
            self._alarm = None

    def interrupt(self) -> None:
        """Make `receive_until` return now, and at once from then on."""
        self.interrupted = True
        if self._alarm is not None:
            self._alarm.reschedule(asyncio.get_running_loop().time())

    async def refuse(self, close: Close) -> None:
        """The error text, then Close with its code."""
        self.refusal = close
        await self.send_str(error_text(close))
        await super().close(code=close.code, message=close.message.encode())

    async def close(self, *, code: int = WSCloseCode.OK, message: bytes = b"", drain: bool = True) -> bool:
        if code == WSCloseCode.MESSAGE_TOO_BIG and self.refusal is None and not self.closed:
            await self._refuse_unread(Close(4413, "frame_too_large"))
        return await super().close(code=code, message=message, drain=drain)

    def abort(self) -> None:
        """Drop the connection without a word."""
        if (transport := self._transport) is not None:
            transport.abort()

    @property
    def _transport(self) -> asyncio.Transport | None:
        return self._writer.protocol.transport if self._writer is not None else None

    async def _refuse_unread(self, close: Close) -> None:
        """Refuse while the peer is still sending. Its bytes are read and thrown away (aiohttp does, once its parser has failed) until it
        hangs up: to close a socket with unread bytes is to reset it, and a reset may overtake our Close frame.
        """
        self.refusal = close
        await self.send_str(error_text(close))
        assert self._writer is not None  # send_str has seen to it
        await self._writer.close(close.code, close.message.encode())
        if (transport := self._transport) is not None and transport.can_write_eof():
            transport.write_eof()
        deadline = clock.now() + CLOSE_WAIT
        while self._transport is not None and clock.now() < deadline:  # noqa: ASYNC110 - aiohttp tells of a hang-up through its failed parser only
            await asyncio.sleep(0.02)


class CameraDoor:
    """`/ingest/ws`. Holds at most `ws_jpeg.max_cameras` sessions that publish."""

    def __init__(self, config: WsJpeg, limits: Limits, gatekeeper: Gatekeeper, registry: Registry, origin: Origin) -> None:
        self._config = config
        self._gatekeeper = gatekeeper
        self._registry = registry
        self._origin = origin
        self._handshakes = Handshakes(limits.ws_handshakes_per_minute)
        self.cameras = 0

    def routes(self) -> list[web.RouteDef]:
        return [web.get("/ingest/ws", self.ingest, allow_head=False)]

    async def ingest(self, request: web.Request) -> web.StreamResponse:
        """Any refusal comes after the upgrade, as contracts 2.4 has it; what is no WebSocket handshake at all gets 426."""
        socket = CameraSocket(self._config.max_frame_bytes)
        if not socket.can_prepare(request).ok:
            return web.Response(status=426, text="expected a WebSocket handshake (RFC 6455)\n", headers={"Upgrade": "websocket"})
        peer = self._origin.source(request)
        await socket.prepare(request)
        SESSIONS.value += 1
        telemetry.session(log, "opened", door=DOOR, peer=peer)
        try:
            grant = await self._admit(request, peer)
        except MedianodeError as e:
            close = close_of(e)
            ENDS.labels(DOOR, str(close.code)).value += 1
            asked = {"app": request.query.get("app", "")[:64], "room": request.query.get("room", "")[:64]}
            fields = {"door": DOOR, "peer": peer, **asked, "code": close.code, "error": e.code, "reason": e.message}
            log.info("refused", extra={"fields": fields})
            await self._refuse(socket, close)
            return socket
        self.cameras += 1
        try:
            await guard(DOOR, _Camera(socket, self._config, grant, peer).run(self._registry))
        finally:
            self.cameras -= 1
        return socket

    async def _admit(self, request: web.Request, peer: str) -> PublishGrant:
        if not self._config.enabled:
            raise NotEnabled("the WebSocket camera door is switched off (ws_jpeg.enabled)", code="feature-off")
        self._handshakes.enter(peer, clock.now())
        app, room = request.query.get("app", ""), request.query.get("room", "")
        if not app:
            raise NotFound("expected ?app=", code="invalid-app")
        if not room:
            raise InvalidRequest("expected ?room=", code="invalid-room")
        key = bearer(request) or request.query.get("key", "")
        grant = await self._gatekeeper.publish(Door.WS_MJPEG, app, key, room, source=peer)
        if self.cameras >= self._config.max_cameras and not self._replaces(grant):
            raise LimitExceeded(f"the node has {self.cameras} cameras already", code="max-cameras")
        # the same key again: the new one wins, whatever the ingress says of other encoders (contracts 2.4)
        return dataclasses.replace(grant, takeover=Takeover.REPLACE)

    def _replaces(self, grant: PublishGrant) -> bool:
        """A camera that comes back takes the place of its older self, also when the house is full."""
        room = self._registry.find(grant.project_id, grant.room)
        old = room.publications.get(grant.identity) if room is not None else None
        return old is not None and old.door == DOOR

    async def _refuse(self, socket: CameraSocket, close: Close) -> None:
        try:
            await socket.refuse(close)
        except OSError as e:
            log.debug("%s: gone before it was told why: %s", DOOR, e)


class _Camera:
    """One admitted camera, from its grant to its end."""

    def __init__(self, socket: CameraSocket, config: WsJpeg, grant: PublishGrant, peer: str) -> None:
        self._socket = socket
        self._config = config
        self._grant = grant
        self._peer = peer
        self._session = CameraSession(config, clock.now())
        self._kicked: Close | None = None
        self._frames = 0
        self._nbytes = 0
        self._drops: Counter[str] = Counter()

    async def run(self, registry: Registry) -> None:
        opened_at = clock.now()
        fields = {"door": DOOR, "room": self._grant.room, "identity": self._grant.identity, "peer": self._peer}
        try:
            room, publication = registry.publish(self._grant, DOOR, self._peer, self._kick)
        except MedianodeError as e:
            end = close_of(e)
        else:
            end = Close(WSCloseCode.INTERNAL_ERROR, "internal")
            try:
                await self._socket.send_str(ready_text(room.name, self._grant.identity, self._config))
                end = await self._receive(publication, fields)
            except OSError as e:
                end = Close(WSCloseCode.ABNORMAL_CLOSURE, "peer_gone")
                publication.health.last_error = str(e)
            except asyncio.CancelledError:
                end = Close(WSCloseCode.GOING_AWAY, "shutdown")
                raise
            finally:
                room.end(publication, end.message.replace("_", "-"))
        try:
            await self._goodbye(end)
        except OSError as e:
            log.debug("%s: gone before it was told why: %s", DOOR, e)
        finally:
            seconds = clock.now() - opened_at
            ENDS.labels(DOOR, str(end.code)).value += 1
            totals = {"frames": self._frames, "bytes": self._nbytes, "drops": self._drops.total()}
            telemetry.session(log, "closed", **fields, code=end.code, reason=end.message, duration=seconds, **totals)

    def _kick(self, error: MedianodeError) -> None:
        self._kicked = close_of_kick(error)
        self._socket.interrupt()

    async def _receive(self, publication: Publication, fields: dict[str, str]) -> Close:
        """Messages in, packets out, until somebody ends it. Nothing here waits for anything but the peer."""
        socket, session = self._socket, self._session
        while True:
            message = await socket.receive_until(session.wake_at)
            if self._kicked is not None:
                return self._kicked
            now = clock.now()
            if now >= session.wake_at and (end := await self._tick(now)) is not None:
                return end
            if message is None:
                continue
            kind = message.type
            if kind is WSMsgType.BINARY:
                verdict = session.binary(message.data, now)
                if isinstance(verdict, Frame):
                    if not self._frames:
                        telemetry.session(log, "publishing", **fields, codec="mjpeg", width=verdict.width, height=verdict.height)
                    self._publish(publication, message.data, verdict, now)
                elif isinstance(verdict, Drop):
                    self._drop(publication, verdict.cause)
                else:
                    return verdict
            elif kind is WSMsgType.TEXT:
                if (refusal := session.text(message.data)) is not None:
                    return refusal
            elif kind is WSMsgType.PING:
                await socket.pong(message.data)
            elif kind is WSMsgType.PONG:
                session.pong()
            else:
                return self._ended()

    async def _tick(self, now: float) -> Close | None:
        while (due := self._session.tick(now)) is not None:
            if isinstance(due, Close):
                return due
            if due is Due.LOST:
                return Close(WSCloseCode.ABNORMAL_CLOSURE, "pong_timeout")
            await self._socket.ping()
        return None

    def _publish(self, publication: Publication, data: bytes, frame: Frame, now: float) -> None:
        video = publication.video
        if video is None or (video.width, video.height) != (frame.width, frame.height):
            video = Track(id=0, codec=Codec.MJPEG, clock_rate=VIDEO_CLOCK_RATE, width=frame.width, height=frame.height)
            publication.set_tracks((video,))
        publication.write(Packet(video, data, frame.pts, frame.pts, True, now))
        self._frames += 1
        self._nbytes += len(data)
        FRAMES.value += 1
        BYTES.value += len(data)

    def _drop(self, publication: Publication, cause: str) -> None:
        self._drops[cause] += 1
        publication.health.drops[cause] = self._drops[cause]
        DROPS.labels(DOOR, cause).value += 1

    def _ended(self) -> Close:
        """The socket is closed already: by the peer, by its breach of RFC 6455, or by its oversized message."""
        if self._socket.refusal is not None:
            return self._socket.refusal
        code = self._socket.close_code or WSCloseCode.OK
        return Close(int(code), "normal" if code in (WSCloseCode.OK, WSCloseCode.GOING_AWAY) else "peer_gone")

    async def _goodbye(self, end: Close) -> None:
        if self._socket.closed:
            return
        if end.code == WSCloseCode.ABNORMAL_CLOSURE:
            self._socket.abort()
        else:
            await self._socket.refuse(end)
