"""Playlists of recordings: files and their segments as HLS. No IO: the formats are handed in. Runs in a thread for long ones."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import NamedTuple

from medianode import clock
from medianode.egress.playback.footage import SECOND, Footage, Reel
from medianode.egress.playback.segments import Segment, cut
from medianode.egress.playback.span import Span
from medianode.errors import LimitExceeded, NotFound, UnsupportedMedia
from medianode.protocols import hls, hls_vod
from medianode.protocols.fmp4_samples import Format
from medianode.protocols.hls import MARK
from medianode.protocols.rfc6381 import codec_string

LEAST_TARGET = 4
"""Seconds of EXT-X-TARGETDURATION of a growing playlist, which must not have to grow for ordinary key-frame intervals."""

REMEMBERED = 8192
"""Files of which it is remembered how they are listed."""


class Entry(NamedTuple):
    """A file in a playlist: under which address, of which formats. `same_timeline`: its timestamps go on from the entry's before."""

    reel: Reel
    file: Footage
    uri: str
    formats: tuple[Format, ...]
    same_timeline: bool


@dataclass(frozen=True, slots=True)
class Rendered:
    """`text` with MARKs. Bandwidths in bits per second. `target`: seconds. `segments`: how many."""

    text: str
    codecs: tuple[str, ...]
    width: int
    height: int
    peak: int
    average: int
    target: int
    segments: int


class Listed(NamedTuple):
    """A file's segments, and what a playlist says of them. `peak`: bits per second."""

    segments: Sequence[Segment]
    body: hls_vod.Body
    nbytes: int
    duration: int
    peak: int


def listed(uri: str, segments: Sequence[Segment]) -> Listed:
    # RFC 8216 4.3.4.2 has the peak over half a target duration and more: a sliver at a file's end is none
    peak = max([s.size * 8 * SECOND // s.duration for s in segments if s.duration >= SECOND], default=0)
    nbytes, duration = sum([s.size for s in segments]), sum([s.duration for s in segments])
    return Listed(segments, hls_vod.body(uri, segments), nbytes, duration, peak)


class Cuts:
    """Files as they are listed, remembered: a growing playlist is asked for every few seconds. Used from several threads."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[str, int, str], Listed] = OrderedDict()
        self._lock = Lock()

    def of(self, recording_id: str, file: Footage, uri: str) -> Listed | None:
        """None: there is no segment yet."""
        if not file.closed:
            segments = cut(file.entries, closed=False)
            return listed(uri, segments) if segments else None
        key = (recording_id, file.sequence, uri)
        with self._lock:
            known = self._known.get(key)
            if known is not None:
                self._known.move_to_end(key)
                return known
        segments = cut(file.entries, closed=True)
        if not segments:
            return None
        found = listed(uri, segments)
        with self._lock:
            self._known[key] = found
            while len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        return found


def carried(formats: Sequence[Format]) -> tuple[str, ...]:
    """CODECS of a file. Raises UnsupportedMedia for what HLS does not carry."""
    return tuple(codec_string(each.track) for each in formats)


@dataclass(slots=True)
class Past:
    """What a growing playlist has said, and must not go back on. `listed`: its files, by recording and sequence, as they were listed last:
    how many segments of each, and whether a break stood before it; `dropped`, `breaks`: segments and breaks that were listed before these.
    `target`: seconds.
    """

    listed: dict[tuple[str, int], tuple[int, bool]] = field(default_factory=dict)
    dropped: int = 0
    breaks: int = 0
    target: int = LEAST_TARGET

    def goes_on(self, listed: dict[tuple[str, int], tuple[int, bool]], target: int) -> None:
        """It lists these now. What stood before them is gone, and the break right before them (RFC 8216 6.2.2)."""
        first = next(iter(listed))
        if self.listed and first not in self.listed:
            # all of it has gone, and this came after a break
            self.breaks += 1
        for number, (key, (count, broken)) in enumerate(self.listed.items()):
            self.breaks += broken and number > 0
            if key == first:
                break
            self.dropped += count
        self.listed, self.target = listed, max(self.target, target)


@dataclass(slots=True)
class _Making:
    listed: list[hls_vod.VodFile] = field(default_factory=list)
    codecs: dict[str, None] = field(default_factory=dict)
    width: int = 0
    height: int = 0
    nbytes: int = 0
    duration: int = 0
    peak: int = 0
    count: int = 0


def render(entries: Sequence[Entry], cuts: Cuts, span: Span, *, growing: bool, past: Past | None = None, bound: int) -> Rendered:
    """The media playlist of these files, in order. `past`: where it grows or has grown. `bound`: segments at the most.

    Raises UnsupportedMedia where HLS carries none of them, LimitExceeded `span-too-long`, NotFound `nothing-recorded`.
    """
    making = _Making()
    before: Entry | None = None
    mapped: Entry | None = None
    broken = False
    start: int | None = None
    refused: UnsupportedMedia | None = None
    codecs: tuple[str, ...] = ()
    told: dict[tuple[str, int], tuple[int, bool]] = {}
    for entry in entries:
        try:
            codecs = codecs if before is not None and entry.formats is before.formats else carried(entry.formats)
        except UnsupportedMedia as e:
            refused, broken = e, True
            continue
        found = _within(cuts.of(entry.reel.recording.id, entry.file, entry.uri), entry, span)
        if found is None:
            continue
        if making.count + found.body.number > bound:
            raise LimitExceeded(f"a playlist of more than {bound} segments: ask for less with from and to", code="span-too-long")
        breaks = before is not None and (broken or not entry.same_timeline)
        same_map = mapped is not None and _same_map(mapped, entry)
        if not same_map:
            mapped = entry
        if span.since is not None and not making.listed:
            start = max(0, entry.file.at(span.since) - found.segments[0].start)
        _list(making, entry, found, codecs, discontinuity=breaks, new_map=not same_map)
        told[entry.reel.recording.id, entry.file.sequence] = found.body.number, breaks
        before, broken = entry, False
    if not making.listed:
        if refused is not None:
            raise UnsupportedMedia(f"HLS does not carry this recording: {refused.message}; download it as a file", code="not-for-hls")
        raise NotFound("nothing is recorded there", code="nothing-recorded")
    past = Past(target=LEAST_TARGET if growing else 1) if past is None else past
    past.goes_on(told, max([file.body.target for file in making.listed]))
    text = hls_vod.render(
        making.listed,
        ended=not growing,
        event=growing and not past.dropped,
        least_target=past.target,
        media_sequence=past.dropped,
        discontinuity_sequence=past.breaks,
        start=start,
    )
    average = making.nbytes * 8 * SECOND // max(1, making.duration)
    return Rendered(text, tuple(making.codecs), making.width, making.height, max(making.peak, average), average, past.target, making.count)


def _list(making: _Making, entry: Entry, found: Listed, codecs: Sequence[str], *, discontinuity: bool, new_map: bool) -> None:
    at = clock.iso(entry.file.wallclock(found.segments[0].start))
    uri = entry.uri if new_map else ""
    making.listed.append(hls_vod.VodFile(found.body, at, uri, entry.file.init_bytes, discontinuity))
    making.codecs.update(dict.fromkeys(codecs))
    for each in entry.formats if new_map else ():
        if each.track.width * each.track.height > making.width * making.height:
            making.width, making.height = each.track.width, each.track.height
    making.count += found.body.number
    making.nbytes += found.nbytes
    making.duration += found.duration
    making.peak = max(making.peak, found.peak)


def _within(whole: Listed | None, entry: Entry, span: Span) -> Listed | None:
    """What of it is in the span."""
    file = entry.file
    after = span.since is not None and span.since > file.started_at
    before = span.until is not None and span.until < file.ended_at
    if whole is None or not (after or before):
        return whole
    low = file.at(span.since) if span.since is not None else 0
    high = file.at(span.until) if span.until is not None else 0
    segments = [s for s in whole.segments if (not after or s.start + s.duration > low) and (not before or s.start < high)]
    return listed(entry.uri, segments) if segments else None


def _same_map(a: Entry, b: Entry) -> bool:
    return a.formats is b.formats or _signature(a) == _signature(b)


def _signature(entry: Entry) -> tuple[object, ...]:
    return tuple(each.signature for each in entry.formats)


def multivariant(rendered: Rendered, query: str, *, below: str = "") -> str:
    """Of the one variant that there is. `below`: where it is, relative to this one."""
    row = hls.Variant(f"{below}main.m3u8{query}", rendered.peak, rendered.average, rendered.codecs, rendered.width, rendered.height)
    return hls.multivariant([row], independent="#EXT-X-INDEPENDENT-SEGMENTS" in rendered.text)


def text_for(rendered: Rendered, query: str) -> bytes:
    """`query` (`?token=…`, or empty) behind every URI."""
    return rendered.text.replace(MARK, query).encode()
