"""Assembler: frames of a publisher become the Tracks and Packets of its Publication.

Tracks are decided from real packets with a bounded wait, never from metadata: encoders announce audio they never send, send two seconds of
audio before video, or announce nothing. What comes late, or changes its parameter sets, opens a new Track set and a discontinuity.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import NamedTuple

from medianode import telemetry
from medianode.errors import LimitExceeded, PeerError, ProtocolError, UnsupportedMedia
from medianode.ingress.elementary import ElementaryStream, Unit
from medianode.media.packet import Gap, Packet
from medianode.media.timeline import AudioClock, Timeline
from medianode.media.track import Codec, Kind, Track
from medianode.routing.publication import Publication

log = logging.getLogger("medianode.ingress")
DROPS = telemetry.counter("medianode_dropped_total", "Packets dropped, by place and cause", "place", "cause")
UNWANTED = {Kind.VIDEO: "audio-only", Kind.AUDIO: "video-only"}
PENDING_PACKETS = 2048
"""Packets held while the tracks are being decided."""
PENDING_BYTES = 16 << 20
BAD_FRAMES = 250
"""So many undecodable frames in a row and the publisher is refused."""
LAYER_WAIT = 0.7
"""Seconds from the first frame that the start waits for announced layers, once picture and sound are there."""


class Stream:
    """One stream of the publisher. `copied`: the Track of another stream that this one repeats. `heard`: something of it came."""

    __slots__ = ("audio_clock", "copied", "elementary", "heard", "last_dts", "waits_keyframe")

    def __init__(self, elementary: ElementaryStream) -> None:
        self.elementary = elementary
        self.audio_clock: AudioClock | None = None
        self.copied: Track | None = None
        self.heard = False
        self.last_dts = -(1 << 62)
        self.waits_keyframe = elementary.codec.kind is Kind.VIDEO


class Parsed(NamedTuple):
    """An access unit that was read and not yet placed."""

    stream: Stream
    unit: Unit


class Assembler:
    """Sync and per publisher. `track_wait`: seconds from the first frame until the stream starts with what there is.

    `expected`: ids of the tracks that were announced in a way that can be relied on; the start waits for these, no longer and no more.
    """

    def __init__(self, publication: Publication, track_wait: float, max_tracks: int, expected: frozenset[int] = frozenset()) -> None:
        self._publication = publication
        self._track_wait = track_wait
        self._max_tracks = max_tracks
        self._expected = expected
        self._timeline = Timeline()
        self._streams: dict[tuple[Kind, int], Stream] = {}
        self._pending: list[Packet] | None = []
        self._pending_bytes = 0
        self._first_at: float | None = None
        self._bad = 0
        self._kinds = publication.grant.kinds

    @property
    def publication(self) -> Publication:
        """Where it writes."""
        return self._publication

    def configure(self, codec: Codec, track_id: int, record: bytes, now: float) -> None:
        """A sequence header, or what stands for it (SDP). Raises LimitExceeded on too many tracks; an unreadable one counts as a bad frame.

        It announces, no more: a track is told with its first frame. Players of HLS wait for the sound of a camera whose microphone is off.
        """
        stream = self._stream(codec, track_id)
        try:
            track = stream.elementary.configure(record)
        except ProtocolError as e:
            self.bad_frame(e)
            return
        if track is not None and stream.heard:
            self._adopt(stream, track, now)

    def frame(self, codec: Codec, track_id: int, data: bytes, ms: int, composition_ms: float, now: float, ticks: int = 0) -> None:
        """One access unit at `ms` of the publisher's unwrapped clock; pts is `composition_ms` later.

        `ticks`: of 90 kHz beyond the millisecond (under 90), from sources that tell them: pictures keep them.
        """
        parsed = self.parse(codec, track_id, data, now)
        if parsed is None:
            return
        stream, unit = parsed
        if unit.track is not None:
            self._adopt(stream, unit.track, now)
        track = stream.elementary.track
        if track is None:
            return
        placed = self._timeline.place(track.id, ms, now)
        self._publication.health.drift = self._timeline.drift
        if placed.jumped:
            self.jumped()
        if placed.repaired:
            self.count_repair("timestamp-clamped")
        if track.is_video:
            dts = placed.ms * 90 + ticks
            self._place(stream, unit, dts, dts + round(composition_ms * 90), now)
            return
        if stream.audio_clock is None:
            stream.audio_clock = AudioClock(track.clock_rate)
        anchors = stream.audio_clock.anchors
        pts = stream.audio_clock.place(placed.ms, unit.samples)
        if stream.audio_clock.anchors != anchors:
            self.count_repair("audio-reanchored")
        stream.last_dts = pts
        self._emit(Packet(track, unit.data, pts, pts, unit.keyframe, now))

    def parse(self, codec: Codec, track_id: int, data: bytes, now: float, layer: str = "") -> Parsed | None:
        """Read one access unit; None where nothing can be made of it. Raises LimitExceeded on too many tracks."""
        if self._first_at is None:
            self._first_at = now
        stream = self._stream(codec, track_id, layer)
        try:
            unit = stream.elementary.unit(data)
        except ProtocolError as e:
            self.bad_frame(e)
            return None
        if unit is None:
            self.drop("no-configuration")
            return None
        self._bad = 0
        if not stream.heard:
            stream.heard = True
            unit = unit._replace(track=stream.elementary.track)
        return Parsed(stream, unit)

    def put(self, parsed: Parsed, ticks: int, now: float, also: int | None = None, pts: int | None = None) -> bool:
        """An access unit whose dts is exactly `ticks` of its track's clock; its pts too, unless `pts` (of a picture that is reordered) says
        otherwise.

        `also`: the video track id under which it is shown as well, without its layer (a changed track of both is told once).
        False where it waits for a key frame and was dropped.
        """
        stream, unit = parsed
        track = stream.elementary.track
        if track is None:
            return False
        copy = None if also is None else self._stream(track.codec, also)
        new = unit.track
        if copy is not None and copy.copied is not track:
            copy.copied = track
            renewed = replace(track, id=copy.elementary.id, layer="")
            if renewed != copy.elementary.track:
                copy.elementary.track = new = renewed
                copy.heard = True
                copy.waits_keyframe = True
                if self._pending is not None:
                    # what waits under the old track will not be shown
                    copy.last_dts = -(1 << 62)
        if new is not None:
            self._adopt(stream, new, now)
        shown = ticks if pts is None else max(pts, ticks)
        taken = self._place(stream, unit, ticks, shown, now)
        return taken if copy is None or not taken else self._place(copy, unit, ticks, shown, now)

    def damaged(self, kind: Kind, track_id: int) -> None:
        """Something of this stream is missing: a picture must not be shown before the next key frame."""
        stream = self._streams.get((kind, track_id))
        if stream is not None and kind is Kind.VIDEO:
            stream.waits_keyframe = True

    @property
    def decided(self) -> bool:
        """The tracks are told; from here on a new one is a break for every reader."""
        return self._pending is None

    def _place(self, stream: Stream, unit: Unit, dts: int, pts: int, now: float) -> bool:
        track = stream.elementary.track
        assert track is not None
        if stream.waits_keyframe:
            if not unit.keyframe:
                self.drop("waiting-for-keyframe")
                return False
            stream.waits_keyframe = False
        if dts <= stream.last_dts:
            # two pictures in one tick: keep them apart, decoders want growing dts
            dts = stream.last_dts + 1
            pts = max(pts, dts)
        stream.last_dts = dts
        self._emit(Packet(track, unit.data, pts, dts, unit.keyframe, now))
        return True

    def tick(self, now: float) -> None:
        """Decide when the wait is over; called a few times a second and with every frame while undecided."""
        if self._pending is not None and self._first_at is not None and now - self._first_at >= self._track_wait:
            self._decide()

    def finish(self) -> None:
        """The publisher is done; a stream shorter than the wait is still shown."""
        if self._pending:
            self._decide()

    def _stream(self, codec: Codec, track_id: int, layer: str = "") -> Stream:
        key = (codec.kind, track_id)
        stream = self._streams.get(key)
        if stream is None:
            if len(self._streams) >= self._max_tracks:
                raise LimitExceeded(f"expected at most {self._max_tracks} tracks, got another")
            # 0 and 1 are the main video and audio; multitrack ids follow in pairs
            ident = track_id * 2 + (codec.kind is Kind.AUDIO)
            stream = self._streams[key] = Stream(ElementaryStream(ident, codec, layer=layer))
        elif stream.elementary.codec is not codec:
            last = stream.last_dts
            stream = self._streams[key] = Stream(ElementaryStream(stream.elementary.id, codec, layer=layer))
            stream.last_dts = last if codec.kind is Kind.VIDEO else stream.last_dts
        return stream

    def _adopt(self, stream: Stream, track: Track, now: float) -> None:
        if track.is_video:
            stream.waits_keyframe = True
        elif stream.audio_clock is not None:
            stream.audio_clock = None
        if self._pending is None:
            # readers start anew after a changed set, with a key frame
            for other in self._streams.values():
                other.waits_keyframe = other.elementary.codec.kind is Kind.VIDEO
            self._publication.set_tracks(self._tracks())
        elif self._pending and self._complete(now):
            self._decide()
        else:
            self.tick(now)

    def _complete(self, now: float) -> bool:
        """All that was announced is there; where nothing was, one of each kind."""
        known = {track.id for track in self._tracks()}
        if not self._expected:
            return len({ident & 1 for ident in known}) == len(self._kinds)
        if known >= self._expected:
            return True
        kinds = {ident & 1 for ident in known} >= {ident & 1 for ident in self._expected}
        return kinds and self._first_at is not None and now - self._first_at >= LAYER_WAIT

    def _tracks(self) -> tuple[Track, ...]:
        known = [s.elementary.track for s in self._streams.values() if s.heard and s.elementary.track is not None]
        return tuple(sorted(known, key=lambda t: t.id))

    def _emit(self, packet: Packet) -> None:
        if self._pending is None:
            self._publication.write(packet)
            return
        self._pending.append(packet)
        self._pending_bytes += len(packet.data)
        if self._complete(packet.received_at) or len(self._pending) >= PENDING_PACKETS or self._pending_bytes >= PENDING_BYTES:
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
                self.drop("track-changed")

    def jumped(self) -> None:
        """The source's clock jumped: time goes on, and readers are told of the break."""
        self.count_repair("timestamp-jump")
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
        self.drop("unsupported" if isinstance(error, UnsupportedMedia) else "undecodable")
        self._publication.health.last_error = error.message
        self._bad += 1
        if self._bad >= BAD_FRAMES:
            kind = UnsupportedMedia if isinstance(error, UnsupportedMedia) else ProtocolError
            raise kind(f"{BAD_FRAMES} frames in a row could not be read; the last: {error.message}", code="undecodable-media")

    def unwanted(self, kind: Kind) -> None:
        """Of a kind that is not to be published here: passed over, and told once. Encoders send pictures whether or not they are wanted."""
        cause = UNWANTED[kind]
        notes = self._publication.health.notes
        if cause not in notes:
            kept, left_out = ("sound", "picture") if kind is Kind.VIDEO else ("picture", "sound")
            note = notes[cause] = f"this stream takes {kept} only: the {left_out} that comes is left out"
            grant = self._publication.grant
            log.warning("media left out", extra={"fields": {"room": grant.room, "identity": grant.identity, "code": cause, "reason": note}})
        self.drop(cause)

    def drop(self, cause: str) -> None:
        """Count one lost packet or frame."""
        drops = self._publication.health.drops
        drops[cause] = drops.get(cause, 0) + 1
        DROPS.labels("ingress", cause).value += 1

    def count_repair(self, cause: str) -> None:
        """Count one thing that was put right."""
        repairs = self._publication.health.repairs
        repairs[cause] = repairs.get(cause, 0) + 1
