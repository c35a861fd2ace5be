"""Feed and Sink: the two sides of every fan-out. A Publication, a Room (its programme) and a Rendition are Feeds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from medianode.media.gop import GopCache
from medianode.media.packet import Gap, Packet
from medianode.media.track import Track
from medianode.tasks import guarded

T = TypeVar("T")


class Sink(Protocol):
    """A synchronous reader. Called in the loop, takes microseconds, never awaits. One that raises is detached and reported as a bug.

    A reader with an attribute `realtime` that is true (WebRTC) waits for every packet: `Publication.realtime` tells the door. One with
    `passive` that is true follows tracks and the end only: for its sake nothing is decoded. One with `evidence` that is true (a recording)
    is not given a room's slate: it sees the gap.
    """

    def on_tracks(self, tracks: tuple[Track, ...]) -> None:
        """The tracks that follow, before their first packet, and again whenever they change (after a Gap)."""

    def on_packet(self, packet: Packet) -> None:
        """Packets in decode order per track. The first video packet after on_tracks is a key frame."""

    def on_gap(self, gap: Gap) -> None:
        """The timeline breaks here. The next packet starts anew, video with a key frame."""

    def on_end(self, cause: str) -> None:
        """Nothing follows; the sink is detached already."""


class Feed(Protocol):
    @property
    def tracks(self) -> tuple[Track, ...]:
        """Empty while nobody publishes."""

    def attach(self, sink: Sink, *, replay: bool = True) -> None:
        """Start feeding: on_tracks at once where tracks are known, then (with `replay`) the cached GOP, then live."""

    def detach(self, sink: Sink) -> None:
        """Stop feeding. Idempotent."""

    def request_keyframe(self) -> None:
        """Ask the source for a key frame where it can be asked; coalesced, at most one a second."""


class Treatment(Feed, Protocol):
    """A publication within what its grant allows, which readers are given in its place."""

    @property
    def sinks(self) -> tuple[Sink, ...]: ...

    @property
    def gop(self) -> GopCache:
        """What a late joiner starts with."""

    @property
    def treats(self) -> bool:
        """Whether the pictures are made anew now, while somebody reads; else readers have the publication's own."""

    def move(self, sink: Sink) -> None:
        """As `attach`, for a reader that was there before. Never raises: one that cannot be served is ended with the cause."""

    def renew(self) -> None:
        """The publication's tracks are others; its readers have yet to be told."""

    def close(self) -> None:
        """Its readers are detached, or it detaches them untold."""


def tell(method: Callable[[T], None], argument: T) -> bool:
    """Call a method of a Sink. False where it raised: a reader's bug, reported; it reaches neither the publisher nor other readers."""
    return guarded("sink", method, argument) is None
