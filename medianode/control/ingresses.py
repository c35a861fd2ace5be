"""Ingresses: made, listed, changed, deleted, and found by the key that an encoder brings."""

from __future__ import annotations

import secrets
import string
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from medianode import clock
from medianode.auth import Door, Takeover, same_secret
from medianode.control import audit
from medianode.control.cache import Cache
from medianode.control.session_facts import IN_SESSION, cut_off, ingress_fact
from medianode.errors import Conflict, Forbidden, InvalidRequest, NotFound, StorageError
from medianode.events import Bus, IngressChanged, IngressCreated, IngressDeleted, IngressDisabled, IngressFinished
from medianode.media.names import check_identity, room_name, shown
from medianode.store import ingresses as table
from medianode.store import projects
from medianode.store.database import Database, Transaction
from medianode.store.ingresses import Ingress
from medianode.store.projects import Project
from medianode.webhooks.outbox import announce

KEY_LENGTH = 256
NAME_LENGTH = 200
URL_LENGTH = 2000
LIST_LIMIT = 500
PER_ROOM = 64

_ALPHABET = string.ascii_letters + string.digits

Alter = Callable[[Transaction, Ingress], Awaitable[object]]
"""What else changes in the transaction, before it is told of."""


class Ingresses:
    """`rooms`: limits.rooms, over the whole node.

    `ttl`: how long a change made by another process may go unseen, seconds; ours is seen at once. `settle` is awaited before a session
    is ended: it writes down what is still to be told, for nothing is told of an ingress that is gone, and rows follow by a moment.
    """

    def __init__(self, db: Database, bus: Bus, *, rooms: int, per_room: int = PER_ROOM, ttl: float = 3.0, cached: int = 4096) -> None:
        self._db = db
        self._bus = bus
        self._rooms = rooms
        self._per_room = per_room
        self._cache: Cache[bytes, Ingress] = Cache(cached, ttl)
        self.settle: Callable[[], Awaitable[None]] = _nothing
        # by us, or followed from another process
        bus.subscribe(IngressDeleted, lambda event: self.forget(event.ingress_id))
        bus.subscribe(IngressDisabled, lambda event: self.forget(event.ingress_id))
        bus.subscribe(IngressChanged, lambda event: self.forget(event.ingress_id))

    async def create(
        self,
        project: Project,
        kind: Door,
        room: str = "",
        identity: str = "",
        name: str = "",
        *,
        unique_identity: bool = False,
        with_password: bool = False,
        url: str | None = None,
        enable_transcoding: bool = True,
        bypass_transcoding: bool = False,
        takeover: Takeover = Takeover.REJECT,
        record: bool = False,
        pull: Mapping[str, Any] | None = None,
    ) -> Ingress:
        """`room` in either form; no `identity` is StreamHub's default (`ingress-<app>`, for a camera `wscam-…`).

        `unique_identity`: BaxCloud's rule, an identity that an ingress of the room has already is a Conflict (`duplicate-identity`).
        Raises InvalidRequest, Forbidden (`room-quota`, `ingress-quota`), NotFound if the project is gone.
        """
        ingress = new_ingress(
            project,
            kind,
            room,
            identity,
            name,
            with_password=with_password,
            url=url,
            enable_transcoding=enable_transcoding,
            bypass_transcoding=bypass_transcoding,
            takeover=takeover,
            record=record,
            pull=pull,
        )
        return await self.add(project, ingress, unique_identity=unique_identity)

    async def add(self, project: Project, ingress: Ingress, also: Alter | None = None, *, unique_identity: bool = False) -> Ingress:
        """Store a new one (see `create`), and what `also` makes of it in the same transaction: a live stream."""
        async with self._db.write() as tx:
            # the lock makes check and insert one: two requests at once must not both find the identity free
            if (locked := await projects.lock(tx, project.id)) is None:
                raise NotFound(f"no project {shown(project.slug)}")
            if unique_identity and await table.find_by_identity(tx, project.id, ingress.room, ingress.participant_identity):
                raise Conflict(
                    f"participantIdentity: {shown(ingress.participant_identity)} has an ingress in room {ingress.room}",
                    code="duplicate-identity",
                )
            here = await table.count_in_room(tx, project.id, ingress.room)
            if here >= self._per_room:
                raise Forbidden(f"room {ingress.room} has {here} ingresses, which is its bound", code="ingress-quota")
            if not here and await table.count_rooms(tx) >= self._rooms:
                raise Forbidden(f"this node has {self._rooms} rooms, which is limits.rooms", code="room-quota")
            own = locked.limits.get("rooms")
            if not here and own is not None and await table.count_rooms(tx, project.id) >= own:
                raise Forbidden(f"project {project.slug} has {own} rooms, which is its limit", code="project-limit-rooms")
            await table.insert_ingress(tx, ingress)
            if also is not None:
                await also(tx, ingress)
            await _told(tx, "ingress.created", ingress, kind=ingress.kind, room=ingress.room)
        self._bus.publish(IngressCreated(ingress.id, project.id, ingress.kind, ingress.room, ingress.participant_identity))
        return ingress

    async def get(self, project_id: str, ingress_id: str) -> Ingress:
        """Raises NotFound, also if it is another project's."""
        async with self._db.read() as tx:
            ingress = await table.find(tx, ingress_id)
        if ingress is None or ingress.project_id != project_id:
            raise NotFound(f"no ingress {shown(ingress_id)}")
        return ingress

    async def list(
        self, project: Project, *, room: str | None = None, kinds: tuple[Door, ...] = (), q: str = "", limit: int = 50, offset: int = 0
    ) -> tuple[Sequence[Ingress], int]:
        """Newest first, and how many there are in all. `room` in either form; `q`: a part of id, room or participant, case ignored."""
        canonical = None if room is None else room_name(project.slug, room)
        async with self._db.read() as tx:
            return await table.list_ingresses(
                tx,
                project.id,
                room=canonical,
                kinds=tuple(kind.value for kind in kinds),
                q="".join(c for c in q[:NAME_LENGTH] if c.isprintable()),
                limit=max(1, min(limit, LIST_LIMIT)),
                offset=max(0, offset),
            )

    async def delete(self, project_id: str, ingress_id: str) -> Ingress:
        """Gone, and by IngressDeleted its encoder is put out. Raises NotFound.

        The end of a session that it has is told here and now, wherever its encoder is: afterwards nobody can tell of it.
        """
        await self.get(project_id, ingress_id)
        await self.settle()
        async with self._db.write() as tx:
            ingress = await self._locked(tx, project_id, ingress_id, to_delete=True)
            if ingress.state in IN_SESSION:
                live = bool(await table.live_among(tx, (ingress.id,)))
                facts, standing = cut_off(ingress, clock.wallclock(), "ingress-deleted", "the ingress was deleted", live=live)
                await table.stand(tx, ingress.id, standing)
                for fact in facts:
                    await announce(tx, fact)
            await _told(tx, "ingress.deleted", ingress, kind=ingress.kind, room=ingress.room)
            await table.delete_ingress(tx, ingress.id)
        self._bus.publish(IngressDeleted(ingress.id, ingress.project_id, ingress.kind, ingress.room, ingress.participant_identity))
        return ingress

    async def set_disabled(self, project_id: str, ingress_id: str, disabled: bool) -> Ingress:
        """Disabled, its encoder is put out and none is let in. Raises NotFound, Conflict (`already-disabled`, `already-enabled`)."""
        word = "disabled" if disabled else "enabled"
        async with self._db.write() as tx:
            ingress = await self._locked(tx, project_id, ingress_id)
            if (ingress.disabled_at is not None) == disabled:
                raise Conflict(f"the ingress is {word} already", code=f"already-{word}")
            ingress = replace(ingress, disabled_at=clock.wallclock() if disabled else None)
            await table.disable(tx, ingress.id, ingress.disabled_at)
            await _told(tx, f"ingress.{word}", ingress)
        about = (ingress.id, ingress.project_id, ingress.kind, ingress.room, ingress.participant_identity)
        self._bus.publish(IngressDisabled(*about) if disabled else IngressChanged(*about))
        return ingress

    async def finish(self, project_id: str, ingress_id: str) -> Ingress:
        """Its session ends without a hold, at whatever node its encoder is. Raises NotFound, Conflict (`not-active`)."""
        await self.settle()
        async with self._db.write() as tx:
            ingress = await self._locked(tx, project_id, ingress_id)
            if ingress.disabled_at is not None or ingress.state not in IN_SESSION:
                raise Conflict("stream cannot be completed: it is not active", code="not-active")
            await _told(tx, "ingress.finished", ingress)
        self._bus.publish(IngressFinished(ingress.id, ingress.project_id, ingress.kind, ingress.room, ingress.participant_identity))
        return ingress

    async def change(self, project_id: str, ingress_id: str, alter: Alter, **details: object) -> Ingress:
        """`alter` changes it, or what hangs on it (the policy of a live stream), and its subscribers are told. `details`: for the audit
        log. Raises NotFound, and what `alter` raises: nothing is changed then.
        """
        async with self._db.write() as tx:
            ingress = await self._locked(tx, project_id, ingress_id)
            await alter(tx, ingress)
            ingress = await self._locked(tx, project_id, ingress_id)
            await _told(tx, "ingress.updated", ingress, **details)
        self._bus.publish(IngressChanged(ingress.id, ingress.project_id, ingress.kind, ingress.room, ingress.participant_identity))
        return ingress

    async def set_record(self, project_id: str, ingress_id: str, record: bool) -> Ingress:
        """What is published through it is recorded, or no more; a session that is on air follows at once. Raises NotFound."""

        async def alter(tx: Transaction, ingress: Ingress) -> None:
            await table.set_record(tx, ingress.id, record)

        return await self.change(project_id, ingress_id, alter, record=record)

    async def reset_key(self, project_id: str, ingress_id: str, stream_key: str = "") -> Ingress:
        """A new stream key, a random one where none is given; the old one is good no more and who publishes by it is put out (the
        publication waits for the encoder to come back with the new one). Raises NotFound.
        """
        stream_key = stream_key or random_text(32)
        async with self._db.write() as tx:
            ingress = await self._locked(tx, project_id, ingress_id)
            await table.set_stream_key(tx, ingress.id, stream_key)
            ingress = replace(ingress, stream_key=stream_key)
            await _told(tx, "ingress.updated", ingress, key_reset=True)
        about = (ingress.id, ingress.project_id, ingress.kind, ingress.room, ingress.participant_identity)
        self._bus.publish(IngressChanged(*about, key_reset=True))
        return ingress

    def forget(self, ingress_id: str) -> None:
        """What is remembered of it is old."""
        self._cache.forget(lambda cached: cached.id == ingress_id)

    async def _locked(self, tx: Transaction, project_id: str, ingress_id: str, *, to_delete: bool = False) -> Ingress:
        await projects.hold(tx, (project_id,))
        ingress = (await table.lock(tx, (ingress_id,), to_delete=to_delete)).get(ingress_id)
        if ingress is None or ingress.project_id != project_id:
            raise NotFound(f"no ingress {shown(ingress_id)}")
        return ingress

    async def validate_password(self, project_id: str, ingress_id: str, password: str) -> bool:
        """One without a password takes any. Raises NotFound."""
        ingress = await self.get(project_id, ingress_id)
        return ingress.password is None or same_secret(ingress.password, password)

    async def find_by_stream_key(self, stream_key: str) -> Ingress | None:
        """Found by a keyed digest, so that its time tells nothing of the keys that there are. Cached."""
        if not stream_key or len(stream_key) > KEY_LENGTH:
            return None
        lookup = table.stream_key_lookup(self._db.secrets, stream_key)
        if (hit := self._cache.get(lookup, clock.now())) is not None:
            return hit[0]
        generation = self._cache.generation
        try:
            async with self._db.read() as tx:
                ingress = await table.find_by_lookup(tx, lookup)
        except StorageError:
            # an encoder that comes back while the database is away is let in again
            if (last := self._cache.stale(lookup)) is None:
                raise
            return last[0]
        if ingress is None or not same_secret(ingress.stream_key, stream_key):
            self._cache.drop(lookup)
            return None
        self._cache.put(lookup, ingress, clock.now(), generation)
        return ingress

    async def in_room(self, project: Project, room: str, kind: Door) -> Sequence[Ingress]:
        """At most `per_room`. Raises InvalidRequest."""
        found, _ = await self.list(project, room=room, kinds=(kind,), limit=self._per_room)
        return found


async def _nothing() -> None:
    """Stands in for `Ingresses.settle` where there are no sessions: in the CLI."""


async def _told(tx: Transaction, action: str, ingress: Ingress, **details: object) -> None:
    """Written into the outbox and the audit log. What other daemons need to put its encoder out stands in the fact too."""
    live = bool(await table.live_among(tx, (ingress.id,)))
    extra: dict[str, Any] = {"keyReset": True} if details.get("key_reset") else {}
    if action == "ingress.finished":
        extra["startedAt"] = ingress.started_at
    await announce(tx, ingress_fact(action, ingress, clock.wallclock(), live=live, **extra))
    await audit.record(tx, action, ingress.id, ingress.project_id, **details)


def new_ingress(
    project: Project,
    kind: Door,
    room: str = "",
    identity: str = "",
    name: str = "",
    *,
    with_password: bool = False,
    url: str | None = None,
    enable_transcoding: bool = True,
    bypass_transcoding: bool = False,
    takeover: Takeover = Takeover.REJECT,
    record: bool = False,
    pull: Mapping[str, Any] | None = None,
) -> Ingress:
    """An ingress with fresh id and keys, not stored yet. Raises InvalidRequest."""
    canonical = room_name(project.slug, room)
    if (kind is Door.URL) != bool(url):
        raise InvalidRequest("url: expected with inputType url, and only there")
    if url is not None and (len(url) > URL_LENGTH or not url.isprintable()):
        raise InvalidRequest(f"url: expected up to {URL_LENGTH} printable characters, got {len(url)}")
    if len(name) > NAME_LENGTH or not name.isprintable():
        raise InvalidRequest(f"participantName: expected up to {NAME_LENGTH} printable characters, got {shown(name)}")
    camera = kind is Door.WS_MJPEG
    stream_key = f"wsk_{secrets.token_urlsafe(24)}" if camera else random_text(32)
    chosen = identity or (f"wscam-{stream_key[-6:]}" if camera else f"ingress-{project.slug}")
    ingress = Ingress(
        id=f"wsi_{secrets.token_hex(6)}" if camera else f"IN_{random_text(12)}",
        project_id=project.id,
        kind=kind.value,
        room=canonical,
        room_name=room or canonical,
        participant_identity=check_identity(chosen),
        participant_name=name,
        stream_key=stream_key,
        url=url,
        enable_transcoding=enable_transcoding,
        bypass_transcoding=bypass_transcoding,
        takeover=takeover.value,
        record=record,
        pull=pull,
        created_at=clock.wallclock(),
    )
    return replace(ingress, password=random_text(20)) if with_password else ingress


def random_text(length: int) -> str:
    """Letters and digits: safe in a URL, a shell and an encoder's settings."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))
