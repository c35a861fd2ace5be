"""Typed routes: one table serves the requests and writes `/openapi.json`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import msgspec
from aiohttp import web

from medianode.api import fields
from medianode.api.problems import Dialect, json_response
from medianode.errors import InvalidRequest, LimitExceeded, NotFound, PeerGone, PeerTimeout

B = TypeVar("B")
Q = TypeVar("Q")
R = TypeVar("R")
W = TypeVar("W")


class Empty(msgspec.Struct):
    """No fields: the body or query of routes that take none."""


@dataclass(frozen=True, slots=True)
class Call(Generic[W, B, Q]):
    """One request, checked: `who` asks, and the typed `body` and `query`."""

    request: web.Request
    who: W
    body: B
    query: Q

    def path(self, name: str) -> str:
        return self.request.match_info[name]


@dataclass(frozen=True, slots=True, kw_only=True)
class Route(Generic[W, B, Q, R]):
    """`auth`: the permission that the key needs, None for a public route. `errors`: statuses beyond those that every such route may give.

    `path` as aiohttp writes it; `aliases` are the same operation under other paths. `response` None answers 204 without a body.
    `streams`: the media type that it may answer with instead, for as long as it likes.
    """

    method: str
    path: str
    handler: Callable[[Call[W, B, Q]], Awaitable[R | web.StreamResponse]]
    summary: str
    dialect: Dialect
    tag: str
    auth: str | None
    response: type[R] | Any = None
    request: type[B] | None = None
    query: type[Q] | None = None
    status: int = 200
    errors: tuple[int, ...] = ()
    aliases: tuple[str, ...] = ()
    request_example: B | None = None
    example: R | None = None
    streams: str = ""

    @property
    def operation_id(self) -> str:
        owner = type(getattr(self.handler, "__self__", self)).__name__
        return f"{owner[0].lower()}{owner[1:]}.{self.handler.__name__}"

    @property
    def statuses(self) -> tuple[int, ...]:
        """All that it may answer with, besides success."""
        found = set(self.errors)
        if self.auth is not None:
            found |= {401, 403, 429}
        if self.request is not None:
            found |= {400, 408, 413}
        if self.query is not None:
            found.add(400)
        if "{" in self.path:
            found.add(404)
        return tuple(sorted({self.dialect.statuses.get(status, status) for status in found} | {500, 503}))


AnyRoute = Route[Any, Any, Any, Any]
Authenticate = Callable[[web.Request, AnyRoute], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Reading:
    """The bounds on a request's body: bytes, and seconds for all of it."""

    nbytes: int
    timeout: float


def mount(route: AnyRoute, authenticate: Authenticate, reading: Reading) -> list[web.RouteDef]:
    """The aiohttp routes of one typed route."""

    async def handle(request: web.Request) -> web.StreamResponse:
        check_path(request)
        who = await authenticate(request, route)
        body = Empty()
        if route.request is not None:
            body = fields.build(await read_json(request, reading), route.request, unknown=route.dialect.unknown)
        query = fields.build(request.query, route.query, what="query", lax=True) if route.query else Empty()
        result = await route.handler(Call(request, who, body, query))
        if isinstance(result, web.StreamResponse):
            return result
        return json_response(result, 204 if route.response is None else route.status)

    if route.method == "GET":
        return [web.get(path, handle, allow_head=True) for path in (route.path, *route.aliases)]
    return [web.route(route.method, path, handle) for path in (route.path, *route.aliases)]


def check_path(request: web.Request) -> None:
    """Nothing that we name has control characters or is that long; no lookup for those. Raises NotFound."""
    for name, value in request.match_info.items():
        if len(value) > 300 or any(ord(c) < 32 or ord(c) == 127 or 0xD800 <= ord(c) < 0xE000 for c in value):
            raise NotFound(f"no such {name}")


async def read_body(request: web.Request, reading: Reading) -> bytes:
    """All of it. Raises LimitExceeded, PeerTimeout (slow), PeerGone (cut), InvalidRequest (its framing is broken)."""
    if (request.content_length or 0) > reading.nbytes:
        raise LimitExceeded(f"body: expected at most {reading.nbytes} bytes, got {request.content_length}", code="body-too-large")
    body = bytearray()
    try:
        async with asyncio.timeout(reading.timeout):
            async for chunk in request.content.iter_any():
                body += chunk
                if len(body) > reading.nbytes:
                    raise LimitExceeded(f"body: expected at most {reading.nbytes} bytes, got more", code="body-too-large")
    except TimeoutError:
        raise PeerTimeout(f"body: expected all of it in {reading.timeout:g} s, got {len(body)} bytes", code="request-timeout") from None
    except web.RequestPayloadError as e:
        raise InvalidRequest(f"body: cannot be read: {e}", code="bad-body") from None
    except OSError:
        raise PeerGone("closed before the end of the body") from None
    return bytes(body)


async def read_json(request: web.Request, reading: Reading) -> Any:
    """The body as JSON, whatever its Content-Type says; an empty one is `{}`.

    Raises as `read_body`, and InvalidRequest (not JSON).
    """
    body = await read_body(request, reading)
    if not body.strip():
        return {}
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as e:
        raise InvalidRequest(f"body: expected JSON, got something else: {e}", code="bad-json") from None
    except RecursionError:
        raise InvalidRequest("body: expected JSON, got too many levels of it", code="bad-json") from None
