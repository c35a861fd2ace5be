"""A viewer: the flows it is sent, what it says of them, and how it fares."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from medianode import clock
from medianode.errors import MedianodeError, ProtocolError
from medianode.media.track import Kind
from medianode.protocols.rtp.rtcp import ReportBlock, ntp, read_feedback, round_trip, sdes, sender_report
from medianode.rtc.flow import Flow, Peer
from medianode.rtc.ladder import Ladder, State
from medianode.rtc.pacing import MIN_RATE, Budget

if TYPE_CHECKING:
    from medianode.rtc.channel import Channel

RESEND_BURST = 262_144.0
"""Bytes of retransmissions that a viewer may have at once; then half of its stream's rate."""


MAX_ASKED = 4096
"""Packets a second that NACKs of one viewer are looked up for: one datagram can name 6000."""


class Stats(NamedTuple):
    """`packets` and `nbytes` (of payload) sent, retransmissions aside; `loss` as the last report had it, 0 to 1; `rtt` in seconds, 0.0 when
    not known; `reason` is empty while `live`.
    """

    packets: int
    nbytes: int
    resent: int
    dropped: dict[str, int]
    loss: float
    nacked: int
    rtt: float
    state: State
    reason: str


class Viewer:
    """Made by `Broadcast.add`. Visited once a second: sender reports, and a look at how it fares."""

    def __init__(self, peer: Peer, cname: str, max_tcp_unsent: int) -> None:
        self.peer = peer
        self.cname = cname
        self.max_tcp_unsent = max_tcp_unsent
        self.flows: dict[Kind, Flow] = {}
        self.slot = 0
        self.invited: Channel | None = None
        """The channel that its pictures are to come from."""
        self.closed = False
        self.dropped: dict[str, int] = {}
        self.ignored: dict[str, int] = {}
        """NACKed packets that were not sent again, by cause."""
        self.resent = 0
        self.nacked = 0
        self._asked = 0
        """Packets named by NACKs since the last visit."""
        self.loss = 0.0
        self._highest: dict[int, int] = {}
        self.rtt = 0.0
        self.garbage = 0
        self.hold_cause = "waiting-for-keyframe"
        self.hold_events = 0
        self.resends = Budget(MIN_RATE / 16, RESEND_BURST)
        self.ladder = Ladder(self)

    # -- RTCP in ----------------------------------------------------------------------------------------------------------------------

    def rtcp(self, packet: bytes, now: float) -> None:
        """A decrypted compound from the peer. Garbage is counted, never raised."""
        try:
            reports, nacks, keyframes = read_feedback(packet)
        except ProtocolError:
            self.garbage += 1
            return
        flows = self.flows
        for block in reports:
            for flow in flows.values():
                if block.ssrc == flow.ssrc:
                    self._report(block)
        for ssrc, sequences in nacks:
            for flow in flows.values():
                if ssrc == flow.ssrc:
                    self.nacked += len(sequences)
                    left = max(0, MAX_ASKED - self._asked)
                    self._asked += len(sequences)
                    if left < len(sequences):
                        self.ignored["over-cap"] = self.ignored.get("over-cap", 0) + len(sequences) - left
                    flow.resend(sequences[:left], now)
        if keyframes:
            video = flows.get(Kind.VIDEO)
            if video is not None and not video.off and any(ssrc in (video.ssrc, 0) for ssrc in keyframes):
                video.channel.want_keyframe(now)

    def _report(self, block: ReportBlock) -> None:
        self.loss = block.fraction_lost / 256
        known = self._highest.get(block.ssrc, block.highest)
        self._highest[block.ssrc] = block.highest
        fresh = (block.highest - known) & 0xFFFFFFFF
        if fresh < 1 << 31:
            self.ladder.report(self.loss * fresh, fresh)
        rtt = round_trip(block, ntp(clock.wallclock()))
        if rtt is not None:
            self.rtt = rtt if not self.rtt else 0.75 * self.rtt + 0.25 * rtt

    # -- once a second ----------------------------------------------------------------------------------------------------------------

    def visit(self, now: float) -> None:
        self._asked = 0
        self._send_reports(now)
        stream = self.peer.stream
        for flow in self.flows.values():
            flow.prune()
            if flow.layout is not None and stream is not None:
                flow.channel.detach(flow)  # it moved to TCP
            if (flow.holding or flow.waiting) and not flow.off and (stream is None or stream.unsent <= self.max_tcp_unsent // 2):
                flow.channel.want_keyframe(now)  # whoever fell behind on TCP has asked for none; and a request may be lost
        self.ladder.climb(now)

    def _send_reports(self, now: float) -> None:
        """SRs of all streams in one compound, of one instant: that is what lips are synchronised by."""
        stamp = ntp(clock.wallclock())
        reports = []
        ssrc = 0
        for flow in self.flows.values():
            packets, nbytes = flow.counts
            timestamp = flow.channel.timestamp(now)
            if packets and timestamp is not None:
                ssrc = ssrc or flow.ssrc
                reports.append(sender_report(flow.ssrc, stamp, timestamp + flow.moved, packets, nbytes))
        if reports:
            self.peer.send_rtcp(b"".join((*reports, sdes(ssrc, self.cname))))

    def fail(self, error: MedianodeError) -> None:
        """Nothing more can be sent to it."""
        if not self.closed:
            self.leave()
            self.peer.close(error)

    def leave(self) -> None:
        """Out of all streams. Idempotent."""
        self.closed = True
        for flow in self.flows.values():
            flow.gone = True
            flow.channel.drop(flow)

    @property
    def stats(self) -> Stats:
        counts = [flow.counts for flow in self.flows.values()]
        state, reason = self.ladder.state
        packets, nbytes = sum(c[0] for c in counts), sum(c[1] for c in counts)
        dropped = {**self.dropped, **{f"nack-{cause}": n for cause, n in self.ignored.items()}}
        return Stats(packets, nbytes, self.resent, dropped, self.loss, self.nacked, self.rtt or self.peer.rtt, state, reason)
