"""Waiting and rendering, viewers and the budget, without HTTP."""

from __future__ import annotations

import asyncio

import pytest

from medianode.config import Hls
from medianode.egress.hls.budget import Budget
from medianode.egress.hls.playlists import Playlist, Waiting
from medianode.egress.hls.viewers import WINDOW, Sessions, Viewers
from medianode.egress.hls.window import OLDER, Start, Window
from medianode.errors import InvalidRequest, LimitExceeded, PeerTimeout


def _window(segments: int = 3, parts: int = 0, *, config: Hls | None = None) -> tuple[Window, Playlist, Waiting]:
    waiting = Waiting(2)
    window = Window(config or Hls(), Budget(10**9, 10**9), "room", "main", "0" * 16, start=Start(10), parts=True)
    playlist = Playlist(window, waiting)
    for _ in range(segments):
        _segment(window)
    if parts:
        window.begin(b"init", program_time="t", discontinuity=False, independent=True)
    for i in range(parts):
        window.add_part((b"part",), 500_000, independent=not i)
    return window, playlist, waiting


def _segment(window: Window, *, discontinuity: bool = False, init: bytes = b"init") -> None:
    window.begin(init, program_time="t", discontinuity=discontinuity, independent=True)
    for i in range(4):
        window.add_part((b"part",), 500_000, independent=not i)
    window.end_segment()


@pytest.mark.parametrize(
    ("msn", "part", "there"),
    [
        (9, None, True),
        (12, None, True),
        (13, None, False),
        (12, 3, True),
        (12, 4, True),
        (13, 1, True),
        (13, 2, False),
        (14, 0, False),
        (11, 99, True),
    ],
)
def test_what_the_playlist_holds(msn: int, part: int | None, there: bool) -> None:
    window, *_ = _window(3, 2)
    assert window.has(msn, part) is there


def test_a_part_past_its_segment_is_the_next_ones_first() -> None:
    window, *_ = _window(3, 0)
    assert not window.has(12, 4)
    window.begin(b"init", program_time="t", discontinuity=False, independent=True)
    window.add_part((b"part",), 500_000, independent=True)
    assert window.has(12, 4)


@pytest.mark.parametrize(("msn", "part"), [(15, None), (13, 9), (99, 0), (14, 7)])
async def test_too_far_ahead(msn: int, part: int | None) -> None:
    _, playlist, _ = _window(3, 2)
    with pytest.raises(InvalidRequest):
        await playlist.reach(msn, part)


async def test_waiting_is_bounded_and_ends_with_the_stream() -> None:
    window, playlist, waiting = _window(3, 2)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(playlist.reach(13, part)) for part in (None, 8)]
        await asyncio.sleep(0)
        assert waiting.count == 2
        with pytest.raises(LimitExceeded):
            await playlist.reach(13, 3)
        tasks[0].cancel()
        await asyncio.sleep(0)
        assert waiting.count == 1
        window.end()
    assert waiting.count == 0
    assert playlist._waiters == {}


async def test_the_wait_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medianode.egress.hls.playlists.LONGEST_WAIT", 0.0)
    _, playlist, waiting = _window()
    with pytest.raises(PeerTimeout):
        await playlist.reach(13, None)
    assert (waiting.count, playlist._waiters) == (0, {})


def test_one_rendering_for_all() -> None:
    window, playlist, _ = _window(8, 1)
    first = playlist.render()
    assert playlist.render() is first
    assert playlist.render(query="?token=a") == first.replace(b'.m4s"', b'.m4s?token=a"').replace(b".m4s\n", b".m4s?token=a\n").replace(
        b'.mp4"', b'.mp4?token=a"'
    )
    assert b"SKIPPED" in playlist.render(delta=True)
    window.add_part((b"x",), 500_000, independent=False)
    assert playlist.render() != first


def test_the_window_slides() -> None:
    window, *_ = _window(0, config=Hls(playlist_segments=4))
    for n in range(12):
        _segment(window, discontinuity=n in (1, 3), init=b"a" if n < 3 else b"b")
    assert [stored.msn for stored in window.listed] == [18, 19, 20, 21]
    assert [stored.msn for stored in window.older] == [15, 16, 17]
    assert len(window.older) == OLDER
    assert window.discontinuity_sequence == 2
    assert list(window.inits.values()) == [b"b"]
    assert window.nbytes == 7 * 16
    assert window.segment(14) is None
    assert window.part(16, 3) == b"part"
    assert window.part(16, 4) is None
    assert window.average_bandwidth == window.peak_bandwidth == 64
    window.close()
    assert window.nbytes == 0


def test_sessions_prove_themselves() -> None:
    sessions = Sessions()
    session = sessions.new()
    assert sessions.known(session)
    assert session != sessions.new()
    for forged in ("", "x", session[:-1] + ("0" if session[-1] != "0" else "1"), session + "0", "ä" * 20, Sessions().new()):
        assert not sessions.known(forged)


def test_viewers_leave() -> None:
    viewers = Viewers()
    viewers.seen("a", 0.0)
    viewers.seen("b", 5.0)
    viewers.seen("a", 6.0)
    assert len(viewers) == 2
    viewers.expire(5.0 + WINDOW + 0.1)
    assert ("a" in viewers, "b" in viewers) == (True, False)
