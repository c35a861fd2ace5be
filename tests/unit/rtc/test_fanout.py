"""The fan-out over real sockets: what viewers receive is opened again, byte for byte."""

from __future__ import annotations

import itertools

import pytest
from harness.fanout import PLAIN, SENDS, VIDEO, Rig, brief, gapless, pictures, turns, until

from medianode import clock
from medianode.media.packet import Packet
from medianode.media.track import Kind
from medianode.protocols.rtp import rtcp
from medianode.rtc.srtp import Profile


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
