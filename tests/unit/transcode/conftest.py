"""Clips made by FFmpeg in the session's own directory, and their packets."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import imageio_ffmpeg
import pytest

from medianode.media.packet import Packet
from medianode.media.track import Kind, Track
from medianode.transcode.demux import Demuxer


@dataclass
class Clip:
    tracks: tuple[Track, ...]
    packets: list[Packet]

    def of(self, kind: Kind) -> list[Packet]:
        return [packet for packet in self.packets if packet.track.kind is kind]

    @property
    def video(self) -> list[Packet]:
        return self.of(Kind.VIDEO)

    @property
    def audio(self) -> list[Packet]:
        return self.of(Kind.AUDIO)


@pytest.fixture(scope="session")
def make_file(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """`make_file(name, arguments)` runs FFmpeg once for each pair."""
    made: dict[tuple[str, str], Path] = {}
    directory = tmp_path_factory.mktemp("clips")

    def make(name: str, arguments: str) -> Path:
        if (name, arguments) not in made:
            path = directory / f"{len(made)}-{name}"
            subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", *arguments.split(), str(path)], check=True)
            made[(name, arguments)] = path
        return made[(name, arguments)]

    return make


@pytest.fixture(scope="session")
def make_clip(make_file: Callable[[str, str], Path]) -> Callable[[str, str], Clip]:
    made: dict[Path, Clip] = {}

    def make(name: str, arguments: str) -> Clip:
        path = make_file(name, arguments)
        if path not in made:
            demuxer = Demuxer(str(path))
            try:
                made[path] = Clip(demuxer.tracks, list(demuxer.packets(0.0)))
            finally:
                demuxer.close()
        return made[path]

    return make


PICTURE = "-f lavfi -i testsrc2=size={size}:rate=30:duration={seconds} -pix_fmt yuv420p"


@pytest.fixture(scope="session")
def clip_of(make_clip: Callable[[str, str], Clip]) -> Callable[..., Clip]:
    """`clip_of(codec, size, seconds)`: a moving picture in this codec."""
    options = {
        "h264": ("mp4", "-c:v libx264 -preset ultrafast -bf 2 -g 30"),
        "hevc": ("mkv", "-c:v libx265 -preset ultrafast -x265-params log-level=none:keyint=30"),
        "av1": ("mp4", "-c:v libsvtav1 -preset 12 -g 30"),
        "vp9": ("webm", "-c:v libvpx-vp9 -deadline realtime -cpu-used 8 -g 30"),
        "vp8": ("webm", "-c:v libvpx -deadline realtime -cpu-used 8 -g 30"),
    }

    def make(codec: str, size: str = "320x240", seconds: float = 2) -> Clip:
        form, arguments = options[codec]
        return make_clip(f"{codec}.{form}", f"{PICTURE.format(size=size, seconds=seconds)} {arguments}")

    return make


@pytest.fixture(scope="session")
def jpegs(make_file: Callable[[str, str], Path]) -> Callable[..., list[bytes]]:
    """`jpegs(size, count)`: JPEG pictures of a moving test picture, of any size, odd ones too."""

    def make(size: str = "320x240", count: int = 10) -> list[bytes]:
        arguments = f"-f lavfi -i testsrc2=size={size}:rate=15 -frames:v {count} -pix_fmt yuvj420p -c:v mjpeg -q:v 5 -f mjpeg"
        data = make_file("pictures.mjpeg", arguments).read_bytes()
        return [b"\xff\xd8" + part for part in data.split(b"\xff\xd8")[1:]]

    return make


@pytest.fixture
def no_thread_left() -> Iterator[None]:
    """Fails where a test leaves one of our threads behind."""
    import threading

    yield
    ours = [thread for thread in threading.enumerate() if thread.name in ("rendition", "media-source")]
    for thread in ours:
        thread.join(5.0)
    assert not [thread for thread in ours if thread.is_alive()]
