"""Where recordings go: their ids, their directories, and the mark that tells a mounted disk from an empty mount point."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import logging
import secrets
import string
import tempfile
from collections.abc import Collection, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path

from medianode.auth import PublishGrant
from medianode.config import Config
from medianode.egress.recorder.order import Order
from medianode.errors import Conflict, InvalidRequest, NotEnabled, StorageError
from medianode.events import Bus, ProjectChanged, ProjectDeleted
from medianode.media.names import shown
from medianode.store import projects
from medianode.store.database import Database
from medianode.store.projects import Project

MARK = ".medianode"
"""A file at the top of each root that this node has recorded to. Where it is missing although there should be files, a disk is not
mounted, and nothing is concluded from their absence."""
MOST_PROJECTS = 100_000
MOST_MADE = 10_000
RETRY = 5.0
_ID = string.ascii_letters + string.digits
_ID_LENGTH = 20

log = logging.getLogger(__name__)


class RecordingPlaces:
    """`open` before use. `serve` follows the projects whose files go elsewhere. What it hands out is below `default` or there."""

    def __init__(self, config: Config, db: Database, bus: Bus) -> None:
        self._db = db
        self.default = root_of(config)
        self._own: dict[str, Path] = {}
        self._writable: set[Path] = set()
        self._trying: Path | None = None
        self._made: dict[str, None] = {}
        self._changed = asyncio.Event()
        for kind in (ProjectChanged, ProjectDeleted):
            bus.subscribe(kind, lambda _: self._changed.set())

    async def open(self) -> None:
        """Raises StorageError."""
        async with self._db.read() as tx:
            found = await projects.list_projects(tx, MOST_PROJECTS)
        self._own = {project.id: path for project in found if (path := own_root(project)) is not None}

    async def serve(self) -> None:
        """Runs until cancelled."""
        while True:
            await self._try_roots()
            await self._changed.wait()
            self._changed.clear()
            try:
                await self.open()
            except StorageError as e:
                log.warning("storage of the projects not read: %s: %s", e.code, e)
                await asyncio.sleep(RETRY)
                self._changed.set()

    async def _try_roots(self) -> None:
        """Ahead of the first recording: a disk that does not answer must not hold up who publishes."""
        for root in sorted(self.roots - self._writable):
            self._trying = root
            with suppress(OSError):  # told where somebody wants to record there
                await asyncio.to_thread(check_writable, root)
                self._writable.add(root)
            self._trying = None

    @property
    def roots(self) -> frozenset[Path]:
        """All places that recordings go to now; older ones may be elsewhere."""
        return frozenset((self.default, *self._own.values()))

    @property
    def made(self) -> Collection[str]:
        """Ids of recordings that were ordered since the start, the newest of them: what is in their directories may still be written."""
        return self._made.keys()

    def root(self, project_id: str) -> Path:
        return self._own.get(project_id, self.default)

    def order(
        self,
        project: Project,
        room: str,
        *,
        identity: str = "",
        ingress_id: str | None = None,
        reason: str = "api",
        title: str = "",
        labels: Mapping[str, str] | None = None,
    ) -> Order:
        """`room` is canonical. Raises NotEnabled (`recording-directory`) where nothing can be written."""
        self._keep_root(project)
        made, where = self._new(project.id, project.slug, room)
        return Order(
            recording_id=made,
            project_id=project.id,
            slug=project.slug,
            room=room,
            identity=identity,
            ingress_id=ingress_id,
            reason=reason,
            title=title,
            labels=dict(labels or {}),
            directory=where,
        )

    def for_grant(self, grant: PublishGrant) -> Order:
        """Of who publishes by this grant. Raises NotEnabled (`recording-directory`)."""
        made, where = self._new(grant.project_id, grant.slug, grant.room)
        return Order(
            recording_id=made,
            project_id=grant.project_id,
            slug=grant.slug,
            room=grant.room,
            identity=grant.identity,
            ingress_id=grant.ingress_id,
            reason="ingress",
            title=grant.title,
            directory=where,
        )

    def for_room(self, project_id: str, slug: str, room: str) -> Order:
        """Of the room's programme. Raises NotEnabled (`recording-directory`)."""
        made, where = self._new(project_id, slug, room)
        return Order(recording_id=made, project_id=project_id, slug=slug, room=room, reason="room", directory=where)

    def _keep_root(self, project: Project) -> None:
        own = own_root(project)
        if own is None:
            self._own.pop(project.id, None)
        else:
            self._own[project.id] = own

    def _new(self, project_id: str, slug: str, room: str) -> tuple[str, Path]:
        """An id, and the directory of what has it."""
        root = self.root(project_id)
        if root not in self._writable and root != self._trying:
            self._check_writable(root)
        made = new_id()
        self._made[made] = None
        if len(self._made) > MOST_MADE:
            del self._made[next(iter(self._made))]
        return made, directory(root, slug, room, made)

    def _check_writable(self, root: Path) -> None:
        try:
            check_writable(root)
        except OSError as e:
            if e.errno not in (errno.ENOSPC, errno.EDQUOT):  # a full disk is retention's to mend, and the recorder waits for it
                log.error("recordings cannot be written to %s: %s", root, e.strerror or e)
                why = "recordings cannot be written: " + (e.strerror or "the directory cannot be used")
                raise NotEnabled(why, code="recording-directory") from None
        else:
            self._writable.add(root)


def root_of(config: Config) -> Path:
    """Of the node."""
    return Path(config.recording.directory or Path(config.data_dir) / "recordings").absolute()


def own_root(project: Project) -> Path | None:
    """Of a project that has a directory of its own."""
    storage = project.storage or {}
    return Path(storage["path"]) if storage.get("type") == "directory" else None


def new_id() -> str:
    """120 bits nearly: nobody guesses one."""
    return "rec_" + "".join(secrets.choice(_ID) for _ in range(_ID_LENGTH))


def directory(root: Path, slug: str, room: str, recording_id: str) -> Path:
    """`<root>/<slug>/<room>/<id>`. Each is one plain name whoever chose it. Raises InvalidRequest for one that would lead elsewhere."""
    for part in (slug, room, recording_id):
        if not part or part.startswith(".") or "/" in part or not part.isprintable() or len(part) > 255:
            raise InvalidRequest(f"recording: expected a name that a directory can have, got {shown(part)}")
    return root / slug / room / recording_id


def check_writable(root: Path) -> None:
    """Made where it is not there. Raises OSError."""
    root.mkdir(parents=True, exist_ok=True, mode=0o750)
    with tempfile.TemporaryFile(dir=root):
        pass


def marked(root: Path) -> bool:
    """Has this node recorded to it, and is it mounted?"""
    return (root / MARK).exists()


def put_mark(root: Path, node_id: str) -> None:
    """Blocking. Raises OSError."""
    root.mkdir(parents=True, exist_ok=True, mode=0o750)
    (root / MARK).write_text(f"recordings of medianode, node {node_id}\n", "ascii")


def claim(stack: ExitStack, root: Path, node_id: str) -> None:
    """While the stack is open nobody else rebuilds or repairs what is below `root`. Raises Conflict (`recordings-in-use`), OSError."""
    if not marked(root):
        put_mark(root, node_id)
    file = stack.enter_context((root / MARK).open("rb"))
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Conflict(f"{root}: a daemon is using these recordings: stop it first", code="recordings-in-use") from None
