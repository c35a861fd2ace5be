"""PacketQueue: a bounded queue of one reader, under the policy the reader picked. Pure; time is `Packet.received_at`.

Invariants (tests/property/test_queue.py): bounds hold; order is kept; after a Gap video resumes only on a key frame;
the first video is a key frame; delivered + dropped + queued = pushed.
"""

from __future__ import annotations

from collections import deque
from enum import Enum
from typing import NamedTuple

from medianode.errors import SlowConsumer
from medianode.media.packet import Gap, Packet


class Policy(Enum):
    LIVE = "live"
    """On overflow jump to the newest key frame; the reader is handed a Gap first."""
    LATEST = "latest"
    """Keep only the newest packet: MJPEG, posters, moderation."""
    LOSSLESS = "lossless"
    """Overflow raises SlowConsumer: the recorder ends its file and starts another."""


class Bounds(NamedTuple):
    """`packets`, `nbytes` and `seconds` (between the oldest and the newest packet) that a queue may hold."""

    packets: int
    nbytes: int
    seconds: float


class PacketQueue:
    __slots__ = (
        "_bounds",
        "_gap_cause",
        "_has_video",
        "_items",
        "_policy",
        "_unreported",
        "_waits",
        "delivered",
        "dropped",
        "nbytes",
        "pushed",
    )

    def __init__(self, policy: Policy, bounds: Bounds, *, has_video: bool) -> None:
        self._policy = policy
        self._bounds = bounds
        self._items: deque[Packet] = deque()
        self._has_video = self._waits = has_video
        self._gap_cause = ""
        self._unreported = 0
        self.nbytes = 0
        self.pushed = 0
        self.delivered = 0
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._items)

    def __bool__(self) -> bool:
        return bool(self._items or self._gap_cause)

    def push(self, packet: Packet) -> None:
        """Add one packet. Raises SlowConsumer under LOSSLESS when a bound is passed; the packet is then counted as dropped."""
        self.pushed += 1
        if self._waits:
            if not (packet.keyframe and packet.track.is_video):
                self._drop(1)
                return
            self._waits = False
        if self._policy is Policy.LATEST:
            self._clear()
        self._items.append(packet)
        self.nbytes += len(packet.data)
        if self._over():
            self._overflow()

    def push_gap(self, gap: Gap, *, has_video: bool) -> None:
        """The source broke: what is queued stays, and the reader gets the Gap behind it, video from the next key frame."""
        self._has_video = self._waits = has_video
        self._gap_cause = gap.cause
        self._unreported += gap.dropped
        if not self._items:
            return
        # the Gap must come after what is queued, so queued packets are let go rather than kept in a second list
        self._clear()

    def pop(self) -> Packet | Gap | None:
        """The next item, or None when empty. A Gap comes before the packet that follows it."""
        if self._gap_cause:
            gap = Gap(self._gap_cause, self._unreported)
            self._gap_cause, self._unreported = "", 0
            return gap
        if not self._items:
            return None
        packet = self._items.popleft()
        self.nbytes -= len(packet.data)
        self.delivered += 1
        return packet

    @property
    def seconds(self) -> float:
        """Seconds between the arrival of the oldest and the newest packet held."""
        return self._items[-1].received_at - self._items[0].received_at if self._items else 0.0

    def _over(self) -> bool:
        b = self._bounds
        return (
            len(self._items) > b.packets or self.nbytes > b.nbytes or self._items[-1].received_at - self._items[0].received_at > b.seconds
        )

    def _overflow(self) -> None:
        if self._policy is Policy.LOSSLESS:
            packet = self._items.pop()
            self.nbytes -= len(packet.data)
            self._drop(1)
            raise SlowConsumer(f"reader holds {len(self._items)} packets, {self.nbytes} bytes, {self.seconds:.1f} s: over its bound")
        newest = next((i for i in range(len(self._items) - 1, 0, -1) if self._items[i].keyframe and self._items[i].track.is_video), 0)
        self._gap_cause = "slow-reader"
        if newest:
            for _ in range(newest):
                self.nbytes -= len(self._items.popleft().data)
            self._drop(newest)
            if not self._over():
                return
        self._clear()
        self._waits = self._has_video

    def _clear(self) -> None:
        if self._items:
            self._drop(len(self._items))
            self._items.clear()
            self.nbytes = 0

    def _drop(self, count: int) -> None:
        self.dropped += count
        if self._policy is not Policy.LATEST:
            self._unreported += count
