"""VP9: the uncompressed header (VP9 specification 6.2) and vpcC (VP Codec ISO Media File Format Binding 1.0)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from medianode.codecs.bits import BitReader
from medianode.errors import ProtocolError


class FrameHeader(NamedTuple):
    """`width`, `height`, `bit_depth` and `chroma_subsampling` (as vpcC numbers it) are 0 but in key frames."""

    keyframe: bool
    profile: int
    show_existing_frame: bool
    show_frame: bool
    width: int = 0
    height: int = 0
    bit_depth: int = 0
    chroma_subsampling: int = 0
    full_range: bool = False


@dataclass(frozen=True, slots=True)
class VpConfig:
    """VPCodecConfigurationRecord. `level` is ten times the level (31 is 3.1), 0 where not known; code points are of ITU-T H.273."""

    profile: int
    level: int
    bit_depth: int
    chroma_subsampling: int = 1
    full_range: bool = False
    primaries: int = 2
    transfer: int = 2
    matrix: int = 2


_SYNC_CODE = 0x498342
_RGB = 7
_FULL_BOX = b"\x01\x00\x00\x00"
# Luma picture size and samples per second of levels 1 to 6.2 (webmproject.org/vp9/levels).
_LEVELS = (
    (10, 36864, 829440), (11, 73728, 2764800), (20, 122880, 4608000), (21, 245760, 9216000), (30, 552960, 20736000),
    (31, 983040, 36864000), (40, 2228224, 83558400), (41, 2228224, 160432128), (50, 8912896, 311951360), (51, 8912896, 588251136),
    (52, 8912896, 1176502272), (60, 35651584, 1176502272), (61, 35651584, 2353004544), (62, 35651584, 4706009088),
)  # fmt: skip


def parse_frame(data: bytes) -> FrameHeader:
    """The first frame of a sample. ProtocolError on a bad frame marker, profile or sync code."""
    r = BitReader(data[:32], "VP9 header")
    if r.u(2) != 2:
        raise ProtocolError(f"VP9: expected frame marker 2, got {data[0] >> 6}")
    profile = r.u(1) | r.u(1) << 1
    if profile == 3 and r.flag():
        raise ProtocolError("VP9: expected profile 0 to 3, got a reserved one")
    if r.flag():
        return FrameHeader(False, profile, True, True)
    keyframe, show_frame = not r.flag(), r.flag()
    r.skip(1)
    if not keyframe:
        return FrameHeader(False, profile, False, show_frame)
    sync = r.u(24)
    if sync != _SYNC_CODE:
        raise ProtocolError(f"VP9: expected sync code 498342, got {sync:06x}")
    depth, subsampling, full_range = _read_colour(r, profile)
    return FrameHeader(True, profile, False, show_frame, r.u(16) + 1, r.u(16) + 1, depth, subsampling, full_range)


def _read_colour(r: BitReader, profile: int) -> tuple[int, int, bool]:
    """color_config() (6.2.2): bit depth, chroma_subsampling of vpcC, full range."""
    depth = 8 if profile < 2 else 12 if r.flag() else 10
    if r.u(3) == _RGB:
        if profile & 1:
            r.skip(1)
        return depth, 3, True
    full_range = r.flag()
    if not profile & 1:
        return depth, 1, full_range
    x, y = r.u(1), r.u(1)
    r.skip(1)
    return depth, 2 if x and not y else 3, full_range


def is_keyframe(data: bytes) -> bool:
    """Whether a sample starts with a shown key frame."""
    header = parse_frame(data)
    return header.keyframe and header.show_frame


def level_for(width: int, height: int, frame_rate: float = 30.0) -> int:
    """The lowest level (ten times its number) that holds such pictures; 62 above all."""
    size = width * height
    return next((level for level, most, per_second in _LEVELS if size <= most and size * frame_rate <= per_second), 62)


def parse_vpcc(data: bytes) -> VpConfig:
    """The record of 8 bytes and more, with or without the FullBox header (version 1, flags 0) that some send along."""
    if data[:4] == _FULL_BOX and len(data) >= 12:
        data = data[4:]
    if len(data) < 8 or len(data) < 8 + int.from_bytes(data[6:8], "big"):
        raise ProtocolError(f"vpcC: expected 8 bytes and codecInitializationData, got {len(data)}")
    if data[0] > 3 or data[2] >> 4 not in (8, 10, 12):
        raise ProtocolError(f"vpcC: expected profile 0 to 3 and 8, 10 or 12 bits, got {data[0]} and {data[2] >> 4}")
    return VpConfig(data[0], data[1], data[2] >> 4, data[2] >> 1 & 7, data[2] & 1 != 0, data[3], data[4], data[5])


def build_vpcc(c: VpConfig) -> bytes:
    """The record alone, 8 bytes."""
    layout = c.bit_depth << 4 | c.chroma_subsampling << 1 | c.full_range
    return bytes((c.profile, c.level, layout, c.primaries, c.transfer, c.matrix, 0, 0))


def config_of(frame: bytes, frame_rate: float = 30.0) -> VpConfig:
    """What a key frame tells of the record; the level is the lowest that fits."""
    h = parse_frame(frame)
    if not h.keyframe:
        raise ProtocolError("VP9: expected a key frame, got another")
    return VpConfig(h.profile, level_for(h.width, h.height, frame_rate), h.bit_depth, h.chroma_subsampling, h.full_range)


def codec_string(record: bytes) -> str:
    """VP Codec binding, 'Codecs Parameter String', from a vpcC: 'vp09.00.31.08'."""
    c = parse_vpcc(record)
    return f"vp09.{c.profile:02d}.{c.level or 10:02d}.{c.bit_depth:02d}"
