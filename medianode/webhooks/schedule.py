"""When a failed delivery is tried again, and when it is given up. Pure."""

from __future__ import annotations

from typing import Literal

Verdict = Literal["delivered", "retry", "dead"]
FACTOR = 4
SPREAD = 0.15
_TRY_AGAIN = (408, 429)


def judge(dialect: str, status: int | None) -> Verdict:
    """2xx is delivered. StreamHub's receivers say with a 4xx that they will never take it; all else is tried again (contracts 8.10)."""
    if status is None:
        return "retry"
    if 200 <= status < 300:
        return "delivered"
    final = dialect == "streamhub" and 400 <= status < 500 and status not in _TRY_AGAIN
    return "dead" if final else "retry"


def delays(first: float, last: float) -> list[float]:
    """Seconds between the attempts: `first`, ever longer by FACTOR, and `last` at the end."""
    found = [min(first, last)]
    while found[-1] < last:
        found.append(min(found[-1] * FACTOR, last))
    return found


def longest(last: float) -> float:
    return last * (1 + SPREAD)


def delay(failures: int, first: float, last: float, chance: float, retry_after: float | None = None) -> float | None:
    """Seconds to wait after the `failures`th failure, or None: given up. `chance`: 0 to 1, which spreads those that failed together.

    What the receiver asked for counts where it is more, within `last`.
    """
    steps = delays(first, last)
    if failures > len(steps):
        return None
    own = steps[failures - 1] * (1 - SPREAD + 2 * SPREAD * chance)
    return max(own, min(retry_after or 0.0, last))
