from __future__ import annotations

import pytest

from medianode.egress.push.liveness import PATIENCE, Liveness
from medianode.errors import PeerTimeout


def test_media_is_taken_once_the_kernel_acknowledged_some_and_a_moment_has_passed() -> None:
    liveness = Liveness(0.0)
    assert not liveness.look(0.5, 3000, 3000, waiting=False)
    liveness.media_sent(1.0, 3000)
    assert not liveness.look(1.1, 9000, 9000, waiting=False), "it may still close at once, as for a wrong key"
    assert not liveness.look(2.5, 3000, 9000, waiting=True), "the media is not there yet"
    assert liveness.look(2.6, 9000, 9000, waiting=False)


def test_nothing_taken_while_media_waits_is_the_end() -> None:
    liveness = Liveness(0.0)
    liveness.look(1.0, 5000, 9000, waiting=True)
    liveness.look(1.0 + PATIENCE, 5000, 20_000, waiting=True)
    with pytest.raises(PeerTimeout, match="took nothing for 10 s") as raised:
        liveness.look(1.1 + PATIENCE, 5000, 20_000, waiting=True)
    assert raised.value.code == "target-stalled"


def test_a_publisher_s_gap_is_not_the_target_s_fault() -> None:
    liveness = Liveness(0.0)
    for now in range(300):
        liveness.look(float(now), 5000, 5000, waiting=False)
    liveness.look(300.0 + PATIENCE - 2, 5000, 9000, waiting=True)


def test_slow_but_steady_is_alive() -> None:
    liveness = Liveness(0.0)
    for now in range(300):
        liveness.look(float(now), now, 1_000_000, waiting=True)


def test_a_target_whose_kernel_takes_all_but_which_stopped_acknowledging() -> None:
    """The proxy in between has a large buffer: only the target's own count tells."""
    liveness = Liveness(0.0)
    for i in range(1, 5):
        liveness.confirmed(i * 500_000, float(i))
    liveness.look(10.0, 3_000_000, 3_000_000, waiting=False)
    liveness.look(20.0, 3_400_000, 3_400_000, waiting=False)  # within three of its steps
    with pytest.raises(PeerTimeout, match="stopped acknowledging: 2000000 of 3600000 bytes"):
        liveness.look(20.0, 3_600_000, 3_600_000, waiting=False)


def test_a_target_that_acknowledges_once_at_the_start_only_is_not_held_to_it() -> None:
    liveness = Liveness(0.0)
    liveness.confirmed(3073, 0.1)
    liveness.look(600.0, 200_000_000, 200_000_000, waiting=False)
    assert liveness.own == 3073
