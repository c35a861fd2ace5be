"""A real S3 service (see `swift_node`) as a process of its own, and a wire to it that misbehaves."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

from harness import free_port, reset
from medianode.outbound import Outbound
from medianode.store.objects import Bucket, Objects
from medianode.tasks import TaskSet

USER, KEY = "test:tester", "testing"
PROGRAM = Path(__file__).with_name("swift_node.py")


class BucketService:
    """`port` stays the same over `stop` and `start`, and so does what is in it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.port = free_port()
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        command = [sys.executable, str(PROGRAM), str(self._directory), str(self.port), USER, KEY]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"

    def stop(self) -> None:
        """As a machine that loses its power."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._process = None

    def storage(self, bucket: str, **more: Any) -> dict[str, Any]:
        """Of a project, in the shape of its API."""
        place = {"type": "s3", "bucket": bucket, "endpoint": f"http://127.0.0.1:{self.port}", "accessKey": USER, "secretKey": KEY}
        return {**place, **more}

    def public(self, bucket: str) -> str:
        """Where everybody may read a bucket that was made public: Swift's own address."""
        return f"http://127.0.0.1:{self.port}/v1/AUTH_test/{bucket}"


@contextlib.contextmanager
def bucket_service(directory: Path) -> Iterator[BucketService]:
    service = BucketService(directory)
    service.start()
    try:
        yield service
    finally:
        service.stop()


def objects(**more: Any) -> Objects:
    return Objects(Outbound(["127.0.0.0/8"]), requests=4, **more)


async def make_bucket(storage: dict[str, Any], *, public: bool = False) -> Bucket:
    bucket = Bucket.of(storage)
    acl = {"ACL": "public-read"} if public else {}
    await objects()._do(bucket, lambda s3: s3.create_bucket(Bucket=bucket.name, **acl))
    return bucket


class Wire:
    """A TCP proxy before the service. `meddle` sees the head of each request: None lets it pass, bytes are answered in its place, and the
    connection is reset behind them."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.port = 0
        self.requests: list[bytes] = []
        """The request lines that passed."""
        self.meddle: Callable[[bytes], bytes | None] = lambda head: None
        self.spoil: Callable[[bytes, bytes], bytes] = lambda head, chunk: chunk
        """What becomes of each piece that goes to the service, behind the head."""
        self.cut_answer: int | None = None
        """Bytes of the next answer after which the connection is reset."""

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[Wire]:
        server = await asyncio.start_server(self._accepted, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        async with TaskSet("wire", 100) as self._tasks:
            yield self
            server.close()

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._tasks.start(self._handle(reader, writer))

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            answer = self.meddle(head)
            if answer is not None:
                writer.write(answer)
                await writer.drain()
                reset(writer)
                return
            self.requests.append(head.partition(b" HTTP/")[0])
            there_reader, there = await asyncio.open_connection("127.0.0.1", self._port)
            there.write(head)
            cut, self.cut_answer = self.cut_answer, None
            pumps = [asyncio.create_task(self._pump_back(there_reader, writer, cut)), asyncio.create_task(self._pump(head, reader, there))]
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                there.close()
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()

    async def _pump(self, head: bytes, reader: asyncio.StreamReader, there: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while chunk := await reader.read(65_536):
                there.write(self.spoil(head, chunk))
                await there.drain()

    async def _pump_back(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, cut: int | None) -> None:
        with contextlib.suppress(OSError):
            while chunk := await reader.read(65_536 if cut is None else cut):
                writer.write(chunk)
                await writer.drain()
                if cut is not None:
                    reset(writer)
                    return
