"""Loop-making: artwork encoded once in the format of what was on air, to be shown over and over without an encoder.

H.264 keeps the very Track that players have: the slate's own parameter sets go in band, before its key frames, under numbers that the
source does not use. So nothing changes for a player, no new initialisation segment and no new decoder; which is what FFmpeg needs, for it
does not follow a changed one within fMP4. When the encoder is back its slices refer to their own sets again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from typing import NamedTuple, cast

import av
from av.codec.context import CodecContext
from av.codec.context import Flags as CodecFlags
from av.video.codeccontext import VideoCodecContext

from medianode.codecs import h264, hevc, nal
from medianode.codecs.bits import BitReader
from medianode.errors import ProtocolError, UnsupportedMedia
from medianode.media.packet import Packet
from medianode.media.track import VIDEO_CLOCK_RATE, Codec, Track
from medianode.routing.fallback import Loop, Strand
from medianode.transcode.artwork import Artwork, picture, pictures
from medianode.transcode.encode import AudioEncoder, Encoded, H264Encoder, JpegEncoder

SECONDS = 2
"""Of one loop, and between its key frames: late joiners and HLS segments wait for one."""
WIDTH, HEIGHT, FRAME_RATE, SAMPLE_RATE = 1280, 720, 30, 48_000
"""What a room gets that nobody has published in yet."""
JPEG_RATE = 5
WARM = 8
"""Frames of silence after which an encoder gives the same packet over and over."""
_SILENT_BYTE = {Codec.PCM_ALAW: 0xD5, Codec.PCM_MULAW: 0xFF}
_FROM_OTHERS = (Codec.MP3, Codec.FLAC, Codec.AC3, Codec.EAC3)


class _Format(NamedTuple):
    width: int
    height: int
    frame_rate: int


def make_loop(artwork: Artwork, like: tuple[Track, ...]) -> Loop:
    """Takes a second of CPU or so; for a thread. `like` empty: H.264 and AAC in the house's format. Raises MedianodeError."""
    video = next((track for track in like if track.is_video), None)
    audio = next((track for track in like if not track.is_video), None)
    if not like:
        video = Track(0, Codec.H264, VIDEO_CLOCK_RATE, width=WIDTH, height=HEIGHT, frame_rate=FRAME_RATE)
        audio = Track(1, Codec.AAC, SAMPLE_RATE, sample_rate=SAMPLE_RATE, channels=2)
    strands: list[Strand] = []
    if video is not None:
        strands.append(_pictures(artwork, video))
    if audio is not None:
        strands.append(_silence(audio))
    return Loop(tuple(strands), sum(len(packet.data) for strand in strands for packet in strand.packets))


def _pictures(artwork: Artwork, like: Track) -> Strand:
    size = _Format(max(16, like.width or WIDTH), max(16, like.height or HEIGHT), min(60, max(5, round(like.frame_rate or FRAME_RATE))))
    if like.codec is Codec.MJPEG:
        return _jpegs(artwork, like, size)
    size = _Format(size.width & ~1, size.height & ~1, size.frame_rate)
    frames = pictures(artwork, *size, SECONDS)
    if like.codec is Codec.HEVC:
        track, encoded = _hevc(frames, like, size)
    elif like.codec in (Codec.VP8, Codec.VP9):
        track, encoded = like, _vpx(frames, like.codec, size)
    else:
        track, encoded = _h264(frames, like, size)
    packets = tuple(Packet(track, e.data, _at(n, size), _at(n, size), e.keyframe, 0.0) for n, e in enumerate(encoded))
    return Strand(track, packets, _at(len(encoded), size))


def _at(number: int, size: _Format) -> int:
    return number * VIDEO_CLOCK_RATE // size.frame_rate


def _frames(frames: Iterator[av.VideoFrame], size: _Format, encode: Callable[[av.VideoFrame, int], list[Encoded]]) -> list[Encoded]:
    return [e for number, frame in enumerate(frames) for e in encode(frame, _at(number, size))]


def _h264(frames: Iterator[av.VideoFrame], like: Track, size: _Format) -> tuple[Track, list[Encoded]]:
    theirs = _sets_of(like)
    number = next(n for n in range(31, -1, -1) if n not in theirs) if theirs else 0
    encoder = H264Encoder(size.width, size.height, frame_rate=size.frame_rate, keyframe_seconds=SECONDS, realtime=True, sps_id=number)
    try:
        encoded = _frames(frames, size, encoder.encode)
    finally:
        encoder.close()
    if not theirs or (like.width, like.height) != (size.width, size.height):
        track = Track(like.id, Codec.H264, VIDEO_CLOCK_RATE, encoder.config, size.width, size.height, float(size.frame_rate))
        return track, encoded
    record = h264.parse_avcc(encoder.config)
    sets = nal.join((*record.sps, *record.pps))
    return like, [e._replace(data=sets + e.data) if e.keyframe else e for e in encoded]


def _sets_of(like: Track) -> frozenset[int]:
    """Numbers of the source's sequence parameter sets; its picture parameter sets may have any, and ours has the one of its sequence's.
    Empty where it is not H.264, or in a way that ours does not go along with.
    """
    if like.codec is not Codec.H264:
        return frozenset()
    try:
        record = h264.parse_avcc(like.config)
        found = frozenset(h264.parse_sps(unit).sps_id for unit in record.sps)
        pictures = frozenset(BitReader(unit[1:], "PPS").ue() for unit in record.pps)
    except ProtocolError:
        return frozenset()
    both = found | pictures
    return both if len(both & frozenset(range(32))) < 32 else frozenset()


def _hevc(frames: Iterator[av.VideoFrame], like: Track, size: _Format) -> tuple[Track, list[Encoded]]:
    """Under parameter sets of its own: players see the track change, in the same codec."""
    params = f"log-level=error:annexb=1:repeat-headers=0:keyint={SECONDS * size.frame_rate}:scenecut=0:bframes=0:pools=1:frame-threads=1"
    options = {"preset": "ultrafast", "tune": "zerolatency", "forced-idr": "1", "x265-params": params}
    context = _context("libx265", size, options)
    encoded = _frames(frames, size, _encode(context))
    units = nal.split(nal.from_annexb(context.extradata or b""))
    sets = [[unit for unit in units if unit[0] >> 1 & 63 == kind] for kind in (hevc.NalType.VPS, hevc.NalType.SPS, hevc.NalType.PPS)]
    track = Track(like.id, Codec.HEVC, VIDEO_CLOCK_RATE, hevc.build_hvcc(*sets), size.width, size.height, float(size.frame_rate))
    return track, [e._replace(data=hevc.normalise(nal.from_annexb(e.data)).data) for e in encoded]


def _vpx(frames: Iterator[av.VideoFrame], codec: Codec, size: _Format) -> list[Encoded]:
    """VP8 and VP9 have their parameters in every key frame."""
    options = {"deadline": "realtime", "cpu-used": "8", "lag-in-frames": "0", "auto-alt-ref": "0", "crf": "20", "b": "2M"}
    return _frames(frames, size, _encode(_context("libvpx" if codec is Codec.VP8 else "libvpx-vp9", size, options)))


def _context(name: str, size: _Format, options: dict[str, str]) -> VideoCodecContext:
    try:
        context = cast("VideoCodecContext", CodecContext.create(name, "w"))
        context.width, context.height, context.pix_fmt = size.width, size.height, "yuv420p"
        context.time_base, context.framerate = Fraction(1, VIDEO_CLOCK_RATE), Fraction(size.frame_rate)
        context.thread_count, context.max_b_frames, context.gop_size = 1, 0, SECONDS * size.frame_rate
        context.flags |= CodecFlags.global_header
        context.options = options
        context.open()
    except (av.FFmpegError, ValueError) as e:
        raise UnsupportedMedia(f"{name}: expected an encoder for {size.width}x{size.height}: {e}", code="no-encoder") from None
    return context


def _encode(context: VideoCodecContext) -> Callable[[av.VideoFrame, int], list[Encoded]]:
    def encode(frame: av.VideoFrame, pts: int) -> list[Encoded]:
        frame.pts, frame.time_base = pts, Fraction(1, VIDEO_CLOCK_RATE)
        return [Encoded(bytes(p), pts, pts, p.is_keyframe) for p in context.encode(frame)]

    return encode


def _jpegs(artwork: Artwork, like: Track, size: _Format) -> Strand:
    """At a low rate; one that stands still is one picture."""
    even = (size.width + size.width % 2, size.height + size.height % 2)
    frames = pictures(artwork, *even, JPEG_RATE, SECONDS) if artwork.kind == "clip" else iter((picture(artwork, *even),))
    encoder, step = JpegEncoder(size.width, size.height, 5), VIDEO_CLOCK_RATE // JPEG_RATE
    packets = tuple(Packet(like, encoder.encode(frame), n * step, n * step, True, 0.0) for n, frame in enumerate(frames))
    encoder.close()
    return Strand(like, packets, len(packets) * step)


def _silence(like: Track) -> Strand:
    """One packet for ever. Codecs that nothing here encodes become AAC."""
    if like.codec in _SILENT_BYTE:
        samples = like.clock_rate // 50
        data = bytes((_SILENT_BYTE[like.codec],)) * (samples * max(1, like.channels))
        return Strand(like, (Packet(like, data, 0, 0, True, 0.0),), samples)
    codec = Codec.OPUS if like.codec is Codec.OPUS else Codec.AAC
    encoder = AudioEncoder(codec, like.sample_rate or SAMPLE_RATE, like.channels or 2)
    try:
        data = _silent(encoder)
    finally:
        encoder.close()
    track = like
    if codec is Codec.AAC and (like.codec in _FROM_OTHERS or like.config[:2] != encoder.config[:2]):
        track = replace(
            like,
            codec=Codec.AAC,
            clock_rate=encoder.sample_rate,
            config=encoder.config,
            sample_rate=encoder.sample_rate,
            channels=encoder.channels,
        )
    return Strand(track, (Packet(track, data, 0, 0, True, 0.0),), encoder.frame_size)


def _silent(encoder: AudioEncoder) -> bytes:
    """A packet of silence from the middle of many."""
    layout = "stereo" if encoder.channels == 2 else "mono"
    found: list[bytes] = []
    for number in range(WARM * 2):
        frame = av.AudioFrame("s16", layout, encoder.frame_size)
        frame.planes[0].update(bytes(frame.planes[0].buffer_size))
        frame.sample_rate, frame.pts, frame.time_base = encoder.sample_rate, number * encoder.frame_size, Fraction(1, encoder.sample_rate)
        found += [e.data for e in encoder.encode(frame)]
    return found[min(WARM, len(found) - 1)]
