from __future__ import annotations

import pytest

from medianode.webhooks.steady import JUMP, SteadyClock


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    told = {"mono": 100.0, "wall": 1e9}
    monkeypatch.setattr("medianode.clock.now", lambda: told["mono"])
    monkeypatch.setattr("medianode.clock.wallclock", lambda: told["wall"])
    return told


def test_it_goes_on_whatever_the_wallclock_does(machine: dict[str, float]) -> None:
    steady = SteadyClock()
    assert steady.now() == 1e9
    machine |= {"mono": 130.0, "wall": 5e8}
    assert steady.now() == 1e9 + 30
    assert not steady.follow(None)
    assert steady.now() == 1e9 + 30


def test_it_follows_the_database_and_tells_a_jump(machine: dict[str, float]) -> None:
    steady = SteadyClock()
    assert not steady.follow(2e9)  # the first look: it is only another clock than ours
    assert steady.now() == 2e9
    machine["mono"] += 60
    assert not steady.follow(2e9 + 60 + JUMP / 2)  # they drift
    machine["mono"] += 1
    assert steady.follow(2e9 - 3600)
    assert steady.now() == 2e9 - 3600
    assert not steady.follow(2e9 - 3600)
