"""BaxCloud's `/v1/ingress` (contracts 1): bare bodies, upper-case words.

Create answers 201: the contract says "2xx", and 201 is what the other creates of these dialects say. DELETE answers 200 with a body, for
SDKs that parse one. `roomName` is echoed as it was given; the room's full name stands in `room`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from medianode.api.changes import ChangeIngress, NewPull, change_ingress
from medianode.api.fields import Identity, RoomName, Text
from medianode.api.live import Live, instant
from medianode.api.problems import BAXCLOUD
from medianode.api.router import AnyRoute, Call, Empty, Route
from medianode.api.urls import Ports, Urls
from medianode.auth import Door, Permission, Principal, Takeover
from medianode.control.ingresses import LIST_LIMIT, Ingresses
from medianode.control.projects import Projects
from medianode.control.sources import Sources, masked_source
from medianode.errors import InvalidRequest, NotEnabled, NotFound
from medianode.origin import Origin
from medianode.store.ingresses import Ingress
from medianode.store.projects import Project

InputType = Literal["RTMP_INPUT", "WHIP_INPUT", "URL_INPUT"]
DEFAULT_PROJECT = "live"
DOORS: dict[InputType, Door] = {"RTMP_INPUT": Door.RTMP, "WHIP_INPUT": Door.WHIP, "URL_INPUT": Door.URL}
INPUT_TYPES = {door: input_type for input_type, door in DOORS.items()}
KINDS = tuple(INPUT_TYPES)


class CreateIngress(NewPull, rename="camel"):
    """`takeover` (ours): what a second encoder with the key does to one that is heard from; a silent one is always replaced. `record`
    (ours): what is published through it is recorded; where its room is set to be recorded as well, there are two recordings, each whole by
    itself. URL_INPUT (ours) is fetched from `url`: `transport` of rtsp://, `onDemand` (only while somebody watches), `silence` and
    `frozenVideo` in seconds, see `/api/v1/apps/{app}/pulls`.
    """

    input_type: InputType
    room_name: RoomName
    participant_identity: Identity
    participant_name: Text = ""
    enable_transcoding: bool = True
    bypass_transcoding: bool = False
    takeover: Takeover = Takeover.REJECT
    record: bool = False


class Filter(msgspec.Struct, rename="camel"):
    room_name: RoomName | None = None
    limit: Annotated[int, Meta(ge=1, le=LIST_LIMIT)] = LIST_LIMIT
    offset: Annotated[int, Meta(ge=0, le=1_000_000)] = 0


class IngressObject(msgspec.Struct, rename="camel"):
    """`id` and `ingressId` are the same; `whipUrl` and `token` (the stream key, sent as Bearer token) are null for RTMP, `rtmpUrl` and
    `rtmpsUrl` for WHIP. `url`: what a URL_INPUT is fetched from, without what is secret in it.
    """

    id: str
    ingress_id: str
    input_type: InputType
    room_name: str
    room: str
    participant_identity: str
    participant_name: str
    status: Literal["INACTIVE", "BUFFERING", "ACTIVE", "ERROR", "COMPLETE"]
    stream_key: str
    rtmp_url: str | None
    rtmps_url: str | None
    whip_url: str | None
    token: str | None
    enable_transcoding: bool
    bypass_transcoding: bool
    takeover: str
    record: bool
    error_message: str | None
    started_at: str | None
    ended_at: str | None
    created_at: str
    url: str | UnsetType = UNSET


class IngressList(msgspec.Struct):
    items: list[IngressObject]
    total: int


class Deleted(msgspec.Struct, rename="camel"):
    id: str
    ingress_id: str
    success: bool = True


class BaxCloud:
    def __init__(self, projects: Projects, ingresses: Ingresses, live: Live, origin: Origin, ports: Ports, sources: Sources) -> None:
        self._projects = projects
        self._ingresses = ingresses
        self._sources = sources
        self._live = live
        self._origin = origin
        self._ports = ports

    @property
    def routes(self) -> list[AnyRoute]:
        common: dict[str, Any] = {"dialect": BAXCLOUD, "tag": "BaxCloud", "auth": Permission.LIVE}
        many: dict[str, Any] = {"path": "/v1/ingress", "aliases": ("/ingress",), **common}
        one: dict[str, Any] = {"path": "/v1/ingress/{id}", "aliases": ("/ingress/{id}",), **common}
        return [
            Route(
                method="POST",
                handler=self.create_ingress,
                request=CreateIngress,
                response=IngressObject,
                status=201,
                errors=(409, 501),
                summary="Make an ingress and its stream key",
                request_example=CreateIngress("RTMP_INPUT", "my-live-room", "obs-streamer", "OBS Studio"),
                example=_EXAMPLE,
                **many,
            ),
            Route(
                method="GET",
                handler=self.list_ingress,
                query=Filter,
                response=IngressList,
                summary="List ingresses, newest first",
                example=IngressList([_WHIP_EXAMPLE, _EXAMPLE], 2),
                **many,
            ),
            Route(method="GET", handler=self.get_ingress, response=IngressObject, summary="One ingress", example=_EXAMPLE, **one),
            Route(
                method="PATCH",
                handler=self.change_ingress,
                request=ChangeIngress,
                response=IngressObject,
                summary="Record it or no more; fetch it from elsewhere or in another way; switch it off or on",
                request_example=ChangeIngress(record=True),
                example=_EXAMPLE,
                **one,
            ),
            Route(
                method="DELETE",
                handler=self.delete_ingress,
                response=Deleted,
                summary="Delete an ingress; its encoder is disconnected at once",
                example=Deleted(_EXAMPLE.id, _EXAMPLE.id),
                **one,
            ),
        ]

    async def create_ingress(self, call: Call[Principal, CreateIngress, Empty]) -> IngressObject:
        new = call.body
        if not new.room_name:
            raise InvalidRequest("roomName: expected 1 to 120 characters, got none")
        project = await self._project(call.who)
        pull = await self._sources.check(new.url, new.options) if new.input_type == "URL_INPUT" else None
        if new.input_type == "WHIP_INPUT" and not self._ports.whip:
            raise NotEnabled("WHIP_INPUT: WHIP is not enabled on this node (rtc.enabled); use RTMP_INPUT", code="whip-not-enabled")
        ingress = await self._ingresses.create(
            project,
            DOORS[new.input_type],
            new.room_name,
            new.participant_identity,
            new.participant_name,
            unique_identity=True,
            enable_transcoding=new.enable_transcoding,
            bypass_transcoding=new.bypass_transcoding,
            takeover=new.takeover,
            record=new.record,
            url=new.url if pull is not None else None,
            pull=pull,
        )
        return self._object(call, project, ingress)

    async def list_ingress(self, call: Call[Principal, Empty, Filter]) -> IngressList:
        project = await self._project(call.who)
        wanted = call.query
        rows, total = await self._ingresses.list(
            project, room=wanted.room_name or None, kinds=KINDS, limit=wanted.limit, offset=wanted.offset
        )
        return IngressList([self._object(call, project, row) for row in rows], total)

    async def get_ingress(self, call: Call[Principal, Empty, Empty]) -> IngressObject:
        return self._object(call, *await self._find(call))

    async def change_ingress(self, call: Call[Principal, ChangeIngress, Empty]) -> IngressObject:
        project, ingress = await self._find(call)
        return self._object(call, project, await change_ingress(ingress, call.body, self._ingresses, self._sources))

    async def delete_ingress(self, call: Call[Principal, Empty, Empty]) -> Deleted:
        _, ingress = await self._find(call)
        await self._ingresses.delete(ingress.project_id, ingress.id)
        return Deleted(ingress.id, ingress.id)

    async def _find(self, call: Call[Principal, Any, Any]) -> tuple[Project, Ingress]:
        project = await self._project(call.who)
        ingress = await self._ingresses.get(project.id, call.path("id"))
        if ingress.kind not in KINDS:
            raise NotFound(f"no ingress {ingress.id}")
        return project, ingress

    async def _project(self, who: Principal) -> Project:
        """The key's own, or the one of X-Project-Id; for a key to the whole node that names none, the one of the first start."""
        return await self._projects.get(who.project_id or DEFAULT_PROJECT)

    def _object(self, call: Call[Principal, Any, Any], project: Project, ingress: Ingress) -> IngressObject:
        urls = Urls.of(self._origin, call.request, self._ports)
        return ingress_object(ingress, project.slug, self._live, urls)


def ingress_object(ingress: Ingress, slug: str, live: Live, urls: Urls) -> IngressObject:
    rtmp, whip = ingress.kind == Door.RTMP, ingress.kind == Door.WHIP
    return IngressObject(
        id=ingress.id,
        ingress_id=ingress.id,
        input_type=INPUT_TYPES[Door(ingress.kind)],
        room_name=ingress.room_name,
        room=ingress.room,
        participant_identity=ingress.participant_identity,
        participant_name=ingress.participant_name,
        status=live.state(ingress).value,
        stream_key=ingress.stream_key,
        rtmp_url=urls.rtmp if rtmp else None,
        rtmps_url=urls.rtmps if rtmp else None,
        whip_url=urls.whip(slug, ingress.room) if whip else None,
        token=ingress.stream_key if whip else None,
        url=masked_source(ingress.url) if ingress.url else UNSET,
        enable_transcoding=ingress.enable_transcoding,
        bypass_transcoding=ingress.bypass_transcoding,
        takeover=ingress.takeover,
        record=ingress.record,
        error_message=live.error(ingress),
        started_at=instant(ingress.started_at),
        ended_at=instant(ingress.ended_at),
        created_at=instant(ingress.created_at) or "",
    )


_EXAMPLE = IngressObject(
    id="IN_a1B2c3D4e5F6",
    ingress_id="IN_a1B2c3D4e5F6",
    input_type="RTMP_INPUT",
    room_name="my-live-room",
    room="live-my-live-room",
    participant_identity="obs-streamer",
    participant_name="OBS Studio",
    status="INACTIVE",
    stream_key="x" * 32,
    rtmp_url="rtmp://media.example.com:1935/live",
    rtmps_url="rtmps://media.example.com:1935/live",
    whip_url=None,
    token=None,
    enable_transcoding=True,
    bypass_transcoding=False,
    takeover="reject",
    record=False,
    error_message=None,
    started_at=None,
    ended_at=None,
    created_at="2026-03-29T14:30:00.000Z",
)
_WHIP_EXAMPLE = msgspec.structs.replace(
    _EXAMPLE,
    id="IN_g7H8i9J0k1L2",
    ingress_id="IN_g7H8i9J0k1L2",
    input_type="WHIP_INPUT",
    participant_identity="browser",
    participant_name="Browser",
    rtmp_url=None,
    rtmps_url=None,
    whip_url="https://media.example.com/whip/live/live-my-live-room",
    token="x" * 32,
    bypass_transcoding=True,
)
