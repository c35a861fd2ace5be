"""Who knows no password: floods, garbage, spoofed addresses. Nothing is made, nothing moves, and answers are no longer than questions."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import struct
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from pathlib import Path

import pytest
from harness.calls import AUDIO_IN, CERTIFICATE, VIDEO_IN, VIDEO_OUT, Line, calling, figure
from harness.webrtc import TestPeer

from medianode.media.track import Kind
from medianode.protocols import stun
from medianode.protocols.rtp import packet as rtp
from medianode.protocols.rtp import rtcp
from medianode.rtc.srtp import MAX_SSRCS

RATIO = 3.0
"""RFC 9000's bound for unproven addresses; RFC 8445 sets none but that checks be authenticated."""


class Stranger:
    """A UDP socket that counts what it sends and gets back."""

    def __init__(self, port: int) -> None:
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind(("127.0.0.1", 0))
        self.sock.setblocking(False)
        self.target = ("127.0.0.1", port)
        self.sent = 0
        self.answers: list[bytes] = []

    def send(self, data: bytes) -> None:
        self.sent += len(data)
        self.sock.sendto(data, self.target)

    @property
    def received(self) -> int:
        """Bytes, all so far."""
        while True:
            try:
                self.answers.append(self.sock.recv(65_536))
            except BlockingIOError:
                return sum(map(len, self.answers))


@contextmanager
def stranger(line: Line) -> Iterator[Stranger]:
    made = Stranger(line.port)
    try:
        yield made
    finally:
        made.sock.close()


async def taken(line: Line, datagrams: float) -> None:
    """Wait until the node has read so many datagrams."""
    await line.until(lambda: figure("medianode_rtc_received_datagrams") + figure("medianode_rtc_kernel_drops") >= datagrams)


def dtls_record(kind: int, body: bytes, version: bytes = b"\xfe\xfd", epoch: int = 0, sequence: int = 0) -> bytes:
    return (
        bytes((kind,)) + version + struct.pack("!HHI", epoch, sequence >> 32, sequence & 0xFFFFFFFF) + struct.pack("!H", len(body)) + body
    )


async def test_a_flood_of_strangers(tmp_path: Path) -> None:
    """20 000 datagrams: checks with unknown names, DTLS hellos, media, noise. No answer at all, no peer, and who is playing plays on."""
    rng = random.Random(1)
    async with calling(tmp_path) as line:
        key = (await line.ingress())["streamKey"]
        async with line.publishing(key):
            await line.live()
            async with line.viewing() as viewer:
                await viewer.until(5)
                at, peers = figure("medianode_rtc_received_datagrams"), line.peers
                unknown = figure("medianode_rtc_dropped_total", 'cause="stun-unknown"')
                hello = dtls_record(22, bytes(180))
                with stranger(line) as flood:
                    for turn in range(200):
                        for i in range(25):
                            name = b"%012x:%08x" % (rng.getrandbits(48), i)
                            flood.send(stun.binding_request(rng.randbytes(12), name, b"guess", controlling=1, use_candidate=True))
                            flood.send(hello)
                            flood.send(b"\x80\x66" + rng.randbytes(60))
                            flood.send(rng.randbytes(rng.randrange(1, 200)))
                        await taken(line, at + turn * 100 - 200)
                    await taken(line, at + 20_000)
                    assert flood.received == 0
                assert line.peers == peers
                assert figure("medianode_rtc_dropped_total", 'cause="stun-unknown"') - unknown > 3000
                await viewer.until(10)


async def test_the_right_name_without_the_password_is_not_answered(tmp_path: Path) -> None:
    """A ufrag is no secret: it stands in every check. Without the password nothing is answered, nothing moves, no handshake begins."""
    async with calling(tmp_path) as line:
        key = (await line.ingress())["streamKey"]
        async with line.publishing(key):
            await line.live()
            async with line.viewing() as viewer:
                await viewer.until(5)
                assert viewer.peer.remote is not None
                name = f"{viewer.peer.remote.credentials.ufrag}:{viewer.peer.credentials.ufrag}".encode()
                refused = figure("medianode_rtc_dropped_total", 'cause="stun-integrity"')
                moves = figure("medianode_rtc_moves_total")
                with stranger(line) as spoof:
                    for _ in range(100):
                        spoof.send(stun.binding_request(os.urandom(12), name, b"guess", controlling=1, use_candidate=True))
                    await line.until(lambda: figure("medianode_rtc_dropped_total", 'cause="stun-integrity"') == refused + 100)
                    await viewer.until(10)
                    assert spoof.received == 0
                assert figure("medianode_rtc_moves_total") == moves
                (view,) = (await line.api("GET", "/api/v1/viewers"))["data"]
                assert view["address"].endswith(f":{viewer.peer._sock.getsockname()[1]}")  # type: ignore[union-attr]  # it is open


async def test_a_check_that_was_changed_on_its_way_is_not_answered(tmp_path: Path) -> None:
    """Every byte is under the HMAC: not one may be another."""
    async with calling(tmp_path) as line, TestPeer(CERTIFICATE) as peer:
        reply = await line.post("/whip/live/studio", peer.offer(VIDEO_OUT), (await line.ingress())["streamKey"])
        peer.remote = peer.read_answer(reply.text)
        credentials = peer.remote.credentials
        name = f"{credentials.ufrag}:{peer.credentials.ufrag}".encode()
        good = stun.binding_request(os.urandom(12), name, credentials.pwd.encode(), controlling=1, use_candidate=True)
        at = figure("medianode_rtc_received_datagrams")
        with stranger(line) as other:
            for i in range(len(good)):
                if i not in range(len(good) - 8, len(good) - 4):
                    other.send(good[:i] + bytes((good[i] ^ 0x01,)) + good[i + 1 :])
                other.send(good[:i] or b"\0")
            await taken(line, at + 2 * len(good) - 4)
            # FINGERPRINT comes after the HMAC; under another name it is one of those attributes that are ignored there
            assert other.received == 0
        await peer.connect(reply.text)


async def test_what_an_authenticated_check_brings_is_bounded(tmp_path: Path) -> None:
    """Whoever can sign a check (the client itself) and writes another's address on it: an answer a little longer than the request, and no
    DTLS before the other end says hello; where the node is the client, its hello with a few repetitions.
    """
    for setup, packets in (("actpass", 10), ("passive", 10)):
        async with calling(tmp_path / setup, limits={"rtc_connect_timeout": 0.5}) as line:
            key = (await line.ingress())["streamKey"]
            peer = TestPeer(CERTIFICATE, setup=setup)  # type: ignore[arg-type]  # one of the two
            reply = await line.post("/whip/live/studio", peer.offer(VIDEO_OUT), key)
            credentials = peer.read_answer(reply.text).credentials
            name = f"{credentials.ufrag}:{peer.credentials.ufrag}".encode()
            with stranger(line) as victim:
                for _ in range(packets):
                    victim.send(stun.binding_request(os.urandom(12), name, credentials.pwd.encode(), controlling=1, use_candidate=True))
                await line.until(lambda: line.peers == 0)
                assert victim.received / victim.sent <= RATIO
                answers = [a for a in victim.answers if a[0] < 4]
                assert len(answers) == packets
                assert sum(map(len, answers)) <= victim.sent * 1.2
                assert bool([a for a in victim.answers if a[0] == 22]) == (setup == "passive")


async def test_hellos_from_an_address_that_is_nobodys(tmp_path: Path) -> None:
    """A real ClientHello: from elsewhere not a byte comes back; from the peer's own address a flight that is bounded."""
    async with calling(tmp_path, limits={"rtc_connect_timeout": 1.2}) as line:
        key = (await line.ingress())["streamKey"]
        async with TestPeer(CERTIFICATE) as peer:
            reply = await line.post("/whip/live/studio", peer.offer(VIDEO_OUT), key)
            hellos: list[bytes] = []

            def catch(data: bytes) -> bool:
                if data[0] == 22:
                    hellos.append(data)
                return data[0] == 22

            peer.filter_out = catch
            peer.remote = peer.read_answer(reply.text)
            peer.open()
            peer.start()
            await line.until(lambda: hellos)
            at = figure("medianode_rtc_received_datagrams")
            with stranger(line) as elsewhere:
                for _ in range(50):
                    elsewhere.send(hellos[0])
                await taken(line, at + 50)
                assert elsewhere.received == 0
            # from the address that has proved itself by a check: the server's flight comes back, and again on timeouts only
            came: list[bytes] = []
            peer.filter_in = lambda data: bool(data[0] == 22 and came.append(data)) or data[0] == 22  # type: ignore[func-returns-value]
            peer.filter_out = None
            peer.send(hellos[0])
            await line.until(lambda: len(came) > 0)
            peer.filter_out = catch
            await line.until(lambda: line.peers == 0)
            # flight 4 or its cookie, and repetitions after 1, 2, 4 s (RFC 6347 4.2.4.1) until rtc_connect_timeout
            assert sum(map(len, came)) <= 3 * 4 * 1200


async def test_truncated_fragmented_and_garbled_handshakes(tmp_path: Path) -> None:
    """Peers whose handshake is bad, each in its own way: each ends by itself, in time, and a good one among them connects."""
    rng = random.Random(7)

    def garble(data: bytes) -> list[bytes]:
        return [bytes(b ^ (rng.random() < 0.05) * rng.randrange(256) for b in data)]

    def truncate(data: bytes) -> list[bytes]:
        return [data[: len(data) // 2]]

    def lie(data: bytes) -> list[bytes]:
        """The handshake message claims 16 MB."""
        return [data[:14] + b"\xff\xff\xff" + data[17:]]

    def overlap(data: bytes) -> list[bytes]:
        """Fragments that overlap and contradict each other, and one that lies beyond the end."""
        body = data[25:]
        one = dtls_record(22, data[13:14] + data[14:17] + data[17:19] + b"\0\0\0" + len(body[:60]).to_bytes(3, "big") + body[:60])
        two = dtls_record(
            22, data[13:14] + data[14:17] + data[17:19] + b"\0\0\x0a" + (60).to_bytes(3, "big") + rng.randbytes(60), sequence=1
        )
        far = dtls_record(
            22, data[13:14] + data[14:17] + data[17:19] + b"\xff\0\0" + (60).to_bytes(3, "big") + rng.randbytes(60), sequence=2
        )
        return [one, two, far]

    def flood(data: bytes) -> list[bytes]:
        return [dtls_record(rng.choice((20, 21, 22, 23, 24, 25)), rng.randbytes(rng.randrange(200)), sequence=i) for i in range(60)]

    def alert(data: bytes) -> list[bytes]:
        return [dtls_record(21, b"\x02\x28")]

    ways = [garble, truncate, lie, overlap, flood, alert, lambda data: [], lambda data: [data[:13]]]
    async with calling(tmp_path, limits={"rtc_connect_timeout": 1.5}) as line, AsyncExitStack() as stack:
        key = (await line.ingress())["streamKey"]
        async with line.publishing(key):
            await line.live()
            bad = []
            for way in ways:
                peer = await stack.enter_async_context(TestPeer(CERTIFICATE))
                reply = await line.post("/whep/live/studio", peer.offer(VIDEO_IN, AUDIO_IN))
                assert reply.status == 201
                real = peer.send

                def send(data: bytes, way=way, real=real) -> None:  # type: ignore[no-untyped-def]  # bound here
                    for datagram in way(data) if data[0] == 22 else [data]:
                        real(datagram)

                peer.send = send  # type: ignore[method-assign]
                peer.remote = peer.read_answer(reply.text)
                peer.open()
                peer.start()
                bad.append(peer)
            async with line.viewing() as viewer:
                await viewer.until(10)
                await line.until(lambda: line.peers == 2)
                assert line.viewers == 1
                assert not any(peer.rtp for peer in bad)
                await viewer.until(5)


async def test_garbage_after_the_handshake(tmp_path: Path) -> None:
    """From the peer's own address: DTLS of all kinds, SRTP that does not open, RTCP that is none. The session goes on."""
    rng = random.Random(9)
    async with calling(tmp_path) as line:
        key = (await line.ingress())["streamKey"]
        async with line.publishing(key) as publisher:
            await line.live()
            async with line.viewing() as viewer:
                await viewer.until(5)
                for who in (publisher.peer, viewer.peer):
                    at = figure("medianode_rtc_dropped_total")
                    for i in range(100):
                        who.send(dtls_record(rng.choice((20, 21, 22, 23)), rng.randbytes(rng.randrange(100)), epoch=rng.randrange(3)))
                        who.send(dtls_record(21, b"\x01\x00"))  # a close_notify that nobody signed
                        who.send(dtls_record(21, b"\x02\x28", epoch=1, sequence=i))
                        who.send(bytes((rng.randrange(128, 192),)) + rng.randbytes(rng.randrange(1, 100)))
                        who.send_rtcp(b"\x81\xcd\x00\x02" + rng.randbytes(8) + rng.randbytes(rng.randrange(5) * 4))
                        who.send_rtcp(b"\x80\xc9\x00\x01" + rng.randbytes(4) + b"\x85\xc8\xff\xff")
                    await line.until(lambda at=at: figure("medianode_rtc_dropped_total") > at + 50)
                frames = await viewer.until(20)
                assert frames[-1] - frames[-10] == 9
                assert not publisher.peer.closed.is_set()
                assert not viewer.peer.closed.is_set()
                assert line.peers == 2


async def test_an_address_of_somebody_else_is_not_taken_over(tmp_path: Path) -> None:
    """A second client that signs its own checks but writes the first one's address on them does not get its media, nor stop it."""
    async with calling(tmp_path) as line:
        key = (await line.ingress())["streamKey"]
        async with line.publishing(key):
            await line.live()
            async with line.viewing() as viewer:
                await viewer.until(5)
                thief = TestPeer(CERTIFICATE)
                reply = await line.post("/whep/live/studio", thief.offer(VIDEO_IN, AUDIO_IN))
                credentials = thief.read_answer(reply.text).credentials
                name = f"{credentials.ufrag}:{thief.credentials.ufrag}".encode()
                taken_before = figure("medianode_rtc_dropped_total", 'cause="address-taken"')
                for _ in range(20):
                    viewer.peer.send(
                        stun.binding_request(os.urandom(12), name, credentials.pwd.encode(), controlling=1, use_candidate=True)
                    )
                await line.until(lambda: figure("medianode_rtc_dropped_total", 'cause="address-taken"') == taken_before + 20)
                frames = await viewer.until(10)
                assert frames == list(range(frames[0], frames[-1] + 1))
                viewer.want_keyframe()  # and what it sends is still its own
                (view,) = [v for v in (await line.api("GET", "/api/v1/viewers"))["data"] if v["state"] != "connecting"]
                assert view["state"] == "live"


@pytest.mark.parametrize("what", ["silent", "http", "huge-length", "unknown-name", "media-first"])
async def test_strangers_on_the_tcp_port(tmp_path: Path, what: str) -> None:
    """ICE-TCP: who does not begin with a good check is closed, without an answer."""
    first = {
        "silent": b"",
        "http": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        "huge-length": b"\xff\xff" + bytes(100),
        "unknown-name": b"",
        "media-first": b"\x00\x20\x80\x66" + bytes(30),
    }[what]
    if what == "unknown-name":
        check = stun.binding_request(bytes(12), b"nobody:me", b"guess", controlling=1, use_candidate=True)
        first = struct.pack("!H", len(check)) + check
    async with calling(tmp_path, limits={"handshake_timeout": 0.5}) as line:
        peer = TestPeer(CERTIFICATE)
        reply = await line.post("/whip/live/studio", peer.offer(VIDEO_OUT), (await line.ingress())["streamKey"])
        port = next(c.port for c in peer.read_answer(reply.text).candidates if c.protocol == "tcp")
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(first)
        try:
            assert await asyncio.wait_for(reader.read(), 5) == b""
        except ConnectionResetError:
            pass
        finally:
            writer.close()
            with suppress(ConnectionResetError, BrokenPipeError):
                await writer.wait_closed()
        await line.until(lambda: figure("medianode_rtc_tcp_connections") == 0)


async def test_what_a_viewer_may_ask_for_is_bounded(tmp_path: Path) -> None:
    """It asks for key frames and for everything again without end: the publisher hears one request a second, repetitions have a budget."""
    async with calling(tmp_path, hls={"enabled": False}) as line:
        key = (await line.ingress())["streamKey"]
        async with line.publishing(key, size=4000) as publisher:
            await line.live()
            async with line.viewing() as other, line.viewing(run=False) as greedy:
                await greedy.until(10)
                heard = greedy.heard[Kind.VIDEO]
                at, turns = publisher.picture.frames, 0
                publisher.messages.clear()
                while publisher.picture.frames < at + 75:
                    last = [n & 0xFFFF for n in range(heard.last - 100, heard.last)]
                    greedy.want_keyframe()
                    greedy.peer.send_rtcp(rtcp.receiver_report(77) + rtcp.fir(77, heard.ssrc, turns & 0xFF))
                    greedy.peer.send_rtcp(rtcp.receiver_report(77) + rtcp.nack(77, heard.ssrc, last))
                    greedy.drain()
                    turns += 1
                    await asyncio.sleep(0.005)
                assert turns > 60
                plis = [m for m in publisher.messages if isinstance(m, rtcp.Pli)]
                assert 1 <= len(plis) <= 3, "one and a half seconds"
                (view,) = [v for v in (await line.api("GET", "/api/v1/viewers"))["data"] if v["nacked"] > 1000]
                assert view["resent"] < view["nacked"] / 10
                assert view["dropped"]["nack-repeated"] + view["dropped"].get("nack-over-cap", 0) > view["nacked"] / 2
                frames = other.frames
                assert frames == list(range(frames[0], frames[-1] + 1))


async def test_one_peer_has_so_many_streams_and_no_more(tmp_path: Path) -> None:
    """A viewer (anybody, where viewing is public) seals packets of SSRC after SSRC: libsrtp would keep them all, and search them all."""
    async with calling(tmp_path) as line:
        key = (await line.ingress())["streamKey"]
        async with line.publishing(key):
            await line.live()
            async with line.viewing() as viewer:
                await viewer.until(5)
                viewer.want_keyframe()
                before = figure("medianode_rtc_dropped_total", 'cause="srtp"'), figure("medianode_rtc_dropped_total", 'cause="srtcp"')
                at = figure("medianode_rtc_received_datagrams")
                for ssrc in range(10_000, 10_000 + 3000, 2):
                    viewer.peer.send_rtp(rtp.build(96, 1, 1, ssrc, b"x"))
                    viewer.peer.send_rtcp(rtcp.receiver_report(ssrc + 1))
                    if ssrc % 100 == 0:
                        await taken(line, at + (ssrc - 10_000) - 200)
                await taken(line, at + 3000)
                dropped = figure("medianode_rtc_dropped_total", 'cause="srtp"'), figure("medianode_rtc_dropped_total", 'cause="srtcp"')
                assert sum(dropped) - sum(before) >= 3000 - MAX_SSRCS
                await viewer.until(10)
                # and its own feedback is still heard
                (view,) = (await line.api("GET", "/api/v1/viewers"))["data"]
                asked = view["nacked"]
                viewer.peer.send_rtcp(rtcp.receiver_report(77) + rtcp.nack(77, viewer.heard[Kind.VIDEO].ssrc, [1]))
                for _ in range(100):
                    (view,) = (await line.api("GET", "/api/v1/viewers"))["data"]
                    if view["nacked"] > asked:
                        break
                    await asyncio.sleep(0.05)
                assert view["nacked"] > asked
