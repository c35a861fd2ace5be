"""FFmpeg as encoder and as player, against a whole node: RTMP, RTMPS, enhanced RTMP in; HLS, MPEG-TS and RTMP out."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import pytest
from aiohttp import ClientSession
from harness import FFMPEG, H264_AAC, Node, Run, ffmpeg, ffmpeg_process, moving_picture, run, running, until

pytestmark = pytest.mark.interop
B_FRAMES = ["-pix_fmt", "yuv420p", "-c:v", "libx264", "-preset", "veryfast", "-bf", "2", "-g", "60", "-c:a", "aac"]
HEVC = ["-pix_fmt", "yuv420p", "-c:v", "libx265", "-preset", "ultrafast", "-g", "30", "-x265-params", "log-level=none", "-c:a", "aac"]
AV1 = ["-pix_fmt", "yuv420p", "-c:v", "libsvtav1", "-preset", "12", "-g", "30", "-c:a", "aac"]
VP9 = ["-pix_fmt", "yuv420p", "-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8", "-g", "30", "-c:a", "aac"]
OPUS = ["-pix_fmt", "yuv420p", "-c:v", "libx264", "-preset", "ultrafast", "-bf", "0", "-g", "30", "-c:a", "libopus", "-b:a", "64k"]


async def streams(url: str) -> list[str]:
    """Codec names that Debian's ffprobe (5.1) finds."""
    found = await run("ffprobe", "-v", "error", "-show_entries", "stream=codec_name", "-of", "json", url, timeout=30)
    assert found.code == 0, found.output
    return sorted({s["codec_name"] for s in json.loads(found.output)["streams"]})


async def decode(url: str, seconds: float = 3.0, program: str = FFMPEG) -> None:
    """Play some seconds; any complaint of the decoder fails."""
    played = await ffmpeg("-loglevel", "error", "-xerror", "-t", str(seconds), "-i", url, "-f", "null", "-", program=program)
    assert played.code == 0, played.output
    lines = [line for line in played.output.splitlines() if line.strip() and "deprecated pixel format" not in line]
    assert not lines, played.output


@pytest.mark.parametrize(
    ("codecs", "names"),
    [
        pytest.param(H264_AAC, ["aac", "h264"], id="h264"),
        pytest.param(B_FRAMES, ["aac", "h264"], id="h264 with B-frames"),
        pytest.param(HEVC, ["aac", "hevc"], id="enhanced HEVC"),
        pytest.param(AV1, ["aac", "av1"], id="enhanced AV1"),
        pytest.param(VP9, ["aac", "vp9"], id="enhanced VP9"),
        pytest.param(OPUS, ["aac", "h264", "opus"], id="enhanced Opus and its AAC rendition"),
    ],
)
async def test_push_and_play_over_hls(tmp_path: Path, codecs: list[str], names: list[str]) -> None:
    async with running(tmp_path) as node, ffmpeg_process(*moving_picture(60), *codecs, "-f", "flv", f"{node.rtmp}/live/{node.key}"):
        await until(lambda: node.on_air, 20)
        # each variant by itself: of two, FFmpeg drops one in mid-packet and its parser complains of the cut
        await decode(f"{node.http}/hls/live/studio/main.m3u8")
        if "opus" in names:
            await decode(f"{node.http}/hls/live/studio/aac.m3u8")
        assert await streams(f"{node.http}/hls/live/studio/index.m3u8") == names


async def test_push_over_rtmps_with_the_node_s_certificate_verified(tmp_path: Path) -> None:
    async with running(tmp_path) as node:
        pem = tmp_path / "node.pem"
        async with ClientSession() as session, session.get(f"{node.http}/certificate.pem") as response:
            pem.write_bytes(await response.read())
        url = node.rtmp.replace("rtmp://127.0.0.1", "rtmps://localhost") + f"/live/{node.key}"
        async with ffmpeg_process(*moving_picture(60), *H264_AAC, "-f", "flv", "-tls_verify", "1", "-ca_file", str(pem), url):
            await until(lambda: node.on_air, 20)
            assert [p.door for p in node.daemon.registry.publications] == ["rtmps"]
            await decode(f"{node.http}/hls/live/studio/index.m3u8")


@pytest.mark.parametrize("program", [FFMPEG, "ffmpeg"], ids=["FFmpeg 9", "Debian's FFmpeg"])
async def test_play_over_rtmp(tmp_path: Path, program: str) -> None:
    async with running(tmp_path) as node, ffmpeg_process(*moving_picture(60), *B_FRAMES, "-f", "flv", f"{node.rtmp}/live/{node.key}"):
        await until(lambda: node.on_air, 20)
        await decode(f"{node.rtmp}/live/studio", program=program)
        await decode(f"{node.rtmp}/live/{node.key}", 1.0, program=program)
        await until(lambda: node.room().viewers.get("rtmp") == 0)


async def test_another_server_pulls_over_rtmp_what_is_hevc_there(tmp_path: Path) -> None:
    async with running(tmp_path) as node, ffmpeg_process(*moving_picture(60), *HEVC, "-f", "flv", f"{node.rtmp}/live/{node.key}"):
        await until(lambda: node.on_air, 20)
        copied = tmp_path / "copy.mp4"
        pulled = await ffmpeg("-t", "3", "-i", f"{node.rtmp}/live/studio", "-c", "copy", str(copied))
        assert pulled.code == 0, pulled.output
        await decode(str(copied))


async def test_mpeg_ts_for_old_televisions(tmp_path: Path) -> None:
    async with running(tmp_path) as node, ffmpeg_process(*moving_picture(60), *B_FRAMES, "-f", "flv", f"{node.rtmp}/live/{node.key}"):
        await until(lambda: node.on_air, 20)
        url = f"{node.http}/hls/live/studio/index.m3u8?mode=ts"
        await decode(url, program="ffmpeg")
        assert await streams(url) == ["aac", "h264"]


@pytest.mark.parametrize("drop", ["audio", "video"])
async def test_one_kind_only(tmp_path: Path, drop: str) -> None:
    argument = "-an" if drop == "audio" else "-vn"
    async with (
        running(tmp_path, ingress={"track_wait": 1.0}) as node,
        ffmpeg_process(*moving_picture(60), *H264_AAC, argument, "-f", "flv", f"{node.rtmp}/live/{node.key}"),
    ):
        await until(lambda: node.on_air, 20)
        url = f"{node.http}/hls/live/studio/index.m3u8"
        await decode(url)
        assert await streams(url) == (["h264"] if drop == "audio" else ["aac"])


async def test_a_wrong_key_makes_ffmpeg_say_why_and_stop(tmp_path: Path) -> None:
    async with running(tmp_path) as node:
        tried = await ffmpeg(*moving_picture(20), *H264_AAC, "-f", "flv", f"{node.rtmp}/live/wrong")
        assert tried.code != 0
        assert "the stream key is not known" in tried.output


async def test_the_encoder_s_plug_is_pulled_and_the_playlist_goes_on(tmp_path: Path) -> None:
    async with running(tmp_path) as node, ClientSession() as session:
        target = f"{node.rtmp}/live/{node.key}"
        playlist = f"{node.http}/hls/live/studio/main.m3u8"
        async with ffmpeg_process(*moving_picture(60), *H264_AAC, "-f", "flv", target):
            first = await playlist_of(session, playlist)
            await asyncio.sleep(2)
        # killed, not ended: the room is held, the same playlist goes on
        await until(lambda: node.room().held)
        assert "#EXT-X-ENDLIST" not in await playlist_of(session, playlist)
        async with ffmpeg_process(*moving_picture(60), *H264_AAC, "-f", "flv", target):
            await until(lambda: not node.room().held)
            async with asyncio.timeout(20):
                while "#EXT-X-DISCONTINUITY\n" not in (text := await playlist_of(session, playlist)):
                    await asyncio.sleep(0.3)
            assert sequence(text) >= sequence(first)
            await decode(f"{node.http}/hls/live/studio/index.m3u8")


async def playlist_of(session: ClientSession, url: str) -> str:
    async with asyncio.timeout(20):
        while True:
            async with session.get(url) as response:
                if response.status == 200:
                    return await response.text()
            await asyncio.sleep(0.2)


def sequence(playlist: str) -> int:
    return int(playlist.partition("#EXT-X-MEDIA-SEQUENCE:")[2].split()[0])


async def test_the_picture_of_a_video_source(tmp_path: Path) -> None:
    async with running(tmp_path) as node, ffmpeg_process(*moving_picture(60), *HEVC, "-f", "flv", f"{node.rtmp}/live/{node.key}"):
        await until(lambda: node.on_air, 20)
        picture = tmp_path / "frame.jpg"
        async with ClientSession() as session, session.get(f"{node.http}/live/live/studio/frame.jpg?w=160") as response:
            assert response.status == 200, await response.text()
            picture.write_bytes(await response.read())
        size = await run("ffprobe", "-v", "error", "-show_entries", "stream=width,height", "-of", "csv=p=0", str(picture))
        assert size.output.strip() == "160,120"
        shown = await ffmpeg("-t", "2", "-f", "mpjpeg", "-i", f"{node.http}/live/live/studio/mjpeg", "-f", "null", "-", program="ffmpeg")
        assert shown.code == 0, shown.output


async def test_medianode_push(tmp_path: Path) -> None:
    """The program itself, as the README has it."""
    async with running(tmp_path) as node:
        pushing = asyncio.get_running_loop().create_task(push(node, "testsrc", "--seconds", "8"))
        await until(lambda: node.on_air, 20)
        await decode(f"{node.http}/hls/live/studio/index.m3u8")
        pushed = await pushing
        assert pushed.code == 0, pushed.output
        assert "publishing h264 1280x720, aac 48000 Hz" in pushed.output


async def push(node: Node, source: str, *options: str) -> Run:
    return await run(sys.executable, "-m", "medianode", "push", source, f"{node.rtmp}/live/{node.key}", *options)
