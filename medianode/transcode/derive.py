"""Stages: one track in, the derived track out. Each lives in its pipeline's thread and owns its decoder and its encoder."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from typing import NamedTuple, Protocol

import av

from medianode import clock
from medianode.errors import LimitExceeded, PeerError
from medianode.media.packet import Gap, Packet
from medianode.media.track import VIDEO_CLOCK_RATE, Codec, Track
from medianode.transcode.decode import AudioDecoder, VideoDecoder
from medianode.transcode.encode import AudioEncoder, H264Encoder, JpegEncoder
from medianode.transcode.mailbox import BEHIND, DROPS, Order
from medianode.transcode.rate import SourceRate
from medianode.transcode.want import fit

DRIFT_SECONDS = 0.1
"""How far derived sound may stray from the source's timestamps before it is put right."""
SILENCE_SECONDS = 5.0
"""The longest hole that is filled with silence; a longer one, or such a step back, is a Gap."""
BEHIND_SECONDS = 0.5
"""A picture that waited longer than this is not encoded when a newer one waits too."""
REALTIME_BEHIND_SECONDS = 0.12
"""The same for WebRTC, where it would be shown late, or too late for its jitter buffer."""

NO_INTERVAL = 86_400.0
"""Seconds between key frames where they come at the source's and on request only."""
_REORDER_WINDOW = 32
"""Pictures in a decoder at most; H.264 and H.265 allow 16."""

Output = Packet | Gap


@dataclass(slots=True)
class Tally:
    """What a rendition's thread counts; the loop only reads it. `silence` in seconds; `dropped` frames and packets by cause."""

    errors: int = 0
    reanchors: int = 0
    silence: float = 0.0
    dropped: dict[str, int] = field(default_factory=dict)
    last_error: str = ""

    def fault(self, error: PeerError) -> None:
        """A packet that does not decode: told of, then passed over."""
        self.errors += 1
        self.last_error = f"{error.code}: {error.message}"
        self.drop(error.code)

    def drop(self, cause: str, count: int = 1) -> None:
        self.dropped[cause] = self.dropped.get(cause, 0) + count
        DROPS.labels(cause).value += count


class Settings(NamedTuple):
    """`quality` (qscale) and `max_fps` are the JPEG encoder's, `keyframe_seconds` H.264's; `decode_pixels` bounds what is decoded."""

    quality: int
    max_fps: float
    keyframe_seconds: float
    decode_pixels: int


class Stage(Protocol):
    """`push` takes one packet (`last`: no newer one of this track waits), `finish` is called after each batch."""

    def push(self, packet: Packet, last: bool) -> list[Output]: ...
    def finish(self) -> list[Output]: ...
    def skipped(self) -> None: ...
    def force_keyframe(self) -> None: ...
    def close(self) -> None: ...


def derive(order: Order, settings: Settings, tally: Tally, *, realtime: bool = False) -> Stage:
    """The stage that an order asks for. Raises UnsupportedMedia, LimitExceeded."""
    if order.codec is Codec.MJPEG:
        return JpegStage(order.track, settings, tally)
    if order.codec is Codec.H264:
        return H264Stage(order.track, settings, tally, realtime=realtime, after=order.after, max_height=order.max_height)
    return AudioStage(order.track, order.codec, tally)


class AudioStage:
    """Sound to AAC or Opus on the source's media time."""

    def __init__(self, track: Track, codec: Codec, tally: Tally) -> None:
        self._tally = tally
        self._decoder = AudioDecoder(track)
        self._sound = Sound(track.id, track.clock_rate, codec, tally)

    def push(self, packet: Packet, last: bool) -> list[Output]:
        try:
            frames = self._decoder.decode(packet)
        except PeerError as e:
            self._tally.fault(e)
            return []
        out: list[Output] = []
        for frame in frames:
            out += self._sound.push(frame, packet.pts if frame.pts is None else frame.pts, packet.received_at)
        return out

    def finish(self) -> list[Output]:
        return []

    def skipped(self) -> None:
        """Of no concern: holes in sound are seen by their timestamps."""

    def force_keyframe(self) -> None:
        """Every packet is one."""

    def close(self) -> None:
        self._decoder.close()
        self._sound.close()


class Sound:
    """Decoded sound to AAC or Opus, in ticks of the encoder's rate, on the media time that the frames come with (`clock_rate`).

    Samples are counted; where the count and the timestamps part by more than DRIFT_SECONDS, silence is put in or sound is left out.
    """

    def __init__(self, track_id: int, clock_rate: int, codec: Codec, tally: Tally) -> None:
        self.track: Track | None = None
        self._id = track_id
        self._clock_rate = clock_rate
        self._codec = codec
        self._tally = tally
        self._encoder: AudioEncoder | None = None
        self._shape: tuple[int, str, str] = (0, "", "")
        self._origin = 0  # media time of the encoder's zero, in ticks of the source
        self._samples = 0  # handed to the encoder since, of the decoded rate
        self._cutting = False

    def push(self, frame: av.AudioFrame, at: int, received_at: float) -> list[Output]:
        """One frame that starts at `at`. A Gap comes first where the timestamps jump by more than SILENCE_SECONDS."""
        out: list[Output] = []
        rate = frame.sample_rate
        shape = (rate, frame.layout.name, frame.format.name)
        if shape != self._shape:
            self._open(shape, frame.layout.nb_channels, at)
        off = (at - self._origin) / self._clock_rate - self._samples / rate
        if abs(off) > SILENCE_SECONDS:
            self._tally.reanchors += 1
            self._open(shape, frame.layout.nb_channels, at)
            out.append(Gap("timestamp-jump"))
        elif off > DRIFT_SECONDS:
            self._tally.reanchors += 1
            self._tally.silence += off
            out += self._silence(round(off * rate), received_at)
        elif off < -DRIFT_SECONDS and not self._cutting:
            self._tally.reanchors += 1
            self._cutting = True
        if self._cutting:
            if off + frame.samples / rate / 2 < 0:
                self._tally.drop("audio-overlap")
                return out
            self._cutting = False
        return out + self._encode(frame, received_at)

    def close(self) -> None:
        if self._encoder is not None:
            self._encoder.close()
            self._encoder = None

    def _open(self, shape: tuple[int, str, str], channels: int, at: int) -> None:
        self.close()
        self._shape, self._origin, self._samples, self._cutting = shape, at, 0, False
        encoder = self._encoder = AudioEncoder(self._codec, shape[0], channels)
        self.track = Track(
            self._id, self._codec, encoder.sample_rate, encoder.config, sample_rate=encoder.sample_rate, channels=encoder.channels
        )

    def _silence(self, samples: int, received_at: float) -> list[Output]:
        rate, layout, form = self._shape
        out: list[Output] = []
        while samples > 0:
            frame = av.AudioFrame(form, layout, min(samples, rate // 10))
            frame.sample_rate = rate
            for plane in frame.planes:
                plane.update(bytes(plane.buffer_size))
            samples -= frame.samples
            out += self._encode(frame, received_at)
        return out

    def _encode(self, frame: av.AudioFrame, received_at: float) -> list[Output]:
        encoder, track = self._encoder, self.track
        if encoder is None or track is None:
            return []
        frame.pts, frame.time_base = self._samples, Fraction(1, frame.sample_rate)
        self._samples += frame.samples
        origin = self._origin * track.clock_rate // self._clock_rate
        # what starts before zero is the encoder's priming; a timeline that starts at 0 must not go below it
        return [Packet(track, e.data, origin + e.pts, origin + e.pts, True, received_at) for e in encoder.encode(frame) if e.pts >= 0]


class VideoStage:
    """Common to both: decode, and what to do about packets that do not."""

    def __init__(self, track: Track, settings: Settings, tally: Tally) -> None:
        self._track = track
        self._settings = settings
        self._tally = tally
        self._decoder = VideoDecoder(track, settings.decode_pixels)
        self._waits_for_key = True

    def skipped(self) -> None:
        self._decoder.reset()
        self._waits_for_key = True

    def close(self) -> None:
        self._decoder.close()

    def _decode(self, packet: Packet) -> list[av.VideoFrame]:
        if self._waits_for_key and not packet.keyframe:
            self._tally.drop("waits-for-keyframe")
            return []
        self._waits_for_key = False
        try:
            return self._decoder.decode(packet)
        except LimitExceeded:
            raise
        except PeerError as e:
            self._tally.fault(e)
            self.skipped()
            return []

    def _ticks(self, frame: av.VideoFrame, packet: Packet) -> int:
        pts = packet.pts if frame.pts is None else frame.pts
        return pts * VIDEO_CLOCK_RATE // self._track.clock_rate


class H264Stage(VideoStage):
    """Pictures to H.264 at the times they came with. Those that wait too long are left out: never a backlog.

    `realtime`: fit for WebRTC, at a rate that follows the source's. `after`: readers have pictures up to this pts already.
    `max_height`: as in an Order.
    """

    def __init__(
        self, track: Track, settings: Settings, tally: Tally, *, realtime: bool = False, after: int | None = None, max_height: int = 0
    ) -> None:
        super().__init__(track, settings, tally)
        self._max_height = max_height
        # every JPEG is a key frame: there an interval of our own
        self._follows = bool(max_height) and track.codec is not Codec.MJPEG
        self._keys: set[int] = set()
        self._encoder: H264Encoder | None = None
        self._size = (0, 0)
        self._derived = track
        self._realtime = realtime
        self._patience = REALTIME_BEHIND_SECONDS if realtime else BEHIND_SECONDS
        self._rate = SourceRate(track)
        self._frame_rate = 0.0
        self._arrivals: dict[int, float] = {}
        self._after = self._last_pts = after
        self._skips = False
        self._wants_key = False

    def push(self, packet: Packet, last: bool) -> list[Output]:
        stale = not last and clock.now() - packet.received_at > self._patience
        if stale and self._track.codec is Codec.MJPEG:
            self._tally.drop(BEHIND)
            return []
        if self._realtime:
            self._rate.push(packet)
            self._note(packet)
            if stale is not self._skips:
                self._skips = stale
                self._decoder.skip_non_reference(stale)
        if self._follows and packet.keyframe and len(self._keys) < _REORDER_WINDOW:
            self._keys.add(packet.pts)
        frames = self._decode(packet)
        if stale:
            if any(frame.pts in self._keys for frame in frames):
                self._wants_key = True  # the next one takes its part
            self._tally.drop(BEHIND, len(frames))
            return []
        return [encoded for frame in frames for encoded in self._encode(frame, packet)]

    def finish(self) -> list[Output]:
        return []

    def skipped(self) -> None:
        super().skipped()
        self._arrivals.clear()
        self._keys.clear()

    def force_keyframe(self) -> None:
        self._wants_key = True

    def close(self) -> None:
        super().close()
        if self._encoder is not None:
            self._encoder.close()

    def _note(self, packet: Packet) -> None:
        """A reordered picture leaves the decoder some packets later; it is as old as its own packet."""
        if len(self._arrivals) >= _REORDER_WINDOW:
            self._arrivals.pop(next(iter(self._arrivals)))
        self._arrivals[packet.pts] = packet.received_at

    def _encode(self, frame: av.VideoFrame, packet: Packet) -> list[Output]:
        pts = self._ticks(frame, packet)
        if self._last_pts is not None and pts <= self._last_pts:
            if self._after is None or pts > self._after:
                self._tally.drop("timestamp-back")
            return []
        self._last_pts = pts
        received_at = self._arrivals.pop(frame.pts or 0, packet.received_at)
        encoder = self._fitting(frame)
        if frame.pts in self._keys:
            self._keys = {pts for pts in self._keys if pts > frame.pts}
            self._wants_key = True
        if self._wants_key:
            self._wants_key, encoder.force_keyframe = False, True
        return [Packet(self._derived, e.data, e.pts, e.dts, e.keyframe, received_at) for e in encoder.encode(frame, pts)]

    def _fitting(self, frame: av.VideoFrame) -> H264Encoder:
        """The encoder at hand, or a new one where the size changed, or the source's rate has and a key frame is due anyway."""
        encoder = self._encoder
        width, height = self._size
        if encoder is not None and (frame.width, frame.height) == self._size:
            follows = self._realtime and encoder.key_due(self._last_pts or 0)
            if not (follows and self._rate.parted(encoder.bound, width, height)):
                return encoder
        if encoder is not None:
            encoder.close()
        self._size = (frame.width, frame.height)
        if not self._frame_rate:  # once: the configuration tells it, and an encoder made anew shall have the same
            self._frame_rate = self._track.frame_rate or self._rate.frame_rate or (15.0 if self._track.codec is Codec.MJPEG else 30.0)
        encoder = self._encoder = H264Encoder(
            *fit(frame.width, frame.height, self._max_height),
            frame_rate=self._frame_rate,
            keyframe_seconds=NO_INTERVAL if self._follows else self._settings.keyframe_seconds,
            bit_rate=self._rate.bound(frame.width, frame.height) if self._realtime else 0,
            colorspace=frame.colorspace,
            realtime=self._realtime,
        )
        self._derived = Track(
            self._track.id, Codec.H264, VIDEO_CLOCK_RATE, encoder.config, encoder.width, encoder.height, self._track.frame_rate
        )
        return encoder


class JpegStage(VideoStage):
    """Pictures to JPEG, at most `max_fps` of media time, and of each batch only the newest: a viewer never sees a backlog.

    A source of twice `max_fps` and more is decoded without its non-reference pictures.
    """

    _WINDOW = 30  # packets over which the source's rate is measured

    def __init__(self, track: Track, settings: Settings, tally: Tally) -> None:
        super().__init__(track, settings, tally)
        self._encoder: JpegEncoder | None = None
        self._derived = track
        self._newest: tuple[av.VideoFrame, Packet] | None = None
        self._interval = round(VIDEO_CLOCK_RATE / settings.max_fps)
        self._due: int | None = None
        self._window: tuple[int, int] = (0, 0)

    def push(self, packet: Packet, last: bool) -> list[Output]:
        self._measure(packet)
        for frame in self._decode(packet):
            pts = self._ticks(frame, packet)
            if self._due is None or abs(pts - self._due) > SILENCE_SECONDS * VIDEO_CLOCK_RATE:
                self._due = pts
            if pts + self._interval // 10 >= self._due:
                self._due = max(self._due, pts - self._interval) + self._interval
                if self._newest is not None:
                    self._tally.drop(BEHIND)
                self._newest = (frame, packet)
        return []

    def finish(self) -> list[Output]:
        if self._newest is None:
            return []
        frame, packet = self._newest
        self._newest = None
        encoder = self._encoder
        if encoder is None or (encoder.width, encoder.height) != (frame.width, frame.height):
            if encoder is not None:
                encoder.close()
            encoder = self._encoder = JpegEncoder(frame.width, frame.height, self._settings.quality)
            self._derived = Track(self._track.id, Codec.MJPEG, VIDEO_CLOCK_RATE, b"", frame.width, frame.height)
        pts = self._ticks(frame, packet)
        return [Packet(self._derived, encoder.encode(frame), pts, pts, True, packet.received_at)]

    def force_keyframe(self) -> None:
        """Every picture is one."""

    def close(self) -> None:
        super().close()
        self._newest = None
        if self._encoder is not None:
            self._encoder.close()

    def _measure(self, packet: Packet) -> None:
        count, since = self._window
        if count == 0:
            self._window = (1, packet.dts)
        elif count < self._WINDOW:
            self._window = (count + 1, since)
        else:
            seconds = (packet.dts - since) / self._track.clock_rate
            self._decoder.skip_non_reference(seconds > 0 and count / seconds >= 1.95 * self._settings.max_fps)
            self._window = (1, packet.dts)
