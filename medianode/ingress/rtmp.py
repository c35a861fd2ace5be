"""The RTMP and RTMPS door: one port, told apart by the first byte (0x03 is C0 of RTMP, 0x16 a TLS ClientHello)."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
import ssl
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, cast
from urllib.parse import urlencode

from medianode import clock, telemetry
from medianode.auth import Door, Gatekeeper, ReadGrant
from medianode.config import Config
from medianode.errors import (
    Conflict,
    Forbidden,
    InvalidRequest,
    LimitExceeded,
    MedianodeError,
    NotFound,
    PeerError,
    PeerGone,
    PeerTimeout,
    Unauthorized,
    UnsupportedMedia,
)
from medianode.ingress.assembler import Assembler
from medianode.ingress.tags import take_tag
from medianode.media.names import check_slug
from medianode.media.timeline import Unwrapper
from medianode.protocols.rtmp import auth as adobe
from medianode.protocols.rtmp import messages as m
from medianode.protocols.rtmp.server import ServerConnection
from medianode.routing.policy import DURATION
from medianode.routing.publication import Publication
from medianode.routing.registry import Registry
from medianode.routing.room import Room
from medianode.tasks import Gate, TaskSet, accept, every, readable, report_bug

T = TypeVar("T")
log = logging.getLogger("medianode.rtmp")
SESSIONS = telemetry.counter("medianode_sessions_total", "Sessions opened, by door", "door")
ENDS = telemetry.counter("medianode_session_ends_total", "Sessions ended, by door and code", "door", "code")
BYTES = telemetry.counter("medianode_bytes_total", "Bytes by door and direction", "door", "direction")
AUTH_APP = "auth"
"""`rtmp://host/<project>/auth`: asks for user and password (Adobe's challenge), which encoders only send when asked."""
CHALLENGE_LIFETIME = 60
MAX_UNSENT = 1 << 20
"""Bytes of answers that a peer may leave unread before it is cut off."""
LINGER = 2.0
TICK = 0.5
SECOND_LOOK = 0.1
READS = 4
READ_BYTES = 1 << 20
"""At most in one read of a publisher's socket; 50 ms at 160 Mbit/s."""
_TLS_HANDSHAKE = b"\x16"
FAILED = "NetStream.Publish.Failed"
_UNAUTHORIZED = "NetStream.Publish.Unauthorized"
_STATUS = {**dict.fromkeys(("ingress-deleted", "ingress-disabled", "key-reset"), _UNAUTHORIZED), "finished": FAILED, DURATION: FAILED}
"""What a publisher that is put out is told, by code."""


class Player(Protocol):
    """A running RTMP play."""

    def close(self) -> None: ...


class PlayDesk(Protocol):
    """Where this door sends those who come to view: egress.rtmp_play, handed in by the daemon."""

    def play(self, room: Room, grant: ReadGrant, stream_id: int, transport: asyncio.Transport, ended: Callable[[str], None]) -> Player: ...


@dataclass(slots=True)
class _Publishing:
    room: Room
    publication: Publication
    assembler: Assembler
    unwrapper: Unwrapper


class RtmpDoor:
    """`serve(listeners, tls_listeners)` runs until cancelled."""

    def __init__(
        self, config: Config, registry: Registry, gatekeeper: Gatekeeper, tls: ssl.SSLContext, desk: PlayDesk, certificate_hint: str = ""
    ) -> None:
        self.config = config
        self.registry = registry
        self.gatekeeper = gatekeeper
        self.desk = desk
        self.tls = tls
        self.challenge_secret = secrets.token_bytes(32)
        self.sessions: set[RtmpSession] = set()
        self._resting: dict[float, list[RtmpSession]] = {}
        self.turned_away = telemetry.Sparingly(log, "turned away")
        """Of all who never got as far as `connect`."""
        self.gate = Gate(config.limits.tcp_connections, config.limits.tcp_connections_per_peer)
        self.buffer = memoryview(bytearray(READ_BYTES))
        self.tasks = TaskSet("rtmp", config.limits.tcp_connections * 2)
        telemetry.gauge("medianode_rtmp_connections", "Open RTMP connections", read=lambda: [((), self.gate.total)])

    async def serve(self, listeners: list[socket.socket], tls_listeners: list[socket.socket]) -> None:
        async with self.tasks, asyncio.TaskGroup() as group:
            for listener in listeners:
                group.create_task(accept(listener, lambda sock, peer: self._arrived(sock, peer, tls_only=False)))
            for listener in tls_listeners:
                group.create_task(accept(listener, lambda sock, peer: self._arrived(sock, peer, tls_only=True)))
            group.create_task(self._tick())

    def rest(self, session: RtmpSession, seconds: float) -> None:
        """Let a publisher's bytes gather, and read all publishers' who rest that long at once then.

        One wake-up per packet costs three times the work: the code of a whole stack goes through cold caches for each.
        """
        resting = self._resting.setdefault(seconds, [])
        if not resting:
            asyncio.get_running_loop().call_later(seconds, self._wake, seconds)
        resting.append(session)

    def _wake(self, seconds: float) -> None:
        for session in self._resting.pop(seconds, ()):
            session.resume()

    async def drain(self) -> None:
        """Graceful stop: publishers are told, what they sent is with the readers already."""
        for session in tuple(self.sessions):
            session.fail(PeerGone("the server is stopping", code="shutdown"))

    def _arrived(self, sock: socket.socket, peer: str, *, tls_only: bool) -> None:
        try:
            self.gate.enter(peer)
        except PeerError as e:
            ENDS.labels("rtmp", e.code).value += 1
            sock.close()
            return
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.tasks.start(self._connection(sock, peer, tls_only))
        except (PeerError, OSError) as e:
            # decisions of sessions that are gone may still fill the set: that must not end the accept loop
            ENDS.labels("rtmp", e.code if isinstance(e, PeerError) else "connection-reset").value += 1
            sock.close()
            self.gate.leave(peer)

    async def _connection(self, sock: socket.socket, peer: str, tls_only: bool) -> None:
        session: RtmpSession | None = None
        try:
            timeout = self.config.limits.handshake_timeout
            secure = tls_only or await readable(sock, timeout) == _TLS_HANDSHAKE
            session = made = RtmpSession(self, peer, "rtmps" if secure else "rtmp")
            loop = asyncio.get_running_loop()
            # with TLS uvloop returns its own protocol, not ours
            await loop.connect_accepted_socket(
                lambda: made,
                sock,
                ssl=self.tls if secure else None,
                ssl_handshake_timeout=timeout if secure else None,
            )
            await made.closed
        except (PeerError, OSError, ssl.SSLError, TimeoutError) as e:
            # never got as far as RTMP: port scanners, wrong protocols, clients that refuse our certificate
            code = e.code if isinstance(e, PeerError) else "tls-failed"
            ENDS.labels("rtmp", code).value += 1
            hint = (
                "; the encoder must trust the node's certificate (start page), or the node be given a real one"
                if code == "tls-failed"
                else ""
            )
            self.turned_away.tell(peer=peer, code=code, reason=f"{str(e) or type(e).__name__}{hint}")
        finally:
            if session is None or session.transport is None:
                sock.close()
            self.gate.leave(peer)

    async def _tick(self) -> None:
        async for now in every(TICK):
            self._tick_all(now)

    def _tick_all(self, now: float) -> None:
        """Not in the loop above, whose variables live on: the last session would be kept, and the room that it played."""
        for session in tuple(self.sessions):
            session.tick(now)


class RtmpSession(asyncio.Protocol):
    """One connection: wire events in, answers out. Decisions that wait (keys) run as a task while reading is paused, one at a time.

    What the peer sent behind its publish or play, in the same read, waits for the answer too.
    """

    def __init__(self, door: RtmpDoor, peer: str, scheme: str) -> None:
        limits = door.config.limits
        self._door = door
        self._peer = peer
        self._scheme = scheme
        self._rtmp = ServerConnection(
            random=secrets.token_bytes,
            max_message_bytes=limits.rtmp_message_bytes,
            max_partial_bytes=limits.rtmp_pending_bytes,
            max_early_bytes=limits.rtmp_early_bytes,
            max_chunk_streams=limits.rtmp_chunk_streams,
            max_streams=limits.rtmp_message_streams,
            max_amf_depth=limits.amf_depth,
            max_amf_items=limits.amf_items,
        )
        self.transport: asyncio.Transport | None = None
        self._connect: m.Connect | None = None
        self._publishing: dict[int, _Publishing] = {}
        self._playing: dict[int, Player] = {}
        self._opened_at = self._heard_at = clock.now()
        self._error: BaseException | None = None
        self._deciding = False
        self._ended_by_peer = False
        self._events: deque[m.ServerEvent] = deque()
        self._resting = False
        self._silent = False
        self._raw: socket.socket | None = None
        self._bytes_in = BYTES.labels(scheme, "in")
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's does not inherit from asyncio's
        self._door.sessions.add(self)
        sock = transport.get_extra_info("socket")
        if self._scheme == "rtmp" and sock is not None:
            self._raw = socket.socket(fileno=os.dup(sock.fileno()))
            self._raw.setblocking(False)

    def data_received(self, data: bytes) -> None:
        if self._error is not None:
            return
        self._heard_at = clock.now()
        self._bytes_in.value += len(data)
        self._guarded(self._received, data)

    def _guarded(self, step: Callable[[T], None], argument: T) -> None:
        """The edge of the session: guard's duty, in a callback."""
        try:
            step(argument)
        except MedianodeError as e:
            self.fail(e)
        except Exception as e:  # noqa: BLE001 - a bug is kept to its session
            report_bug("rtmp", e)
            self.fail(PeerGone("internal error", code="internal"))

    def _received(self, data: bytes) -> None:
        try:
            self._rtmp.receive_data(data)
        finally:
            self._events.extend(self._rtmp.events())
            self._handle_events(None)
        self._flush()
        if self._deciding or self.transport is None or self.transport.is_closing():
            return
        if self._publishing and (interval := self._read_interval()) > 0:
            if not self._resting:
                self._resting = True
                self.transport.pause_reading()
            self._door.rest(self, interval)
        elif self._resting:
            self._awake()

    def _read_interval(self) -> float:
        """Seconds. What gathers while somebody watches by WebRTC arrives late and in clumps there, so the operator may choose less."""
        config = self._door.config.rtmp
        if any(state.publication.realtime for state in self._publishing.values()):
            return min(config.read_interval, config.realtime_read_interval)
        return config.read_interval

    def resume(self) -> None:
        """The rest is over. Read here, and not by the transport: its poll wakes the loop once for the end of the rest and again for what
        comes right after it was paused, and wake-ups are what a publisher costs most.
        """
        if not self._resting or self.transport is None or self.transport.is_closing() or self._deciding or self._error is not None:
            return
        if self._raw is None or (interval := self._read_interval()) <= 0:
            self._awake()
            return
        data, ended = self._read(self._raw)
        if data:
            self.data_received(data)
        elif not ended:
            self._door.rest(self, interval)
        if ended:  # the transport is to see it, and at once: the same encoder may be back already
            self._awake()

    def _read(self, sock: socket.socket) -> tuple[bytes, bool]:
        """What is there, at most READS times READ_BYTES, and whether that was the last."""
        buffer = self._door.buffer
        data = b""
        for _ in range(READS):
            try:
                count = sock.recv_into(buffer)
            except BlockingIOError:
                return data, False
            except OSError:
                return data, True
            if not count:
                return data, True
            data += buffer[:count]
        return data, False

    def _awake(self) -> None:
        self._resting = False
        if self.transport is not None:
            self.transport.resume_reading()

    def eof_received(self) -> bool:
        self._rtmp.receive_eof()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._door.sessions.discard(self)
        if self._raw is not None:
            self._raw.close()
        error = self._error or exc
        # FFmpeg's goodbye over TLS ends in a broken pipe: with nothing open any more that is an ordinary end
        reset = exc is not None and (self._publishing or self._playing or not self._ended_by_peer)
        code = error.code if isinstance(error, MedianodeError) else "connection-reset" if reset else "closed"
        self._events.clear()
        if not self.closed.done():
            self.closed.set_result(None)
        for stream_id in tuple(self._publishing):
            self._unpublish(stream_id, code, str(error or ""), failed=error is not None and code not in ("takeover", "shutdown"))
        for player in self._playing.values():
            player.close()
        ENDS.labels(self._scheme, code).value += 1
        reason = str(error or "") if code != "closed" else ""
        if self._connect is None:
            self._door.turned_away.tell(peer=self._peer, code=code, reason=reason)
            return
        told = {"peer": self._peer, "door": self._scheme, "code": code, "reason": reason, "seconds": clock.now() - self._opened_at}
        telemetry.session(log, "closed", **told, bytes=self._rtmp.bytes_received)

    # life

    def tick(self, now: float) -> None:
        """Twice a second: handshakes that take too long, publishers that fell silent, answers that nobody reads, track decisions."""
        if self._error is None:
            self._guarded(self._tick, now)

    def _tick(self, now: float) -> None:
        silence = now - self._heard_at
        # of media a player may leave its own bound unread, and one message over it
        limits = self._door.config.limits
        unsent = MAX_UNSENT + (limits.reader_bytes + limits.rtmp_message_bytes if self._playing else 0)
        if self.transport is not None and self.transport.get_write_buffer_size() > unsent:
            self.fail(PeerTimeout("answers are not being read", code="peer-not-reading"))
            return
        if self._publishing:
            for state in self._publishing.values():
                state.assembler.tick(now)
                waited = now - state.publication.opened_at
                if not state.publication.active and waited > limits.first_media_timeout:
                    why = state.publication.health.last_error or "none came"
                    self.fail(PeerTimeout(f"no media that could be shown in {waited:.0f} s: {why}", code="no-media"))
                    return
            if silence >= self._door.config.ingress.silence - TICK:
                self.fail(PeerTimeout(f"the encoder sent nothing for {silence:.1f} s", code="publisher-silent"))
        elif not self._playing and not self._deciding and now - self._opened_at > limits.handshake_timeout:
            self.fail(PeerTimeout("neither publish nor play in time", code="handshake-timeout"))

    def fail(self, error: MedianodeError) -> None:
        """End the session: what is to be said is said, then the socket closes."""
        if self._error is not None or self.transport is None:
            return
        self._error = error
        if isinstance(error, (PeerGone, PeerTimeout, Forbidden, LimitExceeded, UnsupportedMedia)):
            code = _STATUS.get(error.code, "NetStream.Publish.BadName" if isinstance(error, (PeerGone, PeerTimeout)) else FAILED)
            for stream_id in self._publishing:
                self._rtmp.send_status(stream_id, "error", code, error.message)
        put_out = bool(self._publishing) and all(state.publication.ended for state in self._publishing.values())
        self._close(lingers=put_out)

    def _close(self, *, lingers: bool = False) -> None:
        """`lingers`: the peer is sending, and a socket closed with bytes unread resets the connection, which takes our reason with it."""
        if self.transport is None:
            return
        self._flush()
        if lingers and self.transport.can_write_eof():
            self._silent = True
            self._awake()
            self.transport.write_eof()
        else:
            self.transport.close()
        # a peer that does not read keeps close() waiting for ever
        asyncio.get_running_loop().call_later(LINGER, self.transport.abort)

    def _flush(self) -> None:
        data = self._rtmp.data_to_send()
        if data and self.transport is not None and not self.transport.is_closing() and not self._silent:
            BYTES.labels(self._scheme, "out").value += len(data)
            self.transport.write(data)

    # events

    def _handle_events(self, _: None) -> None:
        """In order, up to one that has to be decided; the others wait for the answer."""
        while self._events and not self._deciding and self._error is None:
            self._handle(self._events.popleft())

    def _given_up(self, event: m.Publish | m.Play) -> bool:
        """The peer closed the stream in the same breath: its state is another's by now."""
        return any(isinstance(e, m.Unpublish | m.StopPlay) and e.stream_id == event.stream_id for e in self._events)

    def _handle(self, event: m.ServerEvent) -> None:
        if type(event) is m.Media:
            state = self._publishing.get(event.stream_id)
            if state is not None:
                ms = state.unwrapper.unwrap(event.timestamp)
                take_tag(state.assembler, event.kind, event.payload, ms, self._heard_at)
        elif isinstance(event, m.Connect):
            self._on_connect(event)
        elif isinstance(event, m.Publish):
            if not self._given_up(event):
                self._decide(self._on_publish(event))
        elif isinstance(event, m.Play):
            if not self._given_up(event):
                self._decide(self._on_play(event))
        elif isinstance(event, m.Unpublish):
            self._ended_by_peer = True
            self._unpublish(event.stream_id, "closed" if event.why == "eof" else "unpublished", failed=False)
        elif isinstance(event, m.StopPlay):
            self._ended_by_peer = True
            player = self._playing.pop(event.stream_id, None)
            if player is not None:
                player.close()

    def _on_connect(self, event: m.Connect) -> None:
        self._connect = event
        SESSIONS.labels(self._scheme).value += 1
        telemetry.session(
            log, "opened", peer=self._peer, door=self._scheme, app=self._shown_app(), agent=str(event.params.get("flashVer", ""))[:40]
        )
        query = event.query
        if not (adobe.is_adobe(query) or event.app.endswith("/" + AUTH_APP)) or "response" in query:
            self._rtmp.accept_connect()
            return
        if adobe.is_adobe(query) and query.get("user"):
            expires = int(clock.now()) + CHALLENGE_LIFETIME
            challenge = adobe.make_challenge(query["user"][:256], self._door.challenge_secret, secrets.token_bytes(12), expires)
            description = challenge.description
        else:
            description = adobe.NEED_AUTH
        self._rtmp.reject_connect("NetConnection.Connect.Rejected", description)
        self._error = Unauthorized("user and password are asked for", code="challenged")
        self._close()

    def _decide(self, decision: Coroutine[Any, Any, None]) -> None:
        assert self.transport is not None
        self.transport.pause_reading()
        self._deciding = True
        try:
            self._door.tasks.start(self._decided(decision))
        except LimitExceeded:
            decision.close()
            self._deciding = False
            raise

    async def _decided(self, decision: Coroutine[Any, Any, None]) -> None:
        assert self.transport is not None
        try:
            await decision
        except MedianodeError as e:
            self.fail(e)
        finally:
            self._deciding = False
            if not self.transport.is_closing():
                self._heard_at = clock.now()
                self._guarded(self._handle_events, None)
                self._flush()
                if not self._deciding and not self.transport.is_closing():
                    self._awake()

    def _app(self) -> str:
        return self._connect.app.partition("/")[0] if self._connect else ""

    def _shown_app(self) -> str:
        """For the log: what is no project's name may be a stream key at the wrong place."""
        app = self._app()
        try:
            return check_slug(app)
        except InvalidRequest:
            return f"{app[:4]}…"

    def _stream_name(self, name: str, query: dict[str, str]) -> str:
        """The stream name with its own query and, behind it, what the app's query brought."""
        merged = {**(self._connect.query if self._connect else {}), **query}
        return f"{name}?{urlencode(merged)}" if merged else name

    async def _on_publish(self, event: m.Publish) -> None:
        query = self._connect.query if self._connect else {}
        proves = None
        if "response" in query:
            proves = lambda secret: adobe.verify(query, secret, self._door.challenge_secret, int(clock.now()))  # noqa: E731
        try:
            name = self._stream_name(event.name, event.query)
            grant = await self._door.gatekeeper.publish(Door.RTMP, self._app(), name, source=self._peer, proves=proves)
            if self.transport is None or self.transport.is_closing():
                return
            try:
                room, publication = self._door.registry.publish(grant, self._scheme, self._peer, self.fail)
            except Conflict:
                # the same encoder may be back before the end of its old connection was read, which rests
                await asyncio.sleep(self._door.config.rtmp.read_interval + SECOND_LOOK)
                if self.transport is None or self.transport.is_closing():
                    return
                room, publication = self._door.registry.publish(grant, self._scheme, self._peer, self.fail)
        except PeerError as e:
            code = "NetStream.Publish.Unauthorized" if isinstance(e, (Unauthorized, Forbidden, NotFound)) else "NetStream.Publish.BadName"
            self._rtmp.reject_publish(event.stream_id, code, e.message)
            raise
        config = self._door.config
        assembler = Assembler(publication, config.ingress.track_wait, config.limits.tracks_per_publication)
        self._publishing[event.stream_id] = _Publishing(room, publication, assembler, Unwrapper())
        self._rtmp.accept_publish(event.stream_id)
        telemetry.session(log, "publishing", peer=self._peer, door=self._scheme, room=room.name, identity=grant.identity)

    async def _on_play(self, event: m.Play) -> None:
        try:
            name = self._stream_name(event.name, event.query)
            grant: ReadGrant = await self._door.gatekeeper.play(self._app(), name, source=self._peer)
            room = await self._door.registry.wanted(grant.project_id, grant.room)
        except PeerError as e:
            failed = "NetStream.Play.StreamNotFound" if isinstance(e, (NotFound, Conflict)) else "NetStream.Play.Failed"
            self._rtmp.reject_play(event.stream_id, failed, e.message)
            raise
        if self.transport is None or self.transport.is_closing():
            return
        self._rtmp.accept_play(event.stream_id)
        self._flush()

        def ended(cause: str) -> None:
            self._rtmp.end_play(event.stream_id)
            self.fail(PeerGone("the stream ended", code=cause))

        try:
            self._playing[event.stream_id] = self._door.desk.play(room, grant, event.stream_id, self.transport, ended)
        except PeerError as e:
            self._rtmp.end_play(event.stream_id, e.message)
            raise
        telemetry.session(log, "playing", peer=self._peer, door=self._scheme, room=room.name)

    def _unpublish(self, stream_id: int, code: str, message: str = "", *, failed: bool) -> None:
        state = self._publishing.pop(stream_id, None)
        if state is None:
            return
        if not state.publication.ended:
            state.assembler.finish()
        state.room.end(state.publication, code, message, failed=failed, final=code == "ingress-deleted")
