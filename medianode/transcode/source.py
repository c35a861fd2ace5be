"""MediaSource: packets of a file, a URL or the test card in real time, for `medianode push` and tests."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Protocol, Self

import av

from medianode import clock
from medianode.errors import PeerError, UnsupportedMedia
from medianode.media.packet import Packet
from medianode.media.track import Track
from medianode.transcode.demux import Demuxer
from medianode.transcode.testcard import TestCard

AHEAD_PACKETS = 64
AHEAD_BYTES = 8 * 1024 * 1024
"""How far the thread reads ahead of whoever iterates."""


class Producer(Protocol):
    """Made, read and closed in the thread. `packets` gives Packets whose `received_at` is seconds since the start."""

    @property
    def tracks(self) -> tuple[Track, ...]: ...

    def packets(self, wallclock: float) -> Iterator[Packet]: ...

    def close(self) -> None: ...


class MediaSource:
    """`tracks`, then an asynchronous iterator of Packets. `received_at` is when the packet is due on `clock.now()`.

    With `pace` each packet is given when it is due, counted from the first `__anext__`; without, as soon as it is there.
    The iterator ends with the file; what FFmpeg cannot read is skipped (`Demuxer`). A thread that fails raises its error here.
    """

    def __init__(self, make: Callable[[], Producer], pace: bool) -> None:
        self.tracks: tuple[Track, ...] = ()
        self._make = make
        self._pace = pace
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()
        self._condition = threading.Condition()
        self._ahead: deque[Packet] = deque()
        self._nbytes = 0
        self._opened = self._finished = self._closing = False
        self._error: Exception | None = None
        self._started: float | None = None
        self._wallclock = 0.0
        self._thread = threading.Thread(target=self._run, name="media-source", daemon=True)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Packet:
        if self._started is None:
            with self._condition:
                self._started, self._wallclock = clock.now(), clock.wallclock()
                self._condition.notify()
        while (packet := self._take()) is None:
            if self._finished and not self._ahead:
                if self._error is not None:
                    raise self._error
                raise StopAsyncIteration
            self._news.clear()
            if not self._ahead and not self._finished:
                await self._news.wait()
        due = self._started + packet.received_at
        if self._pace and (wait := due - clock.now()) > 0:
            await asyncio.sleep(wait)
        return packet._replace(received_at=due)

    async def open(self) -> None:
        """Start the thread and wait for the tracks. Raises PeerError where the source cannot be opened."""
        self._thread.start()
        while not self._opened and not self._finished:
            await self._news.wait()
            self._news.clear()
        if self._error is not None:
            raise self._error

    async def close(self) -> None:
        """Stop the thread and wait for it. One that hangs in a URL's read is left to FFmpeg's timeout."""
        with self._condition:
            self._closing = True
            self._condition.notify()
        while not self._finished:
            self._news.clear()
            if not self._finished:
                try:
                    async with asyncio.timeout(2.0):
                        await self._news.wait()
                except TimeoutError:
                    return
        self._thread.join(1.0)  # it has said its last word

    def _take(self) -> Packet | None:
        with self._condition:
            if not self._ahead:
                return None
            packet = self._ahead.popleft()
            self._nbytes -= len(packet.data)
            if len(self._ahead) == AHEAD_PACKETS // 2 or self._nbytes < AHEAD_BYTES // 2:
                self._condition.notify()
            return packet

    def _run(self) -> None:
        producer: Producer | None = None
        try:
            producer = self._make()
            self.tracks = producer.tracks
            self._opened = True
            self._tell()
            with self._condition:
                while self._started is None and not self._closing:
                    self._condition.wait()
            if not self._closing:
                self._feed(producer)
        except PeerError as e:
            self._error = e
        except av.FFmpegError as e:
            self._error = UnsupportedMedia(str(e), code="cannot-read")
        except Exception as e:  # noqa: BLE001 - the thread's guard: raised again where the packets are awaited
            self._error = e
        finally:
            if producer is not None:
                producer.close()
            self._finished = True
            self._tell()

    def _feed(self, producer: Producer) -> None:
        for packet in producer.packets(self._wallclock):
            with self._condition:
                while not self._closing and (len(self._ahead) >= AHEAD_PACKETS or self._nbytes >= AHEAD_BYTES):
                    self._condition.wait()
                if self._closing:
                    return
                was_empty = not self._ahead
                self._ahead.append(packet)
                self._nbytes += len(packet.data)
            if was_empty:
                self._tell()

    def _tell(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
            self._loop.call_soon_threadsafe(self._news.set)


@asynccontextmanager
async def open_source(spec: str, *, loop: bool = False, pace: bool = True) -> AsyncIterator[MediaSource]:
    """A file, a URL that FFmpeg reads, or `testsrc`. `loop` starts a file anew at its end, its timestamps going on.

    Raises UnsupportedMedia where it cannot be opened or has nothing to send.
    """

    def make() -> Producer:
        return TestCard() if spec == "testsrc" else Demuxer(spec, loop=loop)

    source = MediaSource(make, pace)
    try:
        await source.open()
        yield source
    finally:
        await source.close()
