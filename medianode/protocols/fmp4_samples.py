"""What a fragmented MP4 of our own making tells of its samples: formats from moov (8.5.2), sample tables from moof (8.8). Sans-IO.

`fmp4_read` tells when fragments are shown, which recovery needs; this tells of each sample, which clips and pictures need.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from medianode.codecs import opus
from medianode.errors import ProtocolError
from medianode.media.track import Codec, Track
from medianode.protocols.fmp4_boxes import Box, parse_boxes

_NON_SYNC = 0x1_0000
_BASE_OFFSET, _DESCRIPTION, _DEFAULT_DURATION, _DEFAULT_SIZE, _DEFAULT_FLAGS = 0x1, 0x2, 0x8, 0x10, 0x20
_OFFSET, _FIRST_FLAGS, _DURATION, _SIZE, _FLAGS, _COMPOSITION = 0x1, 0x4, 0x100, 0x200, 0x400, 0x800
_BOX, _TWO = struct.Struct(">I4s"), struct.Struct(">II")
_VISUAL_FIELDS, _AUDIO_FIELDS = 78, 28
_ENTRIES = {
    b"avc1": (Codec.H264, b"avcC"),
    b"hvc1": (Codec.HEVC, b"hvcC"),
    b"av01": (Codec.AV1, b"av1C"),
    b"vp09": (Codec.VP9, b"vpcC"),
    b"vp08": (Codec.VP8, b"vpcC"),
    b"mp4v": (Codec.MJPEG, b"esds"),
    b"mp4a": (Codec.AAC, b"esds"),
    b"Opus": (Codec.OPUS, b"dOps"),
    b"fLaC": (Codec.FLAC, b"dfLa"),
    b"ac-3": (Codec.AC3, b"dac3"),
    b"ec-3": (Codec.EAC3, b"dec3"),
}
_OBJECT_TYPES = {0x40: Codec.AAC, 0x6B: Codec.MP3, 0x69: Codec.MP3, 0x6C: Codec.MJPEG}


class Format(NamedTuple):
    """One track of a file. `number`: its track_ID; `track`: as it was before it was muxed (its `id` is the number less 1); `entry`: its
    sample entry, whole; `display`: tkhd's width and height, 16.16.
    """

    number: int
    track: Track
    entry: bytes
    display: tuple[int, int]

    @property
    def signature(self) -> tuple[int, int, bytes]:
        """Equal where the samples of two files can stand in one track."""
        return self.number, self.track.clock_rate, self.entry


class Samples(NamedTuple):
    """One track's samples in a fragment. `base`: decode time of the first; `durations` and `compositions` (pts - dts, signed, empty where
    all are 0): ticks; `keys`: which of them are key frames, None for all; `data`: where the first begins, bytes from the moof's beginning.
    They follow one another.
    """

    number: int
    base: int
    durations: tuple[int, ...]
    sizes: tuple[int, ...]
    compositions: tuple[int, ...]
    keys: tuple[int, ...] | None
    data: int


def formats(init: bytes) -> tuple[Format, ...]:
    """Of ftyp and moov. ProtocolError where it is not what `fmp4.init_segment` makes."""
    moov = next((box for box in parse_boxes(init) if box.type == b"moov"), None)
    if moov is None:
        raise ProtocolError("ISO BMFF: expected a moov, got none")
    found = tuple(_format(trak) for trak in moov.children if trak.type == b"trak")
    if not found:
        raise ProtocolError("ISO BMFF: expected a track, got none")
    return found


def _format(trak: Box) -> Format:
    tkhd, mdhd = trak.find(b"tkhd").payload, trak.find(b"mdia", b"mdhd").payload
    stsd = trak.find(b"mdia", b"minf", b"stbl", b"stsd").payload
    if len(tkhd) < 84 or len(mdhd) < 20 or len(stsd) < 16:
        raise ProtocolError("ISO BMFF: expected tkhd, mdhd and stsd of version 0, got shorter ones")
    number, rate = struct.unpack_from(">I", tkhd, 12)[0], struct.unpack_from(">I", mdhd, 12)[0]
    size, kind = struct.unpack_from(">I4s", stsd, 8)
    entry = stsd[8 : 8 + size]
    if kind not in _ENTRIES or len(entry) != size or not rate:
        raise ProtocolError(f"ISO BMFF: expected a sample entry of ours, got {kind!r} of {size} bytes")
    codec, child = _ENTRIES[kind]
    visual = codec.kind.value == "video"
    children = parse_boxes(entry[8 + (_VISUAL_FIELDS if visual else _AUDIO_FIELDS) :])
    payload = next((box.payload for box in children if box.type == child), b"")
    codec, config = _configuration(codec, child, payload)
    if visual:
        width, height = struct.unpack_from(">HH", entry, 32)
        track = Track(number - 1, codec, rate, config, width, height)
    else:
        (channels,) = struct.unpack_from(">H", entry, 24)
        (told,) = struct.unpack_from(">I", entry, 32)
        track = Track(number - 1, codec, rate, config, sample_rate=told >> 16 or rate, channels=channels)
    return Format(number, track, entry, struct.unpack_from(">II", tkhd, 76))


def _configuration(codec: Codec, child: bytes, payload: bytes) -> tuple[Codec, bytes]:
    """The codec and its configuration as Track has it."""
    if child == b"esds":
        object_type, specific = _elementary(payload)
        if object_type not in _OBJECT_TYPES:
            raise ProtocolError(f"esds: expected AAC, MP3 or JPEG, got object type {object_type:#x}")
        return _OBJECT_TYPES[object_type], specific
    if child == b"vpcC":
        return codec, payload[4:] if codec is Codec.VP9 else b""
    if child == b"dOps":
        return codec, opus.build_head(opus.parse_dops(payload))
    if child == b"dfLa":
        return codec, payload[8:42]
    return codec, payload


def _elementary(esds: bytes) -> tuple[int, bytes]:
    """(objectTypeIndication, DecoderSpecificInfo) of an ES_Descriptor (ISO/IEC 14496-1 7.2.6.5)."""
    position, end = 4, len(esds)
    object_type = -1
    while position + 2 <= end:
        tag, size, position = esds[position], 0, position + 1
        while position < end:
            byte, position = esds[position], position + 1
            size = size << 7 | byte & 0x7F
            if not byte & 0x80:
                break
        if tag == 3:
            position += 3  # into it; our streams depend on nothing and carry no URL
        elif tag == 4 and position + 13 <= end:
            object_type, position = esds[position], position + 13
        elif tag == 5:
            return object_type, esds[position : position + size]
        else:
            position += size
    return object_type, b""


def samples(moof: bytes) -> list[Samples]:
    """Of a moof, its header included. ProtocolError where it is not whole, or a run does not tell the sizes of its samples: ours do, and
    memory is then bounded by the bytes at hand, whatever they are.

    Walks the boxes by itself: `parse_boxes` costs more than all else here, and a day has 86 400 of them.
    """
    try:
        size, kind = _BOX.unpack_from(moof)
        if kind != b"moof" or size != len(moof):
            raise ProtocolError(f"ISO BMFF: expected a moof of {len(moof)} bytes, got {kind!r} of {size}")
        return [_table(moof, at, end) for kind, at, end in _boxes(moof, 8, size) if kind == b"traf"]
    except (struct.error, IndexError, KeyError):
        raise ProtocolError("ISO BMFF: expected a whole track fragment, got a cut one") from None


def _boxes(data: bytes, at: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """(type, where its payload begins and ends) of each."""
    while at < end:
        size, kind = _BOX.unpack_from(data, at)
        if size < 8 or at + size > end:
            raise ProtocolError(f"ISO BMFF: expected {kind!r} of 8 to {end - at} bytes, got {size}")
        yield kind, at + 8, at + size
        at += size


def _table(data: bytes, at: int, end: int) -> Samples:
    found = {kind: start for kind, start, _ in _boxes(data, at, end)}
    present, number, duration, every, defaults_at = *_TWO.unpack_from(data, found[b"tfhd"]), 0, 0, found[b"tfhd"] + 8
    defaults_at += 8 * bool(present & _BASE_OFFSET) + 4 * bool(present & _DESCRIPTION)
    if present & _DEFAULT_DURATION:
        duration, defaults_at = _u32(data, defaults_at), defaults_at + 4
    defaults_at += 4 * bool(present & _DEFAULT_SIZE)
    if present & _DEFAULT_FLAGS:
        every = _u32(data, defaults_at)
    tfdt, trun = found[b"tfdt"], found[b"trun"]
    (base,) = struct.unpack_from(">Q" if data[tfdt] == 1 else ">I", data, tfdt + 4)
    flags, count = _TWO.unpack_from(data, trun)
    at, offset, first = trun + 8, 0, every
    if flags & _OFFSET:
        offset, at = struct.unpack_from(">i", data, at)[0], at + 4
    if flags & _FIRST_FLAGS:
        first, at = _u32(data, at), at + 4
    columns = [bit for bit in (_DURATION, _SIZE, _FLAGS, _COMPOSITION) if flags & bit]
    width = len(columns)
    if not flags & _SIZE or at + 4 * width * count > end:
        raise ProtocolError(f"ISO BMFF: expected {count} samples in a run of {end - trun} bytes")
    table = struct.unpack_from(f">{width * count}I", data, at)
    column = {bit: table[i::width] for i, bit in enumerate(columns)}
    compositions = column.get(_COMPOSITION, ())
    if compositions and flags >> 24:
        compositions = tuple([c - 0x1_0000_0000 if c & 0x8000_0000 else c for c in compositions])
    durations = column.get(_DURATION) or (duration,) * count
    return Samples(number, base, durations, column[_SIZE], compositions, _keys(column.get(_FLAGS), every, first, count), offset)


def _keys(flags: tuple[int, ...] | None, every: int, first: int, count: int) -> tuple[int, ...] | None:
    if flags is not None:
        keys = tuple([i for i, each in enumerate(flags) if not each & _NON_SYNC])
        return None if len(keys) == count else keys
    if not every & _NON_SYNC:
        return None
    return () if first & _NON_SYNC else (0,)


def _u32(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 4], "big")
