"""All use cases over one database, in the order in which they need each other. The daemon makes it; the API gets what it speaks for."""

from __future__ import annotations

import logging
from collections.abc import Coroutine
from typing import Any

from medianode.auth import FailedLogins
from medianode.config import Config
from medianode.control.archive import Archive
from medianode.control.audit import AuditLog
from medianode.control.broadcasts import Broadcasts
from medianode.control.deliveries import Deliveries
from medianode.control.evictions import Evictions
from medianode.control.fallbacks import Fallbacks
from medianode.control.feed import EventFeed
from medianode.control.follow import Follower
from medianode.control.gatekeeper import HouseGatekeeper
from medianode.control.ingresses import Ingresses
from medianode.control.keys import Keys
from medianode.control.lifecycle import IngressLives
from medianode.control.links import Links
from medianode.control.live_streams import LiveStreams
from medianode.control.nodes import Nodes
from medianode.control.projects import Projects
from medianode.control.pulls import Pulls
from medianode.control.room_options import RoomOptions
from medianode.control.signing_keys import SigningKeys
from medianode.control.sources import Sources
from medianode.control.target_states import TargetStates
from medianode.control.targets import Targets
from medianode.control.webhooks import Webhooks
from medianode.events import Bus
from medianode.outbound import Outbound
from medianode.routing.registry import Registry
from medianode.store import settings
from medianode.store.database import Database
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
        self.archive = Archive(config, db, bus, registry, outbound, self.projects, self.options, self.lives, node_id)
        failed = FailedLogins(limits.failed_logins_per_minute)
        self.gatekeeper = HouseGatekeeper(
            self.projects, self.keys, self.ingresses, self.broadcasts, self.links, failed, db, hold=config.ingress.hold
        )
        self.sources = Sources(self.ingresses, outbound)
        self.pulls = Pulls(db, bus, registry, self.gatekeeper.pull, node_id, config.pull, limits.pulls)
        registry.demand.open = self.pulls.demand
        registry.demand.look = self.pulls.outlook
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
        self._nodes = Nodes(db, self.lives, node_id, self.target_states.rise, burying=self.archive.recovery.bury)
        self._evictions = Evictions(bus, registry, self.gatekeeper.still)

    async def open(self) -> None:
        """What a crash left is ended, and what others do is followed from here on."""
        await self._follower.start()
        await self.lives.recover()
        await self._nodes.join()
        await self.options.load()
        await self.archive.open()
        await self.target_states.recover()
        await self.fallbacks.load()
        await self._warn_of_open_projects()

    def services(self) -> tuple[Coroutine[Any, Any, None], ...]:
        followed = self.keys, self.links, self.live_streams, self._evictions, self._nodes, self._follower, self.pulls, self.fallbacks
        return *(each.serve() for each in followed), *self.archive.services()

    def writers(self) -> tuple[Coroutine[Any, Any, None], ...]:
        """What media does, into the database: StorageError when it is away at the end."""
        return self.lives.serve(), self.target_states.serve(), self.archive.ledger.serve()

    async def tell_base(self, base: str) -> None:
        """The public address of this node, `https://host`: in events, for what is only here. Raises StorageError."""
        async with self._db.write() as tx:
            await settings.put(tx, BASE + self._node_id, base)

    async def _warn_of_open_projects(self) -> None:
        for project in await self.projects.list():
            if project.open_publish:
                log.warning(
                    "project %s is OPEN: anybody who reaches the node may publish by RTMP or WHIP without a key "
                    "(PATCH /api/v1/projects/%s with openPublish false closes it)",
                    project.slug,
                    project.slug,
                )
