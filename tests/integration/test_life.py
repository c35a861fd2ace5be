"""The life of a whole node in a process of its own: readiness, systemd's socket, a graceful end, a database that goes and comes back."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import socket
import subprocess
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientError, ClientSession
from harness import publishing, running, send_second, until
from soak.program import Program, create_ingress, environment, ingress_status, last_sequence, on_air, playlist, serving
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from medianode.egress.push.supervisor import Supervisor as Sending
from medianode.egress.recorder.session import Session
from medianode.errors import MedianodeError
from medianode.ingress.pull.supervisor import Supervisor as Fetching
from medianode.routing.publication import Publication
from medianode.routing.slate import Slate

QUICK = {"INGRESS__HOLD": "1", "LIMITS__SHUTDOWN_GRACE": "4"}


async def get(node: Program, path: str) -> int:
    return (await node.get(path))[0]


async def until_status(node: Program, path: str, wanted: int, timeout: float = 30.0) -> str:
    async with asyncio.timeout(timeout):
        while True:
            status, text = await node.get(path)
            if status == wanted:
                return text
            await asyncio.sleep(0.2)


# the end


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_an_idle_node_stops_at_once(tmp_path: Path, number: int) -> None:
    async with serving(tmp_path / "data", environment(tmp_path / "data", **QUICK)) as node:
        assert await get(node, "/healthz") == 200
        assert await get(node, "/readyz") == 200
        node.process.send_signal(number)
        async with asyncio.timeout(10):
            assert await node.process.wait() == 0
        assert "daemon: stopped" in node.log


async def test_sigterm_with_everybody_connected(tmp_path: Path) -> None:
    """A publisher, a camera, blocked LL-HLS players, MJPEG and socket viewers: all are let go, the state is written down, the code is 0."""
    environ = environment(tmp_path / "data", **QUICK)
    async with serving(tmp_path / "data", environ) as node, ClientSession() as session:
        ingress = await create_ingress(node, session, "gate")
        async with session.post(f"{node.http}/api/v1/apps/live/ws-ingest", json={"room": "yard"}, headers=node.admin) as response:
            camera_key = (await response.json())["data"]["streamKey"]
        ws = f"ws://127.0.0.1:{node.http_port}"
        async with (
            on_air(f"{node.rtmp}/live/{ingress['streamKey']}") as publisher,
            connect(f"{ws}/ingest/ws?app=live&room=yard&key={camera_key}", compression=None) as camera,
        ):
            await camera.recv()
            await camera.send(jpeg())
            number = last_sequence(await playlist(node, "gate"))
            async with connect(f"{ws}/live/ws?app=live&room=yard", compression=None) as viewer:
                blocked = [
                    asyncio.get_running_loop().create_task(answer(session, f"{node.http}/hls/live/gate/main.m3u8?_HLS_msn={number + 2}"))
                    for _ in range(5)
                ]
                async with session.get(f"{node.http}/live/live/yard/mjpeg") as mjpeg:
                    assert mjpeg.status == 200
                    await mjpeg.content.readany()
                    assert await ingress_status(node, session, ingress["id"]) == "ACTIVE"
                    assert await node.stop(timeout=15) == 0
                    await to_the_end(mjpeg.content.read)
                for status, text in await asyncio.gather(*blocked):
                    assert status != 200 or "#EXT-X-ENDLIST" in text or last_sequence(text) >= number
                await closed(viewer)
            await closed(camera)
            with pytest.raises(MedianodeError):
                await publisher
        assert "did not end in" not in node.log
    async with serving(tmp_path / "data", environ) as node, ClientSession() as session:
        # ended by the stop and not by the next start's recovery of what a crash left
        assert await ingress_status(node, session, ingress["id"]) == "COMPLETE"
        async with on_air(f"{node.rtmp}/live/{ingress['streamKey']}"):
            await playlist(node, "gate")


async def answer(session: ClientSession, url: str) -> tuple[int, str]:
    try:
        async with session.get(url) as response:
            return response.status, await response.text()
    except (ClientError, ConnectionError):
        return 0, ""


async def to_the_end(read: Callable[[], Any]) -> None:
    async with asyncio.timeout(10):
        with contextlib.suppress(ClientError, ConnectionError):
            await read()


async def closed(socket: ClientConnection) -> None:
    """What is said before is of no interest."""
    async with asyncio.timeout(10):
        with contextlib.suppress(ConnectionClosed):
            while True:
                await socket.recv()


def jpeg() -> bytes:
    made = subprocess.run(
        ["ffmpeg", "-loglevel", "error", "-f", "lavfi", "-i", "color=red:size=64x48", "-frames:v", "1", "-f", "mjpeg", "-"],
        stdout=subprocess.PIPE,
    )
    assert made.returncode == 0
    return made.stdout


async def test_the_playlist_has_its_end_while_the_node_stops(tmp_path: Path) -> None:
    """A player on a kept-alive connection that asks in time sees ENDLIST or a closed connection, never an error of ours."""
    async with (
        serving(tmp_path / "data", environment(tmp_path / "data", **QUICK)) as node,
        ClientSession() as session,
        on_air(f"{node.rtmp}/live/{node.key}"),
    ):
        number = last_sequence(await playlist(node))
        waiting = asyncio.get_running_loop().create_task(answer(session, f"{node.http}/hls/live/studio/main.m3u8?_HLS_msn={number + 1}"))
        await asyncio.sleep(0.1)
        assert await node.stop() == 0
        status, text = await waiting
        assert status in (0, 200, 404, 503), (status, text)


async def test_a_stop_while_a_stranger_says_nothing(tmp_path: Path) -> None:
    async with serving(tmp_path / "data", environment(tmp_path / "data", **QUICK)) as node:
        silent = [await asyncio.open_connection("127.0.0.1", port) for port in (node.http_port, node.rtmp_port) for _ in range(10)]
        silent[0][1].write(b"GET /healthz HTTP/1.1\r\nHo")
        silent[-1][1].write(b"\x03")
        assert await node.stop(timeout=10) == 0
        for _, writer in silent:
            writer.transport.abort()


PASSING = (Publication, Session, Slate, Sending, Fetching)


async def test_what_has_ended_is_let_go(tmp_path: Path) -> None:
    """A publication with its GOP, up to limits.gop_bytes that nobody can ask for any more; who recorded, sent, fetched and filled in."""
    earlier = passing()
    live, room = "/api/v1/apps/live", "/api/v1/apps/live/rooms/studio"
    sections: dict[str, Any] = {"ingress": {"hold": 0.0}, "outbound": {"allow": ["127.0.0.1"]}}
    async with running(tmp_path, **sections) as node, ClientSession(node.http, headers=node.admin) as session:

        async def ask(method: str, path: str, body: Any = None) -> Any:
            async with session.request(method, path, json=body) as response:
                assert response.status < 300, await response.text()
                return (await response.json())["data"] if response.status != 204 else None

        await ask("PUT", f"{room}/fallback", {"text": "Nobody is here", "always": True})
        await until(lambda: node.daemon.registry.slates.playing)
        ended = [weakref.ref(slate) for slate in node.daemon.registry.slates.playing]
        async with publishing(f"{node.rtmp}/live/{node.key}") as publisher:
            await send_second(publisher)
            await until(lambda: not node.daemon.registry.slates.playing)
            await ask("DELETE", f"{room}/fallback")
            await ask("POST", "/api/v1/projects/live/recordings", {"room": "studio"})
            await ask("POST", f"{room}/targets", {"url": "rtmp://127.0.0.1:1/live", "streamKey": "0123456789abcdef"})
            copy = await ask("POST", f"{live}/ingress", {"inputType": "url", "room": "copy", "url": f"{node.rtmp}/live/studio"})
            await until(lambda: node.room("live-copy"))
            await asyncio.sleep(1.1)  # all who tick have looked at them
            ended += [weakref.ref(one) for one in passing() if not any(one is old for old in earlier)]
            assert {type(one()) for one in ended} >= {*PASSING} - {Slate}
            await ask("DELETE", f"{live}/ingress/{copy['ingressId']}")
            await publisher.finish()
        await until(lambda: not len(node.daemon.registry))

        def left() -> list[Any]:
            gc.collect()  # it always finds something: a node at work leaves rings all the time
            return [one for ref in ended if (one := ref()) is not None]

        try:
            await until(lambda: not left())
        except TimeoutError:
            pytest.fail(f"still held: {left()}")


def passing() -> list[Any]:
    return [one for one in gc.get_objects() if type(one) in PASSING]


# systemd


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[socket.socket]:
    """systemd's end of NOTIFY_SOCKET."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.settimeout(30)
        yield sock


async def said(systemd: socket.socket) -> str:
    return (await asyncio.to_thread(systemd.recv, 4096)).decode()


async def test_systemd_is_told_of_the_start_the_health_and_the_end(tmp_path: Path, systemd: socket.socket) -> None:
    environ = environment(tmp_path / "data", **QUICK) | {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "600000"}
    async with serving(tmp_path / "data", environ) as node:
        first = [await said(systemd) for _ in range(5)]
        assert "READY=1\nSTATUS=serving" in first
        assert first.count("WATCHDOG=1") == 4
        assert await node.stop() == 0
        systemd.setblocking(False)
        rest = []
        with contextlib.suppress(BlockingIOError):
            while True:
                rest.append(systemd.recv(4096).decode())
        assert rest[-1] == "STOPPING=1"
        assert set(rest[:-1]) <= {"WATCHDOG=1"}


async def test_a_node_whose_loop_does_not_turn_does_not_feed_the_watchdog(tmp_path: Path, systemd: socket.socket) -> None:
    environ = environment(tmp_path / "data", **QUICK) | {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "300000"}
    async with serving(tmp_path / "data", environ) as node:
        while await said(systemd) != "WATCHDOG=1":
            continue
        node.process.send_signal(signal.SIGSTOP)
        systemd.settimeout(1.0)  # what was under way is read; then nothing comes for three periods
        with contextlib.suppress(TimeoutError):
            while await said(systemd):
                continue
        node.process.send_signal(signal.SIGCONT)
        systemd.settimeout(30)
        assert await said(systemd) == "WATCHDOG=1"


async def test_a_watchdog_of_another_process_is_not_fed(tmp_path: Path, systemd: socket.socket) -> None:
    environ = environment(tmp_path / "data", **QUICK)
    environ |= {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "300000", "WATCHDOG_PID": str(os.getpid())}
    async with serving(tmp_path / "data", environ):
        assert (await said(systemd)).startswith("READY=1")
        systemd.settimeout(1.0)
        with pytest.raises(TimeoutError):
            await said(systemd)


# PostgreSQL


async def test_a_whole_node_on_postgresql(tmp_path: Path, postgres_url: str) -> None:
    environ = environment(tmp_path / "data", STORE__URL=postgres_url, **QUICK)
    async with serving(tmp_path / "data", environ) as node, ClientSession() as session:
        made = await create_ingress(node, session, "gate")
        target = f"{node.rtmp}/live/{made['streamKey']}"
        async with on_air(target):
            assert "#EXTINF" in await playlist(node, "gate")
            assert await ingress_status(node, session, made["id"]) == "ACTIVE"
        assert not (tmp_path / "data" / "medianode.db").exists()
        first_key = node.key
    async with serving(tmp_path / "data", environ) as node, ClientSession() as session:
        assert node.key == first_key
        assert "sk_" not in node.greeting
        assert await ingress_status(node, session, made["id"]) == "COMPLETE"
        async with on_air(f"{node.rtmp}/live/{made['streamKey']}"):
            await playlist(node, "gate")
        async with session.delete(f"{node.http}/v1/ingress/{made['id']}", headers=node.admin) as response:
            assert response.status == 200
        with pytest.raises(MedianodeError, match=r"Unauthorized"):
            await publish(f"{node.rtmp}/live/{made['streamKey']}")


def start(postgres: Any) -> None:
    options = f"-k {postgres.root} -c listen_addresses= -c fsync=off -c synchronous_commit=off -c max_connections=50"
    postgres.control("pg_ctl", "-D", f"{postgres.root}/data", "-o", options, "-w", "-l", f"{postgres.root}/log", "start")


async def publish(target: str) -> None:
    async with publishing(target) as publisher:
        await send_second(publisher)
        await publisher.watch()


PACKETS = 'medianode_publication_packets{identity="encoder-gate",room="live-gate",track="h264"}'


async def test_the_database_goes_and_comes_back(tmp_path: Path, postgres: Any, postgres_url: str) -> None:
    """Live media goes on, /readyz says 503 and why, the API answers 503; when it is back all is as it was."""
    environ = environment(tmp_path / "data", STORE__URL=postgres_url, **QUICK)
    async with serving(tmp_path / "data", environ) as node, ClientSession() as session:
        made = await create_ingress(node, session, "gate")
        async with on_air(f"{node.rtmp}/live/{made['streamKey']}") as publisher:
            number = last_sequence(await playlist(node, "gate"))
            postgres.control("pg_ctl", "-D", f"{postgres.root}/data", "-m", "immediate", "-w", "stop")
            try:
                assert "database" in await until_status(node, "/readyz", 503)
                assert await get(node, "/healthz") == 200
                async with session.get(f"{node.http}/v1/ingress", headers=node.admin) as response:
                    body = await response.json()
                    assert response.status == 503, body
                    assert response.headers["X-Error-Code"].startswith("storage-")
                before = await node.metrics()
                async with asyncio.timeout(30):
                    while (now := await node.metrics())[PACKETS] < before[PACKETS] + 90:
                        await asyncio.sleep(0.3)
                async with asyncio.timeout(30):
                    while last_sequence(await playlist(node, "gate")) < number + 3:
                        await asyncio.sleep(0.3)
                made_segments = 'medianode_hls_segments_total{variant="main"}'
                assert now[made_segments] > before[made_segments]
                assert not publisher.done()
            finally:
                start(postgres)
            await until_status(node, "/readyz", 200)
            assert await ingress_status(node, session, made["id"]) == "ACTIVE"
        other = await create_ingress(node, session, "yard")
        async with on_air(f"{node.rtmp}/live/{other['streamKey']}"):
            await playlist(node, "yard")


async def test_a_node_stops_while_its_database_is_away(tmp_path: Path, postgres: Any, postgres_url: str) -> None:
    environ = environment(tmp_path / "data", STORE__URL=postgres_url, **QUICK)
    async with serving(tmp_path / "data", environ) as node:
        async with on_air(f"{node.rtmp}/live/{node.key}"):
            await playlist(node)
            postgres.control("pg_ctl", "-D", f"{postgres.root}/data", "-m", "immediate", "-w", "stop")
            try:
                assert await node.stop(timeout=20) == 0
            finally:
                start(postgres)
        node.assert_clean()
