"""What `medianode doctor` says of WebRTC and SRT."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from medianode import doctor
from medianode.config import Config
from medianode.doctor import Finding
from medianode.errors import ConfigError
from medianode.rtc import selftest
from medianode.rtc.udp import UdpSocket


async def findings(**rtc: Any) -> list[Finding]:
    config = msgspec.convert({"rtc": {"listen": "127.0.0.1:0", **rtc}, "http": {"listen": "127.0.0.1:1"}}, Config)
    return [finding async for finding in doctor._webrtc(config)]


@pytest.fixture(autouse=True)
def _roomy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "allowed_buffers", lambda: {"receive": 8 << 20, "send": 8 << 20})


async def test_all_is_well() -> None:
    found = await findings()
    assert {f.level for f in found} == {"ok"}
    assert any("127.0.0.1" in f.text for f in found)


async def test_switched_off_there_is_nothing_to_say() -> None:
    assert await findings(enabled=False) == []


async def test_a_taken_port_and_what_to_do() -> None:
    taken = UdpSocket("127.0.0.1", 0)
    found = await findings(listen=f"127.0.0.1:{taken.port}")
    taken.close()
    (warning,) = (f for f in found if f.level == "warn")
    assert str(taken.port) in warning.text
    assert "ss -lunp" in warning.advice


def test_srt_s_port() -> None:
    def said(port: int, **srt: Any) -> list[tuple[str, str]]:
        config = msgspec.convert({"srt": {"listen": f"127.0.0.1:{port}", **srt}, "http": {"listen": "127.0.0.1:1"}}, Config)
        return [(f.level, f.advice) for f in doctor._srt(config)]

    taken = UdpSocket("127.0.0.1", 0)
    ((level, advice),) = said(taken.port)
    assert (level, "ss -lunp" in advice) == ("warn", True)
    assert said(taken.port, enabled=False) == []
    taken.close()
    assert said(0) == [("ok", "")]


async def test_small_socket_buffers_and_the_sysctl_that_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "allowed_buffers", lambda: {"receive": 8 << 20, "send": 212_992})
    (warning,) = (f for f in await findings() if f.level == "warn")
    assert warning.advice == "sysctl -w net.core.wmem_max=8388608"


async def test_libraries_that_no_longer_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    async def misfit() -> tuple[str, ...]:
        return ("aiortc 9.9: changed",)

    async def broken() -> tuple[str, ...]:
        raise ConfigError("WebRTC cannot work")

    monkeypatch.setattr(selftest, "run", misfit)
    assert ("warn", "aiortc 9.9: changed") in [(f.level, f.text) for f in await findings()]
    monkeypatch.setattr(selftest, "run", broken)
    assert ("fail", "WebRTC cannot work") in [(f.level, f.text) for f in await findings()]
