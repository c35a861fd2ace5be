"""An RTMP(S) publisher: what `medianode push` sends with. No re-encode; enhanced RTMP where the codec is not legacy's."""

from __future__ import annotations

import asyncio
import secrets
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from medianode.errors import InvalidRequest, PeerError, PeerGone, PeerTimeout
from medianode.media.packet import Packet
from medianode.media.track import Codec, Track
from medianode.protocols import flv
from medianode.protocols.amf import Value
from medianode.protocols.flv import PacketType
from medianode.protocols.rtmp.client import ChallengeReceived, ClientConnection, ClientEvent, Connected, Publishing, Rejected
from medianode.protocols.rtmp.messages import PeerClosed

TIMEOUT = 10.0
_CONFIGURED = frozenset({Codec.H264, Codec.HEVC, Codec.AV1, Codec.VP9, Codec.AAC, Codec.OPUS, Codec.FLAC})


@dataclass(frozen=True, slots=True)
class RtmpUrl:
    """rtmp[s]://[user:password@]host[:port]/app[/instance]/name: the last path segment, with its query, is the stream's name."""

    secure: bool
    host: str
    port: int
    app: str
    name: str = field(repr=False)
    user: str = ""
    password: str = field(default="", repr=False)

    @property
    def tc_url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'rtmps' if self.secure else 'rtmp'}://{host}:{self.port}/{self.app}"


def parse_rtmp_url(text: str) -> RtmpUrl:
    """Raises InvalidRequest."""
    try:
        url = urlsplit(text)
    except ValueError as e:  # a bracket without its other half
        raise InvalidRequest(f"expected rtmp://host/app/key or rtmps://…: {e}") from None
    if url.scheme not in ("rtmp", "rtmps") or not url.hostname:
        raise InvalidRequest(f"expected rtmp://host/app/key or rtmps://…, got {url.scheme or text[:20]!r}")
    app, _, name = url.path.lstrip("/").rpartition("/")
    if not app or not name:
        raise InvalidRequest("expected rtmp://host/app/key: an app and a stream name or key behind the host")
    secure = url.scheme == "rtmps"
    try:
        port = url.port or (443 if secure else 1935)
    except ValueError as e:
        raise InvalidRequest(f"port: {e}") from None
    query = f"?{url.query}" if url.query else ""
    return RtmpUrl(secure, url.hostname, port, app, name + query, unquote(url.username or ""), unquote(url.password or ""))


class RtmpPublisher:
    """Made by `open_publisher`. `send` waits while the peer is slow; time runs from the first packet."""

    def __init__(self, connection: ClientConnection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connection = connection
        self._reader = reader
        self._writer = writer
        self._origin: float | None = None
        self.sent_bytes = 0

    async def open_tracks(self, tracks: tuple[Track, ...]) -> None:
        """onMetaData and sequence headers; again when a configuration changes."""
        metadata: dict[str, Value] = {"encoder": "medianode"}
        for track in tracks:
            if track.is_video:
                metadata |= {"width": float(track.width), "height": float(track.height), "framerate": track.frame_rate}
            else:
                metadata |= {"audiosamplerate": float(track.sample_rate), "audiochannels": float(track.channels)}
        self._connection.send_metadata(metadata)
        for track in tracks:
            if track.codec in _CONFIGURED:
                make = flv.video_tag if track.is_video else flv.audio_tag
                self._connection.send_media(track.kind, 0, make(track.codec, PacketType.CONFIG, track.config))
        await self._flush()

    async def send(self, packet: Packet) -> None:
        """Raises PeerGone when the server has closed, PeerTimeout when it reads nothing for ten seconds."""
        if self._reader.at_eof():
            raise PeerGone("the server closed the connection")
        track = packet.track
        seconds = packet.dts / track.clock_rate
        if self._origin is None:
            self._origin = seconds
        ms = max(0, round((seconds - self._origin) * 1000)) & 0xFFFFFFFF
        if track.is_video:
            composition = round((packet.pts - packet.dts) * 1000 / track.clock_rate)
            tag = flv.video_tag(track.codec, PacketType.FRAMES, packet.data, keyframe=packet.keyframe, composition_time=composition)
        else:
            tag = flv.audio_tag(track.codec, PacketType.FRAMES, packet.data)
        self._connection.send_media(track.kind, ms, tag)
        await self._flush()

    async def watch(self) -> None:
        """Read what the server says until it closes. Raises PeerError with its reason, PeerGone at the end."""
        while data := await self._reader.read(65_536):
            self._connection.receive_data(data)
            for event in self._connection.events():
                if isinstance(event, Rejected):
                    raise PeerError(f"the server ended it: {event.code}: {event.description}", code="rejected")
            await self._flush()
        raise PeerGone("the server closed the connection")

    async def finish(self) -> None:
        self._connection.close()
        await self._flush()

    async def next_events(self) -> list[ClientEvent]:
        data = await self._reader.read(65_536)
        if data:
            self._connection.receive_data(data)
        else:
            self._connection.receive_eof()
        events = self._connection.events()
        await self._flush()
        return events

    async def _flush(self) -> None:
        data = self._connection.data_to_send()
        self.sent_bytes += len(data)
        if self._writer.is_closing():
            raise PeerGone("the server closed the connection")
        self._writer.write(data)
        try:
            async with asyncio.timeout(TIMEOUT):
                await self._writer.drain()
        except TimeoutError:
            raise PeerTimeout(f"the server read nothing for {TIMEOUT:g} s") from None


@asynccontextmanager
async def open_publisher(url: RtmpUrl, *, verify: ssl.SSLContext | None = None) -> AsyncIterator[RtmpPublisher]:
    """Connect, answer Adobe's challenge where asked, publish. Raises PeerError with the server's reason, OSError, TimeoutError.

    `verify`: the TLS context for rtmps; the system's trust store by default.
    """
    query = ""
    for _ in range(3):
        reader, writer = await asyncio.wait_for(
            asyncio.open_connection(url.host, url.port, ssl=(verify or ssl.create_default_context()) if url.secure else None), TIMEOUT
        )
        try:
            connection = ClientConnection(
                url.app, url.tc_url, random=secrets.token_bytes, user=url.user, password=url.password, query=query
            )
            publisher = RtmpPublisher(connection, reader, writer)
            async with asyncio.timeout(TIMEOUT):
                challenge = await _negotiate(publisher, connection, url)
            if challenge:
                query = challenge
                continue
            yield publisher
            return
        finally:
            writer.close()
    raise PeerError("the server kept asking for a password", code="rejected")


async def _negotiate(publisher: RtmpPublisher, connection: ClientConnection, url: RtmpUrl) -> str:
    """Until Publishing: empty, or the query to connect again with."""
    await publisher._flush()
    while True:
        for event in await publisher.next_events():
            match event:
                case Connected():
                    connection.publish(url.name)
                    await publisher._flush()
                case Publishing():
                    return ""
                case ChallengeReceived(query=query):
                    return query
                case Rejected(code=code, description=description):
                    raise PeerError(f"{code}: {description}", code="rejected")
                case PeerClosed():
                    raise PeerGone("the server closed the connection before publishing began")
                case _:
                    pass
