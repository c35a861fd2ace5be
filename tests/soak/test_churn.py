"""Churn: publishers and viewers of all kinds come, go and break for SOAK_SECONDS (default 60); then the node is as it was before."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import io
import json
import os
import random
import re
import resource
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientError, ClientSession, ClientTimeout
from harness import FFMPEG, H264_AAC, ffmpeg, moving_picture, publishing, reset, run, send_second
from PIL import Image
from soak.calls import Calls
from soak.program import Program, create_ingress, environment, last_sequence, on_air, playlist, serving
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from medianode.errors import MedianodeError
from medianode.store.database import POOL_SIZE
from medianode.transcode.snapshot import THREADS as SNAPSHOT_THREADS

SECONDS = float(os.environ.get("SOAK_SECONDS", "60"))
WARM_UP = max(20.0, min(60.0, SECONDS / 4))
ACTORS = 20
RSS_BUDGET = 20 << 20
HEAP_BUDGET = 4 << 20
"""Of what is allocated: that does not depend on how high the peak was. Caches that fill and stay take a tenth of it."""
EXECUTOR_THREADS = min(32, (os.cpu_count() or 1) + 4)
LAZY_THREADS = SNAPSHOT_THREADS + POOL_SIZE + EXECUTOR_THREADS
"""Pools fill as they are needed and stay; hundreds of sessions would leave far more than these."""

ROOMS = ("studio", "yard", "gate", "roof")
CAMERAS = ("cellar", "door")
PORCHES = ("porch", "attic", "shed", "well")
"""Rooms that are published to by WHIP."""
INSPECTED = (str(Path(__file__).with_name("inspected.py")),)
SETTINGS = {
    "INGRESS__HOLD": "1",
    "INGRESS__TRACK_WAIT": "1",
    "HLS__RENDITION_IDLE": "2",
    "HLS__DVR_WINDOW": "8",
    "MJPEG__RENDITION_IDLE": "1",
    "RTC__RENDITION_IDLE": "2",
    "RTC__CONSENT_TIMEOUT": "4",
    "LIMITS__RTC_CONNECT_TIMEOUT": "5",
    "LIMITS__HANDSHAKE_TIMEOUT": "3",
    "LIMITS__FAILED_LOGINS_PER_MINUTE": "1000000",
    "LIMITS__WS_HANDSHAKES_PER_MINUTE": "1000000",
}
EXPECTED = (OSError, MedianodeError, ClientError, WebSocketException, TimeoutError, asyncio.IncompleteReadError)
"""What may happen to a client here: its room is off air, somebody took it over, the ingress is gone."""


class Churn:
    def __init__(self, node: Program, rng: random.Random, clip: Path) -> None:
        self.node, self.rng, self.clip = node, rng, clip
        self.session: ClientSession
        self.calls: Calls
        self.keys: dict[str, str] = {"studio": node.key}
        self.cameras: dict[str, str] = {}
        self.ran: collections.Counter[str] = collections.Counter()
        self.cut: collections.Counter[str] = collections.Counter()
        self.encoders = asyncio.Semaphore(2)
        self.packets: collections.Counter[str] = collections.Counter()

    async def prepare(self) -> None:
        for room in ROOMS[1:]:
            self.keys[room] = (await create_ingress(self.node, self.session, room))["streamKey"]
        for room in CAMERAS:
            async with self.session.post(
                f"{self.node.http}/api/v1/apps/live/ws-ingest", json={"room": room}, headers=self.node.admin
            ) as response:
                assert response.status == 201, await response.text()
                self.cameras[room] = (await response.json())["data"]["streamKey"]
        await self.calls.prepare(PORCHES)

    @contextlib.asynccontextmanager
    async def clients(self) -> AsyncIterator[None]:
        """What the actors call by, anew for each phase."""
        keys = self.calls.keys if hasattr(self, "calls") else {}
        async with ClientSession(timeout=ClientTimeout(25)) as self.session:
            self.calls = Calls(self.node, self.session, self.rng, ROOMS + CAMERAS)
            self.calls.keys = keys
            yield
        self.packets.update(self.calls.frames)

    async def run(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        deeds: list[tuple[Callable[[], Awaitable[None]], int]] = [
            (self.publish_politely, 4),
            (self.publish_and_die_in_a_chunk, 3),
            (self.publish_garbage, 3),
            (self.publish_with_a_wrong_key, 1),
            (self.take_over, 2),
            (self.push_with_ffmpeg, 2),
            (self.play_with_ffmpeg, 1),
            (self.be_a_camera, 4),
            (self.watch_hls, 4),
            (self.watch_low_latency, 4),
            (self.watch_mjpeg, 4),
            (self.look_at_a_picture, 3),
            (self.watch_by_socket, 3),
            (self.say_nothing, 3),
            (self.talk_nonsense_to_http, 2),
            (self.make_and_delete_an_ingress, 3),
            (self.calls.call_in_and_hang_up, 4),
            (self.calls.call_in_and_say_goodbye, 2),
            (self.calls.call_in_and_vanish, 2),
            (self.calls.call_in_over_another, 2),
            (self.calls.call_in_roughly, 2),
            (self.calls.watch_a_call, 12),
            (self.calls.ask_and_never_come, 3),
            (self.calls.ask_nonsense, 3),
            (self.calls.knock_at_the_port, 3),
        ]
        names = [deed for deed, weight in deeds for _ in range(weight)]

        async def actor(seed: int) -> None:
            rng = random.Random(seed)
            while time.monotonic() < until:
                deed = rng.choice(names)
                try:
                    async with asyncio.timeout(30):
                        await deed()
                    self.ran[deed.__name__] += 1
                except EXPECTED:
                    self.cut[deed.__name__] += 1
                await asyncio.sleep(rng.uniform(0.1, 0.6))

        async with asyncio.TaskGroup() as group:
            for _ in range(ACTORS):
                group.create_task(actor(self.rng.randrange(1 << 30)))

    def target(self, room: str | None = None) -> str:
        return f"{self.node.rtmp}/live/{self.keys[room or self.rng.choice(ROOMS)]}"

    # in

    async def publish_politely(self) -> None:
        async with publishing(self.target()) as publisher:
            for second in range(self.rng.randint(1, 6)):
                await send_second(publisher, second)
                await asyncio.sleep(1)
            await publisher.finish()

    async def publish_and_die_in_a_chunk(self) -> None:
        async with publishing(self.target()) as publisher:
            await send_second(publisher)
            await asyncio.sleep(self.rng.uniform(0, 2))
            writer = publisher._writer
            # a header that announces 60 000 bytes of video, 100 of them, and a reset
            writer.write(b"\x06\x00\x04\x00\x00\xea\x60\x09\x01\x00\x00\x00" + bytes(100))
            reset(writer)

    async def publish_garbage(self) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.node.rtmp_port)
        try:
            if self.rng.random() < 0.5:
                writer.write(b"\x03" + bytes(8) + self.rng.randbytes(1528))
                await reader.readexactly(3073)
                writer.write(bytes(1536))
            writer.write(self.rng.randbytes(self.rng.randint(1, 5000)))
            async with asyncio.timeout(5):
                await reader.read()
        finally:
            writer.transport.abort()

    async def publish_with_a_wrong_key(self) -> None:
        with contextlib.suppress(MedianodeError):
            async with publishing(f"{self.node.rtmp}/live/wrong{self.rng.random()}") as publisher:
                await publisher.watch()

    async def take_over(self) -> None:
        target = self.target()
        async with publishing(target) as first:
            await send_second(first)
            async with publishing(target) as second:
                await send_second(second)
                await asyncio.sleep(self.rng.uniform(0, 1))

    async def push_with_ffmpeg(self) -> None:
        async with self.encoders:
            seconds = self.rng.randint(2, 6)
            process = await asyncio.create_subprocess_exec(
                *(FFMPEG, "-nostdin", "-loglevel", "error", "-re", "-stream_loop", "-1", "-i", str(self.clip), "-t", str(seconds)),
                *("-c", "copy", "-f", "flv", self.target()),
                stderr=asyncio.subprocess.DEVNULL,
            )
            try:
                async with asyncio.timeout(self.rng.choice((1.5, 20))):  # killed, or to its end
                    await process.wait()
            finally:
                if process.returncode is None:
                    process.kill()
                await process.wait()

    async def be_a_camera(self) -> None:
        room = self.rng.choice(CAMERAS)
        url = f"ws://127.0.0.1:{self.node.http_port}/ingest/ws?app=live&room={room}&key={self.cameras[room]}"
        async with connect(url, compression=None, ping_interval=None) as socket:
            await socket.recv()
            for _ in range(self.rng.randint(1, 25)):
                await socket.send(picture(self.rng))
                await asyncio.sleep(0.15)
            how = self.rng.randrange(4)
            if how == 0:
                await socket.send(self.rng.randbytes(500))  # not a JPEG
            elif how == 1:
                await socket.send("hello?")
            elif how == 2:
                socket.transport.abort()

    # out

    def anywhere(self) -> str:
        return self.rng.choice(ROOMS + CAMERAS + PORCHES)

    async def watch_hls(self) -> None:
        room = self.anywhere()
        for _ in range(self.rng.randint(1, 4)):
            async with self.session.get(f"{self.node.http}/hls/live/{room}/index.m3u8") as response:
                assert response.status in (200, 404), response.status
            text = await self.media_playlist(room)
            for uri in [line for line in text.splitlines() if line.endswith((".m4s", ".mp4"))][-2:]:
                await self.fetch(f"/hls/live/{room}/{uri}")
            await asyncio.sleep(1)

    async def media_playlist(self, room: str, query: str = "") -> str:
        async with self.session.get(f"{self.node.http}/hls/live/{room}/main.m3u8{query}") as response:
            return await response.text() if response.status == 200 else ""

    async def fetch(self, path: str) -> None:
        async with self.session.get(self.node.http + path) as response:
            # 502: a picture is asked for where made-up packets play
            assert response.status in (200, 404, 502), response.status
            if self.rng.random() < 0.3:
                response.close()  # in the middle of the body
            else:
                await response.read()

    async def watch_low_latency(self) -> None:
        room = self.anywhere()
        text = await self.media_playlist(room)
        if "#EXT-X-MEDIA-SEQUENCE" not in text:
            return
        number = last_sequence(text) + 1
        for _ in range(self.rng.randint(1, 4)):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.rng.choice((0.3, 6))):  # leaves while it is blocked, or waits
                    await self.media_playlist(room, f"?_HLS_msn={number}&_HLS_part=0")
            number += 1

    async def watch_mjpeg(self) -> None:
        how = self.rng.randrange(3)
        room = self.anywhere()
        if how == 0:  # reads nothing, for a while
            await self.raw(f"GET /live/live/{room}/mjpeg HTTP/1.1\r\nHost: x\r\n\r\n", self.rng.uniform(0.5, 4), read=False)
            return
        async with self.session.get(f"{self.node.http}/live/live/{room}/mjpeg") as response:
            if response.status == 200:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self.rng.uniform(0.2, 3)):
                        async for _ in response.content.iter_any():
                            pass
            response.close()

    async def look_at_a_picture(self) -> None:
        width = self.rng.choice(("", "?w=64"))
        await self.fetch(f"/live/live/{self.anywhere()}/frame.jpg{width}")
        await self.fetch(f"/play/live/{self.anywhere()}")

    async def watch_by_socket(self) -> None:
        url = f"ws://127.0.0.1:{self.node.http_port}/live/ws?app=live&room={self.anywhere()}"
        async with connect(url, compression=None, ping_interval=None) as socket:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.rng.uniform(0.2, 3)):
                    while True:
                        await socket.recv()
            if self.rng.random() < 0.5:
                socket.transport.abort()

    async def play_with_ffmpeg(self) -> None:
        async with self.encoders:
            source = f"{self.node.rtmp}/live/{self.rng.choice(ROOMS)}"
            await run(FFMPEG, "-nostdin", "-loglevel", "error", "-t", "2", "-i", source, "-c", "copy", "-f", "null", "-", timeout=6)

    # strangers and operators

    async def say_nothing(self) -> None:
        port = self.rng.choice((self.node.http_port, self.node.rtmp_port))
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.sleep(self.rng.choice((0.1, 4)))
        writer.transport.abort()

    async def talk_nonsense_to_http(self) -> None:
        head = self.rng.choice(
            ("GET /hls/live/studio/main.m3u8 HTTP/1.1\r\nHo", "\x16\x03\x01\x02", "POST /v1/ingress HTTP/1.1\r\nHost: x\r\n")
        )
        await self.raw(head, self.rng.choice((0.2, 4)), read=True)

    async def raw(self, text: str, seconds: float, *, read: bool) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.node.http_port, limit=1024)
        try:
            writer.write(text.encode("latin-1"))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await (reader.read() if read else asyncio.sleep(60))
        finally:
            writer.transport.abort()

    async def make_and_delete_an_ingress(self) -> None:
        made = await create_ingress(self.node, self.session, f"passing-{self.rng.randrange(1 << 30)}")
        try:
            async with publishing(f"{self.node.rtmp}/live/{made['streamKey']}") as publisher:
                await send_second(publisher)
                await asyncio.sleep(self.rng.uniform(0, 1))
                await self.delete(made["id"])  # while its encoder sends
        except BaseException:
            await self.delete(made["id"])
            raise

    async def delete(self, ingress_id: str) -> None:
        async with self.session.delete(f"{self.node.http}/v1/ingress/{ingress_id}", headers=self.node.admin) as response:
            assert response.status in (200, 404), await response.text()


def picture(rng: random.Random) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (160, 120), (rng.randrange(256), rng.randrange(256), rng.randrange(256))).save(out, "JPEG")
    return out.getvalue()


IDLE = (
    *("medianode_rtmp_connections", "medianode_hls_memory_bytes", "medianode_hls_waiting_requests", 'medianode_renditions{kind="thread"}'),
    *("medianode_rtc_resources", "medianode_rtc_tcp_connections"),
)
COMING = ("medianode_publications", "medianode_rooms", "medianode_rtc_peers{", "medianode_renditions{")
HEAP = "heap"
SIZES = ("medianode_open_descriptors", "medianode_tasks", "medianode_threads", "medianode_resident_bytes")


async def when_idle(node: Program) -> dict[str, float]:
    """Figures once nothing is open but the request that asks for them, and the counts have stood still for a while."""
    before: list[float] = []
    still = 0
    async with asyncio.timeout(90):
        while True:
            now = await node.metrics()
            counts = [now[name] for name in SIZES[:3]]
            busy = [now[name] for name in IDLE] + [value for name, value in now.items() if name.startswith(COMING)]
            still = still + 1 if counts == before and not any(busy) and now["medianode_http_connections"] == 1 else 0
            if still == 5:
                return now
            before = counts
            await asyncio.sleep(1)


async def fill_pools(node: Program, session: ClientSession) -> None:
    """As many database connections as there ever will be."""

    async def one() -> None:
        async with session.get(f"{node.http}/v1/ingress", headers=node.admin) as response:
            assert response.status == 200

    await asyncio.gather(*(one() for _ in range(60)))


async def assert_nothing_left(node: Program) -> dict[str, float]:
    """No dict, queue or wheel of the node keeps anything of those who were here, and nothing else keeps their objects alive.

    Figures, with the heap's; what glibc kept for the next peak is given back by then.
    """
    for _ in range(10):  # a timer may still have one of them in its hands
        status, text = await node.get("/leftovers")
        assert status == 200, text
        found = json.loads(text)
        if not found["left"]:
            break
        await asyncio.sleep(1)
    assert not found["left"], text
    return {**await node.metrics(), HEAP: found["heap"]}


def ends(figures: dict[str, float]) -> dict[str, int]:
    """WebRTC peers by what ended them."""
    found = (re.match(r'medianode_rtc_peers_ended_total\{cause="(.*)"\}', name) for name in figures)
    return {one[1]: int(figures[one[0]]) for one in found if one is not None}


def table(rows: dict[str, dict[str, float]]) -> str:
    return "; ".join(
        f"{when}: rss {m[SIZES[3]] / 1e6:.1f} MB, heap {m[HEAP] / 1e6:.1f} MB, "
        f"fds {m[SIZES[0]]:g}, tasks {m[SIZES[1]]:g}, threads {m[SIZES[2]]:g}"
        for when, m in rows.items()
    )


@pytest.mark.soak
@pytest.mark.alone
async def test_what_comes_and_goes_leaves_nothing_behind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seed = int(os.environ.get("SOAK_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 30)
    say: Callable[..., Any] = print
    with capsys.disabled():
        say(f"\nchurn: seed {seed} (SOAK_SEED repeats it), {SECONDS:g} s after {WARM_UP:g} s of warm-up")
    clip = tmp_path / "clip.flv"
    made = await ffmpeg(*moving_picture(4, size="160x120", rate=10, realtime=False), *H264_AAC, str(clip))
    assert made.code == 0, made.output
    figures: dict[str, dict[str, float]] = {}
    untrimmed: dict[str, dict[str, float]] = {}
    async with serving(tmp_path / "data", environment(tmp_path / "data", **SETTINGS), program=INSPECTED) as node:
        churn = Churn(node, random.Random(seed), clip)
        for phase, seconds in (("before", WARM_UP), ("after", SECONDS)):
            async with churn.clients():
                if phase == "before":
                    await churn.prepare()
                    await fill_pools(node, churn.session)
                await churn.run(seconds)
            untrimmed[phase] = await when_idle(node)
            figures[phase] = await assert_nothing_left(node)
        before, after = figures["before"], figures["after"]
        own = resource.getrusage(resource.RUSAGE_SELF)
        with capsys.disabled():
            say(f"churn: {table(figures)}; node CPU {after['medianode_cpu_seconds']:.1f} s, ours {own.ru_utime + own.ru_stime:.1f} s")
            say(f"churn: {sum(churn.ran.values())} to the end {dict(churn.ran)}; {sum(churn.cut.values())} cut short {dict(churn.cut)}")
            say(f"churn: packets of pictures by WebRTC {dict(churn.packets)}; peers by end {ends(after)}")
            say("churn: rss with glibc's free lists " + ", ".join(f"{when} {m[SIZES[3]] / 1e6:.1f} MB" for when, m in untrimmed.items()))

        # those that had stood still for a while: in a single look housekeeping may be at work
        for count in ("medianode_open_descriptors", "medianode_tasks"):
            assert untrimmed["after"][count] == untrimmed["before"][count]
        assert after["medianode_threads"] <= before["medianode_threads"] + LAZY_THREADS
        assert after["medianode_resident_bytes"] <= before["medianode_resident_bytes"] + RSS_BUDGET
        assert after[HEAP] <= before[HEAP] + HEAP_BUDGET
        assert not {name: n for name, n in after.items() if name.startswith("medianode_bugs_total") and n}
        # it was really there, through every door
        for door in ("rtmp", "ws-mjpeg", "mjpeg", "ws-live", "whip", "whep"):
            assert after[f'medianode_sessions_total{{door="{door}"}}'] > before[f'medianode_sessions_total{{door="{door}"}}']
        assert churn.packets["udp"], "no viewer saw a picture over UDP"
        assert churn.packets["tcp"], "no viewer saw a picture over TCP"
        # and it goes on as on the first day
        async with on_air(f"{node.rtmp}/live/{node.key}"):
            await playlist(node)
