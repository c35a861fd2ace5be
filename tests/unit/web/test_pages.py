from __future__ import annotations

import html
import re
from collections.abc import Callable

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from yarl import URL

from medianode.media.track import VIDEO_CLOCK_RATE, Codec, Track
from medianode.routing.demand import Outlook
from medianode.routing.publication import Publication
from medianode.routing.registry import Registry
from medianode.web.assets import Assets

Client = TestClient[web.Request, web.Application]
VIDEO = Track(0, Codec.H264, VIDEO_CLOCK_RATE, width=1280, height=720, frame_rate=30.0)
JPEG = Track(0, Codec.MJPEG, VIDEO_CLOCK_RATE, width=640, height=480)
AUDIO = Track(1, Codec.AAC, 48_000, sample_rate=48_000, channels=2)


@pytest.mark.parametrize("path", ["/", "/play/live/demo", "/embed/live/demo", "/publish/live/demo", "/play/live/li$ve"])
async def test_pages_have_strict_headers_and_no_inline_script_or_style(client: Client, path: str) -> None:
    response = await client.get(path)
    policy = response.headers["Content-Security-Policy"]
    text = await response.text()
    assert response.content_type == "text/html"
    assert "script-src 'self';" in policy
    assert "unsafe" not in policy
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["Referrer-Policy"] == "no-referrer"
    assert not re.search(r"<script(?![^>]*\bsrc=)|\son\w+=|\sstyle=|<style", text)
    assert "$" not in re.sub(r"li\$ve", "", text)


async def test_only_the_embedded_page_may_be_framed_by_strangers(client: Client) -> None:
    embed, play = await client.get("/embed/live/demo"), await client.get("/play/live/demo")
    assert "frame-ancestors *" in embed.headers["Content-Security-Policy"]
    assert "X-Frame-Options" not in embed.headers
    assert "frame-ancestors 'self'" in play.headers["Content-Security-Policy"]
    assert play.headers["X-Frame-Options"] == "SAMEORIGIN"


async def test_the_names_reach_the_script_and_all_links_are_relative(client: Client) -> None:
    text = await (await client.get("/play/live/a.b_c-D")).text()
    assert 'data-app="live" data-room="a.b_c-D"' in text
    assert not re.findall(r'(?:href|src)="(?:/|https?:)', text)
    for asset in re.findall(r'(?:href|src)="(\.\./\.\./static/[^"]+)"', text):
        assert (await client.get(str(URL("http://x/play/live/a").join(URL(asset)).path))).status == 200


@pytest.mark.parametrize(
    "name", ["%3Cscript%3E", "a%22b", ".hidden", "a..b", "x" * 121, "a%20b", "%F0%9F%98%80", "a%00b", "a%27onload%3D1"]
)
@pytest.mark.parametrize("mount", ["play", "embed", "publish"])
async def test_impossible_names_get_a_readable_page_with_nothing_unescaped(client: Client, mount: str, name: str) -> None:
    response = await client.get(URL(f"/{mount}/live/{name}", encoded=True))
    text = await response.text()
    assert response.status == 400
    assert "That address is not quite right" in text
    assert not any(raw in text for raw in ("<script>", 'a"b', "a'onload"))
    assert response.headers["Cache-Control"] == "no-store"


async def test_an_unknown_project_is_a_404_page_and_too_many_tries_a_429(client: Client) -> None:
    unknown, hot = await client.get("/play/nobody/demo"), await client.get("/embed/hot/demo")
    assert (unknown.status, hot.status) == (404, 429)
    assert html.escape("no project nobody") in await unknown.text()
    assert "Too many tries" in await hot.text()


async def test_the_page_of_a_private_room_opens_and_its_state_does_not(client: Client) -> None:
    assert (await client.get("/play/shut/demo")).status == 200
    assert (await client.get("/play/shut/demo?token=other")).status == 200
    assert (await client.get("/play/shut/demo/state.json")).status == 401
    assert (await client.get("/play/shut/demo/state.json?token=other")).status == 403
    assert (await client.get("/play/shut/demo/state.json?token=good")).status == 200
    assert (await client.get("/play/shut/demo/state.json", headers={"Authorization": "Bearer good"})).status == 200
    assert (await client.get("/play/nobody/demo/state.json")).status == 404
    assert (await client.get("/play/live/.x/state.json")).status == 400


async def test_state_off_air(client: Client) -> None:
    response = await client.get("/play/live/demo/state.json")
    body = await response.json()
    assert (body["onDemand"], body["source"]) == (False, None)
    assert response.headers["Cache-Control"] == "no-store"
    assert response.headers["Access-Control-Allow-Origin"] == "*"
    assert body["now"] > 1_600_000_000_000
    assert {k: body[k] for k in ("onAir", "held", "room", "viewers", "startedAt", "videoCodec")} == {
        "onAir": False,
        "held": False,
        "room": "live-demo",
        "viewers": 0,
        "startedAt": None,
        "videoCodec": None,
    }


async def test_a_source_on_demand_is_opened_by_who_would_watch_and_told_to_all(
    client: Client, registry: Registry, publish: Callable[..., Publication]
) -> None:
    opened: list[tuple[str, str]] = []
    registry.demand.open = lambda project_id, room: opened.append((project_id, room)) is None
    registry.demand.look = lambda project_id, room: Outlook("opening" if opened else "idle", on_demand=True)

    async def told(path: str = "/play/live/demo/state.json?want=1") -> tuple[bool, str]:
        body = await (await client.get(path)).json()
        return body["onDemand"], body["source"]

    assert await told("/play/live/demo/state.json") == (True, "idle")
    for method, path in (("HEAD", "/play/live/demo"), ("GET", "/play/shut/demo"), ("GET", "/play/none/demo")):
        await client.request(method, f"{path}/state.json?want=1")
    assert opened == [], "whoever may not view, and who asks for the head alone, opens nothing"
    assert await told() == (True, "opening")
    assert opened == [("p1", "live-demo")]
    publish(VIDEO)
    await told()
    assert len(opened) == 1, "it has a programme"


async def test_state_on_air_held_and_gone(client: Client, registry: Registry, publish: Callable[..., Publication]) -> None:
    publication = publish(VIDEO, AUDIO)
    room = registry.on_air("p1", "live-demo")
    room.count_viewer("hls", 1, 10)
    publication.meters[0].bitrate, publication.meters[1].bitrate = 2_000_000.0, 128_000.0
    short, full = [await (await client.get(f"/play/live/{name}/state.json")).json() for name in ("demo", "live-demo")]
    assert short["room"] == full["room"] == "live-demo"
    wanted = {"onAir": True, "held": False, "videoCodec": "h264", "audioCodec": "aac", "width": 1280, "height": 720, "frameRate": 30.0}
    wanted |= {"bitrate": 2_128_000, "jpeg": False, "viewers": 1, "modes": ["whep", "hls", "mjpeg"]}
    assert {k: full[k] for k in wanted} == wanted
    room.end(publication, "peer-gone")
    held = await (await client.get("/play/live/demo/state.json")).json()
    assert (held["onAir"], held["held"]) == (True, True)
    room.release("obs")
    gone = await (await client.get("/play/live/demo/state.json")).json()
    assert (gone["onAir"], gone["held"]) == (False, False)


@pytest.mark.parametrize(("measured", "told"), [(0.0, 30.0), (33.1, 30.0), (25.0, 30.0), (15.0, 15.0)])
async def test_the_declared_frame_rate_stands_while_the_measured_one_agrees(
    client: Client, registry: Registry, publish: Callable[..., Publication], measured: float, told: float
) -> None:
    publication = publish(VIDEO)
    publication.meters[0].frame_rate = measured
    assert (await (await client.get("/play/live/demo/state.json")).json())["frameRate"] == told
    registry.on_air("p1", "live-demo").end(publication, "peer-gone", final=True)


@pytest.mark.parametrize(
    ("tracks", "jpeg", "modes"),
    [((VIDEO,), False, ["whep", "hls", "mjpeg"]), ((JPEG,), True, ["mjpeg", "whep", "hls"]), ((AUDIO,), False, ["whep", "hls"])],
)
async def test_modes_best_first(
    client: Client, registry: Registry, publish: Callable[..., Publication], tracks: tuple[Track, ...], jpeg: bool, modes: list[str]
) -> None:
    publication = publish(*tracks)
    body = await (await client.get("/play/live/demo/state.json")).json()
    assert (body["jpeg"], body["modes"]) == (jpeg, modes)
    registry.on_air("p1", "live-demo").end(publication, "peer-gone", final=True)


async def test_start_page_tells_where_to_push(client: Client) -> None:
    text = await (await client.get("/", headers={"Host": "media.example:8080"})).text()
    assert 'data-rtmp="rtmp://media.example:1935/live"' in text
    assert 'data-rtmps="rtmps://media.example:1936/live"' in text
    assert 'data-certificate="certificate.pem"' in text


async def test_a_hostile_host_is_refused_as_a_page(client: Client) -> None:
    response = await client.get("/", headers={"Host": 'x"><script>'})
    assert response.status == 400
    assert "<script>" not in (await response.text()).replace('<script type="module"', "")


async def test_certificate(client: Client, bare: Client) -> None:
    response = await client.get("/certificate.pem")
    assert response.status == 200
    assert (await response.read()).startswith(b"-----BEGIN CERTIFICATE-----")
    assert response.headers["Content-Disposition"] == 'attachment; filename="certificate.pem"'
    missing = await bare.get("/certificate.pem")
    assert missing.status == 404
    assert missing.content_type == "text/html"
    assert 'data-certificate=""' in await (await bare.get("/")).text()


BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


@pytest.mark.parametrize(
    ("path", "back"), [("/nothere", "./"), ("/play/live/", "./../../"), ("/a/b%2Fc/d", "./../../"), ("/docs/", "./../")]
)
async def test_unknown_paths_are_a_page_for_people(client: Client, path: str, back: str) -> None:
    response = await client.get(URL(path, encoded=True), headers=BROWSER)
    text = await response.text()
    assert response.status == 404
    assert "Nothing here" in text
    assert f'class="button" href="{back}"' in text
    plain = await client.get(URL(path, encoded=True), headers={"Accept": "*/*"})
    assert (plain.status, await plain.text()) == (404, "404: Not Found")


async def test_the_page_for_unknown_paths_leaves_programs_their_own_errors(client: Client) -> None:
    for path in (
        "/v1/x",
        "/api/x",
        "/hls/live/demo/x",
        "/live/x",
        "/ingest/x",
        "/ingress/x",
        "/ingress",
        "/metrics",
        "/metrics/x",
        "/static/x",
    ):
        response = await client.get(path, headers=BROWSER)
        assert (response.status, response.content_type) == (404, "text/plain"), path
    post, wrong = await client.post("/nothere", headers=BROWSER), await client.post("/play/live/demo", headers=BROWSER)
    assert (post.status, wrong.status) == (404, 405)
    assert "GET" in wrong.headers["Allow"]


async def test_the_page_for_unknown_paths_never_wins_over_what_others_serve(pages_routes: list[web.RouteDef]) -> None:
    async def served(request: web.Request) -> web.Response:
        return web.Response(text=request.path)

    app = web.Application()
    app.add_routes([web.get("/docs", served), web.post("/v1/things", served), *pages_routes, web.get("/late/{x}", served)])
    async with TestClient(TestServer(app)) as client:
        for path in ("/docs", "/late/x"):
            assert await (await client.get(path, headers=BROWSER)).text() == path
        assert (await client.get("/v1/things", headers=BROWSER)).status == 405
        assert (await client.post("/docs", headers=BROWSER)).status == 405


async def test_without_hls_js_the_page_says_so(client: Client, bare: Client) -> None:
    assert 'data-without-hls=""' in await (await bare.get("/play/live/demo")).text()
    wanted = "on" if Assets().has_hls else ""
    assert f'data-hls="{wanted}"' in await (await client.get("/play/live/demo")).text()


async def test_without_hls_only_pictures_are_offered(bare: Client, registry: Registry, publish: Callable[..., Publication]) -> None:
    publication = publish(VIDEO, AUDIO)
    body = await (await bare.get("/play/live/demo/state.json")).json()
    assert body["modes"] == ["mjpeg"]
    registry.on_air("p1", "live-demo").end(publication, "peer-gone", final=True)


async def test_only_the_publish_page_may_ask_for_camera_microphone_and_screen(client: Client) -> None:
    publish, play = await client.get("/publish/live/demo"), await client.get("/play/live/demo")
    policy = publish.headers["Permissions-Policy"]
    assert all(f"{what}=(self)" in policy for what in ("camera", "microphone", "display-capture"))
    assert "camera=()" in play.headers["Permissions-Policy"]
    assert publish.headers["X-Frame-Options"] == "SAMEORIGIN"


async def test_pages_tell_where_media_goes(client: Client) -> None:
    for path in ("/publish/live/demo", "/play/live/demo", "/embed/live/demo"):
        assert 'data-udp="8189" data-tcp="8189"' in await (await client.get(path)).text()
    assert 'data-certificate="certificate.pem"' in await (await client.get("/publish/live/demo")).text()
    assert 'data-whip="on"' in await (await client.get("/")).text()


async def test_without_webrtc_nothing_offers_it(still: Client, registry: Registry, publish: Callable[..., Publication]) -> None:
    publication = publish(VIDEO, AUDIO)
    assert (await (await still.get("/play/live/demo/state.json")).json())["modes"] == ["hls", "mjpeg"]
    assert 'data-whip=""' in await (await still.get("/")).text()
    page = await still.get("/publish/live/demo")
    assert page.status == 501
    assert "rtc.enabled" in await page.text()
    registry.on_air("p1", "live-demo").end(publication, "peer-gone", final=True)
