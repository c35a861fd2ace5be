"""RTP stamps on one media time: exact, over wraps, in step by sender reports, whatever a sender claims."""

from __future__ import annotations

import itertools
import random

import pytest

from medianode.media.source_clock import SourceClock, StreamClock


def frames(stream: StreamClock, first: int, seconds: float, per_second: int, *, begin: float = 0.0, late: float = 0.0) -> list[int]:
    out = []
    for i in range(round(seconds * per_second)):
        at = begin + i / per_second
        out.append(stream.place((first + round(at * stream.rate)) & 0xFFFFFFFF, at + late).ticks)
    return out


@pytest.mark.parametrize("first", [0, 2**32 - 1000, 2**31 - 5, 12345])
def test_ticks_are_the_sources_own(first: int) -> None:
    source = SourceClock()
    ticks = frames(source.stream(90_000, leads=False), first, 10, 30)
    assert {b - a for a, b in itertools.pairwise(ticks)} == {3000}
    assert ticks[0] == 90_000, "a second of room before the first"


def test_a_stream_that_comes_later_is_placed_by_its_arrival() -> None:
    source = SourceClock()
    sound, picture = source.stream(48_000, leads=True), source.stream(90_000, leads=False)
    frames(sound, 5, 2, 50)
    first = picture.place(77, 2.0).ticks
    assert first / 90_000 == pytest.approx(3.0)


def test_a_picture_whose_first_frame_came_late_is_brought_forward_before_any_report() -> None:
    source = SourceClock()
    picture = source.stream(90_000, leads=False)
    source.stream(48_000, leads=True).place(0, 0.0)
    picture.place(0, 0.4)
    ticks = [picture.place(3600 * i, max(0.4, i / 25)).ticks for i in range(1, 500)]
    assert {b - a for a, b in itertools.pairwise(ticks)} <= set(range(3420, 3601))
    assert ticks[-1] / 90_000 == pytest.approx(1 + 499 / 25, abs=0.01)


@pytest.mark.parametrize("error", [-0.4, -0.1, -0.02, 0.02, 0.1, 0.4])
@pytest.mark.parametrize("first", ["sound", "picture"])
def test_reports_bring_them_in_step_little_by_little(error: float, first: str) -> None:
    source = SourceClock()
    sound, picture = source.stream(48_000, leads=True), source.stream(90_000, leads=False)
    sounds: list[int] = []
    pictures: list[int] = []
    for i in range(500):
        at = i / 25
        sounds.append(sound.place(960 * 2 * i, at).ticks)
        pictures.append(picture.place(3600 * i, at).ticks)
        if i % 25 == 24:
            reports = [(sound, 1920 * i, 0.0), (picture, 3600 * i, error)]
            for stream, timestamp, off in reports if first == "sound" else reports[::-1]:
                stream.report(1e9 + at + off, timestamp)
    assert {b - a for a, b in itertools.pairwise(sounds)} == {1920}
    steps = [b - a for a, b in itertools.pairwise(pictures)]
    assert min(steps) >= 3420
    assert max(steps) <= 3780
    assert pictures[-1] / 90_000 - sounds[-1] / 48_000 == pytest.approx(error, abs=0.009)
    assert source.utc == pytest.approx(1e9 - 1.0)
    assert source.steps == 0


@pytest.mark.parametrize("error", [-3.0, 3.0])
def test_far_apart_is_one_step_forward_and_only_when_said_twice(error: float) -> None:
    source = SourceClock()
    sound, picture = source.stream(48_000, leads=True), source.stream(90_000, leads=False)
    placed: dict[str, list[int]] = {"sound": [], "picture": []}
    for i in range(200):
        at = i / 25
        placed["sound"].append(sound.place(1920 * i, at).ticks)
        placed["picture"].append(picture.place(3600 * i, at).ticks)
        if i in (20, 60, 100):
            sound.report(1e9 + at, 1920 * i)
            picture.report(1e9 + at + error, 3600 * i)
        if i == 50:
            assert source.steps == 0
    assert source.steps == 1
    for ticks in placed.values():
        assert all(b > a for a, b in itertools.pairwise(ticks))
    assert placed["picture"][-1] / 90_000 - placed["sound"][-1] / 48_000 == pytest.approx(error, abs=0.009)


def test_reports_that_cannot_be_are_let_be() -> None:
    source = SourceClock()
    sound, picture = source.stream(48_000, leads=True), source.stream(90_000, leads=False)
    frames(sound, 0, 1, 50)
    before = frames(picture, 0, 1, 25)[-1]
    sound.report(1e9, 0)
    for _ in range(5):
        picture.report(2e9, 0)
    assert picture.place(90_000, 1.0).ticks == before + 3600
    assert source.implausible == 5


def test_a_report_that_comes_before_the_first_packet_is_kept() -> None:
    source = SourceClock()
    sound, picture = source.stream(48_000, leads=True), source.stream(90_000, leads=False)
    frames(sound, 0, 1, 50)
    sound.report(1e9 + 1, 48_000)
    picture.report(1e9 + 1, 90_000)
    ticks = frames(picture, 0, 8, 25, begin=1.0, late=0.3)
    assert ticks[-1] / 90_000 == pytest.approx(1 + 1 + 8 - 0.04, abs=0.009)


@pytest.mark.parametrize("leap", [-100_000_000, 100_000_000, -90_000])
def test_a_jump_goes_on_where_it_was(leap: int) -> None:
    source = SourceClock()
    picture = source.stream(90_000, leads=False)
    last = frames(picture, 2_000_000_000, 2, 25)[-1]
    placed = picture.place((2_000_000_000 + 180_000 + leap) & 0xFFFFFFFF, 2.0)
    assert placed.jumped
    assert placed.ticks == last + 3600
    assert picture.place((2_000_000_000 + 183_600 + leap) & 0xFFFFFFFF, 2.04) == (last + 7200, False)


def test_a_long_silence_is_no_jump() -> None:
    source = SourceClock()
    picture = source.stream(90_000, leads=False)
    picture.place(0, 0.0)
    assert picture.place(90_000 * 3600, 3600.0) == (90_000 * 3601, False)


def test_a_clock_that_stood_still_while_the_stream_was_paused() -> None:
    source = SourceClock()
    sound, picture = source.stream(48_000, leads=True), source.stream(90_000, leads=False)
    jumps = []
    for i in range(1500):
        at = i / 25
        sound.place(1920 * i, at)
        if i < 250 or i >= 1000:
            frames_so_far = i if i < 250 else i - 750
            jumps.append((at, picture.place(3600 * frames_so_far, at)))
    assert [at for at, placed in jumps if placed.jumped] == [40.0]
    at, placed = jumps[-1]
    assert placed.ticks / 90_000 == pytest.approx(1 + at, abs=0.05)


def test_a_stall_of_the_network_is_no_jump() -> None:
    source = SourceClock()
    sound, picture = source.stream(48_000, leads=True), source.stream(90_000, leads=False)
    for i in range(500):
        at = i / 25 + (8.0 if i > 250 else 0.0)
        assert not sound.place(1920 * i, at).jumped
        assert not picture.place(3600 * i, at).jumped


def test_drift_is_told() -> None:
    source = SourceClock()
    sound = source.stream(48_000, leads=True)
    for i in range(3000):
        sound.place(960 * i, i * 0.02 * 1.001)
    assert source.drift == pytest.approx(-0.055, abs=0.01)


@pytest.mark.parametrize("seed", range(20))
def test_whatever_comes_time_does_not_go_back_far_nor_leap(seed: int) -> None:
    rng = random.Random(seed)
    source = SourceClock()
    streams = [source.stream(48_000, leads=True), source.stream(90_000, leads=False), source.stream(90_000, leads=False)]
    last: dict[int, int] = {}
    now = 0.0
    for _ in range(2000):
        now += rng.random() * 0.05
        i = rng.randrange(3)
        if rng.random() < 0.1:
            streams[i].report(rng.choice([0.0, 1e9 + now, 1e9 + now + rng.random() * 20 - 10]), rng.getrandbits(32))
        stamp = rng.getrandbits(32) if rng.random() < 0.05 else round(now * streams[i].rate) & 0xFFFFFFFF
        ticks = streams[i].place(stamp, now).ticks
        assert ticks >= 0
        assert ticks - last.get(i, ticks) >= -0.5 * streams[i].rate - 1
        last[i] = ticks
