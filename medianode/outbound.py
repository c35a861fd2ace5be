"""The one guard on addresses that strangers name: webhooks, simulcast targets, pulls, inputs of jobs. Private networks are refused.

A name is resolved once and the connection goes to the very addresses that were looked at, so a name that turns private in between (DNS
rebinding) gains nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import socket
import ssl
import threading
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, urlsplit

from aiohttp.abc import AbstractResolver, ResolveResult

from medianode.errors import ConfigError, Forbidden, InvalidRequest, PeerError

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
Lookup = Callable[[str, int], Awaitable[Sequence[str]]]
TIMEOUT = 5.0
URL_LENGTH = 2000
LOOKUPS = 64
"""Names being looked up at once. One whose servers are silent holds its thread for some ten seconds: a few such must not take all."""

_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_UNICAST = ipaddress.ip_network("2000::/3")
_SPECIAL = tuple(
    ipaddress.ip_network(text)
    for text in (
        "192.0.0.0/24",  # RFC 6890: protocol assignments
        "192.88.99.0/24",  # RFC 7526: relays of 6to4
        "2001::/23",  # RFC 2928: protocol assignments, Teredo among them
        "2002::/16",  # RFC 3056: 6to4, which leads to any IPv4 address
        "3fff::/20",  # RFC 9637: documentation
    )
)


@dataclass(frozen=True, slots=True)
class Place:
    """Where to connect: `addresses` are all allowed; `host` is for TLS and the Host header."""

    host: str
    port: int
    addresses: tuple[str, ...]

    def resolved(self) -> list[ResolveResult]:
        """As a resolver of aiohttp tells it: the addresses as they stand, not to be looked up again."""
        return [
            ResolveResult(
                hostname=self.host,
                host=address,
                port=self.port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for address in self.addresses
        ]


class Outbound:
    """`allow`: networks (CIDR), addresses and host names that may be reached although they are private. `lookup`: for tests.

    `cafile`: PEM of authorities that are trusted beside the system's. Raises ConfigError where it cannot be read.
    """

    def __init__(self, allow: Sequence[str] = (), lookup: Lookup | None = None, *, cafile: str = "") -> None:
        self.trust = _trust(cafile)
        self._networks: list[ipaddress.IPv4Network | ipaddress.IPv6Network] = []
        self._names: set[str] = set()
        self._lookup = lookup or _SystemLookup()
        for item in allow:
            try:
                self._networks.append(ipaddress.ip_network(item, strict=False))
            except ValueError:
                if not item or "/" in item or item != item.strip():
                    raise ConfigError(f"outbound.allow: expected networks, addresses or host names, got {item!r}") from None
                self._names.add(item.lower().rstrip("."))

    def parse(self, url: str, schemes: Sequence[str], field: str = "url") -> SplitResult:
        """A URL of one of `schemes`, with a host. Raises InvalidRequest."""
        wanted = " or ".join(f"{scheme}://…" for scheme in schemes)
        # a backslash is a slash to some readers of URLs and part of a name to others: nobody needs it
        if len(url) > URL_LENGTH or not url.isprintable() or " " in url or "\\" in url:
            raise InvalidRequest(f"{field}: expected {wanted} of up to {URL_LENGTH} printable characters")
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as e:
            raise InvalidRequest(f"{field}: expected {wanted}: {e}") from None
        if parts.scheme not in schemes or not parts.hostname or port == 0:
            raise InvalidRequest(f"{field}: expected {wanted}, got {parts.scheme or url[:20]!r}")
        return parts

    async def check(self, url: str, schemes: Sequence[str], field: str = "url") -> SplitResult:
        """`parse`, and where it leads is allowed now. A name that does not resolve yet is let pass: it is looked at again each time.

        Raises InvalidRequest (`private-address` where it is that).
        """
        parts = self.parse(url, schemes, field)
        try:
            await self.place(parts.hostname or "", parts.port or 0)
        except Forbidden as e:
            raise InvalidRequest(f"{field}: {e.message}", code=e.code) from None
        except PeerError:
            pass
        return parts

    async def place(self, host: str, port: int) -> Place:
        """Look at the host before each connection. Raises Forbidden (`private-address`), PeerError (`no-such-host`)."""
        literal = _address(host)
        if literal is not None:
            found: Sequence[str] = (str(literal),)
        else:
            try:
                async with asyncio.timeout(TIMEOUT):
                    found = await self._lookup(host, port)
            except (OSError, TimeoutError, ValueError) as e:
                raise PeerError(f"{host}: the name cannot be resolved: {str(e) or 'timeout'}", code="no-such-host") from None
        allowed = tuple(found) if host.lower().rstrip(".") in self._names else tuple(a for a in found if self.allows(a))
        if not found:
            raise PeerError(f"{host}: the name has no address", code="no-such-host")
        if not allowed:
            # which one is not said: tenants would read the names of the inside with our resolver
            raise Forbidden(f"{host}: a private or special address, and not in the node's outbound.allow", code="private-address")
        return Place(host, port, allowed)

    def allows(self, address: str) -> bool:
        """Is this address of the public internet, or permitted by the operator?"""
        ip = _address(address)
        if ip is None:
            return False
        inner = _inner(ip)
        if any(candidate in net for candidate in (ip, inner) for net in self._networks if net.version == candidate.version):
            return True
        return _public(inner)


class Guard(AbstractResolver):
    """For aiohttp: names become the addresses that `outbound` allows, and no socket is made for any other."""

    def __init__(self, outbound: Outbound) -> None:
        self._outbound = outbound
        self._vouched: set[str] = set()  # private addresses of names that the operator allows: as many as he names

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET) -> list[ResolveResult]:
        place = await self._outbound.place(host, port)
        self._vouched.update(address for address in place.addresses if not self._outbound.allows(address))
        return place.resolved()

    async def close(self) -> None:
        self._vouched.clear()

    def make_socket(self, info: tuple[Any, ...]) -> socket.socket:
        family, kind, protocol, _, address = info
        if address[0] not in self._vouched and not self._outbound.allows(address[0]):
            raise OSError(errno.EACCES, "a private address")
        return socket.socket(family, kind, protocol)


def _trust(cafile: str) -> ssl.SSLContext:
    """What TLS to others is verified by. Shared: making one costs tens of milliseconds."""
    context = ssl.create_default_context()
    if cafile:
        try:
            context.load_verify_locations(cafile)
        except OSError as e:  # ssl.SSLError, where there is no certificate in it, is one too
            raise ConfigError(f"outbound.cafile: {cafile}: {e.strerror or e}") from None
    return context


def _address(text: str) -> IpAddress | None:
    """None for a name. What only looks like a number (`127.1`, `0x7f000001`) is left to the resolver, whose answer is looked at."""
    try:
        return ipaddress.ip_address(text.removeprefix("[").removesuffix("]").partition("%")[0])
    except ValueError:
        return None


def _inner(ip: IpAddress) -> IpAddress:
    """The IPv4 address that an IPv6 one leads to: mapped, NAT64 (what an IPv6-only network has instead of IPv4). 6to4 and Teredo: see
    _SPECIAL.
    """
    if isinstance(ip, ipaddress.IPv4Address):
        return ip
    if ip.ipv4_mapped is not None:
        return ip.ipv4_mapped
    return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF) if ip in _NAT64 else ip


def _public(ip: IpAddress) -> bool:
    """Python's `is_global` calls multicast, site-local and unassigned addresses global, and knows each year's registry only."""
    if any(ip in net for net in _SPECIAL if net.version == ip.version):
        return False
    if ip.version == 6 and ip not in _UNICAST:
        return False
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


class _SystemLookup:
    """The system's resolver in threads of its own: those of the loop are few, and serve others too. One lookup of a name at a time."""

    def __init__(self) -> None:
        self._running: dict[str, asyncio.Future[Sequence[str]]] = {}

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        found = self._running.get(host)
        if found is None:
            if len(self._running) >= LOOKUPS:
                raise OSError(errno.EAGAIN, f"{LOOKUPS} names are being looked up already")
            loop = asyncio.get_running_loop()
            found = self._running[host] = loop.create_future()
            threading.Thread(target=self._look_up, args=(loop, host, found), name="medianode-lookup", daemon=True).start()
        return await asyncio.shield(found)

    def _look_up(self, loop: asyncio.AbstractEventLoop, host: str, found: asyncio.Future[Sequence[str]]) -> None:
        result: Sequence[str] | OSError | ValueError
        try:
            result = list(dict.fromkeys(str(entry[4][0]) for entry in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)))
        except (OSError, ValueError) as e:
            result = e
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
            loop.call_soon_threadsafe(self._done, host, found, result)

    def _done(self, host: str, found: asyncio.Future[Sequence[str]], result: Sequence[str] | OSError | ValueError) -> None:
        del self._running[host]
        if isinstance(result, OSError | ValueError):
            found.set_exception(result)
            found.exception()  # those who asked may all have given up: then nobody is to be told of it
        else:
            found.set_result(result)
