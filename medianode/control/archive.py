"""Archive: all use cases of what is recorded, in the order in which they need each other; a part of `UseCases`."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from medianode.auth import PublishGrant
from medianode.config import Config
from medianode.control.assets import Assets
from medianode.control.bucket_removals import BucketRemovals
from medianode.control.catalogue import Catalogue
from medianode.control.clips import Clips
from medianode.control.forecast import Forecasts
from medianode.control.lifecycle import IngressLives
from medianode.control.projects import Projects
from medianode.control.recording_ledger import RecordingLedger
from medianode.control.recording_places import RecordingPlaces
from medianode.control.recording_recovery import Recovery
from medianode.control.recordings import Recordings
from medianode.control.retention import Retention
from medianode.control.room_options import RoomOptions
from medianode.control.uploads import Uploads
from medianode.egress.recorder.order import Order
from medianode.egress.recorder.service import Recorder
from medianode.events import Bus
from medianode.outbound import Outbound
from medianode.routing.registry import Registry
from medianode.routing.room import Room
from medianode.store.database import Database, Transaction
from medianode.store.objects import Objects
from medianode.store.recordings import Recording


class Archive:
    """`open`, `services` and `ledger.serve` as those of `UseCases`; `record_by` before anybody publishes."""

    def __init__(
        self,
        config: Config,
        db: Database,
        bus: Bus,
        registry: Registry,
        outbound: Outbound,
        projects: Projects,
        options: RoomOptions,
        lives: IngressLives,
        node_id: str,
    ) -> None:
        limits = config.limits
        self._projects = projects
        self.places = RecordingPlaces(config, db, bus)
        self.assets = Assets(db)
        self.catalogue = Catalogue(db)
        self.ledger = RecordingLedger(db, bus, node_id, limits.unwritten_facts, lives.write)
        self.recovery = Recovery(db, self.ledger, self.places, node_id)
        self.objects = Objects(outbound, requests=limits.object_requests, bitrate=config.recording.upload_bitrate)
        self.uploads = Uploads(db, bus, self.objects, node_id, bound=limits.uploads)
        self.removals = BucketRemovals(db, bus, self.objects, node_id, self.uploads.busy)
        self.retention = Retention(db, bus, config.recording, self.places, node_id, self.removals)
        self.recordings = Recordings(
            *(db, bus, registry, options, lives, self.places),
            settle=self.ledger.write,
            discard=self.retention.delete,
            note=self.catalogue.note,
            node_id=node_id,
            bound=limits.recordings,
        )
        self.forecasts = Forecasts(db, config.recording, self.places, self.retention, node_id)
        self.clips = Clips(db, self.recordings, self.places, node_id=node_id, preroll=config.recording.preroll, longest=limits.clip_seconds)
        self.ledger.on_end = self._ended
        self.ledger.on_file = self.uploads.on_file
        self.ledger.on_written = self.catalogue.note

    async def open(self) -> None:
        await self.places.open()
        await self.recovery.open()
        await self.uploads.open()

    def services(self) -> tuple[Coroutine[Any, Any, None], ...]:
        serving = self.places, self.recovery, self.retention, self.uploads, self.removals, self.recordings
        return tuple(each.serve() for each in serving)

    def record_by(self, recorder: Recorder) -> None:
        self.recordings.recorder = recorder
        self.clips.live = recorder.live
        recorder.wants_room = self.recordings.wants_room
        recorder.make_room = self.retention.make_room
        recorder.new_order = self._order

    async def remote_file(self, recording: Recording, key: str) -> str:
        """Where a viewer gets a file that is only in the bucket. Raises Conflict (`no-bucket`)."""
        return await self.uploads.url(await self._projects.get(recording.project_id), key)

    async def remote_read(self, recording: Recording, key: str, size: int) -> bytes:
        """The first bytes of such a file. Raises PeerError."""
        return await self.uploads.read(await self._projects.get(recording.project_id), key, size)

    def _order(self, what: PublishGrant | Room) -> Order:
        if isinstance(what, PublishGrant):
            return self.places.for_grant(what)
        return self.places.for_room(what.project_id, what.slug, what.name)

    async def _ended(self, tx: Transaction, recording: Recording) -> None:
        """A recording is over: in the transaction that says so."""
        await self.recordings.on_end(tx, recording)
        await self.assets.on_end(tx, recording)
        await self.uploads.on_end(tx, recording)
