"""Writer: the one thread that writes the recordings of one filesystem, some batches a second over all of them: write, then sync.

A job that the disk refuses stays at the head of its reel and is tried again: what waits behind it is bounded by the session, not here.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, Protocol

from medianode import clock
from medianode.egress.recorder.filesystem import Filesystem
from medianode.tasks import guarded

log = logging.getLogger("medianode.recorder")
BATCH = 0.15
"""Seconds from batch to batch: what comes meanwhile is written together."""
RETRY = 1.0
"""Seconds after which a disk that refused is tried again."""
FULL = frozenset({errno.ENOSPC, errno.EDQUOT})

Fsync = Literal["part", "file", "never"]


class Owner(Protocol):
    """Called in the loop."""

    def landed(self, job: Job) -> None:
        """It is done: under `fsync = "part"`, and for a close, on the disk."""

    def refused(self, code: str, message: str) -> None:
        """The disk did not take the next job; it is tried again."""

    def broken(self, code: str, message: str) -> None:
        """What was written may not be on the disk: a sync failed."""


class Job:
    """`nbytes`: memory that it holds, and what it adds to the file."""

    __slots__ = ("nbytes", "pieces", "queued_at")

    def __init__(self, pieces: Sequence[bytes] = ()) -> None:
        self.pieces = list(pieces)
        self.nbytes = sum(map(len, self.pieces))
        self.queued_at = clock.now()


class Open(Job):
    """A new file, which begins with the pieces."""

    __slots__ = ("path",)

    def __init__(self, path: Path, pieces: Sequence[bytes]) -> None:
        super().__init__(pieces)
        self.path = path


class Write(Job):
    """One part, whole or not at all."""


class Close(Job):
    """The file is complete."""


class End(Job):
    """Nothing follows."""


class Reel:
    """The jobs of one recording in order; its open file. `broken`: its newest sync failed. `give_up_at`: `clock.now()` from which on a job
    that is refused is dropped.
    """

    __slots__ = ("broken", "dirty", "fd", "give_up_at", "jobs", "lost", "not_before", "owner", "size")

    def __init__(self, owner: Owner) -> None:
        self.owner = owner
        self.jobs: deque[Job] = deque()
        self.fd: int | None = None
        self.size = 0
        self.dirty = False
        self.broken = False
        self.lost = False
        self.not_before = 0.0
        self.give_up_at: float | None = None


class Writer:
    """Made in the loop; `close` ends its thread. `seconds`: of the newest batch."""

    def __init__(self, name: str, filesystem: Filesystem, fsync: Fsync) -> None:
        self._fs = filesystem
        self._fsync = fsync
        self._loop = asyncio.get_running_loop()
        self._reels: dict[Reel, None] = {}
        self._work = threading.Event()
        self._hurry = threading.Event()
        self._closing = False
        self._told: list[Callable[[], None]] = []
        self.seconds = 0.0
        self.name = name
        self._thread = threading.Thread(target=self._run, name=f"recorder {name}", daemon=True)
        self._thread.start()

    def add(self, owner: Owner) -> Reel:
        """Ends with its `End`."""
        reel = Reel(owner)
        self._reels[reel] = None
        return reel

    def submit(self, reel: Reel, job: Job, *, hurry: bool = False) -> None:
        """`hurry`: somebody waits for it."""
        reel.jobs.append(job)
        if hurry:
            self._hurry.set()
        self._work.set()

    def try_again(self) -> None:
        """Something has changed for the better: room was made."""
        for reel in tuple(self._reels):
            reel.not_before = 0.0
        self._hurry.set()
        self._work.set()

    @property
    def behind(self) -> float:
        """Seconds that the oldest job waits."""
        now = clock.now()
        waiting = (reel.jobs[0].queued_at for reel in tuple(self._reels) if reel.jobs)
        with contextlib.suppress(IndexError):  # the thread has just taken it
            return max((now - at for at in waiting), default=0.0)
        return 0.0

    async def close(self, timeout: float) -> bool:
        """End the thread once nothing waits. False where the disk holds it for longer."""
        self._closing = True
        self._hurry.set()
        self._work.set()
        await asyncio.to_thread(self._thread.join, timeout)
        return not self._thread.is_alive()

    # in the thread

    def _run(self) -> None:
        last = 0.0
        while not (self._closing and not any(reel.jobs for reel in tuple(self._reels))):
            self._work.wait(self._pause())
            self._work.clear()
            left = last + BATCH - clock.now()
            if left > 0 and not self._closing:
                self._hurry.wait(left)
            self._hurry.clear()
            last = clock.now()
            guarded("recorder writer", self._batch)
            self.seconds = clock.now() - last

    def _pause(self) -> float | None:
        """Until the next one that was refused is due; None where none was."""
        due = [reel.not_before for reel in tuple(self._reels) if reel.jobs]
        return max(0.0, min(due) - clock.now()) if due else None

    def _batch(self) -> None:
        now = clock.now()
        played = [reel for reel in tuple(self._reels) if reel.jobs and reel.not_before <= now]
        done: list[tuple[Reel, Job]] = []
        for reel in played:
            self._play(reel, done)
        if self._fsync == "part":
            for reel in played:
                self._sync(reel)
        for reel, job in done:
            self._tell(reel.owner.landed, job)
        if self._told:
            told, self._told = self._told, []
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to be told
                self._loop.call_soon_threadsafe(_call, told)

    def _play(self, reel: Reel, done: list[tuple[Reel, Job]]) -> None:
        while reel.jobs:
            job = reel.jobs[0]
            if not reel.lost:
                try:
                    self._do(reel, job)
                except OSError as e:
                    self._refuse(reel, e)
                    if not reel.lost:
                        return
            reel.jobs.popleft()
            if reel.lost and isinstance(job, Close | End):
                self._let_go(reel)
            if not reel.lost or isinstance(job, Close | End):
                done.append((reel, job))
            if isinstance(job, End):
                self._reels.pop(reel, None)

    def _do(self, reel: Reel, job: Job) -> None:
        if isinstance(job, Open):
            self._open(reel, job)
        elif isinstance(job, Close):
            if self._fsync != "never":
                self._sync(reel)
            self._let_go(reel)
        elif isinstance(job, Write):
            self._write(reel, job)

    def _open(self, reel: Reel, job: Open) -> None:
        durable = self._fsync != "never"
        with contextlib.ExitStack() as undo:
            self._fs.make_directories(job.path.parent, durable=durable)
            fd = self._fs.create(job.path)
            undo.callback(self._remove, job.path)
            undo.callback(self._fs.close, fd)
            reel.fd, reel.size = fd, 0
            undo.callback(setattr, reel, "fd", None)
            self._write(reel, job)
            undo.pop_all()
        if durable:
            self._sync(reel, job.path.parent)

    def _remove(self, path: Path) -> None:
        with contextlib.suppress(OSError):
            self._fs.remove(path)

    def _write(self, reel: Reel, job: Job) -> None:
        """All of it, or the file is as it was."""
        assert reel.fd is not None, "write without an open file"
        pieces, offset = job.pieces, reel.size
        with contextlib.ExitStack() as undo:
            undo.callback(self._truncate, reel)
            while pieces:
                wrote = self._fs.write(reel.fd, pieces, offset)
                offset += wrote
                pieces = _rest(pieces, wrote)
            undo.pop_all()
        reel.size = offset
        reel.dirty = True

    def _truncate(self, reel: Reel) -> None:
        with contextlib.suppress(OSError):  # recovery takes off what is left of it
            if reel.fd is not None:
                self._fs.truncate(reel.fd, reel.size)

    def _sync(self, reel: Reel, directory: Path | None = None) -> None:
        """A disk that cannot still gets what is written, and the owner is told. `directory`: the file is new in it."""
        if reel.fd is None or not reel.dirty:
            return
        reel.dirty = False
        try:
            self._fs.sync(reel.fd)
            if directory is not None:
                self._fs.sync_directory(directory)
            reel.broken = False
        except OSError as e:
            reel.broken = True
            self._tell(reel.owner.broken, *told(e))

    def _refuse(self, reel: Reel, error: OSError) -> None:
        now = clock.now()
        reel.not_before = now + RETRY
        if reel.give_up_at is not None and now >= reel.give_up_at:
            reel.lost = True
        self._tell(reel.owner.refused, *told(error))

    def _let_go(self, reel: Reel) -> None:
        if reel.fd is not None:
            fd, reel.fd = reel.fd, None
            reel.dirty = False
            with contextlib.suppress(OSError):
                self._fs.close(fd)

    def _tell(self, method: Callable[..., None], *arguments: object) -> None:
        self._told.append(lambda: method(*arguments))


def told(error: OSError) -> tuple[str, str]:
    """(code, message) of what the disk said."""
    if error.errno in FULL:
        code = "disk-full"
    elif error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        code = "disk-read-only"
    else:
        code = "disk-error"
    return code, error.strerror or str(error)


def _rest(pieces: list[bytes], wrote: int) -> list[bytes]:
    for i, piece in enumerate(pieces):
        if wrote < len(piece):
            return [piece[wrote:], *pieces[i + 1 :]] if wrote else pieces[i:]
        wrote -= len(piece)
    return []


def _call(told: list[Callable[[], None]]) -> None:
    for each in told:
        guarded("recorder", each)
