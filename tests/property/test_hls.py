"""Whatever the sources do, what HLS players are told stays true."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from medianode.config import Hls, Limits
from medianode.egress.hls.budget import Budget
from medianode.egress.hls.muxers import FMP4_AUDIO, FMP4_VIDEO, Run
from medianode.egress.hls.packager import Packager
from medianode.egress.hls.window import Names, Start, Window, parse_name
from medianode.errors import InvalidRequest
from medianode.media.packet import Gap, Packet
from medianode.media.track import Codec, Track
from medianode.protocols import hls

CONFIG = Hls(segment_duration=1.0, part_duration=0.2, playlist_segments=4)


@dataclass
class Recorder:
    """A muxer that writes nothing, but remembers: decode times must join within a timeline."""

    video, audio = FMP4_VIDEO, FMP4_AUDIO
    window: Window
    frozen: bool
    ends: dict[int, int] = field(default_factory=dict)
    nbytes: int = 0

    def init(self, tracks: Sequence[Track]) -> bytes | None:
        return repr(tracks).encode()

    def mux(self, tracks: Sequence[Track], runs: Sequence[Run]) -> tuple[bytes]:
        o = self.window.open
        if o is not None and o.head.discontinuity and not o.parts:
            self.ends.clear()
        for index, base, samples in runs:
            assert samples
            if index in self.ends:
                assert base >= self.ends[index] if self.frozen else base == self.ends[index]
            assert all(sample.duration >= 0 for sample in samples)
            self.ends[index] = base + sum(sample.duration for sample in samples)
        body = b"".join(sample.data for _, _, samples in runs for sample in samples)
        self.nbytes += len(body)
        return (body,)


@dataclass
class Seen:
    """One rendering, read back."""

    msn: int
    cc: int
    target: int
    part_target: float
    segments: list[tuple[str, float, list[float], int]]
    blocks: list[str]
    skipped: int
    open_parts: list[float]


def read(text: str) -> Seen:
    def number(tag: str) -> float:
        found = re.search(rf"{tag}[:=]([\d.]+)", text)
        return float(found[1]) if found else 0.0

    cc = int(number("#EXT-X-DISCONTINUITY-SEQUENCE"))
    segments: list[tuple[str, float, list[float], int]] = []
    blocks: list[str] = []
    parts: list[float] = []
    at, block = cc, ""
    duration = 0.0
    for line in text.splitlines():
        if line.startswith(("#EXT-X-DISCONTINUITY", "#EXT-X-PROGRAM", "#EXTINF", "#EXT-X-GAP")) and "SEQUENCE" not in line:
            block += line + "\n"
        if line == "#EXT-X-DISCONTINUITY":
            at += 1
        elif line.startswith("#EXT-X-PART:"):
            parts.append(float(line.split("DURATION=")[1].split(",")[0]))
        elif line.startswith("#EXTINF:"):
            duration = float(line[8:-1])
        elif line and not line.startswith("#"):
            segments.append((line, duration, parts, at))
            blocks.append(block + line)
            parts, block = [], ""
    skipped = int(number("SKIPPED-SEGMENTS"))
    return Seen(
        int(number("#EXT-X-MEDIA-SEQUENCE")),
        cc,
        int(number("#EXT-X-TARGETDURATION")),
        number("PART-TARGET"),
        segments,
        blocks,
        skipped,
        parts,
    )


class Watcher:
    def __init__(self, window: Window) -> None:
        self.window = window
        self.last: Seen | None = None
        self.cc: dict[str, int] = {}
        window.on_change = self.look

    def look(self) -> None:
        if not self.window.started:
            return
        playlist = self.window.playlist()
        seen = read(playlist.render().replace("\0", ""))
        for uri, duration, parts, cc in seen.segments:
            assert int(duration + 0.5) <= seen.target
            assert self.cc.setdefault(uri, cc) == cc
            if parts:
                assert round(sum(parts) * 1e6) == round(duration * 1e6)
        for part in [part for _, _, parts, _ in seen.segments for part in parts] + seen.open_parts:
            assert part <= seen.part_target
        before = self.last
        if before is not None:
            assert seen.msn >= before.msn
            assert seen.cc >= before.cc
            assert seen.target >= before.target
            assert seen.msn <= before.msn + len(before.segments)
        self.last = seen
        delta = read(playlist.render(delta=True).replace("\0", ""))
        assert delta.msn == seen.msn
        assert seen.blocks[delta.skipped :] == delta.blocks
        if before is not None and delta.skipped:
            kept = before.blocks[seen.msn - before.msn :][: delta.skipped]
            assert kept + delta.blocks == seen.blocks


@st.composite
def scripts(draw: st.DrawFn) -> list[tuple[str, int, int, int]]:
    """(what, a, b, c): run of packets of a fps, GOP of b frames, c ms long; or a break."""
    run = st.tuples(
        st.just("run"), st.sampled_from([1, 3, 5, 10, 24, 25, 30, 60]), st.sampled_from([1, 7, 24, 30, 60, 250]), st.integers(50, 3000)
    )
    breaks = st.tuples(st.sampled_from(["gap", "leap", "size", "audio-only", "video-only", "both", "freeze"]), *[st.integers(0, 3000)] * 3)
    return draw(st.lists(st.one_of(run, run, breaks), min_size=1, max_size=8))


@settings(max_examples=60, deadline=None)
@given(scripts(), st.booleans(), st.integers(0, 3))
def test_playlists_stay_true(script: list[tuple[str, int, int, int]], low_latency: bool, jitter: int) -> None:
    budget = Budget(10**9, 10**9)
    window = Window(CONFIG, budget, "room", "main", "0" * 16, start=Start(0), parts=low_latency)
    muxer = Recorder(window, any(what == "freeze" for what, *_ in script))
    packager = Packager(window, muxer, CONFIG, Limits(hls_max_segment_duration=10.0))
    watcher = Watcher(window)
    video, audio = Track(0, Codec.H264, 90_000, b"a", 640, 360), Track(1, Codec.AAC, 48_000, b"b")
    tracks: tuple[Track, ...] = (video, audio)
    packager.on_tracks(tracks)
    now_ms, frame, written, samples = 1000, 0, 0, 0
    for what, a, b, c in script:
        if what == "gap":
            packager.on_gap(Gap("publisher-gap"))
            now_ms += a
            frame = 0
        elif what == "leap":
            now_ms += 20_000 + a
            frame = 0
        elif what == "freeze":
            until = now_ms + 1600 + a
            while now_ms < until and audio in tracks:
                packager.on_packet(Packet(audio, b"a", now_ms * 48, now_ms * 48, True, now_ms / 1000))
                now_ms += 21
        elif what != "run":
            video = Track(0, Codec.H264, 90_000, b"a%d" % a, 640, 360)
            tracks = {"audio-only": (audio,), "video-only": (video,)}.get(what, (video, audio))
            packager.on_gap(Gap("track-changed"))
            packager.on_tracks(tracks)
            frame = 0
        else:
            end, audio_ms = now_ms + c, now_ms
            while now_ms < end:
                if video in tracks:
                    at = now_ms + (frame * 7) % (jitter + 1)
                    packager.on_packet(Packet(video, b"v", at * 90 + 180, at * 90, frame % b == 0, now_ms / 1000))
                    frame += 1
                    written += 1
                while audio in tracks and audio_ms < now_ms + 1000 // a:
                    packager.on_packet(Packet(audio, b"a", audio_ms * 48, audio_ms * 48, True, audio_ms / 1000))
                    audio_ms += 21
                    samples += 1
                now_ms += 1000 // a
    packager.finish()
    if window.started:
        assert window.playlist().render().endswith("#EXT-X-ENDLIST\n")
        assert window.nbytes == sum(stored.nbytes for stored in (*window.listed, *window.older)) == budget.nbytes
        assert watcher.last is not None
    assert window.target_duration <= 21


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 400)), max_size=60), st.integers(300, 2000), st.integers(500, 4000))
def test_bytes_are_bounded(adds: list[tuple[int, int]], room_bytes: int, total_bytes: int) -> None:
    """But for the newest segment of each window, which always stays."""
    budget = Budget(room_bytes, total_bytes)
    windows = [Window(CONFIG, budget, i // 2, "main", "0" * 16, start=Start(0), parts=True) for i in range(3)]
    for i, size in adds:
        window = windows[i]
        window.begin(None, program_time="", discontinuity=False, independent=True)
        window.add_part((bytes(size),), 1_000_000, independent=True)
        window.end_segment()
        assert budget.nbytes == sum(w.nbytes for w in windows)
        newest = [w.listed[-1].nbytes if w.listed else 0 for w in windows]
        assert budget.nbytes <= max(total_bytes, sum(newest))
        assert budget.room_nbytes(0) <= max(room_bytes, sum(newest[:2]))
        for w in windows:
            assert w.nbytes == sum(s.nbytes for s in (*w.older, *w.listed))
            assert [s.msn for s in w.listed] == list(range(w.next_msn - len(w.listed), w.next_msn))
    for window in windows:
        budget.leave(window.room, window)
    assert budget.nbytes == 0


@given(st.dictionaries(st.sampled_from(["_HLS_msn", "_HLS_part", "_HLS_skip", "token"]), st.text(max_size=30)), st.text(max_size=60))
def test_garbage_is_refused(query: dict[str, str], name: str) -> None:
    with contextlib.suppress(InvalidRequest):
        reload = hls.parse_reload(query)
        assert reload.msn is None or 0 <= reload.msn <= hls.MAX_SEQUENCE
    found = parse_name(name)
    assert found is None or "/" not in name


@given(st.sampled_from(["main", "aac", "ts"]), st.sampled_from(["m4s", "ts"]), st.integers(0, 10**17), st.integers(0, 10**5))
def test_names_are_read_back(variant: str, extension: str, msn: int, number: int) -> None:
    names = Names(variant, "00ff" * 4, extension)
    assert parse_name(names.segment(msn)) == ("00ff" * 4, None, msn, None)
    assert parse_name(names.part(msn, number)) == ("00ff" * 4, None, msn, number)
    assert parse_name(names.init(number)) == ("00ff" * 4, number, 0, None)
