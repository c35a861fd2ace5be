"""Demuxing a file or URL into tracks and packets: copied where RTMP can carry the codec, encoded to H.264 and AAC where not."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING, Protocol, cast

import av
from av.audio.codeccontext import AudioCodecContext
from av.container.input import InputContainer
from av.video.codeccontext import VideoCodecContext

from medianode.codecs import aac, av1, h264, hevc, nal, vp8, vp9
from medianode.errors import PeerError, UnsupportedMedia
from medianode.media.packet import Packet
from medianode.media.track import VIDEO_CLOCK_RATE, Codec, Track
from medianode.transcode.derive import Sound, Tally
from medianode.transcode.encode import H264Encoder

PROBE_PACKETS = 2000
"""Packets read at most until the configuration of every track is known."""
OPEN_SECONDS = 10.0
_COPIED = frozenset(
    {Codec.H264, Codec.HEVC, Codec.AV1, Codec.VP8, Codec.VP9, Codec.AAC, Codec.OPUS, Codec.MP3, Codec.FLAC, Codec.AC3, Codec.EAC3}
)
_BY_NAME = {codec.value: codec for codec in Codec} | {"libdav1d": Codec.AV1, "libopus": Codec.OPUS, "mp3float": Codec.MP3}

if TYPE_CHECKING:  # generic for the type checker only
    AvPacket = av.Packet[av.stream.Stream]


class Reader(Protocol):
    """One stream of the file. `track` is None until its configuration is known."""

    @property
    def track(self) -> Track | None: ...

    def read(self, packet: AvPacket, offset: Fraction) -> list[Packet]:
        """`offset` in seconds is added to the timestamps."""

    def close(self) -> None: ...


class Demuxer:
    """The first video and the first audio stream. Raises UnsupportedMedia where the file cannot be opened or has neither."""

    def __init__(self, spec: str, *, loop: bool = False) -> None:
        self._spec = spec
        self._loop = loop
        self._container = self._open()
        self.tally = Tally()
        self._readers: dict[int, Reader] = {}
        self._ahead: deque[Packet] = deque()
        with ExitStack() as unless_done:
            unless_done.callback(self.close)
            for kind, streams in enumerate((self._container.streams.video, self._container.streams.audio)):
                if streams:
                    self._readers[streams[0].index] = _reader(streams[0], kind + 1, self.tally)
            self._source = self._demux()
            self.tracks = self._probe()
            unless_done.pop_all()

    def packets(self, wallclock: float) -> Iterator[Packet]:
        """To the end of the file, or for ever with `loop`; dts starts near 0. `received_at` is the media time (dts) in seconds."""
        while self._ahead:
            yield self._ahead.popleft()
        yield from self._source

    def close(self) -> None:
        for reader in self._readers.values():
            reader.close()
        self._container.close()

    def _open(self) -> InputContainer:
        try:
            return av.open(self._spec, "r", timeout=OPEN_SECONDS)
        except (av.FFmpegError, ValueError) as e:
            raise UnsupportedMedia(f"{self._spec}: expected media that FFmpeg opens: {e}", code="cannot-open") from None

    def _probe(self) -> tuple[Track, ...]:
        for _ in range(PROBE_PACKETS):
            if all(reader.track for reader in self._readers.values()):
                break
            packet = next(self._source, None)
            if packet is None:
                break
            self._ahead.append(packet)
        tracks = tuple(reader.track for reader in self._readers.values() if reader.track is not None)
        if not tracks:
            raise UnsupportedMedia(f"{self._spec}: expected a video or audio track, got none; {self.tally.last_error or 'nothing decodes'}")
        return tracks

    def _demux(self) -> Iterator[Packet]:
        """Each packet becomes due at its dts; those of an encoder's delay included."""
        offset: Fraction | None = None
        while True:
            end, first = Fraction(0), True
            for packet in self._read():
                reader = self._readers.get(packet.stream_index)
                if reader is None or packet.size == 0 or packet.time_base is None:
                    continue
                if packet.dts is None:
                    packet.dts = packet.pts
                if packet.dts is None:
                    continue
                at = packet.dts * packet.time_base
                if first:
                    # a B-frame's dts lies before 0, and another track may start some frames before the first packet
                    offset, first = (offset or Fraction(0)) - at, False
                end = max(end, at + (packet.duration or 0) * packet.time_base + cast("Fraction", offset))
                yield from self._guarded(reader, packet, cast("Fraction", offset))
            if not self._loop or first:
                return
            offset = end
            self._container.close()
            self._container = self._open()

    def _read(self) -> Iterator[AvPacket]:
        streams = [stream for stream in self._container.streams if stream.index in self._readers]
        try:
            yield from self._container.demux(streams)
        except av.FFmpegError as e:
            self.tally.fault(UnsupportedMedia(f"{self._spec}: {e}", code="cannot-read"))

    def _guarded(self, reader: Reader, packet: AvPacket, offset: Fraction) -> list[Packet]:
        try:
            return reader.read(packet, offset)
        except PeerError as e:
            self.tally.fault(e)
        except av.FFmpegError as e:
            self.tally.fault(UnsupportedMedia(str(e), code="undecodable"))
        return []


def _reader(stream: av.stream.Stream, track_id: int, tally: Tally) -> Reader:
    codec = _BY_NAME.get(stream.codec_context.name)
    if codec in _COPIED:
        return Copy(stream, track_id, codec)
    return EncodeVideo(stream, track_id) if stream.type == "video" else EncodeAudio(stream, track_id, tally)


class Copy:
    """Packets as the house carries them. The configuration comes from the container, else from the first key frame."""

    def __init__(self, stream: av.stream.Stream, track_id: int, codec: Codec) -> None:
        context = stream.codec_context
        self.track: Track | None = None
        self._codec = codec
        self._extradata = context.extradata or b""
        self._length_size = 4
        if isinstance(context, VideoCodecContext):
            rate = float(stream.average_rate or 0)
            self._bare = Track(track_id, codec, VIDEO_CLOCK_RATE, b"", context.width, context.height, rate)
        else:
            sound = cast("AudioCodecContext", context)
            self._bare = Track(track_id, codec, sound.sample_rate, b"", sample_rate=sound.sample_rate, channels=sound.channels)
        self._last_dts: int | None = None
        self._configure(self._extradata)

    def read(self, packet: AvPacket, offset: Fraction) -> list[Packet]:
        data, keyframe = self._normalise(bytes(packet))
        track = self.track
        if track is None or not data:
            return []
        dts = self._ticks(packet.dts, packet.time_base, offset)
        pts = dts if packet.pts is None else self._ticks(packet.pts, packet.time_base, offset)
        if self._last_dts is not None and dts < self._last_dts:
            dts = self._last_dts
        self._last_dts = dts
        return [Packet(track, data, max(pts, dts) if track.is_video else dts, dts, keyframe, dts / track.clock_rate)]

    def close(self) -> None:
        """Nothing is held."""

    def _ticks(self, value: int | None, time_base: Fraction, offset: Fraction) -> int:
        return max(0, round(((value or 0) * time_base + offset) * self._bare.clock_rate))

    def _configure(self, extradata: bytes) -> None:
        """Set the track where `extradata` (of the container) tells enough."""
        codec, config = self._codec, b""
        if codec is Codec.H264 and extradata:
            self._set_h264(extradata)
            return
        if codec is Codec.HEVC and extradata:
            self._set_hevc(extradata)
            return
        if codec in (Codec.H264, Codec.HEVC, Codec.VP9) or (codec in (Codec.AAC, Codec.OPUS, Codec.FLAC, Codec.AV1) and not extradata):
            return
        if codec is Codec.AV1:
            config = extradata if extradata[:1] == b"\x81" else av1.build_av1c(extradata)
        elif codec in (Codec.AAC, Codec.OPUS):
            config = extradata
        elif codec is Codec.FLAC:
            config = extradata[-34:]
        self.track = replace(self._bare, config=config)

    def _set_h264(self, extradata: bytes) -> None:
        if extradata[:1] == b"\x01":
            record = h264.parse_avcc(extradata)
            self._length_size, sps, pps = record.length_size, record.sps, record.pps
        else:
            units = nal.split(nal.from_annexb(extradata))
            sps = tuple(u for u in units if u[0] & 31 == h264.NalType.SPS)
            pps = tuple(u for u in units if u[0] & 31 == h264.NalType.PPS)
        self.track = replace(self._bare, config=h264.build_avcc(sps, pps))

    def _set_hevc(self, extradata: bytes) -> None:
        if extradata[:1] in (b"\x00", b"\x01") and not extradata.startswith((b"\0\0\0\1", b"\0\0\1")):
            record = hevc.parse_hvcc(extradata)
            self._length_size, vps, sps, pps = record.length_size, record.vps, record.sps, record.pps
        else:
            info = hevc.access_unit_info(nal.from_annexb(extradata))
            vps, sps, pps = info.vps, info.sps, info.pps
        self.track = replace(self._bare, config=hevc.build_hvcc(vps, sps, pps))

    def _normalise(self, data: bytes) -> tuple[bytes, bool]:
        """(data as Packets carry it, keyframe). Learns the configuration in band where the container had none."""
        codec = self._codec
        if codec is Codec.H264:
            unit = h264.normalise(data, self._length_size)
            if self.track is None and unit.sps and unit.pps:
                self.track = replace(self._bare, config=h264.build_avcc(unit.sps, unit.pps))
            return unit.data, unit.keyframe or unit.recovery_point
        if codec is Codec.HEVC:
            picture = hevc.normalise(data, self._length_size)
            if self.track is None and picture.sps and picture.pps:
                self.track = replace(self._bare, config=hevc.build_hvcc(picture.vps, picture.sps, picture.pps))
            return picture.data, picture.keyframe
        if codec is Codec.AV1:
            temporal = av1.normalise(data)
            if self.track is None and temporal.sequence_header:
                self.track = replace(self._bare, config=av1.build_av1c(temporal.sequence_header))
            return temporal.data, temporal.keyframe
        if codec is Codec.VP9:
            keyframe = vp9.is_keyframe(data)
            if self.track is None and keyframe:
                self.track = replace(self._bare, config=vp9.build_vpcc(vp9.config_of(data, self._bare.frame_rate or 30.0)))
            return data, keyframe
        if codec is Codec.VP8:
            return data, vp8.is_keyframe(data)
        if codec is Codec.AAC and aac.is_adts(data):
            config, frames = aac.strip_adts(data)
            if self.track is None:
                self.track = replace(self._bare, config=config)
            return b"".join(frames[:1]), True
        return data, True


class EncodeVideo:
    """Any pictures to H.264."""

    def __init__(self, stream: av.stream.Stream, track_id: int) -> None:
        self.track: Track | None = None
        self._id = track_id
        self._context = cast("VideoCodecContext", stream.codec_context)
        self._rate = float(stream.average_rate or 30)
        self._encoder: H264Encoder | None = None
        self._last = -1

    def read(self, packet: AvPacket, offset: Fraction) -> list[Packet]:
        out: list[Packet] = []
        for frame in self._context.decode(packet):
            if frame.pts is None or frame.time_base is None:
                continue
            pts = max(0, round((frame.pts * frame.time_base + offset) * VIDEO_CLOCK_RATE))
            if pts <= self._last:
                continue
            self._last = pts
            encoder = self._encoder
            if encoder is None:
                # the size of the first picture stays: an encoder scales what follows
                encoder = self._encoder = H264Encoder(frame.width, frame.height, frame_rate=self._rate, bit_rate=4_000_000)
                self.track = Track(self._id, Codec.H264, VIDEO_CLOCK_RATE, encoder.config, encoder.width, encoder.height, self._rate)
            track = cast("Track", self.track)
            out += [Packet(track, e.data, e.pts, e.dts, e.keyframe, e.dts / VIDEO_CLOCK_RATE) for e in encoder.encode(frame, pts)]
        return out

    def close(self) -> None:
        if self._encoder is not None:
            self._encoder.close()


class EncodeAudio:
    """Any sound to AAC."""

    _CLOCK = 48_000

    def __init__(self, stream: av.stream.Stream, track_id: int, tally: Tally) -> None:
        self._context = cast("AudioCodecContext", stream.codec_context)
        self._sound = Sound(track_id, self._CLOCK, Codec.AAC, tally)

    @property
    def track(self) -> Track | None:
        return self._sound.track

    def read(self, packet: AvPacket, offset: Fraction) -> list[Packet]:
        out: list[Packet] = []
        for frame in self._context.decode(packet):
            pts, base = (packet.pts, packet.time_base) if frame.pts is None else (frame.pts, frame.time_base)
            at = max(0, round(((pts or 0) * (base or packet.time_base) + offset) * self._CLOCK))
            sound = [item for item in self._sound.push(frame, at, 0.0) if isinstance(item, Packet)]
            out += [item._replace(received_at=item.dts / item.track.clock_rate) for item in sound]
        return out

    def close(self) -> None:
        self._sound.close()
