"""Made-up facts, one of each type, and whom they are about: what the dialects' examples are made from. Some ids are the vendors'."""

from __future__ import annotations

from typing import Any

from medianode.store.ingresses import Ingress
from medianode.store.live_streams import LiveStream, PlaybackId
from medianode.store.projects import Project
from medianode.store.recordings import Recording
from medianode.store.targets import PushTarget
from medianode.webhooks.facts import DISK, PULL, RECORDING, TEST, Fact
from medianode.webhooks.subject import Subject

_AT = 1_774_794_600.0  # 2026-03-29T14:30:00Z
_STREAM = "a2ae214362a14eeeb8884f1406148481"
_PROJECT = Project(
    id="prj_0a1b2c3d4e5f",
    slug="live",
    name="Development",
    viewing="public",
    open_publish=False,
    jwt_key_id="APIexample",
    jwt_secret="",
    created_at=_AT,
)
_INGRESS = Ingress(
    id="IN_abc123",
    project_id=_PROJECT.id,
    kind="rtmp",
    room="live-my-live-room",
    room_name="my-live-room",
    participant_identity="obs-streamer",
    participant_name="OBS Studio",
    stream_key="example",
    created_at=_AT,
)
_LIVE = Ingress(
    id=_STREAM,
    project_id=_PROJECT.id,
    kind="any",
    room=f"live-{_STREAM}",
    room_name=f"live-{_STREAM}",
    participant_identity="ingress-live",
    participant_name="",
    stream_key=f"3dc5d7641f918baa083a5c52a5bd9cbck{_STREAM}",
    created_at=_AT,
)
_TARGET = PushTarget(
    id="8717422d-8928-4ad5-958d-4a86e9afe2a2",
    project_id=_PROJECT.id,
    ingress_id=_STREAM,
    room=_LIVE.room,
    url="rtmp://live.example.com/app",
    stream_key="example-stream-key",
    state="broadcasting",
    created_at=_AT,
    updated_at=_AT,
)
_BASE = "https://media.example.com"
_MEDIA = "6ff9a2a0-3c31-4a0d-9a39-0c2d4b1d4f5e"
_ASSET_PLAYBACK = "9d3c1f5b-2a77-4c43-8e0f-7c5a4f5e8a0b"
_RECORDING = Recording(
    id="rec_0a1B2c3D4e5F6g7H8i9J",
    project_id=_PROJECT.id,
    room=_LIVE.room,
    identity=_LIVE.participant_identity,
    ingress_id=_STREAM,
    reason="ingress",
    state="finished",
    node_id="node_0123456789ab",
    directory="",
    started_at=_AT,
    ended_at=_AT + 4500,
    duration=4_500_000_000,
    nbytes=1_406_250_000,
    media_id=_MEDIA,
    playback_id=_ASSET_PLAYBACK,
)
PLAIN = Subject(project=_PROJECT, ingress=_INGRESS)
"""An ingress that is no live stream."""
LIVE = Subject(
    project=_PROJECT,
    ingress=_LIVE,
    live_stream=LiveStream(ingress_id=_STREAM, srt_secret=f"c51739512d0088d98a46925c9b74c73ak{_STREAM}", updated_at=_AT),
    playback_ids=(PlaybackId(id="55d5b68e-508a-4adf-a01a-9420005ee796", ingress_id=_STREAM, access_policy="public", created_at=_AT),),
    targets=(_TARGET,),
    target=_TARGET,
    recording=_RECORDING,
    base=_BASE,
)

_TRACKS = [{"kind": "video", "codec": "h264"}, {"kind": "audio", "codec": "aac"}]
_GONE = {"code": "eof", "message": "the encoder closed the connection"}
_SESSION: dict[str, dict[str, Any]] = {
    "ingress.created": {},
    "ingress.connected": {"resumed": False, "door": "rtmp"},
    "ingress.recording": {"door": "rtmp"},
    "ingress.active": {"resumed": False, "door": "rtmp", "tracks": _TRACKS},
    "ingress.disconnected": {"door": "rtmp", **_GONE, "tracks": _TRACKS},
    "ingress.idle": {"door": "rtmp", **_GONE, "duration": 4500.0},
    "ingress.failed": {
        "door": "rtmp",
        "code": "first-media-timeout",
        "message": "Connection timeout — encoder stopped sending data",
        "duration": 0.0,
    },
    "asset.created": {
        "door": "rtmp",
        "recordingId": _RECORDING.id,
        "mediaId": _MEDIA,
        "playbackId": _ASSET_PLAYBACK,
        "accessPolicy": "public",
        "duration": 4500.0,
        "path": f"/vod/{_ASSET_PLAYBACK}.m3u8",
    },
    "ingress.updated": {},
    "ingress.enabled": {},
    "ingress.disabled": {},
    "ingress.deleted": {},
}
_JOB = {"jobId": "cm_job_xyz789", "projectId": _PROJECT.id}
_USER = {"metadata": {"userId": "u_42"}}
_VIDEO = {**_JOB, "inputUrl": "https://source.example.com/video.mp4"}
_SPORTS = {"primaryCategory": "Sports", "categories": [{"name": "Sports", "confidence": 0.4523, "primary": True}]}
_BAD = {"category": "nudity_explicit", "confidence": 0.521, "severity": "critical"}
_JOBS: dict[str, dict[str, Any]] = {
    "video.conversion.started": {**_VIDEO, "status": "PROCESSING", "outputFormats": ["360p", "720p"], **_USER},
    "video.conversion.completed": {
        **_VIDEO,
        "status": "COMPLETED",
        "outputUrl": "https://cdn.example.com/videos/master.m3u8",
        "thumbnailUrl": "https://cdn.example.com/videos/thumbnail.jpg",
        "outputFormats": ["360p", "720p"],
        "renditionUrls": {"360p": "https://cdn.example.com/videos/360p/playlist.m3u8"},
        "durationSec": 125,
        "segmentsCount": 63,
        "costCents": 0,
        **_USER,
    },
    "video.conversion.failed": {**_VIDEO, "status": "FAILED", "errorCode": "DOWNLOAD_FAILED", "errorMessage": "HTTP 403", **_USER},
    "categorization.started": {**_VIDEO, "status": "PROCESSING", **_USER},
    "categorization.completed": {**_VIDEO, "status": "COMPLETED", **_SPORTS, "scores": {"Sports": 0.4523}, "tags": ["football"], **_USER},
    "categorization.failed": {**_VIDEO, "status": "FAILED", "errorMessage": "no picture could be decoded", **_USER},
    "moderation.started": {**_VIDEO, "status": "PROCESSING", **_USER},
    "moderation.completed": {
        **_VIDEO,
        "status": "COMPLETED",
        "safe": False,
        "violations": [_BAD],
        "scores": {"nudity_explicit": 0.4812},
        "flaggedFrames": [{"frameIndex": 2, "violations": [{**_BAD, "confidence": 0.5834}]}],
        **_USER,
    },
    "moderation.failed": {**_VIDEO, "status": "FAILED", "errorMessage": "no picture could be decoded", **_USER},
}


_RECORDED: dict[str, Any] = {
    "recordingId": _RECORDING.id,
    "ingressId": _STREAM,
    "room": _LIVE.room,
    "identity": _LIVE.participant_identity,
    "reason": "ingress",
    "state": "finished",
    "title": "Press conference",
    "labels": {"case": "17"},
    "startedAt": "2026-03-29T14:30:00.000Z",
    "endedAt": "2026-03-29T15:45:00.000Z",
    "duration": 4500.0,
    "bytes": 1_406_250_000,
    "code": "",
    "message": "",
}
_RECORDINGS: dict[str, dict[str, Any]] = {
    "recording.started": {"state": "recording", "endedAt": None, "duration": 0.0, "bytes": 0},
    "recording.trouble": {"state": "recording", "code": "slow-disk", "message": "the disk does not keep up: 1.4 s are missing"},
    "recording.finished": {},
    "recording.failed": {"state": "failed", "code": "disk-error", "message": "the disk refused the last 2 s"},
    "recording.deleted": {"seconds": 4500.0, "whole": True},
    "recording.uploaded": {"url": "https://cdn.example.com/live/press/index.m3u8"},
    "recording.upload-failed": {"code": "upload-away", "message": "the bucket does not answer; it is tried again"},
}
_DISK = {"path": "/var/lib/medianode/recordings", "free": 1_900_000_000, "total": 64_000_000_000}
_DISKS: dict[str, dict[str, Any]] = {
    "disk.low": {"code": "disk-low", "message": "1.9 GB are free; the oldest recordings go in about an hour"},
    "disk.full": {"code": "disk-full", "message": "nothing may be deleted, nothing more is recorded"},
    "disk.recovered": {"code": "", "message": ""},
}
_PULLS: dict[str, dict[str, Any]] = {
    "pull.connected": {"code": "", "message": ""},
    "pull.failed": {"code": "unauthorized", "message": "the camera refuses user or password"},
}


def _fact(number: int, type: str, stream: str, data: dict[str, Any]) -> Fact:  # noqa: A002 - the fact's own names
    event_id = f"8fa0e3ea-3d5c-4712-8428-{number:012d}"
    return Fact(type=type, project_id=_PROJECT.id, stream=stream, at=_AT + number, data=data, id=event_id)


def _about(ingress: Ingress, *, live: bool) -> dict[str, Any]:
    who = {"room": ingress.room, "identity": ingress.participant_identity, "name": ingress.participant_name}
    return {"ingressId": ingress.id, "kind": ingress.kind, **who, "door": "", "live": live}


def _samples() -> tuple[tuple[Fact, Subject], ...]:
    about: list[tuple[str, str, dict[str, Any], Subject]] = []
    for subject, ingress, live in ((PLAIN, _INGRESS, False), (LIVE, _LIVE, True)):
        about += [(name, ingress.id, {**_about(ingress, live=live), **session}, subject) for name, session in _SESSION.items()]
    room = f"room:{_INGRESS.room}"
    nobody = Subject(project=_PROJECT)
    about += [(f"room.{word}", room, {"room": _INGRESS.room, "hls": True}, nobody) for word in ("live", "ended")]
    target = {"targetId": _TARGET.id, "ingressId": _STREAM, "room": _LIVE.room, "host": "live.example.com", "enabled": True}
    words = ("created", "starting", "broadcasting", "updated", "deleted")
    about += [(f"target.{word}", _STREAM, {**target, "code": "", "message": "", "bitrate": 0}, LIVE) for word in words]
    about += [(name, _STREAM, {**_RECORDED, **_RECORDINGS[name]}, LIVE) for name in RECORDING]
    about += [(name, "disk", {**_DISK, **_DISKS[name]}, nobody) for name in DISK]
    about += [(name, _INGRESS.id, {**_about(_INGRESS, live=False), **_PULLS[name]}, PLAIN) for name in PULL]
    about += [(name, data["jobId"], data, nobody) for name, data in _JOBS.items()]
    about.append((TEST, "test", {"message": "this is a test of the endpoint"}, nobody))
    return tuple((_fact(number, name, stream, data), subject) for number, (name, stream, data, subject) in enumerate(about))


SAMPLES = _samples()
