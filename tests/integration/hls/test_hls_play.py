"""HLS played by FFmpeg: every codec that passes, MPEG-TS, live and ended."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from medianode.config import Hls


@pytest.mark.parametrize(("video", "audio"), [("h264", "aac"), ("hevc", "aac"), ("av1", "opus"), ("vp9", "opus"), ("", "aac"), ("h264", ""), ("h264", "mp3")])
async def test_ffmpeg_plays_what_passes(make_rig: Any, make_clip: Any, plays: Any, video: str, audio: str) -> None:
    rig, clip = await make_rig(Hls(segment_duration=1.0, part_duration=0.2, playlist_segments=20)), make_clip(video, audio)
    room, publication = rig.publish(clip)
    rig.write(publication, clip.packets)
    room.end(publication, "done")
    errors, counts = await plays(rig.url("/hls/live/cam/main.m3u8"))
    assert errors == ""
    assert counts.get("video", 0) == sum(p.track.is_video for p in clip.packets)
    if audio:
        assert counts["audio"] >= 8 * 48000 // 1200
