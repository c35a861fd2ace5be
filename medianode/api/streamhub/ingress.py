"""StreamHub's ingress (contracts 2.2)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from medianode.api.changes import ChangeIngress, NewPull, change_ingress
from medianode.api.fields import OptionalIdentity, RoomName, Text
from medianode.api.live import Live, instant
from medianode.api.problems import STREAMHUB
from medianode.api.router import AnyRoute, Call, Empty, Route
from medianode.api.shapes import Data, Page
from medianode.api.urls import Ports, Urls
from medianode.auth import Door, Permission, Principal, Takeover
from medianode.control.ingress_state import State
from medianode.control.ingresses import LIST_LIMIT, Ingresses
from medianode.control.projects import Projects
from medianode.control.sources import Sources, masked_source
from medianode.errors import InvalidRequest, NotEnabled, NotFound
from medianode.origin import Origin
from medianode.store.ingresses import Ingress as Row

InputType = Literal["rtmp", "whip", "url"]
INPUT_TYPES: dict[Door, InputType] = {Door.RTMP: "rtmp", Door.WHIP: "whip", Door.URL: "url"}
KINDS = tuple(INPUT_TYPES)
Status = Literal["inactive", "buffering", "publishing", "error", "complete"]
STATUS: dict[State, Status] = {
    State.INACTIVE: "inactive",
    State.BUFFERING: "buffering",
    State.ACTIVE: "publishing",
    State.ERROR: "error",
    State.COMPLETE: "complete",
}


class NewIngress(NewPull, rename="camel"):
    """`url` goes with inputType url. `requirePassword` (ours, for rtmp): the encoder must then bring the `stream_password` as well.

    With url, ours too: `transport` of rtsp://, `onDemand` (fetched only while somebody watches), `silence` and `frozenVideo` in seconds,
    see `/api/v1/apps/{app}/pulls`. `takeover` (ours): what a second encoder with the key does to one that is heard from; a silent one is
    always replaced. `record` (ours): what is published through it is recorded; where its room is set to be recorded as well, there are two
    recordings, each whole by itself.
    """

    input_type: InputType
    room: RoomName = ""
    participant_identity: OptionalIdentity = ""
    participant_name: Text = ""
    enable_transcoding: bool = True
    require_password: bool = False
    takeover: Takeover = Takeover.REJECT
    record: bool = False


class Filter(msgspec.Struct):
    """`q`: a part of id, room or participant."""

    room: RoomName = ""
    q: Annotated[str, Meta(max_length=200)] = ""
    limit: Annotated[int, Meta(ge=1, le=LIST_LIMIT)] = 50
    offset: Annotated[int, Meta(ge=0, le=1_000_000)] = 0


class IngressGrant(msgspec.Struct, rename="camel", kw_only=True):
    """What an encoder needs. For rtmp, `url` with `streamKey` behind it is the whole publish address, and `srt_url` takes the same key as
    streamid; for whip, `url` takes an offer and `streamKey` is the Bearer token.
    """

    ingress_id: str
    url: str
    stream_key: str
    room_name: str
    rtmp_url: str | UnsetType = msgspec.field(name="rtmp_url", default=UNSET)
    rtmps_url: str | UnsetType = msgspec.field(name="rtmps_url", default=UNSET)
    srt_url: str | UnsetType = msgspec.field(name="srt_url", default=UNSET)
    whip_url: str | UnsetType = msgspec.field(name="whip_url", default=UNSET)
    stream_key_: str = msgspec.field(name="stream_key")
    stream_password: str | UnsetType = msgspec.field(name="stream_password", default=UNSET)
    requires_password: bool = msgspec.field(name="requires_password")
    adaptive: bool = False
    player_url: str = msgspec.field(name="player_url")
    embed_iframe: str = msgspec.field(name="embed_iframe")


class IngressRow(IngressGrant, rename="camel", kw_only=True):
    """`bitrate` in bits per second; it, `width` and `height` are 0 while nothing comes."""

    name: str
    input_type: InputType
    status: Status
    participant_identity: str
    bitrate: int
    width: int
    height: int
    started_at: str | None
    viewers: int
    room: str
    created_at: str
    error: str | None
    record: bool = False


class IngressDeleted(msgspec.Struct, rename="camel"):
    ingress_id: str
    deleted: bool = True


class Password(msgspec.Struct):
    password: Annotated[str, Meta(max_length=256)] = ""


class Validity(msgspec.Struct, rename="camel"):
    ingress_id: str
    valid: bool


class Ingress:
    def __init__(self, projects: Projects, ingresses: Ingresses, live: Live, origin: Origin, ports: Ports, sources: Sources) -> None:
        self._projects = projects
        self._ingresses = ingresses
        self._sources = sources
        self._live = live
        self._origin = origin
        self._ports = ports

    @property
    def routes(self) -> list[AnyRoute]:
        common: dict[str, Any] = {"dialect": STREAMHUB, "tag": "StreamHub", "auth": Permission.LIVE}
        many: dict[str, Any] = {"path": "/api/v1/apps/{app}/ingress", **common}
        one: dict[str, Any] = {"path": "/api/v1/apps/{app}/ingress/{id}", **common}
        return [
            Route(
                method="POST",
                handler=self.create_ingress,
                request=NewIngress,
                response=Data[IngressGrant],
                status=201,
                errors=(501,),
                summary="Make an ingress and its stream key",
                request_example=NewIngress("rtmp", "demo", "obs"),
                example=Data(_GRANT),
                **many,
            ),
            Route(
                method="GET",
                handler=self.list_ingress,
                query=Filter,
                response=Page[IngressRow],
                summary="List ingresses, newest first",
                example=Page([_WHIP_ROW, _ROW], 2, 50, 0),
                **many,
            ),
            Route(method="GET", handler=self.get_ingress, response=Data[IngressRow], summary="One ingress", example=Data(_ROW), **one),
            Route(
                method="PATCH",
                handler=self.change_ingress,
                request=ChangeIngress,
                response=Data[IngressRow],
                summary="Record it or no more; fetch it from elsewhere or in another way; switch it off or on",
                request_example=ChangeIngress(record=True),
                example=Data(_ROW),
                **one,
            ),
            Route(
                method="DELETE",
                handler=self.delete_ingress,
                response=Data[IngressDeleted],
                summary="Delete an ingress; its encoder is disconnected at once",
                example=Data(IngressDeleted(_GRANT.ingress_id)),
                **one,
            ),
            Route(
                method="POST",
                path="/api/v1/apps/{app}/ingress/{id}/validate",
                handler=self.validate_ingress,
                request=Password,
                response=Data[Validity],
                status=201,
                summary="Is this the ingress's password? One without a password takes any",
                request_example=Password("secret"),
                example=Data(Validity(_GRANT.ingress_id, False)),
                **common,
            ),
        ]

    async def create_ingress(self, call: Call[Principal, NewIngress, Empty]) -> Data[IngressGrant]:
        new = call.body
        pull = await self._sources.check(new.url, new.options) if new.input_type == "url" else None
        if new.input_type == "whip" and not self._ports.whip:
            raise NotEnabled("inputType whip is not enabled on this node; use rtmp", code="whip-not-enabled")
        if new.input_type == "whip" and new.require_password:
            raise InvalidRequest("requirePassword: expected with inputType rtmp only: WHIP brings one secret, the stream key")
        row = await self._ingresses.create(
            await self._projects.get(call.path("app")),
            Door(new.input_type),
            new.room,
            new.participant_identity,
            new.participant_name,
            with_password=new.require_password,
            takeover=new.takeover,
            enable_transcoding=new.enable_transcoding,
            record=new.record,
            url=new.url if pull is not None else None,
            pull=pull,
        )
        return Data(IngressGrant(**_grant(row, call.who.slug or "", self._urls(call))))

    async def list_ingress(self, call: Call[Principal, Empty, Filter]) -> Page[IngressRow]:
        wanted = call.query
        project = await self._projects.get(call.path("app"))
        rows, total = await self._ingresses.list(
            project, room=wanted.room or None, kinds=KINDS, q=wanted.q, limit=wanted.limit, offset=wanted.offset
        )
        return Page([self._row(call, row) for row in rows], total, wanted.limit, wanted.offset)

    async def get_ingress(self, call: Call[Principal, Empty, Empty]) -> Data[IngressRow]:
        return Data(self._row(call, await self._find(call)))

    async def change_ingress(self, call: Call[Principal, ChangeIngress, Empty]) -> Data[IngressRow]:
        changed = await change_ingress(await self._find(call), call.body, self._ingresses, self._sources)
        return Data(self._row(call, changed))

    async def delete_ingress(self, call: Call[Principal, Empty, Empty]) -> Data[IngressDeleted]:
        row = await self._find(call)
        await self._ingresses.delete(row.project_id, row.id)
        return Data(IngressDeleted(row.id))

    async def validate_ingress(self, call: Call[Principal, Password, Empty]) -> Data[Validity]:
        row = await self._find(call)
        return Data(Validity(row.id, await self._ingresses.validate_password(row.project_id, row.id, call.body.password)))

    async def _find(self, call: Call[Principal, Any, Any]) -> Row:
        row = await self._ingresses.get(call.who.project_id or "", call.path("id"))
        if row.kind not in KINDS:
            raise NotFound(f"no ingress {row.id}")
        return row

    def _urls(self, call: Call[Principal, Any, Any]) -> Urls:
        return Urls.of(self._origin, call.request, self._ports)

    def _row(self, call: Call[Principal, Any, Any], row: Row) -> IngressRow:
        return ingress_row(row, _grant(row, call.who.slug or "", self._urls(call)), self._live)


def ingress_row(row: Row, grant: dict[str, Any], live: Live) -> IngressRow:
    publication = live.publication(row)
    video = publication.video if publication else None
    return IngressRow(
        **grant,
        name=row.participant_name or row.participant_identity,
        input_type=INPUT_TYPES[Door(row.kind)],
        status=STATUS[live.state(row)],
        participant_identity=row.participant_identity,
        bitrate=round(sum(publication.meters[t.id].bitrate for t in publication.tracks if not t.layer)) if publication else 0,
        width=video.width if video else 0,
        height=video.height if video else 0,
        started_at=instant(publication.opened_wallclock if publication else row.started_at),
        viewers=live.viewers(row),
        room=row.room,
        created_at=instant(row.created_at) or "",
        error=live.error(row),
        record=row.record,
    )


def _grant(row: Row, slug: str, urls: Urls) -> dict[str, Any]:
    whip = urls.whip(slug, row.room)
    addresses = _rtmp(urls)
    if row.kind == Door.WHIP:
        addresses = {"url": whip, "whip_url": whip}
    elif row.kind == Door.URL:
        addresses = {"url": masked_source(row.url or "")}
    return {
        **addresses,
        "ingress_id": row.id,
        "stream_key": row.stream_key,
        "room_name": row.room,
        "stream_key_": row.stream_key,
        "stream_password": UNSET if row.password is None else row.password,
        "requires_password": row.password is not None,
        "player_url": urls.play(slug, row.room),
        "embed_iframe": urls.iframe(slug, row.room),
    }


def _rtmp(urls: Urls) -> dict[str, Any]:
    addresses = {"url": urls.rtmp, "rtmp_url": urls.rtmp, "rtmps_url": urls.rtmps}
    return {**addresses, "srt_url": urls.srt} if urls.srt else addresses


_COMMON: dict[str, Any] = {
    "ingress_id": "IN_a1B2c3D4e5F6",
    "url": "rtmp://media.example.com:1935/live",
    "stream_key": "x" * 32,
    "room_name": "live-demo",
    "rtmp_url": "rtmp://media.example.com:1935/live",
    "rtmps_url": "rtmps://media.example.com:1935/live",
    "stream_key_": "x" * 32,
    "requires_password": False,
    "player_url": "https://media.example.com/play/live/live-demo",
    "embed_iframe": '<iframe src="https://media.example.com/embed/live/live-demo" …></iframe>',
}
_GRANT = IngressGrant(**_COMMON)
_ROW = IngressRow(
    **_COMMON,
    name="OBS Studio",
    input_type="rtmp",
    status="publishing",
    participant_identity="obs",
    bitrate=2_501_000,
    width=1280,
    height=720,
    started_at="2026-03-29T14:30:00.000Z",
    viewers=3,
    room="live-demo",
    created_at="2026-03-29T14:00:00.000Z",
    error=None,
)
_WHIP_ROW = msgspec.structs.replace(
    _ROW,
    ingress_id="IN_g7H8i9J0k1L2",
    url="https://media.example.com/whip/live/live-demo",
    rtmp_url=UNSET,
    rtmps_url=UNSET,
    whip_url="https://media.example.com/whip/live/live-demo",
    name="Browser",
    input_type="whip",
    participant_identity="browser",
)
