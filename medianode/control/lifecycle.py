"""Follows publications and moves their ingresses along `ingress_state`: facts at once on the bus, and into the database by the ledger."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
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
from medianode.control.ledger import Change, Happened, Ledger
from medianode.control.session_facts import IN_SESSION, cut_off, publisher_fact, room_fact, shown
from medianode.control.writing import keep_writing
from medianode.events import (
    Bus,
    IngressDeleted,
    IngressStateChanged,
    ProjectDeleted,
    PublicationActive,
    PublicationEnded,
    PublicationLost,
    PublicationOpened,
    RoomEnded,
    RoomLive,
)
from medianode.store import ingresses as table
from medianode.store import nodes, presences
from medianode.store.database import Database, Transaction
from medianode.store.ingresses import Standing
from medianode.store.nodes import Node
from medianode.store.presences import Presence
from medianode.store.projects import hold
from medianode.webhooks.outbox import announce

CUT_OFF = 10_000
"""Sessions of one node that are ended together: more than there can be."""
RESTARTED = ("node-restarted", "the node was stopped in the middle of it")
GIVEN_UP = ("node-lost", "the node is not heard of any more")

Key = str | tuple[str, str, str]
"""An ingress's id; of who publishes without one project, room and identity."""
_WITH_ENCODER = (Phase.CONNECTED, Phase.ACTIVE)

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Entry:
    """`since`: clock.now() of the first ACTIVE of the session, `lost`: of its last loss; the others are wallclock."""

    project_id: str
    room: str
    identity: str
    life: Life = field(default_factory=Life)
    door: str = ""
    name: str = ""
    tracks: tuple[tuple[str, str], ...] = ()
    since: float | None = None
    lost: float | None = None
    started_at: float | None = None
    ended_at: float | None = None
    lost_at: float | None = None

    @property
    def duration(self) -> float:
        """Seconds from the first ACTIVE to now, or to the last loss."""
        return 0.0 if self.since is None else (clock.now() if self.lost is None else self.lost) - self.since


class IngressLives:
    """One Life per ingress seen since the start, dropped when the ingress is deleted, and per publisher without one, dropped at its end.

    `serve` writes; without it the facts still flow on the bus. `node_id`: whose sessions these are; `bound`: limits.unwritten_facts;
    `hls`: rooms on air are on HLS too. `recorded`: does a recording begin with this first picture?
    """

    def __init__(self, db: Database, bus: Bus, *, node_id: str = "", bound: int = 10_000, hls: bool = True) -> None:
        self._db = db
        self._bus = bus
        self.node_id = node_id
        self._hls = hls
        self.recorded: Callable[[PublicationActive], bool] = lambda event: False
        self._entries: dict[Key, _Entry] = {}
        self._on_air: dict[tuple[str, str], Presence] = {}
        self._ledger = Ledger(db, bound)
        self._wake = asyncio.Event()
        bus.subscribe(PublicationOpened, self._opened)
        bus.subscribe(PublicationActive, self._active)
        bus.subscribe(PublicationLost, self._lost)
        bus.subscribe(PublicationEnded, self._ended)
        bus.subscribe(IngressDeleted, self._deleted)
        bus.subscribe(ProjectDeleted, self._project_deleted)
        bus.subscribe(RoomLive, self._room_live)
        bus.subscribe(RoomEnded, self._room_ended)

    def life(self, ingress_id: str) -> Life | None:
        """None if nothing came in over it since the start; the database then has its state."""
        entry = self._entries.get(ingress_id)
        return None if entry is None else entry.life

    def failed(self, ingress_id: str, project_id: str, room: str, identity: str, code: str, message: str) -> None:
        """A door gives up on an ingress: refused media, an unreachable URL. ERROR at once, no hold window."""
        self._entries.setdefault(ingress_id, _Entry(project_id, room, identity))
        self._step(ingress_id, Failed(code, message))

    # what a node leaves behind

    async def recover(self) -> int:
        """At start: sessions of this node that a crash cut off are over. Returns how many of ingresses."""
        async with self._db.write() as tx:
            last = await nodes.find(tx, self.node_id)
            return await self._cut_off(tx, self.node_id, None if last is None else last.seen_at, *RESTARTED)

    async def bury(self, node: Node) -> int:
        """Another node is gone: so are its sessions. 0 where it is heard of again, or another has done it."""
        async with self._db.write() as tx:
            if not await nodes.give_up(tx, node):
                return 0
            return await self._cut_off(tx, node.id, node.seen_at, *GIVEN_UP)

    async def _cut_off(self, tx: Transaction, node_id: str, until: float | None, code: str, message: str) -> int:
        at = clock.wallclock()
        await hold(tx, None)  # whose sessions these are is not known yet
        rows = await table.lock_cut_off(tx, IN_SESSION, node_id, CUT_OFF)
        live = await table.live_among(tx, [row.id for row in rows])
        ends = [cut_off(row, at, code, message, live=row.id in live, until=until) for row in rows]
        for row, (_, standing) in zip(rows, ends, strict=True):
            await table.stand(tx, row.id, standing)
        for facts, _ in ends:
            for fact in facts:
                await announce(tx, fact)
        for who in await presences.of_node(tx, node_id):
            await presences.remove(tx, who)
            if not who.identity:
                await announce(tx, room_fact("room.ended", who, at, hls=self._hls))
                continue
            lost_at = min(at, until or at) if who.lost_at is None else who.lost_at
            if who.lost_at is None:
                tracks = shown(who.tracks)
                await announce(tx, publisher_fact("publisher.disconnected", who, at, code=code, message=message, tracks=tracks))
            duration = 0.0 if who.started_at is None else max(0.0, lost_at - who.started_at)
            await announce(tx, publisher_fact("publisher.idle", who, at, code=code, message=message, duration=duration))
        return len(rows)

    def rise(self) -> None:
        """This node was given up by another while it could not reach the database, yet its sessions live: they are told anew."""
        at = clock.wallclock()
        for key, entry in self._entries.items():
            if entry.life.phase in _WITH_ENCODER:
                happened = [self._happened(key, "connected", at, resumed=True, door=entry.door)]
                if entry.life.phase is Phase.ACTIVE:
                    happened.append(self._happened(key, "active", at, resumed=True, door=entry.door, tracks=shown(entry.tracks)))
                self._note(key, entry, happened)
        for room in self._on_air.values():
            self._ledger.add(Change(room.project_id, room, (Happened("room.live", at, {"hls": self._hls}),)))
        self._wake.set()

    # writing

    async def serve(self) -> None:
        """Write down what happens as it happens; runs until cancelled, and then writes the last of it.

        A database that cannot be written is tried again each second.
        """
        await keep_writing("sessions", self._wake, self.write, self._ledger.__len__, "the next start finds them cut off")

    async def write(self) -> None:
        """Write down what is not yet. Raises StorageError; it is then still to be written."""
        await self._ledger.write()

    # what happens

    def _opened(self, event: PublicationOpened) -> None:
        key = _key(event)
        entry = self._entries.setdefault(key, _Entry(event.project_id, event.room, event.identity))
        if entry.life.phase in _WITH_ENCODER:
            self._step(key, Lost("takeover"))
        entry.door, entry.name = event.door, event.name
        self._step(key, Reconnected() if entry.life.phase is Phase.HELD else Connected())

    def _active(self, event: PublicationActive) -> None:
        key = _key(event)
        if self._phase(key) is Phase.CONNECTED:
            self._entries[key].tracks = event.tracks
            if isinstance(key, str) and self.recorded(event):
                self.recording(key)
            self._step(key, FirstKeyframe())

    def recording(self, ingress_id: str) -> None:
        """From here on it is recorded."""
        entry = self._entries.get(ingress_id)
        if entry is not None:
            self._note(ingress_id, entry, [self._happened(ingress_id, "recording", clock.wallclock(), door=entry.door)])

    def _lost(self, event: PublicationLost) -> None:
        # after `failed` or a deletion the publication still ends in its own way: no news
        if self._phase(_key(event)) in _WITH_ENCODER:
            self._step(_key(event), Lost(event.cause, event.message, event.failure))

    def _ended(self, event: PublicationEnded) -> None:
        key = _key(event)
        if self._phase(key) in _WITH_ENCODER:
            self._step(key, Lost(event.cause))
        if self._phase(key) is Phase.HELD:
            self._step(key, HoldExpired())
        if not isinstance(key, str):
            self._entries.pop(key, None)

    def _deleted(self, event: IngressDeleted) -> None:
        """Who deleted it has told the end of its session: only the bus learns of it here."""
        if event.ingress_id in self._entries:
            self._step(event.ingress_id, Deleted())
            del self._entries[event.ingress_id]

    def _project_deleted(self, event: ProjectDeleted) -> None:
        """With its ingresses, and with all who would be told."""
        for key in [key for key, entry in self._entries.items() if entry.project_id == event.project_id]:
            del self._entries[key]

    def _room_live(self, event: RoomLive) -> None:
        at = clock.wallclock()
        room = Presence(node_id=self.node_id, project_id=event.project_id, room=event.room, started_at=at)
        self._on_air[event.project_id, event.room] = room
        self._ledger.add(Change(room.project_id, room, (Happened("room.live", at, {"hls": self._hls}),)))
        self._wake.set()

    def _room_ended(self, event: RoomEnded) -> None:
        room = self._on_air.pop((event.project_id, event.room), None)
        if room is not None:
            ended = Happened("room.ended", clock.wallclock(), {"hls": self._hls})
            self._ledger.add(Change(room.project_id, room, (ended,), present=False))
            self._wake.set()

    def _phase(self, key: Key) -> Phase | None:
        entry = self._entries.get(key)
        return None if entry is None else entry.life.phase

    def _step(self, key: Key, event: Event) -> None:
        entry = self._entries[key]
        before = entry.life
        entry.life, facts = step(before, event)
        self._keep_time(entry, event, started=any(isinstance(fact, SessionStarted) for fact in facts))
        if any(isinstance(fact, SessionEnded) for fact in facts):
            entry.ended_at = clock.wallclock()
        if not isinstance(event, Deleted):
            self._note(key, entry, self._told(key, entry, before, event))
        if not isinstance(key, str):
            return
        duration = 0.0 if entry.since is None else clock.now() - entry.since
        for change in facts:
            if isinstance(change, StateChanged):
                who = (key, entry.project_id, entry.room, entry.identity)
                self._bus.publish(IngressStateChanged(*who, change.old.value, change.new.value, change.code, change.message, duration))

    def _keep_time(self, entry: _Entry, event: Event, *, started: bool) -> None:
        if isinstance(event, Connected):
            entry.since = entry.started_at = entry.ended_at = None
            entry.tracks = ()
        if isinstance(event, Connected | Reconnected):
            entry.lost = entry.lost_at = None
        elif entry.lost is None and isinstance(event, Lost | Failed):
            entry.lost, entry.lost_at = clock.now(), clock.wallclock()
        if started:
            entry.since, entry.started_at = clock.now(), clock.wallclock()

    def _told(self, key: Key, entry: _Entry, before: Life, event: Event) -> list[Happened]:
        """What is told of this step, oldest first."""
        at, door, life = clock.wallclock(), entry.door, entry.life
        reason = {"code": life.code, "message": life.message, "door": door}
        tracks = shown(entry.tracks)
        if isinstance(event, Connected | Reconnected):
            return [self._happened(key, "connected", at, resumed=isinstance(event, Reconnected), door=door)]
        if isinstance(event, FirstKeyframe):
            return [self._happened(key, "active", at, resumed=before.was_active, door=door, tracks=tracks)]
        # tracks are of what was active: those of an encoder that was never seen are not known
        lost = self._happened(key, "disconnected", at, **reason, tracks=tracks if before.phase is Phase.ACTIVE else [])
        if isinstance(event, Lost):
            return [lost]
        over = "failed" if life.state is State.ERROR and isinstance(key, str) else "idle"
        end = self._happened(key, over, at, **reason, duration=entry.duration)
        return [lost, end] if before.phase in _WITH_ENCODER else [end]

    def _happened(self, key: Key, word: str, at: float, **session: object) -> Happened:
        return Happened(f"{'ingress' if isinstance(key, str) else 'publisher'}.{word}", at, session)

    def _note(self, key: Key, entry: _Entry, happened: list[Happened]) -> None:
        life = entry.life
        in_session = life.state.value in IN_SESSION
        if isinstance(key, str):
            standing = Standing(
                state=life.state.value,
                error_code=life.code,
                error_message=life.message,
                started_at=entry.started_at,
                ended_at=entry.ended_at,
                node_id=(self.node_id or None) if in_session else None,
                door=entry.door or None,
                lost_at=entry.lost_at if in_session else None,
                tracks=entry.tracks,
            )
            self._ledger.add(Change(entry.project_id, key, tuple(happened), standing))
        else:
            who = Presence(
                node_id=self.node_id,
                project_id=entry.project_id,
                room=entry.room,
                identity=entry.identity,
                name=entry.name,
                door=entry.door,
                started_at=entry.started_at,
                lost_at=entry.lost_at,
                tracks=entry.tracks,
            )
            self._ledger.add(Change(entry.project_id, who, tuple(happened), present=in_session))
        self._wake.set()


def _key(event: PublicationOpened | PublicationActive | PublicationLost | PublicationEnded) -> Key:
    return event.ingress_id or (event.project_id, event.room, event.identity)
