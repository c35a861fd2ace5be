"""Evictions: who views or publishes by a leave that has ended is put out: revoked, expired, no longer enough, its project gone."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from medianode import clock
from medianode.auth import Means, ReadGrant
from medianode.errors import MedianodeError, PeerError, PeerGone, StorageError, Unauthorized
from medianode.events import Bus, IngressChanged, KeyRevoked, ProjectChanged, ProjectDeleted, TokenRevoked, ViewingChanged
from medianode.routing.registry import Registry
from medianode.tasks import every, guarded

log = logging.getLogger(__name__)
LOOK = 10.0
"""Seconds between looks at all who view, for changes that nobody told of."""

Still = Callable[[ReadGrant], Awaitable[None]]
"""`Viewing.still`: raises a PeerError where this leave would not be given any more."""


class Evictions:
    """What ends by an event ends at once; `serve` ends what expires, and within a second what a changed project no longer lets in."""

    def __init__(self, bus: Bus, registry: Registry, still: Still) -> None:
        self._registry = registry
        self._still = still
        self._changed = False
        bus.subscribe(TokenRevoked, self._token_revoked)
        bus.subscribe(KeyRevoked, lambda event: registry.audience.end_key(event.key_id))
        bus.subscribe(ProjectDeleted, self._project_deleted)
        bus.subscribe(IngressChanged, self._ingress_changed)
        bus.subscribe(ProjectChanged, self._look_again)
        bus.subscribe(ViewingChanged, self._look_again)

    async def serve(self) -> None:
        """Until cancelled."""
        looked = clock.now()
        async for now in every(1.0):
            guarded("evictions", self._registry.audience.end_expired, clock.wallclock())
            if self._changed or now - looked >= LOOK:
                self._changed, looked = False, now
                await self.look()

    async def look(self) -> None:
        """Put out whom the projects, as they are now, would not let in."""
        verdicts: dict[tuple[str, str, Means, str, str], MedianodeError | None] = {}
        for visit in self._registry.audience:
            grant = visit.grant
            alike = (grant.project_id, grant.room, grant.means, grant.playback_id, grant.key_id)
            if alike not in verdicts:
                verdicts[alike] = await self._verdict(grant)
            if (error := verdicts[alike]) is not None:
                visit.end(error)

    async def _verdict(self, grant: ReadGrant) -> MedianodeError | None:
        try:
            await self._still(grant)
        except StorageError as e:
            log.debug("who views room %s is not looked at: %s", grant.room, e)
        except PeerError as e:
            return e
        return None

    def _token_revoked(self, event: TokenRevoked) -> None:
        self._registry.audience.end_token(event.project_id, event.token_id)
        self._registry.end_token(event.project_id, event.token_id, Unauthorized("the token was revoked", code="token-revoked"))

    def _project_deleted(self, event: ProjectDeleted) -> None:
        self._registry.audience.end_project(event.project_id)
        self._registry.end_project(event.project_id, PeerGone("the project was deleted", code="project-deleted"))

    def _ingress_changed(self, event: IngressChanged) -> None:
        self._changed = True  # it may have lost a playback id
        if event.key_reset:
            for visit in self._registry.audience:
                grant = visit.grant
                if grant.means is Means.STREAM_KEY and (grant.project_id, grant.room) == (event.project_id, event.room):
                    visit.end(Unauthorized("the stream key was reset", code="key-revoked"))

    def _look_again(self, event: ProjectChanged | ViewingChanged) -> None:
        self._changed = True
