"""Fallbacks: what a room shows while its publisher is gone: a slate, or a backup ingress. Kept in memory whole, but for the pictures."""

from __future__ import annotations

import asyncio
import logging
import secrets
from dataclasses import replace

from medianode import clock
from medianode.config import Limits
from medianode.control import audit
from medianode.errors import Forbidden, InvalidRequest, LimitExceeded, NotFound, StorageError
from medianode.events import Bus, IngressDeleted, ProjectDeleted
from medianode.media.names import room_name, shown
from medianode.routing.fallback import Fallback
from medianode.routing.registry import Registry
from medianode.store import fallbacks as table
from medianode.store import ingresses, projects
from medianode.store.database import Database
from medianode.store.fallbacks import StoredFallback
from medianode.store.projects import Project
from medianode.tasks import every
from medianode.transcode.artwork import Artwork, check_image, is_image
from medianode.transcode.clip import read_clip

LOOK = 10.0
"""Seconds between looks at what other nodes have changed."""
TEXT_LENGTH = 80
WORDS = "words/"
"""Begins the name of a slate that is words only: rooms with the same share one."""
CLIP_TYPE = "video/x-medianode-clip"
"""Of `transcode.clip`, which every clip is made into."""

log = logging.getLogger(__name__)


class Fallbacks:
    """`load` before anything is served. `registry` is told what each room falls back to."""

    def __init__(self, db: Database, bus: Bus, registry: Registry, limits: Limits) -> None:
        self._db = db
        self._registry = registry
        self._limits = limits
        self._reading, self._checking = asyncio.Lock(), asyncio.Lock()
        self._known: dict[tuple[str, str], StoredFallback] = {}
        self._changes = 0
        registry.slates.of = self.of
        bus.subscribe(IngressDeleted, self._ingress_deleted)
        bus.subscribe(ProjectDeleted, self._project_deleted)

    def of(self, project_id: str, room: str) -> Fallback | None:
        """As routing has it. `room` is canonical."""
        stored = self._known.get((project_id, room))
        if stored is None:
            return None
        slate = "" if stored.slate == "none" else f"{project_id}/{room}/{stored.version}"
        return Fallback(
            slate=f"{WORDS}{stored.text}" if stored.slate == "text" else slate,
            always=stored.always,
            backup=stored.backup or "",
            frozen=stored.frozen,
            patience=stored.patience,
        )

    async def artwork(self, project_id: str, room: str, slate: str) -> Artwork | None:
        """For who makes slates, by the name that `of` gave. None where the room has another by now. Raises StorageError."""
        if slate.startswith(WORDS):
            return Artwork("text", text=slate.removeprefix(WORDS))
        async with self._db.read() as tx:
            stored = await table.find(tx, project_id, room, media=True)
        if stored is None or stored.media is None or stored.version != slate.rpartition("/")[2]:
            return None
        return Artwork("clip" if stored.slate == "clip" else "image", data=stored.media)

    async def get(self, project: Project, room: str) -> StoredFallback:
        """Without its picture. Raises NotFound `no-fallback`."""
        async with self._db.read() as tx:
            stored = await table.find(tx, project.id, room_name(project.slug, room))
        if stored is None:
            raise NotFound(f"room {shown(room)} has no fallback", code="no-fallback")
        return stored

    async def put(
        self,
        project: Project,
        room: str,
        *,
        slate: str,
        text: str = "",
        always: bool = False,
        backup: str | None = None,
        frozen: float = 3.0,
        patience: float = 5.0,
    ) -> StoredFallback:
        """`slate`: `none`, `text`, or `image` or `clip`: that which was uploaded. Rooms in a gap show it at once. Raises InvalidRequest,
        Forbidden (`fallback-quota`), NotFound.
        """
        wanted = StoredFallback(
            project_id=project.id,
            room=room_name(project.slug, room),
            slate=slate,
            text=text,
            always=always,
            backup=backup,
            frozen=frozen,
            patience=patience,
            updated_at=clock.wallclock(),
        )
        if slate == "none" and backup is None:
            raise InvalidRequest("slate: expected a slate, a backup or both; DELETE takes the fallback away")
        if slate == "none" and always:
            raise InvalidRequest("always: expected with a slate: there is nothing else to show while nobody publishes")
        return await self._store(project, wanted)

    async def upload(self, project: Project, room: str, data: bytes) -> StoredFallback:
        """A picture or a clip is the slate from now on; what else was set stays. Raises InvalidRequest (`bad-image`, `bad-clip`), and as
        `put`.
        """
        canonical = room_name(project.slug, room)
        slate, media_type = "image", CLIP_TYPE
        if is_image(data):
            async with self._checking:  # one at a time: decoded, it may have 256 MiB
                media_type = await asyncio.to_thread(check_image, data, self._limits.decode_pixels)
        else:
            async with self._reading:  # one at a time: it takes a core
                slate, data = "clip", await read_clip(data, self._limits.slate_seconds)
        before = self._known.get((project.id, canonical)) or StoredFallback(project_id=project.id, room=canonical, updated_at=0.0)
        wanted = replace(before, slate=slate, text="", media=data, media_type=media_type, updated_at=clock.wallclock())
        return await self._store(project, wanted)

    async def delete(self, project: Project, room: str) -> None:
        """A room that shows it goes off air, where nobody publishes. Raises NotFound."""
        canonical = room_name(project.slug, room)
        async with self._db.write() as tx:
            await projects.hold(tx, (project.id,))
            if not await table.remove(tx, project.id, canonical):
                raise NotFound(f"room {shown(room)} has no fallback", code="no-fallback")
            await audit.record(tx, "room.fallback-removed", canonical, project.id)
        self._changes += 1
        self._known.pop((project.id, canonical), None)
        self._tell(project.slug, project.id, canonical)

    async def load(self) -> None:
        """What there is, and what others have changed. Raises StorageError."""
        changes = self._changes
        async with self._db.read() as tx:
            rows = await table.all_fallbacks(tx)
        if changes != self._changes:  # of ours, while it was read: the next look has it
            return
        found = {(stored.project_id, stored.room): stored for _, stored in rows}
        slugs = {stored.project_id: slug for slug, stored in rows}
        before, self._known = self._known, found
        for key in before.keys() | found.keys():
            if before.get(key) != found.get(key):
                self._tell(slugs.get(key[0], ""), *key)

    async def serve(self) -> None:
        """Runs until cancelled."""
        async for _ in every(LOOK):
            try:
                await self.load()
            except StorageError as e:
                log.warning("fallbacks not followed: %s: %s", e.code, e)

    async def _store(self, project: Project, wanted: StoredFallback) -> StoredFallback:
        async with self._db.write() as tx:
            if await projects.lock(tx, project.id) is None:
                raise NotFound(f"no project {shown(project.slug)}")
            before = await table.find(tx, wanted.project_id, wanted.room, media=True)
            if before is None and await table.count(tx) >= self._limits.fallbacks:
                most = self._limits.fallbacks
                raise Forbidden(f"this node has fallbacks for {most} rooms, which is limits.fallbacks", code="fallback-quota")
            if wanted.backup is not None:
                backup = await ingresses.find(tx, wanted.backup)
                if backup is None or (backup.project_id, backup.room) != (wanted.project_id, wanted.room):
                    raise InvalidRequest(f"backup: expected an ingress of room {wanted.room}, got {shown(wanted.backup)}")
                if (twin := await ingresses.find_twin(tx, backup)) is not None:
                    raise InvalidRequest(
                        f"backup: {backup.id} publishes as {shown(backup.participant_identity)}, as {twin.id} does: both can never publish "
                        "at once; give it a participantIdentity of its own"
                    )
            if wanted.media is None and before is not None:  # what was uploaded stays, whatever is shown
                wanted = replace(wanted, media=before.media, media_type=before.media_type)
            uploaded = "" if wanted.media is None else "clip" if wanted.media_type == CLIP_TYPE else "image"
            if wanted.slate in ("image", "clip") and wanted.slate != uploaded:
                raise InvalidRequest(f"slate: expected that {shown(wanted.slate)} to be uploaded first (PUT …/fallback/slate)")
            same = before is not None and (before.slate, before.text, before.media) == (wanted.slate, wanted.text, wanted.media)
            wanted = replace(wanted, version=before.version if same and before is not None else secrets.token_hex(8))
            await table.put(tx, wanted)
            details = {"slate": wanted.slate, "always": wanted.always, "backup": wanted.backup}
            await audit.record(tx, "room.fallback-changed", wanted.room, project.id, **details)
        wanted = replace(wanted, media=None)
        self._changes += 1
        self._known[wanted.project_id, wanted.room] = wanted
        self._tell(project.slug, wanted.project_id, wanted.room)
        return wanted

    def _tell(self, slug: str, project_id: str, room: str) -> None:
        try:
            self._registry.fall_back(slug, project_id, room)
        except LimitExceeded as e:
            log.error("room %s is not on air always: %s", room, e)

    def _ingress_deleted(self, event: IngressDeleted) -> None:
        """The backup of a room is gone: what is left is its slate. Its row still has the id, which no other will ever have."""
        stored = self._known.get((event.project_id, event.room))
        if stored is not None and stored.backup == event.ingress_id:
            self._changes += 1
            self._known[event.project_id, event.room] = replace(stored, backup=None)
            if (room := self._registry.find(event.project_id, event.room)) is not None:
                room.fall_back(self.of(event.project_id, event.room))

    def _project_deleted(self, event: ProjectDeleted) -> None:
        self._changes += 1
        for key in [key for key in self._known if key[0] == event.project_id]:
            del self._known[key]
            self._registry.fall_back(event.slug, *key)
