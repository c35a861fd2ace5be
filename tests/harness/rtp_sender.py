"""A publisher's RTP without a network: encoders that make frames, a seeded path that loses, delays and doubles packets."""

from __future__ import annotations

import heapq
import random
import struct
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from medianode.codecs import h264
from medianode.errors import MedianodeError
from medianode.media.packet import Packet
from medianode.media.track import Codec, Kind, Track
from medianode.protocols.rtp import packet as rtp
from medianode.protocols.rtp import rtcp
from medianode.protocols.rtp.payload import packetiser
from medianode.protocols.sdp.plan import Extensions, ReceiveCodec, ReceiveMedia

SPS = bytes.fromhex("6764000dacd94141fb0110000003001000000303c0f1429960")  # x264, 320x240
PPS = bytes.fromhex("68ebe3cb22c0")
AVCC = h264.build_avcc((SPS,), (PPS,))
MID, RID, REPAIRED_RID, TRANSPORT_CC = 1, 2, 3, 4
EXTENSIONS = Extensions(mid=MID, rid=RID, repaired_rid=REPAIRED_RID, transport_cc=TRANSPORT_CC)
VP8, VP8_RTX, H264, H264_RTX, OPUS, PCMU = 96, 97, 102, 103, 111, 0
EPOCH = 1_800_000_000.0
"""Wall clock of the sender at `now` 0."""


def video_media(rids: tuple[str, ...] = (), **changes: object) -> ReceiveMedia:
    codecs = {VP8: ReceiveCodec(Codec.VP8, 90_000), H264: ReceiveCodec(Codec.H264, 90_000)}
    fields: dict[str, object] = {"rtx": {VP8_RTX: VP8, H264_RTX: H264}, "extensions": EXTENSIONS, "rids": rids}
    return ReceiveMedia("0", Kind.VIDEO, codecs, **{**fields, **changes})  # type: ignore[arg-type]  # fields of many types


def audio_media(fmtp: dict[str, str] | None = None) -> ReceiveMedia:
    codecs = {OPUS: ReceiveCodec(Codec.OPUS, 48_000, 2, fmtp or {}), PCMU: ReceiveCodec(Codec.PCM_MULAW, 8000)}
    return ReceiveMedia("1", Kind.AUDIO, codecs, extensions=EXTENSIONS)


class FakePeer:
    """Takes what a session sends back; `closed_for` is why it was closed."""

    def __init__(self) -> None:
        self.rtt = 0.03
        self.sent: list[bytes] = []
        self.handler: object = None
        self.closed_for: list[MedianodeError | None] = []

    @property
    def remote_text(self) -> str:
        return "192.0.2.7:4000"

    def send_rtcp(self, compound: bytes) -> None:
        self.sent.append(compound)

    def close(self, error: MedianodeError | None = None) -> None:
        if not self.closed_for:
            self.closed_for.append(error)
            self.handler.closed(error)  # type: ignore[attr-defined]  # the session

    def take(self) -> list[rtcp.Message]:
        """What was sent since, in order."""
        sent, self.sent = self.sent, []
        return [message for compound in sent for message in rtcp.parse(compound)]


def vp8_frame(size: int, keyframe: bool, width: int, height: int, fill: int) -> bytes:
    body = bytes((fill & 0xFF,)) * size
    if not keyframe:
        return b"\x31\x00\x00" + body
    return b"\x30\x00\x00\x9d\x01\x2a" + struct.pack("<HH", width, height) + body


def h264_frame(size: int, keyframe: bool, fill: int) -> bytes:
    unit = (b"\x65\x88\x84" if keyframe else b"\x41\x9a\x24") + bytes((fill & 0x7F | 1,)) * size
    return len(unit).to_bytes(4, "big") + unit


@dataclass
class Encoder:
    """One SSRC. `first`: timestamp of the frame at `now` 0; `pid`: payload type."""

    codec: Codec
    ssrc: int
    payload_type: int
    rate: int
    first: int = 0
    sequence: int = 100
    mid: str = "0"
    rid: str = ""
    width: int = 320
    height: int = 240
    size: int = 3000
    rtx_ssrc: int = 0
    rtx_payload_type: int = 0
    labelled: int = 20
    """So many packets show mid and rid."""
    skew: float = 0.0
    """Seconds that frames are stamped later than they are taken."""
    sent: dict[int, bytes] = field(default_factory=dict)
    frames: int = 0
    rtx_sequence: int = 7

    def __post_init__(self) -> None:
        self._make = packetiser(self.codec, 1100)
        self._labels = self.labelled

    def timestamp(self, at: float) -> int:
        return (self.first + round(at * self.rate)) & 0xFFFFFFFF

    def frame(self, at: float, *, keyframe: bool = False) -> list[bytes]:
        """RTP packets of a frame taken at `at`, without transport-wide numbers."""
        track = Track(0, self.codec, self.rate, AVCC if self.codec is Codec.H264 else b"", self.width, self.height)
        self.frames += 1
        if self.codec is Codec.VP8:
            data = vp8_frame(self.size, keyframe, self.width, self.height, self.frames)
        elif self.codec is Codec.H264:
            data = h264_frame(self.size, keyframe, self.frames)
        elif self.codec is Codec.OPUS:
            data = b"\x78" + bytes((self.frames & 0xFF,)) * 80  # CELT, 20 ms, mono
        else:
            data = bytes(160)
        payloads = self._make.packetise(Packet(track, data, 0, 0, keyframe, at))
        out = []
        for i, payload in enumerate(payloads):
            extensions = {TRANSPORT_CC: b"\0\0"}
            if self._labels > 0:
                self._labels -= 1
                extensions[MID] = self.mid.encode()
                if self.rid:
                    extensions[RID] = self.rid.encode()
            packet = rtp.build(
                self.payload_type,
                self.sequence,
                self.timestamp(at),
                self.ssrc,
                payload,
                marker=i == len(payloads) - 1,
                extensions=extensions,
            )
            self.sent[self.sequence & 0xFFFF] = packet
            if len(self.sent) > 4000:
                del self.sent[next(iter(self.sent))]
            self.sequence += 1
            out.append(packet)
        return out

    def resend(self, sequence: int) -> bytes | None:
        """RTX where agreed on, else the identical packet."""
        packet = self.sent.get(sequence)
        if packet is None or not self.rtx_ssrc:
            return packet
        old = rtp.parse(packet)
        self.rtx_sequence += 1
        extensions = {TRANSPORT_CC: b"\0\0", MID: self.mid.encode()}
        if self.rid:
            extensions[REPAIRED_RID] = self.rid.encode()
        payload = sequence.to_bytes(2, "big") + old.payload
        return rtp.build(
            self.rtx_payload_type, self.rtx_sequence, old.timestamp, self.rtx_ssrc, payload, marker=old.marker, extensions=extensions
        )

    def report(self, at: float) -> bytes:
        return rtcp.sender_report(self.ssrc, rtcp.ntp(EPOCH + at - self.skew), self.timestamp(at), 0, 0) + rtcp.sdes(self.ssrc, "c")


class Path:
    """From the encoders to the session: seeded loss, delay, reordering, doubling. `run` moves the time; feedback is answered at once."""

    def __init__(
        self,
        session: object,
        peer: FakePeer,
        encoders: list[Encoder],
        *,
        seed: int = 1,
        loss: float = 0.0,
        jitter: float = 0.0,
        double: float = 0.0,
        delay: float = 0.02,
    ) -> None:
        self.session = session
        self.peer = peer
        self.encoders = {e.ssrc: e for e in encoders}
        self.random = random.Random(seed)
        self.loss, self.jitter, self.double, self.delay = loss, jitter, double, delay
        self.now = 0.0
        self.transport = 0
        self.keyframes: list[tuple[float, int]] = []
        self.messages: list[tuple[float, rtcp.Message]] = []
        self.answers = True
        self.on_keyframe: Callable[[int], None] = lambda ssrc: None
        self._queue: list[tuple[float, int, bytes]] = []
        self._order = 0
        self._plain: deque[bytes] = deque()

    def send(self, packets: list[bytes], late: float = 0.0) -> None:
        for packet in packets:
            numbered = self._numbered(packet)
            if self.random.random() < self.loss:
                continue
            for _ in range(2 if self.random.random() < self.double else 1):
                self._order += 1
                at = self.now + late + self.delay + self.random.random() * self.jitter
                heapq.heappush(self._queue, (at, self._order, numbered))

    def _numbered(self, packet: bytes) -> bytes:
        parsed = rtp.parse(packet)
        if TRANSPORT_CC not in parsed.extensions:
            return packet
        self.transport = (self.transport + 1) & 0xFFFF
        extensions = {**parsed.extensions, TRANSPORT_CC: self.transport.to_bytes(2, "big")}
        return rtp.build(
            parsed.payload_type,
            parsed.sequence,
            parsed.timestamp,
            parsed.ssrc,
            parsed.payload,
            marker=parsed.marker,
            extensions=extensions,
        )

    def run(self, until: float, step: float = 0.02) -> None:
        """Deliver in order of arrival, tick every 20 ms, and answer NACK and PLI."""
        while self.now < until - 1e-9:
            self.now = min(self.now + step, until)
            while self._queue and self._queue[0][0] <= self.now:
                at, _, packet = heapq.heappop(self._queue)
                self.session.rtp(packet, at)  # type: ignore[attr-defined]
                self._answer()
            self.session.tick(self.now)  # type: ignore[attr-defined]
            self._answer()

    def _answer(self) -> None:
        for message in self.peer.take():
            self.messages.append((self.now, message))
            if isinstance(message, rtcp.Nack) and self.answers:
                encoder = self.encoders[message.media_ssrc]
                self.send([p for s in message.sequences if (p := encoder.resend(s)) is not None], late=self.delay)
            elif isinstance(message, rtcp.Pli):
                self.keyframes.append((self.now, message.media_ssrc))
                self.on_keyframe(message.media_ssrc)

    def got(self, kind: type[rtcp.Message]) -> list[rtcp.Message]:
        return [message for _, message in self.messages if isinstance(message, kind)]
