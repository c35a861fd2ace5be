from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote

import jwt
import pytest

from medianode import clock
from medianode.auth import Door
from medianode.config import Config, Rtc, WsJpeg

APP = "/api/v1/apps/live"
PRIVATE = "url: 10.0.0.9: a private or special address, and not in the node's outbound.allow"
BASE = "https://media.example.com"


async def test_a_token_has_the_shape_and_the_claims(house: Any) -> None:
    project = await house.projects.get("live")
    before = int(clock.wallclock())
    body = {
        "room": "demo",
        "identity": "phone-42",
        "name": "Phone",
        "canPublish": True,
        "canSubscribe": True,
        "ttl": "1h",
        "metadata": "{}",
    }
    made = await house.ask("POST", f"{APP}/tokens", body)
    assert made.status == 201
    token = made.data.pop("token")
    assert made.body == {
        "data": {
            "app": "live",
            "room": "live-demo",
            "identity": "phone-42",
            "wsUrl": "wss://media.example.com",
            "playUrl": f"{BASE}/play/live/live-demo",
            "embedUrl": f"{BASE}/embed/live/live-demo",
            "iframe": f'<iframe src="{BASE}/embed/live/live-demo" width="640" height="360" frameborder="0" '
            'allow="autoplay; fullscreen" allowfullscreen></iframe>',
            "hidden": False,
            "audioOnly": False,
            "adaptive": False,
        }
    }
    assert jwt.get_unverified_header(token) == {"alg": "HS256", "typ": "JWT"}
    claims = jwt.decode(token, project.jwt_secret, algorithms=["HS256"], issuer=project.jwt_key_id, options={"require": ["exp", "nbf"]})
    assert before <= claims["nbf"] <= clock.wallclock()
    assert claims["exp"] - claims["nbf"] in (3600, 3601)
    assert claims.pop("jti")
    assert claims == {
        "iss": project.jwt_key_id,
        "sub": "phone-42",
        "nbf": claims["nbf"],
        "exp": claims["exp"],
        "name": "Phone",
        "metadata": "{}",
        "video": {"roomJoin": True, "room": "live-demo", "canPublish": True, "canSubscribe": True, "canPublishData": True},
    }


async def test_a_token_without_anything_is_for_the_apps_own_room(house: Any) -> None:
    for sent in ({"json": {}}, {"data": b""}, {"data": b"  "}):
        made = await house.ask("POST", f"{APP}/tokens", **sent)
        assert made.status == 201
        assert made.data["room"] == "live"
        assert re.fullmatch(r"anon-[0-9a-f-]+", made.data["identity"])


@pytest.mark.parametrize(
    ("body", "publishes"),
    [
        ({}, True),
        ({"hidden": True}, False),
        ({"recorder": True}, False),
        ({"hidden": True, "canPublish": True}, True),
        ({"canPublish": False}, False),
    ],
)
async def test_who_is_hidden_does_not_publish(house: Any, body: Any, publishes: bool) -> None:
    made = await house.ask("POST", f"{APP}/tokens", body)
    claims = jwt.decode(made.data["token"], options={"verify_signature": False})
    assert claims["video"]["canPublish"] is publishes
    assert claims["video"].get("hidden", False) is made.data["hidden"] is body.get("hidden", False)


async def test_public_tokens_view_only(house: Any) -> None:
    play = await house.ask("GET", f"{APP}/play-token/demo", key="")
    assert (play.status, play.data["mode"], play.data["hidden"], play.data["audioOnly"]) == (200, "viewer", True, False)
    listen = await house.ask("GET", f"{APP}/radio/live-demo/listen-token", key="")
    assert (listen.status, listen.data["mode"], listen.data["room"], listen.data["audioOnly"]) == (200, "listener", "live-demo", True)
    for answer in (play, listen):
        video = jwt.decode(answer.data["token"], options={"verify_signature": False})["video"]
        assert (video["room"], video["canPublish"], video["canSubscribe"], video["hidden"]) == ("live-demo", False, True, True)


async def test_public_tokens_do_not_open_a_private_app(house: Any) -> None:
    await house.projects.change("live", viewing="token")
    for path in ("play-token/demo", "radio/demo/listen-token"):
        refused = await house.ask("GET", f"{APP}/{path}", key="")
        assert (refused.status, refused.headers["WWW-Authenticate"]) == (401, "Bearer")
        assert (await house.ask("GET", f"{APP}/{path}", key=await house.key("live", project="other"))).status == 403
        assert (await house.ask("GET", f"{APP}/{path}")).status == 200
    token = (await house.ask("POST", f"{APP}/tokens", {"room": "demo", "canPublish": False})).data["token"]
    assert (await house.ask("GET", f"{APP}/play-token/demo", key=token)).status == 401, "a token must not renew itself for ever"


@pytest.mark.parametrize(
    ("body", "messages"),
    [
        ({"ttl": "soon"}, ["ttl: expected 1 s to 366 d, such as 6h, 30m, 90s or a number of seconds, got 'soon'"]),
        ({"metadata": "m" * 2001}, ["metadata: expected text of at most 2000 characters, got 2001 characters"]),
        ({"hidden": 1, "canSubscribe": "no"}, ["canSubscribe: expected true or false, got 'no'", "hidden: expected true or false, got 1"]),
        ({"room": "a/b"}, ["room: expected at most 120 of A-Z a-z 0-9 . _ -, got 'a/b'"]),
    ],
)
async def test_validation_messages_are_an_array(house: Any, body: Any, messages: list[str]) -> None:
    refused = await house.ask("POST", f"{APP}/tokens", body)
    assert refused.status == 400
    assert refused.body == {"statusCode": 400, "message": messages, "error": "Bad Request"}
    assert refused.headers["X-Error-Code"] == "invalid-request"


async def test_ingress_create_is_the_seeds_shape_and_more(house: Any) -> None:
    made = await house.ask("POST", f"{APP}/ingress", {"inputType": "rtmp", "room": "demo"})
    assert made.status == 201
    data = made.data
    assert data == {
        "ingressId": data["ingressId"],
        "url": "rtmp://media.example.com:1935/live",
        "streamKey": data["streamKey"],
        "roomName": "live-demo",
        "rtmp_url": "rtmp://media.example.com:1935/live",
        "rtmps_url": "rtmps://media.example.com:1935/live",
        "stream_key": data["streamKey"],
        "requires_password": False,
        "adaptive": False,
        "player_url": f"{BASE}/play/live/live-demo",
        "embed_iframe": data["embed_iframe"],
    }
    row = (await house.ask("GET", f"{APP}/ingress/{data['ingressId']}")).data
    assert row == {
        **data,
        "name": "ingress-live",
        "inputType": "rtmp",
        "status": "inactive",
        "participantIdentity": "ingress-live",
        "bitrate": 0,
        "width": 0,
        "height": 0,
        "startedAt": None,
        "viewers": 0,
        "room": "live-demo",
        "createdAt": row["createdAt"],
        "error": None,
        "record": False,
    }


async def test_ingress_list_pages_and_filters(house: Any) -> None:
    for room, name in (("a", "Front door"), ("a", "Back door"), ("b", "Roof")):
        await house.ask("POST", f"{APP}/ingress", {"inputType": "rtmp", "room": room, "participantName": name})
    every = await house.ask("GET", f"{APP}/ingress")
    assert [r["name"] for r in every.data] == ["Roof", "Back door", "Front door"]
    assert {k: v for k, v in every.body.items() if k != "data"} == {"total": 3, "limit": 50, "offset": 0}
    page = await house.ask("GET", f"{APP}/ingress?limit=1&offset=1&unknown=1")
    assert ([r["name"] for r in page.data], page.body["total"], page.body["limit"], page.body["offset"]) == (["Back door"], 3, 1, 1)
    assert (await house.ask("GET", f"{APP}/ingress?room=live-a")).body["total"] == 2
    assert [r["name"] for r in (await house.ask("GET", f"{APP}/ingress?q=roof")).data] == ["Roof"]
    for query, word in (("limit=0", "limit"), ("limit=501", "limit"), ("offset=-1", "offset"), ("limit=x&offset=y", "offset")):
        refused = await house.ask("GET", f"{APP}/ingress?{query}")
        assert refused.status == 400
        assert any(m.startswith(f"{word}: expected a whole number") for m in refused.body["message"])


async def test_ingress_shows_what_is_live(house: Any) -> None:
    made = (await house.ask("POST", f"{APP}/ingress", {"inputType": "rtmp", "room": "demo"})).data
    room, publication = await house.publish(made["streamKey"])
    publication.meters[1].bitrate = 2_500_000.4
    room.count_viewer("hls", 1, 10)
    row = (await house.ask("GET", f"{APP}/ingress/{made['ingressId']}")).data
    assert (row["status"], row["bitrate"], row["width"], row["height"], row["viewers"]) == ("publishing", 2_500_000, 1280, 720, 1)
    assert row["startedAt"].endswith("Z")


async def test_ingress_delete_disconnects(house: Any) -> None:
    made = (await house.ask("POST", f"{APP}/ingress", {"inputType": "rtmp"})).data
    _, publication = await house.publish(made["streamKey"])
    gone = await house.ask("DELETE", f"{APP}/ingress/{made['ingressId']}")
    assert (gone.status, gone.body) == (200, {"data": {"ingressId": made["ingressId"], "deleted": True}})
    assert publication.ended
    assert [e.code for e in house.kicked] == ["ingress-deleted"]
    for method in ("GET", "DELETE"):
        refused = await house.ask(method, f"{APP}/ingress/{made['ingressId']}")
        assert (refused.status, set(refused.body)) == (404, {"statusCode", "message", "error"})
        assert isinstance(refused.body["message"], str)


async def test_ingress_password(house: Any) -> None:
    made = (await house.ask("POST", f"{APP}/ingress", {"inputType": "rtmp", "requirePassword": True})).data
    assert made["requires_password"] is True
    path = f"{APP}/ingress/{made['ingressId']}/validate"
    for password, valid in ((made["stream_password"], True), ("wrong", False), ("", False)):
        answer = await house.ask("POST", path, {"password": password})
        assert (answer.status, answer.body) == (201, {"data": {"ingressId": made["ingressId"], "valid": valid}})
    assert (await house.ask("POST", f"{APP}/ingress/IN_none/validate", {"password": "x"})).status == 404
    refused = await house.ask("POST", path, {"password": "s3cret" * 50})
    assert "s3cret" not in refused.body["message"][0]


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"inputType": "whip", "requirePassword": True}, 400, None),
        ({"inputType": "url", "url": "rtsp://u:pw@10.0.0.9/1"}, 400, [PRIVATE]),
        ({"inputType": "url"}, 400, ["url: expected an address with inputType url, got nothing"]),
        ({"inputType": "srt"}, 400, ["inputType: expected one of rtmp, url, whip, got 'srt'"]),
        ({}, 400, ["inputType: expected one of rtmp, url, whip, got nothing"]),
    ],
)
async def test_other_inputs_answer_clearly(house: Any, body: Any, status: int, said: Any) -> None:
    refused = await house.ask("POST", f"{APP}/ingress", body)
    assert refused.status == status
    assert refused.body["message"] == (
        said or ["requirePassword: expected with inputType rtmp only: WHIP brings one secret, the stream key"]
    )


async def test_a_whip_ingress(house: Any) -> None:
    made = await house.ask("POST", f"{APP}/ingress", {"inputType": "whip", "room": "demo", "participantIdentity": "browser"})
    assert made.status == 201
    key = made.data["streamKey"]
    assert made.data == {
        "ingressId": made.data["ingressId"],
        "url": f"{BASE}/whip/live/live-demo",
        "streamKey": key,
        "roomName": "live-demo",
        "whip_url": f"{BASE}/whip/live/live-demo",
        "stream_key": key,
        "requires_password": False,
        "adaptive": False,
        "player_url": f"{BASE}/play/live/live-demo",
        "embed_iframe": made.data["embed_iframe"],
    }
    await house.publish(key, door=Door.WHIP)
    row = (await house.ask("GET", f"{APP}/ingress/{made.data['ingressId']}")).data
    assert (row["inputType"], row["status"], row["width"], row["room"]) == ("whip", "publishing", 1280, "live-demo")
    (stream,) = (await house.ask("GET", f"{APP}/streams")).data
    assert (stream["type"], stream["participant"], stream["status"]) == ("whip", "browser", "active")


async def test_whip_that_is_switched_off_is_told(make_house: Any) -> None:
    house = await make_house(Config(rtc=Rtc(enabled=False)))
    refused = await house.ask("POST", f"{APP}/ingress", {"inputType": "whip"})
    assert (refused.status, refused.body["message"]) == (501, "inputType whip is not enabled on this node; use rtmp")


async def test_camera_create_is_exact(house: Any) -> None:
    made = await house.ask("POST", f"{APP}/ws-ingest", {"room": "garage"})
    assert made.status == 201
    data = made.data
    assert re.fullmatch(r"wsi_[0-9a-f]{12}", data["id"])
    assert re.fullmatch(r"wsk_[A-Za-z0-9_-]{32}", data["streamKey"])
    assert data == {
        "id": data["id"],
        "streamKey": data["streamKey"],
        "room": "live-garage",
        "identity": f"wscam-{data['streamKey'][-6:]}",
        "wsUrl": "wss://media.example.com/ingest/ws?app=live&room=live-garage",
        "viewerWsUrl": "wss://media.example.com/live/ws?app=live&room=live-garage",
        "mjpegUrl": f"{BASE}/live/live/live-garage/mjpeg",
        "frameUrl": f"{BASE}/live/live/live-garage/frame.jpg",
        "playerUrl": f"{BASE}/play/live/live-garage",
        "embedUrl": f"{BASE}/embed/live/live-garage",
    }
    listed = await house.ask("GET", f"{APP}/ws-ingest")
    row = listed.data[0]
    assert listed.body["total"] == 1
    assert row == {**{k: data[k] for k in ("id", "room", "streamKey", "identity")}, "active": False, "createdAt": row["createdAt"]}
    named = await house.ask("POST", f"{APP}/ws-ingest", {"room": "garage", "identity": "cam-2"})
    assert named.data["identity"] == "cam-2"
    assert (await house.ask("GET", f"{APP}/ingress")).body["total"] == 0


async def test_camera_live_and_delete(house: Any) -> None:
    made = (await house.ask("POST", f"{APP}/ws-ingest", {"room": "garage"})).data
    idle = await house.ask("GET", f"{APP}/ws-ingest/live/garage", key="")
    assert (idle.status, idle.body) == (200, {"data": {"active": False, "type": None, "room": "live-garage"}})
    _, publication = await house.publish(made["streamKey"], door=Door.WS_MJPEG)
    for room in ("garage", "live-garage"):
        live = await house.ask("GET", f"{APP}/ws-ingest/live/{room}", key="")
        assert live.data == {
            "active": True,
            "type": "ws-mjpeg",
            "room": "live-garage",
            "mjpegUrl": made["mjpegUrl"],
            "frameUrl": made["frameUrl"],
            "wsUrl": made["viewerWsUrl"],
        }
    assert (await house.ask("GET", f"{APP}/ws-ingest")).data[0]["active"] is True
    gone = await house.ask("DELETE", f"{APP}/ws-ingest/{made['id']}")
    assert (gone.status, gone.body) == (200, {"data": {"id": made["id"], "deleted": True}})
    assert publication.ended
    assert [e.code for e in house.kicked] == ["ingress-deleted"]
    assert (await house.ask("DELETE", f"{APP}/ws-ingest/{made['id']}")).status == 404


async def test_camera_live_of_a_private_app_needs_a_token(house: Any) -> None:
    await house.projects.change("live", viewing="token")
    assert (await house.ask("GET", f"{APP}/ws-ingest/live/garage", key="")).status == 401
    token = (await house.ask("POST", f"{APP}/tokens", {"room": "garage"})).data["token"]
    assert (await house.ask("GET", f"{APP}/ws-ingest/live/garage?token={token}", key="")).status == 200
    assert (await house.ask("GET", f"{APP}/ws-ingest/live/elsewhere?token={token}", key="")).status == 403


@pytest.mark.parametrize("room", ["", "a b", "a/b", "..", "r" * 65, None, 7])
async def test_camera_rooms_are_slugs(house: Any, room: Any) -> None:
    assert (await house.ask("POST", f"{APP}/ws-ingest", {"room": room})).status == 400


async def test_cameras_can_be_switched_off(make_house: Any) -> None:
    house = await make_house(Config(ws_jpeg=WsJpeg(enabled=False)))
    refused = await house.ask("POST", f"{APP}/ws-ingest", {"room": "garage"})
    assert (refused.status, refused.headers["X-Error-Code"]) == (501, "ws-ingest-not-enabled")


async def test_streams_list_get_and_delete(house: Any) -> None:
    made = (await house.ask("POST", f"{APP}/ingress", {"inputType": "rtmp", "room": "demo", "participantIdentity": "obs 1/a"})).data
    project = await house.projects.get("live")
    assert (await house.ask("GET", f"{APP}/streams")).body == {"data": [], "total": 0, "limit": 50, "offset": 0}
    _, publication = await house.publish(made["streamKey"])
    listed = await house.ask("GET", f"{APP}/streams")
    stream = listed.data[0]
    assert stream == {
        "id": made["ingressId"],
        "appId": project.id,
        "streamId": "live-demo/obs 1/a",
        "type": "rtmp",
        "room": "live-demo",
        "participant": "obs 1/a",
        "status": "active",
        "startedAt": stream["startedAt"],
        "endedAt": None,
        "lastStatsJson": stream["lastStatsJson"],
    }
    assert '"codec":"h264"' in stream["lastStatsJson"]
    encoded = quote(stream["streamId"], safe="")
    for name in (made["ingressId"], encoded):
        assert (await house.ask("GET", f"{APP}/streams/{name}")).data["streamId"] == stream["streamId"]
    gone = await house.ask("DELETE", f"{APP}/streams/{encoded}")
    assert (gone.status, gone.body) == (204, b"")
    assert publication.ended
    assert [e.code for e in house.kicked] == ["kicked"]
    assert (await house.ask("DELETE", f"{APP}/streams/{encoded}")).status == 404
    await house.lives.write()
    ended = (await house.ask("GET", f"{APP}/streams?status=ended")).data
    assert [(s["streamId"], s["status"], s["endedAt"] is None) for s in ended] == [(stream["streamId"], "ended", False)]
    assert (await house.ask("GET", f"{APP}/streams?status=active")).body["total"] == 0
    assert (await house.ask("GET", f"{APP}/streams/{encoded}")).data["status"] == "ended"
    assert (await house.ask("GET", f"{APP}/ingress/{made['ingressId']}")).status == 200, "the key stays good"


async def test_a_decoded_slash_in_a_stream_id_is_forgiven(house: Any) -> None:
    made = (await house.ask("POST", f"{APP}/ingress", {"inputType": "rtmp", "room": "demo", "participantIdentity": "obs"})).data
    await house.publish(made["streamKey"])
    assert (await house.ask("GET", f"{APP}/streams/live-demo/obs")).status == 200
    assert (await house.ask("DELETE", f"{APP}/streams/live-demo/obs")).status == 204


async def test_apps_are_kept_apart(house: Any) -> None:
    made = (await house.ask("POST", f"{APP}/ingress", {"inputType": "rtmp"})).data
    await house.publish(made["streamKey"])
    stranger = await house.key("live", project="other")
    for method, path, body in (
        ("POST", f"{APP}/tokens", {}),
        ("GET", f"{APP}/ingress", None),
        ("GET", f"{APP}/ingress/{made['ingressId']}", None),
        ("DELETE", f"{APP}/streams/live%2Fingress-live", None),
        ("GET", "/api/v1/apps/nosuch/ingress", None),
    ):
        refused = await house.ask(method, path, body, key=stranger)
        assert (refused.status, refused.body["error"]) == (403, "Forbidden")
    there = "/api/v1/apps/other"
    assert (await house.ask("GET", f"{there}/ingress/{made['ingressId']}", key=stranger)).status == 404
    assert (await house.ask("DELETE", f"{there}/ingress/{made['ingressId']}", key=stranger)).status == 404
    assert (await house.ask("GET", f"{there}/streams", key=stranger)).body["total"] == 0
    assert (await house.ask("DELETE", f"{there}/streams/{made['ingressId']}", key=stranger)).status == 404
    assert house.kicked == []
    assert (await house.ask("GET", "/api/v1/apps/nosuch/ingress", key=house.admin)).status == 404
    project = await house.projects.get("live")
    assert (await house.ask("GET", f"/api/v1/apps/{project.id}/ingress")).status == 200
