"""Glass-to-glass latency over a real node: `medianode push testsrc` burns UTC into each picture, a player here decodes it and reads it.

A picture's latency is the wallclock when it comes out of the decoder, less the time in it, which is when it was due at the publisher. The
test card is encoded ahead of time, so a camera's and an encoder's own delay (a picture or two) is not in it. Publisher, node and players
share the machine, so their clocks are one.

LL-HLS: blocking reload on one connection, parts on another, asked for by EXT-X-PRELOAD-HINT before they exist. "At the player" is what can
be shown at all; a player that keeps PART-HOLD-BACK behind the live edge, as the playlist tells it to, shows it that much later: a picture
that ends a part is the edge when it comes, the others tell how old the edge grows until the next part, so the spread of the sum is that of
players which start at any moment. RTMP and MJPEG players show what they get.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import TypeVar

import av

from bench import rig
from bench.clients import Http, HttpError, mjpeg, open_playlist, playlists, rtmp_play
from medianode.media.track import Kind
from medianode.protocols.flv import PacketType, parse_video
from medianode.transcode.testcard import read_clock

LIMIT = 4.0
"""Seconds, p95 at the glass of an LL-HLS player (issue 2)."""
ROOM = "glass"
SETTLE = 2.0
"""Seconds of each player that do not count: the GOP it is given at the start is old."""
MIN_FRAMES = 20

Item = TypeVar("Item")


class Eye:
    """A decoder that reads the burned-in clock. `ages` of those pictures that came out after `since` (monotonic)."""

    def __init__(self, codec: str, extradata: bytes = b"") -> None:
        context = av.CodecContext.create(codec, "r")
        assert isinstance(context, av.VideoCodecContext)
        context.thread_count = 1
        if extradata:
            context.extradata = extradata
        self._context = context
        self.ages: list[float] = []
        self.unread = 0
        self.since = time.monotonic() + SETTLE

    def look(self, data: bytes) -> None:
        for frame in self._context.decode(av.Packet(data)):
            now = time.time()
            if time.monotonic() < self.since:
                continue
            text = read_clock(frame)
            if text is None:
                self.unread += 1
                continue
            hours, minutes, seconds = text.split(":")
            drawn = int(hours) * 3600 + int(minutes) * 60 + float(seconds)
            self.ages.append((now - drawn + 43_200) % 86_400 - 43_200)

    def result(self, what: str) -> list[float]:
        if len(self.ages) < MIN_FRAMES or self.unread > len(self.ages) // 50:
            raise RuntimeError(f"{what}: expected {MIN_FRAMES} pictures with a clock, got {len(self.ages)}, {self.unread} unreadable")
        return self.ages


def demux(init: bytes, part: bytes) -> tuple[bytes, list[bytes]]:
    """(avcC, video samples) of one fMP4 part."""
    with av.open(io.BytesIO(init + part), "r", format="mp4") as container:
        stream = container.streams.video[0]
        return stream.codec_context.extradata or b"", [bytes(packet) for packet in container.demux(stream) if packet.size]


async def until(deadline: float, source: AsyncGenerator[Item, None], use: Callable[[Item], None]) -> None:
    """Each item to `use` in a thread, one after another."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout_at(deadline), contextlib.aclosing(source) as items:
            async for item in items:
                await asyncio.to_thread(use, item)


async def ll_hls(port: int, seconds: float) -> tuple[list[float], float, float]:
    """(ages, PART-HOLD-BACK, part target)"""
    control, media = await Http.open(port), await Http.open(port)
    base, name = await open_playlist(control, ROOM)
    states = playlists(control, base, name)
    first = await anext(states)
    init = await media.get(base + first.init)
    start = max(i for i, (_, independent) in enumerate(first.parts) if independent)
    names: asyncio.Queue[str] = asyncio.Queue(1000)

    async def follow() -> None:
        playlist, seen = first, {uri for uri, _ in first.parts[:start]}
        while True:
            new = [uri for uri in (*(uri for uri, _ in playlist.parts), playlist.hint) if uri and uri not in seen]
            for uri in new:
                names.put_nowait(uri)
            seen.update(new)
            playlist = await anext(states)

    async def parts() -> AsyncGenerator[bytes, None]:
        while True:
            try:
                yield await media.get(base + await names.get())
            except HttpError as e:
                if e.status != 404:  # a hinted part that never came to be: its segment ended with the one before
                    raise

    eyes: list[Eye] = []

    def look(part: bytes) -> None:
        avcc, samples = demux(init, part)
        if not eyes:
            eyes.append(Eye("h264", avcc))
        for sample in samples:
            eyes[0].look(sample)

    loop = asyncio.get_running_loop()
    following = loop.create_task(follow())
    try:
        await until(loop.time() + SETTLE + seconds, parts(), look)
        if following.done():
            following.result()
    finally:
        following.cancel()
        control.close()
        media.close()
    if not eyes:
        raise RuntimeError("LL-HLS: no part came")
    return eyes[0].result("LL-HLS"), first.part_hold_back, first.part_target


async def rtmp(port: int, seconds: float) -> list[float]:
    eyes: list[Eye] = []

    async def tags() -> AsyncGenerator[tuple[PacketType, bytes], None]:
        async with contextlib.aclosing(rtmp_play(port, ROOM)) as messages:
            async for message in messages:
                if message.kind is Kind.VIDEO:
                    for tag in parse_video(message.payload):
                        yield tag.packet_type, tag.data

    def look(tag: tuple[PacketType, bytes]) -> None:
        kind, data = tag
        if kind is PacketType.CONFIG:
            eyes[:] = [Eye("h264", data)]
        elif kind is PacketType.FRAMES and eyes:
            eyes[0].look(data)

    await until(asyncio.get_running_loop().time() + SETTLE + seconds, tags(), look)
    if not eyes:
        raise RuntimeError("RTMP: no picture came")
    return eyes[0].result("RTMP")


async def motion_jpeg(port: int, seconds: float) -> list[float]:
    eye = Eye("mjpeg")
    await until(asyncio.get_running_loop().time() + SETTLE + seconds, mjpeg(port, ROOM), eye.look)
    return eye.result("MJPEG")


def quantile(values: list[float], q: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))]


@contextlib.contextmanager
def push(url: str) -> Iterator[None]:
    process = subprocess.Popen([sys.executable, "-m", "medianode", "push", "testsrc", url], stdout=subprocess.DEVNULL)
    try:
        yield
        if process.poll() is not None:
            raise RuntimeError(f"the publisher ended with {process.returncode}")
    finally:
        rig.stop(process)


async def on_air(port: int) -> None:
    """Until the room has a playlist."""
    async with asyncio.timeout(30):
        while True:
            http = await Http.open(port)
            try:
                base, name = await open_playlist(http, ROOM)
                await http.get(base + name)
                return
            except HttpError:
                await asyncio.sleep(0.2)
            finally:
                http.close()


async def measure(server: rig.Server, seconds: float) -> int:
    await on_air(server.http)
    ages, hold_back, part_target = await ll_hls(server.http, seconds)
    p50, p95 = quantile(ages, 0.5), quantile(ages, 0.95)
    ratio = (p95 + hold_back) / LIMIT
    print(f"glass-to-glass latency, {len(ages)} pictures in {seconds:g} s; load {rig.load()}")
    print(f"  LL-HLS, at the player            p50 {p50:6.3f} s  p95 {p95:6.3f} s  (parts of {part_target:g} s)")
    print(
        f"  LL-HLS, PART-HOLD-BACK {hold_back:g} s kept p50 {p50 + hold_back:6.3f} s  p95 {p95 + hold_back:6.3f} s"
        f"  ratio p95/limit of {LIMIT:g} s {ratio:.2f}: {'ok' if ratio <= 1 else 'OVER THE LIMIT'}",
        flush=True,
    )
    for name, play in (("RTMP play", rtmp), ("MJPEG", motion_jpeg)):
        ages = await play(server.http if play is motion_jpeg else server.rtmp, seconds / 3)
        print(
            f"  {name:32} p50 {quantile(ages, 0.5):6.3f} s  p95 {quantile(ages, 0.95):6.3f} s  ({len(ages)} pictures, load {rig.load()})",
            flush=True,
        )
    return int(ratio > 1)


def main(seconds: float = 30.0) -> int:
    with rig.medianode() as server, push(f"rtmp://127.0.0.1:{server.rtmp}/live/{ROOM}"):
        return asyncio.run(measure(server, seconds))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30.0, help="of LL-HLS; RTMP and MJPEG get a third each")
    arguments = parser.parse_args()
    print(rig.machine())
    sys.exit(main(arguments.seconds))
