"""Rendition: what one or more readers want of a Feed; a thread for each kind of which something must be decoded."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Protocol, TypeVar

from medianode import clock, config
from medianode.errors import LimitExceeded, PeerError, PeerGone
from medianode.media.gop import GopCache
from medianode.media.packet import Gap, Packet
from medianode.media.track import Codec, Kind, Track
from medianode.routing.feed import Feed, Sink, tell
from medianode.tasks import report_bug
from medianode.transcode.derive import Output, Settings, Tally
from medianode.transcode.line import Line
from medianode.transcode.mailbox import Order
from medianode.transcode.unreorder import Unreorder, Verdict
from medianode.transcode.want import REFERENCED, Want

T = TypeVar("T")

READY_SECONDS = 3.0
"""How long the tracks at hand wait for a derived one (whose configuration its first packet tells) before they are announced without it."""


class House(Protocol):
    """Renditions: who counts the threads."""

    limits: config.Limits
    settings: Settings

    def claim(self, kind: Kind) -> None:
        """Raises LimitExceeded."""

    def release(self, kind: Kind) -> None: ...
    def forget(self, rendition: Rendition) -> None: ...


class Rendition:
    """A Sink of its source and a Feed of what is wanted of it.

    Copied packets are the source's own objects and go through at once; derived ones come from the thread a few tens of milliseconds later,
    so that the two interleave with that delay, each track in order. Until the derived tracks are known nothing is announced (at most
    READY_SECONDS); what was copied meanwhile is then replayed from the cached GOP.

    For WebRTC (`realtime`) pictures that may come reordered pass an Unreorder: without B-frames they are copied, some are left out where
    that is enough, else all are encoded anew from there on. Sound has a thread of its own, which never waits for pictures.
    """

    def __init__(self, source: Feed, want: Want, renditions: House) -> None:
        self.source = source
        self.want = want
        self.tracks: tuple[Track, ...] = ()
        self.tally = Tally()
        self.ended = ""
        self.gop = GopCache(renditions.limits.gop_packets, renditions.limits.gop_bytes)
        self._renditions = renditions
        self._sinks: list[Sink] = []
        self._lines: dict[Kind, Line] = {}
        self._guards: dict[int, Unreorder] = {}
        self._referenced: Track | None = None
        self._treatment: dict[Kind, str] = {}
        self._heads: dict[int, float] = {}
        self._latency: dict[Kind, float] = {}
        self._copied: dict[int, Track] = {}
        self._derived: dict[int, Track | None] = {}
        self._order: tuple[Track, ...] = ()
        self._announced = False
        self._waits_for_key = False
        self._ready: asyncio.TimerHandle | None = None
        self._keyframe_asked = -1.0
        self.idle: asyncio.TimerHandle | None = None
        self.users = 0

    @property
    def realtime(self) -> bool:
        """A reader of it, or it for its readers, waits for every packet."""
        return self.want.realtime or any(getattr(sink, "realtime", False) for sink in self._sinks)

    @property
    def last_error(self) -> str:
        """`code: message` of the newest fault; empty if there was none."""
        return self.tally.last_error

    @property
    def dropped(self) -> dict[str, int]:
        """What the mailbox and the stages dropped, by cause."""
        merged = dict(self.tally.dropped)
        for line in self._lines.values():
            for cause, count in line.mailbox.dropped.items():
                merged[cause] = merged.get(cause, 0) + count
        return merged

    @property
    def queued(self) -> int:
        return sum(len(line.mailbox) for line in self._lines.values())

    @property
    def transcodes(self) -> bool:
        """Whether anything is decoded at present."""
        return bool(self._derived) and bool(self._lines)

    @property
    def treatment(self) -> dict[str, str]:
        """What is done per kind (`video`, `audio`) and why: `copy`, `b-frames-dropped`, `re-encoded: …`, `aac-to-opus`, …"""
        told = {kind.value: treatment for kind, treatment in self._treatment.items()}
        for track in self._order:
            guard = self._guards.get(track.id)
            if guard is not None:
                told[track.kind.value] = guard.treatment
        return told

    @property
    def latency(self) -> dict[str, float]:
        """Milliseconds per kind that deriving adds, smoothed; media time stays the source's, so that players keep both kinds together."""
        return {kind.value: round(seconds * 1000, 1) for kind, seconds in self._latency.items()}

    # the Feed's side

    def attach(self, sink: Sink, *, replay: bool = True) -> None:
        if self.ended:
            sink.on_end(self.ended)
            return
        self._sinks = [*self._sinks, sink]
        if not self._announced:
            return
        self._call(sink, sink.on_tracks, self.tracks)
        if replay:
            for packet in self.gop.packets:
                self._call(sink, sink.on_packet, packet)

    def detach(self, sink: Sink) -> None:
        self._sinks = [s for s in self._sinks if s is not sink]

    def request_keyframe(self) -> None:
        video = [track for track in self._order if track.is_video]
        if any(track.id in self._copied for track in video):
            self.source.request_keyframe()
        elif video and clock.now() - self._keyframe_asked >= 1.0:
            line = self._lines.get(Kind.VIDEO)
            if line is not None:
                self._keyframe_asked = clock.now()
                line.pipeline.force_keyframe()

    def drain(self, done: Callable[[], None]) -> None:
        """`done` is called in the loop when what the threads make of all that has come was delivered, but for what an encoder keeps until
        it is given more; at once where there is no thread. A thread that stalls does not call it, nor one that ends.
        """
        self._drain(list(self._lines.values()), done)

    def _drain(self, lines: list[Line], done: Callable[[], None]) -> None:
        self._collect()
        if lines:
            lines.pop().mailbox.mark(partial(self._drain, lines, done))
        else:
            done()

    # the Sink's side

    def on_tracks(self, tracks: tuple[Track, ...]) -> None:
        if self.ended:
            return
        self._order = self.want.select(tracks)
        self._copied, self._derived, self._guards, self._treatment = {}, {}, {}, {}
        for track in self._order:
            plan = self.want.plan(track)
            if plan.guarded and track != self._referenced:
                self._guards[track.id] = Unreorder(track, self._renditions.limits.gop_packets)
            if plan.codec is None and not (plan.guarded and track == self._referenced):
                self._copied[track.id] = track
            else:
                self._derived[track.id] = None
            self._treatment[track.kind] = plan.treatment if track.id in self._copied or plan.codec else REFERENCED
        self._announced = self._waits_for_key = False
        self.tracks = ()
        self._latency = {}
        self._start_gop()
        self._cancel_ready()
        if self._derived:
            try:
                self._restart()
            except LimitExceeded as e:
                self._fail(e)
                return
            self._ready = asyncio.get_running_loop().call_later(READY_SECONDS, self._announce)
        else:
            self._retire_lines()
            self._announce()

    def on_packet(self, packet: Packet) -> None:
        track = packet.track
        self._collect()
        if track.id in self._copied:
            guard = self._guards.get(track.id)
            if guard is None:
                self._copy(packet)
            else:
                self._pass(guard, packet)
        elif track.id in self._derived:
            line = self._lines.get(track.kind)
            if line is not None:
                if not track.is_video:
                    self._heads[track.id] = packet.pts / track.clock_rate
                line.mailbox.put(packet)

    def _collect(self) -> None:
        """Sound that is ready, now that the loop is awake; see `Pipeline.ready`."""
        line = self._lines.get(Kind.AUDIO)
        if line is not None and line.pipeline.ready:
            line.pipeline.collect()

    def on_gap(self, gap: Gap) -> None:
        self._collect()
        self._start_gop()
        self._waits_for_key = False
        for guard in self._guards.values():
            guard.reset()
        if self._derived and self._lines:
            self._restart()
        if self._announced:
            self._tell_gap(gap)
        if not self.source.tracks:  # nobody publishes; whoever comes next tells its tracks
            self._announced, self.tracks = False, ()

    def on_end(self, cause: str) -> None:
        self._end(cause)

    # life

    def open(self) -> None:
        """Attach to the source. Raises LimitExceeded `node-full` where a thread is needed and all are taken."""
        try:
            for track in self.want.select(self.source.tracks):
                if self.want.plan(track).codec is not None:
                    self._running(track.kind)
            self.source.attach(self)
        except LimitExceeded:
            self._retire_lines()
            raise

    def close(self) -> None:
        """Detach from the source and let the thread go. Idempotent."""
        self.source.detach(self)
        self._end("rendition-closed")

    def _end(self, cause: str) -> None:
        if self.ended:
            return
        self.ended = cause
        self._cancel_ready()
        if self.idle is not None:
            self.idle.cancel()
            self.idle = None
        self._retire_lines()
        self.gop.start(None)
        self._renditions.forget(self)
        sinks, self._sinks = self._sinks, []
        for sink in sinks:
            self._call(sink, sink.on_end, cause)

    def _fail(self, error: PeerError) -> None:
        self.tally.last_error = f"{error.code}: {error.message}"
        self.source.detach(self)
        self._end(error.code)

    # the threads

    def _running(self, kind: Kind) -> Line:
        line = self._lines.get(kind)
        if line is None:
            renditions = self._renditions
            renditions.claim(kind)
            line = self._lines[kind] = Line(
                kind,
                *(renditions.limits, renditions.settings, self.tally, self._deliver, self._thread_ended),
                realtime=self.want.realtime,
                whole_gop=bool(self.want.max_height),
            )
        return line

    def _restart(self) -> None:
        """All derived tracks anew; threads that no track needs any more go."""
        needed: dict[Kind, list[Order]] = {}
        for track in self._order:
            if track.id in self._derived:
                codec = self.want.plan(track).codec
                order = Order(track, Codec.H264 if codec is None else codec, max_height=self.want.max_height)
                needed.setdefault(track.kind, []).append(order)
        for kind in tuple(self._lines):
            if kind not in needed:
                self._lines.pop(kind).close()
        for kind, orders in needed.items():
            self._running(kind).restart(tuple(orders))

    def _retire_lines(self) -> None:
        lines, self._lines = self._lines, {}
        for line in lines.values():
            line.close()

    def _thread_ended(self, line: Line, error: Exception | None) -> None:
        self._renditions.release(line.kind)
        known = line in self._lines.values()  # others were let go on purpose
        if error is not None and not isinstance(error, PeerError):
            report_bug("rendition", error)
            error = PeerGone(f"the rendition failed: {type(error).__name__}", code="internal")
        if known and error is not None:
            self._fail(error)

    def _pass(self, guard: Unreorder, packet: Packet) -> None:
        passed = guard.push(packet)
        if isinstance(passed, Packet):
            self._copy(passed)
        elif passed is Verdict.DROP:
            self.tally.drop("b-frame")
        else:
            self._encode_from(packet.track, guard)

    def _encode_from(self, track: Track, guard: Unreorder) -> None:
        """A picture that came reordered is a reference: encode from here on; the decoder starts with the GOP that we are in.

        Readers keep what they have until the first picture of the encoder, a key frame.
        """
        self._referenced = track
        del self._copied[track.id], self._guards[track.id]
        self._derived[track.id] = None
        self._treatment[track.kind] = REFERENCED
        try:
            after = guard.last if self._sinks else None
            self._running(track.kind).restart((Order(track, Codec.H264, after),), tuple(guard.gop))
        except LimitExceeded as e:
            self._fail(e)
            return
        self._start_gop()
        if self._announced and not self._sinks:
            # nobody has seen anything yet: who comes sees the encoder's pictures first
            self._announced, self.tracks = False, ()
            self._cancel_ready()
            self._ready = asyncio.get_running_loop().call_later(READY_SECONDS, self._announce)

    def _deliver(self, line: Line, epoch: int, outputs: list[Output]) -> None:
        if self.ended or epoch != line.epoch or line not in self._lines.values():
            return
        early: list[Packet] = []
        for item in outputs:
            if isinstance(item, Gap):
                if self._announced:
                    self._break(item)
                continue
            known = self._derived[item.track.id]
            if known != item.track:
                self._derived[item.track.id] = item.track
                if self._announced:
                    self._tracks_changed()
                elif known is not None:
                    self._start_gop()
                    early = [packet for packet in early if packet.track.id != item.track.id]
            elif known is not item.track:
                item = item._replace(track=known)  # an encoder made anew: to readers it is the track they know
            self._measure(item)
            if self._announced:
                self._send(item)
            else:
                self.gop.push(item)
                early.append(item)
        if not self._announced and None not in self._derived.values():
            self._announce(early)

    def _measure(self, packet: Packet) -> None:
        track = packet.track
        added = clock.now() - packet.received_at
        if not track.is_video:
            added += max(0.0, self._heads.get(track.id, 0.0) - packet.pts / track.clock_rate)
        before = self._latency.get(track.kind)
        self._latency[track.kind] = added if before is None else before + (added - before) / 32

    def _announce(self, early: list[Packet] | None = None) -> None:
        """Tell the tracks that are known, then what was cached while they were not; without video that is `early`."""
        self._cancel_ready()
        self.tracks = self._known()
        if not self.tracks:
            return
        self._announced = True
        for sink in tuple(self._sinks):
            self._call(sink, sink.on_tracks, self.tracks)
        if self._video is None:
            cached = early or []
        else:
            ids = {track.id for track in self.tracks}
            cached = sorted((p for p in self.gop.packets if p.track.id in ids), key=lambda p: p.dts / p.track.clock_rate)
            # in order of time over both tracks, and the key frame first
            cached = cached[next((i for i, p in enumerate(cached) if p.track.is_video), len(cached)) :]
            self.gop.packets[:] = cached
        for packet in cached:
            self._fan_out(packet)

    @property
    def _video(self) -> Track | None:
        return next((track for track in self._order if track.is_video), None)

    def _start_gop(self) -> None:
        video = self._video
        self.gop.start(video.id if video else None)

    def _known(self) -> tuple[Track, ...]:
        known = (self._copied.get(track.id) or self._derived.get(track.id) for track in self._order)
        return tuple(track for track in known if track is not None)

    def _tracks_changed(self) -> None:
        """A derived track came late, or has a new size or rate: readers see a Gap and the new set."""
        self._break(Gap("track-changed"))
        self.tracks = self._known()
        for sink in tuple(self._sinks):
            self._call(sink, sink.on_tracks, self.tracks)

    def _break(self, gap: Gap) -> None:
        """A Gap of our own making: copied video must wait for its next key frame."""
        self._start_gop()
        video = self._video
        if video is not None and video.id in self._copied:
            self._waits_for_key = True
            self.source.request_keyframe()
        self._tell_gap(gap)

    def _copy(self, packet: Packet) -> None:
        if self._waits_for_key and packet.track.is_video:
            if not packet.keyframe:
                self.tally.drop("waits-for-keyframe")
                return
            self._waits_for_key = False
        if self._announced:
            self._send(packet)
        else:
            self.gop.push(packet)

    def _send(self, packet: Packet) -> None:
        self.gop.push(packet)
        self._fan_out(packet)

    def _fan_out(self, packet: Packet) -> None:
        for sink in self._sinks:
            try:
                sink.on_packet(packet)
            except Exception as e:  # noqa: BLE001 - a reader's bug must not reach the other readers
                report_bug("sink", e)
                self.detach(sink)

    def _tell_gap(self, gap: Gap) -> None:
        for sink in tuple(self._sinks):
            self._call(sink, sink.on_gap, gap)

    def _call(self, sink: Sink, method: Callable[[T], None], argument: T) -> None:
        if not tell(method, argument):
            self.detach(sink)

    def _cancel_ready(self) -> None:
        if self._ready is not None:
            self._ready.cancel()
            self._ready = None
