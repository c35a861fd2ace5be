"""Signed view links: made, listed, revoked; and the revocation of room tokens. Who views by either is put out."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from medianode import clock
from medianode.control import audit, tokens
from medianode.control.cache import Cache
from medianode.errors import Forbidden, InvalidRequest, NotFound, StorageError, Unauthorized
from medianode.events import Bus, ProjectDeleted, TokenRevoked
from medianode.media.names import room_name, shown
from medianode.store import ingresses, live_streams, projects
from medianode.store import links as table
from medianode.store.database import Database, Transaction
from medianode.store.links import ViewLink
from medianode.store.projects import Project
from medianode.tasks import every, guard
from medianode.webhooks.facts import Fact
from medianode.webhooks.outbox import announce

log = logging.getLogger(__name__)
TTL = 3600.0
TTL_MAX = 30 * 86_400.0
PREFIX = "vl_"
LIST_LIMIT = 500
FORGET_EVERY = 3600.0
KEPT = 86_400.0
"""Seconds that an expired link stays in the list."""


@dataclass(frozen=True, slots=True)
class NewLink:
    """`token` is shown once: it is not kept."""

    link: ViewLink
    token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class _Known:
    """What the database says of a token: the link that it is of, if any, and whether it was revoked."""

    token_id: str
    project_id: str
    link: ViewLink | None
    revoked: bool


class Links:
    """`most`: limits.view_links, good ones of one project.

    `ttl`: seconds that an answer of the database is remembered; TokenRevoked, also of what another process did (`follow`), ends that.
    """

    def __init__(self, db: Database, bus: Bus, *, most: int, ttl: float = 60.0, cached: int = 16_384) -> None:
        self._db = db
        self._bus = bus
        self._most = most
        self._began = clock.wallclock() - clock.now()
        self._cache: Cache[tuple[str, str], _Known] = Cache(cached, ttl)
        bus.subscribe(TokenRevoked, lambda event: self._cache.forget(lambda known: known.token_id == event.token_id))
        bus.subscribe(ProjectDeleted, lambda event: self._cache.forget(lambda known: known.project_id == event.project_id))

    async def create(
        self, project: Project, room: str = "", *, playback_id: str = "", ttl: str | float | None = None, identity: str = ""
    ) -> NewLink:
        """For `room` (either form) or the live stream of `playback_id`. `ttl`: as `tokens.span`, up to 30 days; None is an hour.

        Raises InvalidRequest, NotFound, Forbidden (`link-quota`).
        """
        if bool(room) == bool(playback_id):
            raise InvalidRequest("room: expected either room or playbackId")
        seconds = TTL if ttl is None else tokens.span(ttl)
        if seconds > TTL_MAX:
            raise InvalidRequest(f"ttl: expected 1 s to {TTL_MAX / 86_400:g} d, got {seconds / 86_400:.1f} d")
        at, link_id = clock.wallclock(), PREFIX + secrets.token_hex(12)
        async with self._db.write() as tx:
            if await projects.lock(tx, project.id) is None:
                raise NotFound(f"no project {shown(project.slug)}")
            canonical = await _room_of(tx, project, playback_id) if playback_id else room_name(project.slug, room)
            if await table.count_good(tx, project.id, at) >= self._most:
                raise Forbidden(f"this project has {self._most} view links, which is limits.view_links", code="link-quota")
            text, token = tokens.mint(
                project, at=at, room=canonical, identity=identity or None, ttl=seconds, can_publish=False, hidden=True, token_id=link_id
            )
            link = ViewLink(
                id=link_id,
                project_id=project.id,
                room=canonical,
                identity=token.identity,
                created_at=at,
                expires_at=token.expires_at,
            )
            await table.insert_link(tx, link)
            await audit.record(tx, "link.created", link.id, project.id, room=link.room, identity=link.identity, expires=link.expires_at)
        return NewLink(link, text)

    async def list(self, project: Project, *, room: str = "", limit: int = 100, offset: int = 0) -> tuple[Sequence[ViewLink], int]:
        """Newest first, and how many there are in all."""
        canonical = room_name(project.slug, room) if room else None
        async with self._db.read() as tx:
            return await table.list_links(tx, project.id, room=canonical, limit=max(1, min(limit, LIST_LIMIT)), offset=max(0, offset))

    async def get(self, project_id: str, link_id: str) -> ViewLink:
        """Raises NotFound."""
        async with self._db.read() as tx:
            return await _link(tx, project_id, link_id)

    async def revoke(self, project_id: str, link_id: str) -> ViewLink:
        """From now on it opens nothing. Doing it twice is harmless. Raises NotFound."""
        at = clock.wallclock()
        async with self._db.write() as tx:
            if await projects.lock(tx, project_id) is None:
                raise NotFound(f"no view link {shown(link_id)}")
            link = await _link(tx, project_id, link_id)
            if link.revoked_at is None:
                link = replace(link, revoked_at=at)
                await table.revoke(tx, link.id, at)
                await self._told(tx, project_id, link.id, "link.revoked", at)
        self._bus.publish(TokenRevoked(project_id, link.id))
        return link

    async def revoke_token(self, project: Project, text: str) -> tokens.Token:
        """A room token, or a link by its token. One that has expired is dead already, which is no mistake. Raises InvalidRequest."""
        at = clock.wallclock()
        try:
            token = tokens.verify(project, text, at, expired=True)
        except Unauthorized as e:
            raise InvalidRequest(e.message) from None
        async with self._db.write() as tx:
            if await projects.lock(tx, project.id) is None:
                raise NotFound(f"no project {shown(project.slug)}")
            link = await table.find(tx, project.id, token.id)
            if link is not None:
                fresh = link.revoked_at is None
                if fresh:
                    await table.revoke(tx, link.id, at)
            else:
                fresh = await table.revoke_token(tx, project.id, token.id, token.expires_at + tokens.LEEWAY, at)
            if fresh:
                await self._told(tx, project.id, token.id, "token.revoked" if link is None else "link.revoked", at)
        self._bus.publish(TokenRevoked(project.id, token.id))
        return token

    async def check(self, project_id: str, token_id: str) -> ViewLink | None:
        """The link that the token of this id is of, or None for a room token. Cached; believed while the database is away.

        Raises Unauthorized (`token-revoked`, `token-expired`), StorageError for one that was never seen.
        """
        known = await self._known(project_id, token_id)
        link = known.link
        if known.revoked:
            raise Unauthorized("token: revoked", code="token-revoked")
        if link is None and token_id.startswith(PREFIX):  # its row is gone, or was never here
            raise Unauthorized("token: expired", code="token-expired")
        if link is not None and clock.wallclock() >= link.expires_at:  # made by this clock, so no leeway
            raise Unauthorized("token: expired", code="token-expired")
        return link

    async def _known(self, project_id: str, token_id: str) -> _Known:
        key = (project_id, token_id)
        if (hit := self._cache.get(key, clock.now())) is not None:
            return hit[0]
        generation = self._cache.generation
        try:
            async with self._db.read() as tx:
                link = await table.find(tx, project_id, token_id)
                revoked = link.revoked_at is not None if link else await table.token_revoked(tx, project_id, token_id)
        except StorageError:
            if (last := self._cache.stale(key)) is None:
                raise
            return last[0]
        known = _Known(token_id, project_id, link, revoked)
        self._cache.put(key, known, clock.now(), generation)
        return known

    async def forget_expired(self) -> int:
        """What expired long enough ago is no longer kept. Raises StorageError.

        By the earlier of two clocks: one that was put forward for a while would have revocations forgotten.
        """
        async with self._db.write() as tx:
            return await table.forget(tx, min(clock.wallclock(), self._began + clock.now()) - KEPT)

    async def serve(self) -> None:
        """Forget each hour; until cancelled. A database that cannot be written only puts it off."""
        async for _ in every(FORGET_EVERY):
            error = await guard("links", self.forget_expired())
            if isinstance(error, StorageError):
                log.warning("expired view links are kept for now: %s: %s", error.code, error)

    async def _told(self, tx: Transaction, project_id: str, token_id: str, action: str, at: float) -> None:
        await announce(
            tx, Fact(type="link.revoked", project_id=project_id, stream=f"token:{token_id}"[:160], at=at, data={"tokenId": token_id})
        )
        await audit.record(tx, action, token_id, project_id)


async def _link(tx: Transaction, project_id: str, link_id: str) -> ViewLink:
    link = await table.find(tx, project_id, link_id)
    if link is None:
        raise NotFound(f"no view link {shown(link_id)}")
    return link


async def _room_of(tx: Transaction, project: Project, playback_id: str) -> str:
    playback = await live_streams.find_playback_id(tx, playback_id)
    ingress = None if playback is None else await ingresses.find(tx, playback.ingress_id)
    if ingress is None or ingress.project_id != project.id:
        raise NotFound(f"no playback id {shown(playback_id)}")
    return ingress.room
