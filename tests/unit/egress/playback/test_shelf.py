"""Playlists as they are remembered: made anew when a segment is new, and truthful when the beginning of a growing one is deleted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from harness import AUDIO, VIDEO

from medianode.config import Limits
from medianode.egress.playback.disk import Disk
from medianode.egress.playback.footage import Footage, Reel
from medianode.egress.playback.library import OpenFile
from medianode.egress.playback.shelf import Shelf
from medianode.egress.playback.span import Span
from medianode.errors import NotFound, PeerTimeout
from medianode.media.parts import Part
from medianode.protocols import fmp4
from medianode.store.recordings import Recording

INIT = fmp4.init_segment((VIDEO, AUDIO))
RECORDING = Recording(id="rec_a", project_id="p", room="r", node_id="n", directory="/d", started_at=1000.0)


class Recorder:
    """Nothing is open, or a file without parts."""

    def __init__(self) -> None:
        self.calls: list[Callable[[], None]] = []
        self.open: OpenFile | None = None

    def live(self, recording_id: str) -> OpenFile | None:
        return self.open

    def on_parts(self, recording_id: str, call: Callable[[], None]) -> Callable[[], None]:
        self.calls.append(call)
        return lambda: self.calls.remove(call)


def file(root: Path, sequence: int, seconds: int = 8, *, closed: bool = True) -> Footage:
    path, start = root / f"{sequence:06}.mp4", (sequence - 1) * 8_000_000
    path.write_bytes(INIT)
    parts = tuple(Part(500 + i * 10, 10, start + i * 1_000_000, 1_000_000, i % 2 == 0) for i in range(seconds))
    return Footage(path, sequence, 1000 + start / 1e6, start, seconds * 1_000_000, 999 + seconds, len(INIT), closed=closed, listed=parts)


async def test_a_growing_playlist_over_its_life(tmp_path: Path) -> None:
    shelf = Shelf(Disk(4), Recorder(), Limits())

    async def text(*files: Footage, growing: bool = True) -> str:
        reel = Reel(RECORDING, files, growing)
        chosen = [(reel, each) for each in files]
        return (await shelf.rendered(("rec_a",), chosen, lambda _, each: each.name, Span(), growing=growing)).text

    one, two = file(tmp_path, 1), file(tmp_path, 2, 3, closed=False)
    first = await text(one, two)
    assert (first.count("#EXTINF"), "EVENT" in first, "ENDLIST" in first) == (2, True, False)
    # another part is no other playlist; another segment is
    assert await text(one, replace(file(tmp_path, 2, 4, closed=False))) is first
    grown = await text(one, file(tmp_path, 2, 5, closed=False))
    assert grown.count("#EXTINF") == 3
    assert grown.startswith(first), "an event playlist only grows"
    # retention took the first file, and its two segments with it
    later = await text(file(tmp_path, 2), file(tmp_path, 3, 5, closed=False))
    assert "#EXT-X-MEDIA-SEQUENCE:2\n" in later
    assert "EVENT" not in later
    ended = await text(file(tmp_path, 2), file(tmp_path, 3), growing=False)
    assert ended.endswith("#EXT-X-ENDLIST\n")


async def test_a_file_that_is_gone_leaves_a_break(tmp_path: Path) -> None:
    shelf = Shelf(Disk(4), Recorder(), Limits())
    one, two, three = (replace(file(tmp_path, n), gap="publisher-gap") for n in (1, 2, 3))
    two.path.unlink()
    reel = Reel(RECORDING, (one, two, three))
    chosen = [(reel, each) for each in reel.files]
    made = await shelf.rendered(("rec_a",), chosen, lambda _, each: each.name, Span(), growing=False)
    assert "000002" not in made.text
    assert made.text.count("#EXT-X-DISCONTINUITY\n") == 1
    with pytest.raises(NotFound):
        await shelf.rendered(("rec_b",), [(reel, two)], lambda _, each: each.name, Span(), growing=False)


async def test_who_comes_before_the_first_segment_waits_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder()
    shelf = Shelf(Disk(4), recorder, Limits())

    class Open:
        path, sequence, started_at, start, gap, init = tmp_path, 1, 1000.0, 0, "", INIT
        parts: tuple[Part, ...] = ()

    recorder.open = live = Open()
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        waiting = group.create_task(shelf.begun("rec_a"))
        while not recorder.calls:
            await asyncio.sleep(0)
        recorder.calls[0]()
        await asyncio.sleep(0)
        assert not waiting.done()
        live.parts = tuple(file(tmp_path, 1).parts)
        recorder.calls[0]()
    assert not recorder.calls
    live.parts = ()
    monkeypatch.setattr("medianode.egress.playback.shelf.FIRST_SEGMENT_WAIT", 0.0)
    with pytest.raises(PeerTimeout) as late:
        await shelf.begun("rec_a")
    assert late.value.code == "not-ready"
