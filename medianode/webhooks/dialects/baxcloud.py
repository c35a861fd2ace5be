"""BaxCloud's `live.*` (the ingress document) and the nine events of BaxStream's jobs, in the one envelope that its middleware parses
(contracts 1.1): `{event, eventId, timestamp, projectId, metadata, data}`.

`live.*` tell of ingresses only. A loss within the hold window is `live.updated` (BUFFERING, with its reason), not an end. The jobs' data
comes as the file pipeline makes it; it emits them from issue 5 on.
"""

from __future__ import annotations

from typing import Any

import msgspec

from medianode import clock
from medianode.webhooks.facts import JOB, TEST, Fact
from medianode.webhooks.subject import Subject

LIVE = ("live.started", "live.updated", "live.ended", "live.failed")
NAMES = (*LIVE, *JOB)
_INPUTS = {"rtmp": "RTMP", "whip": "WHIP", "any": "RTMP", "url": "URL", "ws-mjpeg": "WS_MJPEG"}


def messages(fact: Fact, subject: Subject, profile: str) -> list[tuple[str, bytes]]:
    if fact.type in JOB:
        return [_enveloped(fact.type, fact, fact.data, fact.data.get("metadata"))]
    if fact.type == TEST:
        return [_enveloped(TEST, fact, fact.data)]
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


def _enveloped(name: str, fact: Fact, data: Any, metadata: Any = None) -> tuple[str, bytes]:
    body = {
        "event": name,
        "eventId": fact.id,
        "timestamp": clock.iso(fact.at),
        "projectId": fact.project_id,
        "metadata": metadata,
        "data": data,
    }
    return name, msgspec.json.encode(body)
