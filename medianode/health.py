"""How the node is: /healthz and /readyz, the metrics, frozen pictures, and the complaint that starves systemd's watchdog."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from aiohttp import web

from medianode import clock, telemetry
from medianode.auth import Gatekeeper, Permission
from medianode.config import Config
from medianode.egress.push.service import PushService
from medianode.errors import Forbidden, MedianodeError, StorageError
from medianode.life import LoopLag, register_process_metrics
from medianode.media.track import Track
from medianode.origin import Origin, media_error
from medianode.routing.publication import Publication
from medianode.routing.registry import Registry
from medianode.routing.subscription import Subscription
from medianode.store.database import Database
from medianode.tasks import every
from medianode.transcode.renditions import Renditions

log = logging.getLogger("medianode.health")
MAX_LAG = 5.0
"""Seconds: a loop that has not turned for so long is not healthy."""
PING_TIMEOUT = 2.0


class Health:
    """One per daemon. `database` and `gatekeeper` are set once they are open."""

    def __init__(self, config: Config, registry: Registry, origin: Origin) -> None:
        self.lag = LoopLag()
        self.stopping = False
        self.database: Database | None = None
        self.gatekeeper: Gatekeeper | None = None
        self._config = config
        self._registry = registry
        self._origin = origin

    async def serve(self) -> None:
        """Once a second: rates, and video that stopped while its connection lives."""
        async for now in every(1.0):
            self._look(now)

    def _look(self, now: float) -> None:
        """Not in the loop of `serve`, whose variables live on: the last publication would be kept, and its GOP with it."""
        for publication in self._registry.publications:
            for meter in publication.meters.values():
                meter.sample(now)
            self._watch_frozen(publication, now)
        self._registry.look(now)

    def _watch_frozen(self, publication: Publication, now: float) -> None:
        video = publication.video
        frozen = video is not None and publication.active and now - publication.meters[video.id].last_at > self._config.ingress.frozen_video
        if frozen != publication.health.frozen_video:
            publication.health.frozen_video = frozen
            fields = {"room": publication.grant.room, "identity": publication.grant.identity}
            if frozen:
                publication.health.last_error = f"no video for {self._config.ingress.frozen_video:g} s while the connection lives"
                log.warning("video frozen", extra={"fields": fields})
            else:
                log.info("video is back", extra={"fields": fields})

    def complaint(self) -> str:
        """Empty while all is well. One frozen camera is its own fault; when none of them makes progress, it is ours."""
        if clock.now() - self.lag.turned_at > MAX_LAG:
            return f"the loop has not turned for {MAX_LAG:g} s"
        active = [p for p in self._registry.publications if p.active]
        # silent peers are put out by their doors, cameras only after idle_timeout: what stands still longer is ours
        stalled = max(self._config.ingress.silence * 3, self._config.ws_jpeg.idle_timeout + self._config.ingress.silence * 2)
        if len(active) > 1 and all(clock.now() - p.last_packet_at > stalled for p in active):
            return f"none of {len(active)} live publications has made progress for {stalled:g} s"
        return ""

    def routes(self) -> list[web.RouteDef]:
        return [web.get("/healthz", self._healthz), web.get("/readyz", self._readyz), web.get("/metrics", self._metrics)]

    async def _healthz(self, request: web.Request) -> web.Response:
        complaint = self.complaint()
        return web.json_response({"status": complaint or "ok"}, status=503 if complaint else 200, headers={"Cache-Control": "no-store"})

    async def _readyz(self, request: web.Request) -> web.Response:
        """Ready: the database answers and the node is not stopping."""
        why = "stopping" if self.stopping else ""
        if not why and self.database is not None:
            try:
                async with asyncio.timeout(PING_TIMEOUT):
                    await self.database.ping()
            except (TimeoutError, StorageError) as e:
                why = f"database: {e}"
        return web.json_response({"status": why or "ready"}, status=503 if why else 200, headers={"Cache-Control": "no-store"})

    async def _metrics(self, request: web.Request) -> web.Response:
        # Prometheus on the same machine needs no key, from elsewhere one to the whole node: rooms of all projects are in here
        source = self._origin.source(request)
        if source not in ("127.0.0.1", "::1") or "X-Forwarded-For" in request.headers:
            try:
                assert self.gatekeeper is not None
                who = await self.gatekeeper.control(request.headers.get("Authorization"), Permission.LIVE, source=source)
                if not who.node:
                    raise Forbidden("metrics: expected a key to the whole node, not to one project")
            except MedianodeError as e:
                return media_error(e, {})
        return web.Response(body=telemetry.exposition(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    def register_metrics(self, renditions: Renditions, pushing: PushService) -> None:
        register_process_metrics()
        registry = self._registry
        telemetry.gauge(
            "medianode_queue_packets",
            "Packets waiting in the queues of one kind, all together",
            "queue",
            read=lambda: [
                (("renditions",), sum(r.queued for r in renditions.all)),
                (("push",), pushing.queued),
                (("readers",), sum(s.queued for p in registry.publications for s in p.sinks if isinstance(s, Subscription))),
            ],
        )
        telemetry.gauge("medianode_rooms", "Rooms by state", "state", read=lambda: _room_states(registry))
        telemetry.gauge(
            "medianode_publications", "Publications by door", "door", read=lambda: _count(p.door for p in registry.publications)
        )
        telemetry.gauge(
            "medianode_publication_bytes",
            "Media bytes of each live publication",
            *("room", "identity", "track"),
            read=lambda: [
                ((p.grant.room, p.grant.identity, _track_name(p, t)), p.meters[t.id].nbytes)
                for p in registry.publications
                for t in p.tracks
            ],
        )
        telemetry.gauge(
            "medianode_publication_packets",
            "Packets of each live publication",
            *("room", "identity", "track"),
            read=lambda: [
                ((p.grant.room, p.grant.identity, _track_name(p, t)), p.meters[t.id].packets)
                for p in registry.publications
                for t in p.tracks
            ],
        )
        telemetry.gauge(
            "medianode_viewers",
            "Viewers by door",
            "door",
            read=lambda: _sum((door, n) for room in registry for door, n in room.viewers.items()),
        )


def _track_name(publication: Publication, track: Track) -> str:
    """The codec, and where there are several tracks of a kind what tells the others from the first."""
    first = publication.video if track.is_video else publication.audio
    return track.codec.value if track is first else f"{track.codec.value}-{track.layer or track.id}"


def _room_states(registry: Registry) -> list[telemetry.Sample]:
    return _count("held" if room.held else "live" if room.on_air else "idle" for room in registry)


def _count(values: Iterable[str]) -> list[telemetry.Sample]:
    return _sum((value, 1) for value in values)


def _sum(pairs: Iterable[tuple[str, int]]) -> list[telemetry.Sample]:
    totals: dict[str, int] = {}
    for key, n in pairs:
        totals[key] = totals.get(key, 0) + n
    return [((key,), n) for key, n in totals.items()]
