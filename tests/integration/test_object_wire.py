"""What leaves for a service of buckets: to looked-at addresses only, by verified TLS, without the environment's help, and no further."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from medianode.certificate import open_certificate
from medianode.config import Config
from medianode.errors import Forbidden, PeerError
from medianode.outbound import Outbound
from medianode.store import object_wire
from medianode.store.object_errors import Refused
from medianode.store.objects import Bucket, Objects

OK = b'HTTP/1.1 200 OK\r\nContent-Length: 0\r\nETag: "900150983cd24fb0d6963f7d28e17f72"\r\n\r\n'


@dataclass
class Server:
    """Answers each request with the next of `answers`; `heads` are those that came."""

    answers: list[bytes]
    port: int = 0
    heads: list[str] = field(default_factory=list)
    finished: list[bool] = field(default_factory=list)
    closes: bool = False

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            self.heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
            writer.write(self.answers.pop(0) if self.answers else OK)
            await writer.drain()
            while not self.closes and await reader.read(65_536):
                pass
            self.finished.append(True)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def serving(*answers: bytes, context: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    server = Server(list(answers))
    listening = await asyncio.start_server(server.handle, "127.0.0.1", 0, ssl=context)
    server.port = listening.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listening.close()


def lookup(*answers: Sequence[str]) -> Callable[[str, int], Any]:
    """Each time the next; the last for ever."""
    left = list(answers)

    async def look(host: str, port: int) -> Sequence[str]:
        return left.pop(0) if len(left) > 1 else left[0]

    return look


def bucket(url: str, **more: str) -> Bucket:
    return Bucket.of({"bucket": "evidence", "endpoint": url, "accessKey": "AK", "secretKey": "never-sent", **more})


async def test_a_name_is_looked_at_for_each_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """DNS rebinding; and the environment's proxies and profiles are not asked."""
    for name, value in {"HTTP_PROXY": "http://127.0.0.1:1", "AWS_PROFILE": "none", "AWS_ENDPOINT_URL": "http://127.0.0.1:1"}.items():
        monkeypatch.setenv(name, value)
    async with serving() as server:
        guard = Outbound(["127.0.0.0/8"], lookup(["127.0.0.1"], ["10.0.0.1"]))
        objects = Objects(guard, requests=1)
        there = bucket(f"http://s3.test:{server.port}")
        assert (await objects.put(there, "a b.mp4", b"abc")).etag == "900150983cd24fb0d6963f7d28e17f72"
        with pytest.raises(Forbidden) as raised:
            await objects.put(there, "a", b"abc")
        assert raised.value.code == "private-address"
        (head,) = server.heads
    assert head.startswith("PUT /evidence/a%20b.mp4 HTTP/1.1\r\n")
    lower = head.lower()
    assert f"host: s3.test:{server.port}\r\n" in lower
    assert "x-amz-content-sha256: ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\r\n" in lower
    assert "content-md5: kAFQmDzST7DWlj99KOF/cg==\r\n".lower() in lower
    assert "x-amz-checksum-sha256: " in lower
    assert lower.count("content-length: ") == 1
    assert "expect" not in lower
    assert "never-sent" not in head


async def test_aws_is_asked_by_the_buckets_own_host() -> None:
    asked: list[str] = []

    async def look(host: str, port: int) -> Sequence[str]:
        asked.append(f"{host}:{port}")
        return ["10.0.0.1"]

    with pytest.raises(Forbidden):
        await Objects(Outbound(lookup=look), requests=1).head(bucket("", region="eu-central-1"), "a")
    assert asked == ["evidence.s3.eu-central-1.amazonaws.com:443"]


async def test_redirects_are_not_followed() -> None:
    body = b"<Error><Code>PermanentRedirect</Code><Endpoint>evidence.s3.test</Endpoint></Error>"
    where = b"Location: http://127.0.0.1:1/\r\nx-amz-bucket-region: eu-west-1\r\n"
    moved = b"HTTP/1.1 301 Moved\r\n" + where + b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
    async with serving(moved, moved, moved) as server:
        with pytest.raises(Refused) as raised:
            await Objects(Outbound(["127.0.0.0/8"]), requests=1).put(bucket(f"http://127.0.0.1:{server.port}"), "a", b"abc")
    assert raised.value.code == "wrong-region"
    assert server.heads[-1].startswith("PUT /evidence/a ")  # botocore asks where the bucket is and tries its region, but here


async def test_tls_is_verified(tmp_path: Path) -> None:
    certificate = open_certificate(Config(data_dir=str(tmp_path), public_url="https://localhost"), tmp_path)
    (tmp_path / "ca.pem").write_bytes(certificate.pem)
    async with serving(context=certificate.context) as server:
        there = bucket(f"https://localhost:{server.port}")
        with pytest.raises(PeerError) as raised:
            await Objects(Outbound(["localhost"]), requests=1).put(there, "a", b"abc")
        assert raised.value.code == "tls"
        assert raised.value.message.startswith("the certificate of localhost was refused: ")
        trusting = Objects(Outbound(["localhost"], cafile=str(tmp_path / "ca.pem")), requests=1)
        await trusting.put(there, "a", b"abc")


@pytest.mark.parametrize(
    "answer",
    [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf", b"garbage\r\n\r\n", b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 200 + b"\r\n"],
)
async def test_answers_that_cannot_be(answer: bytes) -> None:
    async with serving(answer) as server:
        server.closes = True
        with pytest.raises(PeerError) as raised:
            await asyncio.wait_for(
                Objects(Outbound(["127.0.0.0/8"]), requests=1).read(bucket(f"http://127.0.0.1:{server.port}"), "a", 0, 9), 5
            )
    assert raised.value.code in ("bucket-away", "protocol-error")


async def test_who_gives_up_shuts_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that sends slowly does not hold up the end of the process."""
    monkeypatch.setattr(object_wire, "CHUNK", 1000)
    async with serving() as server:
        server.answers = [b""]
        objects = Objects(Outbound(["127.0.0.0/8"]), requests=1, bitrate=8_000)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(objects.put(bucket(f"http://127.0.0.1:{server.port}"), "a", b"x" * 100_000), 0.3)
        async with asyncio.timeout(5):
            while not server.finished:
                await asyncio.sleep(0.01)
    assert socket.getdefaulttimeout() is None
