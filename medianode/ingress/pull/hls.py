"""HLS sources (RFC 8216): the newest segments of the best variant, given to the house at the pace at which they are to be seen."""

from __future__ import annotations

import asyncio

from medianode import clock
from medianode.errors import PeerError, PeerGone, ProtocolError, UnsupportedMedia
from medianode.ingress.assembler import Assembler
from medianode.ingress.pull.demuxed import take_unit
from medianode.ingress.pull.fetch import Fetcher
from medianode.ingress.pull.order import PullOrder
from medianode.ingress.pull.source import Intake
from medianode.ingress.transport_stream import TransportStream
from medianode.protocols.hls_read import MAX_BYTES, Playlist, Segment, Variant, read_playlist
from medianode.transcode.puller import read_segment

MAX_SEGMENT = 64 << 20
BEHIND = 3
"""Segments from the end where a player begins (6.3.3)."""
SLICE = 0.1
MAX_SLICE = 348 * 188
"""Bytes handed on in one go, as MAX_UNITS of units: a segment may be large, and said to be short."""
MAX_UNITS = 64
LONG_PLAYLIST = 64 << 10
"""Bytes from which it is read in a thread: tens of milliseconds, for every refresh."""
LATE = 15.0
"""Seconds behind its pace after which it begins anew at the end."""
TRIES = 3
"""Segments in a row that may be missing."""
REDIRECTED = 4
"""Playlists that may name another playlist."""


class HlsReader:
    def __init__(self, fetcher: Fetcher, intake: Intake, order: PullOrder) -> None:
        self._fetcher = fetcher
        self._intake = intake
        self._order = order
        self._made: Assembler | None = None
        self._transport: TransportStream | None = None
        self._next = -1
        self._due = 0.0
        self._map: tuple[str, int, int] = ("", 0, 0)
        self._init = b""
        self._missed = 0

    async def run(self, url: str) -> None:
        """Until the playlist ends. Raises PeerError, OSError."""
        playlist, url = await self._media(url)
        if playlist.ended:
            raise UnsupportedMedia("expected a live playlist, got a recorded one (EXT-X-ENDLIST)", code="unsupported-format")
        self._next = max((playlist.segments[-1].sequence if playlist.segments else 0) - BEHIND + 1, 0)
        while True:
            began = clock.now()
            new = [segment for segment in playlist.segments if segment.sequence >= self._next]
            if playlist.segments and playlist.segments[-1].sequence < self._next - BEHIND - 1:
                raise ProtocolError("the playlist began anew", code="source-ended")
            for segment in new:
                self._next = segment.sequence + 1
                await self._play(segment)
            if playlist.ended:
                raise PeerGone("the playlist has ended", code="source-ended")
            # half a target after one without news, else at once: what was played took its time (6.3.4)
            await asyncio.sleep(max(0.2, (playlist.target / 2 if not new else 0.0) - (clock.now() - began)))
            playlist, url = await self._media(url)

    async def _media(self, url: str) -> tuple[Playlist, str]:
        for _ in range(REDIRECTED):
            data, url = await self._fetcher.read(url, MAX_BYTES)
            text = data.decode("utf-8", "replace")
            long = len(data) > LONG_PLAYLIST
            found = await asyncio.to_thread(read_playlist, text, url) if long else read_playlist(text, url)
            if isinstance(found, Playlist):
                return found, url
            url = self._best(found).url
        raise ProtocolError("the playlist leads to playlists only")

    def _best(self, variants: tuple[Variant, ...]) -> Variant:
        """The best within what the grant allows, else the least."""
        most = self._order.grant.max_height
        return next((v for v in variants if not most or v.height <= most), variants[-1])

    async def _play(self, segment: Segment) -> None:
        if segment.encrypted:
            raise UnsupportedMedia("expected a playlist in the clear, got an encrypted one (EXT-X-KEY)", code="unsupported-format")
        if segment.missing:
            return
        try:
            data, _ = await self._fetcher.read(segment.url, MAX_SEGMENT, start=segment.range.start, length=segment.range.length)
            self._missed = 0
        except PeerError as e:
            self._missed += 1
            if e.code != "not-found" or self._missed > TRIES:
                raise
            return  # it left the list while it was asked for
        now = clock.now()
        if self._due + LATE < now:
            self._due = now
        if segment.map_url:
            await self._fragments(segment, data)
        else:
            await self._transport_stream(segment, data)
        self._due += segment.duration

    async def _transport_stream(self, segment: Segment, data: bytes) -> None:
        """Evenly over its duration: near enough, and it is not read twice."""
        if self._transport is None:
            self._transport = TransportStream(self._assembler)
        slices = max(1, round(segment.duration / SLICE))
        step = min(-(-len(data) // slices // 188) * 188 or 188, MAX_SLICE)
        for i in range(0, len(data), step):
            piece = data[i : i + step]
            now = await self._wait(i / len(data) * segment.duration)
            self._intake.heard(len(piece), now)
            self._transport.feed(piece, now)

    async def _fragments(self, segment: Segment, data: bytes) -> None:
        where = (segment.map_url, *segment.map_range)
        if where != self._map or not self._init:
            self._init, _ = await self._fetcher.read(segment.map_url, MAX_SEGMENT, start=where[1], length=where[2])
            self._map = where
        units = await asyncio.to_thread(read_segment, self._init + data)
        if not units:
            return
        first = min(unit.dts for unit in units)
        units.sort(key=lambda unit: unit.dts)
        at = 0.0
        for i, unit in enumerate(units):
            if (due := (unit.dts - first) / 90_000) >= at or i % MAX_UNITS == 0:
                at = due + SLICE
                await self._wait(due)
            now = clock.now()
            self._intake.heard(len(unit.data), now)
            take_unit(self._assembler, unit, now)

    async def _wait(self, offset: float) -> float:
        """Until `offset` seconds of the segment are due; where they are already, the others have their turn."""
        await asyncio.sleep(max(0.0, self._due + offset - clock.now()))
        return clock.now()

    @property
    def _assembler(self) -> Assembler:
        """Opened with the first segment."""
        if self._made is None:
            self._made = self._intake.begin("hls")
        return self._made
