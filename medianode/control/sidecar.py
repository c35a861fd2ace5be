"""Sidecar: `recording.json` beside the files of a recording: what these do not know, so that the catalogue can be made anew from the disk.

Pinned, titled, uploaded: all that was decided about a recording after its first file was begun.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from medianode.egress.recorder.filesystem import MODE, Disk
from medianode.store.recording_files import RecordingFile
from medianode.store.recordings import Recording

NAME = "recording.json"
VERSION = 1
MOST_BYTES = 256 * 1024 * 1024
_OF_PLACE = frozenset({"node_id", "directory", "project_id"})
"""Fields of a recording that its place on the disk tells better: it may have been moved, and ids of projects are made anew."""
_BINARY = ("parts", "sha256")


@dataclass(frozen=True, slots=True)
class Sidecar:
    """`recording`: without its place. `files`: those that are in a bucket, with the index of those that are only there."""

    recording: Recording
    files: Sequence[dict[str, Any]]


def write(recording: Recording, files: Sequence[RecordingFile]) -> None:
    """`files`: as `recording_files.in_bucket` has them. Blocking; whole or not at all. Does nothing where the directory is gone.

    Raises OSError.
    """
    directory = Path(recording.directory)
    if not directory.is_dir():
        return
    plain = {name: getattr(recording, name) for name in Recording.__dataclass_fields__ if name not in _OF_PLACE}
    told = {"version": VERSION, "recording": plain, "files": [_plain(file) for file in files]}
    beside = directory / f"{NAME}.new"
    made = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, MODE)
    with os.fdopen(made, "wb") as file:
        file.write(msgspec.json.encode(told))
        file.flush()
        os.fsync(file.fileno())
    beside.replace(directory / NAME)
    Disk().sync_directory(directory)


def read(directory: Path) -> Sidecar | None:
    """Blocking. None where there is none that could be used. Raises OSError."""
    path = directory / NAME
    try:
        if path.stat().st_size > MOST_BYTES:
            return None
        told = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
        if told.get("version") != VERSION:
            return None
        placed = dict.fromkeys(_OF_PLACE, "")
        recording = msgspec.convert({**dict(told["recording"]), **placed}, Recording)
        return Sidecar(recording, [_opened(file) for file in told["files"]])
    except FileNotFoundError:
        return None
    except (msgspec.MsgspecError, KeyError, TypeError, ValueError):
        return None  # somebody wrote into it: the files speak for themselves


def _plain(file: RecordingFile) -> dict[str, Any]:
    told = {name: getattr(file, name) for name in RecordingFile.__dataclass_fields__ if name not in ("id", "project_id", "recording_id")}
    return told | {name: None if told[name] is None else base64.b64encode(told[name]).decode() for name in _BINARY}


def _opened(told: dict[str, Any]) -> dict[str, Any]:
    opened = {name: None if told[name] is None else base64.b64decode(told[name]) for name in _BINARY}
    return {name: value for name, value in told.items() if name in RecordingFile.__dataclass_fields__} | opened
