"""What integration, interop and soak tests share: a whole node in process, FFmpeg, and a publisher of made-up packets."""

from __future__ import annotations

import asyncio
import socket
import struct
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import imageio_ffmpeg
import msgspec

from medianode import tasks
from medianode.codecs import h264
from medianode.config import Config
from medianode.daemon import Daemon, Ready
from medianode.egress.rtmp_publish import RtmpPublisher, open_publisher
from medianode.media.packet import Packet
from medianode.media.track import Codec, Track
from medianode.protocols.rtmp.url import parse_rtmp_url
from medianode.routing.room import Room

FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()
"""FFmpeg 9 with libx264, x265, SVT-AV1, libvpx, libopus; Debian's `ffmpeg` is the second opinion."""

SPS = bytes.fromhex("6764000dacd94141fb0110000003001000000303c0f1429960")
PPS = bytes.fromhex("68ebe3cb22c0")
VIDEO = Track(0, Codec.H264, 90_000, h264.build_avcc((SPS,), (PPS,)), 320, 240, 30.0)
AUDIO = Track(1, Codec.AAC, 48_000, bytes.fromhex("1190"), sample_rate=48_000, channels=2)
IDR = bytes.fromhex("00000005658884002a")
SLICE = bytes.fromhex("00000005419a246c41")


@dataclass(slots=True)
class Node:
    daemon: Daemon
    ready: Ready

    @property
    def http(self) -> str:
        return f"http://127.0.0.1:{self.ready.http_port}"

    @property
    def rtmp(self) -> str:
        return f"rtmp://127.0.0.1:{self.ready.rtmp_port}"

    @property
    def srt(self) -> str:
        return f"srt://127.0.0.1:{self.ready.srt_port}"

    @property
    def key(self) -> str:
        assert self.ready.first.ingress is not None
        return self.ready.first.ingress.stream_key

    def room(self, name: str = "live-studio") -> Room | None:
        """A room of project `live`."""
        assert self.ready.first.project is not None
        return self.daemon.registry.find(self.ready.first.project.id, name)

    @property
    def on_air(self) -> bool:
        room = self.room()
        return room is not None and room.on_air

    @property
    def admin(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.ready.first.admin_key_file.read_text().strip()}"}


def configure(data_dir: Path, **sections: dict[str, Any]) -> Config:
    """Defaults, ports of the system's choice on loopback, and what the test says: `configure(tmp, ingress={"hold": 1.0})`."""
    raw: dict[str, Any] = {"data_dir": str(data_dir), "http": {"listen": "127.0.0.1:0"}, "rtmp": {"listen": "127.0.0.1:0"}}
    raw["rtc"] = {"listen": "127.0.0.1:0", "tcp_listen": "127.0.0.1:0"}
    raw["srt"] = {"listen": "127.0.0.1:0"}
    for name, values in sections.items():
        raw[name] = {**raw.get(name, {}), **values}
    return msgspec.convert(raw, Config)


@asynccontextmanager
async def running(data_dir: Path, **sections: dict[str, Any]) -> AsyncIterator[Node]:
    """A node. Bugs that the daemon would only log fail the test."""
    bugs: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: bugs.append(str(context)))
    tasks.raise_bugs = True
    try:
        daemon = Daemon(configure(data_dir, **sections))
        async with daemon.running() as ready:
            yield Node(daemon, ready)
    except BaseExceptionGroup as group:
        raise _alone(group) from None
    finally:
        tasks.raise_bugs = False
    assert not bugs, bugs


def _alone(error: BaseException) -> BaseException:
    """What failed, out of the groups of the daemon's services around it: pytest shows ten of them, and then nothing of the test."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


class Run(NamedTuple):
    code: int
    output: str


async def run(*command: str, timeout: float = 60.0) -> Run:
    """A program to its end; both streams as one text."""
    process = await asyncio.create_subprocess_exec(*command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        async with asyncio.timeout(timeout):
            output, _ = await process.communicate()
    except BaseException:
        process.kill()
        await process.wait()
        raise
    assert process.returncode is not None
    return Run(process.returncode, output.decode(errors="replace"))


async def ffmpeg(*arguments: str, timeout: float = 60.0, program: str = FFMPEG) -> Run:
    return await run(program, "-hide_banner", "-nostdin", "-loglevel", "warning", *arguments, timeout=timeout)


TICKS = ["-fps_mode", "passthrough", "-enc_time_base:v", "1/90000"]
"""Stamps as they are. FFmpeg's own are whole frames, and two pictures may be on one where they are slewed to their sound, or spliced."""


async def plays(source: str | Path, *options: str, program: str = FFMPEG) -> None:
    """FFmpeg decodes all of it and has nothing to complain of. `options` are of the input."""
    played = await ffmpeg("-xerror", *options, "-i", str(source), *TICKS, "-f", "null", "-", program=program)
    assert (played.code, played.output.strip()) == (0, ""), f"{source}: {played.output}"


def moving_picture(seconds: float, *, size: str = "320x240", rate: int = 30, realtime: bool = True) -> list[str]:
    """FFmpeg's input arguments: a moving picture and a tone."""
    pace = ["-re"] if realtime else []
    picture = f"testsrc2=size={size}:rate={rate}"
    return [*pace, "-f", "lavfi", "-i", picture, *pace, "-f", "lavfi", "-i", "sine=frequency=440:sample_rate=48000", "-t", str(seconds)]


H264_AAC = ["-pix_fmt", "yuv420p", "-c:v", "libx264", "-preset", "ultrafast", "-bf", "0", "-g", "30", "-c:a", "aac", "-b:a", "96k"]


@asynccontextmanager
async def ffmpeg_process(*arguments: str, program: str = FFMPEG) -> AsyncIterator[asyncio.subprocess.Process]:
    """FFmpeg that runs as long as the block."""
    process = await asyncio.create_subprocess_exec(
        program, "-hide_banner", "-nostdin", "-loglevel", "error", *arguments, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@asynccontextmanager
async def publishing(url: str) -> AsyncIterator[RtmpPublisher]:
    """Our own RTMP client with H.264 and AAC tracks opened; send with `send_second`."""
    async with open_publisher(parse_rtmp_url(url)) as publisher:
        await publisher.open_tracks((VIDEO, AUDIO))
        yield publisher


async def send_second(publisher: RtmpPublisher, second: int = 0, *, video: bool = True) -> None:
    """One second of made-up media at once: 30 pictures, the first a key frame, and 47 audio frames."""
    packets = [Packet(AUDIO, b"\x21\x10\x04\x60\x8c\x1c", t, t, True, 0.0) for t in (second * 48_000 + i * 1024 for i in range(47))]
    if video:
        packets += [Packet(VIDEO, SLICE if i else IDR, t, t, not i, 0.0) for i, t in ((i, second * 90_000 + i * 3000) for i in range(30))]
    for packet in sorted(packets, key=lambda p: p.dts / p.track.clock_rate):
        await publisher.send(packet)


async def until(condition: Any, timeout: float = 10.0) -> None:
    """Wait for something to become true; fails after `timeout` seconds."""
    async with asyncio.timeout(timeout):
        while not condition():
            await asyncio.sleep(0.02)


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    """On loopback, for a program that cannot say which one it was given."""
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def reset(writer: asyncio.StreamWriter) -> None:
    """RST instead of FIN."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
