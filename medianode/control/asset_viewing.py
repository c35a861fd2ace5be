"""Who may view an asset (what was recorded of a live stream) by its playback id: everybody where it is public, else holders of a token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from medianode.auth import ReadGrant
from medianode.control.broadcasts import Broadcasts, restricted
from medianode.control.playback import Playback, check_restrictions, check_still
from medianode.errors import Forbidden, NotFound
from medianode.media.names import shown
from medianode.store import recordings
from medianode.store.database import Database
from medianode.store.live_streams import PlaybackId
from medianode.store.recordings import Recording


class AssetViewing:
    """Errors as `auth.Gatekeeper`."""

    def __init__(self, db: Database, broadcasts: Broadcasts, playback: Playback) -> None:
        self._db = db
        self._broadcasts = broadcasts
        self._playback = playback

    async def read(
        self, playback_id: str, token: str | None = None, bearer: str | None = None, *, site: str = "", agent: str = "", source: str = ""
    ) -> ReadGrant:
        """`site`: the page's Origin, or else its Referer; `agent`: the User-Agent; empty where the player sends none."""
        asset = await self._find(playback_id)
        restrictions = await self._restrictions(asset)
        check_any(restrictions, site, agent)
        public, shared = asset.access_policy == "public", not restrictions
        opened = await self._playback.grant(
            playback_id, asset.project_id, asset.room, token or bearer, source, public=public, shared=shared
        )
        return replace(opened, recording_id=asset.id)

    async def still(self, grant: ReadGrant) -> None:
        """Would such a leave be given now? Raises NotFound, Unauthorized."""
        await check_still(self._broadcasts, grant, (await self._find(grant.playback_id)).access_policy)

    async def _find(self, playback_id: str) -> Recording:
        async with self._db.read() as tx:
            found = await recordings.find_by_playback_id(tx, playback_id)
        if found is None:
            raise NotFound(f"no playback id {shown(playback_id)}", code="no-such-playback-id")
        return found

    async def _restrictions(self, asset: Recording) -> Sequence[PlaybackId]:
        """Those of its live stream's playback ids, where all of the same policy have some: what kept people from it live does so now."""
        broadcast = None if asset.ingress_id is None else await self._broadcasts.of_ingress(asset.ingress_id)
        alike = [] if broadcast is None else [p for p in broadcast.playback_ids if p.access_policy == asset.access_policy]
        return alike if all(restricted(each) for each in alike) else []


def check_any(restrictions: Sequence[PlaybackId], site: str, agent: str) -> None:
    """One of them lets the viewer in, or there are none. Raises Forbidden (`domain-refused`, `user-agent-refused`)."""
    refused: Forbidden | None = None
    for playback in restrictions:
        try:
            check_restrictions(playback, site, agent)
        except Forbidden as e:
            refused = refused or e
        else:
            return
    if refused is not None:
        raise refused
