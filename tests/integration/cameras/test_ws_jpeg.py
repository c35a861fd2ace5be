"""`/ingest/ws` with the `websockets` client as the ESP32, over real sockets (contracts 2.4)."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import pytest
from harness.sinks import Sink
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from medianode import telemetry
from medianode.config import Limits, WsJpeg
from medianode.errors import NotFound, PeerGone

READY = '{"type":"ready","room":"live-gate","streamId":"live-gate/wscam-one","maxFps":15,"maxFrameBytes":262144,"idleTimeoutSec":30}'
Picture = Callable[..., bytes]
Until = Callable[[Callable[[], bool]], Awaitable[None]]
Start = Callable[..., Awaitable[Any]]


def camera(url: str, **options: Any) -> connect:
    return connect(url, compression=None, ping_interval=None, max_size=None, **options)


async def refusal(url: str, **options: Any) -> tuple[str, int, str]:
    """(the error text, the close code, its reason) of a handshake that is refused."""
    async with camera(url, **options) as socket:
        text = await socket.recv()
        with pytest.raises(ConnectionClosed):
            await socket.recv()
        assert isinstance(text, str)
        assert socket.close_code is not None
        return text, socket.close_code, socket.close_reason or ""


async def ended(socket: ClientConnection) -> tuple[list[str], int]:
    """All texts up to the close, and its code."""
    texts = []
    async with asyncio.timeout(10):
        try:
            while True:
                texts.append(str(await socket.recv()))
        except ConnectionClosed:
            assert socket.close_code is not None
            return texts, socket.close_code


async def test_ready_is_exact_and_frames_come_through_untouched(start: Start, picture: Picture, until: Until) -> None:
    node = await start()
    sent = [picture(i) for i in range(3)]
    async with camera(node.ws(key=None), additional_headers={"Authorization": "Bearer wsk_one"}) as socket:
        assert await socket.recv() == READY
        assert socket.protocol.extensions == []
        room = node.registry.find("p1", "live-gate")
        recorder = Sink(ends=True)
        room.attach(recorder)
        for data in sent:
            await socket.send(data)
        await until(lambda: len(recorder.packets) == 3)
    assert [p.data for p in recorder.packets] == sent
    assert [(t.codec.value, t.clock_rate, t.width, t.height) for t in recorder.tracks[0]] == [("mjpeg", 90_000, 64, 48)]
    assert [p.pts for p in recorder.packets] == sorted({p.pts for p in recorder.packets})
    await until(lambda: bool(recorder.ended))
    assert node.registry.find("p1", "live-gate") is None
    assert node.cameras.cameras == 0


async def test_bearer_goes_before_the_query(start: Start) -> None:
    node = await start()
    async with camera(node.ws(key="wrong"), additional_headers={"Authorization": "Bearer wsk_one"}) as socket:
        assert await socket.recv() == READY
    text, code, _ = await refusal(node.ws(key="wsk_one"), additional_headers={"Authorization": "Bearer wrong"})
    assert (json.loads(text)["message"], code) == ("invalid_key", 4401)


async def test_refusals_come_after_the_upgrade(start: Start) -> None:
    node = await start()
    assert await refusal(node.ws(key="wrong")) == ('{"type":"error","code":"4401","message":"invalid_key"}', 4401, "invalid_key")
    assert await refusal(node.ws(key=None)) == ('{"type":"error","code":"4401","message":"invalid_key"}', 4401, "invalid_key")
    assert await refusal(node.ws(room="yard")) == ('{"type":"error","code":"4401","message":"room_mismatch"}', 4401, "room_mismatch")
    assert (await refusal(node.ws(app="other")))[1] == 4401
    assert (await refusal(node.ws(app="")))[0] == '{"type":"error","code":"4401","message":"invalid_app"}'
    assert (await refusal(node.ws(room="")))[0] == '{"type":"error","code":"4401","message":"invalid_room"}'


async def test_feature_off_and_too_many_cameras(start: Start) -> None:
    off = await start(ws_jpeg=WsJpeg(enabled=False))
    assert await refusal(off.ws()) == ('{"type":"error","code":"4403","message":"feature_off"}', 4403, "feature_off")
    node = await start(ws_jpeg=WsJpeg(max_cameras=1))
    async with camera(node.ws()) as first:
        assert await first.recv() == READY
        assert (await refusal(node.ws(room="yard", key="wsk_two")))[1] == 4403
        async with camera(node.ws()) as again:
            assert await again.recv() == READY
            assert (await ended(first))[1] == 4409


async def test_too_many_handshakes(start: Start) -> None:
    node = await start(limits=Limits(ws_handshakes_per_minute=3))
    for _ in range(3):
        assert (await refusal(node.ws(key="wrong")))[1] == 4401
    assert await refusal(node.ws()) == ('{"type":"error","code":"4429","message":"too_many_handshakes"}', 4429, "too_many_handshakes")


async def test_the_same_key_again_takes_over_and_players_stay(start: Start, picture: Picture, until: Until) -> None:
    node = await start()
    async with camera(node.ws()) as old:
        await old.recv()
        await old.send(picture(1))
        recorder = Sink(ends=True)
        node.registry.find("p1", "live-gate").attach(recorder)
        await until(lambda: len(recorder.packets) == 1)
        async with camera(node.ws()) as new:
            assert await new.recv() == READY
            texts, code = await ended(old)
            assert (texts, code) == (['{"type":"error","code":"4409","message":"replaced"}'], 4409)
            await new.send(picture(2, width=32))
            await until(lambda: len(recorder.packets) == 2)
            assert recorder.packets[1].data == picture(2, width=32)
            assert not recorder.ended


async def test_deletion_and_shutdown_put_the_camera_out_at_once(start: Start, picture: Picture, until: Until) -> None:
    node = await start(hold=60.0)
    async with camera(node.ws()) as socket:
        await socket.recv()
        await socket.send(picture(1))
        recorder = Sink(ends=True)
        node.registry.find("p1", "live-gate").attach(recorder)
        await until(lambda: len(recorder.packets) == 1)
        assert node.registry.kick_ingress("in_wsk_one", NotFound("the ingress was deleted", code="ingress-deleted"))
        assert recorder.ended
        assert await ended(socket) == (['{"type":"error","code":"4401","message":"ingress_deleted"}'], 4401)
    async with camera(node.ws()) as socket:
        await socket.recv()
        node.registry.publications[0].kick(PeerGone("going down", code="shutdown"))
        assert (await ended(socket))[1] == 1001


async def test_a_new_size_is_a_new_track(start: Start, picture: Picture, until: Until) -> None:
    node = await start()
    async with camera(node.ws()) as socket:
        await socket.recv()
        recorder = Sink(ends=True)
        node.registry.find("p1", "live-gate").attach(recorder)
        await socket.send(picture(1))
        await socket.send(picture(2, width=160, height=120))
        await until(lambda: len(recorder.packets) == 2)
    assert [(t[0].width, t[0].height) for t in recorder.tracks] == [(64, 48), (160, 120)]
    assert recorder.gaps[0] == "track-changed"
    assert recorder.packets[1].track is recorder.tracks[1][0]


async def test_frames_over_the_rate_are_dropped_in_silence(start: Start, picture: Picture, until: Until) -> None:
    node = await start(ws_jpeg=WsJpeg(max_fps=1.0))
    async with camera(node.ws()) as socket:
        await socket.recv()
        for i in range(50):
            await socket.send(picture(i))
        publication = node.registry.publications[0]
        await until(lambda: publication.health.drops.get("rate", 0) + sum(m.packets for m in publication.meters.values()) == 50)
        assert publication.health.drops["rate"] >= 40
        pong = await socket.ping()
        await asyncio.wait_for(pong, 5)


async def test_pongs_do_not_queue_behind_frames(start: Start, picture: Picture, fast: WsJpeg) -> None:
    """A flood of frames from one task, pings in between: each is answered while the flood goes on."""
    node = await start(ws_jpeg=fast)
    data = picture(1, nbytes=20_000)
    async with camera(node.ws()) as socket:
        await socket.recv()
        sent, latencies = 0, []

        async def flood() -> None:
            nonlocal sent
            while True:
                await socket.send(data)
                sent += 1

        flooding = asyncio.create_task(flood())
        for _ in range(20):
            latencies.append(await asyncio.wait_for(await socket.ping(), 3))
            await asyncio.sleep(0.01)
        flooding.cancel()
        assert sent > 20
        assert len(latencies) == 20


async def test_our_pings_are_answered_and_a_camera_that_answers_none_is_dropped(start: Start, picture: Picture, until: Until) -> None:
    node = await start(ws_jpeg=WsJpeg(ping_interval=0.05, idle_timeout=60.0))
    async with camera(node.ws()) as socket:
        await socket.recv()
        await socket.send(picture(1))
        await asyncio.sleep(0.4)
        assert node.cameras.cameras == 1
    async with aiohttp.ClientSession() as session:
        url = node.ws(room="yard", key="wsk_two")
        async with session.ws_connect(url, autoping=False, autoclose=False) as deaf:
            assert (await deaf.receive()).type is aiohttp.WSMsgType.TEXT
            kinds = [(await deaf.receive(timeout=5)).type for _ in range(3)]
            assert kinds[:2] == [aiohttp.WSMsgType.PING] * 2
            assert kinds[2] in (aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR)
    await until(lambda: node.cameras.cameras == 0)


async def test_idle(start: Start) -> None:
    node = await start(ws_jpeg=WsJpeg(idle_timeout=0.3))
    async with camera(node.ws()) as socket:
        assert '"idleTimeoutSec":0.3}' in str(await socket.recv())
        await socket.send('{"type":"stats","fps":0}')
        assert await ended(socket) == (['{"type":"error","code":"4408","message":"idle_timeout"}'], 4408)


async def test_a_half_open_peer_is_let_go(start: Start, until: Until) -> None:
    """It neither reads nor closes nor answers: its session ends all the same, within the idle timeout and the wait for a Close."""
    node = await start(ws_jpeg=WsJpeg(idle_timeout=0.3))
    reader, writer = await asyncio.open_connection("127.0.0.1", node.port)
    writer.write(
        b"GET /ingest/ws?app=live&room=gate&key=wsk_one HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
    await until(lambda: node.cameras.cameras == 1)
    await until(lambda: node.cameras.cameras == 0)
    assert node.registry.find("p1", "live-gate") is None
    writer.transport.abort()


async def test_early_frames_are_tolerated(start: Start, picture: Picture, until: Until) -> None:
    """Handshake, frame and text in one write, before ready came."""
    node = await start()
    data = picture(7)
    assert 126 <= len(data) < 65_536
    mask = b"\1\2\3\4"
    masked = bytes(b ^ mask[i % 4] for i, b in enumerate(data))
    _, writer = await asyncio.open_connection("127.0.0.1", node.port)
    writer.write(
        b"GET /ingest/ws?app=live&room=gate&key=wsk_one HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        b"\x82\xfe" + len(data).to_bytes(2, "big") + mask + masked
    )
    await until(lambda: any(p.active for p in node.registry.publications))
    assert node.registry.find("p1", "live-gate").programme.gop.keyframe.data == data
    writer.transport.abort()
    await until(lambda: node.cameras.cameras == 0)


async def test_garbage_five_times_ends_with_1003(start: Start, picture: Picture) -> None:
    node = await start()
    async with camera(node.ws()) as socket:
        await socket.recv()
        for _ in range(4):
            await socket.send(os.urandom(500))
        await socket.send(picture(1))
        for _ in range(5):
            await socket.send(b"GIF89a")
        assert await ended(socket) == (['{"type":"error","code":"1003","message":"not_jpeg"}'], 1003)


@pytest.mark.parametrize("size", [262_145, 263_000, 300_000, 16 * 1024 * 1024])
async def test_a_frame_over_the_bound_ends_with_4413(start: Start, size: int) -> None:
    node = await start()
    async with camera(node.ws()) as socket:
        await socket.recv()
        sending = asyncio.create_task(socket.send(b"\xff\xd8\xff" + bytes(size - 3)))
        assert await ended(socket) == (['{"type":"error","code":"4413","message":"frame_too_large"}'], 4413)
        await asyncio.gather(sending, return_exceptions=True)


async def test_an_announced_terabyte_is_refused_at_its_header(start: Start) -> None:
    """Nothing of it has to come, so nothing of it is ever held."""
    node = await start()
    reader, writer = await asyncio.open_connection("127.0.0.1", node.port)
    writer.write(
        b"GET /ingest/ws?app=live&room=gate&key=wsk_one HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        b"\x82\xff" + (1 << 40).to_bytes(8, "big") + b"\0\0\0\0"
    )
    answer = await asyncio.wait_for(reader.read(), 10)
    assert b'{"type":"error","code":"4413","message":"frame_too_large"}' in answer
    assert (4413).to_bytes(2, "big") + b"frame_too_large" in answer
    writer.transport.abort()


async def test_fragments_are_joined_and_bounded(start: Start, picture: Picture, until: Until) -> None:
    node = await start()
    data = picture(3, nbytes=30_000)
    async with camera(node.ws()) as socket:
        await socket.recv()
        await socket.send([data[:100], data[100:20_000], data[20_000:]])
        await until(lambda: any(p.active for p in node.registry.publications))
        assert node.registry.find("p1", "live-gate").programme.gop.keyframe.data == data
        sending = asyncio.create_task(socket.send([b"\xff\xd8\xff", *[bytes(10_000)] * 100]))
        assert await ended(socket) == (['{"type":"error","code":"4413","message":"frame_too_large"}'], 4413)
        await asyncio.gather(sending, return_exceptions=True)


async def test_stats_and_strange_texts_are_ignored(start: Start, picture: Picture, until: Until) -> None:
    node = await start()
    async with camera(node.ws()) as socket:
        await socket.recv()
        for text in ('{"type":"stats","rssi":-61}', "", "{", '{"type":"unknown"}', "é" * 1000):
            await socket.send(text)
        await socket.send(picture(1))
        await until(lambda: any(p.active for p in node.registry.publications))
        await socket.close(1000)
        assert socket.close_code == 1000


async def test_a_publisher_that_returns_within_the_hold_keeps_its_players(start: Start, picture: Picture, until: Until) -> None:
    node = await start(hold=30.0)
    recorder = Sink(ends=True)
    async with camera(node.ws()) as socket:
        await socket.recv()
        node.registry.find("p1", "live-gate").attach(recorder)
        await socket.send(picture(1))
        await until(lambda: len(recorder.packets) == 1)
    await until(lambda: node.registry.find("p1", "live-gate").held)
    async with camera(node.ws()) as socket:
        await socket.recv()
        await socket.send(picture(2))
        await until(lambda: len(recorder.packets) == 2)
    assert not recorder.ended
    assert "publisher-gap" in recorder.gaps


async def test_a_plain_request_is_told_to_upgrade(start: Start) -> None:
    node = await start()
    async with aiohttp.ClientSession() as session, session.get(f"{node.http}/ingest/ws?app=live&room=gate") as response:
        assert response.status == 426
        assert response.headers["Upgrade"] == "websocket"


async def test_three_lines_a_session_and_no_key_in_any(
    start: Start, picture: Picture, until: Until, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    node = await start()
    async with camera(node.ws()) as socket:
        await socket.recv()
        await socket.send(picture(1))
        await until(lambda: any(p.active for p in node.registry.publications))
    await until(lambda: node.cameras.cameras == 0)
    await refusal(node.ws(key="wsk_secret"))
    lines = [r for r in caplog.records if r.name == "medianode.ingress.ws_jpeg"]
    assert [r.getMessage() for r in lines] == ["opened", "publishing", "closed", "opened", "refused"]
    assert lines[2].fields["code"] == 1000  # type: ignore[attr-defined]  # telemetry.session puts it there
    assert "wsk_" not in " ".join(f"{r.getMessage()} {r.__dict__}" for r in lines)


async def test_metrics_count_frames_bytes_drops_and_sessions(start: Start, picture: Picture, until: Until) -> None:
    def value(name: str, **labels: str) -> float:
        wanted = ",".join(f'{k}="{v}"' for k, v in sorted(labels.items()))
        for line in telemetry.exposition().decode().splitlines():
            head, _, number = line.rpartition(" ")
            if head.partition("{")[0] == name and ",".join(sorted(head.partition("{")[2].rstrip("}").split(","))) == wanted:
                return float(number)
        return 0.0

    def all_values() -> list[float]:
        return [
            value("medianode_sessions_total", door="ws-mjpeg"),
            value("medianode_frames_total", door="ws-mjpeg", direction="in"),
            value("medianode_bytes_total", door="ws-mjpeg", direction="in"),
            value("medianode_dropped_total", place="ws-mjpeg", cause="not-jpeg"),
            value("medianode_session_ends_total", door="ws-mjpeg", code="1000"),
        ]

    before = all_values()
    node = await start()
    async with camera(node.ws()) as socket:
        await socket.recv()
        await socket.send(picture(1))
        await socket.send(b"no JPEG")
        await socket.send(picture(2))
        await until(lambda: sum(m.packets for m in node.registry.publications[0].meters.values()) == 2)
    await until(lambda: node.cameras.cameras == 0)
    assert [now - then for now, then in zip(all_values(), before, strict=True)] == [1, 2, len(picture(1)) + len(picture(2)), 1, 1]
