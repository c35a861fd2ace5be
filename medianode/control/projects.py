"""Projects: tenants, who may view them and whether publishing needs a key."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from medianode import clock
from medianode.control.cache import Cache
from medianode.errors import Conflict, InvalidRequest, NotFound, StorageError
from medianode.events import Bus, ProjectChanged
from medianode.media.names import SLUG_LENGTH, check_slug, shown
from medianode.store import projects as table
from medianode.store.database import Database
from medianode.store.projects import Project, Viewing

NAME_LENGTH = 200


class Projects:
    """`ttl`: how long a change made by another process (the CLI) may go unseen, seconds."""

    def __init__(self, db: Database, bus: Bus, *, ttl: float = 3.0, cached: int = 1024) -> None:
        self._db = db
        self._bus = bus
        self._cache: Cache[str, Project | None] = Cache(cached, ttl)

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

    async def create(self, slug: str, name: str = "", *, viewing: Viewing = "public", open_publish: bool = False) -> Project:
        """Raises InvalidRequest, Conflict if the slug is taken."""
        project = new_project(slug, name, viewing=viewing, open_publish=open_publish)
        try:
            async with self._db.write() as tx:
                await table.insert_project(tx, project)
        except Conflict:
            raise Conflict(f"project {slug!r} exists") from None
        self._changed(project)
        return project

    async def change(self, slug_or_id: str, *, viewing: Viewing | None = None, open_publish: bool | None = None) -> Project:
        """None leaves a field as it is. Raises NotFound."""
        async with self._db.write() as tx:
            project = await table.find(tx, slug_or_id)
            if project is None:
                raise NotFound(f"no project {shown(slug_or_id)}")
            await table.change(tx, project.id, viewing=viewing, open_publish=open_publish)
            project = await table.lock(tx, project.id)
        assert project is not None
        self._changed(project)
        return project

    def _changed(self, project: Project) -> None:
        self._cache.clear()
        self._bus.publish(ProjectChanged(project.id, project.slug))


def new_project(slug: str, name: str = "", *, viewing: Viewing = "public", open_publish: bool = False) -> Project:
    """A project with fresh id and token secret, not stored yet. Raises InvalidRequest."""
    check_slug(slug)
    if len(name) > NAME_LENGTH or not name.isprintable():
        raise InvalidRequest(f"name: expected up to {NAME_LENGTH} printable characters, got {shown(name)}")
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
