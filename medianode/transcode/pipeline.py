"""Pipeline: the one thread of a rendition. Mailbox in, stages, one batched `call_soon_threadsafe` out."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable

import av

from medianode.errors import LimitExceeded, PeerError, UnsupportedMedia
from medianode.media.packet import Packet
from medianode.media.track import Codec, Track
from medianode.transcode.derive import Output, Settings, Stage, Tally, derive
from medianode.transcode.mailbox import Item, Mailbox, Restart, Skipped

AUDIO_LINGER = 0.06
"""Seconds that a thread with nothing but sound waits for its batch to grow: it wakes 16 times a second and not 47."""

Deliver = Callable[[int, list[Output]], None]
Ended = Callable[[Exception | None], None]


class Pipeline:
    """Runs from `start` until its mailbox closes. `deliver(epoch, outputs)` and, last of all, `ended(error)` are called in the loop.

    `ended` gets None after a close, a PeerError where the source cannot be derived from, and any other exception where we have a bug.
    Every PyAV object is made, used and dropped in the thread.
    """

    def __init__(
        self, mailbox: Mailbox, choose: Callable[[Track], Codec | None], settings: Settings, tally: Tally, deliver: Deliver, ended: Ended
    ) -> None:
        self._mailbox = mailbox
        self._choose = choose
        self._settings = settings
        self._tally = tally
        self._deliver = deliver
        self._ended = ended
        self._loop = asyncio.get_running_loop()
        self._stages: dict[int, Stage] = {}
        self._epoch = 0
        self._linger = 0.0
        self._keyframe_wanted = False
        self._thread = threading.Thread(target=self._run, name="rendition", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def force_keyframe(self) -> None:
        """Called in the loop; the next picture becomes a key frame."""
        self._keyframe_wanted = True

    def _run(self) -> None:
        error: Exception | None = None
        try:
            while (items := self._mailbox.take(self._linger)) is not None:
                self._work(items)
        except Exception as e:  # noqa: BLE001 - the thread's guard: the loop is told, which reports a bug as one
            error = e
        finally:
            self._close()
            self._mailbox.close()
            self._post(lambda: self._ended(error))

    def _work(self, items: list[Item]) -> None:
        outputs: list[Output] = []
        newest = {item.track.id: i for i, item in enumerate(items) if isinstance(item, Packet)}
        for i, item in enumerate(items):
            if self._mailbox.closed:
                return
            if isinstance(item, Packet):
                stage = self._stages.get(item.track.id)
                if stage is not None:
                    outputs += self._guarded(stage.push, item, newest[item.track.id] == i)
            elif isinstance(item, Restart):
                outputs = []
                self._restart(item)
            elif isinstance(item, Skipped):
                for stage in self._stages.values():
                    stage.skipped()
        for stage in self._stages.values():
            outputs += self._guarded(stage.finish)
        if outputs:
            epoch = self._epoch
            self._post(lambda: self._deliver(epoch, outputs))

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
        for track in restart.tracks:
            codec = self._choose(track)
            if codec is None:
                continue
            try:
                self._stages[track.id] = derive(track, codec, self._settings, self._tally)
            except LimitExceeded:
                raise
            except PeerError as e:
                if track.is_video or not any(other.is_video for other in restart.tracks):
                    raise
                self._tally.fault(e)  # pictures without sound are better than nothing
        self._linger = 0.0 if any(track.is_video for track in restart.tracks) else AUDIO_LINGER

    def _close(self) -> None:
        for stage in self._stages.values():
            stage.close()
        self._stages = {}

    def _post(self, callback: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
            self._loop.call_soon_threadsafe(callback)
