"""One WHIP publisher: the RTP and RTCP of its peer in, packets of its publication out, and the feedback that keeps it sending well."""

from __future__ import annotations

import contextlib
import logging
import secrets
from collections.abc import Callable
from typing import Protocol

from medianode import clock, telemetry
from medianode.codecs import opus
from medianode.config import Config
from medianode.errors import LimitExceeded, MedianodeError, PeerError, PeerGone, PeerTimeout, ProtocolError, UnsupportedMedia
from medianode.ingress.assembler import Assembler
from medianode.ingress.whip.feedback import Feedback, Sender
from medianode.ingress.whip.streams import Incoming, Repair, Streams
from medianode.media.source_clock import SourceClock
from medianode.media.track import Codec, Kind
from medianode.protocols.rtp import packet as packets
from medianode.protocols.rtp import rtcp
from medianode.protocols.rtp.h264 import sprop_record
from medianode.protocols.rtp.packet import RtpPacket
from medianode.protocols.rtp.payload import Frame
from medianode.protocols.rtp.receiver import Arrived
from medianode.protocols.sdp.plan import ReceiveCodec, ReceiveMedia
from medianode.routing.publication import Publication
from medianode.routing.room import Room

log = logging.getLogger("medianode.whip")
DOOR = "whip"
SESSIONS = telemetry.counter("medianode_sessions_total", "Sessions opened, by door", "door")
ENDS = telemetry.counter("medianode_session_ends_total", "Sessions ended, by door and code", "door", "code")
BYTES = telemetry.counter("medianode_bytes_total", "Bytes by door and direction", "door", "direction")
LOOK = 0.5
"""Seconds between looks at the session's life."""
GOODBYE = 1.0
"""Seconds of silence after every stream has said BYE."""
POLITE = frozenset({"takeover", "shutdown", "unpublished", "peer-gone", "closed"})
"""Ends that are no failure of the publisher's."""


class Peer(Sender, Protocol):
    """What a session needs of `rtc.peer.Peer`."""

    @property
    def remote_text(self) -> str:
        """Where it is now."""

    def close(self, error: MedianodeError | None = None) -> None: ...


class WhipSession:
    """A `rtc.handler.PeerHandler`. First `bind` its peer, then `open` it on its publication; `tick` some 50 times a second.

    `source`: the publisher's address, for the log. `ended` is called once, last of all.
    """

    def __init__(
        self, config: Config, receives: tuple[ReceiveMedia, ...], source: str, agent: str, ended: Callable[[WhipSession], None]
    ) -> None:
        limits = config.limits
        self._config = config
        self._source = source
        self._agent = agent
        self._ended = ended
        self._clock = SourceClock()
        self._streams = Streams(receives, self._clock, limits.rtc_receive_packets, self._drop)
        self._feedback = Feedback(self._streams, secrets.randbits(32), limits.rtc_receive_packets)
        self._peer: Peer | None = None
        self._room: Room | None = None
        self._publication: Publication | None = None
        self._assembler: Assembler | None = None
        self._error: MedianodeError | None = None
        self._closed = False
        self._opened_at = self._heard_at = clock.now()
        self._look_at = 0.0
        self._bytes = 0
        self._bytes_in = BYTES.labels(DOOR, "in")

    # life

    def bind(self, peer: Peer) -> None:
        self._peer = peer

    def open(self, room: Room, publication: Publication) -> None:
        """The publication is its own from here on, to its end."""
        self._room = room
        self._publication = publication
        config = self._config
        self._assembler = Assembler(publication, config.ingress.track_wait, config.limits.tracks_per_publication, self._streams.track_ids)
        publication.on_keyframe_wanted = self._feedback.want_keyframes
        SESSIONS.labels(DOOR).value += 1
        telemetry.session(log, "opened", peer=self._source, door=DOOR, app=room.slug, agent=self._agent[:80])

    @property
    def tracks(self) -> int:
        """How many tracks may come of what was agreed on."""
        return len(self._streams.track_ids)

    @property
    def live(self) -> bool:
        return not self._closed

    def connected(self) -> None:
        assert self._peer is not None
        self._heard_at = clock.now()
        self._feedback.start(self._peer)
        if self._publication is not None and self._room is not None:
            identity, where = self._publication.grant.identity, self._peer.remote_text
            telemetry.session(log, "publishing", peer=self._source, door=DOOR, room=self._room.name, identity=identity, path=where)

    def fail(self, error: MedianodeError) -> None:
        """End the session. Also what the registry calls to put it out."""
        if self._error is None and not self._closed:
            self._error = error
            if self._peer is not None:
                self._peer.close(error)

    def leave(self) -> None:
        """The publisher said goodbye (DELETE)."""
        self.fail(PeerGone("the publisher ended its session", code="unpublished"))

    def closed(self, error: MedianodeError | None) -> None:
        if self._closed:
            return
        self._closed = True
        error = self._error or error
        code = "closed" if error is None else error.code
        room, publication, assembler = self._room, self._publication, self._assembler
        if room is not None and publication is not None and assembler is not None:
            if not publication.ended:
                self._flush(assembler)
            publication.on_keyframe_wanted = None
            message = "" if error is None else error.message
            room.end(publication, code, message, failed=code not in POLITE, final=code == "ingress-deleted")
            ENDS.labels(DOOR, code).value += 1
            told = {"peer": self._source, "door": DOOR, "code": code, "reason": message if code != "closed" else ""}
            telemetry.session(log, "closed", **told, seconds=clock.now() - self._opened_at, bytes=self._bytes)
        self._ended(self)

    def _flush(self, assembler: Assembler) -> None:
        """What waits behind a hole is of no use any more, but a stream shorter than the wait for its tracks is still shown."""
        with contextlib.suppress(PeerError):
            assembler.finish()

    # what comes

    def rtp(self, packet: bytes, now: float) -> None:
        assembler = self._assembler
        if assembler is None or self._error is not None:
            return
        self._heard_at = now
        self._bytes += len(packet)
        self._bytes_in.value += len(packet)
        try:
            parsed = packets.parse(packet)
        except ProtocolError:
            assembler.drop("malformed-packet")
            return
        if (sequence := parsed.extensions.get(self._streams.transport_cc)) is not None and len(sequence) == 2:
            self._feedback.arrived(sequence[0] << 8 | sequence[1], now)
        route = self._streams.routes.get(parsed.ssrc) or self._bind(parsed, now)
        if route is None:
            return
        try:
            if type(route) is Incoming:
                self._receive(route, parsed, now, retransmitted=False)
            elif type(route) is Repair:
                self._repair(route, parsed, now)
        except PeerError as e:
            self.fail(e)

    def _bind(self, packet: RtpPacket, now: float) -> Incoming | Repair | None:
        route = self._streams.bind(packet, now)
        if type(route) is Incoming:
            self._feedback.tell_rtt(route)
        return route

    def rtcp(self, packet: bytes, now: float) -> None:
        if self._error is not None:
            return
        self._heard_at = now
        try:
            messages = rtcp.parse(packet)
        except ProtocolError:
            self._drop("malformed-rtcp")
            return
        for message in messages:
            if type(message) is rtcp.SenderReport:
                stream = self._streams.routes.get(message.ssrc)
                if type(stream) is Incoming:
                    stream.receiver.on_sender_report(message, now)
                    if message.ntp:
                        stream.clock.report(rtcp.wallclock(message.ntp), message.timestamp)
            elif type(message) is rtcp.Bye:
                for ssrc in message.ssrcs:
                    stream = self._streams.routes.get(ssrc)
                    if type(stream) is Incoming:
                        stream.bye = True

    def tick(self, now: float) -> None:
        """Feedback that is due, holes given up, and twice a second a look at the session's life."""
        if self._error is not None or self._closed:
            return
        try:
            for stream in self._feedback.due(now):
                self._frames(stream, stream.receiver.poll(now), now)
                self._feedback.ask_again(stream, now)
            self._feedback.tick(now)
            if now >= self._look_at:
                self._look_at = now + LOOK
                self._look(now)
        except PeerError as e:
            self.fail(e)

    def _look(self, now: float) -> None:
        publication, assembler = self._publication, self._assembler
        if publication is None or assembler is None:
            return
        assembler.tick(now)
        health = publication.health
        health.drift = self._clock.drift
        health.source_clock = self._clock.utc
        if self._clock.steps:
            health.repairs["streams-aligned"] = self._clock.steps
        if self._clock.implausible:
            health.repairs["sender-report-ignored"] = self._clock.implausible
        health.network.update(self._feedback.figures)
        for section in self._streams.sections:
            if section.picker is not None and section.picker.wants_keyframe(now):
                section.wants_keyframe = True
        waited, silence = now - publication.opened_at, now - self._heard_at
        streams = self._streams.incoming
        if not publication.active and waited > self._config.limits.first_media_timeout:
            why = health.last_error or ("pictures came, but no key frame" if streams else "none came")
            raise PeerTimeout(f"no media that could be shown in {waited:.0f} s: {why}", code="no-media")
        if streams and all(stream.bye for stream in streams) and now - max(s.heard_at for s in streams) >= GOODBYE:
            raise PeerGone("the publisher stopped all its streams", code="unpublished")
        if streams and silence >= self._config.ingress.silence - LOOK:
            raise PeerTimeout(f"the publisher sent nothing for {silence:.1f} s", code="publisher-silent")

    # media

    def _repair(self, repair: Repair, packet: RtpPacket, now: float) -> None:
        """RTX. Padding (Chrome's first packets) and packets that came already are probes, which transport-cc has seen: no more is due."""
        stream = repair.slot.stream
        original = packets.unwrap_rtx(packet, repair.slot.section.media.rtx.get(packet.payload_type, -1), stream.ssrc if stream else 0)
        if original is None:
            return
        if stream is None or original.payload_type < 0:
            self._drop("unbound-retransmission")
            return
        self._receive(stream, original, now, retransmitted=True)

    def _receive(self, stream: Incoming, packet: RtpPacket, now: float, *, retransmitted: bool) -> None:
        stream.heard_at = now
        stream.bye = False
        if packet.payload_type != stream.payload_type and packet.payload_type not in stream.slot.section.media.codecs:
            self._drop("unknown-payload-type")
            return
        receiver = stream.receiver
        arrived = receiver.push(packet, now, retransmitted=retransmitted)
        if arrived:
            self._frames(stream, arrived, now)
        elif not retransmitted:
            # nothing to deliver is a hole, more often than not: it is asked for at once
            self._feedback.ask_again(stream, now)

    def _frames(self, stream: Incoming, arrived: list[Arrived], now: float) -> None:
        for packet, lost in arrived:
            if packet.payload_type != stream.payload_type:
                changed = stream.switch(packet.payload_type, self._clock)
                if changed is not None:
                    self._configure(stream, changed, now)
            assert stream.depacketiser is not None
            try:
                frames = stream.depacketiser.push(packet, lost)
            except LimitExceeded as e:
                self._lost(stream, "oversized-frame", e)
                continue
            except UnsupportedMedia as e:
                assert self._assembler is not None
                self._assembler.bad_frame(e)
                continue
            for frame in frames:
                self._frame(stream, frame, now)

    def _configure(self, stream: Incoming, codec: ReceiveCodec, now: float) -> None:
        """What the offer tells of the codec, where the stream itself may not."""
        assembler = self._assembler
        assert assembler is not None
        if codec.codec is Codec.OPUS:
            # a browser's packets are mono or stereo as their encoder likes: the offer says what is meant
            stereo = codec.fmtp.get("sprop-stereo", codec.fmtp.get("stereo")) == "1"
            if stereo:
                assembler.configure(codec.codec, stream.slot.index, opus.build_head(opus.OpusHead(2)), now)
        elif codec.codec is Codec.H264 and (sets := codec.fmtp.get("sprop-parameter-sets")) and stream.slot.layer is None:
            record = sprop_record(sets)
            if record is not None:
                assembler.configure(codec.codec, stream.slot.index, record, now)

    def _frame(self, stream: Incoming, frame: Frame, now: float) -> None:
        assembler = self._assembler
        assert assembler is not None
        if not frame.complete:
            fault = stream.depacketiser.fault if stream.depacketiser is not None else ""
            self._lost(stream, "lost-packets", ProtocolError(fault) if fault else None)
            return
        slot = stream.slot
        section = slot.section
        assert stream.codec is not None
        placed = stream.clock.place(frame.timestamp, now)
        if placed.jumped:
            assembler.jumped()
        parsed = assembler.parse(stream.codec, slot.index, frame.data, now, slot.rid if slot.layer is not None else "")
        if parsed is None:
            section.wants_keyframe = section.wants_keyframe or stream.kind is Kind.VIDEO
            return
        also = None
        picker = section.picker
        if picker is not None and slot.layer is not None:
            track = parsed.stream.elementary.track
            taken = picker.take(
                slot.layer,
                keyframe=parsed.unit.keyframe,
                area=0 if track is None else track.width * track.height,
                nbytes=len(frame.data),
                now=now,
                settled=assembler.decided,
            )
            also = picker.main if taken else None
        if assembler.put(parsed, placed.ticks, now, also):
            if parsed.unit.keyframe and (picker is None or also is not None):
                section.asked, section.wants_keyframe = 0, False
        elif stream.kind is Kind.VIDEO:
            section.wants_keyframe = True

    def _lost(self, stream: Incoming, cause: str, error: PeerError | None) -> None:
        """Damaged pictures are not passed on: the next one is a key frame, which is asked for."""
        self._drop(cause)
        assert self._assembler is not None
        if error is not None and self._publication is not None:
            self._publication.health.last_error = error.message
        if stream.kind is Kind.VIDEO:
            self._assembler.damaged(Kind.VIDEO, stream.slot.index)
            stream.slot.section.wants_keyframe = True

    def _drop(self, cause: str) -> None:
        assembler, publication = self._assembler, self._publication
        if assembler is None or publication is None:
            return
        if cause == "unknown-stream" and len(publication.grant.kinds) == 1:
            # the section that was agreed on and is not taken
            assembler.unwanted(Kind.AUDIO if Kind.VIDEO in publication.grant.kinds else Kind.VIDEO)
        else:
            assembler.drop(cause)
