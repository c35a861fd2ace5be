"""The WHEP door: `POST /whep/{app}/{room}`. Who may view is decided here, what is sent in `service`."""

from __future__ import annotations

from typing import Protocol

from aiohttp import web

from medianode.auth import Gatekeeper, ReadGrant
from medianode.origin import Origin, bearer
from medianode.protocols.sdp.parse import Offer
from medianode.routing.registry import Registry
from medianode.rtc.signalling import Joined, Signalling

AGENT_LENGTH = 200


class Join(Protocol):
    """`WhepService.join`: counts the viewer in for as long as the session lives.

    Raises UnsupportedMedia (406), LimitExceeded `node-full` or `room-full` (503), NotFound `no-programme` (404, come again).
    """

    async def __call__(self, offer: Offer, grant: ReadGrant, *, source: str, agent: str) -> Joined: ...


class WhepDoor:
    """A token in the query or as Bearer."""

    def __init__(self, gatekeeper: Gatekeeper, registry: Registry, origin: Origin, signalling: Signalling, join: Join) -> None:
        self._gatekeeper = gatekeeper
        self._registry = registry
        self._origin = origin
        self._signalling = signalling
        self._join = join

    def routes(self) -> list[web.RouteDef]:
        return [web.route("*", "/whep/{app}/{room}", self._handle)]

    async def _handle(self, request: web.Request) -> web.Response:
        return await self._signalling.endpoint("whep", request, self._post)

    async def _post(self, request: web.Request) -> web.Response:
        app, room = request.match_info["app"], request.match_info["room"]
        source = self._origin.source(request)
        grant = await self._gatekeeper.read(app, room, request.query.get("token"), bearer(request), source=source)
        await self._registry.wanted(grant.project_id, grant.room)
        offer = await self._signalling.read_offer(request)
        agent = request.headers.get("User-Agent", "")[:AGENT_LENGTH]
        joined = await self._join(offer, grant, source=source, agent=agent)
        return self._signalling.created("whep", offer, joined)
