"""HLS played by FFmpeg: every codec that passes, MPEG-TS, live and ended."""

from __future__ import annotations

import asyncio
import io
from typing import Any

import av
import pytest

from medianode.config import Hls


@pytest.mark.parametrize(
    ("video", "audio"), [("h264", "aac"), ("hevc", "aac"), ("av1", "opus"), ("vp9", "opus"), ("", "aac"), ("h264", ""), ("h264", "mp3")]
)
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


@pytest.mark.parametrize(("video", "audio"), [("h264", "aac"), ("hevc", "mp3"), ("", "aac")])
async def test_ffmpeg_plays_mpegts(make_rig: Any, make_clip: Any, plays: Any, video: str, audio: str) -> None:
    rig, clip = await make_rig(Hls(segment_duration=1.0, part_duration=0.2, playlist_segments=20, container="ts")), make_clip(video, audio)
    room, publication = rig.publish(clip)
    rig.write(publication, clip.packets)
    room.end(publication, "done")
    errors, counts = await plays(rig.url("/hls/live/cam/main.m3u8"), level="warning")
    assert errors == ""
    assert counts.get("video", 0) == sum(p.track.is_video for p in clip.packets)
    assert counts["audio"] >= 8 * 48000 // 1200


@pytest.mark.parametrize("path", ["/hls/live/cam/index.m3u8", "/hls/live/live-cam/index.m3u8?mode=ts"])
async def test_ffmpeg_plays_live(make_rig: Any, make_clip: Any, plays: Any, path: str) -> None:
    """From a publisher at three times real time, waiting for the first segment, through to EXT-X-ENDLIST."""
    rig, clip = await make_rig(), make_clip()
    room, publication = rig.publish(clip)

    async def publish() -> None:
        await rig.live(publication, clip.packets, 3.0)
        room.end(publication, "done")

    publishing = asyncio.get_running_loop().create_task(publish())
    errors, counts = await plays(rig.url(path), "-live_start_index", "0")
    await publishing
    assert errors == ""
    assert counts["video"] > 200
    assert counts["audio"] > 300


async def test_a_publisher_that_changes_codec_and_comes_back(make_rig: Any, make_clip: Any) -> None:
    """H.264, a takeover by H.265, a gap, H.264 of another size: one playlist, a map and a discontinuity for each."""
    rig = await make_rig(Hls(segment_duration=1.0, part_duration=0.2, playlist_segments=20))
    first, second, third = make_clip(), make_clip("hevc", "aac"), make_clip(size="320x180")
    room, publication = rig.publish(first, hold=30.0)
    rig.write(publication, first.packets[:150])
    before = await (await rig.client.get("/hls/live/cam/main.m3u8")).text()
    _, replacement = rig.publish(second, hold=30.0)
    rig.write(replacement, second.packets[:150])
    room.end(replacement, "cut")
    assert room.held
    held = await rig.client.get("/hls/live/cam/main.m3u8")
    assert held.status == 200
    _, returned = rig.publish(third, hold=30.0)
    rig.write(returned, third.packets[:150])
    room.end(returned, "done", final=True)
    text = await (await rig.client.get("/hls/live/cam/main.m3u8")).text()
    assert text.count("#EXT-X-MAP") == 3
    assert text.count("#EXT-X-DISCONTINUITY\n") == 2
    assert "#EXT-X-ENDLIST" in text
    sequence = [line for line in before.splitlines() if line.startswith("#EXT-X-MEDIA-SEQUENCE")]
    assert sequence[0] in text
    runs: list[bytes] = []
    for line in text.splitlines():
        uri = line.split('"')[1] if line.startswith("#EXT-X-MAP") else line
        if line.startswith("#EXT-X-MAP") or (line and not line.startswith("#")):
            body = await (await rig.client.get(f"/hls/live/cam/{uri}")).read()
            runs = [*runs, body] if line.startswith("#EXT-X-MAP") else [*runs[:-1], runs[-1] + body]
    seen = []
    for run in runs:
        with av.open(io.BytesIO(run)) as container:
            frames = list(container.decode(video=0))
            seen.append((container.streams.video[0].codec_context.name, frames[0].width, len(frames)))
    expected = [(c.video.codec.value, c.video.width, sum(p.track.is_video for p in c.packets[:150])) for c in (first, second, third)]
    assert seen == expected


@pytest.mark.parametrize(("container", "size"), [("fmp4", "192x108"), ("ts", "320x180")])
async def test_ffmpeg_plays_through_a_cut(make_rig: Any, make_clip: Any, plays: Any, container: str, size: str) -> None:
    """FFmpeg passes over a second moov, so over fMP4 it follows a returning encoder only where the configuration is the same."""
    rig = await make_rig(Hls(segment_duration=1.0, part_duration=0.2, playlist_segments=20, container=container))
    first, second = make_clip(), make_clip(size=size)
    room, publication = rig.publish(first, hold=30.0)
    rig.write(publication, first.packets)
    room.end(publication, "cut")
    _, returned = rig.publish(second, hold=30.0)
    rig.write(returned, second.packets, 3000.0)
    room.end(returned, "done", final=True)
    errors, counts = await plays(rig.url("/hls/live/cam/main.m3u8"))
    assert errors == ""
    assert counts["video"] == 480


async def test_opus_offers_aac_on_demand(make_rig: Any, make_clip: Any, plays: Any) -> None:
    """The on-demand rendition, by FFmpeg's ear."""
    rig, clip = await make_rig(), make_clip("av1", "opus")
    room, publication = rig.publish(clip)

    async def publish() -> None:
        await rig.live(publication, clip.packets, 1.5)
        room.end(publication, "done")

    publishing = asyncio.get_running_loop().create_task(publish())
    index = await (await rig.client.get("/hls/live/cam/index.m3u8")).text()
    assert 'CODECS="av01.0.' in index
    assert index.count("#EXT-X-STREAM-INF") == 2
    assert "aac.m3u8?s=" in index
    assert "mp4a.40.2" in index
    errors, counts = await plays(rig.url("/hls/live/cam/aac.m3u8"), "-live_start_index", "0")
    await publishing
    assert errors == ""
    assert counts["audio"] > 100


@pytest.mark.parametrize(("video", "audio"), [("mjpeg", ""), ("h264", "pcm_alaw")])
async def test_what_does_not_pass_is_made_on_demand(make_rig: Any, make_clip: Any, plays: Any, video: str, audio: str) -> None:
    """JPEGs become H.264, G.711 becomes AAC, once somebody asks; and not before."""
    rig, clip = await make_rig(), make_clip(video, audio)
    room, publication = rig.publish(clip)

    async def publish() -> None:
        await rig.live(publication, clip.packets, 1.0)
        room.end(publication, "done")

    publishing = asyncio.get_running_loop().create_task(publish())
    while not room.on_air:
        await asyncio.sleep(0.01)
    assert not rig.service._live["p-live", "live-cam"].variants
    index = await (await rig.client.get("/hls/live/cam/index.m3u8")).text()
    assert "avc1." in index
    assert ("mp4a.40.2" in index) is bool(audio)
    errors, counts = await plays(rig.url("/hls/live/cam/main.m3u8"), "-live_start_index", "0")
    await publishing
    assert errors == ""
    assert counts["video"] > 30


async def test_a_camera_takes_over_from_an_encoder(make_rig: Any, make_clip: Any) -> None:
    """H.264 passes, JPEG has to be made H.264: the same playlist goes on, fed from a rendition, then from the room again."""
    rig, encoder, camera = (
        await make_rig(Hls(segment_duration=1.0, part_duration=0.2, playlist_segments=20)),
        make_clip(),
        make_clip("mjpeg", ""),
    )
    _, first = rig.publish(encoder, hold=30.0)
    rig.write(first, encoder.packets[:200])
    variant = rig.service._live["p-live", "live-cam"].variants["main"]
    listed = len(variant.window.listed)
    assert not variant.on_demand
    _, second = rig.publish(camera, hold=30.0)
    feeding = asyncio.get_running_loop().create_task(rig.live(second, camera.packets, 1.5))
    async with asyncio.timeout(20):
        while len(variant.window.listed) < listed + 3:
            await rig.client.get("/hls/live/cam/main.m3u8")
            await asyncio.sleep(0.1)
    assert variant.on_demand
    feeding.cancel()
    _, third = rig.publish(encoder, hold=30.0)
    rig.write(third, encoder.packets)
    assert not variant.on_demand
    text = await (await rig.client.get("/hls/live/cam/main.m3u8")).text()
    assert text.count("#EXT-X-MAP") == 3
    assert text.count("#EXT-X-DISCONTINUITY\n") == 2
    assert "ENDLIST" not in text
