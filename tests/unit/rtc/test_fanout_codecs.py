"""Sources of the fan-out that change their codec, or cannot be packetised."""

from __future__ import annotations

import asyncio

import pytest
from harness.fanout import AUDIO, SENDS, VIDEO, Rig, brief, pictures

from medianode import clock
from medianode.errors import UnsupportedMedia
from medianode.media.packet import Gap, Packet
from medianode.media.track import Codec, Kind, Track
from medianode.rtc.fanout import Broadcast


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
