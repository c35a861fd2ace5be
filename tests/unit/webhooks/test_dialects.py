"""Envelopes to the letter of the vendors' documents, and which fact is which events."""

from __future__ import annotations

import json
import uuid
from dataclasses import replace
from typing import Any

import pytest

from medianode.store.endpoints import WebhookEndpoint
from medianode.webhooks import dialects
from medianode.webhooks.dialects import examples, names, translate
from medianode.webhooks.dialects.samples import LIVE, PLAIN, SAMPLES
from medianode.webhooks.facts import INGRESS, JOB, PUBLISHER, ROOM, TEST, Fact
from medianode.webhooks.subject import Subject

ALL = [("baxcloud", "seed"), ("streamhub", "seed"), ("fastpix", "seed"), ("fastpix", "2026")]
SESSION = ("connected", "active", "disconnected", "idle")


def endpoint(dialect: str, profile: str = "seed", *events: str) -> WebhookEndpoint:
    patterns = events or ("*",)
    return WebhookEndpoint(
        id="we_1", project_id="p", name="", url="", events=patterns, dialect=dialect, profile=profile, created_at=0, updated_at=0
    )


def fact(type_: str, subject: Subject = PLAIN, **session: Any) -> Fact:
    """One of SAMPLES, with its session changed."""
    found = next(f for f, s in SAMPLES if f.type == type_ and (s is subject or not type_.startswith(("ingress", "asset"))))
    return replace(found, data={**found.data, **session})


def told(dialect: str, *facts: Fact, subject: Subject = PLAIN, profile: str = "seed") -> list[str]:
    return [name for f in facts for name, _ in translate(endpoint(dialect, profile), f, subject)]


def body(dialect: str, of: Fact, subject: Subject = PLAIN, *, profile: str = "seed", number: int = 0) -> Any:
    return json.loads(translate(endpoint(dialect, profile), of, subject)[number][1])


@pytest.mark.parametrize(("dialect", "profile"), ALL)
def test_every_documented_name_has_an_example_and_every_event_a_documented_name(dialect: Any, profile: str) -> None:
    shown = examples(dialect, profile)
    extra = {"webhook.test", "webhook_test"}
    assert [name for name, _ in shown if name not in extra] == list(names(dialect, profile))
    assert len(shown) == len(names(dialect, profile)) + 1
    produced = {name for f, subject in SAMPLES for name, _ in translate(endpoint(dialect, profile), f, subject)}
    assert produced - extra == set(names(dialect, profile))


def test_the_names_of_the_documents() -> None:
    """Read off the seeds: 000, 002, 003 and contracts 2.5."""
    assert names("baxcloud") == (
        *("live.started", "live.updated", "live.ended", "live.failed"),
        *("recording.started", "recording.stopped", "recording.available"),
        # ours, in its envelope
        *("recording.trouble", "recording.deleted", "recording.uploaded", "recording.upload-failed"),
        *("disk.low", "disk.full", "disk.recovered", "pull.connected", "pull.failed"),
        *("video.conversion.started", "video.conversion.completed", "video.conversion.failed"),
        *("categorization.started", "categorization.completed", "categorization.failed"),
        *("moderation.started", "moderation.completed", "moderation.failed"),
    )
    stream = ("created", "connected", "recording", "active", "disconnected", "idle", "updated", "enabled", "disabled", "deleted")
    simulcast = ("created", "starting", "broadcasting", "deleted")
    assert names("fastpix") == (
        *(f"video.live_stream.{word}" for word in stream),
        "video.asset.created",
        *(f"video.live_stream.simulcast.{word}" for word in simulcast),
    )
    assert {"ingress_started", "stream_ended", "track_unpublished", "room_finished", "hls_stopped"} <= set(names("streamhub"))
    assert {"recording_started", "recording_stopped", "vod_ready"} <= set(names("streamhub"))
    media = ("video.media.created", "video.media.ready", "video.media.deleted")
    assert tuple(name for name in names("fastpix", "2026") if name.startswith("video.media")) == media


@pytest.mark.parametrize(("dialect", "profile"), ALL)
def test_bodies_are_compact_and_their_ids_distinct_and_stable(dialect: str, profile: str) -> None:
    key = "eventId" if dialect == "baxcloud" else "id"
    for f, subject in SAMPLES:
        once, again = translate(endpoint(dialect, profile), f, subject), translate(endpoint(dialect, profile), f, subject)
        assert once == again
        ids = [json.loads(raw)[key] for _, raw in once]
        assert len(set(ids)) == len(ids)
        assert ids[:1] in ([], [f.id])
        for event_id in ids:
            uuid.UUID(event_id)
        for _, raw in once:
            assert raw == json.dumps(json.loads(raw), separators=(",", ":"), ensure_ascii=False).encode()


def test_an_endpoint_gets_what_its_patterns_name_in_the_words_of_the_dialect() -> None:
    connected = fact("ingress.connected")
    assert translate(endpoint("baxcloud", "seed", "live.ended", "video.*"), connected, PLAIN) == []
    assert [n for n, _ in translate(endpoint("baxcloud", "seed", "live.st*"), connected, PLAIN)] == ["live.started"]
    assert [n for n, _ in translate(endpoint("streamhub", "seed", "participant_*"), connected, PLAIN)] == ["participant_joined"]
    assert translate(endpoint("baxcloud", "seed", "ingress.*"), connected, PLAIN) == []
    assert len(translate(endpoint("fastpix", "seed", "nothing"), fact(TEST), PLAIN)) == 1


# BaxCloud


def test_baxcloud_s_envelope_and_its_keys_in_order() -> None:
    found = body("baxcloud", fact("ingress.connected", door="whip"))
    assert list(found) == ["event", "eventId", "timestamp", "projectId", "metadata", "data"]
    assert (found["timestamp"], found["metadata"]) == ("2026-03-29T14:30:01.000Z", None)
    assert list(found["data"].items()) == [
        ("ingressId", "IN_abc123"),
        ("roomName", "my-live-room"),
        ("inputType", "WHIP"),
        ("participantIdentity", "obs-streamer"),
        ("participantName", "OBS Studio"),
        ("status", "BUFFERING"),
    ]


def test_baxcloud_s_life_of_a_stream() -> None:
    facts = [fact(f"ingress.{word}") for word in SESSION]
    assert told("baxcloud", *facts) == ["live.started", "live.updated", "live.updated", "live.ended"]
    assert body("baxcloud", facts[1])["data"]["status"] == "ACTIVE"
    lost = body("baxcloud", facts[2])["data"]
    assert (lost["status"], lost["reason"], lost["message"]) == ("BUFFERING", "eof", "the encoder closed the connection")
    ended = body("baxcloud", facts[3])["data"]
    assert (ended["status"], ended["durationSec"]) == ("COMPLETE", 4500)
    back = fact("ingress.connected", resumed=True)
    assert told("baxcloud", back) == ["live.updated"]
    assert body("baxcloud", back)["data"]["resumed"] is True
    failed = body("baxcloud", fact("ingress.failed"))
    assert failed["event"] == "live.failed"
    assert (failed["data"]["status"], failed["data"]["errorMessage"]) == ("ERROR", "Connection timeout — encoder stopped sending data")


def test_baxcloud_has_no_word_for_what_is_no_stream() -> None:
    quiet = [f for f, _ in SAMPLES if f.type in ("ingress.created", "ingress.deleted", "ingress.updated", *ROOM, *PUBLISHER)]
    assert len(quiet) > 5
    assert told("baxcloud", *quiet) == []


def test_baxstream_s_jobs_come_as_they_are_with_their_metadata_hoisted() -> None:
    for f, subject in SAMPLES:
        if f.type in JOB:
            found = body("baxcloud", f, subject)
            assert (found["event"], found["metadata"], found["data"]) == (f.type, {"userId": "u_42"}, f.data)


def test_baxcloud_s_recordings() -> None:
    facts = [fact(f"recording.{word}") for word in ("started", "trouble", "finished")]
    words = ["recording.started", "recording.trouble", "recording.stopped", "recording.available"]
    assert told("baxcloud", *facts, subject=LIVE) == words
    available = body("baxcloud", facts[2], LIVE, number=1)
    assert available["metadata"] == {"case": "17"}
    assert list(available["data"].items()) == [
        ("recordingId", "rec_0a1B2c3D4e5F6g7H8i9J"),
        ("ingressId", "a2ae214362a14eeeb8884f1406148481"),
        ("roomName", "live-a2ae214362a14eeeb8884f1406148481"),
        ("participantIdentity", "ingress-live"),
        ("status", "COMPLETE"),
        ("title", "Press conference"),
        ("startedAt", "2026-03-29T14:30:00.000Z"),
        ("endedAt", "2026-03-29T15:45:00.000Z"),
        ("durationSec", 4500.0),
        ("sizeBytes", 1_406_250_000),
        ("url", "https://media.example.com/vod/live/rec_0a1B2c3D4e5F6g7H8i9J/index.m3u8"),
        ("downloadUrl", "https://media.example.com/vod/live/rec_0a1B2c3D4e5F6g7H8i9J/download.mp4"),
    ]
    failed = body("baxcloud", fact("recording.failed"), LIVE)
    assert (failed["event"], failed["data"]["status"], failed["data"]["errorCode"]) == ("recording.stopped", "FAILED", "disk-error")
    assert told("baxcloud", fact("recording.failed"), subject=LIVE) == ["recording.stopped"], "there may be nothing to play"
    assert body("baxcloud", fact("pull.failed"))["data"]["errorMessage"] == "the camera refuses user or password"
    assert body("baxcloud", fact("disk.low"))["data"]["free"] == 1_900_000_000


# StreamHub


def test_streamhub_s_recordings_disks_and_pulls() -> None:
    facts = [fact(f"recording.{word}") for word in ("started", "finished", "failed", "upload-failed")]
    over = ["recording_stopped", "vod_ready", "recording_stopped", "recording_failed"]
    assert told("streamhub", *facts, subject=LIVE) == ["recording_started", *over, "recording_upload_failed"]
    ready = body("streamhub", facts[1], LIVE, number=1)
    vod = "rec_0a1B2c3D4e5F6g7H8i9J"
    assert (ready["room"], ready["data"]["vodId"], ready["data"]["egressId"]) == ("live-a2ae214362a14eeeb8884f1406148481", vod, vod)
    assert ready["data"]["playUrl"] == f"https://media.example.com/vod/live/{vod}/index.m3u8"
    assert all(not isinstance(value, dict) for value in ready["data"].values())
    assert told("streamhub", fact("disk.full"), fact("pull.failed")) == ["disk_full", "ingress_pull_failed"]
    assert body("streamhub", fact("pull.failed"))["data"]["ingress"] == "IN_abc123"


def test_streamhub_s_envelope() -> None:
    found = body("streamhub", fact("ingress.active"))
    assert list(found) == ["id", "event", "app", "room", "ts", "timestamp", "data"]
    assert (found["app"], found["room"]) == ("live", "live-my-live-room")
    assert found["ts"] == found["timestamp"] == "2026-03-29T14:30:03.000Z"
    assert found["data"]["streamId"] == "IN_abc123"
    assert all(not isinstance(value, dict) for value in found["data"].values())


def test_streamhub_s_life_of_an_ingress_nests() -> None:
    session = [fact(f"ingress.{word}") for word in SESSION]
    opened, closed = ["ingress_started", "participant_joined"], ["participant_left", "ingress_ended"]
    tracks = ["track_published"] * 2, ["track_unpublished"] * 2
    assert told("streamhub", *session) == [*opened, "stream_started", *tracks[0], *tracks[1], "stream_ended", *closed]
    blip = [fact("ingress.disconnected"), fact("ingress.connected", resumed=True), fact("ingress.active", resumed=True)]
    assert told("streamhub", *blip) == [*tracks[1], *tracks[0]]
    assert told("streamhub", fact("ingress.failed")) == closed
    assert body("streamhub", fact("ingress.failed"), number=1)["data"]["error"].startswith("Connection timeout")


def test_streamhub_tells_of_publishers_without_an_ingress_and_of_rooms() -> None:
    about = {"room": "live-a", "identity": "ada", "name": "Ada", "door": "whip"}
    session = [
        Fact(type=f"publisher.{word}", project_id="p", stream="room:live-a", at=0.0, data={**about, "duration": 5.0}) for word in SESSION
    ]
    assert told("streamhub", *session) == ["participant_joined", "stream_started", "stream_ended", "participant_left"]
    assert body("streamhub", session[1])["data"] == {"streamId": "live-a/ada", "room": "live-a", "participant": "ada", "type": "whip"}
    assert told("streamhub", fact("room.live"), fact("room.ended")) == ["room_started", "hls_started", "hls_stopped", "room_finished"]
    assert told("streamhub", fact("room.live", hls=False)) == ["room_started"]


# FastPix


def test_fastpix_s_seed_payload_key_by_key() -> None:
    found = body("fastpix", fact("ingress.created", LIVE), LIVE)
    assert list(found) == [
        *("type", "request_id", "object", "id", "environment", "data", "createdAt", "attempts", "accessor_source", "accessor")
    ]
    stream = "a2ae214362a14eeeb8884f1406148481"
    assert found["object"] == {"type": "live", "id": stream}
    assert found["environment"] == {"name": "Development", "id": "prj_0a1b2c3d4e5f"}
    assert (found["request_id"], found["attempts"], found["accessor_source"], found["accessor"]) == (None, [], None, None)
    assert found["createdAt"] == "2026-03-29T14:30:12.000000Z"
    assert list(found["data"].items()) == [
        ("test", False),
        ("streamId", stream),
        ("status", "idle"),
        ("audioOnly", False),
        ("streamKey", f"3dc5d7641f918baa083a5c52a5bd9cbck{stream}"),
        ("maxResolution", "1080p"),
        ("createdAt", "2026-03-29T14:30:00.000000Z"),
        ("reconnectWindow", 60),
        ("latencyMode", "standard"),
        ("maxDuration", 43200),
        ("playbackId", [{"id": "55d5b68e-508a-4adf-a01a-9420005ee796", "accessPolicy": "public"}]),
    ]


def test_fastpix_s_status_is_that_of_the_moment_whatever_the_row_says_by_now() -> None:
    assert LIVE.ingress is not None
    moved_on = replace(LIVE, ingress=replace(LIVE.ingress, state="COMPLETE"))
    words = ("connected", "recording", "active", "disconnected", "idle", "failed")
    found = [body("fastpix", fact(f"ingress.{word}", LIVE), moved_on)["data"]["status"] for word in words]
    assert found == ["preparing", "preparing", "active", "preparing", "idle", "idle"]
    on_air = replace(LIVE, ingress=replace(LIVE.ingress, state="ACTIVE"))
    assert body("fastpix", fact("ingress.updated", LIVE), on_air)["data"]["status"] == "active"
    disabled = replace(LIVE, ingress=replace(LIVE.ingress, disabled_at=1.0))
    for word in ("disabled", "updated", "idle"):
        assert body("fastpix", fact(f"ingress.{word}", LIVE), disabled)["data"]["status"] == "disabled"
    assert body("fastpix", fact("ingress.enabled", LIVE), LIVE)["data"]["status"] == "idle"


def test_fastpix_tells_of_live_streams_only() -> None:
    assert told("fastpix", *(fact(type_) for type_ in INGRESS)) == []
    assert told("fastpix", fact("room.live"), fact("target.created"), subject=replace(PLAIN, target=LIVE.target)) == []


def test_fastpix_has_no_word_for_a_changed_or_broken_target_in_the_seed() -> None:
    assert told("fastpix", fact("target.updated"), subject=LIVE) == []
    assert told("fastpix", fact("target.updated"), subject=LIVE, profile="2026") == ["video.live_stream.simulcast_target.updated"]
    broken = replace(fact("target.created"), type="target.failed")
    assert told("fastpix", broken, subject=LIVE) == told("fastpix", broken, subject=LIVE, profile="2026") == []


def test_fastpix_s_asset() -> None:
    created = fact("asset.created", LIVE)
    found = body("fastpix", created, LIVE)
    live = body("fastpix", fact("ingress.idle", LIVE), LIVE)
    assert (found["type"], found["object"]) == ("video.asset.created", live["object"])
    playback = "9d3c1f5b-2a77-4c43-8e0f-7c5a4f5e8a0b"
    assert list(found["data"]) == [*live["data"], "asset"]
    assert found["data"]["asset"] == {
        "id": "6ff9a2a0-3c31-4a0d-9a39-0c2d4b1d4f5e",
        "status": "ready",
        "duration": 4500.0,
        "playbackId": [{"id": playback, "accessPolicy": "public"}],
        "url": f"https://media.example.com/vod/{playback}.m3u8",
    }
    assert told("fastpix", created, subject=LIVE, profile="2026") == ["video.media.created", "video.media.ready"]
    media = body("fastpix", created, LIVE, profile="2026", number=1)
    assert (media["object"], media["status"]) == ({"type": "media", "id": found["data"]["asset"]["id"]}, "media_ready")
    assert (media["data"]["streamId"], media["data"]["playbackIds"][0]["id"]) == (live["object"]["id"], playback)
    deleted = fact("recording.deleted")
    assert told("fastpix", deleted, subject=LIVE) == []
    assert told("fastpix", deleted, subject=LIVE, profile="2026") == ["video.media.deleted"]
    some = replace(deleted, data={**deleted.data, "whole": False})
    assert told("fastpix", some, subject=LIVE, profile="2026") == told("fastpix", deleted, subject=PLAIN, profile="2026") == []


def test_fastpix_has_no_word_for_recordings_that_are_no_asset_nor_for_disks_and_pulls() -> None:
    quiet = [fact(f"recording.{word}") for word in ("started", "trouble", "finished", "failed", "uploaded")]
    assert told("fastpix", *quiet, fact("disk.full"), fact("pull.failed"), subject=LIVE) == []


def test_fastpix_2026() -> None:
    connected = fact("ingress.connected", LIVE)
    assert told("fastpix", connected, subject=LIVE, profile="2026") == ["video.live_stream.connected", "video.live_stream.preparing"]
    found = body("fastpix", connected, LIVE, profile="2026")
    assert list(found) == ["type", "object", "id", "workspace", "status", "data", "createdAt", "attempts"]
    assert found["status"] == "live_stream_connected"
    assert found["data"]["playbackIds"][0]["accessPolicy"] == "public"
    starting = body("fastpix", fact("target.starting"), LIVE, profile="2026")
    assert starting["type"] == "video.live_stream.simulcast_target.starting"
    assert starting["data"]["simulcast"]["streamKey"] == "…-key"
    assert b"example-stream-key" not in b"".join(raw for _, raw in dialects.examples("fastpix", "2026"))
