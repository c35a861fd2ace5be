"""The resource of a session: every status, both doors, with services made up."""

from __future__ import annotations

import base64
import hmac
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientResponse, web
from aiohttp.test_utils import TestClient, TestServer

from medianode.auth import Door, PublishGrant, ReadGrant, Takeover
from medianode.config import Limits, Rtc
from medianode.egress.whep.door import WhepDoor
from medianode.errors import (
    Conflict,
    Forbidden,
    LimitExceeded,
    MedianodeError,
    NotFound,
    StorageError,
    TooManyRequests,
    Unauthorized,
    UnsupportedMedia,
)
from medianode.ingress.whip.door import WhipDoor
from medianode.origin import Origin
from medianode.protocols.sdp.parse import Offer
from medianode.protocols.sdp.plan import Candidate, Credentials, Fingerprint, LocalTransport
from medianode.rtc.signalling import IceServers, Joined, Signalling

VECTORS = Path(__file__).parents[2] / "vectors" / "sdp"
VIEW = (VECTORS / "chromium-recvonly.sdp").read_bytes()
PUBLISH = (VECTORS / "chromium-send-h264.sdp").read_bytes()
ANSWER = "v=0\r\na=group:BUNDLE 0\r\nm=video 9 UDP/TLS/RTP/SAVPF 96\r\na=mid:0\r\na=ice-ufrag:ours\r\n"
OFFER = {"Content-Type": "application/sdp"}
PATCH = {"Content-Type": "application/trickle-ice-sdpfrag"}
RESTART = f"a=ice-ufrag:next\r\na=ice-pwd:{'n' * 24}\r\nm=audio 9 X 0\r\na=mid:0\r\na=candidate:1 1 udp 1 192.0.2.1 9 typ host\r\n"


class FakeSession:
    def __init__(self) -> None:
        self.closed = False
        self.ended: list[MedianodeError | None] = []
        self.restarts: list[Credentials] = []

    def restart(self, credentials: Credentials) -> LocalTransport:
        self.restarts.append(credentials)
        candidates = (Candidate("192.0.2.9", 8189, "udp", 1, "1"),)
        return LocalTransport(Credentials(f"new{len(self.restarts)}", "x" * 24), Fingerprint("sha-256", "AB"), candidates)

    def close(self, error: MedianodeError | None = None) -> None:
        self.closed = True
        self.ended.append(error)


@dataclass
class House:
    """Both doors on one signalling; `refuse` makes the next decision or service call fail."""

    limits: Limits = field(default_factory=lambda: Limits(rtc_peers=3, request_timeout=5.0))
    rtc: Rtc = field(default_factory=Rtc)
    public_url: str = ""
    refuse: MedianodeError | None = None
    refuse_service: MedianodeError | None = None
    off_air: bool = False
    calls: list[tuple[Any, ...]] = field(default_factory=list)
    sessions: list[FakeSession] = field(default_factory=list)
    signalling: Signalling = field(init=False)

    def __post_init__(self) -> None:
        self.signalling = Signalling(self.rtc, self.limits, self.public_url)

    async def read(self, app: str, room: str, token: str | None = None, bearer: str | None = None, *, source: str = "") -> ReadGrant:
        self.calls.append(("read", app, room, token, bearer, source))
        if self.refuse is not None:
            raise self.refuse
        return ReadGrant(project_id="p", slug=app, room=f"{app}-{room}")

    async def publish(
        self, door: Door, app: str, key: str, room: str | None = None, *, source: str = "", proves: Any = None
    ) -> PublishGrant:
        self.calls.append(("publish", door, app, key, room, source))
        if self.refuse is not None:
            raise self.refuse
        return PublishGrant(
            project_id="p",
            slug="live",
            room="live-a",
            identity="i",
            name="",
            kind=door,
            ingress_id="IN",
            takeover=Takeover.REPLACE,
            hold=1.0,
        )

    async def wanted(self, project_id: str, room: str) -> None:
        if self.off_air:
            raise NotFound(f"nobody publishes in room {room}", code="no-programme")

    async def _serve(self, offer: Offer, grant: Any, *, source: str, agent: str) -> Joined:
        self.calls.append(("serve", grant.room, source, agent))
        if self.refuse_service is not None:
            raise self.refuse_service
        self.sessions.append(FakeSession())
        return Joined(ANSWER, self.sessions[-1])

    def app(self) -> web.Application:
        origin = Origin("", ())
        app = web.Application()
        app.add_routes(self.signalling.routes())
        app.add_routes(WhepDoor(self, self, origin, self.signalling, self._serve).routes())
        app.add_routes(WhipDoor(self, origin, self.signalling, self._serve).routes())
        return app


Client = TestClient[web.Request, web.Application]
Open = Callable[[House], Awaitable[Client]]


@pytest.fixture
async def serve() -> AsyncIterator[Open]:
    clients: list[Client] = []

    async def opened(house: House) -> Client:
        client = TestClient(TestServer(house.app()))
        clients.append(client)
        await client.start_server()
        return client

    yield opened
    for client in clients:
        await client.close()


@pytest.fixture
def house() -> House:
    return House()


@pytest.fixture
async def client(house: House, serve: Open) -> Client:
    return await serve(house)


async def view(client: Client, **more: Any) -> ClientResponse:
    return await client.post("/whep/live/a", data=VIEW, **{"headers": OFFER, **more})


async def publish(client: Client, path: str = "/whip/live/a", **more: Any) -> ClientResponse:
    return await client.post(path, data=PUBLISH, **{"headers": {**OFFER, "Authorization": "Bearer k"}, **more})


async def code_of(response: ClientResponse) -> str:
    body = await response.json()
    assert body["data"] is None
    assert len(body["error"]["message"]) > 8
    return str(body["error"]["code"])


# 201


@pytest.mark.parametrize("post", [view, publish])
async def test_created(house: House, client: Client, post: Any) -> None:
    response = await post(client)
    assert response.status == 201
    assert response.content_type == "application/sdp"
    assert await response.text() == ANSWER
    location = response.headers["Location"]
    assert location.startswith("/rtc/session/")
    assert len(location) >= len("/rtc/session/") + 32
    assert response.headers["ETag"].startswith('"')
    assert response.headers["Accept-Patch"] == "application/trickle-ice-sdpfrag"
    assert response.headers["Access-Control-Allow-Origin"] == "*"
    assert {"Location", "ETag", "Link", "Retry-After"} <= set(response.headers["Access-Control-Expose-Headers"].split(", "))
    assert "Link" not in response.headers, "no server of a stranger unless configured"
    assert len(house.signalling) == 1


async def test_locations_and_tags_differ(client: Client) -> None:
    first, second = await view(client), await view(client)
    assert first.headers["Location"] != second.headers["Location"]
    assert first.headers["ETag"] != second.headers["ETag"]


async def test_the_prefix_of_the_public_url_is_kept(serve: Open) -> None:
    client = await serve(House(public_url="https://tv.example/media/"))
    assert (await view(client)).headers["Location"].startswith("/media/rtc/session/")


async def test_link_headers_with_turn_credentials(serve: Open) -> None:
    stun, turn = ("stun:stun.example:3478",), ("turn:turn.example:3478?transport=udp", "turns:turn.example:443")
    rtc = Rtc(stun_servers=stun, turn_servers=turn, turn_secret="s3cret", turn_ttl=600.0)
    links = (await view(await serve(House(rtc=rtc)))).headers.getall("Link")
    assert links[0] == '<stun:stun.example:3478>; rel="ice-server"'
    assert [link.partition(";")[0] for link in links[1:]] == [f"<{url}>" for url in turn]
    assert 'credential-type="password"' in links[1]
    assert "s3cret" not in "".join(links)


def test_turn_rest_credentials() -> None:
    links = IceServers(Rtc(turn_servers=("turn:t",), turn_secret="north", turn_ttl=86_400.0)).links("abc", 1_000.5)
    credential = base64.b64encode(hmac.digest(b"north", b"87400:abc", "sha1")).decode()
    assert links == [f'<turn:t>; rel="ice-server"; username="87400:abc"; credential="{credential}"; credential-type="password"']
    assert IceServers(Rtc(turn_servers=("turn:t",))).links("abc", 0) == ['<turn:t>; rel="ice-server"']


# who asks


@pytest.mark.parametrize(
    ("path", "headers", "expected"),
    [
        ("/whip/live/a", {"Authorization": "Bearer key1"}, ("live", "key1", "a")),
        ("/whip/live/a/key2", {"Authorization": "Bearer key1"}, ("live", "key2", "a")),
        ("/whip/key3", {}, ("", "key3", None)),
        ("/whip/live/a?token=key4", {}, ("live", "key4", "a")),
        ("/whip/live/a", {}, ("live", "", "a")),
    ],
)
async def test_where_the_publishers_key_stands(house: House, client: Client, path: str, headers: dict[str, str], expected: Any) -> None:
    assert (await publish(client, path, headers={**OFFER, **headers, "User-Agent": "OBS"})).status == 201
    assert house.calls == [("publish", Door.WHIP, *expected, "127.0.0.1"), ("serve", "live-a", "127.0.0.1", "OBS")]


async def test_the_viewers_token_and_agent(house: House, client: Client) -> None:
    headers = {**OFFER, "Authorization": "Bearer b", "User-Agent": "x" * 500}
    assert (await client.post("/whep/live/a?token=t", data=VIEW, headers=headers)).status == 201
    assert house.calls == [("read", "live", "a", "t", "b", "127.0.0.1"), ("serve", "live-a", "127.0.0.1", "x" * 200)]


@pytest.mark.parametrize("post", [view, publish])
@pytest.mark.parametrize(
    ("error", "status", "headers"),
    [
        (Unauthorized("no key was given"), 401, {"WWW-Authenticate": "Bearer"}),
        (Forbidden("not with this key"), 403, {}),
        (NotFound("no project of this name"), 404, {}),
        (TooManyRequests("over the rate"), 429, {"Retry-After": "60"}),
        (StorageError("the database is away"), 503, {"Retry-After": "10"}),
    ],
)
async def test_refused_by_the_gatekeeper(house: House, client: Client, post: Any, error: Any, status: int, headers: dict[str, str]) -> None:
    house.refuse = error
    response = await post(client)
    assert response.status == status
    assert await code_of(response) == error.code.replace("-", "_")
    assert {name: response.headers[name] for name in headers} == headers
    assert response.headers["Access-Control-Allow-Origin"] == "*"
    assert len(house.signalling) == 0
    assert len(house.calls) == 1, "nobody who is not let in gets as far as the parser"


@pytest.mark.parametrize("post", [view, publish])
@pytest.mark.parametrize(
    ("error", "status", "headers"),
    [
        (UnsupportedMedia("no shared codec: video: offered VP8", code="no-shared-codec"), 406, {}),
        (Conflict("somebody else publishes here"), 409, {}),
        (LimitExceeded("the node is full", code="node-full"), 503, {"Retry-After": "10"}),
        (LimitExceeded("the room is full", code="room-full"), 503, {"Retry-After": "10"}),
        (NotFound("nobody publishes here", code="no-programme"), 404, {"Retry-After": "2"}),
    ],
)
async def test_refused_by_the_service(house: House, client: Client, post: Any, error: Any, status: int, headers: dict[str, str]) -> None:
    house.refuse_service = error
    response = await post(client)
    assert response.status == status
    assert await code_of(response) == error.code.replace("-", "_")
    assert {name: response.headers[name] for name in headers} == headers
    assert len(house.signalling) == 0


async def test_a_room_without_programme_asks_to_come_again(house: House, client: Client) -> None:
    house.off_air = True
    response = await view(client)
    assert (response.status, response.headers["Retry-After"]) == (404, "2")
    assert await code_of(response) == "no_programme"


# what is sent


async def test_other_content_types(client: Client) -> None:
    response = await view(client, headers={"Content-Type": "application/json"})
    assert response.status == 415
    assert response.headers["Accept-Post"] == "application/sdp"
    assert await code_of(response) == "unsupported_content_type"
    assert (await view(client, headers={"Content-Type": "Application/SDP; charset=utf-8"})).status == 201


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "invalid_sdp"),
        (b"hello", 400, "invalid_sdp"),
        (b"v=0\xff\xfe", 400, "bad_body"),
        (b"v=0\n" + b"a=x\n" * 5000, 413, "limit_exceeded"),
        (b"v=0\n" + b"x" * 131_072, 413, "body_too_large"),
    ],
)
async def test_bodies_that_are_no_offer(house: House, client: Client, body: bytes, status: int, code: str) -> None:
    response = await client.post("/whep/live/a", data=body, headers=OFFER)
    assert response.status == status
    assert await code_of(response) == code
    assert house.sessions == []


async def test_a_body_without_length_is_bounded_too(client: Client) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(40):
            yield b"a=" + b"x" * 8190

    response = await client.post("/whep/live/a", data=endless(), headers=OFFER)
    assert response.status == 413


@pytest.mark.parametrize("path", ["/whep/live/a%01", "/whip/" + "k" * 600, "/whip/live/a/%00"])
async def test_paths_that_nobody_made(house: House, client: Client, path: str) -> None:
    assert (await client.post(path, data=PUBLISH, headers=OFFER)).status == 404
    assert house.calls == []


async def test_bogus_posts_leave_nothing(house: House, client: Client) -> None:
    bodies = [b"", b"v=0", b"\x00" * 100, VIEW[:700], VIEW.replace(b"fingerprint", b"x"), PUBLISH.replace(b"ice-pwd", b"y")]
    for n in range(300):
        house.refuse_service = UnsupportedMedia("no shared codec")
        response = await client.post(f"/wh{'ie'[n % 2]}p/live/{n}", data=bodies[n % len(bodies)], headers=OFFER)
        assert 400 <= response.status < 500
        await response.read()
    assert len(house.signalling) == 0
    assert house.sessions == []


async def test_the_node_is_full_until_somebody_leaves(house: House, client: Client) -> None:
    for _ in range(3):
        assert (await view(client)).status == 201
    full = await publish(client)
    assert (full.status, full.headers["Retry-After"]) == (503, "10")
    assert await code_of(full) == "node_full"
    house.sessions[1].closed = True
    assert (await publish(client)).status == 201
    assert len(house.signalling) == 3


# other methods


@pytest.mark.parametrize("path", ["/whip/live/a", "/whip/live/a/k", "/whip/k", "/whep/live/a"])
async def test_options_and_what_is_not_allowed(house: House, client: Client, path: str) -> None:
    asked = await client.options(path)
    assert asked.status == 204
    assert asked.headers["Accept-Post"] == "application/sdp"
    assert asked.headers["Access-Control-Allow-Methods"] == "POST, PATCH, DELETE, OPTIONS"
    assert "If-Match" in asked.headers["Access-Control-Allow-Headers"]
    for method in ("GET", "HEAD", "PUT", "PATCH", "DELETE"):
        response = await client.request(method, path)
        assert (response.status, response.headers["Allow"]) == (405, "OPTIONS, POST")
        assert response.headers["Access-Control-Allow-Origin"] == "*"
    assert house.calls == []


async def test_the_session_url_answers_options_and_405(client: Client) -> None:
    location = (await view(client)).headers["Location"]
    asked = await client.options(location)
    assert (asked.status, asked.headers["Accept-Patch"]) == (204, "application/trickle-ice-sdpfrag")
    for method in ("GET", "HEAD", "PUT", "POST"):
        response = await client.request(method, location)
        assert (response.status, response.headers["Allow"]) == (405, "DELETE, OPTIONS, PATCH")


# DELETE


async def test_delete_is_idempotent(house: House, client: Client) -> None:
    location = (await publish(client)).headers["Location"]
    for _ in range(3):
        response = await client.delete(location)
        assert (response.status, response.headers["Access-Control-Allow-Origin"]) == (200, "*")
    assert house.sessions[0].ended == [None]
    assert len(house.signalling) == 0
    assert (await client.patch(location, data="", headers={**PATCH, "If-Match": "*"})).status == 404


async def test_an_ended_session_is_404_and_forgotten(house: House, client: Client) -> None:
    location = (await view(client)).headers["Location"]
    house.sessions[0].closed = True
    response = await client.patch(location, data="", headers=PATCH)
    assert response.status == 404
    assert await code_of(response) == "no_session"
    assert len(house.signalling) == 0
    assert (await client.delete(location)).status == 200
    assert house.sessions[0].ended == []


async def test_sweeping_forgets_the_ended(house: House, client: Client) -> None:
    await view(client)
    await view(client)
    house.sessions[0].closed = True
    house.signalling.sweep()
    assert len(house.signalling) == 1


# PATCH


async def test_trickle(house: House, client: Client) -> None:
    made = await publish(client)
    fragment = "a=ice-ufrag:x123\r\na=candidate:1 1 udp 1 192.0.2.1 9 typ host\r\n"
    response = await client.patch(made.headers["Location"], data=fragment, headers={**PATCH, "If-Match": made.headers["ETag"]})
    assert (response.status, response.headers["ETag"]) == (204, made.headers["ETag"])
    assert house.sessions[0].restarts == []


async def test_trickle_with_the_offers_own_credentials_is_no_restart(house: House, client: Client) -> None:
    made = await view(client)
    lines = [line for line in VIEW.decode().split("\r\n") if line.startswith("a=ice-")][:2]
    response = await client.patch(made.headers["Location"], data="\r\n".join(lines), headers=PATCH)
    assert response.status == 204
    assert house.sessions[0].restarts == []


@pytest.mark.parametrize("match", ["*", None])
async def test_restart(house: House, client: Client, match: str | None) -> None:
    made = await publish(client)
    tag = made.headers["ETag"]
    location = made.headers["Location"]
    response = await client.patch(location, data=RESTART, headers={**PATCH, "If-Match": match or tag})
    assert response.status == 200
    assert response.content_type == "application/trickle-ice-sdpfrag"
    assert house.sessions[0].restarts == [Credentials("next", "n" * 24)]
    text = await response.text()
    assert "a=ice-ufrag:new1\r\n" in text
    assert "a=candidate:1 1 udp 1 192.0.2.9 8189 typ host\r\n" in text
    assert "m=video 9 UDP/TLS/RTP/SAVPF 96\r\na=mid:0\r\n" in text
    fresh = response.headers["ETag"]
    assert fresh != tag
    assert (await client.patch(location, data="", headers={**PATCH, "If-Match": tag})).status == 412
    assert (await client.patch(location, data=RESTART, headers={**PATCH, "If-Match": fresh})).status == 204
    assert len(house.sessions[0].restarts) == 1


async def test_late_candidates_of_the_replaced_ice_session_are_no_restart(house: House, client: Client) -> None:
    location = (await view(client)).headers["Location"]
    assert (await client.patch(location, data=RESTART, headers=PATCH)).status == 200
    late = "\r\n".join([line for line in VIEW.decode().split("\r\n") if line.startswith("a=ice-")][:2])
    assert (await client.patch(location, data=late, headers=PATCH)).status == 412
    assert len(house.sessions[0].restarts) == 1


async def test_without_if_match_publishers_are_428_and_viewers_taken(client: Client) -> None:
    publisher, viewer = (await publish(client)).headers["Location"], (await view(client)).headers["Location"]
    response = await client.patch(publisher, data="", headers=PATCH)
    assert response.status == 428
    assert await code_of(response) == "precondition_required"
    assert (await client.patch(viewer, data="", headers=PATCH)).status == 204


@pytest.mark.parametrize("post", [view, publish])
@pytest.mark.parametrize(("form", "status"), [('"{}"', 204), ("{}", 204), ('W/"{}"', 204), ('"a", "{}"', 204), ('"x"', 412), ("", 412)])
async def test_if_match(client: Client, post: Any, form: str, status: int) -> None:
    made = await post(client)
    match = form.format(made.headers["ETag"].strip('"'))
    response = await client.patch(made.headers["Location"], data="", headers={**PATCH, "If-Match": match})
    assert response.status == status


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        ("", "application/sdp", 415),
        ("hello", "application/trickle-ice-sdpfrag", 400),
        ("a=ice-ufrag:x", "application/trickle-ice-sdpfrag", 400),
        ("a=" + "x" * 40_000, "application/trickle-ice-sdpfrag", 413),
    ],
)
async def test_fragments_that_cannot_be(house: House, client: Client, body: str, kind: str, status: int) -> None:
    location = (await view(client)).headers["Location"]
    response = await client.patch(location, data=body, headers={"Content-Type": kind})
    assert response.status == status
    if status == 415:
        assert response.headers["Accept-Patch"] == "application/trickle-ice-sdpfrag"
    assert not house.sessions[0].closed, "a broken PATCH does not cost the session"


async def test_serve_sweeps(monkeypatch: pytest.MonkeyPatch, house: House, client: Client) -> None:
    await view(client)
    house.sessions[0].closed = True
    naps: list[float] = []

    class Enough(Exception):
        pass

    async def nap(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 2:
            raise Enough

    monkeypatch.setattr("medianode.rtc.signalling.asyncio.sleep", nap)
    with pytest.raises(Enough):
        await house.signalling.serve()
    assert len(house.signalling) == 0
