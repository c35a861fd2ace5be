"""The engine over SQLite with a made-up receiver: whatever it answers, and whenever the engine is killed, none is lost and order holds."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
from harness.receiver import FakeClock, Post, open_post
from hypothesis import given, settings
from hypothesis import strategies as st

from medianode.config import Limits, Webhooks
from medianode.store.database import open_database
from medianode.store.endpoints import WebhookEndpoint
from medianode.tasks import TaskSet
from medianode.webhooks import schedule
from medianode.webhooks.delivery import Delivery
from medianode.webhooks.sender import Answer

STREAMS = "abc"
ANSWERS = (Answer(status=200), Answer(status=200), Answer(status=500), Answer(error="timeout"), Answer(status=429, retry_after=30.0))
TRIES = len(schedule.delays(Webhooks().first_retry, Webhooks().last_retry))
PATIENT = 100
"""Turns of eleven seconds; then they are hours, for what failed six times in a row waits for more than one."""


class MadeUp:
    """In place of `Sender`: answers as it is told, then well; no letter so often badly that it is given up."""

    def __init__(self, answers: Iterator[Answer]) -> None:
        self._answers = answers
        self.got: list[tuple[str, str, int, bool]] = []

    async def send(self, endpoint: WebhookEndpoint, event: str, event_id: str, body: bytes, secret: str | None) -> Answer:
        await asyncio.sleep(0)
        letter = msgspec.json.decode(body)
        tried = [ok for e, s, n, ok in self.got if (e, s, n) == (endpoint.id, letter["stream"], letter["n"])]
        answer = next(self._answers, ANSWERS[0]) if len(tried) < TRIES else ANSWERS[0]
        self.got.append((endpoint.id, letter["stream"], letter["n"], answer.good))
        return answer


@settings(max_examples=12, deadline=None)
@given(
    letters=st.lists(st.tuples(st.booleans(), st.sampled_from(STREAMS)), min_size=1, max_size=30),
    answers=st.lists(st.sampled_from(ANSWERS), max_size=40),
    kills=st.lists(st.integers(1, 6), max_size=3),
    connections=st.integers(1, 3),
)
def test_none_is_lost_and_order_holds(letters: list[tuple[bool, str]], answers: list[Answer], kills: list[int], connections: int) -> None:
    asyncio.run(lives(letters, answers, kills, connections))


async def lives(letters: list[tuple[bool, str]], answers: list[Answer], kills: list[int], connections: int) -> None:
    receiver, time = MadeUp(iter(answers)), FakeClock()
    with tempfile.TemporaryDirectory() as directory:
        async with open_database("", Path(directory), environ={}) as db:
            post = await open_post(db)
            ends = [await post.endpoint("http://a.example/"), await post.endpoint("http://b.example/")]
            for n, (which, stream) in enumerate(letters):
                await post.send(ends[which], stream, first=n)
            for turns in [*kills, 400]:
                if await life(post, receiver, time, connections, turns):
                    break
            rows = await post.rows()
    assert {row.state for row in rows} == {"delivered"}
    for which, end in enumerate(ends):
        for stream in STREAMS:
            sent = [n for n, (w, s) in enumerate(letters) if (w, s) == (bool(which), stream)]
            good = [n for e, s, n, ok in receiver.got if (e, s, ok) == (end.id, stream, True)]
            assert list(dict.fromkeys(good)) == sent
            if not kills:
                assert good == sent


async def life(post: Post, receiver: MadeUp, time: FakeClock, connections: int, turns: int) -> bool:
    """So many turns, then a kill: nothing is written down any more. True when all was done before."""
    limits = Limits(webhook_connections=connections)
    engine = Delivery(post.db, Webhooks(), limits, receiver, "node", time)  # type: ignore[arg-type]
    async with TaskSet("webhooks", 100) as tasks:
        engine._tasks = tasks
        for turn in range(turns):
            await engine._turn()
            for _ in range(turn % 7):
                await asyncio.sleep(0)
            time.advance(11.0 if turn < PATIENT else 3600.0)
            if turn % 5 == 4 and all(row.state == "delivered" for row in await post.rows()):
                return True
    return False


@given(
    failures=st.integers(1, 50),
    first=st.floats(0.1, 1e4),
    last=st.floats(0.1, 1e6),
    chance=st.floats(0, 1),
    asked=st.none() | st.floats(0, 1e12),
)
def test_delays_are_bounded_and_end(failures: int, first: float, last: float, chance: float, asked: float | None) -> None:
    found = schedule.delay(failures, first, last, chance, asked)
    steps = schedule.delays(first, last)
    assert (found is None) == (failures > len(steps))
    assert steps == sorted(steps)
    assert steps[-1] == last
    if found is not None:
        assert min(first, last) * (1 - schedule.SPREAD) * 0.999 <= found <= schedule.longest(last) * 1.001
