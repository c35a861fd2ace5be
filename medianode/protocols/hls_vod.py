"""HLS over files that are there (RFC 8216): media segments as byte ranges of fragmented MP4, finished (VOD) or growing at the end. Pure.

URIs are followed by `hls.MARK`, as in `protocols/hls`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from medianode.protocols.hls import MARK, seconds, target_of

VERSION = 7


class Stretch(Protocol):
    """A media segment: `size` bytes at `offset` of its file, microseconds long. `independent`: it begins with a key frame."""

    @property
    def offset(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def duration(self) -> int: ...
    @property
    def independent(self) -> bool: ...


class Body(NamedTuple):
    """A file's segments as text. `target`: the longest, in seconds as EXT-X-TARGETDURATION counts; `number`: how many."""

    text: str
    target: int
    number: int
    independent: bool


def body(uri: str, segments: Sequence[Stretch]) -> Body:
    """Of at least one segment of the file at `uri`."""
    tail = f"\n{uri}{MARK}\n"
    text = "".join([f"#EXTINF:{seconds(s.duration)},\n#EXT-X-BYTERANGE:{s.size}@{s.offset}{tail}" for s in segments])
    return Body(text, target_of(max([s.duration for s in segments])), len(segments), all(s.independent for s in segments))


@dataclass(frozen=True, slots=True)
class VodFile:
    """`map_uri`: of the file whose first `map_bytes` bytes open this one's segments, given where it is another than the file's before.

    `discontinuity`: timestamps or formats break before it (4.3.2.3). `program_time`: RFC 3339, of its first segment.
    """

    body: Body
    program_time: str = ""
    map_uri: str = ""
    map_bytes: int = 0
    discontinuity: bool = False

    @property
    def text(self) -> str:
        head = "#EXT-X-DISCONTINUITY\n" if self.discontinuity else ""
        if self.map_uri:
            head += f'#EXT-X-MAP:URI="{self.map_uri}{MARK}",BYTERANGE="{self.map_bytes}@0"\n'
        if self.program_time:
            head += f"#EXT-X-PROGRAM-DATE-TIME:{self.program_time}\n"
        return head + self.body.text


def render(
    files: Sequence[VodFile],
    *,
    ended: bool = True,
    event: bool = False,
    least_target: int = 1,
    media_sequence: int = 0,
    discontinuity_sequence: int = 0,
    start: int | None = None,
) -> str:
    """A Media Playlist. `event`: EXT-X-PLAYLIST-TYPE EVENT, for one that only grows; `ended`: EXT-X-ENDLIST, and type VOD unless it was an
    event. `least_target`: of EXT-X-TARGETDURATION, seconds. `start`: microseconds to begin to play at, precisely (4.3.5.2).
    """
    target = max([least_target, *[file.body.target for file in files]])
    lines = [f"#EXTM3U\n#EXT-X-VERSION:{VERSION}\n"]
    if all(file.body.independent for file in files):
        lines.append("#EXT-X-INDEPENDENT-SEGMENTS\n")
    if event or ended:
        lines.append(f"#EXT-X-PLAYLIST-TYPE:{'EVENT' if event else 'VOD'}\n")
    lines.append(f"#EXT-X-TARGETDURATION:{target}\n#EXT-X-MEDIA-SEQUENCE:{media_sequence}\n")
    if discontinuity_sequence:
        lines.append(f"#EXT-X-DISCONTINUITY-SEQUENCE:{discontinuity_sequence}\n")
    if start is not None:
        lines.append(f"#EXT-X-START:TIME-OFFSET={seconds(start)},PRECISE=YES\n")
    lines += [file.text for file in files]
    if ended:
        lines.append("#EXT-X-ENDLIST\n")
    return "".join(lines)
