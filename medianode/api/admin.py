"""Projects and API keys. A key to the whole node sees all; a project's admin key sees its own project only."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from medianode import clock
from medianode.api.fields import Text
from medianode.api.problems import OPERATOR
from medianode.api.router import AnyRoute, Call, Empty, Route
from medianode.api.shapes import Data, Page
from medianode.auth import Permission, Principal
from medianode.control.keys import Keys
from medianode.control.projects import Projects
from medianode.errors import Conflict, Forbidden, NotFound
from medianode.store.keys import ApiKey
from medianode.store.projects import Project, Viewing

Slug = Annotated[str, Meta(max_length=64, description="a-z 0-9 _ -, a letter or digit at both ends")]


class Slice(msgspec.Struct):
    limit: Annotated[int, Meta(ge=1, le=500)] = 100
    offset: Annotated[int, Meta(ge=0, le=1_000_000)] = 0


class ProjectView(msgspec.Struct, rename="camel"):
    """`slug` is StreamHub's app, `id` BaxCloud's project id. `tokenIssuer` stands as `iss` in its tokens."""

    id: str
    slug: str
    name: str
    viewing: Viewing
    open_publish: bool
    token_issuer: str
    created_at: str


class NewProject(msgspec.Struct, rename="camel"):
    slug: Slug
    name: Text = ""
    viewing: Viewing = "public"
    open_publish: bool = False


class ProjectChange(msgspec.Struct, rename="camel"):
    """What is absent stays as it is."""

    viewing: Viewing | None = None
    open_publish: bool | None = None


class KeyView(msgspec.Struct, rename="camel"):
    """`project` is an id; null for a key to the whole node. `key` comes once, when it is made."""

    id: str
    name: str
    project: str | None
    permissions: list[str]
    created_at: str
    last_used_at: str | None
    revoked_at: str | None
    key: str | UnsetType = UNSET


class NewKeyRequest(msgspec.Struct):
    """`project`: slug or id; absent: the project of the asking key, or the whole node where that is not bound to one."""

    name: Annotated[str, Meta(min_length=1, max_length=200)]
    permissions: Annotated[list[Literal["admin", "live", "view"]], Meta(min_length=1, max_length=3)]
    project: Annotated[str, Meta(max_length=64)] | None = None


class Admin:
    def __init__(self, projects: Projects, keys: Keys) -> None:
        self._projects = projects
        self._keys = keys

    @property
    def routes(self) -> list[AnyRoute]:
        return [*self._project_routes(), *self._key_routes()]

    def _project_routes(self) -> list[AnyRoute]:
        common: dict[str, Any] = {"dialect": OPERATOR, "tag": "Operator", "auth": Permission.ADMIN, "example": Data(_PROJECT)}
        return [
            Route(
                method="GET",
                path="/api/v1/projects",
                handler=self.list_projects,
                query=Slice,
                response=Page[ProjectView],
                summary="Projects that the key may see",
                **{**common, "example": Page([_PROJECT], 1, 100, 0)},
            ),
            Route(
                method="POST",
                path="/api/v1/projects",
                handler=self.create_project,
                request=NewProject,
                response=Data[ProjectView],
                status=201,
                errors=(409,),
                summary="Make a project",
                request_example=NewProject(slug="garage", viewing="token"),
                **common,
            ),
            Route(
                method="GET",
                path="/api/v1/projects/{project}",
                handler=self.get_project,
                response=Data[ProjectView],
                summary="One project, by slug or id",
                **common,
            ),
            Route(
                method="PATCH",
                path="/api/v1/projects/{project}",
                handler=self.change_project,
                request=ProjectChange,
                response=Data[ProjectView],
                summary="Open or close viewing and key-less publishing",
                request_example=ProjectChange(viewing="token"),
                **common,
            ),
        ]

    def _key_routes(self) -> list[AnyRoute]:
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
                request_example=NewKeyRequest(name="backend", permissions=["live"], project="live"),
                example=Data(msgspec.structs.replace(_KEY, key="sk_" + "x" * 43)),
                **common,
            ),
            Route(
                method="DELETE",
                path="/api/v1/keys/{key}",
                handler=self.revoke_key,
                response=Data[KeyView],
                errors=(409,),
                summary="Revoke a key; it stays in the list",
                example=Data(msgspec.structs.replace(_KEY, revoked_at="2026-04-01T00:00:00.000Z")),
                **common,
            ),
        ]

    async def list_projects(self, call: Call[Principal, Empty, Slice]) -> Page[ProjectView]:
        limit, offset = call.query.limit, call.query.offset
        found = list(await self._projects.list(10000)) if call.who.node else [await self._projects.get(call.who.project_id or "")]
        return Page([project_view(p) for p in found[offset : offset + limit]], len(found), limit, offset)

    async def create_project(self, call: Call[Principal, NewProject, Empty]) -> Data[ProjectView]:
        if not call.who.node:
            raise Forbidden("a project is made with a key to the whole node; this one is bound to a project")
        new = call.body
        return Data(project_view(await self._projects.create(new.slug, new.name, viewing=new.viewing, open_publish=new.open_publish)))

    async def get_project(self, call: Call[Principal, Empty, Empty]) -> Data[ProjectView]:
        return Data(project_view(await self._project(call.who, call.path("project"))))

    async def change_project(self, call: Call[Principal, ProjectChange, Empty]) -> Data[ProjectView]:
        project = await self._project(call.who, call.path("project"))
        changed = await self._projects.change(project.id, viewing=call.body.viewing, open_publish=call.body.open_publish)
        return Data(project_view(changed))

    async def list_keys(self, call: Call[Principal, Empty, Slice]) -> Page[KeyView]:
        limit, offset = call.query.limit, call.query.offset
        found = await self._keys.list(None if call.who.node else call.who.project_id, 10_000)
        return Page([key_view(k) for k in found[offset : offset + limit]], len(found), limit, offset)

    async def create_key(self, call: Call[Principal, NewKeyRequest, Empty]) -> Data[KeyView]:
        project = call.body.project
        if not call.who.node:
            project = (await self._project(call.who, project or call.who.project_id or "")).id
        made = await self._keys.create(call.body.name, call.body.permissions, project)
        return Data(msgspec.structs.replace(key_view(made.key), key=made.secret))

    async def revoke_key(self, call: Call[Principal, Empty, Empty]) -> Data[KeyView]:
        key_id = call.path("key")
        if key_id == call.who.key_id:
            raise Conflict("this key makes this very request: revoke it with another one", code="own-key")
        seen = await self._keys.list(None if call.who.node else call.who.project_id, 10_000)
        if all(k.id != key_id for k in seen):
            raise NotFound("no such key")
        return Data(key_view(await self._keys.revoke(key_id)))

    async def _project(self, who: Principal, name: str) -> Project:
        """A project's key sees its own; of the others it learns nothing. Raises NotFound."""
        project = await self._projects.get(name)
        if not who.node and project.id != who.project_id:
            raise NotFound(f"no project {name!r}")
        return project


def project_view(project: Project) -> ProjectView:
    return ProjectView(
        id=project.id,
        slug=project.slug,
        name=project.name,
        viewing=project.viewing,
        open_publish=project.open_publish,
        token_issuer=project.jwt_key_id,
        created_at=clock.iso(project.created_at),
    )


def key_view(key: ApiKey) -> KeyView:
    return KeyView(
        id=key.id,
        name=key.name,
        project=key.project_id,
        permissions=sorted(key.permissions),
        created_at=clock.iso(key.created_at),
        last_used_at=None if key.last_used_at is None else clock.iso(key.last_used_at),
        revoked_at=None if key.revoked_at is None else clock.iso(key.revoked_at),
    )


_PROJECT = ProjectView("prj_0123456789ab", "garage", "garage", "token", False, "API0123456789abcdef", "2026-03-29T14:30:00.000Z")
_KEY = KeyView("key_0123456789ab", "backend", "prj_0123456789ab", ["live"], "2026-03-29T14:30:00.000Z", None, None)
