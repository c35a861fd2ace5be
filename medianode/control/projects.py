"""Projects: tenants, who may view them, whether publishing needs a key, how much they may take and where their files go."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from msgspec import UNSET, UnsetType

from medianode import clock
from medianode.control import audit, room_options
from medianode.control.cache import Cache
from medianode.control.recording_policy import merged_policy
from medianode.control.storage import check_storage, shown_storage
from medianode.errors import Conflict, InvalidRequest, NotFound, StorageError
from medianode.events import Bus, ProjectChanged, ProjectDeleted
from medianode.media.names import SLUG_LENGTH, check_slug, shown
from medianode.outbound import Outbound
from medianode.store import deliveries, discards, endpoints, outbox
from medianode.store import projects as table
from medianode.store.database import Database, Transaction
from medianode.store.projects import Project, Viewing
from medianode.webhooks.facts import Fact
from medianode.webhooks.outbox import TOPIC, announce

NAME_LENGTH = 200
BATCH = 2000
"""Rows that go in one transaction."""
LIMITS = {"rooms": 10**6, "publishers": 10**6, "viewers": 10**9, "bitrate": 10**12, "disk": 10**18}
"""What a tenant may be bounded in, and the most that may be said."""


class Projects:
    """`ttl`: how long a change made by another process (the CLI) may go unseen, seconds. `outbound` guards where storage may be."""

    def __init__(self, db: Database, bus: Bus, *, outbound: Outbound | None = None, ttl: float = 3.0, cached: int = 1024) -> None:
        self._db = db
        self._bus = bus
        self._outbound = outbound or Outbound()
        self._cache: Cache[str, Project | None] = Cache(cached, ttl)
        for kind in (ProjectChanged, ProjectDeleted):  # by us, or followed from another process
            bus.subscribe(kind, lambda _: self._cache.clear())

    async def find(self, slug_or_id: str) -> Project | None:
        """Cached, the absent ones too: the players' hot path. A slug that cannot be costs no query."""
        if not slug_or_id or len(slug_or_id) > SLUG_LENGTH:
            return None
        if (hit := self._cache.get(slug_or_id, clock.now())) is not None:
            return hit[0]
        generation = self._cache.generation
        try:
            async with self._db.read() as tx:
                project = await table.find(tx, slug_or_id)
        except StorageError:
            # players go on while the database is away: what was known is still true, as far as anybody can tell
            if (last := self._cache.stale(slug_or_id)) is None:
                raise
            project = last[0]
        self._cache.put(slug_or_id, project, clock.now(), generation)
        return project

    async def get(self, slug_or_id: str) -> Project:
        """Raises NotFound."""
        project = await self.find(slug_or_id)
        if project is None:
            raise NotFound(f"no project {shown(slug_or_id)}")
        return project

    async def issuer(self, jwt_key_id: str) -> Project:
        """The project that issues tokens under this id. Raises NotFound."""
        async with self._db.read() as tx:
            project = await table.find_by_jwt_key(tx, jwt_key_id)
        if project is None:
            raise NotFound("no project issues such tokens")
        return project

    async def list(self, limit: int = 1000, offset: int = 0) -> Sequence[Project]:
        """Oldest first."""
        async with self._db.read() as tx:
            return await table.list_projects(tx, limit, offset)

    async def create(
        self,
        slug: str,
        name: str = "",
        *,
        viewing: Viewing = "public",
        open_publish: bool = False,
        limits: Mapping[str, int | None] | None = None,
        storage: Mapping[str, Any] | None = None,
        recording: Mapping[str, Any] | None = None,
    ) -> Project:
        """`recording` as `control.recording_policy` has it. Raises InvalidRequest, Conflict if the slug is taken."""
        project = new_project(slug, name, viewing=viewing, open_publish=open_publish)
        checked = None if storage is None else await check_storage(storage, None, self._outbound)
        project = replace(project, limits=merged_limits({}, limits or {}), storage=checked, recording=merged_policy(None, recording))
        try:
            async with self._db.write() as tx:
                await table.insert_project(tx, project)
                await self._told(tx, project, "project.created", slug=slug)
        except Conflict:
            raise Conflict(f"project {slug!r} exists") from None
        self._bus.publish(ProjectChanged(project.id, project.slug))
        return project

    async def change(
        self,
        slug_or_id: str,
        *,
        name: str | None = None,
        viewing: Viewing | None = None,
        open_publish: bool | None = None,
        limits: Mapping[str, int | None] | None = None,
        storage: Mapping[str, Any] | UnsetType | None = UNSET,
        recording: Mapping[str, Any] | UnsetType | None = UNSET,
    ) -> Project:
        """None, and for `storage` and `recording` UNSET, leaves a field as it is. `limits`, and of `recording`: those named; None takes one
        away.

        Raises NotFound, InvalidRequest.
        """
        before = await self.get(slug_or_id)
        checked = storage if storage is None or storage is UNSET else await check_storage(storage, before.storage, self._outbound)
        async with self._db.write() as tx:
            found = await table.lock(tx, before.id)
            if found is None:
                raise NotFound(f"no project {shown(slug_or_id)}")
            project = replace(
                found,
                name=found.name if name is None else _checked_name(name) or found.slug,
                viewing=viewing or found.viewing,
                open_publish=found.open_publish if open_publish is None else open_publish,
                limits=merged_limits(found.limits, limits or {}),
                storage=found.storage if checked is UNSET else checked,
                recording=found.recording if recording is UNSET else merged_policy(found.recording, recording),
            )
            await table.replace(tx, project)
            await self._told(tx, project, "project.changed", **_differences(found, project))
        self._bus.publish(ProjectChanged(project.id, project.slug))
        return project

    async def delete(self, slug_or_id: str, confirm: str) -> Project:
        """With its keys, ingresses, links, endpoints and their deliveries; everybody in it is put out. `confirm`: its slug, once more.

        Raises NotFound, InvalidRequest (`not-confirmed`).
        """
        async with self._db.write() as tx:
            project = await self._confirmed(tx, slug_or_id, confirm)
            await endpoints.disable_all(tx, project.id, clock.wallclock())
            tx.tell(TOPIC)
        await self._forget_what_was_told(project.id)
        async with self._db.write() as tx:
            await self._confirmed(tx, project.id, confirm, to_delete=True)
            await announce(tx, _changed_fact(project, None, deleted=True))
            recorded = await discards.add_all_of(tx, project.id)  # what was recorded goes too, unlinked beside all else
            await table.delete_project(tx, project.id)
            await room_options.remove_all(tx, project.id)
            await audit.record(tx, "project.deleted", project.id, project.id, slug=project.slug, recordings=recorded)
        self._bus.publish(ProjectDeleted(project.id, project.slug))
        return project

    async def _confirmed(self, tx: Transaction, slug_or_id: str, confirm: str, *, to_delete: bool = False) -> Project:
        """Locked. Raises NotFound, InvalidRequest."""
        project = await table.find(tx, slug_or_id)
        if project is None or await table.lock(tx, project.id, to_delete=to_delete) is None:
            raise NotFound(f"no project {shown(slug_or_id)}")
        if confirm != project.slug:
            raise InvalidRequest(f"confirm: expected {project.slug!r}: all that is in this project goes with it", code="not-confirmed")
        return project

    async def _forget_what_was_told(self, project_id: str) -> None:
        """Deliveries and events, some at a time: there may be 100 000, and others write in between."""
        left = True
        while left:
            async with self._db.write() as tx:
                left = await deliveries.forget(tx, deliveries.Filter(project_id=project_id), BATCH) == BATCH
        left = True
        while left:
            async with self._db.write() as tx:
                left = await outbox.forget_project(tx, project_id, BATCH) == BATCH

    async def _told(self, tx: Transaction, project: Project, action: str, **details: object) -> None:
        await announce(tx, _changed_fact(project, project.id, deleted=False))
        await audit.record(tx, action, project.id, project.id, **details)


def _changed_fact(project: Project, project_id: str | None, *, deleted: bool) -> Fact:
    data = {"projectId": project.id, "slug": project.slug, "deleted": deleted}
    return Fact(type="project.changed", project_id=project_id, stream=f"project:{project.id}", at=clock.wallclock(), data=data)


def _differences(before: Project, after: Project) -> dict[str, object]:
    """For the audit log: what was set, without secrets."""
    found: dict[str, object] = {}
    for field in ("name", "viewing", "open_publish", "limits", "recording"):
        if getattr(before, field) != getattr(after, field):
            found[field] = getattr(after, field)
    if before.storage != after.storage:
        found["storage"] = shown_storage(after.storage)
    return found


def merged_limits(before: Mapping[str, int], change: Mapping[str, int | None]) -> dict[str, int]:
    """`change` laid over `before`; None takes one away. Raises InvalidRequest."""
    for name, value in change.items():
        if name not in LIMITS:
            raise InvalidRequest(f"limits: expected some of {', '.join(LIMITS)}, got {shown(name)}")
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= LIMITS[name]):
            raise InvalidRequest(
                f"limits.{name}: expected a whole number from 1 to {LIMITS[name]}, or null for none, got {shown(str(value))}"
            )
    return {name: value for name, value in {**before, **change}.items() if value is not None}


def _checked_name(name: str) -> str:
    if len(name) > NAME_LENGTH or not name.isprintable():
        raise InvalidRequest(f"name: expected up to {NAME_LENGTH} printable characters, got {shown(name)}")
    return name


def new_project(slug: str, name: str = "", *, viewing: Viewing = "public", open_publish: bool = False) -> Project:
    """A project with fresh id and token secret, not stored yet. Raises InvalidRequest."""
    check_slug(slug)
    _checked_name(name)
    return Project(
        id=f"prj_{secrets.token_hex(6)}",
        slug=slug,
        name=name or slug,
        viewing=viewing,
        open_publish=open_publish,
        jwt_key_id=f"API{secrets.token_hex(8)}",
        jwt_secret=secrets.token_urlsafe(32),
        created_at=clock.wallclock(),
    )
