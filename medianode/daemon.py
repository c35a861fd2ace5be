"""The composition root: the only file that knows every floor. Reads as the order of life."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import web

from medianode.api import Api, Ports
from medianode.auth import FailedLogins, Gatekeeper
from medianode.certificate import Certificate, open_certificate
from medianode.config import Config, split_listen
from medianode.control.first_start import FirstStart, first_start
from medianode.control.gatekeeper import HouseGatekeeper
from medianode.control.ingresses import Ingresses
from medianode.control.keys import Keys
from medianode.control.lifecycle import IngressLives
from medianode.control.projects import Projects
from medianode.control.room_options import Options, RoomOptions
from medianode.egress.hls import HlsService
from medianode.egress.mjpeg import MjpegDoor
from medianode.egress.rtmp_play import RtmpPlayDesk
from medianode.egress.screen import Screens
from medianode.egress.whep.door import WhepDoor
from medianode.egress.whep.service import WhepService
from medianode.egress.ws_live import LiveSocketDoor
from medianode.errors import ConfigError, PeerGone, StorageError
from medianode.events import Bus, IngressDeleted
from medianode.health import Health
from medianode.ingress.rtmp import RtmpDoor
from medianode.ingress.whip.door import WhipDoor
from medianode.ingress.whip.service import WhipService
from medianode.ingress.ws_jpeg import CameraDoor
from medianode.life import Notifier, feed_watchdog
from medianode.listener import HttpListener
from medianode.origin import Origin
from medianode.routing.registry import Registry
from medianode.rtc.endpoint import Endpoint
from medianode.rtc.signalling import Signalling
from medianode.store.database import open_database
from medianode.tasks import background, listen_tcp
from medianode.transcode.renditions import Renditions
from medianode.web.pages import Pages

log = logging.getLogger("medianode.daemon")


@dataclass(slots=True)
class Ready:
    """What the daemon tells once it serves: to the terminal, and to tests."""

    http_port: int
    rtmp_port: int
    rtc_port: int
    data_dir: Path
    first: FirstStart
    certificate: Certificate


class Daemon:
    """`async with Daemon(config).running() as ready: …` serves until the block is left; `serve` does so until SIGTERM or SIGINT."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.bus = Bus()
        self.registry = Registry(self.bus, config.limits)
        self.webrtc: WebRtc | None = None
        self._origin = Origin(config.public_url, config.http.trusted_proxies)
        self.health = Health(config, self.registry, self._origin)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Ready]:
        config, limits = self.config, self.config.limits
        data_dir = Path(config.data_dir)
        async with contextlib.AsyncExitStack() as stack:
            # sockets first: a port that is taken is the most common mistake, and costs nothing to find out
            http = _listen(stack, config.http.listen, "http.listen")
            rtmp = _listen(stack, config.rtmp.listen, "rtmp.listen")
            rtmps = _listen(stack, config.rtmp.tls_listen, "rtmp.tls_listen") if config.rtmp.tls_listen else []
            rtc = _bind(stack, config) if config.rtc.enabled else None
            database = await stack.enter_async_context(open_database(config.store.url, data_dir, secret_file=config.store.secret_file))
            self.health.database = database
            certificate = await asyncio.to_thread(open_certificate, config, data_dir)
            first = await first_start(database, data_dir)

            projects = Projects(database, self.bus)
            keys = Keys(database, self.bus)
            ingresses = Ingresses(database, self.bus, rooms=limits.rooms)
            lives = IngressLives(database, self.bus)
            await lives.recover()
            options = RoomOptions(database)
            await options.load()
            failed = FailedLogins(limits.failed_logins_per_minute)
            gatekeeper = HouseGatekeeper(projects, keys, ingresses, failed, hold=config.ingress.hold)
            self.health.gatekeeper = gatekeeper
            self.bus.subscribe(IngressDeleted, self._ingress_deleted)
            await self._warn_of_open_projects(projects)

            origin = self._origin
            ports = Ports(rtmp=rtmp[0].getsockname()[1], rtmps=rtmps[0].getsockname()[1] if rtmps else 0)
            renditions = await stack.enter_async_context(Renditions(limits, config.mjpeg, config.hls))
            hls = HlsService(self.registry, self.bus, gatekeeper, renditions, config, origin)
            door = RtmpDoor(
                config, self.registry, gatekeeper, certificate.context, RtmpPlayDesk(limits.reader_bytes, limits.viewers_per_room)
            )
            webrtc = self.webrtc = WebRtc(self, rtc, renditions, options) if rtc is not None else None
            watching = webrtc.whep if webrtc is not None else None
            api = Api(config, origin, gatekeeper, self.registry, projects, keys, ingresses, lives, ports, renditions, options, watching)
            screens = Screens(renditions, config.mjpeg)
            listener = HttpListener(limits, certificate.context)
            app = web.Application(middlewares=[listener.middleware, api.middleware], client_max_size=limits.http_body_bytes)
            app.add_routes(self.health.routes())
            for component in (
                api,
                hls,
                MjpegDoor(config.mjpeg, limits, gatekeeper, self.registry, origin, screens),
                LiveSocketDoor(limits, gatekeeper, self.registry, origin, screens),
                CameraDoor(config.ws_jpeg, limits, gatekeeper, self.registry, origin),
                Pages(config, origin, gatekeeper, self.registry, lambda: certificate.pem, rtmp_port=ports.rtmp),
                *(webrtc.components(gatekeeper, origin) if webrtc is not None else ()),
            ):
                app.add_routes(component.routes())

            self.health.register_metrics(renditions)
            notifier = Notifier()
            services = (
                self.health.lag.serve(),
                self.health.serve(),
                feed_watchdog(notifier, self.health.complaint),
                keys.serve(),
                self._spared(lives.serve()),
            )
            async with (
                background(*services),
                background(hls.serve()),
                background(*(webrtc.services() if webrtc is not None else ())),
                background(listener.serve(app, http)),
                background(door.serve(rtmp, rtmps)),
            ):
                await asyncio.sleep(0)
                notifier.tell("READY=1", "STATUS=serving")
                try:
                    yield Ready(http[0].getsockname()[1], ports.rtmp, rtc.udp_port if rtc is not None else 0, data_dir, first, certificate)
                finally:
                    self.health.stopping = True
                    notifier.tell("STOPPING=1")
                    await self._drain(door)
                    await self._spared(keys.write_used())

    async def _drain(self, door: RtmpDoor) -> None:
        """Publishers out first, so that their ends are written down and their readers see them."""
        try:
            async with asyncio.timeout(self.config.limits.shutdown_grace):
                await door.drain()
                for publication in self.registry.publications:
                    publication.kick(PeerGone("the server is stopping", code="shutdown"))
                while self.registry.publications:  # noqa: ASYNC110 - a few turns at the end of life, from doors of all kinds
                    await asyncio.sleep(0.02)
        except TimeoutError:
            log.warning("%d publications did not end in %g s", len(self.registry.publications), self.config.limits.shutdown_grace)

    async def _spared(self, writing: Coroutine[Any, Any, None]) -> None:
        """A database that is away at the end of life costs what was not yet written, told in a line, and not the orderly end."""
        try:
            await writing
        except StorageError as e:
            if not self.health.stopping:
                raise
            log.error("not written while stopping: %s: %s", e.code, e)

    def _ingress_deleted(self, event: IngressDeleted) -> None:
        self.registry.retire_ingress(event.ingress_id)
        self.registry.kick_ingress(event.ingress_id, PeerGone("the ingress was deleted", code="ingress-deleted"))
        room = self.registry.find(event.project_id, event.room)
        if room is not None:
            room.release(event.identity, event.ingress_id)

    async def _warn_of_open_projects(self, projects: Projects) -> None:
        for project in await projects.list():
            if project.open_publish:
                log.warning(
                    "project %s is OPEN: anybody who reaches the node may publish by RTMP or WHIP without a key "
                    "(PATCH /api/v1/projects/%s with openPublish false closes it)",
                    project.slug,
                    project.slug,
                )


class WebRtc:
    """WHIP in, WHEP out: both doors over one endpoint."""

    def __init__(self, daemon: Daemon, endpoint: Endpoint, renditions: Renditions, options: RoomOptions) -> None:
        config = daemon.config
        self._registry = daemon.registry
        self._endpoint = endpoint
        self._signalling = Signalling(config.rtc, config.limits, config.public_url)
        self._default_delay = config.rtc.playout_delay
        self._options = options
        options.on_change = self._changed
        self.whep = WhepService(config, daemon.registry, renditions, endpoint, self.delay)
        self.whip = WhipService(config, daemon.registry, endpoint)

    def components(self, gatekeeper: Gatekeeper, origin: Origin) -> tuple[Signalling, WhepDoor, WhipDoor]:
        signalling = self._signalling
        return (
            signalling,
            WhepDoor(gatekeeper, self._registry, origin, signalling, self.whep.join),
            WhipDoor(gatekeeper, origin, signalling, self.whip.publish),
        )

    def services(self) -> tuple[Coroutine[Any, Any, None], ...]:
        return self._endpoint.serve(), self._signalling.serve(), self.whep.serve()

    def delay(self, project_id: str, room: str) -> float:
        """Seconds that the room's viewers are asked to buffer."""
        own = self._options.get(project_id, room).playout_delay
        return self._default_delay if own is None else own

    def _changed(self, project_id: str, room: str, options: Options) -> None:
        self.whep.set_delay(project_id, room, self.delay(project_id, room))


async def serve(config: Config, greet: Callable[[Ready], None]) -> None:
    """Until SIGTERM or SIGINT; `greet` is called once all doors are open."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with Daemon(config).running() as ready:
        # what is there now stays: a full collection that walks it all stalls the loop for 30 to 60 ms
        gc.collect()
        gc.freeze()
        greet(ready)
        await stop.wait()
        log.info("stopping")
    log.info("stopped")


def _listen(stack: contextlib.AsyncExitStack, value: str, key: str) -> list[socket.socket]:
    """Closed with the stack: the next port may be the one that is taken."""
    host, port = split_listen(value, key)
    try:
        return [stack.enter_context(sock) for sock in listen_tcp(host, port)]
    except OSError as e:
        raise ConfigError(
            f"{key}: cannot listen on {value}: {os.strerror(e.errno) if e.errno else e} (medianode doctor tells more)"
        ) from None


def _bind(stack: contextlib.AsyncExitStack, config: Config) -> Endpoint:
    """The WebRTC ports, closed with the stack."""
    endpoint = Endpoint(config.rtc, config.limits)
    try:
        endpoint.open()
    except OSError as e:
        where = f"{config.rtc.listen} (UDP) or {config.rtc.tcp_listen or 'nothing'} (TCP)"
        raise ConfigError(
            f"rtc.listen: cannot listen on {where}: {os.strerror(e.errno) if e.errno else e} (medianode doctor tells more)"
        ) from None
    stack.callback(endpoint.shut)
    return endpoint
