"""WHIP over real sockets: offers by HTTP, media by ICE, DTLS and SRTP, from a small peer of ours and from FFmpeg's muxer."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import imageio_ffmpeg
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from harness.calls import AUDIO_OUT, VIDEO_OUT
from harness.publisher import RtpPublisher
from harness.rtp_sender import H264, H264_RTX, OPUS, Encoder
from harness.sinks import Sink
from harness.webrtc import Certificate, TestPeer
from samples import grant

from medianode import clock
from medianode.auth import Door, PublishGrant, Takeover
from medianode.config import Config, Ingress, Limits, Rtc
from medianode.errors import PeerGone, Unauthorized
from medianode.events import Bus, Event
from medianode.ingress.whip.door import WhipDoor
from medianode.ingress.whip.service import WhipService
from medianode.media.packet import Packet
from medianode.media.track import Codec, Kind
from medianode.origin import Origin
from medianode.protocols.rtp import rtcp
from medianode.protocols.sdp.plan import Credentials
from medianode.routing.registry import Registry
from medianode.rtc.endpoint import Endpoint
from medianode.rtc.signalling import Signalling
from medianode.tasks import background

VIDEO = f"""{VIDEO_OUT}a=extmap:2 urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id
a=extmap:3 urn:ietf:params:rtp-hdrext:sdes:repaired-rtp-stream-id
"""
CERTIFICATE = Certificate()


class Gate:
    """Lets the key `good` in, everywhere."""

    def __init__(self) -> None:
        self.kinds = frozenset(Kind)
        self.ingress_id: str | None = "IN_1"
        self.policy: dict[str, Any] = {}

    async def publish(self, door: Door, app: str, key: str, room: str | None = None, **_: Any) -> PublishGrant:
        if key != "good":
            raise Unauthorized("publish: the stream key is not known")
        return grant(kind=door, hold=0.5, kinds=self.kinds, ingress_id=self.ingress_id, **self.policy)


class Keeping(Sink):
    def __init__(self) -> None:
        super().__init__(ends=True)
        self.keyframe = asyncio.Event()

    def on_packet(self, packet: Packet) -> None:
        super().on_packet(packet)
        if packet.track.is_video and packet.keyframe:
            self.keyframe.set()

    def count(self, kind: Kind) -> int:
        return sum(p.track.kind is kind for p in self.packets)


class House:
    def __init__(self, config: Config) -> None:
        self.told: list[Event] = []
        bus = Bus()
        bus.subscribe(Event, self.told.append)
        self.registry = Registry(bus, config.limits)
        self.endpoint = Endpoint(config.rtc, config.limits)
        self.signalling = Signalling(config.rtc, config.limits)
        self.service = WhipService(config, self.registry, self.endpoint)
        self.gate = Gate()
        door = WhipDoor(self.gate, Origin("", ()), self.signalling, self.service.publish)  # type: ignore[arg-type]  # publishing only
        self.app = web.Application()
        self.app.add_routes([*door.routes(), *self.signalling.routes()])
        self.client: TestClient[Any, Any]

    async def offer(self, peer: TestPeer, *media: str, key: str = "good", room: str = "a") -> tuple[int, str, str]:
        """(status, answer or refusal, Location)."""
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/sdp"}
        async with self.client.post(f"/whip/live/{room}", data=peer.offer(*media), headers=headers) as response:
            return response.status, await response.text(), response.headers.get("Location", "")

    @property
    def sink(self) -> Keeping:
        """A reader of what is published now."""
        (publication,) = self.registry.publications
        sink = Keeping()
        publication.attach(sink)
        return sink

    async def until(self, true: Any, seconds: float = 10.0) -> None:
        async with asyncio.timeout(seconds):
            while not true():
                await asyncio.sleep(0.01)

    def names(self) -> list[str]:
        return [type(event).__name__ for event in self.told]


@pytest.fixture
def config() -> Config:
    return Config(
        rtc=Rtc(listen="127.0.0.1:0", tcp_listen="127.0.0.1:0"), ingress=Ingress(silence=2.0), limits=Limits(first_media_timeout=5.0)
    )


@pytest.fixture
async def house(config: Config) -> AsyncIterator[House]:
    made = House(config)
    made.endpoint.open()
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(background(made.endpoint.serve()))
        made.client = await stack.enter_async_context(TestClient(TestServer(made.app)))
        await asyncio.sleep(0)
        yield made


class Publisher(RtpPublisher):
    """Sends 25 pictures and 50 packets of sound a second until it is stopped; answers NACK and PLI."""

    sound: Encoder

    def __init__(self, peer: TestPeer) -> None:
        picture = Encoder(Codec.H264, 1000, H264, 90_000, rtx_ssrc=1001, rtx_payload_type=H264_RTX)
        super().__init__(peer, picture, Encoder(Codec.OPUS, 2000, OPUS, 48_000, mid="1"))

    async def run(self) -> None:
        begin = clock.now()
        for i in range(10_000):
            await asyncio.sleep(max(0.0, begin + i * 0.02 - clock.now()))
            at = i * 0.02
            self.listen()
            if i % 2 == 0:
                self.show(at)
            self.send(self.sound.frame(at))
            if i % 25 == 5:
                self.report(at)


@pytest.mark.parametrize("tcp", [False, True])
async def test_a_publisher_from_offer_to_goodbye(house: House, tcp: bool) -> None:
    async with TestPeer(CERTIFICATE) as peer:
        status, answer, location = await house.offer(peer, VIDEO, AUDIO_OUT)
        assert status == 201, answer
        assert re.search(r"a=rtcp-fb:102 transport-cc", answer)
        (publication,) = house.registry.publications
        assert not publication.active
        sink = house.sink
        await peer.connect(answer, tcp=tcp)
        publisher = Publisher(peer)
        async with background(publisher.run()):
            await house.until(lambda: sink.count(Kind.VIDEO) >= 50)
            sink.keyframe.clear()
            publication.request_keyframe()
            await asyncio.wait_for(sink.keyframe.wait(), 5)
            await house.until(lambda: any(isinstance(m, rtcp.ReceiverReport) and m.reports for m in publisher.messages))
        assert [t.codec for t in sink.tracks[-1]] == [Codec.H264, Codec.OPUS]
        assert sink.gaps == []
        assert publication.health.drops == {}
        assert any(isinstance(m, rtcp.TransportFeedback) for m in publisher.messages)
        async with house.client.delete(location) as response:
            assert response.status == 200
        await asyncio.wait_for(peer.closed.wait(), 5)
    assert publication.ended
    assert len(house.endpoint) == 0
    assert not house.service.sessions
    lost = next(e for e in house.told if type(e).__name__ == "PublicationLost")
    assert (lost.cause, lost.failure) == ("unpublished", False)  # type: ignore[attr-defined]  # found by its name
    async with house.client.delete(location) as response:
        assert response.status == 200, "DELETE is idempotent"


@pytest.mark.parametrize("loss", [0.02, 0.1])
async def test_loss_is_repaired(house: House, loss: float) -> None:
    rng = random.Random(5)
    async with TestPeer(CERTIFICATE) as peer:
        _, answer, _ = await house.offer(peer, VIDEO, AUDIO_OUT)
        sink = house.sink
        await peer.connect(answer)
        peer.filter_out = lambda data: 128 <= data[0] < 192 and rng.random() < loss
        publisher = Publisher(peer)
        async with background(publisher.run()):
            await house.until(lambda: sink.count(Kind.VIDEO) >= 100, 20)
            (publication,) = house.registry.publications
            await house.until(lambda: publication.health.network.get("recovered", 0) > 2, 20)
        assert publication.health.network["nacks"] > 2
        assert [p.dts for p in sink.packets if p.track.is_video] == sorted(p.dts for p in sink.packets if p.track.is_video)


async def test_refusals_leave_nothing_behind(house: House) -> None:
    peer = TestPeer(CERTIFICATE)
    assert (await house.offer(peer, VIDEO, key="bad"))[0] == 401
    assert (await house.offer(peer, VIDEO.replace("sendonly", "recvonly")))[0] == 406
    assert (await house.offer(peer, VIDEO.replace("H264", "DIRAC")))[0] == 406
    house.gate.kinds = frozenset({Kind.AUDIO})
    status, reason, _ = await house.offer(peer, VIDEO)
    assert (status, "this stream does not let video be published" in reason) == (403, True)
    house.gate.ingress_id = None
    status, reason, _ = await house.offer(peer, VIDEO, AUDIO_OUT)
    assert (status, "this token does not let video be published" in reason) == (403, True)
    house.gate.kinds = frozenset(Kind)
    assert house.registry.publications == []
    assert len(house.endpoint) == 0
    assert len(house.signalling) == 0
    assert not house.service.sessions
    assert house.told == []


async def test_a_stream_of_sound_only_takes_the_offer_and_leaves_the_picture_out(house: House) -> None:
    house.gate.kinds = frozenset({Kind.AUDIO})
    async with TestPeer(CERTIFICATE) as peer:
        status, answer, _ = await house.offer(peer, VIDEO, AUDIO_OUT)
        assert (status, answer.count("a=recvonly")) == (201, 2)
        sink = house.sink
        await peer.connect(answer)
        publisher = Publisher(peer)
        async with background(publisher.run()):
            await house.until(lambda: sink.count(Kind.AUDIO) >= 100)
            (publication,) = house.registry.publications
            assert publication.active
            assert [t.codec for t in publication.tracks] == [Codec.OPUS]
            assert publication.health.notes == {"audio-only": "this stream takes sound only: the picture that comes is left out"}
            assert publication.health.drops.keys() == {"audio-only"}
        assert not any(isinstance(m, rtcp.Pli) for m in publisher.messages), "nobody asks for pictures"
        assert not peer.closed.is_set()


async def test_a_picture_over_the_limit_is_put_out_where_transcoding_is_off(house: House) -> None:
    house.gate.policy = {"max_height": 100, "enable_transcoding": False}
    async with TestPeer(CERTIFICATE) as peer:
        _, answer, _ = await house.offer(peer, VIDEO, AUDIO_OUT)
        await peer.connect(answer)
        async with background(Publisher(peer).run()):
            await asyncio.wait_for(peer.closed.wait(), 5)
    await house.until(lambda: not house.service.sessions)
    (lost,) = (e for e in house.told if type(e).__name__ == "PublicationLost")
    assert (lost.cause, lost.failure) == ("resolution-too-high", True)  # type: ignore[attr-defined]  # found by its name
    assert house.names()[-1] == "PublicationEnded", "no hold"
    assert len(house.endpoint) == 0


async def test_who_holds_the_room_is_not_put_out_while_heard(house: House) -> None:
    async with TestPeer(CERTIFICATE) as first, TestPeer(CERTIFICATE) as second:
        _, answer, _ = await house.offer(first, VIDEO, AUDIO_OUT)
        await first.connect(answer)
        async with background(Publisher(first).run()):
            sink = house.sink
            await house.until(lambda: sink.packets)
            house.gate.publish = _rejecting(house.gate)  # type: ignore[method-assign]  # as an ingress with takeover reject
            status, reason, _ = await house.offer(second, VIDEO, AUDIO_OUT)
            assert (status, "already" in reason) == (409, True)
            assert len(house.endpoint) == 1
        assert not first.closed.is_set()


def _rejecting(gate: Gate) -> Any:
    async def publish(door: Door, app: str, key: str, room: str | None = None, **_: Any) -> PublishGrant:
        return grant(kind=door, takeover=Takeover.REJECT)

    return publish


async def test_takeover_kick_and_silence(house: House) -> None:
    async with TestPeer(CERTIFICATE) as first, TestPeer(CERTIFICATE) as second:
        _, answer, _ = await house.offer(first, VIDEO, AUDIO_OUT)
        await first.connect(answer)
        async with background(Publisher(first).run()):
            sink = house.sink
            await house.until(lambda: sink.packets)
            _, answer, _ = await house.offer(second, VIDEO, AUDIO_OUT)
            await asyncio.wait_for(first.closed.wait(), 5)
        await second.connect(answer)
        async with background(Publisher(second).run()):
            (publication,) = house.registry.publications
            await house.until(lambda: publication.active)
        # and now it falls silent, while ICE lives on
        await house.until(lambda: publication.ended, 10)
        await asyncio.wait_for(second.closed.wait(), 5)
    lost = [e for e in house.told if type(e).__name__ == "PublicationLost"]
    assert (lost[-1].cause, lost[-1].failure) == ("publisher-silent", True)  # type: ignore[attr-defined]  # found by its name


async def test_a_tab_that_is_closed_says_goodbye_by_dtls(house: House) -> None:
    async with TestPeer(CERTIFICATE) as peer:
        _, answer, _ = await house.offer(peer, VIDEO, AUDIO_OUT)
        await peer.connect(answer)
        async with background(Publisher(peer).run()):
            (publication,) = house.registry.publications
            await house.until(lambda: publication.active)
    await house.until(lambda: publication.ended)
    lost = next(e for e in house.told if type(e).__name__ == "PublicationLost")
    assert (lost.cause, lost.failure) == ("peer-gone", False)  # type: ignore[attr-defined]  # found by its name
    assert publication.kick(PeerGone("late")) is None


async def test_who_never_sends_is_put_out(house: House) -> None:
    async with TestPeer(CERTIFICATE) as peer:
        _, answer, _ = await house.offer(peer, VIDEO, AUDIO_OUT)
        await peer.connect(answer)
        (publication,) = house.registry.publications
        await house.until(lambda: publication.ended, 10)
        await asyncio.wait_for(peer.closed.wait(), 5)
    assert len(house.endpoint) == 0


async def test_ffmpeg_publishes_by_whip(house: House) -> None:
    url = str(house.client.make_url("/whip/live/a"))
    command = [
        imageio_ffmpeg.get_ffmpeg_exe(),
        *("-hide_banner", "-loglevel", "error", "-re", "-f", "lavfi", "-i", "testsrc2=size=320x240:rate=25"),
        *("-f", "lavfi", "-i", "sine=frequency=440:sample_rate=48000", "-t", "6"),
        *("-c:v", "libx264", "-profile:v", "baseline", "-tune", "zerolatency", "-g", "50", "-pix_fmt", "yuv420p"),
        *("-c:a", "libopus", "-ac", "2", "-f", "whip", "-authorization", "good", url),
    ]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT)
    try:
        await house.until(lambda: house.registry.publications, 20)
        (publication,) = house.registry.publications
        sink = house.sink
        await house.until(lambda: sink.count(Kind.VIDEO) >= 100 and sink.count(Kind.AUDIO) >= 180, 20)
        assert publication.health.drops == {}
        assert [(t.codec, t.width, t.channels) for t in sink.tracks[-1]] == [(Codec.H264, 320, 0), (Codec.OPUS, 0, 2)]
        assert sink.gaps == []
        shown = [p for p in sink.packets if p.track.is_video]
        assert shown[0].keyframe
        await house.until(lambda: publication.ended, 20)
    finally:
        if process.returncode is None:
            process.terminate()
        output, _ = await process.communicate()
    lost = next(e for e in house.told if type(e).__name__ == "PublicationLost")
    assert (lost.cause, lost.failure) in [("unpublished", False), ("peer-gone", False)], output  # type: ignore[attr-defined]  # its name


async def test_ice_restarts_and_the_picture_goes_on(house: House) -> None:
    async with TestPeer(CERTIFICATE) as peer:
        _, answer, location = await house.offer(peer, VIDEO, AUDIO_OUT)
        await peer.connect(answer)
        async with background(Publisher(peer).run()):
            sink = house.sink
            await house.until(lambda: sink.count(Kind.VIDEO) >= 10)
            fresh = Credentials("fresh123", "f" * 24)
            fragment = f"a=ice-ufrag:{fresh.ufrag}\r\na=ice-pwd:{fresh.pwd}\r\nm=video 9 UDP/TLS/RTP/SAVPF 0\r\na=mid:0\r\n"
            headers = {"Content-Type": "application/trickle-ice-sdpfrag", "If-Match": "*"}
            async with house.client.patch(location, data=fragment, headers=headers) as response:
                assert response.status == 200
                body = await response.text()
            remote = Credentials(re.findall(r"a=ice-ufrag:(\S+)", body)[0], re.findall(r"a=ice-pwd:(\S+)", body)[0])
            assert remote.ufrag not in answer
            peer.restart(remote, fresh)
            peer.open()  # from another port, as after Wi-Fi to LTE
            peer.check()
            before = sink.count(Kind.VIDEO)
            await house.until(lambda: sink.count(Kind.VIDEO) >= before + 50)
            assert sink.gaps == []


async def test_fifty_bogus_offers_cost_no_peer(house: House) -> None:
    for i in range(50):
        headers = {"Authorization": "Bearer good", "Content-Type": "application/sdp"}
        async with house.client.post("/whip/live/a", data=f"v=0\r\nm=video {i} garbage", headers=headers) as response:
            assert response.status in (400, 406)
    assert len(house.endpoint) == 0
    assert house.told == []
