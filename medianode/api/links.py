"""Signed view links, and the revocation of room tokens."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from urllib.parse import urlencode

import msgspec
from msgspec import UNSET, Meta, UnsetType

from medianode import clock
from medianode.api.admin import Slice
from medianode.api.fields import OptionalIdentity, RoomName
from medianode.api.live import instant
from medianode.api.problems import OPERATOR
from medianode.api.router import AnyRoute, Call, Empty, Route
from medianode.api.shapes import Data, Page
from medianode.api.urls import Ports, Urls
from medianode.auth import Permission, Principal
from medianode.control.links import Links
from medianode.control.projects import Projects
from medianode.control.tokens import TOKEN_LENGTH
from medianode.origin import Origin
from medianode.store.links import ViewLink

Span = Annotated[str, Meta(max_length=32, description="6h, 30m, 90s, 2d, or seconds; up to 30 d")]


class NewLinkRequest(msgspec.Struct, rename="camel"):
    """For a `room`, or for the room of a live stream by one of its playback ids. `identity`: whom it is given to, for your own records."""

    room: RoomName = ""
    playback_id: Annotated[str, Meta(max_length=36)] = ""
    ttl: Span | Annotated[float, Meta(gt=0, le=1e10)] = "1h"
    identity: OptionalIdentity = ""


class LinkUrls(msgspec.Struct):
    """Each carries the token: who has the address may view."""

    play: str
    embed: str
    hls: str
    whep: str
    mjpeg: str
    rtmp: str


class LinkView(msgspec.Struct, rename="camel"):
    """`state`: `good`, `expired` or `revoked`. `token` and `urls` come once, when it is made: the node keeps no token."""

    id: str
    app: str
    room: str
    identity: str
    state: Literal["good", "expired", "revoked"]
    created_at: str
    expires_at: str
    revoked_at: str | None
    token: str | UnsetType = UNSET
    urls: LinkUrls | UnsetType = UNSET


class LinkSlice(Slice):
    room: RoomName = ""


class TokenToRevoke(msgspec.Struct):
    token: Annotated[str, Meta(min_length=1, max_length=TOKEN_LENGTH)]


class RevokedView(msgspec.Struct, rename="camel"):
    """`id`: the token's `jti`, or its digest where it has none of its own."""

    id: str
    room: str
    identity: str
    revoked: bool = True


class LinksApi:
    def __init__(self, projects: Projects, links: Links, origin: Origin, ports: Ports) -> None:
        self._projects = projects
        self._links = links
        self._origin = origin
        self._ports = ports

    @property
    def routes(self) -> list[AnyRoute]:
        common: dict[str, Any] = {"dialect": OPERATOR, "tag": "Operator", "auth": Permission.LIVE}
        some, one = "/api/v1/apps/{app}/view-links", "/api/v1/apps/{app}/view-links/{link}"
        return [
            Route(
                method="POST",
                path=some,
                handler=self.create_link,
                request=NewLinkRequest,
                response=Data[LinkView],
                status=201,
                summary="Make a signed link to view a room, good for a while",
                request_example=NewLinkRequest(room="demo", ttl="2h", identity="customer-17"),
                example=Data(msgspec.structs.replace(_LINK, token=_TOKEN, urls=_URLS)),
                **common,
            ),
            Route(
                method="GET",
                path=some,
                handler=self.list_links,
                query=LinkSlice,
                response=Page[LinkView],
                summary="View links, newest first; those that expired over a day ago are forgotten",
                example=Page([_LINK], 1, 100, 0),
                **common,
            ),
            Route(
                method="GET",
                path=one,
                handler=self.get_link,
                response=Data[LinkView],
                summary="One view link",
                example=Data(_LINK),
                **common,
            ),
            Route(
                method="DELETE",
                path=one,
                handler=self.revoke_link,
                response=Data[LinkView],
                summary="Revoke a view link: who views by it is put out",
                example=Data(msgspec.structs.replace(_LINK, state="revoked", revoked_at="2026-03-29T15:00:00.000Z")),
                **common,
            ),
            Route(
                method="POST",
                path="/api/v1/apps/{app}/tokens/revoke",
                handler=self.revoke_token,
                request=TokenToRevoke,
                response=Data[RevokedView],
                summary="Revoke a room token: who views or publishes by it is put out",
                request_example=TokenToRevoke(_TOKEN),
                example=Data(RevokedView("9f1c2ab07e5d4c31", "live-demo", "phone-42")),
                **common,
            ),
        ]

    async def create_link(self, call: Call[Principal, NewLinkRequest, Empty]) -> Data[LinkView]:
        new, project = call.body, await self._projects.get(call.path("app"))
        made = await self._links.create(project, new.room, playback_id=new.playback_id, ttl=new.ttl, identity=new.identity)
        urls = Urls.of(self._origin, call.request, self._ports)
        where = project.slug, made.link.room
        addresses = LinkUrls(
            play=urls.play(*where),
            embed=urls.embed(*where),
            hls=urls.playback(new.playback_id) if new.playback_id else urls.hls(*where),
            whep=urls.whep(*where),
            mjpeg=urls.mjpeg(*where),
            rtmp=urls.rtmp_play(*where),
        )
        token = urlencode({"token": made.token})
        signed = LinkUrls(**{kind: f"{address}?{token}" for kind, address in msgspec.structs.asdict(addresses).items()})
        return Data(msgspec.structs.replace(link_view(made.link, project.slug), token=made.token, urls=signed))

    async def list_links(self, call: Call[Principal, Empty, LinkSlice]) -> Page[LinkView]:
        project, wanted = await self._projects.get(call.path("app")), call.query
        found, total = await self._links.list(project, room=wanted.room, limit=wanted.limit, offset=wanted.offset)
        return Page([link_view(link, project.slug) for link in found], total, wanted.limit, wanted.offset)

    async def get_link(self, call: Call[Principal, Empty, Empty]) -> Data[LinkView]:
        project = await self._projects.get(call.path("app"))
        return Data(link_view(await self._links.get(project.id, call.path("link")), project.slug))

    async def revoke_link(self, call: Call[Principal, Empty, Empty]) -> Data[LinkView]:
        project = await self._projects.get(call.path("app"))
        return Data(link_view(await self._links.revoke(project.id, call.path("link")), project.slug))

    async def revoke_token(self, call: Call[Principal, TokenToRevoke, Empty]) -> Data[RevokedView]:
        token = await self._links.revoke_token(await self._projects.get(call.path("app")), call.body.token)
        return Data(RevokedView(token.id, token.room, token.identity))


def link_view(link: ViewLink, slug: str) -> LinkView:
    state: Literal["good", "expired", "revoked"] = "good"
    if link.revoked_at is not None:
        state = "revoked"
    elif clock.wallclock() >= link.expires_at:
        state = "expired"
    return LinkView(
        id=link.id,
        app=slug,
        room=link.room,
        identity=link.identity,
        state=state,
        created_at=clock.iso(link.created_at),
        expires_at=clock.iso(link.expires_at),
        revoked_at=instant(link.revoked_at),
    )


_TOKEN = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.….…"  # noqa: S105 - an example, signed by nobody
_URLS = LinkUrls(
    play="https://media.example.com/play/live/live-demo?token=eyJ…",
    embed="https://media.example.com/embed/live/live-demo?token=eyJ…",
    hls="https://media.example.com/hls/live/live-demo/index.m3u8?token=eyJ…",
    whep="https://media.example.com/whep/live/live-demo?token=eyJ…",
    mjpeg="https://media.example.com/live/live/live-demo/mjpeg?token=eyJ…",
    rtmp="rtmp://media.example.com:1935/live/live-demo?token=eyJ…",
)
_LINK = LinkView(
    id="vl_0123456789abcdef01234567",
    app="live",
    room="live-demo",
    identity="customer-17",
    state="good",
    created_at="2026-03-29T14:30:00.000Z",
    expires_at="2026-03-29T16:30:00.000Z",
    revoked_at=None,
)
