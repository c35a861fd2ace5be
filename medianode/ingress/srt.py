"""The SRT door: one UDP port for all callers. Handshakes are answered without state until a cookie proves the caller's address."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import OrderedDict

from medianode import clock, telemetry
from medianode.auth import Door, Gatekeeper, PublishGrant
from medianode.config import Config
from medianode.errors import (
    Conflict,
    Forbidden,
    InvalidRequest,
    LimitExceeded,
    MedianodeError,
    NotEnabled,
    NotFound,
    PeerError,
    ProtocolError,
    StorageError,
    TooManyRequests,
    Unauthorized,
)
from medianode.ingress.srt_cipher import AesCiphers
from medianode.ingress.srt_session import DOOR, ENDS, LOOK, SrtSession
from medianode.protocols.srt.connection import Connection
from medianode.protocols.srt.handshake import Reject, said
from medianode.protocols.srt.keys import Keys, fits, parse_material
from medianode.protocols.srt.listener import Listener, Refusal, Request, accept
from medianode.protocols.srt.packet import HEADER_SIZE
from medianode.protocols.srt.stream_id import parse_stream_id
from medianode.routing.registry import Registry
from medianode.rtc.udp import BATCH, Source, UdpSocket, plain
from medianode.tasks import Gate, TaskSet, every, guarded

log = logging.getLogger("medianode.srt")
DROPPED = telemetry.counter("medianode_srt_dropped_total", "What came to the SRT port and was not taken, by cause", "cause")
UNSENT = telemetry.counter("medianode_srt_unsent_total", "Our own SRT datagrams that the kernel did not take")
BYTES = telemetry.counter("medianode_bytes_total", "Bytes by door and direction", "door", "direction")
MAX_BATCHES = 32
"""Of one turn: a flood does not keep the loop."""
MAX_HANDSHAKES = 256
"""Answered in one turn."""
REMEMBERED = 1024
REMEMBER = 5.0
"""Seconds that a refusal is kept, for a caller that missed it and asks again: it is decided once, and counted once."""
SECOND_LOOK = 0.1
UNFIT = "unfit-handshake"
"""What a caller offers is not spoken here: an old version, file mode, rendezvous, bonding, FEC."""
REST = 4.0
"""After passphrases that did not fit, as long as trying them took, so many times: who guesses has a fifth of the loop at most."""
_REASONS: tuple[tuple[type[MedianodeError], Reject], ...] = (
    (Unauthorized, Reject.UNAUTHORIZED),
    (Forbidden, Reject.FORBIDDEN),
    (NotFound, Reject.NOT_FOUND),
    (Conflict, Reject.CONFLICT),
    (TooManyRequests, Reject.OVERLOAD),
    (LimitExceeded, Reject.OVERLOAD),
    (NotEnabled, Reject.BAD_MODE),
    (InvalidRequest, Reject.BAD_REQUEST),
    (StorageError, Reject.DOWN),
)
_CODES = {"wrong-passphrase": Reject.BAD_SECRET, "passphrase-missing": Reject.UNSECURE, "no-cipher": Reject.CRYPTO}

Caller = tuple[bytes, int]
"""A raw address and the socket id that the caller gave itself."""


class SrtDoor:
    """`serve()` runs until cancelled. The socket is bound, and closed, by whoever made it."""

    def __init__(self, config: Config, registry: Registry, gatekeeper: Gatekeeper, udp: UdpSocket) -> None:
        limits = config.limits
        self._config = config
        self._registry = registry
        self._gatekeeper = gatekeeper
        self._udp = udp
        self._listener = Listener(secrets.token_bytes(32))
        self._ciphers = AesCiphers()
        self._gate = Gate(limits.srt_connections, limits.srt_connections_per_source)
        self._tasks = TaskSet("srt", limits.srt_connections)
        self._proving = asyncio.Lock()
        self._callers: dict[Caller, SrtSession | None] = {}
        self._refused: OrderedDict[Caller, tuple[float, bytes]] = OrderedDict()
        self._inbox: list[tuple[bytes, bytes, bytes]] = []
        self._turned_away = telemetry.Sparingly(log, "turned away")
        self._bytes_in = BYTES.labels(DOOR, "in")
        self._bytes_out = BYTES.labels(DOOR, "out")
        self.sessions: dict[int, SrtSession] = {}
        telemetry.gauge("medianode_srt_connections", "Open SRT connections", read=lambda: [((), len(self.sessions))])

    async def serve(self) -> None:
        loop = asyncio.get_running_loop()
        async with self._tasks, asyncio.TaskGroup() as group:
            group.create_task(self._live())
            arrived = asyncio.Event()
            while True:
                if not self.sessions:
                    # an idle port costs nothing
                    arrived.clear()
                    loop.add_reader(self._udp.sock.fileno(), arrived.set)
                    try:
                        await arrived.wait()
                    finally:
                        loop.remove_reader(self._udp.sock.fileno())
                guarded("srt", self._turn)
                # what arrives meanwhile is read together: one wake-up per packet would cost more than all the work
                await asyncio.sleep(self._config.srt.read_interval)

    async def _live(self) -> None:
        async for now in every(LOOK):
            self._look(now)

    def _look(self, now: float) -> None:
        """Not in the loop above, whose variables live on."""
        for session in tuple(self.sessions.values()):
            session.run(session.look, now)
        while self._refused and next(iter(self._refused.values()))[0] < now:
            self._refused.popitem(last=False)

    # datagrams

    def _turn(self) -> None:
        for _ in range(MAX_BATCHES):
            if self._udp.take(self._arrived) < BATCH:
                break
        now = clock.now()
        inbox, self._inbox = self._inbox, []
        for datagram in inbox[:MAX_HANDSHAKES]:
            guarded("srt", self._handshake, *datagram, now)
        if len(inbox) > MAX_HANDSHAKES:
            DROPPED.labels("handshake-flood").value += len(inbox) - MAX_HANDSHAKES
        for session in tuple(self.sessions.values()):
            session.run(session.take, now)

    def _arrived(self, raw: bytes, datagram: bytes, control: bytes) -> None:
        """Only sorted here: work is done guarded, session by session."""
        if len(datagram) < HEADER_SIZE:
            DROPPED.labels("garbage").value += 1
            return
        socket_id = int.from_bytes(datagram[12:16], "big")
        session = self.sessions.get(socket_id)
        if session is not None and session.source.raw == raw:
            session.inbox.append(datagram)
            self._bytes_in.value += len(datagram)
        elif socket_id == 0:
            self._inbox.append((raw, datagram, control))
        else:
            DROPPED.labels("unknown-socket").value += 1

    def send(self, datagram: bytes, source: Source) -> None:
        """What the kernel does not take is counted: all of it is repeated."""
        self._bytes_out.value += len(datagram)
        try:
            if source.ancillary:
                self._udp.sock.sendmsg((datagram,), source.ancillary, 0, source.address)
            else:
                self._udp.sock.sendto(datagram, source.address)
        except OSError:
            UNSENT.labels().value += 1

    # handshakes

    def _handshake(self, raw: bytes, datagram: bytes, control: bytes, now: float) -> None:
        got = self._listener.receive(datagram, raw, now)
        if got is None:
            DROPPED.labels("handshake").value += 1
            return
        source = self._udp.source(raw, control)
        if isinstance(got, bytes):
            self.send(got, source)
            return
        if isinstance(got, Refusal):
            self.send(got.datagram, source)
            ENDS.labels(DOOR, UNFIT).value += 1
            self._tell(source, PeerError(said(got.reason), code=UNFIT), got.reason)
            return
        caller = (raw, got.caller)
        if caller in self._callers:
            session = self._callers[caller]
            if session is not None:  # our answer was lost
                self.send(session.answer, source)
            return
        if caller in self._refused:
            self.send(self._refused[caller][1], source)
            return
        host = plain(source.address)[0]
        try:
            self._gate.enter(host)
        except PeerError as e:
            self._refuse(got, source, e)
            return
        self._callers[caller] = None
        try:
            self._tasks.start(self._decide(got, source, host))
        except LimitExceeded as e:
            self._leave(caller, host)
            self._refuse(got, source, e)

    async def _decide(self, request: Request, source: Source, host: str) -> None:
        caller = (source.raw, request.caller)
        session: SrtSession | None = None
        try:
            try:
                grant, keys = await self._grant(request, host)
                session = await self._open(request, source, host, grant, keys)
            except MedianodeError as e:
                self._refuse(request, source, e)
        finally:
            if session is None:
                self._leave(caller, host)

    async def _grant(self, request: Request, host: str) -> tuple[PublishGrant, Keys | None]:
        """Raises as `Gatekeeper.publish`; Unauthorized also with the codes of _CODES."""
        if not request.stream_id:
            raise Unauthorized("SRT: expected a stream id that brings the stream key")
        wanted = parse_stream_id(request.stream_id)
        if wanted.mode != "publish":
            raise NotEnabled("SRT: this door takes publishers only; streams are played by HLS, WHEP and RTMP")
        if not wanted.key:
            raise Unauthorized("SRT: expected a stream id that brings the stream key")
        if not request.material:
            if self._config.srt.encryption == "required":
                raise Unauthorized("SRT: this node takes encrypted publishers only", code="passphrase-missing")
            return await self._gatekeeper.publish(Door.SRT, wanted.app, wanted.key, wanted.room, source=host), None
        try:
            parse_material(request.material)
        except ProtocolError as e:
            raise Unauthorized(e.message, code="no-cipher") from None
        opened: list[Keys] = []
        spent = 0.0

        def proves(secret: str) -> bool:
            nonlocal spent
            if not fits(secret):
                return False
            keys, began = Keys(secret, self._ciphers), clock.thread_seconds()
            if keys.take(request.material):
                opened.append(keys)
                return True
            spent += clock.thread_seconds() - began
            return False

        # one at a time: of many at once none would have failed yet when the others are asked how often they did
        async with self._proving:
            try:
                grant = await self._gatekeeper.publish(Door.SRT, wanted.app, wanted.key, wanted.room, source=host, proves=proves)
            finally:
                await asyncio.sleep(spent * REST)
        if not opened:
            raise Unauthorized("publish: the SRT passphrase is not the stream's", code="wrong-passphrase")
        return grant, opened[-1]

    async def _open(self, request: Request, source: Source, host: str, grant: PublishGrant, keys: Keys | None) -> SrtSession:
        limits, now = self._config.limits, clock.now()
        own = self._socket_id()
        agreed = accept(request, own, self._config.srt.latency, limits.srt_receive_packets, keys, int(now * 1e6))
        sequence = request.handshake.sequence
        connection = Connection(own, request.caller, sequence, agreed.latency, limits.srt_receive_packets, keys, now)
        session = SrtSession(self._config, connection, source, host, agreed.answer, self.send, self._ended)
        try:
            room, publication = self._registry.publish(grant, DOOR, host, session.fail)
        except Conflict:
            # the same encoder may be back before the goodbye of its old connection was read
            await asyncio.sleep(self._config.srt.read_interval + SECOND_LOOK)
            room, publication = self._registry.publish(grant, DOOR, host, session.fail)
        self.sessions[own] = session
        self._callers[source.raw, request.caller] = session
        session.open(room, publication, encrypted=keys is not None)
        self.send(agreed.answer, source)
        return session

    def _socket_id(self) -> int:
        """30 bits: the one above marks groups."""
        while True:
            own = secrets.randbits(30)
            if own and own not in self.sessions:
                return own

    def _refuse(self, request: Request, source: Source, error: MedianodeError) -> None:
        reason = _CODES.get(error.code)
        if reason is None:
            reason = next((reason for kind, reason in _REASONS if isinstance(error, kind)), Reject.SERVER_ERROR)
        now = clock.now()
        answer = self._listener.refuse(request.handshake, reason, now).datagram
        self.send(answer, source)
        self._refused[source.raw, request.caller] = (now + REMEMBER, answer)
        if len(self._refused) > REMEMBERED:
            self._refused.popitem(last=False)
        ENDS.labels(DOOR, error.code).value += 1
        self._tell(source, error, reason)

    def _tell(self, source: Source, error: MedianodeError, reason: Reject) -> None:
        peer = plain(source.address)[0]
        self._turned_away.tell(peer=peer, door=DOOR, code=error.code, reason=error.message, srt=int(reason))

    def _leave(self, caller: Caller, host: str) -> None:
        self._callers.pop(caller, None)
        self._gate.leave(host)

    def _ended(self, session: SrtSession) -> None:
        self.sessions.pop(session.connection.own, None)
        self._leave((session.source.raw, session.connection.peer), session.peer)
