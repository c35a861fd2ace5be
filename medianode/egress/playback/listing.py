"""Listing: what is recorded, as JSON for the pages and for players: a recording's facts, the ranges of a room's or a project's past."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from medianode import clock
from medianode.egress.playback.footage import SECOND, Footage, Reel
from medianode.store.recordings import Recording

JOINED = 1.0
"""Seconds between files that are still one range."""


def brief(recording: Recording, *, growing: bool) -> dict[str, Any]:
    """Of a list. Instants are RFC 3339, durations seconds."""
    return {
        "id": recording.id,
        "room": recording.room,
        "identity": recording.identity or None,
        "title": recording.title,
        "labels": dict(recording.labels),
        "reason": recording.reason,
        "state": "recording" if growing else ("finished" if recording.state == "recording" else recording.state),
        "startedAt": clock.iso(recording.started_at),
        "endedAt": None if growing or recording.ended_at is None else clock.iso(recording.ended_at),
        "duration": round(recording.duration / SECOND, 3),
        "bytes": recording.nbytes,
        "pinned": recording.pinned,
    }


def whole(reel: Reel) -> dict[str, Any]:
    """One recording: as it stands this moment, with the ranges of time that it has pictures or sound of."""
    files = reel.files
    return {
        **brief(reel.recording, growing=reel.growing),
        "duration": round(sum(file.duration for file in files) / SECOND, 3),
        "bytes": sum(file.nbytes for file in files),
        "now": clock.iso(clock.wallclock()),
        "ranges": ranges([reel]),
        "gaps": [{"at": clock.iso(file.started_at), "cause": file.gap} for file in files if file.gap],
    }


def ranges(reels: Sequence[Reel]) -> list[dict[str, Any]]:
    """From when to when there is something, each with its recording; `here` false where it is only in the bucket."""
    found: list[dict[str, Any]] = []
    for reel in reels:
        begin: Footage | None = None
        end = 0.0
        for file in (*reel.files, None):
            if begin is not None and (file is None or file.started_at - end >= JOINED or begin.here is not file.here):
                since, until = clock.iso(begin.started_at), clock.iso(end)
                found.append({"recording": reel.recording.id, "from": since, "to": until, "here": begin.here})
                begin = None
            if file is not None:
                begin, end = begin or file, file.ended_at
    return found
