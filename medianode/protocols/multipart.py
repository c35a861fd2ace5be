"""multipart/x-mixed-replace, as cameras and browsers speak it for motion JPEG: each part replaces the one before (RFC 2046 5.1)."""

from __future__ import annotations

from medianode.errors import LimitExceeded, ProtocolError

BOUNDARY = "frame"
CONTENT_TYPE = f"multipart/x-mixed-replace; boundary={BOUNDARY}"
MAX_HEAD = 8192
"""Bytes of a part's headers, and before the first boundary."""


def jpeg_part(data: bytes) -> bytes:
    """One whole part: delimiter, headers, blank line, `data` as it is, CRLF. What follows on the wire is the next part."""
    return b"--%s\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%s\r\n" % (BOUNDARY.encode(), len(data), data)


class PartReader:
    """Parts of what a camera sends: `feed` bytes, get the bodies that are whole. `boundary`: as its Content-Type has it.

    Bodies end by their Content-Length, else before the next boundary. Raises ProtocolError, and LimitExceeded over `max_part` bytes.
    """

    def __init__(self, boundary: str, max_part: int) -> None:
        # some say boundary=--frame and mean it, others write two dashes more than they said
        self._boundary = b"--" + boundary.strip().strip('"').lstrip("-").encode("utf-8", "replace")
        self._max = max_part
        self._rest = b""
        self._length = -1
        self._in_body = False

    def feed(self, data: bytes) -> list[bytes]:
        data = self._rest + data if self._rest else data
        bodies: list[bytes] = []
        position = 0
        while True:
            taken, body = self._body(data, position) if self._in_body else self._head(data, position)
            if body:
                bodies.append(body)
            if not taken:
                break
            position += taken
        if len(data) - position > self._max:
            raise LimitExceeded(f"multipart: expected parts of at most {self._max} bytes")
        self._rest = data[position:]
        return bodies

    def _head(self, data: bytes, position: int) -> tuple[int, bytes]:
        """Bytes to take; 0: more is needed."""
        at = data.find(self._boundary, position)
        if at < 0:
            if len(data) - position > MAX_HEAD:
                raise ProtocolError("multipart: expected a boundary, got none")
            return 0, b""
        # a head beyond its bound is not looked for: what follows it may be megabytes
        most = at + MAX_HEAD + 4
        end = data.find(b"\r\n\r\n", at, most)
        size = 4
        if end < 0:
            end, size = data.find(b"\n\n", at, most), 2
        if end < 0:
            if len(data) - at > MAX_HEAD:
                raise ProtocolError(f"multipart: expected headers of at most {MAX_HEAD} bytes")
            return 0, b""
        self._length = -1
        for line in data[at:end].splitlines()[1:]:
            name, _, value = line.partition(b":")
            if name.strip().lower() == b"content-length" and value.strip().isdigit():
                self._length = int(value.strip()[:12])
        if self._length > self._max:
            raise LimitExceeded(f"multipart: expected parts of at most {self._max} bytes, got {self._length}")
        self._in_body = True
        return end + size - position, b""

    def _body(self, data: bytes, position: int) -> tuple[int, bytes]:
        if self._length >= 0:
            end = position + self._length
            if len(data) < end:
                return 0, b""
            self._in_body = False
            return self._length or 1, data[position:end]
        end = data.find(b"\n" + self._boundary, position)
        if end < 0:
            return 0, b""
        self._in_body = False
        return end + 1 - position, data[position:end].removesuffix(b"\r")


def boundary_of(content_type: str) -> str | None:
    """Of a multipart Content-Type, None for another."""
    kind, _, rest = content_type.partition(";")
    if not kind.strip().lower().startswith("multipart/"):
        return None
    for item in rest.split(";"):
        name, _, value = item.strip().partition("=")
        if name.lower() == "boundary" and value:
            return value.strip().strip('"')
    return BOUNDARY
