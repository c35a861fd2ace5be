"""Transport-wide congestion control feedback (draft-holmer-rmcat-transport-wide-cc-extensions-01 3.1): when which packet arrived.

Without it Chrome publishes at 300 kbps.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from struct import Struct

TICKS = 4000
"""Of deltas, a second: 250 µs each. A unit of the reference time is 256 of them, 64 ms."""

_BACK = TICKS // 2  # reported arrivals are kept for 500 ms, for packets that come after their neighbours were reported (libwebrtc)
_ROOM = 1150  # bytes of one feedback, so that the sealed datagram keeps to any MTU
_HEADER = Struct("!BBHIIHHI")
_CHUNK = Struct("!H")
_LARGE = Struct("!h")
_RUN = re.compile(rb"\x00+|\x01+|\x02+")
_DIGITS = bytes.maketrans(b"\x00\x01\x02", b"012")
_LOST, _SMALL_DELTA, _LARGE_DELTA = 0, 1, 2


class ArrivalLog:
    """Arrivals of one transport, of all its SSRCs together; at most `max_packets` are remembered.

    `feedback` begins where the last one ended, so that losses between two are told too, or at the oldest packet that has come late since.
    """

    __slots__ = ("_base", "_count", "_floor", "_highest", "_max", "_sequences", "_suspect", "_times", "dropped", "duplicates", "late")

    def __init__(self, max_packets: int) -> None:
        self._max = max_packets
        self._sequences: list[int] = []  # unwrapped, ascending
        self._times: list[int] = []  # ticks, one for each sequence
        self._base = 0  # first not yet reported
        self._highest: int | None = None
        self._floor: int | None = None  # all that came from here on is still remembered
        self._suspect = -1
        self._count = 0
        self.dropped = 0
        """Forgotten unreported, over `max_packets`."""
        self.duplicates = 0
        self.late = 0
        """Too old to report."""

    def __len__(self) -> int:
        return len(self._sequences)

    def arrived(self, sequence: int, now: float) -> None:
        """A packet with this value of the extension (16 bits) came in."""
        highest = self._highest
        if highest is None:
            self._highest = self._base = sequence
        else:
            ahead = ((sequence - highest + 0x8000) & 0xFFFF) - 0x8000
            sequence = highest + ahead
            if ahead <= 0:
                self._reordered(highest, sequence, now)
                return
            self._highest = sequence
        self._sequences.append(sequence)
        self._times.append(int(now * TICKS + 0.5))
        if len(self._sequences) > self._max:
            self._forget(1)

    def _reordered(self, highest: int, sequence: int, now: float) -> None:
        sequences = self._sequences
        at = bisect_left(sequences, sequence)
        if at < len(sequences) and sequences[at] == sequence:
            self.duplicates += 1
            return
        if sequence < self._base:
            if highest - sequence > self._max if self._floor is None else sequence < self._floor:
                self._too_late(highest, sequence, now)
                return
            self._base = sequence
        sequences.insert(at, sequence)
        self._times.insert(at, int(now * TICKS + 0.5))
        if len(sequences) > self._max:
            self._forget(1)

    def _too_late(self, highest: int, sequence: int, now: float) -> None:
        """Older than all we remember; two in a row from far away are a sender that numbers anew (RFC 3550 A.1)."""
        if sequence & 0xFFFF == self._suspect and highest - sequence > self._max:
            self._forget(len(self._sequences))
            self._highest = self._floor = None
            self._suspect = -1
            self.arrived(sequence & 0xFFFF, now)
            return
        self._suspect = (sequence + 1) & 0xFFFF
        self.late += 1

    def _forget(self, count: int) -> None:
        """The oldest `count`."""
        if not count:
            return
        unreported = count - bisect_left(self._sequences, self._base, 0, count)
        self._floor = self._sequences[count - 1] + 1
        if unreported:
            self.dropped += unreported
            self._base = self._floor
        del self._sequences[:count]
        del self._times[:count]

    def feedback(self, now: float, sender_ssrc: int, media_ssrc: int) -> bytes | None:
        """One RTCP packet of what is not yet reported; None if nothing is. What does not fit waits for the next call: call until None."""
        sequences, times = self._sequences, self._times
        if not sequences or sequences[-1] < self._base:
            return None
        at = first = bisect_left(sequences, self._base)
        if sequences[at] - self._base > 0x7FFF:  # more than the counter could tell
            self._base = sequences[at]
        base = expected = self._base
        reference = times[at] >> 8
        previous = reference << 8
        symbols = bytearray()
        deltas = bytearray()
        room = float(_ROOM - 20)
        for at in range(first, len(sequences)):
            gap = sequences[at] - expected
            delta = times[at] - previous
            if gap + len(symbols) >= 0xFFFF or not -0x8000 <= delta <= 0x7FFF:
                break
            small = 0 <= delta <= 0xFF
            room -= (1.3 if small else 2.3) + (4 + (gap >> 12) if gap else 0)
            if room < 0:
                break
            symbols += bytes(gap)
            if small:
                symbols.append(_SMALL_DELTA)
                deltas.append(delta)
            else:
                symbols.append(_LARGE_DELTA)
                deltas += _LARGE.pack(delta)
            previous = times[at]
            expected = sequences[at] + 1
        self._base = expected
        old = bisect_left(sequences, expected)
        horizon = int(now * TICKS + 0.5) - _BACK
        keep = 0
        while keep < old and times[keep] < horizon:
            keep += 1
        self._forget(keep)
        body = _chunks(bytes(symbols)) + deltas
        padding = -len(body) % 4
        head = _HEADER.pack(
            0x8F | (0x20 if padding else 0),
            205,
            4 + (len(body) + padding >> 2),
            sender_ssrc,
            media_ssrc,
            base & 0xFFFF,
            len(symbols),
            (reference & 0xFFFFFF) << 8 | self._count,
        )
        self._count = (self._count + 1) & 0xFF
        return head + body + (bytes(padding - 1) + bytes((padding,)) if padding else b"")


def _chunks(symbols: bytes) -> bytes:
    """Status chunks (3.1.2): a run length where one symbol fills a vector or all that is left, else 14 symbols of a bit or 7 of two."""
    chunks = bytearray()
    at, size = 0, len(symbols)
    while at < size:
        match = _RUN.match(symbols, at)
        assert match is not None
        end = match.end()
        wide = symbols.find(_LARGE_DELTA, at, at + 14) >= 0
        if end == size or end - at >= (7 if wide else 14):
            end = min(end, at + 0x1FFF)
            chunks += _CHUNK.pack(symbols[at] << 13 | end - at)
            at = end
        elif wide:
            chunks += _CHUNK.pack(0xC000 | int(symbols[at : at + 7].ljust(7, b"\0").translate(_DIGITS), 4))
            at += 7
        else:
            chunks += _CHUNK.pack(0x8000 | int(symbols[at : at + 14].ljust(14, b"\0").translate(_DIGITS), 2))
            at += 14
    return bytes(chunks)
