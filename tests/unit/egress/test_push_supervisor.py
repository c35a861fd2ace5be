"""The supervisor on a loop whose time stands still until somebody waits."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from typing import Any

import pytest

from medianode import clock
from medianode.egress.push import supervisor as module
from medianode.egress.push.report import Report
from medianode.egress.push.supervisor import Supervisor, describe
from medianode.errors import PeerError, PeerGone
from medianode.routing.room import Room
from medianode.store.targets import PushTarget

TARGET = PushTarget(
    id="t", project_id="p", room="live-a", url="rtmp://one.test/app", stream_key="secret-key", created_at=0.0, updated_at=0.0
)
Act = Callable[[str, Report], Awaitable[None]]


class FakeRoom:
    on_air = True
    held = False


class Loop(asyncio.SelectorEventLoop):
    """Time goes on only when there is nothing to do: by as much as the next timer wants."""

    def __init__(self) -> None:
        super().__init__()
        self.at = 1000.0
        selector = self._selector  # type: ignore[attr-defined]
        really = selector.select

        def select(timeout: float | None = None) -> Any:
            if timeout:
                self.at += timeout
            return really(0)

        selector.select = select

    def time(self) -> float:
        return self.at


class Stage:
    """A target that plays its acts one after the other, and what the supervisor told meanwhile."""

    def __init__(self, *acts: Act, target: PushTarget = TARGET) -> None:
        self.acts = list(acts)
        self.room = FakeRoom()
        self.connected: list[tuple[float, str]] = []
        self.told: list[tuple[str, str]] = []
        self.supervisor = Supervisor(target, self.room, lambda url: self, self._tell, jitter=lambda: 1.0)  # type: ignore[arg-type]

    async def run(self, url: str, key: str | None, room: Room, report: Report) -> None:
        assert key == "secret-key"
        self.connected.append((clock.now() - 1000.0, url))
        if not self.acts:
            self.room.on_air = False
            return
        await self.acts.pop(0)(url, report)

    def _tell(self, supervisor: Supervisor) -> None:
        self.told.append((supervisor.state, supervisor.code))


def play(stage: Stage, monkeypatch: pytest.MonkeyPatch, beside: Coroutine[Any, Any, None] | None = None) -> Stage:
    loop = Loop()
    monkeypatch.setattr(clock, "now", loop.time)

    async def both() -> None:
        aside = asyncio.ensure_future(beside) if beside is not None else None
        await stage.supervisor.run()
        if aside is not None:
            await aside

    try:
        loop.run_until_complete(both())
    finally:
        loop.close()
    return stage


async def unreachable(url: str, report: Report) -> None:
    raise ConnectionRefusedError(111, "Connection refused")


async def refused(url: str, report: Report) -> None:
    raise PeerError("NetStream.Publish.BadName: no such stream secret-key", code="rejected")


async def lost(url: str, report: Report) -> None:
    report.broadcasting()
    raise PeerGone("the server closed the connection")


async def healthy(url: str, report: Report) -> None:
    report.broadcasting()
    await asyncio.sleep(120)
    raise PeerGone("the server closed the connection")


def test_ever_longer_until_a_minute_and_again_from_the_start_after_good_health(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = play(Stage(*[unreachable] * 8, healthy, unreachable), monkeypatch)
    waits = [round(b[0] - a[0]) for a, b in zip(stage.connected, stage.connected[1:], strict=False)]
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 121, 2]
    assert stage.told == [
        ("starting", ""),
        ("failed", "unreachable"),
        ("broadcasting", ""),
        ("failed", "peer-gone"),
        ("failed", "unreachable"),
        ("idle", ""),
    ], "failing again in the same way is no news"
    assert stage.supervisor.attempts == 11


def test_a_target_that_refuses_is_asked_seldom_and_its_words_do_not_give_the_key_away(monkeypatch: pytest.MonkeyPatch) -> None:
    messages: list[str] = []
    stage = Stage(*[refused] * 7)
    told = stage.supervisor._tell

    def tell(supervisor: Supervisor) -> None:
        messages.append(supervisor.message)
        told(supervisor)

    stage.supervisor._tell = tell
    play(stage, monkeypatch)
    waits = [round(b[0] - a[0]) for a, b in zip(stage.connected, stage.connected[1:], strict=False)]
    assert waits == [10, 20, 40, 80, 160, 300, 300]
    assert messages[1] == "NetStream.Publish.BadName: no such stream …"
    in_the_url = replace(TARGET, url="rtmp://me:passw@one.test/app/abcd-efgh?auth=xyz", stream_key=None)
    said = Stage(target=in_the_url).supervisor.without_secrets("app/abcd-efgh?auth=xyz, abcd-efgh, passw")
    assert said == "…?…, …, …"
    twitch = replace(TARGET, stream_key="live_12_abcdef?bandwidthtest=true")
    assert Stage(target=twitch).supervisor.without_secrets("no live_12_abcdef, bandwidthtest=true") == "no …, …"
    assert Stage().supervisor.without_secrets("a\0b\nc\ud800" + "x" * 1000).startswith("a b c x")


def test_the_alternate_url_after_two_failures_and_back_after_two_more(monkeypatch: pytest.MonkeyPatch) -> None:
    target = replace(TARGET, alternate_url="rtmp://two.test/app")
    stage = play(Stage(*[unreachable] * 5, target=target), monkeypatch)
    assert [url.split("/")[2][:3] for _, url in stage.connected] == ["one", "one", "two", "two", "one", "one"]


def test_a_connection_that_comes_and_goes_is_no_good_health(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = play(Stage(lost, lost, lost), monkeypatch)
    assert [round(at) for at, _ in stage.connected] == [0, 1, 3, 7]


def test_in_the_publisher_s_gap_nobody_is_called_and_nobody_is_to_blame(monkeypatch: pytest.MonkeyPatch) -> None:
    async def loses_patience(url: str, report: Report) -> None:
        report.broadcasting()
        stage.room.held = True
        raise PeerGone("idle for too long")

    async def back() -> None:
        await asyncio.sleep(12)
        stage.room.held = False
        stage.supervisor.wake()

    stage = Stage(loses_patience)
    play(stage, monkeypatch, back())
    assert [round(at) for at, _ in stage.connected] == [0, 12]
    assert stage.told == [("starting", ""), ("broadcasting", ""), ("starting", ""), ("idle", "")]


def test_the_end_comes_at_once_though_the_next_attempt_is_far(monkeypatch: pytest.MonkeyPatch) -> None:
    async def end() -> None:
        await asyncio.sleep(3)
        stage.supervisor.end()

    stage = Stage(refused)
    play(stage, monkeypatch, end())
    assert stage.told[-1] == ("idle", "")
    assert len(stage.connected) == 1


def test_cancelled_it_is_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    async def forever(url: str, report: Report) -> None:
        report.broadcasting()
        await asyncio.sleep(1e6)

    async def scene() -> None:
        task = asyncio.ensure_future(stage.supervisor.run())
        await asyncio.sleep(5)
        task.cancel()
        await asyncio.wait((task,))

    stage = Stage(forever)
    loop = Loop()
    monkeypatch.setattr(clock, "now", loop.time)
    loop.run_until_complete(scene())
    loop.close()
    assert stage.told == [("starting", ""), ("broadcasting", ""), ("idle", "")]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (PeerGone("gone"), "peer-gone"),
        (TimeoutError(), "unreachable"),
        (ConnectionResetError(104, "Connection reset by peer"), "unreachable"),
        (ssl.SSLError(1, "WRONG_VERSION_NUMBER"), "tls-failed"),
        (ssl.SSLCertVerificationError("self-signed"), "certificate-not-trusted"),
        (ValueError("x"), "internal"),
    ],
)
def test_words_for_the_operator(error: BaseException, code: str) -> None:
    said = describe(error, "live.test")
    assert said[0] == code
    assert said[1]


def test_jitter_is_a_quarter_either_way() -> None:
    factors = [Supervisor(TARGET, FakeRoom(), lambda url: None, lambda s: None)._jitter() for _ in range(200)]  # type: ignore[arg-type,return-value]
    assert min(factors) >= module.JITTER[0]
    assert max(factors) <= module.JITTER[1]
    assert len(set(factors)) > 100
