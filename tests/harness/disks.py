"""A disk that fills, breaks and loses power; no test of its own."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections.abc import Sequence
from pathlib import Path

from medianode.egress.recorder.filesystem import Disk


class FaultyDisk(Disk):
    """The real one below `root`, which remembers what was synced: `power_cut` leaves that and nothing else, as another directory.

    `fails`: what each write (`syncs`: each sync) raises while it is set; half of what was asked for is written first. `free`: cleared,
    and everything waits.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.fails: int | None = None
        self.syncs: int | None = None
        self.free = threading.Event()
        self.free.set()
        self.calls: list[str] = []
        self._paths: dict[int, Path] = {}
        self._synced: dict[Path, bytes] = {}
        self._entries: set[Path] = {root}

    def make_directories(self, path: Path, *, durable: bool) -> None:
        self.free.wait()
        super().make_directories(path, durable=durable)

    def create(self, path: Path) -> int:
        if self.fails == errno.EROFS:
            raise OSError(self.fails, os.strerror(self.fails))
        fd = super().create(path)
        self._paths[fd] = path
        self.calls.append(f"create {path.name}")
        return fd

    def write(self, fd: int, pieces: Sequence[bytes], offset: int) -> int:
        self.free.wait()
        self.calls.append("write")
        if self.fails is not None:
            whole = b"".join(pieces)
            os.pwrite(fd, whole[: len(whole) // 2], offset)  # the torn tail
            raise OSError(self.fails, os.strerror(self.fails))
        return super().write(fd, pieces[: max(1, len(pieces) // 2)], offset)  # never all at once

    def sync(self, fd: int) -> None:
        self.calls.append("sync")
        if self.syncs is not None:
            raise OSError(self.syncs, os.strerror(self.syncs))
        path = self._paths[fd]
        self._synced[path] = path.read_bytes()

    def sync_directory(self, path: Path) -> None:
        self._entries.update(path.iterdir())

    def power_cut(self, into: Path) -> None:
        """What a disk that writes nothing unless it must has after the power is back."""
        shutil.rmtree(into, ignore_errors=True)
        into.mkdir()
        for path, data in self._synced.items():
            below = path.relative_to(self.root)
            if all(self.root / parent in self._entries for parent in (below, *below.parents)):
                (into / below).parent.mkdir(parents=True, exist_ok=True)
                (into / below).write_bytes(data)
