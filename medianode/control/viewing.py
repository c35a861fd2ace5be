"""Who may view a room: everybody where viewing is public, else holders of a view link, of an API key, and of a room token."""

from __future__ import annotations

from medianode import clock
from medianode.auth import Door, Means, Permission, ReadGrant, allows, stream_name
from medianode.control import tokens
from medianode.control.broadcasts import Broadcasts, restricted
from medianode.control.cache import Cache
from medianode.control.credentials import Credentials
from medianode.control.playback import SignedViews, check_enabled, check_still
from medianode.control.projects import Projects
from medianode.errors import Forbidden, NotFound, Unauthorized
from medianode.media.names import room_name, shown
from medianode.store.projects import Project
from medianode.store.secrets import key_hash

GRANTS = 4096
GRANTS_TTL = 30.0


class Viewing:
    """Errors as `auth.Gatekeeper`."""

    def __init__(self, projects: Projects, credentials: Credentials, broadcasts: Broadcasts, signed: SignedViews) -> None:
        self._projects = projects
        self._credentials = credentials
        self._broadcasts = broadcasts
        self._signed = signed
        # verifying costs some 100 µs, and a player shows its token with every segment
        self._grants: Cache[tuple[bytes, str, str], ReadGrant] = Cache(GRANTS, GRANTS_TTL)

    async def play(self, app: str, name: str, *, source: str = "") -> ReadGrant:
        self._credentials.check(source)
        parsed = stream_name(name)
        found = await self._credentials.stream_key(Door.RTMP, (*parsed.secrets, parsed.name))
        if found is not None:
            project = await self._projects.get(found[0].project_id)
            return ReadGrant(project_id=project.id, slug=project.slug, room=found[0].room, means=Means.STREAM_KEY)
        token = parsed.token or (parsed.secrets[0] if parsed.secrets else None)
        return await self.read(app, parsed.name, token, source=source)

    async def read(self, app: str, room: str, token: str | None = None, bearer: str | None = None, *, source: str = "") -> ReadGrant:
        project = await self._projects.find(app)
        if project is None:
            raise NotFound(f"no project {shown(app)}")
        canonical = room_name(project.slug, room)
        broadcast = await self._broadcasts.of_room(project.id, canonical)
        if broadcast is not None:
            check_enabled(broadcast)
        # a live stream is as open as its playback ids, by whatever address it is asked for
        if project.viewing == "public" and (broadcast is None or broadcast.open):
            return ReadGrant(project_id=project.id, slug=project.slug, room=canonical)
        secret = token or bearer
        if not secret:
            raise Unauthorized(f"room {canonical}: viewing needs a token", code="token-missing")
        self._credentials.check(source)
        signed = None
        if broadcast is not None:
            among = [playback.id for playback in broadcast.playback_ids if not restricted(playback)]
            signed = await self._signed.grant(project, canonical, among, secret, source, asked=f"room {canonical}")
        return signed or await self.by_secret(project, canonical, secret, source)

    async def by_secret(self, project: Project, room: str, secret: str, source: str) -> ReadGrant:
        """A view link, a room token or an API key, for this room (canonical). Where viewing is `signed`, room tokens do not do."""
        if tokens.looks_like_token(secret):
            grant = await self._read_by_token(project, room, secret, source)
            check_means(project, grant)
            return grant
        key = await self._credentials.api_key(secret, source)
        if key.project_id not in (None, project.id) or not allows(key.permissions, Permission.VIEW):
            raise Forbidden(f"room {room}: this key may not view it")
        return ReadGrant(project_id=project.id, slug=project.slug, room=room, expires_at=key.expires_at, key_id=key.id, means=Means.KEY)

    async def still(self, grant: ReadGrant) -> None:
        """Would such a leave be given now, as project and live stream are? What was revoked or has expired is not looked at here.

        Raises a PeerError where it would not, and StorageError.
        """
        project = await self._projects.get(grant.project_id)
        broadcast = await self._broadcasts.of_room(project.id, grant.room)
        if broadcast is not None:
            check_enabled(broadcast)
        if grant.means is Means.PLAYBACK:
            known = None if broadcast is None else broadcast.playback_id(grant.playback_id)
            await check_still(self._broadcasts, grant, None if known is None else known.access_policy)
            return
        if grant.means is Means.PUBLIC and broadcast is not None and not broadcast.open:
            raise Unauthorized(f"room {grant.room}: viewing needs a token", code="token-missing")
        check_means(project, grant)

    async def _read_by_token(self, project: Project, room: str, text: str, source: str) -> ReadGrant:
        seen = (key_hash(text), project.jwt_key_id, room)
        if (hit := self._grants.get(seen, clock.now())) is not None and (hit[0].expires_at or 0.0) >= clock.wallclock():
            await self._credentials.link(project, hit[0].token_id)
            return hit[0]
        token, link = await self._credentials.token(project, text, source)
        if not token.can_join or not token.can_subscribe or token.room != room:
            raise Forbidden(f"room {room}: this token is not for viewing it")
        grant = ReadGrant(
            project_id=project.id,
            slug=project.slug,
            room=room,
            identity=token.identity,
            expires_at=link.expires_at if link is not None else token.expires_at + tokens.LEEWAY,
            audio_only=token.audio_only,
            hidden=token.hidden and link is None,
            token_id=token.id,
            means=Means.TOKEN if link is None else Means.LINK,
        )
        self._grants.put(seen, grant, clock.now(), self._grants.generation)
        return grant


def check_means(project: Project, grant: ReadGrant) -> None:
    """Does the project let anybody view by such means? Also asked of those who view when it changes. Raises Unauthorized, Forbidden."""
    if grant.means is Means.PUBLIC and project.viewing != "public":
        raise Unauthorized(f"room {grant.room}: viewing needs a token", code="token-missing")
    if grant.means is Means.TOKEN and project.viewing == "signed":
        raise Forbidden(f"room {grant.room}: viewing needs a signed view link, and this is a room token", code="link-needed")
