"""The WHIP door: `POST /whip/{app}/{room}`, with the key as Bearer, in the query, or as the last segment; or `POST /whip/{key}` alone."""

from __future__ import annotations

from typing import Protocol

from aiohttp import web

from medianode.auth import Door, Gatekeeper, PublishGrant
from medianode.origin import Origin, bearer
from medianode.protocols.sdp.parse import Offer
from medianode.rtc.signalling import Joined, Signalling

AGENT_LENGTH = 200
PATHS = ("/whip/{app}/{room}", "/whip/{app}/{room}/{token}", "/whip/{token}")


class Publish(Protocol):
    """Opens the publication and its peer. Raises UnsupportedMedia (406), InvalidRequest, Conflict (409), LimitExceeded (503)."""

    async def __call__(self, offer: Offer, grant: PublishGrant, *, source: str, agent: str) -> Joined: ...


class WhipDoor:
    """A project that is open to key-less publishing gets an empty key; whether that will do, the gatekeeper says."""

    def __init__(self, gatekeeper: Gatekeeper, origin: Origin, signalling: Signalling, publish: Publish) -> None:
        self._gatekeeper = gatekeeper
        self._origin = origin
        self._signalling = signalling
        self._publish = publish

    def routes(self) -> list[web.RouteDef]:
        return [web.route("*", path, self._handle) for path in PATHS]

    async def _handle(self, request: web.Request) -> web.Response:
        return await self._signalling.endpoint("whip", request, self._post)

    async def _post(self, request: web.Request) -> web.Response:
        match = request.match_info
        key = match.get("token") or bearer(request) or request.query.get("token") or ""
        source = self._origin.source(request)
        grant = await self._gatekeeper.publish(Door.WHIP, match.get("app", ""), key, match.get("room"), source=source)
        offer = await self._signalling.read_offer(request)
        agent = request.headers.get("User-Agent", "")[:AGENT_LENGTH]
        joined = await self._publish(offer, grant, source=source, agent=agent)
        return self._signalling.created("whip", offer, joined)
