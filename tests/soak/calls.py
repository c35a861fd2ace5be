"""Calls for the churn: WHIP publishers and WHEP viewers of all manners, and those who only knock at the WebRTC port."""

from __future__ import annotations

import asyncio
import os
import random
import secrets
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, cast

from aiohttp import ClientSession
from harness.calls import AUDIO_IN, AUDIO_OUT, CERTIFICATE, VIDEO_IN, VIDEO_OUT, Line, Publisher, Reply, Viewer
from harness.webrtc import TestPeer
from soak.program import Program

from medianode.media.track import Kind
from medianode.protocols.rtp import rtcp

AT_ONCE = 8
"""Calls: their SRTP is made in Python, by the process that counts."""


class Refused(ConnectionError):
    """The node said no, and in words."""


class Calls:
    """`rooms`: where one publishes by WHIP; `sources`: what else may be watched."""

    def __init__(self, node: Program, http: ClientSession, rng: random.Random, sources: tuple[str, ...]) -> None:
        self.line = Line(cast(Any, node), http)
        self.node, self.rng, self.sources = node, rng, sources
        self.keys: dict[str, str] = {}
        self.ports: tuple[int, int] = (0, 0)
        """UDP and TCP, as an answer told them."""
        self.frames = {"udp": 0, "tcp": 0}
        """Packets of pictures that viewers were sent."""
        self._room = asyncio.Semaphore(AT_ONCE)

    async def prepare(self, rooms: tuple[str, ...]) -> None:
        for room in rooms:
            self.keys[room] = (await self.line.ingress(room, takeover="replace"))["streamKey"]

    # in

    async def call_in_and_hang_up(self) -> None:
        """DELETE, twice at times."""
        async with self._publishing(self._door()) as publisher:
            await asyncio.sleep(self.rng.uniform(0.5, 5))
            for _ in range(self.rng.randint(1, 2)):
                assert await self.line.delete(publisher.reply) == 200

    async def call_in_and_say_goodbye(self) -> None:
        """close_notify only."""
        async with self._publishing(self._door()):
            await asyncio.sleep(self.rng.uniform(0, 4))

    async def call_in_and_vanish(self) -> None:
        async with self._publishing(self._door(), tcp=self.rng.random() < 0.3) as publisher:
            await asyncio.sleep(self.rng.uniform(0, 3))
            await vanish(publisher.peer)

    async def call_in_over_another(self) -> None:
        """Takeover, with the first one still sending for a while."""
        room = self._door()
        async with self._publishing(room) as first:
            await asyncio.sleep(self.rng.uniform(0, 2))
            async with self._publishing(room, size=700):
                await asyncio.sleep(self.rng.uniform(0.2, 2))
                if self.rng.random() < 0.5:
                    await asyncio.wait_for(first.peer.closed.wait(), 5)

    async def call_in_roughly(self) -> None:
        """Restarts ICE, moves, and says what no publisher says."""
        async with self._publishing(self._door()) as publisher:
            for _ in range(self.rng.randint(1, 4)):
                await asyncio.sleep(self.rng.uniform(0.2, 1))
                await self._mischief(publisher.peer, publisher.reply)

    # out

    async def watch_a_call(self) -> None:
        """Over UDP or TCP, with mischief, to one of the ends that there are."""
        tcp = self.rng.random() < 0.35
        async with self._viewing(tcp=tcp) as viewer:
            for _ in range(self.rng.randint(1, 4)):
                await asyncio.sleep(self.rng.uniform(0.1, 1.2))
                viewer.drain()
                if self.rng.random() < 0.6:
                    await self._mischief(viewer.peer, viewer.reply)
                self._complain(viewer)
            await asyncio.sleep(self.rng.uniform(0, 1))
            viewer.drain()
            if (heard := viewer.heard.get(Kind.VIDEO)) is not None:
                self.frames["tcp" if tcp else "udp"] += len(heard.packets)
            match self.rng.randrange(4):
                case 0 | 1:
                    assert await self.line.delete(viewer.reply) == 200
                case 2:
                    await vanish(viewer.peer)
                case _:
                    pass  # goodbye

    async def ask_and_never_come(self) -> None:
        """An offer, and then nothing; or checks without DTLS; or half a handshake."""
        async with TestPeer(CERTIFICATE) as peer:
            answer = await self._offer_to_watch(peer)
            local = peer.read_answer(answer.text)
            if self.rng.random() < 0.3:
                return
            peer.remote = local
            quiet = self.rng.random() < 0.5
            peer.filter_out = lambda data: data[0] >= 4 and (quiet or self.rng.random() < 0.7)
            peer.open(tcp=self.rng.random() < 0.3)
            peer.start()
            await asyncio.sleep(self.rng.uniform(0.1, 1.5))
            if self.rng.random() < 0.3:
                await self.line.delete(answer)

    # strangers

    async def ask_nonsense(self) -> None:
        rng, line = self.rng, self.line
        room = rng.choice((*self.sources, *self.keys))
        async with TestPeer(CERTIFICATE) as peer:
            good = peer.offer(VIDEO_IN, AUDIO_IN)
            wrong = peer.offer(VIDEO_OUT, AUDIO_OUT)
        cut = good[: rng.randrange(len(good))]
        nobody = Reply(0, "", f"/rtc/session/{secrets.token_urlsafe(24)}", '"x"')
        match rng.randrange(7):
            case 0:
                answered = await line.post(f"/whep/live/{room}", rng.randbytes(rng.randint(0, 4000)))
            case 1:
                answered = await line.post(f"/whep/live/{room}", "v=0\r\n" * 40_000)
            case 2:
                answered = await line.post(f"/whip/live/{room}", good, "not-a-key")
            case 3:
                answered = await line.post("/whep/live/nobody-is-here", good)
            case 4:
                answered = await line.post(f"/whep/live/{room}", good.replace("H264", "H999").replace("opus", "sopus"))
            case 5:
                answered = await line.restart(nobody, peer)
                assert await line.delete(nobody) == 200
            case _:
                # an offer cut short may still be one of sound or pictures alone; nobody comes for that
                answered = await line.post(f"/whep/live/{room}", rng.choice((cut, wrong)))
                assert answered.status in (201, 400, 404, 406, 503), answered
                return
        assert 400 <= answered.status < 500 or answered.status == 503, answered

    async def knock_at_the_port(self) -> None:
        """STUN of nobody's, DTLS, SRTP and plain garbage from a stranger; TCP that says something else, or nothing."""
        udp, tcp = self.ports
        if not udp:
            return
        rng = self.rng
        loop = asyncio.get_running_loop()
        if rng.random() < 0.6:
            transport, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, remote_addr=("127.0.0.1", udp))
            for _ in range(rng.randint(1, 60)):
                transport.sendto(garbage(rng))
            transport.close()
            return
        _, writer = await asyncio.open_connection("127.0.0.1", tcp)
        try:
            writer.write(rng.choice((b"", b"\x00", b"GET / HTTP/1.1\r\n\r\n", b"\x00\x14" + garbage(rng)[:20])))
            await asyncio.sleep(rng.choice((0.1, 4)))
        finally:
            writer.transport.abort()

    # how

    def _door(self) -> str:
        return self.rng.choice(tuple(self.keys))

    @asynccontextmanager
    async def _publishing(self, room: str, *, tcp: bool = False, **options: Any) -> AsyncIterator[Publisher]:
        async with self._room, TestPeer(CERTIFICATE) as peer:
            reply = await self.line.post(f"/whip/live/{room}", peer.offer(VIDEO_OUT, AUDIO_OUT), self.keys[room])
            await self._connect(peer, reply, tcp)
            publisher = Publisher(peer, reply, sequence=self.rng.randrange(65_536), **options)
            async with alongside(publisher.run()):
                yield publisher

    @asynccontextmanager
    async def _viewing(self, *, tcp: bool) -> AsyncIterator[Viewer]:
        async with self._room, TestPeer(CERTIFICATE) as peer:
            reply = await self._offer_to_watch(peer)
            await self._connect(peer, reply, tcp)
            viewer = Viewer(peer, reply)
            async with alongside(*([viewer.run()] if self.rng.random() < 0.7 else [])):
                yield viewer

    async def _offer_to_watch(self, peer: TestPeer) -> Reply:
        sections = self.rng.choice(((VIDEO_IN, AUDIO_IN), (VIDEO_IN, AUDIO_IN), (VIDEO_IN,), (AUDIO_IN,)))
        rooms = (*self.sources, *self.keys)
        for room in self.rng.sample(rooms, 4):  # where nobody publishes, somebody does next door
            reply = await self.line.post(f"/whep/live/{room}", peer.offer(*sections))
            if reply.status != 404:
                break
        if reply.status != 201:
            raise Refused(f"{reply.status} {reply.text[:200]}")
        return reply

    async def _connect(self, peer: TestPeer, reply: Reply, tcp: bool) -> None:
        if reply.status != 201:
            raise Refused(f"{reply.status} {reply.text[:200]}")
        local = peer.read_answer(reply.text)
        ports = {c.protocol: c.port for c in local.candidates}
        self.ports = ports["udp"], ports["tcp"]
        await peer.connect(local, tcp=tcp, timeout=6.0)

    async def _mischief(self, peer: TestPeer, reply: Reply) -> None:
        rng = self.rng
        match rng.randrange(4):
            case 0:
                again = await self.line.restart(reply, peer, ufrag=secrets.token_hex(4), pwd=secrets.token_hex(12))
                if again.status not in (200, 404, 412):
                    raise AssertionError(again)
            case 1:
                peer.open(tcp=rng.random() < 0.3)
                peer.check()
            case 2:
                for _ in range(rng.randint(1, 20)):
                    peer.send(garbage(rng))
            case _:
                for _ in range(rng.randint(1, 5)):
                    peer.send_rtcp(b"\x81" + bytes((rng.randint(192, 223),)) + rng.randbytes(4 * rng.randint(2, 40) - 2))
                    peer.send_rtp(b"\x80\x60" + rng.randbytes(rng.randint(10, 1100)))

    def _complain(self, viewer: Viewer) -> None:
        rng = self.rng
        for kind, heard in viewer.heard.items():
            numbers = [(heard.last - rng.randrange(2000)) & 0xFFFF for _ in range(rng.randint(0, 60))]
            if numbers:
                viewer.peer.send_rtcp(rtcp.receiver_report(7) + rtcp.nack(7, heard.ssrc, numbers))
            if kind is Kind.VIDEO and rng.random() < 0.5:
                viewer.want_keyframe()
            if rng.random() < 0.2:  # says that it loses all
                block = rtcp.ReportBlock(heard.ssrc, 255, 1000, heard.last & 0xFFFFFFFF, 0, 0, 0)
                viewer.peer.send_rtcp(rtcp.receiver_report(7, [block]))


async def vanish(peer: TestPeer) -> None:
    """Not another datagram."""
    peer.keep_checking = False
    peer.filter_out = lambda data: True
    await peer.close(goodbye=False)


def garbage(rng: random.Random) -> bytes:
    """What RFC 7983 would have be STUN, DTLS, SRTP or SRTCP, or nothing known."""
    head = rng.choice((b"\x00\x01", b"\x16\xfe", b"\x17\xfe", b"\x80\x66", b"\x80\xc8", b"\x90\x6f", b"\x40\x00", b"\xff\xff"))
    body = rng.randbytes(rng.randint(0, 600))
    if head == b"\x00\x01" and rng.random() < 0.7:
        ufrag = os.urandom(6).hex().encode() + b":x"
        attribute = b"\x00\x06" + len(ufrag).to_bytes(2, "big") + ufrag + bytes(-len(ufrag) % 4)
        body = len(attribute).to_bytes(2, "big") + b"\x21\x12\xa4\x42" + rng.randbytes(12) + attribute
    return head + body


@asynccontextmanager
async def alongside(*running: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Tasks as long as the block, whose own exceptions stay as they are."""
    tasks = [asyncio.get_running_loop().create_task(one) for one in running]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
    for end in ends:
        if isinstance(end, Exception):
            raise end
