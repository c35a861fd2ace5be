"""BaxCloud's `live.*` (the ingress document), its `recording.started/stopped/available` and the nine events of BaxStream's jobs, in the one
envelope that its middleware parses (contracts 1.1): `{event, eventId, timestamp, projectId, metadata, data}`.

A recording that is over is `recording.stopped`, and `recording.available` where there is something to play. What it has no word for
(uploads, retention, disks, pulls) comes in the same envelope under our own names. `metadata` are a recording's labels.

`live.*` tell of ingresses only. A loss within the hold window is `live.updated` (BUFFERING, with its reason), not an end. The jobs' data
comes as the file pipeline makes it.
"""

from __future__ import annotations

from typing import Any

import msgspec

from medianode import clock
from medianode.webhooks.facts import DISK, JOB, PULL, TEST, Fact
from medianode.webhooks.subject import Subject

LIVE = ("live.started", "live.updated", "live.ended", "live.failed")
RECORDING = (
    *("recording.started", "recording.stopped", "recording.available"),
    *("recording.trouble", "recording.deleted", "recording.uploaded", "recording.upload-failed"),
)
NAMES = (*LIVE, *RECORDING, *DISK, *PULL, *JOB)
_RECORDED = {"recording.finished": ("recording.stopped", "recording.available"), "recording.failed": ("recording.stopped",)}
_STATUS = {"recording": "RECORDING", "finished": "COMPLETE", "failed": "FAILED"}
_INPUTS = {"rtmp": "RTMP", "whip": "WHIP", "any": "RTMP", "url": "URL", "ws-mjpeg": "WS_MJPEG"}


def messages(fact: Fact, subject: Subject, profile: str) -> list[tuple[str, bytes]]:
    if fact.type in JOB:
        return [_enveloped(fact.type, fact, fact.data, fact.data.get("metadata"))]
    if fact.type == TEST:
        return [_enveloped(TEST, fact, fact.data)]
    family = fact.type.partition(".")[0]
    if family == "recording":
        names = _RECORDED.get(fact.type, (fact.type,))
        data, labels = _recording(fact, subject), dict(fact.data.get("labels") or {}) or None
        return [_enveloped(name, fact, data, labels, number) for number, name in enumerate(names)]
    if family == "disk":
        return [_enveloped(fact.type, fact, dict(fact.data))]
    if family == "pull":
        why = {"errorCode": fact.data.get("code", ""), "errorMessage": fact.data.get("message", "")}
        return [_enveloped(fact.type, fact, {**_ingress(fact, subject), **(why if fact.type == "pull.failed" else {})})]
    told = _live(fact)
    if told is None:
        return []
    name, status, rest = told
    return [_enveloped(name, fact, {**_ingress(fact, subject), "status": status, **rest})]


def _live(fact: Fact) -> tuple[str, str, dict[str, Any]] | None:
    """Name, status and what else is told of it."""
    data = fact.data
    if fact.type == "ingress.connected":
        return ("live.updated", "BUFFERING", {"resumed": True}) if data.get("resumed") else ("live.started", "BUFFERING", {})
    if fact.type == "ingress.active":
        return "live.updated", "ACTIVE", {}
    if fact.type == "ingress.disconnected":
        return "live.updated", "BUFFERING", {"reason": data.get("code", ""), "message": data.get("message", "")}
    duration = round(float(data.get("duration") or 0.0))
    if fact.type == "ingress.idle":
        return "live.ended", "COMPLETE", {"durationSec": duration, "reason": data.get("code", "")}
    if fact.type == "ingress.failed":
        why = {"errorMessage": data.get("message") or data.get("code", ""), "errorCode": data.get("code", "")}
        return "live.failed", "ERROR", {**why, "durationSec": duration}
    return None


def _ingress(fact: Fact, subject: Subject) -> dict[str, Any]:
    data, row = fact.data, subject.ingress
    return {
        "ingressId": data["ingressId"],
        "roomName": data["room"] if row is None else row.room_name,
        "inputType": _INPUTS.get(data.get("door") or data["kind"], "RTMP"),
        "participantIdentity": data["identity"],
        "participantName": data["name"],
    }


def _recording(fact: Fact, subject: Subject) -> dict[str, Any]:
    data, where = fact.data, f"{subject.base}/vod/{subject.project.slug}/{fact.data['recordingId']}"
    told: dict[str, Any] = {
        "recordingId": data["recordingId"],
        "ingressId": data["ingressId"],
        "roomName": data["room"],
        "participantIdentity": data["identity"],
        "status": _STATUS.get(data["state"], "RECORDING"),
        "title": data["title"],
        "startedAt": data["startedAt"],
        "endedAt": data["endedAt"],
        "durationSec": round(float(data["duration"]), 3),
        "sizeBytes": data["bytes"],
    }
    if fact.type in ("recording.started", "recording.finished"):
        told |= {"url": f"{where}/index.m3u8", "downloadUrl": f"{where}/download.mp4"}
    if fact.type == "recording.uploaded":
        told["url"] = data.get("url", "")
    if fact.type == "recording.deleted":
        told |= {"deletedSec": data.get("seconds", 0.0), "whole": data.get("whole", True)}
    if fact.type in ("recording.failed", "recording.trouble", "recording.upload-failed"):
        told |= {"errorCode": data["code"], "errorMessage": data["message"]}
    return told


def _enveloped(name: str, fact: Fact, data: Any, metadata: Any = None, number: int = 0) -> tuple[str, bytes]:
    body = {
        "event": name,
        "eventId": fact.event_id(name, number),
        "timestamp": clock.iso(fact.at),
        "projectId": fact.project_id,
        "metadata": metadata,
        "data": data,
    }
    return name, msgspec.json.encode(body)
