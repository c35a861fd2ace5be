"""Attempt: one opening of a source: its Intake, its watchdogs, and the end of what it published."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

from medianode import clock, telemetry
from medianode.config import Config
from medianode.errors import MedianodeError, PeerGone
from medianode.ingress.assembler import Assembler
from medianode.ingress.pull.order import PullOrder
from medianode.ingress.pull.source import Source
from medianode.ingress.pull.supervisor import Supervisor
from medianode.ingress.pull.words import describe
from medianode.routing.publication import Publication
from medianode.routing.registry import Registry
from medianode.routing.room import Room
from medianode.tasks import TaskSet, guarded

log = logging.getLogger("medianode.pull")
SESSIONS = telemetry.counter("medianode_sessions_total", "Sessions opened, by door", "door")
ENDS = telemetry.counter("medianode_session_ends_total", "Sessions ended, by door and code", "door", "code")
BYTES = telemetry.counter("medianode_bytes_total", "Bytes by door and direction", "door", "direction")
DOOR = "pull"
FINAL = frozenset({"shutdown", "ingress-deleted", "ingress-disabled", "finished", "project-deleted"})
"""Ends after which it is not opened again until it is ordered again."""
POLITE = FINAL | {"closed", "takeover"}
CLOSE_SECONDS = 2.0
"""That a source's end may take. Everything in it is ours, so it does not; but nothing of a source may hold up its next attempt."""


class Attempt:
    """An Intake. `run` once; `look` twice a second."""

    def __init__(self, config: Config, registry: Registry, order: PullOrder, supervisor: Supervisor, told: Callable[[], None]) -> None:
        self._config = config
        self._registry = registry
        self._order = order
        self._supervisor = supervisor
        self._told = told
        self._room: Room | None = None
        self._assembler: Assembler | None = None
        self._error: MedianodeError | None = None
        self._task: asyncio.Task[BaseException | None] | None = None
        self._opened_at = self._heard_at = clock.now()
        self._bytes_in = BYTES.labels(DOOR, "in")
        self.nbytes = 0

    @property
    def publication(self) -> Publication | None:
        return None if self._assembler is None else self._assembler.publication

    async def run(self, source: Source, tasks: TaskSet) -> BaseException:
        """To its end, which is returned. Cancelled: ends as `closed`. Raises LimitExceeded."""
        self._task = task = tasks.start(source.run(self))
        try:
            await asyncio.wait((task,))
        except asyncio.CancelledError:
            self._error = self._error or PeerGone("the source is no longer wanted", code="closed")
            task.cancel()
            await asyncio.wait((task,), timeout=CLOSE_SECONDS)
            raise
        finally:
            error = self._outcome()
            self._close(error)
        return error

    def fail(self, error: MedianodeError) -> None:
        """End it: a watchdog's verdict, or the registry puts it out."""
        if self._error is None:
            self._error = error
            if self._task is not None:
                self._task.cancel()

    # Intake

    def begin(self, transport: str, expected: frozenset[int] = frozenset()) -> Assembler:
        config, grant = self._config, self._order.grant
        self._room, publication = self._registry.publish(grant, DOOR, self._order.host, self.fail)
        self._assembler = Assembler(publication, config.ingress.track_wait, config.limits.tracks_per_publication, expected)
        SESSIONS.labels(DOOR).value += 1
        told = {"peer": self._order.host, "door": DOOR, "room": grant.room, "identity": grant.identity, "path": transport}
        telemetry.session(log, "publishing", **told)
        self._heard_at = clock.now()
        self._supervisor.transport = transport
        self._supervisor.running(self._heard_at)
        self._told()
        return self._assembler

    def heard(self, nbytes: int, now: float) -> None:
        self._heard_at = now
        self.nbytes += nbytes
        self._bytes_in.value += nbytes

    # life

    def look(self, now: float) -> None:
        """The watchdogs, and what the Assembler decides by the clock."""
        if self._error is not None:
            return
        publication, assembler = self.publication, self._assembler
        active, video_at = False, None
        if publication is not None and assembler is not None:
            try:
                assembler.tick(now)
            except MedianodeError as e:
                self.fail(e)
                return
            active = publication.active
            if active:
                self._supervisor.proven()
            video = publication.video
            if video is not None:
                video_at = publication.meters[video.id].last_at or publication.active_at
        error = self._supervisor.look(now, self._heard_at, video_at, active=active)
        if error is not None:
            if publication is not None and publication.health.last_error and not active:
                error.message = f"{error.message}: {publication.health.last_error}"
            self.fail(error)

    def _outcome(self) -> BaseException:
        if self._error is not None:
            return self._error
        task = self._task
        if task is not None and task.done() and not task.cancelled() and (error := task.result()) is not None:
            return error
        return PeerGone("the source ended", code="source-ended")

    def _close(self, error: BaseException) -> None:
        room, assembler = self._room, self._assembler
        if room is None or assembler is None:
            return
        publication = assembler.publication
        if not publication.ended:
            guarded(DOOR, self._finish, assembler)
        code, message = describe(error, self._order.host)
        room.end(publication, code, message, failed=code not in POLITE, final=code == "ingress-deleted")
        ENDS.labels(DOOR, code).value += 1
        told = {"peer": self._order.host, "door": DOOR, "code": code, "reason": message if code != "closed" else ""}
        telemetry.session(log, "closed", **told, seconds=clock.now() - self._opened_at, bytes=self.nbytes)

    def _finish(self, assembler: Assembler) -> None:
        with contextlib.suppress(MedianodeError):  # what was still being decided cannot be shown
            assembler.finish()
