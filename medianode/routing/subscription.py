"""Subscription: an asynchronous reader's handle on a Feed; yields Packet or Gap through a bounded queue."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

from medianode.errors import PeerGone, SlowConsumer
from medianode.media.packet import Gap, Packet
from medianode.media.queue import Bounds, PacketQueue, Policy
from medianode.media.track import Track
from medianode.routing.feed import Feed


class Subscription:
    """`async with Subscription(feed, Policy.LIVE, bounds) as sub: async for item in sub: …` ends when the feed does."""

    def __init__(self, feed: Feed, policy: Policy, bounds: Bounds, *, replay: bool = True) -> None:
        self._feed = feed
        self._policy = policy
        self._bounds = bounds
        self._replay = replay
        self._queue: PacketQueue | None = None
        self._wake = asyncio.Event()
        self._error: PeerGone | SlowConsumer | None = None
        self.tracks: tuple[Track, ...] = ()

    async def __aenter__(self) -> Self:
        self._feed.attach(self, replay=self._replay)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._feed.detach(self)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Packet | Gap:
        while True:
            if self._queue:
                item = self._queue.pop()
                if item is not None:
                    return item
            if isinstance(self._error, SlowConsumer):
                raise self._error
            if self._error is not None:
                raise StopAsyncIteration
            self._wake.clear()
            await self._wake.wait()

    @property
    def dropped(self) -> int:
        return self._queue.dropped if self._queue is not None else 0

    @property
    def queued(self) -> int:
        return len(self._queue) if self._queue is not None else 0

    def on_tracks(self, tracks: tuple[Track, ...]) -> None:
        self.tracks = tracks
        if self._queue is None:
            self._queue = PacketQueue(self._policy, self._bounds, has_video=any(t.is_video for t in tracks))
        else:
            self._queue.push_gap(Gap("track-changed"), has_video=any(t.is_video for t in tracks))
        self._wake.set()

    def on_packet(self, packet: Packet) -> None:
        if self._queue is None or self._error is not None:
            return
        try:
            self._queue.push(packet)
        except SlowConsumer as e:
            self._error = e
        self._wake.set()

    def on_gap(self, gap: Gap) -> None:
        if self._queue is not None:
            self._queue.push_gap(gap, has_video=any(t.is_video for t in self.tracks))
            self._wake.set()

    def on_end(self, cause: str) -> None:
        self._error = PeerGone("the stream ended", code=cause)
        self._wake.set()
