"""The fan-out alone: µs of CPU per packet and viewer, against stock `Session.protect` and `sendto` per packet in the same run.

    python -m bench.webrtc_sender [-n 20,100,200,300] [--seconds 6] [--profile gcm128|gcm256|sha1]

Viewers are UDP sockets of a process of their own, which drains them every 4 ms and opens nothing; on loopback the kernel's receive path
is charged to the sender all the same. "paced" is real time: 30 pictures of 10.6 KB a second in reads of 50 ms, as the RTMP door has
them, a key frame of 60 KB every 2 s, 50 samples of Opus a second, a sender report per viewer and second, five RTCP compounds per
viewer and second read, 1 % NACKed and sent again. It is CPU of the whole process over wall time and viewers, but no door is in it.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import socket
import struct
import subprocess
import sys
import time
from typing import Any

import uvloop

from bench.rig import machine
from medianode import clock
from medianode.config import Limits
from medianode.errors import MedianodeError
from medianode.media.packet import Packet
from medianode.media.track import Codec, Kind, Track
from medianode.protocols.rtp import rtcp
from medianode.protocols.sdp.plan import SendMedia
from medianode.rtc.batch import Batch
from medianode.rtc.fanout import Broadcast
from medianode.rtc.flow import Stream
from medianode.rtc.srtp import Keys, Profile, Sealer
from medianode.rtc.viewer import Viewer

AVCC = bytes.fromhex("0142c01fffe1000a6742c01f95a014016e4001000468ce3c80")
VIDEO = Track(0, Codec.H264, 90_000, AVCC)
AUDIO = Track(1, Codec.OPUS, 48_000, channels=2)
SENDS = (
    SendMedia("0", Kind.VIDEO, Codec.H264, 108, 90_000, playout_delay=5),
    SendMedia("1", Kind.AUDIO, Codec.OPUS, 111, 48_000, 2),
)
PROFILES = {
    "gcm128": Profile.AEAD_AES_128_GCM,
    "gcm256": Profile.AEAD_AES_256_GCM,
    "sha1": Profile.AES_CM_128_HMAC_SHA1_80,
}
FRAME, KEYFRAME = 10_350, 60_000


class BenchPeer:
    def __init__(self, port: int, profile: Profile, sock: socket.socket) -> None:
        self.sealer: Sealer | None = Sealer(Keys(profile, os.urandom(profile.key_length + profile.salt_length)))
        self.address: Any = ("::ffff:127.0.0.1", port, 0, 0)
        self.ancillary: list[tuple[int, int, bytes]] = []
        self.stream: Stream | None = None
        self.rtt = 0.0
        self._sock = sock

    def send_rtcp(self, plain: bytes) -> None:
        assert self.sealer is not None
        self._sock.sendto(self.sealer.protect_rtcp(plain), socket.MSG_DONTWAIT, self.address)

    def close(self, error: MedianodeError | None = None) -> None:
        raise SystemExit(f"peer closed: {error}")


def drain(count: int) -> None:
    """The viewers' process: says its ports, then counts datagrams until standard input closes."""
    import selectors

    socks = []
    for _ in range(count):
        sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 21)
        sock.bind(("::", 0))
        sock.setblocking(False)
        socks.append(sock)
    print(*(sock.getsockname()[1] for sock in socks), flush=True)
    ends = selectors.DefaultSelector()
    ends.register(0, selectors.EVENT_READ)
    total = 0
    buffer = bytearray(2048)
    while not ends.select(0.004):
        for sock in socks:
            try:
                while True:
                    sock.recv_into(buffer)
                    total += 1
            except BlockingIOError:
                pass
    print(total, flush=True)


class Viewers:
    """`count` sockets elsewhere, and the sender's own."""

    def __init__(self, count: int, profile: Profile) -> None:
        command = [sys.executable, "-m", "bench.webrtc_sender", "--drain", str(count)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        ports = [int(port) for port in self.process.stdout.readline().split()]
        self.sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        self.sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
        self.sock.bind(("::", 0))
        self.sock.setblocking(False)
        self.peers = [BenchPeer(port, profile, self.sock) for port in ports]

    def received(self) -> int:
        time.sleep(0.1)
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        got = int(self.process.stdout.read())
        self.process.wait()
        self.sock.close()
        return got


class Source:
    def __init__(self) -> None:
        self.pts = 90_000
        self.audio_pts = 48_000
        noise = random.Random(3)
        self._key = b"\x65" + noise.randbytes(KEYFRAME - 1)
        self._delta = b"\x41" + noise.randbytes(FRAME - 1)
        self._sound = [noise.randbytes(150 + noise.randrange(20)) for _ in range(64)]

    def picture(self, key: bool = False) -> Packet:
        self.pts += 3000
        unit = self._key if key else self._delta
        return Packet(VIDEO, len(unit).to_bytes(4, "big") + unit, self.pts, self.pts, key, clock.now())

    def sound(self) -> Packet:
        self.audio_pts += 960
        return Packet(AUDIO, self._sound[self.audio_pts // 960 % 64], self.audio_pts, self.audio_pts, True, clock.now())


def stock(viewers: Viewers, nbytes: int, count: int, rounds: int) -> float:
    """Median µs per packet and viewer of what everybody writes first: header, protect and sendto per packet and viewer."""
    payload = os.urandom(nbytes)
    sequence = 0
    spent: list[float] = []
    for _ in range(rounds):
        start = time.process_time()
        for peer in viewers.peers:
            for i in range(count):
                head = struct.pack(">BBHII", 0x80, 108, (sequence + i) & 0xFFFF, 1, 77)
                assert peer.sealer is not None
                viewers.sock.sendto(peer.sealer.protect(head + payload), peer.address)
        spent.append(time.process_time() - start)
        sequence += count
        time.sleep(0.015)
    return sorted(spent)[rounds // 2] / count / len(viewers.peers) * 1e6


async def tight(viewers: Viewers, rounds: int) -> tuple[float, float, float]:
    """median µs per packet and viewer: pictures of 9 packets, single samples of sound, three samples in one turn."""
    source, batch = Source(), Batch(viewers.sock, Limits().rtc_unsent_bytes)
    cast = Broadcast(batch, Limits(), playout_delay=0.1)
    cast.on_tracks((VIDEO, AUDIO))
    cast.on_packet(source.picture(True))
    await asyncio.sleep(0)
    for peer in viewers.peers:
        cast.add(peer, SENDS)
    while any(v.stats.state != "live" for v in cast.viewers):
        await asyncio.sleep(0.01)
    figures = []
    for packets, count in (([source.picture], 9), ([source.sound], 1), ([source.sound] * 3, 3)):
        spent: list[float] = []
        for _ in range(rounds):
            made = [make() for make in packets]
            start = time.process_time()
            for packet in made:
                cast.on_packet(packet)
            cast._flush()
            spent.append(time.process_time() - start)
            await asyncio.sleep(0.015)  # under the rate at which pictures are paced
        figures.append(sorted(spent)[rounds // 2] / count / len(viewers.peers) * 1e6)
    cast.close()
    batch.close()
    return figures[0], figures[1], figures[2]


async def paced(viewers: Viewers, seconds: float, nacked: float) -> dict[str, float]:
    source, batch = Source(), Batch(viewers.sock, Limits().rtc_unsent_bytes)
    cast = Broadcast(batch, Limits(), playout_delay=0.1)
    cast.on_tracks((VIDEO, AUDIO))
    begin = clock.now()
    lateness: list[float] = []
    pictures = sounds = turn = 0
    last = 0.0
    members: list[Viewer] = []
    lost = random.Random(5)
    sent_at = cpu = wall = 0.0
    reports = 0

    def feedback(viewer: Viewer) -> None:
        video = viewer.flows[Kind.VIDEO]
        high = video.channel.sent_next - 1
        block = rtcp.ReportBlock(video.ssrc, 2, 10, high, 30, 0, 0)
        compound = rtcp.receiver_report(1, [block]) + rtcp.sdes(1, "abcdefgh")
        if lost.random() < nacked * 54:
            compound += rtcp.nack(1, video.ssrc, sorted(high - lost.randrange(1, 200) for _ in range(1)))
        viewer.rtcp(compound, clock.now())

    while clock.now() - begin < seconds + 2.0:
        turn += 1
        due = begin + turn * 0.05
        now = clock.now()
        if due > now:
            await asyncio.sleep(due - now)
        lateness.append(clock.now() - due)
        if turn == 3:
            members = [cast.add(peer, SENDS) for peer in viewers.peers]
        if turn == 40:
            cpu, wall, sent_at, lateness = time.process_time(), clock.now(), batch.sent, []
        while pictures < (clock.now() - begin) * 30:
            cast.on_packet(source.picture(pictures % 60 == 0))
            pictures += 1
        await asyncio.sleep(0.003)  # out of the encoder's thread, a little later than the pictures
        while sounds < (clock.now() - begin) * 50:
            cast.on_packet(source.sound())
            sounds += 1
        # five compounds a second and viewer, spread over the turns
        reports_due = int(5 * len(members) * (clock.now() - begin))
        while reports < reports_due and members:
            feedback(members[reports % len(members)])
            reports += 1
    last = clock.now()
    spent, took = time.process_time() - cpu, last - wall
    n = len(viewers.peers)
    result = {
        "us": spent / took / n * 1e6,
        "packet": spent / max(1, batch.sent - sent_at) * 1e6,
        "packets": (batch.sent - sent_at) / took / n,
        "late": sorted(lateness)[int(len(lateness) * 0.99)] * 1e3,
        "resent": sum(v.stats.resent for v in cast.viewers) / n / (last - begin),
        "dropped": batch.dropped,
        "thinned": sum(v.stats.state != "live" for v in cast.viewers),
    }
    cast.close()
    batch.close()
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", default="20,100,200,300")
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--profile", choices=PROFILES, default="gcm128")
    parser.add_argument("--nack", type=float, default=0.01, help="share of packets that viewers ask for again")
    parser.add_argument("--drain", type=int, default=0, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.drain:
        drain(arguments.drain)
        return
    profile = PROFILES[arguments.profile]
    print(machine(), arguments.profile)
    viewers = Viewers(50, profile)
    video, audio, audio3 = uvloop.run(tight(viewers, 100))
    viewers.received()
    viewers = Viewers(50, profile)
    stock_video, stock_audio = stock(viewers, 1164, 9, 60), stock(viewers, 160, 1, 100)
    viewers.received()
    print(f"50 viewers, µs per packet and viewer: video {video:.2f} (stock {stock_video:.2f}, ratio {stock_video / video:.1f}),", end=" ")
    print(f"audio {audio:.2f}, three at once {audio3:.2f} (stock {stock_audio:.2f}, ratio {stock_audio / audio:.1f})")
    for n in map(int, arguments.n.split(",")):
        viewers = Viewers(n, profile)
        r = uvloop.run(paced(viewers, arguments.seconds, arguments.nack))
        got = viewers.received()
        print(
            f"paced, {n:3} viewers: {r['us']:6.0f} µs per viewer-s, {r['packet']:.2f} µs per packet, {r['packets']:.0f} packets/s each,"
            f" {r['resent']:.1f} resent/s, late p99 {r['late']:.1f} ms, dropped {r['dropped']:.0f}, not live {r['thinned']:.0f},"
            f" received {got}"
        )


if __name__ == "__main__":
    main()
