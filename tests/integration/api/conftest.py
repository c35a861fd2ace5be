from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from yarl import URL

from medianode import clock, tasks
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
from medianode.auth import Door, FailedLogins, PublishGrant
from medianode.config import Config
from medianode.control.assets import Assets
from medianode.control.audit import AuditLog
from medianode.control.broadcasts import Broadcasts
from medianode.control.catalogue import Catalogue
from medianode.control.clips import Clips
from medianode.control.deliveries import Deliveries
from medianode.control.evictions import Evictions
from medianode.control.fallbacks import Fallbacks
from medianode.control.feed import EventFeed
from medianode.control.forecast import Forecasts
from medianode.control.gatekeeper import HouseGatekeeper
from medianode.control.ingresses import Ingresses
from medianode.control.keys import Keys
from medianode.control.lifecycle import IngressLives
from medianode.control.links import Links
from medianode.control.live_streams import LiveStreams
from medianode.control.projects import Projects
from medianode.control.pulls import Pulls
from medianode.control.recording_ledger import RecordingLedger
from medianode.control.recording_places import RecordingPlaces
from medianode.control.recordings import Recordings
from medianode.control.retention import Retention
from medianode.control.room_options import RoomOptions
from medianode.control.signing_keys import SigningKeys
from medianode.control.sources import Sources
from medianode.control.targets import Targets
from medianode.control.uploads import Uploads
from medianode.control.webhooks import Webhooks
from medianode.egress.push.service import PushService
from medianode.egress.recorder.order import Order
from medianode.errors import MedianodeError, PeerGone
from medianode.events import Bus, IngressDeleted, IngressFinished, RecordingEnded, RecordingFileChanged, RecordingStarted
from medianode.media.packet import Packet
from medianode.media.parts import Part, pack
from medianode.media.track import Codec, Track
from medianode.origin import Origin
from medianode.outbound import Outbound
from medianode.routing.publication import Publication
from medianode.routing.registry import Registry
from medianode.routing.room import Room
from medianode.store.database import Database, Transaction, open_database
from medianode.store.endpoints import WebhookEndpoint
from medianode.store.objects import Objects
from medianode.store.recordings import Recording
from medianode.webhooks.sender import Answer as Sent


@dataclass
class Answer:
    status: int
    headers: Any
    body: Any

    @property
    def data(self) -> Any:
        return self.body["data"]


@dataclass
class Recorder:
    """Stands in for the sender of webhooks: keeps what it was to send, and answers as the test says."""

    answer: Sent = field(default_factory=lambda: Sent(status=200, latency=0.01, excerpt="ok"))
    sent: list[tuple[WebhookEndpoint, str, str, bytes, str | None]] = field(default_factory=list)

    async def send(self, endpoint: WebhookEndpoint, event: str, event_id: str, body: bytes, secret: str | None) -> Sent:
        self.sent.append((endpoint, event, event_id, body, secret))
        return self.answer


async def no_names(host: str, port: int) -> list[str]:
    """For Outbound: names of the public internet, without asking it."""
    return ["93.184.216.34"]


class Tape:
    """Stands in for the recorder: tells on the bus what a recording of ten seconds would, and `events` what it was asked for."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self.active: dict[str, Any] = {}
        self.events: list[tuple[str, Order | str]] = []

    def begins(self, grant: PublishGrant) -> bool:
        return False

    def live(self, recording_id: str) -> None:
        return None

    def start(self, order: Order, preroll: float = 0.0) -> None:
        self.events.append(("start", order))
        self.active[order.recording_id] = SimpleNamespace(order=order, ending=False)
        about = (order.recording_id, order.project_id, order.room, order.identity, order.ingress_id)
        labels = tuple(order.labels.items())
        self._bus.publish(RecordingStarted(*about, order.reason, str(order.directory), clock.wallclock(), order.title, labels))

    async def stop(self, recording_id: str) -> None:
        self.events.append(("stop", recording_id))
        order = self.active.pop(recording_id).order
        about = (order.recording_id, order.project_id, order.room, order.identity, order.ingress_id)
        tracks = (("video", "h264", 1280, 720, 0, 0),)
        part = pack([Part(1000, 2000, 0, 10_000_000, True)])
        now = clock.wallclock()
        self._bus.publish(RecordingFileChanged(*about, 1, "000001.mp4", True, now, 0, 10_000_000, 3000, 1000, tracks, "", part))
        self._bus.publish(RecordingEnded(*about, now + 10, 10_000_000, 3000))


@dataclass
class House:
    """The API over real use cases, a real database and real rooms, behind a real HTTP server; `kicked` is what doors were told."""

    db: Database
    config: Config
    kicked: list[MedianodeError] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.bus = Bus()
        self.registry = Registry(self.bus, self.config.limits)
        self.projects = Projects(self.db, self.bus)
        self.keys = Keys(self.db, self.bus)
        self.ingresses = Ingresses(self.db, self.bus, rooms=self.config.limits.rooms)
        self.broadcasts = Broadcasts(self.db, self.bus)
        self.links = Links(self.db, self.bus, most=self.config.limits.view_links)
        self.lives = IngressLives(self.db, self.bus)
        failed = FailedLogins(self.config.limits.failed_logins_per_minute)
        self.gate = HouseGatekeeper(
            self.projects, self.keys, self.ingresses, self.broadcasts, self.links, failed, self.db, hold=self.config.ingress.hold
        )
        self.ingresses.settle = self.lives.write
        self.bus.subscribe(IngressDeleted, self._deleted)  # as the daemon wires it
        self.bus.subscribe(IngressFinished, self._finished)
        self.evictions = Evictions(self.bus, self.registry, self.gate.still)
        origin = Origin(self.config.public_url, self.config.http.trusted_proxies)
        self.sender = Recorder()
        webhooks = Webhooks(self.db, Outbound(("127.0.0.0/8",), no_names), self.sender, bound=self.config.limits.webhook_endpoints)
        deliveries = Deliveries(self.db, bound=self.config.limits.webhook_replays)
        self.events = EventsApi(EventFeed(self.db), self.projects, self.gate, origin, self.bus, bound=self.config.limits.event_streams)
        self.streams = LiveStreams(self.db, self.bus, self.ingresses, playback_ids=self.config.limits.playback_ids)
        signing_keys = SigningKeys(self.db, self.bus, per_project=self.config.limits.signing_keys)
        targets = Targets(self.db, self.bus, self.config.limits, Outbound(("127.0.0.0/8",), no_names))
        limits, sources = self.config.limits, Sources(self.ingresses, Outbound(("127.0.0.0/8",), no_names))
        pulls = Pulls(self.db, self.bus, self.registry, self.gate.pull, "", self.config.pull, limits.pulls)
        live, ports = Live(self.registry, self.lives, pulls), Ports(rtmp=1935, whip=self.config.rtc.enabled)
        self.options = RoomOptions(self.db, self.bus)
        self._record()
        recorded = (self.assets, self.recordings)
        fastpix = FastPix(self.projects, self.streams, signing_keys, live, origin, ports, targets, *recorded)
        desk = Desk(self.projects, origin, ports)
        more = [
            *WebhooksApi(self.projects, webhooks).routes,
            *DeliveriesApi(self.projects, deliveries).routes,
            *self.events.routes,
            *fastpix.routes,
            *TargetsApi(self.projects, targets, PushService(self.db, self.bus, self.registry, self.config.limits, {})).routes,
            *LinksApi(self.projects, self.links, origin, ports).routes,
            *FallbacksApi(self.projects, Fallbacks(self.db, self.bus, self.registry, limits), self.registry, limits).routes,
            *PullsApi(self.projects, self.ingresses, sources, pulls).routes,
            *AuditApi(AuditLog(self.db), self.projects).routes,
            *ForecastApi(desk, Forecasts(self.db, self.config.recording, self.places, self.retention, "node")).routes,
            *RecordingsApi(desk, self.recordings, Catalogue(self.db)).routes,
            *ClipsApi(desk, self.clips).routes,
            *UploadsApi(desk, Uploads(self.db, self.bus, Objects(Outbound(), requests=1), "node", bound=1)).routes,
            *Vods(self.projects, self.ingresses, self.recordings, desk).routes,
        ]
        use_cases = (self.projects, self.keys, self.ingresses, sources, live, self.options, AuditLog(self.db))
        self.api = Api(self.config, origin, self.gate, self.registry, *use_cases, ports, more=more)
        self.app = web.Application(middlewares=[self.api.middleware])
        self.app.add_routes(self.api.routes())
        self.client: TestClient[Any, Any] | None = None
        self.admin = self.live = ""

    def _record(self) -> None:
        """As UseCases wires it, with a stand-in for the recorder."""
        self.tape = Tape(self.bus)
        self.places = RecordingPlaces(self.config, self.db, self.bus)
        where = (self.db, self.bus, self.registry, self.options, self.lives, self.places)
        self.ledger = RecordingLedger(self.db, self.bus, "node", 100, self.lives.write)
        self.ledger.on_end = self._recorded
        self.retention = Retention(self.db, self.bus, self.config.recording, self.places, "node")
        hooks = {"settle": self.ledger.write, "discard": self.retention.delete, "note": Catalogue(self.db).note}
        self.recordings = Recordings(*where, **hooks, node_id="node", bound=10)
        self.recordings.recorder = self.tape
        self.assets = Assets(self.db)
        self.clips = Clips(self.db, self.recordings, self.places, node_id="node", preroll=10.0, longest=3600.0)

    async def _recorded(self, tx: Transaction, recording: Recording) -> None:
        await self.recordings.on_end(tx, recording)
        await self.assets.on_end(tx, recording)

    def _deleted(self, event: IngressDeleted) -> None:
        self.registry.kick_ingress(event.ingress_id, PeerGone("the ingress was deleted", code="ingress-deleted"))

    def _finished(self, event: IngressFinished) -> None:
        self.registry.kick_ingress(event.ingress_id, PeerGone("the live stream was finished", code="finished"))

    async def asset(self, policy: str = "public") -> str:
        """A live stream that was on air for ten seconds: the media id of its recording."""
        made = (await self.ask("POST", "/v1/live/streams", {"playbackSettings": {"accessPolicy": policy}})).data
        room, publication = await self.publish(made["streamKey"])
        order = self.places.for_grant(publication.grant)
        self.tape.start(order)
        room.end(publication, "closed", final=True)
        await self.tape.stop(order.recording_id)
        await self.ledger.write()
        media: str = (await self.ask("GET", f"/v1/live/streams/{made['streamId']}")).data["mediaIds"][0]
        return media

    async def key(self, *permissions: str, project: str | None = None) -> str:
        return (await self.keys.create("test", permissions, project)).secret

    async def ask(
        self, method: str, path: str, json: Any = None, *, key: str | None = None, data: Any = None, headers: dict[str, str] | None = None
    ) -> Answer:
        """`path` goes out as it is written. `key` None is the key of project `live`, "" none at all."""
        assert self.client is not None
        sent = dict(headers or {})
        key = self.live if key is None else key
        if key:
            sent["Authorization"] = f"Bearer {key}"
        if json is not None:
            data, sent["Content-Type"] = msgspec.json.encode(json), "application/json"
        url = URL(str(self.client.make_url("/")).rstrip("/") + path, encoded=True)
        async with self.client.session.request(method, url, data=data, headers=sent, allow_redirects=False) as response:
            raw = await response.read()
            body = msgspec.json.decode(raw) if raw and response.content_type == "application/json" else raw
            return Answer(response.status, response.headers, body)

    async def publish(self, key: str, *, door: Door = Door.RTMP, tracks: tuple[Track, ...] | None = None) -> tuple[Room, Publication]:
        grant = await self.gate.publish(door, "live", key)
        room, publication = self.registry.publish(grant, door.value, "192.0.2.7", self.kicked.append)
        if tracks is None:
            codec = Codec.MJPEG if door is Door.WS_MJPEG else Codec.H264
            tracks = (Track(1, codec, 90_000, width=1280, height=720, frame_rate=30.0),)
        publication.set_tracks(tracks)
        publication.write(Packet(tracks[0], b"\0" * 1000, 6000, 3000, True, clock.now()))
        return room, publication


@pytest.fixture
def bugs(monkeypatch: pytest.MonkeyPatch) -> list[BaseException]:
    """What was reported as our fault."""
    found: list[BaseException] = []

    def report(place: str, error: BaseException) -> None:
        found.append(error)

    monkeypatch.setattr(tasks, "report_bug", report)
    monkeypatch.setattr("medianode.api.server.report_bug", report)
    return found


MakeHouse = Callable[..., Awaitable[House]]


@pytest.fixture
async def make_house(tmp_path: Path, bugs: list[BaseException]) -> AsyncIterator[MakeHouse]:
    """Makes a House; each test ends with no bug reported that it did not take out of `bugs`."""
    async with AsyncExitStack() as closing:

        async def make(config: Config | None = None, database_url: str = "") -> House:
            db = await closing.enter_async_context(open_database(database_url, tmp_path, environ={}))
            house = House(db, config or Config(public_url="https://media.example.com", data_dir=str(tmp_path)))
            await house.projects.create("live")
            await house.projects.create("other")
            house.admin = await house.key("admin")
            house.live = await house.key("live", project="live")
            house.client = await closing.enter_async_context(TestClient(TestServer(house.app)))
            return house

        yield make
    assert bugs == []


@pytest.fixture
async def house(make_house: MakeHouse) -> House:
    return await make_house()
