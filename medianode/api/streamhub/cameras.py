"""StreamHub's ws-ingest: keys for cameras that push JPEGs over a WebSocket (contracts 2.4)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from medianode.api.fields import OptionalIdentity
from medianode.api.live import Live, instant
from medianode.api.problems import STREAMHUB
from medianode.api.router import AnyRoute, Call, Empty, Route
from medianode.api.shapes import Data, Page
from medianode.api.urls import Ports, Urls
from medianode.auth import Door, Gatekeeper, Permission, Principal
from medianode.control.ingresses import LIST_LIMIT, Ingresses
from medianode.control.projects import Projects
from medianode.errors import NotEnabled, NotFound
from medianode.origin import Origin, bearer
from medianode.routing.registry import Registry
from medianode.store.ingresses import Ingress as Row

CameraRoom = Annotated[
    str, Meta(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._-]+(?!\n)$", extra={"expected": "1 to 64 of A-Z a-z 0-9 . _ -"})
]


class NewCamera(msgspec.Struct):
    room: CameraRoom
    identity: OptionalIdentity = ""


class CameraGrant(msgspec.Struct, rename="camel"):
    """`wsUrl` carries app and room; the key goes into `Authorization: Bearer`, or behind it as `&key=`."""

    id: str
    stream_key: str
    room: str
    identity: str
    ws_url: str
    viewer_ws_url: str
    mjpeg_url: str
    frame_url: str
    player_url: str
    embed_url: str


class CameraRow(msgspec.Struct, rename="camel"):
    id: str
    room: str
    stream_key: str
    active: bool
    identity: str
    created_at: str


class CameraDeleted(msgspec.Struct):
    id: str
    deleted: bool = True


class Filter(msgspec.Struct):
    limit: Annotated[int, Meta(ge=1, le=LIST_LIMIT)] = 50
    offset: Annotated[int, Meta(ge=0, le=1_000_000)] = 0


class TokenQuery(msgspec.Struct):
    """`token`: a room token, needed only where the app's viewing is not public."""

    token: Annotated[str, Meta(max_length=8192)] = ""


class CameraLive(msgspec.Struct, rename="camel"):
    """The URLs are there while a camera is the room's programme; `wsUrl` is the viewers' socket."""

    active: bool
    type: Literal["ws-mjpeg"] | None
    room: str
    mjpeg_url: str | UnsetType = UNSET
    frame_url: str | UnsetType = UNSET
    ws_url: str | UnsetType = UNSET


class Cameras:
    """`enabled`: config.ws_jpeg.enabled."""

    def __init__(
        self,
        projects: Projects,
        ingresses: Ingresses,
        gatekeeper: Gatekeeper,
        registry: Registry,
        live: Live,
        origin: Origin,
        ports: Ports,
        *,
        enabled: bool,
    ) -> None:
        self._projects = projects
        self._ingresses = ingresses
        self._gatekeeper = gatekeeper
        self._registry = registry
        self._live = live
        self._origin = origin
        self._ports = ports
        self._enabled = enabled

    @property
    def routes(self) -> list[AnyRoute]:
        common: dict[str, Any] = {"dialect": STREAMHUB, "tag": "StreamHub", "auth": Permission.LIVE}
        return [
            Route(
                method="POST",
                path="/api/v1/apps/{app}/ws-ingest",
                handler=self.create_camera,
                request=NewCamera,
                response=Data[CameraGrant],
                status=201,
                errors=(501,),
                summary="Make a camera's key",
                request_example=NewCamera("garage"),
                example=Data(_GRANT),
                **common,
            ),
            Route(
                method="GET",
                path="/api/v1/apps/{app}/ws-ingest",
                handler=self.list_cameras,
                query=Filter,
                response=Page[CameraRow],
                summary="List cameras, newest first",
                example=Page([_ROW], 1, 50, 0),
                **common,
            ),
            Route(
                method="DELETE",
                path="/api/v1/apps/{app}/ws-ingest/{id}",
                handler=self.delete_camera,
                response=Data[CameraDeleted],
                summary="Revoke a camera's key; its socket closes with 4401",
                example=Data(CameraDeleted(_GRANT.id)),
                **common,
            ),
            Route(
                method="GET",
                path="/api/v1/apps/{app}/ws-ingest/live/{room}",
                handler=self.camera_live,
                query=TokenQuery,
                response=Data[CameraLive],
                errors=(401, 403),
                summary="Is a camera the room's programme? Public, as far as viewing is",
                example=Data(CameraLive(True, "ws-mjpeg", _GRANT.room, _GRANT.mjpeg_url, _GRANT.frame_url, _GRANT.viewer_ws_url)),
                **{**common, "auth": None},
            ),
        ]

    async def create_camera(self, call: Call[Principal, NewCamera, Empty]) -> Data[CameraGrant]:
        if not self._enabled:
            raise NotEnabled("ws-ingest is switched off on this node (ws_jpeg.enabled)", code="ws-ingest-not-enabled")
        project = await self._projects.get(call.path("app"))
        row = await self._ingresses.create(project, Door.WS_MJPEG, call.body.room, call.body.identity)
        return Data(camera_grant(row, project.slug, self._urls(call)))

    async def list_cameras(self, call: Call[Principal, Empty, Filter]) -> Page[CameraRow]:
        limit, offset = call.query.limit, call.query.offset
        project = await self._projects.get(call.path("app"))
        rows, total = await self._ingresses.list(project, kinds=(Door.WS_MJPEG,), limit=limit, offset=offset)
        return Page([self._row(row) for row in rows], total, limit, offset)

    async def delete_camera(self, call: Call[Principal, Empty, Empty]) -> Data[CameraDeleted]:
        row = await self._ingresses.get(call.who.project_id or "", call.path("id"))
        if row.kind != Door.WS_MJPEG:
            raise NotFound(f"no camera {row.id}")
        await self._ingresses.delete(row.project_id, row.id)
        return Data(CameraDeleted(row.id))

    async def camera_live(self, call: Call[None, Empty, TokenQuery]) -> Data[CameraLive]:
        request = call.request
        source = self._origin.source(request)
        grant = await self._gatekeeper.read(call.path("app"), call.path("room"), call.query.token or None, bearer(request), source=source)
        room = self._registry.find(grant.project_id, grant.room)
        programme = room.programme if room is not None else None
        if programme is None or programme.grant.kind is not Door.WS_MJPEG:
            return Data(CameraLive(active=False, type=None, room=grant.room))
        urls = self._urls(call)
        where = (grant.slug, grant.room)
        return Data(CameraLive(True, "ws-mjpeg", grant.room, urls.mjpeg(*where), urls.frame(*where), urls.viewer(*where)))

    def _urls(self, call: Call[Any, Any, Any]) -> Urls:
        return Urls.of(self._origin, call.request, self._ports)

    def _row(self, row: Row) -> CameraRow:
        publication = self._live.publication(row)
        return CameraRow(
            id=row.id,
            room=row.room,
            stream_key=row.stream_key,
            active=publication is not None and publication.active,
            identity=row.participant_identity,
            created_at=instant(row.created_at) or "",
        )


def camera_grant(row: Row, slug: str, urls: Urls) -> CameraGrant:
    return CameraGrant(
        id=row.id,
        stream_key=row.stream_key,
        room=row.room,
        identity=row.participant_identity,
        ws_url=urls.camera(slug, row.room),
        viewer_ws_url=urls.viewer(slug, row.room),
        mjpeg_url=urls.mjpeg(slug, row.room),
        frame_url=urls.frame(slug, row.room),
        player_url=urls.play(slug, row.room),
        embed_url=urls.embed(slug, row.room),
    )


_GRANT = CameraGrant(
    id="wsi_0123456789ab",
    stream_key="wsk_" + "x" * 32,
    room="live-garage",
    identity="wscam-xxxxxx",
    ws_url="wss://media.example.com/ingest/ws?app=live&room=live-garage",
    viewer_ws_url="wss://media.example.com/live/ws?app=live&room=live-garage",
    mjpeg_url="https://media.example.com/live/live/live-garage/mjpeg",
    frame_url="https://media.example.com/live/live/live-garage/frame.jpg",
    player_url="https://media.example.com/play/live/live-garage",
    embed_url="https://media.example.com/embed/live/live-garage",
)
_ROW = CameraRow(_GRANT.id, _GRANT.room, _GRANT.stream_key, True, _GRANT.identity, "2026-03-29T14:30:00.000Z")
