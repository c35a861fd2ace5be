"""What an RTSP source sends: RTP put together and placed in time, RTCP read and answered (RFC 3550)."""

from __future__ import annotations

import secrets

from medianode.codecs import aac
from medianode.errors import LimitExceeded, PeerGone, ProtocolError, UnsupportedMedia
from medianode.ingress.assembler import Assembler
from medianode.ingress.pull.reorder import DecodingTimes, reorder_depth
from medianode.ingress.pull.source import Intake
from medianode.ingress.pull.words import printable
from medianode.media.source_clock import SourceClock
from medianode.media.track import Codec, Kind, Track
from medianode.protocols.rtp import packet as packets
from medianode.protocols.rtp import rtcp
from medianode.protocols.rtp.assembly import Frame
from medianode.protocols.rtp.jpeg import JpegDepacketiser
from medianode.protocols.rtp.mpeg_audio import LatmDepacketiser, Mpeg4Depacketiser, MpegAudioDepacketiser
from medianode.protocols.rtp.packet import RtpPacket
from medianode.protocols.rtp.payload import Depacketiser, depacketiser
from medianode.protocols.rtp.receiver import MAX_DROPOUT, StreamReceiver
from medianode.protocols.rtp.rtcp import ReportBlock
from medianode.protocols.rtsp.description import Stream

MAX_FRAME_BYTES = 8 << 20
MAX_SOUND_BYTES = 1 << 16
"""Of a frame of sound, which is put together by copying: AAC has 6 KiB at most."""
MAX_WAIT = 0.2
"""Seconds that a hole may hold back what came behind it; nothing is asked for again."""
UDP_PACKETS = 2048


class Incoming:
    """One stream. Over UDP `receiver` puts packets in order; over TCP they are."""

    def __init__(self, stream: Stream, codec: Codec, source: SourceClock, *, udp: bool) -> None:
        self.stream = stream
        self.codec = codec
        self.kind = codec.kind
        self.receiver = StreamReceiver(stream.clock_rate, max_packets=UDP_PACKETS, nack=False, max_wait=MAX_WAIT) if udp else None
        self.depacketiser = _depacketiser(stream, codec)
        self.clock = source.stream(stream.clock_rate, leads=codec.kind is Kind.AUDIO)
        self.times = DecodingTimes()
        self.track: Track | None = None
        self.ssrc = 0
        self.highest = -1
        self.lost = 0
        self.received = 0
        self.bye = False


class RtpSession:
    """All streams of one PLAY. The publication is opened with the first packet. `utc` of the source goes into its health."""

    def __init__(self, streams: list[Stream], intake: Intake, transport: str, notes: list[str]) -> None:
        self._clock = SourceClock()
        self._udp = transport == "udp"
        self.streams = [Incoming(s, codec, self._clock, udp=self._udp) for s in streams if (codec := s.codec) is not None]
        self._intake = intake
        self._transport = transport
        self._notes = notes
        self._assembler: Assembler | None = None
        self._ssrc = secrets.randbits(32)

    def rtp(self, index: int, data: bytes, now: float) -> None:
        """One packet of stream `index`. Raises PeerError."""
        incoming = self.streams[index]
        self._intake.heard(len(data), now)
        try:
            packet = packets.parse(data)
        except ProtocolError:
            self._drop("malformed-packet")
            return
        if packet.payload_type != incoming.stream.payload_type:
            self._drop("unknown-payload-type")
            return
        if self._assembler is None:
            self._begin(now)
        incoming.bye = False
        if incoming.receiver is not None:
            for arrived, lost in incoming.receiver.push(packet, now):
                self._packet(incoming, arrived, lost, now)
            return
        ahead = (packet.sequence - incoming.highest) & 0xFFFF
        lost = incoming.highest >= 0 and ahead != 1
        if lost and 0 < ahead < MAX_DROPOUT:  # else it is a duplicate, or a sender that numbers anew
            incoming.lost += ahead - 1
        incoming.highest, incoming.ssrc = packet.sequence, packet.ssrc
        incoming.received += 1
        self._packet(incoming, packet, lost, now)

    def rtcp(self, index: int, data: bytes, now: float) -> None:
        """Sender reports tell how the streams lie to each other. Raises PeerGone where all have said goodbye."""
        incoming = self.streams[index]
        try:
            messages = rtcp.parse(data)
        except ProtocolError:
            self._drop("malformed-rtcp")
            return
        for message in messages:
            if type(message) is rtcp.SenderReport:
                if incoming.receiver is not None:
                    incoming.receiver.on_sender_report(message, now)
                if message.ntp:
                    incoming.clock.report(rtcp.wallclock(message.ntp), message.timestamp)
            elif type(message) is rtcp.Bye:
                incoming.bye = True
        if all(stream.bye for stream in self.streams):
            raise PeerGone("the source said goodbye", code="source-ended")

    def look(self, now: float) -> None:
        """Some times a second: holes given up, figures renewed. Raises PeerError."""
        for incoming in self.streams:
            if incoming.receiver is not None:
                for arrived, lost in incoming.receiver.poll(now):
                    self._packet(incoming, arrived, lost, now)
        if self._assembler is not None:
            health = self._assembler.publication.health
            health.drift = self._clock.drift
            health.source_clock = self._clock.utc
            received = sum(s.received if s.receiver is None else s.receiver.received for s in self.streams)
            gone = sum(s.lost if s.receiver is None else s.receiver.lost for s in self.streams)
            health.network.update(received=received, lost=gone)

    def reports(self, now: float) -> list[bytes]:
        """A receiver report for each stream, as a compound."""
        out = []
        for incoming in self.streams:
            if incoming.receiver is not None:
                block = incoming.receiver.report(now)
            else:
                block = ReportBlock(incoming.ssrc, 0, incoming.lost, max(incoming.highest, 0), 0, 0, 0)
            out.append(rtcp.receiver_report(self._ssrc, [block]) + rtcp.sdes(self._ssrc, "medianode"))
        return out

    def _begin(self, now: float) -> None:
        expected = frozenset(int(stream.kind is Kind.AUDIO) for stream in self.streams)
        assembler = self._assembler = self._intake.begin(self._transport, expected)
        if self._notes:
            note = f"left out, for the node cannot carry it: {', '.join(self._notes)}"
            assembler.publication.health.notes["unsupported-codec"] = printable(note, 200)
        for incoming in self.streams:
            record = incoming.stream.record()
            if record is not None:
                assembler.configure(incoming.codec, 0, record, now)

    def _packet(self, incoming: Incoming, packet: RtpPacket, lost: bool, now: float) -> None:
        assembler = self._assembler
        assert assembler is not None
        try:
            frames = incoming.depacketiser.push(packet, lost)
        except LimitExceeded as e:
            _damaged(incoming, assembler, "oversized-frame", e.message)
            return
        except UnsupportedMedia as e:
            assembler.bad_frame(e)
            return
        for frame in frames:
            self._frame(incoming, assembler, frame, now)

    def _frame(self, incoming: Incoming, assembler: Assembler, frame: Frame, now: float) -> None:
        if not frame.complete:
            _damaged(incoming, assembler, "lost-packets", incoming.depacketiser.fault)
            return
        placed = incoming.clock.place(frame.timestamp, now)
        if placed.jumped:
            incoming.times.reset()
            assembler.jumped()
        parsed = assembler.parse(incoming.codec, 0, frame.data, now)
        if parsed is None:
            return
        track = parsed.stream.elementary.track
        assert track is not None
        if incoming.kind is Kind.AUDIO:
            ticks = placed.ticks if track.clock_rate == incoming.clock.rate else placed.ticks * track.clock_rate // incoming.clock.rate
            assembler.put(parsed, ticks, now)
            return
        if track is not incoming.track:
            incoming.track = track
            incoming.times.depth = max(incoming.times.depth, reorder_depth(track))
        step = int(90_000 / (track.frame_rate or 25.0))
        assembler.put(parsed, incoming.times.place(placed.ticks, step), now, pts=placed.ticks)

    def _drop(self, cause: str) -> None:
        if self._assembler is not None:
            self._assembler.drop(cause)


def _damaged(incoming: Incoming, assembler: Assembler, cause: str, fault: str) -> None:
    assembler.drop(cause)
    if fault:
        assembler.publication.health.last_error = fault
    assembler.damaged(incoming.kind, 0)


def _depacketiser(stream: Stream, codec: Codec) -> Depacketiser:
    match codec:
        case Codec.AAC if stream.encoding == "mp4a-latm":
            return LatmDepacketiser(MAX_SOUND_BYTES)
        case Codec.AAC:
            return Mpeg4Depacketiser(MAX_SOUND_BYTES, stream.fmtp, _aac_samples(stream))
        case Codec.MP3:
            return MpegAudioDepacketiser(MAX_SOUND_BYTES)
        case Codec.MJPEG:
            return JpegDepacketiser(MAX_FRAME_BYTES)
    return depacketiser(codec, MAX_FRAME_BYTES)


def _aac_samples(stream: Stream) -> int:
    """Of a frame, by the RTP clock, which may be the core's or what SBR makes of it."""
    record = stream.record()
    if record is None:
        return 1024
    try:
        asc = aac.parse_asc(record)
    except ProtocolError:
        return 1024
    return asc.samples_per_frame * stream.clock_rate // asc.output_sample_rate if asc.output_sample_rate else 1024
