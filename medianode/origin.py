"""What every HTTP door needs to know of a request: who asks, under which public address, with which token; and the words of refusal."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from aiohttp import hdrs, web

from medianode.errors import (
    Conflict,
    Forbidden,
    InvalidRequest,
    LimitExceeded,
    MedianodeError,
    NotEnabled,
    NotFound,
    PeerTimeout,
    ProtocolError,
    StorageError,
    TooManyRequests,
    Unauthorized,
    UnsupportedMedia,
)

OPEN_CORS: Mapping[str, str] = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "GET, HEAD, OPTIONS",
    "Access-Control-Allow-Headers": "Authorization, Range, Content-Type, If-None-Match",
    "Access-Control-Expose-Headers": "Content-Length, Content-Range, Date, ETag, Server-Timing",
    "Access-Control-Max-Age": "86400",
}
"""For media anybody may embed: HLS, MJPEG, snapshots, the player script."""
CORS: Mapping[str, str] = {name: OPEN_CORS[name] for name in ("Access-Control-Allow-Origin", "Access-Control-Expose-Headers")}
"""What of that an answer needs that was not asked for in advance."""
PLAYBACK, RECORDING = "{playback:[0-9a-f-]{36}}", "{recording:rec_[A-Za-z0-9]{1,28}}"
"""Parts of routes."""
TOKEN_LENGTH = 8192
AGENT_LENGTH = 200
SITE_LENGTH = 500

_STATUS: tuple[tuple[type[MedianodeError], int], ...] = (
    (LimitExceeded, 413),
    (ProtocolError, 502),  # who asks has done nothing wrong: the room's publisher sends what cannot be decoded
    (InvalidRequest, 400),
    (Unauthorized, 401),
    (Forbidden, 403),
    (NotFound, 404),
    (Conflict, 409),
    (TooManyRequests, 429),
    (NotEnabled, 501),
    (UnsupportedMedia, 415),
    (PeerTimeout, 408),
    (StorageError, 503),
)
_STATUS_BY_CODE = dict.fromkeys(
    ("room-full", "node-full", "too-many-connections", "project-limit-viewers", "project-limit-publishers", "not-ready"), 503
)


def status(error: MedianodeError) -> int:
    """The HTTP status of an error; 500 only for what is our fault."""
    if error.code in _STATUS_BY_CODE:
        return _STATUS_BY_CODE[error.code]
    return next((code for kind, code in _STATUS if isinstance(error, kind)), 500)


_HOST = re.compile(r"(?:[A-Za-z0-9._~-]{1,255}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{0,5})?")


class Origin:
    """Reads requests under the operator's `public_url` and `http.trusted_proxies` (addresses or CIDR networks)."""

    def __init__(self, public_url: str, trusted_proxies: Sequence[str]) -> None:
        self._public = public_url.rstrip("/")
        self._trusted = tuple(ipaddress.ip_network(p, strict=False) for p in trusted_proxies)

    def source(self, request: web.Request) -> str:
        """The client's address: the nearest one in X-Forwarded-For that is not a trusted proxy, where the peer is one; else the peer."""
        peer = (request.remote or "").removeprefix("::ffff:")
        if not self._is_trusted(peer):
            return peer
        for hop in reversed(_forwarded(request, "For")):
            if hop and not self._is_trusted(hop):
                return hop
        return peer

    def base(self, request: web.Request) -> str:
        """`https://host[:port]` without a trailing slash: public_url, else X-Forwarded-* of a trusted proxy, else Host."""
        if self._public:
            return self._public
        scheme, host = request.scheme, request.host
        if self._is_trusted((request.remote or "").removeprefix("::ffff:")):
            forwarded = _forwarded(request, "Proto")[-1].lower()
            scheme = forwarded if forwarded in ("http", "https") else scheme
            host = _forwarded(request, "Host")[-1] or host
        if not _is_host(host):
            raise InvalidRequest(f"Host: expected a host name, got {host[:80]!r}")
        return f"{scheme}://{host}"

    def hostname(self, request: web.Request) -> str:
        """The public host without its port; IPv6 in brackets."""
        name = urlsplit(self.base(request)).hostname or "localhost"
        return f"[{name}]" if ":" in name else name

    def _is_trusted(self, address: str) -> bool:
        try:
            ip = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(ip in net for net in self._trusted)


def _is_host(text: str) -> bool:
    if not _HOST.fullmatch(text):
        return False
    try:
        return bool(urlsplit(f"//{text}").hostname)
    except ValueError:  # in brackets, and no IPv6 address
        return False


def _forwarded(request: web.Request, what: str) -> list[str]:
    """All of X-Forwarded-…: a proxy may add a line of its own (HAProxy does) behind one that the client made up."""
    return [item.strip() for item in ",".join(request.headers.getall(f"X-Forwarded-{what}", [])).split(",")]


def bearer(request: web.Request) -> str | None:
    """The token of `Authorization: Bearer …`, or None."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None


def credentials(request: web.Request) -> tuple[str | None, str | None]:
    """The `token` of the query, and the bearer. Raises InvalidRequest for a token longer than any of ours."""
    token = request.query.get("token") if request.query_string else None
    if token is not None and len(token) > TOKEN_LENGTH:
        # it is repeated behind every URI of a playlist
        raise InvalidRequest(f"token: expected up to {TOKEN_LENGTH} characters, got {len(token)}")
    return token, bearer(request) if hdrs.AUTHORIZATION in request.headers else None


def player(request: web.Request) -> tuple[str, str]:
    """(the page that a player is in, as far as it is told; what it calls itself)."""
    site = request.headers.get(hdrs.ORIGIN) or request.headers.get(hdrs.REFERER) or ""
    return site[:SITE_LENGTH], request.headers.get(hdrs.USER_AGENT, "")[:AGENT_LENGTH]


def media_error(error: MedianodeError, headers: Mapping[str, str] = OPEN_CORS) -> web.Response:
    """The refusal of the static mounts (/hls, /live): `{"data":null,"error":{"code","message"}}` (contracts 2)."""
    body: dict[str, Any] = {"data": None, "error": {"code": error.code.replace("-", "_"), "message": error.message}}
    extra = {"WWW-Authenticate": "Bearer"} if isinstance(error, Unauthorized) else {}
    if error.code == "not-ready":  # a playlist whose first segment is being made
        extra["Retry-After"] = "1"
    return web.json_response(body, status=status(error), headers={**headers, "Cache-Control": "no-store", **extra})
