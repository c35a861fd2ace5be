"""One incoming SSRC: order, holes, requests, restarts, and the numbers of its reports."""

from __future__ import annotations

import random
from collections.abc import Iterable
from itertools import chain, pairwise

import pytest

from medianode.protocols.rtp import rtcp
from medianode.protocols.rtp.packet import RtpPacket
from medianode.protocols.rtp.receiver import MAX_DROPOUT, MAX_MISSING, MAX_NACKS, MAX_TRIES, Arrived, StreamReceiver


def packet(sequence: int, *, timestamp: int | None = None, payload: bytes = b"x") -> RtpPacket:
    stamp = sequence * 3000 if timestamp is None else timestamp
    return RtpPacket(96, False, sequence & 0xFFFF, stamp & 0xFFFFFFFF, 0x1234, {}, payload)


def receiver(*, nack: bool = True, max_packets: int = 512, max_wait: float = 1.0, clock_rate: int = 90_000) -> StreamReceiver:
    return StreamReceiver(clock_rate, max_packets=max_packets, nack=nack, max_wait=max_wait)


def push(stream: StreamReceiver, sequences: Iterable[int], now: float = 1.0) -> list[Arrived]:
    return [arrived for sequence in sequences for arrived in stream.push(packet(sequence), now)]


def told(arrived: Iterable[Arrived]) -> list[tuple[int, bool]]:
    return [(each.packet.sequence, each.lost) for each in arrived]


def test_in_order_over_the_wrap() -> None:
    stream = receiver()
    assert told(push(stream, range(65534, 65540))) == [(n & 0xFFFF, False) for n in range(65534, 65540)]
    assert (stream.received, stream.delivered, stream.lost, stream.next_wake, stream.nacks(2.0)) == (6, 6, 0, None, [])
    assert stream.report(2.0).highest == 65539


def test_a_hole_holds_back_until_it_is_filled() -> None:
    stream = receiver()
    assert told(push(stream, [65534, 1, 2])) == [(65534, False)]
    assert (stream.holes, len(stream)) == (2, 2)
    assert stream.nacks(1.0) == [65535, 0]
    assert told(push(stream, [0], 1.05)) == []
    assert told(push(stream, [65535], 1.06)) == [(65535, False), (0, False), (1, False), (2, False)]
    assert (stream.recovered, stream.lost, len(stream), stream.next_wake) == (2, 0, 0, None)


def test_requests_repeat_with_the_round_trip_until_the_hole_is_given_up() -> None:
    stream = receiver()
    stream.rtt = 0.1
    push(stream, [1, 3], 1.0)
    times, out = [], []
    now = 1.0
    assert stream.next_wake == 1.0
    while (wake := stream.next_wake) is not None:
        now = max(now, wake)
        out += stream.poll(now)
        if stream.nacks(now):
            times.append(now)
    assert times == pytest.approx([1.0, 1.1, 1.2, 1.3])
    assert now == pytest.approx(1.0 + 3 * 0.1 + 0.02)
    assert told(out) == [(3, True)]
    assert (stream.lost, stream.nacked, stream.holes) == (1, 4, 0)


@pytest.mark.parametrize(
    ("rtt", "max_wait", "nack", "wait"),
    [
        (0.001, 1.0, True, 0.25),
        (None, 1.0, True, 0.32),
        (0.2, 1.0, True, 0.62),
        (2.0, 1.0, True, 1.0),
        (0.2, 1.0, False, 0.05),
        (0.2, 0.03, False, 0.03),
    ],
)
def test_how_long_a_hole_lives(rtt: float | None, max_wait: float, nack: bool, wait: float) -> None:
    stream = receiver(nack=nack, max_wait=max_wait)
    if rtt is not None:
        stream.rtt = rtt
    push(stream, [1, 3], 10.0)
    assert stream.nacks(10.0) == ([2] if nack else [])
    assert stream.poll(10.0 + wait - 0.001) == []
    assert told(stream.poll(10.0 + wait + 0.001)) == [(3, True)]


def test_tries_are_bounded_and_not_faster_than_20_ms() -> None:
    stream = receiver(max_wait=100.0)
    stream.rtt = 30.0  # the hole lives for 90 s
    stream._rtt = 0.0  # but the requests go as fast as they may
    push(stream, [1, 3], 0.0)
    asked = [step for step in range(20_000) if stream.nacks(step / 1000)]
    assert len(asked) == MAX_TRIES
    assert {after - before for before, after in pairwise(asked)} <= {20, 21}
    assert stream.next_wake == pytest.approx(90.02)


def test_a_path_that_reorders_is_not_asked_at_once() -> None:
    stream = receiver()
    push(stream, [1, 3], 1.0)
    push(stream, [2], 1.008)  # nothing was asked for: it only came late
    push(stream, [5], 2.0)
    assert stream.nacks(2.0) == []
    assert stream.next_wake == pytest.approx(2.012)
    push(stream, [4], 2.008)
    push(stream, [7], 3.0)
    assert stream.nacks(3.02) == [6]
    for number in range(8, 100, 2):  # and learns that it does no more
        stream.push(packet(number - 2), number, retransmitted=True)
        push(stream, [number + 1], number)
        stream.nacks(number + 0.5)
    assert stream.next_wake is not None
    push(stream, [102], 102.0)
    assert stream.nacks(102.001)[-1] == 101


def test_giving_up_says_lost_once_and_what_comes_then_is_late() -> None:
    stream = receiver()
    push(stream, [1, 4, 5, 8], 1.0)
    assert told(stream.poll(2.0)) == [(4, True), (5, False), (8, True)]
    assert push(stream, [2, 3, 6, 6, 4], 2.0) == []
    assert (stream.lost, stream.late, stream.duplicates) == (4, 3, 2)
    assert told(push(stream, [9], 2.0)) == [(9, False)]


def test_a_hole_that_was_never_asked_for_lives_on() -> None:
    """Our loop stood still: what is missing may be asked for yet."""
    stream = receiver(max_wait=1.0)
    push(stream, [1, 3], 1.0)
    assert stream.poll(1.5) == []
    assert stream.nacks(1.5) == [2]
    assert told(push(stream, [2], 1.6)) == [(2, False), (3, False)]
    push(stream, [5], 2.0)
    assert told(stream.poll(3.1)) == [(5, True)], "but not for ever"


def test_each_hole_has_its_own_time() -> None:
    stream = receiver()
    push(stream, [1, 3], 1.0)
    stream.nacks(1.0)
    push(stream, [5], 1.2)
    stream.nacks(1.2)
    assert told(stream.poll(1.4)) == [(3, True)]
    assert told(stream.poll(1.6)) == [(5, True)]


def test_duplicates_go_nowhere() -> None:
    stream = receiver()
    push(stream, [1, 2, 4])
    assert push(stream, [1, 2, 4, 2]) == []
    assert stream.duplicates == 4


def test_padding_keeps_the_numbering() -> None:
    stream = receiver()
    push(stream, [1])
    assert stream.push(packet(2, payload=b""), 1.0) == []
    assert told(push(stream, [3])) == [(3, False)]
    push(stream, [6])
    assert stream.push(packet(5, payload=b""), 1.0) == []
    assert told(stream.poll(9.0)) == [(6, True)]
    assert (stream.received, stream.delivered, stream.padding, stream.lost) == (5, 3, 2, 1)


def test_a_key_frame_makes_holes_moot() -> None:
    stream = receiver()
    push(stream, [65530, 65532, 65535, 2])
    assert told(stream.skip_to(65534)) == [(65532, True)]
    assert told(stream.skip_to(65520)) == []
    assert told(stream.skip_to(0)) == [(65535, True)]
    assert stream.nacks(1.0) == [0, 1]
    assert told(stream.resync()) == [(2, True)]
    assert stream.resync() == []
    assert told(stream.skip_to(900)) == []  # not beyond the newest
    assert told(push(stream, [3])) == [(3, False)]
    assert stream.lost == 5


def test_memory_is_bounded() -> None:
    stream = receiver(max_packets=100, max_wait=1000.0)
    stream.rtt = 1000.0
    out = push(stream, [0, *range(2, 1000)])
    assert (len(stream), stream.holes, stream.lost) == (0, 0, 1)
    assert told(out) == [(0, False), (2, True), *((n, False) for n in range(3, 1000))]
    out = push(stream, range(1001, 3001, 2))
    assert len(stream) <= 100
    assert stream.holes <= 100
    assert [each.packet.sequence for each in out] == list(range(1001, out[-1].packet.sequence + 1, 2))
    assert len(stream._given_up) <= 100


def test_too_many_holes_are_given_up_at_once() -> None:
    stream = receiver(max_packets=4096)
    push(stream, [0])
    assert told(push(stream, [MAX_MISSING + 2])) == [(MAX_MISSING + 2, True)]
    assert (stream.holes, stream.lost) == (0, MAX_MISSING + 1)
    push(stream, [2 * MAX_MISSING + 3])
    assert stream.holes == MAX_MISSING
    asked = [stream.nacks(1.0) for _ in range(5)]
    assert [len(each) for each in asked] == [MAX_NACKS, MAX_NACKS, MAX_NACKS, MAX_MISSING - 3 * MAX_NACKS, 0]
    assert list(chain.from_iterable(asked)) == list(range(MAX_MISSING + 3, 2 * MAX_MISSING + 3))


@pytest.mark.parametrize("start", [0, 9_000, 40_000, 31_000])
def test_a_sender_that_begins_anew_is_followed(start: int) -> None:
    """Backwards, far forwards, and within the window with stamps that tell; what was held is delivered before it."""
    stream = receiver(max_packets=2048)
    push(stream, [32_000, 32_002])
    out = [arrived for n in range(4) for arrived in stream.push(packet(start + n, timestamp=3_000_000_000 + n), 5.0)]
    assert told(out) == [(32_002, True), (start, True), (start + 1, False), (start + 2, False), (start + 3, False)]
    assert (stream.restarts, stream.strays) == (1, 0)
    report = stream.report(6.0)
    assert (report.cumulative_lost, report.highest) == (0, start + 3)


def test_one_stray_restarts_nothing() -> None:
    stream = receiver()
    push(stream, range(10))
    assert push(stream, [30_000]) == []
    assert told(push(stream, [10])) == [(10, False)]
    assert push(stream, [30_001, 20_000, 30_002]) == []
    assert told(push(stream, [11])) == [(11, False)]
    assert (stream.strays, stream.restarts, stream.lost) == (4, 0, 0)


def test_retransmitted_probes_never_restart() -> None:
    stream = receiver()
    push(stream, range(1000))
    for sequence in [*range(5, 20), *range(600, 620), *range(30_000, 30_010)]:
        assert stream.push(packet(sequence), 2.0, retransmitted=True) == []
    assert (stream.restarts, stream.strays, stream.duplicates) == (0, 25, 20)
    assert stream.report(3.0).cumulative_lost == 0


def test_the_longest_step_is_a_gap_and_one_more_a_probation() -> None:
    stream = receiver(max_packets=4096)
    push(stream, [0])
    assert told(push(stream, [MAX_DROPOUT - 1])) == [(MAX_DROPOUT - 1, True)]
    assert push(stream, [2 * MAX_DROPOUT - 1]) == []
    assert stream.strays == 1


def test_before_the_first_is_late() -> None:
    stream = receiver()
    push(stream, [5])
    assert push(stream, [4]) == []
    assert (stream.late, stream.duplicates, stream.report(1.0).cumulative_lost) == (1, 0, 0)


def test_what_a_report_says() -> None:
    stream = receiver()
    assert stream.report(0.0) == rtcp.ReportBlock(0, 0, 0, 0, 0, 0, 0)
    assert (stream.resync(), stream.skip_to(7), stream.poll(0.0), stream.nacks(0.0), stream.next_wake) == ([], [], [], [], None)
    push(stream, [*range(65_500, 65_550), *range(65_560, 65_600)])
    block = stream.report(1.0)
    assert (block.ssrc, block.highest) == (0x1234, 65_599)
    assert (block.cumulative_lost, block.fraction_lost) == (10, 10 * 256 // 100)
    push(stream, range(65_600, 65_700))
    push(stream, range(65_550, 65_555))
    block = stream.report(2.0)
    assert (block.cumulative_lost, block.fraction_lost) == (5, 0)  # more came than was expected
    for sequence in range(65_555, 65_560):
        stream.push(packet(sequence), 2.0, retransmitted=True)
    assert stream.report(3.0).cumulative_lost == 5  # RTX repairs, but the loss stays told
    assert stream.report(4.0).fraction_lost == 0  # nothing expected since


def test_all_lost_but_one_fits_its_field() -> None:
    stream = receiver(max_packets=4096)
    push(stream, [0])
    stream.report(1.0)
    push(stream, [2999])
    assert stream.report(2.0).fraction_lost == 255


def test_last_sender_report_and_its_delay() -> None:
    stream = receiver()
    push(stream, [1])
    assert stream.wallclock(5) is None
    stream.on_sender_report(rtcp.SenderReport(0x1234, 0x1111_2222_3333_4444, 0xFFFF_FFFF, 1, 1), 10.0)
    block = stream.report(10.5)
    assert (block.last_sr, block.delay) == (0x2222_3333, 32768)
    assert rtcp.round_trip(block, 0x1111_2222_3333_4444 + int(0.6 * 2**32)) == pytest.approx(0.1, abs=0.001)
    assert stream.wallclock(89_999) == pytest.approx(rtcp.wallclock(0x1111_2222_3333_4444) + 1.0)
    stream.on_sender_report(rtcp.SenderReport(0x1234, 0, 0, 1, 1), 11.0)
    assert stream.wallclock(5) is None  # a sender without a clock


def test_jitter_as_rfc_3550_a_8() -> None:
    chance = random.Random(8)
    stream = receiver(clock_rate=48_000)
    expected, before = 0.0, None
    for number in range(2000):
        stamp = number * 960 + (1 << 32) - 960_000  # wraps half way
        now = 100.0 + number * 0.02 + chance.random() * 0.01
        stream.push(packet(number, timestamp=stamp), now)
        transit = now * 48_000 - stamp
        if before is not None:
            expected += (abs(transit - before) - expected) / 16
        before = transit
    assert stream.jitter == pytest.approx(expected, rel=0.01)
    assert stream.report(1.0).jitter == int(stream.jitter)
    assert 100 < stream.jitter < 300


def test_packets_of_one_frame_make_no_jitter() -> None:
    stream = receiver()
    for number in range(300):
        stream.push(packet(number, timestamp=number // 10 * 3000), number // 10 / 30 + number % 10 * 0.002)
    assert stream.jitter < 1


def test_audio_without_nack_waits_only_for_reordering() -> None:
    stream = receiver(nack=False, clock_rate=48_000)
    assert told(push(stream, [1, 3, 2, 5], 1.0)) == [(1, False), (2, False), (3, False)]
    assert stream.nacks(1.0) == []
    assert stream.next_wake == pytest.approx(1.05)
    assert told(stream.poll(1.051)) == [(5, True)]


@pytest.mark.parametrize("loss", [0.02, 0.05, 0.2])
def test_a_lossy_path_is_repaired_by_requests(loss: float) -> None:
    """10 s at 300 packets a second, round trip 50 ms, requests and answers lost alike: nearly all is recovered, in order."""
    chance = random.Random(int(loss * 100))
    stream = receiver(max_packets=2048)
    stream.rtt = 0.05
    out: list[Arrived] = []
    answers: list[tuple[float, int]] = []
    for number in range(3000):
        now = number / 300
        if chance.random() >= loss:
            out += stream.push(packet(number), now)
        for due in [answer for answer in answers if answer[0] <= now]:
            answers.remove(due)
            out += stream.push(packet(due[1]), now, retransmitted=True)
        out += stream.poll(now)
        answers += [(now + 0.05, sequence) for sequence in stream.nacks(now) if chance.random() >= loss and chance.random() >= loss]
    sequences = [each.packet.sequence for each in out]
    assert sequences == sorted(set(sequences))
    assert stream.lost <= 3000 * loss * (1 - (1 - loss) ** 2) ** 3 * 1.5 + 1
    assert stream.recovered > 3000 * loss * 0.8
    assert stream.received + stream.lost + stream.holes == stream._highest + 1
