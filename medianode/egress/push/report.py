"""Report: what a pusher tells of its connection as it goes. The supervisor acts on it, the API reads it. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sized
from dataclasses import dataclass, field
from typing import Protocol

from medianode.routing.room import Room

SAID = 200
"""Characters of what a target said that are kept."""


@dataclass(slots=True)
class Report:
    """Of one target, over all its connections. A pusher calls the methods, in the loop; they take microseconds.

    `sent_bytes`, `acknowledged_bytes`: of this connection, protocol overhead included; `total_bytes`: sent over all. `dropped_packets`:
    what a slow target was not sent; `queue`: what of this connection's waits to be. `treatment`: per kind `copy` or how it is made.
    `bitrate`: bit/s of the last second or so.
    """

    on_broadcasting: Callable[[], None] | None = None
    is_broadcasting: bool = False
    sent_bytes: int = 0
    acknowledged_bytes: int = 0
    total_bytes: int = 0
    dropped_packets: int = 0
    queue: Sized = ()
    last_words: str = ""
    bitrate: float = 0.0
    treatment: dict[str, str] = field(default_factory=dict)
    _seen: tuple[float, int] = (0.0, 0)

    def broadcasting(self) -> None:
        """The target has taken media: not before it has acknowledged some, in whatever way its protocol has. Idempotent."""
        if not self.is_broadcasting:
            self.is_broadcasting = True
            if self.on_broadcasting is not None:
                self.on_broadcasting()

    def sent(self, nbytes: int) -> None:
        """So many more were given to the socket."""
        self.sent_bytes += nbytes
        self.total_bytes += nbytes

    def acknowledged(self, nbytes_total: int) -> None:
        """The target, or its kernel, has so many of this connection's."""
        self.acknowledged_bytes = max(self.acknowledged_bytes, nbytes_total)

    def dropped(self, packets: int) -> None:
        self.dropped_packets += packets

    def said(self, text: str) -> None:
        """Words of the target that are no error: a status."""
        self.last_words = text[:SAID]

    def renew(self) -> None:
        """A new connection begins."""
        self.is_broadcasting = False
        self.sent_bytes = self.acknowledged_bytes = 0
        self.queue = ()
        self.bitrate = 0.0

    def sample(self, now: float) -> None:
        """Renew the rate. `now`: clock.now(), about once a second."""
        at, total = self._seen
        if at and now > at:
            self.bitrate = (self.total_bytes - total) * 8 / (now - at)
        self._seen = (now, self.total_bytes)


class Pusher(Protocol):
    """One protocol's way to send a room's programme on. `run` is one connection, from the first look at the name to its end."""

    async def run(self, url: str, key: str | None, room: Room, report: Report) -> None:
        """`url`, `key`: as PushTarget has them. Returns when the feed ended (the room is off air, or its rendition was closed).

        Raises MedianodeError, OSError or TimeoutError when the connection could not be had or is over. When it is cancelled it says goodbye
        without waiting for an answer.
        """
