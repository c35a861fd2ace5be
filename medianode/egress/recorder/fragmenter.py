"""Fragmenter: packets into the parts and files of a recording, on one timeline of microseconds that follows the wall clock. Sans-IO.

Time begins with the first sample and goes on through files and gaps: a gap takes as long as it took. Encoders begin with a burst of what
they had gathered: when the first sample was taken is told by the least delayed packet of the first part. A part ends when it is long enough
and before each key frame, a file at the first key frame when it is long enough, or where the source breaks off. The picture sets the
pace; sound does where there is none, or where it has frozen.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Protocol

from medianode.egress.recorder.lane import Lane
from medianode.egress.recorder.steering import Steering
from medianode.egress.sample_run import SECOND
from medianode.errors import LimitExceeded
from medianode.media.packet import Gap, Packet
from medianode.media.track import Track
from medianode.protocols import fmp4, fmp4_read
from medianode.protocols.fmp4_read import Extent

log = logging.getLogger("medianode.recorder")
FROZEN = 1.5
"""Seconds of sound without a picture (twice the last frame's duration where that is more) after which sound sets the pace."""
WAIT_FOR_VIDEO = 2.0
"""Seconds of sound that are kept while a picture's first key frame is awaited; then it is recorded without one."""
STRAY = 10 * SECOND
"""A track this far from the others is not believed: it begins where they are."""
LEAP = 3 * SECOND
"""A stamp that goes this much further than the time that passed is not believed either."""
TOGETHER = SECOND
"""Leaps of two tracks that differ by less are the same one."""
KEYFRAME_WAIT = 4.0
"""Seconds after a key frame when the source is asked for another, where it can be asked: browsers make none unless they are."""
EARLY = SECOND // 20
"""A key frame this near a file's duration, and a thousandth of that, ends it: milliseconds and drift make 60 s of GOPs 59.99."""
MAX_PART_BYTES = 8 << 20


class Tape(Protocol):
    """What the fragmenter writes to: files in order, each opened, given parts, closed."""

    def open(self, tracks: Sequence[Track], gap: str) -> None:
        """A new file. `gap`: why the timeline breaks before it, or empty."""

    def part(self, pieces: list[bytes], extent: Extent, pace: tuple[int, int]) -> None:
        """moof and mdat. `pace`: (index of the track that `extent` is of, its first decode time in ticks)."""

    def close(self) -> None: ...


class Fragmenter:
    """`part` and `file` are durations in microseconds. `ask`: the source for a key frame."""

    def __init__(self, tape: Tape, part: int, file: int, ask: Callable[[], None] = lambda: None) -> None:
        self._tape = tape
        self._part = part
        self._file = file - file // 1000 - EARLY
        self._ask = ask
        self._clock_zero: float | None = None
        self._lanes: dict[int, Lane] = {}
        self._video: Lane | None = None
        self._pacer: Lane | None = None
        self._steering = Steering(0)
        self._tracks: tuple[Track, ...] = ()
        self._waiting: list[Packet] = []
        self._gap = ""
        self._sequence = 0
        self._leapt = 0
        self._video_seen = 0.0
        self._key_seen = 0.0
        self._part_start = self._file_start = 0
        self._part_at = 0.0
        self._part_key = self._deltas = False
        self._anchored = False
        self.end = 0

    @property
    def begun(self) -> bool:
        """A file is open."""
        return self._pacer is not None

    @property
    def clock_zero(self) -> float:
        """`clock.now()` of the timeline's 0; not before the first part."""
        assert self._clock_zero is not None
        return self._clock_zero

    # a Sink's methods, but for the end

    def on_tracks(self, tracks: tuple[Track, ...]) -> None:
        """At most one of each kind."""
        if tracks == self._tracks and self.begun:
            return
        self.on_gap(Gap("track-changed"))
        self._tracks = tracks
        self._restart()

    def on_packet(self, packet: Packet) -> None:
        lane = self._lanes.get(packet.track.id)
        if lane is None or (self._pacer is None and not self._begin(packet, lane)):
            return
        late = lane.is_video and not lane.placed
        if late and not packet.keyframe:
            return
        at = self._place(packet, lane)
        if late:
            # recorded without a picture so far: players start at the picture
            self._next_file(max(self._part_start, lane.us(at)), packet)
        if lane.is_video:
            self._video_seen = packet.received_at
            self._pacer = lane
        elif self._pacer is not lane and self._frozen(packet, lane):
            self._freeze(lane)
        elif lane.held is None and at < lane.end:
            return  # sound from before the first key frame
        if lane is self._pacer and lane.held is not None:
            self._pace(packet, lane, lane.put(packet, at))
        else:
            lane.put(packet, at)

    def on_gap(self, gap: Gap) -> None:
        """The file ends here, and the next begins with the next key frame."""
        if self._pacer is not None:
            self._flush()
            self._tape.close()
            self._gap = gap.cause
            self._restart()
        self._waiting.clear()

    def flush(self) -> None:
        """Nothing follows."""
        self.on_gap(Gap("ended"))

    def tend(self, now: float) -> None:
        """By the clock: what a source that has fallen silent gave is written."""
        pacer = self._pacer
        if pacer is not None and pacer.samples and (now - self._part_at) * SECOND > self._part * 1.5:
            self._cut(None)
            self._next_part(max(self._part_start, pacer.us(pacer.end)), now, key=False)

    # where a packet stands on the timeline

    def _begin(self, packet: Packet, lane: Lane) -> bool:
        """Time starts, or goes on after a gap, with a key frame; with sound where there is no picture, or none comes."""
        if self._video is not None and not lane.is_video:
            self._waiting.append(packet)
            if packet.received_at - self._waiting[0].received_at < WAIT_FOR_VIDEO:
                return False
            waited, self._waiting = self._waiting, []
            self._video_seen = float("-inf")
            self._start(waited[0], lane)
            for each in waited:
                self.on_packet(each)
            return False
        if not packet.keyframe:
            return False
        self._waiting.clear()
        self._video_seen = self._key_seen = packet.received_at
        self._start(packet, lane)
        return True

    def _start(self, packet: Packet, lane: Lane) -> None:
        if self._clock_zero is None:
            self._clock_zero = packet.received_at
        clock = self._clock(packet)
        start = max(self.end, clock)
        self._steering = Steering(clock)
        self._leapt = 0
        base = start - packet.dts * SECOND // packet.track.clock_rate
        for each in self._lanes.values():
            each.origin = -(-base * each.rate // SECOND)
            each.end = each.ticks(start)
        lane.origin = lane.ticks(start) - packet.dts
        lane.placed = True
        self._pacer = lane
        self._file_start = self.end = start
        self._next_part(start, packet.received_at, key=packet.keyframe)
        self._tape.open(self._tracks, self._gap)
        self._gap = ""

    def _place(self, packet: Packet, lane: Lane) -> int:
        """Its decode time in ticks of the timeline."""
        media = lane.us(packet.dts + lane.origin)
        if not lane.placed:
            lane.placed = True
            if abs(media - self.end) > STRAY:
                self._move(lane, self.end - media)
                media = self.end
        else:
            passed = max(int((packet.received_at - lane.seen) * SECOND), lane.us(lane.last_duration))
            excess = media - lane.last_at - passed
            if lane.seen and excess > LEAP:
                media -= self._leap(lane, excess)
        lane.seen, lane.last_at = packet.received_at, media
        if lane is self._pacer or not lane.is_video:
            self._steering.observe(media, self._clock(packet))
        return packet.dts + lane.origin + lane.ticks(self._steering.correction(media))

    def _leap(self, lane: Lane, excess: int) -> int:
        """The source's stamps leapt, and time does not: by how much they are taken back. Tracks that leap together stay in step."""
        behind = self._leapt - lane.leapt
        if abs(behind - excess) > TOGETHER:
            self._leapt = lane.leapt + excess
            behind = excess
        lane.leapt = self._leapt
        self._move(lane, -behind)
        return behind

    @staticmethod
    def _move(lane: Lane, us: int) -> None:
        lane.origin += lane.ticks(us)

    def _clock(self, packet: Packet) -> int:
        return int((packet.received_at - self.clock_zero) * SECOND)

    def _frozen(self, packet: Packet, lane: Lane) -> bool:
        video = self._video
        still = 0.0 if video is None else 2 * video.last_duration / video.rate
        return lane.held is not None and packet.received_at - self._video_seen > max(FROZEN, still)

    def _freeze(self, sound: Lane) -> None:
        """The picture stands still: its last frame lasts until now, and sound sets the pace."""
        video, self._pacer = self._video, sound
        if video is not None and video.held is not None:
            video.finish(max(video.held_at, video.ticks(sound.us(sound.held_at))))

    # where parts and files end

    def _pace(self, packet: Packet, lane: Lane, at: int) -> None:
        now = lane.us(at)
        elapsed = now - self._part_start
        key = packet.keyframe and self._paces_well()
        if key and now - self._file_start >= self._file:
            self._next_file(now, packet)
        elif elapsed >= self._part or self._begins_gop(packet, elapsed) or self._pending() > MAX_PART_BYTES:
            self._cut(now)
            self._next_part(now, packet.received_at, key=packet.keyframe)
        if packet.keyframe:
            self._key_seen = packet.received_at
        else:
            self._deltas = True
            if packet.received_at - self._key_seen > KEYFRAME_WAIT:
                self._ask()

    def _next_file(self, start: int, packet: Packet) -> None:
        """Time goes on without a gap."""
        self._cut(start)
        self._tape.close()
        self._file_start = start
        self._tape.open(self._tracks, "")
        self._next_part(start, packet.received_at, key=True)

    def _begins_gop(self, packet: Packet, elapsed: int) -> bool:
        """Players start at parts that begin with a key frame. Where all pictures are key frames, any does."""
        return packet.keyframe and self._deltas and (not self._part_key or elapsed >= self._part // 2)

    def _paces_well(self) -> bool:
        """False where sound paces in place of a picture that has frozen: files begin with a key frame."""
        return self._video is None or self._pacer is self._video

    def _pending(self) -> int:
        return sum(lane.nbytes for lane in self._lanes.values())

    def _next_part(self, start: int, at: float, *, key: bool) -> None:
        self._part_start, self._part_at, self._part_key = start, at, key
        self._deltas = not key

    def _cut(self, until: int | None) -> None:
        """Write what starts before `until` (None: all that is finished)."""
        runs, told = [], []
        for lane in self._lanes.values():
            # all that is finished of the picture is before what ends it: microseconds are too coarse to tell
            base, samples = lane.take(None if lane.is_video else until)
            if samples:
                runs.append((lane.index, base, samples))
                ticks = sum(sample.duration for sample in samples)
                told.append(fmp4_read.Run(lane.is_video, lane.rate, base, ticks, samples[0].keyframe))
                self.end = max(self.end, lane.us(base + ticks))
        if not runs:
            return
        if not self._anchored:
            self._anchor()
        first = next((i for i, run in enumerate(told) if run.is_video), 0)
        self._sequence += 1
        try:
            pieces = fmp4.fragment_pieces(self._sequence, runs)
        except LimitExceeded as e:  # a picture that lasts for 13 hours
            log.warning("part of a recording lost: %s", e)
            return
        self._tape.part(pieces, fmp4_read.extent(told, has_video=self._video is not None), (runs[first][0], runs[first][1]))

    def _anchor(self) -> None:
        self._anchored = True
        early = max(0, -self._steering.least)
        self._clock_zero = self.clock_zero - early / SECOND
        self._steering.rebase(early)

    def _flush(self) -> None:
        """Held packets get the duration of those before them."""
        for lane in self._lanes.values():
            if lane.held is not None:
                lane.finish(lane.held_at + (lane.last_duration or lane.rate // 25))
        self._cut(None)

    def _restart(self) -> None:
        self._lanes = {track.id: Lane(i, track) for i, track in enumerate(self._tracks)}
        self._video = next((lane for lane in self._lanes.values() if lane.is_video), None)
        self._pacer = None
