"""The HTTP API as one component: all dialects' routes, who asks, and errors in the words of the prefix."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Awaitable, Callable, Iterable
from functools import cached_property
from importlib import resources
from typing import Any

from aiohttp import web

import medianode
from medianode.api import openapi, streamhub
from medianode.api.admin import Admin
from medianode.api.baxcloud import BaxCloud
from medianode.api.desk import Desk
from medianode.api.keys import KeysApi
from medianode.api.live import Live
from medianode.api.problems import BAXCLOUD, FASTPIX, Dialect, answer, dialect_of, from_http, internal, json_response
from medianode.api.router import AnyRoute, Reading, mount
from medianode.api.sessions import Sessions
from medianode.api.urls import Ports
from medianode.api.viewers import Viewers
from medianode.auth import Gatekeeper, Permission, Principal
from medianode.config import Config
from medianode.control import audit
from medianode.control.ingresses import Ingresses
from medianode.control.keys import Keys
from medianode.control.projects import Projects
from medianode.control.room_options import RoomOptions
from medianode.control.sources import Sources
from medianode.egress.whep.service import WhepService
from medianode.errors import Forbidden, MedianodeError, NotFound
from medianode.origin import Origin
from medianode.routing.registry import Registry
from medianode.tasks import report_bug
from medianode.transcode.renditions import Renditions

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Api:
    """Put `routes()` and `middleware` into the application. `ports`: of the doors that are open. `more`: routes of what is made elsewhere.

    The middleware speaks for `/v1`, `/ingress`, `/live/streams` and `/api/v1` only, unknown paths there included; all else passes by.
    """

    def __init__(
        self,
        config: Config,
        origin: Origin,
        gatekeeper: Gatekeeper,
        registry: Registry,
        projects: Projects,
        keys: Keys,
        ingresses: Ingresses,
        sources: Sources,
        live: Live,
        options: RoomOptions,
        log: audit.AuditLog,
        ports: Ports,
        renditions: Renditions | None = None,
        whep: WhepService | None = None,
        more: Iterable[AnyRoute] = (),
    ) -> None:
        self._gatekeeper = gatekeeper
        self._origin = origin
        self._reading = Reading(config.limits.http_body_bytes, config.limits.request_timeout)
        where = (projects, ingresses, live, origin, ports)
        self.typed: list[AnyRoute] = [
            *BaxCloud(*where, sources).routes,
            *streamhub.Tokens(projects, gatekeeper, origin, ports).routes,
            *streamhub.Ingress(*where, sources).routes,
            *streamhub.Cameras(projects, ingresses, gatekeeper, registry, live, origin, ports, enabled=config.ws_jpeg.enabled).routes,
            *streamhub.Streams(projects, ingresses, registry, live, log).routes,
            *Sessions(registry, origin, ports, renditions).routes,
            *Admin(projects).routes,
            *KeysApi(projects, keys).routes,
            *Viewers(Desk(projects, origin, ports), options, whep, log).routes,
            *more,
        ]

    def routes(self) -> list[web.RouteDef]:
        typed = [definition for route in self.typed for definition in mount(route, self._who, self._reading)]
        return [*typed, web.get("/openapi.json", self._document), web.get("/docs", self._page)]

    @property
    def middleware(self) -> Any:
        """An aiohttp middleware: preflights, and every error under our prefixes as its dialect says it."""

        @web.middleware
        async def dialects(request: web.Request, handler: Handler) -> web.StreamResponse:
            audit.actor.set(audit.SYSTEM)  # connections, and so their tasks, outlive requests
            dialect = dialect_of(request.path)
            if dialect is None:
                return await handler(request)
            if request.method == "OPTIONS":
                return json_response(None, 204)
            return await self._guarded(request, handler, dialect)

        return dialects

    async def _guarded(self, request: web.Request, handler: Handler, dialect: Dialect) -> web.StreamResponse:
        try:
            return await handler(request)
        except MedianodeError as e:
            if type(e) is MedianodeError:
                report_bug("api", e)
            return answer(dialect, e)
        except web.HTTPException as e:
            if e.status < 400:
                raise
            allow = {"Allow": e.headers["Allow"]} if "Allow" in e.headers else None
            return answer(dialect, from_http(request, e), e.status, allow)
        except Exception as e:  # noqa: BLE001 - our bug: told to us in full, to the stranger not at all
            report_bug("api", e)
            return answer(dialect, internal(), 500)

    async def _who(self, request: web.Request, route: AnyRoute) -> Principal | None:
        """The key's owner, checked for the route's permission on the project that the path or `X-Project-Id` names."""
        if route.auth is None:
            return None
        source = self._origin.source(request)
        principal = await self._principal(request, route, request.headers.get("Authorization"), source)
        audit.actor.set(audit.Actor(principal.key_id, source))
        return principal

    async def _principal(self, request: web.Request, route: AnyRoute, authorization: str | None, source: str) -> Principal:
        assert route.auth is not None
        if route.dialect not in (BAXCLOUD, FASTPIX):
            return await self._gatekeeper.control(authorization, Permission(route.auth), request.match_info.get("app"), source=source)
        project = request.headers.get("X-Project-Id", "").strip() or None
        try:
            return await self._gatekeeper.control(authorization, Permission(route.auth), project, source=source)
        except NotFound:
            raise Forbidden("X-Project-Id: expected a project that this key may use", code="other-project") from None

    async def _document(self, request: web.Request) -> web.Response:
        body = openapi.document(self.typed, medianode.__version__, self._origin.base(request))
        return json_response(body, headers={"Cache-Control": "no-cache"})

    async def _page(self, request: web.Request) -> web.Response:
        text, policy = self._docs
        headers = {"Content-Security-Policy": policy, "Cache-Control": "no-cache", "X-Content-Type-Options": "nosniff"}
        return web.Response(text=text, content_type="text/html", headers=headers)

    @cached_property
    def _docs(self) -> tuple[str, str]:
        """The page, and a policy that lets its one script run and nothing else."""
        text = resources.files("medianode").joinpath("web", "static", "openapi.html").read_text("utf-8")
        scripts = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
        hashes = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'" for s in scripts)
        policy = f"default-src 'none'; connect-src 'self'; style-src 'unsafe-inline'; script-src {hashes}; base-uri 'none'"
        return text, policy
