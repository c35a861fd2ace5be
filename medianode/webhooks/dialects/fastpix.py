"""FastPix's `video.live_stream.*` (its document on live streams), of live streams only.

Profile `seed` is that document to the letter: keys, their order, nulls. Profile `2026` is what the vendor sends today (contracts 3.1):
`workspace`, no nulls, a `status`, the stream as its API shows it, other names for simulcast and assets, `preparing` after `connected`.

A failed session is `idle`: there is no other word. `asset.created` shows the live stream and, behind its keys, the `asset`; in profile
`2026` it is `video.media.created` and `video.media.ready`, with the media as the API shows it. There is no word for disks and pulls.
A target's stream key is shown by its last four characters, in profile `2026`; the seed's payloads show no targets.
"""

from __future__ import annotations

from typing import Any

import msgspec

from medianode import clock
from medianode.store.ingresses import Ingress
from medianode.store.live_streams import LiveStream
from medianode.store.targets import PushTarget
from medianode.webhooks.facts import TEST, Fact
from medianode.webhooks.subject import Subject

_STREAM = {
    "ingress.created": ("created",),
    "ingress.connected": ("connected",),
    "ingress.recording": ("recording",),
    "ingress.active": ("active",),
    "ingress.disconnected": ("disconnected",),
    "ingress.idle": ("idle",),
    "ingress.failed": ("idle",),
    "ingress.updated": ("updated",),
    "ingress.enabled": ("enabled",),
    "ingress.disabled": ("disabled",),
    "ingress.deleted": ("deleted",),
}
_PREPARING = {"ingress.connected": ("connected", "preparing")}
_TARGET = ("created", "starting", "broadcasting", "deleted")
_ASSET = {"seed": ("video.asset.created",), "2026": ("video.media.created", "video.media.ready")}
_ASSET_DELETED = {"seed": (), "2026": ("video.media.deleted",)}
_STATUS = {
    "ingress.connected": "preparing",
    "ingress.recording": "preparing",
    "ingress.active": "active",
    "ingress.disconnected": "preparing",
    "ingress.idle": "idle",
    "ingress.failed": "idle",
    "asset.created": "idle",
}
_STATES = {"BUFFERING": "preparing", "ACTIVE": "active"}


def names(profile: str) -> tuple[str, ...]:
    """In the order of the vendor's document."""
    words = ["created", "connected", "recording", "active", "disconnected", "idle", "updated", "enabled", "disabled", "deleted"]
    if profile == "2026":
        words.insert(2, "preparing")
    simulcast = ("simulcast", *_TARGET) if profile == "seed" else ("simulcast_target", *_TARGET[:3], "updated", _TARGET[3])
    targets = [f"video.live_stream.{simulcast[0]}.{word}" for word in simulcast[1:]]
    return (*(f"video.live_stream.{word}" for word in words), *_ASSET[profile], *_ASSET_DELETED[profile], *targets)


def messages(fact: Fact, subject: Subject, profile: str) -> list[tuple[str, bytes]]:
    if fact.type == TEST:
        return [_enveloped(TEST, "webhook", str(fact.data.get("endpointId", "")), fact, subject, dict(fact.data), profile, 0)]
    if fact.type == "recording.deleted":
        return _deleted(fact, subject, profile)
    row, stream = subject.ingress, subject.live_stream
    if row is None or stream is None:
        return []
    if fact.type == "asset.created" and profile == "2026":
        media_id, media = str(fact.data["mediaId"]), _media(fact, subject)
        return [_enveloped(name, "media", media_id, fact, subject, media, profile, number) for number, name in enumerate(_ASSET[profile])]
    data = _seed_stream(fact, row, stream, subject) if profile == "seed" else _stream(fact, row, stream, subject)
    return [_enveloped(name, "live", row.id, fact, subject, data, profile, number) for number, name in enumerate(_names_of(fact, profile))]


def _names_of(fact: Fact, profile: str) -> list[str]:
    if fact.type == "asset.created":
        return list(_ASSET[profile])
    family, _, word = fact.type.partition(".")
    if family == "target":
        name = f"video.live_stream.{'simulcast' if profile == 'seed' else 'simulcast_target'}.{word}"
        return [name] if name in names(profile) else []
    words = _STREAM.get(fact.type, ()) if profile == "seed" else _PREPARING.get(fact.type, _STREAM.get(fact.type, ()))
    return [f"video.live_stream.{word}" for word in words]


def _status(fact: Fact, row: Ingress) -> str:
    """Of the moment that the fact tells of: its row may have gone on since."""
    known = _STATUS.get(fact.type) or _STATES.get(row.state, "idle")
    if fact.type == "ingress.disabled" or (known == "idle" and row.disabled_at is not None):
        return "disabled"
    return known


def _playback(subject: Subject) -> list[dict[str, str]]:
    return [{"id": playback.id, "accessPolicy": playback.access_policy} for playback in subject.playback_ids]


def _deleted(fact: Fact, subject: Subject, profile: str) -> list[tuple[str, bytes]]:
    """Of an asset, and all of it."""
    recording = subject.recording
    if recording is None or recording.media_id is None or not fact.data.get("whole", True):
        return []
    data = {"id": recording.media_id, "streamId": recording.ingress_id, "workspaceId": subject.project.id}
    return [_enveloped(name, "media", recording.media_id, fact, subject, data, profile, 0) for name in _ASSET_DELETED[profile]]


def _asset(fact: Fact, subject: Subject) -> dict[str, Any]:
    data = fact.data
    url = f"{subject.base}{data['path']}"
    playback = [{"id": data["playbackId"], "accessPolicy": data["accessPolicy"]}]
    return {"id": data["mediaId"], "status": "ready", "duration": data["duration"], "playbackId": playback, "url": url}


def _media(fact: Fact, subject: Subject) -> dict[str, Any]:
    """As `/v1/on-demand` shows it."""
    data, recording = fact.data, subject.recording
    began = fact.at if recording is None else recording.started_at
    return {
        "thumbnail": f"{subject.base}/vod/{data['playbackId']}/poster.jpg",
        "id": data["mediaId"],
        "workspaceId": subject.project.id,
        "streamId": data["ingressId"],
        "metadata": {} if recording is None else dict(recording.labels),
        "title": "" if recording is None else recording.title,
        "status": "Ready",
        "playbackIds": [{"id": data["playbackId"], "accessPolicy": data["accessPolicy"], "url": f"{subject.base}{data['path']}"}],
        "duration": data["duration"],
        "createdAt": clock.iso(began, 6),
        "updatedAt": clock.iso(fact.at, 6),
    }


def _seed_stream(fact: Fact, row: Ingress, stream: LiveStream, subject: Subject) -> dict[str, Any]:
    asset = {"asset": _asset(fact, subject)} if fact.type == "asset.created" else {}
    return {
        "test": stream.test,
        "streamId": row.id,
        "status": _status(fact, row),
        "audioOnly": stream.audio_only,
        "streamKey": row.stream_key,
        "maxResolution": stream.max_resolution,
        "createdAt": clock.iso(row.created_at, 6),
        "reconnectWindow": round(stream.reconnect_window),
        "latencyMode": stream.latency_mode,
        "maxDuration": round(stream.max_duration),
        "playbackId": _playback(subject),
        **asset,
    }


def _stream(fact: Fact, row: Ingress, stream: LiveStream, subject: Subject) -> dict[str, Any]:
    data: dict[str, Any] = {
        "streamId": row.id,
        "streamKey": row.stream_key,
        "srtSecret": stream.srt_secret,
        "trial": False,
        "test": stream.test,
        "status": _status(fact, row),
        "audioOnly": stream.audio_only,
        "maxResolution": stream.max_resolution,
        "maxDuration": round(stream.max_duration),
        "createdAt": clock.iso(row.created_at, 6),
        "reconnectWindow": round(stream.reconnect_window),
        "enableRecording": stream.enable_recording,
        "enableDvrMode": stream.enable_dvr,
        "mediaPolicy": stream.media_policy,
        "metadata": dict(stream.metadata),
        "lowLatency": stream.latency_mode == "low",
        "playbackIds": _playback(subject),
        "simulcastResponses": [_target(target) for target in subject.targets],
    }
    if subject.target is not None:
        data["simulcast"] = _target(subject.target)
    return data


def _target(target: PushTarget) -> dict[str, Any]:
    key = target.stream_key or ""
    return {"simulcastId": target.id, "url": target.url, "streamKey": f"…{key[-4:]}" if len(key) > 8 else "…", "isEnabled": target.enabled}


def _enveloped(
    name: str, kind: str, object_id: str, fact: Fact, subject: Subject, data: dict[str, Any], profile: str, number: int
) -> tuple[str, bytes]:
    environment = {"name": subject.project.name, "id": subject.project.id}
    head: dict[str, Any] = {"type": name}
    about = {"object": {"type": kind, "id": object_id}, "id": fact.event_id(name, number)}
    at = clock.iso(fact.at, 6)
    if profile == "seed":
        tail: dict[str, Any] = {"createdAt": at, "attempts": [], "accessor_source": None, "accessor": None}
        body = {**head, "request_id": None, **about, "environment": environment, "data": data, **tail}
    else:
        status = "_".join(name.split(".")[1:])
        body = {**head, **about, "workspace": environment, "status": status, "data": data, "createdAt": at, "attempts": []}
    return name, msgspec.json.encode(body)
