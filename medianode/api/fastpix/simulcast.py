"""`/v1/live/streams/{id}/simulcast`: other services that a live stream is sent on to."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from medianode.api.fastpix.shapes import Data, Desk, Metadata, SimulcastView, Success, simulcast_view, status_of
from medianode.api.problems import FASTPIX
from medianode.api.router import AnyRoute, Call, Empty, Route
from medianode.auth import Permission, Principal
from medianode.control.broadcasts import Broadcast
from medianode.control.live_streams import LiveStreams
from medianode.control.targets import Targets
from medianode.errors import Conflict, NotFound
from medianode.media.names import shown
from medianode.store.projects import Project
from medianode.store.targets import PushTarget

Url = Annotated[str, Meta(min_length=1, max_length=2000)]
Key = Annotated[str, Meta(max_length=1000)]


class CreateSimulcast(msgspec.Struct, rename="camel"):
    """`url`: rtmp://, rtmps://, or http(s):// of a WHIP endpoint, where `streamKey` is the Bearer token."""

    url: Url
    stream_key: Key = ""
    metadata: Metadata = {}


class ChangeSimulcast(msgspec.Struct, rename="camel"):
    is_enabled: bool | None = None
    metadata: Metadata | None = None


class Simulcast:
    def __init__(self, desk: Desk, streams: LiveStreams, targets: Targets) -> None:
        self._desk = desk
        self._streams = streams
        self._targets = targets

    @property
    def routes(self) -> list[AnyRoute]:
        common: dict[str, Any] = {"dialect": FASTPIX, "tag": "FastPix", "auth": Permission.LIVE}
        path = "/live/streams/{id}/simulcast"
        one: dict[str, Any] = {"path": f"/v1{path}/{{target}}", "aliases": (f"{path}/{{target}}",), **common}
        example = Data(True, _EXAMPLE)
        return [
            Route(
                method="POST",
                path=f"/v1{path}",
                aliases=(path,),
                handler=self.create,
                request=CreateSimulcast,
                response=Data[SimulcastView],
                status=201,
                errors=(409,),
                summary="Send a live stream on to another service; while it is idle",
                request_example=CreateSimulcast("rtmps://live.example.net:443/app", "secret-key"),
                example=example,
                **common,
            ),
            Route(method="GET", handler=self.get, response=Data[SimulcastView], summary="One simulcast", example=example, **one),
            Route(
                method="PUT",
                handler=self.change,
                request=ChangeSimulcast,
                response=Data[SimulcastView],
                summary="Switch a simulcast on or off",
                request_example=ChangeSimulcast(is_enabled=False),
                example=example,
                **one,
            ),
            Route(method="DELETE", handler=self.delete, response=Success, summary="Delete a simulcast", **one),
        ]

    async def create(self, call: Call[Principal, CreateSimulcast, Empty]) -> Data[SimulcastView]:
        project, broadcast = await self._stream(call)
        status = status_of(broadcast, self._desk.live)
        if status != "idle":
            raise Conflict(f"a simulcast is made while its live stream is idle; this one is {status}", code="simulcast-unavailable")
        body, ingress = call.body, broadcast.ingress
        made = await self._targets.create(
            project, ingress.room, body.url, body.stream_key or None, ingress_id=ingress.id, metadata=body.metadata
        )
        return Data(True, simulcast_view(made))

    async def get(self, call: Call[Principal, Empty, Empty]) -> Data[SimulcastView]:
        _, target = await self._target(call)
        return Data(True, simulcast_view(target))

    async def change(self, call: Call[Principal, ChangeSimulcast, Empty]) -> Data[SimulcastView]:
        project, target = await self._target(call)
        changed = await self._targets.change(project.id, target.id, enabled=call.body.is_enabled, metadata=call.body.metadata)
        return Data(True, simulcast_view(changed))

    async def delete(self, call: Call[Principal, Empty, Empty]) -> Success:
        project, target = await self._target(call)
        await self._targets.delete(project.id, target.id)
        return Success(True)

    async def _stream(self, call: Call[Principal, Any, Any]) -> tuple[Project, Broadcast]:
        project = await self._desk.project(call.who)
        return project, await self._streams.get(project.id, call.path("id"))

    async def _target(self, call: Call[Principal, Any, Any]) -> tuple[Project, PushTarget]:
        project, broadcast = await self._stream(call)
        target = await self._targets.get(project.id, call.path("target"))
        if target.ingress_id != broadcast.ingress.id:
            raise NotFound(f"live stream {broadcast.ingress.id}: no simulcast {shown(target.id)}")
        return project, target


_EXAMPLE = SimulcastView("7c5a4f5e-8a0b-4c43-8e0f-9d3c1f5b2a77", "rtmps://live.example.net:443/app", "…-key", True)
