"""Rows of message headers: to whom a run goes, kept ready as sendmmsg wants it."""

from __future__ import annotations

import socket
import struct
from typing import Any, Protocol

import cffi  # type: ignore[import-untyped]  # has no types

from medianode.rtc.srtp import Sealer

ROW = 16
"""Viewers per sendmmsg: more gain nothing, and their slots must stay in the CPU's cache."""
SOL_UDP = 17
UDP_SEGMENT = 103
_GSO_CMSG = struct.Struct("=QiiH6x")

cdefs = cffi.FFI()
cdefs.cdef("""
struct iovec { void *iov_base; size_t iov_len; };
struct msghdr { void *msg_name; unsigned int msg_namelen; struct iovec *msg_iov; size_t msg_iovlen;
                void *msg_control; size_t msg_controllen; int msg_flags; };
struct mmsghdr { struct msghdr msg_hdr; unsigned int msg_len; };
int sendmmsg(int sockfd, struct mmsghdr *msgvec, unsigned int vlen, int flags);
""")
libc: Any = cdefs.dlopen(None)


class Destination(Protocol):
    """What a peer is to the batch (`rtc.peer.Peer` on UDP). `address` and `ancillary` may change at any time."""

    sealer: Sealer | None
    address: Any
    ancillary: list[tuple[int, int, bytes]]


class Target(Protocol):
    """Who is told what became of a run."""

    peer: Any
    gone: bool

    def refused(self) -> None:
        """Its route or device takes no GSO: from now on it belongs into plain rows."""

    def lost(self, cause: str, packets: int) -> None:
        """Sealed, but not sent."""

    def failed(self, message: str) -> None:
        """Its packets cannot be sealed any more."""


def control(ancillary: list[tuple[int, int, bytes]], segment: int) -> bytes:
    """msg_control: UDP_SEGMENT first, so that its value lies at byte 16, then what the peer wants."""
    out = _GSO_CMSG.pack(18, SOL_UDP, UDP_SEGMENT, segment)
    for level, kind, data in ancillary:
        out += struct.pack("=Qii", 16 + len(data), level, kind) + data + bytes(-len(data) % 8)
    return out


def sockaddr(family: int, address: Any) -> bytes:
    if family == socket.AF_INET:
        return struct.pack("=H", family) + struct.pack(">H4s8x", address[1], socket.inet_aton(address[0]))
    flow, scope = (address[2], address[3]) if len(address) > 3 else (0, 0)
    host = address[0].partition("%")[0]
    packed = socket.inet_pton(socket.AF_INET6, host if ":" in host else f"::ffff:{host}")
    return struct.pack("=H", family) + struct.pack(">HI16s", address[1], flow, packed) + struct.pack("=I", scope)


class Row:
    """Up to ROW targets that are sent the same runs: their handles, addresses and message headers, kept ready."""

    __slots__ = (
        "_controls",
        "_family",
        "_names",
        "addresses",
        "ancillaries",
        "handles",
        "headers",
        "peers",
        "plain",
        "sealers",
        "shared",
        "special",
        "targets",
    )

    def __init__(self, shared: Any, vectors: Any, family: int, *, plain: bool = False) -> None:
        self.targets: list[Target] = []
        self.peers: list[Destination] = []
        self.sealers: list[Any] = []
        """Whose the handles are: libsrtp's memory must not go while a handle may still be used."""
        self.handles: list[Any] = []
        self.addresses: list[Any] = []
        self.ancillaries: list[Any] = []
        self.plain = plain
        """Without GSO."""
        self.special = False
        """Some have ancillary data of their own."""
        self.shared = shared
        self._family = family
        self._names: Any = cdefs.new("char[]", 28 * ROW)
        self._controls: list[Any] = [None] * ROW
        self.headers: Any = cdefs.new("struct mmsghdr[]", ROW)
        for i in range(ROW):
            header = self.headers[i].msg_hdr
            header.msg_name = self._names + 28 * i
            header.msg_iov = vectors + i
            header.msg_iovlen = 1

    def add(self, target: Target) -> None:
        self.targets.append(target)
        self.peers.append(target.peer)
        self.sealers.append(target.peer.sealer)
        self.handles.append(target.peer.sealer.handle)
        self.addresses.append(None)
        self.ancillaries.append(None)
        self._place(len(self.targets) - 1)

    def remove(self, target: Target) -> None:
        i = self.targets.index(target)
        columns: tuple[list[Any], ...] = (
            self.targets,
            self.peers,
            self.sealers,
            self.handles,
            self.addresses,
            self.ancillaries,
        )
        for column in columns:
            last = column.pop()
            if i < len(column):
                column[i] = last
        if i < len(self.targets):
            self._place(i)

    def refresh(self) -> None:
        """A peer moved: write its address anew."""
        for i, peer in enumerate(self.peers):
            if peer.address is not self.addresses[i] or peer.ancillary is not self.ancillaries[i]:
                self._place(i)

    def set_segment(self, segment: int) -> None:
        """For those that have ancillary data of their own."""
        packed = struct.pack("=H", segment)
        for own in self._controls[: len(self.targets)]:
            if own is not None:
                cdefs.memmove(own + 16, packed, 2)

    def _place(self, i: int) -> None:
        peer = self.peers[i]
        self.addresses[i], self.ancillaries[i] = peer.address, peer.ancillary
        self.special = any(self.ancillaries)
        packed = sockaddr(self._family, peer.address)
        cdefs.memmove(self._names + 28 * i, packed, len(packed))
        header = self.headers[i].msg_hdr
        header.msg_namelen = len(packed)
        if peer.ancillary:
            data = control(peer.ancillary, 0)
            own = self._controls[i] = cdefs.new("char[]", data)
            skip, length = (24, len(data) - 24) if self.plain else (0, len(data))
            header.msg_control, header.msg_controllen = own + skip, length
        else:
            self._controls[i] = None
            header.msg_control, header.msg_controllen = (cdefs.NULL, 0) if self.plain else (self.shared, 24)
