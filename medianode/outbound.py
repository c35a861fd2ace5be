"""The one guard on addresses that strangers name: webhooks, simulcast targets, pulls, inputs of jobs. Private networks are refused.

A name is resolved once and the connection goes to the very addresses that were looked at, so a name that turns private in between (DNS
rebinding) gains nothing.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from medianode.errors import ConfigError, Forbidden, InvalidRequest, PeerError

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
Lookup = Callable[[str, int], Awaitable[Sequence[str]]]
TIMEOUT = 5.0
URL_LENGTH = 2000
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


@dataclass(frozen=True, slots=True)
class Place:
    """Where to connect: `addresses` are all allowed; `host` is for TLS and the Host header."""

    host: str
    port: int
    addresses: tuple[str, ...]


class Outbound:
    """`allow`: networks (CIDR), addresses and host names that may be reached although they are private. `lookup`: for tests."""

    def __init__(self, allow: Sequence[str] = (), lookup: Lookup | None = None) -> None:
        self._networks: list[ipaddress.IPv4Network | ipaddress.IPv6Network] = []
        self._names: set[str] = set()
        self._lookup = lookup or _system_lookup
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
        if len(url) > URL_LENGTH or not url.isprintable() or " " in url:
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
            except (OSError, TimeoutError, UnicodeError) as e:
                raise PeerError(f"{host}: the name cannot be resolved: {e or 'timeout'}", code="no-such-host") from None
        allowed = tuple(found) if host.lower().rstrip(".") in self._names else tuple(a for a in found if self.allows(a))
        if not found:
            raise PeerError(f"{host}: the name has no address", code="no-such-host")
        if not allowed:
            raise Forbidden(
                f"{host} is {', '.join(found[:3])}: a private or special address; outbound.allow may permit it", code="private-address"
            )
        return Place(host, port, allowed)

    def allows(self, address: str) -> bool:
        """Is this address of the public internet, or permitted by the operator?"""
        ip = _address(address)
        if ip is None:
            return False
        inner = _inner(ip)
        if any(candidate in net for candidate in {ip, inner} for net in self._networks if net.version == candidate.version):
            return True
        return all(a.is_global and not a.is_multicast and not a.is_reserved for a in {ip, inner})


def _address(text: str) -> IpAddress | None:
    """None for a name. What only looks like a number (`127.1`, `0x7f000001`) is left to the resolver, whose answer is looked at."""
    try:
        return ipaddress.ip_address(text.strip("[]").partition("%")[0])
    except ValueError:
        return None


def _inner(ip: IpAddress) -> IpAddress:
    """The IPv4 address that an IPv6 one leads to: mapped, 6to4, Teredo, NAT64."""
    if isinstance(ip, ipaddress.IPv4Address):
        return ip
    if ip.ipv4_mapped is not None:
        return ip.ipv4_mapped
    if ip.sixtofour is not None:
        return ip.sixtofour
    if ip.teredo is not None:
        return ip.teredo[1]
    return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF) if ip in _NAT64 else ip


async def _system_lookup(host: str, port: int) -> Sequence[str]:
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))
