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
from typing import Any, Protocol

from aiohttp import web

from medianode.api import Api, Ports
from medianode.api.audit import AuditApi
from medianode.api.clips import ClipsApi
from medianode.api.deliveries import DeliveriesApi
from medianode.api.desk import Desk
from medianode.api.events import EventsApi
from medianode.api.fallbacks import FallbacksApi
from medianode.api.fastpix import FastPix
from medianode.api.forecast import ForecastApi
from medianode.api.links import LinksApi
from medianode.api.live import Live
from medianode.api.pulls import PullsApi
from medianode.api.recordings import RecordingsApi
from medianode.api.streamhub import Vods
from medianode.api.targets import TargetsApi
from medianode.api.uploads import UploadsApi
from medianode.api.webhooks import WebhooksApi
from medianode.auth import Gatekeeper
from medianode.certificate import Certificate, open_certificate
from medianode.config import Config, split_listen
from medianode.control.first_start import FirstStart, first_start
from medianode.control.nodes import open_node_id
from medianode.control.room_options import Options, RoomOptions
from medianode.control.use_cases import UseCases
from medianode.egress.hls import HlsService
from medianode.egress.mjpeg import MjpegDoor
from medianode.egress.playback.service import PlaybackService
from medianode.egress.push.report import Pusher
from medianode.egress.push.rtmp import RtmpPush
from medianode.egress.push.service import PushService
from medianode.egress.push.whip import WhipPush
from medianode.egress.recorder.service import Recorder
from medianode.egress.rtmp_play import RtmpPlayDesk
from medianode.egress.screen import Screens
from medianode.egress.whep.door import WhepDoor
from medianode.egress.whep.service import WhepService
from medianode.egress.ws_live import LiveSocketDoor
from medianode.errors import ConfigError, PeerGone, StorageError
from medianode.events import Bus, IngressChanged, IngressDeleted, IngressDisabled, IngressFinished
from medianode.health import Health
from medianode.ingress.pull.service import PullService
from medianode.ingress.rtmp import RtmpDoor
from medianode.ingress.srt import SrtDoor
from medianode.ingress.whip.door import WhipDoor
from medianode.ingress.whip.service import WhipService
from medianode.ingress.ws_jpeg import CameraDoor
from medianode.life import Notifier, feed_watchdog
from medianode.listener import HttpListener
from medianode.origin import Origin
from medianode.outbound import Outbound
from medianode.routing.registry import Registry
from medianode.rtc.endpoint import Endpoint
from medianode.rtc.interfaces import addresses, reachable
from medianode.rtc.signalling import Signalling
from medianode.rtc.udp import UdpSocket
from medianode.store.database import Database, open_database
from medianode.tasks import background, listen_tcp
from medianode.transcode.renditions import Renditions
from medianode.transcode.scaled import Scaled
from medianode.transcode.slate import SlateMaker
from medianode.web.pages import Pages
from medianode.webhooks.delivery import Delivery
from medianode.webhooks.sender import open_sender

log = logging.getLogger("medianode.daemon")


@dataclass(slots=True)
class Ready:
    """What the daemon tells once it serves: to the terminal, and to tests."""

    http_port: int
    rtmp_port: int
    rtc_port: int
    srt_port: int
    data_dir: Path
    first: FirstStart
    certificate: Certificate


class Component(Protocol):
    """What has routes on the HTTP port."""

    def routes(self) -> list[web.RouteDef]: ...


class Sockets:
    """All ports, open from the start and closed with the stack. Raises ConfigError, which names the key of the one that is taken."""

    def __init__(self, stack: contextlib.AsyncExitStack, config: Config) -> None:
        self.http = _listen(stack, config.http.listen, "http.listen")
        self.rtmp = _listen(stack, config.rtmp.listen, "rtmp.listen")
        self.rtmps = _listen(stack, config.rtmp.tls_listen, "rtmp.tls_listen") if config.rtmp.tls_listen else []
        self.rtc = _bind(stack, config) if config.rtc.enabled else None
        self.srt = _bind_srt(stack, config) if config.srt.enabled else None
        self.http_port = _port(self.http)
        self.rtc_port = self.rtc.udp_port if self.rtc is not None else 0
        self.ports = Ports(
            rtmp=_port(self.rtmp),
            rtmps=_port(self.rtmps) if self.rtmps else 0,
            whip=config.rtc.enabled,
            srt=self.srt.port if self.srt is not None else 0,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Media:
    """What media comes in by and goes out by, but for WebRTC and the small doors."""

    recorder: Recorder
    pulls: PullService
    slates: SlateMaker
    pushing: PushService
    hls: HlsService
    playback: PlaybackService
    rtmp: RtmpDoor
    srt: SrtDoor | None


class Daemon:
    """`async with Daemon(config).running() as ready: …` serves until the block is left; `serve` does so until SIGTERM or SIGINT."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.bus = Bus()
        self.registry = Registry(self.bus, config.limits, demand_wait=config.pull.on_demand_wait)
        self.webrtc: WebRtc | None = None
        self.recorder: Recorder | None = None
        self.playback: PlaybackService | None = None
        self.pulls: PullService | None = None
        self._origin = Origin(config.public_url, config.http.trusted_proxies)
        self.health = Health(config, self.registry, self._origin)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Ready]:
        config, data_dir = self.config, Path(self.config.data_dir)
        async with contextlib.AsyncExitStack() as stack:
            # sockets first: a port that is taken is the most common mistake, and costs nothing to find out
            sockets = Sockets(stack, config)
            database = await stack.enter_async_context(open_database(config.store.url, data_dir, secret_file=config.store.secret_file))
            self.health.database = database
            certificate = await asyncio.to_thread(open_certificate, config, data_dir)
            first = await first_start(database, data_dir)

            outbound = Outbound(config.outbound.allow, cafile=config.outbound.cafile)
            sender = await stack.enter_async_context(open_sender(outbound, config.webhooks, config.limits))
            node_id = open_node_id(data_dir)
            control = UseCases(config, database, self.bus, self.registry, outbound, sender, node_id)
            await control.open()
            await control.tell_base(config.public_url.rstrip("/") or f"http://{_address()}:{sockets.http_port}")
            self.health.gatekeeper = control.gatekeeper
            self._follow_ingresses()
            renditions = await stack.enter_async_context(Renditions(config.limits, config.mjpeg, config.hls))
            media = self._media(sockets, control, renditions, outbound, certificate, database)
            delivery = Delivery(database, config.webhooks, config.limits, sender, node_id)
            streams = config.limits.event_streams
            events = EventsApi(control.feed, control.projects, control.gatekeeper, self._origin, self.bus, bound=streams)
            api = self._api(control, renditions, sockets.ports, media.pushing, events)
            listener = HttpListener(config.limits, certificate.context)
            app = web.Application(middlewares=[listener.middleware, api.middleware], client_max_size=config.limits.http_body_bytes)
            app.add_routes(self.health.routes())
            doors = self._doors(control.gatekeeper, renditions, certificate, sockets.ports)
            components: list[Component] = [api, media.hls, media.playback, *doors]
            for component in components:
                app.add_routes(component.routes())

            self.health.register_metrics(renditions, media.pushing)
            notifier = Notifier()
            async with (
                background(delivery.serve()),  # it ends last: what the others tell as they stop still goes out
                background(*(self._spared(writing) for writing in control.writers())),
                background(self.health.lag.serve(), self.health.serve(), feed_watchdog(notifier, self.health.complaint)),
                background(media.recorder.serve()),  # after all that publishes has ended, before their ends are written down
                background(*control.services()),
                background(*media.pushing.services()),
                background(media.hls.serve()),
                background(media.playback.serve()),
                background(*(self.webrtc.services() if self.webrtc is not None else ())),
                background(listener.serve(app, sockets.http)),
                background(media.rtmp.serve(sockets.rtmp, sockets.rtmps)),
                background(*((media.srt.serve(),) if media.srt is not None else ())),
                background(media.pulls.serve()),
                background(self.registry.slates.serve(), media.slates.serve()),
            ):
                await asyncio.sleep(0)
                notifier.tell("READY=1", "STATUS=serving")
                try:
                    ports = sockets.ports
                    yield Ready(sockets.http_port, ports.rtmp, sockets.rtc_port, ports.srt, data_dir, first, certificate)
                finally:
                    self.health.stopping = True
                    notifier.tell("STOPPING=1")
                    await media.pulls.drain()
                    await self._drain(media.rtmp)
                    await self._spared(control.keys.write_used())
                    await events.close()

    def _follow_ingresses(self) -> None:
        self.bus.subscribe(IngressDeleted, self._ingress_deleted)
        self.bus.subscribe(IngressDisabled, self._ingress_disabled)
        self.bus.subscribe(IngressFinished, self._ingress_finished)
        self.bus.subscribe(IngressChanged, self._ingress_changed)

    def _media(
        self, sockets: Sockets, control: UseCases, renditions: Renditions, outbound: Outbound, certificate: Certificate, database: Database
    ) -> Media:
        """What media comes in by and goes out by, and what the use cases need of it."""
        config, registry, bus, archive = self.config, self.registry, self.bus, control.archive
        gatekeeper, limits = control.gatekeeper, config.limits
        registry.treat = lambda publication, forget: Scaled(publication, renditions, forget)
        self.webrtc = WebRtc(self, sockets.rtc, renditions, control.options) if sockets.rtc is not None else None
        self.recorder = recorder = Recorder(config, registry, bus, renditions, archive.places.default)
        archive.record_by(recorder)
        self.pulls = control.pulls.puller = PullService(config, registry, outbound)
        slates = registry.slates.loops = SlateMaker(control.fallbacks.artwork, limits.slate_cache_bytes)
        hls = HlsService(registry, bus, gatekeeper, renditions, config, self._origin)
        self.playback = playback = PlaybackService(config, database, bus, gatekeeper, self._origin, recorder)
        hls.assets = playback.recording
        playback.reach(archive.remote_file, archive.remote_read)
        archive.retention.in_use = playback.in_use
        return Media(
            recorder=recorder,
            pulls=self.pulls,
            slates=slates,
            pushing=PushService(database, bus, registry, limits, self._pushers(sockets.rtc, renditions, outbound)),
            hls=hls,
            playback=playback,
            rtmp=RtmpDoor(config, registry, gatekeeper, certificate.context, RtmpPlayDesk(limits.reader_bytes, registry.audience)),
            srt=SrtDoor(config, registry, gatekeeper, sockets.srt) if sockets.srt is not None else None,
        )

    def _api(self, control: UseCases, renditions: Renditions, ports: Ports, pushing: PushService, events: EventsApi) -> Api:
        origin, projects, archive = self._origin, control.projects, control.archive
        live, desk = Live(self.registry, control.lives, control.pulls), Desk(projects, origin, ports)
        more = [
            *WebhooksApi(projects, control.webhooks).routes,
            *DeliveriesApi(projects, control.deliveries).routes,
            *events.routes,
            *FastPix(
                *(projects, control.live_streams, control.signing_keys, live, origin, ports),
                *(control.targets, archive.assets, archive.recordings),
            ).routes,
            *LinksApi(projects, control.links, origin, ports).routes,
            *AuditApi(control.audit, projects).routes,
            *TargetsApi(projects, control.targets, pushing).routes,
            *FallbacksApi(projects, control.fallbacks, self.registry, self.config.limits).routes,
            *PullsApi(projects, control.ingresses, control.sources, control.pulls).routes,
            *ForecastApi(desk, archive.forecasts).routes,
            *RecordingsApi(desk, archive.recordings, archive.catalogue).routes,
            *ClipsApi(desk, archive.clips).routes,
            *UploadsApi(desk, archive.uploads).routes,
            *Vods(projects, control.ingresses, archive.recordings, desk).routes,
        ]
        whep = self.webrtc.whep if self.webrtc is not None else None
        use_cases = (projects, control.keys, control.ingresses, control.sources, live, control.options, control.audit)
        return Api(self.config, origin, control.gatekeeper, self.registry, *use_cases, ports, renditions, whep, more)

    def _doors(self, gatekeeper: Gatekeeper, renditions: Renditions, certificate: Certificate, ports: Ports) -> tuple[Component, ...]:
        """All on the HTTP port but the API and HLS."""
        config, limits, registry, origin = self.config, self.config.limits, self.registry, self._origin
        screens = Screens(renditions, config.mjpeg)
        return (
            MjpegDoor(config.mjpeg, limits, gatekeeper, registry, origin, screens),
            LiveSocketDoor(limits, gatekeeper, registry, origin, screens),
            CameraDoor(config.ws_jpeg, limits, gatekeeper, registry, origin),
            Pages(config, origin, gatekeeper, registry, lambda: certificate.pem, rtmp_port=ports.rtmp, srt_port=ports.srt),
            *(self.webrtc.components(gatekeeper, origin) if self.webrtc is not None else ()),
        )

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
        for room in self.registry:
            room.release_all()  # nobody can come back: their ends are told now

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
        self._put_out(event, PeerGone("the ingress was deleted", code="ingress-deleted"))

    def _ingress_disabled(self, event: IngressDisabled) -> None:
        why = PeerGone("the ingress was disabled", code="ingress-disabled")
        self.registry.disable_ingress(event.ingress_id, why)
        self._put_out(event, why)

    def _ingress_finished(self, event: IngressFinished) -> None:
        self.registry.kick_ingress(event.ingress_id, PeerGone("the live stream was finished", code="finished"))

    def _ingress_changed(self, event: IngressChanged) -> None:
        """Only a new stream key puts its encoder out; it is waited for, for it may come back with the new one."""
        # whether it is disabled is the gatekeeper's to know: this is about grants on their way
        self.registry.enable_ingress(event.ingress_id)
        if not event.key_reset:
            return
        for publication in self.registry.publications:
            if publication.grant.ingress_id == event.ingress_id:
                publication.kick(PeerGone("the stream key was reset", code="key-reset"))

    def _put_out(self, event: IngressDeleted | IngressDisabled, why: PeerGone) -> None:
        """Its encoder, and its hold."""
        self.registry.kick_ingress(event.ingress_id, why)
        room = self.registry.find(event.project_id, event.room)
        if room is not None:
            room.release(event.identity, event.ingress_id)

    def _pushers(self, rtc: Endpoint | None, renditions: Renditions, outbound: Outbound) -> dict[str, Pusher]:
        """How simulcast reaches its targets, by scheme."""
        rtmp = RtmpPush(outbound, renditions, self.config.limits)
        whip: dict[str, Pusher] = {}
        if rtc is not None:
            whip = dict.fromkeys(("http", "https"), WhipPush(self.config, rtc, renditions, outbound))
        return {"rtmp": rtmp, "rtmps": rtmp, **whip}


class WebRtc:
    """WHIP in, WHEP out: both doors over one endpoint."""

    def __init__(self, daemon: Daemon, endpoint: Endpoint, renditions: Renditions, options: RoomOptions) -> None:
        config = daemon.config
        self._registry = daemon.registry
        self._endpoint = endpoint
        self._signalling = Signalling(config.rtc, config.limits, config.public_url)
        self._default_delay = config.rtc.playout_delay
        self._options = options
        options.on_change.append(self._changed)
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


def _address() -> str:
    """Of this machine, for others of its network, where the operator names none."""
    return next(iter(reachable(addresses(), ipv6=False, loopback=False)), "localhost")


def _listen(stack: contextlib.AsyncExitStack, value: str, key: str) -> list[socket.socket]:
    """Closed with the stack: the next port may be the one that is taken."""
    host, port = split_listen(value, key)
    try:
        return [stack.enter_context(sock) for sock in listen_tcp(host, port)]
    except OSError as e:
        raise _taken(key, value, e) from None


def _port(listening: list[socket.socket]) -> int:
    return int(listening[0].getsockname()[1])


def _bind_srt(stack: contextlib.AsyncExitStack, config: Config) -> UdpSocket:
    """SRT's UDP port, closed with the stack."""
    host, port = split_listen(config.srt.listen, "srt.listen")
    try:
        udp = UdpSocket(host, port)
    except OSError as e:
        raise _taken("srt.listen", f"{config.srt.listen} (UDP)", e) from None
    stack.callback(udp.close)
    return udp


def _bind(stack: contextlib.AsyncExitStack, config: Config) -> Endpoint:
    """The WebRTC ports, closed with the stack."""
    endpoint = Endpoint(config.rtc, config.limits)
    try:
        endpoint.open()
    except OSError as e:
        raise _taken("rtc.listen", f"{config.rtc.listen} (UDP) or {config.rtc.tcp_listen or 'nothing'} (TCP)", e) from None
    stack.callback(endpoint.shut)
    return endpoint


def _taken(key: str, where: str, e: OSError) -> ConfigError:
    why = os.strerror(e.errno) if e.errno else e
    return ConfigError(f"{key}: cannot listen on {where}: {why} (medianode doctor tells more)")
