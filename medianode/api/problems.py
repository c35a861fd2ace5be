"""Dialects of refusal: which prefix speaks which vendor's error body, and the one way from an error to an answer."""

from __future__ import annotations

import http
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec
from aiohttp import web

from medianode import origin
from medianode.api.fields import Unknown
from medianode.errors import InvalidRequest, MedianodeError, NotFound, PeerError, PeerTimeout, TooManyRequests, Unauthorized

CORS: Mapping[str, str] = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "GET, POST, PUT, PATCH, DELETE, OPTIONS",
    "Access-Control-Allow-Headers": "Authorization, Content-Type, Last-Event-ID, X-Project-Id, X-Bundle-Id",
    "Access-Control-Expose-Headers": "X-Error-Code, Retry-After, WWW-Authenticate",
    "Access-Control-Max-Age": "86400",
}
"""Any page may call with its own bearer token; never with credentials of the browser, so `*` is safe."""

_PHRASES = {413: "Payload Too Large", 408: "Request Timeout", 422: "Unprocessable Content"}


def phrase(status: int) -> str:
    """The reason phrase; fixed here where Python's own changed between versions."""
    return _PHRASES.get(status) or http.HTTPStatus(status).phrase


class BaxCloudError(msgspec.Struct, rename="camel"):
    """Readable by clients that look at `message`, at `error` or at `success` (contracts 1)."""

    status_code: int
    error: str
    message: str
    code: str
    success: bool = False


class StreamHubError(msgspec.Struct, rename="camel"):
    """Never wrapped in `data`; `message` is an array of sentences for a body or query that does not hold (contracts 2)."""

    status_code: int
    message: str | list[str]
    error: str


class FieldProblem(msgspec.Struct):
    field: str
    message: str


class FastPixProblem(msgspec.Struct, omit_defaults=True):
    """`code` is the HTTP status; `fields` come with 422."""

    code: int
    message: str
    description: str
    fields: list[FieldProblem] = []


class FastPixError(msgspec.Struct):
    """As the vendor's SDKs parse it (contracts 3)."""

    success: bool
    error: FastPixProblem


@dataclass(frozen=True, slots=True)
class Dialect:
    """`prefixes`: the paths that it answers for. `headers`: optional ones of every request that has a key, with what they mean.

    `statuses`: where its answers differ from `origin.status`, by that. `unknown`: which fields of a body that it does not know are refused.
    """

    name: str
    text: str
    prefixes: tuple[str, ...]
    error: type[msgspec.Struct]
    say: Callable[[int, MedianodeError], msgspec.Struct]
    headers: tuple[tuple[str, str], ...] = ()
    statuses: Mapping[int, int] = field(default_factory=dict)
    unknown: Unknown = "misspelt"

    def speaks(self, path: str) -> bool:
        return any(path == p or path.startswith(p + "/") for p in self.prefixes)


def _baxcloud(status: int, error: MedianodeError) -> BaxCloudError:
    message = "; ".join(error.fields) if isinstance(error, InvalidRequest) else error.message
    return BaxCloudError(status, phrase(status), message, error.code)


def _streamhub(status: int, error: MedianodeError) -> StreamHubError:
    message: str | list[str] = list(error.fields) if isinstance(error, InvalidRequest) and status == 400 else error.message
    return StreamHubError(status, message, phrase(status))


def _fastpix(status: int, error: MedianodeError) -> FastPixError:
    if status != 422 or not isinstance(error, InvalidRequest):
        return FastPixError(False, FastPixProblem(status, error.message, phrase(status)))
    fields = [FieldProblem(*((name, text) if colon else ("body", name))) for name, colon, text in (s.partition(": ") for s in error.fields)]
    return FastPixError(False, FastPixProblem(status, error.message, phrase(status), fields))


_PROJECT_HEADER = ("X-Project-Id", "The project's id or slug; must be the key's own, and chooses one for a key to the whole node")
BAXCLOUD = Dialect(
    "BaxCloud",
    "Ingress as the BaxCloud server SDK calls it; bodies are bare.",
    ("/v1", "/ingress"),
    BaxCloudError,
    _baxcloud,
    (_PROJECT_HEADER,),
)
FASTPIX = Dialect(
    "FastPix",
    "Live streams as the FastPix SDKs call them: `{success, data}`, HTTP Basic with the key's id and the key.",
    ("/v1/live", "/v1/iam", "/v1/on-demand", "/live/streams", "/on-demand"),
    FastPixError,
    _fastpix,
    (_PROJECT_HEADER,),
    # what cannot be done now is a 400 there, and a value that does not hold a 422
    {400: 422, 409: 400},
)
STREAMHUB = Dialect(
    "StreamHub", "Apps, tokens, ingress and cameras; bodies are `{data: …}`.", ("/api/v1",), StreamHubError, _streamhub, unknown="none"
)
OPERATOR = Dialect(
    "Operator", "Projects, keys and live sessions of this node; StreamHub's shapes.", (), StreamHubError, _streamhub, unknown="all"
)


def dialect_of(path: str, dialects: Sequence[Dialect] = (STREAMHUB, FASTPIX, BAXCLOUD)) -> Dialect | None:
    return next((d for d in dialects if d.speaks(path)), None)


def internal() -> MedianodeError:
    """What a stranger may know of our bug."""
    return MedianodeError("the node failed on this request; its log has the details")


def from_http(request: web.Request, error: web.HTTPException) -> MedianodeError:
    """aiohttp's own refusals, in our words."""
    if error.status == 404:
        return NotFound(f"Cannot {request.method} {request.path[:200]}", code="no-such-path")
    if error.status == 405:
        allowed = error.headers.get("Allow", "")
        return PeerError(f"Cannot {request.method} {request.path[:200]}; allowed: {allowed}", code="method-not-allowed")
    return PeerError(phrase(error.status), code="http-error")


def answer(dialect: Dialect, error: MedianodeError, status: int | None = None, headers: Mapping[str, str] | None = None) -> web.Response:
    """The refusal in this dialect. `X-Error-Code` carries the stable code in every one of them."""
    if status is None:
        status = origin.status(error)
        status = dialect.statuses.get(status, status)
    if status >= 500 and type(error) is MedianodeError:
        error = internal()
    extra = {"X-Error-Code": error.code, **(headers or {})}
    if isinstance(error, Unauthorized):
        extra["WWW-Authenticate"] = "Bearer"
    if isinstance(error, TooManyRequests):
        extra["Retry-After"] = "60"
    response = json_response(dialect.say(status, error), status, extra)
    if status == 413 or isinstance(error, PeerTimeout):
        response.force_close()  # the rest of the body is not read
    return response


def json_response(body: object, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    extra = {**CORS, "Cache-Control": "no-store", **(headers or {})}
    if status == 204:
        return web.Response(status=204, headers=extra)
    return web.Response(body=msgspec.json.encode(body), status=status, headers=extra, content_type="application/json", charset="utf-8")
