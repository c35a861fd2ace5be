"""AV1 frame headers (AV1 specification 5.9.2), as far as it takes to know whether other frames can refer to a frame."""

from __future__ import annotations

from typing import NamedTuple

from medianode.codecs import av1
from medianode.codecs.av1 import ObuType
from medianode.codecs.bits import BitReader
from medianode.errors import ProtocolError

_SELECT = 2
_KEY, _INTRA_ONLY, _SWITCH = 0, 2, 3
_FRAMES = frozenset({ObuType.FRAME, ObuType.FRAME_HEADER})


class FrameRules(NamedTuple):
    """What a sequence header says of the frame headers to come. The two `force` values: 0, 1, or 2 for each frame to choose."""

    force_screen_content: int
    force_integer_mv: int
    frame_id_bits: int
    order_hint_bits: int


def frame_rules(sequence_header: bytes) -> FrameRules | None:
    """From OBUs that hold a sequence header; None with a decoder model or a still picture: not followed."""
    for obu in av1.obus(sequence_header):
        if obu.type == ObuType.SEQUENCE_HEADER:
            return _read_rules(BitReader(sequence_header[obu.payload : obu.end], "sequence header"))
    raise ProtocolError("AV1: expected a sequence header OBU, got none")


def _read_rules(r: BitReader) -> FrameRules | None:
    r.skip(4)
    if r.flag():
        return None
    if r.flag():
        r.skip(64)
        if r.flag():
            r.ue()
        if r.flag():
            return None
    display_delay = r.flag()
    for _ in range(r.u(5) + 1):
        r.skip(12)
        if r.u(5) > 7:
            r.skip(1)
        if display_delay and r.flag():
            r.skip(4)
    width_bits, height_bits = r.u(4) + 1, r.u(4) + 1
    r.skip(width_bits + height_bits)
    frame_id_bits = r.u(4) + 2 + r.u(3) + 1 if r.flag() else 0
    r.skip(3 + 4)
    order_hint = r.flag()
    if order_hint:
        r.skip(2)
    screen_content = _SELECT if r.flag() else r.u(1)
    integer_mv = _SELECT
    if screen_content and not r.flag():
        integer_mv = r.u(1)
    return FrameRules(screen_content, integer_mv, frame_id_bits, r.u(3) + 1 if order_hint else 0)


def is_reference(data: bytes, rules: FrameRules) -> bool:
    """Whether a temporal unit must be there for others: False only of a single frame that refreshes no slot (refresh_frame_flags 0)."""
    frames = [obu for obu in av1.obus(data) if obu.type in _FRAMES]
    return len(frames) != 1 or _refreshes(BitReader(data[frames[0].payload : frames[0].payload + 32], "frame header"), rules)


def _refreshes(r: BitReader, rules: FrameRules) -> bool:
    if r.flag():
        return True  # show_existing_frame: of a key frame it refreshes all
    kind, shown = r.u(2), r.flag()
    if kind in (_KEY, _SWITCH) or not shown:
        return True
    error_resilient = r.flag()
    r.skip(1)
    screen_content = r.u(1) if rules.force_screen_content == _SELECT else rules.force_screen_content
    if screen_content and rules.force_integer_mv == _SELECT:
        r.skip(1)
    r.skip(rules.frame_id_bits + 1 + rules.order_hint_bits)
    if not (kind == _INTRA_ONLY or error_resilient):
        r.skip(3)
    return r.u(8) != 0
