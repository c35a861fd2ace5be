"""Disk: reading what is recorded, in threads of its own: a disk that hangs takes none of the loop's. And which files are in use."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import NamedTuple, TypeVar

from medianode.errors import LimitExceeded, NotFound, ProtocolError, StorageError
from medianode.protocols.fmp4_samples import Samples, samples

T = TypeVar("T")
THREADS = 4
HEAD_BYTES = 16_384
"""Read at once where a moof begins: those of a second are a few KB."""
MOST_HEAD_BYTES = 4 << 20


class Stretch(NamedTuple):
    """`size` bytes at `offset` of a file."""

    path: Path
    offset: int
    size: int


class Disk:
    """`bound`: reads at work or waiting; more are refused (`node-full`)."""

    def __init__(self, bound: int) -> None:
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="playback")
        self._bound = bound
        self._pending = 0
        self._used: Counter[Path] = Counter()

    async def run(self, work: Callable[..., T], *arguments: object) -> T:
        """In a thread. Files that are not there come out as NotFound, other troubles of the disk as StorageError."""
        if self._pending >= self._bound:
            raise LimitExceeded(f"{self._bound} reads of recordings are waiting already", code="node-full")
        self._pending += 1
        done = asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)
        done.add_done_callback(self._done)
        return await self.spared(asyncio.shield(done))

    @staticmethod
    async def spared(work: Awaitable[T]) -> T:
        """Troubles of the disk as errors of ours, where the reading is another's."""
        try:
            return await work
        except FileNotFoundError:
            raise NotFound("this part of the recording is no longer here", code="file-gone") from None
        except OSError as e:
            raise StorageError(f"reading a recording: {os.strerror(e.errno) if e.errno else e}") from None

    def _done(self, work: asyncio.Future[T]) -> None:
        """Counted here and not where the caller waits: one that gave up leaves its work in the thread."""
        self._pending -= 1
        if not work.cancelled():
            work.exception()

    def in_use(self, path: Path) -> bool:
        """Is it being read, or about to be? Asked by whoever would delete it."""
        return self._used[path] > 0

    @contextmanager
    def using(self, paths: Iterable[Path]) -> Iterator[None]:
        held = set(paths)
        self._used.update(held)
        try:
            yield
        finally:
            for path in held:
                self._used[path] -= 1
                if self._used[path] <= 0:
                    del self._used[path]

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


class Reader:
    """Reads files, one open at a time: what is open stays readable though it is deleted meanwhile. For one thread at a time.

    `close` may be called while a thread reads: it then closes when it is done.
    """

    def __init__(self) -> None:
        self._path: Path | None = None
        self._fd = -1
        self._busy = Lock()
        self._over = False

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._over = True
        self._release()

    def _release(self) -> None:
        if self._over and self._busy.acquire(blocking=False):
            self._close()
            self._busy.release()

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd, self._path = -1, None

    def read(self, path: Path, offset: int, size: int) -> bytes:
        """All of it. Raises OSError, and FileNotFoundError also where the file is shorter."""
        try:
            with self._busy:
                return self._read(path, offset, size)
        finally:
            self._release()

    def _read(self, path: Path, offset: int, size: int) -> bytes:
        if path != self._path:
            self._close()
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            self._path = path
        pieces = []
        while size:
            piece = os.pread(self._fd, size, offset)
            if not piece:
                raise FileNotFoundError(f"{path.name}: shorter than its index")
            pieces.append(piece)
            offset, size = offset + len(piece), size - len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def gather(self, stretches: Sequence[Stretch]) -> bytes:
        return b"".join([self.read(*stretch) for stretch in stretches])

    def tables(self, path: Path, offset: int, size: int) -> tuple[int, list[Samples]]:
        """Of the part that stands there: the moof's offset in the file, and its sample tables. Raises OSError, ProtocolError."""
        head = self.read(path, offset, min(HEAD_BYTES, size))
        position = 0
        while True:
            if position + 8 > len(head):
                raise ProtocolError(f"{path.name}: expected a moof at {offset}, got none")
            length, kind = int.from_bytes(head[position : position + 4], "big"), head[position + 4 : position + 8]
            if kind == b"moof":
                break
            if length < 8 or kind == b"mdat":
                raise ProtocolError(f"{path.name}: expected a moof at {offset}, got {kind!r}")
            position += length
        if not 8 <= length <= min(size - position, MOST_HEAD_BYTES):
            raise ProtocolError(f"{path.name}: expected a moof of {size - position} bytes or less, got {length}")
        if position + length > len(head):
            head = self.read(path, offset, position + length)
        return offset + position, samples(head[position : position + length])
