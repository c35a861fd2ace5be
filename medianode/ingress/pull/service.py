"""PullService: all sources that this node fetches. One task each, and none of them waits for another."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Callable

from medianode import clock, telemetry
from medianode.config import Config
from medianode.errors import LimitExceeded, MedianodeError
from medianode.ingress.pull.attempt import FINAL, Attempt
from medianode.ingress.pull.http import HttpSource
from medianode.ingress.pull.order import SCHEMES, PullOrder, PullState
from medianode.ingress.pull.rhythm import Rhythm
from medianode.ingress.pull.rtmp import RtmpSource
from medianode.ingress.pull.rtsp import RtspSource
from medianode.ingress.pull.source import Source
from medianode.ingress.pull.supervisor import JITTER, Supervisor, Terms
from medianode.ingress.pull.words import describe
from medianode.ingress.srt_caller import SrtCaller
from medianode.outbound import Outbound
from medianode.routing.registry import Registry
from medianode.tasks import TaskSet, every

log = logging.getLogger("medianode.pull")
LOOK = 0.5
DATAGRAM_INTERVAL = 0.015
"""Seconds between reads of cameras that send datagrams: a key frame at 100 Mbit/s must fit into the socket's buffer meanwhile."""


class PullService:
    """`open` and `close` at any time; `serve` runs until cancelled and looks after them.

    `on_state` is told of each change of state or code.
    """

    def __init__(self, config: Config, registry: Registry, outbound: Outbound) -> None:
        self._config = config
        self._registry = registry
        self._outbound = outbound
        self._running: dict[str, _Running] = {}
        self._tasks = TaskSet("pull", config.limits.pulls * 2 + 2)
        self._last: dict[str, str] = {}
        self._rhythm = Rhythm(config.pull.read_interval)
        self._datagram_rhythm = Rhythm(min(config.pull.read_interval, DATAGRAM_INTERVAL))
        self.on_state: Callable[[str, PullState], None] = lambda ingress_id, state: None
        telemetry.gauge("medianode_pulls", "Sources that the node fetches, by state", "state", read=self._states)

    def __len__(self) -> int:
        return len(self._running)

    async def serve(self) -> None:
        async with self._tasks:
            async for now in every(LOOK):
                self._look(now)

    def _look(self, now: float) -> None:
        """Not in the loop of `serve`, whose variables live on: the last source would be kept."""
        for running in tuple(self._running.values()):
            running.look(now)

    def open(self, order: PullOrder) -> None:
        """Fetch it from now on. The same again is nothing; another order of the same ingress takes the place of the old one.

        Raises InvalidRequest (a scheme that is none of ours, what is no URL), LimitExceeded.
        """
        old = self._running.get(order.ingress_id)
        if old is not None and not old.over and old.order == order:
            return
        self._outbound.parse(order.url, SCHEMES)
        if old is None and len(self._running) >= self._config.limits.pulls:
            raise LimitExceeded(f"the node fetches {self._config.limits.pulls} sources already", code="node-full")
        running = _Running(self, order, self._supervisor(order), old)
        running.task = self._tasks.start(running.follow())
        self._running[order.ingress_id] = running

    async def close(self, ingress_id: str) -> None:
        """Fetch it no longer. Returns when what it published has ended. Nothing where there is none."""
        running = self._running.pop(ingress_id, None)
        if running is not None:
            await running.stop()

    def state(self, ingress_id: str) -> PullState | None:
        running = self._running.get(ingress_id)
        return None if running is None else running.state

    async def drain(self) -> None:
        """The node is stopping: all sources end."""
        for ingress_id in tuple(self._running):
            await self.close(ingress_id)

    def source(self, order: PullOrder, transport: str) -> Source:
        """For one attempt. Raises InvalidRequest."""
        match order.scheme:
            case "rtsp" | "rtsps":
                return RtspSource(order, transport, self._outbound, self._datagram_rhythm if transport == "udp" else self._rhythm)
            case "rtmp" | "rtmps":
                return RtmpSource(order, self._outbound, self._rhythm, self._config.limits)
            case "srt":
                return SrtCaller(order.url, self._outbound, self._config)
        return HttpSource(order, self._outbound, self._config)

    def attempt(self, order: PullOrder, supervisor: Supervisor, told: Callable[[], None]) -> Attempt:
        return Attempt(self._config, self._registry, order, supervisor, told)

    def remember(self, order: PullOrder, transport: str) -> None:
        """What worked is tried first next time, also by another order of the same source."""
        self._last[order.ingress_id] = transport
        while len(self._last) > self._config.limits.pulls * 4:
            del self._last[next(iter(self._last))]

    @property
    def tasks(self) -> TaskSet:
        return self._tasks

    def _supervisor(self, order: PullOrder) -> Supervisor:
        pull = self._config.pull
        terms = Terms(
            self._transports(order),
            pull.connect_timeout,
            pull.silence if order.silence is None else order.silence,
            pull.frozen_video if order.frozen_video is None else order.frozen_video,
            self._config.limits.first_media_timeout,
            pull.first_retry,
            pull.last_retry,
        )
        return Supervisor(terms, lambda: random.uniform(*JITTER))

    def _transports(self, order: PullOrder) -> tuple[str, ...]:
        if order.scheme not in ("rtsp", "rtsps"):
            return (order.scheme,)
        if order.transport != "auto":
            return (order.transport,)
        # beside TLS a stream in clear datagrams would not be what was asked for
        every_way = ("udp", "tcp", "http") if order.scheme == "rtsp" else ("tcp", "http")
        last = self._last.get(order.ingress_id, "")
        return (last, *(t for t in every_way if t != last)) if last in every_way else every_way

    def _states(self) -> list[telemetry.Sample]:
        totals = Counter(running.state.state for running in self._running.values())
        return [((state,), n) for state, n in totals.items()]


class _Running:
    """One source's life."""

    def __init__(self, service: PullService, order: PullOrder, supervisor: Supervisor, before: _Running | None) -> None:
        self._service = service
        self.order = order
        self._supervisor = supervisor
        self._before = before
        self._attempt: Attempt | None = None
        self._told: tuple[str, str] = ("", "")
        self._logged = ""
        self._nbytes = 0
        self._since = clock.wallclock()
        self.task: asyncio.Task[object] | None = None
        self.over = False

    @property
    def state(self) -> PullState:
        supervisor, now = self._supervisor, clock.now()
        waits = supervisor.state == "waiting"
        return PullState(
            state=supervisor.state,
            code=supervisor.code,
            message=supervisor.message,
            transport=supervisor.transport,
            since=self._since,
            retry_at=clock.wallclock() + max(supervisor.retry_at - now, 0.0) if waits else 0.0,
            nbytes=self._nbytes + (self._attempt.nbytes if self._attempt is not None else 0),
            attempts=supervisor.attempts,
        )

    def look(self, now: float) -> None:
        if self._attempt is not None:
            self._attempt.look(now)

    async def follow(self) -> None:
        """Until stopped."""
        if self._before is not None:
            before, self._before = self._before, None
            await before.stop()
        supervisor = self._supervisor
        try:
            while not self.over:
                transport = supervisor.begin(clock.now())
                self.tell()
                error = await self._open(transport)
                code, message = describe(error, self.order.host)
                if code in FINAL:
                    supervisor.code, supervisor.message = code, message
                    return
                supervisor.failed(clock.now(), code, message)
                self.tell()
                await asyncio.sleep(max(supervisor.retry_at - clock.now(), 0.0))
        finally:
            self.over = True
            supervisor.stopped()
            self.tell()

    async def _open(self, transport: str) -> BaseException:
        attempt = self._attempt = self._service.attempt(self.order, self._supervisor, self._runs)
        try:
            return await attempt.run(self._service.source(self.order, transport), self._service.tasks)
        except MedianodeError as e:
            return e
        finally:
            self._nbytes += attempt.nbytes
            self._attempt = None

    async def stop(self) -> None:
        self.over = True
        if self._before is not None:  # cancelled before its first step
            await self._before.stop()
        if self.task is not None and not self.task.done():
            self.task.cancel()
            await asyncio.wait((self.task,))

    def _runs(self) -> None:
        self._service.remember(self.order, self._supervisor.transport)
        self.tell()

    def tell(self) -> None:
        supervisor = self._supervisor
        now = (supervisor.state, supervisor.code)
        if now == self._told:
            return
        if now[0] != self._told[0]:
            self._since = clock.wallclock()
        self._told = now
        self._log()
        self._service.on_state(self.order.ingress_id, self.state)

    def _log(self) -> None:
        """An outage in one line and its end in one, however many attempts it takes."""
        supervisor = self._supervisor
        if supervisor.state == "opening" or supervisor.code == self._logged:
            return
        self._logged = supervisor.code
        fields = {"room": self.order.grant.room, "ingress": self.order.ingress_id, "host": self.order.host, "code": supervisor.code}
        words = f": {supervisor.message}" if supervisor.message else ""
        log.log(logging.WARNING if words else logging.INFO, "pull %s%s", supervisor.state, words, extra={"fields": fields})
