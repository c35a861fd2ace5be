"""Numbers and times of the fan-out: wraps, gaps, sender reports, round trips."""

from __future__ import annotations

import itertools

from harness.fanout import AUDIO, SENDS, VIDEO, FakePeer, Rig, gapless, until

from medianode import clock
from medianode.media.packet import Gap
from medianode.media.track import Kind
from medianode.protocols.rtp import rtcp
from medianode.rtc.srtp import Profile


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
