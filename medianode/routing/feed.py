"""Feed and Sink: the two sides of every fan-out. A Publication, a Room (its programme) and a Rendition are Feeds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from medianode.media.packet import Gap, Packet
from medianode.media.track import Track
from medianode.tasks import guarded

T = TypeVar("T")


class Sink(Protocol):
    """A synchronous reader. Called in the loop, takes microseconds, never awaits. One that raises is detached and reported as a bug.

    A reader with an attribute `realtime` that is true (WebRTC) waits for every packet: `Publication.realtime` tells the door.
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


def tell(method: Callable[[T], None], argument: T) -> bool:
    """Call a method of a Sink. False where it raised: a reader's bug, reported; it reaches neither the publisher nor other readers."""
    return guarded("sink", method, argument) is None
