"""An RTMP(S) publisher: what `medianode push` and simulcast send with. No re-encode; enhanced RTMP where the codec is not legacy's."""

from __future__ import annotations

import asyncio
import secrets
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, closing
from typing import Any

from medianode.errors import PeerError, PeerGone, PeerTimeout
from medianode.media.packet import Packet
from medianode.media.track import Codec, Track
from medianode.protocols import flv
from medianode.protocols.amf import Value
from medianode.protocols.flv import PacketType
from medianode.protocols.rtmp.client import ChallengeReceived, ClientConnection, ClientEvent, Connected, Publishing, Rejected
from medianode.protocols.rtmp.messages import PeerClosed
from medianode.protocols.rtmp.url import RtmpUrl

TIMEOUT = 10.0
LINGER = 2.0
"""Seconds that a closed connection may take to send what it still has."""
WATCHED = 4096
"""A server acknowledges, says a status and seldom pings: some bytes a second."""
LEAP = 1.0
"""Seconds that media time may differ from what has passed, before it is taken for another timeline."""
STEP = 0.005
"""Seconds at least by which another timeline is later: dts and the delay of pictures are each rounded to milliseconds."""
_CONFIGURED = frozenset({Codec.H264, Codec.HEVC, Codec.AV1, Codec.VP9, Codec.AAC, Codec.OPUS, Codec.FLAC})


class Stamps:
    """Media time to RTMP's milliseconds, from 0 on. Where the timeline breaks, time goes on by what has passed on the clock."""

    __slots__ = ("_breaks", "_origin", "_received_at", "last")

    def __init__(self) -> None:
        self._origin: float | None = None
        self._breaks = False
        self._received_at = 0.0
        self.last = 0

    def break_off(self) -> None:
        """The next packet may be of another timeline."""
        self._breaks = True

    def place(self, packet: Packet) -> int:
        """Its dts in milliseconds; a caller takes them modulo 2**32."""
        seconds = packet.dts / packet.track.clock_rate
        if self._origin is None:
            self._origin = seconds
        elif self._breaks:
            passed = max(STEP, packet.received_at - self._received_at)
            expected = self.last / 1000 + passed
            if abs(seconds - self._origin - expected) > LEAP:
                self._origin = seconds - expected
        self._breaks = False
        self._received_at = packet.received_at
        ms = max(0, round((seconds - self._origin) * 1000))
        self.last = max(self.last, ms)
        return ms


class RtmpPublisher:
    """Made by `open_publisher`. Time runs from the first packet. `fourcc`: what the server says it takes of Enhanced RTMP.

    `put` and `write` never wait; `send` does, while the server is slow.
    """

    def __init__(self, connection: ClientConnection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connection = connection
        self._reader = reader
        self._writer = writer
        self.stamps = Stamps()
        self.fourcc: frozenset[str] = frozenset()
        self.sent_bytes = 0

    @property
    def socket(self) -> Any:
        """To read options of: asyncio's TransportSocket or uvloop's PseudoSocket."""
        return self._writer.transport.get_extra_info("socket")

    @property
    def closing(self) -> bool:
        return self._writer.is_closing()

    @property
    def unsent(self) -> int:
        """Bytes that the kernel has not taken yet."""
        return self._writer.transport.get_write_buffer_size()

    def declare(self, tracks: Sequence[Track]) -> None:
        """onMetaData and sequence headers, before their first packet; again when a configuration changes. At most one of each kind."""
        told: dict[str, float] = {}
        for track in tracks:
            code = float(flv.metadata_codec_id(track.codec))
            if track.is_video:
                told |= {"width": track.width, "height": track.height, "framerate": track.frame_rate, "videocodecid": code}
            else:
                told |= {"audiosamplerate": track.sample_rate, "audiochannels": track.channels, "audiocodecid": code}
        metadata: dict[str, Value] = {name: float(value) for name, value in told.items() if value}
        self._connection.send_metadata({**metadata, "encoder": "medianode"})
        for track in tracks:
            if track.codec in _CONFIGURED:
                make = flv.video_tag if track.is_video else flv.audio_tag
                self._connection.send_media(track.kind, self.stamps.last & 0xFFFFFFFF, make(track.codec, PacketType.CONFIG, track.config))

    def put(self, packet: Packet) -> None:
        """To go with the next `write`."""
        track = packet.track
        ms = self.stamps.place(packet) & 0xFFFFFFFF
        if track.is_video:
            composition = round((packet.pts - packet.dts) * 1000 / track.clock_rate)
            tag = flv.video_tag(track.codec, PacketType.FRAMES, packet.data, keyframe=packet.keyframe, composition_time=composition)
        else:
            tag = flv.audio_tag(track.codec, PacketType.FRAMES, packet.data)
        self._connection.send_media(track.kind, ms, tag)

    def write(self) -> int:
        """Give all that was put to the transport. Returns how many bytes. Raises PeerGone."""
        data = self._connection.data_to_send()
        if self._writer.is_closing():
            raise PeerGone("the server closed the connection")
        if data:
            self.sent_bytes += len(data)
            self._writer.write(data)
        return len(data)

    async def open_tracks(self, tracks: Sequence[Track]) -> None:
        self.declare(tracks)
        await self._flush()

    async def send(self, packet: Packet) -> None:
        """Raises PeerGone when the server has closed, PeerTimeout when it reads nothing for ten seconds."""
        if self._reader.at_eof():
            raise PeerGone("the server closed the connection")
        self.put(packet)
        await self._flush()

    async def watch(self, heard: Callable[[ClientEvent], None] | None = None, rest: float = 0.0) -> None:
        """Read what the server says until it closes, WATCHED bytes and then `rest` seconds nothing: one that has pings without end to be
        answered gets no more of us than that. Raises PeerError with its reason, PeerGone at the end.
        """
        while data := await self._reader.read(WATCHED):
            self._connection.receive_data(data)
            for event in self._connection.events():
                if isinstance(event, Rejected):
                    raise PeerError(f"the server ended it: {event.code}: {event.description}", code="rejected")
                if heard is not None:
                    heard(event)
            self.write()
            await asyncio.sleep(rest)
        raise PeerGone("the server closed the connection")

    def farewell(self) -> None:
        """Say goodbye, without waiting for it to be heard. Idempotent; harmless on a connection that is gone."""
        self._connection.close()
        if not self._writer.is_closing():
            self._writer.write(self._connection.data_to_send())

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
        self.write()
        try:
            async with asyncio.timeout(TIMEOUT):
                await self._writer.drain()
        except TimeoutError:
            raise PeerTimeout(f"the server read nothing for {TIMEOUT:g} s") from None


@asynccontextmanager
async def open_publisher(
    url: RtmpUrl, *, verify: ssl.SSLContext | None = None, addresses: Sequence[str] = (), window: int = 0
) -> AsyncIterator[RtmpPublisher]:
    """Connect, answer Adobe's challenge where asked, publish. Raises PeerError with the server's reason, OSError, TimeoutError.

    `verify`: the TLS context for rtmps; the system's trust store by default. `addresses`: where the host is, if it was looked up already.
    `window`: bytes after which the server is asked to acknowledge.
    """
    query = ""
    for _ in range(3):
        reader, writer = await _connect(url, verify, addresses or (url.host,))
        with closing(writer):
            connection = ClientConnection(
                url.app, url.tc_url, random=secrets.token_bytes, user=url.user, password=url.password, query=query, window=window
            )
            publisher = RtmpPublisher(connection, reader, writer)
            try:
                async with asyncio.timeout(TIMEOUT):
                    challenge = await _negotiate(publisher, connection, url)
                if challenge:
                    query = challenge
                    continue
                yield publisher
                return
            finally:
                # a closed transport still sends what it has: to somebody who does not read that would be for ever
                asyncio.get_running_loop().call_later(LINGER, writer.transport.abort)
    raise PeerError("the server kept asking for a password", code="rejected")


async def _connect(
    url: RtmpUrl, verify: ssl.SSLContext | None, addresses: Sequence[str]
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """The first of the addresses that answers, in TIMEOUT all together. Raises the last one's OSError, TimeoutError."""
    context = (verify or ssl.create_default_context()) if url.secure else None
    name = url.host if url.secure else None
    async with asyncio.timeout(TIMEOUT):
        for i, address in enumerate(addresses, 1):
            share = TIMEOUT / len(addresses)
            try:
                async with asyncio.timeout(share):
                    return await asyncio.open_connection(address, url.port, ssl=context, server_hostname=name)
            except (OSError, TimeoutError):
                if i == len(addresses):
                    raise
    raise TimeoutError


async def _negotiate(publisher: RtmpPublisher, connection: ClientConnection, url: RtmpUrl) -> str:
    """Until Publishing: empty, or the query to connect again with."""
    await publisher._flush()
    while True:
        for event in await publisher.next_events():
            match event:
                case Connected(fourcc=fourcc):
                    publisher.fourcc = fourcc
                    connection.publish(url.name)
                    await publisher._flush()
                case Publishing():
                    return ""
                case ChallengeReceived(query=query):
                    return query
                case Rejected(code=code, description=description):
                    raise PeerError(f"{code}: {description}", code="rejected")
                case PeerClosed():
                    raise PeerGone("the server closed the connection before publishing began: is the stream key right?")
                case _:
                    pass
