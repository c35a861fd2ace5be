"""The sender's side of RTCP: sender reports on one clock for audio and video (RFC 3550 6.4.1), and what viewers report of us."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from medianode.protocols.rtp.rtcp import ReportBlock, ntp, round_trip, sender_report

_SLACK = 0.02  # seconds that media may come early or late before the clock follows
_SLEW = 0.001  # seconds that the clock follows in a second: 500 ppm is much for a crystal
_JUMP = 1.0
_JUMP_AFTER = 2.0  # seconds that media must stay off before the clock jumps


class MediaClock:
    """What UTC a media time has, one for all streams that play together: their lips move by it, so it changes slowly or not at all.

    Media time is in seconds, on any zero, the same for audio and video.
    """

    __slots__ = ("_offset", "_since", "_told_at")

    def __init__(self) -> None:
        self._offset: float | None = None
        self._since: float | None = None
        self._told_at = 0.0

    def observe(self, media: float, wallclock: float) -> None:
        """Something with this media time is sent now."""
        if self._offset is None:
            self._offset, self._told_at = wallclock - media, wallclock
            return
        off = wallclock - media - self._offset
        passed, self._told_at = wallclock - self._told_at, wallclock
        if abs(off) < _JUMP:
            self._since = None
            if abs(off) > _SLACK:
                step = min(max(passed, 0.0), 1.0) * _SLEW
                self._offset += min(max(off, -step), step)
        elif self._since is None or wallclock < self._since:
            self._since = wallclock
        elif wallclock - self._since >= _JUMP_AFTER:
            self._offset, self._since = self._offset + off, None

    def wallclock(self, media: float) -> float | None:
        """UTC seconds; None before anything was sent."""
        return None if self._offset is None else media + self._offset

    def media(self, wallclock: float) -> float | None:
        return None if self._offset is None else wallclock - self._offset


class SenderClock:
    """One outgoing SSRC: its counts and its sender reports."""

    __slots__ = ("_clock", "_media", "_timestamp", "clock_rate", "octets", "packets", "ssrc")

    def __init__(self, ssrc: int, clock_rate: int, clock: MediaClock) -> None:
        self.ssrc = ssrc
        self.clock_rate = clock_rate
        self.packets = 0
        self.octets = 0
        """Of payload, without headers and padding."""
        self._clock = clock
        self._media = 0.0
        self._timestamp: int | None = None

    def sent(self, timestamp: int, media: float, packets: int, octets: int) -> None:
        """An access unit or a run of audio went out: RTP `timestamp` (wrapped or not) of the media time `media` in seconds."""
        self._timestamp, self._media = timestamp, media
        self.packets += packets
        self.octets += octets

    def report(self, wallclock: float) -> bytes | None:
        """An SR for this instant; None before the first packet, when there is nothing to report of."""
        media = self._clock.media(wallclock)
        if self._timestamp is None or media is None:
            return None
        timestamp = self._timestamp + round((media - self._media) * self.clock_rate)
        return sender_report(self.ssrc, ntp(wallclock), timestamp, self.packets, self.octets)


class Reception:
    """How one viewer receives one SSRC, as it says. `loss`: share lost since its report before; `jitter` and `rtt` in seconds."""

    __slots__ = ("_clock_rate", "highest", "jitter", "loss", "lost", "reports", "rtt")

    def __init__(self, clock_rate: int) -> None:
        self._clock_rate = clock_rate
        self.loss = 0.0
        self.lost = 0
        self.highest = 0
        self.jitter = 0.0
        self.rtt: float | None = None
        """Smoothed as RFC 6298 does."""
        self.reports = 0

    def update(self, block: ReportBlock, now_ntp: int) -> None:
        """`now_ntp`: when the report came in, by the clock of our SRs."""
        self.reports += 1
        self.loss = block.fraction_lost / 256
        self.lost = block.cumulative_lost
        self.highest = block.highest
        self.jitter = block.jitter / self._clock_rate
        rtt = round_trip(block, now_ntp)
        if rtt is not None:
            self.rtt = rtt if self.rtt is None else self.rtt + (rtt - self.rtt) / 8


class Receptions:
    """What one viewer reports of the SSRCs that it is sent; `unknown` counts blocks of others."""

    __slots__ = ("by_ssrc", "unknown")

    def __init__(self, clock_rates: Mapping[int, int]) -> None:
        self.by_ssrc = {ssrc: Reception(rate) for ssrc, rate in clock_rates.items()}
        self.unknown = 0

    def update(self, blocks: Iterable[ReportBlock], now_ntp: int) -> None:
        for block in blocks:
            reception = self.by_ssrc.get(block.ssrc)
            if reception is None:
                self.unknown += 1
            else:
                reception.update(block, now_ntp)

    @property
    def rtt(self) -> float | None:
        """The smallest of the streams': one path serves them all."""
        return min((reception.rtt for reception in self.by_ssrc.values() if reception.rtt is not None), default=None)
