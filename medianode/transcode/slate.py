"""Slates made in a thread of their own, one after the other, and kept by format: rooms that show the same share one."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from medianode import clock
from medianode.errors import MedianodeError, NotFound
from medianode.media.track import Track
from medianode.routing.fallback import Loop
from medianode.tasks import guard, guarded
from medianode.transcode.artwork import Artwork
from medianode.transcode.loop import make_loop

RETRY = 60.0
"""Seconds after which one that could not be made is tried again."""
WAITING = 256
"""Formats that wait to be made; what comes beyond that is asked for again by its room."""

log = logging.getLogger(__name__)
Key = tuple[str, tuple[Track, ...]]
Load = Callable[[str, str, str], Awaitable[Artwork | None]]


@dataclass(slots=True)
class _Wanted:
    project_id: str
    room: str
    ready: list[Callable[[], None]] = field(default_factory=list)


class SlateMaker:
    """A `routing.fallback.Loops`. `load` gives the artwork of a room by the slate's name; `max_bytes`: limits.slate_cache_bytes."""

    def __init__(self, load: Load, max_bytes: int) -> None:
        self._load = load
        self._max_bytes = max_bytes
        self._made: OrderedDict[Key, Loop] = OrderedDict()
        self._failed: dict[Key, float] = {}
        self._wanted: OrderedDict[Key, _Wanted] = OrderedDict()
        self._wake = asyncio.Event()

    @property
    def nbytes(self) -> int:
        return sum(loop.nbytes for loop in self._made.values())

    def find(self, project_id: str, room: str, slate: str, like: tuple[Track, ...], ready: Callable[[], None]) -> Loop | None:
        """As `routing.fallback.Loops` has it."""
        key = (slate, like)
        if (loop := self._made.get(key)) is not None:
            self._made.move_to_end(key)
            return loop
        if clock.now() - self._failed.get(key, -RETRY) < RETRY or (key not in self._wanted and len(self._wanted) >= WAITING):
            return None
        wanted = self._wanted.setdefault(key, _Wanted(project_id, room))
        if ready not in wanted.ready:
            wanted.ready.append(ready)
        self._wake.set()
        return None

    async def serve(self) -> None:
        """Runs until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._wanted:
                key, wanted = next(iter(self._wanted.items()))
                error = await guard("slate", self._make(key, wanted))
                del self._wanted[key]
                if error is not None:
                    self._fail(key, wanted, error)
                    continue
                for ready in wanted.ready:
                    guarded("slate", ready)

    async def _make(self, key: Key, wanted: _Wanted) -> None:
        artwork = await self._load(wanted.project_id, wanted.room, key[0])
        if artwork is None:
            # another node changed it, and the room has yet to hear of that: until then it would ask again and again
            raise NotFound("the room has another by now, or none")
        loop = self._made[key] = await asyncio.to_thread(make_loop, artwork, key[1])
        while self.nbytes > self._max_bytes and len(self._made) > 1:
            self._made.popitem(last=False)
        fields = {"room": wanted.room, "tracks": " ".join(t.codec.value for t in loop.tracks), "bytes": loop.nbytes}
        log.info("slate made", extra={"fields": fields})

    def _fail(self, key: Key, wanted: _Wanted, error: BaseException) -> None:
        self._failed = {k: at for k, at in self._failed.items() if clock.now() - at < RETRY}
        self._failed[key] = clock.now()
        what = error.message if isinstance(error, MedianodeError) else type(error).__name__
        log.warning("no slate for room %s: %s", wanted.room, what)
