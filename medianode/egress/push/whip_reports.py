"""What a WHIP target's receiver reports tell of a call: that media arrives, how much of it, and when nothing does any more. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from medianode.errors import PeerTimeout
from medianode.protocols.rtp.rtcp import ReportBlock


class Sent(NamedTuple):
    """One stream of ours. `next`: the sequence number, unwrapped, after the highest sent."""

    ssrc: int
    packets: int
    next: int


class Reports:
    """Times are clock.now(), seconds. `patience`: for how long reports may stand still while media goes out."""

    def __init__(self, patience: float) -> None:
        self.acknowledged = 0
        """Bytes of what was sent that have arrived, as near as packets counted tell."""
        self.arrives = False
        """Some media has."""
        self._patience = patience
        self._blocks: dict[int, ReportBlock] = {}
        self._moved = False
        self._packets = 0
        self._waiting_since: float | None = None

    def take(self, blocks: Iterable[ReportBlock]) -> None:
        for block in blocks:
            known = self._blocks.get(block.ssrc)
            self._moved = self._moved or known is None or known.highest != block.highest
            self._blocks[block.ssrc] = block

    def look(self, streams: Iterable[Sent], nbytes: int, now: float) -> None:
        """About once a second. `nbytes`: sent in all. Raises PeerTimeout (`target-silent`).

        A target that has never reported is not judged by that: there are some that do not.
        """
        packets = arrived = 0
        for ssrc, count, following in streams:
            packets += count
            block = self._blocks.get(ssrc)
            if block is not None and count:
                under_way = (following - 1 - block.highest) & 0xFFFF
                arrived += max(0, count - (under_way if under_way < 0x8000 else 0) - max(0, block.cumulative_lost))
        self.arrives = self.arrives or arrived > 0
        if packets:
            self.acknowledged = max(self.acknowledged, nbytes * min(arrived, packets) // packets)
        if self._moved or not self._blocks:
            self._moved = False
            self._waiting_since = None
        elif packets > self._packets and self._waiting_since is None:
            self._waiting_since = now
        elif self._waiting_since is not None and packets > self._packets and now - self._waiting_since > self._patience:
            raise PeerTimeout(f"the target has reported no packet of ours for {self._patience:g} s", code="target-silent")
        self._packets = packets
