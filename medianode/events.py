"""Domain facts, frozen, and the synchronous bus that carries them sideways: to webhooks, metrics and the database. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar


@dataclass(frozen=True, slots=True)
class Event:
    """Base of all facts: whoever subscribes to it gets every one."""


@dataclass(frozen=True, slots=True)
class ProjectChanged(Event):
    project_id: str
    slug: str


@dataclass(frozen=True, slots=True)
class ProjectDeleted(Event):
    """With all that hung on it: everybody is to be put out."""

    project_id: str
    slug: str


@dataclass(frozen=True, slots=True)
class KeyRevoked(Event):
    key_id: str
    project_id: str | None


@dataclass(frozen=True, slots=True)
class IngressCreated(Event):
    ingress_id: str
    project_id: str
    kind: str
    room: str
    identity: str


@dataclass(frozen=True, slots=True)
class IngressDeleted(Event):
    """Its encoder is to be put out at once."""

    ingress_id: str
    project_id: str
    kind: str
    room: str
    identity: str


@dataclass(frozen=True, slots=True)
class IngressDisabled(Event):
    """Its encoder is to be put out at once; none is let in until it is enabled again."""

    ingress_id: str
    project_id: str
    kind: str
    room: str
    identity: str


@dataclass(frozen=True, slots=True)
class IngressFinished(Event):
    """Its session is to end at once, without a hold; its encoder may begin another."""

    ingress_id: str
    project_id: str
    kind: str
    room: str
    identity: str


@dataclass(frozen=True, slots=True)
class IngressChanged(Event):
    """What was remembered of it is old. `key_reset`: its encoder goes by a key that is no longer good, and is to be put out."""

    ingress_id: str
    project_id: str
    kind: str
    room: str
    identity: str
    key_reset: bool = False


@dataclass(frozen=True, slots=True)
class TargetChanged(Event):
    """A simulcast target was made, changed or deleted."""

    target_id: str
    project_id: str
    room: str


@dataclass(frozen=True, slots=True)
class TargetStateChanged(Event):
    """`state`: idle, starting, broadcasting or failed (tried again). `host`: of the URL in use, which may hold a key. `code` and `message`:
    why it failed. `bitrate`: bit/s of the last second or so."""

    target_id: str
    project_id: str
    ingress_id: str | None
    room: str
    host: str
    state: str
    code: str = ""
    message: str = ""
    bitrate: float = 0.0


@dataclass(frozen=True, slots=True)
class TokenRevoked(Event):
    """A room token or a view link, by its `jti`: who views by it is to be put out."""

    project_id: str
    token_id: str


@dataclass(frozen=True, slots=True)
class ViewingChanged(Event):
    """Who may view what in this project has changed: verdicts are to be made anew."""

    project_id: str


LEAVES = (ProjectChanged, ProjectDeleted, ViewingChanged, IngressChanged, IngressDisabled, IngressDeleted, KeyRevoked, TokenRevoked)
"""After which a leave to view may be gone, or another: doors that remember verdicts of the gatekeeper ask anew."""


@dataclass(frozen=True, slots=True)
class IngressStateChanged(Event):
    """`old` and `new` are INACTIVE, BUFFERING, ACTIVE, COMPLETE or ERROR. `code` and `message` tell the reason of a loss or an error, or
    are empty.

    `duration`: seconds since this session first became ACTIVE; 0 where it has not been.
    """

    ingress_id: str
    project_id: str
    room: str
    identity: str
    old: str
    new: str
    code: str = ""
    message: str = ""
    duration: float = 0.0


@dataclass(frozen=True, slots=True)
class PublicationOpened(Event):
    """An encoder was let in; nothing decodable yet. `ingress_id` is None for a room token, and in a project open to key-less publishing.

    `door` is what it came by, `name` the participant's.
    """

    project_id: str
    room: str
    identity: str
    ingress_id: str | None = None
    door: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True)
class PublicationActive(Event):
    """The first decodable key frame (or sound, where there is no picture) since it opened.

    `tracks`: those known by now, each with its kind (`video`, `audio`) and codec (FFmpeg's name).
    """

    project_id: str
    room: str
    identity: str
    ingress_id: str | None = None
    tracks: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class PublicationLost(Event):
    """The encoder is gone and the hold window runs. `failure`: it broke, as opposed to said goodbye."""

    project_id: str
    room: str
    identity: str
    ingress_id: str | None
    cause: str
    message: str = ""
    failure: bool = False


@dataclass(frozen=True, slots=True)
class PublicationEnded(Event):
    """Nobody came back within the hold window. `cause` as in PublicationLost."""

    project_id: str
    room: str
    identity: str
    ingress_id: str | None
    cause: str


@dataclass(frozen=True, slots=True)
class RoomLive(Event):
    project_id: str
    room: str


@dataclass(frozen=True, slots=True)
class RoomEnded(Event):
    project_id: str
    room: str


@dataclass(frozen=True, slots=True)
class RoomVacated(Event):
    """Its last publisher is gone and not expected back, while the room stays on air by its slate; else RoomEnded tells it."""

    project_id: str
    room: str


@dataclass(frozen=True, slots=True)
class RecordingEvent(Event):
    """About one recording. `identity` is empty where it is of the room's programme."""

    recording_id: str
    project_id: str
    room: str
    identity: str
    ingress_id: str | None


@dataclass(frozen=True, slots=True)
class RecordingStarted(RecordingEvent):
    """Its first file is open. `reason` as in store.recordings; `directory`: absolute, of its own; `at`: wallclock of the first sample."""

    reason: str
    directory: str
    at: float
    title: str = ""
    labels: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class RecordingFileChanged(RecordingEvent):
    """A file of it was opened, or (`closed`) is complete and synced. Instants wallclock, `start` and `duration` microseconds.

    `tracks`: (kind, codec, width, height, sampling rate, channels) each. `gap`: why the timeline breaks before it, or empty.
    `index`: `media.parts.pack`ed, of a closed one.
    """

    sequence: int
    name: str
    closed: bool
    started_at: float
    start: int
    duration: int
    nbytes: int
    init_bytes: int
    tracks: tuple[tuple[str, str, int, int, int, int], ...]
    gap: str = ""
    index: bytes | None = None


@dataclass(frozen=True, slots=True)
class RecordingEnded(RecordingEvent):
    """Its last file is closed. `code` and `message`: why it failed, or empty."""

    at: float
    duration: int
    nbytes: int
    code: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class RecordingTrouble(RecordingEvent):
    """It goes on, but something is missing: `disk-full`, `slow-disk`, `unsupported-codec`, … told once until it is over (`code` empty)."""

    code: str
    message: str


E = TypeVar("E", bound=Event)


class Bus:
    """Calls subscribers at once, in the order of their subscription, on the caller's thread.

    Subscriptions are wired at start: few and long-lived.
    """

    def __init__(self) -> None:
        self._subscribers: list[tuple[type[Event], Callable[[Any], None]]] = []

    def subscribe(self, kind: type[E], callback: Callable[[E], None]) -> Callable[[], None]:
        """Have `callback` called with every event that is a `kind`.

        Returns the callable that ends the subscription; calling it twice is harmless.
        """
        entry = (kind, callback)
        self._subscribers.append(entry)

        def unsubscribe() -> None:
            for i, other in enumerate(self._subscribers):
                if other is entry:
                    del self._subscribers[i]
                    return

        return unsubscribe

    def publish(self, event: Event) -> None:
        """Tell everybody.

        A subscriber that raises does not stop the others; what they raised comes out as one ExceptionGroup at the end.
        """
        raised: list[Exception] = []
        for kind, callback in tuple(self._subscribers):
            if isinstance(event, kind):
                try:
                    callback(event)
                except Exception as e:  # noqa: BLE001 - kept, and raised below once all have been told
                    raised.append(e)
        if raised:
            raise ExceptionGroup(f"subscribers of {type(event).__name__} failed", raised)
