"""The fan-out over real sockets: what viewers receive is opened again, byte for byte."""

from __future__ import annotations

import asyncio
import itertools
import random
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
from harness.fanout import AUDIO, PLAIN, SENDS, VIDEO, FakePeer, brief, gapless, pictures

from medianode import clock
from medianode.config import Limits
from medianode.errors import UnsupportedMedia
from medianode.media.packet import Gap, Packet
from medianode.media.track import Codec, Kind, Track
from medianode.protocols.rtp import rtcp
from medianode.protocols.sdp.plan import SendMedia
from medianode.rtc import batch as batches
from medianode.rtc import srtp
from medianode.rtc.batch import Batch
from medianode.rtc.fanout import Broadcast
from medianode.rtc.srtp import Profile
from medianode.rtc.viewer import MAX_ASKED


class Rig:
    def __init__(self, limits: Limits | None = None, **options: Any) -> None:
        self.limits = limits or Limits()
        self.sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        self.sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        self.sock.bind(("::", 0))
        self.sock.setblocking(False)
        self.batch = Batch(self.sock, self.limits.rtc_unsent_bytes)
        self.asked = 0
        self.peers: list[FakePeer] = []
        self.noise = random.Random(7)
        self.pts = 90_000
        self.units: list[bytes] = []
        self.casts: list[Broadcast] = []
        self.cast = self.broadcast(**options)

    def broadcast(self, **options: Any) -> Broadcast:
        cast = Broadcast(self.batch, self.limits, request_keyframe=self._ask, **options)
        cast.on_tracks((VIDEO, AUDIO))
        self.casts.append(cast)
        return cast

    def _ask(self) -> None:
        self.asked += 1

    def peer(self, profile: Profile = Profile.AEAD_AES_128_GCM, *, tcp: bool = False) -> FakePeer:
        made = FakePeer(profile, tcp=tcp)
        self.peers.append(made)
        return made

    def frame(self, nbytes: int = 10_600, *, key: bool = False, reference: bool = True, cast: Broadcast | None = None) -> bytes:
        head = 0x65 if key else 0x41 if reference else 0x01
        unit = bytes((head,)) + self.noise.randbytes(nbytes - 1)
        self.pts += 3000
        (cast or self.cast).on_packet(Packet(VIDEO, len(unit).to_bytes(4, "big") + unit, self.pts, self.pts, key, clock.now()))
        self.units.append(unit)
        return unit

    def sound(self, nbytes: int = 160, *, pts: int | None = None) -> bytes:
        data = self.noise.randbytes(nbytes)
        at = self.pts * 48 // 90 if pts is None else pts
        self.cast.on_packet(Packet(AUDIO, data, at, at, True, clock.now()))
        return data

    async def settle(self) -> None:
        """All that the pacer holds back is sent, in real time."""
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await until(lambda: all(self._settled(cast) for cast in self.casts))

    def _settled(self, cast: Broadcast) -> bool:
        sent = all(channel.cursor == channel.outgoing.next_train for channel in cast.channels.values())
        return sent and all(flow.cursor is None for viewer in cast.viewers for flow in viewer.flows.values())

    def close(self) -> None:
        self.cast.close()
        self.batch.close()
        self.sock.close()
        for peer in self.peers:
            peer.rx.close()


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    made = Rig()
    yield made
    made.close()


async def turns(seconds: float = 0.0) -> None:
    await asyncio.sleep(seconds)
    await asyncio.sleep(0)


async def until(condition: Any, seconds: float = 5.0) -> None:
    end = clock.now() + seconds
    while not condition() and clock.now() < end:
        await asyncio.sleep(0.005)
    assert condition()


@pytest.mark.parametrize("profile", list(Profile))
async def test_every_byte_arrives_at_all_viewers(rig: Rig, profile: Profile) -> None:
    peers = [rig.peer(profile) for _ in range(20)] + [rig.peer(p) for p in Profile]
    rig.frame(key=True)
    await rig.settle()
    for peer in peers:
        rig.cast.add(peer, SENDS)
    sound = []
    for _ in range(5):
        rig.frame()
        sound.append(rig.sound())
        await rig.settle()
    await until(lambda: all(v.stats.state == "live" for v in rig.cast.viewers))
    await rig.settle()
    video, audio = rig.cast.ssrcs[Kind.VIDEO][0], rig.cast.ssrcs[Kind.AUDIO][0]
    for peer in peers:
        packets = peer.packets()
        assert pictures(packets) == brief(rig.units)
        assert [p.payload for p in packets if p.ssrc == audio] == sound
        assert gapless(packets, video)
        assert gapless(packets, audio)
        assert {p.extensions[5] for p in packets if p.ssrc == video} == {b"\0\0\0"}
        assert max(map(len, peer.raw)) <= 1200


async def test_sound_of_one_turn_shares_a_send(rig: Rig) -> None:
    peers = [rig.peer() for _ in range(3)]
    for peer in peers:
        rig.cast.add(peer, SENDS)
    before = rig.batch.calls
    sound = [rig.sound(size, pts=i * 960) for i, size in enumerate((160, 171, 155))]
    await rig.settle()
    assert rig.batch.calls == before + 1
    for peer in peers:
        packets = peer.packets()
        assert [p.payload for p in packets] == sound
        assert [p.marker for p in packets] == [True, False, False]


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("nbytes", [1164, 1275, 1344, 1900, 8180])
async def test_large_packets_of_sound_keep_to_the_room_there_is(rig: Rig, monkeypatch: pytest.MonkeyPatch, nbytes: int, raw: bool) -> None:
    """A publisher chooses the size of its Opus packets: twenty of them once ran over the template, into other memory."""
    monkeypatch.setattr(srtp.RAW, "usable", raw)
    peer = rig.peer()
    viewer = rig.cast.add(peer, SENDS)
    count = batches.MAX_RUN + 2
    for i in range(count):
        rig.sound(nbytes, pts=i * 960)
    await rig.settle()
    if not raw and nbytes > 1344:
        assert rig.cast.undeliverable == count
        return
    out = rig.cast.channels[Kind.AUDIO].outgoing
    sent = peer.datagrams()
    assert len(sent) == count
    viewer.rtcp(rtcp.nack(1, out.ssrc, [n & 0xFFFF for n in range(out.next - count, out.next)]), clock.now())
    assert peer.datagrams() == sent
    assert not peer.closed


async def test_sound_over_all_reason_is_left_out_and_counted(rig: Rig) -> None:
    peer = rig.peer()
    rig.cast.add(peer, SENDS)
    rig.sound(3_000_000, pts=0)
    kept = rig.sound(160, pts=960)
    await rig.settle()
    assert [p.payload for p in peer.packets()] == [kept]
    assert rig.cast.undeliverable == 1


async def test_a_run_that_is_too_large_is_never_laid_out(rig: Rig) -> None:
    for packets in ([bytes(1300)] * 20, [bytes(100)] * 21, [bytes(30_000)], [bytes(10), bytes(20)]):
        with pytest.raises(ValueError, match="run: expected"):
            rig.batch.lay(packets, 16)


async def test_a_late_joiner_gets_the_cached_gop_then_live(rig: Rig) -> None:
    rig.frame(key=True)
    for _ in range(30):
        rig.frame(3000)
    await rig.settle()
    peer = rig.peer()
    viewer = rig.cast.add(peer, SENDS)
    assert (viewer.stats.state, viewer.stats.reason) == ("catching-up", "late-join")
    rig.frame(3000)
    await until(lambda: viewer.stats.state == "live")
    rig.frame(3000)
    await rig.settle()
    packets = peer.packets()
    assert pictures(packets) == brief(rig.units)
    assert gapless(packets, rig.cast.ssrcs[Kind.VIDEO][0])
    assert rig.asked == 0
    assert viewer.flows[Kind.VIDEO].layout is not None, "in step with everybody"


async def test_without_a_key_frame_one_is_asked_for_and_waited_for(rig: Rig) -> None:
    peer = rig.peer()
    viewer = rig.cast.add(peer, SENDS)
    assert rig.asked == 1
    assert (viewer.stats.state, viewer.stats.reason) == ("catching-up", "waiting-for-keyframe")
    rig.cast.on_packet(Packet(VIDEO, b"\0\0\0\2\x41x", rig.pts, rig.pts, False, clock.now()))
    rig.frame(key=True)
    rig.frame()
    await rig.settle()
    assert pictures(peer.packets()) == brief(rig.units)
    assert viewer.stats.state == "live"


async def test_layouts_differ_by_payload_type_and_extension(rig: Rig) -> None:
    rig.frame(key=True)
    await rig.settle()
    ours, theirs = rig.peer(), rig.peer(Profile.AES_CM_128_HMAC_SHA1_80)
    rig.cast.playout_delay = 0.25
    for peer, sends in ((ours, SENDS), (theirs, PLAIN)):
        rig.cast.add(peer, sends)
    rig.frame()
    await rig.settle()
    mine, other = ours.packets(), theirs.packets()
    assert pictures(mine, 108) == pictures(other, 102) == brief(rig.units)
    assert mine[-1].extensions[5] == (25 << 12 | 1000).to_bytes(3, "big")
    assert mine[0].extensions[5] == bytes(3), "what was packetised before keeps the delay it had"
    assert not any(p.extensions for p in other)


async def test_a_resend_is_the_identical_packet_even_after_the_delay_was_changed(rig: Rig) -> None:
    rig.frame(key=True)
    await rig.settle()
    peer = rig.peer()
    viewer = rig.cast.add(peer, SENDS)
    rig.frame()
    await rig.settle()
    sent = peer.datagrams()
    rig.cast.playout_delay = 0.3
    numbers = [int.from_bytes(data[2:4], "big") for data in sent[-4:]]
    ssrc = rig.cast.ssrcs[Kind.VIDEO][0]
    viewer.rtcp(rtcp.nack(1, ssrc, numbers), clock.now())
    assert peer.datagrams() == sent[-4:]
    assert viewer.stats.resent == 4
    viewer.rtcp(rtcp.nack(1, ssrc, numbers), clock.now())
    assert peer.datagrams() == [], "asked for again within a round trip"
    assert viewer.stats.dropped == {"nack-repeated": 4}
    viewer.rtcp(rtcp.nack(1, ssrc, [numbers[-1] + 5, numbers[0] - 900]), clock.now())
    assert viewer.stats.dropped == {"nack-repeated": 4, "nack-not-sent": 2}


async def test_rtx_wraps_what_was_lost(rig: Rig) -> None:
    cast = rig.broadcast(rtx=True)
    sends = (SendMedia("0", Kind.VIDEO, Codec.H264, 108, 90_000, rtx=109, playout_delay=5),)
    rig.frame(key=True, cast=cast)
    await rig.settle()
    peer = rig.peer()
    viewer = cast.add(peer, sends)
    rig.frame(cast=cast)
    await rig.settle()
    lost = peer.packets()[-3]
    for _ in range(2):
        viewer.rtcp(rtcp.nack(1, lost.ssrc, [lost.sequence]), clock.now())
        await turns(0.02)
    again = peer.packets()
    assert [p.ssrc for p in again] == [cast.ssrcs[Kind.VIDEO][1]] * 2
    assert [p.payload for p in again] == [lost.sequence.to_bytes(2, "big") + lost.payload] * 2
    assert again[1].sequence == again[0].sequence + 1, "never two plaintexts under one index"
    assert {(p.payload_type, p.timestamp, p.extensions[5]) for p in again} == {(109, lost.timestamp, lost.extensions[5])}
    cast.close()


async def test_a_storm_of_nacks_is_bounded(rig: Rig) -> None:
    rig.frame(key=True)
    await rig.settle()
    peer = rig.peer()
    viewer = rig.cast.add(peer, SENDS)
    for _ in range(60):
        rig.frame()
        await rig.settle()
    ssrc, high = rig.cast.ssrcs[Kind.VIDEO][0], rig.cast.channels[Kind.VIDEO].sent_next - 1
    peer.datagrams()
    now = clock.now()
    for turn in range(20):
        viewer.rtcp(rtcp.nack(1, ssrc, [(high - i) & 0xFFFF for i in range(500, 0, -1)]), now + turn * 0.02)
    stats = viewer.stats
    assert stats.nacked == 10_000
    assert stats.resent * 1164 < 262_144 + 0.4 * rig.cast.channels[Kind.VIDEO].rate.value + 0.4 * 62_500 + 2 * 1200
    assert stats.dropped["nack-over-cap"] > 5000
    assert len(peer.datagrams()) == stats.resent


async def test_one_datagram_of_nacks_costs_little(rig: Rig) -> None:
    """It can name 6000 packets; each second so many are looked up, and no packet is made that the budget does not let go."""
    rig.frame(key=True)
    await rig.settle()
    viewer = rig.cast.add(rig.peer(), SENDS)
    await rig.settle()
    ssrc, high = rig.cast.ssrcs[Kind.VIDEO][0], rig.cast.channels[Kind.VIDEO].sent_next
    old = rtcp.nack(1, ssrc, [(high - i) & 0xFFFF for i in range(12_000, 9000, -1)])
    for _ in range(5):
        viewer.rtcp(old, clock.now())
    dropped = viewer.stats.dropped
    assert dropped["nack-not-sent"] == MAX_ASKED
    assert dropped["nack-over-cap"] == 5 * 3000 - MAX_ASKED
    viewer.visit(clock.now())
    viewer.rtcp(rtcp.nack(1, ssrc, [(high - 1) & 0xFFFF]), clock.now())
    assert viewer.stats.resent == 1


async def test_who_fails_alone_in_its_row_costs_the_next_row_nothing(rig: Rig) -> None:
    rig.frame(key=True)
    await rig.settle()
    peers = [rig.peer() for _ in range(18)]
    viewers = [rig.cast.add(peer, SENDS) for peer in peers]
    await rig.settle()
    for viewer in viewers[1:16]:
        rig.cast.remove(viewer)
    layouts = rig.cast.channels[Kind.VIDEO]._layouts.values()
    assert [len(row.targets) for layout in layouts for row in layout.rows] == [1, 2]
    # its index is far ahead now, and libsrtp refuses what comes next
    out, sealer = rig.cast.channels[Kind.VIDEO].outgoing, peers[0].sealer
    assert sealer is not None
    sealer.protect(b"\x80\x6c" + (out.next + 5000 & 0xFFFF).to_bytes(2, "big") + bytes(4) + out.ssrc.to_bytes(4, "big") + b"x")
    unit = rig.frame()
    await rig.settle()
    assert [error.code for error in peers[0].closed if error is not None] == ["seal-failed"]
    for peer in peers[16:]:
        assert pictures(peer.packets())[-1:] == brief([unit])


async def test_who_fails_with_the_first_packet_is_closed_and_can_be_removed(rig: Rig) -> None:
    rig.frame(key=True)
    await rig.settle()
    peer, out = rig.peer(), rig.cast.channels[Kind.VIDEO].outgoing
    assert peer.sealer is not None
    peer.sealer.protect(b"\x80\x6c" + (out.next + 5000 & 0xFFFF).to_bytes(2, "big") + bytes(4) + out.ssrc.to_bytes(4, "big") + b"x")
    close = peer.close

    def closed(error: Any = None) -> None:
        close(error)
        peer.sealer = None  # as a peer's is when it is gone

    peer.close = closed  # type: ignore[method-assign]  # one peer's own
    viewer = rig.cast.add(peer, SENDS)
    assert viewer.closed
    assert [error.code for error in peer.closed if error is not None] == ["seal-failed"]
    assert not any(len(channel) for channel in rig.cast.channels.values())
    rig.cast.remove(viewer)
    assert not rig.cast.viewers


async def test_thinning_leaves_no_hole(rig: Rig) -> None:
    rig.frame(key=True)
    await rig.settle()
    peer, other = rig.peer(), rig.peer()
    viewer = rig.cast.add(peer, SENDS)
    rig.cast.add(other, SENDS)
    now = clock.now()
    ssrc = rig.cast.ssrcs[Kind.VIDEO][0]
    expected = [rig.units[0]]
    for i in range(40):
        if i in (2, 4, 6, 8, 10):
            viewer.rtcp(rtcp.receiver_report(1, [rtcp.ReportBlock(ssrc, 51, 9, i * 30, 0, 0, 0)]), now)
            viewer.visit(now)
        state = viewer.stats.state
        unit = rig.frame(2500, reference=i % 2 == 0)
        if i % 2 == 0 or state == "live":
            expected.append(unit)
        await rig.settle()
    assert (viewer.stats.state, viewer.stats.reason) == ("thinned", "loss")
    packets = peer.packets()
    assert pictures(packets) == brief(expected) != brief(rig.units)
    assert gapless(packets, rig.cast.ssrcs[Kind.VIDEO][0])
    assert viewer.stats.dropped["thinned"] > 0
    assert pictures(other.packets()) == brief(rig.units), "nobody else notices"
    # its own numbers are understood in its NACKs
    lost = packets[-2]
    as_sent = peer.raw[-2]
    viewer.rtcp(rtcp.nack(1, lost.ssrc, [lost.sequence]), now)
    assert peer.datagrams() == [as_sent]


async def test_a_hopeless_viewer_loses_video_and_gets_it_back(rig: Rig) -> None:
    rig.frame(key=True)
    await rig.settle()
    peer = rig.peer()
    viewer = rig.cast.add(peer, SENDS)
    now = clock.now()
    ssrc = rig.cast.ssrcs[Kind.VIDEO][0]
    seen = []
    for second in range(16):
        for i in range(5):
            rig.frame(2500, key=i == 2 and second % 2 == 1)
            await rig.settle()
        bad = second < 7  # the first report only says where counting begins
        viewer.rtcp(rtcp.receiver_report(1, [rtcp.ReportBlock(ssrc, 128 if bad else 0, 9, 60 * second, 0, 0, 0)]), now + second)
        viewer.visit(now + second)
        seen.append((viewer.stats.state, viewer.stats.reason))
    assert seen[2] == ("thinned", "loss")
    assert seen[4] == ("paused", "loss")
    assert seen[6] == ("paused", "audio-only")
    for second in range(16, 40):
        for i in range(5):
            rig.frame(2500, key=i == 2 and second % 2 == 1)
            await rig.settle()
        viewer.visit(now + second)
    assert viewer.stats.state == "live"
    packets = peer.packets()
    assert gapless(packets, ssrc)
    got = pictures(packets)
    assert got[-1] == brief(rig.units)[-1]
    assert len(got) < len(rig.units)


async def test_tcp_viewers_get_the_same_and_drop_to_the_next_key_frame(rig: Rig) -> None:
    rig.frame(key=True)
    await rig.settle()
    peer = rig.peer(tcp=True)
    viewer = rig.cast.add(peer, SENDS)
    rig.frame()
    sound = rig.sound()
    await rig.settle()
    assert viewer.stats.state == "live"
    assert peer.stream is not None
    peer.stream.unsent = rig.limits.rtc_tcp_unsent_bytes + 1
    kept = list(rig.units)
    rig.frame()
    await rig.settle()
    peer.stream.unsent = 0
    rig.frame()
    await rig.settle()
    assert (viewer.stats.state, viewer.stats.reason) == ("paused", "tcp-unsent")
    kept.append(rig.frame(key=True))
    kept.append(rig.frame())
    await until(lambda: rig.cast.channels[Kind.VIDEO].sent_next == rig.cast.channels[Kind.VIDEO].outgoing.next)
    packets = peer.packets()
    assert pictures(packets) == brief(kept)
    assert gapless(packets, rig.cast.ssrcs[Kind.VIDEO][0])
    assert [p.payload for p in packets if p.payload_type == 111] == [sound]
    assert peer.rx.fileno() > 0
    assert viewer.stats.state == "live"


async def test_sequence_and_timestamp_wrap() -> None:
    rig = Rig(random=lambda below: below - 1 if below == 0x4000 else 0xFFFFF000 if below == 0x100000000 else 5)
    try:
        peer = rig.peer(Profile.AES_CM_128_HMAC_SHA1_80)
        rig.cast.add(peer, SENDS)
        late: FakePeer | None = None
        count, stamps = 0, []
        for batch in range(2600):
            for i in range(20):
                rig.sound(20, pts=(batch * 20 + i) * 960)
            await rig.settle()
            packets = peer.packets()
            count += len(packets)
            stamps += [p.timestamp for p in packets]
            if late is None and rig.cast.channels[Kind.AUDIO].sent_next > 0x10000 - 60:
                late = rig.peer()
                rig.cast.add(late, SENDS)
        assert count == 52_000
        assert {(b - a) & 0xFFFFFFFF for a, b in itertools.pairwise(stamps)} == {960}
        assert stamps[0] > stamps[-1]
        assert late is not None
        # its first 100 packets are lost: a receiver that starts behind the wrap opens all the rest
        rest = late.datagrams()[100:]
        assert len([late.opener.unprotect(data) for data in rest]) == len(rest) > 1000
        assert int.from_bytes(rest[0][2:4], "big") < 0x8000
    finally:
        rig.close()


async def test_gaps_go_forward_and_lips_stay_in_sync(rig: Rig) -> None:
    rig.frame(key=True)
    await rig.settle()
    peer = rig.peer()
    rig.cast.add(peer, SENDS)
    rig.sound()
    rig.frame()
    await rig.settle()
    video, audio = rig.cast.ssrcs[Kind.VIDEO][0], rig.cast.ssrcs[Kind.AUDIO][0]
    before = peer.packets()
    rig.cast.on_gap(Gap("takeover"))
    rig.cast.on_tracks((VIDEO, AUDIO))
    rig.pts = 17  # another encoder, another clock
    rig.frame(key=True)
    rig.sound()
    await rig.settle()
    after = peer.packets()
    assert gapless(before + after, video)
    for ssrc, most in ((video, 18_000), (audio, 9_600)):
        last = next(p.timestamp for p in reversed(before) if p.ssrc == ssrc)
        first = next(p.timestamp for p in after if p.ssrc == ssrc)
        assert 0 < (first - last) & 0xFFFFFFFF < most
    assert next(p.marker for p in after if p.ssrc == audio), "a talkspurt begins"
    offset = {kind: channel.outgoing.offset for kind, channel in rig.cast.channels.items()}
    at_video = ((next(p.timestamp for p in after if p.ssrc == video) - offset[Kind.VIDEO]) & 0xFFFFFFFF) / 90_000
    at_audio = ((next(p.timestamp for p in after if p.ssrc == audio) - offset[Kind.AUDIO]) & 0xFFFFFFFF) / 48_000
    assert abs(at_video - at_audio) < 0.001


async def test_sender_reports_share_one_instant(rig: Rig) -> None:
    rig.frame(key=True)
    await rig.settle()
    peer = rig.peer()
    viewer = rig.cast.add(peer, SENDS)
    rig.frame()
    rig.sound()
    await rig.settle()
    await until(lambda: len(peer.reports) > 0)
    messages = rtcp.parse(peer.reports[0])
    video, audio, names = messages
    assert isinstance(video, rtcp.SenderReport)
    assert isinstance(audio, rtcp.SenderReport)
    assert isinstance(names, rtcp.SourceDescription)
    assert names.cnames == {video.ssrc: rig.cast.cname}
    assert video.ntp == audio.ntp
    assert abs(rtcp.wallclock(video.ntp) - clock.wallclock()) < 10
    assert (video.ssrc, audio.ssrc) == (rig.cast.ssrcs[Kind.VIDEO][0], rig.cast.ssrcs[Kind.AUDIO][0])
    offset = {kind: channel.outgoing.offset for kind, channel in rig.cast.channels.items()}
    at_video = ((video.timestamp - offset[Kind.VIDEO]) & 0xFFFFFFFF) / 90_000
    at_audio = ((audio.timestamp - offset[Kind.AUDIO]) & 0xFFFFFFFF) / 48_000
    assert abs(at_video - at_audio) < 0.001
    packets = [p for p in peer.packets() if p.ssrc == video.ssrc]
    assert (video.packets, video.octets) == (len(packets), sum(len(p.payload) for p in packets))
    assert viewer.stats.packets == len(packets) + 1


async def test_rtt_and_key_frame_requests(rig: Rig) -> None:
    rig.frame(key=True)
    await rig.settle()
    viewer = rig.cast.add(rig.peer(), SENDS)
    ssrc = rig.cast.ssrcs[Kind.VIDEO][0]
    stamp = rtcp.ntp(clock.wallclock() - 0.25) >> 16 & 0xFFFFFFFF
    viewer.rtcp(rtcp.receiver_report(1, [rtcp.ReportBlock(ssrc, 64, 9, 0, 0, stamp, 65536 // 10)]), clock.now())
    assert 0.14 < viewer.stats.rtt < 0.3
    assert viewer.stats.loss == 0.25
    now = clock.now()
    for i in range(10):
        viewer.rtcp(rtcp.pli(1, ssrc), now + i * 0.01)
        viewer.rtcp(rtcp.fir(1, ssrc, i), now + i * 0.01)
    assert rig.asked == 1
    viewer.rtcp(rtcp.pli(1, ssrc), now + 1)
    assert rig.asked == 2
    viewer.rtcp(b"\x80\xc8\xff", now)
    assert viewer.garbage == 1


async def test_a_viewer_moves_to_another_layer_at_its_key_frame(rig: Rig) -> None:
    lower = rig.broadcast()
    rig.frame(key=True)
    await rig.settle()
    peer = rig.peer()
    viewer = rig.cast.add(peer, SENDS)
    await rig.settle()
    high = list(rig.units)
    rig.cast.move(viewer, lower)
    rig.frame(1000, cast=lower)
    high.append(rig.frame())
    await rig.settle()
    low = [rig.frame(1500, key=True, cast=lower)]
    rig.frame()
    low.append(rig.frame(1500, cast=lower))
    await until(lambda: viewer.flows[Kind.VIDEO].cursor is None)
    low.append(rig.frame(1500, cast=lower))
    rig.sound()
    await rig.settle()
    packets = peer.packets()
    ssrc = rig.cast.ssrcs[Kind.VIDEO][0]
    assert pictures(packets) == brief(high + low)
    assert gapless(packets, ssrc)
    assert {p.ssrc for p in packets} == {ssrc, rig.cast.ssrcs[Kind.AUDIO][0]}
    stamps = [p.timestamp for p in packets if p.ssrc == ssrc]
    assert all((b - a) & 0xFFFFFFFF < 90_000 for a, b in itertools.pairwise(stamps))
    lost = len(packets) - 3
    viewer.rtcp(rtcp.nack(1, ssrc, [packets[lost].sequence, packets[0].sequence]), clock.now())
    assert sorted(peer.datagrams()) == sorted([peer.raw[lost], peer.raw[0]]), "of both layers, identical"
    rig.cast.remove(viewer)
    assert len(lower.channels[Kind.VIDEO]) == len(rig.cast.channels[Kind.VIDEO]) == 0
    lower.close()


async def test_another_codec_ends_what_was_promised(rig: Rig) -> None:
    told: list[Kind] = []
    rig.cast.on_codec_changed = told.append
    rig.frame(key=True)
    await rig.settle()
    peer = rig.peer()
    viewer = rig.cast.add(peer, SENDS)
    await rig.settle()
    peer.packets()
    vp8 = Track(0, Codec.VP8, 90_000)
    rig.cast.on_gap(Gap("track-changed"))
    rig.cast.on_tracks((vp8, AUDIO))
    assert told == [Kind.VIDEO]
    rig.cast.on_packet(Packet(vp8, bytes(50), 1, 1, True, clock.now()))
    sound = rig.sound()
    await rig.settle()
    assert [p.payload for p in peer.packets()] == [sound]
    assert viewer.stats.state == "paused"
    with pytest.raises(UnsupportedMedia):
        rig.cast.add(rig.peer(), SENDS)


async def test_a_codec_that_was_not_known_at_the_answer(rig: Rig) -> None:
    """The viewer came first, and the source turns out to be VP8."""
    told: list[Kind] = []
    cast = Broadcast(rig.batch, rig.limits, on_codec_changed=told.append)
    peer = rig.peer()
    viewer = cast.add(peer, SENDS)
    vp8 = Track(0, Codec.VP8, 90_000)
    cast.on_tracks((vp8, AUDIO))
    cast.on_packet(Packet(vp8, bytes(50), 1, 1, True, clock.now()))
    cast.on_packet(Packet(AUDIO, b"sound", 1, 1, True, clock.now()))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert told == [Kind.VIDEO]
    assert [p.payload for p in peer.packets()] == [b"sound"]
    assert (viewer.stats.state, viewer.stats.reason) == ("paused", "codec-changed")
    cast.close()


async def test_what_cannot_be_packetised_is_counted(rig: Rig) -> None:
    peer = rig.peer()
    rig.cast.add(peer, SENDS)
    broken = Track(0, Codec.H264, 90_000, b"\0nonsense")
    rig.cast.on_tracks((broken, AUDIO))
    rig.cast.on_packet(Packet(broken, b"\0\0\0\2\x65x", 1, 1, True, clock.now()))
    rig.cast.on_tracks((VIDEO, AUDIO))
    rig.frame(key=True)
    await rig.settle()
    assert rig.cast.undeliverable == 1
    assert pictures(peer.packets()) == brief(rig.units)


async def test_old_sound_of_a_cached_gop_is_left_out(rig: Rig) -> None:
    peer = rig.peer()
    rig.cast.add(peer, SENDS)
    rig.cast.on_packet(Packet(AUDIO, b"old", 0, 0, True, clock.now() - 1.5))
    sound = rig.sound(pts=960)
    await rig.settle()
    assert [p.payload for p in peer.packets()] == [sound]


async def test_a_burst_goes_in_chunks_and_in_order(rig: Rig) -> None:
    rig.frame(key=True)
    await turns()
    peers = [rig.peer() for _ in range(18)]
    for peer in peers:
        rig.cast.add(peer, SENDS)
    await turns()
    rig.frame(150_000, key=True)
    await turns()
    half = [len(peer.datagrams()) for peer in peers]
    assert max(half) < 60, "paced"
    rig.frame()
    channel = rig.cast.channels[Kind.VIDEO]
    await until(lambda: channel.sent_next == channel.outgoing.next)
    peers[0].datagrams()
    numbers = [int.from_bytes(data[2:4], "big") for data in peers[0].raw]
    assert [(b - a) & 0xFFFF for a, b in itertools.pairwise(numbers)] == [1] * (len(numbers) - 1)
    assert len(numbers) > 140


async def test_a_peer_that_moves_is_followed(rig: Rig) -> None:
    rig.frame(key=True)
    await rig.settle()
    peer, elsewhere = rig.peer(), rig.peer()
    rig.cast.add(peer, SENDS)
    await rig.settle()
    peer.address = elsewhere.address
    await asyncio.sleep(0.1)
    rig.frame()
    await rig.settle()
    assert len(peer.packets()) == 11
    assert len(elsewhere.datagrams()) == 10


async def test_packet_info_of_a_multihomed_host(rig: Rig) -> None:
    """IPV6_PKTINFO beside UDP_SEGMENT, in rows with others that have none."""
    rig.frame(key=True)
    await rig.settle()
    peers = [rig.peer() for _ in range(4)]
    info = socket.inet_pton(socket.AF_INET6, "::ffff:127.0.0.1") + bytes(4)
    for peer in peers[::2]:
        peer.ancillary = [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, info)]
    for peer in peers:
        rig.cast.add(peer, SENDS)
    rig.frame()
    rig.sound()
    await rig.settle()
    for peer in peers:
        assert pictures(peer.packets()) == brief(rig.units)
    assert rig.batch.dropped == 0


@pytest.mark.parametrize("sendmmsg", [True, False])
async def test_without_gso_and_without_sendmmsg(rig: Rig, sendmmsg: bool) -> None:
    rig.batch.gso, rig.batch.sendmmsg = False, sendmmsg
    rig.frame(key=True)
    await rig.settle()
    peers = [rig.peer() for _ in range(18)]
    peers[3].ancillary = [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, socket.inet_pton(socket.AF_INET6, "::ffff:127.0.0.1") + bytes(4))]
    for peer in peers:
        rig.cast.add(peer, SENDS)
    await rig.settle()
    before = rig.batch.calls
    rig.frame()
    rig.sound()
    await rig.settle()
    assert rig.batch.calls - before == (22 if sendmmsg else 11 * 18), "a call per packet and row, or per packet and viewer"
    for peer in peers:
        assert pictures(peer.packets()) == brief(rig.units)


async def test_without_gso_a_full_socket_keeps_the_order(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.batch.gso = False
    rig.frame(key=True)
    await rig.settle()
    peers = [rig.peer() for _ in range(5)]
    for peer in peers:
        rig.cast.add(peer, SENDS)
    await rig.settle()
    full, libc = FullSocket(rig.sock), FullLibc(batches._libc)
    monkeypatch.setattr(rig.batch, "sock", full)
    monkeypatch.setattr(batches, "_libc", libc)
    full.full, libc.room = True, 13
    rig.frame()
    rig.frame()
    await asyncio.sleep(0.02)
    assert rig.batch.unsent > 0
    full.full, libc.room = False, 1 << 30
    await until(lambda: rig.batch.unsent == 0)
    await rig.settle()
    for peer in peers:
        packets = peer.packets()
        assert pictures(packets) == brief(rig.units)
        assert gapless(packets, rig.cast.ssrcs[Kind.VIDEO][0])


async def test_without_the_raw_binding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(srtp.RAW, "usable", False)
    rig = Rig()
    try:
        rig.frame(key=True)
        await rig.settle()
        peers = [rig.peer(profile) for profile in Profile]
        for peer in peers:
            rig.cast.add(peer, SENDS)
        rig.frame()
        sound = rig.sound()
        await rig.settle()
        for peer in peers:
            packets = peer.packets()
            assert pictures(packets) == brief(rig.units)
            assert packets[-1].payload == sound or sound in [p.payload for p in packets]
    finally:
        rig.close()


class FullSocket:
    """A socket that takes nothing while `full`, and counts."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.full = False

    def sendmsg(self, *arguments: Any) -> int:
        if self.full:
            raise BlockingIOError(11, "full")
        return self._sock.sendmsg(*arguments)

    def sendto(self, *arguments: Any) -> int:
        if self.full:
            raise BlockingIOError(11, "full")
        return self._sock.sendto(*arguments)


class FullLibc:
    """sendmmsg that takes `room` messages and then says EAGAIN, as a full socket does."""

    def __init__(self, real: Any) -> None:
        self.real = real
        self.room = 0

    def sendmmsg(self, fd: int, headers: Any, count: int, flags: int) -> int:
        if not self.room:
            return -1
        done = self.real.sendmmsg(fd, headers, min(count, self.room), flags)
        self.room -= done
        return int(done)


async def test_what_a_full_socket_refuses_is_kept_in_order(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    peers = [rig.peer() for _ in range(6)]
    rig.frame(key=True)
    await rig.settle()
    for peer in peers:
        rig.cast.add(peer, SENDS)
    await rig.settle()
    full = FullSocket(rig.sock)
    libc = FullLibc(batches._libc)
    monkeypatch.setattr(rig.batch, "sock", full)
    monkeypatch.setattr(batches, "_libc", libc)
    full.full, libc.room = True, 4
    for _ in range(3):
        rig.frame()
        rig.sound()
        await rig.settle()
    assert rig.batch.unsent > 0
    full.full, libc.room = False, 1 << 30
    await until(lambda: rig.batch.unsent == 0)
    rig.frame()
    await rig.settle()
    for peer in peers:
        packets = peer.packets()
        assert pictures(packets) == brief(rig.units)
        assert gapless(packets, rig.cast.ssrcs[Kind.VIDEO][0])
    assert rig.batch.dropped == 0
    assert rig.batch.full > 0


async def test_what_waits_for_the_socket_is_bounded_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(Limits(rtc_unsent_bytes=50_000))
    try:
        rig.frame(key=True)
        await rig.settle()
        peers = [rig.peer() for _ in range(3)]
        viewers = [rig.cast.add(peer, SENDS) for peer in peers]
        await rig.settle()
        full = FullSocket(rig.sock)
        full.full = True
        monkeypatch.setattr(rig.batch, "sock", full)
        libc = FullLibc(batches._libc)
        monkeypatch.setattr(batches, "_libc", libc)
        for _ in range(4):
            rig.frame()
            await rig.settle()
            assert rig.batch.unsent <= 50_000
        lost = sum(v.stats.dropped.get("socket-full", 0) for v in viewers)
        assert lost == rig.batch.dropped > 0
        full.full, libc.room = False, 1 << 30
        await until(lambda: rig.batch.unsent == 0)
        assert sum(len(peer.packets()) for peer in peers) == sum(v.stats.packets for v in viewers) - lost
    finally:
        rig.close()


async def test_a_route_that_refuses_gso_is_sent_single_packets(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.frame(key=True)
    await rig.settle()
    peers = [rig.peer() for _ in range(3)]
    viewers = [rig.cast.add(peer, SENDS) for peer in peers]
    await rig.settle()
    bad = peers[1].address[1].to_bytes(2, "big")
    real_libc, real_sock = batches._libc, rig.sock

    class Libc:
        def sendmmsg(self, fd: int, headers: Any, count: int, flags: int) -> int:
            for i in range(count):
                header = headers[i].msg_hdr
                if header.msg_controllen and bytes(batches.cdefs.buffer(header.msg_name, 4)[2:4]) == bad:
                    return int(real_libc.sendmmsg(fd, headers, i, flags)) if i else -1
            return int(real_libc.sendmmsg(fd, headers, count, flags))

    class Sock:
        def sendmsg(self, data: Any, ancillary: Any, flags: int, address: Any) -> int:
            if ancillary and address[1].to_bytes(2, "big") == bad:
                raise OSError(22, "Invalid argument")
            return real_sock.sendmsg(data, ancillary, flags, address)

        def sendto(self, *arguments: Any) -> int:
            return real_sock.sendto(*arguments)

    monkeypatch.setattr(batches, "_libc", Libc())
    monkeypatch.setattr(rig.batch, "sock", Sock())
    for _ in range(3):
        rig.frame()
        await rig.settle()
    for peer in peers:
        assert pictures(peer.packets()) == brief(rig.units)
    assert rig.batch.refused == 1, "asked once, then remembered"
    assert viewers[1].flows[Kind.VIDEO].row.plain


async def test_an_unroutable_viewer_harms_nobody(rig: Rig) -> None:
    rig.frame(key=True)
    await rig.settle()
    peers = [rig.peer() for _ in range(3)]
    viewers = [rig.cast.add(peer, SENDS) for peer in peers]
    await rig.settle()
    await asyncio.sleep(0.1)
    peers[1].address = ("2001:db8::1", 9, 0, 0)
    peers[1].ancillary = [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, socket.inet_pton(socket.AF_INET6, "2001:db8::2") + bytes(4))]
    rig.frame()
    await rig.settle()
    assert pictures(peers[0].packets()) == pictures(peers[2].packets()) == brief(rig.units)
    assert viewers[1].stats.dropped.get("not-routed", 0) > 0


async def test_viewers_leave_and_nothing_is_left(rig: Rig) -> None:
    rig.frame(key=True)
    await rig.settle()
    peers = [rig.peer() for _ in range(40)]
    viewers = [rig.cast.add(peer, SENDS) for peer in peers]
    await rig.settle()
    gone = viewers[3::2]
    for viewer in gone:
        rig.cast.remove(viewer)
        rig.cast.remove(viewer)
    for peer in peers:
        peer.packets()
    unit = rig.frame()
    await rig.settle()
    for peer, viewer in zip(peers, viewers, strict=True):
        assert pictures(peer.packets()) == ([] if viewer in gone else brief([unit]))
    for viewer in viewers:
        rig.cast.remove(viewer)
    assert not rig.cast.viewers
    assert len(rig.cast.channels[Kind.VIDEO]) == len(rig.cast.channels[Kind.AUDIO]) == 0
