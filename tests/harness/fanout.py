"""The fan-out under test: its rig, viewers with made-up keys and real sockets, and what can be told of what they received."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import socket
from typing import Any

from medianode import clock
from medianode.config import Limits
from medianode.errors import MedianodeError
from medianode.media.packet import Packet
from medianode.media.track import Codec, Kind, Track
from medianode.protocols.rtp import packet as rtp
from medianode.protocols.sdp.plan import SendMedia
from medianode.rtc.batch import Batch
from medianode.rtc.fanout import Broadcast
from medianode.rtc.srtp import Keys, Opener, Profile, Sealer

AVCC = bytes.fromhex("0142c01fffe1000a6742c01f95a014016e4001000468ce3c80")
VIDEO = Track(0, Codec.H264, 90_000, AVCC, width=1280, height=720)
AUDIO = Track(1, Codec.OPUS, 48_000, channels=2)
SENDS = (
    SendMedia("0", Kind.VIDEO, Codec.H264, 108, 90_000, playout_delay=5),
    SendMedia("1", Kind.AUDIO, Codec.OPUS, 111, 48_000, 2),
)
PLAIN = (SendMedia("0", Kind.VIDEO, Codec.H264, 102, 90_000), SendMedia("1", Kind.AUDIO, Codec.OPUS, 111, 48_000, 2))


class FakeStream:
    def __init__(self) -> None:
        self.packets: list[bytes] = []
        self.unsent = 0

    def send(self, packets: list[bytes]) -> None:
        self.packets += packets


class FakePeer:
    """A connected peer with made-up keys, and the other end of it: a socket and the opener of what it receives."""

    def __init__(self, profile: Profile = Profile.AEAD_AES_128_GCM, *, tcp: bool = False) -> None:
        keys = Keys(profile, os.urandom(profile.key_length + profile.salt_length))
        self.sealer: Sealer | None = Sealer(keys)
        self.opener_keys = keys
        self.opener = Opener(keys)
        self.rx = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        self.rx.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        self.rx.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self.rx.bind(("::", 0))
        self.rx.setblocking(False)
        self.address: Any = ("::ffff:127.0.0.1", self.rx.getsockname()[1], 0, 0)
        self.ancillary: list[tuple[int, int, bytes]] = []
        self.stream: FakeStream | None = FakeStream() if tcp else None
        self.rtt = 0.0
        self.reports: list[bytes] = []
        self.closed: list[MedianodeError | None] = []
        self.raw: list[bytes] = []

    def send_rtcp(self, plain: bytes) -> None:
        self.reports.append(plain)

    def close(self, error: MedianodeError | None = None) -> None:
        self.closed.append(error)

    def datagrams(self) -> list[bytes]:
        out = []
        if self.stream is not None:
            out, self.stream.packets = self.stream.packets, []
        while True:
            try:
                out.append(self.rx.recv(4096))
            except BlockingIOError:
                self.raw += out
                return out

    def packets(self) -> list[rtp.RtpPacket]:
        return [rtp.parse(self.opener.unprotect(data)) for data in self.datagrams()]


def pictures(packets: list[rtp.RtpPacket], payload_type: int = 108) -> list[tuple[int, int]]:
    """FU-A and single NAL units put together again, parameter sets left out."""
    out: list[bytes] = []
    for packet in packets:
        if packet.payload_type != payload_type:
            continue
        kind = packet.payload[0] & 31
        if kind == 28:
            head = packet.payload[1]
            if head & 0x80:
                out.append(bytes((packet.payload[0] & 0xE0 | head & 31,)))
            out[-1] += packet.payload[2:]
        elif kind != 24:
            out.append(packet.payload)
    return brief(out)


def brief(units: list[bytes]) -> list[tuple[int, int]]:
    """What can be told apart at a glance where two lists differ."""
    return [(len(unit), hash(unit) & 0xFFF) for unit in units]


def gapless(packets: list[rtp.RtpPacket], ssrc: int) -> bool:
    numbers = [p.sequence for p in packets if p.ssrc == ssrc]
    return len(numbers) > 0 and all((b - a) & 0xFFFF == 1 for a, b in itertools.pairwise(numbers))


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


async def turns(seconds: float = 0.0) -> None:
    await asyncio.sleep(seconds)
    await asyncio.sleep(0)


async def until(condition: Any, seconds: float = 5.0) -> None:
    end = clock.now() + seconds
    while not condition() and clock.now() < end:
        await asyncio.sleep(0.005)
    assert condition()
