"""What an srt:// address of a source says."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from medianode import clock
from medianode.errors import InvalidRequest
from medianode.ingress import srt_caller
from medianode.ingress.srt_caller import SrtUrl, parse_url
from medianode.outbound import Outbound


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ("", SrtUrl("cam.lan", 9000, "", "", 16, 0.0)),
        ("?mode=caller&latency=200", SrtUrl("cam.lan", 9000, "", "", 16, 0.2)),
        ("?latency=200000&pkt_size=1316", SrtUrl("cam.lan", 9000, "", "", 16, 0.2)),  # FFmpeg counts µs
        ("?rcvlatency=9000", SrtUrl("cam.lan", 9000, "", "", 16, 8.0)),
        ("?streamid=play:a/b&passphrase=of-the-camera&pbkeylen=32", SrtUrl("cam.lan", 9000, "play:a/b", "of-the-camera", 32, 0.0)),
        # as FFmpeg takes it, which knows no fragments
        ("?streamid=#!::r=a,m=request&passphrase=of-the-camera", SrtUrl("cam.lan", 9000, "#!::r=a,m=request", "of-the-camera", 16, 0.0)),
    ],
)
def test_addresses(options: str, found: SrtUrl) -> None:
    assert parse_url(f"srt://cam.lan:9000{options}", Outbound()) == found


@pytest.mark.parametrize(
    "url",
    [
        "srt://cam.lan",
        "http://cam.lan:9000",
        "srt://cam.lan:9000?mode=rendezvous",
        "srt://cam.lan:9000?mode=listener",
        "srt://cam.lan:9000?passphrase=secret",
        "srt://cam.lan:9000?pbkeylen=17",
        "srt://cam.lan:9000?latency=soon",
        "srt://cam.lan:9000?transtype=file",
        "srt://cam.lan:9000?streamid=" + "x" * 513,
    ],
)
def test_what_cannot_be_called(url: str) -> None:
    with pytest.raises(InvalidRequest) as told:
        parse_url(url, Outbound())
    assert "secret" not in told.value.message


async def test_after_a_beat_that_computed_for_long_there_is_a_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """A source that floods has a fifth of the loop, as every other has: nothing slows UDP down."""
    spent, rests = iter((0.0, 0.001, 1.0, 1.01, 2.0, 2.001, 3.0)), list[float]()

    async def rest(seconds: float) -> None:
        rests.append(seconds)

    monkeypatch.setattr(clock, "thread_seconds", lambda: next(spent))
    monkeypatch.setattr(srt_caller, "asyncio", SimpleNamespace(sleep=rest))
    beats = srt_caller._beats(0.02)
    for _ in range(4):
        await anext(beats)
    assert rests == pytest.approx([0.04])


def test_secrets_are_not_shown() -> None:
    shown = repr(parse_url("srt://cam.lan:9000?streamid=the-key&passphrase=of-the-camera", Outbound()))
    assert "the-key" not in shown
    assert "of-the-camera" not in shown
