"""Sound through the fan-out, of every size that a publisher may choose."""

from __future__ import annotations

import pytest
from harness.fanout import AUDIO, SENDS, Rig

from medianode import clock
from medianode.media.packet import Packet
from medianode.media.track import Kind
from medianode.protocols.rtp import rtcp
from medianode.rtc import batch as batches
from medianode.rtc import srtp


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


async def test_old_sound_of_a_cached_gop_is_left_out(rig: Rig) -> None:
    peer = rig.peer()
    rig.cast.add(peer, SENDS)
    rig.cast.on_packet(Packet(AUDIO, b"old", 0, 0, True, clock.now() - 1.5))
    sound = rig.sound(pts=960)
    await rig.settle()
    assert [p.payload for p in peer.packets()] == [sound]
