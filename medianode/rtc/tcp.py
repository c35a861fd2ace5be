"""ICE-TCP, passive (RFC 6544): one port, each datagram behind its length (RFC 4571). For networks that block UDP."""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
from typing import Protocol

from medianode import clock, telemetry
from medianode.errors import PeerError
from medianode.rtc.udp import SLOT, Sockaddr
from medianode.tasks import Gate

DROPPED = telemetry.counter("medianode_rtc_dropped_total", "What came to the WebRTC port and was not taken, by cause", "cause")
REFUSED = telemetry.counter("medianode_rtc_tcp_closed_total", "ICE-TCP connections that we closed, by cause", "cause")

_LENGTH = struct.Struct("!H")
_READ = 65_536


class Frames(Protocol):
    """Who takes a connection's datagrams."""

    def framed(self, stream: TcpStream, data: bytes) -> None: ...

    def stream_closed(self, stream: TcpStream) -> None: ...


class TcpStream:
    """One accepted connection, from its first byte to its last. `address` as `getpeername` gives it."""

    __slots__ = (
        "_buffer",
        "_fd",
        "_loop",
        "_owner",
        "_sock",
        "_unsent",
        "_writing",
        "address",
        "bound",
        "closed",
        "dropped",
        "peer",
        "since",
    )

    def __init__(self, sock: socket.socket, address: Sockaddr, owner: Frames, bound: int) -> None:
        self.address = address
        self.peer: object | None = None
        """Whose it is: set with the first valid check on it."""
        self.since = clock.now()
        self.closed = False
        self.dropped = 0
        self.bound = bound
        self._sock = sock
        self._fd = sock.fileno()
        self._owner = owner
        self._buffer = bytearray()
        self._unsent = bytearray()
        self._writing = False
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._fd, self._readable)

    @property
    def unsent(self) -> int:
        """Bytes that the kernel did not take yet."""
        return len(self._unsent)

    def send(self, packets: list[bytes]) -> bool:
        """Frame and write all of them at once; none, and False, where that would leave more than `bound` bytes unsent."""
        if self.closed:
            return False
        framed = b"".join([part for packet in packets for part in (_LENGTH.pack(len(packet)), packet)])
        if self._unsent:
            if len(self._unsent) + len(framed) > self.bound:
                self.dropped += len(packets)
                DROPPED.labels("tcp-unsent-full").value += len(packets)
                return False
            self._unsent += framed
            return True
        try:
            sent = self._sock.send(framed)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError as e:
            self._lost(e)
            return False
        if sent < len(framed):
            self._unsent += memoryview(framed)[sent:]
            self._writing = True
            self._loop.add_writer(self._fd, self._writable)
        return True

    def close(self, cause: str = "") -> None:
        """`cause`: why we close it, for the counter; empty where its peer went."""
        if self.closed:
            return
        self.closed = True
        if cause:
            REFUSED.labels(cause).value += 1
        self._loop.remove_reader(self._fd)
        if self._writing:
            self._loop.remove_writer(self._fd)
        self._unsent.clear()
        self._buffer.clear()
        self._sock.close()
        self._owner.stream_closed(self)

    def _lost(self, error: OSError) -> None:
        ordinary = (errno.ECONNRESET, errno.EPIPE, errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENOTCONN)
        self.close("" if error.errno in ordinary else errno.errorcode.get(error.errno or 0, "error").lower())

    def _writable(self) -> None:
        try:
            sent = self._sock.send(self._unsent)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as e:
            self._lost(e)
            return
        del self._unsent[:sent]
        if not self._unsent:
            self._writing = False
            self._loop.remove_writer(self._fd)

    def _readable(self) -> None:
        try:
            data = self._sock.recv(_READ)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as e:
            self._lost(e)
            return
        if not data:
            self.close()
            return
        buffer = self._buffer
        buffer += data
        at, size = 0, len(buffer)
        while at + 2 <= size:
            length = buffer[at] << 8 | buffer[at + 1]
            if not 0 < length < SLOT or (at + 2 < size and buffer[at + 2] > 191):  # not RFC 4571, or none of WebRTC's (RFC 7983)
                DROPPED.labels("tcp-garbage").value += 1
                self.close("garbage")
                return
            end = at + 2 + length
            if end > size:
                break
            self._owner.framed(self, bytes(buffer[at + 2 : end]))
            if self.closed:
                return
            at = end
        del buffer[:at]


def admit(sock: socket.socket, host: str, gate: Gate, owner: Frames, bound: int) -> TcpStream | None:
    """An accepted socket, unless the gate is full: then it is closed."""
    try:
        gate.enter(host)
    except PeerError as e:
        REFUSED.labels(e.code).value += 1
        sock.close()
        return None
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return TcpStream(sock, sock.getpeername(), owner, bound)
    except OSError:  # it left while it was accepted
        REFUSED.labels("gone").value += 1
        gate.leave(host)
        sock.close()
        return None
