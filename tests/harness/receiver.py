"""A receiver of webhooks that remembers what it was sent, and an outbox with something in it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import msgspec
from aiohttp import web

from medianode.store import deliveries, endpoints, outbox, projects
from medianode.store.database import Database
from medianode.store.endpoints import WebhookEndpoint
from medianode.store.projects import Project
from medianode.webhooks.outbox import TOPIC
from medianode.webhooks.steady import SteadyClock

Answering = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Got:
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def n(self) -> int:
        return int(msgspec.json.decode(self.body)["n"])

    @property
    def stream(self) -> str:
        return str(msgspec.json.decode(self.body)["stream"])


@dataclass
class Receiver:
    """`status`: what it answers; `answer` where that is not enough."""

    url: str = ""
    status: int = 200
    answer: Answering | None = None
    got: list[Got] = field(default_factory=list)
    _arrived: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.got.append(Got(request.path, dict(request.headers), await request.read()))
        async with self._arrived:
            self._arrived.notify_all()
        return await self.answer(request) if self.answer is not None else web.Response(status=self.status)

    async def has(self, count: int, seconds: float = 20.0) -> list[Got]:
        """Wait until it was sent so many."""
        async with asyncio.timeout(seconds), self._arrived:
            await self._arrived.wait_for(lambda: len(self.got) >= count)
        return self.got


@asynccontextmanager
async def receiver() -> AsyncIterator[Receiver]:
    found = Receiver()
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", found.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    found.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield found
    finally:
        await runner.cleanup()


class FakeClock(SteadyClock):
    """Goes by itself, and is put forward by `advance`."""

    def __init__(self) -> None:
        super().__init__()
        self.ahead = 0.0

    def mono(self) -> float:
        return super().mono() + self.ahead

    def advance(self, seconds: float) -> None:
        self.ahead += seconds

    def follow(self, server: float | None) -> bool:
        return False


class Post:
    """Endpoints and letters of one project, straight in the tables."""

    def __init__(self, db: Database, project_id: str) -> None:
        self.db = db
        self.project_id = project_id
        self.letters = 0

    async def endpoint(self, url: str, **changes: object) -> WebhookEndpoint:
        self.letters += 1
        made = WebhookEndpoint(
            id=f"wh_{self.letters}",
            project_id=self.project_id,
            name="",
            url=url,
            events=("*",),
            dialect="baxcloud",
            secret="secret",
            created_at=1.0,
            updated_at=1.0,
        )
        made = replace(made, **changes)  # type: ignore[arg-type]
        async with self.db.write() as tx:
            await endpoints.insert_endpoint(tx, made)
        return made

    async def change(self, endpoint: WebhookEndpoint, **changes: object) -> WebhookEndpoint:
        changed = replace(endpoint, updated_at=endpoint.updated_at + 1, **changes)  # type: ignore[arg-type]
        async with self.db.write() as tx:
            assert await endpoints.replace(tx, changed)
            tx.tell(TOPIC)
        return changed

    async def send(self, endpoint: WebhookEndpoint, *streams: str, first: int = 0) -> list[int]:
        """One letter for each name, in one transaction: `n` counts them up. Returns the deliveries."""
        made = []
        async with self.db.write() as tx:
            for i, stream in enumerate(streams, first):
                body = msgspec.json.encode({"n": i, "stream": stream})
                event = f"evt-{endpoint.id}-{i}"
                cursor = await outbox.append(tx, id=event, project_id=self.project_id, stream=stream, type="webhook.test", at=1e9, data={})
                letter = outbox.Letter(
                    endpoint_id=endpoint.id,
                    project_id=self.project_id,
                    event_id=event,
                    cursor=cursor,
                    stream=stream,
                    type="live.started",
                    body=body,
                )
                made.append(await outbox.enqueue(tx, letter, 1e9))
            tx.tell(TOPIC)
        return made

    async def rows(self) -> list[deliveries.StoredDelivery]:
        """Oldest first."""
        async with self.db.read() as tx:
            return (await deliveries.newest(tx, deliveries.Filter(project_id=self.project_id), 10_000))[::-1]

    async def attempts(self, delivery_id: int) -> list[deliveries.Attempt]:
        async with self.db.read() as tx:
            return await deliveries.attempts_of(tx, delivery_id, 100)

    async def settled(self, *states: str, seconds: float = 20.0) -> list[deliveries.StoredDelivery]:
        """Wait until all are in these states and no lane is left."""
        async with asyncio.timeout(seconds):
            while True:
                rows = await self.rows()
                if rows and all(row.state in states for row in rows):
                    return rows
                await asyncio.sleep(0.02)


async def open_post(db: Database, slug: str = "live") -> Post:
    project = Project(
        id=f"prj_{slug}",
        slug=slug,
        name=slug,
        viewing="public",
        open_publish=False,
        jwt_key_id=f"kid_{slug}",
        jwt_secret="s",
        created_at=1.0,
    )
    async with db.write() as tx:
        await projects.insert_project(tx, project)
    return Post(db, project.id)
