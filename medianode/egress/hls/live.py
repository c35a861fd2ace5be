"""LiveRoom: one room on air as HLS sees it: its variants, which start and stop, and its viewers."""

from __future__ import annotations

import asyncio
import logging
import secrets
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

import msgspec

from medianode import clock, telemetry
from medianode.config import Hls, Limits
from medianode.egress.hls.budget import Budget
from medianode.egress.hls.dvr import Disk
from medianode.egress.hls.muxers import Fmp4, Ts, passes, plan, plan_layer
from medianode.egress.hls.packager import Packager
from medianode.egress.hls.playlists import Playlist, Waiting
from medianode.egress.hls.viewers import Viewers
from medianode.egress.hls.window import Start, Window
from medianode.errors import LimitExceeded, MedianodeError, NotFound
from medianode.media.packet import Gap, Packet
from medianode.media.track import Track
from medianode.routing.feed import Feed
from medianode.routing.room import Room
from medianode.tasks import TaskSet
from medianode.transcode.renditions import Want

log = logging.getLogger("medianode.hls")

VARIANTS = ("main", "aac", "ts")
LAYER = "layer"
"""Begins the name of a variant that is a layer of a simulcast publisher; its track's id follows."""
LINGER = 30.0
"""Seconds after its end that a room's playlists, with EXT-X-ENDLIST, and segments stay: players finish what they have listed."""
EPOCH = 1_735_689_600.0
"""2025-01-01: media sequences start at the segments since then, so that they grow even over a restart of the node."""


class Transcoder(Protocol):
    """transcode.Renditions."""

    def acquire(self, source: Feed, want: Want, idle: float) -> AbstractAsyncContextManager[Feed]: ...


class House:
    """What all live rooms of the node share. `windows`: by the token in their file names."""

    def __init__(self, renditions: Transcoder, config: Hls, limits: Limits, folder: Path) -> None:
        self.renditions = renditions
        self.config = config
        self.limits = limits
        self.folder = folder
        self.budget = Budget(limits.hls_room_bytes, limits.hls_total_bytes)
        self.waiting = Waiting(limits.hls_waiting_requests)
        self.tasks = TaskSet("hls", 4 * limits.rooms)
        self.windows: dict[str, tuple[object, Playlist]] = {}


class Variant:
    """One packager and what feeds it: the room itself, or a rendition of it."""

    def __init__(self, live: LiveRoom, name: str, want: Want, start: Start) -> None:
        house, config = live.house, live.config
        self.name = name
        self.want = want
        self.last_used = clock.now()
        self.error: MedianodeError | None = None
        is_ts = name == "ts" or config.container == "ts"
        parts = config.low_latency and not is_ts
        token = secrets.token_hex(8)
        self.window = Window(config, house.budget, live.key, name, token, start=start, parts=parts)
        self.playlist = Playlist(self.window, house.waiting)
        self.packager = Packager(self.window, Ts() if is_ts else Fmp4(), config, house.limits, self._ask, want.video_track)
        self._live = live
        self._feed: Feed | None = None
        self._task: asyncio.Task[object] | None = None
        self._disk: asyncio.Task[object] | None = None
        house.windows[token] = (live.key, self.playlist)
        if name == "main" and house.config.dvr_window:
            disk = Disk(house.folder / quote(live.room.name, safe="") / token, house.limits.dvr_room_bytes)
            self.window.shelf = disk
            self._disk = house.tasks.start(disk.run())
        self._join()
        telemetry.session(log, "variant started", room=live.room.name, variant=name, video=want.video, audio=want.audio)

    @property
    def on_demand(self) -> bool:
        return self.name != "main" or not self._passes

    def switch(self, want: Want) -> None:
        """The source's tracks changed: feed the same packager from elsewhere where that is needed."""
        if want != self.want:
            self._leave()
            self.packager.on_gap(Gap("track-changed"))
            self.want = want
            self._join()

    def finish(self) -> None:
        """The room is over: EXT-X-ENDLIST."""
        self._leave()
        self.packager.finish()
        self.playlist.release()

    def close(self) -> None:
        """Let go of everything, files included."""
        self._leave()
        self._live.house.windows.pop(self.window.token, None)
        self.window.close()
        self.playlist.release()
        if self._disk is not None:
            self._disk.cancel()

    def check(self) -> None:
        """Raises what keeps this variant from being made."""
        error = self.error or self.packager.error
        if error is not None:
            raise error

    def _ask(self) -> None:
        if self._feed is not None:
            self._feed.request_keyframe()

    @property
    def _passes(self) -> bool:
        """Nothing is decoded for it, in the room neither."""
        return passes(self.want) and not self._live.room.treated

    def _join(self) -> None:
        if self._passes:
            self._feed = self._live.room
            self._feed.attach(self.packager)
        else:
            self._task = self._live.house.tasks.start(self._render(self.want))

    def _leave(self) -> None:
        if self._feed is not None:
            self._feed.detach(self.packager)
            self._feed = None
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def _render(self, want: Want) -> None:
        try:
            async with self._live.house.renditions.acquire(self._live.room, want, 0.0) as feed:
                self._feed = feed
                feed.attach(self.packager)
                await asyncio.get_running_loop().create_future()
        except MedianodeError as e:
            self.error = e
            self.playlist.release()
            raise


class LiveRoom:
    """A Sink of the room, for its tracks and its end only. `floors`: the lowest numbers of each variant that starts.

    `config`: the node's, without parts and with longer segments where the live stream is not of low latency.
    """

    passive = True

    def __init__(self, house: House, room: Room, floors: dict[str, Start]) -> None:
        self.house = house
        self.room = room
        self.key = (room.project_id, room.name)
        self.variants: dict[str, Variant] = {}
        self.viewers = Viewers()
        self.ended_at = 0.0
        self.floors = floors
        standard = {"low_latency": False, "segment_duration": house.config.standard_segment_duration}
        self.config = house.config if room.low_latency else msgspec.structs.replace(house.config, **standard)
        room.attach(self, replay=False)

    def on_tracks(self, tracks: tuple[Track, ...]) -> None:
        for variant in self.variants.values():
            want = self._plan(variant.name, tracks)
            if want is not None:
                variant.switch(want)
        want = self._plan("main", tracks)
        if want is not None and passes(want) and "main" not in self.variants and not self.room.treated:
            self._start("main", want)

    def on_packet(self, packet: Packet) -> None:
        """The packagers see them."""

    def on_gap(self, gap: Gap) -> None:
        """The packagers see them."""

    def on_end(self, cause: str) -> None:
        self.ended_at = clock.now()
        self.room.viewers.pop("hls", None)
        for variant in self.variants.values():
            variant.finish()

    def use(self, name: str) -> Variant:
        """The variant, started where it is on demand. Raises NotFound where it has no use, and what keeps it from being made."""
        variant = self.variants.get(name)
        if self.ended_at:
            if variant is None or not variant.window.started:
                raise NotFound(f"room {self.room.name} has ended", code="no-programme")
            return variant
        if variant is not None and (variant.error is not None or variant.window.ended):
            self.drop(name)
            variant = None
        if variant is None:
            want = self._plan(name, self.room.tracks)
            if want is None:
                raise NotFound(f"room {self.room.name} is between publishers; {name} starts when one is back", code="no-programme")
            variant = self._start(name, want)
        variant.last_used = clock.now()
        return variant

    def drop(self, name: str) -> None:
        variant = self.variants.pop(name)
        self.floors[name] = variant.window.successor
        variant.close()

    def tend(self, now: float) -> None:
        """Once a second: viewers that left, variants that nobody asked for."""
        self.viewers.expire(now)
        if not self.ended_at:
            self.room.viewers["hls"] = len(self.viewers)
            idle = self.house.config.rendition_idle
            for name in [name for name, v in self.variants.items() if v.on_demand and now - v.last_used > idle]:
                telemetry.session(log, "variant idle", room=self.room.name, variant=name)
                self.drop(name)

    def close(self) -> None:
        if not self.ended_at:
            self.room.viewers.pop("hls", None)
        self.room.detach(self)
        for name in tuple(self.variants):
            self.drop(name)

    def count(self, key: str, now: float) -> None:
        """Count a player. Raises LimitExceeded `room-full`."""
        if key not in self.viewers and not self.ended_at:
            bound = self.house.limits.viewers_per_room
            self.room.viewers["hls"] = len(self.viewers)
            if sum(self.room.viewers.values()) >= bound:
                raise LimitExceeded(f"room {self.room.name} has {bound} viewers already", code="room-full")
            self.room.viewers["hls"] += 1
        self.viewers.seen(key, now)

    def layers(self) -> list[tuple[str, Track, float]]:
        """(name, track, bits per second with sound) of each layer that comes and is smaller than what `main` shows, the best one first."""
        programme = self.room.programme
        if programme is None or (video := self.room.video) is None:
            return []
        area = video.width * video.height
        sound = sum(programme.meters[track.id].bitrate for track in programme.tracks if not track.is_video)
        found = [
            (f"{LAYER}{track.id}", track, programme.meters[track.id].bitrate + sound)
            for track in self.room.tracks
            if track.layer and track.width * track.height < area and programme.meters[track.id].bitrate > 0
        ]
        found = [layer for layer in found if self._plan(layer[0], self.room.tracks) is not None]
        return sorted(found, key=lambda layer: layer[1].width * layer[1].height, reverse=True)

    def _plan(self, name: str, tracks: tuple[Track, ...]) -> Want | None:
        if name.startswith(LAYER):
            return plan_layer(int(name.removeprefix(LAYER)), tracks, ts=self.house.config.container == "ts")
        return plan(name, tracks, ts=self.house.config.container == "ts")

    def _start(self, name: str, want: Want) -> Variant:
        # by the node's segment_duration in either mode, as the numbers of a room must not go back when it changes
        first = int((clock.wallclock() - EPOCH) / self.house.config.segment_duration)
        floor = self.floors.get(name, Start(0))
        variant = self.variants[name] = Variant(self, name, want, Start(max(first, floor.msn), floor.discontinuity))
        return variant
