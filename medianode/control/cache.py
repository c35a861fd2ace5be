"""Answers of the database, remembered for a moment so that the hot path does not ask again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Cache(Generic[K, V]):
    """At most `size` answers, each good for `ttl` seconds: how long a change made by another process may go unseen. `now` is `clock.now()`.

    `generation` closes a race: an answer that was asked for before a `forget` or a `clear` is not kept.
    """

    def __init__(self, size: int, ttl: float) -> None:
        self._size = size
        self._ttl = ttl
        self._entries: OrderedDict[K, tuple[float, V]] = OrderedDict()
        self.generation = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: K, now: float) -> tuple[V] | None:
        """The answer in a tuple (it may be None itself), or None if there is none or an old one."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        until, value = entry
        return None if now >= until else (value,)

    def stale(self, key: K) -> tuple[V] | None:
        """The last answer however old, for when the database does not answer. What was forgotten is not in it."""
        entry = self._entries.get(key)
        return None if entry is None else (entry[1],)

    def drop(self, key: K) -> None:
        """The answer is no longer true."""
        self._entries.pop(key, None)

    def put(self, key: K, value: V, now: float, generation: int) -> None:
        if generation != self.generation:
            return
        self._entries[key] = (now + self._ttl, value)
        self._entries.move_to_end(key)
        if len(self._entries) > self._size:
            self._entries.popitem(last=False)

    def forget(self, which: Callable[[V], bool]) -> None:
        self.generation += 1
        for key in [key for key, (_, value) in self._entries.items() if which(value)]:
            del self._entries[key]

    def clear(self) -> None:
        self.generation += 1
        self._entries.clear()
