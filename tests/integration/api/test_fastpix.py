"""FastPix's API over HTTP where its SDK does not look: shapes to the letter, other prefixes, whose project, what live state says."""

from __future__ import annotations

import base64
import re
from typing import Any

import pytest

from medianode.auth import Door
from medianode.errors import PeerGone
from medianode.events import IngressDisabled
from medianode.store import ingresses
from medianode.store.ingresses import Standing

STREAMS = "/v1/live/streams"
ERROR = ["success", "error"]


@pytest.fixture
async def stream(house: Any) -> Any:
    return (await house.ask("POST", STREAMS, {})).data


async def status(house: Any, stream: Any) -> str:
    found: str = (await house.ask("GET", f"{STREAMS}/{stream['streamId']}")).data["status"]
    return found


async def test_the_stream_object(house: Any, stream: Any) -> None:
    stream_id = stream["streamId"]
    playback = stream["playbackIds"][0]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", stream.pop("createdAt"))
    assert re.fullmatch(rf"[0-9a-f]{{32}}k{stream_id}", stream.pop("streamKey"))
    secret = stream.pop("srtSecret")
    assert stream == {
        "streamId": stream_id,
        "trial": False,
        "status": "idle",
        "maxResolution": "1080p",
        "maxDuration": 43_200,
        "reconnectWindow": 60,
        "enableRecording": True,
        "enableDvrMode": False,
        "mediaPolicy": "public",
        "metadata": {},
        "lowLatency": False,
        "closedCaptions": False,
        "playbackIds": [{"id": playback["id"], "accessPolicy": "public", "url": f"https://media.example.com/{playback['id']}.m3u8"}],
        "mediaIds": [],
        "srtPlaybackResponse": {"srtPlaybackStreamId": f"play{stream_id}", "srtPlaybackSecret": secret},
        "simulcastResponses": [],
        "test": False,
        "audioOnly": False,
        "latencyMode": "standard",
        "rtmpUrl": "rtmp://media.example.com:1935/live",
        "rtmpsUrl": "rtmps://media.example.com:1935/live",
        "whipUrl": f"https://media.example.com/whip/live/live-{stream_id}",
        "srtUrl": None,
        "dvrUrl": None,
    }


async def test_what_ours_adds(house: Any) -> None:
    settings = {"audioOnly": True, "lowLatency": True, "maxDuration": 600, "test": True, "maxResolution": None}
    made = (await house.ask("POST", STREAMS, {"inputMediaSettings": settings})).data
    assert (made["audioOnly"], made["latencyMode"], made["lowLatency"]) == (True, "low", True)
    assert (made["test"], made["trial"], made["maxDuration"]) == (True, True, 300)


async def test_without_v1_and_by_http_basic(house: Any, stream: Any) -> None:
    path = f"/live/streams/{stream['streamId']}"
    assert (await house.ask("GET", path)).data == stream
    basic = base64.b64encode(f":{house.live}".encode()).decode()
    answer = await house.ask("GET", "/live/streams?limit=1&offset=1&orderBy=asc", key="", headers={"Authorization": f"Basic {basic}"})
    assert answer.headers["Content-Type"].startswith("application/json")
    assert (answer.status, answer.body) == (
        200,
        {"success": True, "data": [stream], "pagination": {"totalRecords": 1, "currentOffset": 1, "offsetCount": 1}},
    )
    assert (await house.ask("DELETE", path)).body == {"success": True}


async def test_whose_project(house: Any, stream: Any) -> None:
    other = await house.key("live", project="other")
    path = f"{STREAMS}/{stream['streamId']}"
    assert (await house.ask("GET", path, key=other)).status == 404
    assert (await house.ask("GET", path, key=house.admin)).status == 200, "a key to the whole node means project live"
    assert (await house.ask("GET", path, key=house.admin, headers={"X-Project-Id": "other"})).status == 404
    refused = await house.ask("GET", path, headers={"X-Project-Id": "other"})
    assert (refused.status, list(refused.body), refused.body["error"]["code"]) == (403, ERROR, 403)
    view = await house.key("view", project="live")
    assert (await house.ask("GET", path, key=view)).status == 403
    assert (await house.ask("GET", path, key="")).body["error"]["code"] == 401


@pytest.mark.parametrize(
    ("method", "path", "body", "fields"),
    [
        ("POST", "", {"inputMediaSettings": {"maxResolution": "4k", "reconnectWindow": -1}}, ["maxResolution", "reconnectWindow"]),
        ("POST", "", {"inputMediaSettings": {"metadata": {str(i): "" for i in range(11)}}}, ["metadata"]),
        ("POST", "", {"inputMediaSettings": {"metadata": {"a": "b" * 256}}}, ["metadata"]),
        ("POST", "", {"inputMediaSettings": 5}, [""]),
        ("POST", "", {"playbackSettings": {"accessPolicy": "drm"}}, ["accessPolicy"]),
        ("POST", "", {"playbackSettings": {"accessRestrictions": {"domains": {"allow": [7]}}}}, ["accessRestrictions.domains.allow"]),
        ("PATCH", "/{id}", {"reconnectWindow": 1801}, ["reconnectWindow"]),
        ("POST", "/{id}/simulcast", {"url": "ftp://x.example/a"}, ["url"]),
        ("POST", "/{id}/simulcast", {"url": "rtmp://10.0.0.1/a", "streamKey": "k"}, ["url"]),
        ("DELETE", "/{id}/playback-ids", None, ["playbackId"]),
        ("GET", "?offset=0", None, ["offset"]),
        ("POST", "", [], ["body"]),
    ],
)
async def test_values_that_do_not_hold_are_422_with_their_fields(
    house: Any, stream: Any, method: str, path: str, body: Any, fields: list[str]
) -> None:
    refused = await house.ask(method, STREAMS + path.format(id=stream["streamId"]), body)
    assert (refused.status, refused.body["success"], refused.body["error"]["code"]) == (422, False, 422)
    named = refused.body["error"]["fields"]
    assert [f["field"].removeprefix("inputMediaSettings").removeprefix("playbackSettings").lstrip(".") for f in named] == fields
    assert all(f["message"] for f in named)
    assert (await house.ask("GET", STREAMS)).body["pagination"]["totalRecords"] == 1


async def test_status_follows_the_encoder(house: Any, stream: Any) -> None:
    assert await status(house, stream) == "idle"
    grant = await house.gate.publish(Door.RTMP, "live", stream["streamKey"])
    room, publication = house.registry.publish(grant, "rtmp", "192.0.2.7", house.kicked.append)
    assert await status(house, stream) == "preparing"
    room.end(publication, "closed", final=True)
    room, publication = await house.publish(stream["streamKey"])
    assert await status(house, stream) == "active"
    room.end(publication, "closed")
    assert (await status(house, stream), room.held) == ("preparing", True)
    refused = await house.ask("POST", f"{STREAMS}/{stream['streamId']}/simulcast", {"url": "rtmp://x.example/live", "streamKey": "k"})
    assert (refused.status, refused.headers["X-Error-Code"]) == (400, "simulcast-unavailable")
    assert (await house.ask("PUT", f"{STREAMS}/{stream['streamId']}/finish")).body == {"success": True}
    assert (await status(house, stream), house.registry.find(grant.project_id, grant.room)) == ("idle", None)


async def test_finish_ends_the_session_at_once_and_another_may_begin(house: Any, stream: Any) -> None:
    path = f"{STREAMS}/{stream['streamId']}/finish"
    refused = await house.ask("PUT", path)
    assert (refused.status, refused.headers["X-Error-Code"]) == (400, "not-active")
    assert refused.body["error"]["message"].startswith("stream cannot be completed")
    room, _ = await house.publish(stream["streamKey"])
    room.count_viewer("hls", +1, 10)
    assert (await house.ask("GET", f"{STREAMS}/{stream['streamId']}/viewer-count")).data == {"views": 1}
    assert (await house.ask("PUT", path)).status == 200
    assert [error.code for error in house.kicked] == ["finished"]
    assert (room.held, await status(house, stream)) == (False, "idle")
    await house.publish(stream["streamKey"])
    assert await status(house, stream) == "active"


async def test_a_changed_window_counts_for_the_session_on_air(house: Any, stream: Any) -> None:
    room, publication = await house.publish(stream["streamKey"])
    assert publication.grant.hold == 60
    await house.ask("PATCH", f"{STREAMS}/{stream['streamId']}", {"reconnectWindow": 0})
    room.end(publication, "closed")
    assert (room.held, await status(house, stream)) == (False, "idle")


async def test_disabled_it_stays_so(house: Any, stream: Any) -> None:
    house.bus.subscribe(IngressDisabled, lambda event: house.registry.kick_ingress(event.ingress_id, PeerGone("", code="ingress-disabled")))
    await house.publish(stream["streamKey"])
    assert (await house.ask("PUT", f"{STREAMS}/{stream['streamId']}/live-disable")).status == 200
    assert ([error.code for error in house.kicked], await status(house, stream)) == (["ingress-disabled"], "disabled")
    refused = await house.ask("PUT", f"{STREAMS}/{stream['streamId']}/live-disable")
    assert (refused.status, refused.headers["X-Error-Code"]) == (400, "already-disabled")
    refused = await house.ask("PUT", f"{STREAMS}/{stream['streamId']}/finish")
    assert (refused.status, refused.headers["X-Error-Code"]) == (400, "not-active")


async def test_a_new_stream_key(house: Any, stream: Any) -> None:
    renewed = (await house.ask("PUT", f"{STREAMS}/{stream['streamId']}/stream-key")).data
    assert renewed["streamKey"] != stream["streamKey"]
    assert {**renewed, "streamKey": ""} == {**stream, "streamKey": ""}


async def test_keys_of_simulcasts_are_not_shown(house: Any, stream: Any) -> None:
    path = f"{STREAMS}/{stream['streamId']}"
    made = await house.ask("POST", f"{path}/simulcast", {"url": "rtmp://x.example/live", "streamKey": "0123456789abcdef"})
    assert (made.status, made.data["streamKey"]) == (201, "…cdef")
    shown = (await house.ask("GET", path)).data["simulcastResponses"]
    assert [target["streamKey"] for target in shown] == ["…cdef"]
    within = await house.ask("POST", f"{path}/simulcast", {"url": "rtmp://y.example/live/0123456789abcdef"})
    assert within.data["url"] == "rtmp://y.example/live/…cdef"
    other = (await house.ask("POST", STREAMS, {})).data["streamId"]
    assert (await house.ask("GET", f"{STREAMS}/{other}/simulcast/{made.data['simulcastId']}")).status == 404


async def test_other_dialects_know_nothing_of_it(house: Any, stream: Any) -> None:
    assert (await house.ask("GET", "/v1/ingress")).body["items"] == []
    assert (await house.ask("GET", f"/v1/ingress/{stream['streamId']}")).status == 404
    room, publication = await house.publish(stream["streamKey"])
    assert [s["streamId"] for s in (await house.ask("GET", "/api/v1/apps/live/streams")).data] == [
        f"live-{stream['streamId']}/{stream['streamId']}"
    ]
    room.end(publication, "closed", final=True)
    await house.lives.write()
    assert [s["status"] for s in (await house.ask("GET", "/api/v1/apps/live/streams")).data] == ["ended"]


async def test_a_session_at_another_node_on_the_same_database_is_told(house: Any, stream: Any) -> None:
    room, publication = await house.publish(stream["streamKey"])
    room.end(publication, "closed", final=True)
    await house.lives.write()
    assert await status(house, stream) == "idle"
    async with house.db.write() as tx:
        await ingresses.stand(tx, stream["streamId"], Standing("ACTIVE", started_at=1.0, node_id="node_b"))
    assert await status(house, stream) == "active"
    finish = f"{STREAMS}/{stream['streamId']}/finish"
    assert (await house.ask("PUT", finish)).body == {"success": True}, "that node follows"
    async with house.db.write() as tx:
        await ingresses.stand(tx, stream["streamId"], Standing("COMPLETE", started_at=1.0, ended_at=2.0))
    assert (await house.ask("PUT", finish)).status == 400
    asked = (await house.ask("GET", "/api/v1/audit?action=ingress.finished", key=house.admin)).data
    assert [e["target"] for e in asked] == [stream["streamId"]], "what was refused is not in the log"
