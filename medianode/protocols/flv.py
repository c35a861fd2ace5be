"""FLV tag bodies, the payload of RTMP audio and video messages: Adobe's FLV 10.1 annex E and Enhanced RTMP v2 (veovera).

Read: `parse_video(payload)`, `parse_audio(payload)` → tags. Written: `video_tag`, `audio_tag`, and `file_tag` for FLV files. Frame data and
configurations are as the codec's ISO BMFF binding has them, except VP9's vpcC, which FFmpeg writes without its version and flags: it
gets and loses those four bytes here, as FLAC's STREAMINFO does its `fLaC` and block header.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from medianode.errors import ProtocolError, UnsupportedMedia
from medianode.media.track import Codec, Kind

VIDEO_FOURCC = {b"avc1": Codec.H264, b"hvc1": Codec.HEVC, b"av01": Codec.AV1, b"vp08": Codec.VP8, b"vp09": Codec.VP9}
AUDIO_FOURCC = {
    b"mp4a": Codec.AAC,
    b"Opus": Codec.OPUS,
    b"fLaC": Codec.FLAC,
    b"ac-3": Codec.AC3,
    b"ec-3": Codec.EAC3,
    b".mp3": Codec.MP3,
}
_VIDEO_CODES = {codec: fourcc for fourcc, codec in VIDEO_FOURCC.items()}
_AUDIO_CODES = {codec: fourcc for fourcc, codec in AUDIO_FOURCC.items()}
# 12 is no part of any specification; Chinese encoders and drones have used it since before Enhanced RTMP.
_LEGACY_VIDEO = {7: Codec.H264, 12: Codec.HEVC}
_LEGACY_VIDEO_NAMES = {2: "Sorenson H.263", 3: "Screen video", 4: "VP6", 5: "VP6 with alpha", 6: "Screen video 2"}
_LEGACY_AUDIO = {2: Codec.MP3, 7: Codec.PCM_ALAW, 8: Codec.PCM_MULAW, 10: Codec.AAC, 14: Codec.MP3}
_LEGACY_AUDIO_NAMES = {0: "PCM", 1: "ADPCM", 3: "PCM little-endian", 4: "Nellymoser", 5: "Nellymoser", 6: "Nellymoser", 11: "Speex"}
_VPCC_VERSION = b"\x01\x00\x00\x00"
_FLAC_HEADER = b"fLaC\x80\x00\x00\x22"


class PacketType(Enum):
    CONFIG = "config"
    FRAMES = "frames"
    END = "end"
    METADATA = "metadata"  # AMF0: colorInfo
    MPEG2TS_CONFIG = "mpeg2ts-config"  # AV1 video descriptor
    CHANNELS = "channels"  # MultichannelConfig


class VideoTag(NamedTuple):
    """`composition_time`: pts − dts in milliseconds. `nanoseconds` to add to the presentation time (ModEx)."""

    codec: Codec
    packet_type: PacketType
    track_id: int
    keyframe: bool
    composition_time: int
    nanoseconds: int
    data: bytes


class AudioTag(NamedTuple):
    """`sample_rate` and `channels` are told by legacy headers of MP3 and G.711 only, and 0 elsewhere."""

    codec: Codec
    packet_type: PacketType
    track_id: int
    nanoseconds: int
    data: bytes
    sample_rate: int = 0
    channels: int = 0


_CODED_FRAMES, _CODED_FRAMES_X, _MULTITRACK, _MODEX = 1, 3, 6, 7
_AUDIO_MULTITRACK = 5
_ONE_TRACK, _MANY_TRACKS, _MANY_CODECS = 0, 1, 2
_VIDEO_PACKETS = {
    0: PacketType.CONFIG,
    1: PacketType.FRAMES,
    2: PacketType.END,
    3: PacketType.FRAMES,
    4: PacketType.METADATA,
    5: PacketType.MPEG2TS_CONFIG,
}
_AUDIO_PACKETS = {0: PacketType.CONFIG, 1: PacketType.FRAMES, 2: PacketType.END, 4: PacketType.CHANNELS}


def parse_video(payload: bytes) -> list[VideoTag]:
    """The packets of one video message; none for command frames and for frames without a payload, which some encoders send.

    Raises ProtocolError if it is cut short, UnsupportedMedia for a codec that we cannot carry.
    """
    if not payload:
        return []
    first = payload[0]
    if first & 0x80:
        return _parse_ex_video(payload)
    codec = _LEGACY_VIDEO.get(first & 0x0F)
    frame_type = first >> 4
    if frame_type == 5 or len(payload) == 1:
        return []
    if codec is None:
        name = _LEGACY_VIDEO_NAMES.get(first & 0x0F, "unknown")
        raise UnsupportedMedia(f"expected H.264, H.265, AV1, VP8 or VP9 video, got FLV codec {first & 0x0F} ({name})")
    if len(payload) < 5:
        raise ProtocolError(f"expected an AVC video header of 5 bytes, got {len(payload)}")
    kind = payload[1]
    if kind == 1:
        if len(payload) == 5:
            return []
        return [VideoTag(codec, PacketType.FRAMES, 0, frame_type in (1, 4), _signed24(payload, 2), 0, payload[5:])]
    if kind == 0:
        return [VideoTag(codec, PacketType.CONFIG, 0, True, 0, 0, payload[5:])]
    if kind == 2:
        return [VideoTag(codec, PacketType.END, 0, False, 0, 0, b"")]
    raise ProtocolError(f"expected an AVC packet type of 0, 1 or 2, got {kind}")


def parse_audio(payload: bytes) -> list[AudioTag]:
    """The packets of one audio message; none for frames without a payload.

    Raises ProtocolError if it is cut short, UnsupportedMedia for a codec that we cannot carry.
    """
    if not payload:
        return []
    first = payload[0]
    form = first >> 4
    if form == 9:
        return _parse_ex_audio(payload)
    codec = _LEGACY_AUDIO.get(form)
    if codec is None:
        raise UnsupportedMedia(f"expected AAC, MP3 or G.711 audio, got FLV format {form} ({_LEGACY_AUDIO_NAMES.get(form, 'unknown')})")
    if codec is Codec.AAC:
        if len(payload) < 3:
            return []
        return [AudioTag(codec, PacketType.FRAMES if payload[1] else PacketType.CONFIG, 0, 0, payload[2:])]
    if len(payload) == 1:
        return []
    rate = 44_100 >> (3 - (first >> 2 & 3)) if form == 2 else 8000
    return [AudioTag(codec, PacketType.FRAMES, 0, 0, payload[1:], rate, 1 + (first & 1))]


def _signed24(data: bytes, position: int) -> int:
    value = data[position] << 16 | data[position + 1] << 8 | data[position + 2]
    return value - 0x1000000 if value & 0x800000 else value


class _Body:
    """What follows the first byte of an Enhanced RTMP tag."""

    __slots__ = ("data", "position")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.position = 1

    def take(self, n: int) -> bytes:
        start = self.position
        if n > len(self.data) - start:
            raise ProtocolError(f"FLV: expected {n} bytes at {start}, got {len(self.data) - start}")
        self.position = start + n
        return self.data[start : start + n]

    def rest(self) -> bytes:
        return self.take(len(self.data) - self.position)

    def modex(self) -> tuple[int, int]:
        """One ModEx: (next packet type, nanoseconds it adds)."""
        size = self.take(1)[0] + 1
        if size == 256:
            size = int.from_bytes(self.take(2), "big") + 1
        data = self.take(size)
        byte = self.take(1)[0]
        nanoseconds = int.from_bytes(data[:3], "big") if byte >> 4 == 0 and size >= 3 else 0  # 0: TimestampOffsetNano
        return byte & 0x0F, nanoseconds

    def tracks(self, multitrack: int, fourcc: bytes) -> list[tuple[bytes, int, bytes]]:
        """(fourcc, track id, body) of each track of a Multitrack body. At least 4 bytes of the message each."""
        if multitrack == _ONE_TRACK:
            return [(fourcc, self.take(1)[0], self.rest())]
        tracks: list[tuple[bytes, int, bytes]] = []
        while self.position < len(self.data):
            if multitrack == _MANY_CODECS:
                fourcc = self.take(4)
            track_id = self.take(1)[0]
            tracks.append((fourcc, track_id, self.take(int.from_bytes(self.take(3), "big"))))
        return tracks

    def split(self, packet: int, multitrack_type: int) -> tuple[int, int, list[tuple[bytes, int, bytes]]]:
        """After the first byte, whose low bits are `packet`: (packet type, nanoseconds, tracks)."""
        nanoseconds = 0
        while packet == _MODEX:
            packet, more = self.modex()
            nanoseconds += more
        if packet != multitrack_type:
            return packet, nanoseconds, [(self.take(4), 0, self.rest())]
        byte = self.take(1)[0]
        multitrack, packet = byte >> 4, byte & 0x0F
        if multitrack > _MANY_CODECS:
            raise ProtocolError(f"expected a multitrack type of 0, 1 or 2, got {multitrack}")
        fourcc = self.take(4) if multitrack != _MANY_CODECS else b""
        return packet, nanoseconds, self.tracks(multitrack, fourcc)


def _parse_ex_video(payload: bytes) -> list[VideoTag]:
    frame_type = payload[0] >> 4 & 7
    packet, nanoseconds, tracks = _Body(payload).split(payload[0] & 0x0F, _MULTITRACK) if frame_type != 5 else _command(payload)
    packet_type = _VIDEO_PACKETS.get(packet)
    tags: list[VideoTag] = []
    for fourcc, track_id, data in tracks:
        codec = VIDEO_FOURCC.get(fourcc)
        if codec is None:
            raise UnsupportedMedia(f"expected the FourCC avc1, hvc1, av01, vp08 or vp09, got {_printable(fourcc)}")
        if packet_type is None:
            raise ProtocolError(f"expected a video packet type of 0 to 5, got {packet}")
        composition_time = 0
        if packet == _CODED_FRAMES and codec in (Codec.H264, Codec.HEVC):
            if len(data) < 3:
                raise ProtocolError(f"expected a composition time of 3 bytes, got {len(data)}")
            composition_time, data = _signed24(data, 0), data[3:]
        if packet_type is PacketType.FRAMES and not data:
            continue
        if packet_type is PacketType.CONFIG and codec is Codec.VP9 and len(data) == 8:
            data = _VPCC_VERSION + data
        key = packet_type is PacketType.CONFIG or frame_type in (1, 4)
        tags.append(VideoTag(codec, packet_type, track_id, key, composition_time, nanoseconds, data))
    return tags


def _command(payload: bytes) -> tuple[int, int, list[tuple[bytes, int, bytes]]]:
    """Frame type 5 carries a command for the player unless it is Metadata."""
    if payload[0] & 0x0F != 4:
        return 0, 0, []
    return _Body(payload).split(4, _MULTITRACK)


def _parse_ex_audio(payload: bytes) -> list[AudioTag]:
    packet, nanoseconds, tracks = _Body(payload).split(payload[0] & 0x0F, _AUDIO_MULTITRACK)
    packet_type = _AUDIO_PACKETS.get(packet)
    tags: list[AudioTag] = []
    for fourcc, track_id, data in tracks:
        codec = AUDIO_FOURCC.get(fourcc)
        if codec is None:
            raise UnsupportedMedia(f"expected the FourCC mp4a, Opus, fLaC, ac-3, ec-3 or .mp3, got {_printable(fourcc)}")
        if packet_type is None:
            raise ProtocolError(f"expected an audio packet type of 0, 1, 2 or 4, got {packet}")
        if packet_type is PacketType.FRAMES and not data:
            continue
        if packet_type is PacketType.CONFIG and codec is Codec.FLAC and data.startswith(b"fLaC"):
            data = data[8:42]
        tags.append(AudioTag(codec, packet_type, track_id, nanoseconds, data))
    return tags


def _printable(fourcc: bytes) -> str:
    return f"{fourcc.decode('ascii')!r}" if fourcc.isascii() and fourcc.decode("ascii").isprintable() else f"0x{fourcc.hex()}"


def video_tag(
    codec: Codec, packet_type: PacketType, data: bytes = b"", *, keyframe: bool = False, composition_time: int = 0, track_id: int = 0
) -> bytes:
    """A video message's payload: legacy for H.264 on track 0, else Enhanced RTMP. CONFIG, FRAMES or END. Raises ValueError for others."""
    number = _NUMBERS.get(packet_type)
    fourcc = _VIDEO_CODES.get(codec)
    if number is None or fourcc is None:
        raise ValueError(f"FLV has no {packet_type.value} of {codec.value} video")
    frame_type = 1 if keyframe or packet_type is PacketType.CONFIG else 2
    offset = (composition_time & 0xFFFFFF).to_bytes(3, "big")
    if codec is Codec.H264 and not track_id:
        return bytes((frame_type << 4 | 7, number)) + offset + data
    if packet_type is PacketType.CONFIG and codec is Codec.VP9:
        data = data.removeprefix(_VPCC_VERSION) if len(data) == 12 else data
    if packet_type is PacketType.FRAMES and codec in (Codec.H264, Codec.HEVC):
        if composition_time:
            data = offset + data
        else:
            number = _CODED_FRAMES_X
    return _ex_tag(0x80 | frame_type << 4, _MULTITRACK, number, fourcc, track_id, data)


def audio_tag(codec: Codec, packet_type: PacketType, data: bytes = b"", *, track_id: int = 0) -> bytes:
    """An audio message's payload: legacy for AAC and G.711 on track 0, else Enhanced RTMP. CONFIG, FRAMES or END (not legacy)."""
    number = _NUMBERS.get(packet_type)
    if number is None:
        raise ValueError(f"FLV has no {packet_type.value} of {codec.value} audio")
    if not track_id:
        if codec is Codec.AAC and packet_type is not PacketType.END:
            return bytes((0xAF, number)) + data
        if codec in (Codec.PCM_ALAW, Codec.PCM_MULAW) and packet_type is PacketType.FRAMES:
            return (b"\x72" if codec is Codec.PCM_ALAW else b"\x82") + data
    fourcc = _AUDIO_CODES.get(codec)
    if fourcc is None:
        raise ValueError(f"FLV has no {packet_type.value} of {codec.value} audio on track {track_id}")
    if codec is Codec.FLAC and packet_type is PacketType.CONFIG:
        data = _FLAC_HEADER + data
    return _ex_tag(0x90, _AUDIO_MULTITRACK, number, fourcc, track_id, data)


def metadata_codec_id(codec: Codec) -> int:
    """What videocodecid and audiocodecid of onMetaData say: the legacy number, else E-RTMP's FourCC as one. 0 where FLV has neither."""
    if codec in _METADATA_NUMBERS:
        return _METADATA_NUMBERS[codec]
    return int.from_bytes(_VIDEO_CODES.get(codec) or _AUDIO_CODES.get(codec) or b"", "big")


_METADATA_NUMBERS = {Codec.H264: 7, Codec.AAC: 10, Codec.MP3: 2, Codec.PCM_ALAW: 7, Codec.PCM_MULAW: 8}
_NUMBERS = {PacketType.CONFIG: 0, PacketType.FRAMES: 1, PacketType.END: 2}


def _ex_tag(first: int, multitrack: int, number: int, fourcc: bytes, track_id: int, data: bytes) -> bytes:
    if not track_id:
        return bytes((first | number,)) + fourcc + data
    return bytes((first | multitrack, _ONE_TRACK << 4 | number)) + fourcc + bytes((track_id,)) + data


def file_header(*, audio: bool, video: bool) -> bytes:
    """The beginning of an FLV file (E.2)."""
    return b"FLV\x01" + bytes((audio << 2 | video,)) + b"\0\0\0\x09\0\0\0\0"


def file_tag(kind: Kind, timestamp_ms: int, payload: bytes) -> bytes:
    """One tag of an FLV file with its back pointer (E.4.1)."""
    time = timestamp_ms & 0xFFFFFFFF
    type_ = 9 if kind is Kind.VIDEO else 8
    size = len(payload).to_bytes(3, "big")
    return b"".join(
        (
            bytes((type_,)),
            size,
            (time & 0xFFFFFF).to_bytes(3, "big"),
            bytes((time >> 24, 0, 0, 0)),
            payload,
            (len(payload) + 11).to_bytes(4, "big"),
        )
    )
