"""Two clocks, never mixed: `now` (monotonic, the loop's) and `wallclock` (UTC). The only home of the time module."""

from __future__ import annotations

import time
from datetime import UTC, datetime


def now() -> float:
    """Seconds of the monotonic clock; the same clock as the event loop's `time()`."""
    return time.monotonic()


def wallclock() -> float:
    """Seconds since the Unix epoch, UTC."""
    return time.time()


def wallclock_of(at: float) -> float:
    """Of a `now()` that is past, or to come: as the clocks stand to each other now."""
    return wallclock() - now() + at


def utc(seconds: float) -> datetime:
    """An aware UTC datetime of a `wallclock()` value."""
    return datetime.fromtimestamp(seconds, UTC)


def iso(seconds: float, digits: int = 3) -> str:
    """RFC 3339 in UTC with `digits` (0, 3 or 6) fractional digits: 2026-03-29T14:30:00.000Z."""
    spec = {0: "seconds", 3: "milliseconds", 6: "microseconds"}[digits]
    return utc(seconds).isoformat(timespec=spec).replace("+00:00", "Z")


def seconds(text: str) -> float:
    """The `wallclock()` value of an RFC 3339 text. Raises ValueError, also where the text names no zone."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("an instant without its zone")
    return moment.timestamp()


def cpu_seconds() -> float:
    """CPU seconds, user and system, of this process."""
    return time.process_time()


def thread_seconds() -> float:
    """CPU seconds, user and system, of the calling thread."""
    return time.thread_time()
