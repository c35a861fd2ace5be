"""The fan-out and its socket: ways to send, addresses, and a socket that is full."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest
from harness.fanout import SENDS, Rig, brief, gapless, pictures, until

from medianode.config import Limits
from medianode.media.track import Kind
from medianode.rtc import batch as batches
from medianode.rtc import srtp
from medianode.rtc.srtp import Profile


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
