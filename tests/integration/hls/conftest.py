"""A node reduced to rooms and HLS, fed with what FFmpeg encoded."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import av
import imageio_ffmpeg
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from medianode import clock
from medianode.auth import Door, Permission, Principal, PublishGrant, ReadGrant, Takeover
from medianode.codecs import vp9
from medianode.config import Config, Hls, Limits
from medianode.egress.hls import HlsService
from medianode.errors import Unauthorized
from medianode.events import Bus
from medianode.media.names import room_name
from medianode.media.packet import Packet
from medianode.media.track import Codec, Track
from medianode.origin import Origin
from medianode.routing.publication import Publication
from medianode.routing.registry import Registry
from medianode.routing.room import Room
from medianode.transcode.renditions import Renditions

FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()

VIDEO = {
    "h264": "-c:v libx264 -preset ultrafast -bf 2 -x264-params scenecut=0 -g 30 -pix_fmt yuv420p",
    "hevc": "-c:v libx265 -preset ultrafast -x265-params keyint=30:min-keyint=30:scenecut=0:log-level=none -tag:v hvc1 -pix_fmt yuv420p",
    "av1": "-c:v libsvtav1 -preset 12 -g 30 -svtav1-params scd=0 -pix_fmt yuv420p",
    "vp9": "-c:v libvpx-vp9 -deadline realtime -cpu-used 8 -g 30 -keyint_min 30",
    "mjpeg": "-c:v mjpeg -q:v 5 -pix_fmt yuvj420p",
    "": "",
}
AUDIO = {
    "pcm_alaw": "-c:a pcm_alaw -ar 8000",
    "aac": "-c:a aac -b:a 96k",
    "opus": "-c:a libopus -b:a 64k -ar 48000",
    "mp3": "-c:a libmp3lame",
    "flac": "-c:a flac -strict -2",
    "": "",
}


@dataclass
class Clip:
    """Packets in the order of their decode times; `received_at` counts from 0."""

    tracks: tuple[Track, ...]
    packets: list[Packet]

    @property
    def video(self) -> Track:
        return next(t for t in self.tracks if t.is_video)


def _track(number: int, stream: Any, first: bytes) -> Track:
    context, codec = stream.codec_context, Codec(stream.codec_context.name.replace("libdav1d", "av1").replace("mp3float", "mp3"))
    config = bytes(context.extradata or b"")
    if codec.kind.value == "video":
        if codec is Codec.VP9:
            config = vp9.build_vpcc(vp9.config_of(first))
        return Track(number, codec, 90_000, config, context.width, context.height)
    return Track(number, codec, context.sample_rate, config, sample_rate=context.sample_rate, channels=context.channels)


def demux(path: Path) -> Clip:
    rows: list[tuple[float, int, int, int, bytes, bool]] = []
    tracks: dict[int, Track] = {}
    with av.open(str(path)) as container:
        for packet in container.demux():
            if packet.dts is None or packet.pts is None or packet.size == 0:
                continue
            data = bytes(packet)
            if packet.stream.index not in tracks:
                tracks[packet.stream.index] = _track(len(tracks), packet.stream, data)
            rate = tracks[packet.stream.index].clock_rate
            scale = packet.time_base * rate
            when = float(packet.dts * packet.time_base)
            row = (when, packet.stream.index, round(packet.pts * scale), round(packet.dts * scale), data)
            rows.append((*row, packet.is_keyframe))
    rows.sort(key=lambda row: row[:2])
    packets = [Packet(tracks[i], data, pts, dts, key or not tracks[i].is_video, when) for when, i, pts, dts, data, key in rows]
    return Clip(tuple(tracks.values()), packets)


@pytest.fixture(scope="session")
def make_clip(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Clip]:
    """make_clip(video, audio, seconds, size): encoded once per session."""
    known: dict[tuple[Any, ...], Clip] = {}

    def make(video: str = "h264", audio: str = "aac", seconds: int = 8, size: str = "192x108") -> Clip:
        key = (video, audio, seconds, size)
        if key not in known:
            path = tmp_path_factory.mktemp("clip") / ("clip.mov" if audio.startswith("pcm") else "clip.mp4")
            command = [FFMPEG, "-v", "error", "-y"]
            command += ["-f", "lavfi", "-i", f"testsrc2=size={size}:rate=30:duration={seconds}"] if video else []
            command += ["-f", "lavfi", "-i", f"sine=frequency=440:sample_rate=48000:duration={seconds}"] if audio else []
            command += [*VIDEO[video].split(), *AUDIO[audio].split(), str(path)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=120)
            assert done.returncode == 0, done.stderr
            known[key] = demux(path)
        return known[key]

    return make


class Keeper:
    """Lets everybody in; into project `priv` only with the token `sesame`."""

    asked = 0
    max_viewers = 0

    async def read(self, app: str, room: str, token: str | None = None, bearer: str | None = None, *, source: str = "") -> ReadGrant:
        self.asked += 1
        if app == "priv" and "sesame" not in (token, bearer):
            raise Unauthorized("a token is needed")
        name = room_name(app, room)
        leave = ReadGrant(project_id=f"p-{app}", slug=app, room=name, audio_only=token == "sound", hidden=token == "hidden")
        return replace(leave, max_viewers=self.max_viewers)

    async def publish(self, *_: Any, **__: Any) -> PublishGrant:
        raise Unauthorized("not here")

    async def play(self, *_: Any, **__: Any) -> ReadGrant:
        raise Unauthorized("not here")

    async def control(
        self, authorization: str | None, permission: Permission, project: str | None = None, *, source: str = ""
    ) -> Principal:
        raise Unauthorized("not here")


@dataclass
class Rig:
    config: Config
    registry: Registry
    service: HlsService
    client: TestClient[web.Request, web.Application]
    keeper: Keeper
    shifts: dict[int, float] = field(default_factory=dict)

    def url(self, path: str) -> str:
        return str(self.client.make_url(path))

    def publish(self, clip: Clip, *, app: str = "live", room: str = "cam", hold: float = 0.0) -> tuple[Room, Publication]:
        grant = PublishGrant(
            project_id=f"p-{app}", slug=app, room=room_name(app, room), identity="enc", name="enc", kind=Door.RTMP, ingress_id=None,
            takeover=Takeover.REPLACE, hold=hold,
        )  # fmt: skip
        opened, publication = self.registry.publish(grant, "rtmp", "127.0.0.1", lambda _: None)
        publication.set_tracks(clip.tracks)
        return opened, publication

    def write(self, publication: Publication, packets: Sequence[Packet], shift: float = 0.0) -> None:
        """All at once, as if each had come in its time; `shift` seconds later in media time."""
        start = clock.now() - 60
        for packet in packets:
            ticks = round(shift * packet.track.clock_rate)
            moved = packet._replace(pts=packet.pts + ticks, dts=packet.dts + ticks, received_at=start + packet.received_at + shift)
            publication.write(moved)

    async def live(self, publication: Publication, packets: Sequence[Packet], speed: float) -> None:
        """At `speed` times real time."""
        start = clock.now()
        for packet in packets:
            late = start + packet.received_at / speed - clock.now()
            if late > 0.005:
                await asyncio.sleep(late)
            publication.write(packet._replace(received_at=clock.now()))


@pytest.fixture
async def make_rig(tmp_path: Path) -> AsyncIterator[Callable[..., Awaitable[Rig]]]:
    """make_rig(hls, limits) -> Rig"""
    async with contextlib.AsyncExitStack() as stack:

        async def make(hls: Hls | None = None, limits: Limits | None = None) -> Rig:
            config = Config(
                data_dir=str(tmp_path / "data"), hls=hls or Hls(segment_duration=1.0, part_duration=0.2), limits=limits or Limits()
            )
            registry, keeper = Registry(Bus(), config.limits), Keeper()
            renditions = await stack.enter_async_context(Renditions(config.limits, config.mjpeg, config.hls))
            service = HlsService(registry, registry.bus, keeper, renditions, config, Origin("", ()))
            app = web.Application()
            app.add_routes(service.routes())
            client: TestClient[web.Request, web.Application] = TestClient(TestServer(app))
            await stack.enter_async_context(client)
            before = len(registry.bus._subscribers)
            task = asyncio.get_running_loop().create_task(service.serve())

            async def stop() -> None:
                task.cancel()
                await asyncio.wait([task])

            stack.push_async_callback(stop)
            while len(registry.bus._subscribers) == before:
                await asyncio.sleep(0.01)
            return Rig(config, registry, service, client, keeper)

        yield make


async def ffmpeg_plays(url: str, *arguments: str, level: str = "error") -> tuple[str, dict[str, int]]:
    """(what FFmpeg complains of, packets decoded by stream kind)."""
    command = [FFMPEG, "-v", level, "-xerror", "-rw_timeout", "15000000", *arguments, "-i", url, "-f", "framecrc", "-"]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE)
    try:
        async with asyncio.timeout(60):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    counts: dict[str, int] = {}
    kinds: dict[str, str] = {}
    for line in out.decode().splitlines():
        if line.startswith("#media_type"):
            number, kind = line.removeprefix("#media_type ").split(": ")
            kinds[number] = kind
        elif not line.startswith("#"):
            kind = kinds[line.split(",")[0].strip()]
            counts[kind] = counts.get(kind, 0) + 1
    return err.decode(), counts


@pytest.fixture
def plays() -> Callable[..., Awaitable[tuple[str, dict[str, int]]]]:
    return ffmpeg_plays
