"""A sans-IO reader: parsers are generators that say `yield from reader.read_exactly(n)` and read like blocking code.

The owner calls `feed(data)` and then `next(parser)`; the parser runs until it is short of bytes. What is already buffered costs no
suspension: `buffer` and `position` are public, so that a hot loop may look at them itself and ask `require` only when they end.
Every byte is copied at most twice, however finely the input is cut.
"""

from __future__ import annotations

from collections.abc import Generator

from medianode.errors import LimitExceeded

Wait = Generator[None, None, None]


class StreamReader:
    """Bytes between a transport and a parser. `limit`: most bytes that one read may ask for, and that may stay unread between two feeds."""

    __slots__ = ("_limit", "_pending", "_pending_size", "buffer", "position")

    def __init__(self, limit: int) -> None:
        self.buffer = b""
        self.position = 0
        self._limit = limit
        self._pending: list[bytes] = []
        self._pending_size = 0

    def __len__(self) -> int:
        """Unread bytes."""
        return len(self.buffer) - self.position + self._pending_size

    def feed(self, data: bytes) -> None:
        """Add what the transport read. Raises LimitExceeded if more than `limit` bytes are unread from before."""
        unread = len(self)
        if unread == 0:
            self.buffer, self.position = data, 0
            return
        if unread > self._limit:
            raise LimitExceeded(f"expected at most {self._limit} unread bytes, got {unread}")
        self._pending.append(data)
        self._pending_size += len(data)

    def merge(self) -> None:
        """Bring all unread bytes into `buffer`."""
        if self._pending:
            self.buffer = b"".join((self.buffer[self.position :], *self._pending))
            self.position = 0
            self._pending.clear()
            self._pending_size = 0

    def require(self, n: int) -> Wait:
        """Wait until `buffer` holds `n` bytes from `position` on."""
        if n > self._limit:
            raise LimitExceeded(f"expected a read of at most {self._limit} bytes, got {n}")
        while len(self.buffer) - self.position < n:
            if len(self) < n:
                yield
            else:
                self.merge()

    def read_exactly(self, n: int) -> Generator[None, None, bytes]:
        yield from self.require(n)
        start = self.position
        self.position = start + n
        return self.buffer[start : start + n]

    def read_some(self, n: int) -> bytes:
        """Up to `n` bytes of what is there; b"" if nothing is."""
        self.merge()
        start = self.position
        data = self.buffer[start : start + n]
        self.position = start + len(data)
        return data
