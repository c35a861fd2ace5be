import pytest

from medianode.codecs.av1_frame import FrameRules, frame_rules, is_reference
from medianode.codecs.bits import BitWriter
from medianode.errors import ProtocolError

RULES = FrameRules(0, 2, 0, 7)


def obu(w: BitWriter, kind: int = 6) -> bytes:
    body = w.to_bytes()
    return bytes((kind << 3 | 2, len(body))) + body


def frame(*fields: tuple[int, int]) -> BitWriter:
    w = BitWriter()
    for count, value in fields:
        w.u(count, value)
    return w.u(8, 0xFF)


def sequence(
    *, timing: bool = False, model: bool = False, reduced: bool = False, ids: bool = False, screen: int = 2, hints: int = 7
) -> bytes:
    w = BitWriter().u(3, 0).u(1, 0).u(1, reduced)
    w.u(1, timing)
    if timing:
        w.u(32, 1).u(32, 30).u(1, 1).ue(0).u(1, model)
    w.u(1, 1).u(5, 1)
    w.u(12, 0).u(5, 8).u(1, 0).u(1, 1).u(4, 9)
    w.u(12, 0).u(5, 7).u(1, 0)
    w.u(4, 8).u(4, 7).u(9, 319).u(8, 179)
    w.u(1, ids)
    if ids:
        w.u(4, 12).u(3, 0)
    w.u(3, 0).u(4, 0).u(1, hints > 0)
    if hints:
        w.u(2, 0)
    if screen == 2:
        w.u(1, 1).u(1, 1)
    else:
        w.u(1, 0).u(1, screen)
        if screen:
            w.u(1, 0).u(1, 1)
    if hints:
        w.u(3, hints - 1)
    return obu(w.u(8, 0), 1)


def test_rules_of_sequence_headers() -> None:
    assert frame_rules(sequence()) == FrameRules(2, 2, 0, 7)
    assert frame_rules(sequence(timing=True, ids=True)) == FrameRules(2, 2, 15, 7)
    assert frame_rules(sequence(screen=0, hints=0)) == FrameRules(0, 2, 0, 0)
    assert frame_rules(sequence(screen=1)) == FrameRules(1, 1, 0, 7)
    assert frame_rules(sequence(timing=True, model=True)) is None
    assert frame_rules(sequence(reduced=True)) is None
    with pytest.raises(ProtocolError, match="expected a sequence header OBU, got none"):
        frame_rules(b"\x12\0")


@pytest.mark.parametrize(("refresh", "reference"), [(0, False), (1, True), (0x80, True)])
def test_refresh_frame_flags(refresh: int, reference: bool) -> None:
    # show_existing_frame, frame_type, show_frame, error_resilient_mode, disable_cdf_update, …
    head = ((1, 0), (2, 1), (1, 1))
    hint, primary, flags = (7, 5), (3, 0), (8, refresh)
    assert is_reference(obu(frame(*head, (1, 0), (1, 0), (1, 0), hint, primary, flags)), RULES) is reference
    assert is_reference(obu(frame(*head, (1, 1), (1, 0), (1, 0), hint, flags), 3), RULES) is reference
    intra_only = ((1, 0), (2, 2), (1, 1))
    assert is_reference(obu(frame(*intra_only, (1, 0), (1, 0), (1, 0), hint, flags)), RULES) is reference
    choosing = FrameRules(2, 2, 15, 7)
    assert is_reference(obu(frame(*head, (1, 0), (1, 0), (1, 0), (15, 9), (1, 0), hint, primary, flags)), choosing) is reference
    assert is_reference(obu(frame(*head, (1, 0), (1, 0), (1, 1), (1, 1), (15, 9), (1, 0), hint, primary, flags)), choosing) is reference


def test_frames_that_others_may_need() -> None:
    droppable = obu(frame((1, 0), (2, 1), (1, 1), (1, 0), (1, 0), (1, 0), (7, 5), (3, 0), (8, 0)))
    assert not is_reference(droppable, RULES)
    assert not is_reference(b"\x12\0" + droppable, RULES)
    assert is_reference(droppable + droppable, RULES)
    assert is_reference(b"\x12\0", RULES)
    for fields in (((1, 1),), ((1, 0), (2, 0), (1, 1)), ((1, 0), (2, 3), (1, 1)), ((1, 0), (2, 1), (1, 0))):
        assert is_reference(obu(frame(*fields, (30, 0))), RULES)
    with pytest.raises(ProtocolError, match="frame header: expected"):
        is_reference(b"\x32\x01\x30", RULES)
