"""A flow: one viewer's share of one stream.

In step with everybody it is a line in a row of the shared path. Where it is not (it joined late, was thinned, moved to another broadcast,
or sits behind TCP) it is numbered by itself: what it does not get leaves no hole in its sequence numbers. Once numbered by itself a flow
stays so, for going back would be a jump.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from medianode.errors import MedianodeError, PeerGone
from medianode.media.track import Kind
from medianode.protocols.sdp.plan import SendMedia
from medianode.rtc.batch import MAX_PACKET, MAX_RUN
from medianode.rtc.outgoing import Look, Outgoing, Train
from medianode.rtc.pacing import MIN_RATE, Budget
from medianode.rtc.srtp import Sealer

if TYPE_CHECKING:
    from medianode.rtc.channel import Channel, Layout
    from medianode.rtc.viewer import Viewer

WRAP_MARGIN = 300
REPLAY_WINDOW = 1000
"""Packets back that can be sealed again: libsrtp's window is 1024."""
RESENT = 1024
"""Retransmissions remembered, so that one asked for twice within a round trip is sent once."""
ORIGINS = 4096
FRAMING = 38
"""Bytes at most that a packet over TCP has besides its payload: length, header, extension, tag."""
CATCH_UP = 4.0
"""Times the stream's rate at which a late joiner is brought up to now."""


class Stream(Protocol):
    """ICE-TCP (`rtc.tcp`)."""

    @property
    def unsent(self) -> int: ...
    def send(self, packets: list[bytes]) -> object: ...


class Peer(Protocol):
    """What of `rtc.peer.Peer` the fan-out uses."""

    @property
    def sealer(self) -> Sealer | None: ...
    @property
    def address(self) -> Any: ...
    @property
    def ancillary(self) -> list[tuple[int, int, bytes]]: ...
    @property
    def stream(self) -> Stream | None: ...
    @property
    def rtt(self) -> float: ...
    def send_rtcp(self, plain: bytes) -> None: ...
    def close(self, error: MedianodeError | None = None) -> None: ...


class Origin(NamedTuple):
    """From `first` on the viewer's sequence numbers are those of `outgoing` plus `shift`, its timestamps plus `ticks`."""

    first: int
    outgoing: Outgoing
    shift: int
    ticks: int


class Squeeze:
    """The timestamps of a flow that catches up advance as its packets do: `CATCH_UP` times slower than they were recorded, from now on, and
    meet the others' at the end. As they were, a player would take them for a clock that runs so fast, and show pictures at the wrong
    time long after: a quarter of a second before their sound in Chromium, and without the playout delay that was asked for.
    """

    __slots__ = ("_age", "_stamp", "_start", "ticks")

    def __init__(self) -> None:
        self._start = self._stamp = -1
        self._age = 0
        self.ticks = 0
        """To add to the timestamps of the picture that `advance` was told of last."""

    def advance(self, stamp: int, newest: int, left: int) -> int:
        """For the next train, of the picture at `stamp`: 32 bits, like `newest`, the picture that the others got last. `left`: trains
        that are to follow before that one.
        """
        if stamp == self._stamp:
            return self.ticks
        behind = (newest - stamp) & 0xFFFFFFFF
        if self._start < 0:
            # a picture less, for the newest goes up in steps
            self._start, self._age = stamp, behind - behind // max(1, left)
            least = 0
        else:
            least = self.ticks - ((stamp - self._stamp) & 0xFFFFFFFF) + 1
        slowed = self._age - int(((stamp - self._start) & 0xFFFFFFFF) * (1 - 1 / CATCH_UP))
        self._stamp = stamp
        self.ticks = max(0, least, min(slowed, behind - left))
        return self.ticks


class Flow:
    """One viewer's share of one stream: a Target of the batch."""

    __slots__ = (
        "_baseline", "_budget", "_origins", "_own", "_resent", "_rtx_next", "_squeeze", "channel", "cursor",
        "gone", "holding", "layout", "look", "media", "moved", "next", "off", "peer", "plain", "row", "rtx_ssrc", "ssrc", "tag",
        "thinned", "viewer", "waiting",
    )  # fmt: skip

    def __init__(self, viewer: Viewer, channel: Channel, media: SendMedia) -> None:
        self.viewer = viewer
        self.peer = viewer.peer
        self.channel = channel
        self.media = media
        outgoing = channel.outgoing
        self.ssrc, self.rtx_ssrc = outgoing.ssrc, outgoing.rtx_ssrc if media.rtx is not None else None
        sealer = viewer.peer.sealer
        if sealer is None:
            raise PeerGone("expected a connected peer")
        self.tag = sealer.tag
        extension = media.playout_delay if media.kind is Kind.VIDEO and 0 < media.playout_delay < 15 else 0
        self.look = Look(media.payload_type, extension, self.tag, self.ssrc)
        self.layout: Layout | None = None
        """The shared path's, while in step with everybody."""
        self.row: Any = None
        self.plain = False
        """Its route takes no GSO."""
        self.waiting = False
        """For the first key frame."""
        self.gone = False
        self.off = False
        self.thinned = False
        self.holding = False
        """Nothing goes out before the next key frame."""
        self.cursor: int | None = None
        """The train to send next, while behind the others."""
        self.next = -1
        """The sequence number, unwrapped, after the highest sent by itself."""
        self._own = [0, 0]
        self._baseline = (0, 0)
        self.moved = 0
        """Ticks that timestamps are ahead of the channel's, catching up aside: it came from another one."""
        self._origins: list[Origin] = []
        self._squeeze = Squeeze()
        self._budget = Budget()
        self._resent: dict[int, float] = {}
        self._rtx_next = 1

    # -- where it stands --------------------------------------------------------------------------------------------------------------

    @property
    def counts(self) -> tuple[int, int]:
        """Packets and bytes of payload, as a sender report has them."""
        packets, nbytes = self._own
        if self.layout is not None:
            packets += self.layout.packets - self._baseline[0]
            nbytes += self.layout.nbytes - self._baseline[1]
        return packets, nbytes

    @property
    def origin(self) -> Origin:
        return self._origins[-1]

    def entered(self, layout: Layout) -> None:
        """It is on the shared path now."""
        self.layout = layout
        self._baseline = (layout.packets, layout.nbytes)

    def left(self) -> None:
        """It is numbered by itself from here on."""
        if self.layout is not None:
            packets, nbytes = self.counts
            self.layout = None
            self._own = [packets, nbytes]
            self.next = self.channel.sent_next

    def start(self, cursor: int, first: int) -> None:
        """Begin with this train, whose first sequence number is `first`.

        Not within WRAP_MARGIN of a wrap: should the packets before it be lost, the receiver would begin to count rollovers after it, and
        never open a packet again (RFC 3711 3.3.1). Such a flow is numbered from beyond the wrap on.
        """
        left = 0x10000 - (first & 0xFFFF)
        shift = left if left < WRAP_MARGIN else 0
        self.waiting = False
        self.cursor = cursor
        self.next = first + shift
        self.moved = 0
        self._squeeze = Squeeze()
        self._origins = [Origin(self.next, self.channel.outgoing, shift, 0)]
        self._relook()

    @property
    def shareable(self) -> bool:
        origin = self._origins[-1]
        return (
            not (origin.shift or origin.ticks or self.thinned or self.holding or self.off)
            and self.ssrc == self.channel.outgoing.ssrc
            and self.peer.stream is None
        )

    def _relook(self) -> None:
        _, _, shift, ticks = self._origins[-1]
        self.look = self.look._replace(shift=shift, ticks=ticks)

    def _shift(self, outgoing: Outgoing, shift: int, ticks: int) -> None:
        """From the next packet on other numbers."""
        origins = self._origins
        if origins and origins[-1].first == self.next:
            origins.pop()
        origins.append(Origin(self.next, outgoing, shift, ticks))
        if len(origins) > ORIGINS:
            del origins[: ORIGINS // 2]
        self._relook()

    def prune(self) -> None:
        """Forget the numbering of what is too old to be asked for again: catching up left one for each picture."""
        origins = self._origins
        if len(origins) > 1:
            newest = self.next if self.layout is None else self.channel.sent_next + self.origin.shift
            window = REPLAY_WINDOW if self.rtx_ssrc is None else ORIGINS
            del origins[: max(0, bisect_right(origins, newest - window, key=_first) - 1)]

    # -- sending by itself ------------------------------------------------------------------------------------------------------------

    def offer(self, train: Train) -> None:
        """The next train of the stream: sent, or left out without a trace."""
        outgoing = self.channel.outgoing
        if self._unwanted(train):
            self._shift(outgoing, self.origin.shift - train.packets, self.origin.ticks)
            return
        look, first = self.look, train.first
        packets = self.channel.render(train, look)
        self.next = first + look.shift + train.packets
        self._own[0] += train.packets
        self._own[1] += train.nbytes
        self.transmit(packets)

    def _unwanted(self, train: Train) -> bool:
        viewer = self.viewer
        cause = ""
        stream = self.peer.stream
        if self.off:
            cause = "video-off"
        elif self.holding and not train.begins:
            cause = viewer.hold_cause
        elif stream is not None and stream.unsent + train.nbytes + FRAMING * train.packets > viewer.max_tcp_unsent:
            cause = "tcp-unsent"
            if self.media.kind is Kind.VIDEO:
                self.holding = True
                viewer.hold_cause = cause
                viewer.hold_events += 1
        elif self.thinned and not train.reference:
            cause = "thinned"
        if cause:
            viewer.dropped[cause] = viewer.dropped.get(cause, 0) + train.packets
            return True
        self.holding = False
        return False

    def transmit(self, packets: list[bytes]) -> None:
        """Seal and send packets of one size but the last, on whichever path."""
        batch = self.channel.batch
        run = batch.lay(packets, self.tag)
        stream = self.peer.stream
        if stream is None:
            batch.send_run(self, run, plain=self.plain)
            return
        sealed = batch.seal(self, run)
        if sealed is not None:
            segment = run.segment
            stream.send([sealed[at : at + segment] for at in range(0, len(sealed), segment)])

    @property
    def wait(self) -> float:
        """Of a Paced: seconds until its budget opens."""
        return self._budget.wait

    def pump(self, now: float) -> bool:
        """Catch up with the others; False when done."""
        channel, budget = self.channel, self._budget
        budget.rate = max(CATCH_UP * channel.rate.value, MIN_RATE)
        if self.cursor is not None and self.cursor > channel.cursor:
            return not self.gone  # it begins with what the others are yet to be sent
        while self.cursor is not None and self.cursor < channel.cursor and not self.gone:
            if not budget.open(now):
                return True
            train = channel.outgoing.trains.get(self.cursor)
            if train is None:
                self._overtaken()
                break
            budget.take(train.nbytes)
            if self.media.kind is Kind.VIDEO:
                self._slow_down(train)
            self.cursor += 1
            self.offer(train)
        if self.cursor is not None and not self.gone:
            channel.caught_up(self)
        return False

    def _slow_down(self, train: Train) -> None:
        """Let this train's timestamps say when it comes, and not when it was recorded."""
        channel, cursor = self.channel, self.cursor
        outgoing = channel.outgoing
        newest = outgoing.trains.get(channel.cursor - 1)
        if newest is None or cursor is None:
            return
        packets = outgoing.packets
        ticks = self.moved + self._squeeze.advance(packets[train.first][2], packets[newest.first][2], channel.cursor - 1 - cursor)
        if ticks != self.origin.ticks:
            self._shift(outgoing, self.origin.shift, ticks)

    def _overtaken(self) -> None:
        """The history lost what it was to get next: go on with the next key frame, numbered without a hole."""
        channel = self.channel
        self.viewer.hold_cause = "overtaken"
        self.holding = True
        self.cursor = channel.cursor
        self._shift(channel.outgoing, self.next - channel.sent_next, self.moved)

    def rebase(self, channel: Channel, ticks: int, cursor: int, first: int) -> None:
        """Go on with another broadcast's stream, from this train on, which begins a key frame."""
        self.channel = channel
        self.holding = False
        self.cursor = cursor
        self.moved = ticks
        self._squeeze = Squeeze()
        self._shift(channel.outgoing, self.next - first, ticks)

    def last_timestamp(self) -> int | None:
        """Of the newest packet sent, while the history has it."""
        _, outgoing, shift, ticks = self._origins[-1]
        entry = outgoing.packets.get(self.next - 1 - shift)
        return None if entry is None else (entry[2] + ticks) & 0xFFFFFFFF

    # -- retransmission ---------------------------------------------------------------------------------------------------------------

    def resend(self, sequences: list[int], now: float) -> None:
        """Answer a NACK: the identical packets, or the same under the RTX SSRC (RFC 4588)."""
        viewer, last = self.viewer, (self.channel.sent_next if self.layout is not None else self.next) - 1
        quiet = max(viewer.rtt, self.peer.rtt, 0.01)
        budget = viewer.resends
        budget.rate = max(self.channel.rate.value / 2, MIN_RATE / 16)
        group: list[bytes] = []
        most = MAX_RUN
        for sequence in sequences:
            back = (last - sequence) & 0xFFFF
            number = last - back
            packet = self._again(number, back, now, quiet)
            if packet is None:
                continue
            viewer.ladder.nacked += 1
            budget.take(len(packet))
            self._remember(number, now)
            viewer.resent += 1
            if group and (len(packet) > len(group[0]) or len(group[-1]) != len(group[0]) or len(group) == most):
                self.transmit(group)
                group = []
            if not group:
                most = MAX_RUN if len(packet) + self.tag <= MAX_PACKET else 1
            group.append(packet)
        if group:
            self.transmit(group)

    def _again(self, number: int, back: int, now: float, quiet: float) -> bytes | None:
        """The packet that was sent as `number`, or None with its cause counted."""
        cause = ""
        i = bisect_right(self._origins, number, key=_first) - 1
        if i < 0 or back >= 0x8000:
            cause = "not-sent"
        elif now - self._resent.get(number, -1.0) < quiet:
            cause = "repeated"
        elif self.rtx_ssrc is None and back >= REPLAY_WINDOW:
            cause = "too-old"
        else:
            _, outgoing, shift, ticks = self._origins[i]
            if number - shift in outgoing.packets and not self.viewer.resends.open(now):
                cause = "over-cap"
                self.viewer.ladder.nacked += 1
            elif number - shift in outgoing.packets:
                packet = outgoing.render((number - shift,), self.look._replace(shift=shift, ticks=ticks))[0]
                return packet if self.rtx_ssrc is None else self._wrapped(packet)
            else:
                cause = "too-old"
        self.viewer.ignored[cause] = self.viewer.ignored.get(cause, 0) + 1
        return None

    def _wrapped(self, packet: bytes) -> bytes:
        """RFC 4588 4: the original sequence number before the payload; its own SSRC, sequence and payload type."""
        assert self.rtx_ssrc is not None
        number = self._rtx_next & 0xFFFF
        self._rtx_next += 1
        head = 20 if packet[0] & 0x10 else 12
        kind = packet[1] & 0x80 | (self.media.rtx or 0)
        ssrc = self.rtx_ssrc.to_bytes(4, "big")
        return b"".join(
            (packet[:1], bytes((kind,)), number.to_bytes(2, "big"), packet[4:8], ssrc, packet[12:head], packet[2:4], packet[head:])
        )

    def _remember(self, number: int, now: float) -> None:
        resent = self._resent
        resent.pop(number, None)
        resent[number] = now
        if len(resent) > RESENT:
            del resent[next(iter(resent))]

    # -- Target -----------------------------------------------------------------------------------------------------------------------

    def lost(self, cause: str, packets: int) -> None:
        self.viewer.dropped[cause] = self.viewer.dropped.get(cause, 0) + packets

    def refused(self) -> None:
        if not self.plain:
            self.plain = True
            self.channel.replant(self)

    def failed(self, message: str) -> None:
        self.viewer.fail(PeerGone(message, code="seal-failed"))


def _first(origin: Origin) -> int:
    return origin.first
