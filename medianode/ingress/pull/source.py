"""Source and Intake: the two sides of fetching. A Source gets media by one protocol; what it gets goes to the Assembler of its Intake."""

from __future__ import annotations

from typing import Protocol

from medianode.ingress.assembler import Assembler
from medianode.routing.publication import Publication


class Intake(Protocol):
    """One attempt's way into the house. `publication`: None before `begin`."""

    @property
    def publication(self) -> Publication | None: ...

    def begin(self, transport: str, expected: frozenset[int] = frozenset()) -> Assembler:
        """Media is about to come: open the publication. Once per attempt. Raises Conflict, LimitExceeded, Unauthorized, Forbidden.

        `transport`: for the state. `expected`: as the Assembler's. The Assembler is ticked and finished by the owner of the Intake.
        """

    def heard(self, nbytes: int, now: float) -> None:
        """Bytes of media came: the watchdog of silence lives on it."""


class Source(Protocol):
    """Made for one attempt. Holds nothing before `run` and nothing after it."""

    async def run(self, intake: Intake) -> None:
        """Fetch until the source ends (PeerGone) or fails: raises PeerError, OSError (ssl's too), TimeoutError. Cancelled at any moment.

        It need not bound its waiting: its owner cancels what does not open, falls silent or freezes.
        """
