"""What tests of renditions share: clips made by FFmpeg, a sink that keeps all it is told, waiting, and where sound begins."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import imageio_ffmpeg
import pytest

from medianode.media.packet import Gap, Packet
from medianode.media.track import Track
from medianode.transcode.decode import AudioDecoder
from medianode.transcode.demux import Demuxer

Clip = Callable[[str, str], list[Packet]]
"""`clip(name, FFmpeg's arguments)`: its packets, made once."""


@dataclass
class Recorder:
    """A sink that keeps all it is told."""

    tracks: tuple[Track, ...] = ()
    log: list[Packet | Gap | tuple[Track, ...] | str] = field(default_factory=list)

    def on_tracks(self, tracks: tuple[Track, ...]) -> None:
        self.tracks = tracks
        self.log.append(tracks)

    def on_packet(self, packet: Packet) -> None:
        self.log.append(packet)

    def on_gap(self, gap: Gap) -> None:
        self.log.append(gap)

    def on_end(self, cause: str) -> None:
        self.log.append(cause)

    @property
    def gaps(self) -> list[str]:
        return [item.cause for item in self.log if isinstance(item, Gap)]


async def until(ready: Callable[[], bool], what: str, seconds: float = 8.0) -> None:
    try:
        async with asyncio.timeout(seconds):
            while not ready():
                await asyncio.sleep(0.005)
    except TimeoutError:
        pytest.fail(f"waited in vain: {what}")


def tone_starts(packets: list[Packet]) -> float:
    """Media time in seconds at which the sound gets loud."""
    decoder = AudioDecoder(packets[0].track)
    for packet in packets:
        for frame in decoder.decode(packet):
            floats = frame.format.name.startswith("flt")
            samples = memoryview(frame.planes[0]).cast("f" if floats else "h")
            for i in range(frame.samples):
                if abs(samples[i]) > (0.1 if floats else 3_276):
                    return packet.pts / packet.track.clock_rate + i / frame.sample_rate
    pytest.fail("no sound")


def clips(directory: Path) -> Clip:
    made: dict[tuple[str, str], list[Packet]] = {}

    def make(name: str, arguments: str) -> list[Packet]:
        if (name, arguments) not in made:
            path = directory / f"{len(made)}-{name}"
            subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", *arguments.split(), str(path)], check=True)
            demuxer = Demuxer(str(path))
            made[(name, arguments)] = list(demuxer.packets(0.0))
            demuxer.close()
        return made[(name, arguments)]

    return make
