"""One incoming SSRC: order, retransmission requests (RFC 4585), what its receiver reports say (RFC 3550 6.4, A.1, A.8).

Packets leave in order and once. A hole is asked for at once and again each round trip (libwebrtc's NackRequester), and holds back what
came behind it until it is filled, or given up; the packet behind a hole given up says `lost`.
"""

from __future__ import annotations

from typing import NamedTuple

from medianode.protocols.rtp.packet import RtpPacket
from medianode.protocols.rtp.rtcp import ReportBlock, SenderReport, wallclock

MAX_DROPOUT = 3000  # RFC 3550 A.1: a longer step is a sender that numbers anew, if the next packet follows it
MAX_MISORDER = 100  # RFC 3550 A.1; as many as may be held, if they are more
MAX_MISSING = 1000  # with more the path is down: asking would only add to it (libwebrtc)
MAX_TRIES = 10
MAX_NACKS = 256  # sequences in one answer of nacks(): one datagram at worst
_FOREIGN = 30  # seconds: an old sequence number with a stamp this far away belongs to another numbering
_NACK_EVERY = 0.02  # seconds at least
_LEAST_WAIT = 0.25  # on a short path too several requests fit in: of a fifth lost both ways one in three brings nothing
_REORDER_WAIT = 0.05  # without retransmissions only reordering fills a hole
_REORDER_MAX = 0.02  # seconds that a reordering path may hold back the first request


class Arrived(NamedTuple):
    """`lost`: one or more packets between this one and the one before it never came."""

    packet: RtpPacket
    lost: bool


class _Hole:
    __slots__ = ("ask_at", "since", "tries")

    def __init__(self, since: float, ask_at: float) -> None:
        self.since = since
        self.ask_at = ask_at
        self.tries = 0


class StreamReceiver:
    """`max_packets`: most sequence numbers between the next to deliver and the newest; beyond, the oldest holes are given up.

    A hole lives three round trips, at least 250 ms, at most `max_wait` seconds (all of them where it was never asked for); without `nack`
    50 ms, and is not asked for. Of what was
    pushed each packet is counted once: pushed = received + duplicates + late + strays, and received = delivered + padding + len(self).
    """

    __slots__ = (
        "_ask_at", "_base", "_buffer", "_clock_rate", "_expected_before", "_gap", "_given_up", "_highest", "_max",
        "_max_wait", "_missing", "_nack", "_next", "_received_before", "_reorder", "_rr_received", "_rtt", "_rtt_told", "_seen_sr",
        "_seen_sr_at", "_stamp", "_suspect", "_transit", "_wait", "_window", "delivered", "duplicates", "jitter", "late", "lost", "nacked",
        "padding", "received", "recovered", "restarts", "ssrc", "strays",
    )  # fmt: skip

    def __init__(self, clock_rate: int, *, max_packets: int, nack: bool, max_wait: float) -> None:
        self._clock_rate = clock_rate
        self._max = min(max_packets, 0x4000)  # what 16 bits can tell apart
        self._window = max(self._max, MAX_MISORDER)
        self._nack = nack
        self._max_wait = max_wait
        self._buffer: dict[int, RtpPacket] = {}  # by unwrapped sequence, all behind the first hole
        self._missing: dict[int, _Hole] = {}  # ascending; the first is `_next`
        self._given_up: dict[int, None] = {}  # newest of them, to tell a late packet from a duplicate
        self._next = self._base = 0
        self._highest = -1
        self._gap = False  # something was given up since the last delivery
        self._ask_at: float | None = None  # nothing is due before
        self._suspect: RtpPacket | None = None
        self._reorder = 0.0
        self._rtt = 0.1
        self._wait = 0.0
        self._stamp = 0
        self._transit: float | None = None
        self._rr_received = self._expected_before = self._received_before = 0
        self._seen_sr: SenderReport | None = None
        self._seen_sr_at = 0.0
        self.ssrc: int | None = None
        self.delivered = 0
        self.received = 0
        self.duplicates = 0
        self.late = 0
        """Came after they were given up, or before the first packet of all."""
        self.strays = 0
        """Far from the numbering or its stamps, and not followed by their next."""
        self.padding = 0
        """Packets without payload: they keep the numbering and are not delivered."""
        self.lost = 0
        """Given up."""
        self.recovered = 0
        """Came after they were asked for."""
        self.nacked = 0
        """Sequence numbers asked for, repetitions too."""
        self.restarts = 0
        self.jitter = 0.0
        """Ticks."""
        self.rtt = 0.1
        self._rtt_told = False

    def __len__(self) -> int:
        """Packets held behind a hole."""
        return len(self._buffer)

    @property
    def rtt(self) -> float:
        """Seconds; 100 ms until set."""
        return self._rtt

    @rtt.setter
    def rtt(self, seconds: float) -> None:
        self._rtt = max(seconds, 0.0)
        self._rtt_told = True
        self._wait = min(max(3 * self._rtt + _REORDER_MAX, _LEAST_WAIT) if self._nack else _REORDER_WAIT, self._max_wait)

    def push(self, packet: RtpPacket, now: float, *, retransmitted: bool = False) -> list[Arrived]:
        """What may be delivered now. `retransmitted`: unwrapped from RTX; such packets fill holes and count in no report."""
        ahead = ((packet.sequence - self._highest + 0x8000) & 0xFFFF) - 0x8000
        if self.ssrc is None:
            self.ssrc = packet.ssrc
            self._begin(packet)
            ahead = 1
        elif ahead <= 0 or ahead >= MAX_DROPOUT:
            return self._backward(packet, ahead, now, retransmitted)
        self._suspect = None
        self._highest = sequence = self._highest + ahead
        self.received += 1
        if not retransmitted:
            self._rr_received += 1
            stamp = packet.timestamp
            if stamp != self._stamp:
                transit = now * self._clock_rate - stamp
                if self._transit is not None:
                    change = abs(transit - self._transit)
                    if change < 5 * self._clock_rate:  # a jump of the stamps, or their wrap, is no jitter (libwebrtc)
                        self.jitter += (change - self.jitter) / 16
                self._transit = transit
                self._stamp = stamp
        if ahead == 1 and not self._missing:
            self._next = sequence + 1
            if not packet.payload:
                self.padding += 1
                return []
            self.delivered += 1
            lost, self._gap = self._gap, False
            return [Arrived(packet, lost)]
        return self._ahead(packet, sequence, ahead, now)

    def _begin(self, packet: RtpPacket) -> None:
        self._next = self._base = packet.sequence
        self._highest = packet.sequence - 1
        self._rr_received = self._expected_before = self._received_before = 0
        self._transit = None
        self._stamp = packet.timestamp ^ 1
        self._given_up.clear()

    def _ahead(self, packet: RtpPacket, sequence: int, ahead: int, now: float) -> list[Arrived]:
        """A packet behind one or more holes."""
        missing = self._missing
        arrived: list[Arrived] = []
        if ahead > 1:
            if ahead - 1 + len(missing) > MAX_MISSING:
                arrived = self._give_up_before(sequence)
            else:
                ask_at = now + self._reorder
                for hole in range(sequence - ahead + 1, sequence):
                    missing[hole] = _Hole(now, ask_at)
                if self._nack and (self._ask_at is None or ask_at < self._ask_at):
                    self._ask_at = ask_at
        self._buffer[sequence] = packet
        if sequence - self._next >= self._max:
            arrived += self._give_up_before(sequence - self._max + 1)
        return arrived + self._drain()

    def _backward(self, packet: RtpPacket, ahead: int, now: float, retransmitted: bool) -> list[Arrived]:
        """A packet that is not the newest: it fills a hole, or is a duplicate, or late, or of another numbering."""
        sequence = self._highest + ahead
        hole = self._missing.pop(sequence, None)
        if hole is None:
            apart = ((packet.timestamp - self._stamp + 0x80000000) & 0xFFFFFFFF) - 0x80000000
            if ahead > 0 or ahead <= -self._window or abs(apart) > _FOREIGN * self._clock_rate:
                if not retransmitted:
                    return self._probation(packet, now)
                self.strays += 1
                return []
            if sequence in self._given_up or sequence < self._base:
                self._given_up.pop(sequence, None)
                self.late += 1
            else:
                self.duplicates += 1
            if not retransmitted and sequence >= self._base:
                self._rr_received += 1
            return []
        self.received += 1
        if not retransmitted:
            self._rr_received += 1
        if hole.tries:
            self.recovered += 1
        age = now - hole.since
        self._learn(age, reordered=not retransmitted and (not hole.tries or (self._rtt_told and age - self._reorder < self._rtt / 2)))
        self._buffer[sequence] = packet
        return self._drain()

    def _learn(self, age: float, *, reordered: bool) -> None:
        """On a path that reorders the first request waits a little, on others not at all."""
        self._reorder = max(self._reorder, min(1.5 * age, _REORDER_MAX)) if reordered else self._reorder * 0.9

    def _probation(self, packet: RtpPacket, now: float) -> list[Arrived]:
        """RFC 3550 A.1: two packets in a row of another numbering are a sender that began anew; one alone is a stray."""
        before = self._suspect
        if before is None or packet.sequence != (before.sequence + 1) & 0xFFFF:
            self._suspect = packet
            self.strays += 1
            return []
        arrived = self.resync()
        self._suspect = None
        self.strays -= 1
        self.restarts += 1
        self._gap = True
        self._begin(before)
        return arrived + self.push(before, now) + self.push(packet, now)

    def poll(self, now: float) -> list[Arrived]:
        """Give up the holes whose time is over, and deliver what they held back."""
        missing = self._missing
        until = None
        for sequence, hole in missing.items():
            # one that was never asked for: our loop stood still, and the sender may well have it yet
            if hole.since + (self._wait if hole.tries or not self._nack else self._max_wait) > now:
                break
            until = sequence
        if until is None:
            return []
        self._reorder *= 0.9
        return self._give_up_before(until + 1) + self._drain()

    def skip_to(self, sequence: int) -> list[Arrived]:
        """Give up all holes before `sequence` (16 bits): a key frame from there on makes them moot."""
        ahead = ((sequence - self._highest + 0x8000) & 0xFFFF) - 0x8000
        return self._give_up_before(min(self._highest + ahead, self._highest + 1)) + self._drain()

    def resync(self) -> list[Arrived]:
        """Give up all holes."""
        return self._give_up_before(self._highest + 1) + self._drain()

    def _give_up_before(self, end: int) -> list[Arrived]:
        """All of `_next` up to `end`, holes given up, those beyond the newest packet too."""
        if end <= self._next:
            return []
        arrived: list[Arrived] = []
        missing, given_up = self._missing, self._given_up
        for sequence in range(self._next, end):
            packet = self._buffer.pop(sequence, None)
            if packet is not None:
                self._deliver(packet, arrived)
            else:
                missing.pop(sequence, None)
                given_up[sequence] = None
                self.lost += 1
                self._gap = True
        while len(given_up) > self._window:
            del given_up[next(iter(given_up))]
        self._next = end
        return arrived

    def _drain(self) -> list[Arrived]:
        """What stands before the first hole."""
        arrived: list[Arrived] = []
        end = next(iter(self._missing)) if self._missing else self._highest + 1
        for sequence in range(self._next, end):
            self._deliver(self._buffer.pop(sequence), arrived)
        self._next = end
        if not self._missing:
            self._ask_at = None
        return arrived

    def _deliver(self, packet: RtpPacket, arrived: list[Arrived]) -> None:
        if not packet.payload:
            self.padding += 1
            return
        self.delivered += 1
        arrived.append(Arrived(packet, self._gap))
        self._gap = False

    def nacks(self, now: float) -> list[int]:
        """Sequence numbers (16 bits) to ask for now, in order, at most MAX_NACKS at a time. Call `poll` before."""
        if self._ask_at is None or now < self._ask_at:
            return []
        again = now + max(self._rtt, _NACK_EVERY)
        due: list[int] = []
        soonest: float | None = None
        for sequence, hole in self._missing.items():
            if hole.tries >= MAX_TRIES:
                continue
            if hole.ask_at <= now and len(due) < MAX_NACKS:
                due.append(sequence & 0xFFFF)
                hole.tries += 1
                hole.ask_at = again
                if hole.tries == MAX_TRIES:
                    continue
            if soonest is None or hole.ask_at < soonest:
                soonest = hole.ask_at
        self._ask_at = soonest
        self.nacked += len(due)
        return due

    @property
    def next_wake(self) -> float | None:
        """When `poll` and `nacks` want to be called at the latest; None while nothing is missing."""
        missing = self._missing
        if not missing:
            return None
        end = missing[next(iter(missing))].since + self._wait
        return end if self._ask_at is None or self._ask_at > end else self._ask_at

    def on_sender_report(self, report: SenderReport, now: float) -> None:
        self._seen_sr = report
        self._seen_sr_at = now

    def wallclock(self, timestamp: int) -> float | None:
        """UTC seconds, by the sender's clock, of an RTP timestamp; None before the first SR with a clock (NTP 0: RFC 3550 6.4.1)."""
        report = self._seen_sr
        if report is None or not report.ntp:
            return None
        ticks = ((timestamp - report.timestamp + 0x80000000) & 0xFFFFFFFF) - 0x80000000
        return wallclock(report.ntp) + ticks / self._clock_rate

    @property
    def holes(self) -> int:
        """Sequence numbers waited for."""
        return len(self._missing)

    def report(self, now: float) -> ReportBlock:
        """The block for an RR; the fraction lost is since the last call (RFC 3550 A.3)."""
        expected = self._highest + 1 - self._base
        received = self._rr_received
        fresh = expected - self._expected_before
        gone = fresh - (received - self._received_before)
        self._expected_before, self._received_before = expected, received
        fraction = min(gone * 256 // fresh, 255) if fresh > 0 and gone > 0 else 0
        last_sr = delay = 0
        if self._seen_sr is not None:
            last_sr = self._seen_sr.ntp >> 16 & 0xFFFFFFFF
            delay = int((now - self._seen_sr_at) * 65536) & 0xFFFFFFFF
        highest = max(self._highest, 0) & 0xFFFFFFFF
        return ReportBlock(self.ssrc or 0, fraction, expected - received, highest, int(self.jitter), last_sr, delay)
