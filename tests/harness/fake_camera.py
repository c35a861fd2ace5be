"""A camera whose faults can be chosen while it runs: RTSP in its connection, made-up H.264. For what no real camera does on demand."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal

from harness import IDR, PPS, SLICE, SPS
from medianode.protocols.rtp import packet as packets
from medianode.protocols.rtp.rtcp import sender_report

Mood = Literal["well", "hangs", "mute", "frozen", "flaps", "garbage"]
"""`hangs`: takes connections and says nothing. `mute`: plays and sends nothing. `frozen`: sound goes on, the picture does not."""

SDP = (
    "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=fake\r\nt=0 0\r\na=control:*\r\n"
    "m=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\na=fmtp:96 packetization-mode=1\r\na=control:v\r\n"
    "m=audio 0 RTP/AVP 8\r\na=control:a\r\n"
)
RATE = 25
_PARAMETER_SETS = b"\x18" + len(SPS).to_bytes(2, "big") + SPS + len(PPS).to_bytes(2, "big") + PPS


class FakeCamera:
    """`mood` may be changed at any time; what is open feels it at once. `location`: where it redirects to. `interleaved`: the channels
    that it answers each SETUP with, whatever was asked for.
    """

    def __init__(self, mood: Mood = "well") -> None:
        self.mood: Mood = mood
        self.port = 0
        self.connections = 0
        self.requests: list[str] = []
        self.location = ""
        self.interleaved = ""
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        return f"rtsp://127.0.0.1:{self.port}/stream"

    def cut(self) -> None:
        """Close what is open."""
        for writer in tuple(self._writers):
            writer.transport.abort()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        playing: asyncio.Task[None] | None = None
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                found = re.search(r"([A-Z_]+) rtsps?://\S+ RTSP/1\.0", head)  # reports stand before it
                if found is None:
                    continue
                method, head = found[1], head[found.start() :]
                self.requests.append(method)
                if self.mood == "hangs":
                    continue
                if self.mood == "garbage":
                    writer.write(os.urandom(800_000))
                    continue
                sequence = head.lower().partition("cseq:")[2].split("\r\n")[0].strip()
                await self._answer(writer, method, sequence, head)
                if method == "PLAY":
                    playing = asyncio.ensure_future(self._play(writer))
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.LimitOverrunError):
            pass
        finally:
            if playing is not None:
                playing.cancel()
            self._writers.discard(writer)
            writer.close()

    async def _answer(self, writer: asyncio.StreamWriter, method: str, sequence: str, head: str) -> None:
        if method == "DESCRIBE" and self.location:
            writer.write(f"RTSP/1.0 302 Moved\r\nCSeq: {sequence}\r\nLocation: {self.location}\r\n\r\n".encode())
            return
        if method == "SETUP" and "RTP/AVP/TCP" not in head:
            writer.write(f"RTSP/1.0 461 Unsupported Transport\r\nCSeq: {sequence}\r\n\r\n".encode())
            return
        extra, body = "", ""
        if method == "DESCRIBE":
            body, extra = SDP, f"Content-Type: application/sdp\r\nContent-Base: {self.url}/\r\nContent-Length: {len(SDP)}\r\n"
        elif method == "SETUP":
            channels = self.interleaved or ("0-1" if "/v " in head.split("\r\n")[0] + " " else "2-3")
            extra = f"Transport: RTP/AVP/TCP;unicast;interleaved={channels}\r\nSession: 77;timeout=60\r\n"
        writer.write(f"RTSP/1.0 200 OK\r\nCSeq: {sequence}\r\n{extra}\r\n{body}".encode())

    async def _play(self, writer: asyncio.StreamWriter) -> None:
        """Pictures from a random stamp on, an IDR each second."""
        loop = asyncio.get_running_loop()
        began, picture, sequence, _sound = loop.time(), 0, 0xFFF0, 0
        base = int.from_bytes(os.urandom(4), "big")
        while not writer.is_closing():
            if self.mood == "flaps" and picture >= RATE * 3 // 2:
                writer.transport.abort()
                return
            if self.mood == "garbage":
                writer.write(os.urandom(80_000))
            elif self.mood in ("well", "frozen", "flaps"):
                stamp = base + picture * 90_000 // RATE
                if self.mood != "frozen":
                    units = [_PARAMETER_SETS, IDR[4:]] if picture % RATE == 0 else [SLICE[4:]]
                    for unit in units:
                        self._frame(writer, 0, packets.build(96, sequence, stamp, 1, unit, marker=unit is units[-1]))
                        sequence += 1
                if picture % RATE == 0:
                    self._frame(writer, 1, sender_report(1, (3_900_000_000 + picture // RATE) << 32, stamp, picture, 0))
                self._frame(writer, 2, packets.build(8, picture, picture * 320, 2, b"\xd5" * 320))
            picture += 1
            await asyncio.sleep(max(began + picture / RATE - loop.time(), 0))

    def _frame(self, writer: asyncio.StreamWriter, channel: int, data: bytes) -> None:
        writer.write(bytes((0x24, channel)) + len(data).to_bytes(2, "big") + data)


@asynccontextmanager
async def fake_cameras(*moods: Mood, tls: ssl.SSLContext | None = None) -> AsyncIterator[list[FakeCamera]]:
    cameras = [FakeCamera(mood) for mood in moods]
    async with contextlib.AsyncExitStack() as stack:
        for camera in cameras:
            server = await asyncio.start_server(camera.serve, "127.0.0.1", 0, ssl=tls)
            camera.port = server.sockets[0].getsockname()[1]
            stack.callback(server.close)
            stack.callback(camera.cut)
        yield cameras
