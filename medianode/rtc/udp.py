"""The UDP socket of all peers: dual stack, read in batches, and answering from the address that was asked.

A datagram's source is kept as the kernel wrote it (a raw sockaddr): that is the key by which its peer is found, and is taken apart
only for STUN. Where it was sent to stands in a control message, looked at for STUN only.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import logging
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from medianode import telemetry

log = logging.getLogger("medianode.rtc.udp")

Ancillary = list[tuple[int, int, bytes]]
Sockaddr = tuple[str, int] | tuple[str, int, int, int]

WILDCARDS = (None, "::", "0.0.0.0")  # noqa: S104 - the operator's choice
BATCH = 64
"""Datagrams that one turn of the loop takes at most, so that a flood does not keep others waiting."""
SLOT = 2048
"""Longer ones are none of WebRTC's."""
WANTED_BUFFER = 8 << 20
ENOUGH_BUFFER = 2 << 20
"""One key frame to some hundred viewers; below this the kernel drops under bursts."""

DROPPED = telemetry.counter("medianode_rtc_dropped_total", "What came to the WebRTC port and was not taken, by cause", "cause")
UNSENT = telemetry.counter(
    "medianode_rtc_unsent_total", "Our own small datagrams (STUN, DTLS, RTCP) that the kernel did not take, by error", "error"
)

_GARBAGE = DROPPED.labels("garbage")
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE, _SO_MEMINFO, _MEMINFO_DROPS = 32, 33, 55, 8
_IP_PKTINFO = 8
_V4 = struct.Struct("=H2s4s8x")
_V6 = struct.Struct("=H2s4s16sI")
_CMSG = struct.Struct("@Nii")
_CMSG_HEAD = socket.CMSG_LEN(0)
_CONTROL = 64
_NAME = 32
_V4_MAPPED = bytes(10) + b"\xff\xff"


class _Msghdr(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_void_p),
        ("namelen", ctypes.c_uint32),
        ("iov", ctypes.c_void_p),
        ("iovlen", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("controllen", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class _Mmsghdr(ctypes.Structure):
    _fields_ = (("header", _Msghdr), ("length", ctypes.c_uint32))


class _Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class Source(NamedTuple):
    """Where a datagram came from and how to answer it from where it went to."""

    raw: bytes
    address: Sockaddr
    ancillary: Ancillary


def unpack(raw: bytes) -> Sockaddr:
    """A raw sockaddr as Python's sockets take it."""
    if len(raw) < _V6.size:
        _, port, packed = _V4.unpack(raw)
        return socket.inet_ntop(socket.AF_INET, packed), int.from_bytes(port, "big")
    _, port, _, packed, scope = _V6.unpack(raw)
    return socket.inet_ntop(socket.AF_INET6, packed), int.from_bytes(port, "big"), 0, scope


def pack(family: int, address: Sockaddr) -> bytes:
    """The reverse of `unpack`."""
    port = address[1].to_bytes(2, "big")
    if family == socket.AF_INET:
        return _V4.pack(family, port, socket.inet_pton(socket.AF_INET, address[0]))
    scope = address[3] if len(address) == 4 else 0
    return _V6.pack(family, port, bytes(4), socket.inet_pton(socket.AF_INET6, address[0].partition("%")[0]), scope)


def plain(address: Sockaddr) -> tuple[str, int]:
    """Host and port as people write them: IPv4 in its own form."""
    return address[0].removeprefix("::ffff:"), address[1]


def text(address: Sockaddr) -> str:
    host, port = plain(address)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class UdpSocket:
    """Bound at once (raises OSError). `read` hands datagrams on until the queue is empty or BATCH are taken."""

    def __init__(self, host: str | None, port: int) -> None:
        self.sock = _bound(host, port)
        self.family = int(self.sock.family)
        self.port = int(self.sock.getsockname()[1])
        self.wildcard = host in WILDCARDS
        self.received = 0
        self._media: Callable[[bytes, bytes], None] = _refuse
        self._other: Callable[[bytes, bytes, bytes], None] = _refuse
        if self.wildcard:
            _ask_destinations(self.sock)
        self._batch = _Batch(self.sock) if sys.platform == "linux" else None
        self.buffers = {
            "receive": _enlarge(self.sock, _SO_RCVBUFFORCE, socket.SO_RCVBUF),
            "send": _enlarge(self.sock, _SO_SNDBUFFORCE, socket.SO_SNDBUF),
        }

    def attach(self, media: Callable[[bytes, bytes], None], other: Callable[[bytes, bytes, bytes], None]) -> None:
        """`media(raw source, datagram)` gets RTP and RTCP (RFC 7983), `other(raw source, datagram, control)` STUN and DTLS; the rest is
        counted and dropped. `source(raw, control)` tells more, where it is wanted.
        """
        self._media = media
        self._other = other

    def read(self) -> None:
        """Hand on what waits, BATCH datagrams at most. For `loop.add_reader`."""
        if self._batch is not None:
            self.received += self._batch.read(self._media, self._other)
            return
        for raw, data, control in self._plain():
            first = data[0] if 0 < len(data) < SLOT else 64
            if 127 < first < 192:
                self._media(raw, data)
            elif first < 64:
                self._other(raw, data, b"".join(_cmsg(*part) for part in control[:1]))
            else:
                _GARBAGE.value += 1

    def take(self, handle: Callable[[bytes, bytes, bytes], None]) -> int:
        """As `read`, for a port that speaks one protocol: every datagram goes to `handle(raw source, datagram, control)`. How many came."""
        if self._batch is not None:
            count = self._batch.take(handle)
            self.received += count
            return count
        before = self.received
        for raw, data, control in self._plain():
            handle(raw, data, b"".join(_cmsg(*part) for part in control[:1]))
        return self.received - before

    def _plain(self) -> Iterator[tuple[bytes, bytes, list[tuple[int, int, bytes]]]]:
        """(raw source, datagram, control) of what waits, without recvmmsg; an error is counted and ends it."""
        for _ in range(BATCH):
            try:
                data, control, _, address = self.sock.recvmsg(SLOT, _CONTROL)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as e:
                DROPPED.labels(errno.errorcode.get(e.errno or 0, "error").lower()).value += 1
                return
            self.received += 1
            yield pack(self.family, address), data, control

    def source(self, raw: bytes, control: bytes) -> Source:
        """Who sent it, and what to send with so that the answer leaves from the address that was asked."""
        ancillary: Ancillary = []
        if len(control) > _CMSG_HEAD:
            length, level, kind = _CMSG.unpack_from(control)
            data = control[_CMSG_HEAD:length]
            if level == socket.IPPROTO_IPV6 and kind == socket.IPV6_PKTINFO and len(data) == 20:
                index = data[16:] if data[:2] == b"\xfe\x80" else bytes(4)  # the route chooses the interface, but for link-local
                ancillary = [(level, kind, data[:16] + index)]
            elif level == socket.IPPROTO_IP and kind == _IP_PKTINFO and len(data) == 12:
                ancillary = [(level, kind, bytes(4) + data[8:] + bytes(4))]
        return Source(raw, unpack(raw), ancillary)

    def needed(self, source: Source) -> Ancillary:
        """`source.ancillary`, or nothing where the route to this peer chooses the same address by itself: then sends are cheaper."""
        if not source.ancillary:
            return []
        data = source.ancillary[0][2]
        try:
            with socket.socket(self.family, socket.SOCK_DGRAM) as probe:
                probe.connect(source.address)
                chosen = socket.inet_pton(self.family, probe.getsockname()[0].partition("%")[0])
        except OSError:  # no route but the one it came by
            return source.ancillary
        asked = data[4:8] if self.family == socket.AF_INET else data[:16]
        return [] if chosen == asked else source.ancillary

    def send(self, data: bytes, address: Sockaddr, ancillary: Ancillary) -> None:
        """One small datagram; what the kernel does not take is counted: STUN, DTLS and RTCP are repeated anyway."""
        try:
            if ancillary:
                self.sock.sendmsg((data,), ancillary, 0, address)
            else:
                self.sock.sendto(data, address)
        except OSError as e:
            UNSENT.labels(errno.errorcode.get(e.errno or 0, "error").lower()).value += 1

    @property
    def kernel_drops(self) -> int:
        """Datagrams that found the receive buffer full, since the socket was made."""
        try:
            info = self.sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 64)
        except OSError:  # Linux before 4.12, or closed
            return 0
        at = _MEMINFO_DROPS * 4
        return int.from_bytes(info[at : at + 4], sys.byteorder) if len(info) >= at + 4 else 0

    def close(self) -> None:
        self.sock.close()


def _cmsg(level: int, kind: int, data: bytes) -> bytes:
    """As the kernel writes one."""
    return _CMSG.pack(_CMSG_HEAD + len(data), level, kind).ljust(_CMSG_HEAD, b"\0") + data


def _refuse(*_: object) -> None:
    DROPPED.labels("not-serving").value += 1


class _Batch:
    """recvmmsg: one system call for many datagrams, and no control message taken apart that nobody asks for."""

    def __init__(self, sock: socket.socket) -> None:
        self._fd = sock.fileno()
        call = ctypes.CDLL(None, use_errno=True).recvmmsg
        call.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int, ctypes.c_void_p)
        self._call = call
        self._data = bytearray(BATCH * SLOT)
        self._names = bytearray(BATCH * _NAME)
        self._controls = bytearray(BATCH * _CONTROL)
        self._iovecs = (_Iovec * BATCH)()
        self._raw = bytearray(ctypes.sizeof(_Mmsghdr) * BATCH)
        self._headers = (_Mmsghdr * BATCH).from_buffer(self._raw)
        data, names, controls = (_place(b) for b in (self._data, self._names, self._controls))
        self._name_length = _V6.size if sock.family == socket.AF_INET6 else _V4.size
        for i in range(BATCH):
            header = self._headers[i].header
            self._iovecs[i] = _Iovec(data + i * SLOT, SLOT)
            header.name, header.namelen = names + i * _NAME, self._name_length
            header.iov, header.iovlen = ctypes.addressof(self._iovecs[i]), 1
            header.control, header.controllen = controls + i * _CONTROL, _CONTROL
        self._size = ctypes.sizeof(_Mmsghdr)
        self._where = ctypes.addressof(self._headers)
        self._fresh = bytes(self._raw)
        self._words = memoryview(self._raw).cast("I")
        self._length_at = _Mmsghdr.length.offset // 4
        self._control_at = _Msghdr.controllen.offset // 4 + (0 if sys.byteorder == "little" else ctypes.sizeof(ctypes.c_size_t) // 4 - 1)

    def read(self, media: Callable[[bytes, bytes], None], other: Callable[[bytes, bytes, bytes], None]) -> int:
        count = self._receive()
        data, names, words = self._data, self._names, self._words
        step, length_at, name_length = self._size // 4, self._length_at, self._name_length
        try:
            for i in range(count):
                length = words[i * step + length_at]
                at = i * SLOT
                first = data[at] if 0 < length < SLOT else 64
                if 127 < first < 192:
                    media(bytes(names[i * _NAME : i * _NAME + name_length]), bytes(data[at : at + length]))
                elif first < 64:
                    used = words[i * step + self._control_at]
                    control = bytes(self._controls[i * _CONTROL : i * _CONTROL + used])
                    other(bytes(names[i * _NAME : i * _NAME + name_length]), bytes(data[at : at + length]), control)
                else:
                    _GARBAGE.value += 1
        finally:
            self._make_room(count)
        return count

    def take(self, handle: Callable[[bytes, bytes, bytes], None]) -> int:
        """As `read`, without telling datagrams apart. A handler that raises loses what came behind it."""
        count = self._receive()
        data, names, words = self._data, self._names, self._words
        step, length_at, name_length = self._size // 4, self._length_at, self._name_length
        try:
            for i in range(count):
                at = i * SLOT
                name = i * _NAME
                used = words[i * step + self._control_at]
                control = bytes(self._controls[i * _CONTROL : i * _CONTROL + used])
                handle(bytes(names[name : name + name_length]), bytes(data[at : at + words[i * step + length_at]]), control)
        finally:
            self._make_room(count)
        return count

    def _receive(self) -> int:
        """How many datagrams came; an error is counted."""
        count: int = self._call(self._fd, self._where, BATCH, socket.MSG_DONTWAIT, None)
        if count < 0:
            error = ctypes.get_errno()
            if error not in (errno.EAGAIN, errno.EINTR):
                DROPPED.labels(errno.errorcode.get(error, "error").lower()).value += 1
        return max(0, count)

    def _make_room(self, count: int) -> None:
        """The kernel wrote lengths where it wants room to be told."""
        used_bytes = count * self._size
        self._raw[:used_bytes] = self._fresh[:used_bytes]


def _place(buffer: bytearray) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))


def _bound(host: str | None, port: int) -> socket.socket:
    if host is None:
        try:
            return _open(socket.AF_INET6, "::", port)
        except OSError as e:
            if e.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT):  # a kernel without IPv6
                raise
        return _open(socket.AF_INET, "0.0.0.0", port)  # noqa: S104 - the operator's choice
    return _open(socket.AF_INET6 if ":" in host else socket.AF_INET, host, port)


def _open(family: socket.AddressFamily, host: str, port: int) -> socket.socket:
    with contextlib.ExitStack() as undo:
        sock = undo.enter_context(socket.socket(family, socket.SOCK_DGRAM))
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if host == "::" else 1)
        sock.setblocking(False)
        sock.bind((host, port))
        undo.pop_all()
    return sock


def _ask_destinations(sock: socket.socket) -> None:
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)


def _enlarge(sock: socket.socket, force: int, ask: int) -> int:
    """The buffer's size afterwards, as an operator would write it (the kernel doubles it for its own)."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, force, WANTED_BUFFER)
    except OSError:  # without CAP_NET_ADMIN, up to net.core.{r,w}mem_max
        sock.setsockopt(socket.SOL_SOCKET, ask, WANTED_BUFFER)
    return sock.getsockopt(socket.SOL_SOCKET, ask) // 2


_SYSCTLS = {"receive": "net.core.rmem_max", "send": "net.core.wmem_max"}


def small_buffers(buffers: dict[str, int]) -> list[tuple[str, int]]:
    """(sysctl, bytes) of those that bursts overflow."""
    return [(_SYSCTLS[which], size) for which, size in buffers.items() if size < ENOUGH_BUFFER]


def allowed_buffers() -> dict[str, int]:
    """What the kernel allows a process without CAP_NET_ADMIN; empty where it does not say."""
    found = {}
    for which, name in _SYSCTLS.items():
        with contextlib.suppress(OSError, ValueError):
            found[which] = int(Path("/proc/sys", *name.split(".")).read_text())
    return found
