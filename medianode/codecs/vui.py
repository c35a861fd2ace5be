"""What the video usability information of H.264 (annex E) and H.265 (annex E) have in common."""

from __future__ import annotations

from typing import NamedTuple

from medianode.codecs.bits import BitReader


class Colour(NamedTuple):
    """Code points of ITU-T H.273; 2 is unspecified."""

    primaries: int = 2
    transfer: int = 2
    matrix: int = 2
    full_range: bool = False


_EXTENDED_SAR = 255
_SAR = (
    (0, 0), (1, 1), (12, 11), (10, 11), (16, 11), (40, 33), (24, 11), (20, 11), (32, 11), (80, 33),
    (18, 11), (15, 11), (64, 33), (160, 99), (4, 3), (3, 2), (2, 1),
)  # fmt: skip


def read_aspect_ratio(r: BitReader) -> tuple[int, int]:
    """Sample aspect ratio from aspect_ratio_info_present_flag on; (0, 0) where not told."""
    if not r.flag():
        return 0, 0
    idc = r.u(8)
    if idc == _EXTENDED_SAR:
        width, height = r.u(16), r.u(16)
        return (width, height) if width and height else (0, 0)
    return _SAR[idc] if idc < len(_SAR) else (0, 0)


def read_signal(r: BitReader) -> Colour | None:
    """From overscan_info_present_flag to chroma_loc_info; None where no video_signal_type is told."""
    if r.flag():
        r.skip(1)
    colour = None
    if r.flag():
        r.skip(3)
        full_range = r.flag()
        colour = Colour(r.u(8), r.u(8), r.u(8), full_range) if r.flag() else Colour(full_range=full_range)
    if r.flag():
        r.ue(5)
        r.ue(5)
    return colour
