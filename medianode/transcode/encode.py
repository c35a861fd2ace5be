"""Encoders over PyAV. Each belongs to one thread and gives data as Packets carry it, with the Track that goes along."""

from __future__ import annotations

from fractions import Fraction
from typing import NamedTuple, cast

import av
from av.audio.codeccontext import AudioCodecContext
from av.codec.context import CodecContext
from av.codec.context import Flags as CodecFlags
from av.video.codeccontext import VideoCodecContext
from av.video.frame import PictureType
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter

from medianode.codecs import h264, nal
from medianode.errors import UnsupportedMedia
from medianode.media.track import VIDEO_CLOCK_RATE, Codec

AAC_BIT_RATE = 128_000
OPUS_BIT_RATES = {1: 32_000, 2: 64_000}
OPUS_LOSS_PERCENT = 5
VBV_SECONDS = 0.3
_SMALL_PIXELS = 640 * 360
_LEVELS = (
    ("3.0", 1_620, 40_500),
    ("3.1", 3_600, 108_000),
    ("3.2", 5_120, 216_000),
    ("4.0", 8_192, 245_760),
    ("4.2", 8_704, 522_240),
    ("5.0", 22_080, 589_824),
    ("5.1", 36_864, 983_040),
    ("5.2", 36_864, 2_073_600),
)
"""level, MaxFS, MaxMBPS"""
_TICK = Fraction(1, VIDEO_CLOCK_RATE)
_OPUS = {"vbr": "off", "compression_level": "3", "fec": "1", "packet_loss": str(OPUS_LOSS_PERCENT)}
"""Level 3 keeps what is heard (spreading, transients) for 15 % less than 5. From 10 % of expected loss on libopus trades CELT for its
hybrid mode: three times the CPU and a narrower band, for redundancy that a retransmission gives as well."""
_UNSPECIFIED = 2
_YUV_MATRICES = frozenset({1, 5, 6, 7, 9})


class Encoded(NamedTuple):
    """`pts` and `dts` in ticks of the encoder's clock rate."""

    data: bytes
    pts: int
    dts: int
    keyframe: bool


class H264Encoder:
    """libx264 without B-frames and without delay: one picture in, one access unit out. yuv420p of even size, limited range.

    Real timestamps are kept (variable frame rate); a key frame every `keyframe_seconds` of media time and whenever `force_keyframe` is set.
    `config` is the avcC. `bit_rate` bounds the rate (bits per second, over one second); the quality is constant below it.
    `colorspace` is the matrix (ITU-T H.273) of the pictures, told on: a JPEG's is BT.601 at any size, where players guess BT.709 for HD.
    Constrained Baseline, the cheapest to make, or with `high` High profile.
    `realtime`: key frames of at most VBV_SECONDS of the rate, which WebRTC viewers behind narrow links need, and one level for a size and
    rate, so that an encoder made anew with another `bit_rate` has the same `config`. `bound` is the rate's bound. `sps_id`: the number of
    its parameter sets, 0 to 31.
    """

    def __init__(
        self,
        width: int,
        height: int,
        *,
        frame_rate: float,
        keyframe_seconds: float = 2.0,
        bit_rate: int = 0,
        high: bool = False,
        colorspace: int = _UNSPECIFIED,
        realtime: bool = False,
        sps_id: int = 0,
    ) -> None:
        self.width, self.height = max(2, width & ~1), max(2, height & ~1)
        self.force_keyframe = False
        self._next_key: int | None = None
        self._key_interval = round(keyframe_seconds * VIDEO_CLOCK_RATE)
        bound = self.bound = bit_rate or max(600_000, round(self.width * self.height * 3.2))
        context = cast("VideoCodecContext", _create("libx264"))
        self._reformatter = VideoReformatter()
        context.width, context.height, context.pix_fmt = self.width, self.height, "yuv420p"
        context.time_base = _TICK
        # a measured rate moves a little, and the VUI tells it
        context.framerate = Fraction(max(1, round(frame_rate))) if realtime else Fraction(frame_rate).limit_denominator(1001)
        context.thread_count = 1
        context.max_b_frames = 0
        context.gop_size = 1 << 20  # key frames come by media time, not by count
        context.flags |= CodecFlags.global_header
        context.color_range = ColorRange.MPEG
        context.colorspace = colorspace if colorspace in _YUV_MATRICES else _UNSPECIFIED
        options = {
            "preset": "ultrafast",
            "tune": "zerolatency",
            "forced-idr": "1",
            "crf": "23",
            "maxrate": str(bound),
            "bufsize": str(bound),
            "x264-params": f"annexb=0:scenecut=0:sps-id={sps_id}" + (":cabac=1:8x8dct=1" if high else ""),
        }
        if realtime:
            options |= {
                # a tenth fewer bits for half as much again of CPU, which only small pictures can spare
                "preset": "superfast" if self.width * self.height <= _SMALL_PIXELS else "ultrafast",
                "profile": "baseline",
                "level": _level(self.width, self.height, frame_rate),
                "bufsize": str(round(bound * max(VBV_SECONDS, 1.5 / max(frame_rate, 1.0)))),
            }
        context.options = options
        try:
            context.open()
        except (av.FFmpegError, ValueError) as e:
            raise UnsupportedMedia(f"libx264: expected a size it can encode, got {self.width}x{self.height}: {e}") from None
        self._context: VideoCodecContext | None = context
        self.config = _avcc(context.extradata or b"")

    def encode(self, frame: av.VideoFrame, pts: int) -> list[Encoded]:
        """One picture of any size and format, at `pts` in ticks of 90 kHz (strictly rising)."""
        if self._context is None:
            return []
        picture = self._limited(frame)
        picture.pts, picture.time_base = pts, _TICK
        key = self.key_due(pts)
        picture.pict_type = PictureType.I if key else PictureType.NONE
        if key:
            self.force_keyframe = False
            self._next_key = pts + self._key_interval
        return [self._unpack(packet) for packet in self._context.encode(picture)]

    def key_due(self, pts: int) -> bool:
        """Whether the picture at `pts` becomes a key frame."""
        return self.force_keyframe or self._next_key is None or pts >= self._next_key

    def close(self) -> None:
        self._context = None

    def _limited(self, frame: av.VideoFrame) -> av.VideoFrame:
        if (frame.width, frame.height, frame.format.name, _range(frame)) == (self.width, self.height, "yuv420p", "MPEG"):
            return frame
        return self._reformatter.reformat(frame, self.width, self.height, "yuv420p", src_color_range=_range(frame), dst_color_range="MPEG")

    def _unpack(self, packet: av.Packet[av.stream.Stream]) -> Encoded:
        pts = packet.pts or 0
        return Encoded(h264.normalise(bytes(packet)).data, pts, pts, packet.is_keyframe)


def _level(width: int, height: int, frame_rate: float) -> str:
    """The least of H.264 table A-1 that holds this size and rate; 3.0 and 30 pictures a second at least."""
    macroblocks = -(-width // 16) * -(-height // 16)
    pictures = max(30, round(frame_rate))
    fits = (name for name, size, rate in _LEVELS if macroblocks <= size and macroblocks * pictures <= rate)
    return next(fits, "6.2")


def _avcc(extradata: bytes) -> bytes:
    """libx264 gives an avcC with `annexb=0`; an FFmpeg before 6.1 gives Annex B."""
    if extradata[:1] == b"\x01":
        return extradata
    units = nal.split(nal.from_annexb(extradata))
    sps = [unit for unit in units if unit[0] & 31 == h264.NalType.SPS]
    return h264.build_avcc(sps, [unit for unit in units if unit[0] & 31 == h264.NalType.PPS])


def _create(name: str) -> CodecContext:
    try:
        return CodecContext.create(name, "w")
    except (av.FFmpegError, ValueError) as e:
        raise UnsupportedMedia(f"expected the encoder {name} in this FFmpeg, got none: {e}", code="no-encoder") from None


def _range(frame: av.VideoFrame) -> str:
    """Full range where it is told, or where the format is one of JPEG's."""
    return "JPEG" if frame.color_range == ColorRange.JPEG or frame.format.name.startswith("yuvj") else "MPEG"


class JpegEncoder:
    """Baseline JPEG, 4:2:0 and full range, of any size, odd ones too. `quality` is FFmpeg's qscale: 1 best … 31."""

    def __init__(self, width: int, height: int, quality: int) -> None:
        self.width, self.height = width, height
        self._pts = 0
        context = cast("VideoCodecContext", _create("mjpeg"))
        self._reformatter = VideoReformatter()
        context.width, context.height, context.pix_fmt = width, height, "yuvj420p"
        context.color_range = ColorRange.JPEG
        context.colorspace = Colorspace.ITU601
        context.time_base = _TICK
        context.thread_count = 1
        context.qmin = context.qmax = quality
        context.options = {"huffman": "default"}  # the standard's tables: a fifth more bytes, a quarter less CPU
        try:
            context.open()
        except (av.FFmpegError, ValueError) as e:
            raise UnsupportedMedia(f"mjpeg: expected a size it can encode, got {width}x{height}: {e}") from None
        self._context: VideoCodecContext | None = context

    def encode(self, frame: av.VideoFrame) -> bytes:
        if self._context is None:
            return b""
        picture = self._reformatter.reformat(
            frame,
            self.width,
            self.height,
            "yuvj420p",
            dst_colorspace=Colorspace.ITU601,
            src_color_range=_range(frame),
            dst_color_range="JPEG",
        )
        self._pts += 1
        picture.pts, picture.time_base, picture.pict_type = self._pts, _TICK, PictureType.NONE
        return b"".join(bytes(packet) for packet in self._context.encode(picture))

    def close(self) -> None:
        self._context = None


class AudioEncoder:
    """AAC-LC at 128 kbit/s (`sample_rate` 44 100 or 48 000) or Opus at 48 kHz, 32 kbit/s mono and 64 kbit/s stereo; at most stereo.

    Opus packets are of one size (constant bit rate), so that several of a batch leave in one segmented send.

    Sound comes in as frames of any rate and layout with `pts` in samples of their own rate, without holes. What comes out has `pts` in
    ticks of `sample_rate`, the encoder's delay taken off, so the first packet starts before zero (AAC priming: 1024, Opus: its pre-skip).
    `config` is the AudioSpecificConfig or the OpusHead.
    """

    def __init__(self, codec: Codec, sample_rate: int, channels: int) -> None:
        self.codec = codec
        self.sample_rate = 48_000 if codec is Codec.OPUS or sample_rate not in (44_100, 48_000) else sample_rate
        self.channels = min(max(channels, 1), 2)
        opus = codec is Codec.OPUS
        context = cast("AudioCodecContext", _create("libopus" if opus else "aac"))
        context.sample_rate = self.sample_rate
        context.layout = "stereo" if self.channels == 2 else "mono"
        context.format = "flt" if opus else "fltp"
        context.bit_rate = OPUS_BIT_RATES[self.channels] if opus else AAC_BIT_RATE
        context.time_base = Fraction(1, self.sample_rate)
        context.thread_count = 1
        context.flags |= CodecFlags.global_header
        # half the CPU of the defaults at rates where the difference is hard to hear
        context.options = _OPUS if opus else {"aac_coder": "fast"}
        try:
            context.open()
        except (av.FFmpegError, ValueError) as e:
            raise UnsupportedMedia(f"{codec.value}: expected a rate and layout it can encode: {e}") from None
        self._context: AudioCodecContext | None = context
        self.frame_size = context.frame_size
        self.config = context.extradata or b""

    def encode(self, frame: av.AudioFrame | None) -> list[Encoded]:
        """None drains: nothing may follow. Raises av.FFmpegError or ValueError where the frame's layout changed in between."""
        if self._context is None:
            return []
        return [Encoded(bytes(p), p.pts or 0, p.pts or 0, True) for p in self._context.encode(frame) if p.size]

    def close(self) -> None:
        self._context = None


def h264_available() -> bool:
    """Whether this FFmpeg has libx264."""
    try:
        av.Codec("libx264", "w")
    except (av.FFmpegError, ValueError):
        return False
    return True
