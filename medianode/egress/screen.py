"""Screen: the newest picture of a room as JPEG, one for all who watch it. Viewers hold one slot each, never a queue.

A JPEG source is shown as it comes; any other through the room's shared MJPEG rendition.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Callable
from typing import Self

from medianode import telemetry
from medianode.config import Limits, Mjpeg
from medianode.errors import MedianodeError, NotFound, PeerGone, PeerTimeout
from medianode.media.packet import Gap, Packet
from medianode.media.track import Codec, Track
from medianode.protocols.multipart import jpeg_part
from medianode.routing.feed import Sink
from medianode.routing.room import Room
from medianode.tasks import TaskSet
from medianode.transcode.renditions import Renditions, Want

FRAMES = telemetry.counter("medianode_mjpeg_frames_total", "JPEG frames written to viewers, by door", "door")
BYTES = telemetry.counter("medianode_mjpeg_bytes_total", "Bytes of the parts written to viewers, by door", "door")
DROPS = telemetry.counter("medianode_mjpeg_drops_total", "Frames that a viewer was not sent, by door and cause", "door", "cause")
SLOW = "slow-viewer"

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

    `wire`: which form of a frame. `wake`: called, in the loop, when the owner should call `catch_up` or look at `over`.
    """

    __slots__ = ("_frames", "_nbytes", "_slow", "_transport", "_wake", "_wire", "behind", "dropped", "nbytes", "over", "sent", "waiting")

    def __init__(self, door: str, transport: asyncio.Transport, wire: Callable[[Frame], bytes], wake: Callable[[], None]) -> None:
        self._transport = transport
        self._wire = wire
        self._wake = wake
        self._frames = FRAMES.labels(door)
        self._nbytes = BYTES.labels(door)
        self._slow = DROPS.labels(door, SLOW)
        self.waiting: Frame | None = None
        self.behind = False
        self.over: MedianodeError | None = None
        self.sent = 0
        self.nbytes = 0
        self.dropped = 0
        transport.set_write_buffer_limits(high=0)
        if (sock := transport.get_extra_info("socket")) is not None and hasattr(socket, "TCP_NOTSENT_LOWAT"):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, NOTSENT_LOWAT)

    def show(self, frame: Frame) -> None:
        if self.behind:
            if self.waiting is not None:
                self.dropped += 1
                self._slow.value += 1
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
        self._nbytes.value += len(wire)
        if transport.get_write_buffer_size():
            self.behind = True
            self._wake()

    def end(self, error: MedianodeError) -> None:
        if self.over is None:
            self.over = error
            self._wake()

    def sweep(self) -> None:
        """End it if its peer hung up."""
        if self._transport.is_closing():
            self.end(PeerGone("the viewer hung up"))

    async def catch_up(self, drain: Callable[[], asyncio.Future[None] | AsyncDrain]) -> None:
        raise NotImplementedError
