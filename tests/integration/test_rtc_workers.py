"""Fan-out workers: processes of their own on the daemon's UDP socket."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
from collections.abc import AsyncIterator, Callable

import pytest
from harness.fanout import AUDIO, SENDS, VIDEO, FakePeer, brief, gapless, pictures

from medianode import clock
from medianode.config import Limits
from medianode.errors import UnsupportedMedia
from medianode.media.packet import Gap, Packet
from medianode.media.track import Codec, Kind, Track
from medianode.protocols.rtp import rtcp
from medianode.protocols.rtp.packet import RtpPacket
from medianode.rtc.batch import Batch
from medianode.rtc.crew import Crew, RemoteViewer, SharedBroadcast
from medianode.rtc.fanout import Broadcast


async def until(condition: Callable[[], bool], seconds: float = 15.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


class Node:
    """What the daemon has: a socket, a crew, a broadcast."""

    def __init__(self, workers: int) -> None:
        self.limits = Limits()
        self.sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        self.sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        self.sock.bind(("::", 0))
        self.sock.setblocking(False)
        self.batch = Batch(self.sock, self.limits.rtc_unsent_bytes)
        self.crew = Crew(self.sock, self.limits, workers)
        self.asked = 0
        self.cast = self.share()
        self.peers: list[FakePeer] = []
        self.noise = random.Random(11)
        self.pts = 0
        self.units: list[bytes] = []

    def share(self) -> SharedBroadcast:
        cast = self.crew.share(Broadcast(self.batch, self.limits, request_keyframe=self._ask))
        cast.on_tracks((VIDEO, AUDIO))
        return cast

    def _ask(self) -> None:
        self.asked += 1

    @property
    def up(self) -> int:
        return sum(link.up for link in self.crew.links)

    def pids(self) -> list[int]:
        return [link.process.pid for link in self.crew.links if link.process is not None]

    def peer(self, *, tcp: bool = False) -> FakePeer:
        self.peers.append(FakePeer(tcp=tcp))
        return self.peers[-1]

    def frame(self, *, key: bool = False, cast: SharedBroadcast | None = None) -> bytes:
        unit = (b"\x65" if key else b"\x41") + self.noise.randbytes(5000)
        self.pts += 3000
        (cast or self.cast).on_packet(Packet(VIDEO, len(unit).to_bytes(4, "big") + unit, self.pts, self.pts, key, clock.now()))
        self.units.append(unit)
        return unit

    def sound(self) -> bytes:
        data = self.noise.randbytes(120)
        at = self.pts * 48 // 90
        self.cast.on_packet(Packet(AUDIO, data, at, at, True, clock.now()))
        return data


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    made = Node(2)
    serving = asyncio.get_running_loop().create_task(made.crew.serve())
    await until(lambda: made.up == 2)
    yield made
    processes = [link.process for link in made.crew.links if link.process is not None]
    made.cast.close()
    serving.cancel()
    await asyncio.wait([serving])
    for process in processes:
        process.wait(5)
    made.batch.close()
    made.sock.close()
    for peer in made.peers:
        peer.rx.close()


async def gathered(peer: FakePeer, count: int) -> list[RtpPacket]:
    """Packets until there are `count` pictures."""
    packets: list[RtpPacket] = []

    def enough() -> bool:
        packets.extend(peer.packets())
        return len(pictures(packets)) >= count

    await until(enough)
    return packets


async def test_workers_send_retransmit_and_report(node: Node) -> None:
    node.frame(key=True)
    viewers = [node.cast.add(peer, SENDS) for peer in (node.peer(), node.peer(), node.peer(), node.peer(tcp=True))]
    remote = [viewer for viewer in viewers if isinstance(viewer, RemoteViewer)]
    assert len(remote) == 3
    assert {viewer.link for viewer in remote} == set(node.crew.links), "spread over the workers; TCP is served here"
    node.frame()
    node.sound()
    node.frame()
    ssrc = node.cast.ssrcs[Kind.VIDEO][0]
    for peer in node.peers:
        packets = await gathered(peer, 3)
        assert pictures(packets) == brief(node.units)
        assert gapless(packets, ssrc)
    peer, viewer = node.peers[0], remote[0]
    peer.datagrams()
    lost = next(data for data in reversed(peer.raw) if data[1] & 127 == 108)
    viewer.rtcp(rtcp.nack(1, ssrc, [int.from_bytes(lost[2:4], "big")]), clock.now())
    again: list[bytes] = []
    await until(lambda: bool(again.extend(peer.datagrams()) or again))
    assert again == [lost]
    viewer.rtcp(rtcp.pli(1, ssrc), clock.now())
    await until(lambda: node.asked == 1)
    await until(lambda: len(peer.reports) > 0)
    assert {type(message) for message in rtcp.parse(peer.reports[0])} == {rtcp.SenderReport, rtcp.SourceDescription}
    await until(lambda: viewer.stats.resent == 1)
    assert viewer.stats.state == "live"


async def test_a_viewer_is_followed_moved_and_let_go(node: Node) -> None:
    node.frame(key=True)
    peer, elsewhere = node.peer(), node.peer()
    viewer = node.cast.add(peer, SENDS)
    await gathered(peer, 1)
    peer.address = elsewhere.address

    def arrived() -> bool:
        node.frame()
        return len(elsewhere.datagrams()) > 0

    await until(arrived)
    await asyncio.sleep(0.1)
    elsewhere.datagrams()
    elsewhere.opener = peer.opener
    lower = node.share()
    node.cast.move(viewer, lower)
    first = node.frame(key=True, cast=lower)
    got: list[bytes] = []

    def moved() -> bool:
        got.extend(elsewhere.opener.unprotect(data) for data in elsewhere.datagrams())
        return first[-200:] in b"".join(got)

    await until(moved)
    node.cast.remove(viewer)
    node.cast.remove(viewer)
    assert not node.cast.viewers
    lower.close()


async def test_kill_9_of_a_worker_closes_its_viewers_and_another_starts(node: Node) -> None:
    node.frame(key=True)
    peers = [node.peer() for _ in range(4)]
    viewers = [node.cast.add(peer, SENDS) for peer in peers]
    for peer in peers:
        await gathered(peer, 1)
    victim = node.crew.links[0]
    hit = [viewer for viewer in viewers if isinstance(viewer, RemoteViewer) and viewer.link is victim]
    assert victim.process is not None
    os.kill(victim.process.pid, signal.SIGKILL)
    await until(lambda: all(viewer.closed for viewer in hit))
    closed = [peer for peer in peers if peer.closed]
    assert len(closed) == len(hit) == 2
    assert {error.code for peer in closed for error in peer.closed if error is not None} == {"worker-lost"}
    assert len(node.cast.viewers) == 2, "the other worker's viewers stay"
    await until(lambda: node.up == 2 and victim.process.pid not in node.pids())
    fresh = node.peer()
    again = node.cast.add(fresh, SENDS)
    assert isinstance(again, RemoteViewer)
    assert again.link not in (victim, viewers[0])
    unit = node.frame()
    assert pictures(await gathered(fresh, 2)) == brief([node.units[0], unit]), "from the cached key frame, which it was told of"


async def test_a_worker_that_stands_still_is_put_out(node: Node) -> None:
    node.frame(key=True)
    link = node.crew.links[0]
    assert link.process is not None
    os.kill(link.process.pid, signal.SIGSTOP)
    for _ in range(2600):
        node.frame()
    await until(lambda: link not in node.crew.links)
    await until(lambda: node.up == 2)


async def test_a_move_to_another_codec_costs_no_worker(node: Node) -> None:
    """The codec may change while the order is on its way."""
    node.frame(key=True)
    peer = node.peer()
    viewer = node.cast.add(peer, SENDS)
    await gathered(peer, 1)
    pids, other = node.pids(), node.share()
    other.on_tracks((Track(0, Codec.VP8, 90_000),))
    node.cast.move(viewer, other)
    unit = node.frame()
    assert pictures(await gathered(peer, 1)) == brief([unit])
    assert node.pids() == pids
    assert not peer.closed
    other.close()


async def test_codecs_are_held_to(node: Node) -> None:
    vp8 = Track(0, Codec.VP8, 90_000)
    node.cast.on_gap(Gap("track-changed"))
    node.cast.on_tracks((vp8, AUDIO))
    with pytest.raises(UnsupportedMedia):
        node.cast.add(node.peer(), SENDS)
    node.cast.playout_delay = 0.3
    assert node.cast.playout_delay == node.cast.local.playout_delay == 0.3
