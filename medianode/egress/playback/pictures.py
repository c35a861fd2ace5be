"""Pictures of a recording: the key frame nearest to an instant, and where the tiles of a strip are taken. Reads in threads."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate, chain, pairwise
from typing import NamedTuple

from medianode.egress.playback.disk import Reader
from medianode.egress.playback.footage import Footage
from medianode.errors import InvalidRequest, NotFound, UnsupportedMedia
from medianode.media.packet import Packet
from medianode.media.parts import Part
from medianode.protocols.fmp4_samples import formats

COLUMNS, ROWS, WIDTH = 10, 10, 160
"""Of a strip, unless told otherwise."""
MOST_COLUMNS, MOST_TILES = 20, 400
LEAST_STEP = 2.0
"""Seconds between two thumbnails, at the least: key frames are seldom closer."""


class Moment(NamedTuple):
    """A part that begins with a key frame, and where its file is."""

    file: Footage
    part: Part

    @property
    def wallclock(self) -> float:
        return self.file.wallclock(self.part.start)


class Grid(NamedTuple):
    """`tiles` in rows of `columns`, `width` pixels each; tile n stands for the `step` seconds from `since` + n × `step` on (wallclock), by
    their middle.
    """

    columns: int
    tiles: int
    width: int
    since: float
    step: float


def nearest(files: Sequence[Footage], at: float) -> Moment:
    """The last key frame that is not behind `at`, else the first there is. In a thread: unpacks a file's index. Raises NotFound."""
    return _nearest(files, [at])[0]


def moments(files: Sequence[Footage], wanted: Grid) -> list[Moment]:
    """One for each tile, as `nearest`."""
    return _nearest(files, [wanted.since + (n + 0.5) * wanted.step for n in range(wanted.tiles)])


def _nearest(files: Sequence[Footage], instants: Sequence[float]) -> list[Moment]:
    here = [file for file in files if file.here]
    begins = [file.started_at for file in here]
    found = []
    for at in instants:
        i = max(0, bisect_right(begins, at) - 1)
        for number in chain(range(i, len(here)), reversed(range(i))):
            file = here[number]
            keys = [part for part in file.parts if part.independent]
            if keys:
                wanted = file.at(at)
                found.append(Moment(file, next((part for part in reversed(keys) if part.start <= wanted), keys[0])))
                break
        else:
            raise NotFound("nothing is recorded there", code="nothing-recorded")
    return found


def read_keyframe(moment: Moment) -> Packet:
    """In a thread. Raises OSError, ProtocolError, UnsupportedMedia where there is no picture."""
    file, part = moment
    with Reader() as reader:
        found = formats(reader.read(file.path, 0, file.init_bytes))
        picture = next((form for form in found if form.track.is_video), None)
        if picture is None:
            raise UnsupportedMedia("this recording has no picture", code="no-picture")
        moof, tables = reader.tables(file.path, part.offset, part.size)
        for table in tables:
            if table.number == picture.number and table.keys != () and table.sizes:
                i = 0 if table.keys is None else table.keys[0]
                offset = moof + table.data + sum(table.sizes[:i])
                at = table.base + sum(table.durations[:i])
                data = reader.read(file.path, offset, table.sizes[i])
                return Packet(picture.track, data, at + (table.compositions[i] if table.compositions else 0), at, True, 0.0)
    raise NotFound("no key frame there", code="nothing-recorded")


def grid(query: Mapping[str, str], since: float, until: float) -> Grid:
    """`columns`, `rows`, `width` of the query. As many tiles as fit, spread over the time; never closer than LEAST_STEP.

    Raises InvalidRequest.
    """
    columns = whole(query, "columns", COLUMNS, 1, MOST_COLUMNS)
    rows = whole(query, "rows", ROWS, 1, MOST_TILES // columns)
    width = whole(query, "width", WIDTH, 32, 640)
    length = max(until - since, 0.001)
    count = max(1, min(columns * rows, int(length / LEAST_STEP)))
    return Grid(min(columns, count), count, width, since, length / count)


def thumbnails(wanted: Grid, files: Sequence[Footage], size: tuple[int, int], uri: str) -> str:
    """WebVTT, as players want it for what they show while somebody seeks: cues by the time that a player counts, without the gaps. In a
    thread: a month's files are 43 200.
    """
    wide, high = size
    lines = ["WEBVTT\n"]
    edges = _played(files, [wanted.since + n * wanted.step for n in range(wanted.tiles + 1)])
    for n, (low, until) in enumerate(pairwise(edges)):
        if until <= low:
            continue
        x, y = n % wanted.columns * wide, n // wanted.columns * high
        lines.append(f"\n{_cue(low)} --> {_cue(until)}\n{uri}#xywh={x},{y},{wide},{high}\n")
    return "".join(lines)


def _played(files: Sequence[Footage], instants: Sequence[float]) -> list[float]:
    """Seconds of media before each, to the millisecond: what has passed since each file's beginning, less what has since its end."""
    zero = files[0].started_at
    begins, ends = sorted(file.started_at - zero for file in files), sorted(file.ended_at - zero for file in files)
    begun, ended = list(accumulate(begins, initial=0.0)), list(accumulate(ends, initial=0.0))
    found = []
    for at in (instant - zero for instant in instants):
        i, j = bisect_right(begins, at), bisect_right(ends, at)
        found.append(round((i * at - begun[i]) - (j * at - ended[j]), 3))
    return found


def _cue(at: float) -> str:
    whole_part, milliseconds = divmod(round(at * 1000), 1000)
    return f"{whole_part // 3600:02}:{whole_part // 60 % 60:02}:{whole_part % 60:02}.{milliseconds:03}"


def whole(query: Mapping[str, str], name: str, default: int, least: int, most: int) -> int:
    """A whole number of the query. Raises InvalidRequest."""
    text = query.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 6 and least <= int(text) <= most):
        raise InvalidRequest(f"{name}: expected {least} to {most}, got {text[:20]!r}")
    return int(text)
