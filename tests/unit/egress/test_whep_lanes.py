"""Lanes whose rendition ends as soon as it is opened: nothing of them stays, and the next viewer gets a lane of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from harness import configure, until

from medianode.egress.whep.service import WhepService
from medianode.errors import LimitExceeded, MedianodeError, NotFound
from medianode.rtc.endpoint import Endpoint
from medianode.transcode.want import Want

WANT = Want(video="realtime", audio="opus")


class Feed:
    """Ends its sinks with `cause` where there is one."""

    tracks = ()

    def __init__(self, cause: str) -> None:
        self.cause = cause
        self.sinks: list[object] = []

    def attach(self, sink: Any, *, replay: bool = True) -> None:
        if self.cause:
            sink.on_end(self.cause)
        else:
            self.sinks.append(sink)

    def detach(self, sink: object) -> None:
        if sink in self.sinks:
            self.sinks.remove(sink)

    def request_keyframe(self) -> None:
        raise AssertionError("nobody watches")


class Renditions:
    def __init__(self, *feeds: Feed) -> None:
        self.feeds = list(feeds)
        self.released = 0

    @asynccontextmanager
    async def acquire(self, source: object, want: Want, idle: float) -> AsyncIterator[Any]:
        try:
            yield self.feeds.pop(0)
        finally:
            self.released += 1


class Room:
    held = False
    project_id = "prj"
    name = "live-studio"
    tracks = ()


@pytest.mark.parametrize(("cause", "error"), [("node-full", LimitExceeded), ("stream-ended", NotFound)])
async def test_a_rendition_that_ends_at_once_leaves_no_lane(tmp_path: Path, cause: str, error: type[MedianodeError]) -> None:
    config = configure(tmp_path)
    endpoint = Endpoint(config.rtc, config.limits)
    endpoint.open()
    alive = Feed("")
    renditions = Renditions(Feed(cause), alive)
    service = WhepService(config, cast(Any, None), cast(Any, renditions), endpoint, lambda project, room: 0.0)
    room = cast(Any, Room())
    try:
        async with service._tasks:
            with pytest.raises(error, match=cause):
                await service._lane(room, WANT)
            assert not service.lanes
            await until(lambda: renditions.released == 1)
            lane = await service._lane(room, WANT)
            assert service.lanes == (lane,)
            assert not lane.closed
            assert len(alive.sinks) == 2
            await lane.close()
            assert not alive.sinks
    finally:
        service._batch.close()
        endpoint.shut()
