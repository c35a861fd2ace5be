"""Clips for slates: a stranger's video, read and made anew by a process of its own under limits, for a demuxer that crashes or never ends
must not end a live stream. What comes out is ours: H.264, one size, one rate, no sound.

`python -m medianode.transcode.clip <seconds>` reads the file from stdin and writes a Clip.
"""

from __future__ import annotations

import asyncio
import io
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from fractions import Fraction

import av
import msgspec

from medianode.errors import InvalidRequest, MedianodeError
from medianode.media.track import VIDEO_CLOCK_RATE
from medianode.transcode.encode import H264Encoder

WIDTH, HEIGHT, FRAME_RATE = 1280, 720, 30
TIMEOUT = 60.0
MEMORY, CPU_SECONDS, OPEN_FILES = 1536 * 1024 * 1024, 45, 64
SAID = 200
ENVIRONMENT = ("PATH", "PYTHONPATH", "LANG", "LD_LIBRARY_PATH")
_OPTIONS = {"format_whitelist": "mov,matroska,webm,mpegts,avi,gif,flv", "protocol_whitelist": "none"}
"""No playlists, no scripts: nothing that names other files or addresses."""


class Clip(msgspec.Struct, frozen=True):
    """`units`: one access unit per picture, the first a key frame; at most WIDTH x HEIGHT and FRAME_RATE pictures a second."""

    width: int
    height: int
    frame_rate: int
    config: bytes
    units: list[bytes]


async def read_clip(data: bytes, seconds: float) -> bytes:
    """A Clip of its first seconds, encoded (`load_clip` reads it). Raises InvalidRequest `bad-clip`."""
    command = (sys.executable, "-m", "medianode.transcode.clip", f"{seconds:g}")
    pipe = subprocess.PIPE
    # the daemon's environment may have secrets in it
    environ = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, env=environ)
    try:
        async with asyncio.timeout(TIMEOUT):
            made, _ = await process.communicate(data)
    except TimeoutError:
        raise InvalidRequest(f"slate: expected a clip that can be read in {TIMEOUT:g} s", code="bad-clip") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        said = (
            made[:SAID].decode("utf-8", "replace") if process.returncode == 2 else "expected a PNG, a JPEG or a video that can be decoded"
        )
        raise InvalidRequest(f"slate: {said}", code="bad-clip")
    return made


def load_clip(data: bytes) -> Clip:
    return msgspec.msgpack.decode(data, type=Clip)


def pictures(clip: Clip) -> Iterator[av.VideoFrame]:
    """Decoded, one after the other."""
    context = av.CodecContext.create("h264", "r")
    context.extradata = clip.config
    context.thread_count = 1
    assert isinstance(context, av.VideoCodecContext)
    for unit in clip.units:
        yield from context.decode(av.Packet(unit))
    yield from context.decode(None)


def chain(like: av.VideoFrame, *filters: tuple[str, str]) -> av.filter.Graph:
    """(name, options) each, one after the other, for pictures of this size and format."""
    graph = av.filter.Graph()
    base = like.time_base or Fraction(1, VIDEO_CLOCK_RATE)
    source = graph.add_buffer(width=like.width, height=like.height, format=like.format, time_base=base)
    graph.link_nodes(source, *(graph.add(*each) for each in filters), graph.add("buffersink")).configure()
    return graph


def _make(data: bytes, seconds: float) -> Clip:
    with av.open(io.BytesIO(data), "r", options=_OPTIONS) as container:
        if not container.streams.video:
            raise InvalidRequest("expected a video, got a file without pictures")
        stream = container.streams.video[0]
        stream.thread_count = 1
        rate = min(FRAME_RATE, max(1, round(stream.average_rate or FRAME_RATE)))
        units: list[bytes] = []
        encoder: H264Encoder | None = None
        for frame in _even(container.decode(stream), rate):
            if encoder is None:
                encoder = H264Encoder(frame.width, frame.height, frame_rate=rate)
            units += [e.data for e in encoder.encode(frame, len(units) * VIDEO_CLOCK_RATE // rate)]
            if len(units) >= seconds * rate:
                break
        if encoder is None:
            raise InvalidRequest("expected a video, got a file without pictures")
        return Clip(encoder.width, encoder.height, rate, encoder.config, units)


def _even(frames: Iterator[av.VideoFrame], rate: int) -> Iterator[av.VideoFrame]:
    """At one rate, and no larger than WIDTH x HEIGHT."""
    graph = None
    fit = f"w='min({WIDTH},iw)':h='min({HEIGHT},ih)':force_original_aspect_ratio=decrease:force_divisible_by=2:out_range=tv"
    for frame in frames:
        graph = graph or chain(frame, ("scale", fit), ("fps", str(rate)), ("format", "yuv420p"), ("setsar", "1"))
        graph.vpush(frame)
        while True:
            try:
                yield graph.vpull()
            except (av.BlockingIOError, av.EOFError):
                break


def main() -> int:
    """2: refused, and why stands on stdout; whatever else is not 0: it cannot be decoded, or broke what decodes it."""
    seconds = float(sys.argv[1])
    for limit, most in ((resource.RLIMIT_AS, MEMORY), (resource.RLIMIT_CPU, CPU_SECONDS), (resource.RLIMIT_NOFILE, OPEN_FILES)):
        resource.setrlimit(limit, (most, most))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    data = sys.stdin.buffer.read()
    try:
        clip = _make(data, seconds)
    except MedianodeError as e:
        sys.stdout.write(e.message)
        return 2
    except (av.FFmpegError, ValueError, MemoryError):
        return 1
    sys.stdout.buffer.write(msgspec.msgpack.encode(clip))
    return 0


if __name__ == "__main__":
    sys.exit(main())
