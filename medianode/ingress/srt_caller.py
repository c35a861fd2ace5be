"""SRT sources that listen: we call them (`srt://HOST:PORT?streamid=…&passphrase=…&latency=…`) and receive, in the loop."""

from __future__ import annotations

import asyncio
import math
import secrets
import socket
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from urllib.parse import parse_qsl

from medianode import clock
from medianode.config import Config
from medianode.errors import InvalidRequest, PeerGone
from medianode.ingress.pull.rhythm import LONG, REST
from medianode.ingress.pull.source import Intake
from medianode.ingress.srt_cipher import AesCiphers
from medianode.ingress.srt_session import pour
from medianode.ingress.transport_stream import TransportStream
from medianode.outbound import Outbound
from medianode.protocols.srt.caller import Caller
from medianode.protocols.srt.handshake import MAX_STREAM_ID
from medianode.protocols.srt.keys import ENCRYPTION, MAX_PASSPHRASE, MIN_PASSPHRASE, fits
from medianode.tasks import every

SLOT = 2048
MAX_READS = 1024
"""Datagrams of one turn: half a gigabit a second."""
RECEIVE_BUFFER = 4 << 20
LEAST_MICROSECONDS = 10_000
"""FFmpeg writes `latency` in µs, all others in ms: nobody means ten seconds."""
MAX_LATENCY = 8.0
SHARE = 3.0
"""Seconds that each address of a name has to answer, but for the last, which has as long as it is let."""


@dataclass(frozen=True, slots=True)
class SrtUrl:
    """`latency`: seconds, 0 where it does not say. `stream_id` and `passphrase` are secrets."""

    host: str
    port: int
    stream_id: str = field(repr=False)
    passphrase: str = field(repr=False)
    key_size: int
    latency: float


def parse_url(url: str, outbound: Outbound) -> SrtUrl:
    """FFmpeg's and srt-live-transmit's options; those that say nothing to a caller that receives are passed over. Raises InvalidRequest."""
    parts = outbound.parse(url, ("srt",))
    if not parts.port:
        raise InvalidRequest("url: expected srt://HOST:PORT")
    # FFmpeg knows no fragments: `streamid=#!::r=…` is written as it stands
    options = f"{parts.query}#{parts.fragment}" if parts.fragment else parts.query
    try:
        query = dict(parse_qsl(options, keep_blank_values=False, max_num_fields=32))
    except ValueError:
        raise InvalidRequest("url: expected at most 32 options") from None
    if query.get("mode", "caller") not in ("caller", "client"):
        raise InvalidRequest("url: expected mode=caller; a node that others call listens on srt.listen, and rendezvous is not offered")
    if query.get("transtype", "live") != "live":
        raise InvalidRequest("url: expected transtype=live")
    passphrase, stream_id = query.get("passphrase", ""), query.get("streamid", "")
    if passphrase and not fits(passphrase):
        raise InvalidRequest(f"url: expected a passphrase of {MIN_PASSPHRASE} to {MAX_PASSPHRASE} bytes")
    if len(stream_id.encode()) > MAX_STREAM_ID:
        raise InvalidRequest(f"url: expected a streamid of at most {MAX_STREAM_ID} bytes")
    key_size = _number(query, "pbkeylen", 16) or 16
    if key_size not in ENCRYPTION:
        raise InvalidRequest("url: expected pbkeylen 16, 24 or 32")
    told = max(_number(query, name, 0) for name in ("latency", "rcvlatency", "tsbpddelay"))
    seconds = told / (1e6 if told >= LEAST_MICROSECONDS else 1e3)
    return SrtUrl(parts.hostname or "", parts.port, stream_id, passphrase, key_size, min(seconds, MAX_LATENCY))


def _number(query: dict[str, str], name: str, default: int) -> int:
    text = query.get(name, "")
    if not text:
        return default
    if not text.isdecimal() or len(text) > 9:
        raise InvalidRequest(f"url: expected a number as {name}")
    return int(text)


class SrtCaller:
    """A `pull.source.Source`. Its socket is connected to the one address that was looked at, so nobody else is heard."""

    def __init__(self, url: str, outbound: Outbound, config: Config) -> None:
        self._url = parse_url(url, outbound)
        self._outbound = outbound
        self._config = config

    async def run(self, intake: Intake) -> None:
        place = await self._outbound.place(self._url.host, self._url.port)
        *others, last = place.addresses
        for address in others:
            try:
                await self._call(address, intake, SHARE)
            except OSError:  # TimeoutError is one
                if intake.publication is not None:
                    raise
        await self._call(last, intake, math.inf)

    async def _call(self, address: str, intake: Intake, patience: float) -> None:
        """To its end, which raises. OSError where nobody answers there."""
        url, limits = self._url, self._config.limits
        with _connected(address, url.port) as sock:
            caller = Caller(
                secrets.randbits(30) or 1,
                random=secrets.token_bytes,
                ciphers=AesCiphers(),
                stream_id=url.stream_id,
                passphrase=url.passphrase,
                key_size=url.key_size,
                latency=url.latency or self._config.srt.latency,
                max_packets=limits.srt_receive_packets,
            )
            try:
                await self._receive(sock, caller, intake, clock.now() + patience)
            finally:
                if caller.connection is not None:
                    caller.connection.shutdown(clock.now())
                    _send_all(sock, caller.connection.datagrams())

    async def _receive(self, sock: socket.socket, caller: Caller, intake: Intake, until: float) -> None:
        stream: TransportStream | None = None
        heard = 0
        async for now in _beats(self._config.srt.read_interval):
            if (greeting := caller.datagram(now)) is not None:
                _send_all(sock, [greeting])
            ended = False
            try:
                for datagram in _read_all(sock):
                    caller.receive(datagram, now)
            except ConnectionRefusedError:
                if caller.connection is None:
                    raise
                ended = True  # its goodbye was lost
            connection = caller.connection
            if connection is None:
                if now >= until:
                    raise TimeoutError
                continue
            if stream is None:
                stream = TransportStream(intake.begin("srt"))
            connection.tick(now)
            pour(connection, stream, now)
            _send_all(sock, connection.datagrams())
            if connection.nbytes > heard:
                intake.heard(connection.nbytes - heard, now)
                heard = connection.nbytes
            if connection.closed or ended:
                stream.finish(now, whole=False)
                raise PeerGone("SRT: the source ended the connection", code="source-ended")


async def _beats(interval: float) -> AsyncIterator[float]:
    """As `every`. After one that computed for long there is a rest, as `Rhythm` has it: what a flood brings meanwhile the kernel drops."""
    async for now in every(interval):
        began = clock.thread_seconds()
        yield now
        if (took := clock.thread_seconds() - began) > interval * LONG:
            await asyncio.sleep(took * REST)


def _connected(address: str, port: int) -> socket.socket:
    """Raises OSError."""
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        sock.connect((address, port))
    except OSError:
        sock.close()
        raise
    return sock


def _read_all(sock: socket.socket) -> Iterator[bytes]:
    """What waits. Raises ConnectionRefusedError where nobody listens there (any more)."""
    for _ in range(MAX_READS):
        try:
            datagram = sock.recv(SLOT)
        except BlockingIOError:
            return
        yield datagram


def _send_all(sock: socket.socket, datagrams: list[bytes]) -> None:
    for datagram in datagrams:
        try:
            sock.send(datagram)
        except (BlockingIOError, ConnectionRefusedError):  # it is said again; who is gone is noticed by reading
            return
