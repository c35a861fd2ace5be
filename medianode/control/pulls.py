"""Pulls: which URLs this node fetches now. One node fetches a source (a lease in the database), always or while somebody wants its room."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Final, Protocol
from uuid import uuid4

from medianode import clock, config
from medianode.auth import Door, PublishGrant
from medianode.control.session_facts import ingress_fact
from medianode.control.sources import options_of
from medianode.errors import PeerError, PeerGone, StorageError
from medianode.events import Bus, IngressChanged, IngressCreated, IngressDeleted, IngressDisabled, ProjectDeleted
from medianode.ingress.pull.order import PullOrder, PullState, State
from medianode.routing.demand import Outlook
from medianode.routing.registry import Registry
from medianode.store import ingresses, outbox
from medianode.store import pulls as table
from medianode.store.database import Database, Transaction
from medianode.store.ingresses import Ingress
from medianode.store.pulls import Pull
from medianode.tasks import guard
from medianode.webhooks.facts import Fact
from medianode.webhooks.outbox import announce

LOOK = 10.0
"""Seconds between looks at what other nodes have made, changed or left."""
TICK = 1.0
RUNNING: Final = "running"
WAITING: Final = "waiting"
STOPPED: Final = "stopped"
_STATES: dict[str, State] = {"opening": "opening", RUNNING: RUNNING, WAITING: WAITING}

log = logging.getLogger(__name__)


class Puller(Protocol):
    """ingress.pull.service.PullService. It calls `on_state` in the loop when the state of one changes."""

    on_state: Callable[[str, PullState], None]

    def open(self, order: PullOrder) -> None:
        """Begin, or go on by another order. Raises InvalidRequest, LimitExceeded."""

    async def close(self, ingress_id: str) -> None:
        """Returns when its publication has ended. Idempotent."""

    def state(self, ingress_id: str) -> PullState | None: ...


@dataclass(slots=True)
class _Change:
    """What is to be written of one ingress: the newest state, and the newest fact."""

    state: PullState
    fact: str = ""
    at: float = 0.0
    fact_id: str = field(default_factory=lambda: str(uuid4()))


class Pulls:
    """`grant`: HouseGatekeeper.pull. `bound`: limits.pulls, of this node. `puller` is set before `serve`, without it nothing is fetched."""

    def __init__(
        self,
        db: Database,
        bus: Bus,
        registry: Registry,
        grant: Callable[[Ingress], Awaitable[PublishGrant]],
        node_id: str,
        settings: config.Pull,
        bound: int,
    ) -> None:
        self._db = db
        self._registry = registry
        self._grant = grant
        self._node_id = node_id
        self._settings = settings
        self._bound = bound
        self._puller: Puller | None = None
        self._sources: dict[str, Ingress] = {}
        self._of_room: dict[tuple[str, str], tuple[str, ...]] = {}
        self._leases: dict[str, Pull] = {}
        self._orders: dict[str, PullOrder] = {}
        self._wanted_at: dict[str, float] = {}
        self._told: dict[str, str] = {}
        self._refused: dict[str, PullState] = {}
        self._changes: dict[str, _Change] = {}
        self._stale = True
        self._looked_at = 0.0
        self._wake = asyncio.Event()
        bus.subscribe(IngressCreated, self._changed)
        bus.subscribe(IngressChanged, self._changed)
        bus.subscribe(IngressDeleted, self._changed)
        bus.subscribe(IngressDisabled, self._changed)
        bus.subscribe(ProjectDeleted, lambda _: self._look_again())

    @property
    def puller(self) -> Puller | None:
        return self._puller

    @puller.setter
    def puller(self, puller: Puller) -> None:
        self._puller = puller
        puller.on_state = self._state_changed

    def demand(self, project_id: str, room: str) -> bool:
        """Somebody who may wants to see it. True where a source of it is being opened, or is open, and so is worth waiting for."""
        now, found = clock.now(), False
        for ingress_id in self._of_room.get((project_id, room), ()):
            source = self._sources[ingress_id]
            if self._ours(source):
                found = True
                if options_of(source).on_demand:
                    self._wanted_at[ingress_id] = now
        if found:
            self._wake.set()
        return found

    def outlook(self, project_id: str, room: str) -> Outlook:
        """What whoever looks at this room may hope for; opens nothing. The best of its sources counts."""
        sources = [self._sources[i] for i in self._of_room.get((project_id, room), ())]
        here = [s for s in sources if self._ours(s)]
        if not here:
            return Outlook()
        asleep = {s.id for s in here if options_of(s).on_demand and s.id not in self._wanted_at and s.id not in self._orders}
        states = [self.state(s) for s in here if s.id not in asleep]
        on_demand = any(options_of(s).on_demand for s in here)
        if any(not state.code for state in states):
            return Outlook("opening", on_demand)
        return Outlook("failing" if states else "idle", on_demand)

    def needed(self, project_id: str, room: str) -> None:
        """It has lost its programme, and its backup may be one of ours: look at once."""
        if (project_id, room) in self._of_room:
            self._wake.set()

    def state(self, ingress: Ingress) -> PullState:
        """How it goes, wherever it is fetched; of another node as last written, of this one as it is now."""
        live = self._refused.get(ingress.id) or (self._puller.state(ingress.id) if self._puller and ingress.id in self._orders else None)
        if live is not None:
            return live
        lease = self._leases.get(ingress.id)
        if lease is None or lease.node_id in (None, self._node_id):
            return PullState(state=STOPPED, since=lease.since if lease else ingress.created_at)
        return PullState(
            state=_STATES.get(lease.state, STOPPED),
            code=lease.error_code,
            message=lease.error_message,
            transport=lease.transport,
            since=lease.since,
        )

    async def serve(self) -> None:
        """Runs until cancelled, and then gives its sources back. A database that is away stops nothing that runs."""
        try:
            while True:
                try:
                    async with asyncio.timeout(TICK):
                        await self._wake.wait()
                except TimeoutError:
                    pass
                self._wake.clear()
                try:
                    await self.look(clock.now())
                except StorageError as e:
                    log.warning("sources not followed: %s: %s", e.code, e)
                    await asyncio.sleep(TICK)
        finally:
            await guard("pulls", self._end())

    async def look(self, now: float) -> None:
        """Bring what is fetched in line with what is wanted. Raises StorageError."""
        if self._stale or now - self._looked_at >= LOOK:
            await self._load(now)
        for ingress_id in tuple(self._orders):
            if not self._wanted(ingress_id, now):
                self._log_close(ingress_id)
                await self._close(ingress_id)
        for ingress_id, source in tuple(self._sources.items()):
            if self._wanted(ingress_id, now):
                await self._open(source)
            else:
                self._refused.pop(ingress_id, None)
                self._wanted_at.pop(ingress_id, None)
        # also what an earlier look could not write, and what this node had when it was killed: nobody else may fetch that meanwhile
        await self._give_back([i for i, lease in self._leases.items() if lease.node_id == self._node_id and i not in self._orders])
        await self.write()

    async def write(self) -> None:
        """What has changed, into the database. Raises StorageError; it is then still to be written."""
        if not self._changes:
            return
        changes = dict(self._changes)
        async with self._db.write() as tx:
            known = await outbox.known(tx, [change.fact_id for change in changes.values()])
            for ingress_id, source in (await ingresses.lock(tx, tuple(changes))).items():
                change = changes[ingress_id]
                await self._write(tx, source, change, told=change.fact_id in known)
        self._changes = {i: change for i, change in self._changes.items() if changes.get(i) is not change}

    async def _write(self, tx: Transaction, source: Ingress, change: _Change, *, told: bool) -> None:
        state = change.state
        pull = Pull(
            ingress_id=source.id,
            node_id=self._node_id,
            state=state.state,
            error_code=state.code,
            error_message=state.message,
            transport=state.transport,
            since=state.since,
        )
        if await table.set_state(tx, pull) and change.fact and not told:
            await announce(tx, _fact(change, source))

    async def _load(self, now: float) -> None:
        self._stale = False
        async with self._db.read() as tx:
            found = await ingresses.of_kind(tx, Door.URL, 100 * self._bound)
            self._leases = await table.all_pulls(tx)
        self._sources = {source.id: source for source in found}
        rooms: dict[tuple[str, str], list[str]] = {}
        for source in found:
            rooms.setdefault((source.project_id, source.room), []).append(source.id)
        self._of_room = {room: tuple(ids) for room, ids in rooms.items()}
        self._looked_at = now
        for kept in (self._refused, self._wanted_at):
            for ingress_id in kept.keys() - self._sources.keys():
                del kept[ingress_id]

    def _wanted(self, ingress_id: str, now: float) -> bool:
        source = self._sources.get(ingress_id)
        if source is None or not self._ours(source):
            return False
        if not options_of(source).on_demand:
            return True
        if any(self._reasons(source)):
            self._wanted_at[ingress_id] = now
            return True
        return ingress_id in self._wanted_at and now - self._wanted_at[ingress_id] < self._settings.on_demand_idle

    def _reasons(self, source: Ingress) -> Iterator[bool]:
        """Why one on demand is to stay open."""
        yield self._registry.demand.wanted(source.project_id, source.room)
        room = self._registry.find(source.project_id, source.room)
        yield room is not None and room.wants_backup and room.backup == source.id
        yield room is not None and sum(room.viewers.values()) > 0 and (room.backup != source.id or room.wants_backup)

    def _ours(self, source: Ingress) -> bool:
        """This node may fetch it."""
        return source.disabled_at is None and self._puller is not None and not self._elsewhere(source.id)

    def _elsewhere(self, ingress_id: str) -> bool:
        """Another node has it, as far as we know."""
        lease = self._leases.get(ingress_id)
        return lease is not None and lease.node_id not in (None, self._node_id)

    async def _open(self, source: Ingress) -> None:
        """As it is to be now; nothing where it is open so already."""
        assert self._puller is not None
        order = self._orders.get(source.id)
        if order is None and len(self._orders) >= self._bound:
            self._refuse(source, "node-full", f"this node fetches {self._bound} sources already, which is limits.pulls")
            return
        try:
            grant = await self._grant(source)
        except PeerError as e:
            self._refuse(source, e.code, e.message)
            return
        options = options_of(source)
        wanted = PullOrder(
            grant=grant,
            url=source.url or "",
            transport=options.transport,
            silence=options.silence,
            frozen_video=options.frozen_video,
        )
        held = self._puller.state(source.id)
        if wanted == order and held is not None and held.state != STOPPED:  # it stops by itself when its ingress is disabled
            return
        if order is None:
            lease = await self._claim(source)
            if lease is None:
                return
            if lease.state == WAITING:  # told by who had it before
                self._told.setdefault(source.id, "pull.failed")
        elif (order.grant.room, order.grant.identity) != (grant.room, grant.identity):
            await self._puller.close(source.id)
        self._orders[source.id] = wanted
        try:
            self._puller.open(wanted)
        except PeerError as e:
            await self._close(source.id)
            self._refuse(source, e.code, e.message)
            return
        self._refused.pop(source.id, None)

    async def _claim(self, source: Ingress) -> Pull | None:
        async with self._db.write() as tx:
            lease = await table.claim(tx, source.id, self._node_id, clock.wallclock())
        if lease is None:
            self._stale = True  # who has it, if it is there at all
        else:
            self._leases[source.id] = lease
        return lease

    def _log_close(self, ingress_id: str) -> None:
        source, order = self._sources.get(ingress_id), self._orders[ingress_id]
        idle = source is not None and self._ours(source) and options_of(source).on_demand
        why = f"nobody has watched it for {self._settings.on_demand_idle:g} s" if idle else "it is not to be fetched here any more"
        log.info("a source is closed: %s", why, extra={"fields": {"room": order.grant.room, "ingress": ingress_id}})

    async def _close(self, ingress_id: str) -> None:
        self._orders.pop(ingress_id, None)
        self._wanted_at.pop(ingress_id, None)
        self._told.pop(ingress_id, None)
        # for good: nobody is to wait for what we let go
        self._registry.kick_ingress(ingress_id, PeerGone("its source is fetched no more", code="closed"))
        if self._puller is not None:
            await self._puller.close(ingress_id)
        self._changes.pop(ingress_id, None)

    async def _give_back(self, ingress_ids: Collection[str]) -> None:
        """Whichever node wants them next may fetch them. Raises StorageError."""
        if not ingress_ids:
            return
        async with self._db.write() as tx:
            for ingress_id in ingress_ids:
                await table.release(tx, ingress_id, self._node_id, clock.wallclock())
        self._stale = True

    async def _end(self) -> None:
        """Other nodes need not wait until this one is missed."""
        await self.write()
        await self._give_back(self._orders)

    def _refuse(self, source: Ingress, code: str, message: str) -> None:
        before = self._refused.get(source.id)
        if before is None or before.code != code:
            log.warning("a source is not fetched: %s", message, extra={"fields": {"room": source.room, "ingress": source.id, "code": code}})
            self._refused[source.id] = PullState(state=WAITING, code=code, message=message, since=clock.wallclock())
        self._registry.demand.gave_up(source.project_id, source.room)

    def _state_changed(self, ingress_id: str, state: PullState) -> None:
        """Called by the puller. An outage is told once, and so is its end."""
        if ingress_id not in self._orders:
            return
        if state.state == RUNNING and ingress_id in self._wanted_at:
            self._wanted_at[ingress_id] = clock.now()  # who has waited for it is a reader now, or will be
        fact = "pull.connected" if state.state == RUNNING else "pull.failed" if state.state == WAITING and state.code else ""
        if fact and self._told.get(ingress_id) != fact:
            self._told[ingress_id] = fact
        else:
            fact = ""
        before = self._changes.get(ingress_id)
        if not fact and before is not None and before.fact:  # still to be told
            self._changes[ingress_id] = _Change(state, before.fact, before.at, before.fact_id)
        else:
            self._changes[ingress_id] = _Change(state, fact, clock.wallclock())
        if state.state == WAITING and (source := self._sources.get(ingress_id)) is not None:
            self._registry.demand.gave_up(source.project_id, source.room)
        self._wake.set()

    def _changed(self, event: IngressCreated | IngressChanged | IngressDeleted | IngressDisabled) -> None:
        if event.kind == Door.URL:
            self._look_again()

    def _look_again(self) -> None:
        self._stale = True
        self._wake.set()


def _fact(change: _Change, source: Ingress) -> Fact:
    state = change.state
    said: dict[str, object] = {"code": state.code, "message": state.message, "transport": state.transport, "attempts": state.attempts}
    return ingress_fact(change.fact, source, change.at, live=False, id=change.fact_id, **said)
