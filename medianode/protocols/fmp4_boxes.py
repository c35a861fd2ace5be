"""ISO BMFF boxes (ISO/IEC 14496-12 4.2): writing them, sample entries of each codec, and a bounded reader."""

from __future__ import annotations

import struct
from typing import NamedTuple

from medianode.codecs import aac, ac3, av1, flac, h264, hevc, opus, vp9
from medianode.codecs.vui import Colour
from medianode.errors import LimitExceeded, ProtocolError, UnsupportedMedia
from medianode.media.track import Codec, Track

_CONTAINERS = frozenset({b"moov", b"trak", b"mdia", b"minf", b"stbl", b"dinf", b"edts", b"mvex", b"moof", b"traf"})
_OTI_AAC, _OTI_MP3, _OTI_JPEG = 0x40, 0x6B, 0x6C
LANGUAGE_UND = 0x55C4
MATRIX = struct.pack(">9I", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)


class Box(NamedTuple):
    """`payload` is everything behind the header of 8 bytes (or 16); `children` are those of plain containers."""

    type: bytes
    payload: bytes
    children: tuple[Box, ...] = ()

    def find(self, *path: bytes) -> Box:
        """The first descendant along `path`; ProtocolError where there is none."""
        if not path:
            return self
        for child in self.children:
            if child.type == path[0]:
                return child.find(*path[1:])
        raise ProtocolError(f"ISO BMFF: expected a box {path[0]!r} in {self.type!r}, got none")


class Picture(NamedTuple):
    """What a visual sample entry tells besides the configuration. `sar` (0, 0) and `colour` None where not known."""

    width: int
    height: int
    sar: tuple[int, int]
    colour: Colour | None


def parse_boxes(data: bytes, *, max_boxes: int = 1024, max_depth: int = 8) -> list[Box]:
    """All boxes of `data`, containers opened. ProtocolError on sizes that do not fit; LimitExceeded over the bounds."""
    left = [max_boxes]
    return _parse(data, left, max_depth)


def _parse(data: bytes, left: list[int], depth: int) -> list[Box]:
    if depth == 0:
        raise LimitExceeded("ISO BMFF: expected less nesting")
    found = []
    position = 0
    while position < len(data):
        left[0] -= 1
        if left[0] < 0:
            raise LimitExceeded("ISO BMFF: expected fewer boxes")
        if position + 8 > len(data):
            raise ProtocolError(f"ISO BMFF: expected a box header of 8 bytes, got {len(data) - position}")
        size, kind = struct.unpack_from(">I4s", data, position)
        header = 8
        if size == 1:
            if position + 16 > len(data):
                raise ProtocolError(f"ISO BMFF: expected a box header of 16 bytes, got {len(data) - position}")
            size, header = int.from_bytes(data[position + 8 : position + 16], "big"), 16
        elif size == 0:
            size = len(data) - position
        if size < header or position + size > len(data):
            raise ProtocolError(f"ISO BMFF: expected {kind!r} of {header} to {len(data) - position} bytes, got {size}")
        payload = data[position + header : position + size]
        found.append(Box(kind, payload, tuple(_parse(payload, left, depth - 1)) if kind in _CONTAINERS else ()))
        position += size
    return found


def box(kind: bytes, *parts: bytes) -> bytes:
    payload = b"".join(parts)
    return struct.pack(">I4s", 8 + len(payload), kind) + payload


def uuid_box(extended_type: bytes, *parts: bytes) -> bytes:
    """A user extension (ISO/IEC 14496-12 4.2): `extended_type` is its UUID, 16 bytes."""
    return box(b"uuid", extended_type, *parts)


def full_box(kind: bytes, version: int, flags: int, *parts: bytes) -> bytes:
    return box(kind, (version << 24 | flags).to_bytes(4, "big"), *parts)


def media_box(mdhd: bytes, stbl: bytes, *, video: bool) -> bytes:
    """mdia (8.4.1): what stands between the media header and the sample table is the same in all files."""
    hdlr = full_box(b"hdlr", 0, 0, b"\0\0\0\0", b"vide" if video else b"soun", bytes(12), b"video\0" if video else b"audio\0")
    header = full_box(b"vmhd", 0, 1, bytes(8)) if video else full_box(b"smhd", 0, 0, bytes(4))
    dinf = box(b"dinf", full_box(b"dref", 0, 0, b"\0\0\0\1", full_box(b"url ", 0, 1)))
    return box(b"mdia", mdhd, hdlr, box(b"minf", header, dinf, stbl))


def sample_entry(track: Track) -> bytes:
    """The one box of stsd. UnsupportedMedia for codecs that have none or lack what it needs; ProtocolError on a bad config."""
    if track.codec is Codec.AAC:
        return _audio_entry(b"mp4a", track, _esds(_OTI_AAC, _config(track)))
    if track.codec is Codec.MP3:
        return _audio_entry(b"mp4a", track, _esds(_OTI_MP3, b""))
    if track.codec is Codec.OPUS:
        head = opus.parse_head(_config(track))
        return _audio_entry(b"Opus", track, box(b"dOps", opus.build_dops(head)))
    if track.codec is Codec.FLAC:
        info = flac.find_streaminfo(_config(track))
        bits = flac.parse_streaminfo(info).bits_per_sample
        return _audio_entry(b"fLaC", track, full_box(b"dfLa", 0, 0, b"\x80\x00\x00\x22", info), bits)
    if track.codec in _AC3:
        entry, child = _AC3[track.codec]
        return _audio_entry(entry, track, box(child, _config(track)))
    if track.codec in _VISUAL:
        return _visual_entry(track)
    raise UnsupportedMedia(f"ISO BMFF: expected a codec with a sample entry, got {track.codec.value}")


_AC3 = {Codec.AC3: (b"ac-3", b"dac3"), Codec.EAC3: (b"ec-3", b"dec3")}
_VISUAL = {
    Codec.H264: (b"avc1", b"avcC"),
    Codec.HEVC: (b"hvc1", b"hvcC"),
    Codec.AV1: (b"av01", b"av1C"),
    Codec.VP9: (b"vp09", b"vpcC"),
    Codec.VP8: (b"vp08", b"vpcC"),
    Codec.MJPEG: (b"mp4v", b"esds"),
}


def ac3_config(codec: Codec, access_unit: bytes) -> bytes:
    """What Track.config holds for AC-3 and E-AC-3 here: the payload of dac3 or dec3, from the first packet."""
    return ac3.build_dec3(access_unit) if codec is Codec.EAC3 else ac3.build_dac3(access_unit)


def _config(track: Track) -> bytes:
    if not track.config:
        raise UnsupportedMedia(f"ISO BMFF: expected a codec configuration for {track.codec.value}, got none")
    return track.config


def picture(track: Track) -> Picture:
    """Size, sample aspect ratio and colour: the Track's size if it has one, the rest from the configuration."""
    width, height, sar, colour = track.width, track.height, (0, 0), None
    if track.codec is Codec.H264:
        sets = h264.parse_avcc(_config(track)).sps
        if sets:
            sps = h264.parse_sps(sets[0])
            width, height, sar, colour = width or sps.width, height or sps.height, sps.sar, sps.colour
    elif track.codec is Codec.HEVC:
        units = hevc.parse_hvcc(_config(track)).sps
        if units:
            unit = hevc.parse_sps(units[0])
            width, height, sar, colour = width or unit.width, height or unit.height, unit.sar, unit.colour
    elif track.codec is Codec.AV1:
        header = av1.parse_av1c(_config(track)).sequence
        if header is not None:
            width, height, colour = width or header.width, height or header.height, header.colour
    elif track.codec is Codec.VP9:
        c = vp9.parse_vpcc(_config(track))
        colour = Colour(c.primaries, c.transfer, c.matrix, c.full_range)
    if not 0 < width < 1 << 16 or not 0 < height < 1 << 16:
        raise UnsupportedMedia(f"ISO BMFF: expected a picture size of 16 bits a side, got {width}x{height}")
    return Picture(width, height, sar, colour)


def _visual_entry(track: Track) -> bytes:
    """VisualSampleEntry (12.1.3), its configuration box, pasp and colr."""
    kind, child = _VISUAL[track.codec]
    look = picture(track)
    if track.codec is Codec.MJPEG:
        config = _esds(_OTI_JPEG, b"", visual=True)
    elif track.codec is Codec.VP8:
        config = full_box(child, 1, 0, vp9.build_vpcc(vp9.VpConfig(0, 0, 8)))
    elif track.codec is Codec.VP9:
        config = full_box(child, 1, 0, vp9.build_vpcc(vp9.parse_vpcc(track.config)))
    else:
        config = box(child, _four_byte_lengths(track))
    parts = [struct.pack(">6xH16xHHIIIH32xHh", 1, look.width, look.height, 0x480000, 0x480000, 0, 1, 24, -1), config]
    if look.sar[0] and look.sar[0] != look.sar[1]:
        parts.append(box(b"pasp", struct.pack(">II", *look.sar)))
    if look.colour is not None and look.colour != Colour():
        c = look.colour
        parts.append(box(b"colr", struct.pack(">4sHHHB", b"nclx", c.primaries, c.transfer, c.matrix, c.full_range << 7)))
    return box(kind, *parts)


def _four_byte_lengths(track: Track) -> bytes:
    """The configuration with lengthSizeMinusOne 3, as Packets are, whatever the publisher's record says."""
    at = {Codec.H264: 4, Codec.HEVC: 21}.get(track.codec)
    config = track.config
    if at is None or config[at] & 3 == 3:
        return config
    return config[:at] + bytes((config[at] | 3,)) + config[at + 1 :]


def _audio_entry(kind: bytes, track: Track, config: bytes, bits: int = 16) -> bytes:
    """AudioSampleEntry (12.2.3); a rate over 16 bits is told as 0 and stands in the configuration."""
    rate, channels = track.sample_rate or track.clock_rate, track.channels
    if track.codec is Codec.AAC:
        asc = aac.parse_asc(track.config)
        rate, channels = track.sample_rate or asc.output_sample_rate, channels or asc.channels
    elif track.codec is Codec.OPUS:
        rate = opus.SAMPLE_RATE
    return box(kind, struct.pack(">6xH8xHH4xI", 1, channels or 2, bits, rate << 16 if rate < 1 << 16 else 0), config)


def _esds(object_type: int, specific: bytes, *, visual: bool = False) -> bytes:
    """ES_Descriptor (ISO/IEC 14496-14 5.6, 14496-1 7.2.6.5); bit rates 0: not known."""
    inner = _descriptor(5, specific) if specific else b""
    decoder = _descriptor(4, struct.pack(">BB3xII", object_type, 0x11 if visual else 0x15, 0, 0), inner)
    return full_box(b"esds", 0, 0, _descriptor(3, b"\x00\x00\x00", decoder, _descriptor(6, b"\x02")))


def _descriptor(tag: int, *parts: bytes) -> bytes:
    """With a size of four bytes, as every muxer writes it."""
    payload = b"".join(parts)
    size = len(payload)
    return bytes((tag, size >> 21 & 0x7F | 0x80, size >> 14 & 0x7F | 0x80, size >> 7 & 0x7F | 0x80, size & 0x7F)) + payload
