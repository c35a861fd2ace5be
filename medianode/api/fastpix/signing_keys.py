"""`/v1/iam/signing-keys`: keys that a customer's own server signs view tokens with."""

from __future__ import annotations

import base64
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from medianode import clock
from medianode.api.fastpix.shapes import Data, Desk, Listed, listed
from medianode.api.problems import FASTPIX
from medianode.api.router import AnyRoute, Call, Empty, Route
from medianode.auth import Permission, Principal
from medianode.control.signing_keys import SigningKeys as UseCases


class Page(msgspec.Struct):
    """Numbers with a point, too: that is how the SDK sends them."""

    limit: Annotated[float, Meta(ge=1, le=500)] = 10
    offset: Annotated[float, Meta(ge=1, le=1_000_000, description="The page, from 1")] = 1


class NewKey(msgspec.Struct, rename="camel"):
    """`privateKey`: base64 of its PEM, shown this once."""

    id: str
    private_key: str
    created_at: str


class Workspace(msgspec.Struct, rename="camel"):
    """The project."""

    id: str
    name: str
    workspace_type: str


class KeyRow(msgspec.Struct, rename="camel"):
    id: str
    created_at: str
    workspace: list[Workspace]


class PublicKey(msgspec.Struct, rename="camel"):
    """`publicKey`: base64 of its PEM."""

    workspace_id: str
    signing_key_id: str
    public_key: str


class Deleted(msgspec.Struct):
    message: str


class SigningKeys:
    def __init__(self, desk: Desk, keys: UseCases) -> None:
        self._desk = desk
        self._keys = keys

    @property
    def routes(self) -> list[AnyRoute]:
        common: dict[str, Any] = {"dialect": FASTPIX, "tag": "FastPix", "auth": Permission.LIVE}
        many: dict[str, Any] = {"path": "/v1/iam/signing-keys", **common}
        one: dict[str, Any] = {"path": "/v1/iam/signing-keys/{key}", **common}
        return [
            Route(
                method="POST",
                handler=self.create,
                response=Data[NewKey],
                status=201,
                summary="Make a signing key; its private half is shown this once",
                example=Data(True, NewKey(_ID, "LS0tLS1CRUdJTiBQUklWQVRFIEtFWS0tLS0t…", "2026-03-29T14:30:00.000000Z")),
                **many,
            ),
            Route(method="GET", handler=self.list_keys, query=Page, response=Listed[KeyRow], summary="List signing keys", **many),
            Route(method="GET", handler=self.get, response=Data[PublicKey], summary="The public half of a signing key", **one),
            Route(
                method="DELETE",
                handler=self.delete,
                response=Data[Deleted],
                summary="Delete a signing key; what it signed opens nothing any more",
                **one,
            ),
        ]

    async def create(self, call: Call[Principal, Empty, Empty]) -> Data[NewKey]:
        made = await self._keys.create(await self._desk.project(call.who))
        return Data(True, NewKey(made.key.id, made.private_key, clock.iso(made.key.created_at, 6)))

    async def list_keys(self, call: Call[Principal, Empty, Page]) -> Listed[KeyRow]:
        project = await self._desk.project(call.who)
        limit, page = int(call.query.limit), int(call.query.offset)
        found, total = await self._keys.list(project.id, limit, (page - 1) * limit)
        workspace = [Workspace(project.id, project.slug, "production")]
        rows = [KeyRow(key.id, clock.iso(key.created_at, 6), workspace) for key in found]
        return listed(rows, total, page, limit)

    async def get(self, call: Call[Principal, Empty, Empty]) -> Data[PublicKey]:
        key = await self._keys.get((await self._desk.project(call.who)).id, call.path("key"))
        return Data(True, PublicKey(key.project_id, key.id, base64.b64encode(key.public_key.encode()).decode()))

    async def delete(self, call: Call[Principal, Empty, Empty]) -> Data[Deleted]:
        await self._keys.delete((await self._desk.project(call.who)).id, call.path("key"))
        return Data(True, Deleted("signing key deleted"))


_ID = "359302ee-2446-4afe-9348-8b4656b9ddb1"
