"""Who may view an asset (what was recorded of a live stream) by its playback id: everybody where it is public, else holders of a token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from medianode import clock
from medianode.auth import Means, ReadGrant
from medianode.control import signing_keys, tokens
from medianode.control.broadcasts import Broadcasts, restricted
from medianode.control.credentials import Credentials
from medianode.control.playback import Opens, check_restrictions
from medianode.control.projects import Projects
from medianode.errors import Forbidden, NotFound, Unauthorized
from medianode.media.names import shown
from medianode.store import recordings
from medianode.store.database import Database
from medianode.store.live_streams import PlaybackId
from medianode.store.projects import Project
from medianode.store.recordings import Recording


class AssetViewing:
    """Errors as `auth.Gatekeeper`. `opens`: view links, room tokens and API keys, for the room that was recorded."""

    def __init__(self, db: Database, projects: Projects, broadcasts: Broadcasts, credentials: Credentials, opens: Opens) -> None:
        self._db = db
        self._projects = projects
        self._broadcasts = broadcasts
        self._credentials = credentials
        self._opens = opens

    async def read(
        self, playback_id: str, token: str | None = None, bearer: str | None = None, *, site: str = "", agent: str = "", source: str = ""
    ) -> ReadGrant:
        """`site`: the page's Origin, or else its Referer; `agent`: the User-Agent; empty where the player sends none."""
        asset = await self._find(playback_id)
        restrictions = await self._restrictions(asset)
        check_any(restrictions, site, agent)
        project = await self._projects.get(asset.project_id)
        if asset.access_policy == "public":
            return ReadGrant(
                project_id=project.id,
                slug=project.slug,
                room=asset.room,
                means=Means.PLAYBACK,
                shared=not restrictions,
                playback_id=playback_id,
                recording_id=asset.id,
            )
        secret = token or bearer
        if not secret:
            raise Unauthorized(f"playback id {playback_id} is private: viewing needs a token", code="token-missing")
        self._credentials.check(source)
        signed = await self._signed(project, asset, playback_id, secret, source)
        opened = signed or await self._opens(project, asset.room, secret, source)
        return replace(opened, shared=False, playback_id=playback_id, recording_id=asset.id)

    async def still(self, grant: ReadGrant) -> None:
        """Would such a leave be given now? Raises NotFound, Unauthorized."""
        asset = await self._find(grant.playback_id)
        signed = not grant.key_id or await self._broadcasts.signing_key(grant.key_id) is not None
        if not signed or (asset.access_policy != "public" and not grant.key_id):
            raise Unauthorized(f"playback id {grant.playback_id} is no longer open to this viewer", code="viewing-changed")

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

    async def _signed(self, project: Project, asset: Recording, playback_id: str, secret: str, source: str) -> ReadGrant | None:
        """By a token of one of the project's signing keys; None: that is a secret of another kind."""
        key_id = signing_keys.signed_by(secret)
        if key_id is None:
            return None
        key = await self._broadcasts.signing_key(key_id)
        if key is None or key.project_id != project.id:
            raise self._credentials.wrong("token: signed with a key that this project does not have", source)
        try:
            view = signing_keys.verify(key, secret, clock.wallclock())
        except Unauthorized as e:
            if e.code == Unauthorized.code:
                self._credentials.failed(source)
            raise
        if not view.opens(playback_id):
            message = f"this token is not for viewing it (aud: expected {signing_keys.AUDIENCE}<playback id>)"
            raise Forbidden(f"playback id {playback_id}: {message}")
        return ReadGrant(
            project_id=project.id,
            slug=project.slug,
            room=asset.room,
            expires_at=view.expires_at + tokens.LEEWAY,
            token_id=view.token_id,
            key_id=key.id,
            playback_id=playback_id,
            recording_id=asset.id,
            means=Means.PLAYBACK,
            shared=False,
        )


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
