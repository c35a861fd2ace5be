"""What is told of a recording, of an asset and of the disk: the facts, in the shapes that `webhooks.outbox` lists."""

from __future__ import annotations

from medianode import clock
from medianode.store.ingresses import Ingress
from medianode.store.recordings import Recording
from medianode.webhooks.facts import Fact


def recording_fact(type: str, recording: Recording, at: float, **more: object) -> Fact:  # noqa: A002 - the fact's own names
    """`more`: what the type adds (`code`, `message`, `seconds`, `whole`, `url`). Kept in the order of its ingress, where it has one, else
    of its room: what becomes of a session comes after the session's end."""
    data: dict[str, object] = {
        "recordingId": recording.id,
        "ingressId": recording.ingress_id,
        "room": recording.room,
        "identity": recording.identity,
        "reason": recording.reason,
        "state": recording.state,
        "title": recording.title,
        "labels": dict(recording.labels),
        "startedAt": clock.iso(recording.started_at),
        "endedAt": None if recording.ended_at is None else clock.iso(recording.ended_at),
        "duration": recording.duration / 1_000_000,
        "bytes": recording.nbytes,
        "code": recording.error_code,
        "message": recording.error_message,
        **more,
    }
    stream = recording.ingress_id or f"room:{recording.room}"
    return Fact(type=type, project_id=recording.project_id, stream=stream, at=at, data=data)


def asset_fact(recording: Recording, ingress: Ingress, at: float, path: str) -> Fact:
    """`path`: where it plays on this node."""
    data = {
        "ingressId": ingress.id,
        "kind": ingress.kind,
        "room": ingress.room,
        "identity": ingress.participant_identity,
        "name": ingress.participant_name,
        "door": ingress.door or "",
        "live": True,
        "recordingId": recording.id,
        "mediaId": recording.media_id,
        "playbackId": recording.playback_id,
        "accessPolicy": recording.access_policy,
        "duration": recording.duration / 1_000_000,
        "path": path,
    }
    return Fact(type="asset.created", project_id=recording.project_id, stream=ingress.id, at=at, data=data)


def disk_fact(
    type: str,  # noqa: A002 - the fact's own names
    project_id: str,
    at: float,
    *,
    path: str,
    free: int,
    total: int,
    code: str = "",
    message: str = "",
) -> Fact:
    """`path`: of the recordings; `free` and `total`: bytes of the disk that it is on."""
    data = {"path": path, "free": free, "total": total, "code": code, "message": message}
    return Fact(type=type, project_id=project_id, stream="disk", at=at, data=data)
