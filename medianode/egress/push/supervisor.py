"""Supervisor: keeps one target going while its room is on air. Back-off with jitter, the alternate URL, state told as it changes."""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import Callable
from urllib.parse import unquote, urlsplit

from medianode import clock
from medianode.egress.push.report import Pusher, Report
from medianode.errors import MedianodeError
from medianode.routing.room import Room
from medianode.store.targets import PushTarget
from medianode.tasks import guard

IDLE, STARTING, BROADCASTING, FAILED = "idle", "starting", "broadcasting", "failed"

RETRY = (1.0, 60.0)
"""Seconds until the next attempt: after the first failure, and at most. Doubled each time."""
REFUSED = (10.0, 300.0)
"""The same for a target that refuses: a wrong key does not get right by being offered often, and platforms count."""
JITTER = (0.75, 1.25)
HEALTHY = 60.0
"""Seconds of broadcasting after which earlier failures are forgotten."""
TURN = 2
"""Failures in a row on one URL after which the other one is tried."""
MESSAGE = 300

Tell = Callable[["Supervisor"], None]


class Supervisor:
    """Of one target in one session of its room; `run` is its life. The attributes are for the API.

    `since`: wallclock of the newest change of state. `retry_at`: clock.now() of the next attempt, 0 while there is none to wait for.
    `jitter` gives a factor on the waiting times. A target that fails again in the same way has not changed its state: nothing is told.
    """

    def __init__(
        self, target: PushTarget, room: Room, pusher: Callable[[str], Pusher], tell: Tell, jitter: Callable[[], float] | None = None
    ) -> None:
        self.target = target
        self.room = room
        self.report = Report(self._broadcasting)
        self.state = IDLE
        self.since = clock.wallclock()
        self.code = ""
        self.message = ""
        self.attempts = 0
        self.retry_at = 0.0
        self.on_alternate = False
        self._pusher = pusher
        self._tell = tell
        self._jitter = jitter or (lambda: random.uniform(*JITTER))
        self.ending = False
        self._wake = asyncio.Event()
        self._failures = 0
        self._streak = 0
        self._broadcasting_at: float | None = None

    @property
    def url(self) -> str:
        return (self.on_alternate and self.target.alternate_url) or self.target.url

    @property
    def host(self) -> str:
        return urlsplit(self.url).hostname or ""

    def wake(self) -> None:
        """The room has a programme again."""
        self._wake.set()

    def end(self) -> None:
        """Begin no further connection; the one there is ends with the feed."""
        self.ending = True
        self._wake.set()

    def is_over(self) -> bool:
        return self.ending or not self.room.on_air

    async def run(self) -> None:
        """Until the room goes off air, `end`, or cancelled."""
        try:
            while not self.is_over():
                if self.room.held:  # nothing to send yet; the target would only lose its patience
                    await self._woken(None)
                    continue
                error = await self._attempt()
                if error is None:
                    await self._woken(RETRY[0])  # a feed that ends at once must not spin
                elif not self.is_over():
                    await self._failed(error)
        finally:
            self._move(IDLE)

    async def _attempt(self) -> BaseException | None:
        """One connection. None where its feed ended."""
        self.attempts += 1
        self.retry_at = 0.0
        self.report.renew()
        self._broadcasting_at = None
        if self.state == IDLE:
            self._move(STARTING)
        error = await guard("push", self._push())
        self.report.renew()
        return error

    async def _push(self) -> None:
        await self._pusher(self.url).run(self.url, self.target.stream_key, self.room, self.report)

    async def _failed(self, error: BaseException) -> None:
        if self.room.held:  # it lost its patience while there was nothing to send: no fault of its own
            self._move(STARTING)
            return
        if self._broadcasting_at is not None and clock.now() - self._broadcasting_at >= HEALTHY:
            self._failures = self._streak = 0
        code, message = describe(error, self.host)
        self._move(FAILED, code, self.without_secrets(message))
        first, most = REFUSED if code == "rejected" else RETRY
        delay = min(most, first * 2.0 ** min(self._failures, 16)) * self._jitter()
        self._failures += 1
        self._streak += 1
        if self.target.alternate_url and self._streak >= TURN:
            self.on_alternate, self._streak = not self.on_alternate, 0
        self.retry_at = clock.now() + delay
        await self._woken(delay)

    async def _woken(self, seconds: float | None) -> None:
        """For so long, or until the room or we are at the end; None: until the programme is back, too."""
        until = None if seconds is None else clock.now() + seconds
        while not self.is_over():
            if (until is None and not self.room.held) or (until is not None and clock.now() >= until):
                return
            self._wake.clear()
            try:
                async with asyncio.timeout(None if until is None else until - clock.now()):
                    await self._wake.wait()
            except TimeoutError:
                return

    def _broadcasting(self) -> None:
        self._broadcasting_at = clock.now()
        self._move(BROADCASTING)

    def _move(self, state: str, code: str = "", message: str = "") -> None:
        changed = (state, code) != (self.state, self.code)
        self.code, self.message = code, message
        if changed:
            self.state, self.since = state, clock.wallclock()
            self._tell(self)

    def without_secrets(self, text: str) -> str:
        """What a target said, fit to be shown and kept: many repeat what they were offered, and some send what is no text."""
        text = "".join(c if c.isprintable() else " " for c in text)
        key = self.target.stream_key or ""
        name, _, query = key.partition("?")  # Twitch's: the server tells what is before it as the name
        for url in (self.target.url, self.target.alternate_url or ""):
            parts = urlsplit(url)
            path = parts.path.strip("/")
            last = path.rpartition("/")[2] if self.target.stream_key is None else ""
            for secret in (key, name, query, unquote(parts.password or ""), parts.query, path if last else "", last):
                if secret and len(secret) >= 4:
                    text = text.replace(secret, "…")
        return text[:MESSAGE]


def describe(error: BaseException, host: str) -> tuple[str, str]:
    """A kebab code and words for the operator."""
    match error:
        case MedianodeError():
            return error.code, error.message
        case ssl.SSLCertVerificationError():
            why = getattr(error, "verify_message", "") or error.strerror  # OpenSSL sets it, who makes one by hand does not
            return "certificate-not-trusted", f"the certificate of {host} is not trusted ({why}): outbound.cafile may name a PEM to trust"
        case ssl.SSLError():
            return "tls-failed", f"{host}: TLS failed: {error.strerror}: is this the TLS port?"
        case TimeoutError():
            return "unreachable", f"{host}: no answer in time"
        case OSError():
            return "unreachable", f"{host}: {error.strerror or type(error).__name__}"
    return "internal", f"our fault: {type(error).__name__}"
