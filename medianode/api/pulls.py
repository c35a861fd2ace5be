"""Ingresses that the node fetches itself: how that goes, what is fetched and how, on and off. Credentials are never shown."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from medianode import clock
from medianode.api.changes import PullUpdate
from medianode.api.problems import OPERATOR
from medianode.api.router import AnyRoute, Call, Empty, Route
from medianode.api.shapes import Data, Page
from medianode.auth import Door, Permission, Principal
from medianode.control.ingresses import LIST_LIMIT, Ingresses
from medianode.control.projects import Projects
from medianode.control.pulls import Pulls
from medianode.control.sources import Sources, masked_source, options_of
from medianode.errors import NotFound
from medianode.ingress.pull.order import Transport
from medianode.store.ingresses import Ingress

State = Literal["idle", "opening", "running", "waiting", "disabled"]


class PullView(msgspec.Struct, rename="camel"):
    """`url`: without what is secret in it. `state`: `idle` (on demand, and nobody asks; or no node has taken it yet), `opening`, `running`,
    `waiting` (for the next attempt, at `nextAttemptAt`), `disabled`; `error`: the last failure in words, empty while it runs well. `using`:
    the transport in use, or used last. `since`: when the state changed. `attempts` and `bytes` since it was begun; zero where another node
    fetches it.
    """

    ingress_id: str
    room: str
    identity: str
    url: str
    transport: Transport
    on_demand: bool
    silence: float | None
    frozen_video: float | None
    enabled: bool
    state: State
    error: str
    error_code: str
    using: str
    since: str
    next_attempt_at: str | None
    attempts: int
    bytes: int


class Filter(msgspec.Struct):
    limit: Annotated[int, Meta(ge=1, le=LIST_LIMIT)] = 50
    offset: Annotated[int, Meta(ge=0, le=1_000_000)] = 0


class PullsApi:
    def __init__(self, projects: Projects, ingresses: Ingresses, sources: Sources, pulls: Pulls) -> None:
        self._projects = projects
        self._ingresses = ingresses
        self._sources = sources
        self._pulls = pulls

    @property
    def routes(self) -> list[AnyRoute]:
        common: dict[str, Any] = {"dialect": OPERATOR, "tag": "Pull", "auth": Permission.LIVE}
        one: dict[str, Any] = {
            "path": "/api/v1/apps/{app}/pulls/{id}",
            "response": Data[PullView],
            "example": Data(_EXAMPLE),
            **common,
        }
        return [
            Route(
                method="GET",
                path="/api/v1/apps/{app}/pulls",
                handler=self.list_pulls,
                query=Filter,
                response=Page[PullView],
                summary="Ingresses that are fetched from a URL, newest first",
                example=Page([_EXAMPLE], 1, 50, 0),
                **common,
            ),
            Route(method="GET", handler=self.get, summary="How an ingress is fetched", **one),
            Route(
                method="PATCH",
                handler=self.change,
                request=PullUpdate,
                summary="Fetch it from elsewhere or in another way; switch it off or on",
                request_example=PullUpdate(transport="tcp", on_demand=True),
                **one,
            ),
        ]

    async def list_pulls(self, call: Call[Principal, Empty, Filter]) -> Page[PullView]:
        project, wanted = await self._projects.get(call.path("app")), call.query
        rows, total = await self._ingresses.list(project, kinds=(Door.URL,), limit=wanted.limit, offset=wanted.offset)
        return Page([self._view(row) for row in rows], total, wanted.limit, wanted.offset)

    async def get(self, call: Call[Principal, Empty, Empty]) -> Data[PullView]:
        return Data(self._view(await self._find(call)))

    async def change(self, call: Call[Principal, PullUpdate, Empty]) -> Data[PullView]:
        return Data(self._view(await self._sources.follow(await self._find(call), call.body, call.body.enabled)))

    async def _find(self, call: Call[Principal, Any, Empty]) -> Ingress:
        project = await self._projects.get(call.path("app"))
        row = await self._ingresses.get(project.id, call.path("id"))
        if row.kind != Door.URL:
            raise NotFound(f"ingress {row.id} is not fetched from a URL")
        return row

    def _view(self, row: Ingress) -> PullView:
        options, state = options_of(row), self._pulls.state(row)
        word: State = "disabled" if row.disabled_at is not None else "idle" if state.state == "stopped" else state.state
        return PullView(
            ingress_id=row.id,
            room=row.room,
            identity=row.participant_identity,
            url=masked_source(row.url or ""),
            transport=options.transport,
            on_demand=options.on_demand,
            silence=options.silence,
            frozen_video=options.frozen_video,
            enabled=row.disabled_at is None,
            state=word,
            error=state.message,
            error_code=state.code,
            using=state.transport,
            since=clock.iso(state.since),
            next_attempt_at=clock.iso(state.retry_at) if state.retry_at else None,
            attempts=state.attempts,
            bytes=state.nbytes,
        )


_EXAMPLE = PullView(
    ingress_id="IN_a1B2c3D4e5F6",
    room="live-gate",
    identity="gate",
    url="rtsp://viewer:***@192.0.2.10/stream1",
    transport="auto",
    on_demand=False,
    silence=None,
    frozen_video=None,
    enabled=True,
    state="running",
    error="",
    error_code="",
    using="tcp",
    since="2026-03-29T14:30:00.000Z",
    next_attempt_at=None,
    attempts=1,
    bytes=41_200_000,
)
