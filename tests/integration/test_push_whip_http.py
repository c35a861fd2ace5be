"""The HTTP of a call by WHIP, against targets that answer all kinds of things."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from medianode.config import Limits
from medianode.egress.push.whip_resource import SDP, WhipResource
from medianode.errors import Forbidden, InvalidRequest, LimitExceeded, MedianodeError, PeerTimeout
from medianode.outbound import Outbound

KEY = "a-secret-stream-key"
Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def target(answer: Answer) -> AsyncIterator[str]:
    """A server on loopback that answers everything so; its URL."""
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", answer)
    async with TestServer(app) as server:
        yield f"http://127.0.0.1:{server.port}/whip/room"


def door(*, allow: tuple[str, ...] = ("127.0.0.0/8",), **limits: Any) -> WhipResource:
    return WhipResource(Limits(**limits), Outbound(allow), KEY)


def fixed(status: int, body: str = "", **headers: str) -> Answer:
    async def answer(request: web.Request) -> web.StreamResponse:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.Response(status=status, text=body, headers={"Content-Type": SDP, **named})

    return answer


async def test_the_offer_goes_out_with_the_key_and_the_location_is_resolved() -> None:
    seen: list[tuple[str, str, str, str]] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        headers = request.headers
        seen.append((request.method, request.path, headers.get("Authorization", ""), headers.get("Content-Type", "")))
        if request.method == "DELETE":
            return web.Response()
        assert await request.text() == "v=0 offer"
        return web.Response(status=201, text="v=0 answer", headers={"Content-Type": f"{SDP}; charset=utf-8", "Location": "/session/7"})

    async with target(answer) as url:
        made = await door().post(url, "v=0 offer")
        assert made.answer == "v=0 answer"
        assert made.resource == url.replace("/whip/room", "/session/7")
        assert made.addresses == ("127.0.0.1",)
        await door().delete(made.resource)
    assert seen[0] == ("POST", "/whip/room", f"Bearer {KEY}", SDP)
    assert seen[1][:3] == ("DELETE", "/session/7", f"Bearer {KEY}")


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (401, "rejected", "refuses the key"),
        (403, "rejected", "refuses the key"),
        (404, "rejected", "no WHIP endpoint"),
        (405, "rejected", "no WHIP endpoint"),
        (406, "rejected", "refuses the offer: 406"),
        (409, "target-error", "409"),
        (429, "target-error", "429"),
        (500, "target-error", "500"),
        (204, "target-error", "204"),
        (301, "bad-redirect", "307 or 308"),
        (307, "bad-redirect", "Location"),
    ],
)
async def test_refusals_in_words(status: int, code: str, words: str) -> None:
    async with target(fixed(status, "" if status == 204 else f"because of {KEY}\x07!")) as url:
        with pytest.raises(MedianodeError, match=words) as caught:
            await door().post(url, "v=0")
    assert caught.value.code == code
    assert KEY not in caught.value.message
    assert caught.value.message.isprintable()


async def test_an_answer_without_a_location_has_no_resource() -> None:
    async with target(fixed(201, "v=0")) as url:
        assert (await door().post(url, "v=0")).resource == ""
    async with target(fixed(200, "v=0", Location="http://[::1")) as url:
        assert (await door().post(url, "v=0")).resource == ""


async def test_answers_that_are_none() -> None:
    async with target(fixed(201, "<html>", Content_Type="text/html")) as url:
        with pytest.raises(MedianodeError, match="expected application/sdp"):
            await door().post(url, "v=0")
    async with target(fixed(201, "x" * 5000)) as url:
        with pytest.raises(LimitExceeded):
            await door(rtc_offer_bytes=1000).post(url, "v=0")
    with pytest.raises(MedianodeError) as caught:
        await door().post(url, "v=0")
    assert caught.value.code == "unreachable"


async def test_redirections_are_followed_and_each_is_looked_at() -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        where = {"/whip/room": "/second", "/second": "third"}.get(request.path)
        if where is not None:
            return web.Response(status=307 if where == "/second" else 308, headers={"Location": where})
        assert (request.method, await request.text(), request.headers["Authorization"]) == ("POST", "v=0 offer", f"Bearer {KEY}")
        return web.Response(status=201, text="v=0 answer", headers={"Content-Type": SDP, "Location": "mine"})

    async with target(answer) as url:
        assert (await door().post(url, "v=0 offer")).resource == url.replace("/whip/room", "/mine")
    async with target(fixed(307, Location="http://10.1.2.3/whip")) as url:
        with pytest.raises(Forbidden) as caught:
            await door().post(url, "v=0")
    assert caught.value.code == "private-address"
    async with target(fixed(307, Location="ftp://127.0.0.1/whip")) as url:
        with pytest.raises(MedianodeError, match="redirects"):
            await door().post(url, "v=0")
    async with target(fixed(307, Location="/whip/room")) as url:
        with pytest.raises(MedianodeError, match="more than 5 times"):
            await door().post(url, "v=0")


async def test_private_addresses_and_other_schemes_are_refused() -> None:
    with pytest.raises(Forbidden):
        await door(allow=()).post("http://127.0.0.1:9/whip", "v=0")
    with pytest.raises(InvalidRequest):
        await door().post("rtmp://127.0.0.1/whip", "v=0")


async def test_a_name_is_looked_up_once_and_the_connection_goes_there() -> None:
    asked: list[str] = []

    async def lookup(host: str, port: int) -> tuple[str, ...]:
        asked.append(host)
        return ("127.0.0.1",)

    async with target(fixed(201, "v=0")) as url:
        resource = WhipResource(Limits(), Outbound(("127.0.0.0/8",), lookup), None)
        await resource.post(url.replace("127.0.0.1", "target.example"), "v=0")
    assert asked == ["target.example"]


async def test_a_target_that_does_not_answer() -> None:
    async def never(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(60)
        return web.Response()

    async with target(never) as url:
        with pytest.raises(PeerTimeout):
            await door(request_timeout=0.05).post(url, "v=0")


async def test_what_is_no_http() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.write(b"RTMP\x03\x00\x00\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(MedianodeError) as caught:
            await door().post(f"http://127.0.0.1:{port}/{KEY}", "v=0")
    assert caught.value.code == "bad-http"
    assert KEY not in caught.value.message
