"""What publishers over a TestPeer have in common: numbered packets go out, NACK and PLI are answered."""

from __future__ import annotations

from harness.rtp_sender import TRANSPORT_CC, Encoder
from harness.webrtc import TestPeer
from medianode.protocols.rtp import packet as rtp
from medianode.protocols.rtp import rtcp


class RtpPublisher:
    """`wanted`: the next picture is a key frame; `messages`: all that the node said."""

    def __init__(self, peer: TestPeer, picture: Encoder, sound: Encoder | None) -> None:
        self.peer = peer
        self.picture = picture
        self.sound = sound
        self.messages: list[rtcp.Message] = []
        self.wanted = True
        self._transport = 0

    def show(self, at: float) -> None:
        self.send(self.picture.frame(at, keyframe=self.wanted))
        self.wanted = False

    def send(self, packets: list[bytes]) -> None:
        for packet in packets:
            parsed = rtp.parse(packet)
            self._transport += 1
            extensions = {**parsed.extensions, TRANSPORT_CC: (self._transport & 0xFFFF).to_bytes(2, "big")}
            fields = (parsed.payload_type, parsed.sequence, parsed.timestamp, parsed.ssrc, parsed.payload)
            self.peer.send_rtp(rtp.build(*fields, marker=parsed.marker, extensions=extensions))

    def report(self, at: float) -> None:
        for encoder in (self.picture, self.sound):
            if encoder is not None:
                self.peer.send_rtcp(encoder.report(at))

    def listen(self) -> None:
        while self.peer.rtcp:
            for message in rtcp.parse(self.peer.rtcp.popleft()):
                self.messages.append(message)
                if isinstance(message, rtcp.Pli):
                    self.wanted = True
                elif isinstance(message, rtcp.Nack):
                    encoder = self.picture if message.media_ssrc == self.picture.ssrc else self.sound
                    if encoder is not None:
                        self.send([p for s in message.sequences if (p := encoder.resend(s)) is not None])
