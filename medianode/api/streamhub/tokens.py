"""Room tokens (contracts 2.1): LiveKit-shaped JWTs and the addresses that go with them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from medianode import clock
from medianode.api.fields import OptionalIdentity, RoomName, Text
from medianode.api.problems import STREAMHUB
from medianode.api.router import AnyRoute, Call, Empty, Route
from medianode.api.shapes import Data
from medianode.api.urls import Ports, Urls
from medianode.auth import Gatekeeper, Permission, Principal
from medianode.control import tokens
from medianode.control.projects import Projects
from medianode.control.tokens import METADATA_LENGTH
from medianode.origin import Origin
from medianode.store.projects import Project

Span = Annotated[str, Meta(max_length=32, description="6h, 30m, 90s, 2d, or seconds")]


class TokenRequest(msgspec.Struct, rename="camel"):
    """All optional. No `identity` makes one. A `hidden` or `recorder` token publishes only where `canPublish` says so."""

    room: RoomName = ""
    identity: OptionalIdentity = ""
    name: Text = ""
    can_publish: bool | None = None
    can_subscribe: bool = True
    ttl: Span | Annotated[float, Meta(gt=0)] = "6h"
    metadata: Annotated[str, Meta(max_length=METADATA_LENGTH)] = ""
    hidden: bool = False
    recorder: bool = False
    audio_only: bool = False


class TokenGrant(msgspec.Struct, rename="camel"):
    token: str
    app: str
    room: str
    identity: str
    ws_url: str
    play_url: str
    embed_url: str
    iframe: str
    hidden: bool
    audio_only: bool
    adaptive: bool = False
    mode: Literal["viewer", "listener"] | UnsetType = UNSET


class Tokens:
    def __init__(self, projects: Projects, gatekeeper: Gatekeeper, origin: Origin, ports: Ports) -> None:
        self._projects = projects
        self._gatekeeper = gatekeeper
        self._origin = origin
        self._ports = ports

    @property
    def routes(self) -> list[AnyRoute]:
        common: dict[str, Any] = {"dialect": STREAMHUB, "tag": "StreamHub", "response": Data[TokenGrant]}
        public: dict[str, Any] = {"method": "GET", "auth": None, "errors": (401, 403), **common}
        return [
            Route(
                method="POST",
                path="/api/v1/apps/{app}/tokens",
                handler=self.create_token,
                auth=Permission.LIVE,
                request=TokenRequest,
                status=201,
                summary="Mint a room token",
                request_example=TokenRequest(room="demo", identity="phone-42", can_publish=True, ttl="1h"),
                example=Data(_EXAMPLE),
                **common,
            ),
            Route(
                path="/api/v1/apps/{app}/play-token/{room}",
                handler=self.play_token,
                summary="A viewer's token; without a key only where the app's viewing is public",
                example=Data(msgspec.structs.replace(_EXAMPLE, hidden=True, mode="viewer")),
                **public,
            ),
            Route(
                path="/api/v1/apps/{app}/radio/{room}/listen-token",
                handler=self.listen_token,
                summary="A listener's token, sound only; without a key only where the app's viewing is public",
                example=Data(msgspec.structs.replace(_EXAMPLE, hidden=True, audio_only=True, mode="listener")),
                **public,
            ),
        ]

    async def create_token(self, call: Call[Principal, TokenRequest, Empty]) -> Data[TokenGrant]:
        return self._mint(call, await self._projects.get(call.path("app")), call.body)

    async def play_token(self, call: Call[None, Empty, Empty]) -> Data[TokenGrant]:
        project = await self._open_to(call)
        wanted = TokenRequest(room=call.path("room"), can_publish=False, hidden=True)
        return self._mint(call, project, wanted, "viewer")

    async def listen_token(self, call: Call[None, Empty, Empty]) -> Data[TokenGrant]:
        project = await self._open_to(call)
        wanted = TokenRequest(room=call.path("room"), can_publish=False, hidden=True, audio_only=True)
        return self._mint(call, project, wanted, "listener")

    async def _open_to(self, call: Call[None, Empty, Empty]) -> Project:
        """Where viewing needs a token, anybody's minting it would open every room: then a key is asked for."""
        project = await self._projects.get(call.path("app"))
        if project.viewing != "public":
            header = call.request.headers.get("Authorization")
            await self._gatekeeper.control(header, Permission.VIEW, project.id, source=self._origin.source(call.request))
        return project

    def _mint(
        self, call: Call[Any, Any, Any], project: Project, wanted: TokenRequest, mode: Literal["viewer", "listener"] | UnsetType = UNSET
    ) -> Data[TokenGrant]:
        text, token = tokens.mint(
            project,
            at=clock.wallclock(),
            room=wanted.room,
            identity=wanted.identity or None,
            name=wanted.name,
            ttl=wanted.ttl,
            metadata=wanted.metadata,
            can_publish=wanted.can_publish,
            can_subscribe=wanted.can_subscribe,
            hidden=wanted.hidden,
            recorder=wanted.recorder,
            audio_only=wanted.audio_only,
        )
        urls = Urls.of(self._origin, call.request, self._ports)
        return Data(
            TokenGrant(
                token=text,
                app=project.slug,
                room=token.room,
                identity=token.identity,
                ws_url=urls.ws,
                play_url=urls.play(project.slug, token.room),
                embed_url=urls.embed(project.slug, token.room),
                iframe=urls.iframe(project.slug, token.room),
                hidden=token.hidden,
                audio_only=token.audio_only,
                mode=mode,
            )
        )


_EXAMPLE = TokenGrant(
    token="eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.….…",  # noqa: S106 - an example, signed by nobody
    app="live",
    room="live-demo",
    identity="phone-42",
    ws_url="wss://media.example.com",
    play_url="https://media.example.com/play/live/live-demo",
    embed_url="https://media.example.com/embed/live/live-demo",
    iframe='<iframe src="https://media.example.com/embed/live/live-demo" …></iframe>',
    hidden=False,
    audio_only=False,
)
