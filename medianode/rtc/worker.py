"""A fan-out worker: a process of its own that seals and sends the RTP of its viewers, retransmissions included.

    python -m medianode.rtc.worker UDP_FD PIPE_FD

It is a fresh interpreter, not a fork: the daemon has threads. The UDP socket is the daemon's, inherited; STUN, DTLS and RTCP stay with the
daemon, which hands over keys, addresses, access units and what viewers report. Each SRTP index is so produced by one process only.
It lives as long as the pipe.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any

import msgspec
import uvloop

from medianode import clock, telemetry
from medianode.config import Limits
from medianode.errors import MedianodeError, UnsupportedMedia
from medianode.media.packet import Gap, Packet
from medianode.media.track import Kind, Track
from medianode.rtc import messages as m
from medianode.rtc.batch import Batch
from medianode.rtc.fanout import Broadcast
from medianode.rtc.flow import Stream
from medianode.rtc.srtp import Keys, Profile, Sealer
from medianode.rtc.viewer import Viewer


class RemotePeer:
    """The daemon's peer, as far as a worker needs it."""

    def __init__(self, number: int, worker: Worker, join: m.Join) -> None:
        self.stream: Stream | None = None
        self.rtt = 0.0
        self.number = number
        self.sealer: Sealer | None = Sealer(Keys(Profile[join.profile], join.material))
        self.address: Any = tuple(join.address)
        self.ancillary = join.ancillary
        self._worker = worker

    def send_rtcp(self, plain: bytes) -> None:
        self._worker.pipe.send(m.Control(self.number, plain))

    def close(self, error: MedianodeError | None = None) -> None:
        self._worker.pipe.send(m.Failed(self.number, str(error)))


class Worker:
    """One method per message."""

    def __init__(self, sock: socket.socket, done: asyncio.Event) -> None:
        self.pipe = m.Pipe(self._received, done.set)
        self._sock = sock
        self._limits = Limits()
        self._batch = Batch(sock, self._limits.rtc_unsent_bytes)
        self._casts: dict[int, Broadcast] = {}
        self._tracks: dict[int, dict[int, Track]] = {}
        self._viewers: dict[int, tuple[Broadcast, Viewer]] = {}
        self._methods: dict[Any, Callable[[Any], None]] = {
            m.Hello: self._hello, m.Open: self._open, m.Close: self._close, m.Playout: self._playout, m.Tracks: self._set_tracks,
            m.Media: self._media, m.Break: self._break, m.Join: self._join, m.Leave: self._leave, m.Moved: self._moved,
            m.Switch: self._switch, m.Feedback: self._feedback,
        }  # fmt: skip

    def _received(self, message: Any) -> None:
        self._methods[type(message)](message)

    def _hello(self, message: m.Hello) -> None:
        self._limits = msgspec.convert(message.limits, Limits)
        self._batch = Batch(self._sock, self._limits.rtc_unsent_bytes)

    def _open(self, message: m.Open) -> None:
        number = message.cast
        cast = Broadcast(
            self._batch,
            self._limits,
            playout_delay=message.playout_delay,
            request_keyframe=lambda: self.pipe.send(m.Keyframe(number)),
            on_slow=self._slow,
        )
        cast.adopt({Kind(kind): (ssrc, rtx) for kind, ssrc, rtx in message.ssrcs}, message.cname)
        self._casts[number] = cast
        self._tracks[number] = {}

    def _close(self, message: m.Close) -> None:
        self._casts.pop(message.cast).close()
        del self._tracks[message.cast]

    def _playout(self, message: m.Playout) -> None:
        self._casts[message.cast].playout_delay = message.seconds

    def _set_tracks(self, message: m.Tracks) -> None:
        tracks = tuple(map(m.track_of, message.tracks))
        self._tracks[message.cast] = {track.id: track for track in tracks}
        self._casts[message.cast].on_tracks(tracks)

    def _media(self, message: m.Media) -> None:
        track = self._tracks[message.cast].get(message.track)
        if track is not None:
            packet = Packet(track, message.data, message.pts, message.dts, message.keyframe, message.received_at)
            self._casts[message.cast].on_packet(packet)

    def _break(self, message: m.Break) -> None:
        self._casts[message.cast].on_gap(Gap(message.cause))

    def _join(self, message: m.Join) -> None:
        cast, peer = self._casts[message.cast], RemotePeer(message.viewer, self, message)
        try:
            self._viewers[message.viewer] = (cast, cast.add(peer, tuple(message.sends)))
        except MedianodeError as e:  # the codec changed while this was on its way
            peer.close(e)

    def _leave(self, message: m.Leave) -> None:
        found = self._viewers.pop(message.viewer, None)
        if found is not None:
            found[0].remove(found[1])

    def _moved(self, message: m.Moved) -> None:
        found = self._viewers.get(message.viewer)
        if found is not None:
            peer: Any = found[1].peer
            peer.address, peer.ancillary = tuple(message.address), message.ancillary

    def _switch(self, message: m.Switch) -> None:
        found, to = self._viewers.get(message.viewer), self._casts.get(message.to)
        if found is not None and to is not None:
            with contextlib.suppress(UnsupportedMedia):  # the codec changed while this was on its way: the daemon closes the viewer
                found[0].move(found[1], to)

    def _feedback(self, message: m.Feedback) -> None:
        found = self._viewers.get(message.viewer)
        if found is not None:
            found[1].rtcp(message.packet, clock.now())

    def _slow(self, viewer: Viewer) -> bool:
        """The daemon may move it; it is thinned meanwhile."""
        number = next((number for number, found in self._viewers.items() if found[1] is viewer), None)
        if number is not None:
            self.pipe.send(m.Slow(number))
        return False

    async def figures(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            if self._viewers:
                self.pipe.send(m.Figures([(number, viewer.stats) for number, (_, viewer) in self._viewers.items()]))


async def work(udp: int, pipe: int) -> None:
    done = asyncio.Event()
    sock = socket.socket(fileno=udp)
    worker = Worker(sock, done)
    await asyncio.get_running_loop().create_connection(lambda: worker.pipe, sock=socket.socket(fileno=pipe))
    async with asyncio.TaskGroup() as group:
        figures = group.create_task(worker.figures())
        await done.wait()
        figures.cancel()


def main() -> None:
    # the daemon decides when we end: a Ctrl-C in its terminal and systemd's SIGTERM reach us too
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    telemetry.configure_logs("warning", "text")
    uvloop.run(work(int(sys.argv[1]), int(sys.argv[2])))


if __name__ == "__main__":
    main()
