"""All use cases over one database, in the order in which they need each other. The daemon makes it; the API gets what it speaks for."""

from __future__ import annotations

import logging
from collections.abc import Coroutine
from typing import Any

from medianode.auth import FailedLogins, PublishGrant
from medianode.config import Config
from medianode.control.assets import Assets
from medianode.control.audit import AuditLog
from medianode.control.broadcasts import Broadcasts
from medianode.control.bucket_removals import BucketRemovals
from medianode.control.catalogue import Catalogue
from medianode.control.clips import Clips
from medianode.control.deliveries import Deliveries
from medianode.control.evictions import Evictions
from medianode.control.fallbacks import Fallbacks
from medianode.control.feed import EventFeed
from medianode.control.follow import Follower
from medianode.control.forecast import Forecasts
from medianode.control.gatekeeper import HouseGatekeeper
from medianode.control.ingresses import Ingresses
from medianode.control.keys import Keys
from medianode.control.lifecycle import IngressLives
from medianode.control.links import Links
from medianode.control.live_streams import LiveStreams
from medianode.control.nodes import Nodes
from medianode.control.projects import Projects
from medianode.control.pulls import Pulls
from medianode.control.recording_ledger import RecordingLedger
from medianode.control.recording_places import RecordingPlaces
from medianode.control.recording_recovery import Recovery
from medianode.control.recordings import Recordings
from medianode.control.retention import Retention
from medianode.control.room_options import RoomOptions
from medianode.control.signing_keys import SigningKeys
from medianode.control.sources import Sources
from medianode.control.target_states import TargetStates
from medianode.control.targets import Targets
from medianode.control.uploads import Uploads
from medianode.control.webhooks import Webhooks
from medianode.egress.recorder.service import Recorder
from medianode.events import Bus
from medianode.outbound import Outbound
from medianode.routing.registry import Registry
from medianode.store import settings
from medianode.store.database import Database, Transaction
from medianode.store.objects import Objects
from medianode.store.recordings import Recording
from medianode.webhooks.sender import Sender
from medianode.webhooks.subject import BASE

log = logging.getLogger("medianode.control")


class UseCases:
    """`open` before anything is served; `services` while it is, `writers` until all that was served has ended."""

    def __init__(
        self, config: Config, db: Database, bus: Bus, registry: Registry, outbound: Outbound, sender: Sender, node_id: str
    ) -> None:
        limits = config.limits
        self._db, self._node_id = db, node_id
        self.projects = Projects(db, bus, outbound=outbound)
        self.keys = Keys(db, bus)
        self.ingresses = Ingresses(db, bus, rooms=limits.rooms)
        self.broadcasts = Broadcasts(db, bus)
        self.links = Links(db, bus, most=limits.view_links)
        self.lives = IngressLives(db, bus, node_id=node_id, bound=limits.unwritten_facts, hls=config.hls.enabled)
        self.ingresses.settle = self.lives.write
        self.options = RoomOptions(db, bus)
        self.places = RecordingPlaces(config, db, bus)
        self.recordings = Recordings(db, bus, registry, self.options, self.lives, self.places, node_id=node_id, bound=limits.recordings)
        self.assets = Assets(db)
        clipped = {"preroll": config.recording.preroll, "longest": limits.clip_seconds}
        self.recording_ledger = RecordingLedger(db, bus, node_id, limits.unwritten_facts, self.lives.write)
        self.recording_ledger.on_end = self.recorded
        self.recordings.settle = self.recording_ledger.write
        self.catalogue = Catalogue(db)
        self.recordings.note = self.catalogue.note
        self.recording_ledger.on_written = self.catalogue.note
        self.recovery = Recovery(db, self.recording_ledger, self.places, node_id)
        self.retention = Retention(db, bus, config.recording, self.places, node_id)
        self.recordings.discard = self.retention.delete
        self.objects = Objects(outbound, requests=limits.object_requests, bitrate=config.recording.upload_bitrate)
        self.uploads = Uploads(db, bus, self.objects, node_id, bound=limits.uploads)
        self.recording_ledger.on_file = self.uploads.on_file
        self.removals = BucketRemovals(db, bus, self.objects, node_id, self.uploads.busy)
        self.retention.removals = self.removals
        self.forecasts = Forecasts(db, config.recording, self.places, self.retention, node_id)
        self.clips = Clips(db, self.recordings, self.places, node_id=node_id, **clipped)
        failed = FailedLogins(limits.failed_logins_per_minute)
        self.gatekeeper = HouseGatekeeper(
            self.projects, self.keys, self.ingresses, self.broadcasts, self.links, failed, db, hold=config.ingress.hold
        )
        self.sources = Sources(self.ingresses, outbound)
        self.pulls = Pulls(db, bus, registry, self.gatekeeper.pull, node_id, config.pull, limits.pulls)
        registry.demand.open = self.pulls.demand
        registry.slates.needed = self.pulls.needed
        self.fallbacks = Fallbacks(db, bus, registry, limits)
        self.live_streams = LiveStreams(db, bus, self.ingresses, playback_ids=limits.playback_ids)
        self.signing_keys = SigningKeys(db, bus, per_project=limits.signing_keys)
        self.targets = Targets(db, bus, limits, outbound)
        self.target_states = TargetStates(db, bus, node_id, limits.unwritten_facts)
        self.webhooks = Webhooks(db, outbound, sender, bound=limits.webhook_endpoints)
        self.deliveries = Deliveries(db, bound=limits.webhook_replays)
        self.feed = EventFeed(db)
        self.audit = AuditLog(db)
        self._follower = Follower(db, bus)
        self._nodes = Nodes(db, self.lives, node_id, self.target_states.rise)
        self._nodes.burying = self.recovery.bury
        self._evictions = Evictions(bus, registry, self.gatekeeper.still)

    async def open(self) -> None:
        """What a crash left is ended, and what others do is followed from here on."""
        await self._follower.start()
        await self.lives.recover()
        await self._nodes.join()
        await self.options.load()
        await self.places.open()
        await self.recovery.open()
        await self.uploads.open()
        await self.target_states.recover()
        await self.fallbacks.load()
        await self._warn_of_open_projects()

    def services(self) -> tuple[Coroutine[Any, Any, None], ...]:
        serving = (
            self.keys,
            self.links,
            self.live_streams,
            self._evictions,
            self._nodes,
            self._follower,
            self.places,
            self.recovery,
            self.retention,
            self.uploads,
            self.removals,
            self.recordings,
            self.pulls,
            self.fallbacks,
        )
        return tuple(each.serve() for each in serving)

    def writers(self) -> tuple[Coroutine[Any, Any, None], ...]:
        """What media does, into the database: StorageError when it is away at the end."""
        return self.lives.serve(), self.target_states.serve(), self.recording_ledger.serve()

    def record_by(self, recorder: Recorder) -> None:
        """Before anybody publishes."""
        self.recordings.recorder = recorder
        self.clips.live = recorder.live
        recorder.wants_room = self.recordings.wants_room
        recorder.make_room = self.retention.make_room
        self.pulls.recorded = lambda project_id, room: any(
            session.order.reason in ("api", "clip") and (session.order.project_id, session.order.room) == (project_id, room)
            for session in recorder.active.values()
        )
        recorder.new_order = lambda what: (
            self.places.for_grant(what) if isinstance(what, PublishGrant) else self.places.for_room(what.project_id, what.slug, what.name)
        )

    async def tell_base(self, base: str) -> None:
        """The public address of this node, `https://host`: in events, for what is only here. Raises StorageError."""
        async with self._db.write() as tx:
            await settings.put(tx, BASE + self._node_id, base)

    async def remote_file(self, recording: Recording, key: str) -> str:
        """Where a viewer gets a file that is only in the bucket. Raises Conflict (`no-bucket`)."""
        return await self.uploads.url(await self.projects.get(recording.project_id), key)

    async def remote_read(self, recording: Recording, key: str, size: int) -> bytes:
        """The first bytes of such a file. Raises PeerError."""
        return await self.uploads.read(await self.projects.get(recording.project_id), key, size)

    async def recorded(self, tx: Transaction, recording: Recording) -> None:
        """A recording is over: in the transaction that says so."""
        await self.recordings.on_end(tx, recording)
        await self.assets.on_end(tx, recording)
        await self.uploads.on_end(tx, recording)

    async def _warn_of_open_projects(self) -> None:
        for project in await self.projects.list():
            if project.open_publish:
                log.warning(
                    "project %s is OPEN: anybody who reaches the node may publish by RTMP or WHIP without a key "
                    "(PATCH /api/v1/projects/%s with openPublish false closes it)",
                    project.slug,
                    project.slug,
                )
