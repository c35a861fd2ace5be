"""WebRTC viewers of this moment, why one gets less than the others, and what an operator sets for a room."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from medianode import clock
from medianode.api.desk import Desk
from medianode.api.problems import OPERATOR
from medianode.api.router import AnyRoute, Call, Empty, Route
from medianode.api.sessions import Filter
from medianode.api.shapes import Data, Page, page_of
from medianode.auth import Permission, Principal
from medianode.control.audit import AuditLog
from medianode.control.room_options import Options, RoomOptions
from medianode.egress.whep.service import Watcher, WhepService
from medianode.errors import InvalidRequest, NotFound, PeerGone
from medianode.media.names import room_name
from medianode.media.track import Kind


class ViewerView(msgspec.Struct, rename="camel"):
    """`state`: `connecting`, then `live`, `catching-up` (just joined), `thinned` (loses pictures that no other refers to) or `paused`
    (waits for a key frame, or hears sound only), with the `reason`. `loss` of the last report, 0 to 1; `rtt` in seconds; `dropped`:
    packets by cause.
    """

    id: str
    app: str
    room: str
    identity: str
    peer: str
    address: str
    transport: Literal["udp", "tcp"]
    agent: str
    state: str
    reason: str
    video: str
    audio: str
    layer: str
    started_at: str
    uptime: float
    packets: int
    bytes: int
    resent: int
    nacked: int
    dropped: dict[str, int]
    loss: float
    rtt: float


class RoomOptionsView(msgspec.Struct, rename="camel"):
    """`playoutDelay`: seconds that WebRTC viewers buffer: 0 the least delay, 0.3 rides over bad networks; null: the node's own setting.
    `record`: the room's programme is recorded whenever it is on air.
    """

    playout_delay: Annotated[float, Meta(ge=0, le=10)] | None = None
    record: bool = False


class RoomOptionsChange(msgspec.Struct, rename="camel"):
    """What is absent stays as it is; `record` counts at once, for a room that is on air too."""

    playout_delay: Annotated[float, Meta(ge=0, le=10)] | UnsetType | None = UNSET
    record: bool | UnsetType = UNSET


class Viewers:
    def __init__(self, desk: Desk, options: RoomOptions, whep: WhepService | None, log: AuditLog) -> None:
        self._desk = desk
        self._log = log
        self._options = options
        self._whep = whep

    @property
    def routes(self) -> list[AnyRoute]:
        common: dict[str, Any] = {"dialect": OPERATOR, "tag": "Operator", "auth": Permission.LIVE}
        room = "/api/v1/projects/{project}/rooms/{room}/options"
        return [
            Route(
                method="GET",
                path="/api/v1/viewers",
                handler=self.list_viewers,
                query=Filter,
                response=Page[ViewerView],
                summary="WebRTC viewers of this moment, and how each of them fares",
                example=Page([_EXAMPLE], 1, 100, 0),
                **common,
            ),
            Route(method="DELETE", path="/api/v1/viewers/{viewer}", handler=self.put_out, status=204, summary="Put a viewer out", **common),
            Route(
                method="GET",
                path=room,
                handler=self.get_options,
                response=Data[RoomOptionsView],
                summary="What is set for one room",
                example=Data(RoomOptionsView(0.2)),
                **common,
            ),
            Route(
                method="PUT",
                path=room,
                handler=self.put_options,
                request=RoomOptionsChange,
                response=Data[RoomOptionsView],
                summary="Set it; viewers who are watching feel it at once",
                request_example=RoomOptionsChange(0.2),
                example=Data(RoomOptionsView(0.2)),
                **common,
            ),
        ]

    async def list_viewers(self, call: Call[Principal, Empty, Filter]) -> Page[ViewerView]:
        wanted = call.query
        found = [w for w in self._visible(call.who) if wanted.app in ("", w.grant.slug) and wanted.room in ("", w.grant.room)]
        return page_of([view_of(w) for w in found], wanted.limit, wanted.offset)

    async def put_out(self, call: Call[Principal, Empty, Empty]) -> None:
        wanted = call.path("viewer")
        watcher = next((w for w in self._visible(call.who) if w.id == wanted), None)
        if watcher is None:
            raise NotFound("no such viewer: it has left, or never was", code="no-such-viewer")
        await self._log.write("viewer.put-out", wanted, watcher.grant.project_id, room=watcher.grant.room, identity=watcher.grant.identity)
        watcher.close(PeerGone("put out by the operator", code="put-out"))

    async def get_options(self, call: Call[Principal, Empty, Empty]) -> Data[RoomOptionsView]:
        return Data(_shown(self._options.get(*await self._room(call))))

    async def put_options(self, call: Call[Principal, RoomOptionsChange, Empty]) -> Data[RoomOptionsView]:
        given = {name: value for name, value in msgspec.structs.asdict(call.body).items() if value is not UNSET}
        if not given:
            raise InvalidRequest("playoutDelay: expected this or record, got neither")
        project_id, room = await self._room(call)
        options = msgspec.structs.replace(self._options.get(project_id, room), **given)
        await self._options.put(project_id, room, options)
        return Data(_shown(options))

    async def _room(self, call: Call[Principal, Any, Empty]) -> tuple[str, str]:
        project = await self._desk.project(call)
        return project.id, room_name(project.slug, call.path("room"))

    def _visible(self, who: Principal) -> list[Watcher]:
        watchers = () if self._whep is None else self._whep.watchers.values()
        return [w for w in watchers if who.node or w.grant.project_id == who.project_id]


def _shown(options: Options) -> RoomOptionsView:
    return RoomOptionsView(options.playout_delay, options.record)


def view_of(watcher: Watcher) -> ViewerView:
    stats = watcher.viewer.stats if watcher.viewer is not None else None
    codecs = {send.kind: send.codec.value for send in watcher.sends}
    return ViewerView(
        id=watcher.id,
        app=watcher.grant.slug,
        room=watcher.grant.room,
        identity=watcher.grant.identity,
        peer=watcher.source,
        address=watcher.peer.remote_text,
        transport=watcher.peer.transport,
        agent=watcher.agent,
        state=stats.state if stats else "connecting",
        reason=stats.reason if stats else "",
        video=codecs.get(Kind.VIDEO, ""),
        audio=codecs.get(Kind.AUDIO, ""),
        layer=watcher.layer,
        started_at=clock.iso(watcher.opened_wallclock),
        uptime=round(clock.now() - watcher.opened_at, 1),
        packets=stats.packets if stats else 0,
        bytes=stats.nbytes if stats else 0,
        resent=stats.resent if stats else 0,
        nacked=stats.nacked if stats else 0,
        dropped=dict(stats.dropped) if stats else {},
        loss=round(stats.loss, 4) if stats else 0.0,
        rtt=round(stats.rtt, 4) if stats else 0.0,
    )


_EXAMPLE = ViewerView(
    id="9f1c2ab07e5d4c31",
    app="live",
    room="live-demo",
    identity="",
    peer="192.0.2.20",
    address="192.0.2.20:51344",
    transport="udp",
    agent="Mozilla/5.0 … Chrome/156.0",
    state="thinned",
    reason="loss 12 %: pictures that no other refers to are left out",
    video="h264",
    audio="opus",
    layer="",
    started_at="2026-03-29T14:30:00.000Z",
    uptime=81.4,
    packets=25_920,
    bytes=25_400_000,
    resent=310,
    nacked=322,
    dropped={"thinned": 240},
    loss=0.12,
    rtt=0.043,
)
