"""What viewers of the fan-out lost is sent again, within bounds."""

from __future__ import annotations

from harness.fanout import SENDS, Rig, turns

from medianode import clock
from medianode.media.track import Codec, Kind
from medianode.protocols.rtp import rtcp
from medianode.protocols.sdp.plan import SendMedia
from medianode.rtc.viewer import MAX_ASKED


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
