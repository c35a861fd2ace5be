"""Recordings: who is recorded, started and stopped by hand, listed, titled, pinned and deleted. `egress.recorder` does the recording,
`recording_ledger` writes down what it does."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from medianode import clock
from medianode.control import audit
from medianode.control.lifecycle import IngressLives
from medianode.control.recording_places import RecordingPlaces
from medianode.control.room_options import Options, RoomOptions
from medianode.egress.recorder.file import LiveFile
from medianode.egress.recorder.order import Order
from medianode.egress.recorder.service import Recorder
from medianode.errors import Conflict, NotFound, StorageError
from medianode.events import Bus, IngressChanged, PublicationActive, RecordingEnded
from medianode.media.names import room_name, shown
from medianode.routing.publication import Publication
from medianode.routing.registry import Registry
from medianode.store import ingresses, live_streams, recording_files
from medianode.store import recordings as table
from medianode.store.database import Database, Transaction
from medianode.store.projects import Project
from medianode.store.recording_files import RecordingFile
from medianode.store.recordings import Choice, Recording
from medianode.tasks import TaskSet, guard

RETRY = 1.0
BY_INGRESS, BY_ROOM = "ingress", "room"
PINS = 1000
"""Recordings that are to be pinned at their end, remembered also for a while after it: that may have to be written again."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is to be recorded. `room` in either form; `identity`: one publisher, empty for the room's programme. `max_duration`: seconds,
    0 for no bound; `preroll`: seconds of before the start. `pinned`: once it is over."""

    room: str
    identity: str = ""
    reason: str = "api"
    title: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    max_duration: float = 0.0
    preroll: float = 0.0
    pinned: bool = False


@dataclass(frozen=True, slots=True)
class Extent:
    """What there is of a recording: without what retention has taken, with the file that is open. Microseconds, bytes; `since`: wallclock
    of the first of it, None where there is nothing."""

    duration: int
    nbytes: int
    since: float | None


class Recordings:
    """`recorder` is set once there is one; until then nothing is recorded. `settle`: writes down what the recorder said; `discard`: takes
    a recording away, its files too, here and (but where that is to be kept) in a bucket; `note`: says in its directory what the database
    has of it. `bound`: limits.recordings.

    `serve` follows options that change while a room is on air, and stops what has had its time.
    """

    def __init__(
        self,
        db: Database,
        bus: Bus,
        registry: Registry,
        options: RoomOptions,
        lives: IngressLives,
        places: RecordingPlaces,
        *,
        settle: Callable[[], Awaitable[None]],
        discard: Callable[[Recording, bool], Awaitable[None]],
        note: Callable[[str], Awaitable[None]],
        node_id: str,
        bound: int,
    ) -> None:
        self._db = db
        self._registry = registry
        self._options = options
        self._lives = lives
        self._places = places
        self._settle = settle
        self._discard = discard
        self.note = note
        self._node_id = node_id
        self.recorder: Recorder | None = None
        self._begun: dict[str, Recording] = {}
        self._pinned: set[str] = set()
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._tasks = TaskSet("recordings", bound)
        self._ingresses: set[str] = set()
        self._rooms: set[tuple[str, str]] = set()
        self._wake = asyncio.Event()
        options.on_change.append(self._room_changed)
        lives.recorded = self.ordered
        bus.subscribe(IngressChanged, self._ingress_changed)
        bus.subscribe(RecordingEnded, self._recording_ended)

    # who is recorded

    def wants_room(self, project_id: str, room: str) -> bool:
        """Is its programme recorded whenever it is on air?"""
        return self._options.get(project_id, room).record

    def ordered(self, event: PublicationActive) -> bool:
        """Does a recording begin with this, by an option of its ingress?"""
        publication = self._publication(event.project_id, event.room, event.identity)
        return self.recorder is not None and publication is not None and self.recorder.begins(publication.grant)

    # by hand

    async def start(self, project: Project, wanted: Wanted) -> Recording:
        """What is on air in the room. Raises NotFound (`no-programme`, `no-such-publisher`), Conflict (`already-recording`),
        LimitExceeded."""
        room = await self._registry.wanted(project.id, room_name(project.slug, wanted.room))
        publication = room.publications.get(wanted.identity)
        if wanted.identity and publication is None:
            raise NotFound(f"room {room.name}: {shown(wanted.identity)} does not publish", code="no-such-publisher")
        order = self._places.order(
            project,
            room.name,
            identity=wanted.identity,
            ingress_id=publication.grant.ingress_id if publication is not None else None,
            reason=wanted.reason,
            title=wanted.title,
            labels=wanted.labels,
        )
        self._check_free(order)
        async with self._db.write() as tx:
            about = {"room": order.room, "identity": order.identity, "reason": order.reason}
            await audit.record(tx, "recording.ordered", order.recording_id, project.id, **about)
        begun = self._begin(order, wanted.preroll)
        if wanted.pinned:
            self._pin_at_end(order.recording_id)
        if wanted.max_duration:
            timer = asyncio.get_running_loop().call_later(wanted.max_duration, self._time_is_up, order.recording_id)
            self._timers[order.recording_id] = timer
        return begun

    async def stop(self, project_id: str, recording_id: str) -> Recording:
        """Its last file is closed and its end is written down. Raises NotFound, Conflict (`not-recording`, `other-node`)."""
        found = await self.get(project_id, recording_id)
        if self.recorder is None or recording_id not in self.recorder.active:
            if found.state == "recording" and found.node_id != self._node_id:
                raise Conflict(f"it is recorded by node {found.node_id}: stop it there", code="other-node")
            raise Conflict("it is over already", code="not-recording")
        async with self._db.write() as tx:
            await audit.record(tx, "recording.stopped", recording_id, project_id, room=found.room)
        await self.recorder.stop(recording_id)
        await self._settle()
        async with self._db.read() as tx:
            row = await table.find(tx, recording_id)
        # stopped before its first picture: there is nothing of it
        return row or replace(found, state="finished", ended_at=clock.wallclock())

    async def get(self, project_id: str, recording_id: str) -> Recording:
        """Raises NotFound, also if it is another project's."""
        async with self._db.read() as tx:
            found = await table.find(tx, recording_id)
        found = found or self._waiting(recording_id)
        if found is None or found.project_id != project_id:
            raise NotFound(f"no recording {shown(recording_id)}", code="no-such-recording")
        return found

    async def list(self, project_id: str, choice: Choice, *, limit: int, offset: int = 0) -> tuple[Sequence[Recording], int]:
        """Newest first, and how many there are in all."""
        async with self._db.read() as tx:
            return await table.page(tx, project_id, choice, limit=limit, offset=offset)

    async def files(self, recording_id: str) -> Sequence[RecordingFile]:
        """In order, without their index; of the open one what is on the disk."""
        async with self._db.read() as tx:
            found = await recording_files.of_recording(tx, recording_id, parts=False)
        live = None if self.recorder is None else self.recorder.live(recording_id)
        if live is None:
            return found
        return [replace(f, duration=live.duration, nbytes=live.nbytes) if _is_open(f, live) else f for f in found]

    async def extents(self, found: Sequence[Recording]) -> Mapping[str, Extent]:
        """By id. Of a clip: what it was made as, for its files may reach beyond it."""
        async with self._db.read() as tx:
            rows = await recording_files.left(tx, [recording.id for recording in found if recording.reason != "clip"])
        extents: dict[str, Extent] = {}
        for recording in found:
            row = rows.get(recording.id)
            live = self.recorder.live(recording.id) if self.recorder is not None and recording.state == "recording" else None
            if row is None and live is None:
                gone = recording.reason != "clip" and not recording.nbytes
                extents[recording.id] = Extent(recording.duration, recording.nbytes, None if gone else recording.started_at)
                continue
            duration, nbytes, since = (row.duration, row.nbytes, row.since) if row is not None else (0, 0, None)
            if live is not None:
                duration, nbytes = duration + live.duration, nbytes + live.nbytes
                since = live.started_at if since is None else since
            extents[recording.id] = Extent(duration, nbytes, since)
        return extents

    async def whole(self, found: Sequence[Recording]) -> Sequence[Recording]:
        """With the length and bytes of what there is, as vendors' documents have it."""
        extents = await self.extents(found)
        return [replace(r, duration=extents[r.id].duration, nbytes=extents[r.id].nbytes) for r in found]

    async def first_file(self, recording_id: str) -> RecordingFile | None:
        async with self._db.read() as tx:
            return await recording_files.first(tx, recording_id)

    async def change(self, project_id: str, recording_id: str, **changed: Any) -> Recording:
        """`changed`: of title, labels, pinned. Raises NotFound, also for one that waits for its first picture."""
        if self._waiting(recording_id) is not None:
            await self._settle()  # it may have begun this moment
        async with self._db.write() as tx:
            found = await table.find(tx, recording_id, lock=True)
            if found is None or found.project_id != project_id:
                raise NotFound(f"no recording {shown(recording_id)}", code="no-such-recording")
            await table.change(tx, recording_id, **changed)
            await audit.record(tx, "recording.updated", recording_id, project_id, room=found.room, changed=sorted(changed))
        if "pinned" in changed:
            self._pinned.discard(recording_id)  # the newest word holds
        await guard("sidecar", self.note(recording_id))  # it is changed, whatever becomes of that
        return replace(found, **changed)

    async def delete(self, project_id: str, recording_id: str, *, keep_remote: bool = False) -> Recording:
        """With its files, here and (but with `keep_remote`) in a bucket; one that runs is stopped first.

        Raises NotFound, Conflict (`pinned`, `other-node`).
        """
        found = await self.get(project_id, recording_id)
        if found.pinned or (found.state == "recording" and recording_id in self._pinned):
            raise Conflict("it is pinned: take the pin off first", code="pinned")
        if found.state == "recording":
            found = await self.stop(project_id, recording_id)
            async with self._db.read() as tx:
                if await table.find(tx, recording_id) is None:
                    return found  # it never had a picture
        async with self._db.write() as tx:
            kept = {"keepRemote": True} if keep_remote else {}
            await audit.record(tx, "recording.deleted", recording_id, project_id, room=found.room, **kept)
        await self._discard(found, keep_remote)
        return found

    async def on_end(self, tx: Transaction, recording: Recording) -> None:
        """In the transaction of its end, which may be tried again."""
        if recording.id in self._pinned:
            await table.change(tx, recording.id, pinned=True)

    # while rooms are on air

    async def serve(self) -> None:
        """Runs until cancelled. A database that is away is asked again each second."""
        async with self._tasks:
            while True:
                await self._wake.wait()
                self._wake.clear()
                while self._rooms:
                    project_id, room = self._rooms.pop()
                    refused = await guard("recordings", self._follow_room(project_id, room))
                    if refused is not None:
                        log.error("room %s is not recorded as its options say now: %s", room, refused)
                for ingress_id in tuple(self._ingresses):
                    self._ingresses.discard(ingress_id)
                    refused = await guard("recordings", self._follow_ingress(ingress_id))
                    if isinstance(refused, StorageError):
                        log.warning("whether %s is to be recorded is not known yet: %s: %s", ingress_id, refused.code, refused)
                        self._ingresses.add(ingress_id)
                        await asyncio.sleep(RETRY)
                        self._wake.set()
                    elif refused is not None:
                        log.error("ingress %s is not recorded as its option says now: %s", ingress_id, refused)

    async def _follow_ingress(self, ingress_id: str) -> None:
        """Only what has changed is acted on: a recording that was stopped by hand stays so."""
        async with self._db.read() as tx:
            stream = await live_streams.find(tx, ingress_id)
            row = await ingresses.find(tx, ingress_id)
        if row is None:
            return
        record = row.record if stream is None else stream.enable_recording
        publication = self._publication(row.project_id, row.room, row.participant_identity)
        recorder = self.recorder
        running = next((o.recording_id for o in self._orders(BY_INGRESS) if o.ingress_id == ingress_id), None)
        if not record and running is not None and recorder is not None:
            await recorder.stop(running)
        if publication is None or publication.grant.ingress_id != ingress_id or publication.grant.record == record:
            return
        publication.grant = replace(publication.grant, record=record)
        if record and running is None and publication.active and recorder is not None:
            recorder.start(self._places.for_grant(publication.grant))
            self._lives.recording(ingress_id)

    async def _follow_room(self, project_id: str, name: str) -> None:
        recorder = self.recorder
        if recorder is None:
            return
        running = next((o.recording_id for o in self._orders(BY_ROOM) if (o.project_id, o.room) == (project_id, name)), None)
        room = self._registry.find(project_id, name)
        if not self.wants_room(project_id, name):
            if running is not None:
                await recorder.stop(running)
        elif running is None and room is not None and room.on_air:
            recorder.start(self._places.for_room(project_id, room.slug, name))

    def _time_is_up(self, recording_id: str) -> None:
        del self._timers[recording_id]
        if self.recorder is not None and recording_id in self.recorder.active:
            self._tasks.start(self.recorder.stop(recording_id))

    def _begin(self, order: Order, preroll: float) -> Recording:
        """Its row is written with its first picture; until then it is known here."""
        if self.recorder is None:
            raise NotFound("nothing is recorded on this node", code="no-recorder")
        begun = Recording(
            id=order.recording_id,
            project_id=order.project_id,
            room=order.room,
            identity=order.identity,
            ingress_id=order.ingress_id,
            reason=order.reason,
            node_id=self._node_id,
            directory=str(order.directory),
            title=order.title,
            labels=dict(order.labels),
            started_at=clock.wallclock(),
        )
        self.recorder.start(order, preroll)
        self._begun = {known: told for known, told in self._begun.items() if known in self.recorder.active}
        self._begun[begun.id] = begun
        return begun

    def _pin_at_end(self, recording_id: str) -> None:
        if len(self._pinned) >= PINS and self.recorder is not None:
            self._pinned &= self.recorder.active.keys()
        self._pinned.add(recording_id)

    def _waiting(self, recording_id: str) -> Recording | None:
        running = self.recorder is not None and recording_id in self.recorder.active
        return self._begun.get(recording_id) if running else None

    def _check_free(self, order: Order) -> None:
        """Clips overlap as they please. Raises Conflict."""
        same = (order.project_id, order.room, order.identity)
        if order.reason != "clip" and any((o.project_id, o.room, o.identity) == same for o in self._orders(order.reason)):
            who = order.identity or "its programme"
            raise Conflict(f"room {order.room}: {who} is recorded by the API already", code="already-recording")

    def _orders(self, reason: str) -> Sequence[Order]:
        running = self.recorder.active.values() if self.recorder is not None else ()
        return [session.order for session in running if session.order.reason == reason and not session.ending]

    def _publication(self, project_id: str, room: str, identity: str) -> Publication | None:
        found = self._registry.find(project_id, room)
        return None if found is None else found.publications.get(identity)

    def _recording_ended(self, event: RecordingEnded) -> None:
        self._begun.pop(event.recording_id, None)
        timer = self._timers.pop(event.recording_id, None)
        if timer is not None:
            timer.cancel()

    def _ingress_changed(self, event: IngressChanged) -> None:
        self._ingresses.add(event.ingress_id)
        self._wake.set()

    def _room_changed(self, project_id: str, room: str, options: Options) -> None:
        self._rooms.add((project_id, room))
        self._wake.set()


def _is_open(file: RecordingFile, live: LiveFile) -> bool:
    return file.state == "open" and file.sequence == live.sequence
