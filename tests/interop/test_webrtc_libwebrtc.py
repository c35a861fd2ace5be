"""libwebrtc without a browser (the wheel `reactor-webrtc`): publishes by WHIP, watches by WHEP, is told when it cannot, is pushed to."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import itertools
import math
import struct
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import reactor_webrtc as rw
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer
from harness import H264_AAC, Node, ffmpeg_process, moving_picture, running, until
from harness.chromium import ask, on_air, whip_key
from harness.lossy import lossy
from harness.whip_target import KEY
from harness.whip_target import push as push_on

from medianode.egress.push.report import Report
from medianode.tasks import background

pytestmark = pytest.mark.interop
WIDTH, HEIGHT, ROOM = 320, 240, "cam"
BAR, GROUND = bytes((40, 60, 230, 255)), bytes((90, 160, 40, 255))
"""BGRA: a bar that walks to the right, and what it walks over."""


@functools.cache
def factory() -> rw.PeerConnectionFactory:
    """libwebrtc allows one per process."""
    return rw.PeerConnectionFactory()


class Libwebrtc:
    """One peer connection. Its callbacks come from threads of libwebrtc's own; each does one thing that needs no lock."""

    def __init__(self) -> None:
        self.states: list[rw.PeerConnectionState] = []
        self.pictures: list[tuple[int, int, bytes]] = []
        """Width, height and the pixel in the middle."""
        self.loudest = 0.0
        self._tracks: list[rw.Track] = []
        observer = rw.PeerConnectionObserver()
        observer.on_connection_state_change = self.states.append
        observer.on_track = self._track
        self.observe(observer)
        self.pc = factory().create_peer_connection(rw.RtcConfiguration(bundle_policy=rw.BundlePolicy.MaxBundle), observer)

    def observe(self, observer: rw.PeerConnectionObserver) -> None:
        """For more than that."""

    def _track(self, kind: rw.MediaKind, track: rw.Track) -> None:
        self._tracks.append(track)
        if kind == rw.MediaKind.Video:
            track.on_video_frame(self._picture)
        else:
            track.on_audio_frame(self._sound)

    def _picture(self, bgra: bytes, width: int, height: int, _: rw.FrameMetadata | None = None) -> None:
        middle = (height // 2 * width + width // 2) * 4
        self.pictures.append((width, height, bgra[middle : middle + 4]))

    def _sound(self, pcm: bytes, *_: int) -> None:
        self.loudest = max(self.loudest, max(map(abs, struct.unpack(f"<{len(pcm) // 2}h", pcm)), default=0) / 32768)

    async def exchange(self, url: str, token: str = "", port: int = 0) -> tuple[int, str]:
        """Status and body of the node's answer; connected, if it was 201. `port`: of a relay that is taken for the node."""
        offer = await self.pc.create_offer()
        await self.pc.set_local_description(offer)
        headers = {"Content-Type": "application/sdp", **({"Authorization": f"Bearer {token}"} if token else {})}
        async with ClientSession() as session, session.post(url, data=offer.sdp, headers=headers) as response:
            answer = await response.text()
            if response.status != 201:
                return response.status, answer
        if port:
            kept = [line for line in answer.splitlines() if not line.startswith("a=candidate:")]
            at = next(i for i, line in enumerate(kept) if line.startswith("a=ice-ufrag:"))
            kept.insert(at, f"a=candidate:1 1 udp 2130706431 127.0.0.1 {port} typ host")
            answer = "\r\n".join([*kept, ""])
        await self.pc.set_remote_description(rw.SessionDescription("answer", answer))
        await until(lambda: rw.PeerConnectionState.Connected in self.states)
        return 201, answer

    async def watch(self, node: Node, room: str, port: int = 0) -> tuple[int, str]:
        for kind in (rw.MediaKind.Video, rw.MediaKind.Audio):
            self.pc.add_transceiver(kind, rw.TransceiverDirection.RecvOnly)
        return await self.exchange(f"{node.http}/whep/live/{room}", port=port)

    async def received(self) -> rw.InboundRtpStats:
        (video,) = [s for s in (await self.pc.get_stats()).inbound_rtp if s.kind == rw.StreamKind.Video]
        return video


@contextlib.asynccontextmanager
async def publishing(node: Node, key: str) -> AsyncIterator[None]:
    """VP8 and Opus: a bar that walks, and a tone."""
    peer = Libwebrtc()
    video, audio = factory().create_video_track("picture"), factory().create_audio_track_with_local_source("sound")
    peer.pc.add_track(video)
    peer.pc.add_track(audio)
    pushing = asyncio.get_running_loop().create_task(push(video, audio))
    try:
        status, answer = await peer.exchange(f"{node.http}/whip/live/{ROOM}", key)
        assert status == 201, answer
        yield
    finally:
        pushing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await pushing
        # a peer connection is closed when nobody holds it any more
        del peer, video, audio
        gc.collect()


async def push(video: rw.Track, audio: rw.Track) -> None:
    loop = asyncio.get_running_loop()
    start, pictures = loop.time(), 0
    for n in itertools.count():
        pcm = struct.pack("<480h", *(int(9000 * math.sin((n * 480 + i) * 2 * math.pi * 440 / 48000)) for i in range(480)))
        audio.push_pcm(pcm, 48_000, 1, rw.time_micros())
        if n % 4 == 0:
            left = pictures * 8 % WIDTH
            row = bytearray(GROUND * WIDTH)
            row[left * 4 : (left + 32) * 4] = BAR * min(32, WIDTH - left)
            video.push_video_frame(bytes(row) * HEIGHT, WIDTH, HEIGHT, None, rw.time_micros())
            pictures += 1
        await asyncio.sleep(max(0.0, start + (n + 1) * 0.01 - loop.time()))


def reds(pictures: list[tuple[int, int, bytes]]) -> set[bool]:
    """Whether the bar was in the middle: both, of a picture that moves."""
    return {pixel[2] > 150 for _, _, pixel in pictures}


async def test_libwebrtc_publishes_vp8_and_another_one_plays_it(tmp_path: Path) -> None:
    async with running(tmp_path) as node, publishing(node, await whip_key(node, ROOM)):
        await on_air(node, ROOM)
        viewer = Libwebrtc()
        status, answer = await viewer.watch(node, ROOM)
        assert status == 201, answer
        await until(lambda: len(viewer.pictures) > 90 and viewer.loudest > 0.1, 20)
        assert {picture[:2] for picture in viewer.pictures} == {(WIDTH, HEIGHT)}
        assert reds(viewer.pictures) == {True, False}
        video = await viewer.received()
        (session,) = await ask(node, "sessions")
        print(
            f"{len(viewer.pictures)} pictures, loudest {viewer.loudest:.2f}, {video.codec_mime_type} by {video.decoder_implementation}, "
            f"lost {video.packets_lost}, NACKs {video.nack_count}, PLI {video.pli_count}; {[t['codec'] for t in session['tracks']]}"
        )
        assert video.codec_mime_type == "video/VP8"
        assert video.packets_lost == 0
        assert session["door"] == "whip"
        assert [t["codec"] for t in session["tracks"]] == ["vp8", "opus"]
        assert [r["treatment"] for r in session["renditions"]] == [{"video": "copy", "audio": "copy"}]
        (watcher,) = await ask(node, "viewers")
        assert (watcher["video"], watcher["audio"]) == ("vp8", "opus")


async def test_libwebrtc_has_lost_packets_sent_again(tmp_path: Path) -> None:
    async with (
        running(tmp_path) as node,
        publishing(node, await whip_key(node, ROOM)),
        lossy(node.ready.rtc_port, 0.0) as network,
    ):
        await on_air(node, ROOM)
        viewer = Libwebrtc()
        status, answer = await viewer.watch(node, ROOM, network.port)
        assert status == 201, answer
        await until(lambda: len(viewer.pictures) > 10, 20)
        network.loss = 0.05
        before = len(viewer.pictures)
        await until(lambda: len(viewer.pictures) > before + 120 and network.lost > 10, 20)
        video = await viewer.received()
        (watcher,) = await ask(node, "viewers")
        print(
            f"loss 5 %: {network.lost} of {network.lost + network.passed} lost; NACKs {video.nack_count}, resent {watcher['resent']}, "
            f"lost for good {video.packets_lost}, PLI {video.pli_count}"
        )
        assert video.nack_count > 0
        assert watcher["resent"] > 0
        assert reds(viewer.pictures[before:]) == {True, False}


async def test_who_knows_no_h264_is_told_so(tmp_path: Path) -> None:
    push = [*moving_picture(60), *H264_AAC, "-f", "flv"]
    async with running(tmp_path) as node, ffmpeg_process(*push, f"{node.rtmp}/live/{node.key}"):
        await on_air(node, "studio")
        status, body = await Libwebrtc().watch(node, "studio")
        print(status, body)
        assert status == 406
        assert "this room has H264" in body


class Answering(Libwebrtc):
    """libwebrtc that is called: a full agent, which tells its candidates one by one."""

    def __init__(self) -> None:
        self.candidates: list[rw.IceCandidate] = []
        self.gathered = self.deleted = False
        super().__init__()

    def observe(self, observer: rw.PeerConnectionObserver) -> None:
        observer.on_ice_candidate = self.candidates.append
        observer.on_ice_gathering_change = self._gathering

    def _gathering(self, state: rw.IceGatheringState) -> None:
        self.gathered = self.gathered or state == rw.IceGatheringState.Complete

    async def answer(self, request: web.Request) -> web.Response:
        if request.method == "DELETE":
            self.deleted = True
            return web.Response()
        await self.pc.set_remote_description(rw.SessionDescription("offer", await request.text()))
        answer = await self.pc.create_answer()
        await self.pc.set_local_description(answer)
        await until(lambda: self.gathered)
        at = answer.sdp.index("a=ice-ufrag:")
        lines = "".join(f"a={candidate.candidate}\r\n" for candidate in self.candidates)
        text = answer.sdp[:at] + lines + answer.sdp[at:]
        return web.Response(status=201, text=text, content_type="application/sdp", headers={"Location": "/session"})


async def test_libwebrtc_is_pushed_vp8(tmp_path: Path) -> None:
    made = Answering()
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", made.answer)
    report = Report()
    async with (
        running(tmp_path, rtc={"listen": ":0"}) as node,
        TestServer(app) as server,
        publishing(node, await whip_key(node, ROOM)),
    ):
        await on_air(node, ROOM)
        url = f"http://127.0.0.1:{server.port}/whip"
        async with background(push_on(node, url, KEY, report, room=ROOM, allow=("0.0.0.0/0", "::/0"))):
            await until(lambda: len(made.pictures) > 60 and made.loudest > 0.1 and report.is_broadcasting, 20)
            video = await made.received()
        await until(lambda: made.deleted)
    del made.pc  # the server holds the rest for a while
    gc.collect()
    assert video.codec_mime_type == "video/VP8"
    assert {picture[:2] for picture in made.pictures} == {(320, 240)}
    print(len(made.pictures), made.loudest, video.packets_lost, video.pli_count, report)
