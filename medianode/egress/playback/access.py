"""Access: which recording or room a request is about, by which leave. A recording is as open as its room, an asset as its playback id."""

from __future__ import annotations

from aiohttp import web

from medianode.auth import Gatekeeper, Means, ReadGrant
from medianode.egress.playback.library import Library
from medianode.errors import Forbidden, NotFound, Unauthorized
from medianode.origin import Origin, credentials, player
from medianode.store.recordings import Recording

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
        token, authorization = credentials(request)
        asked, source = request.match_info, self._origin.source(request)
        if "playback" in asked:
            site, agent = player(request)
            grant = await self._gatekeeper.read_asset(asked["playback"], token, authorization, site=site, agent=agent, source=source)
            found = await self._library.recording(grant.recording_id)
        else:
            found = await self._library.recording(asked["recording"])
            # a room of the recording's name stands in for one that is not there: the answer is what the project gives a stranger
            room = found.room if found is not None else asked["recording"]
            try:
                grant = await self._gatekeeper.read(asked["app"], room, token, authorization, source=source)
            except Unauthorized as e:
                raise Unauthorized(_NEEDED if e.code == "token-missing" else e.message, code=e.code) from None
            except Forbidden as e:
                raise Forbidden(_NOT_FOR, code=e.code) from None
        if found is None or found.project_id != grant.project_id:
            raise NotFound("no such recording", code="no-such-recording")
        if not may_see(grant, found):
            raise Unauthorized(_NEEDED, code="token-missing")
        _whole(grant)
        return found, grant

    async def room(self, request: web.Request) -> ReadGrant:
        """By `app` and `room` of the path."""
        token, authorization = credentials(request)
        asked, source = request.match_info, self._origin.source(request)
        grant = await self._gatekeeper.read(asked["app"], asked["room"], token, authorization, source=source)
        _whole(grant)
        return grant


def may_see(grant: ReadGrant, recording: Recording) -> bool:
    """A private asset's recording is not for everybody, though its room is."""
    return grant.means is not Means.PUBLIC or recording.access_policy == "public"


def _whole(grant: ReadGrant) -> None:
    if grant.audio_only:
        raise Forbidden("this token opens sound only, and recordings carry the picture with it", code="audio-only")
