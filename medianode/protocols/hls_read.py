"""HLS playlists of others, read (RFC 8216): which variant, which segments. Pure; URLs are joined, and not judged.

Tolerant of tags that are not known; ProtocolError where it is no playlist, LimitExceeded where it is over a bound.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import urljoin

from medianode.errors import LimitExceeded, ProtocolError

MAX_BYTES = 4 << 20
MAX_SEGMENTS = 20_000
MAX_LINES = 5 * MAX_SEGMENTS
MAX_VARIANTS = 256
# a name begins where none goes on: else a long word costs its square
_ATTRIBUTE = re.compile(r'(?<![A-Z0-9-])([A-Z0-9-]++)=("[^"]*"|[^,]*)')


class Range(NamedTuple):
    """Bytes of a resource; `length` 0: all of it."""

    start: int
    length: int


WHOLE = Range(0, 0)


class Variant(NamedTuple):
    url: str
    bandwidth: int
    height: int


@dataclass(frozen=True, slots=True)
class Segment:
    """`duration` in seconds. `map_url` is empty where it needs no initialisation."""

    sequence: int
    url: str
    duration: float
    range: Range = WHOLE
    map_url: str = ""
    map_range: Range = WHOLE
    encrypted: bool = False
    missing: bool = False


@dataclass(frozen=True, slots=True)
class Playlist:
    """A media playlist. `ended`: nothing follows. `target` in seconds."""

    segments: tuple[Segment, ...]
    target: float
    ended: bool


def read_playlist(text: str, url: str) -> Playlist | tuple[Variant, ...]:
    """A media playlist, or the variants of a multivariant one, best first. `url`: where it came from."""
    if len(text) > MAX_BYTES:
        raise LimitExceeded(f"playlist: expected at most {MAX_BYTES} bytes")
    lines = [line.strip() for line in text.removeprefix("\ufeff").splitlines()[: MAX_LINES + 1]]
    if len(lines) > MAX_LINES:
        raise LimitExceeded(f"playlist: expected at most {MAX_LINES} lines")
    if not lines or not lines[0].startswith("#EXTM3U"):
        raise ProtocolError("playlist: expected #EXTM3U")
    try:
        if any(line.startswith("#EXT-X-STREAM-INF") for line in lines):
            return _variants(lines, url)
        return _Reader(url).read(lines)
    except ValueError as e:  # a bracket without its other half
        raise ProtocolError(f"playlist: expected URLs: {e}") from None


def _variants(lines: list[str], url: str) -> tuple[Variant, ...]:
    found: list[Variant] = []
    attributes: dict[str, str] | None = None
    for line in lines:
        if line.startswith("#EXT-X-STREAM-INF:"):
            attributes = _attributes(line)
        elif line and not line.startswith("#") and attributes is not None:
            height = attributes.get("RESOLUTION", "").partition("x")[2]
            found.append(Variant(urljoin(url, line), _integer(attributes.get("BANDWIDTH", "0")), _integer(height)))
            attributes = None
            if len(found) > MAX_VARIANTS:
                raise LimitExceeded(f"playlist: expected at most {MAX_VARIANTS} variants")
    if not found:
        raise ProtocolError("playlist: expected a variant, got none")
    return tuple(sorted(found, key=lambda variant: variant.bandwidth, reverse=True))


class _Reader:
    """Of one media playlist."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._sequence = 0
        self._duration = 0.0
        self._range = WHOLE
        self._after = 0
        self._map = ("", WHOLE)
        self._missing = self._encrypted = False
        self._target = 0.0
        self._ended = False

    def read(self, lines: list[str]) -> Playlist:
        segments: list[Segment] = []
        for line in lines:
            if line.startswith("#"):
                name, _, value = line.partition(":")
                self._tag(name, value)
            elif line:
                segments.append(self._segment(urljoin(self._url, line)))
                if len(segments) > MAX_SEGMENTS:
                    raise LimitExceeded(f"playlist: expected at most {MAX_SEGMENTS} segments")
        return Playlist(tuple(segments), self._target or 6.0, self._ended)

    def _tag(self, name: str, value: str) -> None:
        match name:
            case "#EXTINF":
                self._duration = _number(value.partition(",")[0])
            case "#EXT-X-TARGETDURATION":
                self._target = min(_number(value), 600.0)
            case "#EXT-X-MEDIA-SEQUENCE":
                self._sequence = _integer(value)
            case "#EXT-X-BYTERANGE":
                self._range = _range(value, self._after)
                self._after = self._range.start + self._range.length
            case "#EXT-X-MAP":
                attributes = _attributes(value)
                where = attributes.get("BYTERANGE", "")
                self._map = (urljoin(self._url, attributes.get("URI", "")), _range(where, 0) if where else WHOLE)
            case "#EXT-X-GAP":
                self._missing = True
            case "#EXT-X-KEY":
                self._encrypted = _attributes(value).get("METHOD", "NONE") != "NONE"
            case "#EXT-X-ENDLIST":
                self._ended = True

    def _segment(self, url: str) -> Segment:
        segment = Segment(self._sequence, url, self._duration, self._range, *self._map, self._encrypted, self._missing)
        self._sequence += 1
        self._range, self._missing = WHOLE, False
        return segment


def _attributes(text: str) -> dict[str, str]:
    return {name: value.strip('"') for name, value in _ATTRIBUTE.findall(text)}


def _range(text: str, after: int) -> Range:
    length, at, start = text.partition("@")
    return Range(_integer(start) if at else after, _integer(length))


def _integer(text: str) -> int:
    text = text.strip()
    return int(text[:18]) if text.isascii() and text.isdigit() else 0


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        return 0.0
    return value if 0 <= value < 1e9 else 0.0
