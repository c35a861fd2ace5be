"""Pulling from real servers: GStreamer's RTSP server as the camera, FFmpeg as HTTP server and player, our own node over RTMP and HLS."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

import pytest
from harness import H264_AAC, Node, ffmpeg_process, free_port, moving_picture, plays, running, until
from harness.camera import AAC, G711, H265, JPEG, camera, h264
from harness.fake_camera import fake_cameras
from harness.sinks import Sink

from medianode.auth import Door, PublishGrant, Takeover
from medianode.ingress.pull.order import PullOrder, PullState
from medianode.media.track import Codec
from medianode.routing.publication import Publication

pytestmark = pytest.mark.interop
ALLOW = {"allow": ["127.0.0.0/8"]}
AUDIO_AND_VIDEO = f"{h264()} {AAC}"


class Puller:
    """A node that fetches."""

    def __init__(self, node: Node) -> None:
        self.node = node
        assert node.daemon.pulls is not None
        assert node.ready.first.project is not None
        self.pulls = node.daemon.pulls
        self.project = node.ready.first.project.id

    def open(self, name: str, url: str, transport: Literal["auto", "udp", "tcp", "http"] = "auto") -> None:
        grant = PublishGrant(
            project_id=self.project, slug="live", room=f"live-{name}", identity="camera", name="", kind=Door.URL, ingress_id=name,
            takeover=Takeover.REPLACE, hold=5.0,
        )  # fmt: skip
        self.pulls.open(PullOrder(grant=grant, url=url, transport=transport))

    def state(self, name: str) -> PullState:
        state = self.pulls.state(name)
        assert state is not None
        return state

    async def shown(self, name: str, *codecs: Codec, timeout: float = 15.0) -> Publication:
        """Once it is on air with these, and fifteen packets of each were seen."""
        found: list[Publication] = []

        def ready() -> bool:
            room = self.node.room(f"live-{name}")
            if room is None or room.programme is None or {t.codec for t in room.programme.tracks} != set(codecs):
                return False
            found[:] = [room.programme]
            return all(meter.packets >= 15 for meter in room.programme.meters.values())

        try:
            await until(ready, timeout)
        except TimeoutError:
            pytest.fail(f"{name} is not on air: {self.state(name)} {[p.tracks for p in found]}")
        return found[0]


@asynccontextmanager
async def puller(tmp_path: Path) -> AsyncIterator[Puller]:
    async with running(tmp_path, outbound=ALLOW) as node:
        yield Puller(node)


async def watched(node: Node, room: str) -> None:
    """Two seconds of its HLS."""
    await plays(f"{node.http}/hls/live/live-{room}/main.m3u8", "-loglevel", "error", "-t", "2")


async def test_cameras_by_every_transport_with_a_password(tmp_path: Path) -> None:
    # one for each transport: who share one and begin at the same moment are at times left without its sound, all of them (GStreamer 1.22)
    mounts = {f"/{name}": AUDIO_AND_VIDEO for name in ("udp", "tcp", "tunnel")} | {"/b": f"{H265} {G711}", "/j": JPEG}
    async with puller(tmp_path) as p:
        with camera(mounts, user="admin", password="p@ss word") as cam:  # digest, which GStreamer offers alone
            who = "admin:p%40ss%20word"
            p.open("udp", cam.url("/udp", who), "udp")
            p.open("tcp", cam.url("/tcp", who), "tcp")
            p.open("tunnel", cam.url("/tunnel", who), "http")
            p.open("hevc", cam.url("/b", who))
            p.open("jpeg", cam.url("/j", who), "tcp")
            p.open("wrong", cam.url("/udp", "admin:guess"))
            p.open("nowhere", cam.url("/nope", who))
            for name in ("udp", "tcp", "tunnel"):
                publication = await p.shown(name, Codec.H264, Codec.AAC)
                assert publication.health.drops.keys() <= {"waiting-for-keyframe", "lost-packets"}
                assert (publication.video.width, publication.audio.channels) == (320, 2)  # type: ignore[union-attr]
            await p.shown("hevc", Codec.HEVC, Codec.PCM_ALAW)
            await p.shown("jpeg", Codec.MJPEG)
            assert [p.state(n).transport for n in ("udp", "tcp", "tunnel", "hevc")] == ["udp", "tcp", "http", "udp"]
            assert p.state("wrong").code == "unauthorized"
            assert "user or password is wrong" in p.state("wrong").message
            assert p.state("nowhere").code == "not-found"
            await asyncio.gather(*(watched(p.node, name) for name in ("udp", "tunnel")))
            publication = await p.shown("tcp", Codec.H264, Codec.AAC)
            # the camera tells its clock, and picture and sound are in step by it
            assert publication.health.source_clock is not None
            sink = Sink(ends=True)
            publication.attach(sink, replay=False)
            await until(lambda: all(len(sink.of(track.id)) >= 25 for track in publication.tracks))
            delays = [min(p.received_at - p.pts / track.clock_rate for p in sink.of(track.id)) for track in publication.tracks]
            assert abs(delays[0] - delays[1]) < 0.2


async def test_basic_and_tcp_only_and_a_camera_whose_power_was_cut(tmp_path: Path) -> None:
    """It refuses UDP; after its death the room is held, and the picture comes back by itself."""
    async with puller(tmp_path) as p:
        with camera({"/a": AUDIO_AND_VIDEO}, user="u", password="secret", scheme="basic", transports=["tcp"]) as cam:
            p.open("cam", cam.url("/a", "u:secret"))
            await p.shown("cam", Codec.H264, Codec.AAC)
            assert p.state("cam").transport == "tcp"
            port = cam.port
        room = p.node.room("live-cam")
        assert room is not None
        await until(lambda: p.state("cam").state == "waiting")
        assert room.on_air
        with camera({"/a": AUDIO_AND_VIDEO}, user="u", password="secret", scheme="basic", transports=["tcp"], port=port):
            await p.shown("cam", Codec.H264, Codec.AAC)
            assert p.node.room("live-cam") is room


async def test_http_servers_of_ffmpeg_and_a_node_of_our_own(tmp_path: Path) -> None:
    """FLV, MPEG-TS and Matroska from FFmpeg's own server; RTMP and fMP4-HLS from a room of this very node."""
    async with puller(tmp_path) as p, fake_cameras("well") as (fake,):
        vpx = ["-c:v", "libvpx", "-deadline", "realtime", "-cpu-used", "8", "-g", "30", "-c:a", "libopus"]
        urls = {}
        commands = []
        for name, codecs in (("flv", H264_AAC), ("mpegts", [*H264_AAC, "-bf", "2"]), ("matroska", vpx)):
            urls[name] = f"http://127.0.0.1:{free_port()}/live"
            commands.append([*moving_picture(60), *codecs, "-flush_packets", "1", "-f", name, "-listen", "1", urls[name]])
        async with (
            ffmpeg_process(*commands[0]),
            ffmpeg_process(*commands[1]),
            ffmpeg_process(*commands[2]),
        ):
            for name, url in urls.items():
                p.open(name, url)
            p.open("fake", fake.url)
            flv = await p.shown("flv", Codec.H264, Codec.AAC)
            await p.shown("fake", Codec.H264, Codec.PCM_ALAW)
            p.open("rtmp", f"{p.node.rtmp}/live/live-flv")
            p.open("hls", f"{p.node.http}/hls/live/live-flv/index.m3u8")
            reordered = await p.shown("mpegts", Codec.H264, Codec.AAC)
            assert reordered.meters[0].reordered
            await p.shown("matroska", Codec.VP8, Codec.OPUS)
            await p.shown("rtmp", Codec.H264, Codec.AAC)
            hls = await p.shown("hls", Codec.H264, Codec.AAC)
            assert not hls.health.drops
            assert p.state("hls").transport == "hls"
            assert not flv.health.drops
            await asyncio.gather(watched(p.node, "hls"), watched(p.node, "mpegts"))
