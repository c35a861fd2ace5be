"""Progressive MP4 (ISO/IEC 14496-12): moov first, then one mdat of samples that are already there, somewhere. Sans-IO.

Tracks are filled chunk by chunk (a chunk: samples of one track that stand together); `head` then makes ftyp, moov and the header of mdat.
Decode times of a track begin at 0, so when it is shown is told by its edit list (8.6.6), which also hides what is only there to be decoded.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from medianode.protocols.fmp4_boxes import LANGUAGE_UND, MATRIX, box, full_box, media_box
from medianode.protocols.fmp4_samples import Format

MOVIE_RATE = 90_000
_U32 = 0xFFFF_FFFF
_SAMPLE_BYTES = 12
"""Of moov, for a sample, at the most (stsz, ctts at its worst); what repeats costs less."""


class Edit(NamedTuple):
    """What of a track is shown, in its ticks: nothing for `empty`, then `duration` from decode time + composition offset `start` on."""

    empty: int
    start: int
    duration: int


class TrackTable:
    """One track in the making. `end`: decode time behind the last sample, ticks from the track's first one."""

    def __init__(self, form: Format) -> None:
        self.form = form
        self.end = 0
        self.count = 0
        self._durations: list[list[int]] = []
        self._compositions: list[list[int]] = []
        self._sizes = array("I")
        self._sync = array("I")
        self._offsets = array("Q")
        self._per_chunk: list[tuple[int, int]] = []
        self._all_sync = True
        self._least = 0

    @property
    def nbytes(self) -> int:
        """About what it adds to moov, bytes."""
        return 4 * len(self._sizes) + 8 * (len(self._durations) + len(self._compositions) + len(self._offsets)) + 4 * len(self._sync)

    @property
    def lead(self) -> int:
        """What is added to all composition offsets, so that none is below 0: ticks."""
        return -self._least

    def add(
        self, at: int, offset: int, durations: Sequence[int], sizes: Sequence[int], compositions: Sequence[int], keys: Sequence[int] | None
    ) -> None:
        """A chunk, not empty, `offset` bytes from the beginning of mdat's payload; `at`: decode time of its first sample.

        `compositions` may be empty where all are 0; `keys`: which samples are key frames, None for all. Where it does not begin at `end`,
        the sample before it lasts longer or shorter.
        """
        count = len(sizes)
        if at != self.end and self.count:
            self._stretch(at - self.end)
        for value, number in _runs(durations):
            _append(self._durations, value, number)
            self.end += value * number
        if compositions:
            for value, number in _runs(compositions):
                _append(self._compositions, value, number)
            self._least = min(self._least, *compositions)
        else:
            _append(self._compositions, 0, count)
        if keys is None and not self._all_sync:
            keys = range(count)
        if keys is not None:
            if self._all_sync:
                self._all_sync = False
                self._sync.extend(range(1, self.count + 1))
            self._sync.extend([self.count + 1 + i for i in keys])
        self._sizes.extend(sizes)
        if not self._per_chunk or self._per_chunk[-1][1] != count:
            self._per_chunk.append((len(self._offsets) + 1, count))
        self._offsets.append(offset)
        self.count += count

    def _stretch(self, ticks: int) -> None:
        run = self._durations[-1]
        value = max(0, min(_U32, run[1] + ticks))
        self.end += value - run[1]
        run[0] -= 1
        if not run[0]:
            self._durations.pop()
        _append(self._durations, value, 1)

    def trak(self, number: int, edit: Edit, base: int, *, wide: bool) -> bytes:
        """8.3.1. `base`: where mdat's payload begins in the file; `wide`: offsets of 64 bits."""
        track, video = self.form.track, self.form.track.is_video
        shown = _movie(edit.empty, track.clock_rate) + _movie(edit.duration, track.clock_rate)
        tkhd = full_box(
            b"tkhd",
            1,
            7,
            struct.pack(">QQIIQ8xHHH2x", 0, 0, number, 0, shown, 0, 0, 0 if video else 0x100),
            MATRIX,
            struct.pack(">II", *self.form.display),
        )
        mdhd = full_box(b"mdhd", 1, 0, struct.pack(">QQIQHH", 0, 0, track.clock_rate, self.end, LANGUAGE_UND, 0))
        return box(b"trak", tkhd, self._edts(edit), media_box(mdhd, self._stbl(base, wide=wide), video=video))

    def _edts(self, edit: Edit) -> bytes:
        rate = self.form.track.clock_rate
        rows = [(_movie(edit.empty, rate), -1)] if edit.empty else []
        rows.append((_movie(edit.duration, rate), edit.start))
        table = b"".join(struct.pack(">QqHH", duration, start, 1, 0) for duration, start in rows)
        return box(b"edts", full_box(b"elst", 1, 0, struct.pack(">I", len(rows)), table))

    def _stbl(self, base: int, *, wide: bool) -> bytes:
        """8.5.1, the optional boxes where there is something to say."""
        parts = [
            full_box(b"stsd", 0, 0, b"\0\0\0\1", self.form.entry),
            full_box(b"stts", 0, 0, _pairs(self._durations)),
        ]
        if any(value for _, value in self._compositions):
            parts.append(full_box(b"ctts", 0, 0, _pairs([[count, value + self.lead] for count, value in self._compositions])))
        if not self._all_sync:
            parts.append(full_box(b"stss", 0, 0, struct.pack(">I", len(self._sync)), _big(self._sync)))
        chunks = b"".join(struct.pack(">III", first, count, 1) for first, count in self._per_chunk)
        parts.append(full_box(b"stsc", 0, 0, struct.pack(">I", len(self._per_chunk)), chunks))
        parts.append(full_box(b"stsz", 0, 0, struct.pack(">II", 0, self.count), _big(self._sizes)))
        places = array("Q" if wide else "I", [base + offset for offset in self._offsets])
        parts.append(full_box(b"co64" if wide else b"stco", 0, 0, struct.pack(">I", len(places)), _big(places)))
        return box(b"stbl", *parts)


def head(tracks: Sequence[tuple[TrackTable, Edit]], media_bytes: int) -> bytes:
    """ftyp, moov and the header of an mdat with `media_bytes` behind it. Tracks without samples are left out by the caller."""
    mdat_header = 16 if media_bytes + 8 > _U32 else 8
    room = sum(table.nbytes + _SAMPLE_BYTES for table, _ in tracks) + 65_536
    wide = media_bytes + room > _U32
    ftyp = box(b"ftyp", b"isom", struct.pack(">I", 0x200), b"isomiso2mp41")
    # its size does not depend on what stands in it
    base = len(ftyp) + len(_moov(tracks, 0, wide=wide)) + mdat_header
    moov = _moov(tracks, base, wide=wide)
    if mdat_header == 16:
        return ftyp + moov + struct.pack(">I4sQ", 1, b"mdat", media_bytes + 16)
    return ftyp + moov + struct.pack(">I4s", media_bytes + 8, b"mdat")


def _moov(tracks: Sequence[tuple[TrackTable, Edit]], base: int, *, wide: bool) -> bytes:
    shown = [_movie(edit.empty, table.form.track.clock_rate) + _movie(edit.duration, table.form.track.clock_rate) for table, edit in tracks]
    times = struct.pack(">QQIQ", 0, 0, MOVIE_RATE, max(shown))
    mvhd = full_box(b"mvhd", 1, 0, times, struct.pack(">IH10x", 0x10000, 0x100), MATRIX, bytes(24), struct.pack(">I", len(tracks) + 1))
    return box(b"moov", mvhd, *[table.trak(number, edit, base, wide=wide) for number, (table, edit) in enumerate(tracks, 1)])


def _movie(ticks: int, rate: int) -> int:
    return (ticks * MOVIE_RATE + rate // 2) // rate


def _runs(values: Sequence[int]) -> Iterator[tuple[int, int]]:
    """(value, how many of it) in order."""
    if values.count(values[0]) == len(values):
        yield values[0], len(values)
        return
    for value, run in groupby(values):
        yield value, sum(1 for _ in run)


def _append(runs: list[list[int]], value: int, count: int) -> None:
    """(count, value), joined to the run before where that is of the same value."""
    if runs and runs[-1][1] == value:
        runs[-1][0] += count
    else:
        runs.append([count, value])


def _pairs(runs: Sequence[Sequence[int]]) -> bytes:
    flat = [number for run in runs for number in run]
    return struct.pack(f">I{len(flat)}I", len(runs), *flat)


def _big(values: array[int]) -> bytes:
    """Big-endian, whatever this machine is."""
    swapped = array(values.typecode, values)
    if struct.pack("=H", 1) != struct.pack(">H", 1):
        swapped.byteswap()
    return swapped.tobytes()
