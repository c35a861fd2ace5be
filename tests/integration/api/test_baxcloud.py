from __future__ import annotations

import re
from typing import Any

import pytest

from medianode.auth import Door
from medianode.config import Config, Rtc

CREATE = {
    "inputType": "RTMP_INPUT",
    "roomName": "my-live-room",
    "participantIdentity": "obs-streamer",
    "participantName": "OBS Studio",
    "enableTranscoding": True,
}


@pytest.mark.parametrize("prefix", ["/v1/ingress", "/ingress"])
async def test_create_and_get_are_the_bare_object(house: Any, prefix: str) -> None:
    made = await house.ask("POST", prefix, CREATE)
    assert made.status == 201
    assert made.headers["Content-Type"] == "application/json; charset=utf-8"
    ingress = made.body
    assert re.fullmatch(r"IN_[A-Za-z0-9]+", ingress["ingressId"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", ingress["createdAt"])
    assert len(ingress["streamKey"]) >= 32
    assert ingress == {
        "id": ingress["ingressId"],
        "ingressId": ingress["ingressId"],
        "inputType": "RTMP_INPUT",
        "roomName": "my-live-room",
        "room": "live-my-live-room",
        "participantIdentity": "obs-streamer",
        "participantName": "OBS Studio",
        "status": "INACTIVE",
        "streamKey": ingress["streamKey"],
        "rtmpUrl": "rtmp://media.example.com:1935/live",
        "rtmpsUrl": "rtmps://media.example.com:1935/live",
        "whipUrl": None,
        "token": None,
        "enableTranscoding": True,
        "bypassTranscoding": False,
        "takeover": "reject",
        "record": False,
        "errorMessage": None,
        "startedAt": None,
        "endedAt": None,
        "createdAt": ingress["createdAt"],
    }
    got = await house.ask("GET", f"{prefix}/{ingress['id']}")
    assert (got.status, got.body) == (200, ingress)


async def test_list_is_items_and_total_and_filters_by_either_form_of_the_room(house: Any) -> None:
    first = (await house.ask("POST", "/v1/ingress", CREATE)).body
    second = (await house.ask("POST", "/v1/ingress", {**CREATE, "roomName": "second"})).body
    every = await house.ask("GET", "/v1/ingress")
    assert every.status == 200
    assert every.body == {"items": [second, first], "total": 2}
    for name in ("my-live-room", "live-my-live-room"):
        assert (await house.ask("GET", f"/v1/ingress?roomName={name}")).body == {"items": [first], "total": 1}
    assert (await house.ask("GET", "/v1/ingress?roomName=nobody")).body == {"items": [], "total": 0}
    assert (await house.ask("GET", "/v1/ingress?limit=1&offset=1")).body == {"items": [first], "total": 2}


async def test_delete_answers_200_then_404_and_disconnects_the_encoder(house: Any) -> None:
    ingress = (await house.ask("POST", "/v1/ingress", CREATE)).body
    room, publication = await house.publish(ingress["streamKey"])
    assert (await house.ask("GET", f"/v1/ingress/{ingress['id']}")).body["status"] == "ACTIVE"
    gone = await house.ask("DELETE", f"/v1/ingress/{ingress['id']}")
    assert (gone.status, gone.body) == (200, {"id": ingress["id"], "ingressId": ingress["id"], "success": True})
    assert publication.ended
    assert not room.on_air
    assert [e.code for e in house.kicked] == ["ingress-deleted"]
    again = await house.ask("DELETE", f"/v1/ingress/{ingress['id']}")
    assert again.status == 404
    assert again.body["statusCode"] == 404
    assert (await house.ask("GET", f"/v1/ingress/{ingress['id']}")).status == 404


async def test_status_follows_the_publication(house: Any) -> None:
    ingress = (await house.ask("POST", "/v1/ingress", {**CREATE, "takeover": "replace"})).body

    async def status() -> str:
        return str((await house.ask("GET", f"/v1/ingress/{ingress['id']}")).body["status"])

    assert await status() == "INACTIVE"
    grant = await house.gate.publish("rtmp", "live", ingress["streamKey"])
    house.registry.publish(grant, "rtmp", "192.0.2.7", house.kicked.append)
    assert await status() == "BUFFERING"
    room, publication = await house.publish(ingress["streamKey"])
    assert await status() == "ACTIVE"
    room.end(publication, "publisher-left")
    assert await status() == "BUFFERING"
    room.release("obs-streamer")
    assert await status() == "COMPLETE"
    house.lives.failed(ingress["id"], grant.project_id, grant.room, grant.identity, "unsupported-media", "codec XYZ")
    failed = (await house.ask("GET", f"/v1/ingress/{ingress['id']}")).body
    assert (failed["status"], failed["errorMessage"]) == ("ERROR", "codec XYZ")


async def test_whip_has_its_address_and_the_key_as_bearer_token(house: Any) -> None:
    wanted = {**CREATE, "inputType": "WHIP_INPUT", "participantIdentity": "browser", "bypassTranscoding": True}
    made = await house.ask("POST", "/v1/ingress", wanted)
    assert made.status == 201
    whip = made.body
    assert whip["token"] == whip["streamKey"]
    assert {name: whip[name] for name in ("inputType", "whipUrl", "rtmpUrl", "rtmpsUrl", "bypassTranscoding", "status")} == {
        "inputType": "WHIP_INPUT",
        "whipUrl": "https://media.example.com/whip/live/live-my-live-room",
        "rtmpUrl": None,
        "rtmpsUrl": None,
        "bypassTranscoding": True,
        "status": "INACTIVE",
    }
    rtmp = (await house.ask("POST", "/v1/ingress", CREATE)).body
    assert (await house.ask("GET", "/v1/ingress")).body == {"items": [rtmp, whip], "total": 2}
    await house.publish(whip["token"], door=Door.WHIP)
    assert (await house.ask("GET", f"/v1/ingress/{whip['id']}")).body["status"] == "ACTIVE"
    assert (await house.ask("DELETE", f"/v1/ingress/{whip['id']}")).status == 200
    assert [e.code for e in house.kicked] == ["ingress-deleted"]


async def test_whip_that_is_switched_off_is_told(make_house: Any) -> None:
    house = await make_house(Config(rtc=Rtc(enabled=False)))
    refused = await house.ask("POST", "/v1/ingress", {**CREATE, "inputType": "WHIP_INPUT", "bypassTranscoding": True})
    assert refused.status == 501
    assert refused.body == {
        "statusCode": 501,
        "error": "Not Implemented",
        "message": "WHIP_INPUT: WHIP is not enabled on this node (rtc.enabled); use RTMP_INPUT",
        "code": "whip-not-enabled",
        "success": False,
    }


async def test_duplicate_identity_in_a_room_is_409(house: Any) -> None:
    await house.ask("POST", "/v1/ingress", CREATE)
    again = await house.ask("POST", "/v1/ingress", {**CREATE, "roomName": "live-my-live-room"})
    assert again.status == 409
    assert (again.body["error"], again.body["code"], again.body["success"]) == ("Conflict", "duplicate-identity", False)
    assert (await house.ask("POST", "/v1/ingress", {**CREATE, "roomName": "elsewhere"})).status == 201


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, ["inputType: expected one of RTMP_INPUT, URL_INPUT, WHIP_INPUT, got nothing", "roomName: ", "participantIdentity: "]),
        ({**CREATE, "inputType": "SRT"}, ["inputType: expected one of RTMP_INPUT, URL_INPUT, WHIP_INPUT, got 'SRT'"]),
        ({**CREATE, "roomName": "../etc"}, ["roomName: expected at most 120 of A-Z a-z 0-9 . _ -, got '../etc'"]),
        ({**CREATE, "roomName": "a..b"}, ["room: expected"]),
        ({**CREATE, "roomName": "r" * 121}, ["roomName: ", "got 121 characters"]),
        ({**CREATE, "roomName": ""}, ["roomName: "]),
        ({**CREATE, "participantIdentity": ""}, ["participantIdentity: "]),
        ({**CREATE, "participantIdentity": 5}, ["participantIdentity: ", "got 5"]),
        ({**CREATE, "participantIdentity": "a\x00b"}, ["participantIdentity: "]),
        ({**CREATE, "participantName": "n" * 201}, ["participantName: "]),
        ({**CREATE, "enableTranscoding": "yes"}, ["enableTranscoding: expected true or false, got 'yes'"]),
        ([], ["body: expected an object, got an array"]),
        ("text", ["body: expected an object, got 'text'"]),
        (None, ["inputType: "]),
    ],
)
async def test_bad_fields_are_named(house: Any, body: Any, words: list[str]) -> None:
    refused = await house.ask("POST", "/v1/ingress", body)
    assert refused.status == 400
    assert set(refused.body) == {"statusCode", "error", "message", "code", "success"}
    assert refused.body["error"] == "Bad Request"
    assert isinstance(refused.body["message"], str)
    for word in words:
        assert word in refused.body["message"]


async def test_unknown_fields_and_nulls_are_dropped_and_any_content_type_will_do(house: Any) -> None:
    made = await house.ask("POST", "/v1/ingress", {**CREATE, "participantName": None, "colour": "red"})
    assert made.status == 201
    assert made.body["participantName"] == ""
    plain = b'{"inputType":"RTMP_INPUT","roomName":"x","participantIdentity":"y"}'
    assert (await house.ask("POST", "/v1/ingress", data=plain, headers={"Content-Type": "text/plain"})).status == 201


async def test_the_project_comes_from_the_key_and_the_header_must_agree(house: Any) -> None:
    project = await house.projects.get("live")
    for name in (project.id, "live"):
        assert (
            await house.ask("POST", "/v1/ingress", {**CREATE, "participantIdentity": name}, headers={"X-Project-Id": name})
        ).status == 201
    for name in ("other", "prj_unknown"):
        refused = await house.ask("POST", "/v1/ingress", CREATE, headers={"X-Project-Id": name})
        assert (refused.status, refused.body["code"], refused.body["error"]) == (403, "other-project", "Forbidden")
    unknown = await house.ask("GET", "/v1/ingress", key=house.admin, headers={"X-Project-Id": "prj_unknown"})
    assert unknown.status == 403


async def test_a_key_to_the_whole_node_means_the_first_project_or_the_named_one(house: Any) -> None:
    made = await house.ask("POST", "/v1/ingress", CREATE, key=house.admin)
    assert made.body["room"] == "live-my-live-room"
    there = await house.ask("POST", "/v1/ingress", CREATE, key=house.admin, headers={"X-Project-Id": "other"})
    assert there.body["room"] == "other-my-live-room"
    assert (await house.ask("GET", f"/v1/ingress/{there.body['id']}")).status == 404, "another project's ingress is not known"
    assert (await house.ask("DELETE", f"/v1/ingress/{there.body['id']}")).status == 404


async def test_cameras_are_none_of_its_business(house: Any) -> None:
    camera = (await house.ask("POST", "/api/v1/apps/live/ws-ingest", {"room": "garage"})).data
    assert (await house.ask("GET", "/v1/ingress")).body == {"items": [], "total": 0}
    assert (await house.ask("GET", f"/v1/ingress/{camera['id']}")).status == 404
    assert (await house.ask("DELETE", f"/v1/ingress/{camera['id']}")).status == 404


async def test_urls_come_from_host_without_a_public_url(make_house: Any) -> None:
    house = await make_house(Config())
    made = await house.ask("POST", "/v1/ingress", CREATE, headers={"Host": "cam.local:8080"})
    assert made.body["rtmpsUrl"] == "rtmps://cam.local:1935/live"
    six = await house.ask("POST", "/v1/ingress", {**CREATE, "roomName": "six"}, headers={"Host": "[2001:db8::1]:8080"})
    assert six.body["rtmpUrl"] == "rtmp://[2001:db8::1]:1935/live"
    spoofed = await house.ask("GET", f"/v1/ingress/{six.body['id']}", headers={"X-Forwarded-Host": "evil.example", "Host": "cam.local"})
    assert spoofed.body["rtmpUrl"] == "rtmp://cam.local:1935/live"
    bad = await house.ask("GET", f"/v1/ingress/{six.body['id']}", headers={"Host": "a@b"})
    assert bad.status == 400
