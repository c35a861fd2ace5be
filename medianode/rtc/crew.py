"""The fan-out over several processes (`rtc.workers`): who serves which viewer, and what becomes of a worker's viewers when it dies.

The daemon keeps STUN, DTLS, RTCP in and SRTCP out; a worker has all RTP of its viewers. Where a worker is lost nobody knows the last SRTP
index that it used, and using one again would give GCM's key away: so its viewers' peers are closed, and reconnect with fresh keys.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import socket
import subprocess
import sys
from typing import Any

import msgspec

from medianode import clock, telemetry
from medianode.config import Limits
from medianode.errors import PeerGone, UnsupportedMedia
from medianode.media.gop import GopCache
from medianode.media.packet import Gap, Packet
from medianode.media.track import Kind, Track
from medianode.protocols.sdp.plan import SendMedia
from medianode.rtc import messages as m
from medianode.rtc.fanout import Broadcast
from medianode.rtc.flow import Peer
from medianode.rtc.viewer import Stats, Viewer

log = logging.getLogger("medianode.rtc.crew")
LOST = telemetry.counter("medianode_rtc_workers_lost_total", "Fan-out workers that ended by themselves")
QUICK_DEATH = 10.0
MAX_PAUSE = 5.0
_UNKNOWN = Stats(0, 0, 0, {}, 0.0, 0, 0.0, "catching-up", "late-join")


class RemoteViewer:
    """A viewer that a worker serves; to its owner the same as `Viewer`."""

    def __init__(self, number: int, peer: Peer, cast: SharedBroadcast, link: Link) -> None:
        self.number = number
        self.peer = peer
        self.cast = cast
        self.link = link
        self.closed = False
        self.stats = _UNKNOWN
        """As of the last second."""
        self._address: Any = peer.address

    def rtcp(self, packet: bytes, now: float) -> None:
        if not self.closed:
            self.follow()
            self.link.pipe.send(m.Feedback(self.number, packet))

    def follow(self) -> None:
        """Tell the worker where the peer is now."""
        peer = self.peer
        if peer.address is self._address and peer.stream is None:
            return
        if peer.stream is not None:
            self.cast.remove(self)
            peer.close(PeerGone("it went over to TCP, which a fan-out worker cannot follow", code="worker-lost"))
            return
        self._address = peer.address
        self.link.pipe.send(m.Moved(self.number, list(peer.address), peer.ancillary))


class SharedBroadcast:
    """As `Broadcast`, with the viewers spread over the crew's workers; those on TCP, and all while no worker is up, are served here."""

    def __init__(self, crew: Crew, number: int, local: Broadcast) -> None:
        self.local = local
        self.number = number
        self.tracks: tuple[Track, ...] = ()
        self.gop = GopCache(crew.limits.gop_packets, crew.limits.gop_bytes)
        self._crew = crew
        self._remote: dict[RemoteViewer, None] = {}

    @property
    def ssrcs(self) -> dict[Kind, tuple[int, int | None]]:
        return self.local.ssrcs

    @property
    def cname(self) -> str:
        return self.local.cname

    @property
    def viewers(self) -> tuple[Viewer | RemoteViewer, ...]:
        return (*self.local.viewers, *self._remote)

    @property
    def playout_delay(self) -> float:
        return self.local.playout_delay

    @playout_delay.setter
    def playout_delay(self, seconds: float) -> None:
        self.local.playout_delay = seconds
        self._crew.tell(m.Playout(self.number, seconds))

    def add(self, peer: Peer, sends: tuple[SendMedia, ...]) -> Viewer | RemoteViewer:
        link = self._crew.freest()
        if link is None or peer.stream is not None or peer.sealer is None:
            return self.local.add(peer, sends)
        for media in sends:
            codec = self.local.channels[media.kind].codec
            if codec is not None and codec is not media.codec:
                raise UnsupportedMedia(f"{media.kind.value}: expected {codec.value}, got {media.codec.value}", code="codec-changed")
        viewer = RemoteViewer(self._crew.number(), peer, self, link)
        link.viewers[viewer.number] = viewer
        self._remote[viewer] = None
        keys, address = peer.sealer.keys, list(peer.address)
        link.pipe.send(m.Join(self.number, viewer.number, keys.profile.name, keys.material, address, peer.ancillary, list(sends)))
        return viewer

    def remove(self, viewer: Viewer | RemoteViewer) -> None:
        """Idempotent."""
        if isinstance(viewer, Viewer):
            self.local.remove(viewer)
            return
        self._remote.pop(viewer, None)
        if not viewer.closed:
            viewer.closed = True
            viewer.link.viewers.pop(viewer.number, None)
            viewer.link.pipe.send(m.Leave(viewer.number))

    def move(self, viewer: Viewer | RemoteViewer, to: SharedBroadcast) -> None:
        if isinstance(viewer, Viewer):
            self.local.move(viewer, to.local)
        elif not viewer.closed:
            viewer.link.pipe.send(m.Switch(viewer.number, to.number))

    def on_tracks(self, tracks: tuple[Track, ...]) -> None:
        self.tracks = tracks
        self._restart_gop()
        self.local.on_tracks(tracks)
        self._crew.tell(self.tracks_message())

    def on_packet(self, packet: Packet) -> None:
        self.gop.push(packet)
        self.local.on_packet(packet)
        self._crew.tell(self.media_message(packet), self._crew.limits.rtc_unsent_bytes)
        if packet.track.is_video:
            for viewer in tuple(self._remote):
                viewer.follow()

    def on_gap(self, gap: Gap) -> None:
        self._restart_gop()
        self.local.on_gap(gap)
        self._crew.tell(m.Break(self.number, gap.cause))

    def _restart_gop(self) -> None:
        self.gop.start(next((track.id for track in self.tracks if track.is_video), None))

    def on_end(self, cause: str) -> None:
        self.local.on_end(cause)

    def close(self) -> None:
        for viewer in tuple(self._remote):
            self.remove(viewer)
        self.local.close()
        self._crew.forget(self)

    def tracks_message(self) -> m.Tracks:
        return m.Tracks(self.number, [m.track_fields(track) for track in self.tracks])

    def media_message(self, packet: Packet) -> m.Media:
        track, data, pts, dts, keyframe, at = packet
        return m.Media(self.number, track.id, data, pts, dts, keyframe, at)

    def open_message(self) -> m.Open:
        ssrcs = [(kind.value, ssrc, rtx) for kind, (ssrc, rtx) in self.ssrcs.items()]
        return m.Open(self.number, ssrcs, self.cname, self.playout_delay)


class Link:
    """One worker as the daemon sees it."""

    def __init__(self, crew: Crew) -> None:
        self.crew = crew
        self.viewers: dict[int, RemoteViewer] = {}
        self.up = False
        self.ended = asyncio.Event()
        self.process: subprocess.Popen[bytes] | None = None
        self.pipe = m.Pipe(self._received, self._lost)

    async def start(self) -> None:
        """Spawn it and tell it all that it must know."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        udp = self.crew.sock.fileno()
        command = [sys.executable, "-m", "medianode.rtc.worker", str(udp), str(theirs.fileno())]
        with theirs:
            # blocks for the milliseconds of an exec, at the start and after a crash
            self.process = subprocess.Popen(command, pass_fds=(udp, theirs.fileno()), stdin=subprocess.DEVNULL)  # noqa: ASYNC220, S603
        await asyncio.get_running_loop().create_connection(lambda: self.pipe, sock=ours)
        self.pipe.send(m.Hello(msgspec.to_builtins(self.crew.limits)))
        for cast in self.crew.casts.values():
            self.open(cast)
        self.up = True

    def open(self, cast: SharedBroadcast) -> None:
        self.pipe.send(cast.open_message())
        if cast.tracks:
            self.pipe.send(cast.tracks_message())
            for packet in cast.gop.packets:
                self.pipe.send(cast.media_message(packet))

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()

    def stop(self) -> None:
        """Kill and reap it; a process that was killed is gone in a moment."""
        self.kill()
        if self.process is not None:
            self.process.wait()
        self.pipe.close()

    def _lost(self) -> None:
        self.up = False
        self.stop()
        viewers, self.viewers = self.viewers, {}
        for viewer in viewers.values():
            viewer.cast.remove(viewer)
            viewer.peer.close(PeerGone("its fan-out worker ended", code="worker-lost"))
        self.ended.set()

    def _received(self, message: Any) -> None:
        if isinstance(message, m.Figures):
            for number, stats in message.viewers:
                viewer = self.viewers.get(number)
                if viewer is not None:
                    viewer.stats = stats
        elif isinstance(message, m.Keyframe):
            cast = self.crew.casts.get(message.cast)
            if cast is not None:
                cast.local.want_keyframe(clock.now())
        elif (viewer := self.viewers.get(message.viewer)) is None:
            return  # it left while this was on its way
        elif isinstance(message, m.Control):
            viewer.peer.send_rtcp(message.packet)
        elif isinstance(message, m.Slow):
            if viewer.cast.local.on_slow is not None:
                viewer.cast.local.on_slow(viewer)
        elif isinstance(message, m.Failed):
            viewer.cast.remove(viewer)
            viewer.peer.close(PeerGone(message.reason, code="seal-failed"))


class Crew:
    """`count` workers on the daemon's UDP socket. `serve` keeps them up; without it, or while none is up, all is served here."""

    def __init__(self, sock: socket.socket, limits: Limits, count: int) -> None:
        self.sock = sock
        self.limits = limits
        self.casts: dict[int, SharedBroadcast] = {}
        self.links: list[Link] = []
        self._count = count
        self._numbers = itertools.count(1)

    async def serve(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._count):
                    group.create_task(self._keep())
        finally:
            for link in tuple(self.links):
                link.stop()

    def share(self, local: Broadcast) -> SharedBroadcast:
        """Spread a broadcast over the workers."""
        cast = SharedBroadcast(self, self.number(), local)
        self.casts[cast.number] = cast
        for link in self.links:
            if link.up:
                link.open(cast)
        return cast

    def forget(self, cast: SharedBroadcast) -> None:
        if self.casts.pop(cast.number, None) is not None:
            self.tell(m.Close(cast.number))

    def number(self) -> int:
        return next(self._numbers)

    def freest(self) -> Link | None:
        return min((link for link in self.links if link.up), key=lambda link: len(link.viewers), default=None)

    def tell(self, message: m.Message, max_unsent: int = 0) -> None:
        """All workers. One with more than `max_unsent` bytes unread stands still: it is put out, and its viewers reconnect."""
        for link in self.links:
            if link.up:
                link.pipe.send(message)
                if max_unsent and link.pipe.unsent > max_unsent:
                    log.error("a fan-out worker has not read %d bytes; it is put out", link.pipe.unsent)
                    link.kill()

    async def _keep(self) -> None:
        """One worker, started again whenever it ends."""
        pause = 0.1
        while True:
            link = Link(self)
            self.links.append(link)
            started_at = clock.now()
            reason = "it ended"
            try:
                await link.start()
                await link.ended.wait()
            except OSError as e:
                reason = e.strerror or str(e)
            finally:
                self.links.remove(link)
                link.stop()
            LOST.labels().value += 1
            pause = 0.1 if clock.now() - started_at > QUICK_DEATH else min(MAX_PAUSE, pause * 2)
            log.error("fan-out worker: %s; its viewers reconnect, another starts in %.1f s", reason, pause)
            await asyncio.sleep(pause)
