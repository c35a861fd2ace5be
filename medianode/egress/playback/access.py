"""Access: which recording or room a request is about, by which leave. A recording is as open as its room, an asset as its playback id."""

from __future__ import annotations

import re

from aiohttp import hdrs, web

from medianode.auth import Gatekeeper, Means, ReadGrant
from medianode.egress.playback.library import Library
from medianode.errors import Forbidden, InvalidRequest, NotFound, Unauthorized
from medianode.origin import Origin, bearer
from medianode.store.recordings import Recording

TOKEN_LENGTH = 8192
AGENT_LENGTH = 200
SITE_LENGTH = 500
_ID = re.compile(r"[A-Za-z0-9_]{1,32}", re.ASCII)
_NEEDED = "this recording is not open to everybody: viewing needs a token"
_NOT_FOR = "this token is not for viewing this recording"


class Access:
    """Errors as `auth.Gatekeeper`."""

    def __init__(self, gatekeeper: Gatekeeper, library: Library, origin: Origin) -> None:
        self._gatekeeper = gatekeeper
        self._library = library
        self._origin = origin

    async def recording(self, request: web.Request) -> tuple[Recording, ReadGrant]:
        """By `app` and `recording`, or by `playback`, of the path. A stranger is told the same of one that is not there as of one that is
        not for him, where the room would tell him nothing either.
        """
        token, authorization, source = self._secrets(request)
        asked = request.match_info
        if "playback" in asked:
            site = (request.headers.get(hdrs.ORIGIN) or request.headers.get(hdrs.REFERER) or "")[:SITE_LENGTH]
            agent = request.headers.get(hdrs.USER_AGENT, "")[:AGENT_LENGTH]
            grant = await self._gatekeeper.read_asset(asked["playback"], token, authorization, site=site, agent=agent, source=source)
            found = await self._library.recording(grant.recording_id)
        else:
            found = await self._library.recording(asked["recording"]) if _ID.fullmatch(asked["recording"]) else None
            # a room of the recording's name stands in for one that is not there: the answer is what the project gives a stranger
            room = found.room if found is not None else asked["recording"][:32]
            try:
                grant = await self._gatekeeper.read(asked["app"], room, token, authorization, source=source)
            except Unauthorized as e:
                raise Unauthorized(_NEEDED if e.code == "token-missing" else e.message, code=e.code) from None
            except Forbidden as e:
                raise Forbidden(_NOT_FOR, code=e.code) from None
            if found is not None and found.project_id != grant.project_id:
                found = None
            if found is not None and found.access_policy != "public" and grant.means is Means.PUBLIC:
                raise Unauthorized(_NEEDED, code="token-missing")
        if found is None or found.project_id != grant.project_id:
            raise NotFound("no such recording", code="no-such-recording")
        _whole(grant)
        return found, grant

    async def room(self, request: web.Request) -> ReadGrant:
        """By `app` and `room` of the path."""
        token, authorization, source = self._secrets(request)
        grant = await self._gatekeeper.read(request.match_info["app"], request.match_info["room"], token, authorization, source=source)
        _whole(grant)
        return grant

    def _secrets(self, request: web.Request) -> tuple[str | None, str | None, str]:
        token = request.query.get("token") if request.query_string else None
        if token is not None and len(token) > TOKEN_LENGTH:
            # it is repeated behind every URI of a playlist
            raise InvalidRequest(f"token: expected up to {TOKEN_LENGTH} characters, got {len(token)}")
        return token, bearer(request) if hdrs.AUTHORIZATION in request.headers else None, self._origin.source(request)


def _whole(grant: ReadGrant) -> None:
    if grant.audio_only:
        raise Forbidden("this token opens sound only, and recordings carry the picture with it", code="audio-only")
