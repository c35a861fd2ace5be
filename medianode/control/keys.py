"""API keys: made, listed, rotated, revoked, recognised."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import logging
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from medianode import clock
from medianode.auth import Permission
from medianode.control import audit
from medianode.control.cache import Cache
from medianode.errors import Forbidden, InvalidRequest, NotFound, StorageError, Unauthorized
from medianode.events import Bus, KeyRevoked, ProjectDeleted
from medianode.media.names import shown
from medianode.store import keys as table
from medianode.store import projects
from medianode.store.database import Database
from medianode.store.keys import ApiKey
from medianode.store.secrets import key_hash
from medianode.webhooks.facts import Fact
from medianode.webhooks.outbox import announce

KEY_LENGTH = 256
NAME_LENGTH = 200
USED_EVERY = 60.0
NETWORKS = 64
"""Of one key's allow-list."""
EXPIRY_MAX = 100 * 366 * 86_400.0
OVERLAP = 3600.0
OVERLAP_MAX = 30 * 86_400.0
"""Seconds that both texts of a rotated key are good."""

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
        bus.subscribe(KeyRevoked, lambda event: self._cache.forget(lambda key: key.id == event.key_id))  # also by other processes
        bus.subscribe(ProjectDeleted, lambda event: self._cache.forget(lambda key: key.project_id == event.project_id))

    async def create(
        self,
        name: str,
        permissions: Iterable[str],
        project: str | None = None,
        *,
        expires_at: float | None = None,
        allowed_addresses: Iterable[str] | None = None,
    ) -> NewKey:
        """`project`: slug or id; None for a key to the whole node. `expires_at`: wallclock. `allowed_addresses`: addresses or networks that
        it may be used from. Raises InvalidRequest, NotFound.
        """
        project_id = None
        async with self._db.write() as tx:
            if project is not None:
                found = await projects.find(tx, project)
                if found is None:
                    raise NotFound(f"no project {shown(project)}")
                project_id = found.id
            made = new_key(name, permissions, project_id, expires_at=expires_at, allowed_addresses=allowed_addresses)
            await table.insert_key(tx, made.key)
            await audit.record(tx, "key.created", made.key.id, project_id, name=name, permissions=sorted(made.key.permissions))
        return made

    async def get(self, key_id: str) -> ApiKey:
        """Raises NotFound."""
        async with self._db.read() as tx:
            key = await table.find(tx, key_id)
        if key is None:
            raise NotFound(f"no key {shown(key_id)}")
        return key

    async def rotate(self, key_id: str, overlap: float = OVERLAP) -> NewKey:
        """A new text for the same key; the old one is good for `overlap` seconds more, and one from before that no longer.

        Raises NotFound (also of a revoked one), InvalidRequest.
        """
        if not 0 <= overlap <= OVERLAP_MAX:
            raise InvalidRequest(f"overlap: expected 0 s to {OVERLAP_MAX / 86_400:g} d, got {overlap:g} s")
        text, at = _text(), clock.wallclock()
        async with self._db.write() as tx:
            if not await table.rotate(tx, key_id, key_hash(text), at + overlap):
                raise NotFound(f"no key {shown(key_id)} that is good")
            key = await table.find(tx, key_id)
            assert key is not None
            await audit.record(tx, "key.rotated", key_id, key.project_id, overlap=overlap)
        self._cache.forget(lambda cached: cached.id == key_id)
        return NewKey(key, text)

    async def list(self, project_id: str | None = None, limit: int = 1000, offset: int = 0) -> Sequence[ApiKey]:
        """Of one project, or all of the node; revoked ones too; oldest first."""
        async with self._db.read() as tx:
            return await table.list_keys(tx, project_id, limit, offset)

    async def revoke(self, key_id: str) -> ApiKey:
        """From now on nobody knows it. Doing it twice is harmless. Raises NotFound."""
        async with self._db.write() as tx:
            before = await table.find(tx, key_id)
            if before is None:
                raise NotFound(f"no key {shown(key_id)}")
            at = clock.wallclock()
            await projects.hold(tx, (before.project_id or "",))
            await table.revoke(tx, key_id, at)
            key = replace(before, revoked_at=before.revoked_at or at)
            if before.revoked_at is None:
                await announce(
                    tx, Fact(type="key.revoked", project_id=key.project_id, stream=f"key:{key.id}", at=at, data={"keyId": key.id})
                )
                await audit.record(tx, "key.revoked", key.id, key.project_id, name=key.name)
        self._bus.publish(KeyRevoked(key.id, key.project_id))
        return key

    async def verify(self, secret: str, source: str | None = None, key_id: str | None = None) -> ApiKey:
        """Whose key is this? `source`: the address that it comes from, looked at where given. `key_id`: whose it is said to be, or None.

        Raises Unauthorized if nobody's or another's, `key-revoked`, `key-expired`; Forbidden `address-not-allowed`. The returned
        `expires_at` is that of the text shown: after a rotation the old one ends earlier.
        """
        key = await self._find(secret)
        if key_id is not None and not hmac.compare_digest(key.id.encode(), key_id.encode("utf-8", "surrogatepass")):
            raise Unauthorized("this API key is not known")
        if source is not None and not may_come_from(key, source):
            raise Forbidden(f"this API key may not be used from {source}", code="address-not-allowed")
        self._note_use(key)
        return key

    async def _find(self, secret: str) -> ApiKey:
        if not secret or len(secret) > KEY_LENGTH:
            raise Unauthorized("this API key is not known")
        digest = key_hash(secret)
        hit = self._cache.get(digest, clock.now())
        if hit is not None:
            return _good(hit[0], digest)
        generation = self._cache.generation
        try:
            async with self._db.read() as tx:
                key = await table.find_by_hash(tx, digest)
        except StorageError:
            # nobody can revoke anything while the database is away
            if (last := self._cache.stale(digest)) is None:
                raise
            return _good(last[0], digest)
        if key is None:
            raise Unauthorized("this API key is not known")
        if key.revoked_at is not None:
            self._cache.drop(digest)
            raise Unauthorized("this API key was revoked", code="key-revoked")
        self._cache.put(digest, key, clock.now(), generation)
        return _good(key, digest)

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


def _good(key: ApiKey, digest: bytes) -> ApiKey:
    """As the text with this digest knows it. Raises Unauthorized if that is no longer good."""
    if not hmac.compare_digest(key.hash, digest):
        if key.previous_hash is None or key.previous_until is None or not hmac.compare_digest(key.previous_hash, digest):
            raise Unauthorized("this API key is not known")
        key = replace(key, expires_at=min(key.previous_until, key.expires_at or key.previous_until))
    if key.expires_at is not None and clock.wallclock() >= key.expires_at:
        raise Unauthorized(f"this API key expired at {clock.iso(key.expires_at, 0)}", code="key-expired")
    return key


def may_come_from(key: ApiKey, source: str) -> bool:
    """Is `source` in the key's allow-list? What is no address is in none."""
    if key.allowed_addresses is None:
        return True
    try:
        address = ipaddress.ip_address(source.partition("%")[0])
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address):
        address = address.ipv4_mapped or address
    return any(address in ipaddress.ip_network(network) for network in key.allowed_addresses)


def _networks(texts: Iterable[str]) -> tuple[str, ...]:
    found: list[str] = []
    for text in texts:
        try:
            found.append(str(ipaddress.ip_network(text.strip(), strict=False)))
        except ValueError:
            raise InvalidRequest(f"allowedAddresses: expected addresses or networks such as 203.0.113.0/24, got {shown(text)}") from None
    if not 1 <= len(found) <= NETWORKS:
        raise InvalidRequest(f"allowedAddresses: expected 1 to {NETWORKS} networks, got {len(found)}: leave it out to allow all")
    return tuple(dict.fromkeys(found))


def _text() -> str:
    return f"sk_{secrets.token_urlsafe(32)}"


def new_key(
    name: str,
    permissions: Iterable[str],
    project_id: str | None,
    secret: str | None = None,
    *,
    expires_at: float | None = None,
    allowed_addresses: Iterable[str] | None = None,
) -> NewKey:
    """A key with a fresh id, not stored yet; its text is `sk_` and 43 characters of base64url. Raises InvalidRequest."""
    granted = frozenset(permissions)
    known = {permission.value for permission in Permission}
    if not granted or not granted <= known:
        got = ", ".join(shown(p) for p in sorted(granted - known)) or "none"
        raise InvalidRequest(f"permissions: expected some of {', '.join(sorted(known))}, got {got}")
    if not name or len(name) > NAME_LENGTH or not name.isprintable():
        raise InvalidRequest(f"name: expected 1 to {NAME_LENGTH} printable characters, got {shown(name)}")
    at = clock.wallclock()
    if expires_at is not None and not at < expires_at <= at + EXPIRY_MAX:
        raise InvalidRequest("expiresAt: expected an instant to come, within a hundred years")
    text = secret or _text()
    key = ApiKey(
        id=f"key_{secrets.token_hex(6)}",
        project_id=project_id,
        name=name,
        hash=key_hash(text),
        permissions=granted,
        created_at=at,
        expires_at=expires_at,
        allowed_addresses=None if allowed_addresses is None else _networks(allowed_addresses),
    )
    return NewKey(key, text)
