"""Renditions: tracks derived on demand from a Feed, shared by all who want the same, gone some seconds after the last has left."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from medianode import config, telemetry
from medianode.errors import LimitExceeded
from medianode.media.track import Kind
from medianode.routing.feed import Feed
from medianode.transcode.derive import Settings
from medianode.transcode.rendition import Rendition
from medianode.transcode.want import Want

__all__ = ["Rendition", "Renditions", "Want"]
log = logging.getLogger("medianode.transcode")

STOP_SECONDS = 2.0
"""How long `close` waits for the threads."""


class Renditions:
    """All renditions of the node. As an async context manager it closes them at the end and waits for their threads."""

    def __init__(self, limits: config.Limits, mjpeg: config.Mjpeg, hls: config.Hls) -> None:
        self.limits = limits
        self.settings = Settings(mjpeg.quality, mjpeg.max_fps, hls.segment_duration, limits.decode_pixels)
        self._shared: dict[tuple[Feed, Want], Rendition] = {}
        self._threads = {Kind.VIDEO: 0, Kind.AUDIO: 0}
        self._quiet = asyncio.Event()
        self._quiet.set()
        telemetry.gauge("medianode_renditions", "Renditions by kind: with a thread or passed through", "kind", read=self._sample)

    async def __aenter__(self) -> Renditions:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __len__(self) -> int:
        return len(self._shared)

    @property
    def all(self) -> tuple[Rendition, ...]:
        return tuple(self._shared.values())

    @property
    def threads(self) -> int:
        """Threads that run, those of closed renditions that are on their way out included."""
        return sum(self._threads.values())

    @asynccontextmanager
    async def acquire(self, source: Feed, want: Want, idle: float) -> AsyncIterator[Rendition]:
        """The Rendition of this source, shared; it lives `idle` seconds after the last release.

        Raises LimitExceeded `node-full` where it needs a thread and `limits.renditions` (`audio_renditions` for sound) run already. One
        that cannot go on (the source ended, pictures too large) ends its sinks with the cause and is forgotten: the next `acquire`
        makes a new one.
        """
        rendition = self.hold(source, want)
        try:
            yield rendition
        finally:
            self.let_go(rendition, idle)

    def hold(self, source: Feed, want: Want) -> Rendition:
        """As `acquire`, until `let_go`. Raises the same."""
        rendition = self._shared.get((source, want))
        if rendition is None:
            rendition = Rendition(source, want, self)
            rendition.open()
            if not rendition.ended:
                self._shared[(source, want)] = rendition
        if rendition.idle is not None:
            rendition.idle.cancel()
            rendition.idle = None
        rendition.users += 1
        return rendition

    def let_go(self, rendition: Rendition, idle: float) -> None:
        rendition.users -= 1
        if not rendition.users and not rendition.ended:
            rendition.idle = asyncio.get_running_loop().call_later(idle, rendition.close)

    async def close(self) -> None:
        """Close all; wait for their threads, at most STOP_SECONDS. Idempotent."""
        for rendition in self.all:
            rendition.close()
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await self._quiet.wait()
        except TimeoutError:
            log.warning("%d rendition threads still run", self.threads)

    def claim(self, kind: Kind) -> None:
        """Room for one more thread that handles this kind. Raises LimitExceeded."""
        bound = self.limits.renditions if kind is Kind.VIDEO else self.limits.audio_renditions
        if self._threads[kind] >= bound:
            raise LimitExceeded(f"the node runs {bound} renditions of {kind.value} already", code="node-full")
        self._threads[kind] += 1
        self._quiet.clear()

    def release(self, kind: Kind) -> None:
        self._threads[kind] -= 1
        if not self.threads:
            self._quiet.set()

    def forget(self, rendition: Rendition) -> None:
        key = (rendition.source, rendition.want)
        if self._shared.get(key) is rendition:
            del self._shared[key]

    def _sample(self) -> list[tuple[tuple[str, ...], float]]:
        return [(("thread",), self.threads), (("passthrough",), sum(not r.transcodes for r in self._shared.values()))]
