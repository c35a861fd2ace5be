"""Screen: the newest picture of a room as JPEG, one for all who watch it. Viewers hold one slot each, never a queue."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Callable

from aiohttp.abc import AbstractStreamWriter

from medianode import telemetry
from medianode.config import Mjpeg
from medianode.errors import MedianodeError, NotFound, PeerGone, PeerTimeout
from medianode.media.packet import Gap, Packet
from medianode.media.track import Track
from medianode.protocols.multipart import jpeg_part
from medianode.routing.feed import Feed
from medianode.routing.room import Room
from medianode.transcode.renditions import Renditions, Want

FRAMES = telemetry.counter("medianode_frames_total", "JPEG frames by door and direction", "door", "direction")
BYTES = telemetry.counter("medianode_bytes_total", "Bytes by door and direction", "door", "direction")
DROPS = telemetry.counter("medianode_dropped_total", "Packets dropped, by place and cause", "place", "cause")
ENDS = telemetry.counter("medianode_session_ends_total", "Sessions ended, by door and code", "door", "code")

WANT = Want(video="mjpeg", audio="none")
STALL = 30.0
"""Seconds that a viewer may take for one frame before it is let go."""
SWEEP = 5.0
"""Seconds between looks for viewers that hung up while no frames came."""
NOTSENT_LOWAT = 64 * 1024
"""Bytes that the kernel may hold unsent for a viewer. Without it a slow link gets seconds of old frames out of the socket buffer."""


class Frame:
    """One JPEG and its wire forms, each built once for all viewers."""

    __slots__ = ("_message", "_part", "data")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self._part = b""
        self._message = b""

    @property
    def part(self) -> bytes:
        """A part of multipart/x-mixed-replace."""
        self._part = self._part or jpeg_part(self.data)
        return self._part

    @property
    def message(self) -> bytes:
        """A binary WebSocket message in one frame, unmasked as servers send it (RFC 6455 5.2)."""
        if not self._message:
            size = len(self.data)
            if size < 126:
                header = struct.pack("!BB", 0x82, size)
            elif size < 0x1_0000:
                header = struct.pack("!BBH", 0x82, 126, size)
            else:
                header = struct.pack("!BBQ", 0x82, 127, size)
            self._message = header + self.data
        return self._message


class Viewer:
    """Writes frames straight to a transport while it takes them; else keeps the newest in its slot until the transport has drained.

    `show` is called for every frame and costs one write. `run` sleeps but for a viewer that fell behind, and ends with the viewer.
    """

    __slots__ = (
        "_bytes",
        "_drops",
        "_frames",
        "_transport",
        "_wake",
        "_wire",
        "_writer",
        "behind",
        "dropped",
        "nbytes",
        "over",
        "sent",
        "waiting",
    )

    def __init__(self, door: str, transport: asyncio.Transport, writer: AbstractStreamWriter, wire: Callable[[Frame], bytes]) -> None:
        self._transport = transport
        self._writer = writer
        self._wire = wire
        self._wake = asyncio.Event()
        self._frames = FRAMES.labels(door, "out")
        self._bytes = BYTES.labels(door, "out")
        self._drops = DROPS.labels(door, "slow-viewer")
        self.waiting: Frame | None = None
        self.behind = False
        self.over: MedianodeError | None = None
        self.sent = 0
        self.nbytes = 0
        self.dropped = 0
        # with no room in our own buffer a write goes to the kernel at once, and what is left over shows
        transport.set_write_buffer_limits(high=0)
        sock = transport.get_extra_info("socket")
        if sock is not None and hasattr(socket, "TCP_NOTSENT_LOWAT"):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, NOTSENT_LOWAT)

    def show(self, frame: Frame) -> None:
        if self.behind:
            if self.waiting is not None:
                self.dropped += 1
                self._drops.value += 1
            self.waiting = frame
            return
        transport = self._transport
        if transport.is_closing():
            self.end(PeerGone("the viewer hung up"))
            return
        wire = self._wire(frame)
        transport.write(wire)
        self.sent += 1
        self.nbytes += len(wire)
        self._frames.value += 1
        self._bytes.value += len(wire)
        if transport.get_write_buffer_size():
            self.behind = True
            self._wake.set()

    def end(self, error: MedianodeError) -> None:
        if self.over is None:
            self.over = error
            self._wake.set()

    def look(self) -> None:
        """End it if its peer hung up."""
        if self._transport.is_closing():
            self.end(PeerGone("the viewer hung up"))

    async def run(self) -> MedianodeError:
        """Until it is over; what ended it. Nothing is left in the transport's buffer then, unless the peer would not take it."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            if self.behind and not await self._catch_up():
                return PeerTimeout(f"the viewer took nothing for {STALL:g} s", code="slow-viewer")
            if self.over is not None and not self.behind:
                return self.over

    async def _catch_up(self) -> bool:
        """Wait until the peer has taken what it was sent, then show it the newest. False: it did not in time and was cut off."""
        try:
            async with asyncio.timeout(STALL):
                await self._writer.drain()
        except TimeoutError:
            self._transport.abort()
            return False
        except OSError as e:
            self.end(PeerGone(f"the viewer hung up: {e}"))
        self.behind = False
        frame, self.waiting = self.waiting, None
        if frame is not None and self.over is None:
            self.show(frame)
        return True


class Screen:
    """What a room shows now: a Sink of its MJPEG rendition, which hands JPEG sources through as they are. Lives while somebody watches."""

    def __init__(self, feed: Feed) -> None:
        self.newest: Frame | None = None
        self.over: MedianodeError | None = None
        self.users = 0
        self._feed = feed
        self._viewers: dict[Viewer, None] = {}
        self._sweeper = asyncio.get_running_loop().call_later(SWEEP, self._sweep)
        feed.attach(self)

    def __len__(self) -> int:
        return len(self._viewers)

    def add(self, viewer: Viewer) -> None:
        """Show it the newest picture now and all that follow. In a publisher's gap that is the last one before it."""
        self._viewers[viewer] = None
        if self.newest is not None:
            viewer.show(self.newest)
        if self.over is not None:
            viewer.end(self.over)

    def remove(self, viewer: Viewer) -> None:
        self._viewers.pop(viewer, None)

    def close(self) -> None:
        """Nobody watches any more."""
        self._sweeper.cancel()
        self._feed.detach(self)

    def on_tracks(self, tracks: tuple[Track, ...]) -> None:
        """A JPEG says its own size."""

    def on_packet(self, packet: Packet) -> None:
        self.newest = frame = Frame(packet.data)
        for viewer in self._viewers:
            viewer.show(frame)

    def on_gap(self, gap: Gap) -> None:
        """The connections stay open, the last picture stands."""

    def on_end(self, cause: str) -> None:
        self.over = PeerGone("the stream ended", code=cause)
        for viewer in self._viewers:
            viewer.end(self.over)

    def _sweep(self) -> None:
        for viewer in self._viewers:
            viewer.look()
        self._sweeper = asyncio.get_running_loop().call_later(SWEEP, self._sweep)


class Screens:
    """The screens of all rooms that are watched, one each."""

    def __init__(self, renditions: Renditions, config: Mjpeg) -> None:
        self._renditions = renditions
        self._idle = config.rendition_idle
        self._screens: dict[Feed, Screen] = {}

    def __len__(self) -> int:
        return len(self._screens)

    @contextlib.asynccontextmanager
    async def watch(self, room: Room) -> AsyncIterator[Screen]:
        """The room's screen, shared. Raises NotFound `no-video`, LimitExceeded `node-full` where no thread for it is left."""
        if room.tracks and not any(t.is_video for t in room.tracks):
            raise NotFound(f"room {room.name} has sound only", code="no-video")
        async with self._renditions.acquire(room, WANT, self._idle) as feed:
            screen = self._screens.get(feed)
            if screen is None:
                screen = self._screens[feed] = Screen(feed)
            screen.users += 1
            try:
                yield screen
            finally:
                screen.users -= 1
                if not screen.users:
                    del self._screens[feed]
                    screen.close()
