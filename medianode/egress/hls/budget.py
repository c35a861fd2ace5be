"""The bytes that all windows of the node hold together, and those of one room; over a bound the oldest segment goes first."""

from __future__ import annotations

from typing import Protocol


class Holder(Protocol):
    """A window: bytes it holds, when its oldest segment was made (None: nothing that may go), and letting that go."""

    nbytes: int

    @property
    def oldest(self) -> float | None: ...

    def evict(self, cause: str) -> None: ...


class Budget:
    """`room_bytes` and `total_bytes` are `limits.hls_room_bytes` and `limits.hls_total_bytes`."""

    def __init__(self, room_bytes: int, total_bytes: int) -> None:
        self.room_bytes = room_bytes
        self.total_bytes = total_bytes
        self.nbytes = 0
        self._rooms: dict[object, list[Holder]] = {}

    def join(self, room: object, holder: Holder) -> None:
        """`room`: any key that the windows of one room share."""
        self._rooms.setdefault(room, []).append(holder)

    def leave(self, room: object, holder: Holder) -> None:
        """Forget a window and what it holds. Idempotent."""
        holders = self._rooms.get(room, [])
        if holder in holders:
            holders.remove(holder)
            self.nbytes -= holder.nbytes
            if not holders:
                del self._rooms[room]

    def room_nbytes(self, room: object) -> int:
        return sum(holder.nbytes for holder in self._rooms.get(room, ()))

    def settle(self, room: object) -> None:
        """Evict until both bounds hold, or nothing that may go is left."""
        holders = self._rooms.get(room, [])
        while self.room_nbytes(room) > self.room_bytes and self._evict(holders, "room-bytes"):
            pass
        while self.nbytes > self.total_bytes and self._evict([h for hs in self._rooms.values() for h in hs], "total-bytes"):
            pass

    @staticmethod
    def _evict(holders: list[Holder], cause: str) -> bool:
        aged = [(holder.oldest, i) for i, holder in enumerate(holders) if holder.oldest is not None]
        if not aged:
            return False
        holders[min(aged)[1]].evict(cause)
        return True
