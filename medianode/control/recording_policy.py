"""Retention and upload of what is recorded in a project: its own words, and what they come to. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from medianode.errors import InvalidRequest
from medianode.media.names import shown
from medianode.store.projects import Project

LONGEST = 100 * 366 * 86_400
MOST_BYTES = 10**18
LEAST_BYTES = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordingPolicy:
    """`max_age`: seconds after their end that files go, 0: never. `max_bytes`: of all files here, 0: no bound. `min_keep`: seconds for
    which no file goes but from a disk that would be full. `upload`: closed files go to the project's bucket; `delete_after_upload`: and
    are then kept there only, once they are older than `min_keep`.
    """

    max_age: float = 0.0
    max_bytes: int = 0
    min_keep: float = 0.0
    upload: bool = False
    delete_after_upload: bool = False


def policy_of(project: Project) -> RecordingPolicy:
    """What holds for it, its `limits.disk` included; nothing of it is the node's own."""
    said = project.recording or {}
    bounds = [bound for bound in (said.get("maxBytes"), project.limits.get("disk")) if bound]
    has_bucket = (project.storage or {}).get("type") == "s3"
    return RecordingPolicy(
        max_age=float(said.get("maxAge") or 0.0),
        max_bytes=min(bounds, default=0),
        min_keep=float(said.get("minKeep") or 0.0),
        upload=has_bucket and bool(said.get("upload", True)),
        delete_after_upload=has_bucket and bool(said.get("deleteAfterUpload", False)),
    )


def merged_policy(before: Mapping[str, Any] | None, change: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """`{maxAge, maxBytes, minKeep, upload, deleteAfterUpload}` laid over what stood there, null takes one away; None: the node's alone.

    Raises InvalidRequest.
    """
    if change is None:
        return None
    for name, value in change.items():
        _check(name, value)
    merged = {name: value for name, value in {**(before or {}), **change}.items() if value is not None}
    if merged.get("maxAge") and merged.get("minKeep", 0) > merged["maxAge"]:
        raise InvalidRequest("recording.minKeep: expected at most recording.maxAge, or nothing could ever go")
    if merged.get("deleteAfterUpload") and merged.get("upload") is False:
        raise InvalidRequest("recording.deleteAfterUpload: expected recording.upload to be true: nothing is deleted that is nowhere else")
    return merged or None


def _check(name: str, value: object) -> None:
    match name:
        case "upload" | "deleteAfterUpload":
            good, wanted = value is None or isinstance(value, bool), "true or false"
        case "maxAge" | "minKeep":
            good, wanted = value is None or (_number(value) and 1 <= value <= LONGEST), f"seconds from 1 to {LONGEST}"  # type: ignore[operator]
        case "maxBytes":
            good = value is None or (isinstance(value, int) and _number(value) and LEAST_BYTES <= value <= MOST_BYTES)
            wanted = f"a whole number from {LEAST_BYTES} to {MOST_BYTES}"
        case _:
            raise InvalidRequest(f"recording: expected some of maxAge, maxBytes, minKeep, upload, deleteAfterUpload, got {shown(name)}")
    if not good:
        raise InvalidRequest(f"recording.{name}: expected {wanted}, or null for the node's own, got {shown(str(value))}")


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
