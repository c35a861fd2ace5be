"""What holds for every route: keys, errors in the words of the prefix, CORS, bodies over their bounds, path tricks."""

from __future__ import annotations

import asyncio
import gzip
from typing import Any

import msgspec
import pytest

from medianode.config import Config, Limits
from medianode.errors import StorageError

INGRESS = {"inputType": "RTMP_INPUT", "roomName": "r", "participantIdentity": "p"}
BAX = ("statusCode", "error", "message", "code", "success")
HUB = ("statusCode", "message", "error")
BOTH = [("/v1/ingress", BAX), ("/api/v1/apps/live/ingress", HUB)]


@pytest.mark.parametrize(("path", "keys"), BOTH)
async def test_no_key_or_a_wrong_one_is_401(house: Any, path: str, keys: tuple[str, ...]) -> None:
    for headers in (
        {},
        {"Authorization": "Bearer sk_wrong"},
        {"Authorization": "Bearer "},
        {"Authorization": "Basic ???"},
        {"Authorization": "x"},
    ):
        refused = await house.ask("GET", path, key="", headers=headers)
        assert refused.status == 401
        assert refused.headers["WWW-Authenticate"] == "Bearer"
        assert tuple(refused.body) == keys
        assert (refused.body["statusCode"], refused.body["error"]) == (401, "Unauthorized")
        assert "sk_wrong" not in refused.body["message"]


@pytest.mark.parametrize(("path", "keys"), BOTH)
async def test_a_revoked_key_and_one_without_the_right(house: Any, path: str, keys: tuple[str, ...]) -> None:
    view = await house.key("view", project="live")
    refused = await house.ask("GET", path, key=view)
    assert (refused.status, tuple(refused.body)) == (403, keys)
    made = await house.keys.create("short-lived", ["live"], "live")
    assert (await house.ask("GET", path, key=made.secret)).status == 200
    await house.keys.revoke(made.key.id)
    assert (await house.ask("GET", path, key=made.secret)).status == 401


async def test_a_guesser_is_slowed(make_house: Any) -> None:
    house = await make_house(Config(limits=Limits(failed_logins_per_minute=3)))
    seen = [(await house.ask("GET", "/v1/ingress", key=f"sk_guess{i}")).status for i in range(5)]
    assert seen == [401, 401, 401, 429, 429]
    refused = await house.ask("GET", "/api/v1/apps/live/ingress", key="sk_guess")
    assert (refused.status, refused.body["error"], refused.headers["Retry-After"]) == (429, "Too Many Requests", "60")


@pytest.mark.parametrize(
    ("method", "path", "keys"),
    [
        ("GET", "/v1/nothing", BAX),
        ("GET", "/v1", BAX),
        ("GET", "/ingress/a/b", BAX),
        ("PUT", "/v1/nothing", BAX),
        ("GET", "/api/v1/nothing", HUB),
        ("GET", "/api/v1/apps/live", HUB),
        ("GET", "/api/v1/apps//ingress", HUB),
        ("POST", "/api/v1/apps/live/ingress/", HUB),
    ],
)
async def test_unknown_paths_are_404_in_the_words_of_the_prefix(house: Any, method: str, path: str, keys: tuple[str, ...]) -> None:
    refused = await house.ask(method, path)
    assert (refused.status, tuple(refused.body)) == (404, keys)
    assert refused.body["message"] == f"Cannot {method} {path}"
    assert refused.headers["Access-Control-Allow-Origin"] == "*"


@pytest.mark.parametrize("name", ["%ff", "%ed%a0%80", "%00", "%0d%0aX: y", "a" * 4000, "%5c..%5c", "%F0%9F%8E%A5"])
async def test_unknown_odd_paths_are_404_too(house: Any, name: str) -> None:
    refused = await house.ask("GET", f"/v1/nothing/{name.replace(' ', '%20')}")
    assert (refused.status, tuple(refused.body)) == (404, BAX)
    assert len(refused.body["message"]) < 250


async def test_paths_that_only_look_like_ours_are_left_alone(house: Any) -> None:
    for path in ("/v10/ingress", "/ingressx", "/api/v2/x", "/elsewhere"):
        assert (await house.ask("GET", path)).headers["Content-Type"].startswith("text/plain")


@pytest.mark.parametrize(
    ("method", "path", "allow", "keys"),
    [
        ("PUT", "/v1/ingress", {"GET", "HEAD", "POST"}, BAX),
        ("POST", "/v1/ingress/IN_1", {"DELETE", "GET", "HEAD", "PATCH"}, BAX),
        ("GET", "/api/v1/apps/live/tokens", {"POST"}, HUB),
        ("PATCH", "/api/v1/keys", {"GET", "HEAD", "POST"}, HUB),
    ],
)
async def test_other_methods_are_405_with_allow(house: Any, method: str, path: str, allow: set[str], keys: tuple[str, ...]) -> None:
    refused = await house.ask(method, path)
    assert (refused.status, tuple(refused.body)) == (405, keys)
    assert set(refused.headers["Allow"].split(",")) == allow
    assert refused.body["error"] == "Method Not Allowed"


@pytest.mark.parametrize("path", ["/v1/ingress", "/ingress/IN_1", "/api/v1/apps/live/tokens", "/api/v1/nothing"])
async def test_preflights_pass_without_a_key(house: Any, path: str) -> None:
    asked = {"Origin": "https://app.example", "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    answer = await house.ask("OPTIONS", path, key="", headers=asked)
    assert (answer.status, answer.body) == (204, b"")
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert {"POST", "DELETE", "PATCH"} <= set(answer.headers["Access-Control-Allow-Methods"].split(", "))
    assert {"Authorization", "Content-Type", "X-Project-Id"} <= set(answer.headers["Access-Control-Allow-Headers"].split(", "))
    assert "Access-Control-Allow-Credentials" not in answer.headers


async def test_every_answer_may_be_read_cross_origin_and_is_not_stored(house: Any) -> None:
    for method, path, body in (
        ("POST", "/v1/ingress", INGRESS),
        ("GET", "/v1/ingress", None),
        ("POST", "/v1/ingress", {}),
        ("GET", "/v1/x", None),
    ):
        answer = await house.ask(method, path, body)
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
        assert answer.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    "data", [b"{", b"\xff\xfe", b'{"a":1}x', b"[" * 100_000, b'{"roomName":"\xc3\x28"}', b'{"roomName":"\\ud800"}', b"NaN"], ids=repr
)
@pytest.mark.parametrize(("path", "keys"), BOTH)
async def test_what_is_not_json_is_400(house: Any, path: str, keys: tuple[str, ...], data: bytes) -> None:
    refused = await house.ask("POST", path, data=data, headers={"Content-Type": "application/json"})
    assert (refused.status, tuple(refused.body)) == (400, keys)
    assert refused.headers["X-Error-Code"] == "bad-json"


@pytest.mark.parametrize(("path", "keys"), BOTH)
async def test_bodies_over_their_bound_are_413(make_house: Any, path: str, keys: tuple[str, ...]) -> None:
    house = await make_house(Config(limits=Limits(http_body_bytes=2000)))
    padding = b" " * 2000

    async def chunked() -> Any:
        for _ in range(3):
            yield padding[:1000]

    for data in (padding + b"{}", chunked()):
        refused = await house.ask("POST", path, data=data)
        assert (refused.status, tuple(refused.body)) == (413, keys)
        assert refused.body["error"] == "Payload Too Large"
        assert refused.headers["X-Error-Code"] == "body-too-large"
    bomb = gzip.compress(b" " * 5_000_000)
    refused = await house.ask("POST", path, data=bomb, headers={"Content-Encoding": "gzip"})
    assert refused.status == 413
    exact = msgspec.json.encode(INGRESS).ljust(2000)
    if keys is BAX:
        assert (await house.ask("POST", path, data=exact)).status == 201


async def test_a_broken_encoding_is_400(house: Any) -> None:
    refused = await house.ask("POST", "/v1/ingress", data=b"not gzip", headers={"Content-Encoding": "gzip"})
    assert refused.status == 400


async def test_slow_bodies_end(make_house: Any) -> None:
    house = await make_house(Config(limits=Limits(request_timeout=0.2)))
    reader, writer = await asyncio.open_connection("127.0.0.1", house.client.port)
    try:
        head = f"POST /v1/ingress HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {house.live}\r\nContent-Length: 100\r\n\r\n{{"
        writer.write(head.encode())
        answer = await asyncio.wait_for(reader.readuntil(b"}"), 10)
    finally:
        writer.close()
        await writer.wait_closed()
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"Connection: close" in answer
    assert b'"code":"request-timeout"' in answer


async def test_who_leaves_in_the_middle_of_a_body_is_no_bug(house: Any, bugs: list[BaseException]) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", house.client.port)
    writer.write(f"POST /v1/ingress HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {house.live}\r\nContent-Length: 100\r\n\r\n{{".encode())
    await writer.drain()
    assert (await house.ask("GET", "/v1/ingress")).status == 200
    writer.transport.abort()
    assert (await house.ask("GET", "/v1/ingress")).status == 200
    assert bugs == []


@pytest.mark.parametrize(
    "name",
    [
        "..",
        "%2e%2e",
        "..%2f..%2fetc%2fpasswd",
        "%00",
        "a%00b",
        "%ff",
        "%ed%a0%80",
        "a" * 5000,
        "%0d%0aX-Evil:1",
        "a;b",
        "IN_%F0%9F%98%80",
        "%25",
        "'",
    ],
)
@pytest.mark.parametrize(
    "path",
    [
        "/v1/ingress/{}",
        "/ingress/{}",
        "/api/v1/apps/{}/ingress",
        "/api/v1/apps/live/ingress/{}",
        "/api/v1/apps/live/streams/{}",
        "/api/v1/apps/live/streams/live/{}",
        "/api/v1/sessions/{}",
        "/api/v1/projects/{}",
    ],
)
async def test_path_tricks_find_nothing(house: Any, path: str, name: str) -> None:
    refused = await house.ask("GET", path.format(name), key=house.admin)
    assert refused.status == 404
    assert tuple(refused.body) in (BAX, HUB)
    assert "X-Evil" not in refused.headers


@pytest.mark.parametrize("room", ["..", "%2e%2e", "a%2fb", "%00", "a" * 200, ".hidden", "%f0%9f%98%80", "a..b"])
async def test_path_tricks_in_public_rooms(house: Any, room: str) -> None:
    for path in (f"/api/v1/apps/live/play-token/{room}", f"/api/v1/apps/live/ws-ingest/live/{room}"):
        refused = await house.ask("GET", path, key="")
        assert refused.status in (400, 404)
        assert tuple(refused.body) == HUB


async def test_odd_text_reaches_both_databases_unharmed(make_house: Any, database_url: str) -> None:
    house = await make_house(None, database_url)
    body = {**INGRESS, "participantIdentity": "käsé 🎥 ' \" ; -- %", "participantName": "\u202eabc"[1:]}
    made = await house.ask("POST", "/v1/ingress", body)
    assert (made.status, made.body["participantIdentity"]) == (201, body["participantIdentity"])
    found = await house.ask("GET", "/api/v1/apps/live/ingress?q=%F0%9F%8E%A5")
    assert found.body["total"] == 1
    for query in ("q=%00", "q=%25", "q=_", "room=live-r"):
        assert (await house.ask("GET", f"/api/v1/apps/live/ingress?{query}")).status == 200
    assert (await house.ask("GET", "/v1/ingress?roomName=%00")).status == 400


async def test_our_own_bugs_tell_strangers_nothing(house: Any, bugs: list[BaseException], monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object, **__: object) -> None:
        raise ValueError("secret detail")

    monkeypatch.setattr(house.ingresses, "list", broken)
    for path, keys in BOTH:
        refused = await house.ask("GET", path)
        assert (refused.status, tuple(refused.body)) == (500, keys)
        assert "secret" not in str(refused.body)
        assert refused.body["error"] == "Internal Server Error"
    assert [str(b) for b in bugs] == ["secret detail", "secret detail"]
    bugs.clear()


@pytest.mark.parametrize(("path", "keys"), BOTH)
async def test_a_database_that_is_away_is_503(house: Any, path: str, keys: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    async def full(*_: object, **__: object) -> None:
        raise StorageError("the disk is full", code="storage-full")

    monkeypatch.setattr(house.ingresses, "list", full)
    refused = await house.ask("GET", path)
    assert (refused.status, tuple(refused.body)) == (503, keys)
    assert refused.headers["X-Error-Code"] == "storage-full"


async def test_head_is_get_without_a_body(house: Any) -> None:
    answer = await house.ask("HEAD", "/v1/ingress")
    assert (answer.status, answer.body) == (200, b"")
