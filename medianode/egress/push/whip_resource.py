"""WHIP's HTTP as a client (RFC 9725 4.2, 4.5): the offer is POSTed, the answer read, and what the Location names is DELETEd at the end.

Every connection goes to addresses that `Outbound` has looked at, redirections and Locations included. The key is sent to nobody without TLS
once it was to be sent with it.
"""

from __future__ import annotations

import asyncio
import re
import socket
from typing import Any, Final, NamedTuple
from urllib.parse import urljoin, urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from medianode.config import Limits
from medianode.errors import LimitExceeded, MedianodeError, NotFound, PeerError, PeerTimeout, ProtocolError, Unauthorized
from medianode.outbound import Outbound, Place

SDP: Final = "application/sdp"
SCHEMES: Final = ("http", "https")
MAX_REDIRECTS = 5
FAREWELL = 3.0
"""Seconds that a DELETE may take."""
SAID = 160
"""Characters of a refusal's body that are passed on."""
_PORTS = {"http": 80, "https": 443}
_TRANSIENT = frozenset({408, 409, 425, 429})
_UNPRINTABLE = re.compile(r"[^ -~]+")


class Created(NamedTuple):
    """`resource`: the session's URL, empty where the target named none. `addresses`: the target's own, which may be in its answer too."""

    answer: str
    resource: str
    addresses: tuple[str, ...]


class _Placed(AbstractResolver):
    """What was looked at is where the connection goes."""

    def __init__(self, place: Place) -> None:
        self._place = place

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET) -> list[ResolveResult]:
        return self._place.resolved()

    async def close(self) -> None:
        """Nothing is held."""


class WhipResource:
    """One target's door. `key` goes into the Authorization header and into no message."""

    def __init__(self, limits: Limits, outbound: Outbound, key: str | None) -> None:
        self._limits = limits
        self._outbound = outbound
        self._key = key

    async def place(self, url: str) -> Place:
        """Raises InvalidRequest, Forbidden (`private-address`), PeerError (`no-such-host`)."""
        parts = self._outbound.parse(url, SCHEMES)
        return await self._outbound.place(parts.hostname or "", parts.port or _PORTS[parts.scheme])

    async def post(self, url: str, offer: str) -> Created:
        """Raises Unauthorized and NotFound (`rejected`), PeerError (`rejected`, `target-error`, `unreachable`, `tls-failed`,
        `certificate-not-trusted`, `bad-redirect`), ProtocolError (`bad-answer`, `bad-http`), LimitExceeded, PeerTimeout.
        """
        seen = url
        try:
            async with asyncio.timeout(self._limits.request_timeout):
                for _ in range(MAX_REDIRECTS + 1):
                    place = await self.place(seen)
                    status, headers, body = await self._ask("POST", seen, place, offer)
                    if status not in (301, 302, 303, 307, 308):
                        return self._created(seen, place, status, headers, body)
                    seen = _redirected(seen, status, headers.get("Location", ""))
        except TimeoutError:
            raise PeerTimeout(
                f"the target did not answer the offer in {self._limits.request_timeout:g} s", code="request-timeout"
            ) from None
        raise PeerError(f"the target redirects more than {MAX_REDIRECTS} times", code="bad-redirect")

    async def delete(self, resource: str) -> None:
        """As told by `Created.resource`. What becomes of it nobody can do anything about: errors are raised for the log only."""
        async with asyncio.timeout(FAREWELL):
            await self._ask("DELETE", resource, await self.place(resource), None)

    async def _ask(self, method: str, url: str, place: Place, body: str | None) -> tuple[int, Any, str]:
        """Status, headers, body: of one request, no redirection followed."""
        headers = {"Accept-Encoding": "identity", "User-Agent": "medianode"}
        if body is not None:
            headers |= {"Content-Type": SDP, "Accept": SDP}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        connector = aiohttp.TCPConnector(resolver=_Placed(place), use_dns_cache=False, force_close=True, ssl=self._outbound.trust)
        jar = aiohttp.DummyCookieJar()
        try:
            async with (
                aiohttp.ClientSession(connector=connector, cookie_jar=jar, auto_decompress=False, trust_env=False) as session,
                session.request(method, url, data=body, headers=headers, allow_redirects=False) as response,
            ):
                return response.status, response.headers, await self._text(response)
        except aiohttp.ClientConnectorCertificateError as e:
            why = getattr(e.certificate_error, "verify_message", "") or e.certificate_error
            message = f"the certificate of {place.host} is not trusted ({why}): outbound.cafile may name a PEM to trust"
            raise PeerError(message, code="certificate-not-trusted") from None
        except aiohttp.ClientConnectorSSLError:
            raise PeerError(f"{place.host}:{place.port}: TLS failed: is this the TLS port?", code="tls-failed") from None
        except aiohttp.ClientConnectorError as e:
            raise PeerError(f"{place.host}:{place.port}: {e.os_error.strerror or e.os_error}", code="unreachable") from None
        except (aiohttp.ClientError, ValueError) as e:  # aiohttp's words may hold the URL, and with it a key
            raise ProtocolError(f"{place.host}:{place.port}: no HTTP answer ({type(e).__name__})", code="bad-http") from None

    async def _text(self, response: aiohttp.ClientResponse) -> str:
        most = self._limits.rtc_offer_bytes
        body = bytearray()
        async for chunk in response.content.iter_any():
            body += chunk
            if len(body) > most:
                raise LimitExceeded(f"the target's answer: expected at most {most} bytes, got more", code="body-too-large")
        return body.decode("utf-8", "replace")

    def _created(self, url: str, place: Place, status: int, headers: Any, body: str) -> Created:
        if status not in (200, 201):  # 200 is what some servers say
            raise self._refusal(status, headers, body)
        kind = headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if kind and kind != SDP:
            raise ProtocolError(f"the target's answer: expected {SDP}, got {self._shown(kind)}", code="bad-answer")
        return Created(body, _resource(url, headers.get("Location", "")), place.addresses)

    def _refusal(self, status: int, headers: Any, body: str) -> MedianodeError:
        words = self._shown(body) if "html" not in headers.get("Content-Type", "") else ""
        told = f" ({words})" if words else ""
        if status in (401, 403):
            return Unauthorized(f"the target refuses the key: {status}{told}", code="rejected")
        if status in (404, 405, 410):
            return NotFound(f"there is no WHIP endpoint at this address: {status}{told}", code="rejected")
        if 400 <= status < 500 and status not in _TRANSIENT:
            return PeerError(f"the target refuses the offer: {status}{told}", code="rejected")
        retry = headers.get("Retry-After", "")[:20]
        return PeerError(
            f"the target answers {status}{told}" + (f", retry after {retry} s" if retry.isdigit() else ""), code="target-error"
        )

    def _shown(self, text: str) -> str:
        """A target may say our key back."""
        if self._key:
            text = text.replace(self._key, "…")
        return _UNPRINTABLE.sub(" ", text[: SAID * 4]).strip()[:SAID]


def _keeps_secret(before: str, after: str) -> bool:
    """Whether a request there tells the key to nobody on the way who could not read it so far."""
    old, new = urlsplit(before), urlsplit(after)
    return new.scheme == "https" or (new.scheme == old.scheme == "http")


def _redirected(url: str, status: int, location: str) -> str:
    """RFC 9725 4.5: by 307 or 308, or the POST would become a GET."""
    if status not in (307, 308) or not location:
        raise PeerError(f"expected a redirection of a POST by 307 or 308 with a Location, got {status}", code="bad-redirect")
    after = urljoin(url, location)
    if not _keeps_secret(url, after):
        raise PeerError("the target redirects from https to something else", code="bad-redirect")
    return after


def _resource(url: str, location: str) -> str:
    """RFC 9725 4.2: relative to what was asked. Empty where there is none, or one that the key may not be sent to."""
    if not location:
        return ""
    try:
        after = urljoin(url, location)
        return after if _keeps_secret(url, after) else ""
    except ValueError:
        return ""
