"""Which key frame stands for an instant, and where thumbnails are on the time that players count."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from medianode.egress.playback.footage import Footage
from medianode.egress.playback.pictures import Grid, moments, nearest, thumbnails
from medianode.errors import NotFound
from medianode.media.parts import Part


def file(sequence: int, at: float, *, seconds: int = 10, keys: bool = True, here: bool = True) -> Footage:
    start = sequence * 1_000_000_000
    parts = tuple(Part(i, 1, start + i * 1_000_000, 1_000_000, keys and i % 4 == 0) for i in range(seconds))
    return Footage(Path(f"/d/{sequence:06}.mp4"), sequence, at, start, seconds * 1_000_000, 1, 1, here=here, listed=parts)


def where(files: list[Footage], at: float) -> tuple[int, float]:
    moment = nearest(files, at)
    return moment.file.sequence, moment.wallclock


def test_the_key_frame_of_an_instant_is_the_last_before_it_else_the_first_there_is() -> None:
    files = [file(1, 100.0), file(2, 110.0, here=False), file(3, 150.0, keys=False), file(4, 160.0)]
    assert where(files, 105.5) == (1, 104.0)
    assert where(files, 20.0) == (1, 100.0)
    assert where(files, 115.0) == (1, 108.0), "what is only in a bucket is not read for a picture"
    assert where(files, 155.0) == (4, 160.0), "forward first, where there is none in the file itself"
    assert where(files, 900.0) == (4, 168.0)
    assert where(files[:3], 155.0) == (1, 108.0)
    with pytest.raises(NotFound):
        nearest(files[1:3], 155.0)


def test_a_strip_takes_the_middle_of_each_tile() -> None:
    files = [file(1, 100.0), file(2, 110.0)]
    taken = moments(files, Grid(2, 4, 160, 100.0, 5.0))
    assert [(moment.file.sequence, moment.wallclock) for moment in taken] == [(1, 100.0), (1, 104.0), (2, 110.0), (2, 114.0)]


def test_cues_count_the_media_and_leave_gaps_out() -> None:
    """100 to 110, 110 to 120, a gap of 30 s, 150 to 160."""
    files = [file(1, 100.0), file(2, 110.0), file(3, 150.0)]
    text = thumbnails(Grid(3, 6, 160, 100.0, 10.0), files, (160, 90), "strip.jpg?x=1")
    assert re.findall(r"(\S+) --> (\S+)\n(\S+)", text) == [
        ("00:00:00.000", "00:00:10.000", "strip.jpg?x=1#xywh=0,0,160,90"),
        ("00:00:10.000", "00:00:20.000", "strip.jpg?x=1#xywh=160,0,160,90"),
        ("00:00:20.000", "00:00:30.000", "strip.jpg?x=1#xywh=320,90,160,90"),
    ]


class Month(list[Footage]):
    """Counts how often somebody goes through all of it."""

    passes = 0

    def __iter__(self) -> Iterator[Footage]:
        self.passes += 1
        return super().__iter__()


def test_cues_of_a_month_of_minutes_are_to_the_millisecond_and_add_it_up_once() -> None:
    """Of 43 200 files; adding them up for each of 100 cues stopped the node for two seconds and a half."""
    zero, count, gap = 1_790_000_000.0, 43_200, 86_400.0
    begins = [zero + n * 60.0 + (gap if n > 20_000 else 0.0) for n in range(count)]
    files = Month(Footage(Path("/d/f.mp4"), n, at, n * 60_000_000, 60_000_000, 1, 1) for n, at in enumerate(begins))
    step, before = (count * 60.0 + gap) / 100, 20_001 * 60.0
    text = thumbnails(Grid(10, 100, 160, zero, step), files, (160, 90), "s")
    cues = re.findall(r"^(\d+):(\d\d):(\d\d\.\d{3}) --> (\d+):(\d\d):(\d\d\.\d{3})$", text, re.MULTILINE)
    told = [int(hours) * 3600 + int(minutes) * 60 + float(seconds) for cue in cues for hours, minutes, seconds in (cue[:3], cue[3:])]
    edges = [at if (at := n * step) < before else max(before, at - gap) for n in range(101)]
    wanted = [cue for cue in itertools.pairwise(edges) if cue[0] < cue[1]]
    assert len(wanted) == 97, "three lie within the gap"
    assert told == pytest.approx([at for cue in wanted for at in cue], abs=0.001)
    assert files.passes <= 4
