"""Stamps at every wrap, jumps both ways, audio that is sample-exact."""

from medianode.media.timeline import AudioClock, Timeline, Unwrapper


def test_unwraps_32_bits_49_days_in() -> None:
    unwrapper = Unwrapper()
    start = (1 << 32) - 100
    assert [unwrapper.unwrap((start + i * 40) & 0xFFFFFFFF) for i in range(6)] == [start + i * 40 for i in range(6)]


def test_unwraps_an_encoder_that_wraps_at_24_bits() -> None:
    unwrapper = Unwrapper()
    start = (1 << 24) - 100
    assert [unwrapper.unwrap((start + i * 40) & 0xFFFFFF) for i in range(6)] == [start + i * 40 for i in range(6)]


def test_a_real_step_back_stays_one() -> None:
    unwrapper = Unwrapper()
    unwrapper.unwrap(5_000_000)
    assert unwrapper.unwrap(1_000) == 1_000


def test_small_steps_back_are_clamped_and_counted() -> None:
    timeline = Timeline()
    stamps = [0, 40, 30, 80]
    assert [timeline.place(0, ms, i * 0.04).ms for i, ms in enumerate(stamps)] == [0, 40, 40, 80]
    assert (timeline.repairs, timeline.jumps) == (1, 0)


def test_a_clock_that_restarts_goes_on_where_it_was() -> None:
    timeline = Timeline()
    timeline.place(0, 100_000, 0.0)
    placed = timeline.place(0, 0, 0.04)
    assert placed.jumped
    assert placed.ms == 100_040
    assert timeline.place(0, 40, 0.08) == (100_080, False, False)


def test_tracks_that_jump_together_make_one_discontinuity_and_stay_in_step() -> None:
    timeline = Timeline()
    for i in range(10):
        timeline.place(0, i * 40, i * 0.04)
        timeline.place(1, i * 40 + 5, i * 0.04 + 0.005)
    video = timeline.place(0, 9_000_000, 0.40)
    straggler = timeline.place(1, 405, 0.405)
    audio = timeline.place(1, 9_000_045, 0.445)
    assert (video.jumped, straggler.jumped, audio.jumped) == (True, False, False)
    assert audio.ms - video.ms == 45


def test_a_leap_forward_is_a_jump_but_a_long_silence_is_not() -> None:
    timeline = Timeline()
    timeline.place(0, 0, 0.0)
    assert timeline.place(0, 60_000, 0.04).jumped
    timeline = Timeline()
    timeline.place(0, 0, 0.0)
    assert not timeline.place(0, 60_000, 60.0).jumped


def test_drift_is_told() -> None:
    timeline = Timeline()
    for i in range(2000):
        timeline.place(0, int(i * 40 * 1.001), i * 0.04)
    assert 0.06 < timeline.drift < 0.09


def test_audio_is_sample_exact_and_reanchors_past_the_tolerance() -> None:
    audio = AudioClock(48_000)
    stamps = [audio.place(round(i * 1024 / 48), 1024) for i in range(100)]
    assert stamps == [i * 1024 for i in range(100)]
    assert audio.place(5_000, 1024) == 240_000
    assert audio.anchors == 1
    assert audio.place(4_000, 1024) == 240_256, "never goes back, and comes nearer"
