"""Where access units begin and end, and what loss does to them: on H.264, the same for all video."""

from __future__ import annotations

import pytest

from medianode.errors import LimitExceeded
from medianode.protocols.rtp.assembly import MAX_PIECES, Frame
from medianode.protocols.rtp.h264 import H264Depacketiser
from medianode.protocols.rtp.packet import RtpPacket

SPS, SLICE, SECOND = b"\x67sps", b"\x41slice", b"\x41second"


def rtp(payload: bytes, timestamp: int = 0, marker: bool = False) -> RtpPacket:
    return RtpPacket(96, marker, 0, timestamp, 7, {}, payload)


def unit(*nals: bytes) -> bytes:
    return b"".join(len(n).to_bytes(4, "big") + n for n in nals)


@pytest.fixture
def frames() -> H264Depacketiser:
    return H264Depacketiser(1 << 16)


def test_the_marker_ends_a_unit(frames: H264Depacketiser) -> None:
    assert frames.push(rtp(SLICE, 5), False) == []
    assert frames.push(rtp(SECOND, 5, True), False) == [Frame(unit(SLICE, SECOND), 5, True)]


def test_another_timestamp_ends_a_unit(frames: H264Depacketiser) -> None:
    frames.push(rtp(SLICE, 5), False)
    assert frames.push(rtp(SECOND, 6), False) == [Frame(unit(SLICE), 5, True)]
    assert frames.push(rtp(SPS, 0xFFFFFFFF, True), False) == [Frame(unit(SECOND), 6, True), Frame(unit(SPS), 0xFFFFFFFF, True)]


def test_what_follows_a_marker_under_the_same_timestamp_is_a_unit(frames: H264Depacketiser) -> None:
    assert frames.push(rtp(SPS, 5, True), False) == [Frame(unit(SPS), 5, True)]
    assert frames.push(rtp(SLICE, 5, True), False) == [Frame(unit(SLICE), 5, True)]


def test_empty_payloads_are_nothing_but_their_marker_counts(frames: H264Depacketiser) -> None:
    assert frames.push(rtp(b"", 4, True), False) == []
    frames.push(rtp(SLICE, 5), False)
    assert frames.push(rtp(b"", 4, True), False) == []
    assert frames.push(rtp(b"", 5), False) == []
    assert frames.push(rtp(b"", 5, True), False) == [Frame(unit(SLICE), 5, True)]
    assert frames.push(rtp(b"", 5, True), False) == []
    assert (frames.incomplete, frames.malformed) == (0, 0)


def test_loss_within_a_unit_is_told_once_and_its_rest_passed_over(frames: H264Depacketiser) -> None:
    frames.push(rtp(SLICE, 5), False)
    assert frames.push(rtp(SLICE, 5), True) == [Frame(b"", 5, False)]
    assert frames.push(rtp(SLICE, 5), True) == []
    assert frames.push(rtp(SLICE, 5, True), False) == []
    assert frames.push(rtp(SLICE, 6, True), False) == [Frame(unit(SLICE), 6, True)]
    assert frames.incomplete == 1


def test_loss_between_units_costs_the_one_that_may_have_lost_its_start(frames: H264Depacketiser) -> None:
    frames.push(rtp(SLICE, 5, True), False)
    assert frames.push(rtp(SLICE, 6), True) == [Frame(b"", 6, False)]
    assert frames.push(rtp(SECOND, 6, True), False) == []
    assert frames.push(rtp(SLICE, 7, True), False) == [Frame(unit(SLICE), 7, True)]


@pytest.mark.parametrize("first", [SPS, b"\x09\xf0", b"\x78\0\x04" + SPS], ids=["SPS", "AUD", "SPS in STAP-A"])
def test_a_unit_that_surely_begins_survives_a_loss_before_it(frames: H264Depacketiser, first: bytes) -> None:
    frames.push(rtp(SLICE, 5), False)
    assert frames.push(rtp(first, 6), True) == [Frame(b"", 5, False)]
    (frame,) = frames.push(rtp(SLICE, 6, True), False)
    assert frame.complete
    assert frame.data.endswith(unit(SLICE))


def test_loss_before_an_empty_payload_counts_for_the_next(frames: H264Depacketiser) -> None:
    frames.push(rtp(SLICE, 5, True), False)
    assert frames.push(rtp(b"", 5), True) == [Frame(b"", 5, False)]
    assert frames.push(rtp(SLICE, 6, True), False) == []
    assert frames.push(rtp(SLICE, 7, True), False) == [Frame(unit(SLICE), 7, True)]


def test_a_second_loss_is_told_again(frames: H264Depacketiser) -> None:
    frames.push(rtp(SLICE, 5, True), False)
    assert frames.push(rtp(SLICE, 6), True) == [Frame(b"", 6, False)]
    assert frames.push(rtp(SLICE, 7), True) == [Frame(b"", 6, False)]
    assert frames.push(rtp(SLICE, 8, True), False) == [Frame(unit(SLICE), 8, True)]


def test_a_malformed_payload_costs_its_unit(frames: H264Depacketiser) -> None:
    frames.push(rtp(SLICE, 5), False)
    assert frames.push(rtp(b"\x78\0\xff\x41", 5), False) == [Frame(b"", 5, False)]
    assert frames.push(rtp(b"\x78\0\xff\x41", 5, True), False) == []
    assert (frames.malformed, frames.incomplete) == (1, 1)
    assert frames.fault == "aggregation packet: expected a length of at most 1, got 255"
    assert frames.push(rtp(SLICE, 6, True), False) == [Frame(unit(SLICE), 6, True)]


def test_bounds_in_bytes() -> None:
    frames = H264Depacketiser(2 * len(unit(SLICE)))
    frames.push(rtp(SLICE, 5), False)
    assert frames.push(rtp(SLICE, 5, True), False) == [Frame(unit(SLICE, SLICE), 5, True)]
    frames.push(rtp(SLICE, 6), False)
    frames.push(rtp(SLICE, 6), False)
    with pytest.raises(LimitExceeded, match="access unit: expected at most 20 bytes, got more"):
        frames.push(rtp(b"\x41", 6), False)
    assert frames.push(rtp(SLICE, 6, True), False) == []
    assert frames.push(rtp(SLICE, 7, True), False) == [Frame(unit(SLICE), 7, True)]


def test_bounds_in_pieces(frames: H264Depacketiser) -> None:
    for _ in range(4096):
        frames.push(rtp(b"\x41", 5), False)
    with pytest.raises(LimitExceeded, match="at most 4096 NAL units"):
        frames.push(rtp(b"\x41", 5), False)
    frames = H264Depacketiser(1 << 20)
    frames.push(rtp(b"\x5c\x81", 6), False)
    for _ in range(MAX_PIECES - 2):
        frames.push(rtp(b"\x5c\x01x", 6), False)
    with pytest.raises(LimitExceeded, match=f"at most {MAX_PIECES} pieces"):
        frames.push(rtp(b"\x5c\x01x", 6), False)
    assert frames.push(rtp(SLICE, 7, True), False) == [Frame(unit(SLICE), 7, True)]
