"""A recording of a month, shown."""

from __future__ import annotations

import asyncio

import pytest

from medianode.api import recordings
from medianode.api.urls import Ports, Urls
from medianode.store.recording_files import PAGE, RecordingFile


async def test_very_many_files_do_not_stop_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    turns, made, view = 0, list[int](), recordings.file_view

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    def seen(file: RecordingFile, slug: str, urls: Urls) -> recordings.FileView:
        made.append(turns)
        return view(file, slug, urls)

    monkeypatch.setattr(recordings, "file_view", seen)
    files = [
        RecordingFile(recording_id="rec_1", project_id="p", sequence=n, name=f"{n:06}.mp4", started_at=60.0 * n, start=60_000_000 * n)
        for n in range(1, 2 * PAGE + 2)
    ]
    async with asyncio.TaskGroup() as group:
        other = group.create_task(others())
        views = await recordings.file_views(files, "live", Urls("https://m", "m", Ports(1935)))
        other.cancel()
    assert [each.name for each in views] == [file.name for file in files]
    assert max(made.count(turn) for turn in set(made)) <= PAGE
