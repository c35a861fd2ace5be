"""RTSP and RTSPS sources (RFC 2326): cameras. Media by UDP, in the connection, or through the HTTP tunnel of QuickTime.

No thread and no library: a source that hangs costs a socket, every address that it names (redirections, where UDP comes from) passes
`outbound`, and twenty cameras are read on one beat.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
from contextlib import ExitStack
from urllib.parse import SplitResult, unquote, urlsplit

from medianode import clock
from medianode.errors import PeerError, PeerGone, PeerTimeout, ProtocolError, UnsupportedMedia
from medianode.ingress.pull.link import Link, connect
from medianode.ingress.pull.order import PullOrder
from medianode.ingress.pull.rhythm import Rhythm
from medianode.ingress.pull.rtp import RtpSession
from medianode.ingress.pull.source import Intake
from medianode.ingress.pull.tunnel import Tunnel, open_tunnel
from medianode.ingress.pull.words import refused
from medianode.outbound import Outbound
from medianode.protocols.rtsp.client import ClientConnection
from medianode.protocols.rtsp.description import Description, Stream, choose, parse_description
from medianode.protocols.rtsp.messages import Response, parse_parameters

PORTS = {"rtsp": 554, "rtsps": 322}
REDIRECTIONS = 5
NOTHING = 4.0
"""Seconds after PLAY without a packet after which another transport is tried."""
REPORT = 5.0
LOOK = 0.2
UDP_BUFFER = 4 << 20
DATAGRAM = 65_536
UDP_BATCH = 2048
"""Datagrams of one stream at most in one beat."""
Wire = Link | Tunnel


class _Moved(PeerError):
    """The source lives elsewhere."""

    def __init__(self, location: str) -> None:
        super().__init__("the source has moved", code="redirect")
        self.location = location


class RtspSource:
    """`transport`: udp, tcp or http (the tunnel)."""

    def __init__(self, order: PullOrder, transport: str, outbound: Outbound, rhythm: Rhythm) -> None:
        self._order = order
        self._transport = transport
        self._outbound = outbound
        self._rhythm = rhythm

    async def run(self, intake: Intake) -> None:
        url = urlsplit(self._order.url)
        user, password = unquote(url.username or ""), unquote(url.password or "")
        for _ in range(REDIRECTIONS):
            try:
                await self._visit(url, user, password, intake)
                return
            except _Moved as moved:
                there = _follow(url, moved.location)
                if there.hostname != url.hostname:
                    # a password is for who it was given to
                    user, password = unquote(there.username or ""), unquote(there.password or "")
                url = there
        raise ProtocolError(f"the source redirects more than {REDIRECTIONS} times", code="too-many-redirects")

    async def _visit(self, url: SplitResult, user: str, password: str, intake: Intake) -> None:
        host, port = url.hostname or "", url.port or PORTS[url.scheme]
        with ExitStack() as stack:
            wire: Wire
            if self._transport == "http":
                target = f"{url.path or '/'}{'?' + url.query if url.query else ''}"
                opening = open_tunnel(self._outbound, host, port, target, user, password, tls=url.scheme == "rtsps")
                wire = stack.enter_context(await opening)
            else:
                wire = stack.enter_context(await connect(self._outbound, host, port, tls=url.scheme == "rtsps"))
            talk = _Talk(wire, ClientConnection(user, password, lambda: secrets.token_hex(8)))
            shown = url._replace(netloc=url.netloc.rpartition("@")[2], fragment="").geturl()
            description = await talk.describe(shown)
            streams, unknown = choose(description.streams, self._order.grant.kinds)
            session = RtpSession(streams, intake, self._transport, unknown)
            ports = stack.enter_context(_Ports(wire.address)) if self._transport == "udp" else None
            channels = await self._set_up(talk, streams, ports)
            playing = _Playing(talk, session, description, channels, ports)
            stack.callback(playing.leave)
            await playing.run(self._rhythm)

    async def _set_up(self, talk: _Talk, streams: list[Stream], ports: _Ports | None) -> dict[int, tuple[int, bool]]:
        """SETUP of each stream. Channel to (stream, is RTCP), empty over UDP. Raises PeerError."""
        channels: dict[int, tuple[int, bool]] = {}
        for index, stream in enumerate(streams):
            if ports is not None:
                pair = ports.open()
                wanted = f"RTP/AVP;unicast;client_port={pair}-{pair + 1}"
            else:
                wanted = f"RTP/AVP/TCP;unicast;interleaved={index * 2}-{index * 2 + 1}"
            answer = await talk.call("SETUP", stream.url, {"Transport": wanted})
            if answer.status in (461, 459, 457):
                raise UnsupportedMedia(f"the source does not send by {self._transport.upper()}", code="unsupported-transport")
            talk.check(answer, "SETUP")
            transport = answer.header("transport")
            told = parse_parameters(transport)
            if ports is not None:
                if "/tcp" in transport.partition(";")[0].lower():
                    raise UnsupportedMedia("the source sends by TCP only", code="unsupported-transport")
                await self._bind(ports, told)
            else:
                first = told.get("interleaved", "").partition("-")[0]
                if "interleaved" not in told:
                    raise UnsupportedMedia("the source does not send within its connection", code="unsupported-transport")
                at = int(first) & 0xFE if first.isascii() and first.isdigit() and len(first) < 4 and int(first) < 255 else index * 2
                if at in channels:
                    raise UnsupportedMedia("the source sends two streams in one channel", code="unsupported-transport")
                channels[at], channels[at + 1] = (index, False), (index, True)
        return channels

    async def _bind(self, ports: _Ports, told: dict[str, str]) -> None:
        """Where this stream's packets come from. Another host than the one we talk to is looked at like any address."""
        numbers = [int(n) if n.isascii() and n.isdigit() and len(n) < 6 else 0 for n in told.get("server_port", "").split("-")]
        rtp = numbers[0] if 0 < numbers[0] < 65_536 else 0
        rtcp = numbers[1] if len(numbers) > 1 and 0 < numbers[1] < 65_536 else (rtp + 1 if rtp else 0)
        if (source := told.get("source", "")) and source != ports.peer:
            with contextlib.suppress(PeerError):  # a camera behind NAT tells an address of the inside; packets come from the one we know
                ports.allow((await self._outbound.place(source, rtp)).addresses)
        ports.bind(rtp, rtcp)


class _Talk:
    """Requests and answers until PLAY."""

    def __init__(self, wire: Wire, connection: ClientConnection) -> None:
        self.wire = wire
        self.connection = connection

    async def call(self, method: str, url: str, headers: dict[str, str] | None = None) -> Response:
        """Raises PeerError, OSError."""
        connection = self.connection
        number = connection.request(method, url, headers)
        while True:
            if data := connection.data_to_send():
                await self.wire.send(data)
            if (answer := connection.responses.pop(number, None)) is not None:
                if 300 <= answer.status < 400 and answer.header("location"):
                    raise _Moved(answer.header("location"))
                return answer
            data = await self.wire.receive()
            if not data:
                raise PeerGone(f"the source closed the connection instead of answering {method}", code="connection-reset")
            connection.receive_data(data)

    async def describe(self, url: str) -> Description:
        await self.call("OPTIONS", url)  # whatever it says: some cameras want to be asked
        answer = await self.call("DESCRIBE", url, {"Accept": "application/sdp"})
        self.check(answer, "DESCRIBE")
        base = answer.header("content-base") or answer.header("content-location") or url
        if base.partition("://")[0].lower() not in PORTS:
            base = url
        return parse_description(answer.body.decode("utf-8", "replace"), base)

    def check(self, answer: Response, step: str) -> None:
        if answer.status != 200:
            code, message = refused(answer.status, step)
            raise PeerError(message, code=code)


class _Playing:
    """From PLAY to the end."""

    def __init__(
        self, talk: _Talk, session: RtpSession, description: Description, channels: dict[int, tuple[int, bool]], ports: _Ports | None
    ) -> None:
        self._talk = talk
        self._session = session
        self._url = description.url
        self._channels = channels
        self._ports = ports
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._heard = False
        self._began = self._look_at = self._report_at = self._alive_at = 0.0

    async def run(self, rhythm: Rhythm) -> None:
        """Raises PeerError, OSError."""
        if self._ports is not None:
            self._ports.punch()
        talk = self._talk
        talk.check(await talk.call("PLAY", self._url, {"Range": "npt=0.000-"}), "PLAY")
        now = self._began = clock.now()
        self._report_at, self._alive_at = now + 1.0, now + self._pause
        leave = rhythm.join(self._beat)
        try:
            await self._done
        finally:
            leave()

    def leave(self) -> None:
        """TEARDOWN, without waiting for what is said to it: cameras have few seats."""
        connection = self._talk.connection
        with contextlib.suppress(PeerError, OSError):
            if connection.session:
                connection.request("TEARDOWN", self._url)
                self._talk.wire.write(connection.data_to_send())

    @property
    def _pause(self) -> float:
        """Seconds between signs of life: a third of what the server waits, for it may round down."""
        return self._talk.connection.session_timeout / 3

    def _beat(self, now: float) -> None:
        try:
            self._read(now)
        except (PeerError, OSError) as e:
            if not self._done.done():
                self._done.set_exception(e)

    def _read(self, now: float) -> None:
        connection, wire = self._talk.connection, self._talk.wire
        data, ended = wire.poll()
        if data:
            connection.receive_data(data)
        for channel, frame in connection.take_frames():
            if (found := self._channels.get(channel)) is not None:
                self._take(*found, frame, now)
        if self._ports is not None:
            for index, datagram in self._ports.receive(0):
                self._take(index, False, datagram, now)
        connection.responses.clear()  # of signs of life: what they say is nothing to us
        if ended or connection.says_goodbye:
            raise PeerGone("the source ended the stream", code="source-ended")
        if not self._heard and now - self._began >= NOTHING:
            raise PeerTimeout(f"the source plays, but nothing came for {NOTHING:g} s", code="nothing-came")
        if now >= self._look_at:
            self._look_at = now + LOOK
            if self._ports is not None:
                for index, datagram in self._ports.receive(1):
                    self._take(index, True, datagram, now)
            self._session.look(now)
            self._duties(now)
        wire.write(connection.data_to_send())

    def _take(self, index: int, is_rtcp: bool, data: bytes, now: float) -> None:
        if is_rtcp:
            self._session.rtcp(index, data, now)
        else:
            self._heard = True
            self._session.rtp(index, data, now)

    def _duties(self, now: float) -> None:
        connection = self._talk.connection
        if now >= self._report_at:
            self._report_at = now + REPORT
            reports = self._session.reports(now)
            if self._ports is not None:
                self._ports.report(reports)
            for channel, (index, is_rtcp) in self._channels.items():
                if is_rtcp:
                    connection.send_frame(channel, reports[index])
        if now >= self._alive_at:
            self._alive_at = now + self._pause
            connection.forget()
            connection.request("GET_PARAMETER" if "GET_PARAMETER" in connection.public else "OPTIONS", self._url)


class _Ports:
    """A pair of UDP sockets per stream, read by polling. Packets of anybody but the source are not looked at."""

    def __init__(self, peer: str) -> None:
        self.peer = peer
        self._family = socket.AF_INET6 if ":" in peer else socket.AF_INET
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._bound: list[tuple[int, int]] = []
        self._allowed = {peer}

    def __enter__(self) -> _Ports:
        return self

    def __exit__(self, *_: object) -> None:
        for pair in self._pairs:
            for sock in pair:
                sock.close()

    def open(self) -> int:
        """A pair with an even port, which it returns (RFC 3550 11). Raises OSError."""
        for _ in range(64):
            with ExitStack() as unless_done:
                rtp = unless_done.enter_context(self._socket(0))
                port = rtp.getsockname()[1]
                if port % 2:
                    continue
                try:
                    rtcp = unless_done.enter_context(self._socket(port + 1))
                except OSError:
                    continue
                unless_done.pop_all()
                self._pairs.append((rtp, rtcp))
                return int(port)
        raise OSError("no pair of UDP ports is free")

    def allow(self, addresses: tuple[str, ...]) -> None:
        self._allowed.update(addresses)

    def bind(self, rtp: int, rtcp: int) -> None:
        """Where the source of the pair opened last sends from, 0 where it did not say."""
        self._bound.append((rtp, rtcp))

    def punch(self) -> None:
        """Open the way through NATs and firewalls, as every client does: an empty RTP packet and an empty report."""
        for pair, ports in zip(self._pairs, self._bound, strict=True):
            for sock, port, data in zip(pair, ports, (b"\x80" + bytes(11), b"\x80\xc9\0\1\0\0\0\0"), strict=True):
                self._send(sock, port, data)

    def report(self, reports: list[bytes]) -> None:
        for (_, sock), (_, port), data in zip(self._pairs, self._bound, reports, strict=True):
            self._send(sock, port, data)

    def receive(self, which: int) -> list[tuple[int, bytes]]:
        """All RTP (0) or RTCP (1) that is there: (stream, datagram)."""
        out: list[tuple[int, bytes]] = []
        for index, pair in enumerate(self._pairs):
            sock = pair[which]
            for _ in range(UDP_BATCH):
                try:
                    data, sender = sock.recvfrom(DATAGRAM)
                except BlockingIOError:
                    break
                except ConnectionError:  # an ICMP answer to what we sent
                    continue
                if sender[0] in self._allowed:
                    out.append((index, data))
        return out

    def _send(self, sock: socket.socket, port: int, data: bytes) -> None:
        if port:
            with contextlib.suppress(OSError):
                sock.sendto(data, (self.peer, port))

    def _socket(self, port: int) -> socket.socket:
        sock = socket.socket(self._family, socket.SOCK_DGRAM)
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, UDP_BUFFER)
            sock.bind(("::" if self._family == socket.AF_INET6 else "0.0.0.0", port))  # noqa: S104 - who sends is looked at
        except OSError:
            sock.close()
            raise
        return sock


def _follow(url: SplitResult, location: str) -> SplitResult:
    """Raises ProtocolError. Never from TLS to none."""
    try:
        there = urlsplit(location)
        usable = there.scheme in PORTS and bool(there.hostname) and there.port != 0
    except ValueError:
        usable = False
    if not usable or (url.scheme == "rtsps" and there.scheme != "rtsps"):
        raise ProtocolError("the source redirects to an address that is not followed", code="bad-redirect")
    return there
