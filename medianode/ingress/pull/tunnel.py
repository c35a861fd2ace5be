"""RTSP through HTTP, as QuickTime does and cameras behind proxies expect: what the source says comes in the answer to a GET, what we say
goes in base64 in the body of a POST that has no end.
"""

from __future__ import annotations

import base64
import secrets
from contextlib import ExitStack
from types import TracebackType

from medianode.errors import PeerError, PeerGone, ProtocolError
from medianode.ingress.pull.link import Link, connect
from medianode.ingress.pull.words import refused
from medianode.outbound import Outbound
from medianode.protocols.rtsp.auth import Authentication
from medianode.protocols.rtsp.client import AGENT
from medianode.protocols.rtsp.messages import MAX_HEAD, parse_headers

POST_LENGTH = 32_767
"""Content-Length of the POST, which nobody holds anybody to."""
_MIME = "application/x-rtsp-tunnelled"


class Tunnel:
    """Two Links. A context manager."""

    def __init__(self, stack: ExitStack, down: Link, up: Link, early: bytes) -> None:
        self._stack = stack
        self._down = down
        self._up = up
        self._early = early
        self.address = down.address

    def __enter__(self) -> Tunnel:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.close()

    async def send(self, data: bytes) -> None:
        await self._up.send(base64.b64encode(data))

    async def receive(self) -> bytes:
        if self._early:
            data, self._early = self._early, b""
            return data
        return await self._down.receive()

    def poll(self) -> tuple[bytes, bool]:
        return self._down.poll()

    def write(self, data: bytes) -> None:
        self._up.write(base64.b64encode(data) if data else b"")


async def open_tunnel(outbound: Outbound, host: str, port: int, target: str, user: str, password: str, *, tls: bool) -> Tunnel:
    """Raises PeerError, OSError. Waits as long as it takes: to be bounded."""
    cookie = secrets.token_hex(11)
    name = f"[{host}]" if ":" in host else host
    authentication = Authentication(user, password, lambda: secrets.token_hex(8))
    with ExitStack() as stack:
        for _ in range(3):
            stack.close()  # the one before, which was refused: cameras have few seats
            down = stack.enter_context(await connect(outbound, host, port, tls=tls))
            await down.send(_request("GET", target, f"{name}:{port}", cookie, authentication, f"Accept: {_MIME}"))
            status, headers, early = await _answer(down)
            if status == 401 and authentication.challenged(headers.get("www-authenticate", [])):
                continue
            break
        if status in (400, 404, 405, 501):
            raise PeerError(f"the source has no HTTP tunnel ({status})", code="unsupported-transport")
        if status != 200:
            code, message = refused(status, "HTTP tunnel")
            raise PeerError(message, code=code)
        up = stack.enter_context(await connect(outbound, host, port, tls=tls))
        fields = (f"Content-Type: {_MIME}", f"Content-Length: {POST_LENGTH}", "Expires: Sun, 9 Jan 1972 00:00:00 GMT")
        await up.send(_request("POST", target, f"{name}:{port}", cookie, authentication, *fields))
        return Tunnel(stack.pop_all(), down, up, early)


def _request(method: str, target: str, host: str, cookie: str, authentication: Authentication, *fields: str) -> bytes:
    lines = [f"{method} {target} HTTP/1.0", f"Host: {host}", f"User-Agent: {AGENT}", f"x-sessioncookie: {cookie}"]
    lines += ["Pragma: no-cache", "Cache-Control: no-cache", *fields]
    if (signature := authentication.header(method, target)) is not None:
        lines.append(f"Authorization: {signature}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


async def _answer(link: Link) -> tuple[int, dict[str, list[str]], bytes]:
    """Status, headers, and what came behind them."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = await link.receive()
        if not more:
            raise PeerGone("the source closed the connection instead of answering the HTTP tunnel", code="unsupported-transport")
        data += more
        if len(data) > MAX_HEAD:
            raise ProtocolError("HTTP tunnel: expected a short answer", code="unsupported-transport")
    head, _, rest = data.partition(b"\r\n\r\n")
    lines = head.decode("utf-8", "replace").split("\r\n")
    words = lines[0].split(" ", 2)
    if not words[0].startswith(("HTTP/", "RTSP/")) or len(words) < 2 or not (words[1].isascii() and words[1].isdigit()):
        raise ProtocolError("HTTP tunnel: the source does not speak HTTP", code="unsupported-transport")
    return int(words[1][:4]), parse_headers(lines[1:]), rest
