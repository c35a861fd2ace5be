"""Clip: a span of one or several files as one progressive MP4, without touching the media: indices are read, bytes are pointed at.

The picture begins at the key frame before the span and the sound a little earlier; edit lists cut both to the span, to the sample.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

from medianode import clock
from medianode.egress.playback.disk import Reader, Stretch
from medianode.egress.playback.footage import SECOND, Footage
from medianode.egress.playback.span import Span
from medianode.errors import Conflict, LimitExceeded, NotFound, ProtocolError
from medianode.media.parts import Part
from medianode.protocols import mp4
from medianode.protocols.fmp4_samples import Format, Samples, formats

PREROLL = 80_000
"""Microseconds of sound in front of the span, unheard: what Opus needs to settle, and more than AAC does."""
INTERLEAVE = 1_000_000
"""Microseconds by which a part's sound may be away from its picture."""


class Piece(NamedTuple):
    """A file to take from. `continues`: its timeline is that of the file before it."""

    file: Footage
    continues: bool


@dataclass(frozen=True, slots=True)
class Clip:
    """`head`, then the bytes of `stretches`. `ends`: where each of them ends in the whole, bytes."""

    head: bytes = field(repr=False)
    stretches: list[Stretch] = field(repr=False)
    ends: list[int] = field(repr=False)

    @property
    def nbytes(self) -> int:
        return self.ends[-1] if self.ends else len(self.head)

    @property
    def memory(self) -> int:
        """About what it holds, bytes."""
        return len(self.head) + 200 * len(self.stretches)

    @property
    def paths(self) -> set[Path]:
        return {stretch.path for stretch in self.stretches}

    def between(self, start: int, stop: int, most: int) -> list[Stretch]:
        """What follows `start` (behind the head) of the whole, `most` bytes and not beyond `stop`."""
        stop = min(stop, start + most)
        found = []
        i = bisect.bisect_right(self.ends, start)
        while start < stop:
            path, offset, size = self.stretches[i]
            skip = start - (self.ends[i] - size)
            take = min(size - skip, stop - start)
            found.append(Stretch(path, offset + skip, take))
            start += take
            i += 1
        return found


@dataclass(slots=True)
class _Lane:
    """A track in the making. `origin`: where its first sample's decode time is on the clip's timeline, `first`: where its first shown one's
    presentation is; ticks. `tail`: of the last chunk, decode time, durations, and composition offsets (empty where all are 0).
    """

    table: mp4.TrackTable
    origin: int = 0
    first: int = -1
    tail: tuple[int, Sequence[int], Sequence[int]] = (0, (), ())

    @property
    def last(self) -> int:
        """End of the presentation, ticks on the clip's timeline."""
        at, durations, compositions = self.tail
        if not compositions:
            return at + sum(durations)
        return max(time + composition for time, composition in zip(list(accumulate(durations, initial=at))[1:], compositions, strict=True))


class _Builder:
    """`bound`: bytes of moov at the most."""

    def __init__(self, span: Span, bound: int) -> None:
        self.span = span
        self.bound = bound
        self.lanes: dict[str, _Lane] = {}
        self.stretches: list[Stretch] = []
        self.nbytes = 0
        self.zero: int | None = None
        """What stands at 0 of the clip's timeline, on that of the present stretch of files, microseconds."""
        self.begin: int | None = None
        """Where the clip is shown from, microseconds on its timeline."""

    def take(self, reader: Reader, piece: Piece) -> None:
        """All of a file that is in the span. Raises OSError, ProtocolError, Conflict, LimitExceeded."""
        file, parts = piece.file, piece.file.parts
        low = file.at(self.span.since) if self.span.since is not None else None
        high = file.at(self.span.until) if self.span.until is not None else None
        found = formats(reader.read(file.path, 0, file.init_bytes))
        for each in found:
            self._lane(each, file)
        if not piece.continues:
            self.zero = None
        first, key = _begin(reader, file, parts, low, found)
        for part in parts[first:]:
            if high is not None and part.start >= high + INTERLEAVE:
                break
            moof, tables = reader.tables(file.path, part.offset, part.size)
            for table in tables:
                form = next((form for form in found if form.number == table.number), None)
                if form is None:
                    raise ProtocolError(f"{file.name}: expected tracks {[each.number for each in found]}, got {table.number}")
                self._chunk(file, moof, form, table, low, high, key)
        if sum(lane.table.nbytes for lane in self.lanes.values()) > self.bound:
            raise LimitExceeded("the index of this download would be too long: ask for less with from and to", code="span-too-long")

    def _lane(self, form: Format, file: Footage) -> None:
        kind = form.track.kind.value
        lane = self.lanes.get(kind)
        if lane is None:
            self.lanes[kind] = _Lane(mp4.TrackTable(form))
        elif lane.table.form.signature[1:] != form.signature[1:]:
            at = clock.iso(file.started_at)
            raise Conflict(
                f"{kind}: its format changes at {at}, and one file cannot have both: ask for to={at} and from={at}", code="format-changes"
            )

    def _chunk(self, file: Footage, moof: int, form: Format, table: Samples, low: int | None, high: int | None, key: int | None) -> None:
        """Those samples of a run that are in the span. `key`: decode time of the key frame that the picture begins with, ticks."""
        lane = self.lanes[form.track.kind.value]
        begin, end = _inside(form, table, low, high, key)
        if begin >= end:
            return
        durations, sizes, compositions, keys = table.durations, table.sizes, table.compositions, table.keys
        offset, start = moof + table.data, table.base
        if begin or end < len(sizes):
            offset += sum(sizes[:begin])
            start += sum(durations[:begin])
            durations, sizes, compositions = durations[begin:end], sizes[begin:end], compositions[begin:end]
            keys = None if keys is None else tuple([i - begin for i in keys if begin <= i < end])
        rate = form.track.clock_rate
        self._place(start, rate, low)
        assert self.zero is not None
        at = start - self.zero * rate // SECOND
        if not lane.table.count:
            times = accumulate(durations, initial=at)
            lane.origin = at
            lane.first = min(map(sum, zip(times, compositions, strict=False))) if compositions else at
        lane.table.add(at - lane.origin, self.nbytes, durations, sizes, compositions, keys)
        lane.tail = (at, durations, compositions)
        self._point(file.path, offset, sum(sizes))

    def _place(self, at: int, rate: int, low: int | None) -> None:
        """Where this stretch of files goes: behind what is there. `at`: its first sample's decode time, ticks."""
        if self.zero is None:
            start = at * SECOND // rate
            ends = [lane.last * SECOND // lane.table.form.track.clock_rate for lane in self.lanes.values() if lane.table.count]
            self.zero = start - max(ends, default=0)
            if self.begin is None and low is not None:
                self.begin = max(0, low - self.zero)

    def _point(self, path: Path, offset: int, size: int) -> None:
        last = self.stretches[-1] if self.stretches else None
        if last is not None and last.path == path and last.offset + last.size == offset:
            self.stretches[-1] = Stretch(path, last.offset, last.size + size)
        else:
            self.stretches.append(Stretch(path, offset, size))
        self.nbytes += size

    def clip(self, until: int | None) -> Clip:
        """`until`: where it ends, microseconds on the clip's timeline, or None. Raises NotFound `nothing-recorded`."""
        lanes = [lane for _, lane in sorted(self.lanes.items(), reverse=True) if lane.table.count]
        if not lanes:
            raise NotFound("nothing is recorded there", code="nothing-recorded")
        begin = self.begin
        if begin is None:
            firsts = [lane.first * SECOND // lane.table.form.track.clock_rate for lane in lanes]
            # with a picture, if that is only a sound's packet or two later; the picture's lane is the first
            begin = firsts[0] if firsts[0] - min(firsts) < PREROLL else min(firsts)
        head = mp4.head([(lane.table, _edit(lane, begin, until)) for lane in lanes], self.nbytes)
        ends = list(accumulate((stretch.size for stretch in self.stretches), initial=len(head)))[1:]
        return Clip(head, self.stretches, ends)


def build(pieces: Sequence[Piece], span: Span, bound: int) -> Clip:
    """In a thread. `bound`: bytes of moov at the most.

    Raises NotFound `nothing-recorded`, Conflict `format-changes`, LimitExceeded `span-too-long`, ProtocolError, OSError.
    """
    builder = _Builder(span, bound)
    with Reader() as reader:
        for piece in pieces:
            builder.take(reader, piece)
    until = None
    if span.until is not None and builder.zero is not None and span.until < pieces[-1].file.ended_at:
        until = pieces[-1].file.at(span.until) - builder.zero
    return builder.clip(until)


def _inside(form: Format, table: Samples, low: int | None, high: int | None, key: int | None) -> tuple[int, int]:
    """(the first sample, the one behind the last) of the span: with what is only there to be decoded."""
    rate, begin, end = form.track.clock_rate, 0, len(table.sizes)
    length = sum(table.durations)
    late = max(table.compositions, default=0)
    opens = (
        key is not None and table.base < key if form.track.is_video else low is not None and table.base * SECOND < (low - PREROLL) * rate
    )
    closes = high is not None and (table.base + length + late) * SECOND > high * rate
    if not (opens or closes):
        return begin, end
    times = list(accumulate(table.durations, initial=table.base))
    if form.track.is_video:
        while opens and key is not None and begin < end and times[begin] < key:
            begin += 1
        if closes and high is not None:
            shift = table.compositions or (0,) * end
            shown = [i for i in range(begin, end) if (times[i] + shift[i]) * SECOND < high * rate]
            end = shown[-1] + 1 if shown else begin
        return begin, end
    while opens and low is not None and begin < end and times[begin + 1] * SECOND <= (low - PREROLL) * rate:
        begin += 1
    while closes and high is not None and end > begin and times[end - 1] * SECOND >= high * rate:
        end -= 1
    return begin, end


def _begin(reader: Reader, file: Footage, parts: Sequence[Part], low: int | None, found: Sequence[Format]) -> tuple[int, int | None]:
    """(the first part to look at, the decode time of the key frame that the picture begins with, in ticks, or None for all of it)."""
    if low is None or low <= file.start:
        return 0, None
    before = [i for i, part in enumerate(parts) if part.independent and part.start <= low] or [0]
    picture = next((form for form in found if form.track.is_video), None)
    if picture is None:
        return max(0, before[-1] - 1), None
    # parts begin by decode time: with B-frames the key frame of the last one may be shown behind `low`
    for first in reversed(before[-2:]):
        key = _last_key(reader, file, parts[first:], low, picture)
        if key is not None:
            return max(0, first - 1), key
    return 0, None


def _last_key(reader: Reader, file: Footage, parts: Sequence[Part], low: int, picture: Format) -> int | None:
    """Decode time, in ticks, of the last key frame that is shown at `low` or before; None where there is none."""
    key: int | None = None
    for part in parts:
        if part.start > low:
            break
        for table in reader.tables(file.path, part.offset, part.size)[1]:
            if table.number == picture.number:
                times = accumulate(table.durations, initial=table.base)
                for i, time in enumerate(times):
                    sync = i < len(table.sizes) and (table.keys is None or i in table.keys)
                    shown = time + (table.compositions[i] if sync and table.compositions else 0)
                    if sync and shown * SECOND <= low * picture.track.clock_rate:
                        key = time
    return key


def _edit(lane: _Lane, begin: int, until: int | None) -> mp4.Edit:
    """`begin`, `until`: what is shown, microseconds on the clip's timeline."""
    rate = lane.table.form.track.clock_rate
    start = (begin * rate + SECOND // 2) // SECOND
    end = lane.last if until is None else min(lane.last, (until * rate + SECOND // 2) // SECOND)
    empty = max(0, lane.first - start)
    shown = max(start, lane.first)
    return mp4.Edit(empty, max(0, shown - lane.origin + lane.table.lead), max(1, end - shown))
