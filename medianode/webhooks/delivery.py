"""The delivery engine: letters of the outbox to their endpoints, at least once and in order, one slow endpoint never in another's way.

A turn is one transaction: it writes what became of letters since the last one, gives lanes back, renews leases, claims lanes and reads
their letters. Between turns each lane has a task that sends its letters one after the other. Under load a few turns a second do for all.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field

from medianode import clock, telemetry
from medianode.config import Limits, Webhooks
from medianode.errors import MedianodeError, StorageError
from medianode.store import endpoints, lanes
from medianode.store.database import Database, Transaction
from medianode.store.deliveries import DEAD, DELIVERED, PENDING
from medianode.store.endpoints import WebhookEndpoint
from medianode.store.lanes import LaneKey, Outcome, PendingLetter, Tried
from medianode.tasks import TaskSet, background, guard
from medianode.webhooks import schedule
from medianode.webhooks.housekeeping import Housekeeping
from medianode.webhooks.lane import DOWN, LANES_PER_CONNECTION, Lane, Outlet
from medianode.webhooks.outbox import TOPIC
from medianode.webhooks.sender import Answer, Sender
from medianode.webhooks.steady import SteadyClock

log = logging.getLogger("medianode.webhooks.delivery")
POLL = 1.0
"""Seconds between looks for what other processes announced, and for lanes whose back-off is over."""
LEASE = 30.0
RENEW = LEASE / 3
TURNS = 10.0
"""Turns a second under load; as many at once when there was nothing to do before."""
CLAIMS = 64
"""Lanes claimed in one turn: others want to write too."""
FLUSH = 1.0
"""Seconds that what was announced while stopping is still sent for."""
STALE_SECRET = (400, 401, 403)
ENDPOINTS_COUNTED = 256

_DONE = telemetry.counter("medianode_webhook_deliveries_total", "Deliveries done with, by outcome", "outcome")
_FAILED = telemetry.counter("medianode_webhook_failed_attempts_total", "Attempts that failed, by endpoint", "endpoint")
_counted: set[str] = set()


@dataclass(slots=True)
class _Turn:
    """What is to be remembered once the transaction is committed."""

    idle: list[Lane]
    due: dict[str, float] = field(default_factory=dict)
    mine: set[LaneKey] | None = None
    known: dict[str, WebhookEndpoint | None] = field(default_factory=dict)  # None: gone or disabled
    opened: list[Lane] = field(default_factory=list)
    given: list[tuple[Lane, list[PendingLetter], int]] = field(default_factory=list)
    dropped: list[Lane] = field(default_factory=list)
    freed: Counter[str] = field(default_factory=Counter)  # of them, by endpoint
    hurried: list[Outlet] = field(default_factory=list)
    again: bool = False


class Delivery:
    """`serve` runs it. `node_id` names this daemon among those on one database; `time` is for tests."""

    def __init__(
        self, db: Database, webhooks: Webhooks, limits: Limits, sender: Sender, node_id: str, time: SteadyClock | None = None
    ) -> None:
        self._db = db
        self._webhooks = webhooks
        self._limits = limits
        self._sender = sender
        self._owner = f"{node_id[:40]}:{secrets.token_hex(6)}"
        self._time = time or SteadyClock()
        self._lease = max(LEASE, 2 * webhooks.timeout + RENEW)
        self._outlets: dict[str, Outlet] = {}
        self._outcomes: list[Outcome] = []
        self._woken = asyncio.Event()
        self._tasks = TaskSet("webhooks", 2 * limits.webhook_lanes)  # one that has ended still counts for a moment
        self._opened = False
        self._stopping = False
        self._complaint = ""
        self._credit = TURNS
        self._credited_at = self._renew_at = self._steal_at = self._time.mono()
        self._unreadable: set[str] = set()
        db.subscribe(TOPIC, self.wake)

    def wake(self) -> None:
        """There may be something to send, now or in a moment."""
        self._woken.set()

    async def serve(self) -> None:
        async with self._tasks, background(Housekeeping(self._db, self._webhooks, self._time).serve()):
            try:
                while True:
                    await self._step()
                    await self._rest()
            finally:
                await self._end()

    # turns

    async def _step(self) -> None:
        """A turn. A database that is away costs a second, told once, and nothing that is written in it."""
        error = await guard("webhooks", self._turn())
        complaint = "" if error is None else f"{getattr(error, 'code', type(error).__name__)}: {error}"
        if complaint != self._complaint:
            log.warning("webhooks wait for the database: %s", complaint) if complaint else log.info("webhooks go on")
            self._complaint = complaint
        if error is not None:
            await asyncio.sleep(POLL)

    async def _rest(self) -> None:
        try:
            async with asyncio.timeout(POLL):
                await self._woken.wait()
        except TimeoutError:
            return
        if self._credit < 1:
            await asyncio.sleep((1 - self._credit) / TURNS)

    async def _turn(self) -> None:
        self._woken.clear()
        now = clock.now()
        self._credit = min(self._credit + (now - self._credited_at) * TURNS, TURNS)
        self._credited_at = now
        if self._opened and not self._outcomes and not self._wanting():
            async with self._db.read() as tx:
                due = await lanes.due(tx, self._time.now(), steal=self._steal)
            if not any(self._room(endpoint_id) for endpoint_id in due):
                return
        self._credit -= 1
        await self._write()

    def _wanting(self) -> bool:
        held = self._lanes()
        return any(not lane.running or lane.thirsty for lane in held) or (bool(held) and self._time.mono() >= self._renew_at)

    async def _write(self) -> None:
        """Lanes go on while this runs: what ends meanwhile is the next turn's."""
        outcomes, self._outcomes = self._outcomes, []
        turn = _Turn(idle=[lane for lane in self._lanes() if not lane.running])
        until = self._time.mono() + self._lease
        renewing = self._time.mono() >= self._renew_at
        with ExitStack() as unless_done:
            unless_done.callback(self._put_back, outcomes)
            async with self._db.write() as tx:
                await self._look_at_clock(tx)
                await lanes.settle(tx, outcomes, clock.wallclock())
                if renewing:
                    turn.mine = await lanes.renew(tx, self._owner, self._time.now() + self._lease)
                    await self._give_up_strays(tx, turn)
                turn.due = await lanes.due(tx, self._time.now(), steal=self._steal) if not self._stopping else {}
                await self._look_at_endpoints(tx, turn)
                for lane in turn.idle:
                    await self._decide(tx, turn, lane)
                for lane in self._lanes():
                    if lane.running and lane.thirsty and self._may_go_on(turn, lane):
                        turn.given.append((lane, *await self._read(tx, lane, lane.behind)))
                await self._claim(tx, turn, until)
            unless_done.pop_all()
        self._opened = True
        self._remember(turn, until, renewing)

    def _put_back(self, outcomes: list[Outcome]) -> None:
        """They are not written: before those that have come since."""
        self._outcomes[:0] = outcomes

    async def _look_at_clock(self, tx: Transaction) -> None:
        jumped = self._time.follow(await lanes.begin(tx))
        if jumped:
            # others see the jump within a lease, and renew: until then theirs only look as if they had run out
            self._steal_at = self._time.mono() + self._lease
            log.warning("the database's clock has jumped: all that waits is tried again")
            await lanes.hurry(tx, None, self._time.now())
        if not self._opened:
            if tx.dialect == "sqlite":  # nobody else has this file: what is claimed was ours, before a crash
                await lanes.abandon(tx, None)
            await lanes.repair(tx, self._time.now() + schedule.longest(self._webhooks.last_retry) + 2 * self._lease)

    @property
    def _steal(self) -> bool:
        return self._time.mono() >= self._steal_at

    async def _give_up_strays(self, tx: Transaction, turn: _Turn) -> None:
        """Lanes that are ours in the database and not here: a commit of which we were never told."""
        assert turn.mine is not None
        for key in turn.mine - {lane.key for lane in self._lanes()}:
            await lanes.put_back(tx, key, self._owner, 0, 0)

    async def _look_at_endpoints(self, tx: Transaction, turn: _Turn) -> None:
        """As they stand now: another URL or secret counts from the next letter on, and one that is disabled is sent no more."""
        used = {endpoint_id for endpoint_id, outlet in self._outlets.items() if outlet.lanes}
        there = turn.due | (await lanes.enabled(tx, used) if used else {})
        for endpoint_id in used | set(turn.due):
            outlet = self._outlets.get(endpoint_id)
            if endpoint_id not in there:
                turn.known[endpoint_id] = None
            elif outlet is not None and outlet.endpoint.updated_at == there[endpoint_id]:
                turn.known[endpoint_id] = outlet.endpoint
            elif outlet is not None or self._room(endpoint_id):
                turn.known[endpoint_id] = await self._load(tx, endpoint_id)
        for outlet in self._outlets.values():
            if outlet.back:
                await lanes.hurry(tx, outlet.endpoint.id, self._time.now())
                turn.hurried.append(outlet)

    async def _load(self, tx: Transaction, endpoint_id: str) -> WebhookEndpoint | None:
        try:
            return await endpoints.find(tx, endpoint_id)
        except StorageError as e:
            if e.code != "sealed-wrongly":
                raise
            if endpoint_id not in self._unreadable:
                self._unreadable.add(endpoint_id)
                log.error("webhook endpoint %s: %s; nothing is sent to it", endpoint_id, e)
            return None

    async def _decide(self, tx: Transaction, turn: _Turn, lane: Lane) -> None:
        """What becomes of a lane whose task has ended."""
        if turn.mine is not None and lane.key not in turn.mine:
            pass  # somebody else's by now
        elif lane.delay is not None:
            await lanes.postpone(tx, lane.key, self._owner, self._time.now() + lane.delay, lane.failures)
        elif lane.stopping or self._stopping or turn.known.get(lane.key.endpoint_id) is None:
            behind = lane.given[0].id - 1 if lane.given else lane.behind
            await lanes.put_back(tx, lane.key, self._owner, behind, lane.failures)
        elif lane.given:
            turn.given.append((lane, [], 0))
            return
        else:
            letters, limit = await self._read(tx, lane, 0)
            if letters and not self._crowded(turn, lane):
                turn.given.append((lane, letters, limit))
                return
            if letters:
                await lanes.put_back(tx, lane.key, self._owner, letters[0].id - 1, lane.failures)
            else:
                await lanes.close(tx, lane.key, self._owner)
        turn.dropped.append(lane)
        turn.freed[lane.key.endpoint_id] += 1

    def _may_go_on(self, turn: _Turn, lane: Lane) -> bool:
        return not (lane.stopping or turn.known.get(lane.key.endpoint_id) is None or self._crowded(turn, lane))

    def _crowded(self, turn: _Turn, lane: Lane) -> bool:
        """Others of its endpoint wait for their turn: it is to have no more than it was given."""
        return lane.key.endpoint_id in turn.due and not self._room(lane.key.endpoint_id, turn)

    async def _claim(self, tx: Transaction, turn: _Turn, until: float) -> None:
        """In no order, so that none is always last."""
        left = CLAIMS
        for endpoint_id in random.sample(list(turn.due), len(turn.due)):
            endpoint = turn.known.get(endpoint_id)
            if endpoint is None:
                continue
            room = min(self._room(endpoint_id, turn), left)
            if not room:
                continue
            outlet = self._outlets.get(endpoint_id) or Outlet(endpoint, asyncio.Semaphore(self._limits.webhook_connections))
            lease_end = self._time.now() + self._lease
            for key, failures in await lanes.claim(tx, endpoint_id, self._owner, self._time.now(), lease_end, room, steal=self._steal):
                lane = Lane(key, outlet, failures, until)
                letters, limit = await self._read(tx, lane, 0)
                left -= 1
                if not letters:
                    await lanes.close(tx, key, self._owner)
                    continue
                turn.opened.append(lane)
                turn.given.append((lane, letters, limit))
            turn.again = True  # there may be more of them
            if left <= 0:
                break

    async def _read(self, tx: Transaction, lane: Lane, behind: int) -> tuple[list[PendingLetter], int]:
        """Letters, and how many were asked for."""
        limit = 1 if lane.outlet.down else min(lane.outlet.batch, max(self._limits.webhook_letters // max(len(self._lanes()), 1), 1))
        return await lanes.letters(tx, lane.key, behind, limit), limit

    def _remember(self, turn: _Turn, until: float, renewed: bool) -> None:
        if renewed:
            self._renew_at = until - self._lease + RENEW
        for outlet in turn.hurried:
            outlet.back = False
            turn.again = True
        for endpoint_id, endpoint in turn.known.items():
            known = self._outlets.get(endpoint_id)
            if known is not None and endpoint is not None:
                known.endpoint = endpoint
            elif known is not None:
                for lane in known.lanes.values():
                    lane.stopping = True
        for lane in self._lanes():
            if turn.mine is not None:
                lane.stopping = lane.stopping or lane.key not in turn.mine
                lane.valid_until = until if lane.key in turn.mine else lane.valid_until
        for lane in turn.dropped:
            del lane.outlet.lanes[lane.key.stream]
        for lane in turn.opened:
            self._outlets.setdefault(lane.key.endpoint_id, lane.outlet).lanes[lane.key.stream] = lane
        for lane, letters, limit in turn.given:
            lane.give(letters, full=bool(limit) and len(letters) == limit)
            if not lane.running:
                lane.running = True
                self._tasks.start(self._work(lane))
        for endpoint_id in [e for e, outlet in self._outlets.items() if not outlet.lanes and not outlet.worth_keeping(self._time.mono())]:
            del self._outlets[endpoint_id]
        if turn.again:
            self.wake()

    def _lanes(self) -> list[Lane]:
        return [lane for outlet in self._outlets.values() for lane in outlet.lanes.values()]

    def _room(self, endpoint_id: str, turn: _Turn | None = None) -> int:
        """How many more lanes an endpoint may have. Half of all is kept for everybody's first one."""
        limits, outlet = self._limits, self._outlets.get(endpoint_id)
        held = len(self._lanes()) + (len(turn.opened) - len(turn.dropped) if turn is not None else 0)
        if held >= limits.webhook_lanes:
            return 0
        most, left = limits.webhook_connections * LANES_PER_CONNECTION, limits.webhook_lanes // 2 - held
        if outlet is None:
            return max(min(most, left), 1)
        return outlet.room(most, left, self._time.mono(), turn.freed[endpoint_id] if turn is not None else 0)

    # letters

    async def _work(self, lane: Lane) -> None:
        """Send what it has been given, one after the other, until one fails. More may be given meanwhile."""
        bug = True
        try:
            while lane.given and lane.delay is None and not lane.stopping and not self._stopping:
                async with lane.outlet.connections:
                    await self._send_some(lane)
            bug = False
        finally:
            if bug and lane.delay is None:  # or cancelled, when nobody asks any more
                lane.delay = self._webhooks.first_retry
            lane.running = False
            self.wake()

    async def _send_some(self, lane: Lane) -> None:
        """What it has now, on one connection."""
        began, count, outlet = clock.now(), 0, lane.outlet
        lane.stopping = lane.stopping or not outlet.may_send(self._time.mono())
        outlet.sending += 1
        try:
            while lane.given and lane.delay is None and not lane.stopping and not self._stopping:
                if self._time.mono() + self._webhooks.timeout > lane.valid_until:
                    lane.stopping = True  # it may be another daemon's by the time this one is sent
                    break
                await self._send(lane, lane.given[0])
                lane.given.popleft()
                count += 1
                if lane.thirsty:
                    self.wake()
        finally:
            outlet.sending -= 1
            outlet.sent(count, clock.now() - began)

    async def _send(self, lane: Lane, letter: PendingLetter) -> None:
        """To the end of it: delivered, dead or to be tried again."""
        outlet, tried = lane.outlet, list[Tried]()
        if letter.body is None:
            return self._done(lane, letter, DEAD, tried, "sealed-wrongly: its body cannot be opened")
        was_down = outlet.down
        answer = await self._attempt(outlet.endpoint, letter, letter.body, outlet.endpoint.secret, tried)
        previous = self._previous(outlet.endpoint)
        if previous is not None and answer.status in STALE_SECRET:
            answer = await self._attempt(outlet.endpoint, letter, letter.body, previous, tried)
        match schedule.judge(outlet.endpoint.dialect, answer.status):
            case "delivered":
                if outlet.down:
                    log.info("webhook endpoint is back", extra={"fields": {"endpoint": outlet.endpoint.id}})
                outlet.succeeded()
                return self._done(lane, letter, DELIVERED, tried, "")
            case "dead":
                return self._done(lane, letter, DEAD, tried, answer.error)
        outlet.failed(was_down, self._webhooks.first_retry, self._webhooks.last_retry, self._time.mono(), answer.retry_after)
        if outlet.failing == DOWN:
            log.warning("webhook endpoint is failing", extra={"fields": {"endpoint": outlet.endpoint.id, "error": answer.error}})
        lane.failures += 1
        first, last = self._webhooks.first_retry, self._webhooks.last_retry
        delay = schedule.delay(lane.failures, first, last, random.random(), answer.retry_after)
        if delay is None:
            fields = {"endpoint": outlet.endpoint.id, "delivery": letter.id, "error": answer.error}
            log.warning("webhook given up", extra={"fields": fields})
            return self._done(lane, letter, DEAD, tried, answer.error)
        self._done(lane, letter, PENDING, tried, answer.error)
        lane.delay = delay
        return None

    async def _attempt(
        self, endpoint: WebhookEndpoint, letter: PendingLetter, body: bytes, secret: str | None, tried: list[Tried]
    ) -> Answer:
        at = clock.wallclock()
        answer = await self._sender.send(endpoint, letter.type, letter.event_id, body, secret)
        tried.append(Tried(at=at, status=answer.status, latency=answer.latency, error=answer.error, excerpt=answer.excerpt))
        if not answer.good:
            if len(_counted) < ENDPOINTS_COUNTED:
                _counted.add(endpoint.id)
            _FAILED.labels(endpoint.id if endpoint.id in _counted else "other").value += 1
        return answer

    def _previous(self, endpoint: WebhookEndpoint) -> str | None:
        """The secret that was rotated out, while it is good."""
        return endpoint.previous_secret if (endpoint.previous_until or 0.0) > clock.wallclock() else None

    def _done(self, lane: Lane, letter: PendingLetter, state: str, tried: list[Tried], error: str) -> None:
        attempts = letter.attempts + len(tried)
        self._outcomes.append(Outcome(delivery_id=letter.id, state=state, attempts=attempts, tried=tried, error=error))
        if state != PENDING:
            lane.failures = 0
            _DONE.labels(state).value += 1

    # the end

    async def _end(self) -> None:
        """Send what was announced last, let what is on its way arrive, write it down, give all lanes back."""
        grace = self._limits.shutdown_grace
        until = clock.now() + min(FLUSH, grace)
        while clock.now() < until and (self._complaint == ""):
            await guard("webhooks", self._turn())
            if not self._lanes() and not self._outcomes and not self._woken.is_set():
                break
            await self._rest_until(until)
        self._stopping = True
        until += grace
        while any(lane.running for lane in self._lanes()) and clock.now() < until:
            self._woken.clear()
            await self._rest_until(until)
        await self._tasks.cancel()
        error = await guard("webhooks", asyncio.wait_for(self._settle_all(), max(grace, 1.0)))
        if error is not None:
            code = error.code if isinstance(error, MedianodeError) else type(error).__name__
            log.error("%d outcomes of webhooks not written while stopping: %s; they are sent again", len(self._outcomes), code)

    async def _rest_until(self, until: float) -> None:
        try:
            async with asyncio.timeout(max(min(until - clock.now(), 0.1), 0)):
                await self._woken.wait()
        except TimeoutError:
            pass

    async def _settle_all(self) -> None:
        if self._outcomes or self._lanes():
            await self._write()
            async with self._db.write() as tx:
                await lanes.begin(tx)
                await lanes.abandon(tx, self._owner)
