"""Publication: the live media of one participant, fanned out synchronously."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from medianode import clock
from medianode.auth import PublishGrant
from medianode.errors import MedianodeError
from medianode.media.gop import GopCache
from medianode.media.packet import Gap, Packet
from medianode.media.track import Track
from medianode.routing.feed import Sink, tell
from medianode.tasks import report_bug

T = TypeVar("T")


@dataclass(slots=True)
class Meter:
    """What the per-session view tells of one track; rates are renewed by `sample` once a second."""

    packets: int = 0
    nbytes: int = 0
    keyframes: int = 0
    reordered: bool = False
    last_at: float = 0.0
    keyframe_at: float = 0.0
    keyframe_interval: float = 0.0
    bitrate: float = 0.0
    frame_rate: float = 0.0
    _seen: tuple[float, int, int] = (0.0, 0, 0)

    def sample(self, now: float) -> None:
        at, packets, nbytes = self._seen
        if at and now > at:
            self.bitrate = (self.nbytes - nbytes) * 8 / (now - at)
            self.frame_rate = (self.packets - packets) / (now - at)
        self._seen = (now, self.packets, self.nbytes)


@dataclass(slots=True)
class Health:
    """What the door learns of its peer; read by the session view, metrics and the watchdog.

    `notes`: what of it does not fit what its grant allows, a sentence by code, while it does not.
    `source_clock`: the sender's wall clock (seconds since 1970) at media time 0, where it tells. `network`: figures of a lossy transport
    by name, as they are now: `loss` (fraction), `jitter` and `rtt` (seconds); since the start `received`, `lost`, `recovered`,
    `duplicates`, `nacks`, `keyframe_requests`.
    """

    drops: dict[str, int] = field(default_factory=dict)
    repairs: dict[str, int] = field(default_factory=dict)
    drift: float = 0.0
    last_error: str = ""
    frozen_video: bool = False
    source_clock: float | None = None
    network: dict[str, float] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)


class Publication:
    """Made by Room.publish; written by its door; ended by `end`. `kick` asks the door to go (takeover, deletion).

    `resumes`: it came back within a hold, or took over what was active; players wait for it. `on_keyframe` is called after a key frame
    has been written.
    """

    def __init__(self, grant: PublishGrant, door: str, peer: str, kick: Callable[[MedianodeError], None], gop: GopCache) -> None:
        self.grant = grant
        self.door = door
        self.peer = peer
        self.kick = kick
        self.gop = gop
        self.tracks: tuple[Track, ...] = ()
        self.meters: dict[int, Meter] = {}
        self.health = Health()
        self.opened_at = clock.now()
        self.opened_wallclock = clock.wallclock()
        self.last_packet_at = self.opened_at
        self.active_at = 0.0
        self.resumes = False
        self.ended = False
        self.on_active: Callable[[Publication], None] | None = None
        self.on_tracks: Callable[[Publication], None] | None = None
        self.on_keyframe: Callable[[Publication], None] | None = None
        self.on_keyframe_wanted: Callable[[], None] | None = None
        self._sinks: list[Sink] = []
        self._keyframe_asked = -1.0

    @property
    def active(self) -> bool:
        """The first decodable key frame (or, without video, audio) has come."""
        return self.active_at > 0

    @property
    def video(self) -> Track | None:
        return next((t for t in self.tracks if t.is_video), None)

    @property
    def audio(self) -> Track | None:
        return next((t for t in self.tracks if not t.is_video), None)

    def set_tracks(self, tracks: tuple[Track, ...]) -> None:
        """Declare the tracks, before their first packet; again when one is added or changes its configuration.

        Readers see a Gap (`track-changed`) and the new set; video resumes at the next key frame.
        """
        changed = bool(self.tracks)
        self.tracks = tracks
        for track in tracks:
            self.meters.setdefault(track.id, Meter())
        video = self.video
        self.gop.start(video.id if video else None)
        sinks = tuple(self._sinks)
        if self.on_tracks is not None:
            self.on_tracks(self)
            sinks = tuple(sink for sink in sinks if sink in self._sinks)  # who was attached by it was told
        for sink in sinks:
            if changed:
                self._call(sink, sink.on_gap, Gap("track-changed"))
            self._call(sink, sink.on_tracks, tracks)

    def write(self, packet: Packet) -> None:
        """Hand one packet to all readers. Sync; microseconds; never raises for a reader's fault."""
        meter = self.meters[packet.track.id]
        meter.packets += 1
        meter.nbytes += len(packet.data)
        meter.last_at = self.last_packet_at = packet.received_at
        if packet.pts != packet.dts:
            meter.reordered = True
        if packet.keyframe:
            meter.keyframes += 1
            if packet.track.is_video:
                if meter.keyframe_at:
                    meter.keyframe_interval = packet.received_at - meter.keyframe_at
                meter.keyframe_at = packet.received_at
            if not self.active_at and (packet.track.is_video or self.video is None):
                self.active_at = packet.received_at
                if self.on_active:
                    self.on_active(self)
        self.gop.push(packet)
        for sink in self._sinks:
            try:
                sink.on_packet(packet)
            except Exception as e:  # noqa: BLE001 - a reader's bug must not reach the publisher or the other readers
                report_bug("sink", e)
                self._sinks = [s for s in self._sinks if s is not sink]
        if self.on_keyframe is not None and packet.keyframe and (packet.track.is_video or self.video is None):
            self.on_keyframe(self)  # the cached GOP is this key frame alone: who is attached now begins with it

    def gap(self, gap: Gap) -> None:
        """Tell all readers that the timeline breaks here; the GOP so far is no longer joined to what follows."""
        video = self.video
        self.gop.start(video.id if video else None)
        for sink in tuple(self._sinks):
            self._call(sink, sink.on_gap, gap)

    def attach(self, sink: Sink, *, replay: bool = True) -> None:
        if self.ended:
            return
        self._sinks = [*self._sinks, sink]
        if self.tracks:
            self._call(sink, sink.on_tracks, self.tracks)
        if replay:
            for packet in self.gop.packets:
                self._call(sink, sink.on_packet, packet)

    def detach(self, sink: Sink) -> None:
        self._sinks = [s for s in self._sinks if s is not sink]

    @property
    def bitrate(self) -> float:
        """Bits per second of all that comes, as last sampled. With simulcast the first picture repeats a layer and is not counted."""
        layered = any(track.layer for track in self.tracks)
        counted = [track for track in self.tracks if not (track.is_video and layered and not track.layer)]
        return sum(self.meters[track.id].bitrate for track in counted)

    @property
    def realtime(self) -> bool:
        """Whether a reader (a Sink with `realtime` set) waits for every packet, so that its door had better not let them gather."""
        return any(getattr(sink, "realtime", False) for sink in self._sinks)

    @property
    def sinks(self) -> tuple[Sink, ...]:
        return tuple(self._sinks)

    def request_keyframe(self) -> None:
        now = clock.now()
        if self.on_keyframe_wanted is not None and now - self._keyframe_asked >= 1.0:
            self._keyframe_asked = now
            self.on_keyframe_wanted()

    def _call(self, sink: Sink, method: Callable[[T], None], argument: T) -> None:
        if not tell(method, argument):
            self.detach(sink)
