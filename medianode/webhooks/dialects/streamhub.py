"""StreamHub's callbacks (contracts 2.5): `{id, event, app, room, ts, timestamp, data}`, `ts` and `timestamp` the same RFC 3339 instant.

`data` is flat. One fact is often several events, each with an `id` of its own; repetitions of an event have the same one. `streamId` is the
ingress's id, or `room/identity` of who publishes without one. A loss within the hold window only unpublishes the tracks: the participant
stays, and so do stream and ingress.

A recording that is over is `recording_stopped`, and `vod_ready` where there is something to play. For what it has no word for (disks,
pulls) our own names are written as it would write them.
"""

from __future__ import annotations

from typing import Any

import msgspec

from medianode import clock
from medianode.webhooks.facts import TEST, Fact
from medianode.webhooks.subject import Subject

NAMES = (
    "room_started",
    "room_finished",
    "participant_joined",
    "participant_left",
    "track_published",
    "track_unpublished",
    "ingress_started",
    "ingress_ended",
    "stream_started",
    "stream_ended",
    "hls_started",
    "hls_stopped",
    "recording_started",
    "recording_stopped",
    "vod_ready",
    "recording_failed",
    "recording_trouble",
    "recording_deleted",
    "recording_uploaded",
    "recording_upload_failed",
    "ingress_pull_connected",
    "ingress_pull_failed",
    "disk_low",
    "disk_full",
    "disk_recovered",
)
TEST_NAME = "webhook_test"
_TYPES = {"rtmp": "rtmp", "srt": "rtmp", "whip": "whip", "url": "rtsp", "ws-mjpeg": "ws-mjpeg", "any": "rtmp"}

Told = tuple[str, dict[str, Any]]


def messages(fact: Fact, subject: Subject, profile: str) -> list[tuple[str, bytes]]:
    app = subject.project.slug
    if fact.type == TEST:
        return [_enveloped(TEST_NAME, app, fact, dict(fact.data), 0)]
    family, _, word = fact.type.partition(".")
    if family == "room":
        told = _room(word, app, fact.data)
    elif family in ("ingress", "publisher"):
        told = _session(word, fact.data)
    elif family == "recording":
        told = _recording(word, app, subject.base, fact.data)
    elif family == "pull":
        through = {"room": fact.data["room"], "participant": fact.data["identity"], "ingress": fact.data["ingressId"]}
        why = {"reason": fact.data.get("code", ""), "error": fact.data.get("message", "")} if word == "failed" else {}
        told = [(f"ingress_pull_{word}", {**through, **why})]
    elif family == "disk":
        told = [(f"disk_{word}", dict(fact.data))]
    else:
        return []
    return [_enveloped(name, app, fact, data, number) for number, (name, data) in enumerate(told)]


def _room(word: str, app: str, data: Any) -> list[Told]:
    room = data["room"]
    hls = {"room": room, "playlistUrl": f"/hls/{app}/{room}/index.m3u8"}
    if word == "live":
        return [("room_started", {"room": room}), *([("hls_started", hls)] if data.get("hls") else [])]
    return [*([("hls_stopped", hls)] if data.get("hls") else []), ("room_finished", {"room": room})]


def _session(word: str, data: Any) -> list[Told]:
    """Nested as a receiver sees it: ingress, participant, stream, tracks; and the other way round at the end."""
    who: dict[str, Any] = {"room": data["room"], "participant": data["identity"]}
    ingress = data.get("ingressId")
    through = {**who, "ingress": ingress} if ingress else who
    stream = {"streamId": ingress or f"{data['room']}/{data['identity']}", **through}
    kind = _TYPES.get(data.get("door") or data.get("kind", ""), "rtmp")
    tracks = [{**through, "track": track["kind"], "codec": track["codec"]} for track in data.get("tracks", ())]
    if word == "connected":
        if data.get("resumed"):
            return []
        joined = ("participant_joined", {**through, "name": data["name"]})
        return [("ingress_started", {**through, "type": kind}), joined] if ingress else [joined]
    if word == "active":
        started = [] if data.get("resumed") else [("stream_started", {**stream, "type": kind})]
        return [*started, *(("track_published", track) for track in tracks)]
    if word == "disconnected":
        return [("track_unpublished", {**track, "reason": data.get("code", "")}) for track in tracks]
    if word in ("idle", "failed"):
        why: dict[str, Any] = {"reason": data.get("code", "")}
        if word == "failed":
            why["error"] = data.get("message") or data.get("code", "")
        duration = float(data.get("duration") or 0.0)
        seen = [("stream_ended", {**stream, "durationSec": round(duration), **why})] if duration else []
        left = ("participant_left", {**through, **why})
        return [*seen, left, ("ingress_ended", {**through, **why})] if ingress else [*seen, left]
    return []


def _recording(word: str, app: str, base: str, data: Any) -> list[Told]:
    vod, where = data["recordingId"], f"{base}/vod/{app}/{data['recordingId']}"
    stream = f"{data['room']}/{data['identity']}" if data["identity"] else data["room"]
    about: dict[str, Any] = {"room": data["room"], "streamId": stream, "vodId": vod, "egressId": vod, "title": data["title"]}
    why = {"reason": data["code"], "error": data["message"]}
    over = {**about, "durationSec": data["duration"], "size": data["bytes"]}
    playable = {"playUrl": f"{where}/index.m3u8", "url": f"{where}/download.mp4", "thumbnailUrl": f"{where}/poster.jpg"}
    match word:
        case "started":
            return [("recording_started", {**about, "playUrl": playable["playUrl"]})]
        case "finished":
            return [("recording_stopped", over), ("vod_ready", {**over, **playable})]
        case "failed":
            return [("recording_stopped", over), ("recording_failed", {**over, **why})]
        case "deleted":
            return [("recording_deleted", {**about, "deletedSec": data.get("seconds", 0.0), "whole": data.get("whole", True)})]
        case "uploaded":
            return [("recording_uploaded", {**over, "url": data.get("url", "")})]
    return [(f"recording_{word.replace('-', '_')}", {**about, **why})]


def _enveloped(name: str, app: str, fact: Fact, data: dict[str, Any], number: int) -> tuple[str, bytes]:
    at = clock.iso(fact.at)
    body = {
        "id": fact.event_id(name, number),
        "event": name,
        "app": app,
        "room": data.get("room"),
        "ts": at,
        "timestamp": at,
        "data": data,
    }
    return name, msgspec.json.encode(body)
