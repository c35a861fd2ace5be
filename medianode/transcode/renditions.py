"""Renditions: tracks derived on demand from a Feed, shared by all who want the same, gone some seconds after the last has left."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Literal, TypeVar

from medianode import clock, config, telemetry
from medianode.errors import LimitExceeded, PeerError, PeerGone
from medianode.media.gop import GopCache
from medianode.media.packet import Gap, Packet
from medianode.media.track import Codec, Kind, Track
from medianode.routing.feed import Feed, Sink, tell
from medianode.tasks import report_bug
from medianode.transcode.derive import Output, Settings, Tally
from medianode.transcode.mailbox import Mailbox, Restart
from medianode.transcode.pipeline import Pipeline

log = logging.getLogger("medianode.transcode")
T = TypeVar("T")

READY_SECONDS = 3.0
"""How long the tracks at hand wait for a derived one (whose configuration its first packet tells) before they are announced without it."""
STOP_SECONDS = 2.0
"""How long `close` waits for the threads."""


@dataclass(frozen=True)
class Want:
    """What a reader can use: `copy` is all tracks of the kind as they are; a codec is the first one, as it is where it has that codec."""

    video: Literal["copy", "h264", "mjpeg", "none"] = "copy"
    audio: Literal["copy", "aac", "opus", "none"] = "copy"

    def codec_for(self, track: Track) -> Codec | None:
        """The codec to derive from this track; None where it is passed through or left out."""
        want = self.video if track.is_video else self.audio
        return None if want in ("copy", "none", track.codec.value) else Codec(want)

    def select(self, tracks: tuple[Track, ...]) -> tuple[Track, ...]:
        """The source's tracks that play a part."""
        seen: set[Kind] = set()
        chosen = []
        for track in tracks:
            want = self.video if track.is_video else self.audio
            if want != "none" and (want == "copy" or track.kind not in seen):
                chosen.append(track)
            seen.add(track.kind)
        return tuple(chosen)


class Rendition:
    """A Sink of its source and a Feed of what is wanted of it.

    Copied packets are the source's own objects and go through at once; derived ones come from the thread a few tens of milliseconds later,
    so that the two interleave with that delay, each track in order. Until the derived tracks are known nothing is announced (at most
    READY_SECONDS); what was copied meanwhile is then replayed from the cached GOP.
    """

    def __init__(self, source: Feed, want: Want, renditions: Renditions) -> None:
        self.source = source
        self.want = want
        self.tracks: tuple[Track, ...] = ()
        self.tally = Tally()
        self.ended = ""
        self.gop = GopCache(renditions.limits.gop_packets, renditions.limits.gop_bytes)
        self._renditions = renditions
        self._sinks: list[Sink] = []
        self._pipeline: Pipeline | None = None
        self._mailbox: Mailbox | None = None
        self._epoch = 0
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
    def last_error(self) -> str:
        """`code: message` of the newest fault; empty if there was none."""
        return self.tally.last_error

    @property
    def dropped(self) -> dict[str, int]:
        """What the mailbox and the stages dropped, by cause."""
        merged = dict(self.tally.dropped)
        for cause, count in ({} if self._mailbox is None else self._mailbox.dropped).items():
            merged[cause] = merged.get(cause, 0) + count
        return merged

    @property
    def queued(self) -> int:
        return 0 if self._mailbox is None else len(self._mailbox)

    @property
    def transcodes(self) -> bool:
        return self._pipeline is not None

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
        elif self._pipeline is not None and clock.now() - self._keyframe_asked >= 1.0:
            self._keyframe_asked = clock.now()
            self._pipeline.force_keyframe()

    # the Sink's side

    def on_tracks(self, tracks: tuple[Track, ...]) -> None:
        if self.ended:
            return
        self._order = self.want.select(tracks)
        self._copied = {track.id: track for track in self._order if self.want.codec_for(track) is None}
        self._derived = {track.id: None for track in self._order if track.id not in self._copied}
        self._announced = self._waits_for_key = False
        self.tracks = ()
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
            self._announce()

    def on_packet(self, packet: Packet) -> None:
        if packet.track.id in self._copied:
            self._copy(packet)
        elif packet.track.id in self._derived and self._mailbox is not None:
            self._mailbox.put(packet)

    def on_gap(self, gap: Gap) -> None:
        self._start_gop()
        self._waits_for_key = False
        if self._derived and self._pipeline is not None:
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
        if any(self.want.codec_for(track) for track in self.want.select(self.source.tracks)):
            self._running()
        self.source.attach(self)

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
        if self._mailbox is not None:
            self._mailbox.close()
        self.gop.start(None)
        self._renditions.forget(self)
        sinks, self._sinks = self._sinks, []
        for sink in sinks:
            self._call(sink, sink.on_end, cause)

    def _fail(self, error: PeerError) -> None:
        self.tally.last_error = f"{error.code}: {error.message}"
        self.source.detach(self)
        self._end(error.code)

    # the thread

    def _running(self) -> Mailbox:
        if self._mailbox is None:
            limits = self._renditions.limits
            self._renditions.claim()
            self._mailbox = Mailbox(limits.rendition_queue_packets, limits.reader_bytes)
            self._pipeline = Pipeline(
                self._mailbox, self.want.codec_for, self._renditions.settings, self.tally, self._deliver, self._thread_ended
            )
            self._pipeline.start()
        return self._mailbox

    def _restart(self) -> None:
        mailbox = self._running()
        self._epoch += 1
        mailbox.restart(Restart(self._epoch, tuple(track for track in self._order if track.id in self._derived)))

    def _thread_ended(self, error: Exception | None) -> None:
        self._renditions.release()
        if isinstance(error, PeerError):
            self._fail(error)
        elif error is not None:
            report_bug("rendition", error)
            self._fail(PeerGone(f"the rendition failed: {type(error).__name__}", code="internal"))

    def _deliver(self, epoch: int, outputs: list[Output]) -> None:
        if self.ended or epoch != self._epoch:
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
            if self._announced:
                self._send(item)
            else:
                self.gop.push(item)
                early.append(item)
        if not self._announced and None not in self._derived.values():
            self._announce(early)

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


class Renditions:
    """All renditions of the node. As an async context manager it closes them at the end and waits for their threads."""

    def __init__(self, limits: config.Limits, mjpeg: config.Mjpeg, hls: config.Hls) -> None:
        self.limits = limits
        self.settings = Settings(mjpeg.quality, mjpeg.max_fps, hls.segment_duration, limits.decode_pixels)
        self._shared: dict[tuple[Feed, Want], Rendition] = {}
        self._threads = 0
        self._quiet = asyncio.Event()
        self._quiet.set()
        telemetry.gauge("medianode_renditions", "Renditions by kind: with a thread or passed through", "kind", read=self._sample)

    async def __aenter__(self) -> Renditions:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __len__(self) -> int:
        return len(self._shared)

    @property
    def all(self) -> tuple[Rendition, ...]:
        return tuple(self._shared.values())

    @property
    def threads(self) -> int:
        """Threads that run, those of closed renditions that are on their way out included."""
        return self._threads

    @asynccontextmanager
    async def acquire(self, source: Feed, want: Want, idle: float) -> AsyncIterator[Rendition]:
        """The Rendition of this source, shared; it lives `idle` seconds after the last release.

        Raises LimitExceeded `node-full` where it needs a thread and `limits.renditions` run already. One that cannot go on (the source
        ended, pictures too large) ends its sinks with the cause and is forgotten: the next `acquire` makes a new one.
        """
        rendition = self._shared.get((source, want))
        if rendition is None:
            rendition = Rendition(source, want, self)
            rendition.open()
            if not rendition.ended:
                self._shared[(source, want)] = rendition
        if rendition.idle is not None:
            rendition.idle.cancel()
            rendition.idle = None
        rendition.users += 1
        try:
            yield rendition
        finally:
            rendition.users -= 1
            if not rendition.users and not rendition.ended:
                rendition.idle = asyncio.get_running_loop().call_later(idle, rendition.close)

    async def close(self) -> None:
        """Close all; wait for their threads, at most STOP_SECONDS. Idempotent."""
        for rendition in self.all:
            rendition.close()
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await self._quiet.wait()
        except TimeoutError:
            log.warning("%d rendition threads still run", self._threads)

    def claim(self) -> None:
        """Room for one more thread. Raises LimitExceeded."""
        if self._threads >= self.limits.renditions:
            raise LimitExceeded(f"the node runs {self._threads} renditions already", code="node-full")
        self._threads += 1
        self._quiet.clear()

    def release(self) -> None:
        self._threads -= 1
        if not self._threads:
            self._quiet.set()

    def forget(self, rendition: Rendition) -> None:
        key = (rendition.source, rendition.want)
        if self._shared.get(key) is rendition:
            del self._shared[key]

    def _sample(self) -> list[tuple[tuple[str, ...], float]]:
        return [(("thread",), self._threads), (("passthrough",), sum(not r.transcodes for r in self._shared.values()))]
