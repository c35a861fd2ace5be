"""What the recorder asks of the disk, in few functions: tests put a disk in its place that fills, breaks or loses power."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

IOV_MAX = 1000
"""Pieces that one system call takes (POSIX's IOV_MAX is 1024 here)."""
MODE = 0o640
LEFT_FREE = 64 << 20
"""Bytes that recordings leave to everybody else, at most a sixteenth of the disk: a database beside them must be able to write."""


class Filesystem(Protocol):
    """All raise OSError, and all may block for as long as the disk likes."""

    def make_directories(self, path: Path, *, durable: bool) -> None:
        """With its parents. `durable`: their entries outlive a power cut."""

    def create(self, path: Path) -> int:
        """A new file for writing; FileExistsError where there is one."""

    def write(self, fd: int, pieces: Sequence[bytes], offset: int) -> int:
        """How many bytes were written: perhaps not all."""

    def truncate(self, fd: int, size: int) -> None: ...
    def sync(self, fd: int) -> None:
        """What was written outlives a power cut."""

    def sync_directory(self, path: Path) -> None:
        """Its entries do."""

    def close(self, fd: int) -> None: ...
    def remove(self, path: Path) -> None: ...


class Disk:
    """The real one."""

    def make_directories(self, path: Path, *, durable: bool) -> None:
        missing = []
        while not path.is_dir():
            missing.append(path)
            path = path.parent
        for directory in reversed(missing):
            directory.mkdir(exist_ok=True, mode=0o750)
            if durable:
                self.sync_directory(directory.parent)

    def create(self, path: Path) -> int:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, MODE)

    def write(self, fd: int, pieces: Sequence[bytes], offset: int) -> int:
        found = os.fstatvfs(fd)
        if found.f_bavail * found.f_frsize < left_free(found.f_blocks * found.f_frsize):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return os.pwritev(fd, pieces if len(pieces) <= IOV_MAX else (b"".join(pieces),), offset)

    def truncate(self, fd: int, size: int) -> None:
        os.ftruncate(fd, size)

    def sync(self, fd: int) -> None:
        os.fdatasync(fd)

    def sync_directory(self, path: Path) -> None:
        with ExitStack() as stack:
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            stack.callback(os.close, fd)
            os.fsync(fd)

    def close(self, fd: int) -> None:
        os.close(fd)

    def remove(self, path: Path) -> None:
        path.unlink(missing_ok=True)


def left_free(total: int) -> int:
    """Bytes that recordings do not take of a disk of so many."""
    return min(LEFT_FREE, total // 16)


def mount_point(path: Path, table: str) -> str:
    """Of the filesystem that holds this absolute path, by the text of /proc/self/mountinfo (proc(5)): asking the filesystem itself would
    wait for one that hangs. `/` where nothing is known.
    """
    best = "/"
    for line in table.splitlines():
        fields = line.split(" ")
        if len(fields) > 4:
            point = fields[4].encode().decode("unicode_escape")
            if len(point) > len(best) and path.is_relative_to(point):
                best = point
    return best
