"""PushService: a supervisor for each enabled target of each room that is on air here."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Mapping
from contextlib import ExitStack
from typing import Any
from urllib.parse import urlsplit

from medianode import config, telemetry
from medianode.egress.push.report import Pusher
from medianode.egress.push.supervisor import Supervisor
from medianode.errors import LimitExceeded, NotEnabled, StorageError
from medianode.events import Bus, IngressDeleted, PublicationActive, RoomEnded, RoomLive, TargetChanged, TargetStateChanged
from medianode.routing.registry import Registry
from medianode.routing.room import Room
from medianode.store import targets as table
from medianode.store.database import Database
from medianode.store.targets import PushTarget
from medianode.tasks import TaskSet, every

log = logging.getLogger("medianode.push")
RETRY = 1.0
GRACE = 2.0
"""Seconds that a connection has to send the last packets once its room is off air."""

_Running = tuple[Supervisor, asyncio.Task[Any]]


class PushService:
    """`pushers` by the scheme of the URL. Run all of `services`."""

    def __init__(self, db: Database, bus: Bus, registry: Registry, limits: config.Limits, pushers: Mapping[str, Pusher]) -> None:
        self._db = db
        self._bus = bus
        self._registry = registry
        self._pushers = pushers
        # more than there can be: those of a room that has just ended may still say goodbye
        self._tasks = TaskSet("push", 2 * limits.push_targets)
        self._running: dict[str, _Running] = {}
        self._stale: dict[tuple[str, str], None] = {}
        self._wake = asyncio.Event()
        bus.subscribe(RoomLive, self._renew)
        bus.subscribe(TargetChanged, self._renew)
        bus.subscribe(IngressDeleted, self._renew)  # its targets went with it
        bus.subscribe(PublicationActive, self._active)
        bus.subscribe(RoomEnded, self._ended)
        telemetry.gauge("medianode_push_targets", "Simulcast targets of rooms on air by state", "state", read=self._states)

    def services(self) -> tuple[Coroutine[Any, Any, None], ...]:
        return self._serve(), self._sample()

    def find(self, target_id: str) -> Supervisor | None:
        """None while its room is not on air here, or it is disabled."""
        running = self._running.get(target_id)
        return None if running is None else running[0]

    @property
    def queued(self) -> int:
        """Packets that wait for targets."""
        return sum(len(supervisor.report.queue) for supervisor, _ in self._running.values())

    async def _serve(self) -> None:
        """Follow what is wanted; runs until cancelled. A database that is away is asked again each second."""
        async with self._tasks:
            while True:
                await self._wake.wait()
                self._wake.clear()
                try:
                    while self._stale:
                        room = next(iter(self._stale))
                        await self._reconcile(*room)
                except StorageError as e:
                    log.warning("simulcast targets not read: %s: %s", e.code, e)
                    await asyncio.sleep(RETRY)
                    self._wake.set()

    async def _sample(self) -> None:
        async for now in every(1.0):
            self._sample_all(now)

    def _sample_all(self, now: float) -> None:
        """Not in the loop above, whose variables live on: the last target would be kept, and its room with it."""
        for supervisor, _ in self._running.values():
            supervisor.report.sample(now)

    async def _reconcile(self, project_id: str, name: str) -> None:
        """Raises StorageError; the room is then still stale."""
        room = self._registry.find(project_id, name)
        wanted: dict[str, PushTarget] = {}
        self._stale.pop((project_id, name), None)  # what changes from here on is looked at again
        if room is not None and room.on_air:
            with ExitStack() as unless_read:
                unless_read.callback(self._stale.__setitem__, (project_id, name), None)
                async with self._db.read() as tx:
                    wanted = {target.id: target for target in await table.of_room(tx, project_id, name) if target.enabled}
                unless_read.pop_all()
        for target_id, (supervisor, task) in tuple(self._running.items()):
            if (supervisor.target.project_id, supervisor.target.room) != (project_id, name):
                continue
            if supervisor.ending or target_id not in wanted or supervisor.room is not room or _moved(supervisor.target, wanted[target_id]):
                supervisor.end()
                task.cancel()
                await asyncio.wait((task,))  # its last word is told before anything new begins
        if room is None or not room.on_air:  # it ended while we waited
            return
        for target_id, target in wanted.items():
            if target_id in self._running:
                self._running[target_id][0].target = target
            else:
                self._start(target, room)

    def _start(self, target: PushTarget, room: Room) -> None:
        supervisor = Supervisor(target, room, self._pusher, self._tell)
        try:
            task = self._tasks.start(supervisor.run())
        except LimitExceeded as e:  # the limit was lowered below what is registered
            log.error("simulcast target %s of room %s stays idle: %s", target.id, target.room, e)
            return
        self._running[target.id] = (supervisor, task)
        task.add_done_callback(lambda done: self._forget(target.id, done))

    def _forget(self, target_id: str, task: asyncio.Task[Any]) -> None:
        running = self._running.get(target_id)
        if running is not None and running[1] is task:
            del self._running[target_id]

    def _pusher(self, url: str) -> Pusher:
        """Raises NotEnabled."""
        pusher = self._pushers.get(urlsplit(url).scheme)
        if pusher is None:
            raise NotEnabled("this node sends nothing by WebRTC: rtc.enabled is false")
        return pusher

    def _tell(self, supervisor: Supervisor) -> None:
        target = supervisor.target
        fields = {"room": target.room, "target": target.id, "host": supervisor.host, "state": supervisor.state, "code": supervisor.code}
        words = f": {supervisor.message}" if supervisor.message else ""
        log.log(logging.WARNING if words else logging.INFO, "simulcast %s%s", supervisor.state, words, extra={"fields": fields})
        self._bus.publish(
            TargetStateChanged(
                target_id=target.id,
                project_id=target.project_id,
                ingress_id=target.ingress_id,
                room=target.room,
                host=supervisor.host,
                state=supervisor.state,
                code=supervisor.code,
                message=supervisor.message,
                bitrate=supervisor.report.bitrate,
            )
        )

    def _renew(self, event: RoomLive | TargetChanged | IngressDeleted) -> None:
        self._stale[event.project_id, event.room] = None
        self._wake.set()

    def _active(self, event: PublicationActive) -> None:
        for supervisor, _ in self._running.values():
            if (supervisor.target.project_id, supervisor.target.room) == (event.project_id, event.room):
                supervisor.wake()

    def _ended(self, event: RoomEnded) -> None:
        for supervisor, task in self._running.values():
            if (supervisor.target.project_id, supervisor.target.room) == (event.project_id, event.room):
                supervisor.end()
                asyncio.get_running_loop().call_later(GRACE, task.cancel)

    def _states(self) -> list[telemetry.Sample]:
        totals: dict[str, int] = {}
        for supervisor, _ in self._running.values():
            totals[supervisor.state] = totals.get(supervisor.state, 0) + 1
        return [((state,), n) for state, n in totals.items()]


def _moved(old: PushTarget, new: PushTarget) -> bool:
    """Whether it is to be reached in another way."""
    return (old.url, old.stream_key, old.alternate_url) != (new.url, new.stream_key, new.alternate_url)
