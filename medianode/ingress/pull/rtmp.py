"""RTMP and RTMPS sources: we are a player there."""

from __future__ import annotations

import asyncio
import secrets

from medianode import clock
from medianode.config import Limits
from medianode.errors import PeerError, PeerGone, ProtocolError
from medianode.ingress.assembler import Assembler
from medianode.ingress.pull.link import Link, connect
from medianode.ingress.pull.order import PullOrder, without_secrets
from medianode.ingress.pull.rhythm import Rhythm
from medianode.ingress.pull.source import Intake
from medianode.ingress.tags import take_tag
from medianode.media.timeline import Unwrapper
from medianode.outbound import Outbound
from medianode.protocols.rtmp.client import ChallengeReceived, ClientConnection, Connected, Rejected, Status
from medianode.protocols.rtmp.messages import Media, PeerClosed
from medianode.protocols.rtmp.url import RtmpUrl, parse_rtmp_url

ROUNDS = 3
"""Connections until Adobe's challenge is answered."""
_ENDS = frozenset({"NetStream.Play.UnpublishNotify", "NetStream.Play.Stop", "NetStream.Play.Complete", "NetStream.Play.StreamNotFound"})


class RtmpSource:
    def __init__(self, order: PullOrder, outbound: Outbound, rhythm: Rhythm, limits: Limits) -> None:
        self._order = order
        self._outbound = outbound
        self._rhythm = rhythm
        self._limits = limits

    async def run(self, intake: Intake) -> None:
        url = parse_rtmp_url(self._order.url)
        query = ""
        for _ in range(ROUNDS):
            with await connect(self._outbound, url.host, url.port, tls=url.secure) as link:
                challenge = await _Player(self._order, url, query, link, intake, self._limits).run(self._rhythm)
            if not challenge:
                return
            query = challenge
        raise PeerError("the server keeps asking for a password", code="unauthorized")


class _Player:
    """One connection."""

    def __init__(self, order: PullOrder, url: RtmpUrl, query: str, link: Link, intake: Intake, limits: Limits) -> None:
        self._order = order
        self._name = url.name
        self._link = link
        self._intake = intake
        self._assembler: Assembler | None = None
        self._unwrapper = Unwrapper()
        self._connection = ClientConnection(
            url.app,
            url.tc_url,
            random=secrets.token_bytes,
            user=url.user,
            password=url.password,
            query=query,
            max_message_bytes=limits.rtmp_message_bytes,
            max_partial_bytes=limits.rtmp_pending_bytes,
            max_chunk_streams=limits.rtmp_chunk_streams,
        )
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def run(self, rhythm: Rhythm) -> str:
        """The query to connect again with, or empty at the end. Raises PeerError, OSError."""
        connection, link = self._connection, self._link
        while self._assembler is None:
            if data := connection.data_to_send():
                await link.send(data)
            data = await link.receive()
            if not data:
                raise PeerGone("the server closed the connection before anything came", code="connection-reset")
            connection.receive_data(data)
            if challenge := self._events(clock.now()):
                return challenge
        leave = rhythm.join(self._beat)
        try:
            await self._done
        finally:
            leave()
        return ""

    def _beat(self, now: float) -> None:
        try:
            data, ended = self._link.poll()
            if data:
                self._connection.receive_data(data)
                self._events(now)
            self._link.write(self._connection.data_to_send())
            if ended:
                raise PeerGone("the server ended the stream", code="source-ended")
        except (PeerError, OSError) as e:
            if not self._done.done():
                self._done.set_exception(e)

    def _events(self, now: float) -> str:
        for event in self._connection.events():
            if type(event) is Media:
                self._media(event, now)
            elif isinstance(event, Connected):
                self._connection.play(self._name)
            elif isinstance(event, ChallengeReceived):
                return event.query
            elif isinstance(event, Rejected):
                raise self._rejected(event.code, event.description)
            elif isinstance(event, Status) and event.code in _ENDS:
                raise self._ended(event.code)
            elif isinstance(event, PeerClosed):
                raise PeerGone("the server ended the stream", code="source-ended")
        return ""

    def _media(self, event: Media, now: float) -> None:
        if not event.payload:
            return
        if self._assembler is None:
            self._assembler = self._intake.begin(self._order.scheme)
        self._intake.heard(len(event.payload), now)
        take_tag(self._assembler, event.kind, event.payload, self._unwrapper.unwrap(event.timestamp), now)

    def _rejected(self, code: str, description: str) -> PeerError:
        words = without_secrets(f"{code}: {description}" if description else code, self._order.url)
        if "StreamNotFound" in code:
            return PeerError(f"nobody publishes there ({words})", code="not-found")
        refused = "auth" in description.lower() or "denied" in description.lower()
        return PeerError(f"the server refuses ({words})", code="unauthorized" if refused else "rejected")

    def _ended(self, code: str) -> ProtocolError | PeerGone:
        if code == "NetStream.Play.StreamNotFound":
            return ProtocolError("nobody publishes there", code="not-found")
        return PeerGone("the server ended the stream", code="source-ended")
