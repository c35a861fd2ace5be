"""Simulcast targets of a room: where its programme is sent on to, and how that goes. Keys are never shown whole."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from medianode import clock
from medianode.api.problems import OPERATOR
from medianode.api.router import AnyRoute, Call, Empty, Route
from medianode.api.shapes import Data
from medianode.auth import Permission, Principal
from medianode.control.projects import Projects
from medianode.control.targets import KEY_LENGTH, METADATA, Targets, masked_key, masked_url
from medianode.egress.push.service import PushService
from medianode.errors import NotFound
from medianode.media.names import room_name
from medianode.outbound import URL_LENGTH
from medianode.store.projects import Project
from medianode.store.targets import PushTarget

State = Literal["idle", "starting", "broadcasting", "failed"]
Url = Annotated[
    str,
    Meta(
        max_length=URL_LENGTH,
        description="rtmp://host/app or rtmps://…, with the key behind it where streamKey is not given; http(s):// of a WHIP endpoint. "
        "Of a public address or one that outbound.allow permits",
    ),
]
Key = Annotated[str, Meta(max_length=KEY_LENGTH, description="RTMP: appended to the URL; WHIP: sent as Bearer token. Kept sealed")]
Labels = Annotated[dict[str, Annotated[str, Meta(max_length=255)]], Meta(max_length=METADATA)]


class TargetView(msgspec.Struct, rename="camel"):
    """Of `url`, `alternateUrl` and `streamKey` only the last characters of what may be a key are shown.

    `state`: `idle` (the room is off air, or `enabled` is false), `starting`, `broadcasting` (the target has acknowledged media), `failed`:
    tried again at `nextAttemptAt`, `error` says why. `since`: when the state changed. The other figures are of this session of the room,
    and zero while it is off air or another node sends: `attempts` to connect, `bitrate` in bit/s, `sentBytes` and `acknowledgedBytes`
    of this connection, `droppedPackets` because the target was slow, `treatment` of picture and sound (`copy`, `opus-to-aac`, …),
    `onAlternate` that the alternate URL is in use, `targetSays` its last words.
    """

    id: str
    room: str
    ingress_id: str | None
    url: str
    stream_key: str | None
    alternate_url: str | None
    enabled: bool
    metadata: dict[str, str]
    state: str
    error: str
    error_code: str
    created_at: str
    updated_at: str
    since: str | None = None
    next_attempt_at: str | None = None
    attempts: int = 0
    on_alternate: bool = False
    bitrate: int = 0
    sent_bytes: int = 0
    acknowledged_bytes: int = 0
    dropped_packets: int = 0
    treatment: dict[str, str] = {}
    target_says: str = ""


class NewTarget(msgspec.Struct, rename="camel"):
    """`alternateUrl` is tried after two failures in a row, with the same key, and the first one again after two of its own."""

    url: Url
    stream_key: Key = ""
    alternate_url: Url = ""
    enabled: bool = True
    metadata: Labels = {}


class TargetChange(msgspec.Struct, rename="camel"):
    """What is absent stays as it is; an empty `streamKey` or `alternateUrl` is taken away. Where need be the connection is made anew."""

    url: Url | None = None
    stream_key: Key | None = None
    alternate_url: Url | None = None
    enabled: bool | None = None
    metadata: Labels | None = None


class TargetsApi:
    def __init__(self, projects: Projects, targets: Targets, pushing: PushService) -> None:
        self._projects = projects
        self._targets = targets
        self._pushing = pushing

    @property
    def routes(self) -> list[AnyRoute]:
        common: dict[str, Any] = {"dialect": OPERATOR, "tag": "Simulcast", "auth": Permission.LIVE}
        all_of, one = "/api/v1/apps/{app}/rooms/{room}/targets", "/api/v1/apps/{app}/rooms/{room}/targets/{target}"
        return [
            Route(
                method="GET",
                path="/api/v1/apps/{app}/targets",
                handler=self.list_all,
                response=Data[list[TargetView]],
                summary="Simulcast targets of all rooms",
                example=Data([_EXAMPLE]),
                **common,
            ),
            Route(
                method="GET",
                path=all_of,
                handler=self.list_targets,
                response=Data[list[TargetView]],
                summary="Where a room is sent on to, and how that goes",
                example=Data([_EXAMPLE]),
                **common,
            ),
            Route(
                method="POST",
                path=all_of,
                handler=self.create,
                request=NewTarget,
                response=Data[TargetView],
                status=201,
                errors=(409,),
                summary="Send a room on to an RTMP(S) or WHIP server while it is on air",
                request_example=NewTarget("rtmps://a.rtmps.youtube.com/live2", "abcd-1234-efgh-5678-ijkl"),
                example=Data(_EXAMPLE),
                **common,
            ),
            Route(
                method="GET",
                path=one,
                handler=self.get,
                response=Data[TargetView],
                summary="One target",
                example=Data(_EXAMPLE),
                **common,
            ),
            Route(
                method="PATCH",
                path=one,
                handler=self.change,
                request=TargetChange,
                response=Data[TargetView],
                errors=(409,),
                summary="Change a target, switch it off or on",
                request_example=TargetChange(enabled=False),
                example=Data(_EXAMPLE),
                **common,
            ),
            Route(method="DELETE", path=one, handler=self.delete, status=204, summary="Send there no more, and forget it", **common),
        ]

    async def list_all(self, call: Call[Principal, Empty, Empty]) -> Data[list[TargetView]]:
        project = await self._projects.get(call.path("app"))
        return Data([self._view(target) for target in await self._targets.list(project.id)])

    async def list_targets(self, call: Call[Principal, Empty, Empty]) -> Data[list[TargetView]]:
        project, room = await self._room(call)
        return Data([self._view(target) for target in await self._targets.list(project.id, room)])

    async def create(self, call: Call[Principal, NewTarget, Empty]) -> Data[TargetView]:
        project, room = await self._room(call)
        body = call.body
        made = await self._targets.create(
            project,
            room,
            body.url,
            body.stream_key or None,
            alternate_url=body.alternate_url or None,
            metadata=body.metadata,
            enabled=body.enabled,
        )
        return Data(self._view(made))

    async def get(self, call: Call[Principal, Empty, Empty]) -> Data[TargetView]:
        return Data(self._view(await self._target(call)))

    async def change(self, call: Call[Principal, TargetChange, Empty]) -> Data[TargetView]:
        target, body = await self._target(call), call.body
        changed = await self._targets.change(
            target.project_id,
            target.id,
            enabled=body.enabled,
            metadata=body.metadata,
            url=body.url or None,
            stream_key=body.stream_key,
            alternate_url=body.alternate_url,
        )
        return Data(self._view(changed))

    async def delete(self, call: Call[Principal, Empty, Empty]) -> None:
        target = await self._target(call)
        await self._targets.delete(target.project_id, target.id)

    async def _room(self, call: Call[Principal, Any, Empty]) -> tuple[Project, str]:
        project = await self._projects.get(call.path("app"))
        return project, room_name(project.slug, call.path("room"))

    async def _target(self, call: Call[Principal, Any, Empty]) -> PushTarget:
        project, room = await self._room(call)
        target = await self._targets.get(project.id, call.path("target"))
        if target.room != room:
            raise NotFound("no such simulcast target in this room", code="no-such-target")
        return target

    def _view(self, target: PushTarget) -> TargetView:
        view = TargetView(
            id=target.id,
            room=target.room,
            ingress_id=target.ingress_id,
            url=masked_url(target.url, target.stream_key),
            stream_key=masked_key(target.stream_key),
            alternate_url=None if target.alternate_url is None else masked_url(target.alternate_url, target.stream_key),
            enabled=target.enabled,
            metadata=dict(target.metadata),
            state=target.state,
            error=target.error_message,
            error_code=target.error_code,
            created_at=clock.iso(target.created_at),
            updated_at=clock.iso(target.updated_at),
        )
        supervisor = self._pushing.find(target.id)
        if supervisor is None or not target.enabled:
            return view
        report = supervisor.report
        wait = supervisor.retry_at - clock.now()
        return msgspec.structs.replace(
            view,
            state=supervisor.state,
            error=supervisor.message,
            error_code=supervisor.code,
            since=clock.iso(supervisor.since),
            next_attempt_at=clock.iso(clock.wallclock() + wait) if supervisor.retry_at and wait > 0 else None,
            attempts=supervisor.attempts,
            on_alternate=supervisor.on_alternate,
            bitrate=round(report.bitrate),
            sent_bytes=report.sent_bytes,
            acknowledged_bytes=report.acknowledged_bytes,
            dropped_packets=report.dropped_packets,
            treatment=dict(report.treatment),
            target_says=supervisor.without_secrets(report.last_words),
        )


_EXAMPLE = TargetView(
    id="9217422d89288ad5958d4a86e6afd2a3",
    room="live-demo",
    ingress_id=None,
    url="rtmps://a.rtmps.youtube.com/live2",
    stream_key="…ijkl",
    alternate_url=None,
    enabled=True,
    metadata={"channel": "main"},
    state="broadcasting",
    error="",
    error_code="",
    created_at="2026-03-29T14:30:00.000Z",
    updated_at="2026-03-29T14:30:00.000Z",
    since="2026-03-29T14:31:02.500Z",
    attempts=1,
    bitrate=2_630_000,
    sent_bytes=41_200_000,
    acknowledged_bytes=41_000_000,
    treatment={"video": "copy", "audio": "opus-to-aac"},
)
