"""API keys: made, listed, revoked, recognised."""

from __future__ import annotations

import asyncio
import hmac
import logging
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from medianode import clock
from medianode.auth import Permission
from medianode.control.cache import Cache
from medianode.errors import InvalidRequest, NotFound, StorageError, Unauthorized
from medianode.events import Bus, KeyRevoked
from medianode.media.names import shown
from medianode.store import keys as table
from medianode.store import projects
from medianode.store.database import Database
from medianode.store.keys import ApiKey
from medianode.store.secrets import key_hash

KEY_LENGTH = 256
NAME_LENGTH = 200
USED_EVERY = 60.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class NewKey:
    """`secret` is shown once: only its hash is stored."""

    key: ApiKey
    secret: str = field(repr=False)


class Keys:
    """`ttl`: how long a revocation made by another process (the CLI) may go unseen, seconds. Ours is seen at once."""

    def __init__(self, db: Database, bus: Bus, *, ttl: float = 3.0, cached: int = 1024) -> None:
        self._db = db
        self._bus = bus
        self._cache: Cache[bytes, ApiKey] = Cache(cached, ttl)
        self._used: dict[str, float] = {}

    async def create(self, name: str, permissions: Iterable[str], project: str | None = None) -> NewKey:
        """`project`: slug or id; None for a key to the whole node. Raises InvalidRequest, NotFound."""
        project_id = None
        async with self._db.write() as tx:
            if project is not None:
                found = await projects.find(tx, project)
                if found is None:
                    raise NotFound(f"no project {shown(project)}")
                project_id = found.id
            made = new_key(name, permissions, project_id)
            await table.insert_key(tx, made.key)
        return made

    async def list(self, project_id: str | None = None, limit: int = 1000, offset: int = 0) -> Sequence[ApiKey]:
        """Of one project, or all of the node; revoked ones too; oldest first."""
        async with self._db.read() as tx:
            return await table.list_keys(tx, project_id, limit, offset)

    async def revoke(self, key_id: str) -> ApiKey:
        """From now on nobody knows it. Doing it twice is harmless. Raises NotFound."""
        async with self._db.write() as tx:
            if not await table.revoke(tx, key_id, clock.wallclock()):
                raise NotFound(f"no key {shown(key_id)}")
            key = await table.find(tx, key_id)
        assert key is not None
        self._cache.forget(lambda cached: cached.id == key_id)
        self._bus.publish(KeyRevoked(key.id, key.project_id))
        return key

    async def verify(self, secret: str) -> ApiKey:
        """Whose key is this? Raises Unauthorized if nobody's, or a revoked one."""
        if not secret or len(secret) > KEY_LENGTH:
            raise Unauthorized("this API key is not known")
        digest = key_hash(secret)
        hit = self._cache.get(digest, clock.now())
        if hit is None:
            generation = self._cache.generation
            try:
                async with self._db.read() as tx:
                    key = await table.find_by_hash(tx, digest)
            except StorageError:
                # nobody can revoke anything while the database is away
                if (last := self._cache.stale(digest)) is None:
                    raise
                return last[0]
            if key is None or not hmac.compare_digest(key.hash, digest):
                raise Unauthorized("this API key is not known")
            if key.revoked_at is not None:
                self._cache.drop(digest)
                raise Unauthorized("this API key was revoked")
            self._cache.put(digest, key, clock.now(), generation)
        else:
            key = hit[0]
        self._note_use(key)
        return key

    def _note_use(self, key: ApiKey) -> None:
        at = clock.wallclock()
        if key.id in self._used or key.last_used_at is None or at - key.last_used_at >= USED_EVERY:
            self._used[key.id] = at

    async def write_used(self) -> None:
        """Write down when keys were last used. Raises StorageError."""
        pending, self._used = self._used, {}
        if pending:
            async with self._db.write() as tx:
                await table.used(tx, pending)

    async def serve(self) -> None:
        """Write down each minute when keys were last used; runs until cancelled.

        A database that cannot be written only costs these instants.
        """
        while True:
            await asyncio.sleep(USED_EVERY)
            try:
                await self.write_used()
            except StorageError as e:
                log.warning("last use of API keys not written: %s: %s", e.code, e)


def new_key(name: str, permissions: Iterable[str], project_id: str | None, secret: str | None = None) -> NewKey:
    """A key with a fresh id, not stored yet; its text is `sk_` and 43 characters of base64url. Raises InvalidRequest."""
    granted = frozenset(permissions)
    known = {permission.value for permission in Permission}
    if not granted or not granted <= known:
        got = ", ".join(shown(p) for p in sorted(granted - known)) or "none"
        raise InvalidRequest(f"permissions: expected some of {', '.join(sorted(known))}, got {got}")
    if not name or len(name) > NAME_LENGTH or not name.isprintable():
        raise InvalidRequest(f"name: expected 1 to {NAME_LENGTH} printable characters, got {shown(name)}")
    text = secret or f"sk_{secrets.token_urlsafe(32)}"
    key = ApiKey(
        id=f"key_{secrets.token_hex(6)}",
        project_id=project_id,
        name=name,
        hash=key_hash(text),
        permissions=granted,
        created_at=clock.wallclock(),
    )
    return NewKey(key, text)
