"""Live streams: ingresses with a broadcast policy, made, changed, finished and deleted, and the playback ids that they are viewed by.

The room of a live stream is its own: `<slug>-<id>`. Its key opens every door that encoders come by.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from medianode import clock
from medianode.auth import Door, Takeover
from medianode.control.broadcasts import Broadcast, load_broadcast, load_broadcasts
from medianode.control.ingresses import Alter, Ingresses
from medianode.errors import Conflict, Forbidden, NotFound, StorageError
from medianode.events import Bus, IngressStateChanged, ViewingChanged
from medianode.media.names import shown
from medianode.store import live_streams as table
from medianode.store import targets
from medianode.store.database import Database, Transaction
from medianode.store.ingresses import Ingress
from medianode.store.live_streams import LiveStream, PlaybackId
from medianode.store.projects import Project
from medianode.store.targets import PushTarget

MAX_DURATION = 43_200.0
TEST_DURATION = 300.0
"""Seconds on air after which a test stream is disabled for good."""
OVER = "max-duration"
"""The code that such a session ends with (`routing.policy`)."""
RETRY = 1.0

AccessPolicy = Literal["public", "private"]
Restriction = Literal["domains", "userAgents"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What a live stream is made with. Seconds; `access_policy` and `restrictions` (see store.live_streams) are its first
    playback id's."""

    access_policy: AccessPolicy = "public"
    restrictions: Mapping[str, Any] = field(default_factory=dict)
    reconnect_window: float = 60.0
    max_duration: float = MAX_DURATION
    max_resolution: str = "1080p"
    audio_only: bool = False
    latency_mode: str = "standard"
    enable_recording: bool = True
    enable_dvr: bool = False
    media_policy: str = "public"
    metadata: Mapping[str, str] = field(default_factory=dict)
    test: bool = False


class LiveStreams:
    """`playback_ids`: limits.playback_ids, of one stream. `serve` disables test streams that had their time."""

    def __init__(self, db: Database, bus: Bus, ingresses: Ingresses, *, playback_ids: int) -> None:
        self._db = db
        self._bus = bus
        self._ingresses = ingresses
        self._playback_ids = playback_ids
        self._over: dict[str, str] = {}
        self._wake = asyncio.Event()
        bus.subscribe(IngressStateChanged, self._ended)

    async def create(self, project: Project, policy: Policy) -> Broadcast:
        """With one playback id. Raises Forbidden (`room-quota`), NotFound if the project is gone."""
        ingress = _ingress(project)
        stream = LiveStream(
            ingress_id=ingress.id,
            reconnect_window=policy.reconnect_window,
            max_duration=min(policy.max_duration, TEST_DURATION) if policy.test else policy.max_duration,
            max_resolution=policy.max_resolution,
            audio_only=policy.audio_only,
            latency_mode=policy.latency_mode,
            enable_recording=policy.enable_recording,
            enable_dvr=policy.enable_dvr,
            media_policy=policy.media_policy,
            metadata=policy.metadata,
            test=policy.test,
            srt_secret=stream_key(ingress.id),
            updated_at=ingress.created_at,
        )
        playback = _playback_id(ingress.id, policy.access_policy, policy.restrictions)

        async def also(tx: Transaction, made: Ingress) -> None:
            await table.insert_live_stream(tx, stream)
            await table.insert_playback_id(tx, playback)

        ingress = await self._ingresses.add(project, ingress, also)
        return Broadcast(ingress=ingress, stream=stream, playback_ids=(playback,))

    async def list(
        self, project_id: str, *, newest_first: bool = True, limit: int = 10, offset: int = 0
    ) -> tuple[Sequence[Broadcast], int]:
        """By creation, and how many there are in all."""
        async with self._db.read() as tx:
            found, total = await table.list_live_streams(tx, project_id, newest_first=newest_first, limit=limit, offset=offset)
            return await load_broadcasts(tx, found), total

    async def get(self, project_id: str, stream_id: str) -> Broadcast:
        """Raises NotFound, also if it is another project's, or an ingress without a policy."""
        async with self._db.read() as tx:
            return await _own(tx, project_id, stream_id)

    async def change(self, project_id: str, stream_id: str, **changed: Any) -> Broadcast:
        """`changed`: fields of LiveStream. They count from the next time that an encoder comes. Raises NotFound."""

        async def alter(tx: Transaction, ingress: Ingress) -> None:
            stream = (await _own(tx, project_id, stream_id)).stream
            if stream.test and "max_duration" in changed:
                changed["max_duration"] = min(changed["max_duration"], TEST_DURATION)
            await table.replace(tx, replace(stream, **changed, updated_at=clock.wallclock()))

        return await self._changed(project_id, stream_id, alter, fields=sorted(changed))

    async def enable(self, project_id: str, stream_id: str) -> None:
        """Raises NotFound, Conflict (`already-enabled`, `test-stream`)."""
        found = await self.get(project_id, stream_id)
        if found.stream.test and found.disabled:
            raise Conflict("a test stream that was disabled cannot be enabled again", code="test-stream")
        await self._ingresses.set_disabled(project_id, stream_id, False)

    async def disable(self, project_id: str, stream_id: str) -> None:
        """Its encoder and its viewers are put out. Raises NotFound, Conflict (`already-disabled`)."""
        await self.get(project_id, stream_id)
        await self._ingresses.set_disabled(project_id, stream_id, True)

    async def finish(self, project_id: str, stream_id: str) -> None:
        """Its session ends without a reconnect window; its encoder may begin another. Raises NotFound, Conflict (`not-active`)."""
        await self.get(project_id, stream_id)
        await self._ingresses.finish(project_id, stream_id)

    async def targets(self, *stream_ids: str) -> Sequence[PushTarget]:
        """Where they are sent on to; oldest first."""
        async with self._db.read() as tx:
            return await targets.of_ingress(tx, *stream_ids)

    async def reset_key(self, project_id: str, stream_id: str) -> Broadcast:
        """A new stream key; whoever publishes by the old one is put out. Raises NotFound."""
        found = await self.get(project_id, stream_id)
        return replace(found, ingress=await self._ingresses.reset_key(project_id, stream_id, stream_key(stream_id)))

    async def delete(self, project_id: str, stream_id: str) -> None:
        """With its playback ids and its simulcast targets; its encoder and its viewers are put out. Raises NotFound."""
        await self.get(project_id, stream_id)
        await self._ingresses.delete(project_id, stream_id)

    async def add_playback_id(
        self, project_id: str, stream_id: str, access_policy: AccessPolicy | None, restrictions: Mapping[str, Any]
    ) -> PlaybackId:
        """Without a policy private, unless the live stream has a public one. Raises NotFound, Forbidden (`playback-id-quota`)."""
        playback = _playback_id(stream_id, access_policy or "private", restrictions)

        async def alter(tx: Transaction, ingress: Ingress) -> None:
            nonlocal playback
            there = (await _own(tx, project_id, stream_id)).playback_ids
            if len(there) >= self._playback_ids:
                raise Forbidden(f"this live stream has {len(there)} playback ids, which is limits.playback_ids", code="playback-id-quota")
            if access_policy is None and any(p.access_policy == "public" for p in there):
                playback = replace(playback, access_policy="public")
            await table.insert_playback_id(tx, playback)

        await self._changed(project_id, stream_id, alter, playback_id=playback.id)
        return playback

    async def get_playback_id(self, project_id: str, stream_id: str, playback_id: str) -> PlaybackId:
        """Raises NotFound."""
        return _playback_of(await self.get(project_id, stream_id), playback_id)

    async def restrict(
        self, project_id: str, stream_id: str, playback_id: str, what: Restriction, change: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Some of `{defaultPolicy, allow, deny}` of one of the two lists of a playback id; returns all three. Raises NotFound."""
        rule: dict[str, Any] = {}

        async def alter(tx: Transaction, ingress: Ingress) -> None:
            playback = _playback_of(await _own(tx, project_id, stream_id), playback_id)
            rule.update({"defaultPolicy": "allow", "allow": [], "deny": [], **playback.restrictions.get(what, {}), **change})
            await table.restrict(tx, playback.id, {**playback.restrictions, what: rule})

        await self._changed(project_id, stream_id, alter, playback_id=playback_id, restricted=what)
        return rule

    async def delete_playback_id(self, project_id: str, stream_id: str, playback_id: str) -> None:
        """Nobody views by it any more. Raises NotFound."""

        async def alter(tx: Transaction, ingress: Ingress) -> None:
            await table.delete_playback_id(tx, _playback_of(await _own(tx, project_id, stream_id), playback_id).id)

        await self._changed(project_id, stream_id, alter, playback_id=playback_id, deleted=True)

    async def serve(self) -> None:
        """Disable test streams whose time is over, those of before a crash too; runs until cancelled.

        A database that is away is tried again each second.
        """
        looked = False
        while True:
            try:
                if not looked:
                    async with self._db.read() as tx:
                        self._over |= {stream_id: project_id for project_id, stream_id in await table.tests_ended_by(tx, OVER)}
                    looked = True
                for stream_id, project_id in tuple(self._over.items()):
                    await self._disable_test(project_id, stream_id)
                    del self._over[stream_id]
            except StorageError as e:
                log.warning("test streams not disabled yet: %s: %s", e.code, e)
                await asyncio.sleep(RETRY)
                continue
            await self._wake.wait()
            self._wake.clear()

    async def _disable_test(self, project_id: str, stream_id: str) -> None:
        try:
            if (await self.get(project_id, stream_id)).stream.test:
                await self._ingresses.set_disabled(project_id, stream_id, True)
        except (NotFound, Conflict):
            pass  # deleted or disabled in the meantime

    def _ended(self, event: IngressStateChanged) -> None:
        if event.code == OVER:
            self._over[event.ingress_id] = event.project_id
            self._wake.set()

    async def _changed(self, project_id: str, stream_id: str, alter: Alter, **details: object) -> Broadcast:
        await self._ingresses.change(project_id, stream_id, alter, **details)
        self._bus.publish(ViewingChanged(project_id))
        return await self.get(project_id, stream_id)


def stream_key(stream_id: str) -> str:
    """A new one in FastPix's form: 32 hex digits, `k`, the stream's id."""
    return f"{secrets.token_hex(16)}k{stream_id}"


def _ingress(project: Project) -> Ingress:
    stream_id = secrets.token_hex(16)
    return Ingress(
        id=stream_id,
        project_id=project.id,
        kind=Door.ANY.value,
        room=f"{project.slug}-{stream_id}",
        room_name=stream_id,
        participant_identity=stream_id,
        participant_name="",
        stream_key=stream_key(stream_id),
        takeover=Takeover.REJECT.value,
        created_at=clock.wallclock(),
    )


def _playback_id(stream_id: str, access_policy: AccessPolicy, restrictions: Mapping[str, Any]) -> PlaybackId:
    return PlaybackId(
        id=str(uuid.uuid4()),
        ingress_id=stream_id,
        access_policy=access_policy,
        restrictions=dict(restrictions),
        created_at=clock.wallclock(),
    )


async def _own(tx: Transaction, project_id: str, stream_id: str) -> Broadcast:
    found = await load_broadcast(tx, stream_id)
    if found is None or found.ingress.project_id != project_id:
        raise NotFound(f"no live stream {shown(stream_id)}")
    return found


def _playback_of(broadcast: Broadcast, playback_id: str) -> PlaybackId:
    found = broadcast.playback_id(playback_id)
    if found is None:
        raise NotFound(f"live stream {broadcast.ingress.id}: no playback id {shown(playback_id)}")
    return found
