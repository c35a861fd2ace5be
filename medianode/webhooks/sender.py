"""One request to an endpoint: what it answered, or why there was no answer. Raises for nothing that the receiver does.

Every connection goes to an address that `outbound.place` has looked at, literals included, so a name that turns private after its
registration is refused. Redirects are not followed. TLS is verified.
"""

from __future__ import annotations

import asyncio
import errno
import os
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from types import SimpleNamespace
from typing import Any

import aiohttp
from yarl import URL

from medianode import clock
from medianode.config import Limits, Webhooks
from medianode.errors import Forbidden, InvalidRequest, PeerError
from medianode.outbound import Guard, Outbound
from medianode.store.endpoints import WebhookEndpoint
from medianode.webhooks import signature

EXCERPT = 500
"""Characters kept of an answer's body."""
ERROR = 300
KEEP_ALIVE = 4.0
"""Seconds. Below Node's five: a connection that is used just as its other side closes it costs an attempt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """`status` None: there was none, and `error` says why. `latency`: seconds to the end of the answer. `excerpt`: how its body begins.

    `retry_after`: seconds that it asked to be left alone for.
    """

    status: int | None = None
    latency: float = 0.0
    error: str = ""
    excerpt: str = ""
    retry_after: float | None = None

    @property
    def good(self) -> bool:
        return self.status is not None and 200 <= self.status < 300


class Sender:
    """Made by `open_sender`: one session with kept connections for all endpoints."""

    def __init__(self, session: aiohttp.ClientSession, outbound: Outbound, timeout: float, limits: Limits) -> None:
        self._session = session
        self._outbound = outbound
        self._timeout = timeout
        self._body_bytes = limits.webhook_response_bytes

    async def send(self, endpoint: WebhookEndpoint, event: str, event_id: str, body: bytes, secret: str | None) -> Answer:
        """POST `body` as it stands, signed with `secret` where there is one. Takes webhooks.timeout at most."""
        headers = signature.headers(endpoint.dialect, event, event_id, body, secret, endpoint.headers)
        began = clock.now()
        answer = await self._post(endpoint.url, headers, body, self._timeout)
        if answer is None:  # a kept connection that was being closed just then: the receiver has not seen the request
            left = max(began + self._timeout - clock.now(), 0.0)
            answer = await self._post(endpoint.url, headers, body, left, fresh=True) or Answer(error="peer-gone: it closed the connection")
        return Answer(
            status=answer.status,
            latency=clock.now() - began,
            error=_clean(answer.error, ERROR),
            excerpt=answer.excerpt,
            retry_after=answer.retry_after,
        )

    async def _post(self, url: str, headers: Mapping[str, str], body: bytes, timeout: float, *, fresh: bool = False) -> Answer | None:
        """None: a connection that had served before broke before a byte of the answer came."""
        trace = SimpleNamespace(reused=False)
        options: dict[str, Any] = {"headers": {**headers, "Connection": "close"} if fresh else headers, "trace_request_ctx": trace}
        try:
            async with asyncio.timeout(timeout):
                target = await self._target(url, headers)
                async with self._session.post(target, data=body, allow_redirects=False, **options) as response:
                    return await self._read(response)
        except TimeoutError:
            return Answer(error=f"timeout: no whole answer within {self._timeout:g} s")
        except (Forbidden, InvalidRequest) as e:
            return Answer(error=f"{e.code}: {e.message}")
        except PeerError as e:
            return Answer(error=f"{e.code}: {e.message}")
        except (aiohttp.ClientError, OSError, ValueError) as e:
            if trace.reused and not fresh and _gone(e):
                return None
            return Answer(error=_why(e))

    async def _target(self, url: str, headers: Mapping[str, str]) -> URL:
        """Raises InvalidRequest, Forbidden, PeerError."""
        try:
            target = URL(url)
            host, port = target.host or "", target.port or 0
        except ValueError as e:
            raise InvalidRequest(f"the URL cannot be read: {e}") from None
        if target.scheme not in ("http", "https"):
            raise InvalidRequest(f"expected http:// or https://, got {target.scheme!r}")
        if host.replace(".", "").isdigit() or ":" in host:  # a literal does not come by the resolver
            await self._outbound.place(host, port)
        # aiohttp takes no Authorization beside a user in the URL; the endpoint's own header is the one that was meant
        return target.with_user(None) if target.user is not None and any(h.lower() == "authorization" for h in headers) else target

    async def _read(self, response: aiohttp.ClientResponse) -> Answer:
        """No more than the bound is read: what is left goes with the connection."""
        chunks, size = [], 0
        async for chunk in response.content.iter_any():
            chunks.append(chunk[: self._body_bytes - size])
            size += len(chunks[-1])
            if size >= self._body_bytes:
                response.close()
                break
        status = response.status
        error = "" if 200 <= status < 300 else f"http-{status}"
        if 300 <= status < 400:
            where = response.headers.get("Location", "nowhere")
            error = f"redirect: {status} to {where}: redirects are not followed, register that URL"
        head = b"".join(chunks)[: 4 * EXCERPT].decode("utf-8", "replace")
        return Answer(status=status, error=error, excerpt=_clean(head, EXCERPT), retry_after=retry_after(response.headers))


@asynccontextmanager
async def open_sender(outbound: Outbound, webhooks: Webhooks, limits: Limits) -> AsyncIterator[Sender]:
    guard = Guard(outbound)
    connector = aiohttp.TCPConnector(
        resolver=guard, use_dns_cache=False, limit=0, keepalive_timeout=KEEP_ALIVE, socket_factory=guard.make_socket, ssl=outbound.trust
    )
    # its own timeouts end less than the whole request
    nothing = aiohttp.ClientTimeout(total=None, sock_connect=None, sock_read=None)
    async with aiohttp.ClientSession(
        connector=connector,
        timeout=nothing,
        cookie_jar=aiohttp.DummyCookieJar(),
        trace_configs=[_reuse()],
        auto_decompress=False,
        max_line_size=limits.http_header_bytes,
        max_field_size=limits.http_header_bytes,
    ) as session:
        yield Sender(session, outbound, webhooks.timeout, limits)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds of a Retry-After (RFC 9110 10.2.3), a number or a date; None where there is none that can be read."""
    value = headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        at = parsedate_to_datetime(value).timestamp()
    except (ValueError, OverflowError):
        return None
    return max(at - clock.wallclock(), 0.0)


def _reuse() -> aiohttp.TraceConfig:
    """Tells whether a request went out on a connection that had served before."""

    async def reused(session: aiohttp.ClientSession, context: SimpleNamespace, params: object) -> None:
        context.trace_request_ctx.reused = True

    config = aiohttp.TraceConfig()
    config.on_connection_reuseconn.append(reused)
    return config


def _gone(e: Exception) -> bool:
    return isinstance(e, aiohttp.ServerDisconnectedError | ConnectionResetError | BrokenPipeError) or (
        isinstance(e, OSError) and e.errno in (errno.ECONNRESET, errno.EPIPE)
    )


def _why(e: Exception) -> str:
    """In words of ours: aiohttp's name URLs, and tokens stand in URLs."""
    match e:
        case aiohttp.ClientConnectorCertificateError():
            reason = getattr(e.certificate_error, "verify_message", "") or "it is not valid"
            return f"tls: the certificate of {e.host} was refused: {reason}"
        case aiohttp.ClientConnectorSSLError():
            return f"tls: {e.host} and we agreed on nothing: {getattr(e.os_error, 'reason', '') or 'handshake failed'}"
        case aiohttp.ClientConnectorError():
            return f"{_named(e.os_error.errno)}: {e.host}:{e.port} cannot be reached: {_strerror(e.os_error)}"
        case ssl.SSLError():
            return f"tls: {getattr(e, 'reason', '') or 'the connection broke'}"
        case aiohttp.ServerDisconnectedError() | ConnectionError():
            return "peer-gone: it closed the connection without a whole answer"
        case aiohttp.ClientPayloadError():
            return "peer-gone: its answer broke off"
        case aiohttp.ClientResponseError():
            return "protocol-error: its answer is not HTTP"
        case aiohttp.InvalidURL() | ValueError():
            return "invalid-request: the URL or a header cannot be sent"
        case OSError():
            return f"{_named(e.errno)}: {_strerror(e)}"
    return f"peer-error: {type(e).__name__}"


def _named(number: int | None) -> str:
    return {errno.ECONNREFUSED: "connection-refused", errno.EACCES: "private-address"}.get(number or 0, "unreachable")


def _strerror(e: OSError) -> str:
    return os.strerror(e.errno) if e.errno and e.errno > 0 else "no answer"


def _clean(text: str, length: int) -> str:
    """As a database and a terminal can take it: PostgreSQL has no NUL."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text[:length])
