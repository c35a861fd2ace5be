"""Calls to a whole node: WHIP publishers of numbered pictures and WHEP viewers that count them, by HTTP, ICE, DTLS and SRTP."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from aiohttp import ClientSession

from harness import Node, running
from harness.publisher import RtpPublisher
from harness.rough import Rough
from harness.rtp_sender import AVCC, H264, H264_RTX, MID, OPUS, TRANSPORT_CC, Encoder
from harness.webrtc import Certificate, TestPeer
from medianode import clock, telemetry
from medianode.media.packet import Packet
from medianode.media.track import Codec, Kind, Track
from medianode.protocols.rtp import packet as rtp
from medianode.protocols.rtp import rtcp
from medianode.protocols.rtp.packet import RtpPacket, Unwrapper
from medianode.protocols.rtp.payload import depacketiser
from medianode.protocols.sdp.plan import Credentials
from medianode.tasks import background

CERTIFICATE = Certificate()
_CC = "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01"
VIDEO_OUT = f"""m=video 9 UDP/TLS/RTP/SAVPF {H264} {H264_RTX}
a=mid:0
a=sendonly
a=rtpmap:{H264} H264/90000
a=fmtp:{H264} level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f
a=rtcp-fb:{H264} nack
a=rtcp-fb:{H264} nack pli
a=rtcp-fb:{H264} transport-cc
a=rtpmap:{H264_RTX} rtx/90000
a=fmtp:{H264_RTX} apt={H264}
a=extmap:{MID} urn:ietf:params:rtp-hdrext:sdes:mid
a=extmap:{TRANSPORT_CC} {_CC}
"""
AUDIO_OUT = f"""m=audio 9 UDP/TLS/RTP/SAVPF {OPUS}
a=mid:1
a=sendonly
a=rtpmap:{OPUS} opus/48000/2
a=extmap:{MID} urn:ietf:params:rtp-hdrext:sdes:mid
a=extmap:{TRANSPORT_CC} {_CC}
"""
VIDEO_IN = f"""m=video 9 UDP/TLS/RTP/SAVPF {H264}
a=mid:0
a=recvonly
a=rtpmap:{H264} H264/90000
a=fmtp:{H264} level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f
a=rtcp-fb:{H264} nack
a=rtcp-fb:{H264} nack pli
"""
AUDIO_IN = f"""m=audio 9 UDP/TLS/RTP/SAVPF {OPUS}
a=mid:1
a=recvonly
a=rtpmap:{OPUS} opus/48000/2
"""
RECENT = 100
"""Packets back that are asked for again: a receiver's replay window is 128."""


class Reply(NamedTuple):
    status: int
    text: str
    location: str
    etag: str


class Numbered(Encoder):
    """H.264 pictures that say their number, so that a viewer can tell which came, and whole."""

    def frame(self, at: float, *, keyframe: bool = False) -> list[bytes]:
        if self.codec is not Codec.H264:
            return super().frame(at, keyframe=keyframe)
        unit = (b"\x65\x88\x84" if keyframe else b"\x41\x9a\x24") + b"frame=%08d;" % self.frames
        unit += bytes((65 + self.frames % 26,)) * (self.size - len(unit))
        self.frames += 1
        track = Track(0, self.codec, self.rate, AVCC, self.width, self.height)
        payloads = self._make.packetise(Packet(track, len(unit).to_bytes(4, "big") + unit, 0, 0, keyframe, at))
        out = []
        for i, payload in enumerate(payloads):
            extensions = {TRANSPORT_CC: b"\0\0", MID: self.mid.encode()}
            last = i == len(payloads) - 1
            packet = rtp.build(self.payload_type, self.sequence, self.timestamp(at), self.ssrc, payload, marker=last, extensions=extensions)
            self.sent[self.sequence & 0xFFFF] = packet
            if len(self.sent) > 4000:
                del self.sent[next(iter(self.sent))]
            self.sequence += 1
            out.append(packet)
        return out


class Publisher(RtpPublisher):
    """50 pictures and 50 packets of sound a second while `run` runs; answers NACK and PLI. `wanted`: the next is a key frame."""

    def __init__(self, peer: TestPeer, reply: Reply, *, sequence: int = 100, first: int = 0, size: int = 3000, sound: bool = True) -> None:
        picture = Numbered(
            Codec.H264, 1000, H264, 90_000, first=first, sequence=sequence, size=size, rtx_ssrc=1001, rtx_payload_type=H264_RTX
        )
        heard = Numbered(Codec.OPUS, 2000, OPUS, 48_000, first=first, sequence=sequence, mid="1") if sound else None
        super().__init__(peer, picture, heard)
        self.reply = reply
        self.paused = False
        self.begin = 0.0

    async def run(self) -> None:
        self.begin = clock.now()
        for i in range(100_000):
            await asyncio.sleep(max(0.0, self.begin + i * 0.02 - clock.now()))
            self.listen()
            if not self.paused:
                self._turn(i, i * 0.02)

    def _turn(self, i: int, at: float) -> None:
        self.show(at)
        if self.sound is not None:
            self.send(self.sound.frame(at))
        if i % 25 == 5:
            self.report(at)


@dataclass
class Heard:
    """One incoming SSRC: packets by unwrapped sequence number. `twice`: packets that came again."""

    ssrc: int
    packets: dict[int, RtpPacket] = field(default_factory=dict)
    twice: int = 0
    first: int = 0
    last: int = 0
    asked: dict[int, float] = field(default_factory=dict)
    unwrap: Unwrapper = field(default_factory=lambda: Unwrapper(16))
    reported: tuple[int, int] = (0, 0)

    def take(self, packet: RtpPacket) -> None:
        number = self.unwrap(packet.sequence)
        if number in self.packets:
            self.twice += 1
            return
        if not self.packets:
            self.first = self.last = number
        self.packets[number] = packet
        self.first, self.last = min(self.first, number), max(self.last, number)

    @property
    def missing(self) -> list[int]:
        return [n for n in range(max(self.first, self.last - RECENT), self.last) if n not in self.packets]

    def report(self) -> rtcp.ReportBlock:
        expected, received = self.last - self.first + 1, len(self.packets)
        asked, got = expected - self.reported[0], received - self.reported[1]
        self.reported = expected, received
        fraction = max(0, min(255, (asked - got) * 256 // asked)) if asked else 0
        return rtcp.ReportBlock(self.ssrc, fraction, max(0, expected - received), self.last & 0xFFFFFFFF, 0, 0, 0)


class Viewer:
    """`run` asks for what is missing and reports once a second, as browsers do; without it a viewer only receives."""

    def __init__(self, peer: TestPeer, reply: Reply) -> None:
        self.peer = peer
        self.reply = reply
        self.heard: dict[Kind, Heard] = {}
        self.nacks = 0
        self._ssrc = 77

    async def run(self) -> None:
        report_at = clock.now() + 1.0
        while True:
            await asyncio.sleep(0.02)
            now = clock.now()
            self.drain()
            for heard in self.heard.values():
                self._ask(heard, now)
            if now >= report_at and self.heard:
                report_at = now + 1.0
                blocks = [heard.report() for heard in self.heard.values()]
                self.peer.send_rtcp(rtcp.receiver_report(self._ssrc, blocks) + rtcp.sdes(self._ssrc, "viewer"))

    def _ask(self, heard: Heard, now: float) -> None:
        missing = [n for n in heard.missing if now - heard.asked.get(n, 0.0) >= 0.06]
        if missing:
            heard.asked.update(dict.fromkeys(missing, now))
            self.nacks += len(missing)
            self.peer.send_rtcp(rtcp.receiver_report(self._ssrc) + rtcp.nack(self._ssrc, heard.ssrc, [n & 0xFFFF for n in missing]))

    def want_keyframe(self) -> None:
        ssrc = self.heard[Kind.VIDEO].ssrc
        self.peer.send_rtcp(rtcp.receiver_report(self._ssrc) + rtcp.pli(self._ssrc, ssrc))

    def drain(self) -> None:
        while self.peer.rtp:
            packet = rtp.parse(self.peer.rtp.popleft())
            kind = Kind.VIDEO if packet.payload_type == H264 else Kind.AUDIO
            heard = self.heard.get(kind)
            if heard is None:
                heard = self.heard[kind] = Heard(packet.ssrc)
            assert heard.ssrc == packet.ssrc, "one SSRC per kind"
            heard.take(packet)

    @property
    def frames(self) -> list[int]:
        """Numbers of the pictures that came whole, in the order of their packets."""
        self.drain()
        heard = self.heard.get(Kind.VIDEO)
        if heard is None:
            return []
        made, numbers, before = depacketiser(Codec.H264, 4 << 20), [], heard.first - 1
        for number in sorted(heard.packets):
            for picture in made.push(heard.packets[number], number != before + 1):
                found = re.search(rb"frame=(\d{8});(.)\2*$", picture.data, re.S) if picture.complete else None
                if found is not None:
                    numbers.append(int(found.group(1)))
            before = number
        return numbers

    @property
    def sounds(self) -> int:
        self.drain()
        heard = self.heard.get(Kind.AUDIO)
        return len(heard.packets) if heard is not None else 0

    async def until(self, frames: int, *, timeout: float = 15.0) -> list[int]:
        """Wait for so many more whole pictures than there are now; returns all."""
        wanted = len(self.frames) + frames
        async with asyncio.timeout(timeout):
            while len(found := self.frames) < wanted:
                await asyncio.sleep(0.02)
        return found


class Line:
    """A node and its HTTP."""

    def __init__(self, node: Node, http: ClientSession) -> None:
        self.node = node
        self.http = http

    @property
    def port(self) -> int:
        return self.node.ready.rtc_port

    async def api(self, method: str, path: str, body: Any = None, *, expect: int = 0) -> Any:
        async with self.http.request(method, f"{self.node.http}{path}", json=body, headers=self.node.admin) as response:
            text = await response.text()
            assert response.status == expect or (not expect and response.status < 300), f"{method} {path}: {response.status} {text}"
            return await response.json() if text else None

    async def ingress(self, room: str = "studio", **more: Any) -> dict[str, Any]:
        """A WHIP ingress: its `id`, `streamKey` and `whipUrl`."""
        body = {"inputType": "WHIP_INPUT", "roomName": room, "participantIdentity": "browser", "bypassTranscoding": True, **more}
        made: dict[str, Any] = await self.api("POST", "/v1/ingress", body)
        return made

    async def post(self, path: str, sdp: str | bytes, token: str = "", **headers: str) -> Reply:
        headers = {"Content-Type": "application/sdp", **headers}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        async with self.http.post(f"{self.node.http}{path}", data=sdp, headers=headers) as response:
            names = response.headers
            return Reply(response.status, await response.text(), names.get("Location", ""), names.get("ETag", ""))

    async def restart(self, reply: Reply, peer: TestPeer, ufrag: str = "newfrag1", pwd: str = "x" * 24) -> Reply:
        """ICE restart by PATCH, and the peer goes on with it."""
        fragment = f"a=ice-ufrag:{ufrag}\r\na=ice-pwd:{pwd}\r\n"
        headers = {"Content-Type": "application/trickle-ice-sdpfrag", "If-Match": reply.etag}
        async with self.http.patch(f"{self.node.http}{reply.location}", data=fragment, headers=headers) as response:
            text = await response.text()
            again = Reply(response.status, text, reply.location, response.headers.get("ETag", ""))
        if again.status == 200:
            theirs = [re.search(rf"a=ice-{name}:(\S+)", text) for name in ("ufrag", "pwd")]
            assert theirs[0] is not None
            assert theirs[1] is not None
            peer.restart(Credentials(theirs[0].group(1), theirs[1].group(1)), Credentials(ufrag, pwd))
        return again

    async def delete(self, reply: Reply) -> int:
        async with self.http.delete(f"{self.node.http}{reply.location}") as response:
            return response.status

    @asynccontextmanager
    async def publishing(
        self, key: str, room: str = "studio", *, through: Rough | None = None, tcp: bool = False, run: bool = True, **options: Any
    ) -> AsyncIterator[Publisher]:
        async with TestPeer(CERTIFICATE) as peer:
            offered = (VIDEO_OUT, AUDIO_OUT) if options.get("sound", True) else (VIDEO_OUT,)
            reply = await self.post(f"/whip/live/{room}", peer.offer(*offered), key)
            assert reply.status == 201, reply
            await self._connect(peer, reply, through, tcp)
            publisher = Publisher(peer, reply, **options)
            async with background(*([publisher.run()] if run else [])):
                yield publisher

    @asynccontextmanager
    async def viewing(
        self, room: str = "studio", *, through: Rough | None = None, tcp: bool = False, run: bool = True, token: str = ""
    ) -> AsyncIterator[Viewer]:
        async with TestPeer(CERTIFICATE) as peer:
            reply = await self.post(f"/whep/live/{room}", peer.offer(VIDEO_IN, AUDIO_IN), token)
            assert reply.status == 201, reply
            await self._connect(peer, reply, through, tcp)
            viewer = Viewer(peer, reply)
            async with background(*([viewer.run()] if run else [])):
                yield viewer

    async def _connect(self, peer: TestPeer, reply: Reply, through: Rough | None, tcp: bool) -> None:
        local = peer.read_answer(reply.text)
        await peer.connect(local if through is None else through.through(local), tcp=tcp, timeout=15.0)

    async def live(self, room: str = "studio") -> None:
        await self.until(lambda: (found := self.node.room(f"live-{room}")) is not None and found.on_air)

    async def until(self, condition: Any, timeout: float = 10.0) -> None:
        async with asyncio.timeout(timeout):
            while not condition():
                await asyncio.sleep(0.02)

    @property
    def viewers(self) -> int:
        """Of all rooms, by WHEP."""
        return sum(room.viewers.get("whep", 0) for room in self.node.daemon.registry)

    @property
    def peers(self) -> int:
        return int(figure("medianode_rtc_peers"))

    @property
    def resources(self) -> int:
        return int(figure("medianode_rtc_resources"))


def figure(name: str, *having: str) -> float:
    """The sum of a metric over its labels; `having`: texts that the line must contain (`cause="garbage"`)."""
    total = 0.0
    for line in telemetry.exposition().decode().splitlines():
        head, _, value = line.rpartition(" ")
        if head.partition("{")[0] == name and all(text in head for text in having):
            total += float(value)
    return total


@asynccontextmanager
async def calling(data_dir: Path, **sections: dict[str, Any]) -> AsyncIterator[Line]:
    """A node that is called: `calling(tmp_path, rtc={"consent_timeout": 1.0})`."""
    async with running(data_dir, **sections) as node, ClientSession() as http:
        yield Line(node, http)
