"""WhepService: who watches what over WebRTC: picks the rendition that a viewer can decode, and keeps its session."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

from medianode import clock, telemetry
from medianode.auth import ReadGrant
from medianode.config import Config
from medianode.egress.whep.lane import Cast, Lane, Seat, Transcoder
from medianode.egress.whep.layers import LayerLadder
from medianode.errors import LimitExceeded, MedianodeError, NotFound, PeerGone, UnsupportedMedia
from medianode.media.track import Codec, Kind, Track
from medianode.protocols.sdp.answer import answer_whep
from medianode.protocols.sdp.negotiate import offered_codecs, plan_whep
from medianode.protocols.sdp.parse import Offer
from medianode.protocols.sdp.plan import Credentials, LocalTransport, SendMedia
from medianode.routing.audience import Visit
from medianode.routing.feed import Feed
from medianode.routing.registry import Registry
from medianode.routing.room import Room
from medianode.rtc.batch import Batch
from medianode.rtc.crew import Crew
from medianode.rtc.endpoint import Endpoint
from medianode.rtc.fanout import Broadcast
from medianode.rtc.peer import Peer
from medianode.rtc.signalling import Joined
from medianode.tasks import TaskSet, background, every, guarded
from medianode.transcode.want import Want

log = logging.getLogger("medianode.whep")
DOOR = "whep"
SESSIONS = telemetry.counter("medianode_sessions_total", "Sessions opened, by door", "door").labels(DOOR)
ENDS = telemetry.counter("medianode_session_ends_total", "Sessions ended, by door and code", "door", "code")
READY = 4.0
"""Seconds to wait for a rendition whose codec its first packets tell (H.265 may have B-frames)."""
LOOPBACK = ("127.0.0.1", "::1")


class Watcher:
    """One viewer's session: the PeerHandler of its peer, and the Session behind its WHEP resource."""

    def __init__(self, service: WhepService, lane: Lane, grant: ReadGrant, sends: tuple[SendMedia, ...], source: str, agent: str) -> None:
        self.id = secrets.token_hex(8)
        self.lane = lane
        self.room = lane.room
        self.grant = grant
        self.sends = sends
        self.source = source
        self.agent = agent
        self.opened_at = clock.now()
        self.opened_wallclock = clock.wallclock()
        self.peer: Peer
        self.visit: Visit
        self.local: LocalTransport
        self.viewer: Seat | None = None
        self.closed = False
        self.layer = ""
        self._service = service

    def fields(self) -> dict[str, str]:
        """Of its log lines."""
        return {"door": DOOR, "room": self.room.name, "peer": self.source}

    def play(self) -> None:
        """The peer is connected."""
        try:
            self.viewer = self.lane.broadcast.add(self.peer, self.sends)
        except UnsupportedMedia as e:  # the codec has changed since the answer
            self.close(e)
            return
        if self.closed:  # it failed with its first packet, before anybody knew of its seat
            viewer, self.viewer = self.viewer, None
            self.lane.broadcast.remove(viewer)
            return
        self._service.seated(self, self.viewer)

    def ended(self, error: MedianodeError | None) -> None:
        """The peer is gone: out of the broadcast, the lane and the count."""
        self.closed = True
        viewer, self.viewer = self.viewer, None
        code = "closed" if error is None else error.code
        ENDS.labels(DOOR, code).value += 1
        totals: dict[str, object] = {}
        if viewer is not None:
            stats = viewer.stats
            totals = {"packets": stats.packets, "bytes": stats.nbytes, "resent": stats.resent, "drops": sum(stats.dropped.values())}
            self._service.forget(self, viewer)
            self.lane.broadcast.remove(viewer)
        self._service.gone(self)
        telemetry.session(log, "closed", **self.fields(), code=code, duration=clock.now() - self.opened_at, **totals)

    # the session of the HTTP resource

    def restart(self, credentials: Credentials) -> LocalTransport:
        return replace(self.local, credentials=self.peer.restart(credentials))

    def close(self, error: MedianodeError | None = None) -> None:
        self.peer.close(error)

    # the lane's member

    def leave(self, error: PeerGone) -> None:
        self.peer.close(error)


class _Handler:
    """The peer's handler. Not the Watcher itself: a resource's `closed` is a fact, a handler's an event."""

    __slots__ = ("_watcher",)

    def __init__(self, watcher: Watcher) -> None:
        self._watcher = watcher

    def connected(self) -> None:
        watcher = self._watcher
        watcher.play()
        if watcher.closed:
            return
        SESSIONS.value += 1
        telemetry.session(log, "playing", **watcher.fields(), transport=watcher.peer.transport, agent=watcher.agent[:80])

    def rtp(self, packet: bytes, now: float) -> None:
        """Viewers have nothing to send; what a browser probes with is let fall."""

    def rtcp(self, packet: bytes, now: float) -> None:
        viewer = self._watcher.viewer
        if viewer is not None:
            viewer.rtcp(packet, now)

    def closed(self, error: MedianodeError | None) -> None:
        self._watcher.ended(error)


class WhepService:
    """`join` makes sessions; `serve` closes lanes that nobody uses. `delay`: what `(project id, room)` has viewers buffer, seconds."""

    def __init__(
        self, config: Config, registry: Registry, renditions: Transcoder, endpoint: Endpoint, delay: Callable[[str, str], float]
    ) -> None:
        self._config = config
        self._registry = registry
        self._renditions = renditions
        self._endpoint = endpoint
        self._delay = delay
        self._batch = Batch(endpoint.udp, config.limits.rtc_unsent_bytes)
        self._crew = Crew(endpoint.udp, config.limits, config.rtc.workers) if config.rtc.workers else None
        self._lanes: dict[tuple[Room, Want], Lane] = {}
        self._tasks = TaskSet("whep", config.limits.rooms * 4)
        self._layers = LayerLadder(self._lane, self._tasks)
        self._by_viewer: dict[Seat, Watcher] = {}
        self.watchers: dict[str, Watcher] = {}

    async def serve(self) -> None:
        """Until cancelled; then all viewers are told and their lanes closed."""
        try:
            async with self._tasks, background(*([self._crew.serve()] if self._crew is not None else [])):
                async for now in every(1.0):
                    guarded("whep", self._layers.look, now)
        finally:
            for watcher in tuple(self.watchers.values()):
                watcher.close(PeerGone("the server is stopping", code="shutdown"))
            for lane in tuple(self._lanes.values()):
                await lane.close()
            self._batch.close()

    @property
    def lanes(self) -> tuple[Lane, ...]:
        return tuple(self._lanes.values())

    async def join(self, offer: Offer, grant: ReadGrant, *, source: str, agent: str) -> Joined:
        """Raises UnsupportedMedia (no codec in common), LimitExceeded (`node-full`, `room-full`), NotFound `no-programme`."""
        room = self._registry.on_air(grant.project_id, grant.room)
        lane = await self._lane_for(room, offered_codecs(offer), grant)
        if lane.closed or lane.ended:
            raise NotFound(f"the stream of room {room.name} has just ended", code="no-programme")
        sends = self._sends(lane, offer)
        watcher = Watcher(self, lane, grant, sends, source, agent)
        watcher.visit = self._registry.audience.enter(room, DOOR, grant)
        with contextlib.ExitStack() as undo:
            undo.callback(watcher.visit.leave)
            watcher.peer = self._endpoint.create(offer.remote, _Handler(watcher), source, views=True)
            undo.pop_all()
        lane.join(watcher)
        self.watchers[watcher.id] = watcher
        watcher.visit.on_kick(watcher.close)
        ssrcs = lane.broadcast.ssrcs
        watcher.local = watcher.peer.local_transport(loopback=source in LOOPBACK)
        answer = answer_whep(offer, watcher.local, sends, {s.mid: ssrcs[s.kind] for s in sends}, lane.broadcast.cname)
        return Joined(answer, watcher)

    def seated(self, watcher: Watcher, viewer: Seat) -> None:
        self._by_viewer[viewer] = watcher

    def forget(self, watcher: Watcher, viewer: Seat) -> None:
        del self._by_viewer[viewer]
        self._layers.forget(watcher)

    def gone(self, watcher: Watcher) -> None:
        self.watchers.pop(watcher.id, None)
        watcher.visit.leave()
        watcher.lane.part(watcher)

    # which rendition

    async def _lane_for(self, room: Room, offered: dict[Kind, tuple[Codec, ...]], grant: ReadGrant) -> Lane:
        """The source's own codec where the viewer has it, else H.264. Sound is Opus."""
        pictures, sounds = offered.get(Kind.VIDEO, ()), offered.get(Kind.AUDIO, ())
        if grant.audio_only:
            pictures = ()
        audio: Literal["opus", "none"] = "opus" if Codec.OPUS in sounds else "none"
        if not pictures:
            if audio == "none":
                raise UnsupportedMedia(
                    "the offer has no codec that this room can be sent in: expected Opus for sound", code="no-shared-codec"
                )
            return await self._lane(room, Want(video="none", audio=audio))
        source = next((t.codec for t in room.tracks if t.is_video), None)
        if source is None or source in pictures:
            lane = await self._lane(room, Want(video="realtime", audio=audio))
            if source is Codec.HEVC:
                await self._wait(lane)  # with B-frames in it it becomes H.264
            codec = lane.codec(Kind.VIDEO) or source
            if codec is None or codec in pictures:
                return lane
        return await self._lane(room, Want(video="realtime-h264", audio=audio))

    async def _lane(self, room: Room, want: Want) -> Lane:
        key = (room, want)
        lane = self._lanes.get(key)
        if lane is not None and not lane.closed:
            return lane
        if room.held:
            raise NotFound(f"room {room.name} waits for its publisher", code="no-programme")
        lane = Lane(room, want, self._config.rtc.rendition_idle, self._expired)
        await lane.open(self._renditions, lambda feed: self._broadcast(lane, feed))
        if lane.ended:  # with the first GOP that its rendition saw: such a lane is closed already, and nobody's
            message = f"room {room.name} cannot be sent: its rendition ended at once ({lane.ended})"
            raise LimitExceeded(message, code="node-full") if lane.ended == "node-full" else NotFound(message, code="no-programme")
        if key in self._lanes:  # another viewer came while we opened ours
            await lane.close()
            return self._lanes[key]
        self._lanes[key] = lane
        return lane

    def _broadcast(self, lane: Lane, feed: Feed) -> Cast:
        room = lane.room
        broadcast = Broadcast(
            self._batch,
            self._config.limits,
            playout_delay=self._delay(room.project_id, room.name),
            request_keyframe=feed.request_keyframe,
            on_codec_changed=lane.renegotiate,
            on_slow=self._slow,
        )
        return broadcast if self._crew is None else self._crew.share(broadcast)

    def _slow(self, viewer: Seat) -> bool:
        watcher = self._by_viewer.get(viewer)
        return watcher is not None and self._layers.slow(watcher)

    def set_delay(self, project_id: str, room: str, seconds: float) -> None:
        """The room's playout delay is another from now on, for those who are watching too."""
        for lane in self._lanes.values():
            if (lane.room.project_id, lane.room.name) == (project_id, room):
                lane.broadcast.playout_delay = seconds

    def _expired(self, lane: Lane) -> None:
        key = (lane.room, lane.want)
        if self._lanes.get(key) is lane:
            del self._lanes[key]
        self._tasks.start(lane.close())

    async def _wait(self, lane: Lane) -> None:
        try:
            async with asyncio.timeout(READY):
                await lane.known.wait()
        except TimeoutError:
            raise NotFound(f"room {lane.room.name} has no picture yet", code="no-programme") from None

    def _sends(self, lane: Lane, offer: Offer) -> tuple[SendMedia, ...]:
        """Both kinds where they are offered, whether or not the room has both now: a late track needs no new session."""
        want = lane.want
        if want.video == "none":
            video: tuple[Codec, ...] = ()
        elif want.video == "realtime-h264":
            video = (Codec.H264,)
        else:
            known = lane.codec(Kind.VIDEO) or next((t.codec for t in lane.room.tracks if t.is_video), Codec.H264)
            video = (known,)
        return plan_whep(offer, video, (Codec.OPUS,) if want.audio == "opus" else (), _profiles(lane.tracks))


def _profiles(tracks: tuple[Track, ...]) -> dict[Codec, int]:
    """profile_idc, to pick the payload type that says the same."""
    return {t.codec: t.config[1] for t in tracks if t.codec is Codec.H264 and len(t.config) > 1}
