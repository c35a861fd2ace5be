"""Decoders over PyAV. Each belongs to one thread; FFmpeg's errors come out as PeerError, and the decoder lives on."""

from __future__ import annotations

from fractions import Fraction
from typing import cast

import av
from av.audio.codeccontext import AudioCodecContext
from av.codec.context import CodecContext, ThreadType
from av.video.codeccontext import VideoCodecContext

from medianode.codecs import jpeg
from medianode.errors import LimitExceeded, PeerError, ProtocolError, UnsupportedMedia
from medianode.media.packet import Packet
from medianode.media.track import Codec, Track

_DECODERS = {Codec.AV1: "libdav1d", Codec.OPUS: "libopus"}
"""Where FFmpeg's decoder of the codec's own name is not the one to use: `av1` needs hardware, `opus` is slower."""

_NO_EXTRADATA = frozenset({Codec.VP8, Codec.VP9, Codec.MJPEG, Codec.MP3})
"""vpcC means nothing to FFmpeg's decoders; the others have no configuration."""


class Decoder:
    """Common to both kinds. `close` drops the codec context, after which the decoder must not be used."""

    def __init__(self, track: Track, options: dict[str, str]) -> None:
        self.track = track
        self._time_base = Fraction(1, track.clock_rate)
        try:
            self._context: CodecContext | None = CodecContext.create(_DECODERS.get(track.codec, track.codec.value), "r")
        except (av.FFmpegError, ValueError) as e:
            raise UnsupportedMedia(f"{track.codec.value}: expected a decoder in this FFmpeg, got none: {e}") from None
        context = self._context
        context.thread_count = 1
        context.thread_type = ThreadType.NONE
        context.options = options
        if track.config and track.codec not in _NO_EXTRADATA:
            context.extradata = track.config

    @property
    def context(self) -> CodecContext:
        if self._context is None:
            raise PeerError("expected an open decoder, got a closed one", code="closed")
        return self._context

    def reset(self) -> None:
        """Forget the past: what follows starts at a key frame."""
        if self._context is not None and self._context.is_open:
            self._context.flush_buffers()

    def close(self) -> None:
        self._context = None

    def _wrap(self, packet: Packet) -> av.Packet[av.stream.Stream]:
        wrapped = av.Packet(packet.data)
        wrapped.pts, wrapped.dts, wrapped.time_base = packet.pts, packet.dts, self._time_base
        return wrapped

    def _fault(self, error: Exception) -> PeerError:
        return ProtocolError(f"{self.track.codec.value}: expected data that decodes, got: {error}", code="undecodable")


class VideoDecoder(Decoder):
    """Packets in, pictures out; `frame.pts` is in ticks of the track. Pictures of more than `max_pixels` are refused before they are made.

    `decode` raises LimitExceeded `picture-too-large`, else ProtocolError `undecodable`; then go on at the next key frame after `reset`.
    """

    def __init__(self, track: Track, max_pixels: int) -> None:
        super().__init__(track, {"max_pixels": str(max_pixels)})
        self._max_pixels = max_pixels
        self._check(track.width, track.height)

    def skip_non_reference(self, skip: bool) -> None:
        """Do not decode pictures that no other refers to."""
        self.context.skip_frame = "NONREF" if skip else "DEFAULT"

    def decode(self, packet: Packet | None) -> list[av.VideoFrame]:
        """None drains: no packet may follow but after `reset`."""
        if packet is not None and packet.track.codec is Codec.MJPEG:
            info = jpeg.parse_jpeg(packet.data)
            self._check(info.width, info.height)
        try:
            frames = cast("VideoCodecContext", self.context).decode(None if packet is None else self._wrap(packet))
        except (av.FFmpegError, ValueError, MemoryError) as e:
            raise self._fault(e) from None
        for frame in frames:
            self._check(frame.width, frame.height)
        return frames

    def _check(self, width: int, height: int) -> None:
        if width * height > self._max_pixels:
            raise LimitExceeded(
                f"{self.track.codec.value}: expected pictures of at most {self._max_pixels} pixels, got {width}x{height}",
                code="picture-too-large",
            )


class AudioDecoder(Decoder):
    """Packets in, sound out; `frame.pts` is in ticks of the track, None where FFmpeg does not tell. `decode` raises ProtocolError."""

    def __init__(self, track: Track) -> None:
        super().__init__(track, {})
        context = cast("AudioCodecContext", self.context)
        if track.codec in (Codec.PCM_ALAW, Codec.PCM_MULAW):  # the only ones whose bits do not tell
            context.sample_rate = track.sample_rate or track.clock_rate
            context.layout = "stereo" if track.channels == 2 else "mono"

    def decode(self, packet: Packet) -> list[av.AudioFrame]:
        try:
            return cast("AudioCodecContext", self.context).decode(self._wrap(packet))
        except (av.FFmpegError, ValueError, MemoryError) as e:
            raise self._fault(e) from None


def decode_keyframe(packet: Packet, max_pixels: int) -> av.VideoFrame:
    """The picture of a key frame by itself. Raises PeerError, as `VideoDecoder` and where there is none."""
    decoder = VideoDecoder(packet.track, max_pixels)
    try:
        frames = decoder.decode(packet) or decoder.decode(None)
    finally:
        decoder.close()
    if not frames:
        raise ProtocolError(f"{packet.track.codec.value}: expected a picture in a key frame of {len(packet.data)} bytes, got none")
    return frames[0]
