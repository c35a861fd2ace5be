"""What a publisher is told: transport-cc, receiver reports, requests for lost packets and for key frames. One timer drives it all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from medianode.ingress.whip.streams import Incoming, Section, Streams
from medianode.media.track import Kind
from medianode.protocols.rtp import rtcp
from medianode.protocols.rtp.twcc import ArrivalLog

CNAME = "medianode"
TRANSPORT_CC_EVERY = 0.1
REPORT_EVERY = 0.5
KEYFRAME_EVERY = 0.5
"""Seconds between requests for a key frame: all that ask meanwhile are served by one."""
UNANSWERED = 4
"""Requests without a key frame after which it is asked for by FIR too."""
ALIVE = 2.0
MAX_RTT = 0.3
"""Seconds. The handshake's round trip is a second too long where one of its flights was lost, and a hole lives half of one."""


class Sender(Protocol):
    """The way back to the publisher."""

    rtt: float

    def send_rtcp(self, compound: bytes) -> None: ...


class Feedback:
    """`ssrc`: ours. `max_packets`: arrivals remembered until the next transport-cc message."""

    def __init__(self, streams: Streams, ssrc: int, max_packets: int) -> None:
        self._streams = streams
        self._ssrc = ssrc
        self._sender: Sender | None = None
        self._log = ArrivalLog(max_packets)
        self._transport_at = self._report_at = 0.0
        self._keyframe_at = -1e9
        self._sdes = rtcp.sdes(ssrc, CNAME)
        self._requests = 0
        self._loss = 0.0
        self._now = 0.0

    def start(self, sender: Sender) -> None:
        """The peer is connected."""
        self._sender = sender

    def tell_rtt(self, stream: Incoming) -> None:
        """Requests are repeated by it; a stream that is new would go by a guess."""
        if self._sender is not None and self._sender.rtt > 0:
            stream.receiver.rtt = min(self._sender.rtt, MAX_RTT)

    def arrived(self, sequence: int, now: float) -> None:
        """A packet with this transport-wide sequence number."""
        self._log.arrived(sequence, now)

    def want_keyframes(self) -> None:
        """A reader needs a key frame of every picture."""
        for section in self._streams.sections:
            section.wants_keyframe = section.wants_keyframe or section.media.kind is Kind.VIDEO
        self._ask_keyframes(self._now)

    def due(self, now: float) -> list[Incoming]:
        """Streams with a hole that is to be asked for, or given up, now."""
        self._now = now
        return [s for s in self._streams.incoming if (wake := s.receiver.next_wake) is not None and wake <= now]

    def ask_again(self, stream: Incoming, now: float) -> None:
        """Request what the stream misses and is due."""
        missing = stream.receiver.nacks(now)
        if missing and self._sender is not None:
            self._sender.send_rtcp(self._compound(rtcp.nack(self._ssrc, stream.ssrc, missing)))

    def tick(self, now: float) -> None:
        self._now = now
        sender = self._sender
        if sender is None:
            return
        if now >= self._transport_at:
            self._transport_at = now + TRANSPORT_CC_EVERY
            self._tell_arrivals(sender, now)
        if now >= self._report_at:
            self._report_at = now + REPORT_EVERY
            self._report(sender, now)
        self._ask_keyframes(now)

    @property
    def figures(self) -> dict[str, float]:
        """For `Health.network`."""
        totals = dict.fromkeys(("received", "lost", "recovered", "duplicates", "nacks"), 0.0)
        jitter = 0.0
        for stream in self._streams.incoming:
            receiver = stream.receiver
            jitter = max(jitter, receiver.jitter / stream.clock.rate)
            totals["received"] += receiver.received
            totals["lost"] += receiver.lost
            totals["recovered"] += receiver.recovered
            totals["duplicates"] += receiver.duplicates
            totals["nacks"] += receiver.nacked
        rtt = self._sender.rtt if self._sender is not None else 0.0
        return {**totals, "keyframe_requests": self._requests, "loss": self._loss, "jitter": jitter, "rtt": rtt}

    def _tell_arrivals(self, sender: Sender, now: float) -> None:
        if not len(self._log):
            return
        media = next((stream.ssrc for stream in self._streams.incoming), 0)
        while (message := self._log.feedback(now, self._ssrc, media)) is not None:
            sender.send_rtcp(message)

    def _report(self, sender: Sender, now: float) -> None:
        blocks = []
        lost = expected = 0.0
        for stream in self._streams.incoming:
            receiver = stream.receiver
            self.tell_rtt(stream)
            block = receiver.report(now)
            blocks.append(block)
            lost += block.fraction_lost / 256
            expected += 1
        self._loss = lost / expected if expected else 0.0
        for at in range(0, len(blocks), rtcp.MAX_REPORTS):
            sender.send_rtcp(rtcp.receiver_report(self._ssrc, blocks[at : at + rtcp.MAX_REPORTS]) + self._sdes)

    def _ask_keyframes(self, now: float) -> None:
        if self._sender is None or now - self._keyframe_at < KEYFRAME_EVERY:
            return
        messages = [message for section in self._streams.sections if section.wants_keyframe for message in self._requests_of(section, now)]
        if messages:
            self._keyframe_at = now
            self._sender.send_rtcp(self._compound(b"".join(messages)))

    def _requests_of(self, section: Section, now: float) -> Iterator[bytes]:
        """One PLI brings key frames of all layers: it goes to the layer that is shown, else to the one heard last."""
        streams = [slot.stream for slot in section.slots if slot.stream is not None and now - slot.stream.heard_at < ALIVE]
        section.wants_keyframe = False
        if not streams:
            return
        shown = section.picker.current if section.picker is not None else None
        stream = next((s for s in streams if s.slot.layer is not None and s.slot.layer is shown), max(streams, key=lambda s: s.heard_at))
        self._requests += 1
        section.asked += 1
        yield rtcp.pli(self._ssrc, stream.ssrc)
        if section.asked > UNANSWERED:
            section.fir = (section.fir + 1) & 0xFF
            yield rtcp.fir(self._ssrc, stream.ssrc, section.fir)

    def _compound(self, message: bytes) -> bytes:
        """RFC 3550 6.1: a report and a name come first, for peers that have not agreed on reduced size."""
        return rtcp.receiver_report(self._ssrc) + self._sdes + message
