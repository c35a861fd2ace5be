"""H.264: avcC (ISO/IEC 14496-15 5.3.3.1), sequence parameter sets (ITU-T H.264 7.3.2.1.1) and what an access unit holds."""

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
    """nal_unit_type, table 7-1."""

    SLICE = 1
    DPA = 2
    DPB = 3
    DPC = 4
    IDR = 5
    SEI = 6
    SPS = 7
    PPS = 8
    AUD = 9
    END_SEQUENCE = 10
    END_STREAM = 11
    FILLER_DATA = 12
    SPS_EXT = 13
    PREFIX = 14
    SUB_SPS = 15


@dataclass(frozen=True, slots=True)
class AvcConfig:
    """AVCDecoderConfigurationRecord. `ext` is what follows the PPS, as it stands (chroma format and bit depths of the High profiles)."""

    profile: int
    compat: int
    level: int
    length_size: int
    sps: tuple[bytes, ...]
    pps: tuple[bytes, ...]
    ext: bytes = b""


@dataclass(frozen=True, slots=True)
class Sps:
    """`width` and `height` are after cropping. What the VUI does not tell: `sar` (0, 0), `frame_rate` 0.0, reordering None."""

    profile_idc: int
    constraint_flags: int
    level_idc: int
    sps_id: int
    chroma_format_idc: int
    bit_depth_luma: int
    bit_depth_chroma: int
    pic_order_cnt_type: int
    max_num_ref_frames: int
    frame_mbs_only: bool
    width: int
    height: int
    sar: tuple[int, int]
    colour: Colour | None
    frame_rate: float
    max_num_reorder_frames: int | None

    @property
    def never_reorders(self) -> bool:
        """No B-frames can come: pts equals dts throughout."""
        return self.max_num_reorder_frames == 0 or self.pic_order_cnt_type == 2 or self.profile_idc == 66


class AccessUnit(NamedTuple):
    """What `access_unit_info` and `normalise` found.

    `keyframe`: an IDR picture. `recovery_point`: not IDR, but intra slices with a recovery point SEI of recovery_frame_cnt 0.
    `is_reference`: other pictures may refer to it (nal_ref_idc). `sps` and `pps`: parameter sets found in band, without prefixes.
    """

    data: bytes
    keyframe: bool
    recovery_point: bool
    is_reference: bool
    sps: tuple[bytes, ...]
    pps: tuple[bytes, ...]


_WITHOUT_CHROMA = frozenset({66, 77, 88})
_WITH_CHROMA = frozenset({100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135})
_MAX_MBS = 1056  # a side of level 6.2, table A-1: sqrt(8 × 139 264) macroblocks
_DROPPED = frozenset({NalType.SPS, NalType.PPS, NalType.AUD, NalType.FILLER_DATA, NalType.SPS_EXT})
_INTRA_SLICES = frozenset({2, 4, 7, 9})


def parse_avcc(data: bytes) -> AvcConfig:
    """ProtocolError on another version, a length size of 3, sets that run past the end or are not SPS and PPS."""
    if len(data) < 7:
        raise ProtocolError(f"avcC: expected at least 7 bytes, got {len(data)}")
    if data[0] != 1:
        raise ProtocolError(f"avcC: expected configurationVersion 1, got {data[0]}")
    length_size = (data[4] & 3) + 1
    if length_size == 3:
        raise ProtocolError("avcC: expected NAL unit lengths of 1, 2 or 4 bytes, got 3")
    sps, position = _read_sets(data, 6, data[5] & 31, NalType.SPS)
    if position >= len(data):
        raise ProtocolError("avcC: expected the number of PPS, got the end")
    pps, position = _read_sets(data, position + 1, data[position], NalType.PPS)
    return AvcConfig(data[1], data[2], data[3], length_size, sps, pps, data[position:])


def _read_sets(data: bytes, position: int, count: int, kind: NalType) -> tuple[tuple[bytes, ...], int]:
    sets = []
    for _ in range(count):
        start = position + 2
        position = start + int.from_bytes(data[position:start], "big")
        if position > len(data) or position == start:
            raise ProtocolError(f"avcC: expected {kind.name} of 1 to {max(0, len(data) - start)} bytes, got {position - start}")
        if data[start] & 31 != kind:
            raise ProtocolError(f"avcC: expected {kind.name}, got NAL unit type {data[start] & 31}")
        sets.append(data[start:position])
    return tuple(sets), position


def build_avcc(sps: Sequence[bytes], pps: Sequence[bytes]) -> bytes:
    """avcC with 4-byte lengths from 1 to 31 SPS and up to 255 PPS (NAL units without prefixes)."""
    if not 1 <= len(sps) <= 31 or len(pps) > 255:
        raise ProtocolError(f"avcC: expected 1 to 31 SPS and up to 255 PPS, got {len(sps)} and {len(pps)}")
    if max(map(len, (*sps, *pps))) > 0xFFFF:
        raise ProtocolError("avcC: expected parameter sets of at most 65535 bytes")
    first = parse_sps(sps[0])
    out = bytearray((1, *sps[0][1:4], 0xFF, 0xE0 | len(sps)))
    for unit in sps:
        out += len(unit).to_bytes(2, "big") + unit
    out.append(len(pps))
    for unit in pps:
        out += len(unit).to_bytes(2, "big") + unit
    if first.profile_idc not in _WITHOUT_CHROMA:
        out += bytes((0xFC | first.chroma_format_idc, 0xF8 | first.bit_depth_luma - 8, 0xF8 | first.bit_depth_chroma - 8, 0))
    return bytes(out)


def parse_sps(unit: bytes) -> Sps:
    """A NAL unit of type 7, without prefix."""
    if len(unit) < 5 or unit[0] & 31 != NalType.SPS:
        raise ProtocolError(f"SPS: expected NAL unit type 7 of at least 5 bytes, got {unit[:1].hex() or 'nothing'} of {len(unit)}")
    r = BitReader(nal.unescape(unit), "SPS")
    r.skip(8)
    profile, constraints, level = r.u(8), r.u(8), r.u(8)
    sps_id = r.ue(31)
    chroma, luma_depth, chroma_depth, separate_planes = 1, 8, 8, False
    if profile in _WITH_CHROMA:
        chroma = r.ue(3)
        separate_planes = chroma == 3 and r.flag()
        luma_depth, chroma_depth = 8 + r.ue(6), 8 + r.ue(6)
        r.skip(1)
        if r.flag():
            _skip_scaling_matrix(r, 12 if chroma == 3 else 8)
    r.ue(12)
    poc_type = _skip_pic_order_cnt(r)
    ref_frames = r.ue(16)
    r.skip(1)
    mbs_wide, map_units_high = r.ue(_MAX_MBS - 1) + 1, r.ue(_MAX_MBS - 1) + 1
    frame_mbs_only = r.flag()
    if not frame_mbs_only:
        r.skip(1)
    r.skip(1)
    fields = 1 if frame_mbs_only else 2
    width, height = mbs_wide * 16, map_units_high * 16 * fields
    if r.flag():
        array = 0 if separate_planes else chroma
        unit_x, unit_y = (2 if array in (1, 2) else 1), (2 if array == 1 else 1) * fields
        width -= unit_x * (r.ue() + r.ue())
        height -= unit_y * (r.ue() + r.ue())
        if width <= 0 or height <= 0:
            raise ProtocolError(f"SPS: expected cropping to leave a picture, got {width}x{height}")
    sar, colour, frame_rate, reorder = _read_vui(r) if r.flag() else ((0, 0), None, 0.0, None)
    return Sps(
        profile, constraints, level, sps_id, chroma, luma_depth, chroma_depth, poc_type, ref_frames, frame_mbs_only,
        width, height, sar, colour, frame_rate, reorder,
    )  # fmt: skip


def _skip_scaling_matrix(r: BitReader, lists: int) -> None:
    for index in range(lists):
        if r.flag():
            last = following = 8
            for _ in range(16 if index < 6 else 64):
                if following:
                    following = (last + r.se()) & 255
                last = following or last


def _skip_pic_order_cnt(r: BitReader) -> int:
    kind = r.ue(2)
    if kind == 0:
        r.ue(12)
    elif kind == 1:
        r.skip(1)
        r.se()
        r.se()
        for _ in range(r.ue(255)):
            r.se()
    return kind


def _read_vui(r: BitReader) -> tuple[tuple[int, int], Colour | None, float, int | None]:
    sar, colour = read_aspect_ratio(r), read_signal(r)
    frame_rate = 0.0
    if r.flag():
        units, scale = r.u(32), r.u(32)
        r.skip(1)
        if units and scale:
            frame_rate = scale / (2 * units)
    try:
        reorder = _read_reorder(r)
    except ProtocolError:  # cameras with a VUI cut short, as FFmpeg knows them ("Truncated VUI"): what came before still holds
        reorder = None
    return sar, colour, frame_rate, reorder


def _read_reorder(r: BitReader) -> int | None:
    nal_hrd = r.flag()
    if nal_hrd:
        _skip_hrd(r)
    vcl_hrd = r.flag()
    if vcl_hrd:
        _skip_hrd(r)
    r.skip(2 if nal_hrd or vcl_hrd else 1)
    if not r.flag():
        return None
    r.skip(1)
    for _ in range(4):
        r.ue()
    return r.ue(16)


def _skip_hrd(r: BitReader) -> None:
    count = r.ue(31) + 1
    r.skip(8)
    for _ in range(count):
        r.ue()
        r.ue()
        r.skip(1)
    r.skip(20)


def codec_string(record: bytes) -> str:
    """RFC 6381 3.3 from an avcC or an SPS: 'avc1.64001f'."""
    if len(record) < 4 or (record[0] != 1 and record[0] & 31 != NalType.SPS):
        raise ProtocolError(f"H.264: expected an avcC or an SPS, got {record[:4].hex() or 'nothing'}")
    return f"avc1.{record[1:4].hex()}"


def is_idr(data: bytes, length_size: int = 4) -> bool:
    """Whether a length-prefixed access unit holds an IDR slice."""
    return any(data[start] & 31 == NalType.IDR for start, _ in nal.spans(data, length_size)[0])


def access_unit_info(data: bytes, length_size: int = 4, *, max_units: int = nal.MAX_UNITS) -> AccessUnit:
    """Looks without touching: `data` of the answer is the argument."""
    found, _ = nal.spans(data, length_size, max_units=max_units)
    return _look(data, found)[0]


def normalise(data: bytes, length_size: int = 4, *, max_units: int = nal.MAX_UNITS) -> AccessUnit:
    """`data` as Packets carry it: 4-byte lengths, no AUD, parameter sets or filler; the very same object where nothing had to change.

    Annex B in place of lengths is converted. `data` is empty where nothing but parameter sets came.
    """
    found, tidy = nal.spans(data, length_size, max_units=max_units)
    info, dropped = _look(data, found)
    if tidy and not dropped:
        return info
    return info._replace(data=nal.join_spans(data, [span for span in found if data[span[0]] & 31 not in _DROPPED]))


def _look(data: bytes, found: list[tuple[int, int]]) -> tuple[AccessUnit, bool]:
    keyframe = reference = recovery = dropped = False
    slices = []
    sps: list[bytes] = []
    pps: list[bytes] = []
    for start, end in found:
        header = data[start]
        kind = header & 31
        if kind <= 5:
            if header & 0x60:
                reference = True
            if kind == 5:
                keyframe = True
            slices.append(start)
        elif kind == 6:
            recovery = recovery or _is_recovery_point(data[start + 1 : end])
        elif kind in _DROPPED:
            dropped = True
            if kind == 7:
                sps.append(data[start:end])
            elif kind == 8:
                pps.append(data[start:end])
    if recovery:
        recovery = bool(slices) and not keyframe and all(map(_is_intra, [data[start + 1 : start + 17] for start in slices]))
    return AccessUnit(data, keyframe, recovery, reference, tuple(sps), tuple(pps)), dropped


def _is_recovery_point(payload: bytes) -> bool:
    """An SEI message of payloadType 6 with recovery_frame_cnt 0 (D.1.8). A malformed SEI is none: decoders ignore those too."""
    rbsp = nal.unescape(payload[:1024])
    position = 0
    while position + 2 < len(rbsp):
        kind, position = _sei_number(rbsp, position)
        size, position = _sei_number(rbsp, position)
        if kind == 6:
            return position < len(rbsp) and rbsp[position] & 0x80 != 0
        position += size
    return False


def _sei_number(rbsp: bytes, position: int) -> tuple[int, int]:
    value = 0
    while position < len(rbsp):
        byte = rbsp[position]
        position += 1
        value += byte
        if byte != 255:
            break
    return value, position


def _is_intra(slice_header: bytes) -> bool:
    r = BitReader(nal.unescape(slice_header), "slice header")
    r.ue()
    return r.ue() in _INTRA_SLICES
