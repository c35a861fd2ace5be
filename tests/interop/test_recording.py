"""FFmpeg as encoder, player and checker of recordings: whole nodes, real encoders, every codec, and what happens when they come and go."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from aiohttp import ClientSession
from harness import FFMPEG, H264_AAC, Node, ffmpeg, ffmpeg_process, moving_picture, plays, run, running, until

from medianode import clock
from medianode.codecs import jpeg
from medianode.config import Recording
from medianode.egress.recorder.filesystem import Disk
from medianode.egress.recorder.order import Order
from medianode.egress.recorder.recover import recover
from medianode.egress.recorder.session import Session
from medianode.egress.recorder.writer import Writer
from medianode.events import Bus, RecordingEnded, RecordingFileChanged, RecordingStarted
from medianode.media.packet import Packet
from medianode.media.track import Codec, Track

pytestmark = pytest.mark.interop
SECONDS = 3
YUV = ["-pix_fmt", "yuv420p"]
X264 = [*YUV, "-c:v", "libx264", "-preset", "ultrafast", "-g", "30"]
AAC = ["-c:a", "aac", "-b:a", "96k"]
CODECS = {
    "bframes": ([*YUV, "-c:v", "libx264", "-preset", "veryfast", "-bf", "2", "-g", "30", *AAC], ["aac", "h264"]),
    "hevc": ([*YUV, "-c:v", "libx265", "-preset", "ultrafast", "-g", "30", "-x265-params", "log-level=none", *AAC], ["aac", "hevc"]),
    "av1": ([*YUV, "-c:v", "libsvtav1", "-preset", "12", "-g", "30", *AAC], ["aac", "av1"]),
    "vp9": ([*YUV, "-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8", "-g", "30", "-an"], ["vp9"]),
    "opus": ([*X264, "-bf", "0", "-c:a", "libopus", "-b:a", "64k"], ["h264", "opus"]),
    "mp3": ([*X264, "-bf", "0", "-c:a", "libmp3lame"], ["h264", "mp3"]),
    "g711": ([*X264, "-bf", "0", "-c:a", "pcm_alaw", "-ar", "8000", "-ac", "1"], ["aac", "h264"]),
    "sound": (["-vn", *AAC], ["aac"]),
}


async def open_to_all(node: Node) -> None:
    async with ClientSession(headers=node.admin) as session:
        url = f"{node.http}/api/v1/projects/live"
        async with session.patch(url, json={"openPublish": True}) as response:
            assert response.status == 200


async def plays_in_both(path: Path) -> None:
    """FFmpegs."""
    await asyncio.gather(*(plays(path, "-loglevel", "error", program=program) for program in (FFMPEG, "ffmpeg")))


async def probe(path: Path) -> dict[str, tuple[int, float, float]]:
    """codec → (packets, first pts, last pts)."""
    entries = "stream=codec_name:packet=stream_index,pts_time"
    found = await run("ffprobe", "-v", "error", "-show_entries", entries, "-of", "json", str(path))
    assert found.code == 0, found.output
    told = json.loads(found.output)
    result = {}
    for i, stream in enumerate(told["streams"]):
        packets = [p for p in told["packets"] if p["stream_index"] == i]
        starts = [float(p["pts_time"]) for p in packets]
        result[stream["codec_name"]] = (len(packets), min(starts), max(starts))
    return result


async def test_every_codec_is_recorded_whole_and_plays(tmp_path: Path) -> None:
    """Eight encoders at once, each recorded from its first key frame to its end; B-frames, and sound that MP4 does not carry, included."""
    async with running(tmp_path, ingress={"hold": 0.3}, hls={"enabled": False}) as node:
        await open_to_all(node)
        recorder, bus = node.daemon.recorder, node.daemon.bus
        assert recorder is not None
        recorder.wants_room = lambda project_id, room: True
        starts: dict[str, RecordingStarted] = {}
        ends: dict[str, RecordingEnded] = {}
        bus.subscribe(RecordingStarted, lambda event: starts.update({event.room: event}))
        bus.subscribe(RecordingEnded, lambda event: ends.update({event.room: event}))
        pushes = [
            ffmpeg(*moving_picture(SECONDS), *codecs, "-f", "flv", f"{node.rtmp}/live/{name}", timeout=90)
            for name, (codecs, _) in CODECS.items()
        ]
        assert [push.code for push in await asyncio.gather(*pushes)] == [0] * len(CODECS)
        await until(lambda: len(ends) == len(CODECS), 20)
    for name, (_, names) in CODECS.items():
        started, ended = starts[f"live-{name}"], ends[f"live-{name}"]
        files = sorted(Path(started.directory).glob("*.mp4"))
        assert len(files) == 1, name
        await plays_in_both(files[0])
        found = await probe(files[0])
        assert sorted(found) == names, name
        assert recover(files[0]).cut == 0
        picture = next((found[codec] for codec in found if codec not in ("aac", "opus", "mp3")), None)
        if picture is not None:
            assert picture[0] == SECONDS * 30, (name, picture)  # not one is missing
            assert ended.duration / 1e6 == pytest.approx(SECONDS, abs=1 / 30)
        firsts, lasts = ([told[i] for told in found.values()] for i in (1, 2))
        assert max(firsts) - min(firsts) < 0.1, (name, found)  # sound and picture begin and end together
        assert max(lasts) - min(lasts) < 0.1, (name, found)


async def test_an_encoder_that_comes_back_with_another_picture(tmp_path: Path) -> None:
    """One recording over the reconnect, a file for each picture, the gap as long as it was; and the stop of the node ends it whole."""
    async with running(tmp_path, ingress={"hold": 20.0}, hls={"enabled": False}) as node:
        await open_to_all(node)
        recorder, bus = node.daemon.recorder, node.daemon.bus
        assert recorder is not None
        recorder.wants_room = lambda project_id, room: True
        ends: list[RecordingEnded] = []
        files: list[RecordingFileChanged] = []
        bus.subscribe(RecordingEnded, ends.append)
        bus.subscribe(RecordingFileChanged, lambda event: files.append(event) if event.closed else None)
        first = await ffmpeg(*moving_picture(1), *H264_AAC, "-f", "flv", f"{node.rtmp}/live/cam")
        assert first.code == 0
        await asyncio.sleep(0.5)
        other = moving_picture(60, size="640x360")
        async with ffmpeg_process(*other, *H264_AAC, "-f", "flv", f"{node.rtmp}/live/cam"):
            await until(lambda: len(recorder.active) == 1 and next(iter(recorder.active.values())).live is not None and files, 20)
            live = next(iter(recorder.active.values())).live
            assert live is not None
            await until(lambda: len((next(iter(recorder.active.values())).live or live).parts) > 1, 20)
    assert len(ends) == 1
    assert [(event.gap, event.tracks[0][2:4]) for event in files] == [("", (320, 240)), ("publisher-gap", (640, 360))]
    assert files[1].start / 1e6 - 1.0 > 0.4
    assert files[1].started_at - files[0].started_at == pytest.approx(files[1].start / 1e6, abs=0.01)
    for path in sorted(tmp_path.glob("recordings/live/live-cam/*/*.mp4")):
        await plays_in_both(path)


async def test_motion_jpeg_is_copied(tmp_path: Path) -> None:
    made = await ffmpeg(*moving_picture(2, realtime=False)[:4], "-t", "2", "-c:v", "mjpeg", "-f", "image2", str(tmp_path / "%03d.jpg"))
    assert made.code == 0, made.output
    pictures = [path.read_bytes() for path in sorted(tmp_path.glob("*.jpg"))]
    assert len(pictures) >= 50
    header = jpeg.parse_jpeg(pictures[0])
    track = Track(0, Codec.MJPEG, 90_000, width=header.width, height=header.height)
    writer = Writer("test", Disk(), "part")
    order = Order(recording_id="rec_1", project_id="p", slug="live", room="r", directory=tmp_path / "rec")
    calls = {"on_disk": lambda ident: None, "on_refused": lambda session, code: None, "on_end": lambda session: None}
    session = Session(order, Recording(), 1 << 24, Bus(), writer, **calls)
    session.on_tracks((track,))
    for n, picture in enumerate(pictures):
        session.on_packet(Packet(track, picture, n * 3000, n * 3000, True, clock.now() + n / 30))
    session.end()
    await session.ended
    assert await writer.close(5)
    path = tmp_path / "rec" / "000001.mp4"
    await plays_in_both(path)
    assert (await probe(path))["mjpeg"][0] == len(pictures)
