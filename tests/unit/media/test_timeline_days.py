"""The audio clock under sound cards that run fast, and over jumps."""

from __future__ import annotations

from medianode.media.timeline import AudioClock


def test_a_sound_card_faster_than_the_stamps_stays_beside_the_picture_for_a_day() -> None:
    clock = AudioClock(48_000)
    worst, last = 0.0, -1
    for i in range(86_400 * 48_000 // 1024 // 8):  # every drift of 800 ppm in an eighth of a day is one of 100 ppm in a day
        ms = int(i * 1024 / 48 / 1.0008)
        pts = clock.place(ms, 1024)
        worst = max(worst, pts / 48 - ms)
        assert pts > last
        last = pts
    assert worst < 130


def test_nothing_goes_back_over_a_jump() -> None:
    clock = AudioClock(48_000)
    last = -1
    for i in range(20):
        pts = clock.place(i * 20, 1024)
        assert pts > last
        last = pts
    clock.reset()
    assert clock.place(400, 1024) > last
