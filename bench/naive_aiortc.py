"""The obvious Python WHEP relay: stock aiortc, RTMP in through PyAV, no transcoding per viewer.

Kinder than most such relays: H.264 passes through as packets and AAC becomes Opus once
for everybody; aiortc still packetises, encrypts and sends per viewer and packet.
Command line: naive_aiortc.py --rtmp 127.0.0.1:1940 --http 127.0.0.1:8090
"""

from __future__ import annotations

import argparse
import asyncio
import threading
from fractions import Fraction

import av
from aiohttp import web
from aiortc import MediaStreamTrack, RTCConfiguration, RTCPeerConnection, RTCRtpSender, RTCSessionDescription
from av.packet import Packet

PCS: set[RTCPeerConnection] = set()
TRACKS: dict[str, set[Track]] = {"video": set(), "audio": set()}


class Track(MediaStreamTrack):
    def __init__(self, kind: str) -> None:
        self.kind = kind
        super().__init__()
        self.q: asyncio.Queue[Packet] = asyncio.Queue(300)
        TRACKS[kind].add(self)

    async def recv(self) -> Packet:
        return await self.q.get()


def put(kind: str, pkt: Packet) -> None:
    for t in TRACKS[kind]:
        if not t.q.full():
            t.q.put_nowait(pkt)


def source(url: str, loop: asyncio.AbstractEventLoop) -> None:
    """Blocking thread: accept one RTMP publisher, again and again."""
    while True:
        try:
            with av.open(url, format="flv", options={"listen": "1"}, timeout=None) as inp:
                v, a = inp.streams.video[0], inp.streams.audio[0]
                bsf = av.BitStreamFilterContext("h264_mp4toannexb", v)
                enc = av.CodecContext.create("libopus", "w")
                enc.sample_rate, enc.layout, enc.format, enc.bit_rate = 48000, "stereo", "s16", 64000
                enc.time_base, enc.options = Fraction(1, 48000), {"application": "lowdelay", "frame_duration": "20"}
                res = av.AudioResampler("s16", "stereo", 48000, frame_size=960)
                for pkt in inp.demux(v, a):
                    if pkt.dts is None:
                        continue
                    if pkt.stream is v:
                        for out in bsf.filter(pkt):
                            loop.call_soon_threadsafe(put, "video", out)
                    else:
                        for frame in pkt.decode():
                            for f in res.resample(frame):
                                for out in enc.encode(f):
                                    loop.call_soon_threadsafe(put, "audio", out)
        except av.error.FFmpegError as e:
            print("publisher ended:", e, flush=True)


async def whep(req: web.Request) -> web.Response:
    pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    PCS.add(pc)
    await pc.setRemoteDescription(RTCSessionDescription(await req.text(), "offer"))
    mine: list[Track] = []
    for t in pc.getTransceivers():
        tr = Track(t.kind)
        mine.append(tr)
        t.sender.replaceTrack(tr)
        t.direction = "sendonly"
        want = ("video/H264", "video/rtx") if t.kind == "video" else ("audio/opus",)
        t.setCodecPreferences([c for c in RTCRtpSender.getCapabilities(t.kind).codecs if c.mimeType in want])

    @pc.on("connectionstatechange")
    async def _() -> None:
        if pc.connectionState in ("failed", "closed"):
            for tr in mine:
                TRACKS[tr.kind].discard(tr)
            PCS.discard(pc)
            await pc.close()

    await pc.setLocalDescription(await pc.createAnswer())
    return web.Response(status=201, text=pc.localDescription.sdp, content_type="application/sdp", headers={"Location": f"/whep/{id(pc)}"})


async def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__)
    ap.add_argument("--rtmp", default="127.0.0.1:1940")
    ap.add_argument("--http", default="127.0.0.1:8090")
    a = ap.parse_args()
    threading.Thread(target=source, args=(f"rtmp://{a.rtmp}/live/s0", asyncio.get_running_loop()), daemon=True).start()
    app = web.Application()
    app.router.add_post("/whep/{room}", whep)
    app.router.add_delete("/whep/{id}", lambda _: web.Response())  # type: ignore[arg-type, return-value]
    runner = web.AppRunner(app)
    await runner.setup()
    host, _, port = a.http.partition(":")
    await web.TCPSite(runner, host, int(port)).start()
    await asyncio.Event().wait()


asyncio.run(main())
