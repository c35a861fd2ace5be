"""SRT with libsrt's callers (FFmpeg 9 and Debian's) over good and bad paths; and our caller against FFmpeg as a listener."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession
from harness import FFMPEG, H264_AAC, Node, ffmpeg, ffmpeg_process, free_port, moving_picture, plays, running, until
from harness.rough import Rough
from samples import grant

from medianode.auth import Door
from medianode.config import Config
from medianode.errors import PeerGone, Unauthorized
from medianode.ingress.assembler import Assembler
from medianode.ingress.srt_caller import SrtCaller
from medianode.media.gop import GopCache
from medianode.outbound import Outbound
from medianode.routing.publication import Publication

pytestmark = pytest.mark.interop
ALL = frozenset({"stun", "dtls", "media", "other"})
HEVC_OPUS = ["-pix_fmt", "yuv420p", "-c:v", "libx265", "-preset", "ultrafast", "-g", "30", "-x265-params", "log-level=none"]
HEVC_OPUS += ["-c:a", "libopus", "-b:a", "64k"]
B_FRAMES_AC3 = ["-pix_fmt", "yuv420p", "-c:v", "libx264", "-preset", "ultrafast", "-bf", "2", "-g", "30", "-c:a", "ac3"]
LATM = ["-pix_fmt", "yuv420p", "-c:v", "libx264", "-preset", "ultrafast", "-g", "30", "-c:a", "aac", "-mpegts_flags", "latm"]


async def live_stream(http: ClientSession) -> Any:
    settings = {"playbackSettings": {"accessPolicy": "public"}, "inputMediaSettings": {"reconnectWindow": 20, "enableRecording": False}}
    async with http.post("/v1/live/streams", json=settings) as answer:
        assert answer.status == 201, await answer.text()
        return (await answer.json())["data"]


def publication(node: Node, stream: Any) -> Publication | None:
    room = node.room(f"live-{stream['streamId']}")
    return room.publications.get(stream["streamId"]) if room is not None else None


def active(node: Node, stream: Any) -> bool:
    found = publication(node, stream)
    return found is not None and found.active


async def watched(node: Node, stream: Any) -> None:
    """Four seconds of its HLS."""
    await plays(f"{node.http}/{stream['playbackIds'][0]['id']}.m3u8", "-loglevel", "error", "-t", "4")


def caller(url: str, *encoded: str, seconds: float = 60) -> list[str]:
    return [*moving_picture(seconds), *encoded, "-f", "mpegts", url]


async def test_callers_of_one_port_are_played_over_a_bad_path_and_come_back(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack, running(tmp_path) as node, ClientSession(node.http, headers=node.admin) as http:
        lossy, large, plain, proved = [await live_stream(http) for _ in range(4)]
        stack.callback((path := Rough(node.ready.srt_port, seed=7, loss=0.02, late=0.02, kinds=ALL)).close)
        secret = f"passphrase={lossy['srtSecret']}"
        rough = f"srt://127.0.0.1:{path.port}?streamid={lossy['streamKey']}&{secret}&latency=400000"
        aes256 = f"{node.srt}?streamid=publish:live/{large['streamKey']}&passphrase={large['srtSecret']}&pbkeylen=32"
        form = f"{node.srt}?streamid=#!::r=live/live-{plain['streamId']},m=publish,u=me,s={plain['streamKey']}"
        by_room = f"{node.srt}?streamid=publish:live/{proved['streamId']}&passphrase={proved['srtSecret']}&pbkeylen=24"
        async with (
            ffmpeg_process(*caller(rough, *H264_AAC), program="ffmpeg") as first,
            ffmpeg_process(*caller(aes256, *HEVC_OPUS)),
            ffmpeg_process(*caller(form, *B_FRAMES_AC3), program="ffmpeg"),
            ffmpeg_process(*caller(by_room, *LATM)) as last,
        ):
            streams = (lossy, large, plain, proved)
            await until(lambda: all(active(node, stream) for stream in streams))
            codecs = [[t.codec.value for t in found.tracks] for s in streams if (found := publication(node, s)) is not None]
            assert codecs == [["h264", "aac"], ["hevc", "opus"], ["h264", "ac3"], ["h264", "aac"]]
            await asyncio.gather(watched(node, lossy), watched(node, large), watched(node, plain))
            found = publication(node, lossy)
            assert found is not None
            await until(lambda: found.health.network.get("recovered", 0) > 3)
            assert (found.health.network["lost"], found.health.drops) == (0, {})
            assert path.seen["lost"] > 3
            assert path.seen["late"] > 3

            # put out by the API: told at once, not by a silence
            async with http.put(f"/v1/live/streams/{proved['streamId']}/live-disable") as answer:
                assert answer.status == 200
            async with asyncio.timeout(5):
                await last.wait()

            # killed without a goodbye, and back on another port within the window
            first.kill()
            await first.wait()
            await until(lambda: publication(node, lossy) is None)
            room = node.room(f"live-{lossy['streamId']}")
            assert room is not None
            assert room.on_air
            async with ffmpeg_process(*caller(f"{node.srt}?streamid={lossy['streamKey']}&{secret}", *H264_AAC)):
                await until(lambda: active(node, lossy))
                assert room.on_air


async def test_who_is_refused_is_told_why(tmp_path: Path) -> None:
    async with running(tmp_path, hls={"enabled": False}) as node, ClientSession(node.http, headers=node.admin) as http:
        stream = await live_stream(http)
        right = f"{node.srt}?streamid={stream['streamKey']}"
        for url, reason in (
            (f"{node.srt}?streamid=nobody-has-this-key", "Application-defined rejection reason"),
            (f"{right}&passphrase=not-the-passphrase", "Incorrect passphrase"),
            (f"{right}&transtype=file", "MessageAPI/StreamAPI collision"),
        ):
            told = await ffmpeg(*caller(url, *H264_AAC, seconds=5), program="ffmpeg")
            assert told.code != 0
            assert reason in told.output
        assert not active(node, stream)


class Desk:
    """The house's side of a fetched source, without its supervisor."""

    def __init__(self) -> None:
        self.publication = Publication(grant(kind=Door.URL), "pull", "peer", lambda error: None, GopCache(2500, 32 << 20))
        self.nbytes = 0

    def begin(self, transport: str, expected: frozenset[int] = frozenset()) -> Assembler:
        assert transport == "srt"
        return Assembler(self.publication, 2.0, 16)

    def heard(self, nbytes: int, now: float) -> None:
        self.nbytes += nbytes


@asynccontextmanager
async def listening(options: str, *encoded: str, seconds: float, program: str) -> AsyncIterator[str]:
    """FFmpeg as a source that listens. The URL to call."""
    url = f"srt://127.0.0.1:{free_port(socket.SOCK_DGRAM)}"
    async with ffmpeg_process(*caller(f"{url}?mode=listener{options}", *encoded, seconds=seconds), program=program):
        yield url


async def fetched(url: str, desk: Desk) -> None:
    """To its end; the listener may not be there yet."""
    async with asyncio.timeout(20):
        while True:
            try:
                await SrtCaller(url, Outbound(("127.0.0.1",)), Config()).run(desk)
            except ConnectionRefusedError:
                await asyncio.sleep(0.05)


@pytest.mark.parametrize(("program", "key_size"), [("ffmpeg", 16), (FFMPEG, 32)])
async def test_we_call_a_source_that_listens(program: str, key_size: int) -> None:
    options = f"&passphrase=of-the-camera&pbkeylen={key_size}"
    async with listening(options, *H264_AAC, seconds=2.5, program=program) as url:
        desk = Desk()
        with pytest.raises(PeerGone, match="ended the connection"):
            await fetched(f"{url}?passphrase=of-the-camera&latency=200", desk)
        assert [track.codec.value for track in desk.publication.tracks] == ["h264", "aac"]
        meters = desk.publication.meters
        pictures = meters[0].packets  # libsrt says goodbye with its last packets unsent
        assert 70 <= pictures <= 75
        assert desk.publication.health.drops == {}
        assert meters[1].packets > 100
        assert desk.nbytes > 20_000
    async with listening("&passphrase=of-the-camera", *H264_AAC, seconds=5, program=program) as url:
        with pytest.raises(Unauthorized, match="passphrase is wrong") as refused:
            await fetched(f"{url}?passphrase=another-secret", Desk())
        assert "another-secret" not in str(refused.value)
