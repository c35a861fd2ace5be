"""Stills: the poster of a recording, strips of thumbnails, and the WebVTT that tells players where in a strip they are."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial
from urllib.parse import quote

from aiohttp import web

from medianode.auth import ReadGrant
from medianode.config import Limits, Mjpeg
from medianode.egress.playback import answers, pictures
from medianode.egress.playback.disk import Disk
from medianode.egress.playback.footage import Footage, Reel
from medianode.egress.playback.kept import Kept
from medianode.egress.playback.pictures import Grid, Moment
from medianode.egress.playback.span import Span, instant, parse_span
from medianode.errors import NotFound
from medianode.media.packet import Packet
from medianode.transcode import snapshot, strip

EARLY = 0.1
"""Where a poster is taken unless told otherwise: this share of the recording in, as beginnings are often black."""


class Stills:
    def __init__(self, disk: Disk, limits: Limits, mjpeg: Mjpeg) -> None:
        self._disk = disk
        self._pixels = limits.decode_pixels
        self._quality = mjpeg.quality
        self._album = Kept[bytes](limits.playback_cache_bytes, len)

    async def poster(self, request: web.Request, grant: ReadGrant, reel: Reel) -> web.Response:
        """`at`, `width`. Raises InvalidRequest, NotFound, UnsupportedMedia, what `snapshot` raises."""
        since, until = _reach(reel, Span())
        at = instant("at", request.query.get("at"), reel.recording.started_at)
        width = pictures.whole(request.query, "width", 0, 16, snapshot.MAX_WIDTH) or None
        moment = await self._disk.run(pictures.nearest, reel.files, since + (until - since) * EARLY if at is None else at)
        key = (reel.recording.id, moment.file.sequence, moment.part.offset, width)

        async def make() -> bytes:
            packet = await self._disk.run(pictures.read_keyframe, moment)
            return await snapshot.keyframe_jpeg(packet, width, self._quality, max_pixels=self._pixels)

        made = await self._album.get(key, make)
        return answers.picture(request, grant, made, _tag(key), final=not reel.growing or at is not None)

    async def strip(self, request: web.Request, grant: ReadGrant, reel: Reel) -> web.Response:
        """`columns`, `rows`, `width` (of a tile), `from`, `to`. Raises as `poster`."""
        wanted, files = self._grid(request, reel)
        key = (reel.recording.id, *wanted, len(files))

        async def make() -> bytes:
            chosen = await self._disk.run(pictures.moments, files, wanted)
            ratio = await self._ratio(chosen[0])
            reads: list[Callable[[], Packet]] = [partial(pictures.read_keyframe, moment) for moment in chosen]
            making = strip.strip_jpeg(reads, wanted.columns, wanted.width, ratio=ratio, quality=self._quality, max_pixels=self._pixels)
            return await self._disk.spared(making)

        return answers.picture(request, grant, await self._album.get(key, make), _tag(key), final=not reel.growing)

    async def thumbnails(self, request: web.Request, reel: Reel) -> web.Response:
        """WebVTT over one strip; the times are those of the HLS playlist of the whole recording."""
        wanted, files = self._grid(request, reel)
        size = strip.tile_size(wanted.width, await self._ratio(await self._disk.run(pictures.nearest, files, wanted.since)))
        query: dict[str, float] = {"columns": wanted.columns, "rows": -(-wanted.tiles // wanted.columns), "width": wanted.width}
        query |= {"from": wanted.since, "to": wanted.since + wanted.step * wanted.tiles}
        address = "strip.jpg?" + "&".join(f"{name}={value}" for name, value in query.items())
        if "token" in request.query:
            address += f"&token={quote(request.query['token'], safe='')}"
        cues = await self._disk.run(pictures.thumbnails, wanted, reel.files, size, address)
        return answers.text(cues.encode(), "text/vtt; charset=utf-8")

    async def _ratio(self, moment: Moment) -> float:
        """Height over width of the picture there."""
        track = (await self._disk.run(pictures.read_keyframe, moment)).track
        return track.height / track.width if track.width else 9 / 16

    def _grid(self, request: web.Request, reel: Reel) -> tuple[Grid, list[Footage]]:
        since, until = _reach(reel, parse_span(request.query, reel.recording.started_at))
        files = [file for file in reel.files if file.ended_at > since and file.started_at < until]
        if not files:
            raise NotFound("nothing is recorded there", code="nothing-recorded")
        return pictures.grid(request.query, since, until), files


def _reach(reel: Reel, span: Span) -> tuple[float, float]:
    """From when to when there is something of the span."""
    files = [file for file in reel.files if file.here and file.duration]
    if not files:
        raise NotFound("nothing is recorded there", code="nothing-recorded")
    since, until = files[0].started_at, files[-1].ended_at
    return max(since, span.since if span.since is not None else since), min(until, span.until if span.until is not None else until)


def _tag(key: tuple[object, ...]) -> str:
    return f'"{hashlib.blake2b(repr(key).encode(), digest_size=12).hexdigest()}"'
