"""HTTP as the puller needs it: each URL, redirections and what playlists name among them, passes `outbound`; nothing else is followed."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import SplitResult, unquote, urljoin, urlsplit

import aiohttp
from yarl import URL

from medianode.errors import PeerError, PeerGone, ProtocolError, UnsupportedMedia
from medianode.ingress.pull.words import refused
from medianode.outbound import Guard, Outbound
from medianode.protocols.rtsp.auth import Authentication

REDIRECTIONS = 5
READ_BYTES = 1 << 20
SCHEMES = ("http", "https")
MAX_COOKIES = 64
"""Kept of one source; some CDNs want theirs back, and some sources make a new one each time."""


class Fetcher:
    """Made by `open_fetcher`, for one attempt. `user` and `password` go to the host they were given for, and nowhere else."""

    def __init__(self, session: aiohttp.ClientSession, outbound: Outbound, url: str) -> None:
        parts = urlsplit(url)
        self._session = session
        self._outbound = outbound
        self._home = (parts.scheme, parts.hostname, parts.port)
        user, password = unquote(parts.username or ""), unquote(parts.password or "")
        self._authentication = Authentication(user, password, lambda: secrets.token_hex(8))

    @asynccontextmanager
    async def get(self, url: str, *, start: int = 0, length: int = 0) -> AsyncIterator[aiohttp.ClientResponse]:
        """An answer of 200 or 206, its body not read. `length` 0: all of it. Raises PeerError, OSError, aiohttp.ClientError."""
        parts = self._checked(url)
        for _ in range(REDIRECTIONS):
            async with self._request(parts, start, length) as response:
                if (
                    response.status == 401
                    and self._at_home(parts)
                    and self._authentication.challenged(response.headers.getall("WWW-Authenticate", []))
                ):
                    continue
                if response.status in (301, 302, 303, 307, 308) and (location := response.headers.get("Location")):
                    parts = self._checked(location, parts.geturl())
                    continue
                if response.status not in (200, 206):
                    code, message = refused(response.status, "HTTP")
                    raise PeerError(message, code=code)
                yield response
                return
        raise ProtocolError(f"more than {REDIRECTIONS} redirections", code="too-many-redirects")

    async def read(self, url: str, most: int, *, start: int = 0, length: int = 0) -> tuple[bytes, str]:
        """All of it, and where it was found in the end. Raises as `get`, and ProtocolError over `most` bytes."""
        async with self.get(url, start=start, length=length) as response:
            data = bytearray()
            async for chunk in response.content.iter_any():
                data += chunk
                if len(data) > most:
                    raise ProtocolError(f"expected at most {most} bytes, got more")
            if length and response.status == 200:  # it knows no ranges, and sent all of it (RFC 9110 14.2)
                data = data[start : start + length]
            return bytes(data), str(response.url)

    @asynccontextmanager
    async def _request(self, parts: SplitResult, start: int, length: int) -> AsyncIterator[aiohttp.ClientResponse]:
        host = parts.hostname or ""
        if host.replace(".", "").isdigit() or ":" in host:  # a literal does not come by the resolver
            await self._outbound.place(host, parts.port or 0)
        headers = {"Range": f"bytes={start}-{start + length - 1}"} if length else {}
        target = f"{parts.path or '/'}{'?' + parts.query if parts.query else ''}"
        if self._at_home(parts) and (signature := self._authentication.header("GET", target)) is not None:
            headers["Authorization"] = signature
        shown = parts._replace(netloc=parts.netloc.rpartition("@")[2], path=parts.path or "/", fragment="").geturl()
        try:
            address = URL(shown, encoded=True)
        except ValueError:
            raise UnsupportedMedia("the source leads to an address that cannot be read", code="bad-redirect") from None
        if len(self._session.cookie_jar) > MAX_COOKIES:
            self._session.cookie_jar.clear()
        async with self._session.get(address, headers=headers, allow_redirects=False) as response:
            yield response

    def _at_home(self, parts: SplitResult) -> bool:
        return (parts.scheme, parts.hostname, parts.port) == self._home

    def _checked(self, url: str, base: str = "") -> SplitResult:
        try:
            parts = urlsplit(urljoin(base, url))
            usable = parts.scheme in SCHEMES and bool(parts.hostname) and parts.port != 0
        except ValueError:
            usable = False
        if not usable:
            raise UnsupportedMedia("the source leads to an address that is not http:// or https://", code="bad-redirect")
        return parts


@asynccontextmanager
async def open_fetcher(outbound: Outbound, url: str) -> AsyncIterator[Fetcher]:
    """Its timeouts are its owner's. aiohttp's errors are told as ours: theirs name URLs."""
    guard = Guard(outbound)
    connector = aiohttp.TCPConnector(resolver=guard, use_dns_cache=False, limit=8, socket_factory=guard.make_socket, ssl=outbound.trust)
    session = aiohttp.ClientSession(
        connector=connector,
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=None, sock_read=None),
        cookie_jar=aiohttp.CookieJar(),
        # what comes packed all the same is not unpacked: a kilobyte may become a megabyte
        headers={"User-Agent": "medianode", "Accept-Encoding": "identity"},
        auto_decompress=False,
        read_bufsize=READ_BYTES,
    )
    try:
        async with session:
            yield Fetcher(session, outbound, url)
    except aiohttp.ClientConnectorCertificateError as e:
        raise e.certificate_error from None
    except aiohttp.ClientConnectorError as e:
        raise e.os_error from None
    except aiohttp.ClientError as e:
        raise PeerGone(f"the connection broke: {type(e).__name__}", code="connection-reset") from None
