"""The host's addresses, asked of the kernel by netlink (RFC 3549), and the host candidates made of them."""

from __future__ import annotations

import ipaddress
import re
import socket
import struct
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from medianode.errors import ConfigError
from medianode.protocols.sdp.plan import Candidate

MAX_ADDRESSES = 16
"""An answer with more candidates than this only slows the peer's checks."""

_RTM_GETADDR, _RTM_NEWADDR, _NLMSG_ERROR, _NLMSG_DONE = 22, 20, 2, 3
_NLM_F_DUMP = 0x301  # with NLM_F_REQUEST
_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS = 1, 2, 8
_DADFAILED, _DEPRECATED, _TENTATIVE = 0x08, 0x20, 0x40
_IFF_UP, _IFF_LOOPBACK = 0x1, 0x8
_NLMSGHDR = struct.Struct("=IHHII")
_IFADDRMSG = struct.Struct("=BBBBI")
_RTATTR = struct.Struct("=HH")
_CONTAINERS = re.compile(r"docker|br-[0-9a-f]{12}$|veth|virbr|lxcbr|lxdbr|incusbr|cni|flannel|cali|kube|podman|vmnet|vboxnet")
"""Bridges to guests and containers on this host: nobody else reaches them."""


class Address(NamedTuple):
    """One address of an interface that is up. `deprecated`: IPv6 whose preferred lifetime is over."""

    interface: str
    value: str
    loopback: bool = False
    deprecated: bool = False


def addresses() -> tuple[Address, ...]:
    """All usable ones of this host, loopback among them. Without netlink: those that routes to the world would send from."""
    try:
        found = tuple(_asked())
    except (OSError, AttributeError):  # no such family in this sandbox, or not Linux
        found = ()
    return found or tuple(_routed())


def _asked() -> Iterator[Address]:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as sock:
        sock.settimeout(1.0)
        sock.sendto(_NLMSGHDR.pack(_NLMSGHDR.size + _IFADDRMSG.size, _RTM_GETADDR, _NLM_F_DUMP, 1, 0) + bytes(_IFADDRMSG.size), (0, 0))
        while True:
            data = sock.recv(65_536)
            at = 0
            while at + _NLMSGHDR.size <= len(data):
                length, kind, *_ = _NLMSGHDR.unpack_from(data, at)
                if kind in (_NLMSG_DONE, _NLMSG_ERROR) or length < _NLMSGHDR.size:
                    return
                if kind == _RTM_NEWADDR:
                    address = parse_address(data[at + _NLMSGHDR.size : at + length])
                    if address is not None:
                        yield address
                at += (length + 3) & ~3


def parse_address(message: bytes) -> Address | None:
    """One RTM_NEWADDR without its header; None for what cannot be used now."""
    family, _, flags, _, index = _IFADDRMSG.unpack_from(message)
    attributes: dict[int, bytes] = {}
    at = _IFADDRMSG.size
    while at + _RTATTR.size <= len(message):
        length, kind = _RTATTR.unpack_from(message, at)
        if length < _RTATTR.size:
            break
        attributes[kind] = message[at + _RTATTR.size : at + length]
        at += (length + 3) & ~3
    if len(attributes.get(_IFA_FLAGS, b"")) == 4:
        flags = int.from_bytes(attributes[_IFA_FLAGS], "little" if struct.pack("=H", 1)[0] else "big")
    packed = attributes.get(_IFA_LOCAL) or attributes.get(_IFA_ADDRESS)  # point-to-point: IFA_ADDRESS is the other end's
    if packed is None or family not in (socket.AF_INET, socket.AF_INET6) or flags & (_DADFAILED | _TENTATIVE):
        return None
    try:
        name = socket.if_indextoname(index)
    except OSError:  # it went away meanwhile
        return None
    state = _interface_flags(name)
    if not state & _IFF_UP:
        return None
    return Address(name, socket.inet_ntop(family, packed), bool(state & _IFF_LOOPBACK), bool(flags & _DEPRECATED))


def _interface_flags(name: str) -> int:
    try:
        return int(Path("/sys/class/net", name, "flags").read_text(), 16)
    except (OSError, ValueError):
        return _IFF_UP


def _routed() -> Iterator[Address]:
    for family, probe, local in ((socket.AF_INET, "192.0.2.1", "127.0.0.1"), (socket.AF_INET6, "2001:db8::1", "::1")):
        yield Address("lo", local, loopback=True)
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as sock:
                sock.connect((probe, 9))  # sends nothing: a UDP connect only asks the routing table
                yield Address("", sock.getsockname()[0].partition("%")[0])
        except OSError:
            continue  # no route in this family


def reachable(found: Iterable[Address], *, ipv4: bool = True, ipv6: bool, loopback: bool) -> list[str]:
    """Those worth telling a peer, best first. Link-local IPv6 never: a candidate has no scope. Container bridges, deprecated and
    169.254 addresses only where there is nothing better.
    """
    ranks: list[tuple[int, str]] = []
    local: list[str] = []
    for address in found:
        value = ipaddress.ip_address(address.value)
        if not (ipv4 if value.version == 4 else ipv6 and not value.is_link_local):
            continue
        if address.loopback or value.is_loopback:
            if value.is_loopback:
                local.append(address.value)
            continue
        if value.is_multicast or value.is_unspecified:
            continue
        poor = value.is_link_local or address.deprecated or _CONTAINERS.match(address.interface) is not None
        ranks.append((1 if poor else 0, address.value))
    best = min((rank for rank, _ in ranks), default=0)
    good = [value for rank, value in ranks if rank == best]
    good.sort(key=lambda value: ":" in value)
    return list(dict.fromkeys([*good[:MAX_ADDRESSES], *(local if loopback or not good else ())]))


def public(values: Iterable[str]) -> tuple[tuple[str, int], ...]:
    """`192.0.2.1`, `192.0.2.1:8189`, `2001:db8::1`, `[2001:db8::1]:8189` → (address, port or 0). Raises ConfigError."""
    made = []
    for value in values:
        host, port = value, "0"
        if value.startswith("[") or value.count(":") == 1:
            host, _, port = value.rpartition(":") if not value.endswith("]") else (value, "", "0")
        try:
            address = ipaddress.ip_address(host.strip("[]"))
            if not 0 <= int(port) <= 65_535 or not port.isascii():
                raise ValueError(port)
        except ValueError:
            raise ConfigError(f"rtc.public_addresses: expected ADDRESS or ADDRESS:PORT, got {value!r}") from None
        made.append((str(address), int(port)))
    return tuple(made)


def candidates(values: Iterable[tuple[str, int, int]]) -> tuple[Candidate, ...]:
    """Of (address, udp port or 0, tcp port or 0), best first. Priorities by RFC 8445 5.1.2.1 and RFC 6544 4.2: UDP before TCP."""
    places = list(dict.fromkeys(values))
    made: list[Candidate] = []
    for n, (address, udp, _) in enumerate(places):
        if udp:
            made.append(Candidate(address, udp, "udp", 126 << 24 | (65_535 - n) << 8 | 255, _foundation(address, "udp")))
    for n, (address, _, tcp) in enumerate(places):
        if tcp:
            passive = 4 << 13 | (8191 - n)
            made.append(Candidate(address, tcp, "tcp", 90 << 24 | passive << 8 | 255, _foundation(address, "tcp")))
    return tuple(made)


def _foundation(address: str, protocol: Literal["udp", "tcp"]) -> str:
    return str(zlib.crc32(f"host {protocol} {address}".encode()))
