"""Kept: what was made of recordings, in memory up to so many bytes, and made once however many ask for it at the same time."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar
from weakref import WeakValueDictionary

V = TypeVar("V")


class Kept(Generic[V]):
    """Up to `bound` bytes, as `size` counts them: what was asked for longest ago goes first, and what is over half of it is not kept."""

    def __init__(self, bound: int, size: Callable[[V], int]) -> None:
        self._bound = bound
        self._size = size
        self._held: OrderedDict[tuple[object, ...], V] = OrderedDict()
        self._making: WeakValueDictionary[tuple[object, ...], asyncio.Lock] = WeakValueDictionary()
        self.nbytes = 0

    async def get(self, key: tuple[object, ...], make: Callable[[], Awaitable[V]]) -> V:
        """Raises what `make` does; who waited for it then makes it anew."""
        async with self._making.setdefault(key, asyncio.Lock()):
            found = self._held.get(key)
            if found is not None:
                self._held.move_to_end(key)
                return found
            made = await make()
            if self._size(made) <= self._bound // 2:
                self._held[key] = made
                self.nbytes += self._size(made)
                while self.nbytes > self._bound:
                    self.nbytes -= self._size(self._held.popitem(last=False)[1])
            return made
