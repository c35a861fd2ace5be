"""Who may view a live stream: by a playback id, public or private, from certain sites and players only; or by its room."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any, Protocol
from urllib.parse import urlsplit

from medianode import clock
from medianode.auth import Means, ReadGrant
from medianode.control import signing_keys, tokens
from medianode.control.broadcasts import Broadcast, Broadcasts, restricted
from medianode.control.credentials import Credentials
from medianode.control.projects import Projects
from medianode.errors import Forbidden, NotFound, Unauthorized
from medianode.media.names import shown
from medianode.store.live_streams import PlaybackId
from medianode.store.projects import Project

AGENT_LENGTH = 500


class Opens(Protocol):
    """`Viewing.by_secret`: a view link, a room token or an API key, for this room (canonical). Raises as `auth.Gatekeeper`."""

    async def __call__(self, project: Project, room: str, secret: str, source: str) -> ReadGrant: ...


class SignedViews:
    """Tokens of a project's signing keys."""

    def __init__(self, broadcasts: Broadcasts, credentials: Credentials) -> None:
        self._broadcasts = broadcasts
        self._credentials = credentials

    async def grant(self, project: Project, room: str, among: Sequence[str], secret: str, source: str, *, asked: str) -> ReadGrant | None:
        """For the first of these playback ids, all of this room (canonical), that it was made for. None: that is a secret of another kind.

        `asked`: for what it is shown, in words. Raises Unauthorized, Forbidden.
        """
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
        playback_id = next((each for each in among if view.opens(each)), None)
        if playback_id is None:
            raise Forbidden(f"{asked}: this token is not for viewing it (aud: expected {signing_keys.AUDIENCE}<playback id>)")
        return ReadGrant(
            project_id=project.id,
            slug=project.slug,
            room=room,
            expires_at=view.expires_at + tokens.LEEWAY,
            token_id=view.token_id,
            key_id=key.id,
            playback_id=playback_id,
            means=Means.PLAYBACK,
            shared=False,
        )


class Playback:
    """Errors as `auth.Gatekeeper`. `opens`: what else opens the room of a private one."""

    def __init__(self, projects: Projects, broadcasts: Broadcasts, credentials: Credentials, signed: SignedViews, opens: Opens) -> None:
        self._projects = projects
        self._broadcasts = broadcasts
        self._credentials = credentials
        self._signed = signed
        self._opens = opens

    async def read(
        self, playback_id: str, token: str | None = None, bearer: str | None = None, *, site: str = "", agent: str = "", source: str = ""
    ) -> ReadGrant:
        """`site`: the page's Origin, or else its Referer; `agent`: the User-Agent; empty where the player sends none."""
        broadcast = await self._broadcasts.by_playback_id(playback_id)
        playback = None if broadcast is None else broadcast.playback_id(playback_id)
        if broadcast is None or playback is None:
            raise NotFound(f"no playback id {shown(playback_id)}", code="no-such-playback-id")
        check_enabled(broadcast)
        check_restrictions(playback, site, agent)
        ingress, public = broadcast.ingress, playback.access_policy == "public"
        shared = not restricted(playback)
        return await self.grant(playback_id, ingress.project_id, ingress.room, token or bearer, source, public=public, shared=shared)

    async def grant(
        self, playback_id: str, project_id: str, room: str, secret: str | None, source: str, *, public: bool, shared: bool
    ) -> ReadGrant:
        """By a playback id whose restrictions are met, a live stream's or an asset's. `shared`: where it is `public`, see ReadGrant."""
        project = await self._projects.get(project_id)
        if public:
            return ReadGrant(
                project_id=project.id,
                slug=project.slug,
                room=room,
                playback_id=playback_id,
                means=Means.PLAYBACK,
                shared=shared,
            )
        if not secret:
            raise Unauthorized(f"playback id {playback_id} is private: viewing needs a token", code="token-missing")
        self._credentials.check(source)
        signed = await self._signed.grant(project, room, (playback_id,), secret, source, asked=f"playback id {playback_id}")
        return signed or replace(await self._opens(project, room, secret, source), playback_id=playback_id, shared=False)


def check_enabled(broadcast: Broadcast) -> None:
    """Raises NotFound (`stream-disabled`)."""
    if broadcast.disabled:
        raise NotFound(f"live stream {broadcast.ingress.id} is disabled", code="stream-disabled")


async def check_still(broadcasts: Broadcasts, grant: ReadGrant, access_policy: str | None) -> None:
    """Would a leave by this playback id be given now? `access_policy`: that it has by now, None where it is gone. Raises Unauthorized."""
    signed = not grant.key_id or await broadcasts.signing_key(grant.key_id) is not None
    if access_policy is None or not signed or (access_policy != "public" and not grant.key_id):
        raise Unauthorized(f"playback id {grant.playback_id} is no longer open to this viewer", code="viewing-changed")


def check_restrictions(playback: PlaybackId, site: str, agent: str) -> None:
    """Raises Forbidden (`domain-refused`, `user-agent-refused`)."""
    host = host_of(site)
    domains, agents = playback.restrictions.get("domains"), playback.restrictions.get("userAgents")
    if domains is not None and not allows(domains, lambda pattern: bool(host) and fnmatchcase(host, pattern.lower())):
        raise Forbidden(f"playback id {playback.id} is not for {host or 'players that do not tell their page'}", code="domain-refused")
    named = agent[:AGENT_LENGTH].lower()
    if agents is not None and not allows(agents, lambda part: part.lower() in named):
        raise Forbidden(f"playback id {playback.id} is not for this player", code="user-agent-refused")


def allows(rule: Mapping[str, Any], matches: Callable[[str], bool]) -> bool:
    """What is denied is denied, what is allowed is allowed, and for the rest counts the default."""
    if any(matches(item) for item in rule["deny"]):
        return False
    return any(matches(item) for item in rule["allow"]) or rule["defaultPolicy"] == "allow"


def host_of(site: str) -> str:
    """The host name in an Origin or a Referer; empty for `null` and whatever has none."""
    try:
        return (urlsplit(site).hostname or "").rstrip(".")
    except ValueError:
        return ""
