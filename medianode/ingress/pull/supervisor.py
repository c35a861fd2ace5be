"""Supervisor: when one source is opened, by which transport, and when it is given up. Pure: `now` is an argument, chance is handed in."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from medianode.errors import PeerError, PeerTimeout
from medianode.ingress.pull.order import State

HEALTHY = 20.0
"""Seconds of running after which earlier failures are forgotten."""
REFUSED = (10.0, 120.0)
"""Seconds until the next attempt after a refused password, first and at most: many cameras lock out who tries often."""
JITTER = (0.6, 1.0)
_REFUSALS = frozenset({"unauthorized", "private-address"})
_TRANSPORT_FAULTS = frozenset({"unsupported-transport", "nothing-came", "source-silent"})
"""With these another transport may do what this one did not."""


class Terms(NamedTuple):
    """Seconds. `transports`: what may be tried, in order. `first_media`: from what opened to the first picture that can be shown."""

    transports: tuple[str, ...]
    connect_timeout: float
    silence: float
    frozen_video: float
    first_media: float
    first_retry: float
    last_retry: float


class Supervisor:
    """Of one source. `jitter` gives a factor of at most 1.

    The waiting time is counted from the attempt's beginning, so that a source which hangs every attempt until its timeout is tried no less
    often than one that refuses: `last_retry` bounds how long a source that is well again is not asked.
    """

    def __init__(self, terms: Terms, jitter: Callable[[], float]) -> None:
        self.terms = terms
        self.state: State = "opening"
        self.code = ""
        self.message = ""
        self.transport = terms.transports[0]
        self.attempts = 0
        self.retry_at = 0.0
        self._jitter = jitter
        self._began = 0.0
        self._ran_at: float | None = None
        self._failures = 0
        self._refusals = 0
        self._proven = False
        self._untried = [t for t in terms.transports if t != self.transport]

    def begin(self, now: float) -> str:
        """An attempt begins: by which transport."""
        self.state = "opening"
        self.attempts += 1
        self.retry_at = 0.0
        self._began = now
        self._ran_at = None
        return self.transport

    def running(self, now: float) -> None:
        """Media comes."""
        self.state, self.code, self.message = "running", "", ""
        self._ran_at = now

    def proven(self) -> None:
        """It was shown: this transport is tried first from now on."""
        self._proven = True

    def look(self, now: float, heard_at: float, video_at: float | None, *, active: bool) -> PeerError | None:
        """The watchdogs: what is wrong with the attempt, if anything. `video_at`: of the last picture, None where it has none.

        `active`: the first picture (or sound, where there is no other) could be shown.
        """
        terms = self.terms
        if self.state == "opening":
            if now - self._began >= terms.connect_timeout:
                return PeerTimeout(
                    f"no media within {terms.connect_timeout:g} s: the source accepts, and says nothing more", code="source-hangs"
                )
            return None
        if self.state != "running" or self._ran_at is None:
            return None
        silent = now - max(heard_at, self._ran_at)
        if silent >= terms.silence:
            return PeerTimeout(f"connected, but nothing came for {silent:.0f} s", code="source-silent" if active else "nothing-came")
        if not active and now - self._ran_at >= terms.first_media:
            return PeerTimeout(f"connected, but no picture that could be shown in {terms.first_media:g} s", code="no-media")
        if active and video_at is not None and now - video_at >= terms.frozen_video:
            return PeerTimeout(f"connected, but its picture is frozen: none came for {now - video_at:.0f} s", code="video-frozen")
        return None

    def failed(self, now: float, code: str, message: str) -> None:
        """The attempt is over; it waits, or goes on at once by another transport."""
        self.state, self.code, self.message = "waiting", code, message
        if self._ran_at is not None and now - self._ran_at >= HEALTHY:
            self._failures = self._refusals = 0
        if self._another(code):
            self.retry_at = now
            return
        if code in _REFUSALS:
            first, most, count = *REFUSED, self._refusals
            self._refusals += 1
        else:
            first, most, count = self.terms.first_retry, self.terms.last_retry, self._failures
            self._failures += 1
        delay = min(most, first * 2.0 ** min(count, 16)) * self._jitter()
        self.retry_at = max(self._began + delay, now + self.terms.first_retry * self._jitter())

    def stopped(self) -> None:
        self.state = "stopped"

    def _another(self, code: str) -> bool:
        """Whether another transport is left to try in this round. One that has proven itself is not left for a mere silence."""
        transports = self.terms.transports
        if len(transports) > 1 and code in _TRANSPORT_FAULTS and not (self._proven and code == "source-silent"):
            if self._untried:
                self.transport = self._untried.pop(0)
                self._proven = False
                return True
            # the round is over: from the beginning
            self.transport = transports[0]
        self._untried = [t for t in transports if t != self.transport]
        return False
