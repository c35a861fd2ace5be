"""Follows publications and moves their ingresses along `ingress_state`: facts at once on the bus, the newest state soon in the database."""

from __future__ import annotations

import asyncio
import logging
from contextlib import ExitStack
from dataclasses import dataclass, field

from medianode import clock
from medianode.control.ingress_state import (
    Connected,
    Deleted,
    Event,
    Failed,
    FirstKeyframe,
    HoldExpired,
    Life,
    Lost,
    Phase,
    Reconnected,
    SessionEnded,
    SessionStarted,
    State,
    StateChanged,
    step,
)
from medianode.errors import StorageError
from medianode.events import (
    Bus,
    IngressDeleted,
    IngressStateChanged,
    PublicationActive,
    PublicationEnded,
    PublicationLost,
    PublicationOpened,
)
from medianode.store import ingresses as table
from medianode.store.database import Database

RETRY = 1.0

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Entry:
    """`since`: clock.now() of the first ACTIVE of the session; the others are wallclock."""

    project_id: str
    room: str
    identity: str
    life: Life = field(default_factory=Life)
    since: float | None = None
    started_at: float | None = None
    ended_at: float | None = None


class IngressLives:
    """One Life per ingress seen since the start, dropped when the ingress is deleted. `serve` writes; without it the facts still flow."""

    def __init__(self, db: Database, bus: Bus) -> None:
        self._db = db
        self._bus = bus
        self._entries: dict[str, _Entry] = {}
        self._unwritten: set[str] = set()
        self._wake = asyncio.Event()
        bus.subscribe(PublicationOpened, self._opened)
        bus.subscribe(PublicationActive, self._active)
        bus.subscribe(PublicationLost, self._lost)
        bus.subscribe(PublicationEnded, self._ended)
        bus.subscribe(IngressDeleted, self._deleted)

    def life(self, ingress_id: str) -> Life | None:
        """None if nothing came in over it since the start; the database then has its state."""
        entry = self._entries.get(ingress_id)
        return None if entry is None else entry.life

    def failed(self, ingress_id: str, project_id: str, room: str, identity: str, code: str, message: str) -> None:
        """A door gives up on an ingress: refused media, an unreachable URL. ERROR at once, no hold window."""
        self._entries.setdefault(ingress_id, _Entry(project_id, room, identity))
        self._step(ingress_id, Failed(code, message))

    async def recover(self) -> int:
        """At start: sessions that a crash cut off are over. Returns how many."""
        async with self._db.write() as tx:
            return await table.end_all(tx, (State.BUFFERING.value, State.ACTIVE.value), State.COMPLETE.value, clock.wallclock())

    async def serve(self) -> None:
        """Write states down as they change, the newest of each ingress only; runs until cancelled, and then writes the last ones.

        A database that cannot be written is tried again each second.
        """
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                try:
                    await self.write()
                except StorageError as e:
                    log.warning("ingress states not written: %s: %s", e.code, e)
                    await asyncio.sleep(RETRY)
                    self._wake.set()
        finally:
            try:
                await self.write()
            except StorageError as e:
                log.error("the last ingress states are not written (the next start finds them cut off): %s: %s", e.code, e)

    async def write(self) -> None:
        """Write down what is not yet. Raises StorageError; it is then still to be written."""
        pending, self._unwritten = self._unwritten, set()
        if not pending:
            return
        with ExitStack() as unless_done:
            unless_done.callback(lambda: self._unwritten.update(pending))
            async with self._db.write() as tx:
                for ingress_id in sorted(pending & self._entries.keys()):
                    entry = self._entries[ingress_id]
                    await table.set_state(
                        tx,
                        ingress_id,
                        entry.life.state.value,
                        error_code=entry.life.code,
                        error_message=entry.life.message,
                        started_at=entry.started_at,
                        ended_at=entry.ended_at,
                    )
            unless_done.pop_all()

    def _opened(self, event: PublicationOpened) -> None:
        if event.ingress_id is None:
            return
        entry = self._entries.setdefault(event.ingress_id, _Entry(event.project_id, event.room, event.identity))
        if entry.life.phase in (Phase.CONNECTED, Phase.ACTIVE):
            self._step(event.ingress_id, Lost("takeover"))
        self._step(event.ingress_id, Reconnected() if entry.life.phase is Phase.HELD else Connected())

    def _active(self, event: PublicationActive) -> None:
        if self._phase(event.ingress_id) is Phase.CONNECTED:
            self._step(event.ingress_id, FirstKeyframe())

    def _lost(self, event: PublicationLost) -> None:
        # after `failed` or a deletion the publication still ends in its own way: no news
        if self._phase(event.ingress_id) in (Phase.CONNECTED, Phase.ACTIVE):
            self._step(event.ingress_id, Lost(event.cause, event.message, event.failure))

    def _ended(self, event: PublicationEnded) -> None:
        if self._phase(event.ingress_id) in (Phase.CONNECTED, Phase.ACTIVE):
            self._step(event.ingress_id, Lost(event.cause))
        if self._phase(event.ingress_id) is Phase.HELD:
            self._step(event.ingress_id, HoldExpired())

    def _deleted(self, event: IngressDeleted) -> None:
        if event.ingress_id in self._entries:
            self._step(event.ingress_id, Deleted())
            del self._entries[event.ingress_id]

    def _phase(self, ingress_id: str | None) -> Phase | None:
        entry = None if ingress_id is None else self._entries.get(ingress_id)
        return None if entry is None else entry.life.phase

    def _step(self, ingress_id: str | None, event: Event) -> None:
        assert ingress_id is not None
        entry = self._entries[ingress_id]
        entry.life, facts = step(entry.life, event)
        if isinstance(event, Connected):
            entry.since = entry.started_at = entry.ended_at = None
        changes: list[StateChanged] = []
        for fact in facts:
            if isinstance(fact, SessionStarted):
                entry.since, entry.started_at = clock.now(), clock.wallclock()
            elif isinstance(fact, SessionEnded):
                entry.ended_at = clock.wallclock()
            elif isinstance(fact, StateChanged):
                changes.append(fact)
        self._unwritten.add(ingress_id)
        self._wake.set()
        duration = 0.0 if entry.since is None else clock.now() - entry.since
        for change in changes:
            self._bus.publish(
                IngressStateChanged(
                    ingress_id,
                    entry.project_id,
                    entry.room,
                    entry.identity,
                    change.old.value,
                    change.new.value,
                    change.code,
                    change.message,
                    duration,
                )
            )
