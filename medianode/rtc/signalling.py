"""The HTTP resource of a WHIP or WHEP session (RFC 9725 4, draft-ietf-wish-whep): offers in, answers out, PATCH, DELETE.

Both doors share one `Signalling`: it reads offers, keeps the sessions under unguessable URLs (`/rtc/session/…`), and says every refusal
in plain words with CORS. What a session is, the doors' services know.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import logging
import secrets
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple, Protocol
from urllib.parse import urlsplit

from aiohttp import web

from medianode import clock, origin, telemetry
from medianode.config import Limits, Rtc
from medianode.errors import (
    InvalidRequest,
    LimitExceeded,
    MedianodeError,
    NotFound,
    PeerError,
    PeerGone,
    PeerTimeout,
    ProtocolError,
    TooManyRequests,
    UnsupportedMedia,
)
from medianode.protocols.sdp.fragment import MAX_BYTES as FRAGMENT_BYTES
from medianode.protocols.sdp.fragment import answer_fragment, parse_fragment
from medianode.protocols.sdp.parse import Offer, parse_offer
from medianode.protocols.sdp.plan import Credentials, LocalTransport
from medianode.rtc.endpoint import viewer_places
from medianode.tasks import every, guarded

DoorName = Literal["whip", "whep"]
log = logging.getLogger("medianode.rtc")

ANSWERS = telemetry.counter(
    "medianode_rtc_signalling_total", "WHIP and WHEP requests, by door, method and outcome", "door", "method", "code"
)
SDP: Final = "application/sdp"
FRAGMENT: Final = "application/trickle-ice-sdpfrag"
SESSION_PATH: Final = "/rtc/session/{id}"
SWEEP = 5.0
"""Seconds between looks for sessions that have ended."""
PROGRAMME_RETRY, FULL_RETRY, RATE_RETRY = 2, 10, 60
"""Seconds of Retry-After: nobody publishes; the node or the room is full; too many failures."""
RETIRED = 8
PATH_LENGTH = 512

CORS: Final[Mapping[str, str]] = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "POST, PATCH, DELETE, OPTIONS",
    "Access-Control-Allow-Headers": "Authorization, Content-Type, Accept, If-Match",
    "Access-Control-Expose-Headers": "Location, ETag, Link, Retry-After, Accept-Patch, Accept-Post, WWW-Authenticate",
    "Access-Control-Max-Age": "86400",
}
_STATUS: Final = {
    "unsupported-content-type": 415,
    "method-not-allowed": 405,
    "precondition-failed": 412,
    "precondition-required": 428,
}


class Session(Protocol):
    """One connected (or connecting) peer, as its resource sees it."""

    @property
    def closed(self) -> bool:
        """The peer is gone for whatever reason; the resource is then 404 and forgotten."""

    def restart(self, credentials: Credentials) -> LocalTransport:
        """ICE restart: the peer's new credentials in, ours out. Old ones serve until the new pair works."""

    def close(self, error: MedianodeError | None = None) -> None:
        """At once; None: as the client asked. Harmless when closed already."""


class Joined(NamedTuple):
    answer: str
    session: Session


class IceServers:
    """`Link` headers (RFC 9725 4.6): only what the operator configured; TURN credentials that end by themselves (the TURN REST draft)."""

    def __init__(self, config: Rtc) -> None:
        self._config = config

    def links(self, name: str, wallclock: float) -> list[str]:
        """`name` goes into the TURN server's log: tells sessions apart, and nothing of the client."""
        config = self._config
        links = [f'<{url}>; rel="ice-server"' for url in config.stun_servers]
        tail = ""
        if config.turn_secret:
            username = f"{int(wallclock + config.turn_ttl)}:{name}"
            credential = base64.b64encode(hmac.digest(config.turn_secret.encode(), username.encode(), "sha1")).decode()
            tail = f'; username="{username}"; credential="{credential}"; credential-type="password"'
        return links + [f'<{url}>; rel="ice-server"{tail}' for url in config.turn_servers]


@dataclass(slots=True, eq=False)
class _Resource:
    door: DoorName
    session: Session
    answer: str
    remote: Credentials
    etag: str
    retired: deque[str] = field(default_factory=lambda: deque(maxlen=RETIRED))


class Signalling:
    """Sessions by id, at most `limits.rtc_peers`. `serve` runs until cancelled and forgets the ended ones.

    `public_url`: only its path is used (a reverse proxy's prefix): a Location without scheme and host is right from everywhere.
    """

    def __init__(self, config: Rtc, limits: Limits, public_url: str = "") -> None:
        self._limits = limits
        self._servers = IceServers(config)
        self._prefix = urlsplit(public_url).path.rstrip("/")
        self._resources: dict[str, _Resource] = {}
        self._sparingly = telemetry.Sparingly(log, "refused")
        telemetry.gauge("medianode_rtc_resources", "WHIP and WHEP sessions with a URL", read=lambda: [((), len(self._resources))])

    def __len__(self) -> int:
        return len(self._resources)

    def routes(self) -> list[web.RouteDef]:
        return [web.route("*", SESSION_PATH, self._resource)]

    async def serve(self) -> None:
        async for _ in every(SWEEP):
            guarded("signalling", self.sweep)

    def sweep(self) -> None:
        for key in [key for key, resource in self._resources.items() if resource.session.closed]:
            del self._resources[key]

    # the doors' POST

    async def endpoint(self, door: DoorName, request: web.Request, post: Callable[[web.Request], Awaitable[web.Response]]) -> web.Response:
        """What a door's URL answers: OPTIONS, POST by `post`, 405 to all else; errors in words."""
        if request.method == "OPTIONS":
            return _empty(204, {"Accept-Post": SDP, "Allow": "OPTIONS, POST"})
        try:
            if request.method != "POST":
                raise _not_allowed(request, "OPTIONS, POST")
            _check_path(request)
            self._check_room(self._limits.rtc_peers if door == "whip" else viewer_places(self._limits))
            response = await post(request)
        except MedianodeError as e:
            return self._refused(door, request, e, {"Accept-Post": SDP}, "OPTIONS, POST")
        ANSWERS.labels(door, "POST", "ok").value += 1
        return response

    async def read_offer(self, request: web.Request) -> Offer:
        """Raises InvalidRequest (also `unsupported-content-type`), LimitExceeded, PeerTimeout, PeerGone."""
        _check_type(request, SDP)
        return parse_offer(await self._text(request, self._limits.rtc_offer_bytes), self._limits.rtc_offer_bytes)

    def created(self, door: DoorName, offer: Offer, joined: Joined) -> web.Response:
        """201 with the answer. Synchronous, so that no session is without its URL. A client that has gone meanwhile is put out by time."""
        key = secrets.token_urlsafe(24)
        resource = _Resource(door, joined.session, joined.answer, offer.remote.credentials, secrets.token_hex(8))
        self._resources[key] = resource
        response = web.Response(text=joined.answer, status=201, content_type=SDP, headers={**CORS, "Cache-Control": "no-store"})
        response.headers["Location"] = f"{self._prefix}{SESSION_PATH.format(id=key)}"
        response.headers["ETag"] = f'"{resource.etag}"'
        response.headers["Accept-Patch"] = FRAGMENT
        for link in self._servers.links(key[:8], clock.wallclock()):
            response.headers.add("Link", link)
        return response

    def _check_room(self, bound: int) -> None:
        if len(self._resources) >= bound:
            self.sweep()
            if len(self._resources) >= bound:
                raise LimitExceeded(f"the node has {len(self._resources)} WebRTC sessions already", code="node-full")

    # the session's own URL

    async def _resource(self, request: web.Request) -> web.Response:
        key = request.match_info["id"]
        allow = "DELETE, OPTIONS, PATCH"
        if request.method == "OPTIONS":
            return _empty(204, {"Accept-Patch": FRAGMENT, "Allow": allow})
        resource = self._resources.get(key)
        door: DoorName = resource.door if resource is not None else "whep"
        try:
            if request.method == "DELETE":
                self._delete(key)
                # a body, for FFmpeg's muxer complains of a reply without one
                response = web.json_response({"data": None, "error": None}, headers={**CORS, "Cache-Control": "no-store"})
            elif request.method == "PATCH":
                response = await self._patch(request, key)
            else:
                raise _not_allowed(request, allow)
        except MedianodeError as e:
            return self._refused(door, request, e, {"Accept-Patch": FRAGMENT}, allow)
        ANSWERS.labels(door, request.method, "ok").value += 1
        return response

    def _delete(self, key: str) -> None:
        """Also of one that has ended, and again and again: what the client wants is so."""
        resource = self._resources.pop(key, None)
        if resource is not None and not resource.session.closed:
            resource.session.close()

    def _live(self, key: str) -> _Resource:
        resource = self._resources.get(key)
        if resource is None or resource.session.closed:
            self._resources.pop(key, None)
            raise NotFound("no such session: it has ended, or never was", code="no-session")
        return resource

    async def _patch(self, request: web.Request, key: str) -> web.Response:
        """Trickled candidates: 204, for ICE-lite needs none. Other credentials than before: ICE restart, 200."""
        resource = self._live(key)
        self._check_match(resource, request.headers.get("If-Match"))
        _check_type(request, FRAGMENT)
        text = await self._text(request, FRAGMENT_BYTES)
        fragment = parse_fragment(text)
        resource = self._live(key)  # it may have ended, or restarted, while we read
        self._check_match(resource, request.headers.get("If-Match"))
        credentials = fragment.credentials
        if credentials is None or credentials == resource.remote:
            return _empty(204, {"ETag": f'"{resource.etag}"'})
        if credentials.ufrag in resource.retired:
            raise PeerError("these are candidates of an ICE session that a restart has replaced", code="precondition-failed")
        local = resource.session.restart(credentials)
        resource.retired.append(resource.remote.ufrag)
        resource.remote = credentials
        resource.etag = secrets.token_hex(8)
        body = answer_fragment(local, resource.answer)
        headers = {**CORS, "Cache-Control": "no-store", "ETag": f'"{resource.etag}"'}
        return web.Response(text=body, status=200, content_type=FRAGMENT, headers=headers)

    @staticmethod
    def _check_match(resource: _Resource, if_match: str | None) -> None:
        """RFC 9725 4.3.1. A viewer's PATCH may come without: real ones (`whip-whep`) send none."""
        if if_match is None:
            if resource.door == "whip":
                raise PeerError("PATCH: expected If-Match with the ETag of the session, or *", code="precondition-required")
            return
        tags = {part.strip().removeprefix("W/").strip('"') for part in if_match.split(",")}
        if not tags & {"*", resource.etag}:
            raise PeerError("If-Match: expected the ETag of the session as it is now; ICE was restarted since", code="precondition-failed")

    # bodies and refusals

    async def _text(self, request: web.Request, most: int) -> str:
        if (request.content_length or 0) > most:
            raise LimitExceeded(f"body: expected at most {most} bytes, got {request.content_length}", code="body-too-large")
        body = bytearray()
        seconds = self._limits.request_timeout
        try:
            async with asyncio.timeout(seconds):
                async for chunk in request.content.iter_any():
                    body += chunk
                    if len(body) > most:
                        raise LimitExceeded(f"body: expected at most {most} bytes, got more", code="body-too-large")
        except TimeoutError:
            raise PeerTimeout(f"body: expected all of it in {seconds:g} s, got {len(body)} bytes", code="request-timeout") from None
        except web.RequestPayloadError as e:
            raise InvalidRequest(f"body: cannot be read: {e}", code="bad-body") from None
        except OSError:
            raise PeerGone("closed before the end of the body") from None
        try:
            return body.decode("utf-8")
        except UnicodeDecodeError:
            raise InvalidRequest("body: expected UTF-8 text, got something else", code="bad-body") from None

    def _tell(self, door: DoorName, request: web.Request, error: MedianodeError, status: int) -> None:
        """Encoders show the status and no more, so the reason must be found here."""
        self._sparingly.tell(door=door, peer=request.remote or "", status=status, code=error.code, reason=error.message)

    def _refused(self, door: DoorName, request: web.Request, error: MedianodeError, accepts: Mapping[str, str], allow: str) -> web.Response:
        method = request.method if request.method in ("POST", "PATCH", "DELETE") else "other"
        ANSWERS.labels(door, method, error.code).value += 1
        status = refusal_status(error)
        self._tell(door, request, error, status)
        headers = dict(CORS)
        if status == 405:
            headers["Allow"] = allow
        elif status == 415:
            headers |= accepts
        retry = _retry_after(error, status)
        if retry:
            headers["Retry-After"] = str(retry)
        response = origin.media_error(error, headers)
        response.set_status(status)
        if status in (408, 413):
            response.force_close()  # the rest of the body is not read
        return response


def refusal_status(error: MedianodeError) -> int:
    """As everywhere, but here it is the asker who sends what cannot be taken: 406 for codecs, 400 for bytes."""
    if error.code in _STATUS:
        return _STATUS[error.code]
    if isinstance(error, UnsupportedMedia):
        return 406
    if isinstance(error, ProtocolError) and not isinstance(error, LimitExceeded):
        return 400
    return origin.status(error)


def _retry_after(error: MedianodeError, status: int) -> int:
    if error.code == "no-programme":
        return PROGRAMME_RETRY
    if isinstance(error, TooManyRequests):
        return RATE_RETRY
    return FULL_RETRY if status == 503 else 0


def _empty(status: int, headers: Mapping[str, str]) -> web.Response:
    return web.Response(status=status, headers={**CORS, "Cache-Control": "no-store", **headers})


def _not_allowed(request: web.Request, allow: str) -> PeerError:
    return PeerError(f"expected one of {allow}, got {request.method[:20]}", code="method-not-allowed")


def _check_type(request: web.Request, expected: str) -> None:
    """A missing Content-Type is taken: the parser will see."""
    if "Content-Type" in request.headers and request.content_type != expected:
        got = request.content_type[:80]
        raise InvalidRequest(f"Content-Type: expected {expected}, got {got}", code="unsupported-content-type")


def _check_path(request: web.Request) -> None:
    """Nothing that we name has control characters or is that long; no look-up for those."""
    for name, value in request.match_info.items():
        if len(value) > PATH_LENGTH or any(ord(c) < 32 or ord(c) == 127 or 0xD800 <= ord(c) < 0xE000 for c in value):
            raise NotFound(f"no such {name}")
