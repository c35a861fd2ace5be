"""Audience: everybody who views, by the leave that was given: bounded in number, and put out when the leave ends."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from types import TracebackType

from medianode.auth import ReadGrant
from medianode.errors import LimitExceeded, MedianodeError, PeerGone, Unauthorized
from medianode.routing.room import Room

REMEMBERED = 4096
"""Tokens, keys and projects ended last: a leave by one of them may be on its way while it ends. Their ids are never used again."""

Kick = Callable[[MedianodeError], None]


class Visit:
    """One viewer's session. A context manager: leaving the block leaves the audience."""

    __slots__ = ("_audience", "_kick", "door", "grant", "over", "room")

    def __init__(self, audience: Audience, room: Room, door: str, grant: ReadGrant) -> None:
        self._audience = audience
        self._kick: Kick | None = None
        self.room = room
        self.door = door
        self.grant = grant
        self.over: MedianodeError | None = None

    def on_kick(self, kick: Kick) -> None:
        """How to end it, once there is something to end. At most one call, at once where the leave has ended meanwhile."""
        self._kick = kick
        if self.over is not None:
            kick(self.over)

    def end(self, error: MedianodeError) -> None:
        if self.over is None:
            self.over = error
            if self._kick is not None:
                self._kick(error)

    def leave(self) -> None:
        """Idempotent."""
        self._audience.left(self)

    def __enter__(self) -> Visit:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.leave()


class Audience:
    """`per_room`: limits.viewers_per_room. `rooms`: those of the node, for counting a project's viewers over all doors."""

    def __init__(self, per_room: int, rooms: Callable[[], Iterable[Room]]) -> None:
        self._per_room = per_room
        self._rooms = rooms
        self._visits: dict[Visit, None] = {}
        self._ended: dict[tuple[str, ...], MedianodeError] = {}

    def __len__(self) -> int:
        return len(self._visits)

    def __iter__(self) -> Iterator[Visit]:
        return iter(tuple(self._visits))

    def enter(self, room: Room, door: str, grant: ReadGrant, kick: Kick | None = None) -> Visit:
        """Raises LimitExceeded (`room-full`, `project-limit-viewers`), and what ended the leave meanwhile."""
        for name in (("token", grant.project_id, grant.token_id), ("key", grant.key_id), ("project", grant.project_id)):
            if (error := self._ended.get(name)) is not None:
                raise error
        self.check(grant)
        room.count_viewer(door, +1, self._per_room)
        visit = Visit(self, room, door, grant)
        self._visits[visit] = None
        if kick is not None:
            visit.on_kick(kick)
        return visit

    def check(self, grant: ReadGrant) -> None:
        """Has the project room for one more? Raises LimitExceeded `project-limit-viewers`."""
        if grant.max_viewers:
            watching = sum(sum(room.viewers.values()) for room in self._rooms() if room.project_id == grant.project_id)
            if watching >= grant.max_viewers:
                message = f"project {grant.slug} has {watching} viewers already, which is its limit"
                raise LimitExceeded(message, code="project-limit-viewers")

    def left(self, visit: Visit) -> None:
        if visit in self._visits:
            del self._visits[visit]
            visit.room.count_viewer(visit.door, -1, self._per_room)

    def end_token(self, project_id: str, token_id: str) -> None:
        """It was revoked: who views by it is put out, and nobody comes in by it. Who signs tokens chooses their ids: they tell tokens apart
        within their project only.
        """
        error = Unauthorized("the token was revoked", code="token-revoked")
        self._end(("token", project_id, token_id), error, lambda grant: (grant.project_id, grant.token_id) == (project_id, token_id))

    def end_key(self, key_id: str) -> None:
        self._end(("key", key_id), Unauthorized("the key was revoked", code="key-revoked"), lambda grant: grant.key_id == key_id)

    def end_project(self, project_id: str) -> None:
        error = PeerGone("the project was deleted", code="project-deleted")
        self._end(("project", project_id), error, lambda grant: grant.project_id == project_id)

    def end_expired(self, wallclock: float) -> None:
        """Those whose leave has ended by itself."""
        for visit in self:
            if visit.grant.expires_at is not None and wallclock >= visit.grant.expires_at:
                visit.end(Unauthorized("the leave to view has expired", code="token-expired"))

    def _end(self, name: tuple[str, ...], error: MedianodeError, which: Callable[[ReadGrant], bool]) -> None:
        self._ended[name] = error
        if len(self._ended) > REMEMBERED:
            del self._ended[next(iter(self._ended))]
        for visit in self:
            if which(visit.grant):
                visit.end(error)
