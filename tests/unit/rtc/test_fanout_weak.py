"""Viewers of the fan-out that fail, are slow or lose much: they are thinned, paused or closed, and nobody else notices."""

from __future__ import annotations

from typing import Any

from harness.fanout import SENDS, Rig, brief, gapless, pictures, until

from medianode import clock
from medianode.media.track import Kind
from medianode.protocols.rtp import rtcp


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
