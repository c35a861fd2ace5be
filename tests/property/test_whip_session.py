"""Whatever an authenticated publisher sends: nothing is raised, bounds hold, pictures begin with key frames, time goes on."""

from __future__ import annotations

from typing import Any
from unittest import mock

from harness.rtp_sender import H264, OPUS, VP8, VP8_RTX, Encoder, FakePeer, audio_media, video_media
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import grant

from medianode.config import Config
from medianode.events import Bus
from medianode.ingress.whip.session import WhipSession
from medianode.media.packet import Gap, Packet
from medianode.media.track import Codec, Track
from medianode.protocols.rtp import rtcp
from medianode.routing.registry import Registry


class Reader:
    def __init__(self) -> None:
        self.last: dict[int, int] = {}
        self.waits: set[int] = set()

    def on_tracks(self, tracks: tuple[Track, ...]) -> None:
        self.waits = {t.id for t in tracks if t.is_video}

    def on_packet(self, packet: Packet) -> None:
        ident = packet.track.id
        assert packet.keyframe or ident not in self.waits
        self.waits.discard(ident)
        if packet.track.is_video:
            assert packet.dts > self.last.get(ident, -1)
            self.last[ident] = packet.dts
        assert packet.data

    def on_gap(self, gap: Gap) -> None:
        """Pictures begin anew."""
        self.waits = set(self.last)

    def on_end(self, cause: str) -> None:
        """Nothing follows."""


def encoders() -> list[Encoder]:
    return [
        Encoder(Codec.VP8, 1, VP8, 90_000, rtx_ssrc=2, rtx_payload_type=VP8_RTX, rid="q", size=2000),
        Encoder(Codec.H264, 3, H264, 90_000, rid="f", size=2000, first=2**32 - 9000, sequence=65_530),
        Encoder(Codec.OPUS, 5, OPUS, 48_000, mid="1"),
    ]


STEP = st.tuples(
    st.sampled_from(["send", "send", "send", "drop", "double", "late", "flip", "cut", "resend", "report", "bye", "garbage", "ask", "leap"]),
    st.integers(0, 2),
    st.integers(0, 2**31),
)


@settings(max_examples=150, deadline=None)
@given(steps=st.lists(STEP, max_size=150), layers=st.booleans())
def test_any_sequence(steps: list[tuple[str, int, int]], layers: bool) -> None:
    now = 0.0
    with mock.patch("medianode.clock.now", lambda: now):  # noqa: PT008 - the time moves
        reader, session, peer, publication = _open(layers)
        senders = encoders()
        held: list[bytes] = []
        for what, which, number in steps:
            now += (number % 50) / 1000
            sender = senders[which]
            packets = sender.frame(now, keyframe=number % 5 == 0)
            if what == "double":
                packets = packets * 2
            elif what == "drop":
                del packets[number % len(packets)]
            elif what == "late":
                held.append(packets.pop(number % len(packets)))
            elif what == "flip":
                raw = bytearray(packets[-1])
                raw[number % len(raw)] ^= 1 << number % 8
                packets[-1] = bytes(raw)
            elif what == "cut":
                packets[-1] = packets[-1][: number % len(packets[-1])]
            elif what == "resend":
                packets += [p for p in (sender.resend((sender.sequence - number % 40) & 0xFFFF),) if p is not None] + held
                held = []
            elif what == "garbage":
                packets = [number.to_bytes(4, "big") * (number % 30)]
            elif what == "leap":
                now += number % 20
            for packet in packets:
                session.rtp(packet, now)
            if what == "report":
                session.rtcp(sender.report(now), now)
            elif what == "bye":
                session.rtcp(rtcp.receiver_report(sender.ssrc) + rtcp.bye([sender.ssrc]), now)
            elif what == "flip":
                session.rtcp(packets[-1], now)
            elif what == "ask":
                publication.request_keyframe()
            session.tick(now)
            for compound in peer.sent:
                rtcp.parse(compound)
            peer.sent.clear()
        assert reader in publication.sinks, "none of its assertions failed"
        assert len(session._streams.routes) <= 2 * len(session._streams.track_ids)
        assert all(value >= 0 for value in publication.health.network.values())


def _open(layers: bool) -> tuple[Reader, WhipSession, FakePeer, Any]:
    peer = FakePeer()
    config = Config()
    session = WhipSession(config, (video_media(("q", "f") if layers else ()), audio_media()), "192.0.2.7", "test", lambda s: None)
    peer.handler = session
    session.bind(peer)
    room, publication = Registry(Bus(), config.limits).publish(grant(hold=0.0), "whip", "192.0.2.7", session.fail)
    session.open(room, publication)
    reader = Reader()
    publication.attach(reader)
    session.connected()
    return reader, session, peer, publication
