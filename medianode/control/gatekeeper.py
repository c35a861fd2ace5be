"""The decisions behind every door: who may publish, play, view and control. Implements `auth.Gatekeeper`."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from dataclasses import replace

from medianode.auth import Door, FailedLogins, Means, Permission, Principal, PublishGrant, ReadGrant
from medianode.control.asset_viewing import AssetViewing
from medianode.control.broadcasts import Broadcasts
from medianode.control.credentials import Credentials
from medianode.control.ingresses import Ingresses
from medianode.control.keys import Keys
from medianode.control.links import Links
from medianode.control.playback import Playback, SignedViews
from medianode.control.projects import Projects
from medianode.control.publishing import Publishing
from medianode.control.viewing import Viewing
from medianode.errors import Forbidden, Unauthorized
from medianode.store.database import Database
from medianode.store.ingresses import Ingress
from medianode.store.keys import ApiKey
from medianode.store.projects import Project

_KEY_ID = re.compile(r"key_[0-9a-f]{12}", re.ASCII)


class HouseGatekeeper:
    """`hold`: config.ingress.hold. What the calls mean and raise is said at `auth.Gatekeeper`."""

    def __init__(
        self,
        projects: Projects,
        keys: Keys,
        ingresses: Ingresses,
        broadcasts: Broadcasts,
        links: Links,
        failed: FailedLogins,
        db: Database,
        *,
        hold: float,
    ) -> None:
        self._projects = projects
        self._credentials = credentials = Credentials(keys, ingresses, links, failed)
        signed = SignedViews(broadcasts, credentials)
        self._viewing = viewing = Viewing(projects, credentials, broadcasts, signed)
        self._publishing = Publishing(projects, ingresses, credentials, broadcasts, hold=hold)
        self._playback = Playback(projects, broadcasts, credentials, signed, viewing.by_secret)
        self._assets = AssetViewing(db, broadcasts, self._playback)

    async def publish(
        self, door: Door, app: str, key: str, room: str | None = None, *, source: str = "", proves: Callable[[str], bool] | None = None
    ) -> PublishGrant:
        return await self._within_project(await self._publishing.publish(door, app, key, room, source=source, proves=proves))

    async def pull(self, ingress: Ingress) -> PublishGrant:
        """What the node may publish that it fetches for this ingress. Raises NotFound (its project is gone), Forbidden (disabled)."""
        return await self._within_project(await self._publishing.pull(ingress))

    async def _within_project(self, grant: PublishGrant) -> PublishGrant:
        limits = (await self._projects.get(grant.project_id)).limits
        return replace(
            grant,
            max_rooms=limits.get("rooms", 0),
            max_publishers=limits.get("publishers", 0),
            max_bitrate=min(filter(None, (grant.max_bitrate, limits.get("bitrate", 0))), default=0),
        )

    async def play(self, app: str, name: str, *, source: str = "") -> ReadGrant:
        return await self._limited(await self._viewing.play(app, name, source=source))

    async def read(self, app: str, room: str, token: str | None = None, bearer: str | None = None, *, source: str = "") -> ReadGrant:
        return await self._limited(await self._viewing.read(app, room, token, bearer, source=source))

    async def read_playback(
        self, playback_id: str, token: str | None = None, bearer: str | None = None, *, site: str = "", agent: str = "", source: str = ""
    ) -> ReadGrant:
        return await self._limited(await self._playback.read(playback_id, token, bearer, site=site, agent=agent, source=source))

    async def read_asset(
        self, playback_id: str, token: str | None = None, bearer: str | None = None, *, site: str = "", agent: str = "", source: str = ""
    ) -> ReadGrant:
        return await self._limited(await self._assets.read(playback_id, token, bearer, site=site, agent=agent, source=source))

    async def still(self, grant: ReadGrant) -> None:
        """Would it be given now? See `Viewing.still`."""
        if grant.recording_id and grant.means is Means.PLAYBACK:
            await self._assets.still(grant)
        else:
            await self._viewing.still(grant)

    async def _limited(self, grant: ReadGrant) -> ReadGrant:
        viewers = (await self._projects.get(grant.project_id)).limits.get("viewers", 0)
        return replace(grant, max_viewers=viewers) if viewers else grant

    async def control(
        self, authorization: str | None, permission: Permission, project: str | None = None, *, source: str = ""
    ) -> Principal:
        user, secret = claim(authorization)
        self._credentials.check(source)
        key = await self._credentials.api_key(secret, source, user if _KEY_ID.fullmatch(user) else None)
        about = await self._about(key, project)
        principal = Principal(
            key_id=key.id,
            project_id=about.id if about else None,
            slug=about.slug if about else None,
            permissions=key.permissions,
            node=key.project_id is None,
        )
        if not principal.may(permission):
            raise Forbidden(f"this key lacks the permission {permission.value}")
        return principal

    async def _about(self, key: ApiKey, project: str | None) -> Project | None:
        """The project of a request. A key of one project learns nothing of which others exist."""
        if key.project_id is None:
            return None if project is None else await self._projects.get(project)
        own = await self._projects.get(key.project_id)
        if project not in (None, own.id, own.slug):
            raise Forbidden("this key is of another project", code="other-project")
        return own


def credential(authorization: str | None) -> str:
    """The key of an Authorization header. Raises Unauthorized."""
    return claim(authorization)[1]


def claim(authorization: str | None) -> tuple[str, str]:
    """Whose key it is said to be, and the key. Basic (RFC 7617): user and password, or nobody's and the user where there is no password.

    Raises Unauthorized.
    """
    scheme, _, rest = (authorization or "").partition(" ")
    rest = rest.strip()
    if scheme.lower() == "bearer" and rest:
        return "", rest
    if scheme.lower() == "basic":
        try:
            user, _, password = base64.b64decode(rest, validate=True).decode().partition(":")
        except ValueError:  # not ASCII, not base64, not UTF-8
            raise Unauthorized("authorization: Basic needs base64 of user:password") from None
        if password or user:
            return (user, password) if password else ("", user)
    raise Unauthorized("authorization: expected Bearer KEY, or Basic with the key as password", code="key-missing")
