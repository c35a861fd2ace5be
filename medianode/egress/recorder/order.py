"""Order: what is to be recorded, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """`room` is canonical. `identity`: the publisher, over its reconnects; empty: the room's programme, whoever that is.

    `reason` as in store.recordings. `directory`: absolute, of this recording alone; made when its first file is.
    """

    recording_id: str
    project_id: str
    slug: str
    room: str
    identity: str = ""
    ingress_id: str | None = None
    reason: str = "api"
    title: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    directory: Path
