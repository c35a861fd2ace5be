"""Headers of what playback answers: the same manners as live HLS."""

from __future__ import annotations

import gzip
from collections.abc import Mapping

from aiohttp import hdrs, web

from medianode.auth import ReadGrant
from medianode.origin import OPEN_CORS

CORS = {name: OPEN_CORS[name] for name in ("Access-Control-Allow-Origin", "Access-Control-Expose-Headers")}
PLAYLIST = "application/vnd.apple.mpegurl"
LONG = 32_768
"""Bytes of text from which on it is worth packing: a day's playlist is 2 MB, and a twentieth of that packed."""
_FRESH = "no-cache, no-store, must-revalidate"


def media_headers(grant: ReadGrant, content_type: str, *, final: bool) -> dict[str, str]:
    """`final`: it never changes. What not everybody may have is for the player's own cache only."""
    scope = "public" if grant.shared else "private"
    cache = f"{scope}, max-age=31536000, immutable" if final else "no-cache"
    return {**CORS, "Content-Type": content_type, "Cache-Control": cache, "Accept-Ranges": "bytes"}


def picture(request: web.Request, grant: ReadGrant, body: bytes, etag: str, *, final: bool) -> web.Response:
    """A JPEG. One of a recording that goes on is good for a moment."""
    scope = "public" if grant.shared else "private"
    cache = f"{scope}, max-age={86_400 if final else 5}"
    headers = {**CORS, "Content-Type": "image/jpeg", "Cache-Control": cache, "ETag": etag}
    asked = request.headers.get(hdrs.IF_NONE_MATCH, "")
    if etag in [tag.strip().removeprefix("W/") for tag in asked.split(",")]:
        return web.Response(status=304, headers=headers)
    return web.Response(body=body, headers=headers)


def packs(request: web.Request) -> bool:
    """Does the client take gzip?"""
    return any(
        word.partition(";")[0].strip().lower() == "gzip" and "q=0" not in word.replace(" ", "").split(";")[1:]
        for word in request.headers.get(hdrs.ACCEPT_ENCODING, "").split(",")
    )


def text(body: bytes, content_type: str, *, packed: bool = False, cache: str = _FRESH) -> web.Response:
    """`packed`: the body is gzip."""
    headers: Mapping[str, str] = {**CORS, "Content-Type": content_type, "Cache-Control": cache, "Vary": "Accept-Encoding"}
    extra = {"Content-Encoding": "gzip"} if packed else {}
    return web.Response(body=body, headers={**headers, **extra})


def pack(body: bytes) -> bytes:
    """In a thread where it is long."""
    return gzip.compress(body, 3, mtime=0)
