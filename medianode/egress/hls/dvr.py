"""Disk: the DVR window of one room's variant. Segments are written and deleted in a thread; a full disk ends it, and says so."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path

from medianode import telemetry
from medianode.egress.hls.window import Stored

log = logging.getLogger("medianode.hls")
PENDING = 16
"""Segments that may wait for the disk; one more and it is too slow to be of use."""

FAILURES = telemetry.counter("medianode_hls_dvr_failures_total", "DVR windows given up because of the disk")
WRITTEN = telemetry.counter("medianode_hls_dvr_written_bytes_total", "Bytes written for DVR windows")


class Disk:
    """A Shelf. `folder` is its own; `bound` bytes. `run` does the work, and removes the folder when it is cancelled."""

    def __init__(self, folder: Path, bound: int) -> None:
        self.folder = folder
        self.healthy = True
        self.nbytes = 0
        self._bound = bound
        self._saves: deque[tuple[Stored, Callable[[], None]]] = deque()
        self._drops: deque[Path] = deque()
        self._work = asyncio.Event()
        self._lock = threading.Lock()
        self._removed = False

    @property
    def full(self) -> bool:
        return self.nbytes > self._bound

    def save(self, segment: Stored, done: Callable[[], None]) -> None:
        """Write it soon; then `path` is set and `done` called. `done` is also called when the disk is given up."""
        if len(self._saves) >= PENDING:
            self._fail("too slow", done)
            return
        self._saves.append((segment, done))
        self._work.set()

    def drop(self, segment: Stored) -> None:
        if segment.path is not None:
            self._drops.append(segment.path)
            self.nbytes -= segment.nbytes
            segment.path = None
            self._work.set()

    async def run(self) -> None:
        try:
            while True:
                await self._work.wait()
                self._work.clear()
                while self._drops:
                    await asyncio.to_thread(self._drops.popleft().unlink, missing_ok=True)
                while self._saves and self.healthy:
                    await self._save(*self._saves.popleft())
        finally:
            await asyncio.shield(asyncio.to_thread(self._remove))

    async def _save(self, segment: Stored, done: Callable[[], None]) -> None:
        body = segment.body
        if body is None:
            return
        path = self.folder / segment.info.uri
        try:
            await asyncio.to_thread(self._write, path, body.whole())
        except OSError as e:
            self._fail(e.strerror or type(e).__name__, done)
            return
        WRITTEN.labels().value += segment.nbytes
        segment.path = path
        self.nbytes += segment.nbytes
        if segment.body is None:
            self.drop(segment)
        done()

    def _write(self, path: Path, body: bytes) -> None:
        """In a thread, which outlives the cancelled `run`: the lock keeps it from writing into what `_remove` takes away."""
        with self._lock:
            if not self._removed:
                _write(path, body)

    def _remove(self) -> None:
        with self._lock:
            self._removed = True
            shutil.rmtree(self.folder, ignore_errors=True)
            with contextlib.suppress(OSError):  # not empty: another window of the same room
                self.folder.parent.rmdir()

    def _fail(self, why: str, done: Callable[[], None]) -> None:
        self.healthy = False
        self._saves.clear()
        FAILURES.labels().value += 1
        log.error("%s: DVR given up, the playlist falls back to memory: %s", self.folder.name, why)
        done()


def _write(path: Path, body: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.write_bytes(body)
    except OSError:
        path.unlink(missing_ok=True)
        raise
