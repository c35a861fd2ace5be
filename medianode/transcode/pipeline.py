"""Pipeline: the one thread of a rendition. Mailbox in, stages, one batched `call_soon_threadsafe` out."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections import deque
from collections.abc import Callable

import av

from medianode.errors import LimitExceeded, PeerError, UnsupportedMedia
from medianode.media.packet import Packet
from medianode.transcode.derive import Output, Settings, Stage, Tally, derive
from medianode.transcode.mailbox import Item, Mailbox, Mark, Restart, Skipped

AUDIO_BATCH = 0.085
"""Seconds of sound that a thread with nothing else waits for, three packets of AAC: each wake-up costs as much as a packet does."""
REALTIME_BATCH = 0.07
"""The same where a viewer waits: three packets of AAC, and with what a read of the socket brings at once often four."""
MIN_PACKET = 0.0025
"""Seconds: Opus knows no shorter packet, so a smaller step is a clock that jumps."""
PATIENCE = 1.3
"""How many times as long it waits for them at most."""
NICE = 5
"""How much a thread that handles pictures stands back behind the event loop, which sends what others wait for."""

Deliver = Callable[[int, list[Output]], None]
Ended = Callable[[Exception | None], None]


class Pipeline:
    """Runs from `start` until its mailbox closes. `deliver(epoch, outputs)` and, last of all, `ended(error)` are called in the loop.

    `ended` gets None after a close, a PeerError where the source cannot be derived from, and any other exception where we have a bug.
    Every PyAV object is made, used and dropped in the thread. What it makes is for WebRTC with `realtime`.
    """

    def __init__(
        self, mailbox: Mailbox, settings: Settings, tally: Tally, deliver: Deliver, ended: Ended, *, realtime: bool = False
    ) -> None:
        self._mailbox = mailbox
        self._settings = settings
        self._realtime = realtime
        self._tally = tally
        self._deliver = deliver
        self._ended = ended
        self._loop = asyncio.get_running_loop()
        self._stages: dict[int, Stage] = {}
        self._epoch = 0
        self._batch = 0.0
        self._packet_seconds = 0.0
        self._newest: Packet | None = None
        self._keyframe_wanted = False
        self.ready: deque[tuple[int, list[Output]]] = deque()
        """Sound that waits for `collect`: the next packet of the source wakes the loop anyhow, and a wake-up costs more than the sound."""
        self._thread = threading.Thread(target=self._run, name="rendition", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def collect(self) -> None:
        """Called in the loop, where it is awake: deliver what is ready."""
        while self.ready:
            epoch, outputs = self.ready.popleft()
            self._deliver(epoch, outputs)

    def force_keyframe(self) -> None:
        """Called in the loop; the next picture becomes a key frame."""
        self._keyframe_wanted = True

    def _run(self) -> None:
        error: Exception | None = None
        try:
            while (items := self._take()) is not None:
                self._work(items)
        except Exception as e:  # noqa: BLE001 - the thread's guard: the loop is told, which reports a bug as one
            error = e
        finally:
            self._close()
            self._mailbox.close()
            self._post(lambda: self._ended(error))

    def _take(self) -> list[Item] | None:
        if self._packet_seconds == 0.0:
            return self._mailbox.take()
        linger, batch = self._batch * PATIENCE, max(1, int(self._batch / self._packet_seconds))
        items = self._mailbox.take(linger, batch, impatient=bool(self.ready))
        if self.ready:  # nobody came for it in the time of a batch: the source stands still
            self._post(self.collect)
        return self._mailbox.take(linger, batch) if items == [] else items

    def _measure(self, packet: Packet) -> None:
        """How long a packet of sound is, from the newest two."""
        before, self._newest = self._newest, packet
        if before is not None:
            seconds = (packet.pts - before.pts) / packet.track.clock_rate
            self._packet_seconds = seconds if MIN_PACKET <= seconds <= self._batch else 0.0

    def _work(self, items: list[Item]) -> None:
        outputs: list[Output] = []
        newest = {item.track.id: i for i, item in enumerate(items) if isinstance(item, Packet)}
        for i, item in enumerate(items):
            if self._mailbox.closed:
                return
            if isinstance(item, Packet):
                stage = self._stages.get(item.track.id)
                if self._batch:
                    self._measure(item)
                if stage is not None:
                    outputs += self._guarded(stage.push, item, newest[item.track.id] == i)
            elif isinstance(item, Restart):
                outputs = []
                self._restart(item)
                outputs += self._replay(item)
            elif isinstance(item, Skipped):
                for stage in self._stages.values():
                    stage.skipped()
        for stage in self._stages.values():
            outputs += self._guarded(stage.finish)
        if outputs:
            epoch = self._epoch
            if self._realtime and self._packet_seconds:
                self.ready.append((epoch, outputs))
            else:
                self._post(lambda: self._deliver(epoch, outputs))
        for item in items:
            if isinstance(item, Mark):
                self._post(item.passed)

    def _guarded(self, step: Callable[..., list[Output]], *arguments: object) -> list[Output]:
        """An encoder that FFmpeg fails in is passed over as a bad packet is; what we refuse on purpose ends the pipeline."""
        if self._keyframe_wanted:
            self._keyframe_wanted = False
            for stage in self._stages.values():
                stage.force_keyframe()
        try:
            return step(*arguments)
        except av.FFmpegError as e:
            self._tally.fault(UnsupportedMedia(str(e), code="encoder-failed"))
            return []

    def _restart(self, restart: Restart) -> None:
        self._close()
        self._epoch = restart.epoch
        pictures = any(order.track.is_video for order in restart.orders)
        for order in restart.orders:
            try:
                self._stages[order.track.id] = derive(order, self._settings, self._tally, realtime=self._realtime)
            except LimitExceeded:
                raise
            except PeerError as e:
                if order.track.is_video or not pictures:
                    raise
                self._tally.fault(e)  # pictures without sound are better than nothing
        self._batch = 0.0 if pictures else REALTIME_BATCH if self._realtime else AUDIO_BATCH
        self._packet_seconds, self._newest = 0.0, None
        if pictures:
            with contextlib.suppress(OSError):  # a sandbox that forbids it: then it stays level with the others
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)

    def _replay(self, restart: Restart) -> list[Output]:
        outputs: list[Output] = []
        for packet in restart.replay:
            if self._mailbox.closed:
                break
            stage = self._stages.get(packet.track.id)
            if stage is not None:
                outputs += self._guarded(stage.push, packet, packet is restart.replay[-1])
        return outputs

    def _close(self) -> None:
        for stage in self._stages.values():
            stage.close()
        self._stages = {}

    def _post(self, callback: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
            self._loop.call_soon_threadsafe(callback)
