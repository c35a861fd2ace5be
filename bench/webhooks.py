"""Webhook deliveries: how many a second and per CPU second to a local sink, how late an event arrives on an idle node, and what 100 000
pending ones cost in memory.

The engine runs in a process of its own over SQLite, as in the daemon, the sink in another; both on this machine. A delivery is one request
of 1.2 KB with its signature, an answer, an attempt written down: the engine's CPU holds all of it, the database's too.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import selectors
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import uvloop
from sqlalchemy import func, insert, select

from bench import rig
from medianode.config import Limits, Webhooks
from medianode.outbound import Outbound
from medianode.store import endpoints, outbox, projects, schema
from medianode.store.database import Database, open_database
from medianode.store.endpoints import WebhookEndpoint
from medianode.store.projects import Project
from medianode.tasks import background
from medianode.webhooks.delivery import Delivery
from medianode.webhooks.facts import TEST, Fact
from medianode.webhooks.outbox import TOPIC, announce
from medianode.webhooks.sender import open_sender

RATE = 500.0
"""Deliveries a second, on one core."""
LATENCY = 20.0
"""ms, p50 on an idle node."""
GROWTH = 10.0
"""MB that the engine may hold for a backlog of any size: what it has read ahead."""
BATCH = 1000


class Sink(asyncio.Protocol):
    """Counts POSTs; GET tells how many, and when each of the last came."""

    arrivals: ClassVar[list[float]] = []

    def __init__(self) -> None:
        self._data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport

    def data_received(self, data: bytes) -> None:
        self._data += data
        while (end := self._data.find(b"\r\n\r\n")) >= 0:
            head = self._data[:end].lower()
            if head.startswith(b"get"):
                body = json.dumps(Sink.arrivals).encode()
                self._transport.write(b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
                self._transport.close()
                return
            length = int(head.partition(b"content-length:")[2].partition(b"\r")[0])
            if len(self._data) < end + 4 + length:
                return
            self._data = self._data[end + 4 + length :]
            Sink.arrivals.append(time.time())
            self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")


async def sink() -> None:
    server = await asyncio.get_running_loop().create_server(Sink, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


async def node(port: int, data: Path) -> None:
    """Does what its standard input says, one command in a line, and answers each with a line."""
    loop = asyncio.get_running_loop()
    async with open_database("", data, environ={}) as db:
        await prepare(db, port)
        limits, webhooks = Limits(), Webhooks()
        async with open_sender(Outbound(["127.0.0.1"]), webhooks, limits) as sender:
            print("ready", flush=True)
            while True:
                delivery = Delivery(db, webhooks, limits, sender, "bench")
                command, *arguments = (await loop.run_in_executor(None, sys.stdin.readline)).split() or ["end"]
                match command:
                    case "fill":
                        endpoint, count, streams = arguments
                        await fill(db, endpoint, int(count), int(streams))
                    case "deliver":
                        async with background(delivery.serve()):
                            await drained(db)
                    case "hold":  # the backlog stays: nobody listens
                        async with background(delivery.serve()):
                            await asyncio.sleep(float(arguments[0]))
                    case "tell":
                        async with background(delivery.serve()):
                            await asyncio.sleep(0.5)
                            print(" ".join([str(at) async for at in tell(db, int(arguments[0]))]), flush=True)
                            await asyncio.sleep(0.5)
                        continue
                    case "end":
                        return
                print("done", flush=True)


async def prepare(db: Database, port: int) -> None:
    project = Project(
        id="prj_bench", slug="bench", name="", viewing="public", open_publish=False, jwt_key_id="k", jwt_secret="s", created_at=0.0
    )
    async with db.write() as tx:
        await projects.insert_project(tx, project)
        for name, url in (("live", f"http://127.0.0.1:{port}/hook"), ("dead", "http://127.0.0.1:1/")):
            made = WebhookEndpoint(
                id=name, project_id=project.id, name="", url=url, events=("webhook.test",), dialect="baxcloud", secret="s" * 40,
                enabled=True, created_at=0.0, updated_at=0.0,
            )  # fmt: skip
            await endpoints.insert_endpoint(tx, made)


async def fill(db: Database, endpoint: str, count: int, streams: int) -> None:
    """Straight into the tables: what writing costs is not the question here."""
    body = json.dumps({"event": "live.started", "data": {"filler": "x" * 1100}})
    fixed: dict[str, object] = {"endpoint_id": endpoint, "project_id": "prj_bench", "type": "live.started", "state": "pending"}
    fixed |= {"cursor": 1, "attempts": 0, "error": ""}
    opened: set[str] = set()
    for first in range(0, count, BATCH):
        events = [(f"e{time.time_ns()}-{i}", f"s{i % streams}") for i in range(first, min(first + BATCH, count))]
        async with db.write() as tx:
            rows = [
                {
                    **fixed,
                    "event_id": event,
                    "stream": stream,
                    "body": tx.secrets.seal(body, outbox.place(event)),
                    "created_at": time.time(),
                }
                for event, stream in events
            ]
            await tx.many(insert(schema.deliveries), rows)
            for stream in {stream for _, stream in events} - opened:
                await outbox.open_lane(tx, endpoint, stream)
                opened.add(stream)
            tx.tell(TOPIC)


async def tell(db: Database, count: int) -> Any:
    """One event after the other, each on a stream of its own, as they happen on a node with nothing else to do."""
    for i in range(count):
        at = time.time()
        async with db.write() as tx:
            await announce(tx, Fact(type=TEST, project_id="prj_bench", stream=f"t{i}", at=at))
        yield at
        await asyncio.sleep(0.25)


async def drained(db: Database) -> None:
    while True:
        async with db.read() as tx:
            if not await tx.scalar(select(func.count()).where(schema.delivery_lanes.c.endpoint_id == "live")):
                return
        await asyncio.sleep(0.1)


class Node:
    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        assert self._answer() == "ready"

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def do(self, command: str) -> str:
        self.start(command)
        return self._answer()

    def start(self, command: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{command}\n")
        self._process.stdin.flush()

    def done(self) -> bool:
        """Has it answered what was started?"""
        with selectors.DefaultSelector() as selector:
            assert self._process.stdout is not None
            selector.register(self._process.stdout, selectors.EVENT_READ)
            return bool(selector.select(0) and self._answer())

    def sample(self) -> rig.Sample:
        return rig.sample(self._process.pid)


@contextmanager
def running(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "bench.webhooks", *arguments]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        rig.stop(process)


def arrivals(port: int) -> list[float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10) as answer:
        return list(json.loads(answer.read()))


def throughput(server: Node, port: int, count: int, streams: int) -> float:
    """Deliveries per CPU second of the engine: what one core does."""
    server.do(f"fill live {count} {streams}")
    seen, before = len(arrivals(port)), server.sample()
    server.do("deliver")
    after, came = server.sample(), arrivals(port)[seen:]
    rate, per_cpu = len(came) / (came[-1] - came[0]), len(came) / (after.cpu - before.cpu)
    print(f"{streams:4} streams: {rate:6.0f} deliveries a second, {per_cpu:6.0f} per CPU second, {len(came)} of {count} arrived once")
    if len(came) != count:
        raise RuntimeError(f"{len(came)} requests for {count} deliveries")
    return per_cpu


def backlog(server: Node, port: int, pending: int) -> float:
    """MB that the engine grows by, at most, while so many wait for an endpoint that is away, and while as many are delivered."""
    server.do(f"fill dead {pending} 1000")
    before = server.sample()
    server.do("hold 10")
    held = server.sample()
    print(
        f"{pending} pending on 1000 streams of an endpoint that is away: RSS {before.rss / 1e6:.1f} MB, after 10 s of the engine "
        f"{held.rss / 1e6:.1f}, which takes {10 * (held.cpu - before.cpu):.2f} % of a core"
    )
    server.do(f"fill live {pending} 1000")
    seen, began = len(arrivals(port)), time.time()
    server.start("deliver")
    peak = held.rss
    while not server.done():
        peak = max(peak, server.sample().rss)
        time.sleep(0.25)
    came = len(arrivals(port)) - seen
    print(f"as many delivered beside them: {came} in {time.time() - began:.0f} s, RSS {peak / 1e6:.1f} MB at most")
    return (peak - before.rss) / 1e6


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000, help="deliveries for each throughput")
    parser.add_argument("--events", type=int, default=80, help="for the latency")
    parser.add_argument("--pending", type=int, default=100_000)
    parser.add_argument("--role", choices=("sink", "node"), help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--data", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.role:
        uvloop.run(sink() if args.role == "sink" else node(args.port, args.data))
        return 0
    print(f"{rig.machine()}; {time.strftime('%F')}")
    with tempfile.TemporaryDirectory(prefix="medianode-bench-") as data, running("--role=sink") as receiver:
        assert receiver.stdout is not None
        port = int(receiver.stdout.readline())
        with running("--role=node", f"--port={port}", f"--data={data}") as process:
            server = Node(process)
            slowest = min(throughput(server, port, args.count, streams) for streams in (1, 8, 200))
            seen = len(arrivals(port))
            told = [float(at) for at in server.do(f"tell {args.events}").split()]
            late = sorted(1000 * (came - at) for came, at in zip(arrivals(port)[seen:], told, strict=True))
            p50, p99 = statistics.median(late), late[int(0.99 * (len(late) - 1))]
            print(f"idle: an event arrives after p50 {p50:.1f} ms, p99 {p99:.1f} ms")
            growth = backlog(server, port, args.pending)
    print(
        f"ratio per CPU second to {RATE:g}: {slowest / RATE:.2f}; p50 to {LATENCY:g} ms: {p50 / LATENCY:.2f}; "
        f"growth to {GROWTH:g} MB: {growth / GROWTH:.2f}"
    )
    ok = slowest >= RATE and p50 <= LATENCY and growth <= GROWTH
    print("ok" if ok else "OVER THE LIMIT")
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
