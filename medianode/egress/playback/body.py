"""Body: bytes of files as an HTTP answer with ranges and validators (RFC 9110 13, 14), read in threads and never more than a chunk held."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple, Protocol

from aiohttp import hdrs, web

from medianode.egress.playback.answers import unchanged
from medianode.egress.playback.disk import Disk, Reader, Stretch
from medianode.errors import InvalidRequest, MedianodeError, PeerTimeout, ProtocolError

log = logging.getLogger("medianode.playback")
CHUNK = 512 * 1024
"""Bytes read and sent at a time."""
STALL = 60.0
"""Seconds in which a client has to take a chunk."""
Still = Callable[[], Awaitable[None]]
"""Raises when the leave to view has ended meanwhile."""
_RANGE = re.compile(r"bytes=(\d{0,40})-(\d{0,40})", re.ASCII)


class Source(Protocol):
    """`nbytes` in all: `head`, then what `between` points at."""

    @property
    def head(self) -> bytes: ...
    @property
    def nbytes(self) -> int: ...
    def between(self, start: int, stop: int, most: int) -> list[Stretch]: ...


class Whole(NamedTuple):
    """A file, or as much of it as there is to be read."""

    stretch: Stretch

    @property
    def head(self) -> bytes:
        return b""

    @property
    def nbytes(self) -> int:
        return self.stretch.size

    def between(self, start: int, stop: int, most: int) -> list[Stretch]:
        return [Stretch(self.stretch.path, self.stretch.offset + start, min(stop - start, most))]


class Unsatisfiable(MedianodeError):
    """A range that begins behind the end: 416."""

    code = "range-not-satisfiable"

    def __init__(self, message: str, size: int) -> None:
        super().__init__(message)
        self.size = size


def ranged(request: web.Request, size: int, etag: str) -> tuple[int, int] | None:
    """(first, behind the last) of what is asked for, None for all of it.

    Several ranges, units that we do not know and a stale If-Range get all of it (14.2, 13.1.5). Raises Unsatisfiable, InvalidRequest.
    """
    text = request.headers.get(hdrs.RANGE)
    if not text or "," in text or not text.startswith("bytes="):
        return None
    condition = request.headers.get(hdrs.IF_RANGE)
    if condition is not None and (not etag or condition.strip() != etag):
        return None
    found = _RANGE.fullmatch(text.strip())
    if found is None or found[0] == "bytes=-":
        raise InvalidRequest(f"Range: expected bytes=first-last, got {text[:60]!r}")
    first, last = found[1], found[2]
    if not first:
        start, stop = max(0, size - int(last)), size
        if not int(last):
            raise Unsatisfiable("Range: the last 0 bytes are none", size)
    else:
        start, stop = int(first), min(size, int(last) + 1) if last else size
        if last and int(last) < start:
            raise InvalidRequest(f"Range: expected a last byte behind the first, got {text[:60]!r}")
    if start >= size:
        raise Unsatisfiable(f"Range: expected a first byte below {size}, got {start}", size)
    return start, stop


async def send(
    request: web.Request, source: Source, disk: Disk, headers: Mapping[str, str], etag: str, on_sent: Callable[[int], None], still: Still
) -> web.StreamResponse:
    """`headers`: those of the answer but for lengths. `etag`: strong, or empty for what may yet grow.

    Raises Unsatisfiable and InvalidRequest before anything is sent, NotFound and StorageError where the first bytes are not to be had;
    what fails later breaks the connection, so that nobody takes a part for the whole. `still` is asked before each chunk.
    """
    if unchanged(request, etag):
        return web.Response(status=304, headers={**headers, "ETag": etag})
    span = ranged(request, source.nbytes, etag)
    start, stop = span or (0, source.nbytes)
    response = web.StreamResponse(status=206 if span else 200, headers=headers)
    if etag:
        response.headers[hdrs.ETAG] = etag
    if span:
        response.headers[hdrs.CONTENT_RANGE] = f"bytes {start}-{stop - 1}/{source.nbytes}"
    response.content_length = stop - start
    if request.method == "HEAD":
        await response.prepare(request)
        return response
    try:
        with Reader() as reader:
            await _pour(request, response, source, disk, reader, (start, stop), on_sent, still)
    except MedianodeError as e:
        if not response.prepared:
            raise
        log.info("%s: broken off: %s: %s", request.path, e.code, e)
        response.force_close()
        if request.transport is not None:
            request.transport.abort()
    return response


async def _pour(
    request: web.Request,
    response: web.StreamResponse,
    source: Source,
    disk: Disk,
    reader: Reader,
    span: tuple[int, int],
    on_sent: Callable[[int], None],
    still: Still,
) -> None:
    at, stop = span
    while at < stop:
        if at < len(source.head):
            piece = source.head[at : min(stop, at + CHUNK, len(source.head))]
        else:
            piece = await disk.run(_read, reader, source.between(at, stop, CHUNK))
        await still()
        if not response.prepared:
            await response.prepare(request)
        await _push(response, piece)
        at += len(piece)
        on_sent(len(piece))
    await response.write_eof()


async def _push(response: web.StreamResponse, piece: bytes) -> None:
    """A client that takes nothing keeps a file from being deleted, so not for ever. Raises PeerTimeout."""
    try:
        async with asyncio.timeout(STALL):
            await response.write(piece)
    except TimeoutError:
        raise PeerTimeout(f"nothing was taken of a download for {STALL:g} s", code="stalled") from None


def _read(reader: Reader, stretches: list[Stretch]) -> bytes:
    found = reader.gather(stretches)
    if not found:
        raise ProtocolError("a recording: expected bytes where its index points, got none")
    return found
