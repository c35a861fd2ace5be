"""One beat for all, and nobody takes it from the others."""

from __future__ import annotations

from time import thread_time

from medianode.ingress.pull.rhythm import Rhythm


async def test_who_computes_long_rests_and_the_others_do_not() -> None:
    rhythm = Rhythm(0.004)
    beats: list[str] = []

    def floods(now: float) -> None:
        beats.append("flood")
        until = thread_time() + 0.05
        while thread_time() < until:
            pass

    leave_flood, leave_calm = rhythm.join(floods), rhythm.join(lambda now: beats.append("calm"))
    for _ in range(3):
        rhythm._beat()
    assert beats == ["flood", "calm", "calm", "calm"]
    assert len(rhythm) == 2  # it comes back
    leave_flood()
    leave_calm()
    rhythm._beat()
    assert beats.count("calm") == 3
