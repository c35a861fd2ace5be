"""Broadcast: a live stream whole, as the doors need it: found by its ingress, its room or a playback id, remembered for a moment."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from medianode import clock
from medianode.control.cache import Cache
from medianode.errors import StorageError
from medianode.events import Bus, IngressChanged, IngressDeleted, IngressDisabled, KeyRevoked, ProjectChanged, ViewingChanged
from medianode.store import ingresses
from medianode.store import live_streams as table
from medianode.store.database import Database, Transaction
from medianode.store.ingresses import Ingress
from medianode.store.live_streams import LiveStream, PlaybackId, SigningKey

K = TypeVar("K")
V = TypeVar("V")

_ROOM = re.compile(r".+-([0-9a-f]{32})")
"""Only rooms of this form can be a live stream's: the others cost no look into the database."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Broadcast:
    """`playback_ids`: oldest first."""

    ingress: Ingress
    stream: LiveStream
    playback_ids: tuple[PlaybackId, ...] = ()

    @property
    def disabled(self) -> bool:
        return self.ingress.disabled_at is not None

    @property
    def open(self) -> bool:
        """May everybody view it, by whatever door?"""
        return any(playback.access_policy == "public" and not restricted(playback) for playback in self.playback_ids)

    def playback_id(self, playback_id: str) -> PlaybackId | None:
        return next((playback for playback in self.playback_ids if playback.id == playback_id), None)


class Broadcasts:
    """`ttl`: how long a change made by another process may go unseen, seconds; ours is seen at once.

    While the database is away what it last said is believed. All raise StorageError where it has said nothing yet.
    """

    def __init__(self, db: Database, bus: Bus, *, ttl: float = 3.0, cached: int = 4096) -> None:
        self._db = db
        self._by_ingress: Cache[str, Broadcast | None] = Cache(cached, ttl)
        self._by_playback_id: Cache[str, Broadcast | None] = Cache(cached, ttl)
        self._keys: Cache[str, SigningKey | None] = Cache(cached, ttl)
        bus.subscribe(IngressChanged, lambda event: self._forget(event.ingress_id))
        bus.subscribe(IngressDisabled, lambda event: self._forget(event.ingress_id))
        bus.subscribe(IngressDeleted, lambda event: self._forget(event.ingress_id))
        bus.subscribe(KeyRevoked, lambda event: self._keys.forget(lambda key: key is not None and key.id == event.key_id))
        bus.subscribe(ViewingChanged, lambda _: self._clear())
        bus.subscribe(ProjectChanged, lambda _: self._clear())

    async def of_ingress(self, ingress_id: str) -> Broadcast | None:
        return await self._known(self._by_ingress, ingress_id, load_broadcast)

    async def of_room(self, project_id: str, room: str) -> Broadcast | None:
        """The live stream whose room this is (canonical)."""
        named = _ROOM.fullmatch(room)
        if named is None:
            return None
        found = await self.of_ingress(named[1])
        return found if found is not None and (found.ingress.project_id, found.ingress.room) == (project_id, room) else None

    async def by_playback_id(self, playback_id: str) -> Broadcast | None:
        return await self._known(self._by_playback_id, playback_id, _by_playback_id)

    async def signing_key(self, key_id: str) -> SigningKey | None:
        return await self._known(self._keys, key_id, table.find_signing_key)

    async def _known(self, cache: Cache[K, V], key: K, load: Callable[[Transaction, K], Awaitable[V]]) -> V:
        if (hit := cache.get(key, clock.now())) is not None:
            return hit[0]
        generation = cache.generation
        try:
            async with self._db.read() as tx:
                found = await load(tx, key)
        except StorageError:
            if (last := cache.stale(key)) is None:
                raise
            return last[0]
        cache.put(key, found, clock.now(), generation)
        return found

    def _forget(self, ingress_id: str) -> None:
        # one that is not there may be what has just been made
        for cache in (self._by_ingress, self._by_playback_id):
            cache.forget(lambda found: found is None or found.ingress.id == ingress_id)

    def _clear(self) -> None:
        for cache in (self._by_ingress, self._by_playback_id, self._keys):
            cache.clear()


def restricted(playback: PlaybackId) -> bool:
    """Is anybody kept out by where or with what they play it? An allow list alone, where all are allowed anyway, keeps nobody out."""
    return any(rule["deny"] or rule["defaultPolicy"] == "deny" for rule in playback.restrictions.values())


async def load_broadcast(tx: Transaction, ingress_id: str) -> Broadcast | None:
    """None for an ingress that is no live stream, or none at all."""
    stream = await table.find(tx, ingress_id)
    ingress = None if stream is None else await ingresses.find(tx, ingress_id)
    if stream is None or ingress is None:
        return None
    return Broadcast(ingress=ingress, stream=stream, playback_ids=tuple(await table.playback_ids_of(tx, ingress_id)))


async def load_broadcasts(tx: Transaction, streams: Sequence[LiveStream]) -> list[Broadcast]:
    """Of a whole page, with as many queries as for one."""
    ids = [stream.ingress_id for stream in streams]
    rows = await ingresses.find_all(tx, ids)
    playback_ids = await table.playback_ids_of(tx, *ids)
    return [
        Broadcast(
            ingress=rows[stream.ingress_id],
            stream=stream,
            playback_ids=tuple(playback for playback in playback_ids if playback.ingress_id == stream.ingress_id),
        )
        for stream in streams
        if stream.ingress_id in rows
    ]


async def _by_playback_id(tx: Transaction, playback_id: str) -> Broadcast | None:
    found = await table.find_playback_id(tx, playback_id)
    return None if found is None else await load_broadcast(tx, found.ingress_id)
