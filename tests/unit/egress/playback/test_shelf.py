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
from medianode.egress.playback.shelf import AT_ONCE, Shelf
from medianode.egress.playback.span import Span
from medianode.errors import NotFound, PeerError, PeerTimeout
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
    assert "#EXT-X-MEDIA-SEQUENCE:2\n" in ended, "who watched it grow goes on from there"


async def test_breaks_that_go_with_the_beginning_are_counted(tmp_path: Path) -> None:
    """RFC 8216 6.2.2; over two recordings, as a room's past has them: the second's files are numbered from 1 again."""
    shelf = Shelf(Disk(4), Recorder(), Limits())
    other = replace(RECORDING, id="rec_b")
    mine = [file(tmp_path, 1), replace(file(tmp_path, 2), gap="publisher-gap"), file(tmp_path, 3)]
    its = [file(tmp_path, 1), file(tmp_path, 2), file(tmp_path, 3, 5, closed=False)]
    files = [*((Reel(RECORDING, tuple(mine)), each) for each in mine), *((Reel(other, tuple(its), True), each) for each in its)]

    async def counts(first: int) -> list[int]:
        scope = ("p", "r")
        made = await shelf.rendered(scope, files[first:], lambda reel, each: f"{reel.recording.id}/{each.name}", Span(), growing=True)
        words = ("#EXT-X-MEDIA-SEQUENCE:", "#EXT-X-DISCONTINUITY-SEQUENCE:")
        numbers = [int(line.removeprefix(word)) for word in words for line in made.text.split("\n") if line.startswith(word)]
        return [*numbers, made.text.count("#EXT-X-DISCONTINUITY\n")]

    assert await counts(0) == [0, 2]
    # the break before the second file goes when that becomes the first
    assert await counts(1) == [2, 1, 1]
    assert await counts(2) == [4, 1, 1]
    assert await counts(3) == [6, 2, 0]
    assert await counts(5) == [10, 2, 0]


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


async def test_a_bucket_that_was_away_leaves_no_lasting_break(tmp_path: Path) -> None:
    """Files that are there only, each behind a gap; and it is asked once by all who come, and not for each file while it is away."""
    shelf = Shelf(Disk(4), Recorder(), Limits())
    asked: list[str] = []
    away = True

    async def far(recording: Recording, key: str, size: int) -> bytes:
        asked.append(key)
        await asyncio.sleep(0)
        if away:
            raise PeerError("no", code="bucket-away")
        return INIT

    shelf.far = far
    files = tuple(replace(file(tmp_path, n), gap="publisher-gap", here=False, remote_key=f"k{n}") for n in range(1, 20))
    reel = Reel(RECORDING, (*files, file(tmp_path, 20)))
    chosen = [(reel, each) for each in reel.files]

    async def listed() -> int:
        text = (await shelf.rendered(("rec_a",), chosen, lambda _, each: each.name, Span(), growing=False)).text
        return sum(each.name in text for each in reel.files)

    assert await listed() == 1
    assert len(asked) == AT_ONCE
    assert await listed() == 1
    assert len(asked) == AT_ONCE
    away = False
    shelf._away.clear()  # some seconds later
    asked.clear()
    assert await asyncio.gather(listed(), listed()) == [len(files) + 1] * 2
    assert len(asked) == len(set(asked)) == len(files), "who come together ask once"


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
