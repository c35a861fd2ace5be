"""The HTTP listener of a whole node, spoken to in bytes: slow, silent, cut, oversized and pipelined requests, and TLS on the same port."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from aiohttp import ClientSession, TCPConnector
from harness import Node, running, until
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from medianode import listener, tasks, telemetry

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

HEADER_BYTES = 16_384
BODY_BYTES = 1024
QUICK = {"handshake_timeout": 0.5, "http_header_bytes": HEADER_BYTES, "http_body_bytes": BODY_BYTES, "request_timeout": 1.0}


@pytest.fixture(autouse=True)
def quick_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at slow connections more often than once in two seconds."""
    monkeypatch.setattr(listener, "TICK", 0.1)


@asynccontextmanager
async def connection(node: Node, **options: object) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", node.ready.http_port, **options)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def rest(reader: asyncio.StreamReader) -> bytes:
    """All up to the end; a reset is an end."""
    got = b""
    async with asyncio.timeout(15):
        try:
            while data := await reader.read(65_536):
                got += data
        except ConnectionResetError:
            return got
    return got


async def response(reader: asyncio.StreamReader, *, body: bool = True) -> tuple[int, bytes]:
    """Status and body of one response on a connection that may go on."""
    async with asyncio.timeout(15):
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        length = next((int(line.split(":")[1]) for line in head.split("\r\n") if line.lower().startswith("content-length:")), 0)
        return int(head.split()[1]), await reader.readexactly(length) if body else b""


async def exchange(node: Node, sent: bytes) -> bytes:
    async with connection(node) as (reader, writer):
        writer.write(sent)
        return await rest(reader)


async def assert_serves(node: Node) -> None:
    got = await exchange(node, b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert got.startswith(b"HTTP/1.1 200"), got


def status_of(got: bytes) -> int:
    assert got.startswith(b"HTTP/1."), got[:100]
    return int(got.split()[1])


def refused(cause: str) -> float:
    return listener.REFUSED.labels(cause).value


def open_connections() -> int:
    line = next(line for line in telemetry.exposition().decode().splitlines() if line.startswith("medianode_http_connections "))
    return int(float(line.split()[1]))


# slow and silent


async def test_a_connection_that_says_nothing_is_closed(tmp_path: Path) -> None:
    async with running(tmp_path, limits=QUICK) as node, connection(node) as (reader, _):
        before = refused("handshake-timeout")
        assert await rest(reader) == b""
        await until(lambda: open_connections() == 0)
        assert refused("handshake-timeout") == before + 1
        await assert_serves(node)


async def test_headers_that_come_a_byte_at_a_time_do_not_hold_it_open(tmp_path: Path) -> None:
    async with running(tmp_path, limits=QUICK) as node, connection(node) as (reader, writer):
        before = refused("slow-request")
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Slow: ")
        reading = asyncio.get_running_loop().create_task(rest(reader))
        for _ in range(200):
            if reading.done():
                break
            writer.write(b"a")
            await asyncio.sleep(0.05)
        assert reading.done()
        assert await reading == b""
        assert refused("slow-request") == before + 1


async def test_a_body_that_does_not_come_is_waited_for_so_long_and_no_longer(tmp_path: Path) -> None:
    head = "POST /v1/ingress HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\nAuthorization: {}\r\n\r\n{{"
    async with running(tmp_path, limits=QUICK) as node:
        async with connection(node) as (reader, writer):
            writer.write(head.format(node.admin["Authorization"]).encode())
            assert (await response(reader))[0] == 408
        await assert_serves(node)


async def test_half_a_client_hello_is_ended(tmp_path: Path) -> None:
    async with running(tmp_path, limits=QUICK) as node:
        before = refused("tls-failed")
        assert await exchange(node, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03") == b""
        await until(lambda: open_connections() == 0)
        assert refused("tls-failed") == before + 1
        await assert_serves(node)


async def test_a_cut_client_hello_is_ended(tmp_path: Path) -> None:
    async with running(tmp_path, limits=QUICK) as node:
        async with connection(node) as (_, writer):
            writer.write(b"\x16\x03\x01\x02\x00\x01\x00\x01")
            await writer.drain()
            writer.write_eof()
        await until(lambda: open_connections() == 0)
        await assert_serves(node)


async def test_connections_of_one_address_are_bounded_and_others_get_in(tmp_path: Path) -> None:
    async with running(tmp_path, limits={"tcp_connections_per_peer": 5, "handshake_timeout": 30.0}) as node:
        before = refused("too-many-connections-from-peer")
        opened = [await asyncio.open_connection("127.0.0.1", node.ready.http_port) for _ in range(9)]
        await until(lambda: refused("too-many-connections-from-peer") == before + 4)
        async with connection(node, local_addr=("127.0.0.9", 0)) as (reader, writer):
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await response(reader))[0] == 200
        for _, writer in opened:
            writer.transport.abort()


# more than one request on a connection


async def test_keep_alive_outlives_the_handshake_s_time(tmp_path: Path) -> None:
    async with running(tmp_path, limits=QUICK) as node, connection(node) as (reader, writer):
        for _ in range(3):
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert await response(reader) == (200, b'{"status": "ok"}')
            await asyncio.sleep(QUICK["handshake_timeout"] * 1.5)
        assert open_connections() == 1
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert status_of(await rest(reader)) == 200


async def test_keep_alive_ends_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "KEEP_ALIVE", 0.4)
    async with running(tmp_path, limits=QUICK) as node, connection(node) as (reader, writer):
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await response(reader))[0] == 200
        assert await rest(reader) == b""


async def test_pipelined_requests_are_answered_in_order(tmp_path: Path) -> None:
    async with running(tmp_path) as node, connection(node) as (reader, writer):
        paths = ["/healthz", "/nowhere", "/readyz", "/hls/live/none/index.m3u8", "/healthz"]
        writer.write(b"".join(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode() for path in paths))
        assert [(await response(reader))[0] for _ in paths] == [200, 404, 200, 404, 200]


async def test_head_has_the_length_and_no_body(tmp_path: Path) -> None:
    async with running(tmp_path) as node, connection(node) as (reader, writer):
        writer.write(b"HEAD /healthz HTTP/1.1\r\nHost: x\r\n\r\nGET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert await response(reader, body=False) == (200, b"")
        assert (await response(reader))[0] == 200


async def test_a_client_that_has_closed_its_half_is_let_go(tmp_path: Path) -> None:
    async with running(tmp_path, limits=QUICK) as node, connection(node) as (reader, writer):
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        writer.write_eof()
        await rest(reader)
        await until(lambda: open_connections() == 0)
        await assert_serves(node)


async def test_a_client_that_leaves_before_its_answer_is_let_go(tmp_path: Path) -> None:
    async with running(tmp_path) as node:
        for _ in range(20):
            async with connection(node) as (_, writer):
                writer.write(b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n")
                await writer.drain()
        await until(lambda: open_connections() == 0)
        await assert_serves(node)


# over a bound, or not HTTP


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"GET /" + b"a" * HEADER_BYTES * 2 + b" HTTP/1.1\r\nHost: x\r\n\r\n", id="request line"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\nX-Big: " + b"a" * HEADER_BYTES * 2 + b"\r\n\r\n", id="one header"),
        pytest.param(b"\x00\xff\xfe\x00" * 100 + b"\r\n\r\n", id="binary"),
        pytest.param(b"GET / HTTP/9.9.9\r\n\r\n", id="version"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", id="negative length"),
        pytest.param(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\nabc", id="two lengths"),
        pytest.param(b"POST /v1/ingress HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", id="bad chunk"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\nBad Header: 1\r\n\r\n", id="header with a space"),
        pytest.param(b"\x03" + bytes(1536), id="RTMP"),
    ],
)
async def test_what_is_no_request_gets_400_and_is_closed(tmp_path: Path, sent: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async with running(tmp_path, limits=QUICK) as node:
        before = refused("bad-request")
        got = await exchange(node, sent)
        assert status_of(got) in (400, 401, 414, 431), got
        assert refused("bad-request") == before + (status_of(got) == 400)
        assert b"Traceback" not in got
        await assert_serves(node)
    assert "Traceback" not in caplog.text


async def test_endless_headers_are_ended(tmp_path: Path) -> None:
    """Each is small; all together they are not."""
    async with running(tmp_path, limits={**QUICK, "handshake_timeout": 20.0}) as node, connection(node) as (reader, writer):
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n")
        reading = asyncio.get_running_loop().create_task(rest(reader))
        sent = 0
        while not reading.done() and sent < 64 * HEADER_BYTES:
            block = b"".join(b"X-%d: %s\r\n" % (sent + i, b"v" * 200) for i in range(20))
            sent += len(block)
            writer.write(block)
            await asyncio.sleep(0)
            if writer.transport.is_closing():
                break
            await asyncio.sleep(0.005)
        assert sent < 64 * HEADER_BYTES, "a MiB of headers was taken in"
        await reading
        await assert_serves(node)


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_a_body_over_its_bound_is_refused(tmp_path: Path, framing: str) -> None:
    async with running(tmp_path, limits=QUICK) as node:
        head = f"POST /v1/ingress HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nAuthorization: {node.admin['Authorization']}\r\n"
        body = b" " * (BODY_BYTES + 1)
        if framing == "length":
            sent = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
        else:
            sent = f"{head}Transfer-Encoding: chunked\r\n\r\n{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n"
        got = await exchange(node, sent)
        assert status_of(got) == 413, got
        await assert_serves(node)


async def test_a_handler_s_bug_is_ours_and_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> bytes:
        raise ZeroDivisionError("made by this test")

    async with running(tmp_path) as node:
        tasks.raise_bugs = False
        before = tasks.BUGS.labels("http").value
        monkeypatch.setattr(telemetry, "exposition", broken)
        got = await exchange(node, b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert status_of(got) == 500
        assert b"ZeroDivisionError" not in got
        assert tasks.BUGS.labels("http").value == before + 1
    assert caplog.text.count("bug in http") == 1


# TLS and WebSocket through it


async def trust(node: Node) -> ssl.SSLContext:
    async with ClientSession() as session, session.get(f"{node.http}/certificate.pem") as answer:
        assert answer.status == 200
        return ssl.create_default_context(cadata=await answer.text())


async def test_https_on_the_http_port_with_the_node_s_certificate(tmp_path: Path) -> None:
    async with running(tmp_path) as node:
        context = await trust(node)
        async with ClientSession(connector=TCPConnector(ssl=context)) as session:
            base = f"https://localhost:{node.ready.http_port}"
            for _ in range(2):
                async with session.get(f"{base}/healthz") as answer:
                    assert answer.status == 200
            body = {"inputType": "RTMP_INPUT", "roomName": "tls", "participantIdentity": "x"}
            async with session.post(f"{base}/v1/ingress", json=body, headers=node.admin) as answer:
                assert answer.status == 201, await answer.text()
        await until(lambda: open_connections() == 0)


async def test_a_certificate_is_asked_for_the_name(tmp_path: Path) -> None:
    async with running(tmp_path, tls={"names": ["node.example"]}) as node:
        context = await trust(node)
        async with connection(node, ssl=context, server_hostname="node.example") as (reader, writer):
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: node.example\r\nConnection: close\r\n\r\n")
            assert status_of(await rest(reader)) == 200
        with pytest.raises(ssl.SSLCertVerificationError):
            await asyncio.open_connection("127.0.0.1", node.ready.http_port, ssl=context, server_hostname="other.example")


@pytest.mark.parametrize("scheme", ["ws", "wss"])
async def test_websocket(tmp_path: Path, scheme: str) -> None:
    """Longer than the handshake's time: an upgraded connection is a request that runs."""
    async with running(tmp_path, limits=QUICK) as node:
        context = await trust(node) if scheme == "wss" else None
        async with (
            ClientSession() as session,
            session.post(f"{node.http}/api/v1/apps/live/ws-ingest", json={"room": "garage"}, headers=node.admin) as answer,
        ):
            key = (await answer.json())["data"]["streamKey"]
        url = f"{scheme}://localhost:{node.ready.http_port}/ingest/ws?app=live&room=garage&key={key}"
        async with connect(url, ssl=context, compression=None) as socket:
            assert '"ready"' in str(await socket.recv())
            await asyncio.sleep(QUICK["handshake_timeout"] * 3)
            await (await socket.ping())
        async with connect(url.replace(key, "wrong"), ssl=context, compression=None) as socket:
            assert "error" in str(await socket.recv())
            with pytest.raises(ConnectionClosed):
                await socket.recv()
            assert socket.close_code == 4401
