"""RTSP on the wire: requests written, answers and interleaved frames taken apart (RFC 2326 4, 6, 7, 10.12)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from medianode.errors import LimitExceeded, ProtocolError

MAX_HEAD = 16_384
MAX_BODY = 131_072
MAX_HEADERS = 128
MAX_GARBAGE = 131_072
"""Bytes that are neither an answer nor a frame, in a row, before the server is given up: some cameras write stray bytes between frames."""
MAX_MESSAGES = 8192
"""In what is fed at once: who sends thousands of frames of a few bytes would have the loop for a second."""
_DOLLAR = 0x24
_BLANK = re.compile(rb"[\r\n]+")


class Response(NamedTuple):
    """`headers`: names in lower case; one that comes again is kept as a further line."""

    status: int
    reason: str
    headers: dict[str, list[str]]
    body: bytes

    def header(self, name: str) -> str:
        """The first of that name, or empty."""
        return self.headers.get(name, [""])[0]


class ServerRequest(NamedTuple):
    """Some servers ask their clients for signs of life."""

    method: str
    headers: dict[str, list[str]]


class Frame(NamedTuple):
    """Of the interleaved binary data (10.12)."""

    channel: int
    data: bytes


Message = Response | ServerRequest | Frame


class Splitter:
    """`feed` bytes, get what is whole. Raises ProtocolError and LimitExceeded; it is dead then."""

    def __init__(self) -> None:
        self._rest = b""
        self._garbage = 0
        self._lost = False

    def __len__(self) -> int:
        """Bytes that wait for the rest of theirs."""
        return len(self._rest)

    def feed(self, data: bytes) -> list[Message]:
        if self._rest:
            data = self._rest + data
        out: list[Message] = []
        position, end = 0, len(data)
        while position < end:
            if len(out) > MAX_MESSAGES:
                raise LimitExceeded(f"RTSP: expected at most {MAX_MESSAGES} frames in {end} bytes")
            if data[position] == _DOLLAR:
                if end - position < 4:
                    break
                start = position + 4
                stop = start + (data[position + 2] << 8 | data[position + 3])
                if stop > end:
                    break
                out.append(Frame(data[position + 1], data[start:stop]))
                # the first one behind garbage may be garbage that looks so: the next, where it begins in its place, is none
                if self._lost:
                    self._waste(stop - position)
                else:
                    self._garbage = 0
                self._lost = False
                position = stop
                continue
            taken = self._text(data, position, out)
            if not taken:
                break
            position += taken
        self._rest = data[position:]
        return out

    def _text(self, data: bytes, position: int, out: list[Message]) -> int:
        """How many bytes an answer, a request or garbage takes; 0: more is needed."""
        if (blank := _BLANK.match(data, position)) is not None:
            self._waste(blank.end() - position)
            return blank.end() - position
        if not _may_begin(data[position : position + 16]):
            return self._skip(data, position)
        end = data.find(b"\r\n\r\n", position, position + MAX_HEAD + 4)
        if end < 0:
            if len(data) - position > MAX_HEAD:
                raise LimitExceeded(f"RTSP: expected a head of at most {MAX_HEAD} bytes")
            return 0
        head = data[position:end].decode("utf-8", "replace").split("\r\n")
        headers = parse_headers(head[1:])
        length = headers.get("content-length", ["0"])[0]
        if not (length.isascii() and length.isdigit() and len(length) < 10) or int(length) > MAX_BODY:
            raise LimitExceeded(f"RTSP: expected a Content-Length of at most {MAX_BODY}, got {length[:20]!r}")
        stop = end + 4 + int(length)
        if stop > len(data):
            return 0
        first = head[0].split(" ", 2)
        self._garbage, self._lost = 0, False
        if first[0].startswith("RTSP/"):
            if len(first) < 2 or len(first[1]) != 3 or not (first[1].isascii() and first[1].isdigit()):
                raise ProtocolError(f"RTSP: expected a status line, got {head[0][:60]!r}")
            out.append(Response(int(first[1]), first[2] if len(first) > 2 else "", headers, data[end + 4 : stop]))
        else:
            out.append(ServerRequest(first[0], headers))
        return stop - position

    def _skip(self, data: bytes, position: int) -> int:
        """Up to what may be the next frame or answer."""
        frame = data.find(b"$", position + 1)
        until = frame if frame >= 0 else len(data)
        answer = data.find(b"RTSP/", position + 1, until)
        taken = (answer if answer >= 0 else until) - position
        self._lost = True
        self._waste(taken)
        return taken

    def _waste(self, nbytes: int) -> None:
        self._garbage += nbytes
        if self._garbage > MAX_GARBAGE:
            raise ProtocolError(f"RTSP: expected an answer or a frame, got {MAX_GARBAGE} bytes of neither")


def _may_begin(head: bytes) -> bool:
    """`RTSP/…` or a method of RFC 2326, or what may become one."""
    word, space, _ = head.partition(b" ")
    if not word:
        return False
    return word[:5] == b"RTSP/"[: len(word)] or any(method == word if space else method.startswith(word) for method in _METHODS)


_METHODS = (b"OPTIONS", b"GET_PARAMETER", b"SET_PARAMETER", b"ANNOUNCE", b"TEARDOWN", b"REDIRECT", b"PLAY_NOTIFY")


def parse_headers(lines: list[str]) -> dict[str, list[str]]:
    """A line without a colon is passed over, one that begins with space goes on the one before (RFC 822)."""
    if len(lines) > MAX_HEADERS:
        raise LimitExceeded(f"RTSP: expected at most {MAX_HEADERS} headers, got {len(lines)}")
    headers: dict[str, list[str]] = {}
    last: list[str] | None = None
    for line in lines:
        if line[:1] in (" ", "\t"):
            if last:
                last[-1] += " " + line.strip()
            continue
        name, colon, value = line.partition(":")
        if colon:
            last = headers.setdefault(name.strip().lower(), [])
            last.append(value.strip())
    return headers


def build_request(method: str, url: str, headers: Mapping[str, str]) -> bytes:
    """Raises ProtocolError where a value would end its line: they come from a server's answers."""
    lines = [f"{method} {url} RTSP/1.0", *(f"{name}: {value}" for name, value in headers.items())]
    if any("\r" in line or "\n" in line for line in lines):
        raise ProtocolError("RTSP: expected a value without line ends")
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def parse_parameters(text: str) -> dict[str, str]:
    """`a;b=c;d="e"` of Transport, Session and fmtp: names in lower case."""
    found: dict[str, str] = {}
    for item in text.split(";"):
        name, _, value = item.strip().partition("=")
        if name:
            found[name.strip().lower()] = value.strip().strip('"')
    return found
