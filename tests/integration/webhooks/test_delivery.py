"""The engine on both databases, to a receiver over loopback."""

from __future__ import annotations

import asyncio
import hmac
from typing import Any

from aiohttp import web
from harness.receiver import FakeClock, Post, Receiver

from medianode.config import Limits, Webhooks
from medianode.outbound import Outbound
from medianode.store import endpoints, lanes
from medianode.webhooks.sender import open_sender

Run = Any


async def test_letters_arrive_signed_and_in_order(run: Run, post: Post, sink: Receiver) -> None:
    endpoint = await post.endpoint(f"{sink.url}/hook?a=b", headers={"X-Own": "1", "Host": "elsewhere"})
    async with run():
        ids = await post.send(endpoint, *["a", "b"] * 50)
        got = await sink.has(100)
        rows = await post.settled("delivered")
    assert [row.id for row in rows] == ids
    assert {row.attempts for row in rows} == {1}
    assert {row.status for row in rows} == {200}
    for stream in "ab":
        assert [g.n for g in got if g.stream == stream] == list(range("ab".index(stream), 100, 2))
    for g in got:
        assert g.headers["X-BaxCloud-Signature"] == "sha256=" + hmac.digest(b"secret", g.body, "sha256").hex()
        assert (g.headers["X-Own"], g.headers["X-BaxCloud-Event"]) == ("1", "live.started")
        assert g.headers["Host"].startswith("127.0.0.1")
        assert g.headers["User-Agent"] == "BaxCloud-VideoConverter/1.0"
    (attempt,) = await post.attempts(ids[0])
    assert (attempt.status, attempt.error) == (200, "")
    async with post.db.read() as tx:
        assert await lanes.due(tx, 1e12, steal=True) == {}
        assert (await lanes.backlog(tx)).pending == 0


async def test_a_failure_holds_its_lane_and_no_other(run: Run, post: Post, sink: Receiver, time: FakeClock) -> None:
    refused = {"bad"}

    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=503 if (await request.json())["stream"] in refused else 204, text="busy\0busy")

    sink.answer = answer
    endpoint = await post.endpoint(sink.url)
    async with run() as engine:
        bad = await post.send(endpoint, "bad", "bad", "good", "good")
        await sink.has(3)
        await wait_for_states(post, ["pending", "pending", "delivered", "delivered"])
        assert [g.stream for g in sink.got].count("bad") == 1
        refused.clear()
        time.advance(6)
        engine.wake()
        await post.settled("delivered")
    assert [g.n for g in sink.got if g.stream == "bad"] == [0, 0, 1]
    first, second = await post.attempts(bad[0])
    assert (first.status, first.error, first.excerpt) == (503, "http-503", "busy\ufffdbusy")
    assert (second.status, second.error) == (204, "")


async def test_it_is_given_up_after_the_last_retry_and_the_lane_goes_on(run: Run, post: Post, sink: Receiver, time: FakeClock) -> None:
    sink.answer = refuse_first
    endpoint = await post.endpoint(sink.url)
    async with run(webhooks=Webhooks(first_retry=5, last_retry=80)) as engine:
        ids = await post.send(endpoint, "s", "s")
        for attempts in range(1, 4):
            await sink.has(attempts)
            await wait_for(post, lambda rows, n=attempts: rows[0].attempts == n)
            time.advance(100)
            engine.wake()
        await wait_for(post, lambda rows: rows[0].state == "dead")
        time.advance(10)  # the endpoint is down by now, and left alone for as long between two probes
        engine.wake()
        rows = await post.settled("dead", "delivered")
    assert [(row.id, row.state, row.attempts) for row in rows] == [(ids[0], "dead", 4), (ids[1], "delivered", 1)]
    assert rows[0].error == "http-500"


async def refuse_first(request: web.Request) -> web.Response:
    return web.Response(status=500 if (await request.json())["n"] == 0 else 200)


async def test_4xx_is_final_for_streamhub_and_for_no_other(run: Run, post: Post, sink: Receiver, time: FakeClock) -> None:
    statuses = iter([410, 410, 200])

    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=next(statuses))

    sink.answer = answer
    hub = await post.endpoint(sink.url, dialect="streamhub")
    bax = await post.endpoint(sink.url)
    async with run() as engine:
        await post.send(hub, "s")
        await post.settled("dead")
        await post.send(bax, "s")
        await wait_for(post, lambda rows: rows[1].attempts == 1)
        time.advance(100)
        engine.wake()
        rows = await post.settled("dead", "delivered")
    assert [(row.status, row.attempts) for row in rows] == [(410, 1), (200, 2)]


async def test_a_secret_that_was_rotated_out_is_tried_while_it_is_good(run: Run, post: Post, sink: Receiver) -> None:
    async def answer(request: web.Request) -> web.Response:
        good = "sha256=" + hmac.digest(b"old", await request.read(), "sha256").hex()
        return web.Response(status=200 if request.headers["X-BaxCloud-Signature"] == good else 401)

    sink.answer = answer
    endpoint = await post.endpoint(sink.url, secret="new", previous_secret="old", previous_until=4e9)
    async with run():
        (delivery,) = await post.send(endpoint, "s")
        (row,) = await post.settled("delivered")
        assert (row.attempts, row.status) == (2, 200)
        assert [a.status for a in await post.attempts(delivery)] == [401, 200]
        await post.change(endpoint, previous_until=1.0)
        await post.send(endpoint, "s", first=1)
        await wait_for(post, lambda rows: rows[1].attempts > 0)
    assert (await post.rows())[1].attempts == 1


async def test_disabled_endpoints_wait_and_deleted_ones_are_forgotten(run: Run, post: Post, sink: Receiver) -> None:
    endpoint = await post.endpoint(sink.url, enabled=False)
    other = await post.endpoint(sink.url)
    async with run():
        await post.send(endpoint, "s", "s")
        await post.send(other, "t")
        await sink.has(1)
        assert [g.stream for g in sink.got] == ["t"]
        await post.change(endpoint, enabled=True)
        await sink.has(3)
        await post.settled("delivered")


async def test_an_endpoint_that_is_deleted_while_it_is_sent_to(run: Run, post: Post, sink: Receiver) -> None:
    held, go = asyncio.Event(), asyncio.Event()

    async def answer(request: web.Request) -> web.Response:
        held.set()
        await go.wait()
        return web.Response()

    sink.answer = answer
    endpoint, other = await post.endpoint(sink.url), await post.endpoint(f"{sink.url}/other")
    async with run():
        await post.send(endpoint, "s", "s", "s")
        await held.wait()
        async with post.db.write() as tx:
            await endpoints.delete_endpoint(tx, endpoint.id)
        go.set()
        await post.send(other, "s")
        await post.settled("delivered")
    assert len([g for g in sink.got if g.path == "/other"]) == 1


async def test_an_endpoint_that_hangs_delays_no_other(run: Run, post: Post, sink: Receiver) -> None:
    """With bounds so small that it would fill them, if they were shared."""

    async def answer(request: web.Request) -> web.Response:
        if request.path == "/hangs":
            await asyncio.sleep(60)
        return web.Response()

    sink.answer = answer
    hanging = [await post.endpoint(f"{sink.url}/hangs") for _ in range(3)]
    good = await post.endpoint(f"{sink.url}/good")
    async with run(webhooks=Webhooks(timeout=1.0), webhook_lanes=8, webhook_letters=8, webhook_connections=4, shutdown_grace=1.0):
        for endpoint in hanging:
            await post.send(endpoint, *(f"s{i}" for i in range(20)))
        await sink.has(6)
        await post.send(good, *(f"s{i}" for i in range(20)))
        await wait_for(post, lambda rows: all(row.state == "delivered" for row in rows if row.endpoint_id == good.id))
    # none of theirs was lost
    assert {row.state for row in await post.rows() if row.endpoint_id != good.id} == {"pending"}


async def test_one_that_is_down_is_probed_by_one_lane_and_all_follow_when_it_is_back(
    run: Run, post: Post, sink: Receiver, time: FakeClock
) -> None:
    """Ten minutes of its clock: 30 streams do not hail on it, and none waits for its own back-off once it is back."""
    sink.status = 500
    endpoint = await post.endpoint(sink.url)
    async with run() as engine:
        await post.send(endpoint, *(f"s{i % 30}" for i in range(90)))
        await sink.has(3)
        for _ in range(60):
            time.advance(10)
            engine.wake()
            await asyncio.sleep(0.02)
        during = len(sink.got)
        assert during < 8 + 60
        sink.status = 200
        time.advance(61)
        engine.wake()
        rows = await post.settled("delivered")
    assert len(rows) == 90
    delivered = sink.got[during:]
    for i in range(30):
        seen = [g.n for g in delivered if g.stream == f"s{i}"]
        assert seen == [i, i + 30, i + 60]


async def test_what_an_answer_may_be(run: Run, post: Post, sink: Receiver) -> None:
    """Redirects, too large, too slow, no HTTP, nobody there: each is told in the attempt."""

    async def raw(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"SSH-2.0-hello\r\n")
        writer.close()

    async def answer(request: web.Request) -> web.StreamResponse:
        match request.path:
            case "/redirect":
                raise web.HTTPFound("http://127.0.0.1/elsewhere")
            case "/large":
                return web.Response(status=200, body=b"x" * 10_000_000)
            case "/drip":
                response = web.StreamResponse()
                await response.prepare(request)
                while True:
                    await response.write(b"x")
                    await asyncio.sleep(0.05)
            case "/drop":
                assert request.transport is not None
                request.transport.abort()
        return web.Response()

    sink.answer = answer
    server = await asyncio.start_server(raw, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    paths = {
        f"{sink.url}/redirect": "redirect: 302 to http://127.0.0.1/elsewhere: redirects are not followed, register that URL",
        f"{sink.url}/large": "",
        f"{sink.url}/drip": "timeout: no whole answer within 0.5 s",
        f"{sink.url}/drop": "peer-gone: it closed the connection without a whole answer",
        f"http://127.0.0.1:{port}/": "protocol-error: its answer is not HTTP",
        "http://127.0.0.1:1/": "connection-refused: 127.0.0.1:1 cannot be reached: Connection refused",
        "http://10.1.2.3/": "private-address: 10.1.2.3: a private or special address, and not in the node's outbound.allow",
        "https://127.0.0.1:1/": "connection-refused: 127.0.0.1:1 cannot be reached: Connection refused",
        sink.url.replace("http:", "https:"): "tls: 127.0.0.1 and we agreed on nothing: ",
        "http://[::1/": "invalid-request: the URL cannot be read: Invalid IPv6 URL",
        "http://no-such-host.invalid/": "no-such-host: ",
    }
    made = [await post.endpoint(url) for url in paths]
    async with run(webhooks=Webhooks(timeout=0.5)):
        for endpoint in made:
            await post.send(endpoint, "s")
        rows = await wait_for(post, lambda rows: len(rows) == len(paths) and all(row.attempts for row in rows))
    errors = {endpoint.url: row.error for endpoint, row in zip(made, rows, strict=True)}
    for url, expected in paths.items():
        assert errors[url].startswith(expected), (url, errors[url])
    assert errors[f"{sink.url}/large"] == ""
    server.close()


async def test_a_name_that_turns_private_is_refused_at_delivery(run: Run, post: Post, sink: Receiver, time: FakeClock) -> None:
    """DNS rebinding: it was public when it was registered, and its second answer is loopback."""
    answers = [["8.8.8.8"], ["127.0.0.1"], ["169.254.169.254"], ["8.8.8.8", "::ffff:10.0.0.1"]]

    async def lookup(host: str, port: int) -> list[str]:
        assert host == "hooks.example"
        return answers.pop(0)

    outbound = Outbound(lookup=lookup)
    url = sink.url.replace("127.0.0.1", "hooks.example")
    await outbound.check(url, ("http",))
    endpoint = await post.endpoint(url)
    async with run(outbound=outbound) as engine:
        await post.send(endpoint, "s")
        for attempt in (1, 2):
            (row,) = await wait_for(post, lambda rows, n=attempt: rows[0].attempts == n)
            assert row.error.startswith("private-address: hooks.example: a private"), row.error
            time.advance(30)
            engine.wake()
    assert sink.got == []


async def test_a_name_that_the_operator_allows_may_be_private(run: Run, post: Post, sink: Receiver) -> None:
    async def lookup(host: str, port: int) -> list[str]:
        return ["127.0.0.1"]

    endpoint = await post.endpoint(sink.url.replace("127.0.0.1", "hooks.lan"))
    async with run(outbound=Outbound(["hooks.lan"], lookup=lookup)):
        await post.send(endpoint, "s")
        await post.settled("delivered")
    assert sink.got[0].headers["Host"].startswith("hooks.lan:")


async def test_a_kept_connection_that_closes_costs_no_attempt(run: Run, post: Post, sink: Receiver) -> None:
    async def raw(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answers the first request of a connection, and closes it at the second."""
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        await read_request(reader)
        writer.close()

    server = await asyncio.start_server(raw, "127.0.0.1", 0)
    endpoint = await post.endpoint(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
    async with run():
        await post.send(endpoint, "s", "s", "s", "s")
        rows = await post.settled("delivered")
    assert [row.attempts for row in rows] == [1, 1, 1, 1]
    server.close()


async def read_request(reader: asyncio.StreamReader) -> None:
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
    await reader.readexactly(int(length.partition(b":")[2]))


async def test_stopping_sends_what_was_announced_last(run: Run, post: Post, sink: Receiver) -> None:
    endpoint = await post.endpoint(sink.url)
    async with run():
        await asyncio.sleep(0)
        await post.send(endpoint, *(f"s{i}" for i in range(20)))
    assert len(sink.got) == 20
    assert {row.state for row in await post.rows()} == {"delivered"}
    async with post.db.read() as tx:
        assert (await lanes.backlog(tx)).pending == 0


async def test_a_request_past_the_queue(post: Post, sink: Receiver) -> None:
    endpoint = await post.endpoint(sink.url, dialect="fastpix", secret="c2VjcmV0")
    async with open_sender(Outbound(["127.0.0.0/8"]), Webhooks(), Limits()) as sender:
        met = await sender.send(endpoint, "", "", b"{}", None)
        assert (met.status, met.good, met.error) == (200, True, "")
        await sender.send(endpoint, "e", "id", b'{"a":1}', endpoint.secret)
    probe, test = sink.got
    assert (probe.body, "FastPix-Signature" in probe.headers) == (b"{}", False)
    assert len(test.headers["FastPix-Signature"]) == 44


async def wait_for(post: Post, good: Any, seconds: float = 20.0) -> list[Any]:
    async with asyncio.timeout(seconds):
        while not (good(rows := await post.rows())):
            await asyncio.sleep(0.02)
        return rows


async def wait_for_states(post: Post, states: list[str]) -> None:
    await wait_for(post, lambda rows: [row.state for row in rows] == states)
