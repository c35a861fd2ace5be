"""StreamHub's streams (contracts 2.3): what publishes now, and the newest ended session of each ingress."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from medianode import clock
from medianode.api.live import Live, instant
from medianode.api.problems import STREAMHUB
from medianode.api.router import AnyRoute, Call, Empty, Route
from medianode.api.sessions import session_id, view_of
from medianode.api.shapes import Data, Page, page_of
from medianode.auth import Door, Permission, Principal
from medianode.control.audit import AuditLog
from medianode.control.ingresses import LIST_LIMIT, Ingresses
from medianode.control.projects import Projects
from medianode.errors import NotFound, PeerGone
from medianode.routing.publication import Publication
from medianode.routing.registry import Registry
from medianode.routing.room import Room
from medianode.store.ingresses import Ingress as Row

StreamType = Literal["webrtc", "rtmp", "rtsp", "whip", "ws-mjpeg"]
TYPES: dict[Door, StreamType] = {
    Door.ANY: "rtmp",
    Door.RTMP: "rtmp",
    Door.SRT: "rtmp",
    Door.WHIP: "whip",
    Door.URL: "rtsp",
    Door.WS_MJPEG: "ws-mjpeg",
}


class Stream(msgspec.Struct, rename="camel"):
    """`streamId` is room/identity; `lastStatsJson` is the operators' session view as JSON text, while the stream is active."""

    id: str
    app_id: str
    stream_id: str
    type: StreamType
    room: str
    participant: str
    status: Literal["active", "ended"]
    started_at: str | None
    ended_at: str | None
    last_stats_json: str | None


class Filter(msgspec.Struct):
    status: Literal["active", "ended"] | None = None
    room: Annotated[str, Meta(max_length=120, description="Only this room, by its full name")] = ""
    limit: Annotated[int, Meta(ge=1, le=LIST_LIMIT)] = 50
    offset: Annotated[int, Meta(ge=0, le=1_000_000)] = 0


class Streams:
    def __init__(self, projects: Projects, ingresses: Ingresses, registry: Registry, live: Live, log: AuditLog) -> None:
        self._projects = projects
        self._ingresses = ingresses
        self._registry = registry
        self._live = live
        self._log = log

    @property
    def routes(self) -> list[AnyRoute]:
        common: dict[str, Any] = {"dialect": STREAMHUB, "tag": "StreamHub"}
        one = "/api/v1/apps/{app}/streams/{stream:[^/]+(?:/[^/]+)?}"
        return [
            Route(
                method="GET",
                path="/api/v1/apps/{app}/streams",
                handler=self.list_streams,
                auth=Permission.VIEW,
                query=Filter,
                response=Page[Stream],
                summary="Streams: active ones first",
                example=Page([_EXAMPLE], 1, 50, 0),
                **common,
            ),
            Route(
                method="GET",
                path=one,
                handler=self.get_stream,
                auth=Permission.VIEW,
                response=Data[Stream],
                summary="One stream, by its id or by room/identity with the slash written %2F",
                example=Data(_EXAMPLE),
                **common,
            ),
            Route(
                method="DELETE",
                path=one,
                handler=self.delete_stream,
                auth=Permission.LIVE,
                summary="Disconnect the publisher; its key stays good",
                **common,
            ),
        ]

    async def list_streams(self, call: Call[Principal, Empty, Filter]) -> Page[Stream]:
        wanted = call.query
        found = [s for s in await self._streams(call) if wanted.status in (None, s.status) and wanted.room in ("", s.room)]
        return page_of(found, wanted.limit, wanted.offset)

    async def get_stream(self, call: Call[Principal, Empty, Empty]) -> Data[Stream]:
        name = call.path("stream")
        for stream in await self._streams(call):
            if name in (stream.id, stream.stream_id):
                return Data(stream)
        raise NotFound("no such stream", code="no-such-stream")

    async def delete_stream(self, call: Call[Principal, Empty, Empty]) -> None:
        name = call.path("stream")
        for room, publication in self._publishing(call.who):
            if name in (_id(publication), session_id(publication)):
                await self._log.write("session.ended", session_id(publication), room.project_id)
                room.end(publication, "kicked", final=True)
                publication.kick(PeerGone("this stream was ended through the API", code="kicked"))
                return
        raise NotFound("no such stream is active", code="no-such-stream")

    async def _streams(self, call: Call[Principal, Any, Any]) -> list[Stream]:
        now = clock.now()
        project = await self._projects.get(call.path("app"))
        active = [_active(room, publication, now) for room, publication in self._publishing(call.who)]
        rows, _ = await self._ingresses.list(project, limit=LIST_LIMIT)
        ended = [_ended(r) for r in rows if r.started_at is not None and r.ended_at is not None and self._live.publication(r) is None]
        return [*active, *sorted(ended, key=lambda s: s.ended_at or "", reverse=True)]

    def _publishing(self, who: Principal) -> list[tuple[Room, Publication]]:
        return [(r, p) for r in self._registry if r.project_id == who.project_id for p in r.publications.values()]


def _id(publication: Publication) -> str:
    return publication.grant.ingress_id or session_id(publication)


def _active(room: Room, publication: Publication, now: float) -> Stream:
    grant = publication.grant
    return Stream(
        id=_id(publication),
        app_id=grant.project_id,
        stream_id=session_id(publication),
        type=TYPES[grant.kind],
        room=grant.room,
        participant=grant.identity,
        status="active",
        started_at=clock.iso(publication.opened_wallclock),
        ended_at=None,
        last_stats_json=msgspec.json.encode(view_of(room, publication, now)).decode(),
    )


def _ended(row: Row) -> Stream:
    return Stream(
        id=row.id,
        app_id=row.project_id,
        stream_id=f"{row.room}/{row.participant_identity}",
        type=TYPES[Door(row.kind)],
        room=row.room,
        participant=row.participant_identity,
        status="ended",
        started_at=instant(row.started_at),
        ended_at=instant(row.ended_at),
        last_stats_json=None,
    )


_EXAMPLE = Stream(
    id="IN_a1B2c3D4e5F6",
    app_id="prj_0123456789ab",
    stream_id="live-demo/obs",
    type="rtmp",
    room="live-demo",
    participant="obs",
    status="active",
    started_at="2026-03-29T14:30:00.000Z",
    ended_at=None,
    last_stats_json="{}",
)
