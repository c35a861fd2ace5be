"""Packager: a synchronous Sink that cuts packets into parts and segments and hands them to its Window.

One output timeline in microseconds runs through all sources of the room: after a Gap it goes on where it ended, with a discontinuity.
The first video track sets the pace (the first audio track where there is no video, or where it has frozen); a part ends before the
frame that would make it longer than the part target, a segment at the first key frame from `segment_duration` on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from medianode import clock, telemetry
from medianode.config import Hls, Limits
from medianode.egress.hls.muxers import Muxer, Run
from medianode.egress.hls.window import Window
from medianode.egress.sample_run import SECOND, SampleRun
from medianode.errors import MedianodeError, UnsupportedMedia
from medianode.media.packet import Gap, Packet
from medianode.media.track import Track

log = logging.getLogger("medianode.hls")
BREAKS = telemetry.counter("medianode_hls_discontinuities_total", "Breaks in HLS timelines, by cause", "cause")

MILLISECOND = 1_000
FROZEN = 1.5
"""Seconds of sound without a picture (twice the last frame's duration where that is more) after which parts are cut by sound."""
WAIT_FOR_VIDEO = 3.0
"""Seconds of sound after which a source whose picture never came starts without it."""
STRAY = 10 * SECOND
"""A track this far from the other one is not believed: it is put beside it, and nothing is held back for it."""
STEER = 5_000
"""Microseconds by which PROGRAM-DATE-TIME follows the wall clock per segment: enough for any drift, too little for jitter to show."""
EARLY = 0.95
"""A key frame this share of segment_duration into a segment ends it: millisecond timestamps make 2 s GOPs of 1.999 s."""


class Packager:
    """`error` says why the tracks at hand cannot be packaged.

    `ask` is called for each picture of a segment that is long enough and waits for its end, a key frame: browsers make none unless asked.
    `video_track`: a layer's id; None: the picture itself.
    """

    def __init__(
        self,
        window: Window,
        muxer: Muxer,
        config: Hls,
        limits: Limits,
        ask: Callable[[], None] = lambda: None,
        video_track: int | None = None,
    ) -> None:
        self.window = window
        self.tracks: tuple[Track, ...] = ()
        self.error: MedianodeError | None = None
        self.frame_rate = 0.0
        self._muxer = muxer
        self._ask = ask
        self._video_track = video_track
        self._init: bytes | None = None
        self._parts = window.parts
        self._min = round(config.segment_duration * EARLY * SECOND)
        self._max = round(limits.hls_max_segment_duration * SECOND)
        self._segment_bytes = limits.hls_room_bytes // 4
        self._runs: dict[int, SampleRun] = {}
        self._video: SampleRun | None = None
        self._audio: SampleRun | None = None
        self._pacer: SampleRun | None = None
        self._video_seen = 0.0
        self._waiting_since = 0.0
        self._now = 0
        self._part_start = 0
        self._segment_start = 0
        self._frames = 0
        self._wall = 0.0
        self._wall_known = False
        self._break = False
        self._failed = False

    def on_tracks(self, tracks: tuple[Track, ...]) -> None:
        self._flush()
        wanted = self._video_track
        pictures = [t for t in tracks if t.is_video and (not t.layer if wanted is None else t.id == wanted)]
        video = next((t for t in pictures if t.codec in self._muxer.video), None)
        audio = next((t for t in tracks if not t.is_video and t.codec in self._muxer.audio), None)
        self.tracks = tuple(t for t in (video, audio) if t is not None)
        self.error = None
        self._init = None
        try:
            if not self.tracks or (wanted is not None and video is None):
                raise UnsupportedMedia(
                    f"HLS: expected a codec that it carries, got {', '.join(t.codec.value for t in tracks) or 'no track'}"
                )
            self._init = self._muxer.init(self.tracks)
        except MedianodeError as e:
            self.error = e
            self.tracks = ()
        self._restart()

    def on_gap(self, gap: Gap) -> None:
        BREAKS.labels(gap.cause).value += 1
        self._flush()
        self._restart()

    def on_end(self, cause: str) -> None:
        self.finish()

    def finish(self) -> None:
        """Complete what is open and end the playlist. Idempotent."""
        if not self.window.ended:
            self._flush()
            self._runs = {}
            self.window.end()

    def on_packet(self, packet: Packet) -> None:
        run = self._runs.get(packet.track.id)
        if run is None:
            return
        if self._pacer is None and not self._start(packet, run):
            return
        if not run.placed:
            self._place(packet, run)
        at = packet.dts + run.origin
        if run.held is None:
            if run.is_video and abs(run.us(at) - self._now) > max(STRAY, self._max):
                self._leap(run)
                self.on_packet(packet)
                return
            if at < run.end:
                if not run.is_video:
                    return
                at = run.end
        elif at - run.held_at > run.rate * self._max // SECOND:
            self._leap(run)
            self.on_packet(packet)
            return
        else:
            at = max(at, run.held_at)
        if run.is_video:
            self._video_seen = packet.received_at
            self._pacer = run
        elif self._pacer is not run and self._frozen(packet):
            self._freeze(run)
        if run is self._pacer:
            self._pace(run, packet, at)
        elif run.held is not None:
            run.finish(at)
        run.hold(packet, at, packet.pts + run.origin)

    def _leap(self, run: SampleRun) -> None:
        """A leap that nobody marked; no player holds one frame for that long. Sound beside a picture (DTX) is just put in place again."""
        if run is self._pacer or run.is_video:
            self.on_gap(Gap("timestamp-jump"))
        else:
            run.held = None
            run.placed = False

    def _start(self, packet: Packet, run: SampleRun) -> bool:
        """The timeline starts at the first key frame; sound from before it is dropped."""
        if run.is_video:
            if not packet.keyframe:
                return False
        elif self._video is not None:
            self._waiting_since = self._waiting_since or packet.received_at
            if packet.received_at - self._waiting_since < WAIT_FOR_VIDEO:
                return False
        self._pacer = run
        self._video_seen = packet.received_at
        if not self._wall_known:
            self._wall_known = True
            self._wall = clock.wallclock_of(packet.received_at) - self._now / SECOND
        return True

    def _place(self, packet: Packet, run: SampleRun) -> None:
        """Put the track on the output timeline: beside the track that is there by media time, else at the end of it."""
        run.placed = True
        beside = next((other for other in self._runs.values() if other.placed and other is not run), None)
        if beside is not None:
            run.origin = -(-beside.origin * run.rate // beside.rate)
            at = run.us(packet.dts + run.origin)
            if abs(at - beside.us(beside.end)) < STRAY:
                return
        run.origin = -(-self._now * run.rate // SECOND) - packet.dts

    def _frozen(self, packet: Packet) -> bool:
        video = self._pacer
        if video is None:
            return False
        return packet.received_at - self._video_seen > max(FROZEN, 2 * video.last_duration / video.rate)

    def _freeze(self, audio: SampleRun) -> None:
        """The picture stands still: let its last frame last until now and go on by sound, beginning with what was kept waiting."""
        video, self._pacer = self._video, audio
        if video is not None and video.held is not None:
            video.finish(max(video.held_at, audio.end * video.rate // audio.rate))
        at = audio.base
        for sample in tuple(audio.samples):
            end = at + sample.duration
            if audio.us(end) - self._part_start > self._part_limit() and audio.us(at) > self._part_start:
                self._cut_part(audio.us(at))
            at = end
        self._now = audio.us(audio.end)

    def _pace(self, run: SampleRun, packet: Packet, at: int) -> None:
        """Finish the pacer's held packet and cut where a part or a segment ends."""
        if run.held is None:
            self._now = run.us(at)
            if self.window.open is None:
                self._open(packet, discontinuity=self._break)
                self._break = False
            return
        now, start = run.us(at), run.us(run.held_at)
        if now - self._part_start > self._part_limit() and start > self._part_start:
            self._cut_part(start)
        run.finish(at)
        self._now = now
        if run.is_video:
            self._frames += 1
        elapsed = now - self._segment_start
        long_enough = elapsed >= self._min and packet.keyframe
        if elapsed >= self._min and not packet.keyframe and run.is_video:
            self._ask()
        too_big = self.open_bytes() > self._segment_bytes
        if too_big and now <= self._part_start:
            self.on_gap(Gap("timestamp-stall"))
        elif long_enough or too_big or elapsed >= self._max:
            self._cut_segment(now)
            self._steer(packet)
            self._open(packet, discontinuity=False)
        elif self._parts and now - self._part_start + run.us(run.last_duration) - MILLISECOND > self._part_limit():
            # RTMP's stamps are whole milliseconds, a frame of 33.3 lasts 34 at times: without the allowance each segment would get one
            # part more. Where the next frame really is too long, the check above has cut before it
            self._cut_part(now)

    def open_bytes(self) -> int:
        """Bytes of the segment in the making, those not yet in a part included."""
        pending = sum(run.nbytes for run in self._runs.values())
        return pending + (self.window.open.nbytes if self.window.open else 0)

    def _part_limit(self) -> int:
        return self.window.part_target if self._parts else self._max * 2

    def _open(self, packet: Packet, *, discontinuity: bool) -> None:
        """Begin a segment at `_now`, of which `packet` is the first."""
        self._segment_start = self._part_start = self._now
        self._frames = 0
        when = clock.iso(self._wall + self._now / SECOND)
        self.window.begin(self._init, program_time=when, discontinuity=discontinuity, independent=packet.keyframe and self._pacing_well())

    def _pacing_well(self) -> bool:
        """False where sound paces a room with video: what comes next may lean on earlier pictures."""
        return self._video is None or self._pacer is self._video

    def _cut_part(self, until: int, *, last: bool = False) -> None:
        """Mux what was gathered before `until` (microseconds) into a part that lasts until then; with `last` all there is."""
        runs: list[Run] = []
        independent = self._video is None
        for run in self._runs.values():
            end = run.us(run.end)
            base, samples = run.take(None if last or abs(end - until) > STRAY or (run is self._pacer and until >= end) else until)
            if samples:
                runs.append((run.index, base, samples))
                independent = independent or (run.is_video and samples[0].keyframe)
        window = self.window
        if not runs or window.open is None:
            return
        duration, self._part_start = until - self._part_start, until
        if not self._failed:
            try:
                window.add_part(self._muxer.mux(self.tracks, runs), duration, independent=independent)
                return
            except MedianodeError as e:
                log.warning("%s: segment %d lost: %s", window.variant, window.next_msn, e)
                self._failed = True
        window.open.duration += duration

    def _cut_segment(self, until: int, *, last: bool = False) -> None:
        if until > self._part_start:
            self._cut_part(until, last=last)
        if self._frames:
            self.frame_rate = round(self._frames * SECOND / (until - self._segment_start), 3)
        failed, self._failed = self._failed, False
        self.window.end_segment(gap=failed)

    def _steer(self, packet: Packet) -> None:
        off = clock.wallclock_of(packet.received_at) - self._wall - self._now / SECOND
        self._wall += max(-STEER / SECOND, min(STEER / SECOND, off))

    def _flush(self) -> None:
        """End all at once: held packets get the duration of those before them, and the open segment is completed."""
        pacer = self._pacer
        if pacer is None:
            return
        for run in self._runs.values():
            if run.held is not None:
                run.finish(run.held_at + (run.last_duration or run.rate // 25))
        end = max(pacer.us(pacer.end), self._part_start)
        if self.window.open is not None:
            before = pacer.us(pacer.end - pacer.last_duration)
            if end - self._part_start > self._part_limit() and before > self._part_start:
                self._cut_part(before)
            if end > self._segment_start and (self.window.open.parts or pacer.samples):
                self._cut_segment(end, last=True)
            self.window.open = None
        self._now = max([self._now, *(run.us(run.end) for run in self._runs.values())])
        self._break = self.window.started
        self._pacer = None

    def _restart(self) -> None:
        """The next packets start anew at the end of the timeline."""
        self._runs = {track.id: SampleRun(i, track, self._now) for i, track in enumerate(self.tracks)}
        self._video = next((run for run in self._runs.values() if run.is_video), None)
        self._audio = next((run for run in self._runs.values() if not run.is_video), None)
        self._pacer = None
        self._waiting_since = 0.0
        self._wall_known = False
