"""Window: the segments of one variant that can be fetched, those of them that are listed, and the one in the making. No IO."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

from medianode import clock, telemetry
from medianode.config import Hls
from medianode.egress.hls.budget import Budget
from medianode.egress.hls.media import Media
from medianode.protocols import hls

OLDER = 3
"""Segments kept for slow players after they left the playlist."""

SEGMENTS = telemetry.counter("medianode_hls_segments_total", "HLS segments made", "variant")
PARTS = telemetry.counter("medianode_hls_parts_total", "HLS parts made", "variant")
MADE = telemetry.counter("medianode_hls_made_bytes_total", "Bytes of HLS media made", "variant")
EVICTIONS = telemetry.counter("medianode_hls_evictions_total", "HLS segments dropped from memory or disk, by cause", "cause")
GAPS = telemetry.counter("medianode_hls_gap_segments_total", "HLS segments listed with EXT-X-GAP", "variant")


@dataclass(slots=True)
class Stored:
    """A complete segment. `body` is None once it is on disk only, or lost (a gap)."""

    msn: int
    info: hls.Segment
    body: Media | None
    nbytes: int
    made_at: float
    path: Path | None = None


@dataclass(slots=True)
class Open:
    """The segment in the making."""

    msn: int
    head: hls.Head
    parts: list[hls.Part] = field(default_factory=list)
    body: Media = field(default_factory=Media)
    duration: int = 0
    independent: bool = True

    @property
    def nbytes(self) -> int:
        return self.body.nbytes


class Shelf(Protocol):
    """Where complete segments are kept beyond memory (dvr.Disk)."""

    @property
    def healthy(self) -> bool: ...

    @property
    def full(self) -> bool: ...

    def save(self, segment: Stored, done: Callable[[], None]) -> None: ...

    def drop(self, segment: Stored) -> None: ...


class Names:
    """File names of one packager. `token` makes them unique for ever, so that they may be cached for ever."""

    def __init__(self, variant: str, token: str, extension: str) -> None:
        self._stem = f"{variant}-{token}"
        self._extension = extension

    def init(self, number: int) -> str:
        return f"{self._stem}-init{number}.mp4"

    def segment(self, msn: int) -> str:
        return f"{self._stem}-{msn}.{self._extension}"

    def part(self, msn: int, index: int) -> str:
        return f"{self._stem}-{msn}.{index}.{self._extension}"


_NAME = re.compile(r"[a-z0-9]{1,16}-([0-9a-f]{16})-(?:init(\d{1,9})\.mp4|(\d{1,18})(?:\.(\d{1,6}))?\.(?:m4s|ts))", re.ASCII)


def parse_name(name: str) -> tuple[str, int | None, int, int | None] | None:
    """(token, init number or None, msn, part or None) of a name that Names made; None for any other."""
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    token, init, msn, part = found.groups()
    return token, None if init is None else int(init), int(msn or 0), None if part is None else int(part)


class Start(NamedTuple):
    """The numbers of a window's first segment.

    The discontinuity sequence is kept small: hls.js walks an array as long as its value, for every playlist (seen: a core for 29 million).
    """

    msn: int
    discontinuity: int = 0


class Window:
    """`on_change` is called after every part or segment, once for all that changed.

    `target_duration` and `part_target` are told with the first playlist and only grow: when a GOP or a frame turns out longer.
    `start`: where the numbers begin; they only ever grow, also when a packager follows another.
    """

    def __init__(self, config: Hls, budget: Budget, room: object, variant: str, token: str, *, start: Start, parts: bool) -> None:
        self.variant = variant
        self.token = token
        self.room = room
        self.names = Names(variant, token, "ts" if variant == "ts" or config.container == "ts" else "m4s")
        self.parts = parts
        self.listed: deque[Stored] = deque()
        self.older: deque[Stored] = deque()
        self.inits: dict[str, bytes] = {}
        self.open: Open | None = None
        self.next_msn = start.msn
        self.discontinuity_sequence = start.discontinuity
        self.target_duration = hls.target_of(round(config.segment_duration * 1e6))
        self.part_target = round(config.part_duration * 1e6) if parts else 0
        self.peak_bandwidth = 0
        self.ended = False
        self.nbytes = 0
        self.on_change: Callable[[], None] = lambda: None
        self.shelf: Shelf | None = None
        self._config = config
        self._budget = budget
        self._count = 0
        self._map = ""
        self._cells = SEGMENTS.labels(variant), PARTS.labels(variant), MADE.labels(variant)
        budget.join(room, self)

    @property
    def started(self) -> bool:
        """The first segment is complete: there is a playlist."""
        return bool(self.listed)

    @property
    def last_msn(self) -> int:
        """Of the newest complete segment; one less than the first before that."""
        return self.next_msn - 1

    @property
    def successor(self) -> Start:
        """Where a window that follows this one in the same playlist starts."""
        passed = sum(stored.info.head.discontinuity for stored in self.listed)
        return Start(self.next_msn + 1, self.discontinuity_sequence + passed + 1)

    @property
    def open_parts(self) -> int:
        """Parts of the segment `next_msn` that can be fetched."""
        return len(self.open.parts) if self.open and self.parts else 0

    def begin(self, init: bytes | None, *, program_time: str, discontinuity: bool, independent: bool) -> None:
        """Open a segment. `init`: its Media Initialization Section; a new EXT-X-MAP is listed only where it differs from the last."""
        map_uri, before = "", self._map
        if init is not None:
            if self.inits.get(before) != init:
                self._map = self.names.init(self._count)
                self._count += 1
                self.inits[self._map] = init
            map_uri = self._map
        new_map = map_uri != before and bool(before)
        self.open = Open(self.next_msn, hls.Head(map_uri, new_map, discontinuity, program_time), independent=independent)

    def add_part(self, pieces: Sequence[bytes], duration: int, *, independent: bool) -> None:
        """Append media to the open segment; `duration` in microseconds."""
        o = self.open
        assert o is not None, "add_part before begin"
        o.parts.append(hls.Part(self.names.part(o.msn, len(o.parts)), duration, independent))
        size = o.body.append(pieces)
        o.duration += duration
        self._hold(size)
        self._cells[2].value += size
        if self.parts:
            self._cells[1].value += 1
            if self.started:
                self.part_target = max(self.part_target, duration)
                self._budget.settle(self.room)
                self.on_change()

    def end_segment(self, *, gap: bool = False) -> None:
        """Complete the open segment. `gap`: its media could not be made; it is listed with EXT-X-GAP."""
        o, self.open = self.open, None
        assert o is not None, "end_segment before begin"
        self.next_msn += 1
        parts = tuple(o.parts) if self.parts and not gap else ()
        info = hls.Segment(o.head, self.names.segment(o.msn), o.duration, parts, gap, o.independent)
        stored = Stored(o.msn, info, None if gap else o.body, o.nbytes, clock.now())
        if gap:
            self._hold(-o.nbytes)
            GAPS.labels(self.variant).value += 1
        self._cells[0].value += 1
        self._measure(stored)
        self.listed.append(stored)
        self._slide()
        if self.shelf is not None and not gap and self.shelf.healthy:
            self.shelf.save(stored, self._spill)
        self._budget.settle(self.room)
        self.on_change()

    def end(self) -> None:
        """Nothing follows: EXT-X-ENDLIST."""
        self.ended = True
        self.open = None
        self.on_change()

    def close(self) -> None:
        """Let go of everything."""
        self._budget.leave(self.room, self)
        self.nbytes = 0
        self.listed.clear()
        self.older.clear()
        self.inits.clear()
        self.open = None

    def segment(self, msn: int) -> Stored | None:
        for row in (self.listed, self.older):
            if row and 0 <= msn - row[0].msn < len(row):
                return row[msn - row[0].msn]
        return None

    def part(self, msn: int, index: int) -> bytes | memoryview | None:
        """A part in memory, of the open segment or of a complete one."""
        if self.open is not None and msn == self.open.msn:
            return self.open.body.part(index) if index < self.open_parts else None
        stored = self.segment(msn)
        if stored is None or stored.body is None or not self.parts or index >= len(stored.body):
            return None
        return stored.body.part(index)

    def has(self, msn: int, part: int | None) -> bool:
        """Does the playlist hold this segment, or this part or a later one? A part past the end of its segment is the next one's first."""
        if msn < self.next_msn:
            if part is None or msn < self.last_msn:
                return True
            stored = self.segment(msn)
            return stored is None or part < len(stored.info.parts) or self.open_parts > 0
        return part is not None and msn == self.next_msn and part < self.open_parts

    def playlist(self) -> hls.MediaPlaylist:
        o = self.open if self.parts else None
        hint = ""
        if self.parts and not self.ended:
            hint = self.names.part(self.next_msn, self.open_parts)
        return hls.MediaPlaylist(
            target_duration=self.target_duration,
            media_sequence=self.listed[0].msn if self.listed else self.next_msn,
            discontinuity_sequence=self.discontinuity_sequence,
            segments=tuple([stored.info for stored in self.listed]),
            part_target=self.part_target,
            open_head=o.head if o else None,
            open_parts=tuple(o.parts) if o else (),
            hint=hint,
            ended=self.ended,
            version=9 if self.parts else 7 if self._map else 3,
        )

    @property
    def average_bandwidth(self) -> int:
        """Bits per second over what is listed."""
        duration = sum(stored.info.duration for stored in self.listed)
        return -(-sum(stored.nbytes for stored in self.listed) * 8_000_000 // duration) if duration else 0

    @property
    def oldest(self) -> float | None:
        """For Budget: the newest complete segment always stays."""
        return next((s.made_at for s in self._rows() if s.body is not None and s is not self.listed[-1]), None)

    def evict(self, cause: str) -> None:
        """Free the memory of the oldest segment that is there: all of it, and all before it, unless it is on disk too."""
        for stored in self._rows():
            if stored.path is not None and stored.body is not None:
                stored.body = None
                self._hold(-stored.nbytes)
                return
        while self.older:
            held = self.older[0].body is not None
            self._drop(self.older.popleft(), cause)
            if held:
                return
        while len(self.listed) > 1:
            held = self.listed[0].body is not None
            self._drop(self._unlist(), cause)
            if held:
                return

    def _rows(self) -> Iterator[Stored]:
        yield from self.older
        yield from self.listed

    def _hold(self, nbytes: int) -> None:
        self.nbytes += nbytes
        self._budget.nbytes += nbytes

    def _measure(self, stored: Stored) -> None:
        duration = stored.info.duration
        # a sliver before a discontinuity says nothing of the bandwidth (4.4.6.2: peak over 0.5 to 1.5 target durations)
        if duration * 2 >= self._config.segment_duration * 1e6:
            self.peak_bandwidth = max(self.peak_bandwidth, -(-stored.nbytes * 8_000_000 // duration))
        self.target_duration = max(self.target_duration, hls.target_of(duration))
        if not self.parts:
            return
        longest = max((part.duration for part in stored.info.parts), default=0)
        if not self.started and len(stored.info.parts) > 1 and longest * 100 < self.part_target * 85:
            # few frames a second: full parts are much shorter than asked for, and all but the last must reach 85 % of the target
            self.part_target = longest
        self.part_target = max(self.part_target, longest)

    def _slide(self) -> None:
        """Unlist what the playlist no longer covers: by time with a healthy shelf, else by count, but never under three targets (6.2.2)."""
        total = sum(stored.info.duration for stored in self.listed)
        on_disk = self.shelf is not None and self.shelf.healthy
        count = self._config.playlist_segments
        floor = max(3 * self.target_duration * 1_000_000, round(self._config.dvr_window * 1e6) if on_disk else 0)
        while len(self.listed) > count and (
            total - self.listed[0].info.duration >= floor or (not on_disk and len(self.listed) > 4 * count)
        ):
            total -= self.listed[0].info.duration
            self.older.append(self._unlist())
        while len(self.older) > OLDER:
            self._drop(self.older.popleft(), "window")
        if len(self.inits) > 1:
            used = {stored.info.head.map_uri for stored in self._rows()} | {self._map}
            self.inits = {uri: init for uri, init in self.inits.items() if uri in used}

    def _unlist(self) -> Stored:
        stored = self.listed.popleft()
        self.discontinuity_sequence += stored.info.head.discontinuity
        return stored

    def _drop(self, stored: Stored, cause: str) -> None:
        EVICTIONS.labels(cause).value += 1
        if stored.body is not None:
            self._hold(-stored.nbytes)
            stored.body = None
        if self.shelf is not None:
            self.shelf.drop(stored)

    def _spill(self) -> None:
        """The shelf has saved or failed: free the memory of what is on disk and old enough, keep the disk under its bound."""
        if self.shelf is None:
            return
        keep = self._config.playlist_segments + OLDER
        rows = list(self._rows())
        for stored in rows[: max(0, len(rows) - keep)]:
            if stored.path is not None and stored.body is not None:
                stored.body = None
                self._hold(-stored.nbytes)
        before = len(self.listed)
        while self.shelf.full and len(self.listed) > self._config.playlist_segments:
            self._drop(self.older.popleft() if self.older else self._unlist(), "dvr-bytes")
        if not self.shelf.healthy:
            self._slide()
        if len(self.listed) != before:
            self.on_change()
