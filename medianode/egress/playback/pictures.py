"""Pictures of a recording: the key frame nearest to an instant, and where the tiles of a strip are taken. Reads in threads."""

from __future__ import annotations

import bisect
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from medianode.egress.playback.disk import Reader
from medianode.egress.playback.footage import SECOND, Footage, Reel
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
    """`count` tiles, `width` pixels each; tile n shows what was at `since` + n × `step`, wallclock and seconds."""

    columns: int
    tiles: int
    width: int
    since: float
    step: float


def nearest(files: Sequence[Footage], at: float) -> Moment:
    """The last key frame that is not behind `at`, else the first there is. Unpacks one file's index. Raises NotFound."""
    here = [file for file in files if file.here]
    i = max(0, bisect.bisect_right([file.started_at for file in here], at) - 1)
    for file in (*here[i : i + 1], *here[i + 1 :], *reversed(here[:i])):
        keys = [part for part in file.parts if part.independent]
        if keys:
            wanted = file.at(at)
            return Moment(file, next((part for part in reversed(keys) if part.start <= wanted), keys[0]))
    raise NotFound("nothing is recorded there", code="nothing-recorded")


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


def grid(query: Mapping[str, str], reel: Reel, since: float, until: float) -> Grid:
    """`columns`, `rows`, `width` of the query. As many tiles as fit, spread over the time; never closer than LEAST_STEP.

    Raises InvalidRequest.
    """
    columns = whole(query, "columns", COLUMNS, 1, MOST_COLUMNS)
    rows = whole(query, "rows", ROWS, 1, MOST_TILES // columns)
    width = whole(query, "width", WIDTH, 32, 640)
    length = max(until - since, 0.001)
    count = max(1, min(columns * rows, int(length / LEAST_STEP)))
    return Grid(min(columns, count), count, width, since, length / count)


def moments(files: Sequence[Footage], wanted: Grid) -> list[Moment]:
    """One for each tile. In a thread: unpacks the indices of the files that are looked at."""
    return [nearest(files, wanted.since + (n + 0.5) * wanted.step) for n in range(wanted.tiles)]


def thumbnails(wanted: Grid, files: Sequence[Footage], size: tuple[int, int], uri: str) -> str:
    """WebVTT, as players want it for what they show while somebody seeks: cues by the time that a player counts, without the gaps."""
    wide, high = size
    lines = ["WEBVTT\n"]
    for n in range(wanted.tiles):
        low, high_at = (_played(files, wanted.since + k * wanted.step) for k in (n, n + 1))
        if high_at <= low:
            continue
        x, y = n % wanted.columns * wide, n // wanted.columns * high
        lines.append(f"\n{_cue(low)} --> {_cue(high_at)}\n{uri}#xywh={x},{y},{wide},{high}\n")
    return "".join(lines)


def _played(files: Sequence[Footage], at: float) -> float:
    """Seconds of media before that instant."""
    return sum(min(max(0.0, at - file.started_at), file.duration / SECOND) for file in files)


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


class Album:
    """Pictures that were made, up to `bound` bytes: those asked for longest ago go first."""

    def __init__(self, bound: int) -> None:
        self._bound = bound
        self._held: OrderedDict[tuple[object, ...], bytes] = OrderedDict()
        self.nbytes = 0

    def get(self, key: tuple[object, ...]) -> bytes | None:
        found = self._held.get(key)
        if found is not None:
            self._held.move_to_end(key)
        return found

    def put(self, key: tuple[object, ...], picture: bytes) -> None:
        if len(picture) > self._bound // 4:
            return
        self.nbytes += len(picture) - len(self._held.pop(key, b""))
        self._held[key] = picture
        while self.nbytes > self._bound:
            self.nbytes -= len(self._held.popitem(last=False)[1])
