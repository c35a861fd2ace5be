"""One HTTP request to a place that was looked at, and its answer. Blocking: in a thread. And the pace at which all send together."""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping

from medianode import clock
from medianode.errors import PeerError, ProtocolError
from medianode.outbound import Place

TIMEOUT = 20.0
"""Seconds without a byte either way."""
ANSWER_TIME = 120.0
"""Seconds for a whole answer: completing a large upload takes long."""
ANSWER_BYTES = 32 * 1024 * 1024
CHUNK = 64 * 1024


class Answer:
    """Whole, in the shape that botocore reads: of urllib3."""

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self._body = body

    def stream(self, *_: object, **__: object) -> Iterator[bytes]:
        yield self._body

    def read(self, *_: object, **__: object) -> bytes:
        """What is left: all at first, then nothing."""
        body, self._body = self._body, b""
        return body

    def close(self) -> None:
        self._body = b""


class Pacer:
    """Bounds what all send together. `bitrate` in bit/s, 0 for no bound. Called in threads."""

    def __init__(self, bitrate: int) -> None:
        self._rate = bitrate / 8
        self._free_at = 0.0
        self._lock = threading.Lock()

    def delay(self, size: int, now: float) -> float:
        """Seconds to wait before `size` bytes may go out: who asks first, goes first."""
        if not self._rate:
            return 0.0
        with self._lock:
            wait = max(self._free_at - now, 0.0)
            self._free_at = max(self._free_at, now) + size / self._rate
            return wait


class Exchange:
    """`trust`: None for plain HTTP. `aborted`: set by `abort`, and looked at before each piece."""

    def __init__(self, place: Place, trust: ssl.SSLContext | None, pacer: Pacer, aborted: threading.Event) -> None:
        self._place = place
        self._trust = trust
        self._pacer = pacer
        self._aborted = aborted
        self._socket: socket.socket | None = None

    def abort(self) -> None:
        """From another thread: have done with it."""
        self._aborted.set()
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)

    def run(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Raises PeerError (`bucket-away`, `tls`), ProtocolError."""
        place = self._place
        try:
            with self._connect() as sock:
                self._socket = sock
                return self._converse(sock, method, target, headers, body)
        except ssl.SSLCertVerificationError as e:
            raise PeerError(f"the certificate of {place.host} was refused: {e.verify_message}", code="tls") from None
        except TimeoutError:
            raise PeerError(f"{place.host}:{place.port} was silent for {TIMEOUT:g} s", code="bucket-away") from None
        except ssl.SSLError as e:
            raise PeerError(f"TLS with {place.host} failed: {e.reason or 'the connection broke'}", code="tls") from None
        except OSError as e:
            why = os.strerror(e.errno) if e.errno and e.errno > 0 else "the connection broke"
            raise PeerError(f"{place.host}:{place.port} cannot be reached: {why}", code="bucket-away") from None
        except http.client.HTTPException as e:
            raise PeerError(f"{place.host}:{place.port}: its answer broke off ({type(e).__name__})", code="bucket-away") from None

    def _connect(self) -> socket.socket:
        """To the first address that answers."""
        sock = self._reach()
        sock.settimeout(TIMEOUT)
        if self._trust is None:
            return sock
        with contextlib.ExitStack() as unless_wrapped:
            unless_wrapped.enter_context(sock)
            wrapped = self._trust.wrap_socket(sock, server_hostname=self._place.host)
            unless_wrapped.pop_all()
        return wrapped

    def _reach(self) -> socket.socket:
        for address in self._place.addresses[:-1]:
            with contextlib.suppress(OSError):
                return socket.create_connection((address, self._place.port), TIMEOUT)
        return socket.create_connection((self._place.addresses[-1], self._place.port), TIMEOUT)

    def _converse(self, sock: socket.socket, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Answer:
        connection = http.client.HTTPConnection(self._place.host, self._place.port)
        connection.auto_open = 0
        connection.sock = sock
        # what stands below is not signed, and no 100 is waited for
        ours = {name: value for name, value in headers.items() if name.lower() not in ("expect", "connection", "content-length")}
        connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
        for name, value in ours.items():
            connection.putheader(name, value)
        connection.putheader("Connection", "close")
        if body or method in ("PUT", "POST"):
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it may have answered before it had all: then that is read
            self._send(connection, body)
        return self._read(connection, method)

    def _send(self, connection: http.client.HTTPConnection, body: bytes) -> None:
        view = memoryview(body)
        for offset in range(0, len(view), CHUNK):
            chunk = view[offset : offset + CHUNK]
            wait = self._pacer.delay(len(chunk), clock.now())
            if self._aborted.wait(wait) if wait else self._aborted.is_set():
                raise TimeoutError
            connection.send(chunk)

    def _read(self, connection: http.client.HTTPConnection, method: str) -> Answer:
        until = clock.now() + ANSWER_TIME
        if method == "POST":
            connection.sock.settimeout(ANSWER_TIME)
        with contextlib.closing(connection.getresponse()) as response:
            headers = {name.lower(): value for name, value in response.getheaders()}
            chunks, size = [], 0
            while chunk := response.read1(CHUNK):
                chunks.append(chunk)
                size += len(chunk)
                if size > ANSWER_BYTES or clock.now() > until:
                    raise ProtocolError(f"expected an answer of up to {ANSWER_BYTES} bytes within {ANSWER_TIME:g} s")
            length = headers.get("content-length", "")
            if length.isdigit() and method != "HEAD" and size != int(length):
                raise http.client.IncompleteRead(b"")
            return Answer(response.status, headers, b"".join(chunks))
