from __future__ import annotations

import re
from typing import Any

import pytest

from medianode import clock
from medianode.media.packet import Packet
from medianode.media.queue import Bounds, Policy
from medianode.media.track import Codec, Track
from medianode.routing.subscription import Subscription

VIDEO = Track(1, Codec.H264, 90_000, width=1920, height=1080, frame_rate=30.0)
AUDIO = Track(2, Codec.AAC, 48_000, sample_rate=48_000, channels=2)


async def live_session(house: Any) -> Any:
    made = (await house.ask("POST", "/api/v1/apps/live/ingress", {"inputType": "rtmp", "room": "demo", "participantIdentity": "obs"})).data
    room, publication = await house.publish(made["streamKey"], tracks=(VIDEO, AUDIO))
    at = clock.now()
    publication.meters[1].keyframe_at = at - 8.3
    publication.write(Packet(VIDEO, b"\0" * 500, 96_000, 93_000, True, at))
    publication.write(Packet(AUDIO, b"\0" * 100, 48_000, 48_000, True, at))
    publication.health.drops["late"] = 3
    publication.health.repairs["backward-jump"] = 1
    publication.health.last_error = "bad-sps"
    room.count_viewer("hls", 1, 10)
    return made, room, publication


async def test_sessions_tell_all(house: Any) -> None:
    made, room, publication = await live_session(house)
    async with Subscription(room, Policy.LIVE, Bounds(10, 100_000, 10.0)):
        listed = await house.ask("GET", "/api/v1/sessions")
    assert listed.status == 200
    assert (listed.body["total"], listed.body["limit"], listed.body["offset"]) == (1, 100, 0)
    session = listed.data[0]
    video, audio = session["tracks"]
    assert session == {
        "id": "live-demo/obs",
        "app": "live",
        "room": "live-demo",
        "identity": "obs",
        "name": "",
        "ingressId": made["ingressId"],
        "door": "rtmp",
        "peer": "192.0.2.7",
        "state": "active",
        "programme": True,
        "startedAt": session["startedAt"],
        "uptime": session["uptime"],
        "tracks": [video, audio],
        "drift": 0.0,
        "drops": {"late": 3},
        "repairs": {"backward-jump": 1},
        "viewers": {"hls": 1},
        "queue": {"readers": 1, "queued": 2, "deepest": 2, "dropped": 0},
        "lastError": "bad-sps",
        "hints": session["hints"],
        "sourceClock": None,
        "network": {},
        "renditions": [],
    }
    assert video == {
        "id": 1,
        "kind": "video",
        "codec": "h264",
        "packets": 2,
        "bytes": 1500,
        "bitrate": 0,
        "width": 1920,
        "height": 1080,
        "declaredFrameRate": 30.0,
        "keyFrames": 2,
        "keyFrameInterval": 8.3,
        "bFrames": True,
        "frameRate": 0.0,
        "sampleRate": 0,
        "channels": 0,
        "idleSeconds": video["idleSeconds"],
        "layer": "",
    }
    assert (audio["kind"], audio["sampleRate"], audio["channels"], audio["bFrames"]) == ("audio", 48_000, 2, False)
    assert any(hint.startswith("B-frames: for WebRTC viewers") for hint in session["hints"])
    assert "key-frame interval 8.3 s makes HLS start slowly: set 2 s" in session["hints"]
    for name in ("live-demo%2Fobs", "live-demo/obs"):
        assert (await house.ask("GET", f"/api/v1/sessions/{name}")).data["id"] == "live-demo/obs"
    room.end(publication, "publisher-left")
    refused = await house.ask("GET", "/api/v1/sessions/live-demo%2Fobs")
    assert (refused.status, set(refused.body)) == (404, {"statusCode", "message", "error"})


class Mailbox:
    """A reader that counts its drops by cause, as a Rendition does."""

    queued = 4

    def __init__(self) -> None:
        self.dropped = {"slow": 2, "late": 1}

    def on_tracks(self, tracks: tuple[Track, ...]) -> None:
        pass

    def on_packet(self, packet: Packet) -> None:
        pass


async def test_every_kind_of_queue_counts(house: Any) -> None:
    _, room, _ = await live_session(house)
    room.attach(Mailbox())
    async with Subscription(room, Policy.LIVE, Bounds(10, 100_000, 10.0)):
        session = (await house.ask("GET", "/api/v1/sessions")).data[0]
    assert session["queue"] == {"readers": 2, "queued": 6, "deepest": 4, "dropped": 3}


async def test_rooms_list_what_is_on_air(house: Any) -> None:
    _, room, publication = await live_session(house)
    view = await house.key("view", project="live")
    rooms = (await house.ask("GET", "/api/v1/rooms", key=view)).data
    assert rooms == [
        {
            "app": "live",
            "room": "live-demo",
            "onAir": True,
            "held": False,
            "liveSince": rooms[0]["liveSince"],
            "programme": "live-demo/obs",
            "showing": "publisher",
            "sessions": ["live-demo/obs"],
            "viewers": {"hls": 1},
            "playUrl": "https://media.example.com/play/live/live-demo",
            "hlsUrl": "https://media.example.com/hls/live/live-demo/index.m3u8",
            "posterUrl": "https://media.example.com/live/live/live-demo/frame.jpg",
        }
    ]
    room.end(publication, "publisher-left")
    held = (await house.ask("GET", "/api/v1/rooms")).data[0]
    assert (held["onAir"], held["held"], held["programme"], held["sessions"]) == (True, True, None, [])
    room.release("obs")
    assert (await house.ask("GET", "/api/v1/rooms")).body["total"] == 0


@pytest.mark.parametrize("path", ["/api/v1/sessions", "/api/v1/rooms"])
async def test_a_projects_key_sees_its_own_only(house: Any, path: str) -> None:
    await live_session(house)
    assert (await house.ask("GET", path, key=await house.key("live", project="other"))).body["total"] == 0
    assert (await house.ask("GET", path, key=house.admin)).body["total"] == 1
    assert (await house.ask("GET", f"{path}?app=live&room=live-demo", key=house.admin)).body["total"] == 1
    assert (await house.ask("GET", f"{path}?app=other", key=house.admin)).body["total"] == 0
    assert (await house.ask("GET", f"{path}?offset=1", key=house.admin)).body == {"data": [], "total": 1, "limit": 100, "offset": 1}
    assert (await house.ask("GET", path, key="")).status == 401


async def test_projects_are_made_and_changed(house: Any) -> None:
    made = await house.ask("POST", "/api/v1/projects", {"slug": "garage", "viewing": "token"}, key=house.admin)
    assert made.status == 201
    assert made.data == {
        "id": made.data["id"],
        "slug": "garage",
        "name": "garage",
        "viewing": "token",
        "openPublish": False,
        "tokenIssuer": made.data["tokenIssuer"],
        "createdAt": made.data["createdAt"],
        "limits": dict.fromkeys(("rooms", "publishers", "viewers", "bitrate", "disk")),
        "storage": None,
        "recording": {"maxAge": None, "maxBytes": None, "minKeep": None, "upload": False, "deleteAfterUpload": False},
    }
    assert re.fullmatch(r"prj_[0-9a-f]+", made.data["id"])
    changed = await house.ask("PATCH", "/api/v1/projects/garage", {"openPublish": True}, key=house.admin)
    assert (changed.status, changed.data) == (200, {**made.data, "openPublish": True})
    assert (await house.ask("GET", f"/api/v1/projects/{made.data['id']}", key=house.admin)).data == changed.data
    listed = await house.ask("GET", "/api/v1/projects", key=house.admin)
    assert ([p["slug"] for p in listed.data], listed.body["total"]) == (["live", "other", "garage"], 3)
    again = await house.ask("POST", "/api/v1/projects", {"slug": "garage"}, key=house.admin)
    assert (again.status, again.body["error"]) == (409, "Conflict")
    for slug in ("../x", "", "UPPER", "streams", "s" * 65):
        assert (await house.ask("POST", "/api/v1/projects", {"slug": slug}, key=house.admin)).status == 400
    assert (await house.ask("PATCH", "/api/v1/projects/nosuch", {}, key=house.admin)).status == 404
    assert (await house.ask("GET", "/api/v1/projects")).status == 403, "a live key is no admin"


async def test_a_projects_admin_stays_in_its_project(house: Any) -> None:
    own = await house.key("admin", project="other")
    assert [p["slug"] for p in (await house.ask("GET", "/api/v1/projects", key=own)).data] == ["other"]
    assert (await house.ask("POST", "/api/v1/projects", {"slug": "more"}, key=own)).status == 403
    assert (await house.ask("GET", "/api/v1/projects/live", key=own)).status == 404
    assert (await house.ask("PATCH", "/api/v1/projects/live", {"openPublish": True}, key=own)).status == 404
    assert (await house.ask("POST", "/api/v1/keys", {"name": "x", "permissions": ["admin"], "project": "live"}, key=own)).status == 404
    project = await house.projects.get("other")
    made = await house.ask("POST", "/api/v1/keys", {"name": "x", "permissions": ["admin"]}, key=own)
    assert made.data["project"] == project.id, "not the whole node"
    assert {k["project"] for k in (await house.ask("GET", "/api/v1/keys", key=own)).data} == {project.id}
    foreign = (await house.keys.list())[0].id
    assert (await house.ask("DELETE", f"/api/v1/keys/{foreign}", key=own)).status == 404
    assert (await house.ask("GET", "/api/v1/keys", key=house.admin)).status == 200


async def test_keys_are_shown_once_and_revoked(house: Any) -> None:
    made = await house.ask("POST", "/api/v1/keys", {"name": "backend", "permissions": ["live"], "project": "live"}, key=house.admin)
    assert made.status == 201
    secret, key_id = made.data["key"], made.data["id"]
    assert re.fullmatch(r"sk_[A-Za-z0-9_-]{43}", secret)
    assert (await house.ask("GET", "/v1/ingress", key=secret)).status == 200
    listed = await house.ask("GET", "/api/v1/keys", key=house.admin)
    assert secret not in str(listed.body)
    assert [k["name"] for k in listed.data if k["id"] == key_id] == ["backend"]
    gone = await house.ask("DELETE", f"/api/v1/keys/{key_id}", key=house.admin)
    assert gone.status == 200
    assert gone.data["revokedAt"].endswith("Z")
    assert (await house.ask("GET", "/v1/ingress", key=secret)).status == 401
    assert (await house.ask("DELETE", "/api/v1/keys/key_none", key=house.admin)).status == 404
    for body in (
        {"name": "x"},
        {"name": "x", "permissions": []},
        {"name": "x", "permissions": ["root"]},
        {"name": "", "permissions": ["live"]},
    ):
        assert (await house.ask("POST", "/api/v1/keys", body, key=house.admin)).status == 400
    nowhere = {"name": "x", "permissions": ["live"], "project": "nosuch"}
    assert (await house.ask("POST", "/api/v1/keys", nowhere, key=house.admin)).status == 404


async def test_nobody_saws_off_the_branch_they_sit_on(house: Any) -> None:
    own = await house.keys.create("mine", ["admin"])
    refused = await house.ask("DELETE", f"/api/v1/keys/{own.key.id}", key=own.secret)
    assert (refused.status, refused.headers["X-Error-Code"]) == (409, "own-key")
    assert (await house.ask("GET", "/api/v1/keys", key=own.secret)).status == 200
