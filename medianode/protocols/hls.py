"""HLS playlists as text: RFC 8216 and its second edition (draft-pantos-hls-rfc8216bis: parts, blocking reload, delta updates). Pure.

Durations are whole microseconds, so that the parts of a segment sum up to it exactly. Every URI is followed by MARK, where the server
puts a query (`?token=…`) or nothing: one rendering serves all players.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import NamedTuple

from medianode.errors import InvalidRequest

MARK = "\0"
"""Stands behind every URI; never part of a name."""

SKIP_TARGETS, HOLD_BACK_TARGETS, PART_HOLD_BACK_TARGETS, PART_SPAN_TARGETS = 6, 3, 4, 3
"""CAN-SKIP-UNTIL and HOLD-BACK in target durations; PART-HOLD-BACK in part targets, one more than the least that 4.4.3.8 allows: a busy
viewer then plays on where it would stall; parts are listed this many targets back (4.4.4.9)."""

MAX_SEQUENCE = 2**63 - 1


class Part(NamedTuple):
    """EXT-X-PART (4.4.4.9). `duration` in microseconds; `independent`: starts with a key frame."""

    uri: str
    duration: int
    independent: bool

    @property
    def text(self) -> str:
        tail = ",INDEPENDENT=YES" if self.independent else ""
        return f'#EXT-X-PART:DURATION={seconds(self.duration)},URI="{self.uri}{MARK}"{tail}\n'


@dataclass(frozen=True)
class Head:
    """What stands before the first part of a segment. `program_time`: RFC 3339, or empty; `map_uri`: empty for MPEG-TS.

    `new_map`: the segment before has another map. `discontinuity`: timestamps or formats break before it (4.4.4.3).
    """

    map_uri: str = ""
    new_map: bool = False
    discontinuity: bool = False
    program_time: str = ""

    @cached_property
    def text(self) -> str:
        lines = "#EXT-X-DISCONTINUITY\n" if self.discontinuity else ""
        if self.new_map and self.map_uri:
            lines += f'#EXT-X-MAP:URI="{self.map_uri}{MARK}"\n'
        if self.program_time:
            lines += f"#EXT-X-PROGRAM-DATE-TIME:{self.program_time}\n"
        return lines


@dataclass(frozen=True)
class Segment:
    """A complete Media Segment (4.4.4). `gap`: there is no media to fetch (4.4.4.7). `independent`: starts with a key frame."""

    head: Head
    uri: str
    duration: int
    parts: tuple[Part, ...] = ()
    gap: bool = False
    independent: bool = True

    @cached_property
    def body_text(self) -> str:
        gap = "#EXT-X-GAP\n" if self.gap else ""
        return f"{gap}#EXTINF:{seconds(self.duration)},\n{self.uri}{MARK}\n"

    @cached_property
    def text(self) -> str:
        return self.head.text + self.body_text

    @cached_property
    def text_with_parts(self) -> str:
        return self.head.text + "".join([part.text for part in self.parts]) + self.body_text


@dataclass(frozen=True, slots=True)
class MediaPlaylist:
    """One state of a Media Playlist. `part_target` in microseconds, 0 for a playlist without LL-HLS.

    `open_head` and `open_parts`: the segment in the making. `hint`: URI of the part that comes next. `ended`: EXT-X-ENDLIST.
    """

    target_duration: int
    media_sequence: int
    discontinuity_sequence: int
    segments: Sequence[Segment]
    part_target: int = 0
    open_head: Head | None = None
    open_parts: Sequence[Part] = ()
    hint: str = ""
    ended: bool = False
    version: int = 9

    def skippable(self) -> int:
        """Segments further from the end of the playlist than the Skip Boundary (4.4.5.2)."""
        boundary = self.target_duration * SKIP_TARGETS * 1_000_000
        distance = sum(part.duration for part in self.open_parts)
        for count in range(len(self.segments), 0, -1):
            if distance >= boundary:
                return count
            distance += self.segments[count - 1].duration
        return 0

    def render(self, *, delta: bool = False) -> str:
        """The whole playlist, or with `delta` one that skips what lies beyond the Skip Boundary (whole where nothing does)."""
        skipped = self.skippable() if delta else 0
        segments = tuple(islice(self.segments, skipped, None))
        lines = [self._header()]
        if skipped:
            lines.append(f"#EXT-X-SKIP:SKIPPED-SEGMENTS={skipped}\n")
        else:
            first = segments[0].head if segments else self.open_head
            if first is not None and first.map_uri and not first.new_map:
                lines.append(f'#EXT-X-MAP:URI="{first.map_uri}{MARK}"\n')
        bare = len(segments) - self._with_parts(segments)
        lines += [segment.text for segment in segments[:bare]]
        lines += [segment.text_with_parts for segment in segments[bare:]]
        if self.part_target and self.open_head is not None and self.open_parts:
            lines.append(self.open_head.text)
            lines += [part.text for part in self.open_parts]
        if self.ended:
            lines.append("#EXT-X-ENDLIST\n")
        elif self.part_target and self.hint:
            lines.append(f'#EXT-X-PRELOAD-HINT:TYPE=PART,URI="{self.hint}{MARK}"\n')
        return "".join(lines)

    def _with_parts(self, segments: Sequence[Segment]) -> int:
        """How many of the last segments still list their parts."""
        if not self.part_target or self.ended:
            return 0
        left = self.target_duration * PART_SPAN_TARGETS * 1_000_000 - sum(part.duration for part in self.open_parts)
        count = 0
        for segment in reversed(segments):
            if left <= 0:
                break
            left -= segment.duration
            count += 1
        return count

    def _header(self) -> str:
        lines = f"#EXTM3U\n#EXT-X-VERSION:{self.version}\n"
        if all(segment.independent for segment in self.segments):
            lines += "#EXT-X-INDEPENDENT-SEGMENTS\n"
        lines += f"#EXT-X-TARGETDURATION:{self.target_duration}\n"
        if self.part_target:
            skip, hold = self.target_duration * SKIP_TARGETS, self.target_duration * HOLD_BACK_TARGETS
            part_hold = seconds(self.part_target * PART_HOLD_BACK_TARGETS)
            lines += f"#EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES,CAN-SKIP-UNTIL={skip}.0,HOLD-BACK={hold}.0,PART-HOLD-BACK={part_hold}\n"
            lines += f"#EXT-X-PART-INF:PART-TARGET={seconds(self.part_target)}\n"
        lines += f"#EXT-X-MEDIA-SEQUENCE:{self.media_sequence}\n"
        if self.discontinuity_sequence:
            lines += f"#EXT-X-DISCONTINUITY-SEQUENCE:{self.discontinuity_sequence}\n"
        return lines


@dataclass(frozen=True, slots=True)
class Variant:
    """EXT-X-STREAM-INF (4.4.6.2). Bandwidths in bits per second; `frame_rate` 0 and a size of 0 are left out."""

    uri: str
    bandwidth: int
    average_bandwidth: int
    codecs: tuple[str, ...]
    width: int = 0
    height: int = 0
    frame_rate: float = 0.0

    @property
    def text(self) -> str:
        line = f"#EXT-X-STREAM-INF:BANDWIDTH={self.bandwidth},AVERAGE-BANDWIDTH={self.average_bandwidth}"
        line += f',CODECS="{",".join(self.codecs)}"'
        if self.width and self.height:
            line += f",RESOLUTION={self.width}x{self.height}"
        if self.frame_rate:
            line += f",FRAME-RATE={self.frame_rate:.3f}"
        return f"{line}\n{self.uri}\n"


def multivariant(variants: Sequence[Variant], *, independent: bool = True, version: int = 7) -> str:
    """A Multivariant Playlist, the variant to start with first."""
    flag = "#EXT-X-INDEPENDENT-SEGMENTS\n" if independent else ""
    return f"#EXTM3U\n#EXT-X-VERSION:{version}\n{flag}" + "".join([variant.text for variant in variants])


class Reload(NamedTuple):
    """Delivery Directives (6.2.5) of one playlist request."""

    msn: int | None = None
    part: int | None = None
    skip: bool = False


def parse_reload(query: Mapping[str, str]) -> Reload:
    """`_HLS_msn`, `_HLS_part`, `_HLS_skip=YES|v2`; other directives are passed over. Raises InvalidRequest."""
    msn, part, skip = query.get("_HLS_msn"), query.get("_HLS_part"), query.get("_HLS_skip")
    if part is not None and msn is None:
        raise InvalidRequest("_HLS_part: expected _HLS_msn with it")
    if skip is not None and skip not in ("YES", "v2"):
        raise InvalidRequest(f"_HLS_skip: expected YES or v2, got {skip[:40]!r}")
    return Reload(_number("_HLS_msn", msn), _number("_HLS_part", part), skip is not None)


def _number(name: str, text: str | None) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 19) or int(text) > MAX_SEQUENCE:
        raise InvalidRequest(f"{name}: expected a decimal number, got {text[:40]!r}")
    return int(text)


def seconds(microseconds: int) -> str:
    """Seconds with at least one digit behind the point and no idle zeros: 0.5, 1.966667, 2.0."""
    whole, rest = divmod(microseconds, 1_000_000)
    return f"{whole}.{f'{rest:06d}'.rstrip('0') or '0'}"


def target_of(microseconds: int) -> int:
    """A segment's duration rounded to whole seconds as EXT-X-TARGETDURATION compares it (4.4.3.1), halves up; at least 1."""
    return max(1, (microseconds + 500_000) // 1_000_000)
