"""One outgoing stream: numbering, history, and the trains that viewers are sent. Nothing here knows a viewer.

Sequence numbers are kept unwrapped and go up by one per packet for ever; timestamps follow the wall clock over gaps, takeovers and
changes of source, and never step back. Packets in the history are immutable, padding and extension included: a retransmission
must be the very same plaintext, for libsrtp seals it under the very same index.
"""

from __future__ import annotations

import secrets
import struct
from collections.abc import Callable, Iterable
from math import ceil
from typing import NamedTuple

from medianode.media.track import Kind
from medianode.rtc.batch import MAX_RUN

MAX_PAYLOAD = 1164
"""So that header (12), playout-delay (8) and the longest tag (16) make 1200 bytes, which every path carries."""
CHUNK = 16
"""Packets per train of a frame that is too long for one."""
_RTP = struct.Struct(">BBHII").pack
_V2, _PADDING, _EXTENSION, _MARKER = 0x80, 0x20, 0x10, 0x80

Entry = tuple[int, int, int, bytes, bytes]
"""First byte, marker bit, timestamp, playout-delay (3 bytes), payload with its padding."""


class Train(NamedTuple):
    """Packets that go out together. `begins`: the first of a key frame. `nbytes` of payload."""

    first: int
    packets: int
    nbytes: int
    begins: bool
    reference: bool


class Look(NamedTuple):
    """What tells one viewer's header bytes from another's. `shift` and `ticks` are added to sequence and timestamp."""

    payload_type: int
    extension: int
    tag: int
    ssrc: int
    shift: int = 0
    ticks: int = 0


class Stitch:
    """Media time of all kinds of a source → one outgoing time in seconds, joined FORWARD by wall time where the source breaks.

    Video and audio are moved together, so lips stay in sync; by multiples of 10 ms, which are whole ticks of every RTP clock.
    """

    __slots__ = ("_broken", "_end", "_end_at", "_lag_at", "_last", "_shift", "_unsure", "lag")

    def __init__(self) -> None:
        self._shift = 0
        self._broken = False
        self._end = self._end_at = 0.0
        self._last: dict[Kind, int] = {}
        self._unsure: set[Kind] = set()
        self.lag: float | None = None
        """Arrival (`now`) less outgoing time, of the packets with the least delay: what sender reports go by."""
        self._lag_at = 0.0

    def broken(self) -> None:
        if self._last:
            self._broken = True

    def forget(self, kind: Kind) -> None:
        """Its clock is another one now."""
        self._last.pop(kind, None)
        self._unsure.discard(kind)

    def ticks(self, kind: Kind, pts: int, track_rate: int, rate: int, at: float) -> int:
        """Unwrapped ticks of `rate` for a packet that came at `at`."""
        media = pts / track_rate
        if self._broken:
            self._broken = False
            self._shift = ceil((self._end + max(0.0, at - self._end_at) - media) * 100) + 1
            self._unsure = set(self._last)
            self.lag = None
        ticks = (pts if track_rate == rate else pts * rate // track_rate) + self._shift * rate // 100
        if self._unsure and kind in self._unsure:
            self._unsure.discard(kind)
            behind = self._last[kind] - ticks
            if behind >= 0:
                step = behind * 100 // rate + 1
                self._shift += step
                ticks += step * rate // 100
        self._last[kind] = ticks
        out = media + self._shift / 100
        if out > self._end or at > self._end_at:
            self._end, self._end_at = max(out, self._end), at
        lag = at - out
        if self.lag is None or lag < self.lag:
            self.lag, self._lag_at = lag, at
        elif at > self._lag_at:
            # clocks drift, and the least delay may grow: follow it by half a millisecond a second
            self.lag, self._lag_at = min(lag, self.lag + (at - self._lag_at) * 0.0005), at
        return ticks

    def now_ticks(self, now: float, rate: int) -> int | None:
        """Where the outgoing time is at `now`; None before the first packet."""
        return None if self.lag is None else round((now - self.lag) * rate)


class Outgoing:
    """`rate` is the RTP clock. `max_packets` and `max_bytes` bound the history; `forget` is told of trains that leave it."""

    def __init__(self, kind: Kind, rate: int, max_packets: int, max_bytes: int, *, rtx: bool, random: Callable[[int], int]) -> None:
        self.kind = kind
        self.rate = rate
        self.ssrc = random(0xFFFFFFFE) + 1
        self.rtx_ssrc = random(0xFFFFFFFE) + 1 if rtx else None
        # the lower half: a receiver that misses the first packets must not see the first wrap before it knows the stream (RFC 3711 3.3.1)
        self.next = random(0x4000) + 1
        self.offset = random(0x100000000)
        self.delay = b"\0\0\0"
        self.packets: dict[int, Entry] = {}
        self.trains: dict[int, Train] = {}
        self.next_train = 0
        self.key_train: int | None = None
        """Where the newest key frame begins, while the history has it."""
        self.key_at = 0.0
        self.nbytes = 0
        self._tail = self.next
        self._tail_train = 0
        self._max_packets = max_packets
        self._max_bytes = max_bytes

    def keep(self, max_packets: int) -> None:
        """The history need not be longer from now on: nobody is to join late any more."""
        self._max_packets = min(self._max_packets, max_packets)

    def put_frame(self, payloads: list[bytes], ticks: int, *, keyframe: bool, reference: bool, now: float) -> int:
        """A picture. Returns its bytes."""
        stamp = (self.offset + ticks) & 0xFFFFFFFF
        first, last = self.next, len(payloads) - 1
        delay, packets = self.delay, self.packets
        for i, payload in enumerate(payloads):
            packets[first + i] = (_V2, _MARKER if i == last else 0, stamp, delay, payload)
        self.next += len(payloads)
        nbytes = sum(map(len, payloads))
        self.nbytes += nbytes
        if keyframe:
            self.key_train, self.key_at = self.next_train, now
        most = MAX_RUN if len(payloads) <= MAX_RUN else CHUNK
        start = 0
        for i in range(1, len(payloads) + 1):
            # a run is of one size but for its last packet
            if i > last or i - start == most or len(payloads[i - 1]) != len(payloads[start]) or len(payloads[i]) > len(payloads[start]):
                self._train(first + start, i - start, payloads[start:i], keyframe and start == 0, reference)
                start = i
        self._trim()
        return nbytes

    def put_samples(self, samples: list[tuple[bytes, int, bool]], now: float) -> int:
        """Sound that arrived together: (payload, ticks, marker)…. Those of about one size are padded to it (RFC 3550 5.1), for one train.

        What is over MAX_PAYLOAD goes alone, and IP cuts it. Returns their bytes.
        """
        total = 0
        group: list[tuple[bytes, int, bool]] = []
        for sample in samples:
            longest = max(len(group[0][0]), len(sample[0])) if group else 0
            if group and (len(group) == MAX_RUN or longest > MAX_PAYLOAD or not _near(len(group[0][0]), len(sample[0]))):
                total += self._put_group(group)
                group = []
            group.append(sample)
        if group:
            total += self._put_group(group)
        self.key_train, self.key_at = self.next_train, now
        self._trim()
        return total

    def _put_group(self, group: list[tuple[bytes, int, bool]]) -> int:
        first, last = self.next, len(group) - 1
        size = -(-max(len(payload) for payload, _, _ in group) // 16) * 16 if last else 0
        out = []
        for i, (payload, ticks, marker) in enumerate(group):
            head = _V2
            missing = size - len(payload)
            if i < last and missing > 0:
                payload += bytes(missing - 1) + bytes((missing,))
                head |= _PADDING
            self.packets[first + i] = (head, _MARKER if marker else 0, (self.offset + ticks) & 0xFFFFFFFF, b"", payload)
            out.append(payload)
        self.next += len(group)
        self.nbytes += sum(map(len, out))
        return self._train(first, len(out), out, True, True)

    def _train(self, first: int, count: int, payloads: list[bytes], begins: bool, reference: bool) -> int:
        nbytes = sum(map(len, payloads))
        self.trains[self.next_train] = Train(first, count, nbytes, begins, reference)
        self.next_train += 1
        return nbytes

    def _trim(self) -> None:
        packets, trains = self.packets, self.trains
        while len(packets) > self._max_packets or self.nbytes > self._max_bytes:
            self.nbytes -= len(packets.pop(self._tail)[4])
            self._tail += 1
        while self._tail_train < self.next_train and trains[self._tail_train].first < self._tail:
            if self.key_train == self._tail_train:
                self.key_train = None
            del trains[self._tail_train]
            self._tail_train += 1

    def render(self, sequences: Iterable[int], look: Look) -> list[bytes]:
        """RTP packets before sealing, as a viewer with this look is sent them. KeyError where the history has them no more."""
        payload_type, extension, _, ssrc, shift, ticks = look
        packets = self.packets
        out = []
        if extension:
            head = b"\xbe\xde\x00\x01" + bytes((extension << 4 | 2,))
            for sequence in sequences:
                first, marker, stamp, delay, payload = packets[sequence]
                number = (sequence + shift) & 0xFFFF
                rtp = _RTP(first | _EXTENSION, marker | payload_type, number, (stamp + ticks) & 0xFFFFFFFF, ssrc)
                out.append(b"".join((rtp, head, delay, payload)))
            return out
        for sequence in sequences:
            first, marker, stamp, _, payload = packets[sequence]
            rtp = _RTP(first, marker | payload_type, (sequence + shift) & 0xFFFF, (stamp + ticks) & 0xFFFFFFFF, ssrc)
            out.append(rtp + payload)
        return out


def playout_delay(seconds: float) -> bytes:
    """Minimum and maximum, 12 bits each in 10 ms (the playout-delay header extension). Without delay both are 0, libwebrtc's "at once";
    else the maximum is its own default of 10 s: a lower one keeps pictures from waiting for sound that is late.
    """
    least = max(0, min(4095, round(seconds * 100)))
    most = max(least, 1000) if least else 0
    return (least << 12 | most).to_bytes(3, "big")


def random_number(below: int) -> int:
    return secrets.randbelow(below)


def _near(one: int, other: int) -> bool:
    """Whether padding one to the other costs little against a packet of its own."""
    return abs(one - other) <= 48 and min(one, other) * 4 >= max(one, other) * 3
