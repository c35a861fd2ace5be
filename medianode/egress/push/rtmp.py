"""RTMP(S) targets: one connection, fed from the room's programme. No re-encode where the target takes the codecs."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable
from contextlib import suppress

from medianode import clock, config, telemetry
from medianode.egress.push.liveness import Liveness, tcp_progress
from medianode.egress.push.report import Report
from medianode.egress.rtmp_publish import RtmpPublisher, open_publisher
from medianode.errors import MedianodeError, PeerError
from medianode.media.packet import Gap, Packet
from medianode.media.queue import Bounds, PacketQueue, Policy
from medianode.media.track import Codec, Track
from medianode.outbound import Outbound
from medianode.protocols import flv
from medianode.protocols.rtmp.client import Acknowledged, ClientEvent, Status
from medianode.protocols.rtmp.url import parse_rtmp_url
from medianode.routing.room import Room
from medianode.tasks import background, until_next
from medianode.transcode.renditions import Rendition, Renditions
from medianode.transcode.want import Want

BYTES = telemetry.counter("medianode_bytes_total", "Bytes by door and direction", "door", "direction")
DROPS = telemetry.counter("medianode_dropped_total", "Packets dropped, by place and cause", "place", "cause")

WINDOW = 500_000
"""Bytes after which targets are asked to acknowledge: every two seconds or so of what people send."""
BEAT = 0.1
"""Seconds between writes, on the grid that publishers are read on too: a wake-up costs more than what is done in it."""
LOOK = 1.0
KEYFRAME_EVERY = 4.0
"""Seconds without a key frame after which one is asked for: the most that YouTube and Twitch take without complaint."""
UNSENT = 256 * 1024
"""Bytes that may wait in the transport, and as many unsent in the kernel; the rest waits in the queue, where it may be dropped by GOPs."""
WRITE = 1024 * 1024
"""Bytes of one write."""
IDLE = 5.0
"""Seconds that a rendition outlives the connection, which may be back in one."""
OURS_TO_END = frozenset({"stream-ended", "rendition-closed"})

_LEGACY = frozenset({Codec.H264, Codec.AAC})
_BY_FOURCC = {code.decode(): codec for code, codec in (*flv.VIDEO_FOURCC.items(), *flv.AUDIO_FOURCC.items())}


class RtmpPush:
    """A Pusher, for all targets of the node."""

    def __init__(self, outbound: Outbound, renditions: Renditions, limits: config.Limits) -> None:
        self._outbound = outbound
        self._renditions = renditions
        self._limits = limits

    async def run(self, url: str, key: str | None, room: Room, report: Report) -> None:
        """See `report.Pusher`. PeerError `rejected` where the target refuses."""
        target = parse_rtmp_url(url, key)
        place = await self._outbound.place(target.host, target.port)
        async with open_publisher(target, verify=self._outbound.trust, addresses=place.addresses, window=WINDOW) as publisher:
            connection = _Connection(publisher, room, report, self._limits)
            try:
                async with background(publisher.watch(connection.heard, BEAT)):
                    await connection.feed(self._renditions)
            except ExceptionGroup as e:  # what the target said, or else how the connection went away
                raise next((x for x in e.exceptions if isinstance(x, MedianodeError)), e.exceptions[0]) from None
            finally:
                publisher.farewell()


def spoken(fourcc: Iterable[str]) -> frozenset[Codec]:
    """Codecs of a target that answered connect with these codes of Enhanced RTMP; without any, those of 2012."""
    listed = frozenset(fourcc)
    if "*" in listed:
        return _LEGACY | frozenset(_BY_FOURCC.values())
    return _LEGACY | {_BY_FOURCC[code] for code in listed if code in _BY_FOURCC}


def want_for(tracks: Iterable[Track], codecs: frozenset[Codec]) -> Want:
    """What of these tracks goes as it is, and what becomes H.264 and AAC (which they stay where they are)."""
    first = {track.kind: track.codec for track in reversed(tuple(tracks)) if not track.layer}
    passed = {kind.value for kind, codec in first.items() if codec in codecs - _LEGACY}
    return Want(video="copy" if "video" in passed else "h264", audio="copy" if "audio" in passed else "aac")


class _Connection:
    """One publisher over its renditions: most have one, another where the room's codecs change."""

    def __init__(self, publisher: RtmpPublisher, room: Room, report: Report, limits: config.Limits) -> None:
        self._publisher = publisher
        self._room = room
        self._report = report
        self._bounds = Bounds(limits.reader_packets, limits.reader_bytes, limits.reader_seconds)
        self._codecs = spoken(publisher.fourcc)
        self._liveness = Liveness(clock.now())
        self._look_at = 0.0
        self._began = False
        report.sent(publisher.sent_bytes)
        with suppress(OSError):  # what is not sent yet waits here, where a slow target's media can be let go
            publisher.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT)

    def heard(self, event: ClientEvent) -> None:
        if isinstance(event, Acknowledged):
            self._liveness.confirmed(min(event.nbytes, self._publisher.sent_bytes), clock.now())
        elif isinstance(event, Status):
            self._report.said(f"{event.code}: {event.description}")

    async def feed(self, renditions: Renditions) -> None:
        """Until the room goes off air. Raises PeerError where its pictures or sound cannot be made fit."""
        while self._room.on_air:
            want = want_for(self._room.tracks, self._codecs)
            async with renditions.acquire(self._room, want, IDLE) as rendition:
                outlet = Outlet(self._publisher, self._report, self._bounds, self._codecs)
                rendition.attach(outlet)
                if outlet.empty:  # no GOP to begin with; a WebRTC publisher makes none unasked
                    rendition.request_keyframe()
                try:
                    await self._send(rendition, outlet)
                finally:
                    rendition.detach(outlet)
            if outlet.ended and outlet.ended not in OURS_TO_END:
                raise PeerError(rendition.last_error.partition(": ")[2] or "the feed cannot be made fit", code=outlet.ended)
            if outlet.ended:
                return

    async def _send(self, rendition: Rendition, outlet: Outlet) -> None:
        """Until the feed ends, or another want fits the room better."""
        while True:
            await asyncio.sleep(until_next(BEAT, clock.now()))
            now = clock.now()
            outlet.flush()
            if outlet.ended and (outlet.empty or outlet.ended not in OURS_TO_END):
                return
            if outlet.sent_media and not self._began:
                self._began = True
                self._liveness.media_sent(now, self._acked())
            if now >= self._look_at:
                self._look_at = now + LOOK
                self._look(now, rendition, outlet)
                if self._room.tracks and want_for(self._room.tracks, self._codecs) != rendition.want:
                    outlet.flush()
                    return

    def _look(self, now: float, rendition: Rendition, outlet: Outlet) -> None:
        """Raises PeerTimeout."""
        progress = tcp_progress(self._publisher.socket)
        waiting = self._publisher.unsent > 0 or (progress is not None and progress.waiting)
        acked = self._acked()
        taken = self._liveness.look(now, acked, self._publisher.sent_bytes, waiting=waiting)
        self._report.acknowledged(min(self._liveness.own or acked, self._report.sent_bytes))
        self._report.treatment = rendition.treatment
        if taken:
            self._report.broadcasting()
        if outlet.has_video and now - outlet.keyframe_at > KEYFRAME_EVERY:
            rendition.request_keyframe()

    def _acked(self) -> int:
        """Bytes that the target's kernel has. Where ours does not tell, what has left our hands."""
        progress = tcp_progress(self._publisher.socket)
        return self._publisher.sent_bytes - self._publisher.unsent if progress is None else progress.acked


class Outlet:
    """A Sink: a bounded queue that jumps to the newest key frame while the target is slow, and what is next written to it."""

    def __init__(self, publisher: RtmpPublisher, report: Report, bounds: Bounds, codecs: frozenset[Codec]) -> None:
        self._publisher = publisher
        self._report = report
        self._bounds = bounds
        self._codecs = codecs
        self._queue: PacketQueue | None = None
        self._tracks: tuple[Track, ...] = ()
        self._declared = False
        self.ended = ""
        self.sent_media = False
        self.keyframe_at = clock.now()
        publisher.stamps.break_off()

    @property
    def empty(self) -> bool:
        return not self._queue

    @property
    def has_video(self) -> bool:
        return any(track.is_video for track in self._tracks)

    def on_tracks(self, tracks: tuple[Track, ...]) -> None:
        self.flush()
        carried = [track for track in tracks if track.codec in self._codecs and not track.layer]
        first = (next((t for t in carried if t.is_video), None), next((t for t in carried if not t.is_video), None))
        self._tracks = tuple(track for track in first if track is not None)
        self._declared = False
        if self._queue is None:
            self._queue = self._report.queue = PacketQueue(Policy.LIVE, self._bounds, has_video=self.has_video)
        else:
            self._queue.push_gap(Gap("track-changed"), has_video=self.has_video)

    def on_packet(self, packet: Packet) -> None:
        if self._queue is not None and any(packet.track is track for track in self._tracks):
            self._queue.push(packet)
            if packet.keyframe and packet.track.is_video:
                # not when it is written: one that does not read must not have the publisher asked each second
                self.keyframe_at = packet.received_at

    def on_gap(self, gap: Gap) -> None:
        self.flush()
        if self._queue is not None:
            self._queue.push_gap(gap, has_video=self.has_video)

    def on_end(self, cause: str) -> None:
        self.ended = cause

    def flush(self) -> None:
        """Write what waits, as far as the target keeps up."""
        publisher, queue = self._publisher, self._queue
        if queue is None or publisher.closing or publisher.unsent > UNSENT:
            return
        taken = 0
        while taken < WRITE and (item := queue.pop()) is not None:
            if isinstance(item, Gap):
                publisher.stamps.break_off()
                self._report.dropped(item.dropped)
                DROPS.labels("push", item.cause).value += item.dropped
                continue
            if not self._declared:
                self._declared = True
                publisher.declare(self._tracks)
            publisher.put(item)
            self.sent_media = True
            taken += len(item.data)
        written = publisher.write()
        self._report.sent(written)
        BYTES.labels("push", "out").value += written
