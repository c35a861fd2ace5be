"""systemd's protocol, the loop's lag, the process's figures."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from medianode import life, telemetry
from medianode.life import LoopLag, Notifier, feed_watchdog


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.settimeout(5)
        yield sock


def test_each_call_is_one_datagram_of_lines(tmp_path: Path, systemd: socket.socket) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify")})
    notifier.tell("READY=1", "STATUS=serving")
    notifier.tell("STOPPING=1")
    assert systemd.recv(100) == b"READY=1\nSTATUS=serving"
    assert systemd.recv(100) == b"STOPPING=1"


def test_an_abstract_socket() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        name = f"medianode-test-{os.getpid()}"
        sock.bind(f"\0{name}")
        sock.settimeout(5)
        Notifier({"NOTIFY_SOCKET": f"@{name}"}).tell("READY=1")
        assert sock.recv(100) == b"READY=1"


def test_without_systemd_nothing_is_told() -> None:
    notifier = Notifier({})
    notifier.tell("READY=1")
    assert notifier.watchdog == 0


def test_a_systemd_that_is_gone_or_full_does_not_end_the_node(tmp_path: Path, systemd: socket.socket) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify")})
    for _ in range(2000):  # nobody reads: the socket's buffer fills, and we do not wait
        notifier.tell("WATCHDOG=1")
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "nobody")}).tell("READY=1")


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, 0.0),
        ({}, 0.0),
    ],
)
def test_the_watchdog_is_ours_or_another_s(environ: dict[str, str], seconds: float) -> None:
    assert Notifier(environ).watchdog == seconds


class Told:
    def __init__(self, watchdog: float) -> None:
        self.watchdog = watchdog
        self.lines: list[str] = []

    def tell(self, *lines: str) -> None:
        self.lines += lines


async def test_the_watchdog_is_fed_only_while_all_is_well(monkeypatch: pytest.MonkeyPatch) -> None:
    complaints = iter(["", "", "stuck", ""])
    naps: list[float] = []

    async def nap(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 4:
            raise asyncio.CancelledError

    monkeypatch.setattr(life.asyncio, "sleep", nap)
    told = Told(30.0)
    with pytest.raises(asyncio.CancelledError):
        await feed_watchdog(told, lambda: next(complaints))  # type: ignore[arg-type]  # all that it uses
    assert told.lines == ["WATCHDOG=1", "WATCHDOG=1", "STATUS=unhealthy: stuck", "WATCHDOG=1"]
    assert naps == [10.0] * 4


async def test_no_watchdog_asked_for_no_service() -> None:
    told = Told(0.0)
    await feed_watchdog(told, lambda: "")  # type: ignore[arg-type]  # all that it uses
    assert not told.lines


async def test_the_loop_s_lag_is_seen() -> None:
    lag = LoopLag(period=0.01, keep=5)
    assert lag.quantile(1.0) == 0.0
    serving = asyncio.get_running_loop().create_task(lag.serve())
    await asyncio.sleep(0)
    started = lag.turned_at
    threading.Event().wait(0.08)  # the loop does not turn
    async with asyncio.timeout(5):
        while lag.turned_at == started:
            await asyncio.sleep(0)
    assert lag.quantile(1.0) >= 0.05
    assert lag.quantile(0.0) <= lag.quantile(0.5) <= lag.quantile(1.0)
    async with asyncio.timeout(5):
        while lag.quantile(1.0) >= 0.05:  # only so much is kept
            await asyncio.sleep(0.01)
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)
    assert b'medianode_loop_lag_seconds{quantile="0.99"}' in telemetry.exposition()


def test_the_process_s_figures() -> None:
    before = life.open_descriptors()
    with socket.socket():
        assert life.open_descriptors() == before + 1
    assert life.open_descriptors() == before
    gate = threading.Event()
    threads = life.os_threads()
    thread = threading.Thread(target=gate.wait)
    thread.start()
    try:
        assert life.os_threads() == threads + 1
    finally:
        gate.set()
        thread.join()
    assert 1 << 20 < life.resident_bytes() < 1 << 36


async def test_they_are_in_the_metrics() -> None:
    life.register_process_metrics()
    text = telemetry.exposition().decode()
    for name in ("resident_bytes", "open_descriptors", "threads", "tasks", "cpu_seconds"):
        assert f"\nmedianode_{name} " in text
