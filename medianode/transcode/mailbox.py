"""Mailbox: the bounded way from the event loop into a pipeline's thread. Overflow drops; the loop never waits."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from medianode import clock, telemetry
from medianode.media.packet import Packet
from medianode.media.track import Codec, Track

DROPS = telemetry.counter("medianode_rendition_drops_total", "Packets and frames dropped in renditions, by cause", "cause")
BEHIND = "rendition-behind"


@dataclass(frozen=True, slots=True)
class Order:
    """Derive `codec` from this track. `after`: its readers have had pictures up to this pts already, so only later ones are made.

    `max_height`: of so many lines at most, with key frames where the source has them; 0 for the source's own size.
    """

    track: Track
    codec: Codec
    after: int | None = None
    max_height: int = 0


@dataclass(frozen=True, slots=True)
class Restart:
    """The timeline starts anew: these orders hold from here. Answers carry `epoch`, so that late ones can be told.

    `replay` comes before what is put later: shared packets that a cached GOP bounds, so no bound of the mailbox counts them.
    """

    epoch: int
    orders: tuple[Order, ...]
    replay: tuple[Packet, ...] = ()


@dataclass(frozen=True, slots=True)
class Skipped:
    """Video packets were dropped here; the next one is a key frame."""


@dataclass(frozen=True, slots=True)
class Mark:
    """`passed` is called in the loop when what is made of all that came before was delivered."""

    passed: Callable[[], None]


Item = Packet | Restart | Skipped | Mark


class Mailbox:
    """`put`, `mark`, `restart` and `close` in the loop; `take` in the one thread that reads.

    Bounds: `packets` and `nbytes`. On overflow video jumps to its newest key frame (all of it goes where there is none but the first, and
    what follows up to the next one), then audio goes, oldest first. `dropped` counts by cause.
    `soon`: the loop's `call_soon`, through which the reader is woken; without it at once.
    With `age` (seconds) the reader finds no video that waited longer before a key frame: it jumps there.
    """

    def __init__(
        self, packets: int, nbytes: int, age: float | None = None, soon: Callable[[Callable[[], None]], object] | None = None
    ) -> None:
        self._max_packets = packets
        self._max_bytes = nbytes
        self._max_age = age
        self._items: deque[Item] = deque()
        self._soon = soon
        self._roused = False
        self._packets = 0
        self._waits_for_key = False
        self._awaited = 0  # packets that the reader sleeps for; 0: it does not
        self._closed = False
        self._condition = threading.Condition()
        self.nbytes = 0
        self.dropped: dict[str, int] = {}

    def __len__(self) -> int:
        return self._packets

    @property
    def closed(self) -> bool:
        return self._closed

    def put(self, packet: Packet) -> None:
        """Add one packet; what a bound does not allow is dropped and counted. After `close` nothing is kept."""
        with self._condition:
            if self._closed:
                return
            if self._waits_for_key and packet.track.is_video:
                if not packet.keyframe:
                    self._count(1)
                    return
                self._waits_for_key = False
            self._items.append(packet)
            self._packets += 1
            self.nbytes += len(packet.data)
            if self._over():
                self._overflow()
            ripe = 0 < self._awaited <= self._packets or self._half_full()
        if ripe:
            self._rouse()

    def _rouse(self) -> None:
        """Wake the reader: once the loop is done with what it is at, else the two would fight for the interpreter over every packet."""
        if self._soon is None:
            self._notify()
        elif not self._roused:
            self._roused = True
            self._soon(self._later)

    def _later(self) -> None:
        """What was called for in the same turn (a flush to viewers) still comes first."""
        assert self._soon is not None
        self._soon(self._notify)

    def _notify(self) -> None:
        self._roused = False
        with self._condition:
            self._condition.notify()

    def mark(self, passed: Callable[[], None]) -> None:
        """Who waits for the reader is told when it has come so far, and it does not sleep for a batch before. After `close` nobody is."""
        with self._condition:
            if self._closed:
                return
            self._items.append(Mark(passed))
            self._condition.notify()

    def restart(self, restart: Restart) -> None:
        """Forget what is queued but marks, uncounted (the timeline it belonged to is over); the reader gets `restart` next."""
        with self._condition:
            if self._closed:
                return
            self._items = deque([restart, *(item for item in self._items if isinstance(item, Mark))])
            self._packets = self.nbytes = 0
            self._waits_for_key = False
            self._condition.notify()

    def close(self) -> None:
        """Wake the reader for good; what is queued is forgotten. Idempotent."""
        with self._condition:
            self._closed = True
            self._items.clear()
            self._packets = self.nbytes = 0
            self._condition.notify()

    def take(self, linger: float = 0.0, batch: int = 1, *, impatient: bool = False) -> list[Item] | None:
        """Wait for items and return all of them; None once closed.

        With `linger` (seconds) the reader expects more soon and sleeps until `batch` packets are there, so that it wakes once for a batch
        and not for each audio frame. What came when the time is over is returned all the same, and where none came the first that does, or
        with `impatient` an empty list at once.
        """
        with self._condition:
            if linger and not self._items and not self._closed:
                self._awaited = batch
                self._condition.wait(linger)
                if impatient and not self._items and not self._closed:
                    self._awaited = 0
                    return []
            self._awaited = 1
            while not self._items and not self._closed:
                self._condition.wait()
            self._awaited = 0
            if self._closed:
                return None
            if self._max_age is not None:
                self._forget_late(clock.now() - self._max_age)
            items = list(self._items)
            self._items.clear()
            self._packets = self.nbytes = 0
            return items

    def _half_full(self) -> bool:
        return self._packets * 2 > self._max_packets or self.nbytes * 2 > self._max_bytes

    def _over(self) -> bool:
        return self._packets > self._max_packets or self.nbytes > self._max_bytes

    def _overflow(self) -> None:
        items = list(self._items)
        newest = next((i for i in range(len(items) - 1, -1, -1) if _is_key(items[i])), 0)
        if any(map(_is_video, items[:newest])):
            self._drop_video(items, newest)
        if self._over() and any(map(_is_video, self._items)):
            self._drop_video(list(self._items), len(self._items))
            self._waits_for_key = True
        while self._over():
            index, oldest = next((i, item) for i, item in enumerate(self._items) if isinstance(item, Packet))
            del self._items[index]
            self._forget(oldest)

    def _forget_late(self, since: float) -> None:
        items = list(self._items)
        newest = next((i for i in range(len(items) - 1, -1, -1) if _is_key(items[i])), 0)
        if any(isinstance(item, Packet) and item.track.is_video and item.received_at < since for item in items[:newest]):
            self._drop_video(items, newest)

    def _drop_video(self, items: list[Item], before: int) -> None:
        """Drop video that stands before this index; the reader is told of it there, once."""
        kept = [item for item in items[:before] if not _is_video(item) and not isinstance(item, Skipped)]
        for item in items[:before]:
            if isinstance(item, Packet) and item.track.is_video:
                self._forget(item)
        self._items = deque([*kept, Skipped(), *items[before:]])

    def _forget(self, packet: Packet) -> None:
        self._packets -= 1
        self.nbytes -= len(packet.data)
        self._count(1)

    def _count(self, count: int) -> None:
        self.dropped[BEHIND] = self.dropped.get(BEHIND, 0) + count
        DROPS.labels(BEHIND).value += count


def _is_video(item: Item) -> bool:
    return isinstance(item, Packet) and item.track.is_video


def _is_key(item: Item) -> bool:
    return isinstance(item, Packet) and item.keyframe and item.track.is_video
