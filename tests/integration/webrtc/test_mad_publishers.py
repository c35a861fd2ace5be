"""Publishers with good keys and bad media: every packet opens, and what is in it is chance. Ends of sessions, never bugs."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest
from harness.calls import AUDIO_OUT, CERTIFICATE, calling, figure
from harness.rtp_sender import H264, OPUS
from harness.webrtc import TestPeer
from pylibsrtp import Error as SrtpError

from medianode.protocols.rtp import packet as rtp
from medianode.tasks import background

VP8, VP9, AV1, H265 = 96, 98, 45, 49
CODECS = (VP8, VP9, AV1, H265, H264)
VIDEO = f"""m=video 9 UDP/TLS/RTP/SAVPF {VP8} {VP9} {AV1} {H265} {H264} 97
a=mid:0
a=sendonly
a=rtpmap:{VP8} VP8/90000
a=rtpmap:{VP9} VP9/90000
a=rtpmap:{AV1} AV1/90000
a=rtpmap:{H265} H265/90000
a=rtpmap:{H264} H264/90000
a=fmtp:{H264} level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f
a=rtpmap:97 rtx/90000
a=fmtp:97 apt={VP8}
a=extmap:1 urn:ietf:params:rtp-hdrext:sdes:mid
a=extmap:4 http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01
"""
PACKETS = 3000


def _payload(rng: random.Random, codec: int) -> bytes:
    """Beginnings that lead a depacketiser deep, then noise."""
    noise = rng.randbytes(rng.choice((0, 1, 2, 5, 40, 400, 1100)))
    starts = {
        VP8: (b"\x10\x00\x00\x9d\x01\x2a", b"\x90\x80\x81\x01\x10", b"\xff\xff\xff\xff", b"\x80"),
        VP9: (b"\x8a\x01\x02\x82\x49\x83\x42", b"\xfe\xff\xff", b"\x0a\x10", b"\xaa"),
        AV1: (b"\x18\x0a\x0b", b"\xd8\x0a\xff\xff\xff\xff", b"\x38\x80\x80\x80", b"\x00"),
        H265: (b"\x62\x01\x93", b"\x60\x01\x00\xff", b"\x62\x01\x53", b"\x42\x01\x01", b"\x40\x01"),
        H264: (
            b"\x7c\x85\x88",
            b"\x7c\x45",
            b"\x78\x00\x05\x67\x64\x00\x0d\xac\xff\xff",
            b"\x67\x64\x00\x0d",
            b"\x65\x88\x84",
            b"\x7c\x05",
        ),
        OPUS: (b"\xff\xff", b"\x78", b""),
    }
    return rng.choice((*starts[codec], b"")) + noise


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_noise_in_good_packets(tmp_path: Path, seed: int) -> None:
    """Payloads, marks, stamps, sequence numbers, extensions and payload types by chance, RTCP too; then the room is as good as new."""
    rng = random.Random(seed)
    async with calling(tmp_path) as line:
        key = (await line.ingress(takeover="replace"))["streamKey"]
        async with TestPeer(CERTIFICATE) as peer:
            reply = await line.post("/whip/live/studio", peer.offer(VIDEO, AUDIO_OUT), key)
            assert reply.status == 201, reply
            await peer.connect(reply.text)
            sequence = dict.fromkeys((1, 2, 3), 100)
            stamp = 0
            at = figure("medianode_rtc_received_datagrams")
            for i in range(PACKETS):
                ssrc = rng.choice((1, 1, 1, 2, 3))
                codec = (
                    OPUS if ssrc == 2 else rng.choice(CODECS) if rng.random() < 0.05 or i < 5 else CODECS[(i // 300 + seed) % len(CODECS)]
                )
                stamp += (
                    rng.choice((0, 0, 0, 3000, 3000, -3000, 90_000 * rng.randrange(100))) if rng.random() < 0.9 else rng.getrandbits(32)
                )
                sequence[ssrc] += 1 if rng.random() < 0.97 else rng.randrange(-300, 300)
                extensions = (
                    {1: b"1" if ssrc == 2 else b"0", 4: (i & 0xFFFF).to_bytes(2, "big")}
                    if rng.random() < 0.7
                    else {rng.randrange(1, 14): rng.randbytes(3)}
                )
                packet = rtp.build(
                    codec if ssrc != 3 else 97,
                    sequence[ssrc],
                    stamp,
                    ssrc,
                    _payload(rng, codec),
                    marker=rng.random() < 0.3,
                    extensions=extensions,
                )
                try:
                    peer.send_rtp(packet)
                    if i % 20 == 0:
                        body = rng.randbytes(4 * rng.randrange(1, 20))
                        peer.send_rtcp(
                            bytes((0x80 | rng.randrange(32), rng.choice((200, 201, 202, 203, 204, 205, 206, 207))))
                            + (len(body) // 4).to_bytes(2, "big")
                            + body
                        )
                except SrtpError:  # sequence numbers so far back are not sealed
                    sequence[ssrc] += 300
                if i % 50 == 0:
                    await asyncio.sleep(0)
                if peer.closed.is_set():
                    break
            if not peer.closed.is_set():
                await line.until(lambda: figure("medianode_rtc_received_datagrams") + figure("medianode_rtc_kernel_drops") >= at + 1000)
            publications = line.node.daemon.registry.publications
            assert all(len(p.health.drops) < 40 for p in publications), "causes, not one for each packet"
        await line.until(lambda: line.peers == 0)
        async with line.publishing(key):
            await line.live()
            async with line.viewing() as viewer:
                await viewer.until(10)


async def test_a_picture_without_end(tmp_path: Path) -> None:
    """The beginning of a fragmented unit and then middles for ever, under one stamp: bounded, and the next key frame is shown."""
    async with calling(tmp_path) as line:
        key = (await line.ingress())["streamKey"]
        async with line.publishing(key, run=False, sound=False) as publisher:
            publisher.show(0.0)
            sequence = publisher.picture.sequence
            publisher.peer.send_rtp(rtp.build(H264, sequence, 3000, publisher.picture.ssrc, b"\x7c\x81" + bytes(1100)))
            for i in range(1, 20_000):
                publisher.peer.send_rtp(rtp.build(H264, sequence + i, 3000, publisher.picture.ssrc, b"\x7c\x01" + bytes(1100)))
                if i % 200 == 0:
                    await asyncio.sleep(0.001)
            publisher.picture.sequence = sequence + 20_000
            (publication,) = line.node.daemon.registry.publications
            publisher.wanted = True
            async with background(publisher.run()), line.viewing() as viewer:
                await viewer.until(10)
            assert publication.health.drops
            assert not publisher.peer.closed.is_set()
