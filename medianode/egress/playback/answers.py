"""Headers of what playback answers: the same manners as live HLS."""

from __future__ import annotations

import gzip

from aiohttp import hdrs, web

from medianode.auth import ReadGrant
from medianode.origin import CORS

PLAYLIST = "application/vnd.apple.mpegurl"
LONG = 32_768
"""Bytes of text from which on it is worth packing: a day's playlist is 2 MB, and a twentieth of that packed."""
FOREVER = 31_536_000


def mp4_headers(grant: ReadGrant, age: int) -> dict[str, str]:
    """`age`: as `cached`."""
    return {**CORS, "Content-Type": "video/mp4", "Cache-Control": cached(grant, age), "Accept-Ranges": "bytes"}


def cached(grant: ReadGrant, age: int) -> str:
    """For so many seconds; FOREVER: it never changes, 0: it is to be asked for each time. What not everybody may have is for the player's
    own cache only.
    """
    if not age:
        return "no-cache"
    return f"{'public' if grant.shared else 'private'}, max-age={age}{', immutable' if age == FOREVER else ''}"


def unchanged(request: web.Request, etag: str) -> bool:
    """Does the client have it already? (RFC 9110 13.1.2.) `etag`: in its quotes, or empty for what may yet grow."""
    return bool(etag) and any(tag.value == "*" or f'"{tag.value}"' == etag for tag in request.if_none_match or ())


def picture(request: web.Request, grant: ReadGrant, body: bytes, etag: str, *, final: bool) -> web.Response:
    """A JPEG. One of a recording that goes on is good for a moment."""
    headers = {**CORS, "Content-Type": "image/jpeg", "Cache-Control": cached(grant, 86_400 if final else 5), "ETag": etag}
    if unchanged(request, etag):
        return web.Response(status=304, headers=headers)
    return web.Response(body=body, headers=headers)


def packs(request: web.Request) -> bool:
    """Does the client take gzip?"""
    for word in request.headers.get(hdrs.ACCEPT_ENCODING, "").replace(" ", "").lower().split(","):
        name, _, weight = word.partition(";")
        if name == "gzip":
            return not weight or weight.removeprefix("q=").strip("0.") != ""  # 0 and 0.0: not at all
    return False


def text(body: bytes, content_type: str, *, packed: bool = False) -> web.Response:
    """`packed`: the body is gzip."""
    headers = {**CORS, "Content-Type": content_type, "Cache-Control": "no-cache, no-store, must-revalidate", "Vary": "Accept-Encoding"}
    if packed:
        headers["Content-Encoding"] = "gzip"
    return web.Response(body=body, headers=headers)


def pack(body: bytes) -> bytes:
    """In a thread where it is long."""
    return gzip.compress(body, 3, mtime=0)
