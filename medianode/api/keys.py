"""API keys: made, listed, rotated, revoked. Their text is shown once."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from medianode import clock
from medianode.api.admin import Slice
from medianode.api.live import instant
from medianode.api.problems import OPERATOR
from medianode.api.router import AnyRoute, Call, Empty, Route
from medianode.api.shapes import Data, Page
from medianode.auth import Permission, Principal
from medianode.control import tokens
from medianode.control.keys import NETWORKS, OVERLAP, Keys
from medianode.control.projects import Projects
from medianode.errors import Conflict, Forbidden, InvalidRequest, NotFound
from medianode.media.names import shown
from medianode.store.keys import ApiKey

Granted = Literal["admin", "live", "moderate", "video", "view"]
Span = Annotated[str, Meta(max_length=32, description="6h, 30m, 90s, 2d, or seconds")]
Seconds = Annotated[float, Meta(ge=0, le=1e10)]


class KeyView(msgspec.Struct, rename="camel"):
    """`project` is an id; null for a key to the whole node. `key` comes once: when it is made, and when it is rotated; the one before is
    then good until `previousUntil`. `allowedAddresses` null: it may be used from anywhere.
    """

    id: str
    name: str
    project: str | None
    permissions: list[str]
    created_at: str
    expires_at: str | None
    last_used_at: str | None
    revoked_at: str | None
    previous_until: str | None
    allowed_addresses: list[str] | None
    key: str | UnsetType = UNSET


class NewKeyRequest(msgspec.Struct, rename="camel"):
    """`project`: slug or id; absent: the project of the asking key, or the whole node where that is not bound to one.

    Either `expiresAt` (RFC 3339) or `ttl`, or neither: then it is good until it is revoked.
    """

    name: Annotated[str, Meta(min_length=1, max_length=200)]
    permissions: Annotated[list[Granted], Meta(min_length=1, max_length=5)]
    project: Annotated[str, Meta(max_length=64)] | None = None
    expires_at: Annotated[str, Meta(max_length=40)] | None = None
    ttl: Span | Seconds | None = None
    allowed_addresses: Annotated[list[Annotated[str, Meta(max_length=64)]], Meta(min_length=1, max_length=NETWORKS)] | None = None


class Rotation(msgspec.Struct):
    """`overlap`: how long the old text stays good; 0 ends it at once."""

    overlap: Span | Seconds = OVERLAP


class KeysApi:
    def __init__(self, projects: Projects, keys: Keys) -> None:
        self._projects = projects
        self._keys = keys

    @property
    def routes(self) -> list[AnyRoute]:
        common: dict[str, Any] = {"dialect": OPERATOR, "tag": "Operator", "auth": Permission.ADMIN}
        return [
            Route(
                method="GET",
                path="/api/v1/keys",
                handler=self.list_keys,
                query=Slice,
                response=Page[KeyView],
                summary="API keys, revoked ones too; never their text",
                example=Page([_KEY], 1, 100, 0),
                **common,
            ),
            Route(
                method="POST",
                path="/api/v1/keys",
                handler=self.create_key,
                request=NewKeyRequest,
                response=Data[KeyView],
                status=201,
                errors=(404,),
                summary="Make an API key; its text is shown this once",
                request_example=NewKeyRequest(
                    name="backend", permissions=["live"], project="live", ttl="90d", allowed_addresses=["203.0.113.0/24"]
                ),
                example=Data(msgspec.structs.replace(_KEY, key=_TEXT)),
                **common,
            ),
            Route(
                method="POST",
                path="/api/v1/keys/{key}/rotate",
                handler=self.rotate_key,
                request=Rotation,
                response=Data[KeyView],
                summary="Give a key a new text; the old one is good for a while longer",
                request_example=Rotation(overlap="1h"),
                example=Data(msgspec.structs.replace(_KEY, key=_TEXT, previous_until="2026-04-01T01:00:00.000Z")),
                **common,
            ),
            Route(
                method="DELETE",
                path="/api/v1/keys/{key}",
                handler=self.revoke_key,
                response=Data[KeyView],
                errors=(409,),
                summary="Revoke a key, which puts out who views by it; it stays in the list",
                example=Data(msgspec.structs.replace(_KEY, revoked_at="2026-04-01T00:00:00.000Z")),
                **common,
            ),
        ]

    async def list_keys(self, call: Call[Principal, Empty, Slice]) -> Page[KeyView]:
        limit, offset = call.query.limit, call.query.offset
        found = await self._keys.list(None if call.who.node else call.who.project_id, 10_000)
        return Page([key_view(k) for k in found[offset : offset + limit]], len(found), limit, offset)

    async def create_key(self, call: Call[Principal, NewKeyRequest, Empty]) -> Data[KeyView]:
        new, project = call.body, call.body.project
        if not call.who.node:
            own = await self._projects.get(call.who.project_id or "")
            if project not in (None, own.id, own.slug):
                raise NotFound(f"no project {shown(project or '')}")
            project = own.id
        lacking = sorted(p for p in new.permissions if not call.who.may(Permission(p)))
        if lacking:
            raise Forbidden(f"this key cannot grant what it lacks itself: {', '.join(lacking)}", code="permission-not-held")
        made = await self._keys.create(new.name, new.permissions, project, expires_at=_expiry(new), allowed_addresses=new.allowed_addresses)
        return Data(msgspec.structs.replace(key_view(made.key), key=made.secret))

    async def rotate_key(self, call: Call[Principal, Rotation, Empty]) -> Data[KeyView]:
        key = await self._seen(call)
        wanted = call.body.overlap
        overlap = wanted if isinstance(wanted, float | int) else 0.0 if wanted.strip() in ("0", "0s") else tokens.span(wanted)
        made = await self._keys.rotate(key.id, float(overlap))
        return Data(msgspec.structs.replace(key_view(made.key), key=made.secret))

    async def revoke_key(self, call: Call[Principal, Empty, Empty]) -> Data[KeyView]:
        if call.path("key") == call.who.key_id:
            raise Conflict("this key makes this very request: revoke it with another one", code="own-key")
        return Data(key_view(await self._keys.revoke((await self._seen(call)).id)))

    async def _seen(self, call: Call[Principal, Any, Empty]) -> ApiKey:
        """A project's key sees those of its own project. Raises NotFound."""
        key = await self._keys.get(call.path("key"))
        if not call.who.node and key.project_id != call.who.project_id:
            raise NotFound(f"no key {shown(call.path('key'))}")
        return key


def _expiry(new: NewKeyRequest) -> float | None:
    if new.expires_at is not None and new.ttl is not None:
        raise InvalidRequest("expiresAt: expected either it or ttl")
    if new.ttl is not None:
        return clock.wallclock() + tokens.span(new.ttl)
    if new.expires_at is None:
        return None
    try:
        return clock.seconds(new.expires_at)
    except (ValueError, OverflowError):
        message = f"expiresAt: expected an instant such as 2027-01-31T00:00:00Z, got {shown(new.expires_at)}"
        raise InvalidRequest(message) from None


def key_view(key: ApiKey) -> KeyView:
    return KeyView(
        id=key.id,
        name=key.name,
        project=key.project_id,
        permissions=sorted(key.permissions),
        created_at=clock.iso(key.created_at),
        expires_at=instant(key.expires_at),
        last_used_at=instant(key.last_used_at),
        revoked_at=instant(key.revoked_at),
        previous_until=instant(key.previous_until),
        allowed_addresses=None if key.allowed_addresses is None else list(key.allowed_addresses),
    )


_TEXT = "sk_" + "x" * 43
_KEY = KeyView(
    "key_0123456789ab",
    "backend",
    "prj_0123456789ab",
    ["live"],
    "2026-03-29T14:30:00.000Z",
    "2026-06-27T14:30:00.000Z",
    None,
    None,
    None,
    ["203.0.113.0/24"],
)
