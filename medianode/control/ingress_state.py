"""The life of an Ingress, as one table. Pure: no clock, no IO; whoever runs the hold window says when it is over.

INACTIVE ─Connected→ BUFFERING ─FirstKeyframe→ ACTIVE ─Lost→ BUFFERING (held) ─Reconnected→ BUFFERING …
                                                                    └─HoldExpired→ COMPLETE, or ERROR if it broke before it was ever ACTIVE
Failed → ERROR from anywhere; COMPLETE and ERROR begin anew with Connected.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, StrEnum

from medianode.errors import MedianodeError


class State(StrEnum):
    """What the APIs tell, each in its own words."""

    INACTIVE = "INACTIVE"
    BUFFERING = "BUFFERING"
    ACTIVE = "ACTIVE"
    COMPLETE = "COMPLETE"
    ERROR = "ERROR"


class Phase(Enum):
    """State, with BUFFERING split in two: an encoder is there but no key frame yet, or it was lost and the hold window runs."""

    INACTIVE = State.INACTIVE
    CONNECTED = (State.BUFFERING, "connected")
    HELD = (State.BUFFERING, "held")
    ACTIVE = State.ACTIVE
    COMPLETE = State.COMPLETE
    ERROR = State.ERROR


@dataclass(frozen=True, slots=True)
class Connected:
    """An encoder was let in."""


@dataclass(frozen=True, slots=True)
class FirstKeyframe:
    """The first decodable key frame of this connection."""


@dataclass(frozen=True, slots=True)
class Lost:
    """The encoder is gone. `failure`: it broke, as opposed to said goodbye."""

    cause: str
    message: str = ""
    failure: bool = False


@dataclass(frozen=True, slots=True)
class Reconnected:
    """An encoder came back within the hold window."""


@dataclass(frozen=True, slots=True)
class HoldExpired:
    """Nobody came back."""


@dataclass(frozen=True, slots=True)
class Failed:
    """There is no use in waiting: refused media, an unreachable URL."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Deleted:
    """The ingress is no more."""


Event = Connected | FirstKeyframe | Lost | Reconnected | HoldExpired | Failed | Deleted


@dataclass(frozen=True, slots=True)
class Life:
    """Where an ingress stands. `code` and `message`: why it was lost or failed, empty while all is well.

    `was_active`: since Connected. `broken`: the loss that it is held for was a failure.
    """

    phase: Phase = Phase.INACTIVE
    code: str = ""
    message: str = ""
    was_active: bool = False
    broken: bool = False

    @property
    def state(self) -> State:
        return _STATES[self.phase]


@dataclass(frozen=True, slots=True)
class StateChanged:
    old: State
    new: State
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class SessionStarted:
    """ACTIVE for the first time since Connected."""


@dataclass(frozen=True, slots=True)
class SessionEnded:
    """COMPLETE or ERROR after it had been connected; `was_active` tells whether anything was seen."""

    was_active: bool
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class PutOut:
    """The encoder is to be disconnected."""

    code: str


Fact = StateChanged | SessionStarted | SessionEnded | PutOut

_STATES = {phase: phase.value if isinstance(phase.value, State) else phase.value[0] for phase in Phase}
_IN_SESSION = frozenset({Phase.CONNECTED, Phase.HELD, Phase.ACTIVE})
_WITH_ENCODER = frozenset({Phase.CONNECTED, Phase.ACTIVE})


def step(life: Life, event: Event) -> tuple[Life, list[Fact]]:
    """The next Life, and what came to pass.

    Raises MedianodeError (`illegal-transition`, our bug) for an event that cannot happen in this phase.
    """
    move = _TABLE.get((life.phase, type(event)))
    if move is None:
        expected = ", ".join(sorted(kind.__name__ for phase, kind in _TABLE if phase is life.phase))
        raise MedianodeError(
            f"ingress in {life.phase.name}: expected one of {expected}, got {type(event).__name__}", code="illegal-transition"
        )
    after = move(life, event)
    facts: list[Fact] = []
    if after.state is not life.state:
        facts.append(StateChanged(life.state, after.state, after.code, after.message))
    if after.was_active and not life.was_active:
        facts.append(SessionStarted())
    if life.phase in _IN_SESSION and after.phase not in _IN_SESSION:
        facts.append(SessionEnded(life.was_active, after.code, after.message))
    if life.phase in _WITH_ENCODER and isinstance(event, Failed | Deleted):
        facts.append(PutOut(after.code))
    return after, facts


def _connected(life: Life, event: Event) -> Life:
    return Life(Phase.CONNECTED)


def _first_keyframe(life: Life, event: Event) -> Life:
    return Life(Phase.ACTIVE, was_active=True)


def _lost(life: Life, event: Event) -> Life:
    assert isinstance(event, Lost)
    return Life(Phase.HELD, event.cause, event.message, life.was_active, event.failure)


def _reconnected(life: Life, event: Event) -> Life:
    return Life(Phase.CONNECTED, was_active=life.was_active)


def _hold_expired(life: Life, event: Event) -> Life:
    phase = Phase.ERROR if life.broken and not life.was_active else Phase.COMPLETE
    return Life(phase, life.code, life.message)


def _failed(life: Life, event: Event) -> Life:
    assert isinstance(event, Failed)
    return Life(Phase.ERROR, event.code, event.message)


def _deleted(life: Life, event: Event) -> Life:
    return Life(Phase.COMPLETE, "deleted") if life.phase in _IN_SESSION else life


_TABLE: dict[tuple[Phase, type[Event]], Callable[[Life, Event], Life]] = {
    (Phase.INACTIVE, Connected): _connected,
    (Phase.CONNECTED, FirstKeyframe): _first_keyframe,
    (Phase.CONNECTED, Lost): _lost,
    (Phase.ACTIVE, Lost): _lost,
    (Phase.HELD, Reconnected): _reconnected,
    (Phase.HELD, HoldExpired): _hold_expired,
    (Phase.COMPLETE, Connected): _connected,
    (Phase.ERROR, Connected): _connected,
    **{(phase, Failed): _failed for phase in Phase},
    **{(phase, Deleted): _deleted for phase in Phase},
}
