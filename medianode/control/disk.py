"""The disks that recordings are on: how much room there is, and unlinking. Blocking."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from medianode.control import recording_places, sidecar
from medianode.egress.recorder.filesystem import Disk

_OURS = re.compile(rf"\d{{6,}}\.mp4|{re.escape(sidecar.NAME)}(\.new)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Space:
    """Of the file system that `root` is on, or will be. Bytes; `free`: for who is not root."""

    root: Path
    device: int
    free: int
    total: int


def measure(root: Path) -> Space:
    """Of its nearest parent where it is not there yet. Raises OSError."""
    there = root
    while not there.exists() and there != there.parent:
        there = there.parent
    found = os.statvfs(there)
    return Space(root, there.stat().st_dev, found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize)


def measure_all(roots: Iterable[Path], files: Iterable[Path]) -> tuple[list[Space], dict[Path, int]]:
    """The space of those roots that can be looked at, and how large those of these files are by now."""
    spaces: list[Space] = []
    for root in roots:
        with suppress(OSError):
            spaces.append(measure(root))
    sizes: dict[Path, int] = {}
    for path in files:
        with suppress(OSError):
            sizes[path] = path.stat().st_size
    return spaces, sizes


def present(paths: Iterable[Path]) -> set[Path]:
    """Those of them that are there."""
    return {path for path in paths if os.path.exists(path)}


def unlink(paths: Collection[Path]) -> dict[Path, OSError]:
    """Files, and directories of recordings with what is ours in them; then their parents up to the root, where these are empty.

    On the disk when it returns. Those that failed, and why; what is not there is done, but where its disk is not mounted: with that it
    would come back.
    """
    failed: dict[Path, OSError] = {}
    parents: set[Path] = set()
    for path in paths:
        try:
            if path.is_dir() and not path.is_symlink():
                _unlink_recording(path)
            elif os.path.lexists(path):
                path.unlink(missing_ok=True)
            elif not any(recording_places.marked(parent) for parent in path.parents):
                raise OSError(errno.ENODEV, "its disk is not mounted")
        except NotADirectoryError:
            continue  # a part of its path is a file now: it is not there
        except OSError as e:
            failed[path] = e
            continue
        parents.add(path.parent)
    for parent in parents:
        _sync(parent)
    return failed


def _unlink_recording(directory: Path) -> None:
    for path in directory.iterdir():
        if _OURS.fullmatch(path.name):
            path.unlink(missing_ok=True)
    with suppress(OSError):  # what somebody else has put there stays, and so does the directory
        directory.rmdir()
        directory.parent.rmdir()
        directory.parents[1].rmdir()


def _sync(directory: Path) -> None:
    """What was unlinked in it stays so over a power cut."""
    while not directory.exists() and directory != directory.parent:
        directory = directory.parent
    with suppress(OSError):
        Disk().sync_directory(directory)
