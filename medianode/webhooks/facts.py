"""Facts: what has happened, in the house's words, frozen. The outbox keeps them; the dialects say them as their receivers expect. Pure."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Literal

Dialect = Literal["baxcloud", "streamhub", "fastpix"]
"""Of an endpoint. `baxcloud` also speaks for the jobs of BaxStream: one envelope, one signature (contracts 1.1, 5)."""

INGRESS = (
    "ingress.created",
    "ingress.updated",
    "ingress.enabled",
    "ingress.disabled",
    "ingress.deleted",
    "ingress.connected",
    "ingress.active",
    "ingress.disconnected",
    "ingress.idle",
    "ingress.failed",
    "ingress.recording",
    "asset.created",
)
"""About one ingress. `connected`: an encoder was let in (`resumed`: within the reconnect window). `active`: first key frame.
`disconnected`: it is gone and the window runs. `idle`: nobody came back. `failed`: as idle, but it broke before it was ever active, or
its media was refused. `recording` and `asset.created` are the recorder's to tell."""

PUBLISHER = ("publisher.connected", "publisher.active", "publisher.disconnected", "publisher.idle")
"""About somebody who publishes without an ingress: by a room token, or in a project that is open."""

ROOM = ("room.live", "room.ended")

TARGET = (
    "target.created",
    "target.updated",
    "target.starting",
    "target.broadcasting",
    "target.failed",
    "target.idle",
    "target.deleted",
)
"""About one simulcast target. `failed`: the connection broke or was refused; it is tried again."""

RECORDING = (
    "recording.started",
    "recording.trouble",
    "recording.finished",
    "recording.failed",
    "recording.deleted",
    "recording.uploaded",
    "recording.upload-failed",
)
"""About one recording. `trouble`: it goes on with something missing (a gap, a full or slow disk); `deleted`: all or some of its files, by
retention or by somebody."""

DISK = ("disk.low", "disk.full", "disk.recovered")
"""Of the disk that a project's recordings are on; told to each project that has some there."""

PULL = ("pull.connected", "pull.failed")
"""About an ingress that fetches a URL, beside its session's own facts: `failed` when the source is first found wanting, with the reason in
plain words; it is tried again."""

JOB = tuple(
    f"{lifecycle}.{step}"
    for lifecycle in ("video.conversion", "categorization", "moderation")
    for step in ("started", "completed", "failed")
)
"""Reserved for the file pipeline."""

CONTROL = ("ingress.finished", "key.revoked", "link.revoked", "project.changed")
"""What other daemons on the same database must follow at once."""

TEST = "webhook.test"
TYPES = frozenset({*INGRESS, *PUBLISHER, *ROOM, *TARGET, *RECORDING, *DISK, *PULL, *JOB, *CONTROL, TEST})


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """`type` is one of TYPES. `stream`: order is kept within it; an ingress's id, `room:<room>`, a job's id. `at`: wallclock.

    `data` is JSON in the shape of its family (see `webhooks.outbox`), without any secret: it is what the events feed shows.
    `id` is stable: every dialect shows it, and receivers tell repetitions by it.
    """

    type: str
    project_id: str | None
    stream: str
    at: float
    data: Mapping[str, Any] = field(default_factory=dict)
    id: str = field(default_factory=lambda: str(uuid.uuid4()))

    def __post_init__(self) -> None:
        assert self.type in TYPES, self.type

    def event_id(self, name: str, number: int) -> str:
        """Of the event that is the `number`th (from 0) that a dialect makes of it: its own, and the same whenever it is made."""
        return str(uuid.uuid5(uuid.UUID(self.id), f"{name}/{number}")) if number else self.id


def matches(patterns: tuple[str, ...], name: str) -> bool:
    """Does an endpoint with these patterns want the event of this name? `*` stands for any part: `live.*`, `video.live_stream.*`, `*`."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)
