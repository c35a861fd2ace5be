"""HTTP and HTTPS sources: FLV, MPEG-TS, HLS, motion JPEG, and what else FFmpeg knows of live streams. Their first bytes tell which."""

from __future__ import annotations

import asyncio
from typing import Protocol

import aiohttp

from medianode import clock
from medianode.config import Config
from medianode.errors import PeerGone, ProtocolError, UnsupportedMedia
from medianode.ingress.assembler import Assembler
from medianode.ingress.pull.demuxed import take_unit
from medianode.ingress.pull.fetch import Fetcher, open_fetcher
from medianode.ingress.pull.hls import HlsReader
from medianode.ingress.pull.order import PullOrder
from medianode.ingress.pull.rhythm import REST
from medianode.ingress.pull.source import Intake
from medianode.ingress.tags import take_tag
from medianode.ingress.transport_stream import TransportStream
from medianode.media.timeline import Unwrapper
from medianode.media.track import Codec, Kind
from medianode.outbound import Outbound
from medianode.protocols.multipart import PartReader, boundary_of
from medianode.transcode.puller import LIVE_FORMATS, StreamDemuxer

FIRST = 376
"""Bytes that tell what it is: two packets of a transport stream."""
SLICE = 1 << 16
"""Bytes that are taken apart in one go."""
MAX_PICTURE = 8 << 20
MAX_TAG = 16 << 20
_KINDS = {8: Kind.AUDIO, 9: Kind.VIDEO}
"""FLV's TagType."""


class Format(Protocol):
    """Makes packets of bytes."""

    async def feed(self, data: bytes, now: float) -> None: ...

    def finish(self, now: float) -> None: ...


class HttpSource:
    def __init__(self, order: PullOrder, outbound: Outbound, config: Config) -> None:
        self._order = order
        self._outbound = outbound
        self._config = config

    async def run(self, intake: Intake) -> None:
        async with open_fetcher(self._outbound, self._order.url) as fetcher:
            playlist = await self._stream(fetcher, intake)
            if playlist:
                await HlsReader(fetcher, intake, self._order).run(playlist)

    async def _stream(self, fetcher: Fetcher, intake: Intake) -> str:
        """Until it ends. The URL, where it is a playlist."""
        async with fetcher.get(self._order.url) as response:
            content_type = response.headers.get("Content-Type", "")
            first = b""
            while len(first) < FIRST and (chunk := await response.content.read(SLICE)):
                first += chunk
                if first.startswith(b"#EXTM3U") or boundary_of(content_type) is not None:
                    break
            if first.removeprefix(b"\xef\xbb\xbf").startswith(b"#EXTM3U"):
                return str(response.url)
            made = _format(first, content_type, intake, self._order.scheme)
            try:
                await self._pump(made, first, response, intake)
            finally:
                made.finish(clock.now())
        raise PeerGone("the source ended the stream", code="source-ended")

    async def _pump(self, made: Format, data: bytes, response: aiohttp.ClientResponse, intake: Intake) -> None:
        """Between two reads there is a rest: what gathers meanwhile is one read. Who sends so much that it costs more rests longer."""
        rest = self._config.pull.read_interval
        while data:
            now, began = clock.now(), clock.thread_seconds()
            intake.heard(len(data), now)
            await made.feed(data, now)
            took = clock.thread_seconds() - began
            await asyncio.sleep(max(took * REST, rest if len(data) < SLICE else 0.0))
            data = await response.content.read(SLICE)


def _format(first: bytes, content_type: str, intake: Intake, transport: str) -> Format:
    """Raises UnsupportedMedia: files are no sources, and what is none of these is not given to FFmpeg to guess."""
    if (boundary := boundary_of(content_type)) is not None:
        return _MotionJpeg(intake, boundary, transport)
    if first[:3] == b"FLV":
        return _Flv(intake, transport)
    if first[:1] == b"\x47" and first[188:189] in (b"\x47", b""):
        return _Transport(intake, transport)
    for magic, name in LIVE_FORMATS.items():
        if first.startswith(magic):
            return _Other(intake, name, transport)
    shown = content_type.partition(";")[0][:60] or "nothing that is known"
    raise UnsupportedMedia(
        f"expected live FLV, MPEG-TS, HLS, motion JPEG, Matroska, Ogg, MP3 or ADTS, got {shown}", code="unsupported-format"
    )


class _Base:
    """What all formats have: where their packets go. `_expected`: as the Assembler's."""

    _expected: frozenset[int] = frozenset()

    def __init__(self, intake: Intake, transport: str) -> None:
        self._intake = intake
        self._transport = transport
        self._made: Assembler | None = None

    @property
    def _assembler(self) -> Assembler:
        """Opened with the first media."""
        if self._made is None:
            self._made = self._intake.begin(self._transport, self._expected)
        return self._made

    def finish(self, now: float) -> None:
        """Nothing is held."""


class _Flv(_Base):
    """Adobe's FLV 10.1 annex E.2 and E.3: a header, then tags, each with its size behind it."""

    def __init__(self, intake: Intake, transport: str) -> None:
        super().__init__(intake, transport)
        self._rest = b""
        self._begun = False
        self._unwrapper = Unwrapper()

    async def feed(self, data: bytes, now: float) -> None:
        data = self._rest + data
        position = 0
        if not self._begun:
            if len(data) < 13:
                self._rest = data
                return
            position = int.from_bytes(data[5:9], "big") + 4
            self._begun = True
        assembler = self._assembler
        while position + 11 <= len(data):
            size = int.from_bytes(data[position + 1 : position + 4], "big")
            if size > MAX_TAG:
                raise ProtocolError(f"FLV: expected tags of at most {MAX_TAG} bytes, got {size}")
            end = position + 11 + size
            if end + 4 > len(data):
                break
            kind = _KINDS.get(data[position] & 0x1F)
            if kind is not None and size:
                stamp = data[position + 7] << 24 | int.from_bytes(data[position + 4 : position + 7], "big")
                take_tag(assembler, kind, data[position + 11 : end], self._unwrapper.unwrap(stamp), now)
            position = end + 4
        self._rest = data[position:]


class _Transport(_Base):
    def __init__(self, intake: Intake, transport: str) -> None:
        super().__init__(intake, transport)
        self._stream: TransportStream | None = None

    async def feed(self, data: bytes, now: float) -> None:
        if self._stream is None:
            self._stream = TransportStream(self._assembler)
        self._stream.feed(data, now)

    def finish(self, now: float) -> None:
        if self._stream is not None and not self._assembler.publication.ended:
            self._stream.finish(now)


class _MotionJpeg(_Base):
    """Pictures that carry no time: they are of the moment they come."""

    _expected = frozenset({0})

    def __init__(self, intake: Intake, boundary: str, transport: str) -> None:
        super().__init__(intake, transport)
        self._parts = PartReader(boundary, MAX_PICTURE)
        self._began: float | None = None

    async def feed(self, data: bytes, now: float) -> None:
        for picture in self._parts.feed(data):
            if self._began is None:
                self._began = now - 1.0
            parsed = self._assembler.parse(Codec.MJPEG, 0, picture, now)
            if parsed is not None:
                self._assembler.put(parsed, round((now - self._began) * 90_000), now)


class _Other(_Base):
    """By FFmpeg, in a thread."""

    def __init__(self, intake: Intake, name: str, transport: str) -> None:
        super().__init__(intake, transport)
        self._demuxer = StreamDemuxer(name)

    async def feed(self, data: bytes, now: float) -> None:
        """Raises PeerError, also what the thread ended with."""
        for unit in await self._demuxer.feed(data):
            take_unit(self._assembler, unit, now)

    def finish(self, now: float) -> None:
        self._demuxer.close()
