"""What a room shows while its publisher is gone: a slate, or a backup ingress."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from medianode import clock
from medianode.api.problems import OPERATOR
from medianode.api.router import AnyRoute, Call, Empty, Reading, Route, read_body
from medianode.api.sessions import Showing, showing
from medianode.api.shapes import Data
from medianode.auth import Permission, Principal
from medianode.config import Limits
from medianode.control.fallbacks import CLIP_TYPE, TEXT_LENGTH, Fallbacks
from medianode.control.projects import Projects
from medianode.media.names import room_name
from medianode.routing.registry import Registry
from medianode.store.fallbacks import StoredFallback

Slate = Literal["none", "text", "image", "clip"]
Patience = Annotated[float, Meta(ge=1, le=600)]


class FallbackView(msgspec.Struct, rename="camel"):
    """`showing`: what players see now: `publisher`, `backup`, `slate` or `nothing`. `uploaded`: what there is to show as `slate`."""

    room: str
    slate: Slate
    text: str
    always: bool
    backup: str | None
    frozen: float
    patience: float
    uploaded: Literal["image", "clip"] | None
    showing: Showing
    updated_at: str


class NewFallback(msgspec.Struct, rename="camel"):
    """`slate`: `text` (the built-in picture with the words of `text`), `image` or `clip` (the one uploaded), `none`. It is shown while an
    encoder is waited for (its hold, a live stream's reconnectWindow); with `always` whenever nobody publishes: the room is always on air.
    Recordings do not have it.

    `backup`: an ingress of this room (one that is fetched from a URL on demand, too) that takes over where no other is on air and well: its
    publisher is gone, or without a picture for `frozen` seconds. It gives way at a key frame once another has been well for `patience`
    seconds.
    """

    slate: Slate = "text"
    text: Annotated[str, Meta(max_length=TEXT_LENGTH)] = ""
    always: bool = False
    backup: Annotated[str, Meta(max_length=32)] | None = None
    frozen: Patience = 3.0
    patience: Patience = 5.0


class FallbacksApi:
    def __init__(self, projects: Projects, fallbacks: Fallbacks, registry: Registry, limits: Limits) -> None:
        self._projects = projects
        self._fallbacks = fallbacks
        self._registry = registry
        self._reading = Reading(limits.slate_bytes, limits.request_timeout)

    @property
    def routes(self) -> list[AnyRoute]:
        common: dict[str, Any] = {"dialect": OPERATOR, "tag": "Fallback", "auth": Permission.LIVE}
        path = "/api/v1/apps/{app}/rooms/{room}/fallback"
        shown: dict[str, Any] = {"path": path, "response": Data[FallbackView], "example": Data(_EXAMPLE), **common}
        return [
            Route(method="GET", handler=self.get, summary="What a room shows while its publisher is gone", **shown),
            Route(
                method="PUT",
                handler=self.put,
                request=NewFallback,
                summary="Show a slate, or a backup ingress, while the publisher is gone",
                request_example=NewFallback(text="Back in a moment"),
                **shown,
            ),
            Route(method="DELETE", path=path, handler=self.delete, status=204, summary="Show nothing in its place", **common),
            Route(
                method="PUT",
                handler=self.upload,
                errors=(400, 408, 413),
                summary="A picture (PNG, JPEG) or a clip (MP4, WebM, …; its sound is not kept) as the slate: the body is the file itself",
                **{**shown, "path": f"{path}/slate"},
            ),
        ]

    async def get(self, call: Call[Principal, Empty, Empty]) -> Data[FallbackView]:
        project = await self._projects.get(call.path("app"))
        return Data(self._view(await self._fallbacks.get(project, call.path("room"))))

    async def put(self, call: Call[Principal, NewFallback, Empty]) -> Data[FallbackView]:
        project, new = await self._projects.get(call.path("app")), call.body
        stored = await self._fallbacks.put(
            project,
            call.path("room"),
            slate=new.slate,
            text=new.text,
            always=new.always,
            backup=new.backup or None,
            frozen=new.frozen,
            patience=new.patience,
        )
        return Data(self._view(stored))

    async def delete(self, call: Call[Principal, Empty, Empty]) -> None:
        await self._fallbacks.delete(await self._projects.get(call.path("app")), call.path("room"))

    async def upload(self, call: Call[Principal, Empty, Empty]) -> Data[FallbackView]:
        project = await self._projects.get(call.path("app"))
        room_name(project.slug, call.path("room"))  # a bad one is told before the body is read
        data = await read_body(call.request, self._reading)
        return Data(self._view(await self._fallbacks.upload(project, call.path("room"), data)))

    def _view(self, stored: StoredFallback) -> FallbackView:
        return FallbackView(
            room=stored.room,
            slate=msgspec.convert(stored.slate, Slate),
            text=stored.text,
            always=stored.always,
            backup=stored.backup,
            frozen=stored.frozen,
            patience=stored.patience,
            uploaded="clip" if stored.media_type == CLIP_TYPE else "image" if stored.media_type else None,
            showing=showing(self._registry.find(stored.project_id, stored.room)),
            updated_at=clock.iso(stored.updated_at),
        )


_EXAMPLE = FallbackView(
    room="live-demo",
    slate="text",
    text="Back in a moment",
    always=False,
    backup=None,
    frozen=3.0,
    patience=5.0,
    uploaded=None,
    showing="publisher",
    updated_at="2026-03-29T14:30:00.000Z",
)
