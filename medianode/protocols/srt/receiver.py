"""Receiver: data packets of one connection in order and once; holes are asked for, waited for as long as the latency allows, then told.

The agreed latency bounds how long a hole may hold back what came behind it; without a hole nothing is held back. TSBPD (4.5) would add the
latency to every packet, to give pictures to a screen at an even pace: our readers go by media time.
"""

from __future__ import annotations

from typing import NamedTuple

from medianode.protocols.srt.packet import SEQUENCE_MASK, ahead

MIN_NAK_INTERVAL = 0.02
_NAK_BATCH = 1024
"""Holes in one answer of `losses`."""


class Lost(NamedTuple):
    """So many packets never came, right before what follows."""

    packets: int


Output = bytes | Lost


class Receiver:
    """`latency`: seconds. `max_packets`: between the next to hand on and the newest; what is further ahead is dropped and counted, but for
    two in a row: the path was away for longer than the window, and the sender has given up what lies between (4.6).

    As many holes at most are opened or given up between two calls of `losses`: a datagram of 17 bytes may open thousands.

    Of what was pushed each packet is counted once: received, duplicates, late or beyond.
    """

    __slots__ = (
        "_asked", "_budget", "_buffer", "_holes", "_latency", "_max", "_newest", "_next", "_stray", "beyond", "duplicates", "late", "lost",
        "nacked", "received", "recovered",
    )  # fmt: skip

    def __init__(self, sequence: int, latency: float, max_packets: int) -> None:
        self._next = sequence  # unbounded from here on; all behind it is handed on
        self._newest = sequence - 1
        self._latency = latency
        self._max = self._budget = max_packets
        self._buffer: dict[int, bytes] = {}
        self._holes: dict[int, float] = {}  # ascending: sequence → until when it is waited for
        self._asked: dict[int, float] = {}  # when it is asked for again
        self._stray: int | None = None  # the one that was too far ahead last
        self.received = 0
        self.duplicates = 0
        self.late = 0
        """Came after they were given up."""
        self.beyond = 0
        self.lost = 0
        """Given up."""
        self.recovered = 0
        """Came after they were asked for."""
        self.nacked = 0
        """Sequence numbers asked for, repetitions too."""

    def __len__(self) -> int:
        """Packets held behind a hole."""
        return len(self._buffer)

    @property
    def acknowledged(self) -> int:
        """The next sequence number that is wanted, 31 bits."""
        return self._next & SEQUENCE_MASK

    @property
    def room(self) -> int:
        """Packets that may still be held."""
        return max(2, self._max - (self._newest + 1 - self._next))

    def push(self, sequence: int, payload: bytes, now: float, out: list[Output]) -> None:
        """`sequence`: 31 bits. What may be handed on now goes to `out`."""
        at = self._next + ahead(sequence, self._next & SEQUENCE_MASK)
        if at == self._next and not self._holes:
            self._newest = at
            self._next = at + 1
            self.received += 1
            out.append(payload)
            return
        if at < self._next:
            self.late += 1
            return
        if self._next + self._max <= at < self._next + 2 * self._max:
            self._make_room(now, out)
        if at >= self._next + self._max and not self._resumed(at, now, out):
            self.beyond += 1
            return
        if at > self._newest:
            opened = at - self._newest - 1
            if opened > self._budget:
                self.beyond += 1
                return
            self._budget -= opened
            until = now + self._latency
            for missing in range(self._newest + 1, at):
                self._holes[missing] = until
            self._newest = at
        elif at in self._holes:
            del self._holes[at]
            self.recovered += self._asked.pop(at, None) is not None
        else:
            self.duplicates += 1
            return
        self.received += 1
        self._buffer[at] = payload
        self._hand_on(out)

    def _resumed(self, at: int, now: float, out: list[Output]) -> bool:
        """Is `at` the second in a row? Then all before it is given up."""
        before, self._stray = self._stray, at
        if before is None or at != before + 1:
            return False
        self._holes = dict.fromkeys(self._holes, float("-inf"))
        self.expire(now, out)
        self.lost += at - self._next
        out.append(Lost(at - self._next))
        self._next = at
        self._newest = at - 1
        return True

    def _make_room(self, now: float, out: list[Output]) -> None:
        """The window is full before the latency is over: the oldest hole is given up."""
        at = self._next
        while at in self._holes:
            self._holes[at] = float("-inf")
            at += 1
        self.expire(now, out)

    def _hand_on(self, out: list[Output]) -> None:
        buffer = self._buffer
        while (payload := buffer.pop(self._next, None)) is not None:
            out.append(payload)
            self._next += 1

    def give_up(self, first: int, last: int) -> None:
        """The sender will not send these again (DROPREQ): they are waited for no longer. 31 bits each."""
        begin = self._next + ahead(first, self._next & SEQUENCE_MASK)
        end = min(begin + ahead(last, first), self._next + self._max - 1)
        if (dropped := max(0, end + 1 - begin)) > self._budget:
            return
        self._budget -= dropped
        for missing in range(max(begin, self._next), end + 1):
            if missing in self._holes:
                self._holes[missing] = float("-inf")
            elif missing == self._newest + 1:  # nothing behind it has come yet
                self._holes[missing] = float("-inf")
                self._newest = missing

    def expire(self, now: float, out: list[Output]) -> None:
        """Hand on what was held by holes that were waited for long enough."""
        while self._holes:
            gone = 0
            while (until := self._holes.get(self._next)) is not None and until <= now:
                del self._holes[self._next]
                self._asked.pop(self._next, None)
                self._next += 1
                gone += 1
            if not gone:
                return
            self.lost += gone
            out.append(Lost(gone))
            self._hand_on(out)

    def losses(self, now: float, interval: float) -> list[int]:
        """What is to be asked for now: new holes at once, the others again after `interval` seconds. Ascending, unbounded."""
        self._budget = self._max
        if not self._holes:
            return []
        again = now + max(interval, MIN_NAK_INTERVAL)
        wanted = []
        for sequence, until in self._holes.items():
            if until > now and self._asked.get(sequence, 0.0) <= now:
                self._asked[sequence] = again
                wanted.append(sequence)
                if len(wanted) == _NAK_BATCH:
                    break
        self.nacked += len(wanted)
        return wanted
