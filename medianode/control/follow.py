"""Follows what other processes on the same database do: the CLI, other daemons. Their facts become events on our bus, which make this
daemon forget and put out as if it had done it itself, within about a second.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

from medianode.control.session_facts import IN_SESSION
from medianode.errors import StorageError
from medianode.events import (
    Bus,
    Event,
    IngressChanged,
    IngressDeleted,
    IngressDisabled,
    IngressFinished,
    KeyRevoked,
    ProjectChanged,
    ProjectDeleted,
    TargetChanged,
    TokenRevoked,
    ViewingChanged,
)
from medianode.store import ingresses, outbox
from medianode.store.database import Database, Transaction
from medianode.store.outbox import StoredEvent
from medianode.tasks import every, guarded

FOLLOWED = (
    "ingress.deleted",
    "ingress.disabled",
    "ingress.enabled",
    "ingress.finished",
    "ingress.updated",
    "key.revoked",
    "link.revoked",
    "project.changed",
    "target.created",
    "target.updated",
    "target.deleted",
)
LAPSING = ("ingress.disabled", "ingress.finished")
"""Looked at again before an encoder is put out."""
POLL = 1.0
BATCH = 500

log = logging.getLogger(__name__)


class Follower:
    """`start` before anything is remembered of the database, then `serve`. What this process wrote itself is known, and passed over."""

    def __init__(self, db: Database, bus: Bus) -> None:
        self._db = db
        self._bus = bus
        self._cursor = 0
        self._away = False

    async def start(self) -> None:
        """From here on. Raises StorageError."""
        async with self._db.read() as tx:
            self._cursor = await outbox.newest(tx)

    async def serve(self) -> None:
        """Runs until cancelled; while the database is away nobody can do anything, and it goes on from where it was."""
        async for _ in every(POLL):
            try:
                await self.look()
                self._away = False
            except StorageError as e:
                if not self._away:
                    log.warning("not following other processes: %s: %s", e.code, e)
                self._away = True

    async def look(self) -> int:
        """Follow what is new. Returns how many facts that were. Raises StorageError."""
        followed = 0
        while True:
            async with self._db.read() as tx:
                cursor, found = await outbox.by_others(tx, self._cursor, FOLLOWED, BATCH)
                late = {e.cursor for e in found if e.type in LAPSING and await _has_lapsed(tx, e)}
            for stored in found:
                for event in _events(stored, lapsed=stored.cursor in late):
                    guarded("follower", self._bus.publish, event)
            self._cursor = cursor
            followed += len(found)
            if len(found) < BATCH:
                return followed


async def _has_lapsed(tx: Transaction, stored: StoredEvent) -> bool:
    """Enabled again meanwhile, or in another session: an encoder may have been let in since, and is not to be put out."""
    row = await ingresses.find(tx, str(stored.data["ingressId"]))
    if row is None:
        return True
    if stored.type == "ingress.disabled":
        return row.disabled_at is None
    return row.state not in IN_SESSION or stored.data["startedAt"] not in (None, row.started_at)


def _events(stored: StoredEvent, *, lapsed: bool) -> Iterator[Event]:
    data, project_id = stored.data, stored.project_id or ""
    family, _, word = stored.type.partition(".")
    if family == "ingress":
        about = (data["ingressId"], project_id, data["kind"], data["room"], data["identity"])
        if word == "deleted":
            yield IngressDeleted(*about)
        elif word == "finished":
            if not lapsed:
                yield IngressFinished(*about)
            return
        elif word == "disabled" and not lapsed:
            yield IngressDisabled(*about)
        else:
            yield IngressChanged(*about, key_reset=bool(data.get("keyReset")))
        if data.get("live"):
            yield ViewingChanged(project_id)
    elif family == "target":
        yield TargetChanged(data["targetId"], project_id, data["room"])
    elif stored.type == "key.revoked":
        if project_id:
            yield ViewingChanged(project_id)  # it may be a key that view tokens are signed with
        yield KeyRevoked(data["keyId"], stored.project_id)
    elif stored.type == "link.revoked":
        yield TokenRevoked(project_id, data["tokenId"])
    elif data.get("deleted"):
        yield ProjectDeleted(data["projectId"], data["slug"])
    else:
        yield ProjectChanged(data["projectId"], data["slug"])
