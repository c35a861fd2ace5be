from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from medianode.codecs import h264
from medianode.media.packet import Packet
from medianode.media.track import Codec, Track
from medianode.transcode.unreorder import Unreorder, Verdict
from medianode.transcode.want import COPY, DROPPED

TRACK = Track(1, Codec.H264, 90_000, b"", 320, 240)


def packet(pts: int, dts: int, nal_type: int = 1, ref: int = 1, track: Track = TRACK) -> Packet:
    unit = bytes([ref << 5 | nal_type, 0x80, pts & 255])
    return Packet(track, len(unit).to_bytes(4, "big") + unit, pts, dts, nal_type == 5, 0.0)


def key(pts: int, dts: int) -> Packet:
    return packet(pts, dts, 5)


def test_without_reordering_the_packets_are_the_sources_own() -> None:
    guard = Unreorder(TRACK, 100)
    packets = [key(0, 0), *(packet(n * 3000, n * 3000) for n in range(1, 10))]
    assert all(guard.push(p) is p for p in packets)
    assert guard.treatment == COPY


def test_non_reference_pictures_that_come_late_are_left_out_and_dts_is_pts() -> None:
    guard = Unreorder(TRACK, 100)
    assert guard.push(key(3000, 0)) == key(3000, 3000)
    assert guard.push(packet(12_000, 3000)) == packet(12_000, 12_000)
    assert guard.push(packet(6000, 6000, ref=0)) is Verdict.DROP
    assert guard.push(packet(9000, 9000, ref=0)) is Verdict.DROP
    assert guard.push(packet(15_000, 12_000)) == packet(15_000, 15_000)
    assert (guard.treatment, guard.dropped, guard.last) == (DROPPED, 2, 15_000)


def test_non_reference_pictures_in_order_stay() -> None:
    """Temporal layers of hardware encoders: nobody refers to them, and nothing is reordered."""
    guard = Unreorder(TRACK, 100)
    packets = [key(0, 0), *(packet(n * 3000, n * 3000, ref=n % 2) for n in range(1, 10))]
    assert [guard.push(p) for p in packets] == packets


def test_a_reference_that_comes_late_is_told_with_the_gop_it_needs() -> None:
    guard = Unreorder(TRACK, 100)
    old = [key(3000, 0), packet(6000, 3000)]
    gop = [key(9000, 6000), packet(18_000, 9000), packet(12_000, 12_000, ref=1)]
    assert [guard.push(p) for p in (*old, *gop)][-1] is Verdict.REFERENCED
    assert guard.gop == gop
    assert guard.last == 18_000


def test_a_gop_over_its_bound_is_forgotten_until_the_next_key_frame() -> None:
    guard = Unreorder(TRACK, 3)
    for n in range(5):
        guard.push(key(0, 0) if n == 0 else packet(n * 3000, n * 3000))
    assert guard.gop == []
    guard.push(key(90_000, 90_000))
    assert len(guard.gop) == 1


def test_second_fields_and_key_frames_out_of_time_go_forward() -> None:
    guard = Unreorder(TRACK, 100)
    guard.push(key(3000, 3000))
    second = guard.push(packet(3000, 3000))
    assert isinstance(second, Packet)
    assert (second.pts, second.dts) == (3001, 3001)
    back = guard.push(key(2000, 3000))
    assert isinstance(back, Packet)
    assert back.pts == 3002


def test_reset_begins_anew() -> None:
    guard = Unreorder(TRACK, 100)
    guard.push(key(90_000, 90_000))
    guard.reset()
    assert guard.push(key(0, 0)) == key(0, 0)


def test_what_cannot_be_read_is_left_out() -> None:
    guard = Unreorder(TRACK, 100)
    guard.push(key(3000, 0))
    guard.push(packet(12_000, 3000))
    assert guard.push(Packet(TRACK, b"\xff\xff\xff\xff", 6000, 6000, False, 0.0)) is Verdict.DROP


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 1), st.booleans()), max_size=60))
def test_whatever_comes_what_passes_rises_and_nothing_is_lost_uncounted(pictures: list[tuple[int, int, bool]]) -> None:
    guard = Unreorder(TRACK, 1000)
    passed: list[Packet] = []
    told = 0
    for n, (ahead, ref, is_key) in enumerate(pictures):
        out = guard.push(packet(n * 10 + ahead, n * 10, 5 if is_key else 1, ref))
        if isinstance(out, Packet):
            passed.append(out)
        else:
            told += 1
            assert not is_key
            assert (out is Verdict.REFERENCED) == bool(ref)
    assert all(a.pts < b.pts for a, b in itertools.pairwise(passed))
    assert all(p.pts == p.dts for p in passed)
    assert len(passed) + told == len(pictures)
    assert guard.passed == len(passed)


def test_a_configuration_without_reordering_is_believed() -> None:
    """Constrained Baseline: what goes back there is a clock, and no decoder will ever need the GOP again."""
    config = h264.build_avcc([bytes.fromhex("42c01e").join([b"\x67", _sps_rest()])], [b"\x68\xce\x3c\x80"])
    track = Track(1, Codec.H264, 90_000, config, 320, 240)
    guard = Unreorder(track, 100)
    guard.push(key(3000, 3000)._replace(track=track))
    out = guard.push(packet(1000, 3000, ref=1, track=track))
    assert isinstance(out, Packet)
    assert out.pts == 3001
    assert guard.gop == []


def _sps_rest() -> bytes:
    """sps_id 0, frame_num of 4 bits, pic_order_cnt_type 2, 1 reference, 320x240, no cropping, no VUI."""
    bits = "1" + "1" + "011" + "010" + "0" + "000010100" + "0001111" + "1" + "1" + "0" + "0" + "1"
    return int(bits.ljust(-(-len(bits) // 8) * 8, "0"), 2).to_bytes(-(-len(bits) // 8), "big")
