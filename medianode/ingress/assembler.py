"""Assembler: frames of a publisher become the Tracks and Packets of its Publication.

Tracks are decided from real packets with a bounded wait, never from metadata: encoders announce audio they never send, send two seconds of
audio before video, or announce nothing. What comes late, or changes its parameter sets, opens a new Track set and a discontinuity.
"""

from __future__ import annotations

from medianode import telemetry
from medianode.errors import LimitExceeded, PeerError, ProtocolError, UnsupportedMedia
from medianode.ingress.elementary import ElementaryStream
from medianode.media.packet import Gap, Packet
from medianode.media.timeline import AudioClock, Timeline
from medianode.media.track import Codec, Kind, Track
from medianode.routing.publication import Publication

DROPS = telemetry.counter("medianode_dropped_total", "Packets dropped, by place and cause", "place", "cause")
PENDING_PACKETS = 2048
"""Packets held while the tracks are being decided."""
PENDING_BYTES = 16 << 20
BAD_FRAMES = 250
"""So many undecodable frames in a row and the publisher is refused."""


class _Stream:
    __slots__ = ("audio_clock", "elementary", "last_dts", "waits_keyframe")

    def __init__(self, elementary: ElementaryStream) -> None:
        self.elementary = elementary
        self.audio_clock: AudioClock | None = None
        self.last_dts = -(1 << 62)
        self.waits_keyframe = elementary.codec.kind is Kind.VIDEO


class Assembler:
    """Sync and per publisher. `track_wait`: seconds from the first frame until the stream starts with what there is."""

    def __init__(self, publication: Publication, track_wait: float, max_tracks: int) -> None:
        self._publication = publication
        self._track_wait = track_wait
        self._max_tracks = max_tracks
        self._timeline = Timeline()
        self._streams: dict[tuple[Kind, int], _Stream] = {}
        self._pending: list[Packet] | None = []
        self._pending_bytes = 0
        self._first_at: float | None = None
        self._bad = 0

    def configure(self, codec: Codec, track_id: int, record: bytes, now: float) -> None:
        """A sequence header. Raises LimitExceeded on too many tracks; one that cannot be read counts as a bad frame."""
        if self._first_at is None:
            self._first_at = now
        stream = self._stream(codec, track_id)
        try:
            track = stream.elementary.configure(record)
        except ProtocolError as e:
            self.bad_frame(e)
            return
        if track is not None:
            self._adopt(stream, track, now)

    def frame(self, codec: Codec, track_id: int, data: bytes, ms: int, composition_ms: float, now: float) -> None:
        """One access unit at `ms` of the publisher's unwrapped clock; pts is `composition_ms` later."""
        if self._first_at is None:
            self._first_at = now
        stream = self._stream(codec, track_id)
        try:
            unit = stream.elementary.unit(data)
        except ProtocolError as e:
            self.bad_frame(e)
            return
        if unit is None:
            self._drop("no-configuration")
            return
        self._bad = 0
        if unit.track is not None:
            self._adopt(stream, unit.track, now)
        track = stream.elementary.track
        if track is None:
            return
        placed = self._timeline.place(track.id, ms, now)
        if placed.jumped:
            self._jump()
        if placed.repaired:
            self._count_repair("timestamp-clamped")
        if track.is_video:
            dts = placed.ms * 90
            pts = dts + int(composition_ms * 90)
            if stream.waits_keyframe and not unit.keyframe:
                self._drop("waiting-for-keyframe")
                return
            stream.waits_keyframe = False
            if dts <= stream.last_dts:
                # two pictures in one millisecond: keep them apart, decoders want growing dts
                shift = stream.last_dts + 1 - dts
                dts += shift
                pts = max(pts, dts)
        else:
            if stream.audio_clock is None:
                stream.audio_clock = AudioClock(track.clock_rate)
            anchors = stream.audio_clock.anchors
            pts = dts = stream.audio_clock.place(placed.ms, unit.samples)
            if stream.audio_clock.anchors != anchors:
                self._count_repair("audio-reanchored")
        stream.last_dts = dts
        self._emit(Packet(track, unit.data, pts, dts, unit.keyframe, now))

    def tick(self, now: float) -> None:
        """Decide when the wait is over; called a few times a second and with every frame while undecided."""
        self._publication.health.drift = self._timeline.drift
        if self._pending is not None and self._first_at is not None and now - self._first_at >= self._track_wait:
            self._decide()

    def finish(self) -> None:
        """The publisher is done; a stream shorter than the wait is still shown."""
        if self._pending:
            self._decide()

    def _stream(self, codec: Codec, track_id: int) -> _Stream:
        key = (codec.kind, track_id)
        stream = self._streams.get(key)
        if stream is None:
            if len(self._streams) >= self._max_tracks:
                raise LimitExceeded(f"expected at most {self._max_tracks} tracks, got another")
            # 0 and 1 are the main video and audio; multitrack ids follow in pairs
            ident = track_id * 2 + (codec.kind is Kind.AUDIO)
            stream = self._streams[key] = _Stream(ElementaryStream(ident, codec))
        elif stream.elementary.codec is not codec:
            last = stream.last_dts
            stream = self._streams[key] = _Stream(ElementaryStream(stream.elementary.id, codec))
            stream.last_dts = last if codec.kind is Kind.VIDEO else stream.last_dts
        return stream

    def _adopt(self, stream: _Stream, track: Track, now: float) -> None:
        if track.is_video:
            stream.waits_keyframe = True
        elif stream.audio_clock is not None:
            stream.audio_clock = None
        if self._pending is None:
            # readers start anew after a changed set, with a key frame
            for other in self._streams.values():
                other.waits_keyframe = other.elementary.codec.kind is Kind.VIDEO
            self._publication.set_tracks(self._tracks())
        elif {s.elementary.track.kind for s in self._streams.values() if s.elementary.track} == {Kind.VIDEO, Kind.AUDIO} and self._pending:
            self._decide()
        else:
            self.tick(now)

    def _tracks(self) -> tuple[Track, ...]:
        known = [s.elementary.track for s in self._streams.values() if s.elementary.track is not None]
        return tuple(sorted(known, key=lambda t: t.id))

    def _emit(self, packet: Packet) -> None:
        if self._pending is None:
            self._publication.write(packet)
            return
        self._pending.append(packet)
        self._pending_bytes += len(packet.data)
        kinds = {s.elementary.track.kind for s in self._streams.values() if s.elementary.track}
        if len(kinds) == 2 or len(self._pending) >= PENDING_PACKETS or self._pending_bytes >= PENDING_BYTES:
            self._decide()
        else:
            self.tick(packet.received_at)

    def _decide(self) -> None:
        pending, self._pending = self._pending or [], None
        self._pending_bytes = 0
        tracks = self._tracks()
        if not tracks:
            self._pending = []
            return
        current = {t.id: t for t in tracks}
        self._publication.set_tracks(tracks)
        for packet in pending:
            # a configuration that changed while we waited: older packets cannot be decoded with it
            if current.get(packet.track.id) is packet.track:
                self._publication.write(packet)
            else:
                self._drop("track-changed")

    def _jump(self) -> None:
        self._count_repair("timestamp-jump")
        for stream in self._streams.values():
            if stream.audio_clock is not None:
                stream.audio_clock.reset()
            stream.waits_keyframe = stream.elementary.codec.kind is Kind.VIDEO
        if self._pending is None:
            self._publication.gap(Gap("timestamp-jump"))

    def bad_frame(self, error: PeerError) -> None:
        """Something of the publisher's could not be read or is no codec of ours. Borne, and told; too many in a row raise.

        Drones send garbage between good frames (DJI: a FourCC of nonsense), and sound we cannot carry must not end the picture.
        """
        self._drop("unsupported" if isinstance(error, UnsupportedMedia) else "undecodable")
        self._publication.health.last_error = error.message
        self._bad += 1
        if self._bad >= BAD_FRAMES:
            kind = UnsupportedMedia if isinstance(error, UnsupportedMedia) else ProtocolError
            raise kind(f"{BAD_FRAMES} frames in a row could not be read; the last: {error.message}", code="undecodable-media")

    def _drop(self, cause: str) -> None:
        drops = self._publication.health.drops
        drops[cause] = drops.get(cause, 0) + 1
        DROPS.labels("ingress", cause).value += 1

    def _count_repair(self, cause: str) -> None:
        repairs = self._publication.health.repairs
        repairs[cause] = repairs.get(cause, 0) + 1
