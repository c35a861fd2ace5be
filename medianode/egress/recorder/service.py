"""Recorder: all recordings of the node, from their orders to their ends; and the rings that clips begin with."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from medianode import clock, telemetry
from medianode.auth import PublishGrant
from medianode.config import Config
from medianode.egress.recorder.file import LiveFile
from medianode.egress.recorder.filesystem import Disk, Filesystem, mount_point
from medianode.egress.recorder.intake import Follower, Intake
from medianode.egress.recorder.order import Order
from medianode.egress.recorder.rings import Rings
from medianode.egress.recorder.session import Session
from medianode.egress.recorder.writer import Writer
from medianode.errors import Conflict, LimitExceeded, MedianodeError, NotFound, PeerGone, StorageError
from medianode.events import Bus, PublicationActive, PublicationEnded, PublicationLost, RoomEnded, RoomLive, RoomVacated
from medianode.media.packet import Gap
from medianode.routing.publication import Publication
from medianode.routing.registry import Registry
from medianode.routing.room import Room
from medianode.tasks import TaskSet, every, guarded
from medianode.transcode.renditions import Renditions

log = logging.getLogger("medianode.recorder")
TICK = 0.25
PATIENCE = 2.0
"""Seconds over limits.shutdown_grace that somebody who stops a recording waits for its disk."""
LEAST = 0.1
"""Seconds that a disk with nothing to write is given to say so, at the end of the node."""
ROOM_WANTED = 8 << 20
"""Bytes that are asked for at least when the disk is full; four times what waits for it where that is more."""
TAIL = 1.0
"""Seconds at most in which sound that is made anew still comes when its source has ended."""
BY_OPTION = frozenset({"ingress", "room"})
"""Reasons of recordings that begin by themselves."""
MOUNTS = Path("/proc/self/mountinfo")

NewOrder = Callable[[PublishGrant | Room], Order]
MakeRoom = Callable[[Path, int], Awaitable[object]]


class _Running:
    """A session and what feeds it. `follower`: of the room's programme; None: of its identity. `held`: let go with it."""

    __slots__ = ("follower", "held", "intake", "session")

    def __init__(self, session: Session, intake: Intake) -> None:
        self.session = session
        self.intake = intake
        self.follower: Follower | None = None
        self.held = ExitStack()

    def cut(self) -> None:
        """Of what comes from now on it gets nothing."""
        if self.follower is not None:
            self.follower.close()
        self.intake.detach()
        self.held.close()


class Recorder:
    """`directory`: where recordings go whose order is made here. Settable: `new_order` makes the order of a publisher or room that is to be
    recorded by itself, `wants_room(project_id, room)` tells whether a room is; `make_room(directory, bytes)` is awaited when a disk is
    full.
    """

    def __init__(
        self,
        config: Config,
        registry: Registry,
        bus: Bus,
        renditions: Renditions,
        directory: Path,
        filesystem: Filesystem | None = None,
    ) -> None:
        self.new_order: NewOrder = self._order
        self.wants_room: Callable[[str, str], bool] = lambda project_id, room: False
        self.make_room: MakeRoom | None = None
        self.directory = directory.absolute()
        self._config = config.recording
        self._limits = config.limits
        self._registry = registry
        self._bus = bus
        self._renditions = renditions
        self._filesystem = filesystem or Disk()
        self._running: dict[str, _Running] = {}
        self._stopped: set[tuple[str, str, str]] = set()
        self._rings = Rings(renditions, config.recording.preroll, config.limits.preroll_bytes)
        self._writers: dict[str, Writer] = {}
        self._listeners: dict[str, list[Callable[[], None]]] = {}
        self._making_room: set[Writer] = set()
        self._tasks = TaskSet("recorder", config.limits.recordings)
        self._closing = False
        bus.subscribe(PublicationActive, self._active)
        bus.subscribe(PublicationLost, self._lost)
        bus.subscribe(PublicationEnded, self._publication_ended)
        bus.subscribe(RoomLive, self._room_live)
        bus.subscribe(RoomVacated, self._room_vacated)
        bus.subscribe(RoomEnded, self._room_ended)
        self._measure()

    @property
    def active(self) -> Mapping[str, Session]:
        """By id, those that are ending included."""
        return {ident: running.session for ident, running in self._running.items()}

    def start(self, order: Order, preroll: float = 0.0) -> None:
        """Record from the newest key frame on; with `preroll` (seconds) from the one before that, as far as the room's ring reaches.

        Raises NotFound `no-programme`, Conflict `already-recording` (same room, identity and reason; clips may overlap), LimitExceeded
        `node-full`, PeerGone `shutdown`.
        """
        room = self._registry.on_air(order.project_id, order.room)
        self._check(order)
        running = self._run(order)
        with ExitStack() as undo:
            undo.callback(running.session.end)
            if order.reason not in BY_OPTION:
                # somebody ordered it: a source on demand stays open for it
                running.held.enter_context(self._registry.demand.keep(order.project_id, order.room))
            ring = self._rings.find(room, order.identity) if preroll > 0 else None
            if order.identity:
                publication = room.publications.get(order.identity)
                if publication is not None and publication.active:
                    running.intake.attach(publication, replay=ring is None)
            else:
                running.follower = Follower(room, running.intake, running.session)
                running.follower.open(replay=ring is None)
            if ring is not None:
                for packet in ring.since(clock.now() - preroll):
                    running.session.on_packet(packet)
            undo.pop_all()

    async def stop(self, recording_id: str) -> None:
        """Returns when its last file is closed and RecordingEnded was told. It does not begin again by itself while its publisher goes on.

        Raises NotFound; StorageError `slow-disk` where the disk does not answer, and then it ends when that does.
        """
        running = self._running.get(recording_id)
        if running is None:
            raise NotFound(f"no recording {recording_id} runs here", code="no-such-recording")
        order = running.session.order
        if order.reason in BY_OPTION and not running.session.ending:  # what ends by itself holds nobody off who comes next
            self._stopped.add((order.project_id, order.room, order.identity))
        self._end(running)
        done, _ = await asyncio.wait((running.session.ended,), timeout=self._limits.shutdown_grace + PATIENCE)
        if not done:
            raise StorageError(f"{order.directory}: the disk does not answer; the recording ends when it does", code="slow-disk")

    def live(self, recording_id: str) -> LiveFile | None:
        """The open file of a recording: what of it is on the disk. None where there is none."""
        running = self._running.get(recording_id)
        return None if running is None else running.session.live

    def on_parts(self, recording_id: str, call: Callable[[], None]) -> Callable[[], None]:
        """Called in the loop whenever parts of this recording are on the disk, and at its end. Returns what unsubscribes, idempotent."""
        self._listeners.setdefault(recording_id, []).append(call)

        def unsubscribe() -> None:
            calls = self._listeners.get(recording_id, [])
            if call in calls:
                calls.remove(call)
            if not calls:
                self._listeners.pop(recording_id, None)

        return unsubscribe

    async def serve(self) -> None:
        """Until cancelled; then all recordings are finished, which takes `limits.shutdown_grace` at most."""
        async with self._tasks:
            try:
                async for now in every(TICK):
                    self._tend(now)
            finally:
                await self._close()

    def _tend(self, now: float) -> None:
        """Not in the loop of `serve`, whose variables live on: the last recording would be kept."""
        for running in tuple(self._running.values()):
            guarded("recorder", running.session.tend, now)

    async def _close(self) -> None:
        self._closing = True
        grace = self._limits.shutdown_grace
        deadline = clock.now() + grace
        self._rings.close()
        for running in tuple(self._running.values()):
            self._end(running, patience=grace / 2)
        ends = [running.session.ended for running in self._running.values()]
        if ends:
            await asyncio.wait(ends, timeout=grace)
        for writer in self._writers.values():
            if not await writer.close(max(LEAST, deadline - clock.now())):
                log.error("the disk of %s does not answer: what waited for it is lost", writer.name)

    def begins(self, grant: PublishGrant) -> bool:
        """Does a recording begin by itself when what this grant is for becomes active? Not where one runs, or was stopped by hand."""
        free = len(self._running) < self._limits.recordings
        return grant.record and free and self._may_begin(grant.project_id, grant.room, grant.identity, "ingress")

    # what begins and ends by itself

    def _active(self, event: PublicationActive) -> None:
        room = self._registry.find(event.project_id, event.room)
        publication = None if room is None else room.publications.get(event.identity)
        if publication is None:
            return
        for running in self._of(event.project_id, event.room, event.identity):
            if running.session.ending:
                continue
            if running.intake.publication not in (None, publication):
                running.session.on_gap(Gap("takeover"))
            running.intake.attach(publication)
        if publication.grant.record and self._may_begin(event.project_id, event.room, event.identity, "ingress"):
            self._begin_ingress(publication)
        if room is not None and room.on_air:  # by its slate, perhaps: no RoomLive comes with this one
            self._begin_room(room)

    def _begin_ingress(self, publication: Publication) -> None:
        """The publication is not on air yet: this is what puts it there."""
        try:
            order = self.new_order(publication.grant)
            self._check(order)
        except MedianodeError as e:
            self._not_begun(publication.grant.room, e)
            return
        self._run(order).intake.attach(publication)

    def _lost(self, event: PublicationLost) -> None:
        for running in self._of(event.project_id, event.room, event.identity):
            if running.intake.publication is not None and running.intake.publication.ended:
                running.intake.detach(partial(running.session.on_gap, Gap("publisher-gap")))

    def _publication_ended(self, event: PublicationEnded) -> None:
        room = self._registry.find(event.project_id, event.room)
        if room is not None and event.identity in room.publications:
            return  # another ingress with its identity has taken over
        self._stopped.discard((event.project_id, event.room, event.identity))
        for running in self._of(event.project_id, event.room, event.identity):
            self._end(running)

    def _room_live(self, event: RoomLive) -> None:
        room = self._registry.find(event.project_id, event.room)
        if room is None:
            return
        self._rings.add(room)
        if not room.slated:
            self._begin_room(room)

    def _begin_room(self, room: Room) -> None:
        if self.wants_room(room.project_id, room.name) and self._may_begin(room.project_id, room.name, "", "room"):
            try:
                self.start(self.new_order(room))
            except MedianodeError as e:
                self._not_begun(room.name, e)

    def _room_ended(self, event: RoomEnded) -> None:
        self._rings.drop(event.project_id, event.room)
        self._end_room(event)

    def _room_vacated(self, event: RoomVacated) -> None:
        """A slate that is shown always is no session to record: the next publisher begins another."""
        self._end_room(event)

    def _end_room(self, event: RoomEnded | RoomVacated) -> None:
        self._stopped.discard((event.project_id, event.room, ""))
        for running in tuple(self._running.values()):
            order = running.session.order
            if (order.project_id, order.room) == (event.project_id, event.room):
                self._end(running)

    def _may_begin(self, project_id: str, room: str, identity: str, reason: str) -> bool:
        if self._closing or (project_id, room, identity) in self._stopped:
            return False
        return all(running.session.order.reason != reason or running.session.ending for running in self._of(project_id, room, identity))

    @staticmethod
    def _not_begun(room: str, error: MedianodeError) -> None:
        log.error("not recorded: %s", error, extra={"fields": {"room": room, "code": error.code}})

    # one recording

    def _check(self, order: Order) -> None:
        if self._closing:
            raise PeerGone("the server is stopping", code="shutdown")
        if len(self._running) >= self._limits.recordings:
            raise LimitExceeded(f"the node makes {self._limits.recordings} recordings already", code="node-full")
        same = [
            running
            for running in self._of(order.project_id, order.room, order.identity)
            if running.session.order.reason == order.reason and not running.session.ending
        ]
        if order.recording_id in self._running or (same and order.reason != "clip"):
            raise Conflict(f"room {order.room} is recorded already, for the same reason", code="already-recording")

    def _run(self, order: Order) -> _Running:
        """Nothing feeds it yet."""
        session = Session(
            order,
            self._config,
            self._limits.recorder_bytes,
            self._bus,
            self._writer(order.directory),
            on_disk=self._tell_parts,
            on_refused=self._refused,
            on_end=self._ended,
        )
        intake = Intake(self._renditions, session, min(TAIL, self._limits.shutdown_grace / 2))
        session.ask, session.leave = intake.request_keyframe, intake.detach
        running = self._running[order.recording_id] = _Running(session, intake)
        return running

    def _writer(self, directory: Path) -> Writer:
        """Of the filesystem where it is."""
        point = mount_point(directory, MOUNTS.read_text("utf-8", "replace") if MOUNTS.exists() else "")
        writer = self._writers.get(point)
        if writer is None:
            writer = self._writers[point] = Writer(point, self._filesystem, self._config.fsync)
        return writer

    def _end(self, running: _Running, patience: float | None = None) -> None:
        running.cut()
        running.session.end(self._limits.shutdown_grace if patience is None else patience)

    def _ended(self, session: Session) -> None:
        ident = session.order.recording_id
        running = self._running.pop(ident, None)
        if running is not None:
            running.cut()
        self._tell_parts(ident)
        self._listeners.pop(ident, None)

    def _of(self, project_id: str, room: str, identity: str) -> list[_Running]:
        wanted = (project_id, room, identity)
        return [
            running
            for running in self._running.values()
            if (running.session.order.project_id, running.session.order.room, running.session.order.identity) == wanted
        ]

    def _tell_parts(self, recording_id: str) -> None:
        for call in tuple(self._listeners.get(recording_id, ())):
            guarded("recorder", call)

    def _refused(self, session: Session, code: str) -> None:
        writer = session.writer
        if code == "disk-full" and self.make_room is not None and writer not in self._making_room and not self._closing:
            self._making_room.add(writer)
            self._tasks.start(self._make_room(self.make_room, writer, session.order.directory))

    async def _make_room(self, make_room: MakeRoom, writer: Writer, directory: Path) -> None:
        try:
            waiting = sum(running.session.queued for running in self._running.values() if running.session.writer is writer)
            await make_room(directory, max(ROOM_WANTED, 4 * waiting))
        finally:
            self._making_room.discard(writer)
            writer.try_again()

    def _order(self, what: PublishGrant | Room) -> Order:
        room = what.room if isinstance(what, PublishGrant) else what.name
        identity = what.identity if isinstance(what, PublishGrant) else ""
        ident = f"rec_{secrets.token_hex(10)}"
        return Order(
            recording_id=ident,
            project_id=what.project_id,
            slug=what.slug,
            room=room,
            identity=identity,
            ingress_id=what.ingress_id if isinstance(what, PublishGrant) else None,
            reason="ingress" if isinstance(what, PublishGrant) else "room",
            directory=self.directory / what.slug / room / ident,
        )

    def _measure(self) -> None:
        telemetry.gauge("medianode_recordings", "Recordings that run", read=lambda: [((), float(len(self._running)))])
        writers = self._writers
        behind, batch = "medianode_recording_behind_seconds", "medianode_recording_batch_seconds"

        def read(value: Callable[[Writer], float]) -> Callable[[], list[telemetry.Sample]]:
            return lambda: [((name,), value(writer)) for name, writer in writers.items()]

        telemetry.gauge(behind, "How long the oldest part waits for its disk", "disk", read=read(lambda writer: writer.behind))
        telemetry.gauge(batch, "What the disk took for the newest batch", "disk", read=read(lambda writer: writer.seconds))
