"""Where `WhipPush` pushes to in tests: a WHIP endpoint in a few lines, over our ICE-lite endpoint, and one that says what it is told to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import urljoin

from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer

from harness import Node, until
from harness.endpoint import make
from harness.webrtc import Recorder, serving
from medianode.egress.push.report import Report
from medianode.egress.push.whip import WhipPush
from medianode.outbound import Outbound
from medianode.protocols.sdp.answer import answer_whip
from medianode.protocols.sdp.negotiate import plan_whip
from medianode.protocols.sdp.parse import parse_offer
from medianode.rtc.endpoint import Endpoint

KEY = "the-targets-key"
Rewrite = Callable[[str], str]


@dataclass
class Target:
    """A target that records. `refuse`: the status of the next answers; `rewrite` changes the answers' SDP."""

    endpoint: Endpoint
    url: str = ""
    calls: list[Recorder] = field(default_factory=list)
    offers: list[str] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    refuse: int = 0
    rewrite: Rewrite = str
    location: str = "/session"

    async def answer(self, request: web.Request) -> web.Response:
        if request.method == "DELETE":
            self.deleted.append(request.path)
            return web.Response()
        if self.refuse:
            return web.Response(status=self.refuse)
        assert request.headers["Authorization"] == f"Bearer {KEY}"
        self.offers.append(await request.text())
        offer = parse_offer(self.offers[-1])
        call = Recorder()
        peer = self.endpoint.create(offer.remote, call)
        self.calls.append(call)
        text = self.rewrite(answer_whip(offer, peer.local_transport(loopback=True), plan_whip(offer)))
        headers = {"Location": f"{self.location}/{len(self.calls)}"} if self.location else {}
        return web.Response(status=201, text=text, content_type="application/sdp", headers=headers)

    def hush(self) -> None:
        """Nothing is heard, nothing said, and nobody told."""
        asyncio.get_running_loop().remove_reader(self.endpoint.udp.fileno())


@asynccontextmanager
async def relayed(url: str, old: int, new: int) -> AsyncIterator[str]:
    """The WHIP endpoint at `url`, whose answers name another UDP port: that of a relay."""

    async def forward(request: web.Request) -> web.Response:
        headers = {name: request.headers[name] for name in ("Authorization", "Content-Type") if name in request.headers}
        where = url if request.method == "POST" else urljoin(url, request.path)
        async with (
            ClientSession() as session,
            session.request(request.method, where, data=await request.read(), headers=headers) as response,
        ):
            text = (await response.text()).replace(f" {old} typ", f" {new} typ")
            kept = {name: response.headers[name] for name in ("Content-Type", "Location") if name in response.headers}
            return web.Response(status=response.status, text=text, headers=kept)

    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", forward)
    async with TestServer(app) as server:
        yield f"http://127.0.0.1:{server.port}/whip"


@asynccontextmanager
async def target() -> AsyncIterator[Target]:
    async with serving(make()) as endpoint:
        made = Target(endpoint)
        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", made.answer)
        async with TestServer(app) as server:
            made.url = f"http://127.0.0.1:{server.port}/whip"
            yield made
            # a farewell that is under way when the server closes would leave its socket open
            await until(lambda: not made.location or len(made.deleted) == len(made.calls))


def pusher(node: Node, *allow: str) -> WhipPush:
    """That node's; loopback is allowed where nothing else is said."""
    webrtc = node.daemon.webrtc
    assert webrtc is not None
    return WhipPush(node.daemon.config, webrtc._endpoint, webrtc.whep._renditions, Outbound(allow or ("127.0.0.0/8",)))


async def push(node: Node, url: str, key: str, report: Report, *, room: str = "studio", allow: tuple[str, ...] = ()) -> None:
    """One run of a pusher for a room of project `live`."""
    found = node.room(f"live-{room}")
    assert found is not None
    await pusher(node, *allow).run(url, key, found, report)
