"""transport-cc feedback: read back by a decoder of its own, held against Chromium's, bounds."""

from __future__ import annotations

import json
import random
import struct
from pathlib import Path

import pytest

from medianode.protocols.rtp import rtcp
from medianode.protocols.rtp.twcc import TICKS, ArrivalLog

CHROMIUM = json.loads((Path(__file__).parents[3] / "vectors" / "rtp" / "chromium-dump.json").read_text())


def decode(wire: bytes) -> tuple[int, int, list[float | None]]:
    """(base sequence, feedback count, arrival of each status in seconds or None), by the draft's 3.1 and nothing of ours."""
    first, kind, words = struct.unpack_from("!BBH", wire)
    assert (first & 0xDF, kind, len(wire)) == (0x8F, 205, 4 + 4 * words)
    end = len(wire) - (wire[-1] if first & 0x20 else 0)
    base, count = struct.unpack_from("!HH", wire, 12)
    reference = int.from_bytes(wire[16:19], "big", signed=True)
    at, symbols = 20, []
    while len(symbols) < count:
        (chunk,) = struct.unpack_from("!H", wire, at)
        at += 2
        if chunk < 0x8000:
            assert chunk & 0x1FFF, "an empty run"
            symbols += [chunk >> 13] * (chunk & 0x1FFF)
        elif chunk < 0xC000:
            symbols += [chunk >> (13 - index) & 1 for index in range(14)]
        else:
            symbols += [chunk >> (12 - 2 * index) & 3 for index in range(7)]
    assert not any(symbols[count:])
    arrivals: list[float | None] = []
    time = reference * 256
    for symbol in symbols[:count]:
        if symbol == 0:
            arrivals.append(None)
            continue
        delta = wire[at] if symbol == 1 else struct.unpack_from("!h", wire, at)[0]
        assert symbol in (1, 2)
        at += symbol
        time += delta
        arrivals.append(time / TICKS)
    assert at == end
    assert len(wire) - end < 4
    return base, wire[19], arrivals


def drain(log: ArrivalLog, now: float) -> list[tuple[int, int, list[float | None]]]:
    feedbacks = []
    while (wire := log.feedback(now, 0xA, 0xB)) is not None:
        message = rtcp.parse(wire)[0]
        assert isinstance(message, rtcp.TransportFeedback)
        assert (message.sender_ssrc, message.media_ssrc) == (0xA, 0xB)
        assert len(wire) <= 1200
        feedbacks.append(decode(wire))
        assert message.base_sequence == feedbacks[-1][0]
    return feedbacks


def test_the_decoder_reads_chromium() -> None:
    told: dict[int, float] = {}
    for _, wire in CHROMIUM["feedback"]:
        base, _, arrivals = decode(bytes.fromhex(wire))
        told.update({base + index: time for index, time in enumerate(arrivals) if time is not None})
    sequences = [sequence for _, sequence in CHROMIUM["arrivals"]]
    assert set(told) <= set(sequences)
    assert len(told) > 500


def test_we_tell_what_chromium_tells() -> None:
    """Its feedback of its arrivals, and ours of the same: every packet, and its times to the log's milliseconds."""
    chromium = {}
    counts = []
    for _, wire in CHROMIUM["feedback"]:
        base, count, arrivals = decode(bytes.fromhex(wire))
        counts.append(count)
        chromium.update({base + index: time for index, time in enumerate(arrivals) if time is not None})
    log = ArrivalLog(4096)
    ours: dict[int, float] = {}
    numbers = []
    pending = list(CHROMIUM["arrivals"])
    for now, _ in [*CHROMIUM["feedback"], (99.0, "")]:
        while pending and pending[0][0] <= now:
            time, sequence = pending.pop(0)
            log.arrived(sequence, time)
        for base, number, arrivals in drain(log, now):
            numbers.append(number)
            ours.update({base + index: time for index, time in enumerate(arrivals) if time is not None})
    assert set(chromium) <= set(ours)
    assert numbers == list(range(len(numbers)))
    assert counts == list(range(len(counts)))
    first = min(chromium)
    for sequence, time in chromium.items():
        assert time - chromium[first] == pytest.approx(ours[sequence] - ours[first], abs=0.02)


@pytest.mark.parametrize("start", [0, 1, 65500, 32768])
@pytest.mark.parametrize("loss", [0.0, 0.02, 0.3, 0.9])
def test_statuses_and_times_come_back(start: int, loss: float) -> None:
    chance = random.Random(start + int(loss * 100))
    log = ArrivalLog(4096)
    now = 5000.0
    sent: dict[int, float] = {}
    log.arrived(start, now)
    sent[start] = now
    told: dict[int, float | None] = {}
    expected = start
    for number in range(start + 1, start + 3000):
        now += chance.choice([0.0, 0.0001, 0.003, 0.04, 0.2])
        if chance.random() >= loss:
            log.arrived(number & 0xFFFF, now)
            sent[number] = now
        if number % 37 == 0:
            for base, _, arrivals in drain(log, now):
                assert base == expected & 0xFFFF  # nothing between two feedbacks goes untold
                told.update({expected + index: time for index, time in enumerate(arrivals)})
                expected += len(arrivals)
    for base, _, arrivals in drain(log, now):
        assert base == expected & 0xFFFF
        told.update({expected + index: time for index, time in enumerate(arrivals)})
        expected += len(arrivals)
    assert {number for number, time in told.items() if time is not None} == set(sent)
    assert expected == max(sent) + 1
    for number, time in sent.items():
        assert told[number] == pytest.approx(time, abs=1.01 / TICKS)


def test_nothing_new_is_nothing_told() -> None:
    log = ArrivalLog(16)
    assert log.feedback(1.0, 1, 2) is None
    log.arrived(7, 1.0)
    assert drain(log, 1.0) == [(7, 0, [1.0])]
    assert log.feedback(1.1, 1, 2) is None
    log.arrived(7, 1.2)
    assert (log.duplicates, log.feedback(1.3, 1, 2)) == (1, None)


def test_first_delta_is_from_the_reference_and_reordering_is_negative() -> None:
    log = ArrivalLog(16)
    for sequence, time in ((3, 64.0), (1, 64.01), (2, 64.02)):
        log.arrived(sequence, time)
    (feedback,) = drain(log, 65.0)
    assert feedback == (1, 0, [64.01, 64.02, 64.0])


def test_a_packet_that_comes_after_its_neighbours_were_told_is_told_with_them() -> None:
    log = ArrivalLog(64)
    for sequence in (10, 11, 13):
        log.arrived(sequence, sequence / 100)
    assert drain(log, 0.14) == [(10, 0, [0.1, 0.11, None, 0.13])]
    log.arrived(12, 0.15)
    log.arrived(14, 0.16)
    assert drain(log, 0.2) == [(12, 1, [0.15, 0.13, 0.16])]
    log.arrived(30, 5.0)
    drain(log, 5.0)
    log.arrived(20, 5.01)  # what lay around it is still remembered
    assert drain(log, 5.01)[0][:2] == (20, 3)
    log.arrived(40, 9.0)
    drain(log, 9.0)
    log.arrived(13, 9.1)  # long forgotten, and told then
    assert (log.late, drain(log, 9.1)) == (1, [])


def test_too_long_is_split() -> None:
    log = ArrivalLog(5000)
    for sequence in range(5000):
        log.arrived(sequence, sequence * 0.1)  # each delta a large one
    feedbacks = drain(log, 500.0)
    assert len(feedbacks) > 5
    assert [count for _, count, _ in feedbacks] == list(range(len(feedbacks)))
    assert [time for _, _, arrivals in feedbacks for time in arrivals] == [pytest.approx(n * 0.1, abs=0.00026) for n in range(5000)]


def test_a_pause_longer_than_a_delta_is_split() -> None:
    log = ArrivalLog(16)
    log.arrived(1, 1.0)
    log.arrived(2, 20.0)
    assert drain(log, 20.0) == [(1, 0, [1.0]), (2, 1, [20.0])]


def test_a_large_gap_costs_little() -> None:
    log = ArrivalLog(16)
    log.arrived(0, 1.0)
    log.arrived(30000, 1.001)
    wire = log.feedback(1.1, 1, 2)
    assert wire is not None
    assert len(wire) < 40
    base, _, arrivals = decode(wire)
    assert (base, len(arrivals), arrivals[-1]) == (0, 30001, 1.001)
    for sequence in range(0, 1 << 20, 30000):  # never asked for feedback, wraps and wraps
        log.arrived(sequence & 0xFFFF, 2.0)
    assert len(log) <= 16
    assert all(len(arrivals) <= 0xFFFF for _, _, arrivals in drain(log, 2.0))


def test_reference_time_wraps() -> None:
    log = ArrivalLog(16)
    now = (1 << 24) * 0.064 + 100.0  # 12 days of the machine's clock, and the field's signed half before
    log.arrived(1, now)
    assert drain(log, now)[0][2] == [100.0]
    half = (1 << 23) * 0.064 + 100.0
    log = ArrivalLog(16)
    log.arrived(1, half)
    assert drain(log, half)[0][2] == [pytest.approx(100.0 - (1 << 23) * 0.064)]


def test_feedback_count_wraps() -> None:
    log = ArrivalLog(16)
    counts = []
    for sequence in range(300):
        log.arrived(sequence, sequence * 0.1)
        counts += [count for _, count, _ in drain(log, sequence * 0.1)]
    assert counts == [number & 0xFF for number in range(300)]


def test_memory_is_bounded_and_drops_are_counted() -> None:
    log = ArrivalLog(100)
    for sequence in range(1000):
        log.arrived(sequence & 0xFFFF, sequence * 0.001)
    assert (len(log), log.dropped) == (100, 900)
    ((base, _, arrivals),) = drain(log, 1.0)
    assert (base, len(arrivals)) == (900, 100)
    for sequence in range(1000, 1200):
        log.arrived(sequence, 1.0 + sequence * 0.001)
        drain(log, 1.0 + sequence * 0.001)
    assert (len(log) <= 100, log.dropped) == (True, 900)


def test_a_sender_that_numbers_anew_is_followed() -> None:
    log = ArrivalLog(100)
    for sequence in range(20000, 20050):
        log.arrived(sequence, 1.0)
    drain(log, 1.0)
    log.arrived(5, 2.0)
    assert (log.late, drain(log, 2.0)) == (1, [])
    log.arrived(6, 2.01)
    log.arrived(7, 2.02)
    assert [(base, len(arrivals)) for base, _, arrivals in drain(log, 2.1)] == [(6, 2)]
