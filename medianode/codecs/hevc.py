"""H.265: hvcC (ISO/IEC 14496-15 8.3.3.1), sequence parameter sets (ITU-T H.265 7.3.2.2) and what an access unit holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from medianode.codecs import nal
from medianode.codecs.bits import BitReader
from medianode.codecs.vui import Colour, read_aspect_ratio, read_signal
from medianode.errors import ProtocolError


class NalType(IntEnum):
    """nal_unit_type, table 7-1; those that we tell apart."""

    BLA_W_LP = 16
    IDR_W_RADL = 19
    IDR_N_LP = 20
    CRA_NUT = 21
    VPS = 32
    SPS = 33
    PPS = 34
    AUD = 35
    FD = 38
    SEI_PREFIX = 39
    SEI_SUFFIX = 40


@dataclass(frozen=True, slots=True)
class Profile:
    """profile_tier_level, the general part (7.3.3). `constraints` are 48 bits from general_progressive_source_flag on."""

    space: int
    tier: int
    idc: int
    compatibility: int
    constraints: int
    level_idc: int


@dataclass(frozen=True, slots=True)
class HvcConfig:
    """HEVCDecoderConfigurationRecord. `sei` holds NAL units of arrays that are not parameter sets."""

    profile: Profile
    chroma_format_idc: int
    bit_depth_luma: int
    bit_depth_chroma: int
    length_size: int
    vps: tuple[bytes, ...]
    sps: tuple[bytes, ...]
    pps: tuple[bytes, ...]
    sei: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Sps:
    """`width` and `height` are after the conformance window. `sar` is (0, 0) and `frame_rate` 0.0 where the VUI does not tell."""

    profile: Profile
    max_sub_layers: int
    temporal_id_nesting: bool
    sps_id: int
    chroma_format_idc: int
    bit_depth_luma: int
    bit_depth_chroma: int
    width: int
    height: int
    max_num_reorder: int
    sar: tuple[int, int]
    colour: Colour | None
    frame_rate: float


class AccessUnit(NamedTuple):
    """`keyframe`: an IRAP picture (IDR, BLA, CRA). `is_reference`: pictures of its sub-layer may refer to it."""

    data: bytes
    keyframe: bool
    is_reference: bool
    vps: tuple[bytes, ...]
    sps: tuple[bytes, ...]
    pps: tuple[bytes, ...]


_MAX_SIDE = 16888  # of level 6.2, table A.8: sqrt(8 × 35 651 584)
_DROPPED = frozenset({NalType.VPS, NalType.SPS, NalType.PPS, NalType.AUD, NalType.FD})
_HEADER = 23


def parse_hvcc(data: bytes) -> HvcConfig:
    """ProtocolError on another version, a length size of 3, or arrays that run past the end."""
    if len(data) < _HEADER:
        raise ProtocolError(f"hvcC: expected at least {_HEADER} bytes, got {len(data)}")
    # Version 0 is the draft's, with the same layout; FFmpeg takes it too.
    if data[0] > 1:
        raise ProtocolError(f"hvcC: expected configurationVersion 1, got {data[0]}")
    length_size = (data[21] & 3) + 1
    if length_size == 3:
        raise ProtocolError("hvcC: expected NAL unit lengths of 1, 2 or 4 bytes, got 3")
    units: dict[int, list[bytes]] = {NalType.VPS: [], NalType.SPS: [], NalType.PPS: []}
    others: list[bytes] = []
    position = _HEADER
    for _ in range(data[22]):
        if position + 3 > len(data):
            raise ProtocolError(f"hvcC: expected an array at byte {position}, got the end")
        kind, count = data[position] & 63, int.from_bytes(data[position + 1 : position + 3], "big")
        position += 3
        for _ in range(count):
            start = position + 2
            position = start + int.from_bytes(data[position:start], "big")
            if position > len(data) or position < start + 2:
                raise ProtocolError(f"hvcC: expected a NAL unit of 2 to {max(0, len(data) - start)} bytes, got {position - start}")
            if data[start] >> 1 & 63 != kind:
                raise ProtocolError(f"hvcC: expected NAL unit type {kind}, got {data[start] >> 1 & 63}")
            units.get(kind, others).append(data[start:position])
    return HvcConfig(
        _read_profile(BitReader(data[1:13], "hvcC")), data[16] & 3, 8 + (data[17] & 7), 8 + (data[18] & 7), length_size,
        tuple(units[NalType.VPS]), tuple(units[NalType.SPS]), tuple(units[NalType.PPS]), tuple(others),
    )  # fmt: skip


def _read_profile(r: BitReader) -> Profile:
    return Profile(r.u(2), r.u(1), r.u(5), r.u(32), r.u(48), r.u(8))


def build_hvcc(vps: Sequence[bytes], sps: Sequence[bytes], pps: Sequence[bytes]) -> bytes:
    """hvcC with 4-byte lengths and complete arrays (for 'hvc1') from NAL units without prefixes; at least one SPS."""
    if not sps or max(map(len, (vps, sps, pps))) > 64:
        raise ProtocolError(f"hvcC: expected 1 SPS and up to 64 sets of each kind, got {len(vps)} VPS, {len(sps)} SPS, {len(pps)} PPS")
    if max(map(len, (*vps, *sps, *pps))) > 0xFFFF:
        raise ProtocolError("hvcC: expected parameter sets of at most 65535 bytes")
    first = parse_sps(sps[0])
    arrays = [(kind, units) for kind, units in ((NalType.VPS, vps), (NalType.SPS, sps), (NalType.PPS, pps)) if units]
    out = bytearray(b"\x01")
    out += nal.unescape(sps[0])[3:15]  # the general profile_tier_level stands there byte-aligned, in the record's own layout
    out += bytes((0xF0, 0, 0xFC, 0xFC | first.chroma_format_idc, 0xF8 | first.bit_depth_luma - 8, 0xF8 | first.bit_depth_chroma - 8, 0, 0))
    out += bytes((first.max_sub_layers << 3 | first.temporal_id_nesting << 2 | 3, len(arrays)))
    for kind, units in arrays:
        out += bytes((0x80 | kind, 0, len(units)))
        for unit in units:
            out += len(unit).to_bytes(2, "big") + unit
    return bytes(out)


def parse_sps(unit: bytes) -> Sps:
    """A NAL unit of type 33, without prefix. nuh_layer_id 0 only: the multilayer extensions have another syntax."""
    if len(unit) < 15 or unit[0] >> 1 & 63 != NalType.SPS or (unit[0] & 1) << 5 | unit[1] >> 3:
        raise ProtocolError(
            f"SPS: expected NAL unit type 33, layer 0, of at least 15 bytes, got {unit[:2].hex() or 'nothing'} of {len(unit)}"
        )
    r = BitReader(nal.unescape(unit), "SPS")
    r.skip(16 + 4)
    sub_layers = r.u(3) + 1
    if sub_layers > 7:
        raise ProtocolError("SPS: expected at most 7 sub-layers, got 8")
    nesting = r.flag()
    profile = _read_profile(r)
    _skip_sub_layers(r, sub_layers - 1)
    sps_id, chroma = r.ue(15), r.ue(3)
    separate_planes = chroma == 3 and r.flag()
    width, height = r.ue(_MAX_SIDE), r.ue(_MAX_SIDE)
    if r.flag():
        array = 0 if separate_planes else chroma
        width -= (2 if array in (1, 2) else 1) * (r.ue() + r.ue())
        height -= (2 if array == 1 else 1) * (r.ue() + r.ue())
    if width <= 0 or height <= 0:
        raise ProtocolError(f"SPS: expected the conformance window to leave a picture, got {width}x{height}")
    luma_depth, chroma_depth = 8 + r.ue(8), 8 + r.ue(8)
    if max(luma_depth, chroma_depth) > 15:
        raise ProtocolError(f"SPS: expected bit depths that hvcC can tell (up to 15), got {luma_depth} and {chroma_depth}")
    poc_bits = r.ue(12) + 4
    reorder = 0
    for _ in range(sub_layers if r.flag() else 1):
        r.ue(15)
        reorder = r.ue(15)
        r.ue()
    _skip_coding_tools(r, poc_bits)
    sar, colour, frame_rate = _read_vui(r) if r.flag() else ((0, 0), None, 0.0)
    return Sps(
        profile, sub_layers, nesting, sps_id, chroma, luma_depth, chroma_depth, width, height, reorder, sar, colour, frame_rate,
    )  # fmt: skip


def _skip_sub_layers(r: BitReader, count: int) -> None:
    present = [(r.flag(), r.flag()) for _ in range(count)]
    if count:
        r.skip(2 * (8 - count))
    for has_profile, has_level in present:
        r.skip(88 * has_profile + 8 * has_level)


def _skip_coding_tools(r: BitReader, poc_bits: int) -> None:
    """From log2_min_luma_coding_block_size_minus3 to strong_intra_smoothing_enabled_flag."""
    for _ in range(6):
        r.ue(32)
    if r.flag() and r.flag():
        _skip_scaling_lists(r)
    r.skip(2)
    if r.flag():
        r.skip(8)
        r.ue(8)
        r.ue(8)
        r.skip(1)
    _skip_short_term_sets(r, r.ue(64))
    if r.flag():
        r.skip(r.ue(32) * (poc_bits + 1))
    r.skip(2)


def _skip_scaling_lists(r: BitReader) -> None:
    for size in range(4):
        for _ in range(2 if size == 3 else 6):
            if not r.flag():
                r.ue(5)
                continue
            if size > 1:
                r.se()
            for _ in range(min(64, 1 << (4 + 2 * size))):
                r.se()


def _skip_short_term_sets(r: BitReader, count: int) -> None:
    """st_ref_pic_set (7.3.7): a predicted set has one flag more than its reference has pictures."""
    pictures = 0
    for index in range(count):
        if index and r.flag():
            r.skip(1)
            r.ue(0x7FFF)
            kept = 0
            for _ in range(pictures + 1):
                kept += r.flag() or r.flag()
            pictures = kept
            if pictures > 32:
                raise ProtocolError(f"SPS: expected at most 16 pictures in a reference set, got {pictures}")
        else:
            pictures = r.ue(16) + r.ue(16)
            for _ in range(pictures):
                r.ue(0x7FFF)
                r.skip(1)


def _read_vui(r: BitReader) -> tuple[tuple[int, int], Colour | None, float]:
    sar, colour = read_aspect_ratio(r), read_signal(r)
    r.skip(3)
    if r.flag():
        for _ in range(4):
            r.ue()
    frame_rate = 0.0
    if r.flag():
        units, scale = r.u(32), r.u(32)
        if units and scale:
            frame_rate = scale / units
    return sar, colour, frame_rate


def codec_string(record: bytes) -> str:
    """ISO/IEC 14496-15 annex E from an hvcC or an SPS: 'hvc1.1.6.L93.B0'."""
    is_record = len(record) >= _HEADER and record[0] <= 1
    profile = _read_profile(BitReader(record[1:13], "hvcC")) if is_record else parse_sps(record).profile
    compatibility = int(f"{profile.compatibility:032b}"[::-1], 2)
    constraints = profile.constraints.to_bytes(6, "big").rstrip(b"\x00")
    space = ("", "A", "B", "C")[profile.space]
    parts = [f"hvc1.{space}{profile.idc}.{compatibility:X}.{'LH'[profile.tier]}{profile.level_idc}", *(f"{byte:X}" for byte in constraints)]
    return ".".join(parts)


def is_irap(data: bytes, length_size: int = 4) -> bool:
    """Whether a length-prefixed access unit holds a slice of an intra random access point."""
    return any(16 <= data[start] >> 1 & 63 <= 23 for start, _ in nal.spans(data, length_size)[0])


def access_unit_info(data: bytes, length_size: int = 4, *, max_units: int = nal.MAX_UNITS) -> AccessUnit:
    """Looks without touching: `data` of the answer is the argument."""
    found, _ = nal.spans(data, length_size, max_units=max_units)
    return _look(data, found)[0]


def normalise(data: bytes, length_size: int = 4, *, max_units: int = nal.MAX_UNITS) -> AccessUnit:
    """`data` as Packets carry it, see `h264.normalise`: the very same object where nothing had to change."""
    found, tidy = nal.spans(data, length_size, max_units=max_units)
    info, dropped = _look(data, found)
    if tidy and not dropped:
        return info
    return info._replace(data=nal.join_spans(data, [span for span in found if data[span[0]] >> 1 & 63 not in _DROPPED]))


def _look(data: bytes, found: list[tuple[int, int]]) -> tuple[AccessUnit, bool]:
    keyframe = reference = dropped = False
    sets: dict[int, list[bytes]] = {}
    for start, end in found:
        kind = data[start] >> 1 & 63
        if kind < 32:
            if kind >= 16:
                keyframe = keyframe or kind <= 23
                reference = True
            elif kind & 1:
                reference = True
        elif kind in _DROPPED:
            dropped = True
            sets.setdefault(kind, []).append(data[start:end])
    if not dropped:
        return AccessUnit(data, keyframe, reference, (), (), ()), False
    vps, sps, pps = (tuple(sets.get(kind, ())) for kind in (NalType.VPS, NalType.SPS, NalType.PPS))
    return AccessUnit(data, keyframe, reference, vps, sps, pps), True
