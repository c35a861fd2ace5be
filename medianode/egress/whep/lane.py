"""Lane: what one kind of WebRTC viewer of one room is sent: a rendition made fit for WebRTC, and the Broadcast that fans it out."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from medianode.errors import PeerGone
from medianode.media.packet import Gap, Packet
from medianode.media.track import Codec, Kind, Track
from medianode.protocols.sdp.plan import SendMedia
from medianode.routing.feed import Feed, Sink
from medianode.routing.room import Room
from medianode.rtc.peer import Peer
from medianode.rtc.viewer import Stats
from medianode.transcode.want import Want


class Transcoder(Protocol):
    """transcode.Renditions."""

    def acquire(self, source: Feed, want: Want, idle: float) -> AbstractAsyncContextManager[Feed]: ...


class Seat(Protocol):
    """One viewer of a Cast: rtc.viewer.Viewer, or rtc.crew.RemoteViewer in a worker."""

    @property
    def stats(self) -> Stats: ...
    def rtcp(self, packet: bytes, now: float) -> None: ...


class Cast(Sink, Protocol):
    """rtc.fanout.Broadcast, or rtc.crew.SharedBroadcast. Seats and casts of the two kinds do not mix."""

    playout_delay: float

    @property
    def ssrcs(self) -> dict[Kind, tuple[int, int | None]]: ...
    @property
    def cname(self) -> str: ...
    def add(self, peer: Peer, sends: tuple[SendMedia, ...]) -> Seat: ...
    def remove(self, viewer: Any) -> None: ...
    def move(self, viewer: Any, to: Any) -> None: ...
    def close(self) -> None: ...


class Member(Protocol):
    """A viewer of a lane."""

    sends: tuple[SendMedia, ...]

    def leave(self, error: PeerGone) -> None: ...


class Lane:
    """A Sink of its rendition, for its tracks and its end only.

    `expired` is called when it has ended, or had no viewer for `idle` seconds: whoever made it then closes it.
    """

    def __init__(self, room: Room, want: Want, idle: float, expired: Callable[[Lane], None]) -> None:
        self.room = room
        self.want = want
        self.tracks: tuple[Track, ...] = ()
        self.known = asyncio.Event()
        self.closed = False
        self.ended = ""
        """Why its rendition ended; that may be as soon as it is opened."""
        self.broadcast: Cast
        self.feed: Feed
        """Its rendition."""
        self._members: dict[Member, None] = {}
        self._idle_seconds = idle
        self._idle: asyncio.TimerHandle | None = None
        self._expired = expired
        self._stack = contextlib.AsyncExitStack()

    def __len__(self) -> int:
        return len(self._members)

    async def open(self, renditions: Transcoder, make: Callable[[Feed], Cast]) -> None:
        """Raises LimitExceeded `node-full` where the rendition needs a thread and there is none."""
        feed = await self._stack.enter_async_context(renditions.acquire(self.room, self.want, 0.0))
        self.feed = feed
        self.broadcast = make(feed)
        self._stack.callback(self.broadcast.close)
        feed.attach(self, replay=False)
        self._stack.callback(feed.detach, self)
        feed.attach(self.broadcast)
        self._stack.callback(feed.detach, self.broadcast)
        self._rest()

    def codec(self, kind: Kind) -> Codec | None:
        """What is sent, or was before the publisher's gap; None where that is not known."""
        return next((track.codec for track in self.tracks if track.kind is kind), None)

    def join(self, member: Member) -> None:
        self._members[member] = None
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None

    def part(self, member: Member) -> None:
        self._members.pop(member, None)
        self._rest()

    async def close(self) -> None:
        """Idempotent."""
        if self.closed:
            return
        self.closed = True
        if self._idle is not None:
            self._idle.cancel()
        self._let_go("stream-ended")
        await self._stack.aclose()

    def renegotiate(self, kind: Kind) -> None:
        """The codec of this kind is another now: those who were promised the old one have to ask anew, which their players do at once."""
        for member in tuple(self._members):
            if any(send.kind is kind for send in member.sends):
                member.leave(PeerGone(f"the {kind.value} codec has changed: connect again", code="codec-changed"))

    def on_tracks(self, tracks: tuple[Track, ...]) -> None:
        self.tracks = tracks
        self.known.set()

    def on_packet(self, packet: Packet) -> None:
        """The Broadcast sees them."""

    def on_gap(self, gap: Gap) -> None:
        """The Broadcast sees them."""

    def on_end(self, cause: str) -> None:
        self.ended = cause
        self.known.set()  # whoever waits for its tracks is to see that there are none
        self._let_go(cause)
        self._expired(self)

    def _let_go(self, cause: str) -> None:
        members, self._members = self._members, {}
        for member in members:
            member.leave(PeerGone("the stream ended", code=cause))

    def _rest(self) -> None:
        """Wait for the next viewer, but not for ever."""
        if not self._members and not self.closed and self._idle is None:
            self._idle = asyncio.get_running_loop().call_later(self._idle_seconds, self._expired, self)
