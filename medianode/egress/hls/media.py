"""Media: the bytes of a segment, in parts, joined only when somebody asks for them."""

from __future__ import annotations

from collections.abc import Sequence


class Media:
    """Pieces are the muxer's headers and the very sample objects that the bus carried: what nobody fetches is never copied.

    The first request for a part joins that part; the first for the whole joins all, and parts are views of it from then on.
    """

    __slots__ = ("_parts", "_sizes", "_whole", "nbytes")

    def __init__(self) -> None:
        self._parts: list[Sequence[bytes]] = []
        self._sizes: list[int] = []
        self._whole: bytes | None = None
        self.nbytes = 0

    def __len__(self) -> int:
        """Parts."""
        return len(self._sizes)

    def append(self, pieces: Sequence[bytes]) -> int:
        """Add a part; returns its size in bytes. Not after `whole`."""
        size = sum(map(len, pieces))
        self._parts.append(pieces)
        self._sizes.append(size)
        self.nbytes += size
        return size

    def part(self, index: int) -> bytes | memoryview:
        """Raises IndexError."""
        if self._whole is not None:
            start = sum(self._sizes[:index])
            return memoryview(self._whole)[start : start + self._sizes[index]]
        pieces = self._parts[index]
        if len(pieces) > 1:
            pieces = self._parts[index] = (b"".join(pieces),)
        return pieces[0]

    def whole(self) -> bytes:
        if self._whole is None:
            self._whole = b"".join([piece for pieces in self._parts for piece in pieces])
            self._parts.clear()
        return self._whole
