"""One elementary stream, from whatever an encoder sends to a Track and Packets in the form of the bus."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from medianode.codecs import aac, ac3, av1, flac, h264, hevc, jpeg, mp3, opus, vp8, vp9
from medianode.errors import ProtocolError
from medianode.media.track import VIDEO_CLOCK_RATE, Codec, Track


class Unit(NamedTuple):
    """An access unit as packets carry it. `samples`: the duration of audio, 0 for video. `track`: set when the configuration is new."""

    data: bytes
    keyframe: bool
    samples: int
    track: Track | None


@dataclass(slots=True)
class ElementaryStream:
    """`track` is None until the configuration is known; frames before that give None.

    Raises ProtocolError on what no decoder could take.
    """

    id: int
    codec: Codec
    track: Track | None = None
    length_size: int = 4
    frame_samples: int = 1024
    layer: str = ""
    _record: bytes = b""

    def configure(self, record: bytes) -> Track | None:
        """Take a sequence header: avcC, hvcC, av1C, vpcC, AudioSpecificConfig, OpusHead, STREAMINFO. The Track, if it is a new one."""
        if record == self._record and self.track is not None:
            return None
        make = _CONFIGURE.get(self.codec)
        if make is None:
            return None
        track = make(self, record)
        self._record = record
        return self._renew(track) if track is not None else None

    def unit(self, data: bytes) -> Unit | None:
        """One frame. None where it says nothing, or nothing can be made of it before the configuration is known."""
        if not data:
            return None
        return _UNIT[self.codec](self, data)

    def _renew(self, track: Track) -> Track | None:
        """Adopt a Track; the same again is not new."""
        if track == self.track:
            return None
        self.track = track
        return track

    def _video(self, config: bytes, width: int, height: int, frame_rate: float = 0.0) -> Track:
        return Track(self.id, self.codec, VIDEO_CLOCK_RATE, config, width, height, frame_rate, layer=self.layer)

    def _audio(self, config: bytes, rate: int, channels: int) -> Track:
        if not rate or not channels:
            raise ProtocolError(f"{self.codec.value}: expected a sampling rate and channels, got {rate} Hz, {channels}")
        return Track(self.id, self.codec, rate, config, sample_rate=rate, channels=channels)


def _avc_configure(stream: ElementaryStream, record: bytes) -> Track | None:
    config = h264.parse_avcc(record)
    stream.length_size = config.length_size
    if not config.sps or not config.pps:
        return None  # parameter sets will come in band
    return _avc_track(stream, config.sps, config.pps)


def _avc_track(stream: ElementaryStream, sps: tuple[bytes, ...], pps: tuple[bytes, ...]) -> Track:
    look = h264.parse_sps(sps[0])
    return stream._video(h264.build_avcc(_once(sps), _once(pps)), look.width, look.height, look.frame_rate)


def _once(sets: tuple[bytes, ...]) -> tuple[bytes, ...]:
    """Each parameter set once: GStreamer's payloader puts them before those that the stream has anyway, now and then."""
    return sets if len(sets) == 1 else tuple(dict.fromkeys(sets))


def _avc_unit(stream: ElementaryStream, data: bytes) -> Unit | None:
    au = h264.normalise(data, stream.length_size)
    new = None
    if au.sps and au.pps:
        new = stream._renew(_avc_track(stream, au.sps, au.pps))
    if stream.track is None or not au.data:
        return None
    return Unit(au.data, au.keyframe or au.recovery_point, 0, new)


def _hevc_configure(stream: ElementaryStream, record: bytes) -> Track | None:
    config = hevc.parse_hvcc(record)
    stream.length_size = config.length_size
    if not config.vps or not config.sps or not config.pps:
        return None
    return _hevc_track(stream, config.vps, config.sps, config.pps)


def _hevc_track(stream: ElementaryStream, vps: tuple[bytes, ...], sps: tuple[bytes, ...], pps: tuple[bytes, ...]) -> Track:
    look = hevc.parse_sps(sps[0])
    return stream._video(hevc.build_hvcc(_once(vps), _once(sps), _once(pps)), look.width, look.height, look.frame_rate)


def _hevc_unit(stream: ElementaryStream, data: bytes) -> Unit | None:
    au = hevc.normalise(data, stream.length_size)
    new = None
    if au.vps and au.sps and au.pps:
        new = stream._renew(_hevc_track(stream, au.vps, au.sps, au.pps))
    if stream.track is None or not au.data:
        return None
    return Unit(au.data, au.keyframe, 0, new)


def _av1_configure(stream: ElementaryStream, record: bytes) -> Track | None:
    config = av1.parse_av1c(record)
    if config.sequence is None:
        return None
    return stream._video(record, config.sequence.width, config.sequence.height, config.sequence.frame_rate)


def _av1_unit(stream: ElementaryStream, data: bytes) -> Unit | None:
    unit = av1.normalise(data)
    new = None
    if unit.sequence_header and unit.sequence_header not in (stream.track.config if stream.track else b""):
        look = av1.parse_sequence_header(unit.sequence_header)
        new = stream._renew(stream._video(av1.build_av1c(unit.sequence_header), look.width, look.height, look.frame_rate))
    if stream.track is None or not unit.data:
        return None
    return Unit(unit.data, unit.keyframe, 0, new)


def _vp9_configure(stream: ElementaryStream, record: bytes) -> Track | None:
    vp9.parse_vpcc(record)
    return None  # the record tells no size: the first key frame does


def _vp9_unit(stream: ElementaryStream, data: bytes) -> Unit | None:
    frame = vp9.parse_frame(data)
    new = None
    if frame.keyframe and (stream.track is None or (stream.track.width, stream.track.height) != (frame.width, frame.height)):
        record = stream._record or vp9.build_vpcc(vp9.config_of(data))
        new = stream._renew(stream._video(vp9.build_vpcc(vp9.parse_vpcc(record)), frame.width, frame.height))
    return None if stream.track is None else Unit(data, frame.keyframe, 0, new)


def _vp8_unit(stream: ElementaryStream, data: bytes) -> Unit | None:
    frame = vp8.parse_frame(data)
    new = stream._renew(stream._video(b"", frame.width, frame.height)) if frame.keyframe else None
    return None if stream.track is None else Unit(data, frame.keyframe, 0, new)


def _jpeg_unit(stream: ElementaryStream, data: bytes) -> Unit | None:
    look = jpeg.parse_jpeg(data)
    return Unit(data, True, 0, stream._renew(stream._video(b"", look.width, look.height)))


def _aac_configure(stream: ElementaryStream, record: bytes) -> Track | None:
    # some encoders pad the AudioSpecificConfig with zeros; keep what they sent, decoders read what they need
    config = aac.parse_asc(record)
    stream.frame_samples = config.samples_per_frame
    return stream._audio(record, config.output_sample_rate, config.channels)


def _aac_unit(stream: ElementaryStream, data: bytes) -> Unit | None:
    new = None
    if aac.is_adts(data):
        record, frames = aac.strip_adts(data, max_frames=1)
        new = stream.configure(record)
        data = frames[0]
    if stream.track is None:
        return None
    return Unit(data, True, stream.frame_samples, new)


def _opus_configure(stream: ElementaryStream, record: bytes) -> Track | None:
    head = opus.parse_head(record)
    return stream._audio(record, opus.SAMPLE_RATE, head.channels)


def _opus_unit(stream: ElementaryStream, data: bytes) -> Unit | None:
    new = None
    if stream.track is None:
        # no sequence header came: what RFC 7845 says of mapping family 0 is all there is to know
        new = stream.configure(opus.build_head(opus.OpusHead(opus.packet_channels(data))))
    return Unit(data, True, opus.packet_samples(data), new)


def _flac_configure(stream: ElementaryStream, record: bytes) -> Track | None:
    config = flac.find_streaminfo(record)
    info = flac.parse_streaminfo(config)
    # FFmpeg sends it again at the end with totals filled in: what a live stream cannot know (RFC 9639 8.2) is left at 0, "unknown"
    config = config[:4] + bytes(6) + config[10:13] + bytes((config[13] & 0xF0,)) + bytes(20)
    return stream._audio(config, info.sample_rate, info.channels)


def _flac_unit(stream: ElementaryStream, data: bytes) -> Unit | None:
    return None if stream.track is None else Unit(data, True, flac.frame_samples(data), None)


def _mp3_unit(stream: ElementaryStream, data: bytes) -> Unit | None:
    header = mp3.parse_header(data)
    new = stream._renew(stream._audio(b"", header.sample_rate, header.channels))
    return Unit(data, True, header.samples, new)


def _ac3_unit(stream: ElementaryStream, data: bytes) -> Unit | None:
    header = ac3.parse_syncframe(data)
    new = None
    if stream.track is None or (stream.track.sample_rate, stream.track.channels) != (header.sample_rate, header.channels):
        record = ac3.build_dec3(data) if stream.codec is Codec.EAC3 else ac3.build_dac3(data)
        new = stream._renew(stream._audio(record, header.sample_rate, header.channels))
    return Unit(data, True, header.samples, new)


def _g711_unit(stream: ElementaryStream, data: bytes) -> Unit | None:
    new = stream._renew(stream._audio(b"", 8000, 1)) if stream.track is None else None
    return Unit(data, True, len(data), new)


_CONFIGURE: dict[Codec, Callable[[ElementaryStream, bytes], Track | None]] = {
    Codec.H264: _avc_configure,
    Codec.HEVC: _hevc_configure,
    Codec.AV1: _av1_configure,
    Codec.VP9: _vp9_configure,
    Codec.AAC: _aac_configure,
    Codec.OPUS: _opus_configure,
    Codec.FLAC: _flac_configure,
}
_UNIT: dict[Codec, Callable[[ElementaryStream, bytes], Unit | None]] = {
    Codec.H264: _avc_unit,
    Codec.HEVC: _hevc_unit,
    Codec.AV1: _av1_unit,
    Codec.VP9: _vp9_unit,
    Codec.VP8: _vp8_unit,
    Codec.MJPEG: _jpeg_unit,
    Codec.AAC: _aac_unit,
    Codec.OPUS: _opus_unit,
    Codec.FLAC: _flac_unit,
    Codec.MP3: _mp3_unit,
    Codec.AC3: _ac3_unit,
    Codec.EAC3: _ac3_unit,
    Codec.PCM_ALAW: _g711_unit,
    Codec.PCM_MULAW: _g711_unit,
}
