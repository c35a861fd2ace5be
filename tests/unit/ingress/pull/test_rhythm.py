"""One beat for all, and nobody takes it from the others."""

from __future__ import annotations

import pytest

from medianode import clock
from medianode.ingress.pull.rhythm import LONG, REST, Rhythm

BEAT = 0.5


async def test_who_computes_long_rests_and_the_others_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    now, computed = 1000.0, 0.0
    monkeypatch.setattr(clock, "now", lambda: now)
    monkeypatch.setattr(clock, "thread_seconds", lambda: computed)
    rhythm = Rhythm(BEAT)
    beats: list[str] = []

    def floods(now: float) -> None:
        nonlocal computed
        beats.append("flood")
        computed += BEAT

    def busy(now: float) -> None:
        nonlocal computed
        beats.append("busy")
        computed += BEAT * LONG

    members = [rhythm.join(member) for member in (floods, busy)]
    while beats.count("flood") < 2:
        rhythm._beat()
        now += BEAT
    assert beats == ["flood", *["busy"] * (int(REST) + 1), "flood", "busy"]
    for leave in members:
        leave()
    rhythm._beat()
    assert beats.count("flood") == 2
