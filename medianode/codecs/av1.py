"""AV1: OBUs (AV1 specification 5.3), sequence headers (5.5), av1C (AV1 in ISO BMFF 2.3) and what a temporal unit holds."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from medianode.codecs.bits import BitReader
from medianode.codecs.vui import Colour
from medianode.errors import LimitExceeded, ProtocolError

MAX_OBUS = 1024


class ObuType(IntEnum):
    """obu_type, 6.2.2."""

    SEQUENCE_HEADER = 1
    TEMPORAL_DELIMITER = 2
    FRAME_HEADER = 3
    TILE_GROUP = 4
    METADATA = 5
    FRAME = 6
    REDUNDANT_FRAME_HEADER = 7
    TILE_LIST = 8
    PADDING = 15


class Obu(NamedTuple):
    """`start` to `end` is the whole OBU within its data, `payload` where what follows header and size begins."""

    type: int
    start: int
    payload: int
    end: int
    has_size: bool


@dataclass(frozen=True, slots=True)
class SequenceHeader:
    """`level_idx` and `tier` are of operating point 0. `frame_rate` is 0.0 where no equal picture interval is told."""

    profile: int
    level_idx: int
    tier: int
    bit_depth: int
    monochrome: bool
    subsampling_x: int
    subsampling_y: int
    chroma_sample_position: int
    colour: Colour
    width: int
    height: int
    frame_rate: float
    reduced_still_picture: bool


@dataclass(frozen=True, slots=True)
class Av1Config:
    """AV1CodecConfigurationRecord; `sequence` is None where configOBUs hold no sequence header."""

    profile: int
    level_idx: int
    tier: int
    bit_depth: int
    monochrome: bool
    subsampling_x: int
    subsampling_y: int
    chroma_sample_position: int
    obus: bytes
    sequence: SequenceHeader | None


class TemporalUnit(NamedTuple):
    """`keyframe`: its first frame is a shown key frame. `sequence_header`: the whole OBU found in band, empty if none."""

    data: bytes
    keyframe: bool
    sequence_header: bytes


_SELECT = 2
_IDENTITY_SRGB = (1, 13, 0)


def read_leb128(data: bytes, position: int) -> tuple[int, int]:
    """(value, next position) of a leb128() of at most 8 bytes and 32 bits (4.10.5)."""
    value = 0
    for index in range(8):
        if position >= len(data):
            raise ProtocolError(f"leb128: expected a byte at {position}, got the end")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            if value >> 32:
                raise ProtocolError(f"leb128: expected at most 32 bits, got {value.bit_length()}")
            return value, position
    raise ProtocolError("leb128: expected at most 8 bytes, got more")


def leb128(value: int) -> bytes:
    """The shortest leb128() of `value`."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def obus(data: bytes, *, max_obus: int = MAX_OBUS) -> list[Obu]:
    """The OBUs of a low-overhead bitstream (5.3). One without a size reaches to the end."""
    found: list[Obu] = []
    position, end = 0, len(data)
    while position < end:
        if len(found) == max_obus:
            raise LimitExceeded(f"temporal unit: expected at most {max_obus} OBUs, got more")
        start, header = position, data[position]
        if header & 0x80:
            raise ProtocolError(f"OBU: expected the forbidden bit clear at byte {start}, got 0x{header:02x}")
        payload = start + 1 + (header >> 2 & 1)
        if header & 2:
            size, payload = read_leb128(data, payload)
            position = payload + size
        else:
            position = end
        if position > end or payload > end:
            raise ProtocolError(f"OBU: expected at most {max(0, end - payload)} bytes at byte {start}, got {position - payload}")
        found.append(Obu(header >> 3 & 15, start, payload, position, header & 2 != 0))
    return found


def sized(data: bytes, obu: Obu) -> bytes:
    """The OBU's bytes with obu_has_size_field set."""
    if obu.has_size:
        return data[obu.start : obu.end]
    header = 2 if data[obu.start] & 4 else 1
    return (
        bytes((data[obu.start] | 2, *data[obu.start + 1 : obu.start + header]))
        + leb128(obu.end - obu.payload)
        + data[obu.payload : obu.end]
    )


def parse_sequence_header(data: bytes) -> SequenceHeader:
    """From OBUs that hold a sequence header; the first one counts."""
    for obu in obus(data):
        if obu.type == ObuType.SEQUENCE_HEADER:
            return _read_sequence_header(BitReader(data[obu.payload : obu.end], "sequence header"))
    raise ProtocolError("AV1: expected a sequence header OBU, got none")


def _read_sequence_header(r: BitReader) -> SequenceHeader:
    profile = r.u(3)
    if profile > 2:
        raise ProtocolError(f"sequence header: expected profile 0 to 2, got {profile}")
    r.skip(1)
    reduced = r.flag()
    if reduced:
        level, tier, frame_rate = r.u(5), 0, 0.0
    else:
        level, tier, frame_rate = _read_operating_points(r)
    width_bits, height_bits = r.u(4) + 1, r.u(4) + 1
    width, height = r.u(width_bits) + 1, r.u(height_bits) + 1
    if not reduced and r.flag():
        r.skip(7)
    r.skip(3)
    if not reduced:
        _skip_tools(r)
    r.skip(3)
    depth, mono, ss_x, ss_y, position, colour = _read_colour(r, profile)
    r.skip(1)
    return SequenceHeader(profile, level, tier, depth, mono, ss_x, ss_y, position, colour, width, height, frame_rate, reduced)


def _read_operating_points(r: BitReader) -> tuple[int, int, float]:
    frame_rate, delay_bits = 0.0, 0
    if r.flag():
        units, scale = r.u(32), r.u(32)
        if r.flag():
            ticks = r.ue() + 1
            frame_rate = scale / (units * ticks) if units else 0.0
        if r.flag():
            delay_bits = r.u(5) + 1
            r.skip(42)
    display_delay = r.flag()
    first = (0, 0)
    for index in range(r.u(5) + 1):
        r.skip(12)
        level = r.u(5)
        tier = r.u(1) if level > 7 else 0
        if delay_bits and r.flag():
            r.skip(2 * delay_bits + 1)
        if display_delay and r.flag():
            r.skip(4)
        if index == 0:
            first = level, tier
    return *first, frame_rate


def _skip_tools(r: BitReader) -> None:
    r.skip(4)
    order_hint = r.flag()
    if order_hint:
        r.skip(2)
    screen_content = _SELECT if r.flag() else r.u(1)
    if screen_content and not r.flag():
        r.skip(1)
    if order_hint:
        r.skip(3)


def _read_colour(r: BitReader, profile: int) -> tuple[int, bool, int, int, int, Colour]:
    """color_config() (5.5.2)."""
    depth = 10 if r.flag() else 8
    if profile == 2 and depth == 10 and r.flag():
        depth = 12
    mono = profile != 1 and r.flag()
    codes = (r.u(8), r.u(8), r.u(8)) if r.flag() else (2, 2, 2)
    if mono:
        return depth, True, 1, 1, 0, Colour(*codes, r.flag())
    position = 0
    if codes == _IDENTITY_SRGB:
        full_range, ss_x, ss_y = True, 0, 0
    else:
        full_range = r.flag()
        if profile == 2 and depth == 12:
            ss_x = r.u(1)
            ss_y = r.u(1) if ss_x else 0
        else:
            ss_x, ss_y = ((1, 1), (0, 0), (1, 0))[profile]
        if ss_x and ss_y:
            position = r.u(2)
    r.skip(1)
    return depth, False, ss_x, ss_y, position, Colour(*codes, full_range)


def parse_av1c(data: bytes) -> Av1Config:
    """ProtocolError on another marker or version, or OBUs that run past the end."""
    if len(data) < 4 or data[0] != 0x81:
        raise ProtocolError(
            f"av1C: expected marker and version 0x81 and at least 4 bytes, got {data[:1].hex() or 'nothing'} of {len(data)}"
        )
    flags, config = data[2], data[4:]
    sequence = None
    if any(obu.type == ObuType.SEQUENCE_HEADER for obu in obus(config)):
        sequence = parse_sequence_header(config)
    depth = 8 if not flags & 0x40 else 12 if flags & 0x20 else 10
    return Av1Config(
        data[1] >> 5, data[1] & 31, flags >> 7, depth, flags & 0x10 != 0, flags >> 3 & 1, flags >> 2 & 1, flags & 3, config, sequence,
    )  # fmt: skip


def build_av1c(data: bytes) -> bytes:
    """av1C from OBUs that hold a sequence header (a whole temporal unit will do)."""
    s = parse_sequence_header(data)
    header = next(obu for obu in obus(data) if obu.type == ObuType.SEQUENCE_HEADER)
    flags = s.tier << 7 | (s.bit_depth > 8) << 6 | (s.bit_depth == 12) << 5 | s.monochrome << 4
    flags |= s.subsampling_x << 3 | s.subsampling_y << 2 | s.chroma_sample_position
    return bytes((0x81, s.profile << 5 | s.level_idx, flags, 0)) + sized(data, header)


def codec_string(config: bytes) -> str:
    """AV1 in ISO BMFF section 5 from an av1C: 'av01.0.04M.08'."""
    c = parse_av1c(config)
    return f"av01.{c.profile}.{c.level_idx:02d}{'MH'[c.tier]}.{c.bit_depth:02d}"


def normalise(data: bytes, *, max_obus: int = MAX_OBUS) -> TemporalUnit:
    """A sample of AV1 in ISO BMFF 2.4: no temporal delimiter, tile list or padding; the very same object where none was there."""
    keyframe: bool | None = None
    sequence_header = b""
    kept = []
    found = obus(data, max_obus=max_obus)
    reduced = False
    for obu in found:
        if obu.type in (ObuType.FRAME, ObuType.FRAME_HEADER) and keyframe is None:
            keyframe = reduced or _is_key(data, obu)
        elif obu.type == ObuType.SEQUENCE_HEADER and not sequence_header:
            sequence_header = sized(data, obu)
            reduced = parse_sequence_header(sequence_header).reduced_still_picture
        elif obu.type in (ObuType.TEMPORAL_DELIMITER, ObuType.TILE_LIST, ObuType.PADDING):
            continue
        kept.append(obu)
    if len(kept) != len(found):
        data = b"".join([data[obu.start : obu.end] for obu in kept])
    return TemporalUnit(data, keyframe or False, sequence_header)


def _is_key(data: bytes, obu: Obu) -> bool:
    """show_existing_frame 0, frame_type KEY_FRAME, show_frame 1 (5.9.2)."""
    return obu.payload < obu.end and data[obu.payload] >> 4 == 0b0001


def is_keyframe(data: bytes) -> bool:
    """Whether a temporal unit starts with a shown key frame."""
    return normalise(data).keyframe
