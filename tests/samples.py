"""Grants and tracks that tests hand in; no test of its own."""

from typing import Any

from medianode.auth import Door, PublishGrant, Takeover
from medianode.media.track import Codec, Track

VIDEO = Track(0, Codec.H264, 90_000, b"one")
AUDIO = Track(1, Codec.AAC, 48_000, b"asc", sample_rate=48_000, channels=2)


def grant(**changes: Any) -> PublishGrant:
    """Leave for identity `obs` to publish into room `live-a` of project `p`, with what the test changes."""
    fields: dict[str, Any] = {
        "project_id": "p",
        "slug": "live",
        "room": "live-a",
        "identity": "obs",
        "name": "",
        "kind": Door.RTMP,
        "ingress_id": "IN_1",
        "takeover": Takeover.REPLACE,
        "hold": 60.0,
    }
    return PublishGrant(**{**fields, **changes})
