"""Projects. A key to the whole node sees all; a project's admin key sees its own project only."""

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
from medianode.control.projects import LIMITS, Projects
from medianode.control.recording_policy import LEAST_BYTES, LONGEST, MOST_BYTES, RecordingPolicy, policy_of
from medianode.control.storage import shown_storage
from medianode.errors import Forbidden, InvalidRequest, NotFound
from medianode.store.projects import Project, Viewing

Slug = Annotated[str, Meta(max_length=64, description="a-z 0-9 _ -, a letter or digit at both ends")]
Bound = Annotated[int, Meta(ge=1)]
Word = Annotated[str, Meta(max_length=512)]
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
_SPAN = "text such as '30d', '12h' or '90m', of at most 100 years"
_BYTES = f"bytes, a whole number from {LEAST_BYTES} to {MOST_BYTES}"
Keep = (
    Annotated[float, Meta(ge=1, le=LONGEST, description="Seconds", extra={"expected": f"seconds, a number from 1 to {LONGEST},"})]
    | Annotated[str, Meta(max_length=32, extra={"expected": _SPAN})]
)


class Slice(msgspec.Struct):
    limit: Annotated[int, Meta(ge=1, le=500)] = 100
    offset: Annotated[int, Meta(ge=0, le=1_000_000)] = 0


class LimitsView(msgspec.Struct):
    """Of this tenant; null is no limit. `rooms` with an ingress or somebody who publishes, `publishers` and `viewers` at one time,
    `bitrate` of one publisher in bit/s, `disk` in bytes.
    """

    rooms: int | None = None
    publishers: int | None = None
    viewers: int | None = None
    bitrate: int | None = None
    disk: int | None = None


class LimitsChange(msgspec.Struct):
    """What is absent stays as it is; null takes a limit away."""

    rooms: Bound | UnsetType | None = UNSET
    publishers: Bound | UnsetType | None = UNSET
    viewers: Bound | UnsetType | None = UNSET
    bitrate: Bound | UnsetType | None = UNSET
    disk: Bound | UnsetType | None = UNSET


class StorageView(msgspec.Struct, rename="camel", omit_defaults=True):
    """Without its secret key."""

    type: str
    path: str = ""
    bucket: str = ""
    region: str = ""
    endpoint: str = ""
    access_key: str = ""
    prefix: str = ""
    cdn_url: str = ""


class StorageRequest(msgspec.Struct, rename="camel", omit_defaults=True):
    """Where files go by default. `directory`: `path` on the node, set with a key to the whole node only. `s3`: `bucket`, `accessKey` and
    `secretKey`, which may be left out while the access key stays the same; `endpoint` of a service that is not AWS; `cdnUrl`: where the
    public finds what is in the bucket.
    """

    type: Literal["directory", "s3"]
    path: Word = ""
    bucket: Word = ""
    region: Word = ""
    endpoint: Word = ""
    access_key: Word = ""
    secret_key: Word = ""
    prefix: Word = ""
    cdn_url: Word = ""


class RecordingPolicyView(msgspec.Struct, rename="camel"):
    """What holds for recordings of this project, beside what the node has: `maxAge` and `minKeep` in seconds, `maxBytes` of what is kept on
    the node (the smaller of the policy's and `limits.disk`); null is none. `upload`: closed files go to the bucket of `storage`.
    """

    max_age: float | None
    max_bytes: int | None
    min_keep: float | None
    upload: bool
    delete_after_upload: bool


class RecordingPolicyChange(msgspec.Struct, rename="camel"):
    """What is absent stays as it is; null: as the node has it. Files older than `maxAge` (seconds, or `"30d"`, `"12h"`, `"90m"`) go, and
    the oldest where they are more than `maxBytes`; none younger than `minKeep` goes but from a disk that would be full. `upload` (true
    where `storage` is a bucket) and `deleteAfterUpload` (false): where files are kept.
    """

    max_age: Keep | UnsetType | None = UNSET
    max_bytes: Annotated[int, Meta(ge=LEAST_BYTES, le=MOST_BYTES, extra={"expected": _BYTES})] | UnsetType | None = UNSET
    min_keep: Keep | UnsetType | None = UNSET
    upload: bool | UnsetType | None = UNSET
    delete_after_upload: bool | UnsetType | None = UNSET


class ProjectView(msgspec.Struct, rename="camel"):
    """`slug` is StreamHub's app, `id` BaxCloud's project id. `tokenIssuer` stands as `iss` in its tokens."""

    id: str
    slug: str
    name: str
    viewing: Viewing
    open_publish: bool
    token_issuer: str
    created_at: str
    limits: LimitsView
    storage: StorageView | None
    recording: RecordingPolicyView


class NewProject(msgspec.Struct, rename="camel"):
    """`viewing`: `public`; `token`: room tokens, view links and API keys; `signed`: view links and API keys only."""

    slug: Slug
    name: Text = ""
    viewing: Viewing = "public"
    open_publish: bool = False
    limits: LimitsChange | None = None
    storage: StorageRequest | None = None
    recording: RecordingPolicyChange | None = None


class ProjectChange(msgspec.Struct, rename="camel"):
    """What is absent stays as it is. `storage`, `recording` null: as the node has it."""

    name: Text | None = None
    viewing: Viewing | None = None
    open_publish: bool | None = None
    limits: LimitsChange | None = None
    storage: StorageRequest | UnsetType | None = UNSET
    recording: RecordingPolicyChange | UnsetType | None = UNSET


class Confirmation(msgspec.Struct):
    confirm: Annotated[str, Meta(max_length=64, description="the project's slug, once more")] = ""


class Admin:
    def __init__(self, projects: Projects) -> None:
        self._projects = projects

    @property
    def routes(self) -> list[AnyRoute]:
        common: dict[str, Any] = {"dialect": OPERATOR, "tag": "Operator", "auth": Permission.ADMIN, "example": Data(_PROJECT)}
        one = "/api/v1/projects/{project}"
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
                request_example=NewProject(slug="garage", viewing="token", limits=LimitsChange(viewers=200)),
                **common,
            ),
            Route(
                method="GET",
                path=one,
                handler=self.get_project,
                response=Data[ProjectView],
                summary="One project, by slug or id",
                **common,
            ),
            Route(
                method="PATCH",
                path=one,
                handler=self.change_project,
                request=ProjectChange,
                response=Data[ProjectView],
                summary="Who may view, whether publishing needs a key, limits, storage, how long recordings are kept",
                request_example=ProjectChange(viewing="signed", limits=LimitsChange(publishers=10, bitrate=None)),
                **common,
            ),
            Route(
                method="DELETE",
                path=one,
                handler=self.delete_project,
                query=Confirmation,
                response=Data[ProjectView],
                summary="Delete a project with all that is in it; everybody is put out",
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
        made = await self._projects.create(
            new.slug,
            new.name,
            viewing=new.viewing,
            open_publish=new.open_publish,
            limits=_limits(new.limits),
            storage=None if new.storage is None else _storage(call.who, new.storage),
            recording=None if new.recording is None else _recording(new.recording),
        )
        return Data(project_view(made))

    async def get_project(self, call: Call[Principal, Empty, Empty]) -> Data[ProjectView]:
        return Data(project_view(await self._project(call.who, call.path("project"))))

    async def change_project(self, call: Call[Principal, ProjectChange, Empty]) -> Data[ProjectView]:
        project, change = await self._project(call.who, call.path("project")), call.body
        if (change.limits is not None) and not call.who.node:
            raise Forbidden("the limits of a project are set with a key to the whole node")
        changed = await self._projects.change(
            project.id,
            name=change.name,
            viewing=change.viewing,
            open_publish=change.open_publish,
            limits=_limits(change.limits),
            storage=_storage(call.who, change.storage) if isinstance(change.storage, StorageRequest) else change.storage,
            recording=_recording(change.recording) if isinstance(change.recording, RecordingPolicyChange) else change.recording,
        )
        return Data(project_view(changed))

    async def delete_project(self, call: Call[Principal, Empty, Confirmation]) -> Data[ProjectView]:
        project = await self._project(call.who, call.path("project"))
        if not call.who.node:
            raise Forbidden("a project is deleted with a key to the whole node; this one is bound to it")
        return Data(project_view(await self._projects.delete(project.id, call.query.confirm)))

    async def _project(self, who: Principal, name: str) -> Project:
        """A project's key sees its own; of the others it learns nothing. Raises NotFound."""
        project = await self._projects.get(name)
        if not who.node and project.id != who.project_id:
            raise NotFound(f"no project {name!r}")
        return project


def _limits(change: LimitsChange | None) -> dict[str, int | None]:
    named = {} if change is None else {name: getattr(change, name) for name in LIMITS}
    return {name: value for name, value in named.items() if value is not UNSET}


def _storage(who: Principal, storage: StorageRequest) -> dict[str, Any]:
    if storage.type == "directory" and not who.node:
        raise Forbidden("a directory of the node is named with a key to the whole node")
    found: dict[str, Any] = msgspec.to_builtins(storage)
    return found


def _recording(change: RecordingPolicyChange) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.to_builtins(change)
    for name in ("maxAge", "minKeep"):
        if isinstance(found.get(name), str):
            found[name] = _seconds(found[name], f"recording.{name}")
    return found


def _seconds(text: str, field: str) -> float:
    """Raises InvalidRequest."""
    number, unit = text[:-1], _UNITS.get(text[-1:])
    seconds = int(number) * unit if unit and number.isascii() and number.isdigit() else 0
    if not 1 <= seconds <= LONGEST:
        raise InvalidRequest(f"{field}: expected {_SPAN}, got {text!r}")
    return float(seconds)


def _policy_view(policy: RecordingPolicy) -> RecordingPolicyView:
    return RecordingPolicyView(
        max_age=policy.max_age or None,
        max_bytes=policy.max_bytes or None,
        min_keep=policy.min_keep or None,
        upload=policy.upload,
        delete_after_upload=policy.delete_after_upload,
    )


def project_view(project: Project) -> ProjectView:
    storage = shown_storage(project.storage)
    return ProjectView(
        id=project.id,
        slug=project.slug,
        name=project.name,
        viewing=project.viewing,
        open_publish=project.open_publish,
        token_issuer=project.jwt_key_id,
        created_at=clock.iso(project.created_at),
        limits=LimitsView(**project.limits),
        storage=None if storage is None else msgspec.convert(storage, StorageView),
        recording=_policy_view(policy_of(project)),
    )


_PROJECT = ProjectView(
    "prj_0123456789ab",
    "garage",
    "garage",
    "token",
    False,
    "API0123456789abcdef",
    "2026-03-29T14:30:00.000Z",
    LimitsView(viewers=200),
    StorageView("s3", bucket="garage-media", region="eu-central-1", access_key="AKIAEXAMPLE"),
    RecordingPolicyView(2_592_000.0, None, None, True, False),
)
