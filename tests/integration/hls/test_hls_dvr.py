"""The DVR window on disk, and the bounds of memory."""

from __future__ import annotations

import asyncio
import errno
import re
from pathlib import Path
from typing import Any

import pytest

from medianode import clock, telemetry
from medianode.config import Hls, Limits
from medianode.egress.hls import dvr

DVR = Hls(segment_duration=1.0, part_duration=0.2, playlist_segments=3, dvr_window=60.0)


def _names(text: str) -> list[str]:
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def _files(rig: Any) -> list[Path]:
    return [path for path in Path(rig.config.data_dir).rglob("*") if path.is_file()]


async def _settled(rig: Any, count: int) -> None:
    async with asyncio.timeout(10):
        while len(_files(rig)) != count:
            await asyncio.sleep(0.02)


async def _publish(rig: Any, clip: Any) -> tuple[Any, Any]:
    """In steps, as the disk thread gets along."""
    room, publication = rig.publish(clip, hold=30.0)
    for second in range(13):
        rig.write(publication, [p for p in clip.packets if second - 0.5 <= p.received_at < second + 0.5])
        await asyncio.sleep(0.02)
    return room, publication


async def test_the_window_is_on_disk_and_leaves_nothing_behind(make_rig: Any, make_clip: Any, plays: Any) -> None:
    rig, clip = await make_rig(DVR), make_clip(seconds=12)
    room, publication = await _publish(rig, clip)
    await _settled(rig, 11)
    live = rig.service._live["p-live", "live-cam"]
    window = live.variants["main"].window
    assert [stored.body is None for stored in window.listed] == [True] * 5 + [False] * 6
    async with rig.client.get("/hls/live/cam/main.m3u8") as answer:
        names = _names(await answer.text())
    assert len(names) == 11
    async with rig.client.get(f"/hls/live/cam/{names[0]}", headers={"Range": "bytes=4-7"}) as answer:
        assert (answer.status, await answer.read()) == (206, b"moof")
        assert answer.headers["Content-Type"] == "video/mp4"
        assert "immutable" in answer.headers["Cache-Control"]
    room.end(publication, "done", final=True)
    errors, counts = await plays(rig.url("/hls/live/cam/main.m3u8"))
    assert errors == ""
    assert counts["video"] == 360
    rig.service.tend(clock.now() + 31)
    await _settled(rig, 0)


async def test_what_a_crash_left_is_removed_at_start(make_rig: Any, tmp_path: Path) -> None:
    stale = tmp_path / "data" / "hls" / "live-cam" / "x" / "main-1.m4s"
    stale.parent.mkdir(parents=True)
    stale.write_bytes(b"old")
    await make_rig()
    assert not stale.exists()


async def test_the_disk_is_bounded(make_rig: Any, make_clip: Any) -> None:
    clip = make_clip(seconds=12)
    rig = await make_rig(DVR, Limits(dvr_room_bytes=sum(len(p.data) for p in clip.packets) // 2))
    await _publish(rig, clip)
    async with asyncio.timeout(10):
        while sum(path.stat().st_size for path in _files(rig)) > rig.config.limits.dvr_room_bytes or len(_files(rig)) < 3:
            await asyncio.sleep(0.02)
    live = rig.service._live["p-live", "live-cam"]
    assert len(live.variants["main"].window.listed) < 11


async def test_a_full_disk_falls_back_to_memory(
    make_rig: Any, make_clip: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write = dvr._write

    def full(path: Path, body: bytes) -> None:
        if len(list(path.parent.glob("*"))) >= 6:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, body)

    monkeypatch.setattr(dvr, "_write", full)
    rig, clip = await make_rig(DVR), make_clip(seconds=12)
    await _publish(rig, clip)
    async with rig.client.get("/hls/live/cam/main.m3u8") as answer:
        names = _names(await answer.text())
    assert len(names) == 3
    for name in names:
        async with rig.client.get(f"/hls/live/cam/{name}") as answer:
            assert answer.status == 200
    assert "falls back to memory: No space left on device" in caplog.text
    assert b"medianode_hls_dvr_failures_total 1.0" in telemetry.exposition()


async def test_memory_is_bounded_by_room_and_in_all(make_rig: Any, make_clip: Any) -> None:
    clip = make_clip(seconds=12)
    size = sum(len(p.data) for p in clip.packets)
    limits = Limits(hls_room_bytes=size // 2, hls_total_bytes=size)
    rig = await make_rig(Hls(segment_duration=1.0, part_duration=0.2, playlist_segments=12), limits)
    for room in ("one", "two", "three"):
        _, publication = rig.publish(clip, room=room)
        for packet in clip.packets:
            rig.write(publication, [packet])
            assert rig.service._house.budget.nbytes <= size + 65_536
    budget = rig.service._house.budget
    assert all(budget.room_nbytes(("p-live", f"live-{room}")) <= size // 2 for room in ("one", "two", "three"))
    assert budget.nbytes <= size
    async with rig.client.get("/hls/live/one/main.m3u8") as answer:
        text = await answer.text()
    assert 1 <= len(_names(text)) < 11
    assert re.search(r'hls_evictions_total{cause="room-bytes"} [1-9]', telemetry.exposition().decode())
    assert re.search(r'hls_evictions_total{cause="total-bytes"} [1-9]', telemetry.exposition().decode())
